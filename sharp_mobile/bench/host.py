"""Benchmark exports on this machine, alternating between them.

    repetition 1:   export A: first, later, cold   export B: first, later, cold
    repetition 2:   export A: first, later, cold   export B: first, later, cold
    …

    first   load and init without packed weights on disk, which this launch writes
    later   load and init with them; then forwards, prefill, decode and memory
    cold    load and init after the pages of both files were dropped

Every launch is a separate process. Alternating spreads the machine's other work over all exports; read the medians.
Before the first repetition each export generates its manifest's tokens, to check that it works.

With a memory limit the page cache is dropped before every later launch, so that file pages count for the process. All
these launches are cold. The first launch, which packs, runs without the limit.
"""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sharp_mobile.bench import page_cache
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.memory_limit import memory_limit
from sharp_mobile.bench.packed_cache import PACKED_CACHES, PackedCache, cache_key, cpu_class, cpu_name
from sharp_mobile.bench.results import Device, Load, Memory, Results, Samples, Settings, TokenSamples, now
from sharp_mobile.bench.runner import Killed, Launch, Task, build_runner, launch
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError
from sharp_mobile.pte.package import executorch_package

_DEFAULT_PREFILL, _DEFAULT_DECODE = 128, 64


@dataclass(frozen=True)
class BenchOptions:
    """The options of a benchmark.

    Attributes:
        repetitions: launches of each kind.
        prefill, decode: tokens; None for 128 and 64, or fewer if the export's cache is shorter.
        memory_limit: bytes for each process.
    """

    threads: int = 1
    repetitions: int = 5
    forwards: int = 5
    prefill: int | None = None
    decode: int | None = None
    weight_cache: bool = True
    memory_limit: int | None = None

    def task(self, export: Export) -> Task:
        """A launch of an export with all measurements."""
        room = export.length - len(export.prompt)
        return Task(
            prompt=export.prompt,
            forwards=self.forwards,
            prefill=self.prefill or min(_DEFAULT_PREFILL, export.length - 1),
            prefill_runs=1,
            decode=self.decode or min(_DEFAULT_DECODE, room),
            decode_runs=1,
        )


@dataclass
class Measured:
    """The launches of one export, by kind."""

    first: list[Launch] = field(default_factory=list)
    later: list[Launch] = field(default_factory=list)
    cold: list[Launch] = field(default_factory=list)


