"""Single Layer Warmup (paper, Section 2.2.2, Stage 1): fit the recovery parameters of every target of a plan.

The paper minimises ‖f(X; g(Θ_j, ΔΘ_l)) − f(X; Θ_l)‖² by Adam, each target alone on the original model's activations.
Here that is one choice of three by two:

    inputs   original     each target alone, side by side in worker processes or over torchrun's ranks
             sequential   in ascending order, each on what it will really read, the stream of the already recovered
                          model, learning what brings that stream back to the original one
    method   closed_form, adam, closed_form_adam

    regression   x, Y and w of one target          closed_form, adam   its recovery parameters from these
    layerwise, sequential  the hidden states' way  fit                 one MLP by the method chosen
    parallel     worker processes and ranks        attention, bases    what else a layer shares
                                                   saved_fits          what an interrupted run leaves

What layers share of attention and bases is fitted in closed form and sequentially alone.

Quantization-aware, the recovered stream and the references' weights are those of the export (`quantize.fake_quantize`),
so that what rounding spoils is learnt with the rest; adapters on a layer's own MLP are then fitted too, to repair it.

Fitted in closed form and sequentially, SmolLM2-135M recovers better than by Adam's five epochs, in a fraction of the
time; hence the defaults.
"""

import copy
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.model.basis import Place, layer_factors, matrix_linears
from sharp_mobile.model.families import family_of
from sharp_mobile.model.modules import LayerParts, causal_lm, decoder_layers, layer_parts, mlp_weights
from sharp_mobile.model.share import share_layers, shared_layers
from sharp_mobile.model.shared_attention import remove_kept
from sharp_mobile.quantize.fake_quantize import Simulation, simulated
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import ATTENTION_MATRICES, Recoveries, Recovery, recoveries
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.attention import AttentionTarget
from sharp_mobile.recovery.warmup.bases import BasisGroup, BasisTarget
from sharp_mobile.recovery.warmup.fit import Target
from sharp_mobile.recovery.warmup.layer_activations import norm_ratios, sink_layers
from sharp_mobile.recovery.warmup.layerwise import OriginalStream, Targets
from sharp_mobile.recovery.warmup.parallel import Ranks, ranks
from sharp_mobile.recovery.warmup.saved_fits import SavedFits, TargetFit
from sharp_mobile.recovery.warmup.sequential import SequentialStreams


@dataclass(frozen=True)
class WarmupReport:
    """What a warm-up did; layers are 0-based.

    Args:
        targets: what was fitted, layers ascending; nothing for a direct plan.
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
    again. A direct plan, rank 0 and what is left out only share; o of a layer that reads another's keys and values is
    fitted anew. Adapters of layers that are no targets stay at their start unless there
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
        SharpError: a rank above a projection's width, a model in another dtype, a plan that does not suit the model or
            shares more than these settings can fit, no room on the disk, activations that are not finite, or a loss
            that diverges.
    """
    started = time.monotonic()
    settings = settings or WarmupSettings()
    chosen = recoveries(plan, recovery)
    mlps = {
        layer: own
        for layer, own in chosen.items()
        if not own.dropped and (layer in plan.reference_of or (quantized and not own.direct))
    }
    fitted = any(not own.direct for own in mlps.values()) or any(
        own.mlp != own and own.learns for own in chosen.values()
    )
    if fitted:
        _check(model, chosen, mlps, settings)
    model.eval()
    ratios = norm_ratios(model, windows[:2])
    sinks = sink_layers(ratios)
    layers = decoder_layers(model)
    originals = layer_parts(model, chosen)
    places = {layer: matrix_linears(layers[layer]) for layer, own in chosen.items() if own.basis}
    fits: tuple[TargetFit, ...] = ()
    with ExitStack() as stack:
        if fitted:
            directory = Path(stack.enter_context(_hidden_states(model, plan, chosen, windows, settings, workdir)))
            saved = _saved_fits(checkpoint_dir or directory, model, plan, chosen, windows, settings, quantized)
        # Within the simulation an adapted layer's own weights are rounded: what it has to learn is kept apart.
        owns = {
            layer: originals[layer].mlp if layer in plan.reference_of else copy.deepcopy(originals[layer].mlp)
            for layer in mlps
        }
        share_layers(model, plan, chosen)
        if fitted:
            targets = _targets(model, plan, chosen, owns, originals, places)
            try:
                simulation = stack.enter_context(simulated(model, quantized)) if quantized else None
                fits = _fit(model, targets, originals, windows, settings, saved, directory, simulation)
            except BaseException:
                _restore(model, originals)
                raise
    return WarmupReport(
        targets=fits,
        norm_ratios=ratios,
        sink_layers=sinks,
        warnings=_warnings(plan, chosen, sinks, ratios),
        tokens=windows.numel(),
        seconds=time.monotonic() - started,
    )


def _restore(model: nn.Module, originals: Mapping[int, LayerParts]) -> None:
    """Make a model whole again, as it was before it was shared."""
    layers = decoder_layers(model)
    for layer, own in originals.items():
        layers[layer].self_attn, layers[layer].mlp = own
    remove_kept(model)


