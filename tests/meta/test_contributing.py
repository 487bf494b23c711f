"""CONTRIBUTING.md, CHANGELOG.md and the other files for contributors say what is so."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomlkit
import yaml
from project import PROJECT

import sharp_mobile
from sharp_mobile.cli import main

CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text()
CHANGELOG = (PROJECT / "CHANGELOG.md").read_text()
TARGETS = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
HOOKS = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
FORM = yaml.safe_load((PROJECT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
TOOLS = Path(sys.executable).parent


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_make_has_the_targets_that_a_text_names(name: str) -> None:
    text = (PROJECT / name).read_text()
    named = set(re.findall(r"(?:`|\$ )make ([a-z][\w-]*)", text))
    assert named
    assert named <= TARGETS


def test_the_rooms_are_those_of_the_contract_from_top_to_bottom() -> None:
    contract = tomlkit.parse((PROJECT / "pyproject.toml").read_text()).unwrap()["tool"]["importlinter"]["contracts"][0]
    layers = [set(layer.split(" | ")) for layer in contract["layers"]]
    table = CONTRIBUTING[CONTRIBUTING.index("| room |") : CONTRIBUTING.index("`export/` holds")]
    rows = re.findall(r"^\| (`.*?`) \|", table, flags=re.MULTILINE)
    rooms = [room.removesuffix(".py") for row in rows for room in re.findall(r"`([\w.]+)/?`", row)]
    for layer in layers:
        assert set(rooms[: len(layer)]) == layer
        rooms = rooms[len(layer) :]
    assert rooms == []


def test_the_changelog_has_what_is_unreleased_and_then_releases_the_newest_first() -> None:
    unreleased, *releases = re.findall(r"^## (.+)$", CHANGELOG, flags=re.MULTILINE)
    assert unreleased == "[Unreleased]"
    parts = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", release) for release in releases]
    versions = [tuple(map(int, part.groups())) for part in parts if part is not None]
    assert len(versions) == len(releases)
    assert versions == sorted(versions, reverse=True)
    assert ".".join(map(str, versions[0])) == sharp_mobile.__version__


def test_the_changelog_sorts_changes_by_their_kind() -> None:
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for release in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.+)$", release, flags=re.MULTILINE)
        assert found == [kind for kind in kinds if kind in found]
        assert found


def test_a_report_of_a_bug_asks_for_what_is_needed() -> None:
    questions = [part for part in FORM["body"] if part["type"] in ("textarea", "input")]
    assert len(questions) == len(FORM["body"]) == len({question["id"] for question in questions})
    asked = " ".join(question["attributes"].get("description", "") for question in questions)
    for command in ("sharp-mobile inspect", "sharp-mobile --version", "pip freeze"):
        assert f"`{command}" in asked
    assert set(re.findall(r"`sharp-mobile ([a-z]+)", asked)) <= main.commands.keys()


def test_hooks_need_no_network(tmp_path: Path) -> None:
    (local,) = HOOKS
    assert local["repo"] == "local"
    untidy = tmp_path / "untidy.py"
    untidy.write_text("import sys\nimport os\nprint( sys.argv,os.name )\n")
    for hook in local["hooks"]:
        program, *arguments = hook["entry"].split()
        assert hook["language"] == "system"
        assert Path(program).parent == Path(".venv/bin")
        assert shutil.which(TOOLS / Path(program).name)
        if hook.get("pass_filenames", True):
            command = [TOOLS / Path(program).name, *arguments, untidy]
            done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    assert untidy.read_text() == "import os\nimport sys\n\nprint(sys.argv, os.name)\n"
