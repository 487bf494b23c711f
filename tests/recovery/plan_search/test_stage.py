import re
from pathlib import Path
from typing import Any

import pytest
from reported import recorded

from sharp_mobile.errors import SharpError
from sharp_mobile.model.planned import PlannedModel
from sharp_mobile.model.sharing import kept_parameters
from sharp_mobile.quantize.stored import Role, stored_tensors
from sharp_mobile.recipe.load import load_recipe
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan_budget import PlanBudget
from sharp_mobile.recipe.recovery import Recovery, layers_of_kind
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.plan_search.stage import usual_choices
from sharp_mobile.recovery.run import open_recipe, recover


def recipe(checkpoint: Path, text: Path, plan: str, **auto: Any) -> Recipe:
    return Recipe(
        model=str(checkpoint),
        plan=plan,
        recovery={"rank": 4},
        warmup={"text": str(text), "window": 32, "windows": 8},
        auto={"auto_windows": 8, "choices": [{"rank": 4}, {"reference": False, "neurons": 4, "bypass": 8}], **auto},
    )


def test_budgets() -> None:
    assert PlanBudget.parse("auto s=0.62") == PlanBudget("s", 0.62)
    assert PlanBudget.parse("auto tau = .5") == PlanBudget("tau", 0.5)
    assert PlanBudget.parse("AUTO 60 MB") == PlanBudget("bytes", 60e6)
    assert PlanBudget.parse("auto 1.5GB") == PlanBudget("bytes", 1.5e9)
    assert PlanBudget.parse("auto 200 MB resident") == PlanBudget("resident", 200e6)


@pytest.mark.parametrize("text", ["auto", "auto 0.62", "auto s=1.5", "auto s=-1", "auto 12 parsecs"])
def test_a_plan_without_a_budget_is_refused(text: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"name a budget, such as 'auto s=0.62'"):
        open_recipe(recipe(tiny_checkpoint, tiny_text, text), work=tmp_path)


def test_the_usual_choices_suit_four_bits_and_grow_with_the_model() -> None:
    for hidden in (576, 2048, 4096):
        for choice in usual_choices(hidden, 3 * hidden):
            assert all(width % 32 == 0 for width in (*choice.ranks, choice.neurons, choice.bypass))
    costs = [max(choice.parameters(h, 3 * h) for choice in usual_choices(h, 3 * h)) / (9 * h * h) for h in (576, 4096)]
    assert costs[0] == pytest.approx(costs[1], rel=0.2)
    assert usual_choices(576, 1536)[1] == Recovery("lora", 64)


