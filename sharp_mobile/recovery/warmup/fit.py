"""One target from its task to its recovery parameters: the method, and what came of it.

closed_form        weighted least squares (`closed_form`)
adam               the paper's Stage 1, from a random start (`adam`)
closed_form_adam   Adam from the closed form; where that ends worse than it began, the closed form stays
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

import torch
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import Bypass, RecoveredProjection, SharedMLP
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.warmup.adam import AdamSettings, fit_by_adam, relative_error
from sharp_mobile.recovery.warmup.closed_form import fit_gate_up, input_statistics
from sharp_mobile.recovery.warmup.hybrid import feature_moments, set_outputs
from sharp_mobile.recovery.warmup.regression import Batch, FitError, Regression, not_finite
from sharp_mobile.recovery.warmup.saved_fits import TargetFit

Method = Literal["closed_form", "adam", "closed_form_adam"]
Inputs = Literal["sequential", "original"]


@dataclass(frozen=True)
class WarmupSettings:
    """How recovery parameters are warmed up. The paper's way is adam, original, weighted=False.

    Args:
        method: see the module.
        inputs: `sequential`: targets one after the other, each on the stream of the already recovered model, learning
            what brings it back; `original`: each alone on the original model's activations.
        weighted: hold outlier tokens down (see `regression`).
        adam: what the methods with Adam in their name need.
        workers: processes that fit targets of `original` inputs side by side.

    Raises:
        SharpError: a value out of its range.
    """

    method: Method = "closed_form"
    inputs: Inputs = "sequential"
    weighted: bool = True
    adam: AdamSettings = field(default_factory=AdamSettings)
    workers: int = 1

    def __post_init__(self) -> None:
        for name, value, choices in (("method", self.method, Method), ("inputs", self.inputs, Inputs)):
            if value not in get_args(choices):
                raise SharpError(f"warmup.{name}: {value} does not exist; choose one of {', '.join(get_args(choices))}")
        numbers = {"adam_epochs": self.adam.epochs, "adam_batch": self.adam.batch, "workers": self.workers}
        for name, number in numbers.items():
            if number < 1:
                raise SharpError(f"warmup.{name}: {number} is too few; use 1 or more")
        if not (math.isfinite(self.adam.lr) and self.adam.lr > 0):
            raise SharpError(
                f"warmup.adam_lr: {self.adam.lr} is not a learning rate; use a positive number such as 1e-3"
            )
        if self.workers > 1 and self.inputs == "sequential":
            raise SharpError(
                f"warmup.workers: {self.workers} cannot share targets that are fitted one after the other; use "
                "warmup.inputs original, or 1 worker"
            )

    @property
    def passes(self) -> int:
        """How often a target's tokens are gone through, the last time to measure the error."""
        closed = 2 if self.method != "adam" else 0
        return closed + (self.adam.epochs if self.method != "closed_form" else 0) + 1


class Progress(Protocol):
    """Whom the fit tells how far it is."""

    def say(self, what: str) -> None: ...

    def step(self, tokens: int) -> None: ...


class Silent:
    """Progress that nobody watches, as in a worker process."""

    def say(self, what: str) -> None:
        pass

    def step(self, tokens: int) -> None:
        pass


@dataclass(frozen=True)
class Target:
    """A target while it is fitted: its layer (0-based), its original MLP, its reference's, and the one to be fitted."""

    layer: int
    reference_layer: int
    own: nn.Module
    reference: nn.Module
    mlp: SharedMLP


@torch.no_grad()
def fit_target(target: Target, task: Regression, settings: WarmupSettings, progress: Progress) -> None:
    """Set the recovery parameters of `target.mlp`, the same ones in every run.

    Raises:
        FitError: activations that are not finite, or a loss that diverges.
    """
    if target.mlp.recovery.direct:
        return
    reset(target.mlp, settings.adam.seed + target.layer)
    if settings.method != "adam":
        _closed_form(target, task, progress)
    if settings.method != "closed_form":
        progress.say("trains by Adam")
        _adam(target, task, settings, progress)


@torch.no_grad()
def reset(mlp: SharedMLP, seed: int) -> None:
    """Start the random recovery parameters anew, from a seed of their own: what ran before must not matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in mlp.modules():
            if isinstance(module, RecoveredProjection):
                module.reset_parameters()
            elif isinstance(module, Bypass):
                nn.init.kaiming_uniform_(module.A, a=5**0.5)
                module.B.zero_()


def _closed_form(target: Target, task: Regression, progress: Progress) -> None:
    mlp, own = target.mlp, target.own
    if mlp.recovery.reference:
        fit_gate_up(mlp, own, input_statistics(own, _batches(task, "fits gate and up", progress)))
    else:
        progress.step(task.tokens)  # nothing to fit there
    moments, widths = feature_moments(mlp, own, _batches(task, "fits down", progress))
    set_outputs(mlp, own, moments, widths)


def _adam(target: Target, task: Regression, settings: WarmupSettings, progress: Progress) -> None:
    mlp, adam = target.mlp, replace(settings.adam, seed=settings.adam.seed + target.layer)
    if settings.method == "adam":
        fit_by_adam(mlp, task, adam, progress.step)
        return
    before, closed = relative_error(mlp, task), {name: value.clone() for name, value in mlp.state_dict().items()}
    fit_by_adam(mlp, task, adam, progress.step)
    if not relative_error(mlp, task) < before:
        mlp.load_state_dict(closed)


def _batches(task: Regression, what: str, progress: Progress) -> Iterator[Batch]:
    progress.say(what)
    for part in task.parts:
        batch = task.batch(part)
        yield batch
        progress.step(len(batch[0]))


@torch.no_grad()
def measure(
    target: Target, task: Regression, progress: Progress, then: Callable[[slice, torch.Tensor], None] | None = None
) -> TargetFit:
    """The errors of a fitted target and of the direct share in its place.

    Args:
        then: is given each part's rows and the fitted MLP's output for them.

    Raises:
        FitError: the fitted MLP's output is not finite.
    """
    direct = SharedMLP(target.own, target.reference, target.reference_layer, Recovery())
    squares = torch.zeros(2, dtype=torch.float64)
    progress.say("measures")
    for part in task.parts:
        x, y, w = task.batch(part)
        fitted = target.mlp(x)
        for i, value in enumerate((direct(x) - y, fitted - y)):
            squares[i] += (w * value).double().pow(2).sum()
        if then:
            then(part, fitted)
        progress.step(len(x))
    before, after = (squares / task.energy).sqrt().tolist()
    if not math.isfinite(after):
        raise not_finite()
    return TargetFit(target.layer, target.reference_layer, before, after)


def named(layer: int, error: FitError) -> SharpError:
    """The error with its layer (0-based)."""
    return SharpError(f"warm-up: layer {layer + 1} {error}")
