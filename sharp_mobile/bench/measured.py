"""The launches of one export on this machine, and the results that they give."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.options import BenchOptions
from sharp_mobile.bench.results import (
    Condition,
    DepthSamples,
    FirstToken,
    Load,
    Memory,
    Results,
    Samples,
    Settings,
    ThreadSamples,
    TokenSamples,
    Window,
    now,
)
from sharp_mobile.bench.runner import Launch, ProcessMemory
from sharp_mobile.bench.this_machine import this_device


@dataclass
class Measured:
    """The launches of one export, by kind.

    Attributes:
        answer: a prompt after a later load.
        sweep: one launch for each number of threads.
        sustained: the launch of the sustained run, and its start in seconds since the start of the run.
    """

    tokens: tuple[int, ...] = ()
    first: list[Launch] = field(default_factory=list)
    later: list[Launch] = field(default_factory=list)
    answer: list[Launch] = field(default_factory=list)
    cold: list[Launch] = field(default_factory=list)
    sweep: list[Launch] = field(default_factory=list)
    sustained: tuple[float, Launch] | None = None

    def results(self, export: Export, options: BenchOptions, conditions: Sequence[Condition]) -> Results:
        """The results of the launches."""
        later = self.later
        sample = later[0]
        warm, cold = (later, self.cold) if options.memory_limit is None else ([], later)
        if not options.weight_cache:  # nothing is stored on disk, so every launch is a first one
            warm, cold = [], []
        prompt = options.prefill_of(export)
        return Results(
            created=now(),
            device=this_device(),
            export=export.identity,
            settings=Settings(
                runtime=sample.runtime,
                threads=options.threads,
                weight_cache=options.weight_cache,
                packed_cache=options.weight_cache,
                memory_limit=options.memory_limit,
            ),
            load=Load(first=_loads(self.first), later=_loads(warm), cold=_loads(cold)),
            first_token=FirstToken(first=_first_tokens(prompt, self.first), later=_first_tokens(prompt, self.answer)),
            forward=_samples([time for launch in later for time in launch.forward_ns]),
            prefill=_token_samples(sample.prefill_tokens, [time for launch in later for time in launch.prefill_ns]),
            decode=_token_samples(sample.decode_tokens, [time for launch in later for time in launch.decode_ns]),
            token_latency=_samples([time for launch in later for time in launch.decode_token_ns]),
            decode_at_depth=tuple(_at_depth(depth, later) for depth in sample.decode_at_depth_ns),
            threads_sweep=tuple(_with_threads(launch) for launch in self.sweep),
            sustained=_windows(*self.sustained) if self.sustained else (),
            memory=_memory(later),
            idle_memory=_idle_memory(sample.memory_before_load),
            conditions=tuple(conditions),
            likeliest=sample.likeliest,
            tokens=self.tokens,
            expected_tokens=export.tokens,
        )


def _memory(launches: Sequence[Launch]) -> Memory:
    after = [launch.memory_after_forward for launch in launches]
    return Memory(
        anonymous=_median([memory.anonymous for memory in after]),
        file=_median([memory.file for memory in after]),
        peak=_median([launch.peak_bytes for launch in launches]),
        footprint=_median([memory.footprint for memory in after]) or None,
        footprint_peak=_median([launch.footprint_peak_bytes for launch in launches]) or None,
    )


def _idle_memory(memory: ProcessMemory) -> Memory:
    return Memory(anonymous=memory.anonymous, file=memory.file, peak=memory.peak, footprint=memory.footprint or None)


def _loads(launches: Sequence[Launch]) -> Samples | None:
    return _samples([launch.load_ns for launch in launches]) if launches else None


def _first_tokens(prompt: int, launches: Sequence[Launch]) -> TokenSamples | None:
    return _token_samples(prompt, [launch.first_token_ns for launch in launches]) if launches else None


def _at_depth(depth: int, launches: Sequence[Launch]) -> DepthSamples:
    times = [time / 1e9 for launch in launches for time in launch.decode_at_depth_ns[depth]]
    return DepthSamples(depth=depth, seconds=tuple(times), tokens=launches[0].decode_tokens)


def _with_threads(launch: Launch) -> ThreadSamples:
    return ThreadSamples(
        threads=launch.threads,
        prefill=_token_samples(launch.prefill_tokens, launch.prefill_ns),
        decode=_token_samples(launch.decode_tokens, launch.decode_ns),
    )


def _windows(start: float, launch: Launch) -> tuple[Window, ...]:
    return tuple(
        Window(at=start + end / 1e9, tokens=tokens, seconds=time / 1e9) for end, tokens, time in launch.sustained
    )


def _samples(nanoseconds: Sequence[int]) -> Samples:
    return Samples(seconds=tuple(time / 1e9 for time in nanoseconds))


def _token_samples(tokens: int, nanoseconds: Sequence[int]) -> TokenSamples:
    return TokenSamples(seconds=tuple(time / 1e9 for time in nanoseconds), tokens=tokens)


def _median(values: Sequence[int]) -> int:
    return int(statistics.median(values))
