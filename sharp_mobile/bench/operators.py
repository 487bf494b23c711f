"""The time of each operator in a forward pass, from ExecuTorch's trace (ETDump).

    forward = delegate calls + operator calls
              └ XNNPACK's nodes, and the overhead of each call
                                 └ kernels, and the overhead of each call

The runner traces its timed forwards, and `executorch.devtools.Inspector` reads the trace. Tracing slows down the many
small operators of attention most, so the sum exceeds the time of an untraced forward.
"""

import logging
import re
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sharp_mobile.bench.host import Bench
from sharp_mobile.bench.runner import Task
from sharp_mobile.errors import SharpError

if TYPE_CHECKING:
    from executorch.devtools.inspector import Event

_DELEGATE, _OPERATOR, _KERNEL = "DELEGATE_CALL", "OPERATOR_CALL", "native_call_"


@dataclass(frozen=True)
class Operator:
    """An operator in one forward pass: the number of its calls, and their total milliseconds."""

    name: str
    xnnpack: bool
    calls: int
    milliseconds: float


def profile(bench: Bench, keep: Path | None = None) -> list[Operator]:
    """Trace an export's forwards; returns the operators in descending order of time.

    Args:
        keep: the file that stores the trace, for ExecuTorch's tools; None for a temporary one.

    Raises:
        SharpError: the launch fails, or the trace cannot be read.
    """
    with tempfile.TemporaryDirectory() as directory:
        trace = keep or Path(directory, "trace.etdump")
        bench.limited(Task(prompt=bench.export.prompt, forwards=bench.plan.forwards, etdump=trace), None)
        return operators(read_trace(trace))


def read_trace(trace: Path) -> list["Event"]:
    """The events of a trace, for `operators`.

    Raises:
        SharpError: the file is not a trace.
    """
    logging.getLogger("torchao").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that the trace has no tensors
        from executorch.devtools import Inspector

        try:
            blocks = Inspector(etdump_path=str(trace)).event_blocks
        except Exception as error:  # with wrong offsets flatbuffers raises any exception
            raise SharpError(f"{trace}: is not a trace that this executorch reads: {error}") from error
    return [event for block in blocks for event in block.events]


def operators(events: Iterable["Event"]) -> list[Operator]:
    """Sum the events of a trace by operator, with separate rows for the overhead of delegate and operator calls.

    Args:
        events: each with `name`, `is_delegated_op`, and `perf_data.avg`, its mean milliseconds over all forwards.
    """
    calls: dict[tuple[str, bool], int] = {}
    milliseconds: dict[tuple[str, bool], float] = {}
    for event in events:
        if event.perf_data is None:
            continue
        inside = bool(event.is_delegated_op)
        if inside or event.name.startswith(_KERNEL) or event.name in (_DELEGATE, _OPERATOR):
            # XNNPACK numbers the nodes of a kind: "Add (ND) #2".
            key = (re.sub(r" #\d+$", "", event.name.removeprefix(_KERNEL)), inside)
            calls[key] = calls.get(key, 0) + 1
            milliseconds[key] = milliseconds.get(key, 0.0) + float(event.perf_data.avg)
    rows = []
    for name, inside in ((_DELEGATE, True), (_OPERATOR, False)):
        count = calls.pop((name, False), 0)
        total = milliseconds.pop((name, False), 0.0)
        nodes = sum(time for key, time in milliseconds.items() if key[1] == inside)
        if count:
            rows.append(Operator(f"overhead of {name.lower().replace('_', ' ')}s", inside, count, total - nodes))
    rows += [Operator(name, inside, calls[name, inside], time) for (name, inside), time in milliseconds.items()]
    return sorted(rows, key=lambda operator: -operator.milliseconds)


def table(rows: Sequence[Operator], largest: int = 20) -> list[str]:
    """The slowest operators, as lines for the user."""
    total = sum(operator.milliseconds for operator in rows) or 1.0
    lines = [f"{'ms':>9} {'share':>6} {'calls':>6}  {'in':<8} operator"]
    for operator in rows[:largest]:
        lines.append(
            f"{operator.milliseconds:9.4f} {operator.milliseconds / total:6.1%} {operator.calls:6}  "
            f"{'XNNPACK' if operator.xnnpack else 'outside':<8} {operator.name}"
        )
    rest = rows[largest:]
    if rest:
        lines.append(
            f"{sum(o.milliseconds for o in rest):9.4f} {sum(o.milliseconds for o in rest) / total:6.1%} "
            f"{sum(o.calls for o in rest):6}  {'':<8} {len(rest)} others"
        )
    return [*lines, f"{total:9.4f} {'':6} {'':6}  {'':<8} one forward, traced"]
