"""A Hugging Face model that computes as its export will, and can still be trained.

Recovery parameters that are fitted to the float model meet another one on the phone: the shared weights are rounded
to 4 bits, activations to 8, and they themselves too. Within `simulated` a model computes with the exporter's integers,
so that what trains is what ships:

    linear     y = x̂ Ŵᵀ           x̂, Ŵ: dequantized from what `quantize.nearest` makes of x and W
    target     the form of `decoder.fuse` or `decoder.projections`, its factors rounded again from the recovery
               parameters at every call
    basis      y = ẑ Ĉᵀ, z = x̂ B̂ᵀ   B and C rounded again at every call

Rounding has no gradient; as usual it is taken for the identity (straight-through).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import BackwardCFunction

from sharp_mobile.decoder.fuse import FusedFactors, FusedMLP, Projections
from sharp_mobile.decoder.integer import (
    QuantizedEmbedding,
    QuantizedLinear,
    dequantize_activation,
    project,
    quantize_activation,
)
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.projections import Recovered, recovered_factors
from sharp_mobile.decoder.segments import GatedMLP
from sharp_mobile.model.basis import BasisLinear
from sharp_mobile.model.modules import causal_lm, mlp_weights
from sharp_mobile.model.recovered import Bypass, RecoveredProjection
from sharp_mobile.model.share import SharedMLP, shared_layers
from sharp_mobile.model.shared_attention import NoAttention, SharedLinear
from sharp_mobile.quantize.groups import recovery_group
from sharp_mobile.quantize.nearest import is_tied, quantize_embedding, quantize_linear
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.section import Bits


class _StraightThrough(torch.autograd.Function):
    """`rounded` forwards, the gradient of `x` backwards."""

    @staticmethod
    def forward(ctx: BackwardCFunction, x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def _straight_through(x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _StraightThrough.apply(x, rounded)
    return result


def round_activation(x: torch.Tensor) -> torch.Tensor:
    """What an integer linear sees of its input x [..., width], differentiable."""
    with torch.no_grad():
        rounded = dequantize_activation(quantize_activation(x)).to(x.dtype)
    return _straight_through(x, rounded)


class _Rounder:
    """`round_activation`, once for projections that read the same tensor one after the other, as the export does."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._x: torch.Tensor | None = None
        self._rounded = torch.empty(0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._x is not x:
            self._x, self._rounded = x, round_activation(x)
        return self._rounded


def round_factor(matrix: torch.Tensor, settings: QuantizeSettings) -> torch.Tensor:
    """What the export keeps of a recovery parameter [out, in], differentiable."""
    group = recovery_group(matrix.shape[1]) if settings.recovery == 4 else 0
    return _round(matrix, settings.recovery, group, settings)


def _round(matrix: torch.Tensor, bits: Bits, group: int, settings: QuantizeSettings) -> torch.Tensor:
    with torch.no_grad():
        rounded = quantize_linear(FloatLinear(matrix.float().contiguous(), "recovery"), bits, group, settings.scales)
        if not isinstance(rounded, QuantizedLinear):
            return matrix
        weight = rounded.weight().to(matrix.dtype)
    return _straight_through(matrix, weight)


class _SimulatedLinear(nn.Module):
    """A linear on float tensors: `weight` is rounded already, the input is rounded here if there is a rounder."""

    def __init__(self, weight: torch.Tensor, rounder: _Rounder | None) -> None:
        super().__init__()
        self._weight = weight  # no parameter: it changes from call to call, or is another module's
        self._rounder = rounder

    def set_weight(self, weight: torch.Tensor) -> None:
        self._weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x if self._rounder is None else self._rounder(x), self._weight)


class _SimulatedFactors(nn.ModuleDict):
    """Private matrices by name, set anew and rounded before every call."""

    def __init__(self, names: Iterator[str], settings: QuantizeSettings, rounder: _Rounder) -> None:
        of_factors = None if settings.recovery == "float" else rounder
        super().__init__({name: _SimulatedLinear(torch.empty(0), of_factors) for name in names})
        self._settings = settings

    def set_weights(self, matrices: Mapping[str, torch.Tensor]) -> None:
        for name, matrix in matrices.items():
            cast(_SimulatedLinear, self[name]).set_weight(round_factor(matrix, self._settings))


