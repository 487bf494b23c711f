"""Perplexity: exp of the mean next-token negative log-likelihood over token windows.

    PPL = exp( −1/M Σ_windows Σ_{i≥2} log p(t_i | t_1 … t_{i−1}) )

Windows are independent, and the first token of each is not scored, so M = windows · (length − 1). The model is any
function from tokens to logits, so the same code measures an eager model and a .pte on the same windows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sharp_mobile.console import progress_bar
from sharp_mobile.errors import SharpError


@dataclass(frozen=True)
class Perplexity:
    """The perplexity (`value`), the number of scored tokens, and their mean negative log-likelihood in nats."""

    value: float
    tokens: int
    nll: float


@torch.no_grad()
def perplexity(
    logits_fn: Callable[[torch.Tensor], torch.Tensor],
    windows: torch.Tensor,
    *,
    observe: Callable[[int, torch.Tensor], None] | None = None,
) -> Perplexity:
    """Measure `logits_fn`, tokens int64 [1, T] -> logits [1, T, vocabulary], on windows int64 [windows, T].

    Args:
        observe: is given the index of each window, and the float32 logits [T - 1, vocabulary] of its scored tokens.

    Raises:
        SharpError: the windows have no token to score, or the logits are NaN or all equal.
    """
    if windows.ndim != 2 or len(windows) == 0 or windows.shape[1] < 2:
        raise SharpError(f"perplexity: windows of shape {list(windows.shape)} have no token to score; use 2 or more")
    total = 0.0
    for number, window in enumerate(progress_bar(windows, desc="perplexity", unit="window"), start=1):
        logits = logits_fn(window[None])[0, :-1].float()
        nll = F.cross_entropy(logits, window[1:], reduction="none").double().sum().item()
        if math.isnan(nll):
            raise SharpError(
                f"perplexity: the model's logits are NaN in window {number}; a weight is damaged, or the "
                "configuration belongs to another model; copy or download the model again (a .pte: export it again)"
            )
        if logits.max() == logits.min():
            raise SharpError(
                f"perplexity: the model gives every token of the vocabulary the same logit in window {number}; a "
                "weight is damaged; copy or download the model again (a .pte: export it again)"
            )
        if observe is not None:
            observe(number - 1, logits)
        total += nll
    tokens = len(windows) * (windows.shape[1] - 1)
    mean = total / tokens
    return Perplexity(math.exp(mean) if mean < 700 else math.inf, tokens, mean)
