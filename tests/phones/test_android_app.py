"""The Android app on this computer: it is type-checked, its plain Kotlin is tested, and its build is read."""

import hashlib
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tomlkit
from kotlin_tools import (
    ANDROID_BENCH,
    ANDROID_JAR,
    JUNIT,
    STDLIB,
    core_jar,
    declared,
    executorch_jar,
    java,
    kotlinc,
    kotlinc_many,
    require_kotlin,
)
from project import PROJECT

APP = ANDROID_BENCH / "app" / "src"
APP_SOURCES = [APP / "main", APP / "androidTest"]
STUBS = ANDROID_BENCH / "typecheck" / "stubs"
EXECUTORCH = ANDROID_BENCH / "jvm" / "src" / "executorch" / "kotlin"


@pytest.fixture(scope="session")
def app() -> Path:
    """The app and its instrumented test, compiled against android.jar and signatures of what that lacks."""
    require_kotlin()
    stubs = kotlinc("stubs", [STUBS], [ANDROID_JAR, *JUNIT])
    return kotlinc("app", APP_SOURCES, [core_jar(), executorch_jar(), stubs, ANDROID_JAR, *JUNIT])


@pytest.mark.slow
def test_the_app_calls_android_and_executorch_as_they_are(app: Path) -> None:
    assert app.is_file()


@pytest.mark.slow
def test_the_apps_own_tests(app: Path) -> None:
    tests = APP / "test"
    needed = [app, core_jar(), executorch_jar(), *JUNIT]
    classes = kotlinc("app-test", [tests], needed)
    files = sorted(tests.rglob("*Test.kt"))
    names = [f"dev.sharpmobile.bench.app.{path.stem}" for path in files]
    written = sum(path.read_text().count("@Test") for path in files)
    done = java([classes, *needed, STDLIB], "org.junit.runner.JUnitCore", *names)
    assert f"OK ({written} tests)" in done.stdout, done.stdout[-4000:]


_DECLARED = re.compile(r"^(?P<before> *[a-z@A-Z ]*\b(?:fun|val|class|object) )(?P<name>[A-Za-z]\w*)", re.MULTILINE)
_CONSTRUCTOR = re.compile(r"^(?P<before> {4}constructor\()(?P<name>)", re.MULTILINE)


def _mutants(text: str) -> Iterator[tuple[str, str]]:
    """A stub file with one public declaration renamed, and which; a constructor gets one more parameter."""
    names = declared(text)
    for match in [*_DECLARED.finditer(text), *_CONSTRUCTOR.finditer(text)]:
        words = match["before"].split()
        # What overrides is declared by its parent; the companion has no name to call.
        seen = match["name"] in names or not match["name"]
        if not seen or {"override", "companion"} & set(words):
            continue
        new = f"{match['name']}Renamed" if match["name"] else "more: Int, "
        yield match["name"] or "constructor", text[: match.start("name")] + new + text[match.end("name") :]


@pytest.mark.slow
@pytest.mark.mutants
def test_the_type_check_sees_every_signature_that_changes(app: Path, tmp_path: Path) -> None:
    """Each declaration of ours is renamed once; the app, or its instrumented test, must not compile."""
    originals = [*sorted(STUBS.rglob("*.kt")), *sorted((EXECUTORCH / "org").rglob("*.kt"))]
    own = sorted((EXECUTORCH / "dev").rglob("*.kt"))
    names, compilations = ["none"], [[*originals, *own, *APP_SOURCES]]
    for original in originals:
        for index, (name, text) in enumerate(_mutants(original.read_text())):
            changed = tmp_path / f"{original.stem}-{index}" / original.name
            changed.parent.mkdir()
            changed.write_text(text)
            names.append(f"{original.name}: {name}")
            others = [path for path in originals if path != original]
            compilations.append([changed, *others, *own, *APP_SOURCES])
    classpath = ":".join(map(str, [core_jar(), ANDROID_JAR, *JUNIT]))
    common = ["-cp", classpath, "-d", tmp_path / "classes"]
    found = kotlinc_many([[*common, *sources] for sources in compilations], tmp_path)
    assert found[0][0], found[0][1]
    assert len(found) == len(names) > 40
    # A mutant may break its own file too: only an error in the app's files counts.
    app_files = APP.relative_to(PROJECT).as_posix()
    unseen = [name for name, (_, said) in zip(names, found, strict=True) if f"{app_files}/" not in said]
    assert unseen == ["none"]


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
    activities = [element.attrib[name] for element in manifest.iter("activity")]
    assert activities[0] == "dev.sharpmobile.bench.BenchActivity"
    assert "configChanges" not in (main / "AndroidManifest.xml").read_text()  # the run lives outside the activities
    for activity in activities:
        assert (main / "kotlin" / f"{activity.replace('.', '/')}.kt").is_file()
    assert 'applicationId = "dev.sharpmobile.bench"' in (ANDROID_BENCH / "app" / "build.gradle.kts").read_text()
    for resource in main.glob("res/*/*.xml"):
        ElementTree.parse(resource)


def test_the_readme_and_the_activity_name_every_option() -> None:
    plan = (ANDROID_BENCH / "core/src/main/kotlin/dev/sharpmobile/bench/Plan.kt").read_text()
    (listed,) = re.findall(r"val NAMES = listOf\((.*?)\)", plan, re.DOTALL)
    names = re.findall(r'"(\w+)"', listed)
    assert len(names) == 8
    readme = (ANDROID_BENCH / "README.md").read_text()
    activity = (APP / "main/kotlin/dev/sharpmobile/bench/BenchActivity.kt").read_text()
    assert [name for name in names if f"`{name}`" not in readme or f"--es {name} " not in activity] == []


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
