"""Cross-layer MLP sharing: a target's MLP that calls its reference's weights plus its own recovery parameters.

With Θ the reference's weight of one projection [out, in], a target's weight is one of the paper's candidate
transformations (Eq. 3-6), r being the rank and α a learned scalar:

    g0  lora       α Θ + B A                   A [r, in]   B [out, r]
    g1  right      α Θ Cᵀ D + B A              C, D [r, in]
    g2  left       α E Fᵀ Θ + B A              E, F [out, r]
    g3  hadamard   α (U V) ⊙ Θ + B A           U [out, r]   V [r, in]

g0 to g2 are applied factor by factor and never build a weight; g3 has to build one, so it is not deployable. Rank 0
is the direct share: the target's weight is Θ. Training and export both use this module, so what is exported is
what was trained.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.families import MLPWeights, decoder_layers, mlp_activation, mlp_biases, mlp_weights
from sharp_mobile.plan import SharePlan

Form = Literal["lora", "right", "left", "hadamard"]
DEPLOYABLE: frozenset[str] = frozenset({"lora", "right", "left"})


@dataclass(frozen=True)
class Recovery:
    """The recovery parameters of a target: the transformation (g0 to g3 of the paper, see the module) and its rank.

    Rank 0 has no parameters at all, α included.

    Raises:
        SharpError: an unknown form or a negative rank.
    """

    form: Form
    rank: int

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise SharpError(f"recovery form '{self.form}' does not exist; choose one of {', '.join(get_args(Form))}")
        if self.rank < 0:
            raise SharpError(f"recovery rank {self.rank} is negative; use 0 for a direct share or a positive rank")


class RecoveredProjection(nn.Module):
    """One projection of a target: its recovery parameters, applied around the reference's weight.

    Every form starts where training can move it: α = 1, B = 0 and A random; UV = 1, so that g3 starts at Θ;
    C = D (E = F) with r orthonormal rows (columns), so that g1 and g2 start at Θ seen through an r-dimensional
    subspace, the nearest that a rank-r factor comes to Θ without data.

    Args:
        weight: the target's own weight [out, in]; gives shape, dtype and device.
        bias: the target's own bias [out], which it keeps, or None.
    """

    def __init__(self, recovery: Recovery, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.recovery = recovery
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        if recovery.rank == 0:
            return
        out_features, in_features = weight.shape
        rank = recovery.rank

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=weight.dtype, device=weight.device))

        self.alpha = parameter()
        self.A, self.B = parameter(rank, in_features), parameter(out_features, rank)
        if recovery.form == "right":
            self.C, self.D = parameter(rank, in_features), parameter(rank, in_features)
        elif recovery.form == "left":
            self.E, self.F = parameter(out_features, rank), parameter(out_features, rank)
        elif recovery.form == "hadamard":
            self.U, self.V = parameter(out_features, rank), parameter(rank, in_features)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the recovery parameters to their start (see the class)."""
        self.alpha.fill_(1.0)
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.B.zero_()
        if self.recovery.form == "right":
            self.D.copy_(nn.init.orthogonal_(torch.empty(self.D.shape)))
            self.C.copy_(self.D)
        elif self.recovery.form == "left":
            self.F.copy_(nn.init.orthogonal_(torch.empty(self.F.shape)))
            self.E.copy_(self.F)
        elif self.recovery.form == "hadamard":
            self.U.zero_()[:, 0] = 1.0
            nn.init.kaiming_uniform_(self.V, a=5**0.5)
            self.V[0] = 1.0

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out], `weight` [out, in] being the reference's."""
        if self.recovery.rank == 0:
            return F.linear(x, weight, self.bias)
        y = self.alpha * self._shared(x, weight) + F.linear(F.linear(x, self.A), self.B)
        return y if self.bias is None else y + self.bias

    def _shared(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        match self.recovery.form:
            case "right":
                return F.linear(F.linear(F.linear(x, self.D), self.C.T), weight)
            case "left":
                return F.linear(F.linear(F.linear(x, weight), self.F.T), self.E)
            case "hadamard":
                return F.linear(x, (self.U @ self.V) * weight)
            case _:
                return F.linear(x, weight)


class SharedMLP(nn.Module):
    """A target's MLP: down(act(gate(x)) · up(x)) on the reference's weights, each projection recovered.

    Args:
        mlp: the target's own MLP; only its shapes and biases are kept.
        reference: the reference's MLP, whose parameters stay its own.
        reference_layer: the reference's layer, 0-based.

    Raises:
        SharpError: the two MLPs differ in shape.
    """

    def __init__(self, mlp: nn.Module, reference: nn.Module, reference_layer: int, recovery: Recovery) -> None:
        super().__init__()
        self.recovery = recovery
        self.reference_layer = reference_layer
        # A tuple hides the module from PyTorch, so that parameters() and state_dict() see the reference's weights in
        # the reference alone; deepcopy and device moves of the whole model still keep the two together.
        self._reference = (reference,)
        own, shared = mlp_weights(mlp), mlp_weights(reference)
        if _shapes(own) != _shapes(shared):
            raise SharpError(f"its MLP is {_shapes(own)}, its reference's is {_shapes(shared)}")
        gate_bias, up_bias, down_bias = mlp_biases(mlp)
        self.gate = RecoveredProjection(recovery, own.gate, gate_bias)
        self.up = RecoveredProjection(recovery, own.up, up_bias)
        self.down = RecoveredProjection(recovery, own.down, down_bias)

    @property
    def reference(self) -> nn.Module:
        """The reference's MLP."""
        return self._reference[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> [..., hidden]."""
        weights = mlp_weights(self.reference)
        activation = mlp_activation(self.reference)
        return self.down(activation(self.gate(x, weights.gate)) * self.up(x, weights.up), weights.down)


def share_layers(model: nn.Module, plan: SharePlan, recovery: Recovery) -> None:
    """Replace the MLP of every target of `plan` by a `SharedMLP`, in place.

    Everything but the recovery parameters is frozen. A direct plan has none, whatever `recovery` says.

    Raises:
        SharpError: the plan is for another number of layers, a layer is shared already, or a target's MLP has another
            shape than its reference's. The model is left as it was.
    """
    layers = decoder_layers(model)
    if plan.layers != len(layers):
        raise SharpError(f"share plan: it is for {plan.layers} layers and the model has {len(layers)}; parse it anew")
    used = Recovery(recovery.form, 0) if plan.direct else recovery
    shared = {target: _shared_mlp(layers, target, reference, used) for target, reference in plan.reference_of.items()}
    for target, mlp in shared.items():
        layers[target].mlp = mlp
    model.requires_grad_(False)
    for _, parameter in recovery_parameters(model):
        parameter.requires_grad_(True)


def _shared_mlp(layers: nn.ModuleList, target: int, reference: int, recovery: Recovery) -> SharedMLP:
    own: Any = layers[target]
    shared: Any = layers[reference]
    for layer, module in ((target, own), (reference, shared)):
        if isinstance(module.mlp, SharedMLP):
            raise SharpError(f"share plan: layer {layer + 1} is a target already; start from the original model")
    try:
        return SharedMLP(own.mlp, shared.mlp, reference, recovery)
    except SharpError as error:
        raise SharpError(f"share plan: layer {target + 1} cannot share layer {reference + 1}: {error}") from error


def shared_layers(model: nn.Module) -> dict[int, SharedMLP]:
    """The targets of a model, 0-based and ascending, each with its MLP (which names its `reference_layer`)."""
    return {i: layer.mlp for i, layer in enumerate(decoder_layers(model)) if isinstance(layer.mlp, SharedMLP)}


def recovery_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names (as in `model.named_parameters()`) and tensors of all recovery parameters."""
    for prefix, module in model.named_modules():
        if isinstance(module, RecoveredProjection):
            for name, parameter in module.named_parameters(recurse=False):
                if name != "bias":
                    yield f"{prefix}.{name}", parameter


def _shapes(weights: MLPWeights) -> str:
    inner, hidden = weights.gate.shape
    return f"{hidden} wide with {inner} inner"
