"""Budgets: green on what they were made from, red on a file that grew, on sharing that was lost, on more work."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_exports import EMULATED, count, results, write_export

from sharp_mobile.bench.budgets.file import AtLeast, AtMost, budgets_file, read_budgets
from sharp_mobile.bench.exports import identity
from sharp_mobile.bench.results import Counts, Memory, write_results
from sharp_mobile.cli import main
from sharp_mobile.errors import SharpError
from sharp_mobile.pipeline import ExportResult, export
from sharp_mobile.recipe.load import load_recipe
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.settings import Recipe


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", *(str(argument) for argument in arguments)])


def green(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "RED" not in result.stdout
    return result.stdout


def red(*arguments: object) -> list[str]:
    """The budgets that are broken, which the error names too."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    broken = [line.split("  ")[1].strip() for line in result.stdout.splitlines() if line.startswith("RED")]
    assert all(f"{name} " in result.stderr for name in broken)
    return broken


@pytest.mark.slow
def test_a_real_export_is_red_when_it_grows_and_when_its_sharing_is_lost(
    own_export: ExportResult, mute_export: tuple[ExportResult, list[str]], tiny_recipe: Recipe, tmp_path: Path
) -> None:
    budgets = tmp_path / "budgets.toml"
    green(own_export.directory, "--budgets", budgets, "--update")
    green(own_export.directory, "--budgets", budgets)

    unshared, _ = mute_export
    assert "shared_bytes" in red(unshared.directory, "--budgets", budgets)
    wider = tiny_recipe.model_copy(update={"quantize": tiny_recipe.quantize.model_copy(update={"linear": 8})})
    grown = export(wider, "tiny", tmp_path / "wider", work=own_export.directory.parent / "recovered")
    assert 1.02 < grown.manifest.sizes.file / own_export.manifest.sizes.file < 1.1
    assert red(grown.directory, "--budgets", budgets) == ["file_bytes"]


@pytest.mark.parametrize("name", ["smollm2-135m", "smollm2-135m-t_next", "smollm2-135m-unshared"])
def test_shipped_recipes_have_budgets_and_all_targets_save(name: str) -> None:
    found = read_budgets(budgets_file(name), name)
    assert found.file_bytes is not None
    mlp = (
        3 * 576 * 1536 * (4 + 16 / 32) / 8
    )  # three projections: 4 bits a weight, and a scale of 16 bits for 32 of them
    targets = len(SharePlan.parse(load_recipe(name).plan, 30).targets)
    assert (found.shared_bytes.at_least if found.shared_bytes else 0) == targets * mlp


@pytest.fixture
def budgets(tmp_path: Path) -> Path:
    path = tmp_path / "budgets.toml"
    path.write_text(
        "# What CI holds.\n"
        "[tiny]\n"
        "file_bytes = { at_most = 1_000, tolerance = 0.01 }  # of the .pte\n"
        "shared_bytes = { at_least = 200, tolerance = 0.0 }\n"
        "\n"
        "[tiny.cortex-a76]\n"
        "forward_instructions = { at_most = 1_000_000, tolerance = 0.01 }\n"
        "load_first_instructions = { at_most = 9_000_000, tolerance = 0.01 }\n"
        "\n"
        "[tiny.host]\n"
        "resident_bytes = { at_most = 120_000_000, tolerance = 0.05 }\n"
        "\n"
        '["other-0.5B"]\n'
        "file_bytes = { at_most = 5, tolerance = 0.0 }\n"
    )
    return path


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, []),
        ({"file_bytes": 1010}, []),  # the tolerance
        ({"file_bytes": 1020}, ["file_bytes"]),
        ({"shared": 199}, ["shared_bytes"]),
        ({"shared": 0, "plan": "none", "file_bytes": 1150}, ["file_bytes", "shared_bytes"]),
    ],
)
def test_sizes(changes: dict[str, object], broken: list[str], budgets: Path, tmp_path: Path) -> None:
    write_export(tmp_path / "tiny", **changes)  # type: ignore[arg-type]
    if broken:
        assert red(tmp_path / "tiny", "--budgets", budgets) == broken
    else:
        lines = green(tmp_path / "tiny", "--budgets", budgets).splitlines()
        assert [line[:4].strip() for line in lines] == ["ok", "ok", "–", "–", "–"]  # no results, so dashes


def test_instructions_and_memory(budgets: Path, tmp_path: Path) -> None:
    directory = tmp_path / "tiny"
    export = identity(write_export(directory))
    write_results(directory / "results-host.json", results(export))
    emulated = tmp_path / "emulated.json"
    write_results(emulated, results(export, EMULATED))
    assert "–" not in green(directory, emulated, "--budgets", budgets)

    write_results(emulated, results(export, EMULATED, speed=0.98))
    assert red(directory, emulated, "--budgets", budgets) == ["cortex-a76 forward_instructions"]
    write_results(emulated, results(export, EMULATED, counts=Counts(forward=count(1_000_000))))
    assert red(directory, emulated, "--budgets", budgets) == ["cortex-a76 load_first_instructions"]  # not measured

    memory = Memory(anonymous=20_000_000, file=107_000_000, peak=130_000_000)
    write_results(directory / "results-host.json", results(export, memory=memory))
    assert red(directory, "--budgets", budgets) == ["host resident_bytes"]


