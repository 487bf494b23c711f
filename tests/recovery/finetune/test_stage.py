import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from children import Child, command, ranks
from project import PROJECT
from reported import recorded
from safetensors.torch import load_file
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import shared_layers
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.load import load_recipe
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.finetune.run import FinetuneReport, Loss
from sharp_mobile.recovery.finetune.stage import _check_progress
from sharp_mobile.recovery.run import recover


def recipe(checkpoint: Path, text: Path, *, plan: str = "2:3", adapters: int = 0, **finetune: Any) -> Recipe:
    return Recipe(
        model=str(checkpoint),
        plan=plan,
        recovery={"rank": 4, "adapters": adapters},
        warmup={"text": str(text), "window": 32, "windows": 8},
        finetune={
            "train_text": str(text),
            "length": 32,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "precision": "float32",
            **finetune,
        },
    )


def recovered(recipe: Recipe, tmp_path: Path) -> Path:
    return recover(recipe, None, work=tmp_path / "work")


def test_a_recipe_fine_tunes_only_if_it_says_how_long(tmp_path: Path) -> None:
    assert not FinetuneSettings().is_on
    assert FinetuneSettings(max_steps=3).is_on
    assert not FinetuneSettings(epochs=2, max_steps=0).is_on
    path = tmp_path / "recipe.yaml"
    path.write_text("model: a/b\nfinetune: {epochs: 2, learning_rate: 1e-3}\n")
    read = load_recipe(str(path), keep_best="true", evaluate_every=5, distillation="0.5").finetune
    assert read == FinetuneSettings(epochs=2.0, learning_rate=1e-3, keep_best=True, evaluate_every=5, distillation=0.5)
    assert read.is_on
    assert (read.steps(20), FinetuneSettings(epochs=2, max_steps=3).steps(20)) == (5, 3)


