"""The Hugging Face modules of a decoder, whatever its family names and fuses: layers, norms and MLP projections."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class MLPWeights(NamedTuple):
    """One gated MLP's projections, as views of its parameters: gate and up [inner, hidden], down [hidden, inner]."""

    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a Hugging Face causal language model, in order."""
    return model.model.layers


def norm(layer: Any, attribute: str | None) -> nn.Module:
    """A layer's norm by the attribute name that a `Family` gives; the identity where the family has none."""
    return nn.Identity() if attribute is None else getattr(layer, attribute)


class NoMLP(nn.Module):
    """An MLP that answers zero, as one whose weights are all zero does; a layer with it has only its attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> zeros of the same shape."""
        return torch.zeros_like(x)


def mlp_weights(mlp: Any) -> MLPWeights:
    """A plain Hugging Face MLP's projections; a fused gate and up are given as two views of one tensor."""
    if hasattr(mlp, "gate_up_proj"):
        gate, up = mlp.gate_up_proj.weight.chunk(2, dim=0)
        return MLPWeights(gate, up, mlp.down_proj.weight)
    return MLPWeights(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)


def mlp_biases(mlp: Any) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """A plain Hugging Face MLP's biases in the order gate, up, down; None where it has none."""
    if hasattr(mlp, "gate_up_proj"):
        bias = mlp.gate_up_proj.bias
        gate, up = (None, None) if bias is None else bias.chunk(2, dim=0)
        return gate, up, mlp.down_proj.bias
    return mlp.gate_proj.bias, mlp.up_proj.bias, mlp.down_proj.bias


def mlp_activation(mlp: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation between gate and up."""
    return mlp.activation_fn if hasattr(mlp, "activation_fn") else mlp.act_fn


def mlp_inner(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a plain MLP's down projection reads: x [..., hidden] -> [..., inner]."""
    weights, (gate_bias, up_bias, _) = mlp_weights(mlp), mlp_biases(mlp)
    return mlp_activation(mlp)(F.linear(x, weights.gate, gate_bias)) * F.linear(x, weights.up, up_bias)
