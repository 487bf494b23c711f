"""The pages of docs/: the index has them all, and every command on them is one that the project has."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click import Context
from project import PROJECT

from sharp_mobile.cli import main

PAGES = sorted((PROJECT / "docs").glob("*.md"))
TARGETS = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """The commands after a prompt, in words, without variables before them."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while re.match(r"\w+=", words[0]):
                words.pop(0)
            yield words


def test_the_index_names_every_page() -> None:
    index, *others = sorted(PAGES, key=lambda page: page.name != "README.md")
    assert others
    assert all(f"]({page.name})" in index.read_text() for page in others)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) < 150


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.name)
def test_its_commands_are_ours(page: Path) -> None:
    ours = 0
    for program, *arguments in commands(page):
        if program == "make":
            assert {word for word in arguments if "=" not in word} <= set(TARGETS), arguments
        elif program.endswith("sharp-mobile"):
            command = main.commands[arguments[0]]
            command.make_context(arguments[0], [*arguments[1:]], parent=Context(main))  # refuses what it does not know
        elif program.startswith(("android_bench/", "ios_bench/")):
            assert os.access(PROJECT / program, os.X_OK), program
        else:
            continue
        ours += 1
    assert ours >= 2
