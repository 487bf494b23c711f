"""The hidden states' way through the layers, and the targets fitted on it.

    sequential   two streams, see `sequential`
    original     original    ──layer──layer──target──►     one stream; what each target's MLP reads and writes is kept
                                         x, Y ──► fit      in two files until it is fitted

Memory holds one batch of hidden states, whatever the text's length.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from sharp_mobile.console import progress_bar
from sharp_mobile.model.families import Family
from sharp_mobile.model.modules import LayerParts, SelfAttention, causal_lm, decoder_layers
from sharp_mobile.quantize.fake_quantize import Simulation
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.attention import AttentionTarget
from sharp_mobile.recovery.warmup.bases import BasisGroup
from sharp_mobile.recovery.warmup.fit import Target
from sharp_mobile.recovery.warmup.layer_activations import LayerwiseDecoder, batches, hidden_file
from sharp_mobile.recovery.warmup.parallel import Job, Workers
from sharp_mobile.recovery.warmup.saved_fits import Fitted, SavedFits, TargetFit, read_fit


class _Bar:
    """A progress bar that counts the tokens of every pass."""

    def __init__(self, tokens: int) -> None:
        self._bar = progress_bar(total=tokens, unit="token", unit_scale=True)
        self.layer = 0

    def say(self, what: str) -> None:
        self._bar.set_description(f"layer {self.layer + 1} {what}")

    def step(self, tokens: int) -> None:
        self._bar.update(tokens)

    def close(self) -> None:
        self._bar.close()


@dataclass(frozen=True)
class Targets:
    """What is fitted, by layer (0-based).

    Args:
        groups: of layers that have common bases.
        first: the first layer that differs from the original model's; layers before it are the same.
    """

    mlps: Mapping[int, Target]
    attentions: Mapping[int, AttentionTarget]
    groups: Sequence[BasisGroup]
    first: int

    def only(self, chosen: Sequence[Fitted]) -> "Targets":
        """Some of them; of a group of bases all or none."""
        return replace(
            self,
            mlps={layer: target for layer, target in self.mlps.items() if target in chosen},
            attentions={layer: target for layer, target in self.attentions.items() if target in chosen},
            groups=[group for group in self.groups if any(its in chosen for its in group.targets.values())],
        )

    def all(self) -> list[Fitted]:
        """All of them, in an order that is always the same."""
        bases = [target for group in self.groups for target in group.targets.values()]
        return [*bases, *self.attentions.values(), *self.mlps.values()]


class Streams(ABC):
    """What both ways have in common.

    Args:
        model: already shared.
        targets: those to be fitted.
        originals: what all layers had that share anything, or have recovery parameters.
        windows: calibration tokens, int64 [windows, T].
        saved: where fits are kept, and taken from.
        directory: for hidden states; emptied by its owner.
        simulation: of the export; without one the model computes in float.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        targets: Targets,
        originals: Mapping[int, LayerParts],
        windows: torch.Tensor,
        settings: WarmupSettings,
        saved: SavedFits,
        directory: Path,
        simulation: Simulation | None,
    ) -> None:
        self.model, self.simulation = model, simulation
        self.family, self.targets, self.originals = family, targets.mlps, originals
        self.attentions, self.groups, self.first = targets.attentions, targets.groups, targets.first
        self.windows, self.settings, self.saved, self.directory = windows, settings, saved, directory
        self.layers = decoder_layers(model)
        self.decoder = LayerwiseDecoder(model, windows[:1])
        self.parts = batches(windows)
        length = windows.shape[1]
        self.rows = [slice(part.start * length, part.stop * length) for part in self.parts]
        self.hidden = causal_lm(model).config.hidden_size
        self.last = max((*self.targets, *self.attentions), default=-1)  # nothing is learnt after it
        passes = self.last + 1 + settings.passes * len(self.targets)
        passes += sum(target.passes for target in self.attentions.values())
        passes += max((group.last for group in self.groups), default=-1) + 1
        self.bar = _Bar(windows.numel() * passes)

    @abstractmethod
    def fits(self) -> Iterator[TargetFit]:
        """Fit the targets, ascending.

        Raises:
            SharpError: a target cannot be fitted; those before it are kept.
        """

    def _as_original(self) -> AbstractContextManager[None]:
        """Within it the model computes in float."""
        return nullcontext() if self.simulation is None else self.simulation.suspended()

    def _embedded(self, name: str) -> torch.Tensor:
        """A new file with what the first layer reads, [windows, T, hidden]."""
        hidden = hidden_file(self.directory / name, *self.windows.shape, self.hidden)
        for part in self.parts:
            hidden[part] = self.decoder.embed(self.windows[part])
        return hidden

    def _each(self, index: int) -> Iterator[tuple[slice, slice]]:
        """Windows and rows of every batch, for a pass that carries the streams through a layer."""
        self.bar.layer = index
        self.bar.say("activations")
        for part, rows in zip(self.parts, self.rows, strict=True):
            yield part, rows
            self.bar.step(rows.stop - rows.start)

    @contextmanager
    def _with(self, index: int, *, mlp: nn.Module | None = None, attention: nn.Module | None = None) -> Iterator[None]:
        """Another MLP or attention in a layer for a moment."""
        layer = self.layers[index]
        before = layer.self_attn, layer.mlp
        layer.self_attn = layer.self_attn if attention is None else cast(SelfAttention, attention)
        layer.mlp = layer.mlp if mlp is None else mlp
        try:
            yield
        finally:
            layer.self_attn, layer.mlp = before


class OriginalStream(Streams):
    """The original stream alone; see the module."""

    def fits(self) -> Iterator[TargetFit]:
        stream = self._embedded("original")
        with Workers(self.settings.workers) as workers:
            for index in range(self.last + 1):
                target = self.targets.get(index)
                kept = self.saved.load(target) if target else None
                if target and not kept:
                    yield from self._taken(workers.submit(self._job(index, stream), target, self.bar))
                    continue
                self._carry(index, stream)
                if kept:
                    self.bar.step(self.settings.passes * self.windows.numel())
                    yield kept
            yield from self._taken(workers.rest())

    def _carry(self, index: int, stream: torch.Tensor) -> None:
        own = self.originals.get(index)
        with self._with(index, mlp=None if own is None else own.mlp):
            for part, _ in self._each(index):
                stream[part] = self.decoder.layer(index, stream[part])

    def _job(self, index: int, stream: torch.Tensor) -> Job:
        """Carry the stream through a target's layer, keeping what its original MLP reads and writes."""
        directory = Path(tempfile.mkdtemp(prefix=f"layer-{index + 1}-", dir=self.directory))
        rows, settings, result = tuple(self.rows), self.settings, self.saved.path(self.targets[index])
        job = Job(directory, self.windows.numel(), self.hidden, rows, settings, result)
        x, y = job.activations()
        position = iter(self.rows)

        def keep(mlp: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            part = next(position)
            x[part], y[part] = args[0].flatten(0, 1), output.flatten(0, 1)

        hook = self.targets[index].own.register_forward_hook(keep)
        try:
            self._carry(index, stream)
        finally:
            hook.remove()
        return job

    def _taken(self, fits: list[TargetFit]) -> Iterator[TargetFit]:
        for fit in fits:
            if self.settings.workers > 1:  # fitted in another process
                target = self.targets[fit.layer]
                read_fit(self.saved.path(target), target.state())
                self.bar.step(self.settings.passes * self.windows.numel())
            yield fit
