"""The metrics of a comparison: name, field of the results, and explanation.

The tables, the page and its explanations use this one list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sharp_mobile.bench.compare.measurements import Column
from sharp_mobile.bench.results import Results, ThreadSamples, TokenSamples
from sharp_mobile.bench.verdict import charge_per_token

Kind = Literal["bytes", "megabytes", "seconds", "rate", "count", "nats", "ratio"]


@dataclass(frozen=True)
class Metric:
    """A row of a comparison.

    Attributes:
        path: the dotted path of the value in a `Column`, or a function of its results.
        how: the explanation for readers.
        spread: the dotted path of the standard deviation; None if it is not shown.
        measured: False for a value that is the same on every device.
    """

    group: str
    name: str
    kind: Kind
    path: str | Callable[[Results], float | None]
    how: str
    spread: str | None = None
    measured: bool = True

    def of(self, column: Column) -> float | None:
        """The value for a column; None if it was not measured."""
        if isinstance(self.path, str):
            return follow(column, self.path)
        return None if column.results is None else self.path(column.results)

    def spread_of(self, column: Column) -> float | None:
        """The standard deviation for a column; None if it is not shown."""
        return follow(column, self.spread) if self.spread else None


def follow(data: object, path: str) -> float | None:
    """The number at the end of a dotted path of attributes; None if one on the way is None."""
    value = data
    for name in path.split("."):
        if value is None:
            return None
        value = getattr(value, name)
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{path} is a {type(value).__name__}, not a number")
    return value


def _counted(part: str, name: str) -> tuple[Metric, ...]:
    """The rows of one part of the work: its instructions by kind."""
    kinds = {
        "instructions": ("executed", "all instructions, on one thread of the emulated CPU"),
        "loads": ("loads", "instructions that read memory"),
        "stores": ("stores", "instructions that write memory"),
        "dot": ("dot", "dot products (sdot, udot)"),
        "matmul": ("matmul", "matrix multiplications (smmla and similar)"),
    }
    return tuple(
        Metric(f"instructions, {name}", label, "count", f"results.counts.{part}.{kind}", how)
        for kind, (label, how) in kinds.items()
    )


def _sustained(results: Results) -> float | None:
    seconds = sum(window.seconds for window in results.sustained)
    return sum(window.tokens for window in results.sustained) / seconds if seconds else None


_SUSTAINED = Metric(
    "tokens per second",
    "sustained",
    "rate",
    _sustained,
    "tokens decoded in minutes without a pause, divided by the seconds",
)
_METRICS = (
    Metric("size", ".pte", "bytes", "export.file_bytes", "the size of the file", measured=False),
    Metric(
        "size",
        "tensors",
        "bytes",
        "export.tensor_bytes",
        "the distinct tensors in the file; the rest describes the program",
        measured=False,
    ),
    Metric(
        "size",
        "without sharing",
        "bytes",
        "export.unshared_bytes",
        "predicted size of the file with every target's MLP and no recovery parameters",
        measured=False,
    ),
    Metric(
        "quality",
        "divergence from eager",
        "nats",
        "export.divergence",
        "divergence of the .pte's predictions from those of the eager model before lowering, in nats per token",
        measured=False,
    ),
    Metric(
        "quality",
        "perplexity",
        "ratio",
        "perplexity",
        "perplexity of a text through the .pte, from sharp-mobile evaluate; lower is better",
        measured=False,
    ),
    Metric(
        "load",
        "first launch",
        "seconds",
        "results.load.first.median",
        "load and init in a new process without packed weights on disk; the median of all runs",
    ),
    Metric(
        "load",
        "later launch",
        "seconds",
        "results.load.later.median",
        "load and init with the packed weights of an earlier launch on disk; the median of all runs",
    ),
    Metric(
        "load",
        "cold",
        "seconds",
        "results.load.cold.median",
        "a later launch after the system's page cache dropped the files; the median of all runs",
    ),
    Metric(
        "first token",
        "first launch",
        "seconds",
        "results.first_token.first.median",
        "time to first token: load, init and a prompt, without packed weights on disk; the median of all runs",
    ),
    Metric(
        "first token",
        "later launch",
        "seconds",
        "results.first_token.later.median",
        "time to first token: load, init and a prompt, with the packed weights of an earlier launch; the median",
    ),
    Metric(
        "one token",
        "forward, median",
        "seconds",
        "results.forward.median",
        "a forward pass of one token after a warm-up; the median of all runs",
    ),
    Metric(
        "one token",
        "forward, mean ± std",
        "seconds",
        "results.forward.mean",
        "mean and standard deviation of the same runs, as in the paper's Table 7",
        spread="results.forward.std",
    ),
    Metric(
        "one token",
        "decode, p50",
        "seconds",
        "results.token_latency.p50",
        "half of the decoded tokens took no longer",
    ),
    Metric(
        "one token",
        "decode, p90",
        "seconds",
        "results.token_latency.p90",
        "nine of ten decoded tokens took no longer",
    ),
    Metric(
        "tokens per second",
        "prefill",
        "rate",
        "results.prefill.per_second",
        "a prompt, by default of 512 tokens (llama-bench's pp512), divided by the seconds of the median run",
    ),
    Metric(
        "tokens per second",
        "decode",
        "rate",
        "results.decode.per_second",
        "tokens one by one, by default 128 (llama-bench's tg128), divided by the seconds of the median run",
    ),
    _SUSTAINED,
    Metric(
        "battery",
        "mAh per 1,000 tokens",
        "ratio",
        charge_per_token,
        "the charge that the battery lost in the sustained run, by its own counter; the phone was not charging",
    ),
    Metric(
        "memory",
        "resident",
        "megabytes",
        "results.memory.resident",
        "anonymous memory and pages of files, after load and init and one forward pass",
    ),
    Metric(
        "memory",
        "anonymous",
        "megabytes",
        "results.memory.anonymous",
        "the part of resident memory that a phone cannot drop and read again",
    ),
    Metric(
        "memory",
        "file",
        "megabytes",
        "results.memory.file",
        "the part of resident memory from mapped files (.pte, packed weights), which the system can drop",
    ),
    Metric("memory", "peak", "megabytes", "results.memory.peak", "the largest resident memory of the process"),
    Metric(
        "memory",
        "footprint",
        "megabytes",
        "results.memory.footprint",
        "what the system charges the process with: phys_footprint on iOS, PSS on Android and Linux",
    ),
    Metric("memory", "footprint, peak", "megabytes", "results.memory.footprint_peak", "the largest footprint"),
    Metric(
        "memory",
        "footprint before load",
        "megabytes",
        "results.idle_memory.footprint",
        "the footprint of the process before it loads a model",
    ),
    *_counted("load_first", "load, first launch"),
    *_counted("load_later", "load, later launch"),
    *_counted("forward", "one token"),
    *_counted("prefill", "prefill"),
)


def metrics_of(columns: Sequence[Column]) -> list[Metric]:
    """All metrics, with a row for each depth and each number of threads that the columns have."""
    results = [column.results for column in columns if column.results is not None]
    depths = sorted({deep.depth for one in results for deep in one.decode_at_depth})
    threads = sorted({point.threads for one in results for point in one.threads_sweep})
    place = _METRICS.index(_SUSTAINED)
    return [
        *_METRICS[:place],
        *(_at_depth(depth) for depth in depths),
        _SUSTAINED,
        *(metric for count in threads for metric in _with_threads(count)),
        *_METRICS[place + 1 :],
    ]


def _at_depth(depth: int) -> Metric:
    def rate(results: Results) -> float | None:
        return next((deep.per_second for deep in results.decode_at_depth if deep.depth == depth), None)

    how = "the same with this many tokens in the KV cache before (llama-bench's -d)"
    return Metric("tokens per second", f"decode at depth {depth:,}", "rate", rate, how)


def _with_threads(count: int) -> tuple[Metric, Metric]:
    def rate(results: Results, part: Callable[[ThreadSamples], TokenSamples]) -> float | None:
        return next((part(point).per_second for point in results.threads_sweep if point.threads == count), None)

    group, how = "tokens per second by threads", "the median run with this number of threads"
    threads = f"{count} thread{'s' if count > 1 else ''}"
    return (
        Metric(group, f"prefill, {threads}", "rate", lambda results: rate(results, lambda point: point.prefill), how),
        Metric(group, f"decode, {threads}", "rate", lambda results: rate(results, lambda point: point.decode), how),
    )
