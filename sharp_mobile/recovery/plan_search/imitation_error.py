"""How well one target's MLP can be imitated: the damage of a (reference, target, recovery) choice, without a model.

The damage is the weighted relative error ‖w(f − Y)‖ / ‖wY‖ of the closed form on the original model's activations:
0 for a perfect imitation, 1 for an MLP that answers zero. A plan is chosen by it, so it must be cheap for many
references and many recoveries of one target:

    once a target                     C = LLᵀ and the neurons' importance, which no reference changes
    once a (reference, gate and up)   G and M of [H_s | H_o | X], and the order in which own neurons stay
    a recovery                        algebra on the blocks of G and M; fewer own neurons are the first of that order

Without a reference nothing depends on one, and H_s is absent.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from sharp_mobile.model.modules import mlp_weights
from sharp_mobile.model.share import SharedMLP
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.warmup.closed_form import InputStatistics, fit_gate_up, input_statistics
from sharp_mobile.recovery.warmup.hybrid import feature_moments, fit_hybrid, neuron_orders, shared_down
from sharp_mobile.recovery.warmup.regression import Batch, StoredRegression


class TargetDamage:
    """The damages of one target.

    Args:
        own: the target's original MLP.
        x: what it reads in the original model, float32 [tokens, hidden]; some thousand tokens rank the choices well.
        weighted: hold outlier tokens down (see `regression`).
        batch: tokens at a time.

    Raises:
        FitError: activations that are not finite or all zero.
    """

    @torch.no_grad()
    def __init__(self, own: nn.Module, x: torch.Tensor, *, weighted: bool = True, batch: int = 2048) -> None:
        self._own = own
        parts = [slice(start, min(start + batch, len(x))) for start in range(0, len(x), batch)]
        y = torch.cat([own(x[part]) for part in parts])
        self._task = StoredRegression(x, y, parts, weighted)
        self._statistics: InputStatistics | None = None  # made when a reference asks for it

    def _batches(self) -> Iterator[Batch]:
        return (self._task.batch(part) for part in self._task.parts)

    @torch.no_grad()
    def errors(self, reference: nn.Module, recoveries: Sequence[Recovery]) -> list[float]:
        """The damage of each recovery with one reference's MLP; those without reference do not depend on it.

        Raises:
            SharpError: MLPs of different shapes, more neurons or rank than there are, or a reference whose
                activations are not finite.
        """
        groups: dict[object, list[int]] = {}
        for position, recovery in enumerate(recoveries):
            groups.setdefault(_features(recovery), []).append(position)
        found = [math.nan] * len(recoveries)
        for positions in groups.values():
            chosen = [recoveries[position] for position in positions]
            for position, error in zip(positions, self._group(reference, chosen), strict=True):
                found[position] = error
        return found

    def _group(self, reference: nn.Module, chosen: list[Recovery]) -> Iterator[float]:
        """Recoveries with the same H_s."""
        largest = replace(
            chosen[0],
            neurons=max(recovery.neurons for recovery in chosen),
            bypass=max(recovery.bypass for recovery in chosen),
        )
        mlp = SharedMLP(self._own, reference, 0, largest)
        if largest.reference:
            if self._statistics is None:
                self._statistics = input_statistics(self._own, self._batches())
            fit_gate_up(mlp, self._own, self._statistics)
        moments, widths = feature_moments(mlp, self._own, self._batches())
        orders = neuron_orders(moments, widths)
        needed = self._needed(mlp)
        down = mlp_weights(reference).down
        for recovery in chosen:
            shared = shared_down(recovery, down) if recovery.reference else None
            _, fit = fit_hybrid(recovery, moments, widths, orders, shared)
            yield math.sqrt(max(0.0, needed - fit.explained[-1]) / self._task.energy)

    def _needed(self, mlp: SharedMLP) -> float:
        """Σ ‖w (Y − bias)‖²: what all but the bias has to explain."""
        bias = mlp.down.bias if mlp.recovery.reference else mlp.bias
        if bias is None:
            return self._task.energy
        return sum((w * (y - bias)).double().pow(2).sum().item() for _, y, w in self._batches())


def _features(recovery: Recovery) -> object:
    """Recoveries for which this is equal have the same H_s."""
    return recovery.reference and (recovery.form, recovery.ranks[:2], recovery.direct)
