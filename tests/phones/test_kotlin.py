"""The Android benchmark on this computer: its core is tested, and benches a real `.pte`, also with the app's engine."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kotlin_tools import (
    ANDROID_BENCH,
    APP_ENGINE,
    FIXTURES,
    KOTLIN_TEST,
    STDLIB,
    core_jar,
    executorch_jar,
    java,
    jni_library,
    kotlinc,
)
from phone_harnesses import (
    SPOILED,
    Harness,
    check_a_broken_export_is_told_in_its_results,
    check_a_real_pte_is_benched_and_answers_as_in_cpp,
    check_all_that_a_plan_can_ask_for,
    check_its_results_stand_beside_those_of_other_harnesses,
)

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import read_results
from sharp_mobile.bench.runner import Task, launch

CORE_TESTS = ANDROID_BENCH / "core" / "src" / "test"
NAME = "kotlin-jvm"


@pytest.fixture(scope="session")
def core_tests() -> list[Path]:
    """Classes of the core's tests and all that they need."""
    core = core_jar()
    needed = [core, *KOTLIN_TEST]
    return [kotlinc("core-test", [CORE_TESTS], needed, f"-Xfriend-paths={core}"), *needed, STDLIB]


@pytest.fixture(scope="session")
def bench() -> Harness:
    """The benchmark's program around the engine's C interface."""
    needed = [core_jar(), executorch_jar()]
    classes = [kotlinc("jvm", [ANDROID_BENCH / "jvm" / "src" / "main", APP_ENGINE], needed), *needed, STDLIB]
    library = f"-Dsharp.engine={jni_library()}"
    return lambda *arguments: java(classes, library, "dev.sharpmobile.bench.jvm.MainKt", *arguments)


@pytest.mark.slow
def test_the_cores_own_tests(core_tests: list[Path]) -> None:
    names = [f"dev.sharpmobile.bench.{path.stem}" for path in sorted(CORE_TESTS.rglob("*Test.kt"))]
    written = sum(path.read_text().count("@Test") for path in CORE_TESTS.rglob("*Test.kt"))
    done = java(core_tests, f"-Dsharp.fixtures={FIXTURES}", "org.junit.runner.JUnitCore", *names)
    assert f"OK ({written} tests)" in done.stdout, done.stdout[-4000:]


@pytest.mark.slow
def test_the_results_that_kotlin_writes_are_the_checked_in_ones(core_tests: list[Path], tmp_path: Path) -> None:
    """Made by: java -Dsharp.fixtures=tests/fixtures/results -cp … dev.sharpmobile.bench.FakesKt"""
    done = java(core_tests, f"-Dsharp.fixtures={tmp_path}", "dev.sharpmobile.bench.FakesKt")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kotlin.json").read_text() == (FIXTURES / "kotlin.json").read_text()
    assert read_results(FIXTURES / "kotlin.json").settings.harness == "kotlin"


@pytest.mark.slow
def test_a_real_pte_is_benched_and_answers_as_in_cpp(
    bench: Harness, runner: Path, shared: Export, unshared: Export, tmp_path: Path
) -> None:
    check_a_real_pte_is_benched_and_answers_as_in_cpp(bench, NAME, runner, (shared, unshared), tmp_path)


@pytest.mark.slow
def test_its_results_stand_beside_those_of_other_harnesses(
    bench: Harness, shared: Export, unshared: Export, tmp_path: Path
) -> None:
    check_its_results_stand_beside_those_of_other_harnesses(bench, NAME, (shared, unshared), tmp_path)


@pytest.mark.slow
def test_the_apps_own_engine_answers_as_in_cpp(bench: Harness, runner: Path, shared: Export, tmp_path: Path) -> None:
    """ExecuTorchEngine.kt as it is in the app, around Module, Tensor and EValue on this computer."""
    sizes = ["--repetitions", "1", "--prefill", "16", "--decode", "4", "--depths", "none"]
    done = bench(shared.directory, "--engine", "app", *sizes, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = read_results(tmp_path / f"results-kotlin-app-{shared.directory.name}.json")
    cpp = launch(runner, shared.pte, Task(prompt=shared.prompt, forwards=0, tokens=len(shared.tokens)))
    assert [token for token, _ in found.likeliest] == [token for token, _ in cpp.likeliest]
    assert [logit for _, logit in found.likeliest] == pytest.approx([logit for _, logit in cpp.likeliest], rel=1e-7)
    assert found.tokens == cpp.tokens
    assert found.load.first is not None
    assert found.load.later is None  # its API cannot keep packed weights
    assert any("every launch packs anew" in warning for warning in found.warnings)


@pytest.mark.slow
def test_what_the_apps_engine_cannot_load_is_in_its_results(bench: Harness, shared: Export, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(shared.directory, tmp_path / "broken"))
    other = b"no program".ljust(shared.pte.stat().st_size)
    (broken / "model.pte").write_bytes(other)
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256(other).hexdigest()
    (broken / "manifest.json").write_text(json.dumps(manifest))
    assert bench(broken, "--engine", "app", "--out", tmp_path).returncode == 1
    error = read_results(tmp_path / "results-kotlin-app-broken.json").error or ""
    assert error.startswith("broken: cannot be loaded: ")


@pytest.mark.slow
def test_all_that_a_plan_can_ask_for(bench: Harness, shared: Export, tmp_path: Path) -> None:
    check_all_that_a_plan_can_ask_for(bench, NAME, shared, tmp_path)


@pytest.mark.slow
@SPOILED
def test_a_broken_export_is_told_in_its_results(
    bench: Harness, shared: Export, tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    check_a_broken_export_is_told_in_its_results(bench, NAME, shared, spoil, told, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "no export is named"),
        (("x", "--threads", "0"), "threads=0: write a whole number from 1 on"),
        (("x", "--cool-down", "all"), "cool_down=all: write a whole number from 0 on"),
        (("x", "--threads"), "--threads: needs a value"),
        (("x", "--speed", "9"), "speed=9: is no option"),
        (("x", "--engine", "other"), "--engine other: choose host or app"),
    ],
)
def test_a_wrong_command_is_told(bench: Harness, arguments: tuple[str, ...], told: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {told}")
