"""What each layer could be instead of what it is, measured for `plan: auto` (see `auto`).

    error        ε of each option, a reference (or none) and recovery parameters: the relative error of the closed form
                 on the original model's activations (`damage`)
    sensitivity  σ of the layer: how far the model's predictions move a unit of ε², as KL from the original's, from
                 one trial with a linear stand-in

No budget is in these, so one measurement serves all of them. The attention sink's layer, the first and the last are
left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.console import progress_bar
from sharp_mobile.model.modules import DecoderLayer, causal_lm, decoder_layers
from sharp_mobile.model.share import SharedMLP
from sharp_mobile.recipe.recovery import AttentionRecovery, Recovery
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.plan_search.attention_candidates import AttentionTrial, AttentionTrials
from sharp_mobile.recovery.plan_search.imitation_error import TargetDamage
from sharp_mobile.recovery.warmup.fit import Silent, Target, fit_target, measure
from sharp_mobile.recovery.warmup.layer_activations import LayerwiseDecoder, batches, norm_ratios, sink_layers
from sharp_mobile.recovery.warmup.regression import StoredRegression

# Sensitivities are measured on so many windows, at every so-manieth position: log-probabilities are large.
_TRIAL_WINDOWS, _TRIAL_STEP = 4, 4


@dataclass(frozen=True)
class Trial:
    """A way to make a layer a target.

    Args:
        reference: its reference, 0-based; None where the recovery calls none.
        error: ε, relative.
    """

    reference: int | None
    recovery: Recovery
    error: float


@dataclass(frozen=True)
class LayerCandidates:
    """One layer that can be a target.

    Args:
        layer: 0-based.
        sensitivity: σ, nats a token.
        trials: of its MLP; `attention`: of its attention, if it may be shared.
    """

    layer: int
    sensitivity: float
    trials: tuple[Trial, ...]
    attention: tuple[AttentionTrial, ...] = ()


@torch.no_grad()
def measure_candidates(
    model: nn.Module,
    recoveries: Sequence[Recovery],
    windows: torch.Tensor,
    reach: int,
    attentions: Sequence[AttentionRecovery] = (),
) -> list[LayerCandidates]:
    """Carry the original model's stream through the layers, and try every option of every layer on the way.

    Args:
        model: the original Hugging Face model, float32 on the CPU.
        recoveries: the choices that the MLP of every target has; `attentions`: those that its attention has.
        windows: calibration tokens, int64 [windows, T]; their hidden states are held in memory, twice.
        reach: how many layers before a target its reference may be.

    Raises:
        SharpError: activations that are not finite or all alike.
    """
    layers = decoder_layers(model)
    sinks = sink_layers(norm_ratios(model, windows[:2]))
    decoder, parts = LayerwiseDecoder(model, windows[:1]), batches(windows)
    hidden = torch.cat([decoder.embed(windows[part]) for part in parts])
    step = max(1, len(windows) // _TRIAL_WINDOWS)
    trial = slice(0, step * _TRIAL_WINDOWS, step)
    stand_in, found = _StandIn(model, decoder, windows[trial]), list[LayerCandidates]()
    architecture = architecture_of(causal_lm(model).config.to_dict())
    attempts = AttentionTrials(model, architecture, architecture.family, decoder, parts, trial, stand_in.divergence)
    inputs: dict[int, torch.Tensor] = {}  # of this layer and those within reach before it
    for index in progress_bar(range(len(layers) - 1), unit="layer", desc="options"):
        x, after = _step(decoder, index, layers[index].mlp, hidden, parts)
        inputs = {layer: its for layer, its in inputs.items() if attentions and layer >= index - reach}
        inputs[index] = hidden
        if index > 0 and index not in sinks:
            sensitivity = stand_in.sensitivity(index, hidden[trial], x)
            mlps = tuple(_trials(layers, index, x, recoveries, reach))
            found.append(LayerCandidates(index, sensitivity, mlps, tuple(attempts.of(index, attentions, inputs))))
        hidden = after
    return found


def _step(
    decoder: LayerwiseDecoder, index: int, mlp: nn.Module, hidden: torch.Tensor, parts: list[slice]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Through one layer: what its MLP reads, [tokens, hidden], and the layer's output, [windows, T, hidden]."""
    read: list[torch.Tensor] = []
    hook = mlp.register_forward_pre_hook(lambda module, args: read.append(args[0].flatten(0, 1)))
    try:
        after = torch.cat([decoder.layer(index, hidden[part]) for part in parts])
    finally:
        hook.remove()
    return torch.cat(read), after


class _StandIn:
    """What a linear stand-in for a layer's MLP does to the model's predictions on a few windows."""

    def __init__(self, model: nn.Module, decoder: LayerwiseDecoder, windows: torch.Tensor) -> None:
        self._decoder = decoder
        self._layers = decoder_layers(model)
        self._original = self._predictions_from(0, decoder.embed(windows))

    def sensitivity(self, index: int, hidden: torch.Tensor, x: torch.Tensor) -> float:
        """σ: KL(original ‖ model with the stand-in) over ε² of the stand-in, nats a token.

        Args:
            hidden: what the layer reads on the trial's windows.
            x: what its MLP reads on all windows, [tokens, hidden].
        """
        own = self._layers[index].mlp
        rank = max(1, x.shape[1] // 4)
        stand_in = SharedMLP(own, own, index, Recovery(bypass=rank, reference=False))
        parts = [slice(start, min(start + 2048, len(x))) for start in range(0, len(x), 2048)]
        task = StoredRegression(x, torch.cat([own(x[part]) for part in parts]), parts, True)
        target = Target(index, index, own, own, stand_in)
        fit_target(target, task, WarmupSettings(), Silent())
        error = measure(target, task, Silent()).error_after
        self._layers[index].mlp = stand_in
        try:
            divergence = self.divergence(index, hidden)
        finally:
            self._layers[index].mlp = own
        return divergence / max(error, 1e-6) ** 2

    def divergence(self, index: int, hidden: torch.Tensor) -> float:
        """KL(original ‖ model as it is from layer `index` on), nats a token; `hidden` is what that layer reads."""
        predictions = self._predictions_from(index, hidden)
        found = F.kl_div(predictions, self._original, log_target=True, reduction="sum") / len(predictions)
        return found.item()

    def _predictions_from(self, first: int, hidden: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [tokens, vocabulary] at some positions, from what layer `first` reads."""
        for index in range(first, len(self._decoder)):
            hidden = self._decoder.layer(index, hidden)
        return self._decoder.logits(hidden[:, ::_TRIAL_STEP]).flatten(0, 1).log_softmax(-1)


def _trials(
    layers: Sequence[DecoderLayer], index: int, x: torch.Tensor, recoveries: Sequence[Recovery], reach: int
) -> Iterator[Trial]:
    """Every reference within reach with every recovery that calls it, and those that call none."""
    if not recoveries:
        return
    damage = TargetDamage(layers[index].mlp, x)
    yield from (Trial(None, recovery, 1.0) for recovery in recoveries if recovery.dropped)
    recoveries = [recovery for recovery in recoveries if not recovery.dropped]
    calling = [recovery for recovery in recoveries if recovery.reference]
    others = [recovery for recovery in recoveries if not recovery.reference]
    references = range(index - 1, max(-1, index - 1 - reach), -1) if calling else ()
    for reference, choices in (*((reference, calling) for reference in references), (None, others)):
        called = layers[index if reference is None else reference].mlp
        errors = damage.errors(called, choices) if choices else []
        yield from (Trial(reference, *pair) for pair in zip(choices, errors, strict=True))
