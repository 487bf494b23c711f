"""transformers' Trainer, taught to keep recovery parameters alone and never to lose a run.

What differs from a plain Trainer: a checkpoint holds the trained parameters, not the model, and is sealed when it is
whole; the data comes in the order that it has; a loss that is not finite or runs away ends the run before it does harm;
the validation loss is exact over all processes; one progress bar and one log file.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import SequentialSampler
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sharp_mobile.console import progress_bar
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import replace_file
from sharp_mobile.recovery.finetune.batches import OrderedSequences, Sequences, collate
from sharp_mobile.recovery.finetune.run_directory import LOG, RunDirectory
from sharp_mobile.recovery.finetune.teacher import LossModel
from sharp_mobile.text.conversation import IGNORED

RECOVERY = "model.safetensors"  # the name that Trainer gives
BEST = "best.safetensors"
# Nats above the first logged loss. Noise between windows is below one, and a uniform guess over 49152 tokens is 10.8.
RUNAWAY = 3.0


class RecoveryTrainer(Trainer):
    """Trains `names`, the recovery parameters of a model by name; see the module.

    Raises:
        SharpError: from `train`, when the loss diverges.
    """

    def __init__(
        self,
        model: LossModel,
        arguments: TrainingArguments,
        data: OrderedSequences,
        validation: Sequences | None,
        names: Mapping[str, nn.Parameter],
        run: RunDirectory,
        *,
        keep_best: bool,
    ) -> None:
        # Trainer asks for evaluation data where it is to evaluate; how that is done is said below.
        self.loss_model, self.data = model, data
        super().__init__(model, arguments, collate, data, eval_dataset=validation)
        self.names, self.run, self.validation, self.keep_best = names, run, validation, keep_best
        self.remove_callback(PrinterCallback)
        self.add_callback(_Log(run.path / LOG))
        self.add_callback(_Progress())
        self.add_callback(_Runaway(run))

    def _get_train_sampler(self, train_dataset: object = None) -> SequentialSampler:
        return SequentialSampler(self.data)

    # Checkpoints: Trainer writes run/partial/checkpoint-<step>, which becomes run/checkpoint-<step> when it is whole.

    def _get_output_dir(self, trial: object) -> str:
        return str(self.run.partial)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.run.seal(self.state.global_step)
        except (OSError, RuntimeError, SafetensorError) as error:  # PyTorch says RuntimeError where the disk is full
            raise SharpError(
                f"{self.run.path}: the checkpoint of step {self.state.global_step} cannot be written: "
                f"{str(error).splitlines()[0]}; make room and start again, to go on from the checkpoint before"
            ) from error
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the recovery parameters, and nothing else."""
        if self.args.should_save:
            directory = Path(output_dir or self.args.output_dir or ".")
            directory.mkdir(parents=True, exist_ok=True)
            self._write(directory / RECOVERY)

    def _write(self, path: Path, metadata: dict[str, str] | None = None) -> None:
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in self.names.items()}
        partial = path.with_name(f"{path.name}.partial")
        save_file(tensors, partial, metadata)
        partial.replace(path)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._load(Path(resume_from_checkpoint, RECOVERY))

    @torch.no_grad()
    def _load(self, path: Path) -> None:
        for name, tensor in load_file(path).items():
            self.names[name].copy_(tensor)

    # Validation

    def validation_loss(self) -> tuple[float, float] | None:
        """Mean training loss and next-token loss over the validation data, or None without any."""
        if self.validation is None:
            return None
        rank, processes = self.args.process_index, self.args.world_size
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        self.loss_model.eval()
        for first in range(0, len(self.validation.usable), processes):
            mine = self.validation.usable[first : first + processes][rank : rank + 1]
            tokens, labels = self.validation[mine[0] if mine else self.validation.usable[0]]
            if not mine:  # a forward pass without a scored token, because FSDP needs every process in every one
                labels = torch.full_like(labels, IGNORED)
            with torch.no_grad():
                result = self.loss_model(tokens[None].to(sums.device), labels[None].to(sums.device), sums=True)
            sums += torch.stack([result["loss"], result["nll"], result["tokens"]]).double()
        loss, nll, count = self.accelerator.reduce(sums, "sum").tolist()
        return loss / count, nll / count

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """Log the validation loss; keep the parameters, if they are the best so far and the best are to be kept."""
        result = self.validation_loss()
        if result is None:
            return {}
        metrics = {"eval_loss": result[0], "eval_nll": result[1]}
        if self.keep_best and self.args.should_save and result[0] < self._best_loss():
            with replace_file(self.run.path / BEST) as partial:
                self._write(partial, {"loss": repr(result[0]), "step": str(self.state.global_step)})
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _best_loss(self) -> float:
        path = self.run.path / BEST
        if not path.is_file():
            return math.inf
        with safe_open(path, "pt") as file:
            return float(file.metadata()["loss"])

    def take_best(self) -> None:
        """Go back to the recovery parameters of the lowest validation loss."""
        self.accelerator.wait_for_everyone()
        if (self.run.path / BEST).is_file():
            self._load(self.run.path / BEST)

    # Divergence

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | float | None = None) -> torch.Tensor | float:
        # A loss that is NaN has a gradient that is, on every process alike; and the optimizer has not stepped yet.
        norm: torch.Tensor | float = super()._get_grad_norm(model, grad_norm)
        if not math.isfinite(float(norm)):
            raise diverged(self.run, self.state.global_step + 1, "loss or gradient is not finite")
        return norm


def diverged(run: RunDirectory, step: int, how: str) -> SharpError:
    """The error of a run that went wrong."""
    good, _ = run.last_good()
    kept = "there is no checkpoint of it yet" if good is None else f"its last good checkpoint is {good}"
    return SharpError(
        f"fine-tuning: step {step}: the {how}; {kept}. Try a smaller finetune.learning_rate, a longer "
        "finetune.warmup_ratio or a larger finetune.batch_size"
    )


class _Runaway(TrainerCallback):
    """Ends a run whose logged loss is far above its first."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        if losses and losses[-1] > losses[0] + RUNAWAY:
            raise diverged(self._run, state.global_step, f"loss rose from {losses[0]:.2f} to {losses[-1]:.2f} nats")


class _Log(TrainerCallback):
    """Trainer's log as JSON lines: after a resume, what was logged up to its checkpoint and then the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.is_world_process_zero:
            self._path.write_text("".join(json.dumps(entry) + "\n" for entry in state.log_history), encoding="utf-8")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if state.is_world_process_zero:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")


class _Progress(TrainerCallback):
    """One bar over the steps, on terminals only."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.is_world_process_zero:
            self._bar = progress_bar(desc="fine-tune", unit="step", total=state.max_steps, initial=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self._bar is not None:
            self._bar.update()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if self._bar is not None and "loss" in state.log_history[-1]:
            self._bar.set_postfix(loss=f"{state.log_history[-1]['loss']:.3f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def digest_of(tensors: Mapping[str, torch.Tensor], sample: int | None = None) -> str:
    """A digest of named tensors; of `sample` evenly spread values of each, where whole ones would take too long."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        flat = tensor.detach().flatten()
        values = flat if sample is None else flat[:: max(1, len(flat) // sample)]
        digest.update(name.encode() + values.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
