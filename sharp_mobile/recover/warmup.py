"""Single Layer Warmup (paper, Section 2.2.2, Stage 1): fit the recovery parameters of every target of a plan.

The paper minimises ‖f(X; g(Θ_j, ΔΘ_l)) − f(X; Θ_l)‖² by Adam, each target alone on the original model's activations.
Here that is one choice of three by two:

    inputs   original     each target alone, side by side in worker processes or over torchrun's ranks
             sequential   in ascending order, each on what it will really read, the stream of the already recovered
                          model, learning what brings that stream back to the original one
    method   closed_form, adam, closed_form_adam

    regression   x, Y and w of one target          closed_form, adam   its recovery parameters from these
    streams      the hidden states' way            fit                 one target by the method chosen
    spread       worker processes and ranks        saved_fits          what an interrupted run leaves

Fitted in closed form and sequentially, SmolLM2-135M recovers better than by Adam's five epochs, in a fraction of the
time; hence the defaults.
"""

import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.families import decoder_layers, family_of, mlp_weights
from sharp_mobile.plan import SharePlan
from sharp_mobile.recover.calibrate import norm_ratios, sink_layers
from sharp_mobile.recover.fit import Target, WarmupSettings
from sharp_mobile.recover.saved_fits import SavedFits, TargetFit
from sharp_mobile.recover.spread import Ranks, ranks
from sharp_mobile.recover.streams import OriginalStream, SequentialStreams
from sharp_mobile.share import Recoveries, Recovery, SharedMLP, recoveries, share_layers


@dataclass(frozen=True)
class WarmupReport:
    """What a warm-up did; layers are 0-based.

    Args:
        targets: the fitted targets, ascending; none for a direct plan.
        norm_ratios: max over median residual norm after each layer of the original model.
        sink_layers: the layers whose MLP writes the attention sink.
        warnings: what the user should know, one sentence each, layers 1-based.
        tokens: calibration tokens.
        seconds: wall time.
    """

    targets: tuple[TargetFit, ...]
    norm_ratios: tuple[float, ...]
    sink_layers: tuple[int, ...]
    warnings: tuple[str, ...]
    tokens: int
    seconds: float


@torch.no_grad()
def warm_up(
    model: nn.Module,
    plan: SharePlan,
    recovery: Recovery | Recoveries,
    windows: torch.Tensor,
    *,
    settings: WarmupSettings | None = None,
    progress: bool = True,
    workdir: Path | None = None,
    checkpoint_dir: Path | None = None,
) -> WarmupReport:
    """Share `model` in place and fit its recovery parameters.

    Needs about 2 · 4 · tokens · hidden bytes of disk (with `original` inputs 5, and 2 more for each worker beyond one),
    and in memory the model and a few [inner, inner] matrices. When it fails or is interrupted, the model is whole
    again. A direct plan or rank 0 only shares; adapters of layers that are no targets stay at their start. Under
    torchrun every rank calls it alike and ends with the same model.

    Args:
        model: the original Hugging Face model, float32 on the CPU; left in eval mode, all but the recovery
            parameters frozen.
        windows: calibration tokens, int64 [windows, T].
        settings: method, inputs and so on; the defaults if None.
        workdir: where the hidden states are kept meanwhile; the system's temporary directory if None.
        checkpoint_dir: keep each fitted target here, and take those that an interrupted run with the same model,
            plan, recovery parameters, settings and windows has left.

    Raises:
        SharpError: a rank above the MLP's width, a model in another dtype, a plan that does not suit the model, no
            room on the disk, activations that are not finite, or a loss that diverges.
    """
    started = time.monotonic()
    settings = settings or WarmupSettings()
    chosen = recoveries(plan, recovery)
    fitted = any(not chosen[target].direct for target in plan.targets)
    if fitted:
        _check(model, [chosen[target] for target in plan.targets])
    model.eval()
    ratios = norm_ratios(model, windows[:2])
    sinks = sink_layers(ratios)
    originals = {layer: _mlp(model, layer) for layer in chosen}
    fits: tuple[TargetFit, ...] = ()
    with ExitStack() as stack:
        if fitted:
            directory = Path(stack.enter_context(_hidden_states(model, plan, windows, settings, workdir)))
            saved = _saved_fits(checkpoint_dir or directory, model, plan, chosen, windows, settings)
        share_layers(model, plan, chosen)
        if fitted:
            try:
                fits = _fit(model, plan, originals, windows, settings, saved, directory, progress)
            except BaseException:
                for layer, mlp in originals.items():
                    decoder_layers(model)[layer].mlp = mlp
                raise
    return WarmupReport(
        targets=fits,
        norm_ratios=ratios,
        sink_layers=sinks,
        warnings=_warnings(plan, sinks, ratios),
        tokens=windows.numel(),
        seconds=time.monotonic() - started,
    )


