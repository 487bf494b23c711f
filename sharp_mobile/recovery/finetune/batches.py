"""The token sequences of a fine-tuning run, in the order in which they are trained on.

The order is drawn once, before the run, for all its steps: permutation after permutation of the data, cut into steps.

    data 0..4, 3 steps of 4        3 0 4 1 | 2 1 0 2 | 4 3 ...
                                   step 1    step 2    step 3        a step's sequences, whoever computes them

So what step n reads depends on the seed alone: not on the number of processes, and not on where a run was interrupted.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from sharp_mobile.errors import SharpError
from sharp_mobile.text.conversation import IGNORED


class Rows(Protocol):
    """What `datasets.Dataset` is, and a list of mappings too: rows with the columns `input_ids` and `labels`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, object]: ...


def rows_of_windows(windows: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Windows of running text [windows, T] as rows, every token but the first of a window being scored."""
    return [{"input_ids": window, "labels": window} for window in windows]


class Sequences:
    """Rows that were checked: those with something to score, their number of tokens and a digest of them all.

    Args:
        rows: the data.
        longest: the tokens that the model takes.
        what: the data's name for messages.

    Raises:
        SharpError: no row, no scored token, a row that is too long, or columns that do not fit together.
    """

    def __init__(self, rows: Rows, longest: int, what: str = "data") -> None:
        self.rows = rows
        digest = hashlib.sha256()
        self.usable: list[int] = []
        self.lengths: list[int] = []
        for index in range(len(rows)):
            tokens, labels = self[index]
            _check_row(tokens, labels, longest, f"{what}: row {index + 1}")
            digest.update(len(tokens).to_bytes(8, "little") + tokens.numpy().tobytes() + labels.numpy().tobytes())
            self.lengths.append(len(tokens))
            if (labels[1:] != IGNORED).any():
                self.usable.append(index)
        if not self.usable:
            raise SharpError(f"{what}: none of its {len(rows)} rows has a token to score; give text, or other labels")
        self.digest = digest.hexdigest()[:16]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and labels [T] of a row."""
        row = self.rows[index]
        tokens, labels = (torch.as_tensor(row[name], dtype=torch.long) for name in ("input_ids", "labels"))
        return tokens, labels

    def order(self, count: int, seed: int) -> list[int]:
        """The first `count` rows of a run (see the module)."""
        generator = torch.Generator().manual_seed(seed)
        chosen: list[int] = []
        while len(chosen) < count:
            permutation = torch.randperm(len(self.usable), generator=generator).tolist()
            chosen += [self.usable[place] for place in permutation]
        return chosen[:count]


class OrderedSequences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The rows of a whole run, one after the other."""

    def __init__(self, sequences: Sequences, order: Sequence[int]) -> None:
        self.sequences, self._order = sequences, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        tokens, labels = self.sequences[self._order[place]]
        return {"input_ids": tokens, "labels": labels}

    @property
    def tokens(self) -> int:
        """Tokens in all of them."""
        return sum(self.sequences.lengths[index] for index in self._order)


def collate(rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch [rows, longest]. Padding goes to the end, where no scored token of a causal model sees it."""
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([row["input_ids"] for row in rows], batch_first=True),
        "labels": pad([row["labels"] for row in rows], batch_first=True, padding_value=IGNORED),
    }


def _check_row(tokens: torch.Tensor, labels: torch.Tensor, longest: int, where: str) -> None:
    if tokens.shape != labels.shape or tokens.ndim != 1:
        raise SharpError(
            f"{where}: input_ids {list(tokens.shape)} and labels {list(labels.shape)} must be lists of equal length"
        )
    if len(tokens) > longest:
        raise SharpError(
            f"{where}: its {len(tokens)} tokens are more than the model's {longest}; use shorter sequences"
        )
