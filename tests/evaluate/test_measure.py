"""Perplexity of one model in its three forms, on the same windows."""

import math
import re
import shutil
from pathlib import Path

import pytest
from reported import recorded
from tiny_models import save_tiny_model, tiny_model, tiny_tokenizer

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.measure import EvaluationOptions, evaluate, evaluate_pte, evaluate_pte_tasks
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.pipeline import ExportResult
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.text.windows import read_text, token_windows
from sharp_mobile.verify.manifest import read_perplexity

WINDOW, WINDOWS = 24, 3

pytestmark = pytest.mark.usefixtures("no_warnings")


def measured(line: str) -> float:
    """The perplexity that a line tells."""
    match = re.search(r"perplexity ([\d.]+) ", line)
    assert match is not None
    return float(match[1])


def lines_of(recipe: Recipe, text: Path, work: Path, *, quantized: bool, pte: bool) -> list[str]:
    wanted = EvaluationOptions(quantized=quantized, pte=pte, work=work)
    return list(evaluate(recipe, str(text), WINDOW, WINDOWS, wanted))


@pytest.mark.slow
def test_lowering_costs_nothing_and_8_bits_next_to_nothing(tiny_text: Path, tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "model", num_hidden_layers=2)
    bits = {"linear": 8, "embedding": 8, "lm_head": 8}
    recipe = Recipe(model=str(checkpoint), plan="none", quantize=bits)
    lines = lines_of(recipe, tiny_text, tmp_path, quantized=True, pte=True)
    assert [line.partition(":")[0] for line in lines] == ["float, eager", "quantized, eager", "quantized, .pte"]
    assert "from the float original" not in lines[0]
    assert all("; from the float original: KL 0.0" in line for line in lines[1:])
    plain, quantized, pte = (measured(line) for line in lines)
    assert quantized == pytest.approx(plain, rel=0.05)
    assert pte == pytest.approx(quantized, rel=0.01)


def test_the_float_line_is_the_models_own_perplexity(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=str(tiny_checkpoint), plan="none")
    (line,) = lines_of(recipe, tiny_text, tmp_path, quantized=False, pte=False)
    windows = token_windows(tiny_tokenizer(), read_text(tiny_text), WINDOW, WINDOWS)
    expected = perplexity(lambda tokens: tiny_model()(tokens).logits, windows)
    assert math.isclose(measured(line), expected.value, rel_tol=1e-4)
    assert f"{WINDOWS} windows of {WINDOW}, {expected.tokens} tokens scored" in line


def test_a_shared_model_is_compared_with_its_original(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=str(tiny_checkpoint), plan="direct:3:4", warmup={"text": str(tiny_text), "window": 32})
    (line,) = lines_of(recipe, tiny_text, tmp_path, quantized=False, pte=False)
    assert re.search(r"; from the float original: KL 0\.[0-9]*[1-9][0-9]* nats a token, top-1 agreement \d", line)


@pytest.mark.slow
def test_a_pte_is_measured_step_by_step_where_it_gives_the_last_logits_only(
    own_export: ExportResult, tiny_recipe: Recipe, tiny_text: Path
) -> None:
    work = own_export.directory.parent / "recovered"
    _, quantized = lines_of(tiny_recipe, tiny_text, work, quantized=True, pte=False)
    for path in (own_export.directory, own_export.directory / "model.pte"):
        found = evaluate_pte(path, str(tiny_text), WINDOW, WINDOWS)
        assert found.perplexity.value == pytest.approx(measured(quantized), rel=0.01)
        assert str(found).startswith(f"{own_export.directory / 'model.pte'}: perplexity {found.perplexity.value:.3f} (")


@pytest.mark.slow
def test_an_export_keeps_its_perplexity(own_export: ExportResult, tiny_text: Path) -> None:
    directory = own_export.directory
    found = evaluate_pte(directory, str(tiny_text), WINDOW, 2)
    kept = read_perplexity(directory, own_export.manifest.sha256)
    assert kept is not None
    assert (kept.windows, kept.window, kept.tokens) == (2, WINDOW, 2 * (WINDOW - 1))
    assert kept.perplexity == found.perplexity.value


