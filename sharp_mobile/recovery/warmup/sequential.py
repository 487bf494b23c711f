"""Targets one after the other, each on what it will really read.

    original    ──layer──layer──target──►   two streams in two files; each target learns what brings the recovered one
    recovered   ──layer──layer──fitted──►   back to the original, and is then passed by it

Of a layer, its attention is fitted first, to the original stream's middle (a third file), and then its MLP. Bases come
before all that, in a walk of the original stream alone: a group's first layer needs the statistics of all its layers.
A kv target reads what its reference made of the same windows, which is in memory from the one to the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from torch import nn

from sharp_mobile.model.modules import LayerParts, NoMLP
from sharp_mobile.model.shared_attention import Kept, kept_outputs, refitted_linears, share_attention
from sharp_mobile.recipe.recovery import AttentionRecovery
from sharp_mobile.recovery.warmup.attention import (
    AttentionBatch,
    AttentionTarget,
    fit_attention,
    measure_attention,
    watched,
)
from sharp_mobile.recovery.warmup.bases import collecting
from sharp_mobile.recovery.warmup.fit import fit_target, measure, named
from sharp_mobile.recovery.warmup.layer_activations import hidden_file
from sharp_mobile.recovery.warmup.layerwise import Streams
from sharp_mobile.recovery.warmup.regression import FitError, StreamRegression
from sharp_mobile.recovery.warmup.saved_fits import TargetFit


class SequentialStreams(Streams):
    """Both streams; see the module."""

    _kept: Sequence[Kept] = ()

    def fits(self) -> Iterator[TargetFit]:
        yield from self._bases()
        if self.last < 0:
            return
        with self._as_original():
            original = self._embedded("original")
        if self.simulation is None:
            recovered, first = hidden_file(self.directory / "recovered", *original.shape), self.first
        else:
            recovered, first = self._embedded("recovered"), -1
        self._kept = kept_outputs(self.model)
        try:
            for index in range(self.last + 1):
                source = original if index <= first else recovered
                if index in self.attentions:
                    yield self._attention_target(index, original, source)
                if index in self.targets:
                    yield self._target(index, original, source, recovered)
                else:
                    self._carry(index, original, source, recovered if index >= first else None)
                for kept in self._last_read(index):
                    kept.forget()
        finally:
            for kept in self._kept:
                kept.forget()
                kept.key = None

    def _last_read(self, index: int) -> list[Kept]:
        """The keys and values that no layer reads after this one."""
        last: dict[int, int] = {}
        for layer, target in self.attentions.items():
            if target.recovery.kind == "kv" and target.recovery.reference is not None:
                last[target.recovery.reference] = max(layer, last.get(target.recovery.reference, 0))
        references = [reference for reference, reader in last.items() if reader == index]
        return [kept for reference in references for kept in kept_outputs(self._module(reference))]

    def _module(self, index: int) -> nn.Module:
        return cast(nn.Module, self.layers[index])

    def _layer(self, index: int, part: slice, hidden: torch.Tensor) -> torch.Tensor:
        """A layer on the recovered stream, where a kv target reads what its reference made of the same windows."""
        for kept in self._kept:
            kept.key = part.start
        return self.decoder.layer(index, hidden)

    @contextmanager
    def _as_it_was(self, index: int) -> Iterator[None]:
        """The original layer, within the original stream."""
        for kept in self._kept:
            kept.key = None  # what it makes is no recovered target's
        own = self.originals.get(index) or LayerParts(self.layers[index].self_attn, self.layers[index].mlp)
        with self._as_original(), self._with(index, attention=cast(nn.Module, own.self_attn), mlp=own.mlp):
            yield

    def _carry(self, index: int, original: torch.Tensor, source: torch.Tensor, recovered: torch.Tensor | None) -> None:
        """Bring the streams through a layer; without a recovered one, the two are one."""
        for part, _ in self._each(index):
            if recovered is None:
                original[part] = self._layer(index, part, original[part])
                continue
            behind = self._layer(index, part, source[part])
            with self._as_it_was(index):
                original[part] = self.decoder.layer(index, original[part])
            recovered[part] = behind

    def _target(self, index: int, original: torch.Tensor, source: torch.Tensor, recovered: torch.Tensor) -> TargetFit:
        """Fit one target; afterwards both streams are behind its layer."""
        target = self.targets[index]
        try:
            task = self._task(index, original, source, recovered)
            kept = self.saved.load(target)
            if kept is None:
                fit_target(target, task, self.settings, self.bar)
            else:
                self.bar.step((self.settings.passes - 1) * task.tokens)
            fit = measure(target, task, self.bar, then=task.advance)
        except FitError as error:
            raise named(index, error) from error
        if kept is None:
            self.saved.save(target, fit)
        return fit

    def _task(
        self, index: int, original: torch.Tensor, source: torch.Tensor, recovered: torch.Tensor
    ) -> StreamRegression:
        """Step both streams: `original` to the layer's end, `recovered` to its middle."""
        own = self.targets[index].own
        scale = torch.empty(self.windows.shape)
        position = iter(self.parts)

        def keep(mlp: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            scale[next(position)] = output.pow(2).mean(-1).sqrt()

        hook = own.register_forward_hook(keep)
        try:
            for part, _ in self._each(index):
                with self._with(index, mlp=NoMLP()):
                    middle = self._layer(index, part, source[part])
                with self._as_it_was(index), self._with(index, mlp=own):
                    original[part] = self.decoder.layer(index, original[part])
                recovered[part] = middle
        finally:
            hook.remove()
        weighted = self.settings.weighted
        layer = self.layers[index]
        return StreamRegression(layer, self.family, recovered, original, scale, self.rows, weighted)

    def _attention_target(self, index: int, original: torch.Tensor, source: torch.Tensor) -> TargetFit:
        """Fit the attention of one target; both streams stay at the layer's start."""
        target = self.attentions[index]
        run = partial(self._run, index, source)
        try:
            task = self._attention_task(index, original, source)
            kept = self.saved.load(target)
            if kept is None:
                fit_attention(target, task, run, self.bar)
            else:
                self.bar.step(target.fitting_passes * task.tokens)
            if self.simulation is not None:
                for _, linear in refitted_linears(target.attention):
                    self.simulation.round_again(linear)
            fit = measure_attention(target, task, run, self._direct(target), self.bar)
        except FitError as error:
            raise named(index, error) from error
        if kept is None:
            self.saved.save(target, fit)
        return fit

    def _attention_task(self, index: int, original: torch.Tensor, source: torch.Tensor) -> StreamRegression:
        middle = hidden_file(self.directory / "middle", *original.shape)
        scale = torch.empty(self.windows.shape)
        position = iter(self.parts)

        def keep(attention: nn.Module, args: object, output: tuple[torch.Tensor, object]) -> None:
            scale[next(position)] = output[0].pow(2).mean(-1).sqrt()

        hook = cast(nn.Module, self.attentions[index].own).register_forward_hook(keep)
        try:
            for part, _ in self._each(index):
                with self._as_it_was(index), self._with(index, mlp=NoMLP()):
                    middle[part] = self.decoder.layer(index, original[part])
        finally:
            hook.remove()
        layer, weighted = self.layers[index], self.settings.weighted
        return StreamRegression(layer, self.family, source, middle, scale, self.rows, weighted, "attention")

    def _run(self, index: int, source: torch.Tensor, attention: nn.Module) -> Iterator[AttentionBatch]:
        """An attention in a layer, on the recovered stream at the layer's start."""
        with watched(attention) as batch, self._with(index, mlp=NoMLP(), attention=attention):
            for part, rows in zip(self.parts, self.rows, strict=True):
                self._layer(index, part, source[part])
                yield batch(rows)

    def _direct(self, target: AttentionTarget) -> nn.Module | None:
        """The direct share instead of a target's attention; None where nothing is called."""
        own = target.recovery
        if own.reference is None:
            return None
        with self._with(target.layer, attention=cast(nn.Module, target.own)):
            share_attention(self.layers, {target.layer: AttentionRecovery(own.kind, own.reference)})
            return cast(nn.Module, self.layers[target.layer].self_attn)

    def _bases(self) -> Iterator[TargetFit]:
        """Fit the bases of all groups on the original stream, which all groups learn from as it is."""
        left = []
        for each in self.groups:
            kept = [self.saved.load(target) for target in each.targets.values()]
            fits = [fit for fit in kept if fit is not None]
            if len(fits) == len(kept):
                yield from fits
            else:
                left.append(each)
        walked = max((each.last for each in left), default=-1)
        self.bar.step(self.windows.numel() * (max((each.last for each in self.groups), default=-1) - walked))
        if not left:
            return
        group_of = {layer: group for group in left for layer in group.targets}
        with self._as_original():
            stream = self._embedded("original")
        self._kept = kept_outputs(self.model)
        for index in range(walked + 1):
            group = group_of.get(index)
            linears = set(group.targets[index].readers.values()) if group else set[nn.Module]()
            with collecting(linears) as grams, self._as_it_was(index):
                for part, _ in self._each(index):
                    stream[part] = self.decoder.layer(index, stream[part])
            try:
                fits = group.take(index, grams) if group else []
            except FitError as error:
                raise named(index, error) from error
            for fit in fits:
                self.saved.save(group_of[fit.layer].targets[fit.layer], fit)
                yield fit
        for kept_output in self._kept:
            kept_output.forget()
