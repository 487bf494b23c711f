"""A model is described by its files as it would be opened, with no weights at hand."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from tiny_gguf import write_gguf
from tiny_models import tiny_model

from sharp_mobile.checkpoint.description import describe_model, plan_source
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import share_layers
from sharp_mobile.recipe.load import load_recipe
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery


def test_a_directory_is_what_would_be_opened(tiny_checkpoint: Path) -> None:
    assert describe_model(str(tiny_checkpoint)) == open_checkpoint(tiny_checkpoint).description
    for path in tiny_checkpoint.glob("tokenizer*"):
        path.unlink()
    (tiny_checkpoint / "model.safetensors").unlink()
    assert not describe_model(str(tiny_checkpoint)).tokenizer


@pytest.mark.parametrize("tokenizer", ["bytes", None])
def test_a_gguf_file_is_what_would_be_opened(tokenizer: str | None, tmp_path: Path) -> None:
    path = write_gguf(tiny_model(), tmp_path / "tiny.gguf", tokenizer=tokenizer)
    assert describe_model(str(path)) == open_checkpoint(path).description


def test_a_shared_checkpoint_is_what_would_be_opened(tmp_path: Path) -> None:
    model, plan = tiny_model(), SharePlan.parse("2:3,4", 6)
    share_layers(model, plan, Recovery("lora", 4))
    out = save_sharp_checkpoint(model, plan, tmp_path / "sharp")
    described = describe_model(str(out))
    assert described == open_checkpoint(out).description
    assert (described.plan, described.recovery) == (plan, {2: Recovery("lora", 4), 3: Recovery("lora", 4)})
    content = (out / "config.json").read_text()
    (out / "config.json").write_text(content + " ")
    for read in (describe_model, open_checkpoint):
        with pytest.raises(SharpError, match=r"config\.json: does not match sharp\.json"):
            read(str(out))


def test_an_architecture_without_weights_is_what_would_be_opened(tiny_checkpoint: Path) -> None:
    source = f"random:{tiny_checkpoint / 'config.json'}"
    assert describe_model(source) == open_checkpoint(source).description


def test_of_a_repository_no_weights_are_downloaded(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[str] = []

    def download(repository: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        wanted.extend([repository, *allow_patterns])
        return str(tiny_checkpoint)

    monkeypatch.setattr("sharp_mobile.checkpoint.locate.snapshot_download", download)
    (tiny_checkpoint / "model.safetensors").unlink()
    assert describe_model("org/name").architecture.hidden == 64
    assert not any(pattern.endswith((".safetensors", ".bin")) or "*" in pattern for pattern in wanted)
    assert wanted[:3] == ["org/name", "config.json", "sharp.json"]


def test_a_repository_in_the_local_cache_needs_no_network(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(SharpError, match="org/name: no directory of that name, not in the local hub cache"):
        describe_model("org/name")
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_checkpoint, repository / "snapshots" / ("0" * 40))
    assert describe_model("org/name").name == "name"


def test_a_plan_is_parsed_for_the_model_and_told_with_its_ratios(tiny_checkpoint: Path) -> None:
    planned = plan_source(load_recipe(str(tiny_checkpoint), plan="t_next", rank=4))
    assert planned.plan == SharePlan.parse("t_next", 6)
    # One target of six, and 3 · 4 · (64 + 96) parameters beside 6 · 3 · 64 · 96.
    assert planned.compression_ratio == pytest.approx(5 / 6 + 4 * 160 / (6 * 64 * 96))
    assert planned.recipe.lower.max_length == 128  # the model has no more positions
    assert planned.describe() == (
        "plan 3:4 (reference:targets, 1-based), lora rank 4; stored ratio τ = 0.83, compression ratio s = 0.851"
    )


def test_a_plan_that_does_not_fit_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="share plan: '9' must name layers between 1 and 6"):
        plan_source(load_recipe(str(tiny_checkpoint), plan="2:9"))
    model, plan = tiny_model(), SharePlan.parse("2:3", 6)
    share_layers(model, plan, Recovery("lora", 4))
    out = save_sharp_checkpoint(model, plan, tmp_path / "sharp")
    assert str(plan_source(load_recipe(str(out))).plan) == "2:3"
    with pytest.raises(
        SharpError, match=r"sharp: already shares layers, by plan 2:3; leave out plan, share and recovery"
    ):
        plan_source(load_recipe(str(out), plan="2:3,4"))
    (out / "sharp.json").write_text(json.dumps(json.loads((out / "sharp.json").read_text()) | {"layers": 7}))
    with pytest.raises(SharpError, match=r"it is for 7 layers and the model has 6"):
        describe_model(str(out))
