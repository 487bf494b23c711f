"""A tiny warm-up, for tests in this process and in children that are killed, limited or are several."""

import os
import resource
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_model, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.model.share import recovery_parameters
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.run import WarmupReport, warm_up

PLAN = SharePlan.parse("2:3, 4:5", 6)
ADAM: dict[str, Any] = {"adam_epochs": 2, "adam_lr": 1e-2, "adam_batch": 64}
WINDOWS = tiny_tokens(24, batch=20)
RECOVERY = Recovery("lora", 4)


def warmed(settings: WarmupSettings, recovery: Recovery = RECOVERY, **options: Path) -> PreTrainedModel:
    model = tiny_model()
    warm_up(model, PLAN, recovery, WINDOWS, settings=settings, **options)
    return model


def report(settings: WarmupSettings, recovery: Recovery = RECOVERY, **options: Path) -> WarmupReport:
    return warm_up(tiny_model(), PLAN, recovery, WINDOWS, settings=settings, **options)


def broken_model() -> PreTrainedModel:
    """Layer 5's MLP is not finite; layer 3 is well."""
    model = tiny_model()
    with torch.no_grad():
        decoder_layers(model)[4].mlp.up_proj.weight[3, 3] = float("inf")
    return model


# What children do


def resume_in(directory: Path, settings: WarmupSettings) -> None:
    """Warm up, with finished layers kept in a directory."""
    warmed(settings, checkpoint_dir=directory)


def save_rank(directory: Path, settings: WarmupSettings) -> None:
    """Warm up as one of several ranks, and write this rank's parameters and fits."""
    model = tiny_model()
    found = warm_up(model, PLAN, RECOVERY, WINDOWS, settings=settings)
    state = {name: parameter.detach() for name, parameter in recovery_parameters(model)}
    torch.save((state, found.targets), directory / f"rank-{os.environ['RANK']}.pt")


def save_failing_rank(directory: Path, settings: WarmupSettings) -> None:
    """Warm up a broken model as one of several ranks, and write the error."""
    try:
        warm_up(broken_model(), PLAN, RECOVERY, WINDOWS, settings=settings)
    except SharpError as error:
        (directory / f"rank-{os.environ['RANK']}.txt").write_text(str(error))


def warm_up_within(limit: int, short: int, long: int, directory: Path, settings: WarmupSettings) -> None:
    """Warm up on so many short windows, then on so many more with `limit` bytes of memory beyond that."""

    def run(count: int) -> None:
        model = tiny_model(hidden_size=64)
        warm_up(model, PLAN, RECOVERY, tiny_tokens(64, batch=count), settings=settings, workdir=directory)

    run(short)
    status = Path("/proc/self/status").read_text()
    used = int(status.split("VmData:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, resource.RLIM_INFINITY))
    run(long)
