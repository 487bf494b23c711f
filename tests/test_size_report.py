"""What `sharp-mobile size` tells before an export, of whatever an export takes, with no weights at hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from project import PROJECT
from tiny_models import tiny_config, tiny_model

from sharp_mobile.bench.budgets.file import AtMost, read_budgets
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import share_layers
from sharp_mobile.pipeline import sharing_offers
from sharp_mobile.recipe.load import load_recipe
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.size_report import Report, report

BUDGETS = PROJECT / "export/budgets.toml"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A directory that holds a config.json and nothing else."""
    tiny_config(num_hidden_layers=8, max_position_embeddings=4096).to_json_file(tmp_path / "config.json")
    return tmp_path


def sized(model: object, *plans: str, **settings: Any) -> Report:
    return report([load_recipe(str(model), plan=plan, **settings) for plan in plans or (None,)])


@pytest.mark.parametrize("name", ["smollm2-135m", "smollm2-135m-t_next", "smollm2-135m-unshared"])
def test_what_was_exported_was_foretold(name: str) -> None:
    budgets, told = read_budgets(BUDGETS, name), sized(name)
    assert budgets.file_bytes is not None
    assert told.plans[-1].size.file.total == pytest.approx(budgets.file_bytes.at_most, rel=0.005)
    if budgets.shared_bytes is not None:
        unshared, shared = told.plans[0].size.file, told.plans[1].size.file
        assert unshared.mlps - shared.mlps == budgets.shared_bytes.at_least


def test_what_was_measured_in_memory_was_foretold() -> None:
    measured = read_budgets(BUDGETS, "smollm2-135m").by_key()["host", "resident_bytes"]
    assert isinstance(measured, AtMost)
    told = sized("smollm2-135m", attention="portable").plans[1].size.resident
    assert told.total == pytest.approx(measured.at_most, rel=measured.tolerance)


def test_the_paper_s_model_with_and_without_recovery_parameters_is_one_report() -> None:
    told = sized(f"random:{PROJECT}/export/shapes/llama-2-7b.json", "none", "t_next", "t_back", rank=384)
    none, following, back = told.plans
    assert [plan.heading for plan in told.plans] == ["none", "t_next", "t_back"]
    mlp = 3 * 4096 * 11008 * (4 + 16 / 32) / 8
    for plan, targets in ((following, 14), (back, 20)):
        assert plan.without is not None
        assert none.size.file.mlps - plan.size.file.mlps == targets * mlp
        assert plan.without.file.total == none.size.file.total - targets * mlp
        assert plan.without.file.recovery == 0 < plan.size.file.recovery
    assert none.without is None
    assert none.size.resident.cache == 2 * 32 * 32 * 2048 * 128 * 4


def test_the_same_is_told_in_a_table_and_as_json(config: Path) -> None:
    told = sized(config, "t_next", "direct:t_next", rank=32)
    text, data = "\n".join(told.lines()), json.loads(json.dumps(told.as_json()))
    assert [plan["plan"] for plan in data["plans"]] == ["none", "3:4, 5:6", "direct:3:4, 5:6"]
    for plan in data["plans"]:
        for name in ("file", "resident"):
            *parts, total = plan[name].values()
            assert sum(parts) == total
            assert f"{total:,}" in text
    first, recovered, direct = data["plans"]
    assert first["without_recovery"] is direct["without_recovery"] is None
    assert recovered["without_recovery"]["file"] == direct["file"]
    assert recovered["stored_ratio"] == direct["compression_ratio"] == 0.75


def test_settings_count_as_in_an_export(config: Path) -> None:
    usual, wide = (sized(config, "t_next", rank=32, recovery=bits).plans[1].size for bits in (8, 4))
    assert wide.file.recovery < 0.7 * usual.file.recovery
    short, long = (sized(config, "none", max_length=length).plans[0].size for length in (64, 128))
    assert long.resident.cache == 2 * short.resident.cache
    assert long.file == short.file
    adapted = sized(config, "none", adapters=32).plans
    assert adapted[1].without is not None
    assert adapted[1].without == adapted[0].size != adapted[1].size


def test_a_shared_checkpoint_is_sized_as_it_is_beside_its_original(tmp_path: Path) -> None:
    model, plan = tiny_model(), SharePlan.parse("2:3,4", 6)
    share_layers(model, plan, {2: Recovery("lora", 32), 3: Recovery(neurons=32, bypass=32, reference=False)})
    directory = save_sharp_checkpoint(model, plan, tmp_path / "sharp")
    (directory / "model.safetensors").unlink()
    told = sized(directory, max_length=64)
    assert [str(plan.planned.plan) for plan in told.plans] == ["none", "2:3,4"]
    assert told.plans[0].size.file.mlps == 6 * told.plans[1].size.file.mlps / 4
    with pytest.raises(SharpError, match=r"already shares layers, by plan 2:3,4"):
        sized(directory, "t_next", max_length=64)


