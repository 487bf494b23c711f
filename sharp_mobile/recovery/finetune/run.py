"""Supervised fine-tuning of all recovery parameters together (paper, Stage 2), by transformers' Trainer.

    a step:   batch_size sequences = processes x accumulation x micro_batch
              loss (token_loss.py) ─ backward ─ mean over the processes ─ clip ─ Adam ─ schedule
    trained:  α, A, B ... of every target (and adapter); all other weights are frozen, get no gradients, and what lies
              before the first target gets no backward pass at all

The paper's settings are the defaults: next-token loss, learning rate 2e-5, 5% of the steps to warm it up. From a start
that was fitted in closed form, distillation at 1e-3 does better on SmolLM2-135M.

Under `torchrun` or `accelerate launch` the same code trains on several processes, with the same result (two_views.py
says what is wrapped, sequences.py in which order the data comes, shard.py how a model is split that is too large for
one device).
"""

import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainingArguments

from sharp_mobile import __version__
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import recovery_parameters, shared_layers
from sharp_mobile.recovery.finetune.batches import OrderedSequences, Rows, Sequences
from sharp_mobile.recovery.finetune.run_directory import RunDirectory
from sharp_mobile.recovery.finetune.shard import shard_frozen_weights
from sharp_mobile.recovery.finetune.teacher import LossModel, two_views
from sharp_mobile.recovery.finetune.trainer import RecoveryTrainer, digest_of

# Settings that may differ between a run and its resume: they change neither what is learnt nor in which order.
_FREE = ("micro_batch", "gradient_checkpointing", "shard", "log_every", "save_every", "keep")


