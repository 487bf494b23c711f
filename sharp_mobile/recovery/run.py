"""The first half of the pipeline: from a recipe to a shared and recovered model.

checkpoint ─► plan (chosen, if it is auto) ─► warm-up ─► fine-tuning ─► SHARP checkpoint
"""

import hashlib
import json
import shutil
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from sharp_mobile import __version__
from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.random_weights import share_random
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.console import say, silence, warn
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import check_writable, copy_directory, replace_directory
from sharp_mobile.model.duration import spoken, warmup_seconds
from sharp_mobile.model.planned import PlannedModel, plan_model
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.plan_budget import is_auto
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.sharp_json import SHARP_JSON, SharpDescription, describe_recoveries
from sharp_mobile.recovery.exclusive_writer import exclusive_writer
from sharp_mobile.recovery.finetune.stage import fine_tune, processes
from sharp_mobile.recovery.plan_search.basis_ranks import chooses_ranks, resolve_ranks
from sharp_mobile.recovery.plan_search.stage import resolve
from sharp_mobile.recovery.warmup.run import warm_up
from sharp_mobile.system.timing import Stages
from sharp_mobile.text.windows import check_length, source_windows

RECOVERED = Path("build/recovered")


@dataclass(frozen=True, kw_only=True)
class OpenedModel(PlannedModel):
    """A recipe's checkpoint and how its layers share."""

    checkpoint: Checkpoint


def open_recipe(recipe: Recipe, *, mapped: bool = False, work: Path = RECOVERED) -> OpenedModel:
    """Open a recipe's checkpoint and parse its plan for it, or choose one if it is auto; ranks of bases alike.

    Args:
        mapped: leave the weights in their files, with the types they have there, if nothing is to be fitted.
        work: where a plan, or ranks, that were chosen are kept.

    Raises:
        SharpError: the checkpoint is broken, the plan does not fit it, or it is shared already by another plan.
    """
    for line in recipe.without_effect():
        warn(line)
    dtype = None if mapped else torch.float32
    checkpoint = open_checkpoint(recipe.model, dtype=dtype)
    recipe = recipe.fitted_to(checkpoint.architecture)
    explanation: list[str] = []
    if is_auto(recipe.plan):
        checkpoint.model.float()
        recipe, explanation = resolve(recipe, checkpoint, work)
    elif chooses_ranks(recipe) and checkpoint.plan is None and not checkpoint.random:
        checkpoint.model.float()
        recipe, explanation = resolve_ranks(recipe, checkpoint, work)
    planned = plan_model(recipe, checkpoint.description, tuple(explanation))
    opened = OpenedModel(**vars(planned), checkpoint=checkpoint)
    if opened.recovery and checkpoint.plan is None and not checkpoint.random:
        checkpoint.model.float()
    return opened


@dataclass(frozen=True)
class RecoveredModel:
    """A model that is ready to be lowered: shared and recovered, or plain where the plan is none.

    kept: where it lies as a checkpoint.
    """

    opened: OpenedModel
    checkpoint: Checkpoint
    warnings: tuple[str, ...]
    kept: Path


def share(opened: OpenedModel, *, work: Path, stages: Stages) -> RecoveredModel:
    """Share a model by its plan and recover what sharing lost.

    A recovered model is kept under `work` as a SHARP checkpoint, and taken from there the next time that the same
    checkpoint is recovered in the same way.

    Raises:
        SharpError: a text or tokenizer that is not there or does not suffice, or a model that cannot be fitted.
    """
    checkpoint = opened.checkpoint
    told = (*checkpoint.warnings, *opened.warnings)
    for warning in told:
        warn(warning)
    say(opened.describe())
    if checkpoint.random and opened.recovery:
        share_random(checkpoint.model, opened.plan, opened.recovery)
        checkpoint = replace(checkpoint, plan=opened.plan, recovery=opened.recovery)
    if not opened.recovery or checkpoint.plan is not None:
        return RecoveredModel(opened, checkpoint, told, checkpoint.path)
    kept = work / f"{checkpoint.name}-{_recovery_key(opened, opened.recipe.finetune)}"
    with exclusive_writer(kept) as missing:
        if missing:
            with stages.stage("recover"):
                recovered = _recover(opened, kept)
    if not missing:
        say(f"using the recovered model in {kept}")
        with stages.stage("open recovered"):
            recovered = open_checkpoint(kept, dtype=None)
    warnings = SharpDescription.read(kept / SHARP_JSON).warnings
    for warning in warnings:
        warn(warning)
    named = replace(recovered, name=checkpoint.name, source=checkpoint.source)
    return RecoveredModel(opened, named, (*told, *warnings), kept)


