"""One target from its task to its recovery parameters: the method, and what came of it.

closed_form        weighted least squares (`closed_form`)
adam               the paper's Stage 1, from a random start (`adam`)
closed_form_adam   Adam from the closed form; where that ends worse than it began, the closed form stays
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.model.recovered import Bypass, RecoveredProjection
from sharp_mobile.model.share import SharedMLP
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.adam import fit_by_adam, relative_error
from sharp_mobile.recovery.warmup.closed_form import fit_gate_up, input_statistics
from sharp_mobile.recovery.warmup.hybrid import feature_moments, set_outputs
from sharp_mobile.recovery.warmup.regression import Batch, FitError, Regression, not_finite
from sharp_mobile.recovery.warmup.saved_fits import Part, TargetFit


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

    part: ClassVar[Part] = "mlp"
    layer: int
    reference_layer: int
    own: nn.Module
    reference: nn.Module
    mlp: SharedMLP

    def state(self) -> Mapping[str, torch.Tensor]:
        """What is fitted, by name, and the biases with it."""
        return self.mlp.state_dict()


@torch.no_grad()
def fit_target(target: Target, task: Regression, settings: WarmupSettings, progress: Progress) -> None:
    """Set the recovery parameters of `target.mlp`, the same ones in every run.

    Raises:
        FitError: activations that are not finite, or a loss that diverges.
    """
    if target.mlp.recovery.direct:
        return
    reset(target.mlp, target.layer)
    if settings.method != "adam":
        _closed_form(target, task, progress)
    if settings.method != "closed_form":
        progress.say("trains by Adam")
        _adam(target, task, settings, progress)


@torch.no_grad()
def reset(shared: nn.Module, seed: int) -> None:
    """Draw the random recovery parameters again, from their own seed, so that earlier work does not matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in shared.modules():
            if isinstance(module, RecoveredProjection):
                if not module.direct:
                    module.reset_parameters()
            elif isinstance(module, Bypass):
                module.reset_parameters()


def _closed_form(target: Target, task: Regression, progress: Progress) -> None:
    mlp, own = target.mlp, target.own
    if mlp.recovery.reference:
        fit_gate_up(mlp, own, input_statistics(own, _batches(task, "fits gate and up", progress)))
    else:
        progress.step(task.tokens)  # nothing to fit there
    moments, widths = feature_moments(mlp, own, _batches(task, "fits down", progress))
    set_outputs(mlp, own, moments, widths)


def _adam(target: Target, task: Regression, settings: WarmupSettings, progress: Progress) -> None:
    mlp, seed = target.mlp, target.layer
    if settings.method == "adam":
        fit_by_adam(mlp, task, settings, seed, progress.step)
        return
    before, closed = relative_error(mlp, task), {name: value.clone() for name, value in mlp.state_dict().items()}
    fit_by_adam(mlp, task, settings, seed, progress.step)
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
