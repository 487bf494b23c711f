"""Cross-layer sharing: a target's weights are its reference's plus its own recovery parameters; here, those of MLPs.

With Θ the reference's weight of one projection [out, in], a target's weight is one of the paper's candidate
transformations (Eq. 3-6), r being the rank and α a learned scalar:

    g0  lora       α Θ + B A                   A [r, in]   B [out, r]
    g1  right      α Θ Cᵀ D + B A              C, D [r, in]
    g2  left       α E Fᵀ Θ + B A              E, F [out, r]
    g3  hadamard   α (U V) ⊙ Θ + B A           U [out, r]   V [r, in]

g0 to g2 are applied factor by factor and never build a weight; g3 has to build one, so it is not deployable.

In addition to the shared MLP, or instead of it where the reference gains nothing, a target may keep some own neurons
and a linear bypass (a hybrid):

    f(x) = MLP_shared(x) + down_own (act(gate_own x) · up_own x) + B A x

Rank 0 without these is the direct share: the target's MLP is the reference's. A layer that is no target may have
recovery parameters too, around its own weights (Full-LoRA, paper, App. D.3). Without a reference, neurons and bypass
there is no MLP. Training and export both use this module, so what is exported is what was trained.

`share_layers` is the entry for all that layers share; `shared_attention` and `basis` have the rest of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.model.basis import Factors, factor_layers, layer_bases
from sharp_mobile.model.modules import (
    Activation,
    DecoderLayer,
    MLPWeights,
    decoder_layers,
    mlp_activation,
    mlp_biases,
    mlp_weights,
)
from sharp_mobile.model.recovered import Bypass, RecoveredProjection
from sharp_mobile.model.shared_attention import attention_recovery, share_attention
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recoveries, Recovery, recoveries

PROJECTIONS = ("gate", "up", "down")


class OwnNeurons(nn.Module):
    """The small MLP of the neurons that a target keeps: gate and up [n, hidden], down [hidden, n].

    It starts with the neurons of largest weights; with a shared MLP its output starts at zero.
    """

    def __init__(self, count: int, mlp: nn.Module, *, beside_shared: bool) -> None:
        super().__init__()
        weights = mlp_weights(mlp)
        size = weights.gate.norm(dim=1) * weights.up.norm(dim=1) * weights.down.norm(dim=0)
        gate_bias, up_bias, _ = mlp_biases(mlp)
        self.gate, self.up, self.down = (
            nn.Parameter(torch.empty(shape, dtype=weights.gate.dtype, device=weights.gate.device))
            for shape in ((count, weights.gate.shape[1]),) * 2 + ((weights.gate.shape[1], count),)
        )
        self.gate_bias = None if gate_bias is None else nn.Parameter(gate_bias[:count].detach().clone())
        self.up_bias = None if up_bias is None else nn.Parameter(up_bias[:count].detach().clone())
        self.keep(mlp, size.topk(count).indices)
        if beside_shared:
            self.down.data.zero_()

    @torch.no_grad()
    def keep(self, mlp: nn.Module, neurons: torch.Tensor) -> None:
        """Take these neurons (indices [n]) of a plain MLP."""
        weights, (gate_bias, up_bias, _) = mlp_weights(mlp), mlp_biases(mlp)
        self.gate.copy_(weights.gate[neurons])
        self.up.copy_(weights.up[neurons])
        self.down.copy_(weights.down[:, neurons])
        for own, bias in ((self.gate_bias, gate_bias), (self.up_bias, up_bias)):
            if own is not None and bias is not None:
                own.copy_(bias[neurons])

    def inner(self, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        """What the down projection reads: x [..., hidden] -> [..., n]."""
        return activation(F.linear(x, self.gate, self.gate_bias)) * F.linear(x, self.up, self.up_bias)


class SharedMLP(nn.Module):
    """A target's MLP on the reference's weights, with its recovery parameters (see the module).

    There is no `gate`, `up` and `down` where the reference is not called; `neurons` and `bypass` are None where there
    are none. `bias` is the down projection's where that projection is not there to hold it.

    Args:
        mlp: the target's own MLP; only shapes, biases and a first choice of own neurons are taken from it.
        reference: the reference's MLP, whose parameters stay its own; `mlp` itself for adapters on a layer's own MLP.
        reference_layer: the reference's layer, 0-based.

    Raises:
        SharpError: the two MLPs differ in shape, or more neurons or rank are wanted than there are.
    """

    def __init__(self, mlp: nn.Module, reference: nn.Module, reference_layer: int, recovery: Recovery) -> None:
        super().__init__()
        self.recovery = recovery = recovery.mlp
        self.reference_layer = reference_layer
        # A tuple hides the module from PyTorch, so that parameters() and state_dict() see the reference's weights in
        # the reference alone; deepcopy and device moves of the whole model still keep the two together.
        self._reference = (reference,)
        self.base = reference if reference is mlp else None
        own, shared = mlp_weights(mlp), mlp_weights(reference)
        if _shapes(own) != _shapes(shared):
            raise SharpError(f"its MLP is {_shapes(own)}, its reference's is {_shapes(shared)}")
        recovery.check_fits(own.gate.shape[0])
        biases = mlp_biases(mlp)
        if recovery.reference:
            self.gate, self.up, self.down = (
                RecoveredProjection(recovery.form, rank, weight, bias, direct=recovery.direct)
                for rank, weight, bias in zip(recovery.ranks, own, biases, strict=True)
            )
        kept = None if recovery.reference or recovery.dropped else biases[2]
        self.bias = None if kept is None else nn.Parameter(kept.detach().clone())
        self.neurons = OwnNeurons(recovery.neurons, mlp, beside_shared=recovery.reference) if recovery.neurons else None
        self.bypass = Bypass(recovery.bypass, own.gate.shape[1], own.gate) if recovery.bypass else None

    @property
    def reference(self) -> nn.Module:
        """The reference's MLP."""
        return self._reference[0]

    @property
    def activation(self) -> Activation:
        """The activation between gate and up."""
        return mlp_activation(self.reference)

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        """What the shared down projection reads: x [..., hidden] -> [..., inner]."""
        weights = mlp_weights(self.reference)
        inner: torch.Tensor = self.activation(self.gate(x, weights.gate)) * self.up(x, weights.up)
        return inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> [..., hidden]."""
        parts: list[torch.Tensor] = []
        if self.recovery.reference:
            parts.append(self.down(self.inner(x), mlp_weights(self.reference).down))
        if self.neurons is not None:
            parts.append(F.linear(self.neurons.inner(x, self.activation), self.neurons.down))
        if self.bypass is not None:
            parts.append(self.bypass(x))
        if self.bias is not None:
            parts.append(self.bias)
        return sum(parts[1:], start=parts[0]) if parts else torch.zeros_like(x)


def share_layers(model: nn.Module, plan: SharePlan, recovery: Recovery | Recoveries) -> None:
    """Let the layers of a model share as `plan` and `recovery` say, in place.

    The MLP of every target of `plan` becomes a `SharedMLP`. Layers in `recovery` that are no targets get recovery
    parameters around their own MLP. What `recovery` says of attention and bases is done alike. Everything but the
    recovery parameters is frozen.

    Raises:
        SharpError: as `recoveries`; the plan is for another number of layers, a layer is shared already, or a target's
            weights have another shape than its reference's. The model is left as it was.
    """
    layers = decoder_layers(model)
    if plan.layers != len(layers):
        raise SharpError(
            f"share plan: it is for {plan.layers} layers and the model has {len(layers)}; parse the plan again for "
            "this model"
        )
    chosen = recoveries(plan, recovery)
    shared = {
        layer: _shared_mlp(layers, layer, plan.reference_of.get(layer, layer), own)
        for layer, own in chosen.items()
        if layer in plan.reference_of or not own.direct
    }
    share_attention(layers, {layer: own.attention for layer, own in chosen.items() if own.attention})
    factor_layers(layers, {layer: own.basis for layer, own in chosen.items() if own.basis})
    for target, mlp in shared.items():
        layers[target].mlp = mlp
    model.requires_grad_(False)
    for _, parameter in recovery_parameters(model):
        parameter.requires_grad_(True)


def _shared_mlp(layers: Sequence[DecoderLayer], target: int, reference: int, recovery: Recovery) -> SharedMLP:
    own, shared = layers[target], layers[reference]
    for layer, module in ((target, own), (reference, shared)):
        if isinstance(module.mlp, SharedMLP):
            raise SharpError(f"share plan: layer {layer + 1} is a target already; start from the original model")
    try:
        return SharedMLP(own.mlp, shared.mlp, reference, recovery)
    except SharpError as error:
        raise SharpError(f"share plan: layer {target + 1} cannot share layer {reference + 1}: {error}") from error


def shared_layers(model: nn.Module) -> dict[int, SharedMLP]:
    """The layers of a model with a `SharedMLP`, 0-based and ascending; a target names another `reference_layer`."""
    return {i: layer.mlp for i, layer in enumerate(decoder_layers(model)) if isinstance(layer.mlp, SharedMLP)}


def layer_recoveries(model: nn.Module) -> dict[int, Recovery]:
    """What each layer of a shared model has instead of its own weights, 0-based and ascending.

    Layers of which nothing is shared are left out.
    """
    found = {}
    for layer, module in enumerate(decoder_layers(model)):
        mlp = module.mlp.recovery if isinstance(module.mlp, SharedMLP) else None
        attention, basis = attention_recovery(module.self_attn), layer_bases(module)
        if mlp or attention or basis:
            found[layer] = replace(mlp or Recovery(), attention=attention, basis=basis)
    return found


def own_mlp(mlp: nn.Module) -> nn.Module:
    """The plain MLP whose weights a layer stores: its own one, under the adapters where it has any.

    Raises:
        SharpError: the layer is a target, which stores none.
    """
    if not isinstance(mlp, SharedMLP):
        return mlp
    if mlp.base is None:
        raise SharpError("a target stores no MLP weights")
    return mlp.base


def recovery_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names (as in `model.named_parameters()`) and tensors of all recovery parameters."""
    for prefix, module in model.named_modules():
        if isinstance(module, RecoveredProjection | OwnNeurons | Bypass | Factors):
            for name, parameter in module.named_parameters(recurse=False):
                if not name.endswith("bias"):
                    yield f"{prefix}.{name}", parameter


def _shapes(weights: MLPWeights) -> str:
    inner, hidden = weights.gate.shape
    return f"{hidden} wide with {inner} inner"