def test_kinds_of_sharing_are_columns_of_one_report(config: Path) -> None:
    kinds = [("t_next", "mlp"), ("2:3", "attention"), ("2:3", "kv"), ("2:3", "prune"), ("none", "kv 2:3; mlp 4:5")]
    recipes = [load_recipe(str(config), plan=plan, share=share, max_length=64) for plan, share in kinds]
    none, mlps, attention, kv, prune, mixture = report(recipes).plans
    headings = [plan.heading for plan in (mlps, attention, kv, prune, mixture)]
    assert headings == ["t_next", "attention 2:3", "kv 2:3", "prune 2:3", "kv 2:3; mlp 4:5"]
    assert [plan["plan"] for plan in json.loads(json.dumps(report(recipes).as_json()))["plans"]][2:] == [
        "attention 2:3",
        "keys and values 2:3",
        "fewer neurons in layer 3",
        "MLPs 4:5; keys and values 2:3",
    ]
    assert none.size.file.mlps == attention.size.file.mlps > mlps.size.file.mlps
    assert attention.without is not None
    saved = none.size.file.attention - attention.size.file.attention
    assert none.size.file.attention == 8 * saved
    assert attention.without.file.attention == attention.size.file.attention
    assert attention.without.file.recovery == 0 < attention.size.file.recovery
    assert (kv.without, prune.without) == (None, None)  # o is the layer's own, and so are the neurons that are left
    assert prune.size.file.recovery == 0 < none.size.file.mlps - prune.size.file.mlps
    assert [plan.size.resident.cache * 8 for plan in (none, kv)] == [
        none.size.resident.cache * share for share in (8, 7)
    ]
    assert mixture.without is not None
    assert mixture.without.resident.cache == kv.size.resident.cache


def test_what_an_export_would_refuse_is_refused_alike(config: Path, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="'9' must name layers between 1 and 8"):
        sized(config, "2:9")
    with pytest.raises(SharpError, match="rank 56 with 4-bit recovery parameters"):
        sized(config, "t_next", rank=56, recovery=4)
    with pytest.raises(SharpError, match="group_size: 128 does not divide"):
        sized(config, "t_next", group_size=128)
    with pytest.raises(SharpError, match="hadamard cannot be exported"):
        sized(config, "t_next", form="hadamard")
    with pytest.raises(SharpError, match=r"chosen by measuring the weights; give --plan"):
        sized(config, "auto s=0.62")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SharpError, match=r"empty: holds no config\.json"):
        sized(tmp_path / "empty")
    with pytest.raises(SharpError, match=r"none\.json: no such file"):
        sized(f"random:{tmp_path}/none.json")


def test_the_plans_that_make_a_file_smaller_are_told_with_their_commands(tmp_path: Path) -> None:
    config = tiny_config(num_hidden_layers=8, hidden_size=256, intermediate_size=768, max_position_embeddings=128)
    config.to_json_file(tmp_path / "config.json")
    recipe = load_recipe(f"random:{tmp_path / 'config.json'}")
    heading, *plans, measure = sharing_offers(recipe, "./it's mine")[1:]
    assert "recovery parameters of rank 64, sharing would give" in heading
    sizes = report([recipe.model_copy(update={"plan": name}) for name in ("t_next", "t_next2", "t_back")])
    for line, plan in zip(plans, sizes.plans[1:], strict=True):
        assert f"{plan.size.file.total:,} bytes (-" in line
        assert line.endswith(f"sharp-mobile export './it'\"'\"'s mine' --plan {plan.heading}")
    assert "sharp-mobile evaluate" in measure


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 6])
def test_where_no_plan_makes_the_file_smaller_nothing_is_suggested(layers: int, tmp_path: Path) -> None:
    tiny_config(num_hidden_layers=layers).to_json_file(tmp_path / "config.json")
    assert sharing_offers(load_recipe(f"random:{tmp_path / 'config.json'}"), "x") == []


def test_the_default_length_is_cut_to_the_models_positions(tmp_path: Path) -> None:
    """But not one that the user has set."""
    tiny_config(max_position_embeddings=100).to_json_file(tmp_path / "config.json")
    told = sized(tmp_path).lines()
    assert "max_length 100, custom_sdpa" in told[0]
    assert told[1] == "max_length is 100: the model has no more positions (max_position_embeddings)"
    assert sized(tmp_path, max_length=100).lines()[0] == told[0]
    for length in (101, 2048):
        with pytest.raises(SharpError, match=f"max_length: {length} is beyond the model's 100 positions; use 100"):
            sized(tmp_path, max_length=length)
