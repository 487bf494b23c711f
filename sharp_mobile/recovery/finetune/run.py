"""Supervised fine-tuning of all recovery parameters together (paper, Stage 2), by transformers' Trainer.

    a step:   batch_size sequences = processes x accumulation x micro_batch
              loss (token_loss.py) ─ backward ─ mean over the processes ─ clip ─ Adam ─ schedule
    trained:  α, A, B ... of every target (and adapter); all other weights are frozen, get no gradients, and what lies
              before the first target gets no backward pass at all

The paper's settings are the defaults: next-token loss, learning rate 2e-5, 5% of the steps to warm it up. From a start
that was fitted in closed form, distillation at 1e-3 does better on SmolLM2-135M.

Under `torchrun` or `accelerate launch` the same code trains on several processes, with the same result (teacher.py
says what is wrapped, sequences.py in which order the data comes, shard.py how a model is split that is too large for
one device).
"""

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from sharp_mobile import __version__
from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import LayerParts, decoder_layers
from sharp_mobile.model.share import layer_recoveries, recovery_parameters, shared_layers
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.recovery import attention_references
from sharp_mobile.recipe.sharp_json import describe_recoveries
from sharp_mobile.recovery.finetune.batches import OrderedSequences, Rows, Sequences
from sharp_mobile.recovery.finetune.run_directory import RunDirectory
from sharp_mobile.recovery.finetune.shard import shard_frozen_weights
from sharp_mobile.recovery.finetune.teacher import LossModel, two_views
from sharp_mobile.recovery.finetune.trainer import RecoveryTrainer, digest_of


@dataclass(frozen=True)
class Loss:
    """Means over validation tokens, in nats: training loss, and −log p of the next token (perplexity is exp of it)."""

    loss: float
    nll: float


@dataclass(frozen=True)
class FinetuneReport:
    """What a fine-tuning did.

    Args:
        steps, tokens: of the whole run, interruptions included.
        first_loss, last_loss: mean training loss of the first and last logged steps.
        before, after: on the validation data, if there is any.
        seconds: wall time of this process, since it was resumed.
        peak_bytes: the most memory that this process has had (of the GPU, if there is one).
        warnings: what the user should know, one sentence each.
    """

    steps: int
    tokens: int
    first_loss: float
    last_loss: float
    before: Loss | None
    after: Loss | None
    seconds: float
    peak_bytes: int
    warnings: tuple[str, ...]


