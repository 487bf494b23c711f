"""The results of a benchmark: one JSON schema for this host, ARM64 emulation, iPhone and Android.

    Results
      device     kind, model, OS, CPU, cores, memory; thermal state and battery of a phone
      export     name, plan, hash and bytes of the .pte
      settings   runtime, threads, caches, memory limit
      load       seconds of load + init: on the first launch, on later ones, and after the page cache was dropped
      first_token   time to first token: load, init and a prompt
      forward    seconds of a forward pass of one token: 5 runs after a warm-up (paper, Table 7)
      prefill, decode   seconds of each run, and its number of tokens: llama-bench's pp512 and tg128
      token_latency     seconds of each decoded token, for percentiles
      decode_at_depth   decode with a filled KV cache: llama-bench's -d
      threads_sweep     prefill and decode by number of threads
      sustained         decode over minutes
      memory     resident bytes after load and init, and what the system charges the process with
      conditions        thermal state, clocks and battery, sampled during the run
      counts     instructions by kind, from emulation, which has no seconds
      likeliest  the model's next tokens after the manifest's prompt, to compare the answers of devices

A harness writes what it measured; only `verdict.py` judges it. A missing measurement is null or empty, never zero. A
failed benchmark has the reason (`status`, `error`) and the measurements made before the failure. `read_results` reads
versions 1 and 2; version 1 lacks fields. `results.schema.json` is this schema for other languages.

A `Sweep` is a separate file: the forward pass of each export under a series of memory limits.
"""

import json
import reprlib
import statistics
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sharp_mobile.errors import SharpError
from sharp_mobile.files.fields import Count, Elapsed, Fraction, Number, Positive, Seconds, Text, checked
from sharp_mobile.files.json_file import parse_json, read_text
from sharp_mobile.files.outputs import replace_text

SCHEMA_VERSION: Literal[2] = 2
_READ_VERSIONS = (1, 2)

_AGAIN = "run the benchmark again"


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Samples(_Data):
    """Seconds of several runs of the same thing, in their order."""

    seconds: tuple[Seconds, ...] = Field(min_length=1)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.seconds)

    @property
    def std(self) -> float:
        """Sample standard deviation; 0 for a single run."""
        return statistics.stdev(self.seconds) if len(self.seconds) > 1 else 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def p50(self) -> float:
        return self.percentile(50)

    @property
    def p90(self) -> float:
        return self.percentile(90)

    def percentile(self, percent: float) -> float:
        """The value that `percent` of the runs do not exceed, linear between the closest ranks, as in numpy."""
        ordered = sorted(self.seconds)
        rank = percent / 100 * (len(ordered) - 1)
        low = int(rank)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


class TokenSamples(Samples):
    """Seconds of several runs of `tokens` tokens each."""

    tokens: Positive

    @property
    def per_second(self) -> float:
        """Tokens per second of the median run."""
        return self.tokens / self.median


class DepthSamples(TokenSamples):
    """Seconds of several runs of `tokens` decoded tokens, with `depth` tokens in the KV cache before them."""

    depth: Positive


class ThreadSamples(_Data):
    """Prefill and decode with a number of threads."""

    threads: Positive
    prefill: TokenSamples
    decode: TokenSamples


class Window(_Data):
    """A part of a sustained run: `tokens` decoded in `seconds`. at: its end, in seconds since the start of the run."""

    at: Elapsed
    tokens: Positive
    seconds: Seconds

    @property
    def per_second(self) -> float:
        return self.tokens / self.seconds


class Condition(_Data):
    """The state of the device at a moment of the run.

    at: seconds since the start of the run. clocks_hz: the current clock of each CPU; empty where the system does not
    report it. charge_uah: the battery's charge in microampere-hours. battery_level: from 0 to 1.
    """

    at: Elapsed
    thermal: Text | None = None
    clocks_hz: tuple[Count, ...] = ()
    charge_uah: Count | None = None
    battery_level: Fraction | None = None
    charging: bool | None = None
    battery_celsius: Number | None = None


class Device(_Data):
    """Where it ran. `kind` arm64 is emulation, with the phone profile's name as model.

    performance_cores: CPUs of the fast kinds. thermal, battery: at the start of the run.
    """

    kind: Literal["host", "arm64", "ios", "android"]
    model: Text
    os: Text
    cpu: Text
    cores: Positive
    performance_cores: Positive | None = None
    memory_bytes: Count | None = None
    thermal: Text | None = None
    battery: Text | None = None


class ExportIdentity(_Data):
    """What ran, from the export's manifest.

    sha256: of the `.pte`. tensor_bytes: of its distinct tensors. unshared_bytes: what the `.pte` would take with
    nothing shared; a phone says 0 of a broken export. divergence: nats a token from the eager model.
    """

    name: Text
    plan: Text
    sha256: Text
    file_bytes: Positive
    tensor_bytes: Count
    unshared_bytes: Count
    divergence: Number | None = None


class Settings(_Data):
    """How it ran.

    harness: the program that measured. runtime: the ExecuTorch that ran it. weight_cache: XNNPACK packs a shared weight
    once. packed_cache: packed weights are kept on disk between launches. memory_limit: of the cgroup that the process
    ran in. fixed_performance: Android's mode that holds the clocks at a level that the phone can keep.
    """

    harness: Text = "sharp-runner"
    runtime: Text
    threads: Positive
    weight_cache: bool
    packed_cache: bool
    memory_limit: Positive | None = None
    fixed_performance: bool | None = None


