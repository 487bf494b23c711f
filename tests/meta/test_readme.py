"""The README is true: its Python runs, and the files and modules that it names exist."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from project import PROJECT
from tiny_models import tiny_model, tiny_tokenizer

from sharp_mobile import open_export, predict_size
from sharp_mobile.cli import main
from sharp_mobile.verify.manifest import read_perplexity

README = (PROJECT / "README.md").read_text()
TEXTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
# A table names a room once and then files in it.
ROOMS = [path for path in (PROJECT / "sharp_mobile", *(PROJECT / "sharp_mobile").rglob("*")) if path.is_dir()]
PROGRAMS = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "sharp_mobile import" in code]


@pytest.mark.slow
def test_its_program_exports_a_model_and_lets_it_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = PROGRAMS
    assert len(program.splitlines()) <= 10
    model = tmp_path / "Llama-3.2-1B-Instruct"
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "vocab_size": 49152}
    tiny_model(num_hidden_layers=8, tie_word_embeddings=True, **sizes).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    (tmp_path / "readme.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path("readme.py", run_name="__main__")
    phone, size = open_export("build/llama"), predict_size(names["recipe"])
    assert phone.manifest.plan == "5:6"
    assert phone.manifest.sizes.file == pytest.approx(size.file.total, rel=0.01)
    first, *answer, printed = capsys.readouterr().out.splitlines()
    assert first == f"{size.file.total:,} bytes in the file, {size.resident.total:,} in memory"
    assert "\n".join(answer) == phone.generate("What is the capital of France?")
    kept = read_perplexity(phone.path, phone.manifest.sha256)
    assert kept is not None
    assert (kept.perplexity, kept.text, kept.windows) == (float(printed), "sotu:2012-2026", 4)


def test_the_sizes_that_it_shows_are_those_that_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    (shown,) = re.findall(r"```console\n\$ \.venv/bin/sharp-mobile (size .*?)\n```", README, re.DOTALL)
    command, _, printed = shown.partition("\n")
    result = CliRunner().invoke(main, shlex.split(command))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == printed + "\n"


TOP = "sharp_mobile|export|examples|host_bench|ios_bench|android_bench|tests|docs"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_the_files_and_directories_that_a_text_names_exist(path: Path) -> None:
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    named = re.findall(rf"`((?:{TOP})/[\w./-]*|[\w./-]+\.py)`", prose)
    named += [link for link in re.findall(r"\]\(([^)]+)\)", prose) if not link.startswith(("http", "#"))]
    places = (path.parent, PROJECT, *ROOMS)
    assert [name for name in named if not any(place.joinpath(name).exists() for place in places)] == []
