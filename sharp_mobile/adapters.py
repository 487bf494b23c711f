"""Full-LoRA (paper, App. D.3): recovery parameters on the layers that keep their own MLP, references included.

    layer 3, a reference        MLP Θ₃          becomes    α Θ₃ + B A      its own A, B
    layer 4, its target         α Θ₃ + B A      stays      α Θ₃ + B A      Θ₃ as it was, without layer 3's adapter
    layer 5, not shared         MLP Θ₅          becomes    α Θ₅ + B A

An adapted MLP is a `SharedMLP` whose reference is the layer's own MLP. It holds that MLP's projections under the names
that they had, so the weights of a checkpoint keep their names, and every adapter starts as the identity.
"""

from typing import Any

from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.families import decoder_layers
from sharp_mobile.share import Recovery, SharedMLP, recovery_parameters


class AdaptedMLP(SharedMLP):
    """A layer's own MLP with recovery parameters around each projection.

    Args:
        mlp: the layer's MLP; its submodules are taken over, its weights stay frozen.
        layer: the layer, 0-based; also its own `reference_layer`.
    """

    def __init__(self, mlp: nn.Module, layer: int, recovery: Recovery) -> None:
        super().__init__(mlp, mlp, layer, recovery)
        for name, module in mlp.named_children():
            self.add_module(name, module)


def add_adapters(model: nn.Module, recovery: Recovery) -> tuple[int, ...]:
    """Adapt every layer that keeps its own MLP, in place; all but recovery parameters is frozen.

    Share first: `share_layers` refuses adapted layers. With form `lora` (and `hadamard`) the model's logits are the
    same before and after.

    Returns:
        The adapted layers, 0-based.

    Raises:
        SharpError: rank 0, which adapts nothing, or adapters are there already.
    """
    if recovery.rank == 0:
        raise SharpError("adapters: rank 0 adapts nothing; use a positive rank, or no adapters")
    layers: Any = decoder_layers(model)
    if adapted_layers(model):
        raise SharpError("adapters: the model has adapters already; start from the model without them")
    own = {index: layer for index, layer in enumerate(layers) if not isinstance(layer.mlp, SharedMLP)}
    for index, layer in own.items():
        layer.mlp = AdaptedMLP(layer.mlp, index, recovery)
    model.requires_grad_(False)
    for _, parameter in recovery_parameters(model):
        parameter.requires_grad_(True)
    return tuple(own)


def adapted_layers(model: nn.Module) -> dict[int, AdaptedMLP]:
    """The layers with adapters, 0-based and ascending."""
    return {i: layer.mlp for i, layer in enumerate(decoder_layers(model)) if isinstance(layer.mlp, AdaptedMLP)}