class Load(_Data):
    """Seconds of load and init.

    first: without a packed cache on disk. later: with the one that an earlier launch left. cold: later, after the
    page cache was dropped, where the system allows that.
    """

    first: Samples | None = None
    later: Samples | None = None
    cold: Samples | None = None


class FirstToken(_Data):
    """Time to first token: seconds from the start of load to the first token after a prompt of `tokens` tokens.

    first: without a packed cache on disk. later: with the one that an earlier launch left.
    """

    first: TokenSamples | None = None
    later: TokenSamples | None = None


class Memory(_Data):
    """Bytes of the process.

    anonymous, file: resident after load and init and one forward pass. peak: the most of both together. footprint: what
    the system charges the process with after the same: `phys_footprint` on iOS, PSS on Android and Linux.
    footprint_peak: the most of it.
    """

    anonymous: Count
    file: Count
    peak: Count
    footprint: Count | None = None
    footprint_peak: Count | None = None

    @property
    def resident(self) -> int:
        return self.anonymous + self.file


class InstructionCount(_Data):
    """Executed instructions of one kind of work, on one thread.

    dot, matmul: dot-product (`sdot`, `udot`) and matrix-multiply (`smmla`, ...) instructions among them.
    """

    instructions: Count
    loads: Count
    stores: Count
    dot: Count
    matmul: Count


class Counts(_Data):
    """What emulation counts: load and init without and with a packed cache, a forward pass of one token, a prefill.

    prefill_tokens: tokens of the prefill.
    """

    load_first: InstructionCount | None = None
    load_later: InstructionCount | None = None
    forward: InstructionCount | None = None
    prefill: InstructionCount | None = None
    prefill_tokens: Positive | None = None


class Results(_Data):
    """A benchmark of one export in one place; see the module.

    created: UTC, ISO 8601. status, error: whether it came to its end, and if not, why. likeliest: pairs of a token and
    its logit after the manifest's prompt, five, in descending order. tokens: what greedy decoding gave.
    expected_tokens: what it gave when the model was exported. idle_memory: of the process before the first load.
    """

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    created: Text
    status: Literal["ok", "failed"] = "ok"
    error: Text | None = None
    device: Device
    export: ExportIdentity
    settings: Settings
    load: Load = Load()
    first_token: FirstToken = FirstToken()
    forward: Samples | None = None
    prefill: TokenSamples | None = None
    decode: TokenSamples | None = None
    token_latency: Samples | None = None
    decode_at_depth: tuple[DepthSamples, ...] = ()
    threads_sweep: tuple[ThreadSamples, ...] = ()
    sustained: tuple[Window, ...] = ()
    memory: Memory | None = None
    idle_memory: Memory | None = None
    conditions: tuple[Condition, ...] = ()
    counts: Counts | None = None
    likeliest: tuple[tuple[Count, Number], ...] = ()
    tokens: tuple[Count, ...] = ()
    expected_tokens: tuple[Count, ...] = ()
    warnings: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _failures_say_why(self) -> "Results":
        if (self.status == "failed") != bool(self.error):
            raise ValueError("a benchmark that failed, and no other, has an error")
        return self


class SweepPoint(_Data):
    """Seconds of a forward pass of one token within a memory limit; None if the process was killed."""

    memory_limit: Positive
    forward: Samples | None


class SweepCurve(_Data):
    """One export's points in ascending order of the limit."""

    export: ExportIdentity
    points: tuple[SweepPoint, ...] = Field(min_length=1)


class Sweep(_Data):
    """Forward latency by memory limit; `settings.memory_limit` is null, because every point has its own limit."""

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    device: Device
    settings: Settings
    curves: tuple[SweepCurve, ...] = Field(min_length=1)


def now() -> str:
    """The current time in the format of `Results.created`."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def json_schema() -> str:
    """The text of `results.schema.json`."""
    return json.dumps(Results.model_json_schema(), indent=1) + "\n"


def write_results(path: Path, results: Results) -> None:
    """Write a results file atomically.

    Raises:
        SharpError: it cannot be written.
    """
    replace_text(path, results.model_dump_json(indent=1) + "\n")


def read_results(path: str | Path) -> Results:
    """Read a results file.

    Raises:
        SharpError: it is missing, incomplete, or has another schema version.
    """
    return parse_results(read_text(path), path)


def parse_results(text: str, source: str | Path) -> Results:
    """Parse the text of a results file; errors name `source`.

    Raises:
        SharpError: it is incomplete, or has another schema version.
    """
    return _parse(text, source, Results)


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep's file.

    Raises:
        SharpError: it is missing, incomplete, or has another schema version.
    """
    return _parse(read_text(path), path, Sweep)


_File = TypeVar("_File", Results, Sweep)


def _parse(text: str, source: str | Path, schema: type[_File]) -> _File:
    content = parse_json(text, source, remedy=_AGAIN, unique=True)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in _READ_VERSIONS:
        of = "has no schema version" if version is None else f"has schema version {reprlib.repr(version)}"
        raise SharpError(f"{source}: {of}, this sharp-mobile reads versions 1 to {SCHEMA_VERSION}; {_AGAIN}")
    return checked(content, schema, source, _AGAIN)


if __name__ == "__main__":
    print(json_schema(), end="")
