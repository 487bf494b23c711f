"""An installed wheel, used from another directory, does what the checkout does."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow

# Runs commands in one process, since every start of Python loads torch again. It prints how they ended, and which files
# of the package it has loaded: beside an editable install, Python would find in the checkout what a wheel lacks.
COMMANDS = """
import json, sys
from click.testing import CliRunner
from sharp_mobile.cli import main
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main, arguments)
    print(json.dumps([result.exit_code, result.stdout, result.stderr]))
print(json.dumps([module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "sharp_mobile"]))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def run(package: Path, directory: Path, *commands: Sequence[object]) -> list[Ended]:
    """Run commands of the `sharp_mobile` that lies in a directory, from another one."""
    given = json.dumps([[str(argument) for argument in command] for command in commands])
    *ended, loaded = started(package, directory, sys.executable, "-c", COMMANDS, given).splitlines()
    assert all(Path(file).is_relative_to(package / "sharp_mobile") for file in json.loads(loaded))
    return [Ended(*json.loads(line)) for line in ended]


def started(package: Path, directory: Path, *command: object) -> str:
    directory.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, from a source distribution of a copy of the checkout."""
    directory = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        PROJECT, directory / "copy", ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "tests")
    )
    build = "from setuptools import build_meta; print(build_meta.build_sdist('..'))"
    name = started(directory, directory / "copy", sys.executable, "-c", build).splitlines()[-1]
    with tarfile.open(directory / name) as archive:
        archive.extractall(directory / "sdist", filter="data")
    (unpacked,) = (directory / "sdist").iterdir()
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-cache-dir")
    started(directory, unpacked, *pip, "--wheel-dir", directory, ".")
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the wheel is installed in."""
    site = tmp_path_factory.mktemp("site")
    started(site, site, sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    return site


def files(directory: Path) -> set[str]:
    found = (path.relative_to(PROJECT) for path in directory.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not any(part.startswith((".", "__pycache__")) for part in path.parts)}


def test_the_wheel_holds_all_files_of_the_package_and_those_that_travel_with_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    shipped = files(PROJECT / "export") | files(PROJECT / "host_bench")
    assert names == files(PROJECT / "sharp_mobile") | {f"sharp_mobile/shipped/{name}" for name in shipped}
    for name in (
        "py.typed",
        "bench/report.css",
        "bench/results.schema.json",
        "evaluate/task_files/sotu_continuation.yaml",
        "shipped/export/smollm2-135m.yaml",
        "shipped/export/budgets.toml",
        "shipped/export/shapes/llama-2-7b.json",
        "shipped/host_bench/runner.cpp",
        "shipped/host_bench/model.h",
        "shipped/host_bench/arm64/counter.c",
        "shipped/host_bench/arm64/profiles/pixel-6.yaml",
    ):
        assert f"sharp_mobile/{name}" in names


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    assert "version 0.1.0" in started(installed, tmp_path, installed / "bin" / "sharp-mobile", "--version")


def test_recipes_shapes_and_profiles_are_found_from_anywhere(installed: Path, tmp_path: Path) -> None:
    plan, size, unknown, missing, profile = run(
        installed,
        tmp_path,
        ("plan", "smollm2-135m-t_next", "--quiet"),
        ("size", "--random-weights", "llama-3.2-1b", "--plan", "t_next"),
        ("plan", "smollm3"),
        ("size", "--random-weights", "llama-9"),
        ("bench", ".", "--on", "arm64", "--profile", "list"),
    )
    assert (plan.status, size.status) == (0, 0), plan.stderr + size.stderr
    assert plan.stdout.startswith("plan 3:4, 5:6")
    assert size.stdout.startswith("llama-3.2-1b: bits")
    assert "recipes are smollm2-135m, smollm2-135m-s62, smollm2-135m-t_next, smollm2-135m-unshared;" in unknown.stderr
    assert "llama-9: no such file; give the config.json of a model, or one of 1b, llama-2-7b" in missing.stderr
    assert "pixel-6" in profile.stdout + profile.stderr
    assert (unknown.status, missing.status) == (1, 1)
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_made_and_measured_and_is_that_of_the_checkout_byte_for_byte(
    installed: Path, exportable: Path, tiny_text: Path, tmp_path: Path
) -> None:
    settings = {"text": tiny_text, "window": 32, "windows": 16, "max_length": 96, "attention": "portable"}
    export = ["export", exportable, "--plan", "2:3", "--rank", 32, "--out", "tiny", "--quiet"]
    for name, value in settings.items():
        export += ["--set", f"{name}={value}"]
    elsewhere, other = tmp_path / "elsewhere", tmp_path / "other"
    ended = run(
        installed,
        elsewhere,
        export,
        ("inspect", "tiny"),
        ("evaluate", "tiny", "--text", tiny_text, "--window", 32, "--windows", 2),
        *([("bench", "tiny", "--repetitions", 1, "--prefill", 8, "--decode", 4)] if shutil.which("g++") else []),
        ("check", "tiny", "--update"),
        ("check", "tiny"),
        ("compare", "tiny", "tiny", "--html", "compare.html"),
    )
    assert [one.status for one in ended] == [0] * len(ended), [one.stderr for one in ended]
    # All that is written lies in the working directory.
    assert sorted(path.name for path in elsewhere.iterdir()) == ["build", "compare.html", "export", "tiny"]
    (made,) = run(PROJECT, other, export)
    assert made.status == 0, made.stderr
    assert sha256(elsewhere / "tiny" / "model.pte") == sha256(other / "tiny" / "model.pte")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
