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
# of fine-tuning 4,096 tokens 35 s on two.
_ROUNDING, _CLOSED_FORM, _TRAINING = 5.4, 17.0, 2.0


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
    fitted = sum(not own.direct for own in recovery.values())
    tokens = warmup.window * warmup.windows
    mlp = 2 * 3 * model.hidden * model.inner * tokens
    each = _CLOSED_FORM * mlp * (warmup.method != "adam")
    each += 3 * _TRAINING * mlp * warmup.adam_epochs * (warmup.method != "closed_form")
    return fitted * each / warmup.workers / products_per_second()


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


def _forward(model: Architecture, tokens: int) -> float:
    """Multiplications and additions of a forward pass through the layers' linears."""
    attention = 2 * model.hidden * (model.query_width + model.key_width)
    layer = attention + 3 * model.hidden * model.inner
    return 2.0 * tokens * model.layers * layer


def _rounded(count: float) -> int:
    """To whole numbers below ten, to fives above."""
    return max(1, round(count)) if count < 10 else 5 * round(count / 5)
