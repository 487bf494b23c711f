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
private factor (C or E).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.families import mlp_activation
from sharp_mobile.lower.quantize import project
from sharp_mobile.lower.segments import GatedMLP, add, lowerable
from sharp_mobile.share import DEPLOYABLE, RecoveredProjection, SharedMLP

# Below this α_u is kept as a factor of its own: dividing B_u by it would leave the range in which floats are exact.
SMALLEST_FOLDED_ALPHA = 1e-4


class Projections(NamedTuple):
    """The linears of one MLP, the same objects for a reference and all its targets."""

    gate: nn.Module
    up: nn.Module
    down: nn.Module


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    """A linear around existing tensors, without a copy."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


class FusedMLP(nn.Module):
    """The fused form of a `SharedMLP` with recovery parameters.

    `recovery` holds the private factors: `low`, the factors that read x stacked in the order A_gate, A_up and, in g1,
    D_gate, D_up; the other factors by projection. The α that remain are buffers of shape [1].
    """

    def __init__(self, shared: SharedMLP, projections: Projections) -> None:
        super().__init__()
        self.form, self.rank = shared.recovery.form, shared.recovery.rank
        self.activation: Callable[[torch.Tensor], torch.Tensor] = lowerable(mlp_activation(shared.reference))
        self.gate, self.up, self.down = projections
        gate, up, down = shared.gate, shared.up, shared.down
        alpha_up = _alpha(up)
        folded = self.form == "lora" and abs(float(alpha_up)) >= SMALLEST_FOLDED_ALPHA
        up_scale = alpha_up if folded else torch.ones_like(alpha_up)

        reading_x = [gate.A, up.A] + ([gate.D, up.D] if self.form == "right" else [])
        factors = {
            "low": torch.cat([factor.detach() for factor in reading_x]),
            "gate_out": gate.B,
            "up_out": up.B / up_scale,
            "down_in": down.A * up_scale,
            "down_out": down.B,
        }
        for name, projection in (("gate", gate), ("up", up), ("down", down)):
            alpha = _alpha(projection)
            if self.form == "left":
                factors[f"{name}_left_in"], factors[f"{name}_left_out"] = projection.F.T, projection.E * alpha
            elif self.form == "right":
                factors[f"{name}_right_out"] = projection.C.T * alpha
        if self.form == "right":
            factors["down_right_in"] = down.D
        self.recovery = nn.ModuleDict({name: linear(factor.contiguous()) for name, factor in factors.items()})

        kept: dict[str, torch.Tensor | None] = {
            "gate": _alpha(gate),
            "up": None if folded else alpha_up,
            "down": _alpha(down) * up_scale,
        }
        for name, left in kept.items():
            self.register_buffer(f"{name}_alpha", left if self.form == "lora" else None)
        biases = {"gate": gate.bias, "up": None if up.bias is None else up.bias / up_scale, "down": down.bias}
        for name, bias in biases.items():
            self.register_buffer(f"{name}_bias", None if bias is None else bias.detach().float().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factors, rank = self.recovery, self.rank
        if self.form == "right":
            (low,) = project(x, factors["low"])
            gate, up = (
                self._through(low[..., (2 + i) * rank : (3 + i) * rank], factors[f"{name}_right_out"], shared)
                for i, (name, shared) in enumerate((("gate", self.gate), ("up", self.up)))
            )
        else:
            gate, up, low = project(x, self.gate, self.up, factors["low"])
        gate = self._finish("gate", gate, low[..., :rank])
        up = self._finish("up", up, low[..., rank : 2 * rank])
        inner = self.activation(gate) * up
        if self.form == "right":
            through, low = project(inner, factors["down_right_in"], factors["down_in"])
            down = self._through(through, factors["down_right_out"], self.down)
        else:
            down, low = project(inner, self.down, factors["down_in"])
        return self._finish("down", down, low)

    @staticmethod
    def _through(x: torch.Tensor, *linears: nn.Module) -> torch.Tensor:
        """One linear after the other."""
        for layer in linears:
            (x,) = project(x, layer)
        return x

    def _finish(self, name: str, wide: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """α, left factors, the low-rank part and the bias of one projection; `wide` is the shared weight's."""
        if self.form == "left":
            wide = self._through(wide, self.recovery[f"{name}_left_in"], self.recovery[f"{name}_left_out"])
        alpha = getattr(self, f"{name}_alpha")
        if alpha is not None:
            wide = wide * alpha
        return add(wide + self._through(low, self.recovery[f"{name}_out"]), getattr(self, f"{name}_bias"))

    def extra_repr(self) -> str:
        return f"form={self.form}, rank={self.rank}"


def _alpha(projection: RecoveredProjection) -> torch.Tensor:
    return projection.alpha.detach().float().reshape(1).clone()


def fuse(shared: SharedMLP, projections: Projections) -> nn.Module:
    """The deployable form of a target's MLP on its reference's `projections`.

    Raises:
        SharpError: g3 (hadamard), which would have to build a whole weight for every target at run time.
    """
    if shared.recovery.form not in DEPLOYABLE:
        raise SharpError(
            f"recovery form '{shared.recovery.form}' cannot be exported: it multiplies the shared weight element by "
            "element, so each target would need a full weight of its own in memory; use lora, right or left"
        )
    if shared.recovery.rank == 0:
        biases = (shared.gate.bias, shared.up.bias, shared.down.bias)
        return GatedMLP(*projections, mlp_activation(shared.reference), biases)
    return FusedMLP(shared, projections)
