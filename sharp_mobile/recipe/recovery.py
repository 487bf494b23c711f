"""The recovery parameters of a layer, as settings: how many of which kind. `model.share` says what they compute."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.plan import SharePlan

Form = Literal["lora", "right", "left", "hadamard"]
DEPLOYABLE: frozenset[str] = frozenset({"lora", "right", "left"})


@dataclass(frozen=True)
class Recovery:
    """The recovery parameters of one layer.

    Args:
        form: the transformation (g0 to g3 of the paper, see the module).
        rank: of all three projections, or of gate, up and down each.
        neurons: own neurons that are kept as a small MLP next to the shared one.
        bypass: rank of the linear bypass.
        reference: whether the reference's MLP is called at all; without it there are no projections, so rank is 0.

    Raises:
        SharpError: an unknown form, negative numbers, or parameters that have nothing to stand on.
    """

    form: Form = "lora"
    rank: int | tuple[int, int, int] = 0
    neurons: int = 0
    bypass: int = 0
    reference: bool = True

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise SharpError(f"recovery form '{self.form}' does not exist; choose one of {', '.join(get_args(Form))}")
        for name, number in (("rank", min(self.ranks)), ("neurons", self.neurons), ("bypass", self.bypass)):
            if number < 0:
                raise SharpError(f"recovery {name} {number} is negative; use 0 for none")
        if self.form != "lora" and 0 in self.ranks and any(self.ranks):
            raise SharpError(
                f"recovery form '{self.form}' with ranks {self.ranks}: 0 would make a zero weight; use 'lora'"
            )
        if not self.reference and any(self.ranks):
            raise SharpError(f"recovery rank {self.rank} without the reference has no weight to correct; use rank 0")
        if not self.reference and not self.hybrid:
            raise SharpError("recovery without the reference, neurons and bypass leaves no MLP; give it one of them")

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
        """Whether there are no recovery parameters at all, α included."""
        return not any(self.ranks) and not self.hybrid

    def check_fits(self, inner: int) -> None:
        """Refuse more own neurons than an MLP of this inner width has.

        Raises:
            SharpError: there are more.
        """
        if self.neurons > inner:
            raise SharpError(f"{self.neurons} own neurons are more than its MLP's {inner}")

    def parameters(self, hidden: int, inner: int) -> int:
        """How many recovery parameters a layer has, the three scalars α left out as the paper does (Eq. 1)."""
        total = 3 * hidden * self.neurons + 2 * hidden * self.bypass
        shapes = ((inner, hidden), (inner, hidden), (hidden, inner))
        for rank, (out_features, in_features) in zip(self.ranks, shapes, strict=True):
            both = in_features + out_features
            others = {"lora": 0, "right": 2 * in_features, "left": 2 * out_features, "hadamard": both}[self.form]
            total += rank * (both + others)
        return total

    def __str__(self) -> str:
        ranks = f"rank {self.rank}" if isinstance(self.rank, int) else f"ranks {'/'.join(map(str, self.rank))}"
        parts = ["no reference"] if not self.reference else [f"{self.form} {ranks}"] if any(self.ranks) else []
        parts += [f"{self.neurons} own neurons"] if self.neurons else []
        parts += [f"bypass rank {self.bypass}"] if self.bypass else []
        return " + ".join(parts) or "no recovery parameters"


Recoveries = Mapping[int, Recovery]


def recoveries(plan: SharePlan, recovery: Recovery | Recoveries) -> dict[int, Recovery]:
    """The recovery parameters of each layer that has any, and of every target; 0-based and ascending.

    One `Recovery` is that of all targets. In a direct plan targets have none, whatever `recovery` says.

    Raises:
        SharpError: a target without an entry, a layer that does not exist, or one that is no target and has no
            reference but itself to drop.
    """
    given = dict.fromkeys(plan.targets, recovery) if isinstance(recovery, Recovery) else dict(recovery)
    if plan.direct:
        given.update(dict.fromkeys(plan.targets, Recovery()))
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
    return {layer: own for layer, own in sorted(given.items()) if layer in plan.reference_of or not own.direct}
