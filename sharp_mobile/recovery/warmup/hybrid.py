"""Closed form of a hybrid target: the shared MLP, a few of the target's own neurons and a linear bypass, jointly.

    f(x) = W_s h_s(x) + W_o h_o(x) + W_x x      W_s   down of the shared MLP, in its form (α Θ + B A, ...)
                                                W_o   down of the own neurons, [hidden, n], any
                                                W_x   the bypass, of rank b
    F = [H_s | H_o | X]   weighted features of all tokens,   G = FᵀF + ridge,   M = Fᵀ w Y

G and M take one pass over the tokens; the rest is algebra on their blocks. W_o is free, so it is eliminated exactly:
with S = G_rr − G_ro G_oo⁻¹ G_or and m = M_r − G_ro G_oo⁻¹ M_o over the rest r = s, x, what is left to minimise is

    J(W_s, W_x) = tr(W S Wᵀ) − 2 tr(W m),   W = [W_s | W_x]

by turns: W_s fits what W_x leaves (`closed_form`), W_x is the reduced-rank regression of what W_s leaves. Each turn is
the optimum of its block, so J only falls; without a reference the first turn is the optimum. Then
W_o = (G_oo⁻¹ (M_o − G_or Wᵀ))ᵀ.

Which own neurons stay is decided by what the others cannot make up for (`neurons`), for which G and M first hold all of
them, as columns of F that then fall away.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from sharp_mobile.model.modules import mlp_inner, mlp_weights
from sharp_mobile.model.share import SharedMLP
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.warmup.closed_form import (
    INNER_RIDGE,
    Moments,
    Parameters,
    cholesky,
    down_parameters,
    fit_down,
    reduced_rank,
    store,
    weight_of,
)
from sharp_mobile.recovery.warmup.neurons import keeping_order
from sharp_mobile.recovery.warmup.regression import Batch, not_finite

_ROUNDS = 20
_GAIN = 1e-4  # of what is explained: a round that wins less is the last

# From the moments of H_s and what is left of Y: the parameters of the shared down (empty where nothing is to be set),
# and the weight [hidden, inner] that they make.
SharedDown = Callable[[Moments], tuple[Parameters, torch.Tensor]]


@dataclass(frozen=True)
class Widths:
    """Columns of F: inner activations of the shared MLP, own neurons, inputs of the bypass; 0 for what is absent."""

    shared: int
    own: int
    bypass: int


@dataclass(frozen=True)
class OutputFit:
    """What reads the features.

    Args:
        shared: recovery parameters of the shared MLP's down; empty without a reference.
        own: down of the own neurons, [hidden, n].
        bypass: A [b, hidden] and B [hidden, b]; None without a bypass.
        explained: Σ‖wY‖² − Σ‖w(f − Y)‖² with the ridge counted as error, after each turn; it only rises.
    """

    shared: Parameters
    own: torch.Tensor
    bypass: tuple[torch.Tensor, torch.Tensor] | None
    explained: tuple[float, ...]


def feature_moments(mlp: SharedMLP, own: nn.Module, batches: Iterable[Batch]) -> tuple[Moments, Widths]:
    """G and M of a target in one pass over its tokens, its gate and up being fitted.

    Args:
        own: the target's original MLP, all of whose neurons are columns of F where `mlp` keeps any.
    """
    bias = mlp.down.bias if mlp.recovery.reference else mlp.bias
    hidden = mlp_weights(mlp.reference).gate.shape[1]
    moments, widths = None, Widths(0, 0, 0)
    for x, y, w in batches:
        blocks = _features(mlp, own, x)
        f = w * torch.cat(blocks, dim=1)
        if moments is None:
            widths = Widths(*(block.shape[1] for block in blocks))
            zeros = (torch.zeros(f.shape[1], width, dtype=torch.float64) for width in (f.shape[1], hidden))
            moments = Moments(*zeros)
        moments.gram.add_(f.T @ f)
        moments.moment.add_(f.T @ (w * (y if bias is None else y - bias)))
    assert moments is not None
    return moments, widths


def _features(mlp: SharedMLP, own: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """H_s, H_o and X, each [tokens, its width]."""
    nothing = x[:, :0]
    return (
        mlp.inner(x) if mlp.recovery.reference else nothing,
        nothing if mlp.neurons is None else mlp_inner(own, x),
        nothing if mlp.bypass is None else x,
    )


def set_outputs(mlp: SharedMLP, own: nn.Module, moments: Moments, widths: Widths) -> None:
    """Set all that reads the features of a target, and which of its own neurons stay.

    Raises:
        FitError: features that are not finite or all zero.
    """
    reference = mlp_weights(mlp.reference).down
    if not mlp.recovery.hybrid:
        fit_down(mlp.down, reference, moments)
        return
    shared = shared_down(mlp.recovery, reference) if mlp.recovery.reference else None
    kept, fit = fit_hybrid(mlp.recovery, moments, widths, neuron_orders(moments, widths), shared)
    if shared:
        store(mlp.down, fit.shared)
    if mlp.neurons is not None:
        if not fit.own.isfinite().all():
            raise not_finite()
        mlp.neurons.keep(own, kept)
        mlp.neurons.down.copy_(fit.own)
    if mlp.bypass is not None and fit.bypass is not None:
        store(mlp.bypass, {"A": fit.bypass[0], "B": fit.bypass[1]})


def neuron_orders(moments: Moments, widths: Widths) -> list[torch.Tensor]:
    """Orders in which own neurons stay, the first ones longest: without a bypass, and with one of full rank.

    A bypass of low rank is between the two. The shared MLP is left out: what it says depends on the choice.
    """
    _, o, x = _ranges(widths)
    if len(o) == 0:
        return [o]
    orders = []
    for features in [o] if len(x) == 0 else [o, torch.cat([o, x])]:
        chosen = moments.of(features)
        gram = _with_ridge(chosen.gram, (torch.arange(len(o)), torch.arange(len(o), len(features))))
        orders.append(keeping_order(gram, chosen.moment, len(o)))
    return orders


def fit_hybrid(
    recovery: Recovery, moments: Moments, widths: Widths, orders: Sequence[torch.Tensor], shared: SharedDown | None
) -> tuple[torch.Tensor, OutputFit]:
    """The better fit with as many own neurons as `recovery` says, chosen by one order or the other.

    Args:
        moments: over [H_s | H_o | X], all own neurons among them.
        orders: of `neuron_orders`; the second needs a bypass.

    Returns:
        The neurons that stay, ascending, and what reads the features.

    Raises:
        FitError: features that are not finite or all zero.
    """
    s, o, x = _ranges(widths)
    x = x if recovery.bypass else x[:0]
    fits = []
    for order in orders if recovery.bypass and recovery.neurons else orders[:1]:
        kept = order[: recovery.neurons].sort().values
        used = Widths(len(s), len(kept), len(x))
        fit = fit_outputs(moments.of(torch.cat([s, o[kept], x])), used, recovery.bypass, shared)
        fits.append((kept, fit))
    return max(fits, key=lambda found: found[1].explained[-1])


def shared_down(recovery: Recovery, reference: torch.Tensor) -> SharedDown:
    """The fit of the shared MLP's down in its form; the reference's weight as it is for a direct share."""
    theta = reference.double()

    def fit(moments: Moments) -> tuple[Parameters, torch.Tensor]:
        if recovery.direct:
            return {}, theta
        parameters = down_parameters(recovery.form, recovery.ranks[2], theta, moments)
        return parameters, weight_of(parameters, theta)

    return fit


def fit_outputs(moments: Moments, widths: Widths, rank: int, shared: SharedDown | None) -> OutputFit:
    """Fit all that reads the features at once (see the module).

    Args:
        moments: G without ridge and M, float64, over [H_s | H_o | X].
        rank: b, of the bypass.
        shared: how the shared MLP's down is fitted; None without a reference.

    Raises:
        FitError: features that are not finite or all zero.
    """
    s, o, x = _ranges(widths)
    regular = _with_ridge(moments.gram, (s, o, x))
    rest = torch.cat([s, x])
    gram, moment = regular[rest][:, rest], moments.moment[rest]
    gained = 0.0
    if len(o):
        root = cholesky(regular[o][:, o], 0.0)
        known = torch.cholesky_solve(moments.moment[o], root)
        gained = (known * moments.moment[o]).sum().item()
        gram = gram - regular[rest][:, o] @ torch.cholesky_solve(regular[o][:, rest], root)
        moment = moment - regular[rest][:, o] @ known
    turns = _Turns(gram, moment, len(s), rank if len(x) else 0, shared)
    explained = tuple(gained + value for value in turns.run())
    own = torch.zeros(moment.shape[1], 0, dtype=torch.float64)
    if len(o):
        own = torch.cholesky_solve(moments.moment[o] - regular[o][:, rest] @ turns.weight().T, root).T
    return OutputFit(turns.parameters, own, turns.bypass, explained)


def _ranges(widths: Widths) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ends = torch.tensor([0, widths.shared, widths.own, widths.bypass]).cumsum(0).tolist()
    s, o, x = (torch.arange(start, end) for start, end in pairwise(ends))
    return s, o, x


def _with_ridge(gram: torch.Tensor, blocks: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A ridge of each block's own mean diagonal, for their scales have nothing to do with each other."""
    regular = gram.clone()
    for block in blocks:
        if len(block):
            regular[block, block] += INNER_RIDGE * gram[block, block].mean()
    return regular


