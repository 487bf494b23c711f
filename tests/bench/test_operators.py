"""The table of a forward's operators adds up to the calls that were traced."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.host import benches
from sharp_mobile.bench.operators import operators, profile, read_trace, table
from sharp_mobile.bench.options import BenchOptions
from sharp_mobile.errors import SharpError
from sharp_mobile.verify.inspect import inspect_pte


def event(name: str, milliseconds: float | None, inside: bool = False) -> SimpleNamespace:
    perf = None if milliseconds is None else SimpleNamespace(avg=milliseconds)
    return SimpleNamespace(name=name, is_delegated_op=inside, perf_data=perf)


def test_events_are_added_up_by_operator() -> None:
    found = operators(
        [
            event("DELEGATE_CALL", 10.0),
            event("Fully Connected #1", 4.0, inside=True),
            event("Fully Connected #2", 3.0, inside=True),
            event("Add #1", 1.0, inside=True),
            event("OPERATOR_CALL", 5.0),
            event("native_call_bmm.out", 4.5),
            event("Method::execute", 16.0),
            event("nothing", None),
        ]
    )
    rows = {operator.name: (operator.xnnpack, operator.calls, operator.milliseconds) for operator in found}
    assert rows == {
        "Fully Connected": (True, 2, 7.0),
        "bmm.out": (False, 1, 4.5),
        "overhead of delegate calls": (True, 1, 2.0),
        "Add": (True, 1, 1.0),
        "overhead of operator calls": (False, 1, 0.5),
    }
    assert [operator.name for operator in found] == list(rows)
    lines = table(found, largest=2)
    assert lines[-2].split()[0] == "3.5000"
    assert lines[-2].endswith("3 others")
    assert lines[-1].split()[0] == "15.0000"


@pytest.mark.slow
def test_a_trace_has_every_linear_and_every_product_of_attention(runner: Path, shared: Export, tmp_path: Path) -> None:
    with benches([shared], BenchOptions(forwards=2), tmp_path / "packed") as (bench,):
        found = profile(bench, tmp_path / "trace")
    linears = sum(operator.calls for operator in found if operator.name.startswith("Fully Connected"))
    assert linears == inspect_pte(shared.pte).xnnpack_nodes["XNNFullyConnected"]
    assert [operator.calls for operator in found if operator.name == "bmm.out"] == [2 * 4]
    (tmp_path / "trace").write_bytes(b"no trace" * 100)
    with pytest.raises(SharpError, match="trace: is not a trace that this executorch reads"):
        read_trace(tmp_path / "trace")
