"""The Android benchmark on this computer: its core is tested, benches a real `.pte`, and its app is type-checked."""

import hashlib
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tomlkit
from kotlin_tools import (
    ANDROID_BENCH,
    ANDROID_JAR,
    FIXTURES,
    JUNIT,
    KOTLIN_TEST,
    STDLIB,
    java,
    jni_library,
    kotlinc,
    require_kotlin,
)
from phone_harnesses import (
    SPOILED,
    Harness,
    check_a_broken_export_is_told_in_its_results,
    check_a_real_pte_is_benched_and_answers_as_in_cpp,
    check_its_results_stand_beside_those_of_other_harnesses,
)
from project import PROJECT

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import read_results

CORE_TESTS = ANDROID_BENCH / "core" / "src" / "test"
NAME = "kotlin-jvm"


@pytest.fixture(scope="session")
def core() -> Path:
    require_kotlin()
    return kotlinc("core", ANDROID_BENCH / "core" / "src" / "main", [])


@pytest.fixture(scope="session")
def core_tests(core: Path) -> list[Path]:
    """Classes of the core's tests and all that they need."""
    needed = [core, *KOTLIN_TEST]
    return [kotlinc("core-test", CORE_TESTS, needed, f"-Xfriend-paths={core}"), *needed, STDLIB]


@pytest.fixture(scope="session")
def bench(core: Path) -> Harness:
    """The benchmark's program around the engine's C interface."""
    classes = [kotlinc("jvm", ANDROID_BENCH / "jvm" / "src" / "main", [core]), core, STDLIB]
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
        (("x", "--threads", "0"), "threads 0: write a whole number from 1 on"),
        (("x", "--threads", "all"), "--threads all: write a whole number"),
        (("x", "--threads"), "--threads: needs a value"),
        (("x", "--speed", "9"), "--speed: is no option"),
    ],
)
def test_a_wrong_command_is_told(bench: Harness, arguments: tuple[str, ...], told: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {told}")


@pytest.mark.slow
def test_the_app_calls_android_and_executorch_as_they_are(core: Path) -> None:
    """Against android.jar, and signatures of what it lacks; the instrumented test with it."""
    stubs = kotlinc("stubs", ANDROID_BENCH / "typecheck" / "stubs", [ANDROID_JAR, *JUNIT])
    kotlinc("app", ANDROID_BENCH / "app" / "src", [core, stubs, ANDROID_JAR, *JUNIT])


def _versions() -> dict[str, str]:
    catalog = tomlkit.parse((ANDROID_BENCH / "gradle" / "libs.versions.toml").read_text())
    return dict(catalog["versions"])


def test_versions_are_those_of_the_project() -> None:
    dependencies = tomlkit.parse((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    executorch = _versions()["executorch"]
    assert f"executorch=={executorch}" in dependencies
    stub = (ANDROID_BENCH / "typecheck" / "stubs" / "BuildConfig.kt").read_text()
    assert f'EXECUTORCH = "{executorch}"' in stub
    assert f"kotlin={_versions()['kotlin']} " in (ANDROID_BENCH / "kotlin-on-linux").read_text()


def test_the_build_names_what_the_catalog_has() -> None:
    catalog = tomlkit.parse((ANDROID_BENCH / "gradle" / "libs.versions.toml").read_text())
    names = {f"libs.{name.replace('-', '.')}" for name in catalog["libraries"]}
    names |= {f"libs.plugins.{name.replace('-', '.')}" for name in catalog["plugins"]}
    scripts = "".join(path.read_text() for path in ANDROID_BENCH.rglob("*.gradle.kts"))
    used = {name for name in re.findall(r"\blibs\.[\w.]+", scripts) if not name.startswith("libs.versions")}
    assert used == names
    for entry in (*catalog["libraries"].values(), *catalog["plugins"].values()):
        assert entry["version"]["ref"] in catalog["versions"]


def test_the_manifest_names_classes_that_are_there() -> None:
    """And the package by which the driver starts it."""
    main = ANDROID_BENCH / "app" / "src" / "main"
    manifest = ElementTree.parse(main / "AndroidManifest.xml")
    name = "{http://schemas.android.com/apk/res/android}name"
    (activity,) = [element.attrib[name] for element in manifest.iter("activity")]
    assert activity == "dev.sharpmobile.bench.BenchActivity"
    assert (main / "kotlin" / f"{activity.replace('.', '/')}.kt").is_file()
    assert 'applicationId = "dev.sharpmobile.bench"' in (ANDROID_BENCH / "app" / "build.gradle.kts").read_text()
    for resource in main.glob("res/*/*.xml"):
        ElementTree.parse(resource)


def _fake_gradle(directory: Path) -> tuple[Path, str]:
    """A project whose distribution is a zip that says what it was called with; and the zip's SHA-256."""
    project = directory / "project"
    (project / "gradle" / "wrapper").mkdir(parents=True)
    shutil.copy(ANDROID_BENCH / "gradlew", project)
    archive = directory / "gradle-9.9-bin.zip"
    with zipfile.ZipFile(archive, "w") as file:
        program = zipfile.ZipInfo("gradle-9.9/bin/gradle")
        program.external_attr = 0o755 << 16
        file.writestr(program, '#!/bin/sh\necho gradle "$@"\n')
    return project, hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("unzip"), reason="gradlew needs curl and unzip")
def test_gradlew_runs_what_it_was_told_and_nothing_else(tmp_path: Path) -> None:
    project, sha256 = _fake_gradle(tmp_path)
    url = f"file\\:{tmp_path}/gradle-9.9-bin.zip"
    properties = project / "gradle" / "wrapper" / "gradle-wrapper.properties"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home")}

    def gradlew() -> "subprocess.CompletedProcess[str]":
        command = [str(project / "gradlew"), "assemble"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    properties.write_text(f"distributionSha256Sum={'0' * 64}\ndistributionUrl={url}\n")
    assert "nothing was installed" in gradlew().stderr
    assert not list((tmp_path / "home").rglob("bin"))
    properties.write_text(f"distributionSha256Sum={sha256}\ndistributionUrl={url}\n")
    for _ in range(2):  # fetched, then kept
        assert gradlew().stdout == f"gradle -p {project} assemble\n"
        (tmp_path / "gradle-9.9-bin.zip").unlink(missing_ok=True)
