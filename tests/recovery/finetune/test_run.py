import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_finetune import SETTINGS, shared_model, tiny_finetune, tiny_rows, trained
from tiny_models import tiny_tokens

from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import recovery_parameters
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recovery.finetune import trainer
from sharp_mobile.recovery.finetune.run import finetune
from sharp_mobile.recovery.finetune.run_directory import RunDirectory

pytestmark = pytest.mark.slow


def run_with(run: Path, **settings: Any) -> dict[str, torch.Tensor]:
    return trained(tiny_finetune(run, **settings)[0])


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-5


# What trains


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma2"])
@pytest.mark.parametrize("adapters", [0, 3])
def test_only_recovery_parameters_move(tmp_path: Path, model_type: str, adapters: int) -> None:
    model, originals = shared_model(model_type, adapters=adapters)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = [parameter.clone() for parts in originals.values() for parameter in parts.mlp.parameters()]
    # The first step warms the rate up from 0, and while B is 0, A does not move.
    settings = FinetuneSettings(**{**SETTINGS, "max_steps": 3, "batch_size": 2})
    finetune(model, originals, tiny_rows(), settings, tmp_path / "run")
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, _ in recovery_parameters(model)}
    assert before.keys() == model.state_dict().keys()
    after = [parameter for parts in originals.values() for parameter in parts.mlp.parameters()]
    assert all(torch.equal(now, then) for now, then in zip(after, kept, strict=True))
    assert not model.training


@pytest.mark.parametrize("distillation", [0.0, 1.0])
def test_the_loss_falls_and_the_report_says_how_far(tmp_path: Path, distillation: float) -> None:
    model, report = tiny_finetune(
        tmp_path / "run", distillation=distillation, validation=True, max_steps=20, learning_rate=1e-2, log_every=5
    )
    assert report.last_loss < report.first_loss
    assert (report.steps, report.tokens) == (20, 20 * 4 * 24)
    rows = tiny_rows(5, seed=2)
    nll = sum(
        torch.nn.functional.cross_entropy(
            model(row["input_ids"][None]).logits[0, :-1], row["labels"][1:], reduction="sum"
        ).item()
        for row in rows
    )
    assert report.after is not None
    assert report.after.nll == pytest.approx(nll / sum((row["labels"][1:] >= 0).sum().item() for row in rows))
    assert report.before is not None
    if distillation:
        assert report.after.loss < report.before.loss
        assert 0 < report.before.loss < report.before.nll
    else:
        assert report.after.loss == report.after.nll
    assert report.peak_bytes > 1e6


def test_bfloat16_learns_the_same_and_leaves_parameters_in_float32(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 20, "learning_rate": 1e-2, "validation": True}
    _, exact = tiny_finetune(tmp_path / "a", **settings)
    model, report = tiny_finetune(tmp_path / "b", precision="bfloat16", **settings)
    assert all(parameter.dtype == torch.float32 for _, parameter in recovery_parameters(model))
    assert exact.before is not None
    assert exact.after is not None
    assert report.after is not None
    assert exact.after.loss < exact.before.loss
    assert report.after.loss == pytest.approx(exact.after.loss, rel=0.1)
    assert report.after.loss != exact.after.loss


def test_how_a_step_is_cut_up_does_not_change_it(tmp_path: Path) -> None:
    one_by_one = run_with(tmp_path / "a", max_steps=3)
    assert_close(one_by_one, run_with(tmp_path / "b", max_steps=3, micro_batch=4))
    assert_close(one_by_one, run_with(tmp_path / "c", max_steps=3, gradient_checkpointing=True))


def test_sequences_of_unequal_length_are_as_good_alone_as_padded(tmp_path: Path) -> None:
    cut = [tokens[: 9 + index] for index, tokens in enumerate(tiny_tokens(24, batch=8))]
    rows = [{"input_ids": tokens, "labels": tokens} for tokens in cut]
    ends = []
    for micro_batch in (1, 4):
        model, originals = shared_model()
        settings = FinetuneSettings(**{**SETTINGS, "max_steps": 3, "micro_batch": micro_batch})
        finetune(model, originals, rows, settings, tmp_path / str(micro_batch))
        ends.append(trained(model))
    assert_close(*ends)


def test_the_best_parameters_are_kept_where_training_makes_it_worse(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 4, "learning_rate": 0.5, "evaluate_every": 4}
    _, report = tiny_finetune(tmp_path / "a", validation=True, **settings)
    assert report.before is not None
    assert report.after is not None
    assert report.after.loss > report.before.loss
    best, report = tiny_finetune(tmp_path / "b", validation=True, keep_best=True, **settings)
    assert report.after == report.before
    assert_same(trained(best), trained(shared_model()[0]))


# Checkpoints and resume


