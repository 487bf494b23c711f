"""Device farms: what is uploaded names tests, files and packages that there are, and its commands do what they say.

No farm is here. The commands run with stand-ins for adb, gcloud and xcodebuild, which write down what they are asked.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import PROJECT

ANDROID, IOS = PROJECT / "android_bench", PROJECT / "ios_bench"
TEST = ANDROID / "app/src/androidTest/kotlin/dev/sharpmobile/bench/app/BenchTest.kt"
GRADLE = (ANDROID / "app" / "build.gradle.kts").read_text()
XCTEST = (IOS / "AppTests" / "ExportPerformanceTests.swift").read_text()
XCODE = (IOS / "SharpBench.xcodeproj" / "project.pbxproj").read_text()
SPECS = [ANDROID / "farm" / "aws.yml", IOS / "farm" / "aws.yml"]
ZIP = pytest.mark.skipif(not (shutil.which("zip") and shutil.which("unzip")), reason="NO ZIP: install zip and unzip")
TEST_CLASS, TEST_METHOD = "dev.sharpmobile.bench.app.BenchTest", "everyExportIsMeasured"

STAND_IN = """#!{python} -IS
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if "ls -d" in sys.argv[-1]:
    print("/data/local/tmp/exports/a\\r\\n/data/local/tmp/exports/b\\r")
if "instrument" in sys.argv:
    print({said!r})
