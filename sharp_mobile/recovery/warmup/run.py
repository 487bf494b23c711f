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

Quantization-aware, the recovered stream and the references' weights are those of the export (`quantize.fake_quantize`),
so that what rounding spoils is learnt with the rest; adapters on a layer's own MLP are then fitted too, to repair it.

Fitted in closed form and sequentially, SmolLM2-135M recovers better than by Adam's five epochs, in a fraction of the
time; hence the defaults.
"""

import copy
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.model.families import family_of
from sharp_mobile.model.modules import causal_lm, decoder_layers, mlp_weights
from sharp_mobile.model.share import SharedMLP, share_layers, shared_layers
from sharp_mobile.quantize.fake_quantize import Simulation, simulated
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recoveries, Recovery, recoveries
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.fit import Target
from sharp_mobile.recovery.warmup.layer_activations import norm_ratios, sink_layers
from sharp_mobile.recovery.warmup.layerwise import OriginalStream, SequentialStreams
from sharp_mobile.recovery.warmup.parallel import Ranks, ranks
from sharp_mobile.recovery.warmup.saved_fits import SavedFits, TargetFit


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
    quantized: QuantizeSettings | None = None,
    workdir: Path | None = None,
    checkpoint_dir: Path | None = None,
) -> WarmupReport:
    """Share `model` in place and fit its recovery parameters.

    Needs about 2 · 4 · tokens · hidden bytes of disk (with `original` inputs 5, and 2 more for each worker beyond one),
    and in memory the model and a few [inner, inner] matrices. When it fails or is interrupted, the model is whole
    again. A direct plan or rank 0 only shares; adapters of layers that are no targets stay at their start unless there
    is a quantization to repair. Under torchrun every rank calls it alike and ends with the same model.

    Args:
        model: the original Hugging Face model, float32 on the CPU; left in eval mode, all but the recovery
            parameters frozen.
        windows: calibration tokens, int64 [windows, T].
        settings: method, inputs and so on, the defaults if None; its text is not read here.
        quantized: fit to the model as it will be exported with these settings, not to the float one; the inputs are
            sequential then.
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
    learning = tuple(chosen) if quantized else plan.targets
    fitted = any(not chosen[layer].direct for layer in learning)
    if fitted:
        _check(model, [chosen[layer] for layer in learning])
    model.eval()
    ratios = norm_ratios(model, windows[:2])
    sinks = sink_layers(ratios)
    originals = {layer: _mlp(model, layer) for layer in chosen}
    fits: tuple[TargetFit, ...] = ()
    with ExitStack() as stack:
        if fitted:
            directory = Path(stack.enter_context(_hidden_states(model, plan, windows, settings, workdir)))
            saved = _saved_fits(checkpoint_dir or directory, model, plan, chosen, windows, settings, quantized)
        # Within the simulation an adapted layer's own weights are rounded: what it has to learn is kept apart.
        owns = {
            layer: copy.deepcopy(originals[layer]) if layer not in plan.targets else originals[layer]
            for layer in learning
        }
        share_layers(model, plan, chosen)
        if fitted:
            try:
                simulation = stack.enter_context(simulated(model, quantized)) if quantized else None
                fits = _fit(model, owns, windows, settings, saved, directory, simulation)
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


def _mlp(model: nn.Module, index: int) -> nn.Module:
    return decoder_layers(model)[index].mlp


def _fit(
    model: nn.Module,
    owns: dict[int, nn.Module],
    windows: torch.Tensor,
    settings: WarmupSettings,
    saved: SavedFits,
    directory: Path,
    simulation: Simulation | None,
) -> tuple[TargetFit, ...]:
    family = family_of(causal_lm(model).config.model_type)
    way = SequentialStreams if settings.inputs == "sequential" else OriginalStream
    with ranks() as those:
        owners = _owners(list(owns), settings, those)
        shared = shared_layers(model)
        targets = {layer: _target(layer, own, shared[layer]) for layer, own in owns.items()}
        mine = {layer: target for layer, target in targets.items() if owners[layer] == those.rank}
        streams = way(model, family, mine, owns, windows, settings, saved, directory, simulation)
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


def _owners(layers: list[int], settings: WarmupSettings, those: Ranks) -> dict[int, int]:
    """The rank that fits each layer: with sequential inputs the first one all of them."""
    if settings.inputs == "sequential":
        return dict.fromkeys(layers, 0)
    return {layer: those.owner(position) for position, layer in enumerate(layers)}


def _saved_fits(
    directory: Path,
    model: nn.Module,
    plan: SharePlan,
    recovery: Recoveries,
    windows: torch.Tensor,
    settings: WarmupSettings,
    quantized: QuantizeSettings | None,
) -> SavedFits:
    described = {**settings.identity, "quantized": quantized and quantized.nearest}
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