class Bench:
    """One export with its packed weights, and its kinds of launch."""

    def __init__(self, export: Export, plan: BenchOptions, runner: Path, cache: PackedCache | None) -> None:
        self.export, self.plan, self.runner, self.cache = export, plan, runner, cache

    def generate(self) -> tuple[int, ...]:
        """Continue the manifest's prompt, with as many tokens as the manifest has."""
        prompt, count = self.export.prompt, len(self.export.tokens)
        return self._launch(Task(prompt=prompt, forwards=0, warmups=0, tokens=count), None).tokens

    def first(self) -> Launch:
        """Load without packed weights on disk, and write them."""
        if self.cache is None:
            return self._load(None)
        launches: list[Launch] = []
        self.cache.make(lambda path: launches.append(self._load(path)))
        return launches[0]

    def later(self) -> Launch:
        """A launch with all measurements, with the packed weights of an earlier one, within the plan's memory limit."""
        return self.limited(self.plan.task(self.export), self.plan.memory_limit)

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
        plan = self.plan
        task = replace(task, threads=plan.threads, weight_cache=plan.weight_cache, packed_cache=path)
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
        SharpError: as `benches`; a launch fails; or one does not fit within the memory limit.
    """
    with benches(exports, plan, caches) as opened:
        generated = [bench.generate() for bench in opened]
        measured = [Measured() for _ in opened]
        for repetition in range(plan.repetitions):
            for bench, launches in zip(opened, measured, strict=True):
                say(f"repetition {repetition + 1} of {plan.repetitions}: {bench.export.identity.name}")
                launches.first.append(bench.first())
                launches.later.append(bench.later())
                if bench.cache is not None and plan.memory_limit is None:
                    launches.cold.append(bench.cold())
    return [
        _results(export, plan, launches, tokens)
        for export, launches, tokens in zip(exports, measured, generated, strict=True)
    ]


def divergence_warnings(
    export: Export, tokens: Sequence[int], likeliest: Sequence[tuple[int, float]] = ()
) -> tuple[str, ...]:
    """The warnings for an export that does not generate the tokens of its manifest.

    Args:
        likeliest: tokens and logits after the prompt, to show how close a different first token is.
    """
    if tuple(tokens) == export.tokens:
        return ()
    pairs = zip(tokens, export.tokens, strict=False)
    position = next(
        (i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(tokens), len(export.tokens))
    )
    logits = dict(likeliest)
    if position == 0 and tokens and export.tokens and export.tokens[0] in logits:
        behind = logits[tokens[0]] - logits[export.tokens[0]]
        why = (
            f"kernels of another CPU round differently, and here the manifest's token is {behind:.2f} behind in logits"
        )
    elif position == 0:
        why = "a first token that is not even among the likeliest means another model"
    else:
        why = "kernels of another CPU round differently"
    return (f"greedy tokens part from the manifest's at position {position} of {len(export.tokens)}; {why}",)


def _results(export: Export, plan: BenchOptions, launches: Measured, tokens: tuple[int, ...]) -> Results:
    later = launches.later
    sample = later[0]
    warm, cold = (later, launches.cold) if plan.memory_limit is None else ([], later)
    if not plan.weight_cache:  # nothing is stored on disk, so every launch is a first one
        warm, cold = [], []
    return Results(
        created=now(),
        device=this_device(),
        export=export.identity,
        settings=Settings(
            runtime=sample.runtime,
            threads=plan.threads,
            weight_cache=plan.weight_cache,
            packed_cache=plan.weight_cache,
            memory_limit=plan.memory_limit,
        ),
        load=Load(first=_load_samples(launches.first), later=_load_samples(warm), cold=_load_samples(cold)),
        forward=_samples([time for launch in later for time in launch.forward_ns]),
        prefill=_token_samples(sample.prefill_tokens, [time for launch in later for time in launch.prefill_ns]),
        decode=_token_samples(sample.decode_tokens, [time for launch in later for time in launch.decode_ns]),
        memory=Memory(
            anonymous=_median([launch.memory_after_forward.anonymous for launch in later]),
            file=_median([launch.memory_after_forward.file for launch in later]),
            peak=_median([launch.peak_bytes for launch in later]),
        ),
        likeliest=sample.likeliest,
        tokens=tokens,
        warnings=divergence_warnings(export, tokens, sample.likeliest),
    )


def _load_samples(launches: Sequence[Launch]) -> Samples | None:
    return _samples([launch.load_ns for launch in launches]) if launches else None


def _samples(nanoseconds: Sequence[int]) -> Samples:
    return Samples(seconds=tuple(time / 1e9 for time in nanoseconds))


def _token_samples(tokens: int, nanoseconds: Sequence[int]) -> TokenSamples:
    return TokenSamples(seconds=tuple(time / 1e9 for time in nanoseconds), tokens=tokens)


def _median(values: Sequence[int]) -> int:
    return int(statistics.median(values))


def this_device() -> Device:
    """This machine."""
    product = Path("/sys/class/dmi/id/product_name")
    return Device(
        kind="host",
        model=product.read_text(encoding="utf-8").strip() if product.is_file() else platform.machine(),
        os=f"{platform.system()} {platform.release()}",
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def summary(results: Results) -> list[str]:
    """The measurements of one export, as lines for the user."""
    load, memory = results.load, results.memory
    lines = [f"{results.export.name}: {results.export.file_bytes:,} bytes, plan {results.export.plan}"]
    for name, samples in (("first", load.first), ("later", load.later), ("cold", load.cold)):
        if samples is not None:
            lines.append(f"  load, {name:<8} {_milliseconds(samples)}")
    if results.forward is not None:
        lines.append(f"  forward        {_milliseconds(results.forward)}")
    for name, tokens in (("prefill", results.prefill), ("decode", results.decode)):
        if tokens is not None:
            lines.append(f"  {name:<14} {tokens.per_second:.1f} tokens/s ({tokens.tokens} tokens)")
    if memory is not None:
        mega = 1e6
        lines.append(
            f"  memory         {memory.anonymous / mega:.1f} MB anonymous + {memory.file / mega:.1f} MB of files, "
            f"peak {memory.peak / mega:.1f} MB"
        )
    return lines + [f"  warning: {warning}" for warning in results.warnings]


def _milliseconds(samples: Samples) -> str:
    return f"{1e3 * samples.median:.2f} ms (mean {1e3 * samples.mean:.2f} ± {1e3 * samples.std:.2f})"
