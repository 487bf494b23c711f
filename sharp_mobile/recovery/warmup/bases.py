"""Bases of a group of layers (Basis Sharing, arXiv 2410.03765), fitted on the original model's activations.

For one kind of matrix, W_i [out, in] are the weights of the group's layers, and G = Σ XᵀX over what they read:

    SᵀS = G        Σ_i S W_iᵀ W_i Sᵀ = U Λ Uᵀ, truncated to the top k
    B = U_kᵀ S⁻ᵀ  [k, in]      C_i = W_i Sᵀ U_k  [out, k]

C_i B is the best that a common basis of k vectors makes of W_i in the data's metric; the square of what that loses is
the sum of the eigenvalues left out. q, k, v, gate and up have one basis in a group; o and down, which do not read alike
in its layers, one in each layer. All tokens weigh alike, as published.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sharp_mobile.model.basis import Factors, Place
from sharp_mobile.recipe.recovery import MATRICES, WITH_SHARED_BASIS, Basis
from sharp_mobile.recovery.warmup.closed_form import balanced
from sharp_mobile.recovery.warmup.regression import not_finite
from sharp_mobile.recovery.warmup.saved_fits import Part, TargetFit

_READER = {"k": "q", "v": "q", "up": "gate"}  # whose linear reads what a matrix reads, if not its own
_RIDGE = 1e-6  # relative to the mean diagonal of XᵀX


@dataclass(frozen=True)
class BasisTarget:
    """A factored layer while its group is fitted.

    Args:
        layer: 0-based.
        places: the linears of the original layer.
        factors: what has taken the place of its matrices.
    """

    part: ClassVar[Part] = "basis"
    layer: int
    basis: Basis
    places: Sequence[Place]
    factors: Mapping[str, Factors]

    def state(self) -> Mapping[str, torch.Tensor]:
        """What is fitted, by name; a shared B with the group's first layer."""
        return {
            f"{name}.{parameter}": tensor
            for name, factors in self.factors.items()
            for parameter, tensor in factors.named_parameters(recurse=False)
        }

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The original matrices [out, in] that are factored."""
        return {name: weight for name, weight in matrix_weights(self.places).items() if name in self.factors}

    @property
    def readers(self) -> dict[str, nn.Module]:
        """An original linear that reads what each matrix reads that is factored."""
        return {name: linear for name, linear in matrix_readers(self.places).items() if name in self.factors}


def matrix_weights(places: Sequence[Place]) -> dict[str, torch.Tensor]:
    """The matrices [out, in] of a layer, by name."""
    found: dict[str, torch.Tensor] = {}
    for place in places:
        found |= zip(place.names, place.linear.weight.split(place.sizes), strict=True)
    return found


def matrix_readers(places: Sequence[Place]) -> dict[str, nn.Module]:
    """A linear that reads what each matrix of a layer reads; one for all that read the same."""
    linears = {name: place.linear for place in places for name in place.names}
    return {name: linears[_READER.get(name, name)] for name in linears}


class BasisGroup:
    """The layers of one group; given their statistics layer by layer, it sets their factors."""

    def __init__(self, targets: Sequence[BasisTarget]) -> None:
        self.targets = {target.layer: target for target in sorted(targets, key=lambda target: target.layer)}
        self.last = max(self.targets)
        self._grams: dict[str, torch.Tensor] = {}  # by the matrix whose linear reads it
        self._errors: dict[int, list[torch.Tensor]] = {layer: [] for layer in self.targets}

    def take(self, layer: int, grams: Mapping[nn.Module, torch.Tensor]) -> list[TargetFit]:
        """Use the XᵀX of a layer's linears; returns the fits of the whole group with its last layer.

        Raises:
            FitError: activations that are not finite or all equal.
        """
        target = self.targets[layer]
        seen: set[str] = set()
        for name, reader in target.readers.items():
            source = _READER.get(name, name)
            if name not in WITH_SHARED_BASIS:
                self._set(name, [target], grams[reader])
            elif source not in seen:
                seen.add(source)
                self._grams[source] = self._grams[source] + grams[reader] if source in self._grams else grams[reader]
        if layer != self.last:
            return []
        for name in (name for name in MATRICES if name in WITH_SHARED_BASIS):
            if members := [its for its in self.targets.values() if name in its.factors]:
                self._set(name, members, self._grams[_READER.get(name, name)])
        self._grams.clear()
        return [self._fit(its) for its in self.targets.values()]

    def _set(self, name: str, members: Sequence[BasisTarget], gram: torch.Tensor) -> None:
        weights = [member.weights[name].double() for member in members]
        before = [_loss(its.factors[name], weight, gram) for its, weight in zip(members, weights, strict=True)]
        basis, coefficients = basis_factors(weights, gram, members[0].basis.rank_of[name])
        basis, stacked = balanced(basis, torch.cat(coefficients))
        members[0].factors[name].holder.B.copy_(basis)
        for member, c in zip(members, stacked.split([len(weight) for weight in weights]), strict=True):
            member.factors[name].C.copy_(c)
        for its, weight, old in zip(members, weights, before, strict=True):
            self._errors[its.layer].append(torch.stack([old, _loss(its.factors[name], weight, gram)]))

    def _fit(self, target: BasisTarget) -> TargetFit:
        before, after = torch.stack(self._errors[target.layer]).mean(0).sqrt().tolist()
        return TargetFit(target.layer, target.basis.first, before, after, target.part)


def _loss(factors: Factors, weight: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """‖X (W − C B)ᵀ‖² / ‖X Wᵀ‖²."""
    left = weight - factors.C.double() @ factors.basis.double()
    lost: torch.Tensor = ((left @ gram) * left).sum() / ((weight @ gram) * weight).sum()
    return lost.clamp_min(0)


def basis_factors(
    weights: Sequence[torch.Tensor], gram: torch.Tensor, rank: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The best B [rank, in] and C of each of some weights [out, in], float64, on the data of `gram` [in, in].

    Raises:
        FitError: `gram` is not finite or not positive definite.
    """
    s, _, vectors = _spectrum(weights, gram)
    top = vectors[:, vectors.shape[1] - rank :]  # U_k
    basis: torch.Tensor = torch.linalg.solve_triangular(s, top, upper=True).T
    return basis, [weight.double() @ s.T @ top for weight in weights]


