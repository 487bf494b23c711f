"""Single Layer Warmup as in the paper (Section 2.2.2): Adam on one target's recovery parameters.

    minimise over ΔΘ:   Σ_tokens ‖w (f(x; g(Θ, ΔΘ)) − Y)‖² / Σ_tokens ‖wY‖²

with x, Y and w of `regression`. The paper's loss is that of w = 1, up to the constant below the line, which does not
change Adam's steps and makes the loss a relative error: 1 is that of an MLP that answers zero.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from sharp_mobile.model.share import recovery_parameters
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.regression import FitError, Regression

_DIVERGED = 10.0  # times the first epoch's loss


@torch.enable_grad()
def fit_by_adam(
    mlp: nn.Module, task: Regression, settings: WarmupSettings, seed: int, step: Callable[[int], None]
) -> None:
    """Train the recovery parameters of `mlp` from where they are; all else in it stays as it is.

    Tokens are visited in another order every epoch, the same in every run with the same seed.

    Args:
        seed: of that order.
        step: called with the number of tokens after each step.

    Raises:
        FitError: the loss is not finite, or rises from epoch to epoch; it says what to try.
    """
    parameters = [parameter for _, parameter in recovery_parameters(mlp)]
    optimizer = torch.optim.Adam(parameters, lr=settings.adam_lr)
    order = torch.Generator().manual_seed(seed)
    first = math.inf
    for epoch in range(settings.adam_epochs):
        total = 0.0
        for rows in torch.randperm(task.tokens, generator=order).split(settings.adam_batch):
            x, y, w = task.batch(rows)
            loss = (w * (mlp(x) - y)).pow(2).sum() / task.energy
            optimizer.zero_grad()
            (loss * (task.tokens / len(rows))).backward()
            optimizer.step()
            total += loss.item()
            if not math.isfinite(total):
                raise _diverged(f"its loss is not finite in epoch {epoch + 1}", settings)
            step(len(rows))
        first = total if epoch == 0 else first
        if total > _DIVERGED * first:
            raise _diverged(f"its loss rose from {first:.3g} to {total:.3g}", settings)


def _diverged(what: str, settings: WarmupSettings) -> FitError:
    return FitError(
        f"diverges under Adam: {what}; try a smaller warmup.adam_lr (now {settings.adam_lr:g}), a larger "
        f"warmup.adam_batch (now {settings.adam_batch}) or warmup.method closed_form; targets fitted before are kept"
    )


@torch.no_grad()
def relative_error(mlp: nn.Module, task: Regression) -> float:
    """√ of the loss above, over all tokens."""
    return math.sqrt(sum(_squares(mlp, task)) / task.energy)


def _squares(mlp: nn.Module, task: Regression) -> Iterator[float]:
    for part in task.parts:
        x, y, w = task.batch(part)
        yield (w * (mlp(x) - y)).double().pow(2).sum().item()
