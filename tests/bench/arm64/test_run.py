"""The verbs `bench --on arm64` and `prepack`, from the command line."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sharp_mobile.bench.arm64.emulation import Emulator
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import read_results
from sharp_mobile.cli import main


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_instructions_are_counted_told_and_kept(shared: Export, emulator: Emulator, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    told = run("bench", shared.directory, "--on", "arm64", "--profile", "cortex-a76", "--prefill", "3", "--out", out)
    assert told.exit_code == 0, told.output
    results = read_results(out)
    assert results.counts
    assert results.counts.forward
    assert f"{results.counts.forward.instructions:,}" in told.output
    assert "prefill of 3" in told.output
    assert "not a time" in told.output


@pytest.mark.slow
def test_prepack_tells_the_class(shared: Export, emulator: Emulator, tmp_path: Path) -> None:
    export = shutil.copytree(shared.directory, tmp_path / "tiny")
    told = run("prepack", export, "--profile", "cortex-a53")
    assert told.exit_code == 0, told.output
    assert told.output.endswith("bytes, for arm64\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["--on", "arm64", "--sweep", "1M:2M:1M", "--threads", "2"],
            "--threads, --sweep: has no effect with --on arm64",
        ),
        (["--profile", "pixel-6"], "--profile: has no effect with --on host"),
        (["--on", "arm64", "--profile", "list"], "choose cortex-a53, cortex-a76, pixel-6, snapdragon-8-gen-1"),
    ],
)
def test_options_of_another_place_are_refused(arguments: list[str], error: str, tmp_path: Path) -> None:
    told = run("bench", tmp_path, *arguments)
    assert told.exit_code == 1
    assert error in told.output
