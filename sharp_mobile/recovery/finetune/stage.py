"""Stage 2 between two SHARP checkpoints: the warmed-up one, and the fine-tuned one.

    original model ── warm-up ──► build/recovered/m-1a2b  ── fine-tuning ──►  build/recovered/m-3c4d
                                      also without Stage 2                         beside it, while it runs: m-3c4d.run

Under `torchrun` all processes warm up and fine-tune, and the first one writes.
"""

import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import safe_open

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.checkpoint.weight_files import WEIGHTS
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError
from sharp_mobile.model.duration import finetune_seconds, spoken
from sharp_mobile.model.share import layer_recoveries, recovery_parameters, share_layers
from sharp_mobile.model.shared_attention import refitted_linears
from sharp_mobile.quantize.fake_quantize import simulated
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recoveries
from sharp_mobile.recipe.sharp_json import SHARP_JSON, SharpDescription
from sharp_mobile.recovery.finetune.batches import Rows, rows_of_windows
from sharp_mobile.recovery.finetune.run import FinetuneReport, finetune
from sharp_mobile.recovery.finetune.teacher import original_parts
from sharp_mobile.text.sequences import prepare_data
from sharp_mobile.text.windows import check_length, source_windows

_MUCH_WORSE = 10  # times the perplexity that the model began with
_PATIENCE = timedelta(days=7)  # for the first process's warm-up


def processes() -> PartialState:
    """The processes that `torchrun` or `accelerate launch` has started, or this one alone."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def fine_tune(
    checkpoint: Checkpoint,
    plan: SharePlan,
    recovery: Recoveries,
    warm_up: Callable[[], None],
    warm: Path,
    kept: Path,
    settings: FinetuneSettings,
    *,
    quantized: QuantizeSettings | None,
) -> Checkpoint:
    """Fine-tune a model that is warmed up, or is now; keep the result as a SHARP checkpoint.

    Args:
        checkpoint: the original model; changed in place.
        warm_up: warms `checkpoint.model` up in place and keeps it at `warm`, unless it is there; all processes call
            it.
        warm: the SHARP checkpoint of the warmed-up model.
        kept: the SHARP checkpoint to be written.
        quantized: tune the model as it will be exported with these settings, not the float one.

    Returns:
        The fine-tuned model.

    Raises:
        SharpError: as `finetune`, a text or tokenizer that does not suffice, or a model that got much worse.
    """
    group = processes()
    settings.accumulation(group.num_processes)
    data, validation = _data(checkpoint, settings, kept.parent.parent / "data")
    steps = settings.steps(len(data))
    seconds = finetune_seconds(checkpoint.architecture, settings, steps)
    say(f"fine-tuning afterwards: {steps:,} steps, {spoken(seconds)} on this machine")
    originals = original_parts(checkpoint.model, plan, recovery)
    warm_up()
    group.wait_for_everyone()
    if not layer_recoveries(checkpoint.model):
        share_layers(checkpoint.model, plan, recovery)
    _load_recovery(checkpoint, warm)
    run = kept.with_name(f"{kept.name}.run")
    with ExitStack() as stack:
        float_view: Callable[[], AbstractContextManager[None]] = nullcontext
        if quantized:
            float_view = stack.enter_context(simulated(checkpoint.model, quantized)).suspended
        report = finetune(
            checkpoint.model, originals, data, settings, run, validation=validation, float_view=float_view
        )
    _check_progress(report, settings, run)
    if group.is_main_process:
        _keep(checkpoint, plan, warm, kept, settings, report)
        shutil.rmtree(run, ignore_errors=True)
    group.wait_for_everyone()
    return open_checkpoint(kept) if settings.shard else checkpoint


def _check_progress(report: FinetuneReport, settings: FinetuneSettings, run: Path) -> None:
    """Refuse a model whose perplexity is ten times what it was, or no number."""
    if report.before is None or report.after is None:
        return
    before, after = report.before.nll, report.after.nll
    if not after < before + math.log(_MUCH_WORSE):
        if processes().is_main_process:
            shutil.rmtree(run, ignore_errors=True)  # its last checkpoint is that model
        raise SharpError(
            f"fine-tuning made the model worse: validation loss {before:.3g} nats a token before, {after:.3g} after; "
            f"nothing was written; use a smaller finetune.learning_rate (now {settings.learning_rate:g})"
        )


def _data(checkpoint: Checkpoint, settings: FinetuneSettings, work: Path) -> tuple[Rows, Rows]:
    """What is trained on, and what is watched: the recipe's, or the hundredth that the paper holds out."""
    check_length(settings.length, checkpoint.config)
    tokenizer = checkpoint.tokenizer_for("fine-tuning")
    with processes().main_process_first():
        data = prepare_data(tokenizer, settings.train_text, settings.length, work=work)
    if settings.validation_text is None:
        return data.train, data.validation
    held_out = source_windows(tokenizer, settings.validation_text, settings.length, settings.validation_windows)
    return data.train, rows_of_windows(held_out)


@torch.no_grad()
def _load_recovery(checkpoint: Checkpoint, warm: Path) -> None:
    """What was fitted of a SHARP checkpoint of the same model, plan and ranks."""
    fitted: dict[str, torch.Tensor] = dict(recovery_parameters(checkpoint.model))
    for prefix, module in checkpoint.model.named_modules():
        fitted |= {f"{prefix}.{name}.weight": linear.weight for name, linear in refitted_linears(module)}
    with safe_open(warm / WEIGHTS, "pt") as file:
        for name, parameter in fitted.items():
            parameter.copy_(file.get_tensor(name))


def _keep(
    checkpoint: Checkpoint,
    plan: SharePlan,
    warm: Path,
    kept: Path,
    settings: FinetuneSettings,
    report: FinetuneReport,
) -> None:
    model = checkpoint.model
    if settings.shard:  # this process has a part of the frozen weights only
        whole = open_checkpoint(warm).model
        tuned = {name: parameter.detach().cpu() for name, parameter in recovery_parameters(model)}
        whole.load_state_dict(tuned, strict=False)
        model = whole
    before = SharpDescription.read(warm / SHARP_JSON)
    warnings = [*before.warnings, *report.warnings]
    save_sharp_checkpoint(
        model,
        plan,
        kept,
        tokenizer_source=checkpoint,
        provenance={**before.produced_by, "finetune": settings.model_dump()},
        report={**before.report, "finetune": asdict(report), "warnings": warnings},
    )
