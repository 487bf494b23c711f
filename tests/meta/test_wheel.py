"""An installed wheel, used from another directory, does what the checkout does."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from project import PROJECT
from tiny_models import save_tiny_model

import sharp_mobile
from sharp_mobile.cli import main

pytestmark = pytest.mark.slow

# Runs commands in one process, since every start of Python loads torch again. It prints how they ended, and which files
# of the package it has loaded: next to an editable install, Python would find in the checkout what a wheel lacks.
COMMANDS = """
import json, sys
from click.testing import CliRunner
from sharp_mobile.cli import main
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main, arguments)
    print(json.dumps([result.exit_code, result.stdout, result.stderr]))
print(json.dumps([module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "sharp_mobile"]))
"""
SETTINGS = {"window": 32, "windows": 16, "max_length": 48, "attention": "portable"}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def started(directory: Path, *command: object, **environment: str) -> str:
    """What a program prints that runs in a directory."""
    words, variables = [str(word) for word in command], {**os.environ, **environment}
    done = subprocess.run(words, cwd=directory, env=variables, capture_output=True, text=True)
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
    name = started(directory / "copy", sys.executable, "-c", build).splitlines()[-1]
    with tarfile.open(directory / name) as archive:
        archive.extractall(directory / "sdist", filter="data")
    (unpacked,) = (directory / "sdist").iterdir()
    left = unpacked / "build" / "lib" / "sharp_mobile"  # of an earlier build in the same place
    left.mkdir(parents=True)
    (left / "gone.py").touch()
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-cache-dir")
    started(unpacked, *pip, "--wheel-dir", directory, ".")
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the wheel is installed in."""
    site = tmp_path_factory.mktemp("site")
    started(site, sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    return site


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, tiny_text: Path) -> Path:
    """A directory that is no checkout, with a model and a text."""
    directory = tmp_path_factory.mktemp("elsewhere")
    save_tiny_model(directory / "model", num_hidden_layers=3)
    shutil.copy(tiny_text, directory / "text.txt")
    return directory


def export(out: str) -> list[object]:
    settings = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    command = ["export", "model", "--plan", "1:2", "--rank", 32, "--out", out, "--quiet"]
    return [*command, "--set", "text=text.txt", *settings]


@pytest.fixture(scope="module")
def ended(installed: Path, elsewhere: Path) -> dict[str, Ended]:
    """How the wheel's commands ended, started elsewhere."""
    commands: dict[str, list[object]] = {
        "plan": ["plan", "model", "--plan", "1:2", "--quiet"],
        "recipe": ["size", "smollm2-135m-t_next"],
        "shape": ["size", "--random-weights", "1b"],
        "no recipe": ["plan", "smollm3"],
        "no shape": ["size", "--random-weights", "llama-9"],
        "export": export("tiny"),
        "no profile": ["prepack", "tiny", "--profile", "phone-9"],
        "inspect": ["inspect", "tiny"],
        "evaluate": ["evaluate", "tiny", "--text", "text.txt", "--window", 32, "--windows", 2],
        "no budgets": ["check", "tiny"],
        "update": ["check", "tiny", "--update"],
        "check": ["check", "tiny"],
        "compare": ["compare", "tiny", "tiny", "--html", "compare.html"],
    }
    if shutil.which("g++"):
        commands["bench"] = ["bench", "tiny", "--repetitions", 1, "--prefill", 8, "--decode", 4]
    given = json.dumps([[str(word) for word in command] for command in commands.values()])
    printed = started(elsewhere, sys.executable, "-c", COMMANDS, given, PYTHONPATH=str(installed))
    *told, loaded = printed.splitlines()
    assert all(Path(file).is_relative_to(installed / "sharp_mobile") for file in json.loads(loaded))
    return {name: Ended(*json.loads(line)) for name, line in zip(commands, told, strict=True)}


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
        "bench/compare/report.css",
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


def test_the_command_is_installed(installed: Path, elsewhere: Path) -> None:
    command = installed / "bin" / "sharp-mobile"
    assert sharp_mobile.__version__ in started(elsewhere, command, "--version", PYTHONPATH=str(installed))


def test_recipes_and_shapes_are_found_from_anywhere(ended: dict[str, Ended]) -> None:
    assert ended["recipe"].stdout.startswith("smollm2-135m-instruct: bits"), ended["recipe"].stderr
    assert ended["shape"].stdout.startswith("1b: bits"), ended["shape"].stderr


def test_an_error_names_the_recipes_shapes_and_profiles_that_there_are(ended: dict[str, Ended]) -> None:
    for name, there in (
        ("no recipe", "recipes are smollm2-135m, smollm2-135m-s62, smollm2-135m-t_next, smollm2-135m-unshared;"),
        ("no shape", "llama-9: no such file; give the config.json of a model, or one of 1b, llama-2-7b, llama-3.2-1b"),
        ("no budgets", "budgets.toml: has no budgets for model, only for smollm2-135m"),
        ("no profile", "choose cortex-a53, cortex-a76, pixel-6, snapdragon-8-gen-1"),
    ):
        assert there in ended[name].stderr
        assert ended[name].status == 1


@pytest.mark.parametrize("verb", ["plan", "export", "inspect", "evaluate", "bench", "update", "check", "compare"])
def test_a_verb_works_elsewhere(verb: str, ended: dict[str, Ended]) -> None:
    if verb not in ended:
        pytest.skip("the runner needs g++")
    assert ended[verb].status == 0, ended[verb].stderr


def test_commands_write_into_the_working_directory(
    ended: dict[str, Ended], elsewhere: Path, installed: Path, wheel: Path
) -> None:
    made = {"build", "export", "tiny", "compare.html"}
    assert {path.name for path in elsewhere.iterdir()} == {"model", "text.txt", *made}
    with zipfile.ZipFile(wheel) as archive:
        shipped = archive.read("sharp_mobile/shipped/export/budgets.toml")
    assert (installed / "sharp_mobile" / "shipped" / "export" / "budgets.toml").read_bytes() == shipped


def test_wheel_and_checkout_export_the_same_bytes(
    ended: dict[str, Ended], elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path(sharp_mobile.__file__).is_relative_to(PROJECT)
    for name in ("model", "text.txt"):
        (tmp_path / name).symlink_to(elsewhere / name)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [str(word) for word in export("tiny")])
    assert result.exit_code == 0, result.stderr
    assert sha256(tmp_path / "tiny" / "model.pte") == sha256(elsewhere / "tiny" / "model.pte")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
