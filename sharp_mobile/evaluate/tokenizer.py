"""The tokenizer next to a `.pte`."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sharp_mobile.checkpoint.tokenizer import load_tokenizer
from sharp_mobile.errors import SharpError
from sharp_mobile.verify.opened import OpenedProgram, find_pte


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an export's directory, or the one next to a `.pte`.

    Raises:
        SharpError: there is no `.pte` or no tokenizer, or the tokenizer cannot be read.
    """
    directory = find_pte(path).parent
    tokenizer = load_tokenizer(directory)
    if tokenizer is None:
        raise SharpError(f"{directory}: has no tokenizer; put the model's tokenizer.json next to the .pte")
    return tokenizer


def stop_tokens(program: OpenedProgram, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
    """The tokens that end a text: the program's, otherwise the tokenizer's."""
    if program.limits.stop is not None:
        return program.limits.stop
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
