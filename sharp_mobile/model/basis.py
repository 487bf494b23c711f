"""Basis Sharing (Wang et al. 2024, arXiv 2410.03765): the matrices of a group of layers factored by common bases.

    y = C (B x)      B [k, in], stored once for the group      C [out, k], of each layer

q, k, v, gate and up of a group have a basis each. o and down, whose inputs differ from layer to layer, have their own.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import DecoderLayer, plain_mlp
from sharp_mobile.model.shared_attention import around_same, attention_recovery, fused_sizes
from sharp_mobile.recipe.recovery import WITH_SHARED_BASIS, Basis

BASIS_MARK = "sharp_basis"  # the attribute of a `self_attn` whose layer is factored


class Factors(nn.Module):
    """One matrix [out, in] as C · B; they start at a truncation that knows no data.

    Args:
        weight: the matrix.
        shared: whose B is called; None to have one.
    """

    def __init__(self, weight: torch.Tensor, rank: int, shared: "Factors | None") -> None:
        super().__init__()
        into = weight.shape[1]
        self._shared = (shared,)  # a tuple hides it from PyTorch, see `share.SharedMLP`
        if shared is None:
            self.B = nn.Parameter(torch.zeros(rank, into, dtype=weight.dtype, device=weight.device))
            vectors = torch.linalg.qr(weight.detach()[:rank].float().T)[0].T
            self.B.data[: len(vectors)] = vectors.to(weight.dtype)
        self.C = nn.Parameter(weight.detach() @ self.basis.detach().T)

    @property
    def basis(self) -> nn.Parameter:
        """B [k, in], this module's or that of the group's first layer."""
        shared = self._shared[0]
        return self.B if shared is None else shared.basis

    @property
    def holder(self) -> "Factors":
        """The module that stores B."""
        shared = self._shared[0]
        return self if shared is None else shared.holder


class BasisLinear(nn.Module):
    """A linear whose parts, one each for what a family fuses, are factored or whole.

    parts: `Factors`, or the part's own weight.
    """

    def __init__(self, linear: nn.Linear, names: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__()
        self.names, self.sizes = tuple(names), list(sizes)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        self.parts = nn.ModuleDict()
        self.whole = nn.ParameterDict()

    @property
    def weight(self) -> torch.Tensor:
        """The matrix [out, in] that the factors make."""
        return torch.cat([self._part(name) for name in self.names])

    def _part(self, name: str) -> torch.Tensor:
        if name in self.whole:
            whole: torch.Tensor = self.whole[name]
            return whole
        factors = self.factors(name)
        product: torch.Tensor = factors.C @ factors.basis
        return product

    def factors(self, name: str) -> Factors:
        """The factors of one part."""
        found = self.parts[name]
        assert isinstance(found, Factors)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        outputs = []
        for name in self.names:
            if name in self.whole:
                outputs.append(F.linear(x, self.whole[name]))
            else:
                factors = self.factors(name)
                outputs.append(F.linear(F.linear(x, factors.basis), factors.C))
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        return y if self.bias is None else y + self.bias


def layer_bases(layer: DecoderLayer) -> Basis | None:
    """How a layer's matrices are factored; None if they are not."""
    found: Basis | None = getattr(layer.self_attn, BASIS_MARK, None)
    return found


class Place(NamedTuple):
    """Where a linear of a layer is: an attribute of its owner; and names and outputs of the matrices in it."""

    owner: object
    attribute: str
    names: tuple[str, ...]
    sizes: list[int]

    @property
    def linear(self) -> nn.Linear:
        """What is there."""
        linear: nn.Linear = getattr(self.owner, self.attribute)
        return linear


def matrix_linears(layer: DecoderLayer) -> list[Place]:
    """The linears of a layer."""
    attention = layer.self_attn
    found: list[Place] = []
    if hasattr(attention, "qkv_proj"):
        found.append(Place(attention, "qkv_proj", ("q", "k", "v"), fused_sizes(attention)))
    else:
        found += [_alone(attention, name) for name in ("q", "k", "v")]
    return [*found, _alone(attention, "o"), *mlp_linears(layer.mlp)]


def mlp_linears(module: nn.Module) -> list[Place]:
    """The linears of a plain MLP, gate and up before down."""
    mlp, found = plain_mlp(module), list[Place]()
    if hasattr(mlp, "gate_up_proj"):
        inner = mlp.gate_up_proj.out_features // 2
        found.append(Place(mlp, "gate_up_proj", ("gate", "up"), [inner, inner]))
    else:
        found += [_alone(mlp, name) for name in ("gate", "up")]
    return [*found, _alone(mlp, "down")]


def _alone(owner: object, name: str) -> Place:
    linear: nn.Linear = getattr(owner, f"{name}_proj")
    return Place(owner, f"{name}_proj", (name,), [linear.out_features])


def layer_factors(layer: DecoderLayer) -> dict[str, Factors]:
    """The factors of a layer's matrices, by the names in `recipe.recovery.MATRICES`."""
    found: dict[str, Factors] = {}
    for owner, attribute, names, _ in matrix_linears(layer):
        linear = getattr(owner, attribute)
        if isinstance(linear, BasisLinear):
            found |= {name: linear.factors(name) for name in names if name in linear.parts}
    return found


def factor_layers(layers: Sequence[DecoderLayer], bases: Mapping[int, Basis]) -> None:
    """Factor matrices of layers, in place; the first layer of a group holds what it shares.

    Raises:
        SharpError: a layer shares already. Layers are left as they were.
    """
    for layer in bases:
        if layer_bases(layers[layer]) or attention_recovery(layers[layer].self_attn):
            raise SharpError(f"share plan: layer {layer + 1} is a target already; start from the original model")
    held: dict[tuple[int, str], Factors] = {}
    for layer, basis in sorted(bases.items()):
        module = layers[layer]
        module.self_attn, module.mlp = around_same(module.self_attn), around_same(module.mlp)  # the old ones stay whole
        setattr(module.self_attn, BASIS_MARK, basis)
        for owner, attribute, names, sizes in matrix_linears(module):
            if not any(name in basis.rank_of for name in names):
                continue
            linear: nn.Linear = getattr(owner, attribute)
            factored = BasisLinear(linear, names, sizes)
            for name, weight in zip(names, linear.weight.split(sizes), strict=True):
                rank = basis.rank_of.get(name)
                if rank is None:
                    factored.whole[name] = nn.Parameter(weight.detach().clone(), requires_grad=False)
                    continue
                shared = held.get((basis.first, name)) if name in WITH_SHARED_BASIS else None
                factored.parts[name] = factors = Factors(weight, rank, shared)
                if shared is None and name in WITH_SHARED_BASIS:
                    held[basis.first, name] = factors
            setattr(owner, attribute, factored)
