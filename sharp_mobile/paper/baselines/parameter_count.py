"""How many parameters a compressed model keeps, counted on the model itself, so that no formula can flatter it."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from sharp_mobile.model.modules import decoder_layers


@dataclass(frozen=True)
class Parameters:
    """Distinct parameters of a model: in the decoder layers' MLPs, and in all of it."""

    mlp: int
    total: int

    def without(self, *, mlp: int, attention: int = 0) -> "Parameters":
        """The same with fewer parameters."""
        return Parameters(self.mlp - mlp, self.total - mlp - attention)


@dataclass(frozen=True)
class Kept:
    """What a compressed model keeps of the original model's parameters."""

    parameters: Parameters
    original: Parameters

    @property
    def mlp(self) -> float:
        """s: kept MLP parameters over original ones, recovery parameters included (paper, Eq. 1)."""
        return self.parameters.mlp / self.original.mlp

    @property
    def total(self) -> float:
        """The same over all parameters of the model."""
        return self.parameters.total / self.original.total


def count_parameters(model: nn.Module) -> Parameters:
    """Count a model's parameters; a shared weight counts once, with its reference."""
    layers: Any = decoder_layers(model)
    mlp = {id(p): p.numel() for layer in layers for p in layer.mlp.parameters()}
    return Parameters(sum(mlp.values()), sum(p.numel() for p in model.parameters()))
