"""`finetune`: how recovery parameters are trained together after the warm-up (paper, Stage 2)."""

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.section import Flag, Float, Section

_LARGEST_SEED = 2**32 - 1  # NumPy's, which Trainer seeds, too


class FinetuneSettings(Section):
    """How recovery parameters are fine-tuned, off unless `epochs` or `max_steps` says how long; the other defaults are
    the paper's (Section 3.1).

    Args:
        epochs: passes over the data.
        max_steps: optimizer steps, whatever `epochs` says; 0 trains nothing.
        distillation: λ, the weight of KL(original ‖ shared) on the next-token distribution; 1 − λ is that of the
            next-token loss.
        warmup_ratio: the part of the steps in which the learning rate rises to `learning_rate`.
        schedule: how it falls afterwards.
        max_grad_norm: clip gradients to this norm; 0 does not clip.
        batch_size: sequences a step, over all processes.
        micro_batch: sequences that a process computes at once.
        precision: of the computation; the parameters stay as they are. `auto` is bfloat16 where the GPU, or the
            matrix unit of the CPU (AMX), has it.
        gradient_checkpointing: recompute activations in the backward pass, to save their memory.
        shard: split the frozen weights over the processes (FSDP), for models larger than one device.
        log_every, save_every, evaluate_every: in steps.
        keep: checkpoints that are kept.
        keep_best: end with the recovery parameters of the lowest validation loss, not with the last ones.
        train_text, length: training text (see `text.sources`), in sequences of so many tokens.
        validation_text, validation_windows: what the loss is watched on, so many windows of it; without a text the
            hundredth of the training text that the paper holds out.
    """

    DATA: ClassVar = frozenset({"train_text", "length", "validation_text", "validation_windows"})
    # They may differ between a run and its resume: they change neither what is learnt nor in which order.
    FREE: ClassVar = frozenset({"micro_batch", "gradient_checkpointing", "shard", "log_every", "save_every", "keep"})

    epochs: Float = Field(default=0.0, ge=0)
    max_steps: int | None = Field(default=None, ge=0)
    distillation: Float = Field(default=0.0, ge=0, le=1)
    learning_rate: Float = Field(default=2e-5, gt=0)
    warmup_ratio: Float = Field(default=0.05, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: Float = Field(default=0.0, ge=0)
    max_grad_norm: Float = Field(default=1.0, ge=0)
    batch_size: int = Field(default=8, ge=1)
    micro_batch: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, le=_LARGEST_SEED)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: Flag = False
    shard: Flag = False
    log_every: int = Field(default=10, ge=1)
    save_every: int = Field(default=100, ge=1)
    evaluate_every: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=1)
    keep_best: Flag = False
    train_text: str = "sotu:1950-2004"
    length: int = Field(default=2048, ge=2)
    validation_text: str | None = None
    validation_windows: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _fit_together(self) -> "FinetuneSettings":
        if self.batch_size % self.micro_batch:
            raise ValueError(self._indivisible(1))
        if self.keep_best and self.evaluate_every is None:
            raise ValueError("keep_best compares evaluations; set evaluate_every, or leave keep_best out")
        if self.keep_best and self.max_steps and self.evaluate_every and self.evaluate_every > self.max_steps:
            raise ValueError(
                f"keep_best compares evaluations, and there is none in {self.max_steps} steps; use evaluate_every: "
                f"{self.max_steps} or less"
            )
        return self

    @property
    def is_on(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.epochs if self.max_steps is None else self.max_steps)

    @property
    def identity(self) -> dict[str, object]:
        """What a run depends on, next to its data."""
        return self.model_dump(exclude={*self.FREE, *self.DATA})

    def accumulation(self, processes: int) -> int:
        """Micro-batches that each of the processes computes for one step.

        Raises:
            SharpError: they do not divide the batch.
        """
        together = self.micro_batch * processes
        if self.batch_size % together:
            raise SharpError(f"finetune.{self._indivisible(processes)}")
        return self.batch_size // together

    def _indivisible(self, processes: int) -> str:
        together = self.micro_batch * processes
        return (
            f"batch_size: {self.batch_size} must be a multiple of micro_batch x processes = "
            f"{self.micro_batch} x {processes}; use {together * math.ceil(self.batch_size / together)}"
        )

    def steps(self, rows: int) -> int:
        """Optimizer steps on `rows` sequences."""
        return math.ceil(self.epochs * rows / self.batch_size) if self.max_steps is None else self.max_steps