def test_a_padded_file_is_red_though_its_manifest_is_not(budgets: Path, tmp_path: Path) -> None:
    write_export(tmp_path / "tiny")
    pte = tmp_path / "tiny" / "model.pte"
    pte.write_bytes(pte.read_bytes() + bytes(20))
    assert red(tmp_path / "tiny", "--budgets", budgets) == ["file_bytes"]
    assert "does not match its manifest" in run(tmp_path / "tiny", "--budgets", budgets).stderr
    before = budgets.read_text()
    assert run(tmp_path / "tiny", "--budgets", budgets, "--update").exit_code == 1
    assert budgets.read_text() == before


def test_results_of_another_pte_are_refused(budgets: Path, tmp_path: Path) -> None:
    write_export(tmp_path / "tiny")
    other = identity(write_export(tmp_path / "other"))
    write_results(tmp_path / "results.json", results(other))
    result = run(tmp_path / "tiny", tmp_path / "results.json", "--budgets", budgets)
    assert result.exit_code == 1
    assert "results.json: was measured with another .pte than tiny's" in result.stderr


def test_update_keeps_all_that_it_does_not_know_better(budgets: Path, tmp_path: Path) -> None:
    export = identity(write_export(tmp_path / "tiny", file_bytes=1500, shared=300))
    write_results(tmp_path / "tiny" / "results-arm64.json", results(export, EMULATED, speed=0.5))
    green(tmp_path / "tiny", "--budgets", budgets, "--update")
    assert budgets.read_text() == (
        "# What CI holds.\n"
        "[tiny]\n"
        "file_bytes = { at_most = 1_500, tolerance = 0.01 }  # of the .pte\n"
        "shared_bytes = { at_least = 300, tolerance = 0.0 }\n"
        "\n"
        "[tiny.cortex-a76]\n"
        "forward_instructions = { at_most = 2_000_000, tolerance = 0.01 }\n"
        "load_first_instructions = { at_most = 9_000_000, tolerance = 0.01 }\n"
        "\n"
        "[tiny.host]\n"
        "resident_bytes = { at_most = 120_000_000, tolerance = 0.05 }\n"
        "\n"
        '["other-0.5B"]\n'
        "file_bytes = { at_most = 5, tolerance = 0.0 }\n"
    )


def test_update_writes_a_file_where_there_is_none(tmp_path: Path) -> None:
    budgets, directory = tmp_path / "new" / "budgets.toml", tmp_path / "Qwen2.5-0.5B"
    write_export(directory)
    assert "write budgets with --update" in run(directory, "--budgets", budgets).stderr
    green(directory, "--budgets", budgets, "--update")
    found = read_budgets(budgets, "Qwen2.5-0.5B")
    assert found.file_bytes == AtMost(at_most=1000, tolerance=0.002)
    assert found.shared_bytes == AtLeast(at_least=200, tolerance=0.0)
    write_export(tmp_path / "unshared", shared=0)
    green(tmp_path / "unshared", "--budgets", budgets, "--update")
    assert read_budgets(budgets, "unshared").shared_bytes is None


def test_update_writes_wrong_budgets_anew_and_touches_nothing_else_that_is_wrong(tmp_path: Path) -> None:
    budgets, directory = tmp_path / "budgets.toml", tmp_path / "tiny"
    write_export(directory)
    budgets.write_text("[tiny]\nfile_bytes = { at_most = 'x', tolerance = nan }\nshared_bytes = 3\n")
    green(directory, "--budgets", budgets, "--update")
    assert read_budgets(budgets, "tiny").file_bytes == AtMost(at_most=1000, tolerance=0.002)
    budgets.write_text("tiny = 3\n")
    assert "budgets.toml: tiny must be a table of budgets" in run(directory, "--budgets", budgets, "--update").stderr
    assert budgets.read_text() == "tiny = 3\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[tiny", "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("a = " + "9" * 5000, "is not TOML"),
        ("[tiny]\nfile_bytes = { at_most = 1, tolerance = nan }", "tiny.file_bytes.tolerance: "),
        (f"[tiny]\nfile_bytes = {{ at_most = {10**30}, tolerance = 0 }}", "tiny.file_bytes.at_most: .* less than"),
        ("tiny = 3", "tiny: Input should be a valid dictionary"),
        ("[other]\nfile_bytes = { at_most = 1, tolerance = 0 }", "has no budgets for tiny, only for other; write them"),
        ("[tiny]\nfile_bytes = { at_most = -1, tolerance = 0 }", "tiny.file_bytes.at_most: .* greater than"),
        ("[tiny]\nfile_bytes = { at_most = 1 }", "tiny.file_bytes.tolerance: Field required"),
        ("[tiny]\nshared_bytes = { at_most = 1, tolerance = 0 }", "tiny.shared_bytes.at_least: Field required"),
        ("[tiny]\nfiles = { at_most = 1, tolerance = 0 }", "tiny.files.at_most: .*; budgets are file_bytes, shared"),
        ("[tiny.host]\nforward_seconds = { at_most = 1, tolerance = 0 }", "tiny.host.forward_seconds: .*; budgets are"),
    ],
)
def test_a_wrong_budgets_file_is_told(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text(content)
    with pytest.raises(SharpError, match=f"^{path}: {told}"):
        read_budgets(path, "tiny")