def _recovery_key(opened: OpenedModel, finetune: FinetuneSettings) -> str:
    """What a recovered model depends on, as a short name; `finetune` says how it is fine-tuned, if it is."""
    settings = [opened.checkpoint.fingerprint, str(opened.plan), describe_recoveries(opened.recovery)]
    settings += [opened.recipe.warmup.identity, __version__]
    if quantized := quantization_of(opened.recipe):
        settings += [quantized.nearest]
    if finetune.is_on:
        settings += [finetune.model_dump(exclude=set(finetune.FREE))]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _recover(opened: OpenedModel, kept: Path) -> Checkpoint:
    """Warm the model up, fine-tune it if its recipe says so, and keep the result as a SHARP checkpoint."""
    checkpoint, settings = opened.checkpoint, opened.recipe.finetune
    if not settings.is_on:
        _warm_up(opened, kept)
        return checkpoint
    warm = kept.with_name(f"{checkpoint.name}-{_recovery_key(opened, FinetuneSettings())}")

    def warm_up_once() -> None:
        with exclusive_writer(warm) as missing:
            if missing:
                _warm_up(opened, warm)

    return fine_tune(
        checkpoint,
        opened.plan,
        opened.recovery,
        warm_up_once,
        warm,
        kept,
        settings,
        quantized=quantization_of(opened.recipe),
    )


def _warm_up(opened: OpenedModel, kept: Path) -> None:
    """Warm the model up in place, and keep the result as a SHARP checkpoint; all processes together."""
    checkpoint, warmup = opened.checkpoint, opened.recipe.warmup
    tokenizer = checkpoint.tokenizer_for("recovery")
    check_length(warmup.window, checkpoint.config)
    windows = source_windows(tokenizer, warmup.text, warmup.window, warmup.windows)
    fits = kept.with_name(f"{kept.name}.fits")
    seconds = warmup_seconds(checkpoint.architecture, warmup, opened.recovery)
    say(f"warming up {len(opened.recovery)} layers: {spoken(seconds)} on this machine")
    group = processes()
    report = warm_up(
        checkpoint.model,
        opened.plan,
        opened.recovery,
        windows,
        settings=warmup,
        quantized=quantization_of(opened.recipe),
        checkpoint_dir=fits,
    )
    if group.is_main_process:
        save_sharp_checkpoint(
            checkpoint.model,
            opened.plan,
            kept,
            tokenizer_source=checkpoint,
            provenance={
                "source": checkpoint.source,
                "warmup": warmup.model_dump(),
                "quantization_aware": opened.recipe.recovery.quantization_aware,
            },
            report=asdict(report),
        )
        shutil.rmtree(fits, ignore_errors=True)
    group.wait_for_everyone()


def quantization_of(recipe: Recipe) -> QuantizeSettings | None:
    """What quantization-aware recovery simulates; None where recovery is to the float model."""
    return recipe.quantize if recipe.recovery.quantization_aware else None


def recover(recipe: Recipe, out: Path | None, *, work: Path = RECOVERED) -> Path:
    """Share and recover a recipe's model; returns the SHARP checkpoint's directory, `out` or one under `work`.

    Raises:
        SharpError: as `open_recipe` and `share`, or the plan shares nothing.
    """
    out = None if out is None else check_writable(out, sources=[recipe.model.path])
    group = processes()
    first = group.is_main_process
    with nullcontext() if first else silence():
        with group.main_process_first():  # who chooses a plan, keeps it for the others
            opened = open_recipe(recipe, work=work)
        if out is not None:
            check_writable(out, sources=[opened.checkpoint.path])
        if not opened.recovery:
            raise SharpError("plan none shares no layers, so there is nothing to recover; give --plan")
        kept = share(opened, work=work, stages=Stages()).kept
        if out is not None and first and out != kept.resolve():
            with replace_directory(out, sources=[kept]) as partial:
                copy_directory(kept, partial)
        say(f"SHARP checkpoint: {out or kept}")
    return out or kept
