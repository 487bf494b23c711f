"""The options of a benchmark, and their texts on the command line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import Device
from sharp_mobile.bench.runner import Task
from sharp_mobile.errors import SharpError

# llama-bench's pp512 and tg128, and tg128 with 512 tokens in the KV cache.
_PREFILL, _DECODE, _DEPTHS = 512, 128, (512,)

# In a list of thread counts: as many threads as the device has fast cores.
PERFORMANCE = "performance"

_NUMBER = re.compile("[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class BenchOptions:
    """The options of a benchmark.

    Attributes:
        repetitions: launches of each kind.
        prefill, decode: tokens; None for 512 and 128, or fewer if the export's cache is shorter.
        depths: tokens in the KV cache before further decodes; None for 512, if the export's cache has room.
        threads_sweep: numbers of threads to measure prefill and decode with.
        sustain: seconds of sustained decoding of each export; 0 for none.
        cool_down: seconds to wait before each export's launches of a repetition.
        memory_limit: bytes for each process.
    """

    threads: int = 1
    repetitions: int = 5
    forwards: int = 5
    prefill: int | None = None
    decode: int | None = None
    depths: tuple[int, ...] | None = None
    threads_sweep: tuple[int | str, ...] = ()
    sustain: int = 0
    cool_down: int = 0
    weight_cache: bool = True
    memory_limit: int | None = None

    def prefill_of(self, export: Export) -> int:
        """The tokens of a prefill of an export."""
        return self.prefill or min(_PREFILL, export.length - 1)

    def decode_of(self, export: Export) -> int:
        """The tokens of a decode of an export."""
        return self.decode or min(_DECODE, export.length - len(export.prompt))

    def depths_of(self, export: Export) -> tuple[int, ...]:
        """The depths for an export.

        Raises:
            SharpError: a depth that the user gave does not fit in the export's KV cache.
        """
        most = export.length - self.decode_of(export)
        if self.depths is None:
            return tuple(depth for depth in _DEPTHS if depth <= most)
        for depth in self.depths:
            if depth > most:
                raise SharpError(
                    f"--depth {depth}: {export.directory} has a KV cache of {export.length} tokens, which has no room "
                    f"for {self.decode_of(export)} more; give at most {most}, or a smaller --decode"
                )
        return self.depths

    def whole_task(self, export: Export) -> Task:
        """A launch with forwards, prefill and decodes."""
        return Task(
            prompt=export.prompt,
            forwards=self.forwards,
            prefill=self.prefill_of(export),
            prefill_runs=1,
            decode=self.decode_of(export),
            decode_runs=1,
            depths=self.depths_of(export),
        )

    def prompt_task(self, export: Export) -> Task:
        """A launch that ends with the first token after a prompt of `prefill` tokens."""
        count = self.prefill_of(export)
        prompt = (export.prompt * (count // len(export.prompt) + 1))[:count]
        return Task(prompt=prompt, warmups=0, forwards=0)

    def sweep_task(self, export: Export) -> Task:
        """A launch with as many prefills and decodes as there are repetitions."""
        return Task(
            prompt=export.prompt,
            forwards=0,
            prefill=self.prefill_of(export),
            prefill_runs=self.repetitions,
            decode=self.decode_of(export),
            decode_runs=self.repetitions,
        )

    def sustained_task(self, export: Export) -> Task:
        """A launch that decodes for `sustain` seconds."""
        return Task(prompt=export.prompt, forwards=0, decode=self.decode_of(export), sustain=self.sustain)


def parse_depths(text: str) -> tuple[int, ...]:
    """Parse "512,1024"; "none" for no depths.

    Raises:
        SharpError: it is not a list of numbers above zero.
    """
    if text == "none":
        return ()
    wrong = f"--depth {text}: give numbers of tokens such as 512,1024, or none"
    return tuple(_number(part, wrong) for part in _parts(text))


def parse_threads_sweep(text: str) -> tuple[int | str, ...]:
    """Parse "1,2,4,performance", in which `performance` is the number of the device's fast cores.

    Raises:
        SharpError: it is not a list of numbers above zero and this word.
    """
    wrong = f"--threads-sweep {text}: give numbers of threads such as 1,2,4,{PERFORMANCE}"
    return tuple(part if part == PERFORMANCE else _number(part, wrong) for part in _parts(text))


def thread_counts(requested: Sequence[int | str], device: Device) -> list[int]:
    """The numbers of threads that a device has cores for, in ascending order."""
    fast = device.performance_cores or device.cores
    counts = {fast if isinstance(count, str) else count for count in requested}
    return sorted(count for count in counts if count <= device.cores)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _number(text: str, wrong: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise SharpError(wrong)
    return int(text)
