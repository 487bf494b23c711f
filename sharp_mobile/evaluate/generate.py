"""The verb `generate`: let an export speak on this machine."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sharp_mobile.checkpoint import named_errors
from sharp_mobile.errors import SharpError
from sharp_mobile.lower.inspect import Inspection, inspect_export
from sharp_mobile.lower.manifest import MODEL_PTE
from sharp_mobile.lower.runtime import greedy, load_pte


def prompt_tokens(tokenizer: Any, prompt: str, *, raw: bool = False) -> list[int]:
    """A prompt's token ids: as a user's turn in the model's chat template, if it has one and `raw` is not asked for."""
    if raw or tokenizer.chat_template is None:
        return list(tokenizer(prompt)["input_ids"])
    messages = [{"role": "user", "content": prompt}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def read_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of an export's directory.

    Raises:
        SharpError: its files are damaged.
    """
    with named_errors(directory / "tokenizer.json", "is not a tokenizer"):
        return PreTrainedTokenizerFast.from_pretrained(directory)


def length_and_stop(inspection: Inspection, pte: Path) -> tuple[int, list[int]]:
    """Positions in the KV cache of a `.pte`, and the tokens that end a text, from its constant methods.

    Raises:
        SharpError: it lacks one of them; it is not of this program.
    """
    length, stop = (inspection.metadata.get(name) for name in ("get_max_context_len", "get_eos_ids"))
    if not isinstance(length, int) or not isinstance(stop, list):
        raise SharpError(f"{pte}: has no get_max_context_len or no get_eos_ids; export the model with this program")
    return length, stop


def generate(directory: Path, prompt: str, count: int, raw: bool = False) -> str:
    """What an export answers to a prompt, greedily, in at most `count` tokens.

    Raises:
        SharpError: no export there, or no tokenizer in it.
    """
    if not (directory / "tokenizer.json").is_file():
        raise SharpError(f"{directory}: has no tokenizer.json; name the directory of an export")
    tokenizer = read_tokenizer(directory)
    length, stop = length_and_stop(inspect_export(directory), directory / MODEL_PTE)
    tokens = prompt_tokens(tokenizer, prompt, raw=raw)
    generated = greedy(load_pte(directory / MODEL_PTE), tokens, min(count, length - len(tokens)), stop)
    return str(tokenizer.decode(generated, skip_special_tokens=True))
