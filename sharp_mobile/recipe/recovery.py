"""What a layer has instead of its own weights, as settings: what it shares, with how many recovery parameters.

`model.share`, `model.shared_attention` and `model.basis` say what is computed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.plan import SharePlan

Form = Literal["lora", "right", "left", "hadamard"]
AttentionKind = Literal["weights", "kv", "none"]
DEPLOYABLE: frozenset[str] = frozenset({"lora", "right", "left"})
# The matrices of a layer; those that several layers may factor by one basis, since they read alike inputs.
ATTENTION_MATRICES, MLP_MATRICES = ("q", "k", "v", "o"), ("gate", "up", "down")
MATRICES = (*ATTENTION_MATRICES, *MLP_MATRICES)
WITH_SHARED_BASIS = frozenset({"q", "k", "v", "gate", "up"})

Four = tuple[int, int, int, int]
Seven = tuple[int, int, int, int, int, int, int]


def _check_form(form: str, ranks: tuple[int, ...]) -> None:
    if form not in get_args(Form):
        raise SharpError(f"recovery form '{form}' does not exist; choose one of {', '.join(get_args(Form))}")
    if form != "lora" and 0 in ranks and any(ranks):
        raise SharpError(f"recovery form '{form}' with ranks {ranks}: 0 would make a zero weight; use 'lora'")


def _check_not_negative(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise SharpError(f"recovery {name} {number} is negative; use 0 for none")


@dataclass(frozen=True)
class AttentionRecovery:
    """What a layer has instead of its own attention.

    Args:
        kind: "weights": q, k, v and o are the reference's, recovered. "kv": keys and values are read from the
            reference's cache; q and o are the layer's own. "none": there is no attention.
        reference: the reference's layer, 0-based; None without attention.
        form: the transformation (g0 to g2 of the paper), as of an MLP.
        rank: of all projections, or of q, k, v and o each; of a kv target only those of q and o count.
        bypass: rank of a linear map instead of an attention that is left out.

    Raises:
        SharpError: an unknown form or kind, negative numbers, or parameters that have nothing to stand on.
    """

    kind: AttentionKind = "weights"
    reference: int | None = None
    form: Form = "lora"
    rank: int | Four = 0
    bypass: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(AttentionKind):
            raise SharpError(
                f"attention '{self.kind}' does not exist; choose one of {', '.join(get_args(AttentionKind))}"
            )
        if self.kind == "kv" and self.form != "lora" and any(self.ranks):
            raise SharpError(
                f"recovery form '{self.form}' corrects shared weights, and q and o of a kv target are its own; use "
                "'lora'"
            )
        _check_form(self.form, self.ranks)
        _check_not_negative(rank=min(self.ranks), bypass=self.bypass)
        if (self.reference is None) != (self.kind == "none"):
            raise SharpError(f"attention of kind '{self.kind}' needs {'no' if self.kind == 'none' else 'a'} reference")
        if self.kind == "none" and any(self.ranks):
            raise SharpError(f"attention that is left out has no weight to correct with rank {self.rank}; use bypass")
        if self.kind != "none" and self.bypass:
            raise SharpError("a bypass replaces attention; give it to a layer without attention")

    @property
    def ranks(self) -> Four:
        """The ranks of q, k, v and o; a kv target has no k and v."""
        q, k, v, o = (self.rank,) * 4 if isinstance(self.rank, int) else self.rank
        return (q, 0, 0, o) if self.kind == "kv" else (q, k, v, o)

    @property
    def direct(self) -> bool:
        """Whether there are no recovery parameters at all, α included."""
        return not any(self.ranks) and not self.bypass

    def parameters(self, hidden: int, queries: int, keys: int) -> int:
        """How many recovery parameters the attention has, α left out; `queries` and `keys` are the heads' widths."""
        shapes = ((queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries))
        return 2 * hidden * self.bypass + _factor_parameters(self.form, self.ranks, shapes)

    def __str__(self) -> str:
        ranks = f"rank {self.rank}" if isinstance(self.rank, int) else f"ranks {'/'.join(map(str, self.rank))}"
        private = (
            f" + {self.form} {ranks}" if any(self.ranks) else f" + bypass rank {self.bypass}" if self.bypass else ""
        )
        return {"weights": "attention", "kv": "keys and values", "none": "no attention"}[self.kind] + private


