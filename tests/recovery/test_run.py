"""Opening a recipe, and the name under which its recovered model is kept."""

from pathlib import Path
from typing import Any

import pytest
from reported import recorded

from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.run import _recovery_key, open_recipe

FINETUNE = {"max_steps": 4, "batch_size": 4}
AWARE = {"recovery": {"rank": 32, "quantization_aware": True}}


def key(checkpoint: Path, **settings: Any) -> str:
    sections = {"recovery": {"rank": 32}, "lower": {"max_length": 64}, **settings}
    opened = open_recipe(Recipe(model=str(checkpoint), plan="2:3", **sections))
    return _recovery_key(opened, opened.recipe.finetune)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"recovery": {"rank": 8}}),
        ({}, AWARE),
        ({}, {"warmup": {"windows": 8}}),
        ({}, {"warmup": {"method": "adam"}}),
        ({"warmup": {"method": "adam"}}, {"warmup": {"method": "adam", "adam_lr": 1e-2}}),
        ({}, {"finetune": FINETUNE}),
        ({"finetune": FINETUNE}, {"finetune": {**FINETUNE, "learning_rate": 1e-3}}),
        ({"finetune": FINETUNE}, {"finetune": {**FINETUNE, "length": 64}}),
        (AWARE, {**AWARE, "quantize": {"recovery": 4}}),
        (AWARE, {**AWARE, "quantize": {"lm_head": 4}}),
        (AWARE, {**AWARE, "quantize": {"scales": "minmax"}}),
    ],
)
def test_another_recovery_has_another_name(one: dict[str, Any], other: dict[str, Any], tiny_checkpoint: Path) -> None:
    assert key(tiny_checkpoint, **one) != key(tiny_checkpoint, **other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"quantize": {"rounding": "nearest", "lm_head": 4}}),
        ({}, {"lower": {"max_length": 32}}),
        ({}, {"finetune": {"learning_rate": 1e-3}}),
        ({"warmup": {"inputs": "original"}}, {"warmup": {"inputs": "original", "workers": 2}}),
        ({"finetune": FINETUNE}, {"finetune": {**FINETUNE, "micro_batch": 2, "log_every": 1, "keep": 1}}),
        (AWARE, {**AWARE, "quantize": {"rounding": "nearest", "eight_bit_budget": 0.2}}),
    ],
)
def test_what_changes_nothing_of_it_keeps_the_name(
    one: dict[str, Any], other: dict[str, Any], tiny_checkpoint: Path
) -> None:
    assert key(tiny_checkpoint, **one) == key(tiny_checkpoint, **other)


def test_a_setting_without_effect_is_a_warning_when_the_recipe_is_opened(tiny_checkpoint: Path) -> None:
    with recorded() as report:
        open_recipe(Recipe(model=str(tiny_checkpoint), finetune={"learning_rate": 1e-3}))
    (warning,) = report.warnings
    assert warning.startswith("finetune.learning_rate: no effect, because no layer has recovery parameters")
