"""The metrics of a comparison: name, field of the results, and explanation.

The tables, the page and its explanations use this one list.
"""

from dataclasses import dataclass
from typing import Literal

from sharp_mobile.bench.compare.measurements import Column

Kind = Literal["bytes", "megabytes", "seconds", "rate", "count", "nats", "ratio"]


@dataclass(frozen=True)
class Metric:
    """A row of a comparison.

    Attributes:
        path: the dotted path of the value in a `Column`.
        how: the explanation for readers.
        spread: the dotted path of the standard deviation; None if it is not shown.
        measured: False for a value that is the same on every device.
    """

    group: str
    name: str
    kind: Kind
    path: str
    how: str
    spread: str | None = None
    measured: bool = True

    def of(self, column: Column) -> float | None:
        """The value for a column; None if it was not measured."""
        return follow(column, self.path)

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


METRICS = (
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
        "tokens per second",
        "prefill",
        "rate",
        "results.prefill.per_second",
        "a prompt in one step; its tokens divided by the seconds of the median run",
    ),
    Metric(
        "tokens per second",
        "decode",
        "rate",
        "results.decode.per_second",
        "tokens generated one by one, divided by the seconds of the median run",
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
    *_counted("load_first", "load, first launch"),
    *_counted("load_later", "load, later launch"),
    *_counted("forward", "one token"),
    *_counted("prefill", "prefill"),
)
