"""`sharp-mobile bench`: what is written where."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import read_results, read_sweep
from sharp_mobile.cli import main


def bench(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["bench", *(str(argument) for argument in arguments)])


@pytest.mark.slow
def test_results_lie_beside_the_pte_or_where_they_are_wanted(
    runner: Path, shared: Export, unshared: Export, tmp_path: Path
) -> None:
    once = ("--repetitions", 1, "--prefill", 20, "--decode", 8)
    result = bench(shared.directory, *once, "--etdump")
    assert result.exit_code == 0, result.output
    found = read_results(shared.directory / "results-host.json")
    assert found.export == shared.identity
    assert "Fully Connected" in result.output
    assert (shared.directory / "forward.etdump").is_file()
    assert bench(shared.directory, *once, "--out", tmp_path / "one.json").exit_code == 0
    assert read_results(tmp_path / "one.json").decode is not None
    assert bench(shared.directory, unshared.directory, *once, "--out", tmp_path / "both").exit_code == 0
    for export in (shared, unshared):
        assert read_results(tmp_path / "both" / f"{export.directory.name}.json").export == export.identity


@pytest.mark.slow
def test_a_sweep_is_one_file_and_a_picture(limits_allowed: None, runner: Path, shared: Export, tmp_path: Path) -> None:
    result = bench(shared.directory, "--sweep", "60M,80M", "--repetitions", 1, "--out", tmp_path / "memory.json")
    assert result.exit_code == 0, result.output
    assert len(read_sweep(tmp_path / "memory.json").curves[0].points) == 2
    assert (tmp_path / "memory.png").is_file()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--memory-limit", "1G", "--sweep", "1G"), "choose one limit or many"),
        (("--memory-limit", "much"), "much: is no amount of memory"),
        (("--sweep", "1G:2G"), "is no range of memory limits"),
        (("--on", "android", "--sweep", "1G"), "--sweep: of no use with --on android; leave out"),
        (("--on", "ios", "--serial", "A1"), "--serial: of no use with --on ios; leave out"),
        (("--app", "x.apk"), "--app: of no use with --on host; leave out"),
        (("--on", "android"), "none: is not an export's directory"),
        ((), "none: is not an export's directory"),
    ],
)
def test_a_wrong_option_is_told(options: tuple[str, ...], told: str, tmp_path: Path) -> None:
    result = bench(tmp_path / "none", *options)
    assert result.exit_code == 1
    assert told in result.output
