"""Write a tiny model as a GGUF file, as llama.cpp's converter does: the inverse of what `gguf_file` undoes."""

from pathlib import Path
from typing import Any, Literal

import gguf
import torch
from tiny_models import SPECIAL_TOKENS, tiny_tokenizer
from tiny_sentencepiece import add_sentencepiece
from transformers import PreTrainedModel

from sharp_mobile.checkpoint.gguf_file import ARCHITECTURES

_ARCHITECTURE_OF = {family: architecture for architecture, family in ARCHITECTURES.items()}
_UNUSED_SYMBOL, _MERGED_SYMBOL = "ü", "Ġt"  # byte 0xFC never occurs in UTF-8; GGUF wants at least one merge


def write_gguf(
    model: PreTrainedModel,
    path: Path,
    *,
    architecture: str | None = None,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    metadata: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    extra: dict[str, torch.Tensor] | None = None,
    tokenizer: Literal["bytes", "sentencepiece"] | None = "bytes",
) -> Path:
    """Write `model` to `path`.

    Args:
        architecture: GGUF's name; the model's own if not given.
        kind: type of the matrices; vectors are F32.
        metadata: values to add or overwrite: whole numbers (as uint32), floats, booleans, strings, and lists of them;
            None leaves a key out.
        without: names of tensors to leave out.
        extra: tensors to add, by their GGUF names.
    """
    config = model.config
    named = architecture or _ARCHITECTURE_OF.get(config.model_type, "llama")
    writer = gguf.GGUFWriter(path, named)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_rope_theta(config.rope_parameters))
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    for key, value in (metadata or {}).items():
        _write_value(writer, key, value)
    if tokenizer == "bytes":
        _write_tokenizer(writer)
    elif tokenizer == "sentencepiece":
        add_sentencepiece(writer)
    for name, tensor in {**_gguf_tensors(model), **(extra or {})}.items():
        if name not in without:
            used = kind if tensor.dim() == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quantize(tensor.float().numpy(), used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    writer.kv_data[0].pop(key, None)
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def _gguf_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    config = model.config
    architecture = _ARCHITECTURE_OF.get(config.model_type, "llama")  # Mistral's, too
    key = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(key, config.num_hidden_layers)
    tensors = {}
    for name, parameter in model.named_parameters():  # a tied head is not named again
        module, _, kind = name.rpartition(".")
        tensor = parameter.detach()
        if architecture == "llama" and module.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if module.endswith("q_proj") else config.num_key_value_heads
            tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape)
        if architecture.startswith("gemma") and module.endswith("norm"):
            tensor = tensor + 1
        tensors[f"{names.get_name(module)}.{kind}"] = tensor
    return tensors


def _rope_theta(parameters: dict[str, Any]) -> float:
    return parameters.get("full_attention", parameters)["rope_theta"]


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    vocabulary = tiny_tokenizer().get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    tokens[tokens.index(_UNUSED_SYMBOL)] = _MERGED_SYMBOL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in SPECIAL_TOKENS else normal for token in tokens])
    writer.add_token_merges([" ".join(_MERGED_SYMBOL)])
    pad, bos, eos = range(len(SPECIAL_TOKENS))
    writer.add_pad_token_id(pad)
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