@pytest.mark.parametrize("budget", ["s=0.8", "tau=0.67", "2MB"])
def test_a_chosen_plan_keeps_its_budget_and_is_taken_again(
    budget: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    wanted = recipe(tiny_checkpoint, tiny_text, f"auto {budget}")
    opened = open_recipe(wanted, work=tmp_path)
    assert opened.describe().startswith("auto: ")
    assert len(opened.describe().splitlines()) == 1 + opened.plan.layers + 1
    match budget:
        case "s=0.8":
            assert opened.compression_ratio <= 0.8
            assert opened.plan.targets
        case "tau=0.67":
            assert opened.plan.stored_ratio <= 0.67
            assert set(opened.recovery.values()) == {Recovery("lora", 4)}
        case "2MB":
            assert opened.plan.is_none  # enough for everything
    (kept,) = tmp_path.glob("trials-*.json")
    stamp, whole = kept.stat().st_mtime_ns, kept.read_text()
    again = open_recipe(wanted, work=tmp_path)
    assert (again.plan, again.recovery) == (opened.plan, opened.recovery)
    assert kept.stat().st_mtime_ns == stamp
    kept.write_text(text := kept.read_text()[:-40])
    with pytest.raises(SharpError, match=r"trials-.*\.json: is not valid JSON .*; delete it to measure again"):
        open_recipe(wanted, work=tmp_path)
    assert kept.read_text() == text
    kept.write_text('[{"layer": 3}]')
    with pytest.raises(SharpError, match=r"trials-.*\.json: 0\..*; delete it to measure again"):
        open_recipe(wanted, work=tmp_path)
    kept.write_text(whole)
    if not budget.startswith("tau"):  # there the recovery parameters are the recipe's own
        open_recipe(wanted.model_copy(update={"plan": "auto s=0.9"}), work=tmp_path)
        assert list(tmp_path.glob("trials-*.json")) == [kept]


def test_a_chosen_plan_is_recovered(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    wanted = recipe(tiny_checkpoint, tiny_text, "auto s=0.8")
    with recorded() as report:
        kept = recover(wanted, None, work=tmp_path / "work")
    assert (kept / "sharp.json").is_file()
    assert "auto: " in report.lines[0]


def shared(checkpoint: Path, text: Path, share: str, plan: str) -> Recipe:
    return recipe(checkpoint, text, plan).model_copy(update={"share": share})


def stored(opened: PlannedModel, *roles: Role) -> int:
    """The bytes of what an export of these roles stores."""
    tensors = stored_tensors(opened.architecture, opened.plan, opened.recovery, opened.recipe.quantize)
    return sum(tensors.nbytes(role) for role in roles)


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["0.07MB", "0.16MB resident", "s=0.6"])
def test_a_plan_of_whole_layers_keeps_its_budget(
    budget: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    wanted = shared(tiny_checkpoint, tiny_text, "layer", f"auto {budget}")
    wanted = wanted.model_copy(update={"lower": LowerSettings(max_length=64)})
    opened = open_recipe(wanted, work=tmp_path)
    size = stored(opened, "attention", "mlp", "recovery")
    model = opened.architecture
    holding = [layer for layer in range(6) if layer not in layers_of_kind(opened.recovery, "kv")]
    holding = [layer for layer in holding if layer not in layers_of_kind(opened.recovery, "none")]
    cache = len(holding) * 2 * model.key_width * 64 * 4
    match budget:
        case "0.07MB":
            assert 0.9 * 70_000 < size <= 70_000
        case "0.16MB resident":
            assert 0.9 * 160_000 < size + cache <= 160_000
        case "s=0.6":
            kept = kept_parameters(model, opened.plan, opened.recovery)
            assert 0.5 < kept.planned / kept.original <= 0.6
    assert any(own.attention for own in opened.recovery.values())
    lines = opened.describe().splitlines()
    assert re.fullmatch(r"auto: \d MLPs and \d attentions are targets, 0\.\d+ of .* nats a token", lines[0])
    assert len(lines) == 1 + 6 + 1
    assert any("; no attention" in line or "; keys and values of layer" in line for line in lines)
    again = open_recipe(wanted, work=tmp_path)
    assert (again.plan, again.recovery) == (opened.plan, opened.recovery)
    assert len(list(tmp_path.glob("trials-*.json"))) == 1


@pytest.mark.slow
def test_a_plan_of_attention_leaves_mlps_and_is_recovered(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    wanted = shared(tiny_checkpoint, tiny_text, "attention", "auto s=0.7")
    opened = open_recipe(wanted, work=tmp_path)
    assert opened.plan.is_none
    assert opened.recovery
    assert all(own.attention and own.mlp == Recovery() for own in opened.recovery.values())
    attention = 2 * 64 * (64 + 32)
    kept = kept_parameters(opened.architecture, opened.plan, opened.recovery)
    assert kept.original - kept.planned >= 0.3 * 6 * attention
    directory = recover(wanted, None, work=tmp_path)
    again = open_recipe(load_recipe(directory), work=tmp_path)
    assert (again.plan, again.recovery) == (opened.plan, opened.recovery)


@pytest.mark.parametrize("share", ["kv", "basis", "drop", "drop-mlp", "drop-attention", "prune"])
def test_kinds_that_are_not_chosen_are_refused(
    share: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    with pytest.raises(SharpError, match=f"plan auto with share '{share}': .* use share: mlp, attention or layer, or"):
        open_recipe(shared(tiny_checkpoint, tiny_text, share, "auto s=0.8"), work=tmp_path)


@pytest.mark.parametrize("share", ["attention", "layer"])
def test_tau_is_of_mlps_alone(share: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=f"tau counts MLPs alone; with share {share} name s, bytes or resident bytes"):
        open_recipe(shared(tiny_checkpoint, tiny_text, share, "auto tau=0.5"), work=tmp_path)


def test_a_budget_below_the_least_is_refused(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="plan auto: the budget is below the"):
        open_recipe(recipe(tiny_checkpoint, tiny_text, "auto s=0.1"), work=tmp_path)