@dataclass(frozen=True)
class FinetuneSettings:
    """How recovery parameters are fine-tuned; the defaults are the paper's (Section 3.1).

    Args:
        distillation: λ, the weight of KL(original ‖ shared) on the next-token distribution; 1 − λ is that of the
            next-token loss.
        warmup_ratio: the part of the steps in which the learning rate rises to `learning_rate`.
        schedule: how it falls afterwards.
        max_grad_norm: clip gradients to this norm; 0 does not clip.
        batch_size: sequences a step, over all processes.
        micro_batch: sequences a process computes at once.
        epochs: passes over the data; `max_steps` overrules it.
        precision: of the computation; the parameters stay as they are. `auto` is bfloat16 where the GPU, or the
            matrix unit of the CPU (AMX), has it.
        gradient_checkpointing: recompute activations in the backward pass, to save their memory.
        shard: split the frozen weights over the processes (FSDP), for models larger than one device.
        log_every, save_every, evaluate_every: in steps.
        keep: checkpoints that are kept.
        keep_best: end with the recovery parameters of the lowest validation loss, not with the last ones.

    Raises:
        SharpError: a value out of its range.
    """

    distillation: float = 0.0
    learning_rate: float = 2e-5
    warmup_ratio: float = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch_size: int = 8
    micro_batch: int = 1
    epochs: float = 1.0
    max_steps: int | None = None
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    shard: bool = False
    log_every: int = 10
    save_every: int = 100
    evaluate_every: int | None = None
    keep: int = 2
    keep_best: bool = False

    def __post_init__(self) -> None:
        ranges = {
            "distillation": (0.0 <= self.distillation <= 1.0, "between 0 and 1"),
            "learning_rate": (self.learning_rate > 0, "positive"),
            "warmup_ratio": (0.0 <= self.warmup_ratio < 1.0, "from 0 to below 1"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "max_grad_norm": (self.max_grad_norm >= 0, "0 or more"),
            "epochs": (self.max_steps is not None or self.epochs > 0, "positive"),
            "max_steps": (self.max_steps is None or self.max_steps > 0, "positive"),
            "evaluate_every": (self.evaluate_every is None or self.evaluate_every > 0, "positive"),
        }
        for name in ("batch_size", "micro_batch", "log_every", "save_every", "keep"):
            ranges[name] = (getattr(self, name) > 0, "positive")
        for name, (holds, expected) in ranges.items():
            if not holds:
                raise SharpError(f"finetune.{name}: must be {expected}, not {getattr(self, name)}")

    @property
    def identity(self) -> dict[str, Any]:
        """What a run depends on."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}

    def accumulation(self, processes: int) -> int:
        """Micro-batches that each of the processes computes for one step.

        Raises:
            SharpError: they do not divide the batch.
        """
        together = self.micro_batch * processes
        if self.batch_size % together:
            raise SharpError(
                f"finetune.batch_size: {self.batch_size} must be a multiple of micro_batch x processes = "
                f"{self.micro_batch} x {processes}; use {together * math.ceil(self.batch_size / together)}"
            )
        return self.batch_size // together

    def steps(self, rows: int) -> int:
        """Optimizer steps on `rows` sequences."""
        return self.max_steps or math.ceil(self.epochs * rows / self.batch_size)


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
    model: Any,
    originals: Mapping[int, nn.Module],
    data: Rows,
    settings: FinetuneSettings,
    run: str | Path,
    *,
    validation: Rows | None = None,
    float_view: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> FinetuneReport:
    """Train the recovery parameters of `model` in place; resume the run in the directory `run`, if there is one.

    When it fails or is interrupted, the recovery parameters are those of the last step, and `run` holds the last good
    checkpoint. With `settings.shard` the model is left split over the processes; take the recovery parameters from
    it by `recovery_parameters`.

    Args:
        model: a shared Hugging Face model, its recovery parameters warmed up; the same at every start of a run.
        originals: the MLPs that its targets had before, by layer, for distillation: see `target_mlps`.
        data: rows with `input_ids` and `labels` (-100: not scored), on every process the same.
        float_view: a context in which the original computes in distillation, where `model` is a simulation of its
            export; `quantize.fake_quantize.Simulation.suspended` is one.

    Raises:
        SharpError: nothing to train, data or settings that do not fit, a run that is another one's, or a loss that
            diverges.
    """
    started = time.monotonic()
    names = dict(recovery_parameters(model))
    references = {layer: mlp.reference_layer for layer, mlp in shared_layers(model).items()}
    _check(names, references, originals, settings)
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
    views = {**_own_mlps(model), **originals} if settings.distillation > 0 else {}
    with two_views(model, views) as both, _checkpointing(model, settings.gradient_checkpointing):
        loss_model = LossModel(model, both, settings.distillation, float_view)
        if settings.shard:
            shard_frozen_weights(loss_model, references, arguments.device)
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
    references: Mapping[int, int],
    originals: Mapping[int, nn.Module],
    settings: FinetuneSettings,
) -> None:
    if not names:
        raise SharpError("fine-tuning: the model has no recovery parameters to train; share it with a positive rank")
    missing = [
        target + 1 for target, reference in references.items() if target != reference and target not in originals
    ]
    if settings.distillation > 0 and missing:
        raise SharpError(
            f"finetune.distillation: needs the original MLPs, and those of layers {missing} are not there; start from "
            "the original checkpoint, or use distillation: 0"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        # Its wrapping goes layer by layer, and a target's layer would find its reference's weights freed.
        raise SharpError(
            "fine-tuning: accelerate's own FSDP does not know which layers share; launch plainly and use finetune.shard"
        )


def _identity(
    model: Any,
    names: Mapping[str, nn.Parameter],
    settings: FinetuneSettings,
    train: Sequences,
    held_out: Sequences | None,
) -> dict[str, Any]:
    """All that a run depends on."""
    frozen = {name: parameter for name, parameter in model.named_parameters() if name not in names}
    groups = {str(layer + 1): mlp.reference_layer + 1 for layer, mlp in shared_layers(model).items()}
    return {
        "version": __version__,
        "plan (target: reference)": groups,
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
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_amx_tile_supported()


def _own_mlps(model: nn.Module) -> dict[int, nn.Module]:
    """What an adapted layer was before: its own MLP without the adapter."""
    return {layer: mlp.base for layer, mlp in shared_layers(model).items() if mlp.base is not None}


@contextmanager
def _checkpointing(model: Any, wanted: bool) -> Iterator[None]:
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
