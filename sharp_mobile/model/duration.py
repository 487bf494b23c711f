"""Estimates of how long the long steps take on this machine, reported before they start.

    seconds = products of the step / this machine's rate of float32 products × a factor measured on SmolLM2-135M

The factor holds what the products leave out: factorizing, rounding column by column, reading and writing. The estimate
is to tell minutes from hours; a progress bar tells more once a step runs.
"""

import time
from collections.abc import Mapping
from functools import cache

import torch

from sharp_mobile.model.architecture import Architecture
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.warmup_settings import WarmupSettings

_WIDTH, _TIMED_SECONDS = 768, 0.2
# Of one core of a Xeon with AMX (190 GFLOP/s): 37 s to round by 6,144 tokens, 11.6 s a target to fit by 24,576; a step
# of fine-tuning 4,096 tokens 35 s on two. By 16,384, roughly 6 s an attention and 3 s a layer of bases.
_ROUNDING, _CLOSED_FORM, _TRAINING = 5.4, 17.0, 2.0
_ATTENTION, _BASES = 40.0, 5.0


@cache
def products_per_second() -> float:
    """Multiplications and additions a second in this machine's float32 products, with the threads that PyTorch has."""
    a, b = torch.ones(_WIDTH, _WIDTH), torch.ones(_WIDTH, _WIDTH)
    _ = a @ b
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < _TIMED_SECONDS or not count:
        _ = a @ b
        count += 1
    return 2 * _WIDTH**3 * count / elapsed


def rounding_seconds(model: Architecture, tokens: int) -> float:
    """To round all linears by a text of so many tokens."""
    return _ROUNDING * _forward(model, tokens) / products_per_second()


def warmup_seconds(model: Architecture, warmup: WarmupSettings, recovery: Mapping[int, Recovery]) -> float:
    """To fit the recovery parameters of these layers by the warm-up's text; 0 where there is nothing to fit."""
    mlps = sum(not (own.direct or own.dropped) for own in recovery.values())
    attentions = sum(own.attention_learns for own in recovery.values())
    bases = sum(own.basis is not None for own in recovery.values())
    tokens = warmup.window * warmup.windows
    mlp = 2 * 3 * model.hidden * model.inner * tokens
    each = _CLOSED_FORM * mlp * (warmup.method != "adam")
    each += 3 * _TRAINING * mlp * warmup.adam_epochs * (warmup.method != "closed_form")
    products = mlps * each / warmup.workers
    products += attentions * _ATTENTION * _attention(model, tokens) + bases * _BASES * _forward(model, tokens, layers=1)
    return products / products_per_second()


def finetune_seconds(model: Architecture, settings: FinetuneSettings, steps: int) -> float:
    """To train so many steps; distillation computes the original, too."""
    passes = 2 + (settings.distillation > 0) + settings.gradient_checkpointing
    tokens = settings.batch_size * settings.length
    return _TRAINING * steps * passes * _forward(model, tokens) / products_per_second()


def spoken(seconds: float) -> str:
    """A duration in words: "a few seconds", "about 40 seconds", "about 12 minutes", "about 3 hours"."""
    if seconds < 5:
        return "a few seconds"
    for unit, length, most in (("seconds", 1, 90), ("minutes", 60, 5400), ("hours", 3600, 172_800)):
        if seconds < most:
            return f"about {_rounded(seconds / length)} {unit}"
    return f"about {_rounded(seconds / 86_400)} days"


def _attention(model: Architecture, tokens: int) -> float:
    """Multiplications and additions of a forward pass through the linears of an attention."""
    return 4.0 * tokens * model.hidden * (model.query_width + model.key_width)


def _forward(model: Architecture, tokens: int, layers: int | None = None) -> float:
    """Multiplications and additions of a forward pass through the linears of so many layers, or all."""
    mlp = 2.0 * tokens * 3 * model.hidden * model.inner
    return (layers or model.layers) * (_attention(model, tokens) + mlp)


def _rounded(count: float) -> int:
    """To whole numbers below ten, to fives above."""
    return max(1, round(count)) if count < 10 else 5 * round(count / 5)