def _targets(
    model: nn.Module,
    plan: SharePlan,
    chosen: Recoveries,
    owns: Mapping[int, nn.Module],
    originals: Mapping[int, LayerParts],
    places: Mapping[int, list[Place]],
) -> Targets:
    layers, shared = decoder_layers(model), shared_layers(model)
    attentions = {
        layer: AttentionTarget(
            layer, own.attention, originals[layer].self_attn, cast(nn.Module, layers[layer].self_attn)
        )
        for layer, own in chosen.items()
        if own.attention and own.attention_learns
    }
    groups: dict[int, list[BasisTarget]] = {}
    for layer, own in chosen.items():
        if own.basis:
            target = BasisTarget(layer, own.basis, places[layer], layer_factors(layers[layer]))
            groups.setdefault(own.basis.first, []).append(target)
    mlps = {
        layer: Target(layer, shared[layer].reference_layer, own, shared[layer].reference, shared[layer])
        for layer, own in owns.items()
    }
    changed = [layer for layer, own in chosen.items() if layer in plan.reference_of or own.beyond_mlp]
    return Targets(mlps, attentions, [BasisGroup(group) for group in groups.values()], min(changed, default=0))


def _fit(
    model: nn.Module,
    targets: Targets,
    originals: Mapping[int, LayerParts],
    windows: torch.Tensor,
    settings: WarmupSettings,
    saved: SavedFits,
    directory: Path,
    simulation: Simulation | None,
) -> tuple[TargetFit, ...]:
    family = family_of(causal_lm(model).config.model_type)
    way = SequentialStreams if settings.inputs == "sequential" else OriginalStream
    with ranks() as those:
        owned = [(_owner(position, settings, those), target) for position, target in enumerate(targets.all())]
        mine = targets.only([target for owner, target in owned if owner == those.rank])
        streams = way(model, family, mine, originals, windows, settings, saved, directory, simulation)
        try:
            fits, error = list(streams.fits()), None
        except SharpError as failure:
            if those.world == 1:
                raise
            fits, error = [], str(failure)
        finally:
            streams.bar.close()
        if those.world > 1:
            fits = those.exchange([(owner, target.state()) for owner, target in owned], fits, error)
    return tuple(sorted(fits, key=lambda fit: fit.layer))


def _owner(position: int, settings: WarmupSettings, those: Ranks) -> int:
    """The rank that fits a target: with sequential inputs the first one all of them."""
    return 0 if settings.inputs == "sequential" else those.owner(position)


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


def _check(model: nn.Module, chosen: Recoveries, mlps: Recoveries, settings: WarmupSettings) -> None:
    more = [layer for layer, own in chosen.items() if own.beyond_mlp]
    if more and (settings.inputs, settings.method) != ("sequential", "closed_form"):
        raise SharpError(
            f"warm-up: layer {more[0] + 1} shares more than its MLP, which is fitted in closed form and on sequential "
            f"inputs alone; leave out warmup.method {settings.method} and warmup.inputs {settings.inputs}, or share "
            "MLPs alone"
        )
    layer = decoder_layers(model)[0]
    weight = mlp_weights(layer.mlp).gate
    shapes = {
        name: min(out, place.linear.in_features)
        for place in matrix_linears(layer)
        for name, out in zip(place.names, place.sizes, strict=True)
    }
    most = min(weight.shape)
    attentions = [own.attention for own in chosen.values() if own.attention]
    for name, rank, limit, what in (
        ("rank", max((max(own.ranks) for own in mlps.values()), default=0), most, "the MLP's width"),
        ("bypass", max((own.bypass for own in mlps.values()), default=0), most, "the MLP's width"),
        ("attention_bypass", max((own.bypass for own in attentions), default=0), weight.shape[1], "the hidden width"),
        *(
            (
                "attention_rank",
                max((own.ranks[i] for own in attentions), default=0),
                shapes[name],
                f"the width of {name}",
            )
            for i, name in enumerate(ATTENTION_MATRICES)
        ),
    ):
        if rank > limit:
            raise SharpError(f"recovery {name} {rank} exceeds {what}; use at most {limit}")
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise SharpError(f"warm-up: the model is {weight.dtype} on {weight.device}; load it in float32 on the CPU")


def _hidden_states(
    model: nn.Module,
    plan: SharePlan,
    chosen: Recoveries,
    windows: torch.Tensor,
    settings: WarmupSettings,
    workdir: Path | None,
) -> tempfile.TemporaryDirectory[str]:
    """A directory for hidden states, deleted in the end; refused before the long work if there is no room."""
    hidden = causal_lm(model).config.hidden_size
    files = 2 if settings.inputs == "sequential" else 1 + 2 * min(settings.workers + 1, len(plan.targets))
    files += any(own.attention for own in chosen.values())
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


def _warnings(
    plan: SharePlan, chosen: Recoveries, sinks: tuple[int, ...], ratios: tuple[float, ...]
) -> tuple[str, ...]:
    mlps = tuple(
        f"layer {sink + 1} is a target, but its MLP writes the attention sink (the largest residual norm is "
        f"{ratios[sink]:.0f} times the median after it), which recovery parameters cannot imitate; "
        f"leave it out: '{plan} without {sink + 1}'"
        for sink in sinks
        if sink in plan.targets
    )
    attentions = tuple(
        f"layer {sink + 1} has no attention of its own, but its MLP writes the attention sink (the largest residual "
        f"norm is {ratios[sink]:.0f} times the median after it) from what attention gives it; leave that layer out"
        for sink in sinks
        if sink not in plan.targets and sink in chosen and chosen[sink].attention
    )
    return (*mlps, *attentions)
