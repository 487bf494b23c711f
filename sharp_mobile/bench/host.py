"""Benchmark exports on this machine, alternating between them.

    repetition 1:   export A: first, later, answer, cold   export B: first, later, answer, cold
    repetition 2:   export A: first, later, answer, cold   export B: first, later, answer, cold
    …
    threads sweep:  export A: one launch for each number of threads   export B: …
    sustained run:  export A: one launch   export B: one launch

    first    load and init without packed weights on disk, which this launch writes; then a prompt, to the first token
    later    load and init with them; then forwards, prefill, decode, decode at depths, and memory
    answer   load and init with them; then a prompt, to the first token
    cold     load and init after the pages of both files were dropped

Every launch is a separate process. Alternating spreads the machine's other work over all exports; read the medians.
Before the first repetition each export generates its manifest's tokens, to check that it works.

With a memory limit the page cache is dropped before every later launch, so that file pages count for the process. All
these launches are cold. The first launch, which packs, runs without the limit.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from sharp_mobile.bench import page_cache
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.measured import Measured
from sharp_mobile.bench.memory_limit import memory_limit
from sharp_mobile.bench.options import BenchOptions, thread_counts
from sharp_mobile.bench.packed_cache import PACKED_CACHES, PackedCache, cache_key, cpu_class
from sharp_mobile.bench.results import Results
from sharp_mobile.bench.runner import Killed, Launch, Task, build_runner, launch
from sharp_mobile.bench.this_machine import Sampler, this_device
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError
from sharp_mobile.pte.package import executorch_package


class Bench:
    """One export with its packed weights, and its kinds of launch."""

    def __init__(self, export: Export, plan: BenchOptions, runner: Path, cache: PackedCache | None) -> None:
        self.export, self.plan, self.runner, self.cache = export, plan, runner, cache

    def generate(self) -> tuple[int, ...]:
        """Continue the manifest's prompt, with as many tokens as the manifest has."""
        prompt, count = self.export.prompt, len(self.export.tokens)
        return self._launch(Task(prompt=prompt, forwards=0, warmups=0, tokens=count), None).tokens

    def first(self) -> Launch:
        """Load without packed weights on disk, write them, and run a prompt."""
        task = self.plan.prompt_task(self.export)
        if self.cache is None:
            return self._launch(task, None)
        launches: list[Launch] = []
        self.cache.make(lambda path: launches.append(self._launch(task, path)))
        return launches[0]

    def later(self) -> Launch:
        """A launch with all measurements, with the packed weights of an earlier one, within the plan's memory limit."""
        return self.limited(self.plan.whole_task(self.export), self.plan.memory_limit)

    def answer(self) -> Launch:
        """Load with the packed weights of an earlier launch, and run a prompt."""
        return self._with_cache(lambda path: self._launch(self.plan.prompt_task(self.export), path))

    def sweep(self, threads: int) -> Launch:
        """Prefills and decodes with a number of threads."""
        task = replace(self.plan.sweep_task(self.export), threads=threads)
        return self._with_cache(lambda path: self._launch(task, path))

    def sustain(self) -> Launch:
        """Decode for the plan's seconds."""
        return self._with_cache(lambda path: self._launch(self.plan.sustained_task(self.export), path))

    def cold(self) -> Launch:
        """Load with packed weights, after dropping their pages."""
        return self._with_cache(lambda path: self._load(path, dropped=True))

    def limited(self, task: Task, limit: int | None) -> Launch:
        """A launch within a memory limit; with a limit, the model's pages are dropped first.

        Raises:
            Killed: the launch needs more memory.
        """
        with memory_limit(limit) as prefix:
            try:
                return self._with_cache(lambda path: self._launch(task, path, prefix, dropped=limit is not None))
            except Killed as error:
                if limit is None:
                    raise
                raise Killed(
                    f"{self.export.pte}: does not run within {limit:,} bytes of memory: the kernel killed it; "
                    "allow it more, or share more layers"
                ) from error

    def _with_cache(self, launch: Callable[[Path | None], Launch]) -> Launch:
        return launch(None) if self.cache is None else self.cache.used_by(launch, make=self._load)

    def _load(self, path: Path | None, *, dropped: bool = False) -> Launch:
        return self._launch(Task(forwards=0, warmups=0), path, dropped=dropped)

    def _launch(self, task: Task, path: Path | None, prefix: Sequence[str] = (), *, dropped: bool = False) -> Launch:
        """Start the runner; with `dropped`, drop the pages of the `.pte` and the packed weights first."""
        if dropped:
            for file in (self.export.pte, path):
                if file is not None:
                    page_cache.drop(file)
        task = replace(
            task, threads=task.threads or self.plan.threads, weight_cache=self.plan.weight_cache, packed_cache=path
        )
        return launch(self.runner, self.export.pte, task, prefix)


@contextmanager
def benches(exports: Sequence[Export], plan: BenchOptions, caches: Path = PACKED_CACHES) -> Iterator[list[Bench]]:
    """A bench for every export: compile the runner, and lock the packed weights.

    Raises:
        SharpError: the runner cannot be compiled, or another benchmark uses the packed weights.
    """
    if twice := [sha for sha, count in Counter(e.identity.sha256 for e in exports).items() if count > 1]:
        same = ", ".join(str(export.directory) for export in exports if export.identity.sha256 in twice)
        raise SharpError(f"{same}: are the same export; name it once")
    runner, (_, runtime) = build_runner(), executorch_package()
    with ExitStack() as stack:
        opened = []
        for export in exports:
            cache = None
            if plan.weight_cache:
                key = cache_key(export.identity.sha256, runtime, cpu_class())
                cache = stack.enter_context(PackedCache(key, caches).in_use())
            opened.append(Bench(export, plan, runner, cache))
        yield opened


def run(exports: Sequence[Export], plan: BenchOptions, caches: Path = PACKED_CACHES) -> list[Results]:
    """Measure exports, alternating between them; the results are in their order.

    Raises:
        SharpError: as `benches`; a launch fails, or does not fit within the memory limit; a depth does not fit in an
            export's KV cache.
    """
    for export in exports:
        plan.depths_of(export)
    with benches(exports, plan, caches) as opened, Sampler() as conditions:
        measured = [Measured(tokens=bench.generate()) for bench in opened]
        for repetition in range(plan.repetitions):
            for bench, launches in zip(opened, measured, strict=True):
                _cool_down(plan)
                say(f"repetition {repetition + 1} of {plan.repetitions}: {bench.export.identity.name}")
                launches.first.append(bench.first())
                launches.later.append(bench.later())
                if bench.cache is not None and plan.memory_limit is None:
                    launches.answer.append(bench.answer())
                    launches.cold.append(bench.cold())
        for threads in thread_counts(plan.threads_sweep, this_device()):
            for bench, launches in zip(opened, measured, strict=True):
                _cool_down(plan)
                say(f"{threads} threads: {bench.export.identity.name}")
                launches.sweep.append(bench.sweep(threads))
        for bench, launches in zip(opened, measured, strict=True):
            if plan.sustain:
                _cool_down(plan)
                say(f"sustained: {bench.export.identity.name}, {plan.sustain} s")
                launches.sustained = (conditions.elapsed, bench.sustain())
    return [
        launches.results(export, plan, conditions.taken) for export, launches in zip(exports, measured, strict=True)
    ]


def _cool_down(plan: BenchOptions) -> None:
    time.sleep(plan.cool_down)