@dataclass(frozen=True)
class Basis:
    """A layer of a group that factors its matrices by common bases (Basis Sharing): y = C (B x).

    Args:
        first: the group's first layer, 0-based, which stores the bases B of q, k, v, gate and up; o and down have one
            of their own in each layer.
        ranks: of q, k, v, o, gate, up and down; 0 where a matrix stays whole.

    Raises:
        SharpError: negative ranks, or none above 0.
    """

    first: int
    ranks: Seven

    def __post_init__(self) -> None:
        if min(self.ranks) < 0:
            raise SharpError(f"basis rank {min(self.ranks)} is negative; use 0 for a matrix that stays whole")
        if not any(self.ranks):
            raise SharpError("a basis of rank 0 leaves nothing of a matrix; keep more (recovery.kept)")

    @property
    def rank_of(self) -> dict[str, int]:
        """The rank of each matrix that is factored."""
        return {name: rank for name, rank in zip(MATRICES, self.ranks, strict=True) if rank}

    def __str__(self) -> str:
        ranks = ", ".join(f"{rank} ({name})" for name, rank in self.rank_of.items())
        return f"bases of rank {ranks}"


@dataclass(frozen=True)
class Recovery:
    """What one layer has instead of its own weights.

    The first five say what stands in for its MLP.

    Args:
        form: the transformation (g0 to g3 of the paper, see `model.share`).
        rank: of all three projections, or of gate, up and down each.
        neurons: own neurons that are kept as a small MLP next to the shared one.
        bypass: rank of the linear bypass.
        reference: whether the reference's MLP is called at all; without it there are no projections, so rank is 0, and
            without neurons and bypass too, the layer has no MLP.
        attention: what stands in for its attention; None if it keeps its own.
        basis: how its matrices are factored; None if they are not.

    Raises:
        SharpError: an unknown form, negative numbers, or parameters that have nothing to stand on.
    """

    form: Form = "lora"
    rank: int | tuple[int, int, int] = 0
    neurons: int = 0
    bypass: int = 0
    reference: bool = True
    attention: AttentionRecovery | None = None
    basis: Basis | None = None

    def __post_init__(self) -> None:
        _check_form(self.form, self.ranks)
        _check_not_negative(rank=min(self.ranks), neurons=self.neurons, bypass=self.bypass)
        if not self.reference and any(self.ranks):
            raise SharpError(f"recovery rank {self.rank} without the reference has no weight to correct; use rank 0")
        if self.basis and (self.attention or not self.direct):
            raise SharpError("a layer whose matrices are factored by a basis shares nothing else; leave one out")

    @property
    def ranks(self) -> tuple[int, int, int]:
        """The ranks of gate, up and down."""
        return (self.rank, self.rank, self.rank) if isinstance(self.rank, int) else self.rank

    @property
    def hybrid(self) -> bool:
        """Whether there is more than the shared MLP, or something else."""
        return bool(self.neurons or self.bypass)

    @property
    def direct(self) -> bool:
        """Whether the MLP has no recovery parameters at all, α included, and none is left out."""
        return self.reference and not any(self.ranks) and not self.hybrid

    @property
    def dropped(self) -> bool:
        """Whether the layer has no MLP."""
        return not self.reference and not self.hybrid

    @property
    def beyond_mlp(self) -> bool:
        """Whether the layer has something instead of its attention, or factored matrices."""
        return self.attention is not None or self.basis is not None

    @property
    def pruned(self) -> bool:
        """Whether the layer has nothing but own neurons: they are its MLP, narrower, and are quantized as one."""
        return not self.reference and self.neurons > 0 and not self.bypass

    @property
    def learns(self) -> bool:
        """Whether the layer has any parameter to be fitted."""
        return not (self.direct or self.dropped) or self.attention_learns or self.basis is not None

    @property
    def attention_learns(self) -> bool:
        """Whether its attention has; o of a kv target is fitted anew."""
        return self.attention is not None and (self.attention.kind == "kv" or not self.attention.direct)

    @property
    def mlp(self) -> "Recovery":
        """What stands in for the MLP alone."""
        return replace(self, attention=None, basis=None)

    def check_fits(self, inner: int) -> None:
        """Refuse more own neurons than an MLP of this inner width has.

        Raises:
            SharpError: there are more.
        """
        if self.neurons > inner:
            raise SharpError(f"{self.neurons} own neurons are more than its MLP's {inner}")

    def parameters(self, hidden: int, inner: int) -> int:
        """How many recovery parameters the MLP has, the three scalars α left out as the paper does (Eq. 1)."""
        total = 3 * hidden * self.neurons + 2 * hidden * self.bypass
        shapes = ((inner, hidden), (inner, hidden), (hidden, inner))
        return total + _factor_parameters(self.form, self.ranks, shapes)

    def __str__(self) -> str:
        if self.basis:
            return str(self.basis)
        mlp = "no MLP" if self.dropped else self._mlp()
        return f"{self.attention}" + (f"; {mlp}" if mlp else "") if self.attention else mlp or "no recovery parameters"

    def _mlp(self) -> str:
        ranks = f"rank {self.rank}" if isinstance(self.rank, int) else f"ranks {'/'.join(map(str, self.rank))}"
        parts = ["no reference"] if not self.reference else [f"{self.form} {ranks}"] if any(self.ranks) else []
        parts += [f"{self.neurons} own neurons"] if self.neurons else []
        parts += [f"bypass rank {self.bypass}"] if self.bypass else []
        return " + ".join(parts)