class _SimulatedMLP(FusedMLP):
    """The fused form of a target, made from its recovery parameters at every call."""

    def __init__(self, shared: SharedMLP, settings: QuantizeSettings, rounder: _Rounder) -> None:
        weights = mlp_weights(shared.reference) if shared.recovery.reference else ()
        of_shared = None if settings.linear == "float" else rounder
        linears = [_SimulatedLinear(weight.detach(), of_shared) for weight in weights]
        super().__init__(shared, Projections(*linears) if linears else None)
        self._shared = (shared,)
        self.recovery = self._factors = _SimulatedFactors(iter(self.recovery), settings, rounder)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fused = FusedFactors.of(self._shared[0])
        self._factors.set_weights(fused.matrices())
        for name, alpha in fused.alphas.items():
            setattr(self, f"{name}_alpha", alpha)
        for name, bias in fused.biases.items():
            setattr(self, f"{name}_bias", bias)
        return super().forward(x)


class _SimulatedProjection(Recovered):
    """The form of one projection on a shared weight, which is rounded already."""

    def __init__(
        self, projection: RecoveredProjection, weight: torch.Tensor, settings: QuantizeSettings, rounder: _Rounder
    ) -> None:
        shared = _SimulatedLinear(weight.detach(), None if settings.linear == "float" else rounder)
        super().__init__(shared, projection, projection.bias)
        self._projection = (projection,)
        self.recovery = self._factors = _SimulatedFactors(iter(self.recovery), settings, rounder)

    def readers(self) -> list[nn.Module]:
        factors, self.alpha = recovered_factors(self._projection[0])
        self._factors.set_weights(factors)
        return super().readers()


class _SimulatedShared(nn.Module):
    """A `SharedLinear`, made from its recovery parameters at every call."""

    def __init__(self, shared: SharedLinear, settings: QuantizeSettings, rounder: _Rounder) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            _SimulatedProjection(projection, weight, settings, rounder) for projection, weight in shared.projections()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(project(x, *self.parts), dim=-1)


class _SimulatedBypass(nn.Module):
    """The `Bypass` of an attention that is left out, made from its recovery parameters at every call."""

    def __init__(self, bypass: Bypass, settings: QuantizeSettings, rounder: _Rounder) -> None:
        super().__init__()
        self._bypass = (bypass,)
        self.factors = _SimulatedFactors(iter(("low", "out")), settings, rounder)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.factors.set_weights({"low": self._bypass[0].A, "out": self._bypass[0].B})
        passed: torch.Tensor = self.factors["out"](self.factors["low"](x))
        return passed


class _SimulatedBasis(nn.Module):
    """A `BasisLinear`, made from its factors at every call; the parts that stay whole are rounded once."""

    def __init__(self, linear: BasisLinear, settings: QuantizeSettings, rounder: _Rounder) -> None:
        super().__init__()
        self._linear, self._settings, self._rounder = (linear,), settings, rounder
        self._whole = {name: self._rounded(weight).detach() for name, weight in linear.whole.items()}

    def _rounded(self, matrix: torch.Tensor) -> torch.Tensor:
        return _round(matrix, self._settings.linear, self._settings.group_size, self._settings)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        linear, outputs = self._linear[0], []
        for name in linear.names:
            weights = [self._whole[name]] if name in self._whole else []
            if not weights:
                factors = linear.factors(name)
                weights = [self._rounded(factors.basis), self._rounded(factors.C)]
            y = x
            for weight in weights:
                y = F.linear(self._rounder(y), weight)
            outputs.append(y)
        y = torch.cat(outputs, dim=-1)
        return y if linear.bias is None else y + linear.bias


class _SimulatedPruned(nn.Module):
    """An MLP of own neurons alone, rounded as an MLP at every call."""

    def __init__(self, shared: SharedMLP, settings: QuantizeSettings, rounder: _Rounder) -> None:
        super().__init__()
        linears = [_SimulatedLinear(torch.empty(0), None if settings.linear == "float" else rounder) for _ in range(3)]
        own, gate, up, down = shared.neurons, *linears
        assert own is not None
        self._mlp = GatedMLP(gate, up, down, shared.activation, (own.gate_bias, own.up_bias, shared.bias))
        self._own, self._linears, self._settings = (own,), linears, settings

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own, settings = self._own[0], self._settings
        for linear, matrix in zip(self._linears, (own.gate, own.up, own.down), strict=True):
            linear.set_weight(_round(matrix, settings.linear, settings.group_size, settings))
        y: torch.Tensor = self._mlp(x)
        return y