def test_a_checkpoint_holds_recovery_parameters_only_and_two_are_kept(tmp_path: Path) -> None:
    end = run_with(tmp_path / "run")
    checkpoints = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-4", "checkpoint-6"]
    assert_same(load_file(tmp_path / "run" / "checkpoint-6" / "model.safetensors"), end)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*checkpoints, "run.json", "log.jsonl"}
    trained_bytes = sum(tensor.numel() * 4 for tensor in end.values())
    stored = sum(file.stat().st_size for file in (tmp_path / "run" / "checkpoint-6").iterdir())
    assert stored < 3 * trained_bytes + 100_000  # with both of Adam's moments


def remove_last(run: Path) -> None:
    for file in (run / "checkpoint-6").iterdir():
        file.unlink()
    (run / "checkpoint-6").rmdir()


def truncate_last(run: Path) -> None:
    optimizer = run / "checkpoint-6" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])


def leave_it(run: Path) -> None:
    pass


@pytest.mark.parametrize("happened", [remove_last, truncate_last, leave_it])
def test_a_run_goes_on_from_its_last_good_checkpoint(tmp_path: Path, happened: Callable[[Path], None]) -> None:
    end = run_with(tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    happened(tmp_path / "run")
    model, report = tiny_finetune(tmp_path / "run")
    assert_same(trained(model), end)
    assert len(report.warnings) == (happened is truncate_last)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps[:4] == [json.loads(line)["step"] for line in log][:4] == [1, 2, 4, 6]
    assert (tmp_path / "run" / "checkpoint-6").is_dir()


def test_settings_that_change_nothing_may_change_in_between(tmp_path: Path) -> None:
    end = run_with(tmp_path / "run")
    remove_last(tmp_path / "run")
    resumed = run_with(tmp_path / "run", micro_batch=2, gradient_checkpointing=True, save_every=5, keep=1)
    assert_close(resumed, end)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-3}, "finetune.learning_rate was 0.003, now 0.001"),
        ({"seed": 1}, "finetune.seed was 0, now 1"),
        ({"adapters": 2}, "recovery parameters was"),
        ({"validation": True}, "validation data was None"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    tiny_finetune(tmp_path / "run", max_steps=2)
    with pytest.raises(SharpError, match=named):
        tiny_finetune(tmp_path / "run", **{"max_steps": 2, **change})


@pytest.mark.parametrize(
    ("change", "named"),
    [({"plan": "2:3-4"}, "plan"), ({"plan": "2:3"}, "plan"), ({"rank": 5}, "recovery parameters was")],
)
def test_another_plan_or_rank_is_not_resumed(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    tiny_finetune(tmp_path / "run", max_steps=2)
    model, originals = shared_model(**change)
    settings = FinetuneSettings(**{**SETTINGS, "max_steps": 2})
    with pytest.raises(SharpError, match=named):
        finetune(model, originals, tiny_rows(), settings, tmp_path / "run")


# What goes wrong


def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path: Path) -> None:
    model, originals = shared_model()
    with torch.no_grad():
        next(parameter for _, parameter in recovery_parameters(model)).fill_(math.nan)
    with pytest.raises(SharpError, match=r"step 1: the loss or gradient is not finite.*no checkpoint.*learning_rate"):
        finetune(model, originals, tiny_rows(), FinetuneSettings(**SETTINGS), tmp_path / "run")


def test_a_loss_that_runs_away_ends_the_run_and_leaves_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "RUNAWAY", 0.1)  # a tiny random model starts near a uniform guess already
    with pytest.raises(SharpError, match=r"the loss rose from .* last good checkpoint is .*checkpoint-\d") as error:
        tiny_finetune(tmp_path / "run", learning_rate=30.0, max_steps=40, save_every=1)
    good = Path(str(error.value).split("checkpoint is ")[1].split(". Try")[0])
    assert all(tensor.isfinite().all() for tensor in load_file(good / "model.safetensors").values())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"epochs": 0.0, "max_steps": None}, "finetune.epochs: is 0, which leaves nothing to train"),
        ({"shard": True}, "one process only"),
    ],
)
def test_settings_that_cannot_train_are_refused(tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SharpError, match=complaint):
        tiny_finetune(tmp_path / "run", **settings)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: Any, originals: Any, rows: Any, complaint: str) -> None:
        with pytest.raises(SharpError, match=complaint):
            finetune(model, originals, rows, FinetuneSettings(**SETTINGS), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    model, originals = shared_model()
    refused(model, originals, tiny_rows(3, length=129), "row 1: its 129 tokens are more than the model's 128")
    refused(model, {}, tiny_rows(), r"that of layers \[3, 5\] is not there")
    refused(shared_model(rank=0)[0], originals, tiny_rows(), "no recovery parameters")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refused(model, originals, tiny_rows(), "finetune.shard")


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = RunDirectory.seal

    def full_at_step_4(run: RunDirectory, step: int) -> None:
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        seal(run, step)

    monkeypatch.setattr(RunDirectory, "seal", full_at_step_4)
    with pytest.raises(SharpError, match=r"step 4 cannot be written.*No space left"):
        tiny_finetune(tmp_path / "run")
    monkeypatch.undo()
    assert_same(run_with(tmp_path / "run"), run_with(tmp_path / "whole"))
