"""`sharp-mobile bench`: what is written where."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_exports import results, write_export

from sharp_mobile.bench.exports import Export, identity
from sharp_mobile.bench.results import read_results, read_sweep, write_results
from sharp_mobile.cli import main
from sharp_mobile.verify.manifest import read_manifest


def bench(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["bench", *(str(argument) for argument in arguments)])


@pytest.mark.slow
def test_results_lie_beside_the_pte_or_where_they_are_wanted(
    runner: Path, shared: Export, unshared: Export, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(shared.directory, tmp_path / shared.directory.name))
    once = ("--repetitions", 1, "--prefill", 20, "--decode", 8)
    result = bench(own, *once, "--etdump")
    assert result.exit_code == 0, result.output
    found = read_results(own / "results-host.json")
    assert found.export == shared.identity
    assert "Fully Connected" in result.output
    assert (own / "forward.etdump").is_file()
    assert bench(own, *once, "--out", tmp_path / "one.json").exit_code == 0
    assert read_results(tmp_path / "one.json").decode is not None
    assert bench(own, unshared.directory, *once, "--out", tmp_path / "both").exit_code == 0
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
        (("--memory-limit", "1G", "--sweep", "1G"), "give one of the two"),
        (("--memory-limit", "much"), "much: is not an amount of memory"),
        (("--sweep", "1G:2G"), "is not a range of memory limits"),
        (("--on", "android", "--sweep", "1G"), "--sweep: has no effect with --on android; leave it out"),
        (("--on", "ios", "--serial", "A1"), "--serial: has no effect with --on ios; leave it out"),
        (("--app", "x.apk"), "--app: has no effect with --on host; leave it out"),
        (
            ("--sweep", "1G:2G:1G", "--sustain", "3"),
            "--sustain: has no effect with --sweep, which runs single forwards",
        ),
        (("--on", "ios", "--fixed-performance"), "--fixed-performance: has no effect with --on ios; leave it out"),
        (("--depth", "0"), "--depth 0: give numbers of tokens such as 512,1024, or none"),
        (("--threads-sweep", "all"), "--threads-sweep all: give numbers of threads such as 1,2,4,performance"),
        (("--on", "android"), "none: is not an export's directory"),
        ((), "none: is not an export's directory"),
    ],
)
def test_a_wrong_option_is_told(options: tuple[str, ...], told: str, tmp_path: Path) -> None:
    result = bench(tmp_path / "none", *options)
    assert result.exit_code == 1
    assert told in result.output


def exports_and_files(tmp_path: Path) -> tuple[Path, Path]:
    write_export(tmp_path / "a")
    write_export(tmp_path / "b")
    (tmp_path / "notes.json").write_text('["mine"]')
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "b.json").write_text('{"mine": true}')
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("a/model.pte", "was not written by sharp-mobile (it has no field schema_version)"),
        ("a/manifest.json", "was not written by sharp-mobile (it has no field schema_version)"),
        ("notes.json", "was not written by sharp-mobile (it has no field schema_version)"),
        ("both", "is a directory; name a file"),
        ("a/model.pte/x.json", "cannot be written: "),
        ("/dev/null", "is not a regular file"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--sweep", "1G"), ("--on", "android")])
def test_results_replace_results_alone(options: tuple[str, ...], out: str, told: str, tmp_path: Path) -> None:
    export, _ = exports_and_files(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = bench(export, *options, "--out", tmp_path / out)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert told in result.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_results_of_several_exports_replace_results_alone(tmp_path: Path) -> None:
    result = bench(*exports_and_files(tmp_path), "--out", tmp_path / "both")
    assert "b.json: was not written by sharp-mobile" in result.output
    assert (tmp_path / "both" / "b.json").read_text() == '{"mine": true}'


def test_a_sweep_and_its_picture_are_two_files(tmp_path: Path) -> None:
    export, _ = exports_and_files(tmp_path)
    result = bench(export, "--sweep", "1G", "--out", tmp_path / "sweep.png")
    assert "sweep.png: is the name of the picture" in result.output


@pytest.mark.parametrize("option", ["--html", "--markdown"])
@pytest.mark.parametrize("name", ["a/manifest.json", "a/model.pte", "a/results-host.json", "link", "a", "b.json"])
def test_a_comparison_replaces_nothing_that_it_reads(name: str, option: str, tmp_path: Path) -> None:
    export, other = exports_and_files(tmp_path)
    for path, manifest in ((export / "results-host.json", export), (tmp_path / "b.json", other)):
        write_results(path, results(identity(read_manifest(manifest))))
    (tmp_path / "link").symlink_to(export / "model.pte")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = ["compare", str(export), str(tmp_path / "b.json"), option, str(tmp_path / name)]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert "choose another file" in result.output or "name a file" in result.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    arguments[-1] = str(export / "compare.txt")
    for _ in range(2):
        assert CliRunner().invoke(main, arguments).exit_code == 0
