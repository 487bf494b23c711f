"""From a shared model to its quantized decoder.

model ─► decoder, compared with Hugging Face ─► GPTQ by the calibration text, if the recipe rounds to text ─► integers
"""

import torch

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.console import say
from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.translation import check_translation
from sharp_mobile.errors import SharpError, prefixed
from sharp_mobile.model.duration import rounding_seconds, spoken
from sharp_mobile.quantize.gptq import round_to_text
from sharp_mobile.quantize.nearest import quantize
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.system.timing import Stages
from sharp_mobile.text.windows import source_windows

# Of the warm-up's text, for GPTQ: 24 give SmolLM2-135M what 12 do.
_ROUNDING_WINDOWS = 12


def check_lowerable(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Refuse before the long work what a decoder cannot be built or quantized for.

    Raises:
        SharpError: widths that the quantization's groups do not divide, a model or length that has no decoder, or no
            text to round by.
    """
    recipe.check_fits(checkpoint.architecture)
    if recipe.rounds_to_text(checkpoint.tokenizer() is not None):
        _rounding_windows(recipe, checkpoint)
    build_decoder(checkpoint.model, recipe.lower)


def _rounding_windows(recipe: Recipe, checkpoint: Checkpoint) -> torch.Tensor:
    """Windows int64 [12, T] of the warm-up's text, no longer than the decoder's cache."""
    tokenizer = checkpoint.tokenizer_for("quantize.rounding: gptq")
    window = min(recipe.warmup.window, recipe.lower.max_length)
    try:
        return source_windows(tokenizer, recipe.warmup.text, window, _ROUNDING_WINDOWS)
    except SharpError as error:
        raise SharpError(
            f"weights are rounded by warmup.text: {error}; or use quantize.rounding: nearest, which costs quality"
        ) from error


def make_decoder(recipe: Recipe, checkpoint: Checkpoint, stages: Stages) -> Decoder:
    """The quantized decoder of a shared model, in eager mode; before that, checked to be the model in float.

    Args:

    Raises:
        SharpError: as `check_translation`, or no text to round by.
    """
    with stages.stage("build decoder"):
        decoder = build_decoder(checkpoint.model, recipe.lower)
    with stages.stage("compare with Hugging Face"), prefixed(checkpoint.path):
        check_translation(decoder, checkpoint.model)
    if recipe.rounds_to_text(checkpoint.tokenizer() is not None):
        windows = _rounding_windows(recipe, checkpoint)
        seconds = rounding_seconds(checkpoint.architecture, windows.numel())
        say(f"rounding by {windows.numel():,} tokens of text: {spoken(seconds)} on this machine")
        with stages.stage("round"):
            round_to_text(decoder, windows, recipe.quantize)
    with stages.stage("quantize"):
        quantize(decoder, recipe.quantize)
    return decoder
