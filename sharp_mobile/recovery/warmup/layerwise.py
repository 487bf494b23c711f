"""The hidden states' way through the layers, and the targets fitted on it.

    sequential   original    ──layer──layer──target──►     two streams in two files; each target learns what brings the
                 recovered   ──layer──layer──fitted──►     recovered one back to the original, and is then passed by it
    original     original    ──layer──layer──target──►     one stream; what each target's MLP reads and writes is kept
                                         x, Y ──► fit      in two files until it is fitted

Memory holds one batch of hidden states, whatever the text's length.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from sharp_mobile.console import progress_bar
from sharp_mobile.model.families import Family
from sharp_mobile.model.modules import NoMLP, decoder_layers, mlp_weights
from sharp_mobile.quantize.fake_quantize import Simulation
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.fit import Target, fit_target, measure, named
from sharp_mobile.recovery.warmup.layer_activations import LayerwiseDecoder, batches, hidden_file
from sharp_mobile.recovery.warmup.parallel import Job, Workers
from sharp_mobile.recovery.warmup.regression import FitError, StreamRegression
from sharp_mobile.recovery.warmup.saved_fits import SavedFits, TargetFit, read_fit


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


class Streams(ABC):
    """What both ways have in common.

    Args:
        model: already shared.
        targets: those to be fitted, by layer.
        originals: the original MLPs of all targets of the plan.
        windows: calibration tokens, int64 [windows, T].
        saved: where fits are kept, and taken from.
        directory: for hidden states; emptied by its owner.
        simulation: of the export; without one the model computes in float.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        targets: dict[int, Target],
        originals: dict[int, nn.Module],
        windows: torch.Tensor,
        settings: WarmupSettings,
        saved: SavedFits,
        directory: Path,
        simulation: Simulation | None,
    ) -> None:
        self.simulation = simulation
        self.family, self.targets, self.originals = family, targets, originals
        self.windows, self.settings, self.saved, self.directory = windows, settings, saved, directory
        self.layers = decoder_layers(model)
        self.decoder = LayerwiseDecoder(model, windows[:1])
        self.parts = batches(windows)
        length = windows.shape[1]
        self.rows = [slice(part.start * length, part.stop * length) for part in self.parts]
        self.hidden = mlp_weights(next(iter(originals.values()))).gate.shape[1]
        self.last = max(targets, default=-1)  # nothing is learnt after it
        self.bar = _Bar(windows.numel() * (self.last + 1 + settings.passes * len(targets)))

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
    def _mlp(self, index: int, mlp: nn.Module) -> Iterator[None]:
        """Another MLP in a layer for a moment."""
        before = self.layers[index].mlp
        self.layers[index].mlp = mlp
        try:
            yield
        finally:
            self.layers[index].mlp = before


class SequentialStreams(Streams):
    """Both streams; see the module."""

    def fits(self) -> Iterator[TargetFit]:
        with self._as_original():
            original = self._embedded("original")
        if self.simulation is None:
            recovered = hidden_file(self.directory / "recovered", *original.shape)
            first = min(self.targets, default=0)  # before it the two streams are one
        else:
            recovered, first = self._embedded("recovered"), -1
        for index in range(self.last + 1):
            if index in self.targets:
                yield self._target(index, original, original if index == first else recovered, recovered)
                continue
            for part, _ in self._each(index):
                with self._as_original():
                    original[part] = self.decoder.layer(index, original[part])
                if index > first:
                    recovered[part] = self.decoder.layer(index, recovered[part])

    def _target(self, index: int, original: torch.Tensor, source: torch.Tensor, recovered: torch.Tensor) -> TargetFit:
        """Fit one target; afterwards both streams are behind its layer."""
        target = self.targets[index]
        try:
            task = self._task(index, original, source, recovered)
            kept = self.saved.load(index, target.mlp)
            if kept is None:
                fit_target(target, task, self.settings, self.bar)
            else:
                self.bar.step((self.settings.passes - 1) * task.tokens)
            fit = measure(target, task, self.bar, then=task.advance)
        except FitError as error:
            raise named(index, error) from error
        if kept is None:
            self.saved.save(target.mlp, fit)
        return fit

    def _task(
        self, index: int, original: torch.Tensor, source: torch.Tensor, recovered: torch.Tensor
    ) -> StreamRegression:
        """Step both streams: `original` to the layer's end, `recovered` to its middle."""
        own = self.originals[index]
        scale = torch.empty(self.windows.shape)
        position = iter(self.parts)

        def keep(mlp: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            scale[next(position)] = output.pow(2).mean(-1).sqrt()

        hook = own.register_forward_hook(keep)
        try:
            for part, _ in self._each(index):
                with self._mlp(index, NoMLP()):
                    middle = self.decoder.layer(index, source[part])
                with self._mlp(index, own), self._as_original():
                    original[part] = self.decoder.layer(index, original[part])
                recovered[part] = middle
        finally:
            hook.remove()
        weighted = self.settings.weighted
        layer = self.layers[index]
        return StreamRegression(layer, self.family, recovered, original, scale, self.rows, weighted)


class OriginalStream(Streams):
    """The original stream alone; see the module."""

    def fits(self) -> Iterator[TargetFit]:
        stream = self._embedded("original")
        with Workers(self.settings.workers) as workers:
            for index in range(self.last + 1):
                target = self.targets.get(index)
                kept = self.saved.load(index, target.mlp) if target else None
                if target and not kept:
                    yield from self._taken(workers.submit(self._job(index, stream), target, self.bar))
                    continue
                self._carry(index, stream)
                if kept:
                    self.bar.step(self.settings.passes * self.windows.numel())
                    yield kept
            yield from self._taken(workers.rest())

    def _carry(self, index: int, stream: torch.Tensor) -> None:
        with self._mlp(index, self.originals.get(index, self.layers[index].mlp)):
            for part, _ in self._each(index):
                stream[part] = self.decoder.layer(index, stream[part])

    def _job(self, index: int, stream: torch.Tensor) -> Job:
        """Carry the stream through a target's layer, keeping what its original MLP reads and writes."""
        directory = Path(tempfile.mkdtemp(prefix=f"layer-{index + 1}-", dir=self.directory))
        rows, settings, result = tuple(self.rows), self.settings, self.saved.path(index)
        job = Job(directory, self.windows.numel(), self.hidden, rows, settings, result)
        x, y = job.activations()
        position = iter(self.rows)

        def keep(mlp: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            part = next(position)
            x[part], y[part] = args[0].flatten(0, 1), output.flatten(0, 1)

        hook = self.originals[index].register_forward_hook(keep)
        try:
            self._carry(index, stream)
        finally:
            hook.remove()
        return job

    def _taken(self, fits: list[TargetFit]) -> Iterator[TargetFit]:
        for fit in fits:
            if self.settings.workers > 1:  # fitted in another process
                read_fit(self.saved.path(fit.layer), self.targets[fit.layer].mlp)
                self.bar.step(self.settings.passes * self.windows.numel())
            yield fit
