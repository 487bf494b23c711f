"""The verb `generate`: let an export speak on this machine."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sharp_mobile.errors import SharpError
from sharp_mobile.lower.inspect import inspect_export
from sharp_mobile.lower.manifest import MODEL_PTE
from sharp_mobile.lower.runtime import greedy, load_pte


def prompt_tokens(tokenizer: Any, prompt: str, *, raw: bool = False) -> list[int]:
    """A prompt's token ids: as a user's turn in the model's chat template, if it has one and `raw` is not asked for."""
    if raw or tokenizer.chat_template is None:
        return list(tokenizer(prompt)["input_ids"])
    messages = [{"role": "user", "content": prompt}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def generate(directory: Path, prompt: str, count: int, raw: bool = False) -> str:
    """What an export answers to a prompt, greedily, in at most `count` tokens.

    Raises:
        SharpError: no export there, or no tokenizer in it.
    """
    if not (directory / "tokenizer.json").is_file():
        raise SharpError(f"{directory}: has no tokenizer.json; name the directory of an export")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    metadata = inspect_export(directory).metadata
    tokens = prompt_tokens(tokenizer, prompt, raw=raw)
    count = min(count, metadata["get_max_context_len"] - len(tokens))
    generated = greedy(load_pte(directory / MODEL_PTE), tokens, count, metadata["get_eos_ids"])
    return str(tokenizer.decode(generated, skip_special_tokens=True))
