"""A target's attention in closed form, on the recovered stream (see `regression` for x, Y and w).

weights   q, k, v   its own weight in the metric C = Σ w² x xᵀ, all outputs alike, in the projection's form
                    (`closed_form.fit_input`)
          o         the regression of w Y on the weighted inputs H of o, while q, k and v are the fitted ones, in its
                    form (`closed_form.fit_down`)
kv        o         its own weight W, which becomes W + (Y − W H)-on-H of full rank, the ridge holding the change
                    down; so the error on the text only falls. LoRA on q and o starts at B = 0, for fine-tuning
none      bypass    the reduced-rank regression of w Y on w x
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from sharp_mobile.model.modules import SelfAttention
from sharp_mobile.model.recovered import RecoveredProjection
from sharp_mobile.model.share import recovery_parameters
from sharp_mobile.model.shared_attention import NoAttention, SharedLinear, refitted_linears
from sharp_mobile.recipe.recovery import AttentionRecovery
from sharp_mobile.recovery.warmup.closed_form import (
    INNER_RIDGE,
    INPUT_RIDGE,
    InputStatistics,
    Moments,
    cholesky,
    fit_down,
    fit_input,
    reduced_rank,
    store,
)
from sharp_mobile.recovery.warmup.fit import Progress, reset
from sharp_mobile.recovery.warmup.regression import Regression, not_finite
from sharp_mobile.recovery.warmup.saved_fits import Part, TargetFit


@dataclass(frozen=True)
class AttentionTarget:
    """A target's attention while it is fitted.

    Args:
        layer: 0-based.
        recovery: what stands in for it.
        own: the original `self_attn`.
        attention: what has taken its place.
        refitted: the weights of a kv target that are fitted anew, in float.
    """

    part: ClassVar[Part] = "attention"
    layer: int
    recovery: AttentionRecovery
    own: SelfAttention
    attention: nn.Module
    refitted: Mapping[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        # Held from before a simulation, within which a linear has its rounded weight.
        weights = {f"{name}.weight": linear.weight for name, linear in refitted_linears(self.attention)}
        object.__setattr__(self, "refitted", weights)

    @property
    def passes(self) -> int:
        """How often its tokens are gone through: the middle of the stream, statistics, and to measure the errors."""
        return 1 + self.fitting_passes + (1 if self.recovery.kind == "none" else 2)

    @property
    def fitting_passes(self) -> int:
        """How often for the statistics alone."""
        return 2 if self.recovery.kind == "weights" else 1

    def state(self) -> Mapping[str, torch.Tensor]:
        """What is fitted, by name: the recovery parameters, and of a kv target the weight of o."""
        return {**dict(recovery_parameters(self.attention)), **self.refitted}


class AttentionBatch(NamedTuple):
    """A batch of windows that an attention has read: its tokens' rows; what o reads [tokens, queries], and what comes
    of it [tokens, hidden]. Without attention nothing is read."""

    rows: slice
    features: torch.Tensor
    output: torch.Tensor


# Of the mean diagonal of HᵀH: holds o of a kv target to its own weight. Perplexity of SmolLM2-135M with twelve targets:
# 8 windows of warm-up give 79 with 1e-1, 225 with 1e-2 and 2,516 with 1e-3; 24 give 65 with 1e-1 and 72 with 1e-2,
# and on another text 56 and 63. More windows were not compared.
_OWN_RIDGE = 1e-1


@contextmanager
def watched(attention: nn.Module) -> Iterator[Callable[[slice], AttentionBatch]]:
    """Within the block, the given function tells of the attention's latest call, for the rows of its tokens."""
    latest: dict[str, torch.Tensor] = {}

    def read(o: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        latest["features"] = args[0].flatten(0, 1)

    def written(attention: nn.Module, args: object, output: tuple[torch.Tensor, object]) -> None:
        latest["output"] = output[0].flatten(0, 1)

    def batch(rows: slice) -> AttentionBatch:
        output = latest.pop("output")
        return AttentionBatch(rows, latest.pop("features", output[:, :0]), output)

    o = getattr(attention, "o_proj", None)
    hooks = [attention.register_forward_hook(written)]
    hooks += [] if o is None else [o.register_forward_pre_hook(read)]
    try:
        yield batch
    finally:
        for hook in hooks:
            hook.remove()


# Runs a `self_attn` in the target's layer on the recovered stream.
Run = Callable[[nn.Module], Iterable[AttentionBatch]]


@torch.no_grad()
def fit_attention(target: AttentionTarget, task: Regression, run: Run, progress: Progress) -> None:
    """Fit the attention of a target, to the same numbers in every run.

    Raises:
        FitError: activations that are not finite or all zero.
    """
    attention = target.attention
    reset(attention, target.layer)
    if isinstance(attention, NoAttention):
        if attention.bypass is not None:
            a, b = _bypass(task, target.recovery.bypass, progress)
            store(attention.bypass, {"A": a, "B": b})
        return
    if target.recovery.kind == "weights":
        _fit_inputs(target, task, progress)
        progress.say("fits o")
        moments = _moments(attention, task, run, progress)
        ((projection, reference),) = _shared(attention, "o_proj").projections()
        if not projection.direct:
            fit_down(projection, reference, moments)
        return
    progress.say("fits o")
    moments = _moments(attention, task, run, progress)
    for weight in target.refitted.values():
        _refit(weight, moments)


def _fit_inputs(target: AttentionTarget, task: Regression, progress: Progress) -> None:
    progress.say("fits q, k and v")
    covariance: torch.Tensor | None = None
    for part in task.parts:
        x, _, w = task.batch(part)
        gram = ((w * x).T @ (w * x)).double()
        covariance = gram if covariance is None else covariance + gram
        progress.step(len(x))
    assert covariance is not None
    ones = torch.ones(0, dtype=torch.float64)
    statistics = InputStatistics(covariance, cholesky(covariance, INPUT_RIDGE), ones, ones)
    for projection, own, reference in _inputs(target):
        if not projection.direct:
            fit_input(projection, own, reference, statistics, torch.ones(len(own), dtype=torch.float64))


def _inputs(target: AttentionTarget) -> Iterator[tuple[RecoveredProjection, torch.Tensor, torch.Tensor]]:
    """q, k and v: recovery parameters, the own weight and the reference's, each weight [out, hidden]."""
    fused = hasattr(target.own, "qkv_proj")
    for name in ("qkv_proj",) if fused else ("q_proj", "k_proj", "v_proj"):
        shared, own = _shared(target.attention, name), getattr(target.own, name).weight
        for (projection, reference), its in zip(shared.projections(), own.split(shared.sizes), strict=True):
            yield projection, its, reference


def _shared(attention: nn.Module, name: str) -> SharedLinear:
    found = getattr(attention, name)
    assert isinstance(found, SharedLinear)
    return found


def _moments(attention: nn.Module, task: Regression, run: Run, progress: Progress) -> Moments:
    """Of w Y, less the bias of o, on what o reads."""
    bias = _output_bias(attention)
    gram = moment = torch.zeros(())  # float64 from the first batch on
    for rows, features, _ in run(attention):
        _, y, w = task.batch(rows)
        h = w * features
        gram = gram + (h.T @ h).double()
        moment = moment + (h.T @ (w * (y if bias is None else y - bias))).double()
        progress.step(len(features))
    return Moments(gram, moment)


def _output_bias(attention: nn.Module) -> torch.Tensor | None:
    o = getattr(attention, "o_proj")  # noqa: B009 (transformers sets it by name)
    if isinstance(o, SharedLinear):
        ((projection, _),) = o.projections()
        return projection.bias
    bias: torch.Tensor | None = o.bias
    return bias


def _refit(weight: torch.Tensor, moments: Moments) -> None:
    """W [out, features] + the regression of what it leaves."""
    left = moments.moment - moments.gram @ weight.double().T
    change = torch.cholesky_solve(left, cholesky(moments.gram, _OWN_RIDGE))
    if not change.isfinite().all():
        raise not_finite()
    weight.add_(change.T)


def _bypass(task: Regression, rank: int, progress: Progress) -> tuple[torch.Tensor, torch.Tensor]:
    progress.say("fits a bypass")
    gram = moment = torch.zeros(())
    for part in task.parts:
        x, y, w = task.batch(part)
        gram = gram + ((w * x).T @ (w * x)).double()
        moment = moment + ((w * x).T @ (w * y)).double()
        progress.step(len(x))
    return reduced_rank(cholesky(gram, INNER_RIDGE), moment, rank)


@torch.no_grad()
def measure_attention(
    target: AttentionTarget, task: Regression, run: Run, direct: nn.Module | None, progress: Progress
) -> TargetFit:
    """The errors of a fitted attention and of the direct share in its place.

    Args:
        direct: that share; None for an attention that is left out, whose error is 1.

    Raises:
        FitError: the output is not finite.
    """
    progress.say("measures")
    before, after = (
        1.0 if attention is None else _error(attention, task, run, progress) for attention in (direct, target.attention)
    )
    if not math.isfinite(after):
        raise not_finite()
    reference = target.layer if target.recovery.reference is None else target.recovery.reference
    return TargetFit(target.layer, reference, before, after, target.part)


def _error(attention: nn.Module, task: Regression, run: Run, progress: Progress) -> float:
    square = 0.0
    for rows, _, output in run(attention):
        _, y, w = task.batch(rows)
        square += (w * (output - y)).double().pow(2).sum().item()
        progress.step(len(output))
    return math.sqrt(square / task.energy)
