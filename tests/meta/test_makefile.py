"""What the user gives to make reaches the commands as it is, and nothing in it is run."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import PROJECT

# Writes its arguments where the test looks for them. As `python` it also is one, for `-c`.
STUB = """#!{python} -IS
import json, os, sys
if sys.argv[1:2] == ["-c"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with open({log!r}, "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""

ODD = [
    "it's",
    "two words",
    "a'; touch pwned; '",
    "a; touch pwned",
    "$(touch pwned)",
    "$(shell touch pwned)",
    "$$(touch pwned)",
    "`touch pwned`",
    '" && touch pwned "',
    "a\ntouch pwned",
    "$HOME ${HOME} $x *",
    "back\\slash # no comment",
    "a,b) $(error no)",
]


class Project:
    """The Makefile in a directory of its own, with stubs for what it runs."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root / "log"
        binaries = root / ".venv" / "bin"
        binaries.mkdir(parents=True)
        for name in ("python", "sharp-mobile", "ruff", "mypy"):
            (binaries / name).write_text(STUB.format(python=sys.executable, log=str(self.log)))
            (binaries / name).chmod(0o755)
        shutil.copy(PROJECT / "Makefile", root)
        (root / "pyproject.toml").touch()
        (root / ".venv" / ".installed").touch()

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments],
            cwd=self.root,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )

    def ran(self, *arguments: str, **environment: str) -> list[str]:
        """The words of the one command that make ran."""
        self.log.unlink(missing_ok=True)
        done = self.make(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        (words,) = self.logged()
        assert not (self.root / "pwned").exists()
        return words

    def logged(self) -> list[list[str]]:
        """The words of every command that make ran."""
        return [list(json.loads(line)) for line in self.log.read_text().splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_a_model_a_plan_a_rank_and_an_output(text: str, project: Project) -> None:
    ran = project.ran("export", f"MODEL={text}", f"PLAN={text}", f"RANK={text}", f"OUT={text}")
    assert ran == ["sharp-mobile", "export", text, "--plan", text, "--rank", text, "--out", text]
    assert project.ran("inspect", f"OUT={text}") == ["sharp-mobile", "inspect", text]
    assert project.ran("check", MODEL=text) == ["sharp-mobile", "check", f"build/exports/{text}"]
    assert project.ran("ios", f"MODEL={text}")[-1] == f"build/exports/{text}"


@pytest.mark.parametrize("text", [text for text in ODD if "*" not in text])
def test_what_is_measured_is_one_export_if_there_is_one_of_that_name_and_words_if_not(
    text: str, project: Project
) -> None:
    assert project.ran("bench", f"OUT={text}") == ["sharp-mobile", "bench", text]
    assert project.ran("bench", f"BENCH={text}") == ["sharp-mobile", "bench", *text.split()]
    assert project.ran("bench-android", f"BENCH={text}")[2:] == [*text.split(), "--on", "android"]
    (project.root / text).mkdir()
    assert project.ran("bench", f"BENCH={text}") == ["sharp-mobile", "bench", text]
    assert project.ran("bench", f"BENCH={text} b", ARGS="--threads 2")[2:] == [*text.split(), "b", "--threads", "2"]


def test_the_defaults_are_those_of_the_help(project: Project) -> None:
    assert project.ran("export") == ["sharp-mobile", "export", "smollm2-135m"]
    assert project.ran("inspect") == ["sharp-mobile", "inspect", "build/exports/smollm2-135m"]
    assert project.ran("bench-ios") == ["sharp-mobile", "bench", "build/exports/smollm2-135m", "--on", "ios"]
    (project.root / "mine").mkdir()
    assert project.ran("ios", "MODEL=mine")[-1] == "mine"


@pytest.mark.parametrize("text", ODD)
def test_options_are_split_as_a_shell_does_and_not_run(text: str, project: Project) -> None:
    given = f"--set group_size=64 --set {shlex.quote(f'text={text}')}"
    assert project.ran("export", f"ARGS={given}")[3:] == ["--set", "group_size=64", "--set", f"text={text}"]
    assert project.ran("profile-export", ARGS=given)[3:4] == ["--profile"]
    assert project.ran("compare-stock", f"ARGS={given}")[-1] == f"text={text}"


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_a_seed_and_a_case(text: str, project: Project) -> None:
    ran = project.ran("fuzz", f"SEED={text}", f"COUNT={text}", f"CASE={text}")
    assert ran == ["python", "tests/support/fuzz.py", "--seed", text, "--count", text, "--case", text]
    assert project.ran("fuzz") == ["python", "tests/support/fuzz.py"]


def test_format_corrects_and_lint_only_looks(project: Project) -> None:
    assert project.make("format").returncode == 0
    assert project.logged() == [["ruff", "check", "--fix"], ["ruff", "format"]]
    project.log.unlink()
    assert project.make("lint").returncode == 0
    assert project.logged() == [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]]
    assert "make format  " in project.make("help").stdout


def test_unquoted_commands_in_options_are_words(project: Project) -> None:
    assert project.ran("export", "ARGS=; touch pwned $(touch pwned)")[3:] == [
        ";",
        "touch",
        "pwned",
        "$(touch",
        "pwned)",
    ]
    done = project.make("export", "ARGS=--set text=it's")
    assert done.returncode != 0
    assert "error: ARGS: No closing quotation; close the quotation" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "text", ["it's", "two words", "a; touch pwned", "$(shell touch pwned)", "a`b`", "back\\slash", ""]
)
def test_an_environment_of_an_odd_name_is_refused(text: str, project: Project) -> None:
    done = project.make("export", f"VENV={text}")
    assert done.returncode != 0
    assert "VENV: " in done.stderr
    assert not project.log.exists()
    assert not (project.root / "pwned").exists()


def test_python_and_the_flags_of_pip_are_words_too(project: Project) -> None:
    python = project.root / "my python"
    shutil.copy(project.root / ".venv" / "bin" / "python", python)
    (project.root / ".venv" / ".installed").unlink()
    flags = "--extra-index-url 'https://x/?a=$(touch pwned)&b'; touch pwned"
    done = project.make("setup", f"PYTHON={python}", f"PIP_FLAGS={flags}")
    assert done.returncode == 0, done.stderr
    commands = project.logged()
    assert commands[0] == ["my python", "-m", "venv", ".venv"]
    assert all(
        words[-4:] == ["--extra-index-url", "https://x/?a=$(touch pwned)&b;", "touch", "pwned"]
        for words in commands[1:]
    )
    assert not (project.root / "pwned").exists()


@pytest.mark.parametrize("given", [(), ("RANK=96",)])
def test_no_command_takes_the_rank_for_that_of_a_process(given: tuple[str, ...], project: Project) -> None:
    """PyTorch reads RANK from the environment: one of several processes would write nothing."""
    done = project.make("-s", "--eval=show:; @env", "show", *given)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.splitlines() if line.startswith("RANK=")]
