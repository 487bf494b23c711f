"""A target's MLP in the form that runs on a phone: the shared weights untouched, everything private fused.

For the transformation g0 a target computes, with Θ its reference's weights (Eq. 3),

    gate = α_g Θ_g x + B_g A_g x      up = α_u Θ_u x + B_u A_u x      y = α_d Θ_d h + B_d A_d h,   h = act(gate) · up

Here

    low    = [A_g; A_u] x                          one product for all the factors that read x
    gate   = α_g (Θ_g x) + B_g low_g
    h / α_u = act(gate) · (Θ_u x + (B_u / α_u) low_u)
    y      = (α_d α_u) (Θ_d h/α_u) + B_d (α_u A_d) h/α_u

so α_u costs nothing. α never goes into Θ or its scales: XNNPACK's weight cache identifies packed weights by their
codes alone, and a second set of scales for the same codes would answer wrongly. In g1 and g2 every α goes into a
private factor (C or E). The own neurons and the bypass of a hybrid read x too, so their first factors are in `low`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import nn

from sharp_mobile.decoder.integer import project
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.segments import GatedMLP, add, lowerable
from sharp_mobile.errors import SharpError
from sharp_mobile.model.recovered import RecoveredProjection
from sharp_mobile.model.share import SharedMLP
from sharp_mobile.recipe.recovery import DEPLOYABLE

# Below this α_u is kept as a separate factor: dividing B_u by it would leave the range in which floats are exact.
SMALLEST_FOLDED_ALPHA = 1e-4


class Projections(NamedTuple):
    """The linears of one MLP, the same objects for a reference and all its targets."""

    gate: nn.Module
    up: nn.Module
    down: nn.Module


@dataclass(frozen=True)
class FusedFactors:
    """The private tensors of a target in the fused form, differentiable in its recovery parameters.

    Args:
        low: the factors that read x, [width, hidden] each, in the order in which they are stacked.
        factors: the other matrices, by name.
        alphas: the scalars that remain, [1] each, by projection.
        biases: of gate, up and down, and of the own neurons' gate and up; None where there are none.
    """

    low: dict[str, torch.Tensor]
    factors: dict[str, torch.Tensor]
    alphas: dict[str, torch.Tensor | None]
    biases: dict[str, torch.Tensor | None]

    @classmethod
    def of(cls, shared: SharedMLP) -> "FusedFactors":
        """Fold every α where that is exact, and name what is left."""
        low: dict[str, torch.Tensor] = {}
        factors: dict[str, torch.Tensor] = {}
        alphas: dict[str, torch.Tensor | None] = {}
        biases: dict[str, torch.Tensor | None] = {"down": shared.bias}
        if shared.recovery.reference:
            gate, up, down = shared.gate, shared.up, shared.down
            alpha_up = up.alpha.float().reshape(1)
            lora = shared.recovery.form == "lora"
            folded = lora and bool(alpha_up.abs() >= SMALLEST_FOLDED_ALPHA)
            up_scale = alpha_up if folded else torch.ones_like(alpha_up)
            for name, projection in (("gate", gate), ("up", up), ("down", down)):
                _take(name, projection, low, factors)
            if "up_out" in factors:
                factors["up_out"] = factors["up_out"] / up_scale
            if "down_in" in factors:
                factors["down_in"] = factors["down_in"] * up_scale
            if lora:
                alphas = {"gate": gate.alpha, "up": None if folded else alpha_up, "down": down.alpha * up_scale}
            biases = {"gate": gate.bias, "up": None if up.bias is None else up.bias / up_scale, "down": down.bias}
        if shared.neurons is not None:
            own = shared.neurons
            low |= {"neurons_gate": own.gate, "neurons_up": own.up}
            factors["neurons_out"] = own.down
            biases |= {"neurons_gate": own.gate_bias, "neurons_up": own.up_bias}
        if shared.bypass is not None:
            low["bypass"] = shared.bypass.A
            factors["bypass_out"] = shared.bypass.B
        return cls(
            low, factors, {name: None if a is None else a.float().reshape(1) for name, a in alphas.items()}, biases
        )

    def matrices(self) -> dict[str, torch.Tensor]:
        """All private matrices by name, those that read x as one."""
        return ({"low": torch.cat(list(self.low.values()))} if self.low else {}) | self.factors


def _take(
    name: str, projection: RecoveredProjection, low: dict[str, torch.Tensor], factors: dict[str, torch.Tensor]
) -> None:
    """Sort the factors of one projection by what they read."""
    first = factors if name == "down" else low
    if projection.rank:
        first["down_in" if name == "down" else name] = projection.A
        factors[f"{name}_out"] = projection.B
    if projection.form == "left":
        factors[f"{name}_left_in"], factors[f"{name}_left_out"] = projection.F.T, projection.E * projection.alpha
    elif projection.form == "right":
        first["down_right_in" if name == "down" else f"{name}_right"] = projection.D
        factors[f"{name}_right_out"] = projection.C.T * projection.alpha


class FusedMLP(nn.Module):
    """The fused form of a `SharedMLP` with recovery parameters.

    `recovery` holds the private matrices, see `FusedFactors.matrices`; the α that remain are buffers.

    Args:
        projections: the reference's; None where the target does not call it.
    """

    neurons_gate_bias: torch.Tensor | None
    neurons_up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None

    def __init__(self, shared: SharedMLP, projections: Projections | None) -> None:
        super().__init__()
        self.settings = shared.recovery
        self.activation: Callable[[torch.Tensor], torch.Tensor] = lowerable(shared.activation)
        if projections is not None:
            self.gate, self.up, self.down = projections
        fused = FusedFactors.of(shared)
        self.recovery = nn.ModuleDict(
            {name: FloatLinear(value.contiguous(), "recovery") for name, value in fused.matrices().items()}
        )
        ends = list(accumulate(len(factor) for factor in fused.low.values()))
        self.low_slices = dict(zip(fused.low, map(slice, [0, *ends], ends), strict=False))
        for name in ("gate", "up", "down"):
            alpha = fused.alphas.get(name)
            self.register_buffer(f"{name}_alpha", None if alpha is None else alpha.detach().clone())
        for name in ("gate", "up", "down", "neurons_gate", "neurons_up"):
            bias = fused.biases.get(name)
            self.register_buffer(f"{name}_bias", None if bias is None else bias.detach().float().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = [self.gate, self.up] if self.settings.reference and self.settings.form != "right" else []
        low_linear = [self.recovery["low"]] if self.low_slices else []
        outputs = project(x, *wide, *low_linear)
        low = {name: outputs[-1][..., part] for name, part in self.low_slices.items()}
        parts: list[torch.Tensor] = []
        if self.settings.reference:
            parts.append(self._shared_part(outputs[: len(wide)], low))
        if self.settings.neurons:
            gate = add(low["neurons_gate"], self.neurons_gate_bias)
            up = add(low["neurons_up"], self.neurons_up_bias)
            parts.append(self._through(self.activation(gate) * up, "neurons_out"))
        if self.settings.bypass:
            parts.append(self._through(low["bypass"], "bypass_out"))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return add(total, self.down_bias)

    def _shared_part(self, outputs: list[torch.Tensor], low: dict[str, torch.Tensor]) -> torch.Tensor:
        """The reference's MLP, recovered, without the bias of down; `outputs` are its gate's and up's but in g1."""
        if self.settings.form == "right":
            outputs = [
                project(self._through(low[f"{name}_right"], f"{name}_right_out"), shared)[0]
                for name, shared in (("gate", self.gate), ("up", self.up))
            ]
        gate, up = (
            add(self._finish(name, wide, low.get(name)), getattr(self, f"{name}_bias"))
            for name, wide in zip(("gate", "up"), outputs, strict=True)
        )
        inner = self.activation(gate) * up
        first = [self.recovery["down_in"]] if "down_in" in self.recovery else []
        if self.settings.form == "right":
            through, *lower = project(inner, self.recovery["down_right_in"], *first)
            (wide,) = project(self._through(through, "down_right_out"), self.down)
        else:
            wide, *lower = project(inner, self.down, *first)
        return self._finish("down", wide, lower[0] if lower else None)

    def _through(self, x: torch.Tensor, *names: str) -> torch.Tensor:
        """One private matrix after the other."""
        for name in names:
            (x,) = project(x, self.recovery[name])
        return x

    def _finish(self, name: str, wide: torch.Tensor, low: torch.Tensor | None) -> torch.Tensor:
        """α, left factors and the low-rank part of one projection; `wide` is the shared weight's."""
        if self.settings.form == "left":
            wide = self._through(wide, f"{name}_left_in", f"{name}_left_out")
        alpha = getattr(self, f"{name}_alpha")
        if alpha is not None:
            wide = wide * alpha
        return wide if low is None else wide + self._through(low, f"{name}_out")

    def extra_repr(self) -> str:
        return f"{self.settings!r}"


def fuse(shared: SharedMLP, projections: Projections | None) -> nn.Module:
    """The deployable form of a target's MLP on its reference's `projections`, None if it does not call them.

    Raises:
        SharpError: g3 (hadamard), which would have to build a whole weight for every target at run time.
    """
    if shared.recovery.form not in DEPLOYABLE:
        raise SharpError(
            f"recovery form '{shared.recovery.form}' cannot be exported: it multiplies the shared weight element by "
            "element, so each target would need a full weight of its own in memory; use lora, right or left"
        )
    if shared.recovery.direct and projections is not None:
        return GatedMLP(*projections, shared.activation, (shared.gate.bias, shared.up.bias, shared.down.bias))
    return FusedMLP(shared, projections)
