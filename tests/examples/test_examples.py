"""The examples run as they are, on a tiny model."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from project import PROJECT

from sharp_mobile import open_export, predict_size
from sharp_mobile.checkpoint.open import open_checkpoint

EXAMPLES = PROJECT / "examples"


def run(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def here(tmp_path: Path, exportable: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model and a recipe of it."""
    (tmp_path / "tiny").symlink_to(exportable)
    (tmp_path / "mine.yaml").write_text(
        f"model: tiny\nplan: '2:3'\nrecovery: {{rank: 32}}\nwarmup: {{text: {tiny_text}, window: 32, windows: 16}}\n"
        "lower: {max_length: 96}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(printed: str) -> dict[str, list[int]]:
    """The rows of the table: file, MLPs, recovery parameters and resident bytes by plan."""
    rows = [row.split() for row in printed.splitlines()[1:]]
    return {plan: [int(cell.replace(",", "")) for cell in cells if "%" not in cell] for plan, *cells in rows}


def test_plans_are_compared_in_a_table(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("compare_plans.py", "tiny", "--plan", "2:3", "--plan", "direct:2:3", "--rank", 32, monkeypatch=monkeypatch)
    rows = table(capsys.readouterr().out)
    assert list(rows) == ["none", "2:3", "direct:2:3"]
    size = predict_size("tiny")
    assert rows["none"] == [size.file.total, size.file.mlps, 0, size.resident.total]
    assert rows["none"][1] * 3 == rows["2:3"][1] * 4 == rows["direct:2:3"][1] * 4
    assert rows["direct:2:3"][2] == 0 < rows["2:3"][2]


@pytest.mark.slow
def test_a_model_is_recovered_then_exported_and_answers(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("recover.py", "mine.yaml", "--out", "recovered", monkeypatch=monkeypatch)
    assert open_checkpoint("recovered").plan is not None
    assert capsys.readouterr().out == f"{here}/recovered: python examples/export.py {here}/recovered\n"
    run("export.py", "recovered", "--out", "phone", "--prompt", "Hello", monkeypatch=monkeypatch)
    phone, printed = open_export("phone"), capsys.readouterr().out
    assert printed.startswith(f"{here}/phone/model.pte: {phone.manifest.sizes.file:,} bytes; ")
    assert "plan 2:3, " in printed
    assert phone.generate("Hello") in printed


@pytest.mark.parametrize("name", ["export.py", "recover.py", "compare_plans.py"])
def test_an_error_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: nowhere: no recipe, file or directory of that name"):
        run(name, "nowhere", monkeypatch=monkeypatch)


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_names_itself(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) <= 60
    assert f"\npython examples/{script.name} smollm2-135m" in text


def test_help_needs_no_pytorch() -> None:
    command = [sys.executable, "-X", "importtime", EXAMPLES / "export.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "python examples/export.py smollm2-135m" in done.stdout
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
