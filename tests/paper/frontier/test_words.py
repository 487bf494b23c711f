"""The findings say which method wins, by how much, and where nothing pays."""

import math
from pathlib import Path
from typing import Any

import pytest

from sharp_mobile.paper.frontier.picture import draw
from sharp_mobile.paper.frontier.points import Frontier, Measurement, MeasurementSettings, Missing, Point
from sharp_mobile.paper.frontier.words import findings, table

WHOLE = 100_000_000


def point(method: str, size: float, perplexity: float, finetuned: int = 0, **others: Any) -> Point:
    measured: dict[str, Any] = {
        "plan": "none",
        "recipe": {},
        "perplexity": perplexity,
        "tokens": 100,
        "kl": 0.1,
        "agreement": 0.9,
        "file_bytes": round(size * WHOLE),
        "resident_bytes": 120_000_000,
        "instructions": 44_000_000,
        "seconds": 1.0,
        **others,
    }
    return Point(method=method, size=size, finetuned=finetuned, measured=Measurement(**measured))


def made_up(*points: Point, beside: tuple[Point, ...] = (), missing: tuple[Missing, ...] = ()) -> Frontier:
    settings = MeasurementSettings(text="a text", window=512, windows=12, profile="pixel-6", host=True)
    return Frontier(
        model="tiny",
        fingerprint="0",
        version="1",
        settings=settings,
        original=20.0,
        unshared_bytes=WHOLE,
        points=(point("unshared", 1.0, 22.0), *points),
        missing=missing,
        beside=beside,
    )


def test_the_best_is_compared_with_unshared() -> None:
    found = made_up(point("unshared", 0.9, 25.0), point("mlp", 0.9, 24.0), point("kv", 0.9, 23.5))
    assert list(findings(found)) == [
        "at 90% (90.0 MB): kv is best of those that share or leave out, perplexity 23.50, 1.50 less than unshared "
        "(25.00)"
    ]


def test_nothing_pays_where_unshared_is_better() -> None:
    found = made_up(point("unshared", 0.9, 23.0), point("mlp", 0.9, 24.0))
    (line,) = findings(found)
    assert line.endswith("1.00 more than unshared (23.00): nothing pays here")
    (line,) = findings(made_up(point("unshared", 0.9, 24.0), point("mlp", 0.9, 24.01)))
    assert line.endswith("the same as unshared (24.00): nothing pays here")


def test_a_smaller_unshared_export_counts_too() -> None:
    found = made_up(point("unshared", 0.8, 23.0), point("mlp", 0.9, 24.0))
    assert next(iter(findings(found))).endswith("1.00 more than unshared (23.00): nothing pays here")


def test_another_model_beside_counts_too() -> None:
    found = made_up(point("mlp", 0.8, 24.0), beside=(point("other", 1.0, 21.0, file_bytes=70_000_000),))
    (line,) = findings(found)
    assert line == (
        "at 80% (80.0 MB): mlp is best of those that share or leave out, perplexity 24.00; no unshared export is that "
        "small, 3.00 more than other (21.00): nothing pays here"
    )


def test_a_size_that_nobody_reaches_is_told() -> None:
    found = made_up(missing=(Missing(method="kv", size=0.5, smallest=None, reason="not reached"),))
    assert list(findings(found)) == ["at 50% (50.0 MB): no method but unshared gets there"]
    assert "kv at 50%: not reached" in table(found)


def test_fine_tuned_exports_are_compared_after_the_others() -> None:
    """At the sizes that have any, and with those that have nothing to train."""
    found = made_up(
        *(point("mlp", size, value) for size, value in ((0.9, 30.0), (0.8, 40.0))),
        *(point("drop", size, value) for size, value in ((0.9, 28.0), (0.8, 50.0))),
        point("mlp", 0.9, 26.0, finetuned=25),
    )
    told = [line.split(" is best")[0] for line in findings(found)]
    assert told == ["at 90% (90.0 MB): drop", "at 80% (80.0 MB): mlp", "after 25 steps, at 90% (90.0 MB): mlp +25"]
    assert " mlp +25 " in "\n".join(table(found))


def test_the_table_has_a_line_a_point() -> None:
    beside = (point("other", 1.0, 1e6, kl=None, agreement=None, instructions=None),)
    lines = table(made_up(point("mlp", 0.9, 24.0), beside=beside))
    assert lines[0].startswith("tiny: float perplexity 20.00 on a text, 12 windows of 512;")
    cells = [" ".join(line.split()) for line in lines[2:]]
    assert cells[0] == "size method bytes of 100% perplexity KL top-1 resident MB M instr/token"
    assert cells[1] == "100% unshared 100,000,000 100.0% 22.00 0.1000 90.0% 120.0 44.0"
    assert cells[3] == "beside other 100,000,000 100.0% 1,000,000.00 – – 120.0 –"
    assert len({len(line) for line in lines[2:]}) <= 2


@pytest.mark.slow
def test_points_beyond_the_picture_are_drawn(tmp_path: Path) -> None:
    beside = (point("other", 1.0, math.inf),)
    drops = (point("drop", 0.9, 1e6), point("drop", 0.8, math.inf))
    found = made_up(point("mlp", 0.9, 24.0), point("mlp", 0.9, 23.0, finetuned=25), *drops, beside=beside)
    for name in ("first", "second"):
        draw(found, tmp_path / f"{name}.json")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    assert Frontier.model_validate_json(found.model_dump_json()) == found
