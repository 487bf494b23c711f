"""Every method finds the largest export within a size, by the sizes that `sharp-mobile size` predicts."""

from itertools import pairwise
from pathlib import Path

import pytest
from tiny_models import tiny_config

from sharp_mobile.checkpoint.description import describe_model
from sharp_mobile.errors import SharpError
from sharp_mobile.paper.frontier.methods import (
    METHODS,
    Found,
    Subject,
    TooLarge,
    apart,
    changed,
    chosen_methods,
    target_plan,
)
from sharp_mobile.recipe.settings import Recipe

LAYERS = 8
ORDER = (5, 6, 2, 3, 4)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    shape = {"hidden_size": 128, "intermediate_size": 768, "head_dim": 32, "num_hidden_layers": LAYERS}
    tiny_config(**shape, tie_word_embeddings=False).to_json_file(tmp_path / "config.json")
    recipe = Recipe(
        model=f"random:{tmp_path / 'config.json'}",
        recovery={"rank": 8},
        quantize={"rounding": "gptq"},
        lower={"max_length": 64},
    )
    return Subject(recipe, describe_model(recipe.model), ORDER)


def find(subject: Subject, name: str, size: float) -> Found | TooLarge:
    return METHODS[name].find(subject, int(size * subject.bytes_of(subject.recipe)))


@pytest.mark.parametrize("name", [name for name in METHODS if not name.endswith("-auto")])
def test_a_method_stays_within_a_size(name: str, subject: Subject) -> None:
    whole = subject.bytes_of(subject.recipe)
    found = [find(subject, name, size) for size in (0.95, 0.9, 0.8, 0.7)]
    reached = [one for one in found if isinstance(one, Found)]
    for size, one in zip((0.95, 0.9, 0.8, 0.7), found, strict=True):
        if isinstance(one, Found):
            assert one.nbytes == subject.bytes_of(one.recipe)
            assert one.nbytes is not None
            assert one.nbytes <= size * whole
        else:
            assert one.smallest is None or one.smallest > size * whole
    assert all(later.nbytes <= earlier.nbytes for earlier, later in pairwise(reached))  # type: ignore[operator]
    assert found == [*reached, *(one for one in found if isinstance(one, TooLarge))]  # once too small, then always


def test_the_whole_size_is_the_unchanged_recipe(subject: Subject) -> None:
    found = find(subject, "unshared", 1.0)
    assert isinstance(found, Found)
    assert found.recipe.quantize == subject.recipe.quantize


def test_unshared_gives_up_8_bits_before_groups_and_these_before_the_head(subject: Subject) -> None:
    settings = []
    for size in (0.98, 0.94, 0.895, 0.88):
        found = find(subject, "unshared", size)
        assert isinstance(found, Found)
        quantize = found.recipe.quantize
        settings.append((quantize.lm_head, quantize.group_size, quantize.eight_bit_budget < 0.05))
    assert settings == [(8, 32, True), (8, 64, True), (8, 128, True), (4, 128, True)]


def test_the_smallest_is_told_where_a_size_is_not_reached(subject: Subject) -> None:
    found = find(subject, "mlp", 0.1)
    assert isinstance(found, TooLarge)
    every = changed(subject.recipe, {"plan": str(target_plan(LAYERS, ORDER))})
    assert found.smallest == subject.bytes_of(every)


def test_auto_leaves_the_rest_to_the_mlps(subject: Subject) -> None:
    whole = subject.size(subject.recipe).file
    found = find(subject, "mlp-auto", 0.8)
    assert isinstance(found, Found)
    assert found.nbytes is None
    budget = float(found.recipe.plan.removeprefix("auto ").removesuffix("MB")) * 1e6
    saved = (whole.mlps - budget) * (1 + subject.recipe.quantize.eight_bit_budget)
    assert whole.total - saved == pytest.approx(0.8 * whole.total, rel=0.004)
    assert isinstance(find(subject, "mlp-auto", 0.1), TooLarge)


def test_targets_have_the_nearest_layer_that_is_none() -> None:
    assert str(target_plan(LAYERS, (5, 3, 6))) == "3:4, 5:6,7"
    assert str(target_plan(LAYERS, (3,), lambda reference, target: reference != 2)) == "2:4"
    assert apart((5, 6, 2, 3, 4)) == [5, 2, 6, 3, 4]


def test_settings_that_are_changed_leave_the_others(subject: Subject) -> None:
    recipe = changed(subject.recipe, {"recovery.kept": 0.5, "share": "basis", "plan": "blocks 2"})
    assert (recipe.recovery.rank, recipe.recovery.kept, recipe.share) == (8, 0.5, "basis")
    assert "attention_rank" not in recipe.recovery.model_fields_set
    assert subject.recipe.recovery.kept != 0.5
    with pytest.raises(SharpError, match=r"quantize\.group_size"):
        changed(subject.recipe, {"quantize.group_size": 7})


def test_methods_are_named() -> None:
    assert [method.name for method in chosen_methods(["mlp", "mlp"])] == ["unshared", "mlp"]
    with pytest.raises(SharpError, match="--methods pruning: there is no such method; choose from unshared, mlp, "):
        chosen_methods(["mlp", "pruning"])
