"""The figures of a benchmark: what each is called, where it stands in the results, and how it was obtained.

One list, which the tables, the page and its explanations are all made of.
"""

from dataclasses import dataclass
from typing import Any, Literal

from sharp_mobile.bench.compare.measurements import Column

Kind = Literal["bytes", "megabytes", "seconds", "rate", "count", "nats", "ratio"]


@dataclass(frozen=True)
class Figure:
    """A row of a comparison.

    path: the figure's place in a `Column`. spread: the place of its standard deviation, if that is shown. how: a
    sentence for people. A figure that was not `measured` is the same on every device.
    """

    group: str
    name: str
    kind: Kind
    path: str
    how: str
    spread: str | None = None
    measured: bool = True

    def of(self, column: Column) -> float | None:
        """The figure of a column; None where nobody measured it."""
        return follow(column, self.path)

    def spread_of(self, column: Column) -> float | None:
        """Its standard deviation, where that is shown."""
        return follow(column, self.spread) if self.spread else None


def follow(data: object, path: str) -> float | None:
    """The number at the end of a dotted path of attributes; None where the path breaks off."""
    value: Any = data
    for name in path.split("."):
        if value is None:
            return None
        value = getattr(value, name)
    return value


def _counted(part: str, name: str) -> tuple[Figure, ...]:
    """The instructions of one part of the work, by kind."""
    kinds = {
        "instructions": ("executed", "all instructions, on one thread of the emulated CPU"),
        "loads": ("loads", "those that read memory"),
        "stores": ("stores", "those that write memory"),
        "dot": ("dot", "dot products (sdot, udot)"),
        "matmul": ("matmul", "matrix multiplications (smmla and the like)"),
    }
    return tuple(
        Figure(f"instructions, {name}", label, "count", f"results.counts.{part}.{kind}", how)
        for kind, (label, how) in kinds.items()
    )


FIGURES = (
    Figure("size", ".pte", "bytes", "export.file_bytes", "the size of the file", measured=False),
    Figure(
        "size",
        "tensors",
        "bytes",
        "export.tensor_bytes",
        "its distinct tensors; the rest describes the program",
        measured=False,
    ),
    Figure(
        "size",
        "with nothing shared",
        "bytes",
        "export.unshared_bytes",
        "the file with every target's own MLP in it and no recovery parameters, by its tensors",
        measured=False,
    ),
    Figure(
        "likeness",
        "divergence from eager",
        "nats",
        "export.divergence",
        "how far the .pte's predictions are from the eager model's that it was lowered from, in nats a token",
        measured=False,
    ),
    Figure(
        "likeness",
        "perplexity",
        "ratio",
        "perplexity",
        "of a text through the .pte, by sharp-mobile evaluate; lower is better",
        measured=False,
    ),
    Figure(
        "load",
        "first launch",
        "seconds",
        "results.load.first.median",
        "load and init in a fresh process, no packed weights on disk; the median of all runs",
    ),
    Figure(
        "load",
        "later launch",
        "seconds",
        "results.load.later.median",
        "the same with the packed weights that an earlier launch left on disk",
    ),
    Figure(
        "load",
        "cold",
        "seconds",
        "results.load.cold.median",
        "a later launch after the system's page cache let go of the files",
    ),
    Figure(
        "one token",
        "forward, median",
        "seconds",
        "results.forward.median",
        "a forward pass of one token after a warm-up",
    ),
    Figure(
        "one token",
        "forward, mean ± std",
        "seconds",
        "results.forward.mean",
        "of the same runs, as in the paper's Table 7",
        spread="results.forward.std",
    ),
    Figure(
        "tokens a second",
        "prefill",
        "rate",
        "results.prefill.per_second",
        "a prompt at once; its tokens by the median run's seconds",
    ),
    Figure(
        "tokens a second",
        "decode",
        "rate",
        "results.decode.per_second",
        "token after token; by the median run's seconds",
    ),
    Figure(
        "memory",
        "resident",
        "megabytes",
        "results.memory.resident",
        "own memory and pages of files, after load and init and one forward pass",
    ),
    Figure(
        "memory",
        "of it anonymous",
        "megabytes",
        "results.memory.anonymous",
        "the process's own pages, which a phone cannot drop and load again",
    ),
    Figure(
        "memory",
        "of it file",
        "megabytes",
        "results.memory.file",
        "pages of mapped files, the .pte and packed weights; the system drops them when memory is short",
    ),
    Figure("memory", "peak", "megabytes", "results.memory.peak", "the most that the process had at any time"),
    *_counted("load_first", "load, first launch"),
    *_counted("load_later", "load, later launch"),
    *_counted("forward", "one token"),
    *_counted("prefill", "prefill"),
)
