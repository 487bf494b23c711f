"""The command line: every verb says what it did in a few lines, and what went wrong in one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from project import PROJECT
from tiny_models import tiny_model, tiny_tokenizer

from sharp_mobile.cli import main
from sharp_mobile.pipeline import ExportResult


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def told(result: Result) -> str:
    """The one line of a failed command."""
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("value", ["9" * 5000, "²", "9" * 30])
def test_a_setting_that_is_no_number_is_one_line(value: str, tiny_checkpoint: Path) -> None:
    for setting in ("rank", "max_length"):
        line = told(run("plan", tiny_checkpoint, "--plan", "2:3", "--set", f"{setting}={value}", "--quiet"))
        assert setting in line
        assert len(line) < 1000


RECIPE_OPTIONS = ("--plan", "--rank", "--set", "--allow-pickle", "--quiet")


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("plan", RECIPE_OPTIONS),
        ("size", ("--plan", "--rank", "--set", "--random-weights", "--json")),
        ("recover", (*RECIPE_OPTIONS, "--out")),
        ("export", (*RECIPE_OPTIONS, "--out", "--profile")),
        ("inspect", ("--json", "--tensors")),
        ("evaluate", (*RECIPE_OPTIONS, "--text", "--window", "--windows", "--quantized", "--pte")),
        ("evaluate", ("--task", "--limit", "--include-path")),
        ("generate", ("--tokens", "--raw")),
        ("merge", ("--out",)),
        ("frontier", ("--methods", "--sizes", "--beside", "--finetune", "--out", "--keep", "--set", "--quiet")),
        ("study", ("--out", "--pairs", "--text", "--window", "--windows", "--quiet")),
        ("reproduce", ("--out", "--text", "--windows", "--calibration-windows", "--finetune-tokens", "--quiet")),
    ],
)
def test_help_lists_the_options(verb: str, options: tuple[str, ...]) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    for option in options:
        assert option in result.stdout
    assert verb in run("--help").stdout


def test_plan_tells_the_plan_and_its_ratios(tiny_checkpoint: Path) -> None:
    result = run("plan", tiny_checkpoint, "--plan", "t_next", "--rank", 8, "--quiet")
    assert result.exit_code == 0
    assert result.stdout == (
        "plan 3:4 (reference:targets, 1-based), lora rank 8; stored ratio τ = 0.83, compression ratio s = 0.868\n"
    )
    assert "nothing shared" in run("plan", tiny_checkpoint, "--plan", "none", "--quiet").stdout
    direct = run("plan", tiny_checkpoint, "--plan", "direct:2:3-5", "--quiet").stdout
    assert "no recovery parameters" in direct
    assert "τ = 0.50, compression ratio s = 0.500" in direct


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--share", "attention", "--plan", "2:3-5"),
            "shares attention 2:3-5 (reference:targets, 1-based), attention + ",
        ),
        (("--share", "layer", "--plan", "2:3"), "shares MLPs 2:3; attention 2:3 (reference:targets, 1-based), "),
        (("--share", "layer", "--plan", "recursive 2"), "shares MLPs recursive 2; attention 1:4, 2:5, 3:6 (reference"),
        (
            ("--share", "kv", "--plan", "t_next"),
            "shares keys and values 3:4 (reference:targets, 1-based), keys and val",
        ),
        (
            ("--share", "drop", "--plan", "2:3"),
            "shares no attention in layer 3; no MLP in layer 3 (reference:targets, ",
        ),
        (("--share", "basis", "--plan", "blocks 3", "--set", "linear=8"), "shares bases in layers 1-6 (reference:tar"),
        (("--share", "prune", "--plan", "2:3"), "shares fewer neurons in layer 3 (reference:targets, 1-based), no re"),
        (("--share", "attention 2:3; drop-mlp 4:5"), "shares attention 2:3; no MLP in layer 5 (reference:targets, 1-b"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_plan_tells_what_is_shared(arguments: tuple[str, ...], line: str, tiny_checkpoint: Path) -> None:
    result = run("plan", tiny_checkpoint, "--quiet", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(line)
    assert ("the last one, shares" in result.stderr) == ("recursive 2" in arguments)


def test_a_mixture_takes_the_place_of_the_recipes_plan(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {tiny_checkpoint}\nplan: t_next\n")
    result = run("plan", recipe, "--share", "kv 2:3; attention 4:5", "--quiet")
    assert result.stdout.startswith("shares attention 4:5; keys and values 2:3 ")
    assert "give one kind" in told(run("plan", recipe, "--share", "kv 2:3; attention 4:5", "--plan", "t_next"))
    assert "'heads' cannot be shared; choose one of" in told(run("plan", recipe, "--share", "heads", "--quiet"))


def test_size_tells_several_plans_from_a_configuration(tiny_checkpoint: Path) -> None:
    plans = ("--plan", "2:3", "--plan", "2:3-5", "--rank", 32)
    arguments = (*plans, "--set", "max_length=64", "--set", "rounding=nearest")
    table = run("size", "--random-weights", tiny_checkpoint / "config.json", *arguments)
    assert table.exit_code == 0
    assert ["bytes", "none", "2:3", "2:3-5"] in [line.split() for line in table.stdout.splitlines()]
    found = json.loads(run("size", tiny_checkpoint, *arguments, "--json").stdout)
    assert found["name"] == "tiny-llama"
    totals = [plan["file"]["total"] for plan in found["plans"]]
    assert ["file", *(f"{total:,}" for total in totals)] in [line.split() for line in table.stdout.splitlines()]
    assert "'7' must name layers" in told(run("size", tiny_checkpoint, "--plan", "2:7"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--plan", "9:10"), "must name layers between 1 and 6"),
        (("--plan", "6:5"), "target 5 must come after its reference 6"),
        (("--rank", "-1"), "recovery.rank"),
        (("--set", "group_size"), "write NAME=VALUE"),
        (("--set", "colour=3"), "colour is not a setting of a recipe"),
        (("--set", "group_size=48"), "quantize.group_size"),
        (("--set", "form=dora"), "recovery.form"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: tuple[str, ...], line: str, tiny_checkpoint: Path) -> None:
    assert line in told(run("plan", tiny_checkpoint, "--quiet", *arguments))


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert "no recipe, file or directory of that name" in told(run("plan", "nowhere", "--quiet"))
    assert "cannot be read" in told(run("inspect", tmp_path / "missing.pte"))
    assert "no such file; name an export's directory" in told(run("generate", tmp_path, "Hello"))
    (tmp_path / "file").write_text("")
    assert "is a file" in told(run("export", "smollm2-135m", "--out", tmp_path / "file", "--quiet"))


@pytest.mark.slow
def test_a_process_says_nothing_but_its_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sharp_mobile.cli", "inspect", str(tmp_path / "missing.pte")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {tmp_path / 'missing.pte'}: cannot be read")
    assert result.stderr.count("\n") == 1


def test_recover_writes_a_checkpoint_that_tells_its_plan(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # recovered models are kept under ./build
    options = ("--plan", "2:3", "--rank", 4, "--set", f"text={tiny_text}", "--set", "window=32", "--set", "windows=8")
    result = run("recover", tiny_checkpoint, *options, "--out", tmp_path / "sharp", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"SHARP checkpoint: {tmp_path / 'sharp'}"
    assert run("plan", tmp_path / "sharp", "--quiet").stdout.startswith("plan 2:3 (reference:targets, 1-based), lora")


@pytest.mark.slow
def test_inspect_names_the_users_of_a_sound_export(tiny_export: ExportResult) -> None:
    result = run("inspect", tiny_export.directory, "--tensors", 100)
    assert result.exit_code == 0
    assert "layers.2.mlp.gate.codes, layers.3.mlp.gate.codes" in result.stdout
    assert "NOT SOUND" not in result.stdout
    content = json.loads(run("inspect", tiny_export.directory, "--json").stdout)
    assert content["sha256"] == tiny_export.manifest.sha256


@pytest.mark.slow
def test_inspect_fails_on_a_corrupted_export(tiny_export: ExportResult, tmp_path: Path) -> None:
    shutil.copytree(tiny_export.directory, tmp_path / "copy")
    pte = tmp_path / "copy" / "model.pte"
    content = bytearray(pte.read_bytes())
    content[len(content) // 2] ^= 1  # in a weight
    pte.write_bytes(content)
    result = run("inspect", tmp_path / "copy")
    assert "the manifest describes another file" in told(result)
    assert "NOT SOUND" in result.stdout


@pytest.mark.slow
def test_generate_prints_what_the_export_says(tiny_export: ExportResult) -> None:
    expected = tiny_export.manifest.expected
    result = run("generate", tiny_export.directory, expected.prompt, "--tokens", len(expected.tokens))
    assert result.exit_code == 0
    assert result.stdout.rstrip("\n") == expected.text.rstrip("\n")


@pytest.mark.slow
def test_evaluate_takes_a_checkpoint_and_an_export(own_export: ExportResult, exportable: Path, tiny_text: Path) -> None:
    windows = ("--text", tiny_text, "--window", 24, "--windows", 2, "--quiet")
    result = run("evaluate", exportable, "--plan", "none", *windows)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("float, eager: perplexity ")
    result = run("evaluate", own_export.directory, *windows)
    assert result.exit_code == 0, result.output
    assert "2 windows of 24, 46 tokens scored" in result.stdout
    assert "has a cache of 96 tokens; use a window of 96 or less" in told(
        run("evaluate", own_export.directory, *windows, "--window", 97)
    )


@pytest.mark.slow
def test_a_plain_checkpoint_is_evaluated_and_exported_as_it_is(tiny_text: Path, tmp_path: Path) -> None:
    """Without a plan nothing is warmed up; what long steps take is told before, what sharing would give after."""
    plain = tmp_path / "plain"
    tiny_model(num_hidden_layers=5, hidden_size=256, intermediate_size=768).save_pretrained(plain)
    tiny_tokenizer().save_pretrained(plain)
    result = run("evaluate", plain, "--text", tiny_text, "--windows", 2, "--quiet")
    assert result.exit_code == 0, result.output
    said = result.stdout.splitlines()
    assert said[0] == "plan none: 5 layers, nothing shared"
    assert "2 windows of 127, 252 tokens scored" in said[1]
    assert len(said) == 2

    result = run("export", plain, "--out", tmp_path / "out", "--quiet", "--set", f"text={tiny_text}")
    assert result.exit_code == 0, result.output
    said = result.stdout.splitlines()
    assert said[:3] == [
        "max_length is 128: the model has no more positions (max_position_embeddings)",
        "plan none: 5 layers, nothing shared",
        "rounding by 1,536 tokens of text: a few seconds on this machine",
    ]
    assert not any("nothing shared it would be" in line for line in said)
    assert f"sharp-mobile export {plain} --plan t_next" in result.stdout
    assert not (tmp_path / "build").exists()


INTERRUPTED = """
from sharp_mobile.cli import main

@main.command()
def stuck():
    exec("import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")

main(["stuck"])
"""


def test_an_interrupt_is_told_by_its_own_status_wherever_it_comes(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT)])}
    ended = subprocess.run(
        [sys.executable, "-m", "interrupted"], capture_output=True, text=True, env=paths, cwd=tmp_path
    )
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr == "error: interrupted; existing files are unchanged\n"
