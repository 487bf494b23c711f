"""The GitHub workflow: every command in it is one that the project has."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click import Context
from project import PROJECT

from sharp_mobile.cli import main

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
TARGETS = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)


def commands(workflow: Path) -> Iterator[list[str]]:
    """The commands of all steps, in words."""
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        for step in job["steps"]:
            script = step.get("run", "") or step.get("with", {}).get("script", "")
            for line in script.replace("\\\n", " ").splitlines():
                yield shlex.split(line)


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
        elif program.startswith((".", "android_bench/")):
            assert (PROJECT / program).is_file(), words
        else:
            continue
        ours += 1
    assert ours > 3
