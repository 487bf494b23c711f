"""How far a form of a model is from the float original, on the tokens that perplexity scores.

    KL       1/M Σ_i Σ_v p_i(v) log( p_i(v) / q_i(v) )        p the original's next-token distribution, q the form's
    top-1    part of the M tokens for which both have the same first choice

Perplexity compares a form with a text, so a form can gain on some tokens what it loses on others; the KL counts every
change. The original's logits are written to a file once, in float16 and relative to the largest: then the likeliest
tokens, which have nearly all the probability, are the most precise. Memory holds one window of them.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.perplexity import Perplexity, perplexity

_FLOAT16 = 2  # bytes
_LEAST = -6e4  # float16 ends at -65,504


@dataclass(frozen=True)
class Divergence:
    """The mean KL from the original in nats a token, and the top-1 agreement, from 0 to 1."""

    kl: float
    agreement: float

    def __str__(self) -> str:
        return f"KL {self.kl:.4f} nats a token, top-1 agreement {self.agreement:.1%}"


class OriginalLogits:
    """The float original's logits on windows, in a file.

    Args:
        path: the file; it is made if it is missing.
        windows: int64 [windows, T].
        vocabulary: logits of a token.

    Raises:
        SharpError: the disk has no room.
    """

    def __init__(self, path: Path, windows: torch.Tensor, vocabulary: int) -> None:
        self._shape = (len(windows), windows.shape[1] - 1, vocabulary)
        size = math.prod(self._shape)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                with path.open("wb") as file:  # a mapped file that finds the disk full later ends the process
                    _allocate(file.fileno(), _FLOAT16 * size)
        except OSError as error:
            raise SharpError(
                f"{path.parent}: no room for {_FLOAT16 * size / 1e9:.1f} GB of the original's logits "
                f"({error.strerror}); make room, or measure on fewer windows"
            ) from error
        self._logits = torch.from_file(str(path), shared=True, size=size, dtype=torch.float16).view(self._shape)

    @property
    def vocabulary(self) -> int:
        """Logits of a token."""
        return self._shape[-1]

    def measure(self, logits_fn: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor) -> Perplexity:
        """Write the original's logits; returns its perplexity.

        Raises:
            SharpError: as `perplexity`.
        """
        return perplexity(logits_fn, windows, observe=self._write)

    def _write(self, number: int, logits: torch.Tensor) -> None:
        relative = logits - logits.max(dim=-1, keepdim=True).values
        self._logits[number] = relative.clamp(min=_LEAST).half()

    def __getitem__(self, number: int) -> torch.Tensor:
        """The original's logits of a window, float32 [T - 1, vocabulary], less the largest of each token."""
        return self._logits[number].float()


def diverging(
    logits_fn: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor, original: OriginalLogits
) -> tuple[Perplexity, Divergence]:
    """Perplexity of a form, as `perplexity` measures it, and in the same pass its divergence from the original.

    Raises:
        SharpError: as `perplexity`; the vocabularies differ.
    """
    kl, agreeing = 0.0, 0

    def observe(number: int, logits: torch.Tensor) -> None:
        nonlocal kl, agreeing
        if logits.shape[-1] != original.vocabulary:
            raise SharpError(
                f"divergence: the model has {logits.shape[-1]} tokens and the original {original.vocabulary}; compare "
                "models of the same vocabulary"
            )
        expected = original[number]
        agreeing += int((logits.argmax(dim=-1) == expected.argmax(dim=-1)).sum())
        expected = torch.log_softmax(expected, dim=-1)
        # Of identical distributions rounding can leave -1e-9.
        each = (expected.exp() * (expected - torch.log_softmax(logits, dim=-1))).sum(dim=-1)
        kl += each.double().sum().item()

    scored = perplexity(logits_fn, windows, observe=observe)
    return scored, Divergence(max(0.0, kl / scored.tokens), agreeing / scored.tokens)


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # macOS has none
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
