"""For running text and packed sequences alike: whether a tokenizer knows a text, and which windows to take."""

import torch
from transformers import PreTrainedTokenizerBase

from sharp_mobile.errors import SharpError

UNKNOWN_SHARE = 0.01  # of a text's tokens, above which its tokenizer is not made for it


def evenly_spaced(available: int, count: int | None, tokens: int, length: int) -> torch.Tensor:
    """Which of `available` windows to take for `count` of them (all if None): int64 [count].

    Raises:
        SharpError: fewer than `count`, or none, are available. `tokens` and `length` say why.
    """
    wanted = available if count is None else count
    if available < max(1, wanted):
        raise SharpError(
            f"text: its {tokens} tokens give {available} windows of {length}, {max(1, wanted)} are needed; "
            "take a longer text, or fewer or shorter windows"
        )
    return torch.arange(wanted) * available // wanted


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that the tokenizer gives to what it does not know; -1, which is no token, if it knows everything.

    Bytewise vocabularies know everything; theirs name another special token, which may stand in a text, as unknown.
    """
    identifier: int | None = tokenizer.unk_token_id
    if identifier is None or identifier in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return -1
    return identifier


def check_known(tokenizer: PreTrainedTokenizerBase, unknown: int, tokens: int, source: str) -> None:
    """Refuse a text that the tokenizer is not made for.

    Raises:
        SharpError: more than `UNKNOWN_SHARE` of its tokens are unknown ones.
    """
    if unknown > UNKNOWN_SHARE * tokens:
        raise SharpError(
            f"{source}: {unknown / tokens:.0%} of its tokens are {tokenizer.unk_token}, which stands for what the "
            "tokenizer does not know; take a text in the model's languages and scripts"
        )
