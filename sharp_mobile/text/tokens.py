"""Shared by running text and packed sequences: the check for unknown tokens, and the choice of windows."""

import torch
from transformers import PreTrainedTokenizerBase

from sharp_mobile.errors import SharpError

UNKNOWN_SHARE = 0.01  # with more unknown tokens than this, the tokenizer does not fit the text


def evenly_spaced(available: int, count: int | None, tokens: int, length: int) -> torch.Tensor:
    """The indices of `count` evenly spaced windows of `available` (all if None): int64 [count].

    Args:
        tokens: tokens of the text, for the message. length: tokens of a window, for the message.

    Raises:
        SharpError: fewer than `count`, or none, are available.
    """
    chosen = available if count is None else count
    if available < max(1, chosen):
        raise SharpError(
            f"text: its {tokens} tokens give {available} windows of {length}, {max(1, chosen)} are needed; "
            "take a longer text, or fewer or shorter windows"
        )
    return torch.arange(chosen) * available // chosen


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the tokenizer's unknown token; -1, which matches no token, if it has none.

    Byte-level tokenizers never produce an unknown token. They declare BOS or EOS as one, and a text may contain those.
    """
    identifier: int | None = tokenizer.unk_token_id
    if identifier is None or identifier in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return -1
    return identifier


def check_known(tokenizer: PreTrainedTokenizerBase, unknown: int, tokens: int, source: str) -> None:
    """Refuse a text that the tokenizer does not fit.

    Raises:
        SharpError: more than `UNKNOWN_SHARE` of its tokens are unknown.
    """
    if unknown > UNKNOWN_SHARE * tokens:
        raise SharpError(
            f"{source}: {unknown / tokens:.0%} of its tokens are {tokenizer.unk_token}, the tokenizer's unknown token; "
            "take a text in the model's languages and scripts"
        )