def finetune(
    model: PreTrainedModel,
    originals: Mapping[int, LayerParts],
    data: Rows,
    settings: FinetuneSettings,
    run: str | Path,
    *,
    validation: Rows | None = None,
    float_view: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> FinetuneReport:
    """Train the recovery parameters of `model` in place; resume the run in the directory `run`, if there is one.

    When it fails or is interrupted, the recovery parameters are those of the last step, and `run` holds the last good
    checkpoint. With `settings.shard` the model is left split over the processes; take the recovery parameters from
    it by `recovery_parameters`.

    Args:
        model: a shared Hugging Face model, its recovery parameters warmed up; the same at every start of a run.
        originals: what layers had that share anything, for distillation: see `original_parts`.
        data: rows with `input_ids` and `labels` (-100: not scored), on every process the same.
        float_view: a context in which the original computes in distillation, where `model` is a simulation of its
            export; `quantize.fake_quantize.Simulation.suspended` is one.

    Raises:
        SharpError: nothing to train, data or settings that do not fit, a run that is another one's, or a loss that
            diverges.
    """
    started = time.monotonic()
    names = dict(recovery_parameters(model))
    pairs = _pairs(model)
    _check(names, _changed(model), originals, settings)
    home, longest = model.device, model.config.max_position_embeddings
    train = Sequences(data, longest, "training data")
    held_out = None if validation is None else Sequences(validation, longest, "validation data")
    identity = _identity(model, names, settings, train, held_out)
    steps = settings.steps(len(train.usable))
    ordered = OrderedSequences(train, train.order(steps * settings.batch_size, settings.seed))

    arguments = _training_arguments(Path(run), settings, evaluate=held_out is not None)
    directory = RunDirectory(run, settings.keep)
    with arguments.main_process_first():
        if arguments.should_save:
            directory.start(identity)
    checkpoint, warnings = directory.last_good()
    views = {**_adapted(model), **originals} if settings.distillation > 0 else {}
    with two_views(model, views) as both, _checkpointing(model, settings.gradient_checkpointing):
        loss_model = LossModel(model, both, settings.distillation, float_view)
        if settings.shard:
            shard_frozen_weights(loss_model, pairs, arguments.device)
        trainer = RecoveryTrainer(
            loss_model, arguments, ordered, held_out, names, directory, keep_best=settings.keep_best
        )
        if arguments.should_save:
            directory.discard_after(checkpoint)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if settings.keep_best:
            trainer.take_best()
        after = trainer.validation_loss()
        if not settings.shard:
            loss_model.to(home)
    model.eval()
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    before = next((Loss(entry["eval_loss"], entry["eval_nll"]) for entry in history if "eval_loss" in entry), None)
    return FinetuneReport(
        steps=steps,
        tokens=ordered.tokens,
        first_loss=losses[0],
        last_loss=losses[-1],
        before=before,
        after=None if after is None else Loss(*after),
        seconds=time.monotonic() - started,
        peak_bytes=_peak_bytes(),
        warnings=warnings,
    )


def _check(
    names: Mapping[str, nn.Parameter],
    changed: Iterable[int],
    originals: Mapping[int, LayerParts],
    settings: FinetuneSettings,
) -> None:
    if not settings.is_on:
        raise SharpError("finetune.epochs: is 0, which leaves nothing to train; set epochs or max_steps")
    if not names:
        raise SharpError("fine-tuning: the model has no recovery parameters to train; share it with a positive rank")
    missing = [layer + 1 for layer in changed if layer not in originals]
    if settings.distillation > 0 and missing:
        raise SharpError(
            f"finetune.distillation: needs what layers had before they shared, and that of layers {missing} is not "
            "there; start from the original checkpoint, or use distillation: 0"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        # Its wrapping goes layer by layer, and a target's layer would find its reference's weights freed.
        raise SharpError(
            "fine-tuning: accelerate's own FSDP does not know which layers share; launch plainly and use finetune.shard"
        )


def _identity(
    model: PreTrainedModel,
    names: Mapping[str, nn.Parameter],
    settings: FinetuneSettings,
    train: Sequences,
    held_out: Sequences | None,
) -> dict[str, object]:
    """All that a run depends on."""
    frozen = {name: parameter for name, parameter in model.named_parameters() if name not in names}
    groups = {str(layer + 1): mlp.reference_layer + 1 for layer, mlp in shared_layers(model).items()}
    recovery = {layer: own for layer, own in layer_recoveries(model).items() if own.beyond_mlp}
    return {
        "version": __version__,
        "plan (target: reference)": groups,
        **({"attention and bases": describe_recoveries(recovery)} if recovery else {}),
        "recovery parameters": sum(parameter.numel() for parameter in names.values()),
        "their start": digest_of(names),
        "model": digest_of(frozen, sample=4096),
        "training data": train.digest,
        "validation data": None if held_out is None else held_out.digest,
        **{f"finetune.{name}": value for name, value in settings.identity.items()},
    }


def _training_arguments(run: Path, settings: FinetuneSettings, *, evaluate: bool) -> TrainingArguments:
    """Trainer's own settings; this also sets up the group of processes."""
    bfloat16 = settings.precision == "bfloat16" or (settings.precision == "auto" and _has_bfloat16())
    arguments = TrainingArguments(
        output_dir=str(run),
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=settings.warmup_ratio,  # below 1: a part of all steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        per_device_train_batch_size=settings.micro_batch,
        num_train_epochs=1,  # the data is that of the whole run
        seed=settings.seed,
        bf16=bfloat16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=settings.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=settings.save_every,
        eval_strategy="steps" if evaluate and settings.evaluate_every else "no",
        eval_steps=settings.evaluate_every,
        eval_on_start=evaluate,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
    )
    arguments.gradient_accumulation_steps = settings.accumulation(arguments.world_size)
    return arguments


def _has_bfloat16() -> bool:
    """Whether bfloat16 is faster here: 2.4 times on two cores with AMX, where float32 is faster on those without."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported())


def _pairs(model: nn.Module) -> list[tuple[int, int]]:
    """Layers that share weights, or keys and values, two by two."""
    recovery = layer_recoveries(model)
    pairs = [(layer, mlp.reference_layer) for layer, mlp in shared_layers(model).items()]
    pairs += attention_references(recovery).items()
    return [*pairs, *((layer, own.basis.first) for layer, own in recovery.items() if own.basis)]


def _changed(model: nn.Module) -> list[int]:
    """The layers that lack something they had, ascending."""
    recovery = layer_recoveries(model)
    targets = {layer for layer, mlp in shared_layers(model).items() if mlp.base is None}
    return sorted(targets | {layer for layer, own in recovery.items() if own.beyond_mlp})


def _adapted(model: nn.Module) -> dict[int, LayerParts]:
    """What an adapted layer was before: with its own MLP without the adapter."""
    layers = decoder_layers(model)
    return {
        layer: LayerParts(layers[layer].self_attn, mlp.base)
        for layer, mlp in shared_layers(model).items()
        if mlp.base is not None
    }


@contextmanager
def _checkpointing(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing within the block."""
    if wanted:
        model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        if wanted:
            model.activation_checkpointing_disable()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