@pytest.mark.slow
def test_a_pte_without_a_tokenizer_is_refused(tiny_export: ExportResult, tiny_text: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_export.directory / "model.pte", tmp_path)
    with pytest.raises(SharpError, match=r"has no tokenizer; put the model's tokenizer\.json next to the \.pte"):
        evaluate_pte(tmp_path / "model.pte", str(tiny_text), WINDOW, WINDOWS)


def test_a_checkpoint_without_a_tokenizer_is_refused(tiny_text: Path, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "mute")
    with pytest.raises(SharpError, match=r"evaluate reads text, and there is no tokenizer; add tokenizer\.json"):
        lines_of(Recipe(model=str(tmp_path / "mute")), tiny_text, tmp_path, quantized=False, pte=False)


def test_a_window_beyond_the_models_positions_is_refused(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    recipe, wanted = Recipe(model=str(tiny_checkpoint)), EvaluationOptions(work=tmp_path)
    with pytest.raises(SharpError, match="sequence length 129: the model takes 2 to 128 tokens"):
        list(evaluate(recipe, str(tiny_text), 129, WINDOWS, wanted))


@pytest.mark.slow
def test_a_program_that_is_not_the_one_of_its_manifest_is_not_measured(
    tiny_export: ExportResult, tiny_text: Path, tmp_path: Path
) -> None:
    export = shutil.copytree(tiny_export.directory, tmp_path / "export")
    content = bytearray((export / "model.pte").read_bytes())
    content[len(content) // 2] ^= 1
    (export / "model.pte").write_bytes(content)
    for path in (export, export / "model.pte"):
        with pytest.raises(SharpError, match="does not match its manifest"):
            evaluate_pte(path, str(tiny_text), WINDOW, WINDOWS)
        with pytest.raises(SharpError, match="does not match its manifest"):
            evaluate_pte_tasks(path, ["sotu_continuation"], 1, ())
    (export / "manifest.json").unlink()
    with recorded() as report:
        evaluate_pte(export, str(tiny_text), WINDOW, 1)
    assert ["no manifest.json next to it" in warning for warning in report.warnings] == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "count", "says"),
    [
        (0, 1, "window 0: leaves no token to predict; use 2 or more"),
        (1, 1, "window 1: leaves no token"),
        (-5, 1, "window -5: leaves no token"),
        (8, 0, "windows 0: measure on 1 window or more"),
        (8, -1, "windows -1: measure"),
        (97, 1, r"window 97: .*model\.pte has a cache of 96 tokens"),
    ],
)
def test_windows_that_cannot_be_are_refused(
    tiny_export: ExportResult, tiny_text: Path, window: int, count: int, says: str
) -> None:
    with pytest.raises(SharpError, match=says):
        evaluate_pte(tiny_export.directory, str(tiny_text), window, count)
    if window < 97:
        with pytest.raises(SharpError, match=says):
            list(evaluate(Recipe(model="nowhere"), str(tiny_text), window, count, EvaluationOptions()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "its 0 tokens give 0 windows"),
        ("short.txt", b"Hello", "its 5 tokens give 0 windows of 24"),
        ("garbage.txt", b"\xff\xfe\x00\x81", "not UTF-8 text"),
        ("garbage.bin", b"\xff\xfe\x00\x81", "not UTF-8 text"),
        ("empty.jsonl", b"", "holds no text"),
        ("blank.jsonl", b'\n\n{"text": ""}\n', "holds no text"),
        ("deep.jsonl", b"[" * 100_000, "line 1: is nested too deeply"),
    ],
)
def test_a_text_that_gives_no_window_is_refused(
    tiny_export: ExportResult, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SharpError, match=says):
        evaluate_pte(tiny_export.directory, str(tmp_path / name), WINDOW, 1)
