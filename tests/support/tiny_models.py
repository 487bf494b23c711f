"""Tiny random models of every family, and a byte-level tokenizer that fits them.

Small, but not simple: several heads share a key head, Gemma 2 and 3 have sliding windows shorter than the test texts,
SmolLM3 has a layer without RoPE, and norms have random gains, so that leaving any of these out changes the logits.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from sharp_mobile.model.families import FAMILIES

MODEL_TYPES = tuple(FAMILIES)

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")  # ids 0, 1, 2
_NEVER_IN_UTF8 = (0xFD, 0xFE, 0xFF)  # the bytes whose places in a vocabulary of 256 the special tokens take

# A chat template as SmolLM2's: no {% generation %}, a default system prompt, a line break after the end of a turn.
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<s>system\nBe kind.</s>\n{% endif %}"
    "<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)

_FAMILY_OPTIONS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
    "qwen3": {"head_dim": 32},  # not hidden / heads, as in the real ones
}


def tiny_config(model_type: str = "llama", **overrides: Any) -> PreTrainedConfig:
    """A configuration of `model_type`: 6 layers, hidden 64, MLP 96, 4 heads on 2 key heads, vocabulary 256."""
    options: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 256,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **_FAMILY_OPTIONS.get(model_type, {}),
        **overrides,
    }
    return AutoConfig.for_model(model_type, **options)


def tiny_model(model_type: str = "llama", *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model of `tiny_config(model_type, **overrides)` in eval mode, float32; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(model_type, **overrides), dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def save_tiny_model(directory: Path, **overrides: Any) -> Path:
    """Write a Hugging Face directory: a tiny Llama, `overrides` as for `tiny_config`, with its tokenizer."""
    tiny_model(**overrides).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def tiny_tokens(length: int = 24, *, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Random token ids [batch, length] of the tiny vocabulary, without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(len(SPECIAL_TOKENS), 256, (batch, length), generator=generator)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 256 tokens, one a byte, three of them special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    unused = sorted({_byte_symbol(byte) for byte in _NEVER_IN_UTF8})
    symbols = [*SPECIAL_TOKENS, *(symbol for symbol in alphabet if symbol not in unused)]
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    pad, bos, eos = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, bos_token=bos, eos_token=eos)


def _byte_symbol(byte: int) -> str:
    """The printable character that byte-level BPE writes for a byte above 0xAD: the Latin-1 one."""
    return chr(byte)