class Simulation:
    """A model within `simulated`, which can be made the float model again for a while."""

    def __init__(self, model: nn.Module, settings: QuantizeSettings) -> None:
        self._swaps: list[tuple[nn.Module, str, object, object]] = []  # module, attribute, float value, simulated value
        self._rounder = _Rounder()
        self._settings = settings
        self._prepare(model, settings)
        self._install()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The float model within the block: what it was before the simulation."""
        self.remove()
        try:
            yield
        finally:
            self._install()

    @torch.no_grad()
    def round_again(self, linear: nn.Linear) -> None:
        """Round a linear of a layer anew, whose float weight was set within the simulation."""
        settings = self._settings
        with self.suspended():
            quantized = quantize_linear(linear, settings.linear, settings.group_size, settings.scales)
        if isinstance(quantized, QuantizedLinear):
            linear.weight.copy_(quantized.weight())

    def _install(self) -> None:
        for module, name, _, simulated in self._swaps:
            _set(module, name, simulated)

    def remove(self) -> None:
        """Make the model the float one again."""
        self._rounder.forget()
        for module, name, original, _ in self._swaps:
            _set(module, name, original)

    def _swap(self, module: nn.Module, name: str, simulated: object) -> None:
        self._swaps.append((module, name, _get(module, name), simulated))

    def _prepare(self, model: nn.Module, settings: QuantizeSettings) -> None:
        head, embedding = causal_lm(model).lm_head, causal_lm(model).model.embed_tokens
        for module in model.modules():
            if isinstance(module, nn.Linear):
                bits = settings.lm_head if module is head else settings.linear
                self._swap_linear(module, quantize_linear(module, bits, settings.group_size, settings.scales))
        bits = settings.embedding_bits(is_tied(embedding, head))
        table = quantize_embedding(embedding, bits, settings.group_size, settings.scales)
        if isinstance(table, QuantizedEmbedding):
            rows = table(torch.arange(embedding.num_embeddings))
            self._swap(embedding, "weight", nn.Parameter(rows.to(embedding.weight.dtype), requires_grad=False))
        self._install()  # targets read the references' rounded weights
        for mlp in shared_layers(model).values():
            if mlp.recovery.pruned:
                self._swap(mlp, "forward", _SimulatedPruned(mlp, settings, self._rounder))
            elif not mlp.recovery.dropped:
                direct = mlp.recovery.direct
                form = self._direct(mlp, settings) if direct else _SimulatedMLP(mlp, settings, self._rounder)
                self._swap(mlp, "forward", form)
        for module in model.modules():
            if isinstance(module, SharedLinear):
                self._swap(module, "forward", _SimulatedShared(module, settings, self._rounder))
            elif isinstance(module, NoAttention) and module.bypass is not None:
                self._swap(module.bypass, "forward", _SimulatedBypass(module.bypass, settings, self._rounder))
            elif isinstance(module, BasisLinear) and settings.linear != "float":
                self._swap(module, "forward", _SimulatedBasis(module, settings, self._rounder))

    def _direct(self, mlp: SharedMLP, settings: QuantizeSettings) -> nn.Module:
        rounder = None if settings.linear == "float" else self._rounder
        gate, up, down = (_SimulatedLinear(w.detach(), rounder) for w in mlp_weights(mlp.reference))
        return GatedMLP(gate, up, down, mlp.activation, (mlp.gate.bias, mlp.up.bias, mlp.down.bias))

    def _swap_linear(self, module: nn.Linear, quantized: nn.Module) -> None:
        if not isinstance(quantized, QuantizedLinear):
            return
        weight = nn.Parameter(quantized.weight().to(module.weight.dtype), requires_grad=False)
        self._swap(module, "weight", weight)
        self._swap(module, "forward", lambda x: F.linear(self._rounder(x), module.weight, module.bias))


_ABSENT = object()


def _get(module: nn.Module, name: str) -> object:
    """A parameter, or an attribute of the instance that its class lacks."""
    return module._parameters[name] if name in module._parameters else module.__dict__.get(name, _ABSENT)


def _set(module: nn.Module, name: str, value: object) -> None:
    if name in module._parameters:
        module._parameters[name] = cast(nn.Parameter, value)
    elif value is _ABSENT:
        module.__dict__.pop(name, None)
    else:
        module.__dict__[name] = value  # not as a submodule: names of parameters stay what they are


@contextmanager
def simulated(model: nn.Module, settings: QuantizeSettings) -> Iterator[Simulation]:
    """Within the block a Hugging Face model computes as its export with these settings; afterwards it is float again.

    Recovery parameters are the model's own and can be trained. Memory holds both the rounded and the float weights.

    Args:
        model: plain or shared, float32.

    Raises:
        SharpError: as `quantize`.
    """
    simulation = Simulation(model, settings)
    try:
        yield simulation
    finally:
        simulation.remove()