def truncation_losses(weights: Sequence[torch.Tensor], gram: torch.Tensor) -> torch.Tensor:
    """Squared singular values of S [W_1ᵀ … W_Gᵀ], descending: what leaving a basis vector out loses; float64 [in].

    Raises:
        FitError: as `basis_factors`.
    """
    _, values, _ = _spectrum(weights, gram)
    return values.flip(0).clamp_min(0)


def _spectrum(weights: Sequence[torch.Tensor], gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """S upper, and the eigenvalues, ascending, and eigenvectors of Σ S WᵀW Sᵀ."""
    regular = gram.clone()
    regular.diagonal().add_(_RIDGE * gram.diagonal().mean())
    lower, info = torch.linalg.cholesky_ex(regular)
    if info != 0 or not lower.isfinite().all():
        raise not_finite()
    scaled = lower.T @ torch.cat([weight.double().T for weight in weights], dim=1)
    product = scaled @ scaled.T
    if not product.isfinite().all():
        raise not_finite()
    values, vectors = torch.linalg.eigh(product)
    return lower.T, values, vectors


@contextmanager
def collecting(linears: set[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Sum XᵀX of the inputs of linears over batches, in float64."""
    grams: dict[nn.Module, torch.Tensor] = {}

    def collect(linear: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0].flatten(0, -2)
        gram = (x.T @ x).double()
        grams[linear] = gram if linear not in grams else grams[linear].add_(gram)

    hooks = [linear.register_forward_pre_hook(collect) for linear in linears]
    try:
        yield grams
    finally:
        for hook in hooks:
            hook.remove()