"""


class Farm:
    """A host with stand-ins on its PATH; `asked` is what they were asked."""

    def __init__(self, root: Path, said: str = "INSTRUMENTATION_CODE: -1") -> None:
        self.root, self.log, self.out = root, root / "log", root / "out"
        self.out.mkdir()
        (root / "bin").mkdir()
        for name in ("adb", "gcloud", "xcodebuild", "xcrun"):
            (root / "bin" / name).write_text(STAND_IN.format(python=sys.executable, log=str(self.log), said=said))
            (root / "bin" / name).chmod(0o755)

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {"DEVICEFARM_DEVICE_UDID": "phone", "DEVICEFARM_LOG_DIR": str(self.out), **variables}
        environment = {**os.environ, "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", **own}
        return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)

    def run_spec(self, spec: Path, **variables: str) -> list[int]:
        """Run the commands of a test spec in order; their exit statuses."""
        phases = yaml.safe_load(spec.read_text())["phases"]
        commands = [command for phase in phases.values() for command in phase["commands"]]
        return [self.run("bash", "-c", command, **variables).returncode for command in commands]

    @property
    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def _text_after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.parent.parent.name)
def test_a_test_spec_has_the_form_that_the_farm_reads(spec: Path) -> None:
    read: dict[str, Any] = yaml.safe_load(spec.read_text())
    host = "ios_test_host" if spec.is_relative_to(IOS) else "android_test_host"
    assert set(read) == {"version", host, "phases", "artifacts"}
    assert read["version"] == 0.1
    assert set(read["phases"]) <= {"install", "pre_test", "test", "post_test"}
    assert all(isinstance(command, str) for phase in read["phases"].values() for command in phase["commands"])
    assert read["artifacts"] == ["$DEVICEFARM_LOG_DIR"]


def test_the_android_test_that_farms_run_exists() -> None:
    text = TEST.read_text()
    assert f"{text.split('package ', 1)[1].split()[0]}.BenchTest" == TEST_CLASS
    assert re.search(rf"@Test\s+fun {TEST_METHOD}\(\)", text)
    assert 'applicationId = "dev.sharpmobile.bench"' in GRADLE
    assert 'testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"' in GRADLE


def test_aws_runs_the_instrumented_test_with_all_exports_and_fetches_the_results(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    assert set(farm.run_spec(SPECS[0], BENCH_OPTIONS="-e repetitions 3 -e threads_sweep 1,2")) == {0}
    copy, allow, _, instrument, pull = farm.asked
    assert copy == ["adb", "-s", "phone", "shell", "cp", "-r", "/sdcard/exports", "/data/local/tmp/"]
    assert allow[-2:] == ["a+rX", "/data/local/tmp/exports"]
    assert _text_after(instrument, "class") == f"{TEST_CLASS}#{TEST_METHOD}"
    assert _text_after(instrument, "export_dir") == "/data/local/tmp/exports/a,/data/local/tmp/exports/b"
    assert (_text_after(instrument, "repetitions"), _text_after(instrument, "threads_sweep")) == ("3", "1,2")
    assert instrument[-1] == "dev.sharpmobile.bench.test/androidx.test.runner.AndroidJUnitRunner"
    assert pull[-2:] == ["/sdcard/Android/data/dev.sharpmobile.bench/files/results", str(farm.out)]


@pytest.mark.parametrize("said", ["INSTRUMENTATION_STATUS_CODE: -2\nINSTRUMENTATION_CODE: -1", "Killed"])
def test_aws_sees_a_test_that_failed_or_never_ended(tmp_path: Path, said: str) -> None:
    assert 1 in Farm(tmp_path, said).run_spec(SPECS[0])


def _export(root: Path, name: str) -> Path:
    export = root / name
    export.mkdir()
    for file in ("model.pte", "manifest.json", "tokenizer.json", "report.md", "results-host.json"):
        (export / file).touch()
    return export


def test_test_lab_gets_the_files_of_each_export_and_the_options(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    a, b = _export(tmp_path, "a"), _export(tmp_path, "b")
    command = (ANDROID / "farm" / "firebase", a, b, "--", "--device", "model=shiba,version=34")
    done = farm.run(*command, OPTIONS="sustain=60;depths=512,1024")
    assert done.returncode == 0, done.stderr
    (asked,) = farm.asked
    assert asked[:7] == ["gcloud", "firebase", "test", "android", "run", "--type", "instrumentation"]
    place = "/data/local/tmp/exports"
    assert _text_after(asked, "--other-files").split(",") == [
        f"{place}/{export.name}/{file}={export}/{file}"
        for export in (a, b)
        for file in ("manifest.json", "model.pte", "tokenizer.json")
    ]
    variables = _text_after(asked, "--environment-variables")
    assert variables == f"^;^export_dir={place}/a,{place}/b;sustain=60;depths=512,1024"
    assert _text_after(asked, "--test-targets") == f"class {TEST_CLASS}#{TEST_METHOD}"
    assert asked[-2:] == ["--device", "model=shiba,version=34"]


@pytest.mark.parametrize("arguments", [(), ("--", "--device", "model=x"), ("nowhere",)])
def test_test_lab_is_not_asked_without_an_export(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    farm = Farm(tmp_path)
    done = farm.run(ANDROID / "farm" / "firebase", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not farm.log.exists()


@ZIP
def test_aws_runs_the_xctest_in_the_app_that_it_has_signed(tmp_path: Path) -> None:
    farm, package = Farm(tmp_path), tmp_path / "package"
    package.mkdir()
    (package / "SharpBench_iphoneos18.5-arm64.xctestrun").touch()
    with zipfile.ZipFile(tmp_path / "signed.ipa", "w") as ipa:
        ipa.writestr("Payload/SharpBench.app/SharpBench", "program")
    places = {"DEVICEFARM_TEST_PACKAGE_PATH": str(package), "DEVICEFARM_APP_PATH": str(tmp_path / "signed.ipa")}
    assert set(farm.run_spec(SPECS[1], **places)) == {0}
    _, test, attachments = farm.asked
    described = Path(_text_after(test, "-xctestrun"))
    assert described.is_file()
    # Where Xcode's .xctestrun looks for the app: __TESTROOT__/Release-iphoneos/SharpBench.app.
    assert (described.parent / "Release-iphoneos" / "SharpBench.app" / "SharpBench").is_file()
    target, test_class, method = _text_after(test, "-only-testing").split("/")
    assert f"/* {target}.xctest */" in XCODE
    assert f"final class {test_class}: XCTestCase" in XCTEST
    assert f"func {method}()" in XCTEST
    assert _text_after(test, "-resultBundlePath") == _text_after(attachments, "--path")


def _built(root: Path, *, tests: bool) -> Path:
    products = root / "Products"
    app = products / "Release-iphoneos" / "SharpBench.app"
    app.mkdir(parents=True)
    (app / "SharpBench").write_bytes(b"program")
    if tests:
        (app / "PlugIns" / "SharpBenchTests.xctest").mkdir(parents=True)
        (app / "PlugIns" / "SharpBenchTests.xctest" / "SharpBenchTests").write_bytes(b"tests")
        (products / "SharpBench_iphoneos18.5-arm64.xctestrun").touch()
    return products


@ZIP
def test_what_xcode_builds_is_packed_as_farms_take_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    subprocess.run([IOS / "farm" / "package", _built(tmp_path, tests=True), out], check=True)
    names = {path.name: set(zipfile.ZipFile(path).namelist()) for path in out.iterdir()}
    assert set(names) == {"SharpBench.app.zip", "SharpBench.ipa", "SharpBench-aws.zip", "SharpBench-tests.zip"}
    assert "SharpBench.app/SharpBench" in names["SharpBench.app.zip"]
    assert "Payload/SharpBench.app/SharpBench" in names["SharpBench.ipa"]
    assert "Payload/SharpBench.app/PlugIns/SharpBenchTests.xctest/SharpBenchTests" in names["SharpBench.ipa"]
    assert names["SharpBench-aws.zip"] == {"SharpBench_iphoneos18.5-arm64.xctestrun"}
    assert "SharpBench_iphoneos18.5-arm64.xctestrun" in names["SharpBench-tests.zip"]
    assert "Release-iphoneos/SharpBench.app/SharpBench" in names["SharpBench-tests.zip"]


@ZIP
def test_an_app_without_tests_is_packed_alone_and_none_is_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    subprocess.run([IOS / "farm" / "package", _built(tmp_path, tests=False), out], check=True)
    assert {path.name for path in out.iterdir()} == {"SharpBench.app.zip", "SharpBench.ipa"}
    done = subprocess.run([IOS / "farm" / "package", tmp_path, out], capture_output=True, text=True)
    assert done.returncode == 1
    assert "run xcodebuild in Release for generic/platform=iOS first" in done.stderr


def test_the_options_on_the_page_are_those_that_both_cores_take() -> None:
    page = (PROJECT / "docs" / "device-farms.md").read_text()
    table = page.split("| Android argument |", 1)[1].split("\n\n", 1)[0]
    options: set[str] = set()
    for row in table.splitlines()[2:]:
        android, iphone = (re.findall(r"`(\w+)`", cell) for cell in row.split("|")[1:3])
        if android != ["export_dir"]:
            assert iphone == [f"SHARP_{name.upper()}" for name in android]
            options.update(android)
    kotlin = (ANDROID / "core/src/main/kotlin/dev/sharpmobile/bench/Plan.kt").read_text()
    (names,) = re.findall(r"NAMES = listOf\((.*?)\)", kotlin, re.DOTALL)
    assert options == set(re.findall(r'"(\w+)"', names))
    swift = (IOS / "BenchCore" / "Sources" / "BenchCore" / "Plan.swift").read_text()
    assert options == set(re.findall(r'case "(\w+)": plan\.', swift))
