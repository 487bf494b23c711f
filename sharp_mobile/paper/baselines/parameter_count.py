"""The parameters of a compressed model, counted on the model and not by a formula, which could be wrong."""

from dataclasses import dataclass

from torch import nn

from sharp_mobile.model.modules import decoder_layers


@dataclass(frozen=True)
class Parameters:
    """The distinct parameters of a model: in the decoder layers' MLPs, and in total."""

    mlp: int
    total: int

    def without(self, *, mlp: int, attention: int = 0) -> "Parameters":
        """These counts, reduced by some parameters."""
        return Parameters(self.mlp - mlp, self.total - mlp - attention)


@dataclass(frozen=True)
class ParameterCount:
    """The parameter counts of a compressed model and of its original."""

    parameters: Parameters
    original: Parameters

    @property
    def mlp(self) -> float:
        """s: stored MLP parameters over the original's, with recovery parameters (paper, Eq. 1)."""
        return self.parameters.mlp / self.original.mlp

    @property
    def total(self) -> float:
        """The same ratio over all parameters of the model."""
        return self.parameters.total / self.original.total


def count_parameters(model: nn.Module) -> Parameters:
    """Count a model's parameters; a shared weight counts once, with its reference."""
    layers = decoder_layers(model)
    mlp = {id(p): p.numel() for layer in layers for p in layer.mlp.parameters()}
    return Parameters(sum(mlp.values()), sum(p.numel() for p in model.parameters()))