def test_a_fine_tuned_checkpoint_is_kept_beside_the_warmed_up_one(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    finetuning = recipe(tiny_checkpoint, tiny_text, max_steps=3, distillation=1.0, validation_text=str(tiny_text))
    warm = recovered(recipe(tiny_checkpoint, tiny_text), tmp_path)
    tuned = recovered(finetuning, tmp_path)
    assert set((tmp_path / "work").iterdir()) == {warm, tuned}  # and the run is gone
    report = json.loads((tuned / "sharp.json").read_text())["report"]
    assert report["finetune"]["steps"] == 3
    assert report["finetune"]["before"]["loss"] != report["finetune"]["after"]["loss"]
    assert report["targets"] == json.loads((warm / "sharp.json").read_text())["report"]["targets"]

    first, second = (open_checkpoint(path).model.state_dict() for path in (warm, tuned))
    assert first.keys() == second.keys()
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert moved
    assert all(".mlp." in name and "layers.2." in name for name in moved)
    stamp = (tuned / "sharp.json").stat().st_mtime_ns
    assert recovered(finetuning, tmp_path) == tuned
    assert (tuned / "sharp.json").stat().st_mtime_ns == stamp  # taken from there, not made again


def test_adapters_alone_are_fine_tuned_where_nothing_is_shared(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    kept = recovered(
        recipe(tiny_checkpoint, tiny_text, plan="none", adapters=3, max_steps=3, distillation=0.5), tmp_path
    )
    model = open_checkpoint(kept).model
    assert list(shared_layers(model)) == [0, 1, 2, 3, 4, 5]
    assert not torch.allclose(model(tiny_tokens()).logits, tiny_model()(tiny_tokens()).logits, atol=1e-4)


def test_wrong_settings_and_texts_are_refused_before_the_warm_up(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    for wrong, complaint in (
        ({"train_text": "nowhere.txt"}, "nowhere.txt"),
        ({"length": 129}, "sequence length 129: the model takes 2 to 128 tokens"),
        (
            {"length": 120, "validation_text": str(tiny_text), "validation_windows": 999},
            "windows of 120, 999 are needed",
        ),
    ):
        with pytest.raises(SharpError, match=complaint):
            recovered(recipe(tiny_checkpoint, tiny_text, max_steps=3, **wrong), tmp_path)
        assert not list((tmp_path / "work").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "steps"), [(1e30, 1), (1e20, 1), (1e30, 4)])
def test_a_model_that_got_much_worse_is_refused(
    rate: float, steps: int, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    tuned = recipe(
        tiny_checkpoint, tiny_text, max_steps=steps, learning_rate=rate, schedule="constant", warmup_ratio=0.0
    )
    for _ in range(2):  # and again: nothing of the first run is taken for a good one
        with pytest.raises(
            SharpError, match=r"fine-tuning.* (worse: validation loss|not finite).* smaller finetune\.learning_rate"
        ):
            recovered(tuned, tmp_path)
        assert len(list((tmp_path / "work").glob("*/sharp.json"))) == 1  # the warm-up's


def run_by_torchrun(arguments: list[str], directory: Path) -> str:
    """What the command prints on two processes, started as a user does."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    run = [*torchrun, "-m", "sharp_mobile.cli", *arguments]
    done = subprocess.run(run, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_on_ranks(arguments: list[str], directory: Path) -> str:
    """What it prints on two processes that start with PyTorch imported."""
    return "".join(ended.stdout for ended in ranks(command, *arguments, directory=directory))


@pytest.mark.slow
@pytest.mark.parametrize(("inputs", "run"), [("sequential", run_on_ranks), ("original", run_by_torchrun)])
def test_the_command_on_two_processes_makes_the_checkpoint_of_one(
    inputs: str, run: Callable[[list[str], Path], str], tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    """Warm-up and fine-tuning under torchrun, the targets of original inputs spread over the ranks."""
    content = recipe(tiny_checkpoint, tiny_text, plan="2:3, 4:5", max_steps=3, save_every=2).model_dump()
    content["warmup"] |= {"inputs": inputs}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    states = []
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        arguments = ["recover", str(tmp_path / "mine.yaml"), "--quiet", "--out", str(directory / "out")]
        if name == "one":
            alone = Child(command, *arguments, directory=directory).ended()
            assert alone.status == 0, alone.stderr[-3000:]
            printed = alone.stdout
        else:
            printed = run(arguments, directory)
        assert len(printed.splitlines()) == 4  # one process speaks
        states.append(load_file(directory / "out" / "model.safetensors"))
    assert states[0].keys() == states[1].keys()
    assert max((states[0][name] - states[1][name]).abs().max().item() for name in states[0]) < 1e-4


@pytest.mark.slow
def test_quantization_aware_recovery_is_another_checkpoint(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    """Warmed up and tuned within the simulation, with the original teaching in float."""
    tuning = {"max_steps": 4, "distillation": 1.0}
    plain = recipe(tiny_checkpoint, tiny_text, **tuning)
    aware = plain.model_copy(update={"recovery": plain.recovery.model_copy(update={"quantization_aware": True})})
    kept = [recovered(one, tmp_path) for one in (plain, aware)]
    assert kept[0] != kept[1]
    models = [open_checkpoint(path).model for path in kept]
    gates = [shared_layers(model)[2].gate.A for model in models]
    assert not torch.allclose(gates[0], gates[1])
    for model in models:  # what is stored is the original's, not what was rounded
        assert torch.equal(
            model.model.layers[1].mlp.gate_proj.weight,
            open_checkpoint(tiny_checkpoint).model.model.layers[1].mlp.gate_proj.weight,
        )


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        (3.0, 3.2, False),
        (3.0, 5.2, False),
        (3.0, 5.4, True),
        (3.0, float("inf"), True),
        (3.0, float("nan"), True),
        (float("nan"), 3.0, True),
        (9.0, 3.0, False),
    ],
)
def test_ten_times_the_perplexity_is_much_worse(before: float, after: float, refused: bool, tmp_path: Path) -> None:
    losses = {"first_loss": 1.0, "last_loss": 1.0, "before": Loss(before, before), "after": Loss(after, after)}
    report = FinetuneReport(steps=1, tokens=1, **losses, seconds=1.0, peak_bytes=1, warnings=())
    run = tmp_path / "m.run"
    run.mkdir()
    with pytest.raises(SharpError, match="made the model worse") if refused else nullcontext():
        _check_progress(report, FinetuneSettings(), run)
    assert run.exists() != refused


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "sharp.json"])
def test_a_kept_checkpoint_that_is_damaged_is_recovered_again(
    name: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    for settings in (recipe(tiny_checkpoint, tiny_text), recipe(tiny_checkpoint, tiny_text, max_steps=2)):
        kept = recovered(settings, tmp_path)
        whole = {path.name: path.read_bytes() for path in kept.iterdir()}
        damaged = bytearray(whole[name])
        damaged[len(damaged) // 2] ^= 0x80
        (kept / name).write_bytes(damaged)
        with recorded() as report:
            assert recover(settings, None, work=tmp_path / "work") == kept
        assert f"{kept / name} is damaged (another SHA-256); recovering again" in report.warnings
        assert (kept / "model.safetensors").read_bytes() == whole["model.safetensors"]
        with recorded() as report:
            recover(settings, None, work=tmp_path / "work")
        assert f"using the recovered model in {kept}" in report.lines


def test_what_a_damaged_checkpoint_gave_is_not_taken_for_the_repaired_one(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    settings = recipe(tiny_checkpoint, tiny_text)
    weights = tiny_checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2 + 5] ^= 1  # the last bits of one number
    weights.write_bytes(damaged)
    first = recovered(settings, tmp_path)
    weights.write_bytes(whole)
    assert recovered(settings, tmp_path) != first
