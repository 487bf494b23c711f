"""`reproduce` measures each variant once, goes on when interrupted, and prints no number that it did not measure."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from reported import recorded
from tiny_models import tiny_model, tiny_tokenizer

from sharp_mobile.cli import main
from sharp_mobile.console import Console, reporting
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.files.locks import only_user
from sharp_mobile.paper import reproduce as run
from sharp_mobile.paper.reproduce import Budget, Measurements, reproduce
from sharp_mobile.paper.tables import ORIGINAL, Row, Table
from sharp_mobile.paper.variants import Variant
from sharp_mobile.recipe.source import Source
from sharp_mobile.text.windows import read_text, token_windows

TABLE = Table(
    4,
    "a test",
    ("Arxiv-math",),
    (
        Row("Original", "", ORIGINAL, "100%", (3.0,)),
        Row("Direct Sharing", "t_next", Variant(plan="t_next"), "56%", (2171.3,)),
        Row("Direct Sharing, again", "t_next", Variant(plan="t_next"), "56%", (None,)),
        Row("SHARP (w/o f.t.)", "t_next", Variant(plan="t_next", rank=400, warmup=True), "62%", (4.8,)),
        Row("SHARP", "t_next", Variant(plan="t_next", rank=400, warmup=True, finetune=1.0), "62%", (7654.0,)),
    ),
)


@pytest.fixture
def budget(tiny_text: Path) -> Budget:
    return Budget(
        text=str(tiny_text),
        window=24,
        windows=3,
        calibration_text=str(tiny_text),
        calibration_windows=8,
    )


def make(checkpoint: Path, out: Path, budget: Budget, table: Table = TABLE) -> tuple[str, list[str]]:
    """The table as written, and the lines said."""
    with recorded() as report:
        path = reproduce(table, Source(str(checkpoint)), out, budget)
    return path.read_text(), report.lines


def test_each_row_is_measured_or_says_why_not(tiny_checkpoint: Path, tmp_path: Path, budget: Budget) -> None:
    text, _ = make(tiny_checkpoint, tmp_path, budget)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "method",
        "Original",
        "Direct Sharing",
        "Direct Sharing, again",
        "SHARP (w/o f.t.)",
    ]
    windows = token_windows(tiny_tokenizer(), read_text(budget.text), 24, 3)
    model = tiny_model()
    value = perplexity(lambda tokens: model(tokens).logits, windows).value
    assert rows[1] == f"| Original |  |  | 100% | **{value:.1f}** | 100% | 3.0 |"
    assert "| 2,171 |" in rows[2]
    assert rows[3].endswith("| – |")
    assert "- SHARP t_next (the paper's rank 400): there are no tokens for fine-tuning; use --finetune-tokens" in text
    assert "7,654" not in text  # the paper's number for the row that is not measured
    assert "another model: Llama-2-7B" in text


def test_what_was_measured_is_not_measured_again(
    tiny_checkpoint: Path, tmp_path: Path, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = make(tiny_checkpoint, tmp_path / "whole", budget)
    calls = 0

    def interrupted(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return perplexity(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "perplexity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tiny_checkpoint, tmp_path / "cut", budget)
    kept = Measurements.model_validate_json((tmp_path / "cut" / "variants.json").read_text())
    assert len(kept.variants) == 2
    resumed, said = make(tiny_checkpoint, tmp_path / "cut", budget)
    assert resumed == whole
    assert calls == 3 + 1
    assert [line.partition(":")[0] for line in said[:-1]] == ["SHARP (w/o f.t.) t_next", "SHARP t_next"]


def test_a_second_run_waits_until_the_first_has_measured(tiny_checkpoint: Path, tmp_path: Path, budget: Budget) -> None:
    waits, lines = threading.Event(), []

    def say(line: str) -> None:
        lines.append(line)
        waits.set()

    def second() -> Path:
        with reporting(Console(say=say)):  # a new thread starts silent
            return reproduce(table, Source(str(tiny_checkpoint)), tmp_path, budget)

    table = Table(4, "a test", TABLE.datasets, TABLE.rows[:1])
    with ThreadPoolExecutor(1) as pool:
        with only_user(tmp_path / "variants.json"):
            written = pool.submit(second)
            assert waits.wait(30)
            assert not written.done()
        assert written.result(30) == tmp_path / "table4.md"
    assert "variants.json: process " in lines[0]
    assert "has been using it since" in lines[0]


def test_other_measurements_are_refused(tiny_checkpoint: Path, tmp_path: Path, budget: Budget) -> None:
    table = Table(4, "a test", TABLE.datasets, TABLE.rows[:1])
    make(tiny_checkpoint, tmp_path / "out", budget, table)
    with pytest.raises(SharpError, match="made with another windows; name another --out"):
        make(tiny_checkpoint, tmp_path / "out", budget.model_copy(update={"windows": 2}), table)
    other = tmp_path / "other"
    tiny_model(seed=1).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    with pytest.raises(SharpError, match="made with another model, checkpoint"):
        make(other, tmp_path / "out", budget, table)
    (tmp_path / "out" / "variants.json").write_text("{")
    with pytest.raises(SharpError, match="was not written by `reproduce`"):
        make(tiny_checkpoint, tmp_path / "out", budget, table)


@pytest.mark.parametrize("what", ["table5", "fig4"])
def test_the_command_prints_the_table_or_the_figure(
    what: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    options = ["--out", tmp_path / "out", "--text", tiny_text, "--window", 24, "--windows", 2]
    options += ["--calibration-text", tiny_text, "--calibration-windows", 8, "--quiet"]
    result = CliRunner().invoke(main, ["reproduce", what, str(tiny_checkpoint), *map(str, options)])
    assert result.exit_code == 0, result.output
    assert "Llama-2-7B" in result.stdout
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == (["fig4.json", "fig4.png"] if what == "fig4" else ["table5.md", "variants.json"])
    if what == "table5":
        assert len(json.loads((tmp_path / "out" / "variants.json").read_text())["variants"]) >= 3
