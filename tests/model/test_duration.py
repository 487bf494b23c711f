"""What long steps are told to take grows with what they compute, and is told in plain words."""

from dataclasses import replace

import pytest
from tiny_models import tiny_config

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.model.duration import (
    finetune_seconds,
    products_per_second,
    rounding_seconds,
    spoken,
    warmup_seconds,
)
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.recovery import AttentionRecovery, Basis, Recovery
from sharp_mobile.recipe.warmup_settings import WarmupSettings

BASIS = Recovery(basis=Basis(0, (8, 8, 8, 8, 8, 8, 8)))
MODEL = architecture_of(tiny_config().to_dict())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "a few seconds"),
        (6.4, "about 6 seconds"),
        (43.0, "about 45 seconds"),
        (100.0, "about 2 minutes"),
        (1300.0, "about 20 minutes"),
        (5500.0, "about 2 hours"),
        (100_000.0, "about 30 hours"),
        (10**6, "about 10 days"),
    ],
)
def test_durations_are_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


def test_twice_the_work_is_twice_the_time() -> None:
    assert products_per_second() == products_per_second() > 0
    assert rounding_seconds(MODEL, 2000) == pytest.approx(2 * rounding_seconds(MODEL, 1000))
    lora, warmup = Recovery(rank=4), WarmupSettings()
    one, two = warmup_seconds(MODEL, warmup, {1: lora}), warmup_seconds(MODEL, warmup, {1: lora, 2: lora})
    assert two == pytest.approx(2 * one)
    assert warmup_seconds(MODEL, warmup, {1: Recovery()}) == 0
    attention = AttentionRecovery("weights", 1, rank=4)
    both = warmup_seconds(MODEL, warmup, {2: replace(lora, attention=attention)})
    assert both == pytest.approx(one + warmup_seconds(MODEL, warmup, {2: Recovery(attention=attention)}))
    nothing = {2: Recovery(reference=False, attention=AttentionRecovery("none"))}
    assert warmup_seconds(MODEL, warmup, nothing) == 0 < warmup_seconds(MODEL, warmup, {2: BASIS})
    adam = warmup.model_copy(update={"method": "closed_form_adam"})
    assert warmup_seconds(MODEL, adam, {1: lora}) > one
    settings = FinetuneSettings()
    assert finetune_seconds(MODEL, settings, 20) == pytest.approx(2 * finetune_seconds(MODEL, settings, 10))
    distilled = settings.model_copy(update={"distillation": 1.0})
    assert finetune_seconds(MODEL, distilled, 10) > finetune_seconds(MODEL, settings, 10)
