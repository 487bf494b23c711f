"""Targets of `original` inputs are independent, so worker processes and torchrun's ranks can fit them side by side.

    workers   one process carries the stream and writes each target's x and Y to files; a pool of others fits
    ranks     every rank carries the stream itself and fits targets number rank, rank + world, ...; then each target's
              owner broadcasts its parameters, so that all ranks end with the same model

With `sequential` inputs rank 0 fits all targets and the others take them.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.fit import Progress, Silent, Target, fit_target, measure, named
from sharp_mobile.recovery.warmup.layer_activations import hidden_file
from sharp_mobile.recovery.warmup.regression import FitError, StoredRegression
from sharp_mobile.recovery.warmup.saved_fits import TargetFit, write_fit

_LONGEST_WAIT = timedelta(days=7)  # for the slowest rank's targets


@dataclass(frozen=True)
class Job:
    """One target to fit, all of it in a directory: `x` and `y` [tokens, hidden], float32, and `target.pt`.

    Args:
        result: where the fit is written.
    """

    directory: Path
    tokens: int
    hidden: int
    parts: tuple[slice, ...]
    settings: WarmupSettings
    result: Path

    def activations(self) -> tuple[torch.Tensor, torch.Tensor]:
        """x and Y, mapped from their files."""
        x, y = (hidden_file(self.directory / name, self.tokens, self.hidden) for name in "xy")
        return x, y


def fit_job(job: Job, target: Target | None = None, progress: Progress | None = None) -> TargetFit:
    """Fit a job's target and write the result; with `target` None it is read from the job's directory.

    Raises:
        SharpError: the target cannot be fitted; it is named.
    """
    progress = progress or Silent()
    # Written by `Workers.submit` of this very run, so unpickling it is safe.
    found: Target = target or torch.load(job.directory / "target.pt", weights_only=False)
    try:
        with torch.no_grad():
            task = StoredRegression(*job.activations(), list(job.parts), job.settings.weighted)
            fit_target(found, task, job.settings, progress)
            fit = measure(found, task, progress)
    except FitError as error:
        raise named(found.layer, error) from error
    job.result.parent.mkdir(parents=True, exist_ok=True)
    write_fit(job.result, found.state(), fit)
    return fit


class Workers:
    """A pool of spawned processes; with one worker there is no pool, and jobs run at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._stack = ExitStack()
        self._waiting: list[tuple[Job, Future[TargetFit]]] = []

    def __enter__(self) -> "Workers":
        if self.count > 1:
            threads = max(1, torch.get_num_threads() // self.count)
            pool = ProcessPoolExecutor(self.count, get_context("spawn"), torch.set_num_threads, (threads,))
            self._pool = self._stack.enter_context(pool)
        return self

    def __exit__(self, *exception: object) -> None:
        for _, future in self._waiting:
            future.cancel()
        self._stack.close()

    def submit(self, job: Job, target: Target, progress: Progress) -> list[TargetFit]:
        """Start a job; returns the fits that are done by now. Waits while as many jobs as workers are under way."""
        if self.count == 1:
            fit = fit_job(job, target, progress)
            shutil.rmtree(job.directory)
            return [fit]
        # Not through the pool's pipe: PyTorch would send the weights by shared memory, of which containers have little.
        torch.save(target, job.directory / "target.pt")
        self._waiting.append((job, self._pool.submit(fit_job, job)))
        return self._finished(self.count)

    def rest(self) -> list[TargetFit]:
        """The fits that are left, all jobs being done."""
        return self._finished(0)

    def _finished(self, left: int) -> list[TargetFit]:
        fits = []
        while len(self._waiting) > left:
            job, future = self._waiting.pop(0)
            fits.append(future.result())
            shutil.rmtree(job.directory)
        return fits


@dataclass(frozen=True)
class Ranks:
    """The processes of torchrun, this one being `rank` of `world`; a process alone is 0 of 1."""

    rank: int
    world: int
    group: "dist.ProcessGroup | None" = None

    def owner(self, position: int) -> int:
        """The rank that fits the target at a position of the plan's targets."""
        return position % self.world

    def exchange(
        self, owned: Sequence[tuple[int, Mapping[str, torch.Tensor]]], fits: Sequence[TargetFit], error: str | None
    ) -> list[TargetFit]:
        """Give every rank what was fitted of all targets, and return all fits; a collective call.

        Args:
            owned: the rank that has each target, and what is fitted of it.
            fits, error: this rank's fits, or what went wrong in it.

        Raises:
            SharpError: something went wrong in some rank; every rank raises it.
        """
        everyone: list[tuple[list[TargetFit], str | None]] = [([], None)] * self.world
        dist.all_gather_object(everyone, (list(fits), error), group=self.group)
        for _, theirs in everyone:
            if theirs:
                raise SharpError(theirs)
        for owner, state in owned:
            for tensor in state.values():
                dist.broadcast(tensor.detach(), owner, group=self.group)
        return [fit for theirs, _ in everyone for fit in theirs]


@contextmanager
def ranks() -> Iterator[Ranks]:
    """This process among those that torchrun started (RANK and WORLD_SIZE in the environment), over gloo.

    A process group that exists already stays; one made here ends with the block.
    """
    ours = not dist.is_initialized()
    if ours and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(0, 1)
        return
    if ours:
        dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
    group = dist.group.WORLD if ours else dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), group)
    finally:
        if ours:
            dist.destroy_process_group()
        else:
            dist.destroy_process_group(group)
