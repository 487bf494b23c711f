"""Which of its own neurons a target keeps: those whose loss the others cannot make up for.

With F the features that its output is fitted to, G = FᵀF + ridge, P = G⁻¹ and W = P Fᵀ wY the best weights, the error
grows by ‖W_j‖² / P_jj if feature j is dropped and all others are fitted again (Optimal Brain Surgeon). So neurons are
dropped from the least on. When a set R is gone, what is left is

    W ← W − P_·R P_RR⁻¹ W_R        P ← P − P_·R P_RR⁻¹ P_R·

for which R is a part of the neurons, since P is too large to be gone through for each; the least of some candidates for
R are dropped one by one on their own rows of W and P, so that of two neurons that say the same only one goes.

Keeping the neurons that write most, Σ (w h_j)² ‖down_j‖², counts twice what two of them say together: on SmolLM2-135M
it leaves 2 to 30% more squared error.
"""

import torch

from sharp_mobile.recovery.warmup.closed_form import cholesky

_PART = 16  # one part of the neurons that are left is dropped at a time
_CANDIDATES = 2  # of so many for each that goes


def keeping_order(gram: torch.Tensor, moment: torch.Tensor, neurons: int) -> torch.Tensor:
    """The neurons, the last to be dropped first: int64 [neurons]; the first n of them are the n to keep.

    Args:
        gram: G with its ridge, float64; the first `neurons` features are neurons, the others stay.
        moment: Fᵀ wY, [features, hidden].

    Raises:
        FitError: features that are not finite or all zero.
    """
    inverse = torch.cholesky_inverse(cholesky(gram, 0.0))
    weight = inverse @ moment
    left = torch.ones(neurons, dtype=torch.bool)
    dropped: list[torch.Tensor] = []
    while alive := int(left.sum()):
        count = max(1, alive // _PART)
        growth = weight[:neurons].pow(2).sum(1) / inverse.diagonal()[:neurons]
        candidates = growth.masked_fill(~left, torch.inf).topk(min(alive, _CANDIDATES * count), largest=False).indices
        out = candidates[_least(inverse[candidates][:, candidates], weight[candidates], count)]
        root = cholesky(inverse[out][:, out], 0.0)
        columns = inverse[:, out]
        weight.addmm_(columns, torch.cholesky_solve(weight[out], root), alpha=-1)
        inverse.addmm_(columns, torch.cholesky_solve(columns.T, root), alpha=-1)
        inverse[out, out] = 1.0  # rounding must leave nothing to divide by
        left[out] = False
        dropped.append(out)
    return torch.cat(dropped).flip(0)


def _least(inverse: torch.Tensor, weight: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` features to drop of a few, one after the other: their rows of P and W are changed."""
    dropped = torch.zeros(count, dtype=torch.long)
    left = torch.ones(len(weight), dtype=torch.bool)
    for step in range(count):
        growth = weight.pow(2).sum(1) / inverse.diagonal()
        out = growth.masked_fill(~left, torch.inf).argmin()
        column = inverse[:, out] / inverse[out, out]
        weight -= torch.outer(column, weight[out])
        inverse -= torch.outer(column, inverse[out].clone())
        inverse[out, out] = 1.0
        left[out] = False
        dropped[step] = out
    return dropped
