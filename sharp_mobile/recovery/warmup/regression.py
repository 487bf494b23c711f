"""What a target has to learn: x -> Y with weight w, for every calibration token.

With `mid` the residual stream between a layer's attention and its MLP, and f the target's new MLP:

    sequential   x = pre_mlp_norm(mid_recovered)   Y = out_original − mid_recovered   what brings the stream back
    original     x = pre_mlp_norm(mid_original)    Y = MLP_original(x)                the paper's (Section 2.2.2)

and for a target's attention, with `in` the stream at the layer's start:

    sequential   x = pre_attention_norm(in_recovered)   Y = mid_original − in_recovered

Tokens weigh w = (‖Y‖² + median‖Y‖²)^−½, so that no outlier token rules the fit and none is left out; the paper's loss
is unweighted, w = 1. Activations stay in files, of which a batch at a time is read.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch

from sharp_mobile.errors import SharpError
from sharp_mobile.model.families import Family
from sharp_mobile.model.modules import DecoderLayer, norm, rms_norm

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Rows = slice | torch.Tensor  # of the flat axis of all tokens


class FitError(SharpError):
    """A target that cannot be fitted; the text lacks the layer, which who catches it knows."""


def not_finite() -> FitError:
    """What solvers raise on NaN, infinity, or activations that carry nothing."""
    return FitError(
        "has activations that are not finite or all alike; "
        "check the model's weights, calibrate on more text, or leave this layer out of the plan"
    )


class Regression(ABC):
    """One target's task. Rows are a slice or indices of tokens.

    Args:
        tokens: how many there are.
        parts: slices of them, of a batch each.
        weighted: whether outlier tokens are held down (see the module).

    Raises:
        FitError: outputs that are not finite or all zero.
    """

    def __init__(self, tokens: int, parts: list[slice], weighted: bool) -> None:
        self.tokens, self.parts = tokens, parts
        squares = torch.empty(tokens)  # not a list of parts: small tensors between large ones fragment the heap
        for part in parts:
            squares[part] = self.outputs(part).pow(2).sum(-1)
        if not squares.isfinite().all():
            raise not_finite()
        ones = torch.ones_like(squares)
        self.weights = (squares + squares.median()).rsqrt().nan_to_num(posinf=0.0) if weighted else ones
        self.energy = (self.weights.double().pow(2) * squares.double()).sum().item()  # Σ ‖wY‖²
        if self.energy == 0:
            raise not_finite()

    @abstractmethod
    def inputs(self, rows: Rows) -> torch.Tensor:
        """x [tokens, hidden] of some tokens."""

    @abstractmethod
    def outputs(self, rows: Rows) -> torch.Tensor:
        """Y [tokens, hidden] of some tokens."""

    def batch(self, rows: Rows) -> Batch:
        """x [tokens, hidden], Y [tokens, hidden] and w [tokens, 1] of some tokens."""
        return self.inputs(rows), self.outputs(rows), self.weights[rows].unsqueeze(-1)


class StoredRegression(Regression):
    """x and Y as they are, each a float32 tensor [tokens, hidden], perhaps mapped from a file."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, parts: list[slice], weighted: bool) -> None:
        self._x, self._y = x, y
        super().__init__(len(x), parts, weighted)

    def inputs(self, rows: Rows) -> torch.Tensor:
        return self._x[rows]

    def outputs(self, rows: Rows) -> torch.Tensor:
        return self._y[rows]


class StreamRegression(Regression):
    """x and Y from the two streams, for a layer's MLP or its attention.

    Args:
        recovered: the recovered stream before that part of the layer, [windows, T, hidden].
        original: the original stream behind it, [windows, T, hidden].
        scale: root mean square of the original part's output, [windows, T].
    """

    def __init__(
        self,
        layer: DecoderLayer,
        family: Family,
        recovered: torch.Tensor,
        original: torch.Tensor,
        scale: torch.Tensor,
        parts: list[slice],
        weighted: bool,
        part: Literal["mlp", "attention"] = "mlp",
    ) -> None:
        self.recovered, self.original = recovered.flatten(0, 1), original.flatten(0, 1)
        self._scale = scale.flatten()
        before, attribute = (
            (family.pre_mlp_norm, family.post_mlp_norm)
            if part == "mlp"
            else (family.pre_attention_norm, family.post_attention_norm)
        )
        self._pre_norm, self._post_norm = norm(layer, before), norm(layer, attribute)
        gain = None if attribute is None else rms_norm(norm(layer, attribute)).weight + family.norm_gain_offset
        self._gain: torch.Tensor | None = gain
        super().__init__(len(self.recovered), parts, weighted)

    def inputs(self, rows: Rows) -> torch.Tensor:
        inputs: torch.Tensor = self._pre_norm(self.recovered[rows])
        return inputs

    def outputs(self, rows: Rows) -> torch.Tensor:
        needed = self.original[rows] - self.recovered[rows]
        return needed if self._gain is None else before_norm(needed, self._gain, self._scale[rows].unsqueeze(-1))

    def advance(self, rows: Rows, output: torch.Tensor) -> None:
        """Bring the recovered stream to the layer's end: `output` [tokens, hidden] is what the fitted MLP gives."""
        self.recovered[rows] += self._post_norm(output)


def before_norm(needed: torch.Tensor, gain: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What an RMS norm turns into (nearly) `needed` [..., hidden]: needed / gain, at the original part's scale.

    The norm forgets its input's scale, so the root mean square `scale` [..., 1] of the original output is taken, a size
    that the weights can reach. Channels of little gain are held down: they matter as little.
    """
    floor = 0.05 * gain.abs().mean()
    direction = needed * gain.sign() / gain.abs().clamp_min(floor)
    return direction * scale
