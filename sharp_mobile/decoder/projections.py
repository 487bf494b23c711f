"""Linears of attention and factored linears that are more than one matrix product, in the form that runs on a phone.

    recovered   α Θ x + B (A x) + bias     Θ the reference's, one object for all that call it    (g0; g1 and g2 alike)
    factored    C (B x) + bias             B one object for its group (Basis Sharing)

They take part in `project` beside plain linears: all that reads x reads it quantized once. Biases are adds of their
own, since XNNPACK's weight cache finds a packed weight by its codes and its bias.
"""

import torch
from torch import nn

from sharp_mobile.decoder.integer import Composite, project
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.role import LinearRole
from sharp_mobile.model.basis import BasisLinear
from sharp_mobile.model.recovered import Bypass, RecoveredProjection
from sharp_mobile.model.shared_attention import SharedLinear


class Recovered(Composite):
    """A projection on a shared weight; with neither α nor factors, that weight and a bias of its own.

    Args:
        shared: the reference's linear, without bias.
        projection: the recovery parameters; None for the reference itself.
        bias: [out], or None.
    """

    alpha: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, shared: nn.Module, projection: RecoveredProjection | None, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.shared = shared
        factors, alpha = recovered_factors(projection)
        self.recovery = nn.ModuleDict(
            {name: FloatLinear(value.contiguous(), "recovery") for name, value in factors.items()}
        )
        self.register_buffer("alpha", None if alpha is None else alpha.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    def readers(self) -> list[nn.Module]:
        right = "right_in" in self.recovery
        first = self.recovery["right_in"] if right else self.shared
        return [first, self.recovery["low"]] if "low" in self.recovery else [first]

    def finish(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        y, *low = outputs
        if "right_in" in self.recovery:
            y = _through(y, self.recovery["right_out"], self.shared)
        if "left_in" in self.recovery:
            y = _through(y, self.recovery["left_in"], self.recovery["left_out"])
        if self.alpha is not None:
            y = y * self.alpha
        if low:
            y = y + _through(low[0], self.recovery["out"])
        return y if self.bias is None else y + self.bias


def recovered_factors(projection: RecoveredProjection | None) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    """The private matrices of a projection by name, and the α [1] that remains; differentiable.

    In g1 and g2, α goes into a factor.
    """
    if projection is None or projection.direct:
        return {}, None
    factors: dict[str, torch.Tensor] = {}
    if projection.rank:
        factors |= {"low": projection.A, "out": projection.B}
    if projection.form == "right":
        factors |= {"right_in": projection.D, "right_out": projection.C.T * projection.alpha}
    elif projection.form == "left":
        factors |= {"left_in": projection.F.T, "left_out": projection.E * projection.alpha}
    return factors, projection.alpha.float().reshape(1) if projection.form == "lora" else None


class Factored(Composite):
    """A matrix as C · B, with a bias of its own."""

    bias: torch.Tensor | None

    def __init__(self, basis: nn.Module, coefficients: nn.Module, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.basis, self.coefficients = basis, coefficients
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    def readers(self) -> list[nn.Module]:
        return [self.basis]

    def finish(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        y = _through(outputs[0], self.coefficients)
        return y if self.bias is None else y + self.bias


class LowRank(nn.Module):
    """B (A x): a linear map instead of attention."""

    def __init__(self, bypass: Bypass) -> None:
        super().__init__()
        self.recovery = nn.ModuleDict(
            {name: FloatLinear(value, "recovery") for name, value in (("low", bypass.A), ("out", bypass.B))}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _through(x, self.recovery["low"], self.recovery["out"])


def _through(x: torch.Tensor, *linears: nn.Module) -> torch.Tensor:
    """One linear after the other."""
    for linear in linears:
        (x,) = project(x, linear)
    return x


class SharedFloats:
    """The float linears of a decoder that several layers call, each one object.

    Args:
        called: the Hugging Face linears whose weights other layers call.
    """

    def __init__(self, called: set[nn.Module]) -> None:
        self._called = called
        self._floats: dict[tuple[nn.Module, int], FloatLinear] = {}

    def parts(self, linear: nn.Module, sizes: list[int], role: LinearRole, *, biases: bool = True) -> list[nn.Module]:
        """A Hugging Face linear in its parts (one each for what a family fuses), plain or composite.

        Args:
            biases: whether the parts take the linear's bias.
        """
        if isinstance(linear, SharedLinear):
            return [
                Recovered(self._once(linear.reference, i, weight, role), projection, projection.bias)
                for i, (projection, weight) in enumerate(linear.projections())
            ]
        whole: torch.Tensor | None = getattr(linear, "bias", None) if biases else None
        pieces = [None] * len(sizes) if whole is None else list(whole.split(sizes))
        if isinstance(linear, BasisLinear):
            return [self._factored(linear, name, role, bias) for name, bias in zip(linear.names, pieces, strict=True)]
        weights = linear.get_parameter("weight").split(sizes)
        if linear not in self._called:
            return [FloatLinear(weight, role, bias) for weight, bias in zip(weights, pieces, strict=True)]
        shared = [self._once(linear, i, weight, role) for i, weight in enumerate(weights)]
        return [one if bias is None else Recovered(one, None, bias) for one, bias in zip(shared, pieces, strict=True)]

    def _factored(self, linear: BasisLinear, name: str, role: LinearRole, bias: torch.Tensor | None) -> nn.Module:
        if name in linear.whole:
            return FloatLinear(linear.whole[name], role, bias)
        factors = linear.factors(name)
        basis = self._once(factors.holder, 0, factors.basis, role)
        return Factored(basis, FloatLinear(factors.C, role), bias)

    def _once(self, owner: nn.Module, part: int, weight: torch.Tensor, role: LinearRole) -> FloatLinear:
        key = owner, part
        if key not in self._floats:
            self._floats[key] = FloatLinear(weight, role)
        return self._floats[key]