Recoveries = Mapping[int, Recovery]


def mlps_alone(recovery: Recoveries) -> bool:
    """Whether nothing but MLPs is shared or recovered, and no layer is without one."""
    return not any(own.beyond_mlp or own.dropped or own.pruned for own in recovery.values())


def _factor_parameters(form: Form, ranks: Iterable[int], shapes: Iterable[tuple[int, int]]) -> int:
    """Parameters of the factors of weights [out, in], each of its rank."""
    total = 0
    for rank, (out_features, in_features) in zip(ranks, shapes, strict=True):
        both = in_features + out_features
        others = {"lora": 0, "right": 2 * in_features, "left": 2 * out_features, "hadamard": both}[form]
        total += rank * (both + others)
    return total


def recoveries(plan: SharePlan, recovery: Recovery | Recoveries) -> dict[int, Recovery]:
    """The recovery parameters of each layer that has any, and of every target; 0-based and ascending.

    One `Recovery` is that of all targets. In a direct plan MLPs that call their reference have none, whatever
    `recovery` says; what is left out or pruned stays so.

    Raises:
        SharpError: a target without an entry, a layer that does not exist, or one that is no target and has no
            reference but itself to drop.
    """
    given = dict.fromkeys(plan.targets, recovery) if isinstance(recovery, Recovery) else dict(recovery)
    if plan.direct:
        given.update({target: _direct(given.get(target, Recovery())) for target in plan.targets})
    for target in plan.targets:
        if target not in given:
            raise SharpError(f"recovery: target {target + 1} has no entry; add one")
    for layer, own in given.items():
        if not 0 <= layer < plan.layers:
            raise SharpError(f"recovery: layer {layer + 1} does not exist, the model has layers 1 to {plan.layers}")
        if layer not in plan.reference_of and not own.reference:
            raise SharpError(
                f"recovery: layer {layer + 1} is not a target, so it keeps its own MLP; remove reference: false"
            )
    return {
        layer: own
        for layer, own in sorted(given.items())
        if layer in plan.reference_of or not own.direct or own.beyond_mlp
    }


def _direct(own: Recovery) -> Recovery:
    """The direct share of an MLP that calls its reference."""
    return replace(own, form="lora", rank=0, neurons=0, bypass=0) if own.reference else own


def attention_references(recovery: Recoveries) -> dict[int, int]:
    """The reference of each layer whose attention calls another layer's weights, or reads its keys and values."""
    found = {layer: own.attention.reference for layer, own in sorted(recovery.items()) if own.attention}
    return {layer: reference for layer, reference in found.items() if reference is not None}


def layers_of_kind(recovery: Recoveries, kind: AttentionKind) -> set[int]:
    """The layers whose attention is replaced in this way."""
    return {layer for layer, own in recovery.items() if own.attention and own.attention.kind == kind}
