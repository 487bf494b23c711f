"""What each layer could have instead of its own attention, each tried once: `plan: auto` with shared attention.

    damage       KL(original ‖ model with the option in one layer), nats a token, on a few windows; the option is fitted
                 in closed form to what the layer's own attention answers in the original model

Unlike an MLP's options these are few, so none is predicted from another's error.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import nn

from sharp_mobile.model.architecture import Architecture
from sharp_mobile.model.families import Family
from sharp_mobile.model.modules import NoMLP, decoder_layers, norm
from sharp_mobile.model.shared_attention import kept_outputs, remove_kept, share_attention
from sharp_mobile.recipe.recovery import AttentionRecovery
from sharp_mobile.recovery.warmup.attention import AttentionBatch, AttentionTarget, fit_attention, watched
from sharp_mobile.recovery.warmup.fit import Silent
from sharp_mobile.recovery.warmup.layer_activations import LayerwiseDecoder
from sharp_mobile.recovery.warmup.regression import StoredRegression

_TRIAL = "trial"  # the key of what references keep of the trial's windows


class AttentionTrial(NamedTuple):
    """A way to do without a layer's own attention, with its damage: KL from the original, nats a token."""

    recovery: AttentionRecovery
    damage: float


class AttentionTrials:
    """Tries options in the layers of a model.

    Args:
        model: the original Hugging Face model, float32 on the CPU; the same afterwards.
        parts: slices of the windows, of a batch each.
        trial: the windows on which damage is measured.
        divergence: from a layer and the hidden states that it reads on the trial's windows, KL(original ‖ model as it
            is), nats a token.
    """

    def __init__(
        self,
        model: nn.Module,
        architecture: Architecture,
        family: Family,
        decoder: LayerwiseDecoder,
        parts: list[slice],
        trial: slice,
        divergence: Callable[[int, torch.Tensor], float],
    ) -> None:
        self._model, self._architecture, self._family = model, architecture, family
        self._layers, self._decoder, self._parts = decoder_layers(model), decoder, parts
        self._trial, self._divergence = trial, divergence

    def of(
        self, index: int, options: Sequence[AttentionRecovery], inputs: Mapping[int, torch.Tensor]
    ) -> Iterator[AttentionTrial]:
        """Every option of a layer, with every reference that it can have.

        Args:
            inputs: what the layer and those that may be its references read, [windows, T, hidden], by layer.
        """
        task = self._task(index, inputs[index])
        for option in options:
            references = [None] if option.reference is None else sorted(inputs.keys() - {index}, reverse=True)
            for recovery in (replace(option, reference=reference) for reference in references):
                of = recovery.reference
                if recovery.kind != "kv" or (of is not None and self._architecture.keys_alike(index, of)):
                    yield AttentionTrial(recovery, self._damage(index, recovery, task, inputs))

    def _task(self, index: int, hidden: torch.Tensor) -> StoredRegression:
        """What the layer's own attention reads and answers, [tokens, hidden] each."""
        pre_norm = norm(self._layers[index], self._family.pre_attention_norm)
        own = cast(nn.Module, self._layers[index].self_attn)
        outputs = [batch.output for batch in self._run(index, hidden, own)]
        return StoredRegression(pre_norm(hidden.flatten(0, 1)), torch.cat(outputs), self._rows(hidden), True)

    def _damage(
        self, index: int, recovery: AttentionRecovery, task: StoredRegression, inputs: Mapping[int, torch.Tensor]
    ) -> float:
        layer, own = self._layers[index], self._layers[index].self_attn
        try:
            share_attention(self._layers, {index: recovery})
            attention = cast(nn.Module, layer.self_attn)
            if recovery.kind == "kv" and recovery.reference is not None:
                self._keep(recovery.reference, inputs[recovery.reference])
            if not (recovery.kind == "none" and recovery.direct):
                target = AttentionTarget(index, recovery, own, attention)
                fit_attention(target, task, lambda module: self._run(index, inputs[index], module), Silent())
            self._set_key(_TRIAL)
            return self._divergence(index, inputs[index][self._trial])
        finally:
            layer.self_attn = own
            remove_kept(self._model)

    def _keep(self, reference: int, hidden: torch.Tensor) -> None:
        """Let a reference make its keys and values of all windows, and of the trial's."""
        for part in self._parts:
            self._set_key(part.start)
            self._decoder.layer(reference, hidden[part])
        self._set_key(_TRIAL)
        self._decoder.layer(reference, hidden[self._trial])

    def _set_key(self, key: object) -> None:
        for kept in kept_outputs(self._model):
            kept.key = key

    def _run(self, index: int, hidden: torch.Tensor, attention: nn.Module) -> Iterator[AttentionBatch]:
        """An attention in the layer: what o reads, and what comes of it."""
        layer, own, mlp = self._layers[index], self._layers[index].self_attn, self._layers[index].mlp
        try:
            layer.self_attn, layer.mlp = attention, NoMLP()  # type: ignore[assignment]
            with watched(attention) as batch:
                for part, rows in zip(self._parts, self._rows(hidden), strict=True):
                    self._set_key(part.start)
                    self._decoder.layer(index, hidden[part])
                    yield batch(rows)
        finally:
            layer.self_attn, layer.mlp = own, mlp

    def _rows(self, hidden: torch.Tensor) -> list[slice]:
        """The rows of each batch's tokens."""
        length = hidden.shape[1]
        return [slice(part.start * length, part.stop * length) for part in self._parts]