class _Turns:
    """Alternates between W_s and W_x over S and m."""

    def __init__(
        self, gram: torch.Tensor, moment: torch.Tensor, inner: int, rank: int, shared: SharedDown | None
    ) -> None:
        self._gram, self._moment, self._inner, self._rank, self._shared = gram, moment, inner, rank, shared
        hidden = moment.shape[1]
        self._w_s = torch.zeros(hidden, inner, dtype=torch.float64)
        self._w_x = torch.zeros(hidden, len(moment) - inner, dtype=torch.float64)
        self.parameters: Parameters = {}
        self.bypass: tuple[torch.Tensor, torch.Tensor] | None = None

    def weight(self) -> torch.Tensor:
        """W = [W_s | W_x]."""
        return torch.cat([self._w_s, self._w_x], dim=1)

    def run(self) -> list[float]:
        """Take turns until they win nothing; returns −J after each."""
        explained: list[float] = []
        turns = [turn for turn, there in ((self._turn_s, self._shared), (self._turn_x, self._rank)) if there]
        if not turns:  # own neurons alone: they are eliminated already
            return [0.0]
        for _ in range(_ROUNDS if len(turns) > 1 else 1):
            before = explained[-1] if explained else 0.0
            for turn in turns:
                kept = (self._w_s, self._w_x, self.parameters, self.bypass)
                turn()
                # The form's own alternation stops early, so that it may fall short of what it had: then that stays.
                if explained and self._explained() < explained[-1]:
                    self._w_s, self._w_x, self.parameters, self.bypass = kept
                explained.append(self._explained())
            if explained[-1] - before < _GAIN * abs(explained[-1]):
                break
        return explained

    def _explained(self) -> float:
        weight = self.weight()
        return (2 * (weight.T * self._moment).sum() - ((weight @ self._gram) * weight).sum()).item()

    def _turn_s(self) -> None:
        assert self._shared is not None
        n = self._inner
        left = self._moment[:n] - self._gram[:n, n:] @ self._w_x.T
        self.parameters, self._w_s = self._shared(Moments(self._gram[:n, :n], left))

    def _turn_x(self) -> None:
        n = self._inner
        left = self._moment[n:] - self._gram[n:, :n] @ self._w_s.T
        a, b = reduced_rank(cholesky(self._gram[n:, n:], 0.0), left, self._rank)
        self.bypass, self._w_x = (a, b), b @ a