def _mlp(model: nn.Module, index: int) -> Any:
    layer: Any = decoder_layers(model)[index]
    return layer.mlp


def _fit(
    model: nn.Module,
    plan: SharePlan,
    originals: dict[int, nn.Module],
    windows: torch.Tensor,
    settings: WarmupSettings,
    saved: SavedFits,
    directory: Path,
    progress: bool,
) -> tuple[TargetFit, ...]:
    family = family_of(model.config.model_type)  # type: ignore[union-attr, arg-type]
    way = SequentialStreams if settings.inputs == "sequential" else OriginalStream
    with ranks() as those:
        owners = _owners(plan, settings, those)
        targets = {layer: _target(layer, originals[layer], _mlp(model, layer)) for layer in plan.targets}
        owns = {layer: target.own for layer, target in targets.items()}
        mine = {layer: target for layer, target in targets.items() if owners[layer] == those.rank}
        streams = way(model, family, mine, owns, windows, settings, saved, directory, progress)
        try:
            fits, error = list(streams.fits()), None
        except SharpError as failure:
            if those.world == 1:
                raise
            fits, error = [], str(failure)
        finally:
            streams.bar.close()
        if those.world > 1:
            fits = those.exchange({layer: target.mlp for layer, target in targets.items()}, owners, fits, error)
    return tuple(sorted(fits, key=lambda fit: fit.layer))


def _target(layer: int, own: nn.Module, mlp: SharedMLP) -> Target:
    return Target(layer, mlp.reference_layer, own, mlp.reference, mlp)


def _owners(plan: SharePlan, settings: WarmupSettings, those: Ranks) -> dict[int, int]:
    """The rank that fits each target: with sequential inputs the first one all of them."""
    if settings.inputs == "sequential":
        return dict.fromkeys(plan.targets, 0)
    return {layer: those.owner(position) for position, layer in enumerate(plan.targets)}


def _saved_fits(
    directory: Path,
    model: nn.Module,
    plan: SharePlan,
    recovery: Recoveries,
    windows: torch.Tensor,
    settings: WarmupSettings,
) -> SavedFits:
    described = asdict(settings)
    del described["workers"]  # who fits does not change what is fitted
    each = [(layer, asdict(own)) for layer, own in recovery.items()]
    return SavedFits(directory, model, {"plan": str(plan), "recovery": each, **described}, windows)


def _check(model: nn.Module, chosen: list[Recovery]) -> None:
    weight = mlp_weights(_mlp(model, 0)).gate
    most = min(weight.shape)
    for name, rank in (
        ("rank", max(max(own.ranks) for own in chosen)),
        ("bypass", max(own.bypass for own in chosen)),
    ):
        if rank > most:
            raise SharpError(f"recovery {name} {rank} exceeds the MLP's width; use at most {most}")
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise SharpError(f"warm-up: the model is {weight.dtype} on {weight.device}; load it in float32 on the CPU")


def _hidden_states(
    model: nn.Module, plan: SharePlan, windows: torch.Tensor, settings: WarmupSettings, workdir: Path | None
) -> tempfile.TemporaryDirectory[str]:
    """A directory for hidden states, deleted in the end; refused before the long work if there is no room."""
    hidden = mlp_weights(_mlp(model, 0)).gate.shape[1]
    files = 2 if settings.inputs == "sequential" else 1 + 2 * min(settings.workers + 1, len(plan.targets))
    _check_room(Path(workdir or tempfile.gettempdir()), 4 * files * windows.numel() * hidden)
    return tempfile.TemporaryDirectory(prefix="sharp-mobile-", dir=workdir)


def _check_room(directory: Path, needed: int) -> None:
    if not directory.is_dir():
        raise SharpError(f"{directory}: not a directory; create it, or name another workdir")
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SharpError(
            f"{directory}: {free / 1e9:.1f} GB free, the hidden states need {needed / 1e9:.1f} GB; "
            "name a workdir on another disk, or calibrate on fewer tokens"
        )


def _warnings(plan: SharePlan, sinks: tuple[int, ...], ratios: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(
        f"layer {sink + 1} is a target, but its MLP writes the attention sink (the largest residual norm is "
        f"{ratios[sink]:.0f} times the median after it), which recovery parameters cannot imitate; "
        f"leave it out: '{plan} without {sink + 1}'"
        for sink in sinks
        if sink in plan.targets
    )
