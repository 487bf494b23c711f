"""Fine-tuning in other processes: two that work together, and ones that are killed."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from children import Child, ranks
from safetensors.torch import load_file
from tiny_finetune import save_tiny_finetune, tiny_finetune, trained

from sharp_mobile.recovery.finetune.shard import layer_groups


def together(run: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """The tiny fine-tuning on two gloo processes."""
    out = run.with_suffix(".safetensors")
    ranks(save_tiny_finetune, run, out, settings)
    return load_file(out)


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"shard": True}, {"shard": True, "gradient_checkpointing": True, "adapters": 2, "micro_batch": 2}]
)
def test_two_processes_equal_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    alone, report = tiny_finetune(
        tmp_path / "one", validation=True, evaluate_every=3, adapters=settings.get("adapters", 0)
    )
    ends = together(tmp_path / "two", validation=True, evaluate_every=3, **settings)
    assert difference(trained(alone), ends) < 1e-5

    def losses(run: str) -> list[float]:
        entries = [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        return [entry[name] for entry in entries for name in ("loss", "eval_loss", "eval_nll") if name in entry]

    assert losses("one") == pytest.approx(losses("two"), rel=1e-4)
    assert report.before is not None


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_as_one(tmp_path: Path) -> None:
    end = together(tmp_path / "run", shard=True)
    for file in (tmp_path / "run" / "checkpoint-6").iterdir():
        file.unlink()
    alone, report = tiny_finetune(tmp_path / "run")
    assert difference(trained(alone), end) < 1e-5
    assert "checkpoint-6 is damaged" in report.warnings[0]


def test_a_reference_is_gathered_together_with_its_targets() -> None:
    # 2:3, 4:5-6 and, after them, a layer with an adapter, which refers to itself
    assert layer_groups(8, [(2, 1), (4, 3), (5, 3), (7, 7)]) == [[0], [1, 2], [3, 4, 5], [6], [7]]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    settings = {"max_steps": 60, "save_every": 1, "log_every": 1}  # half of the time goes into checkpoints
    end = trained(tiny_finetune(tmp_path / "whole", **settings)[0])
    run, out, moment = tmp_path / "killed", tmp_path / "end.safetensors", random.Random(0)

    def steps_logged() -> int:
        log = run / "log.jsonl"
        return len(log.read_text().splitlines()) if log.is_file() else 0

    kills = 0
    for _ in range(4):
        before = steps_logged()
        child = Child(save_tiny_finetune, run, out, settings)
        while child.running and steps_logged() <= before + 2:
            time.sleep(0.005)
        time.sleep(moment.uniform(0, 0.3))
        child.send(signal.SIGKILL)
        kills += child.ended().status == -signal.SIGKILL
    assert kills >= 2
    assert Child(save_tiny_finetune, run, out, settings).ended().status == 0
    assert difference(load_file(out), end) == 0
