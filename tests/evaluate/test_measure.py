"""Perplexity of one model in its three forms, on the same windows."""

import math
import re
import shutil
from pathlib import Path

import pytest
from tiny_models import tiny_model, tiny_tokenizer

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.measure import Wanted, evaluate, evaluate_pte
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.lower.manifest import read_perplexity
from sharp_mobile.pipeline import ExportResult
from sharp_mobile.recipe import Recipe
from sharp_mobile.recover.data import read_text, token_windows

WINDOW, WINDOWS = 24, 3


def measured(line: str) -> float:
    """The perplexity that a line tells."""
    match = re.search(r"perplexity ([\d.]+) ", line)
    assert match is not None
    return float(match[1])


def lines_of(recipe: Recipe, text: Path, work: Path, *, quantized: bool, pte: bool) -> list[str]:
    wanted = Wanted(quantized=quantized, pte=pte, progress=False, say=lambda line: None, work=work)
    return list(evaluate(recipe, str(text), WINDOW, WINDOWS, wanted))


@pytest.mark.slow
def test_lowering_costs_nothing_and_8_bits_next_to_nothing(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    bits = {"linear": 8, "embedding": 8, "lm_head": 8}
    recipe = Recipe(model=str(tiny_checkpoint), plan="none", quantize=bits)
    lines = lines_of(recipe, tiny_text, tmp_path, quantized=True, pte=True)
    assert [line.partition(":")[0] for line in lines] == ["float, eager", "quantized, eager", "quantized, .pte"]
    plain, quantized, pte = (measured(line) for line in lines)
    assert quantized == pytest.approx(plain, rel=0.05)
    assert pte == pytest.approx(quantized, rel=0.01)


def test_the_float_line_is_the_models_own_perplexity(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=str(tiny_checkpoint), plan="none")
    (line,) = lines_of(recipe, tiny_text, tmp_path, quantized=False, pte=False)
    windows = token_windows(tiny_tokenizer(), read_text(tiny_text), WINDOW, WINDOWS)
    expected = perplexity(lambda tokens: tiny_model()(tokens).logits, windows, progress=False)
    assert math.isclose(measured(line), expected.value, rel_tol=1e-4)
    assert f"{WINDOWS} windows of {WINDOW}, {expected.tokens} tokens scored" in line


@pytest.mark.slow
def test_a_pte_is_measured_step_by_step_where_it_gives_the_last_logits_only(
    tiny_export: ExportResult, tiny_recipe: Recipe, tiny_text: Path
) -> None:
    work = tiny_export.directory.parent / "recovered"
    _, quantized = lines_of(tiny_recipe, tiny_text, work, quantized=True, pte=False)
    for path in (tiny_export.directory, tiny_export.directory / "model.pte"):
        line = evaluate_pte(path, str(tiny_text), WINDOW, WINDOWS, progress=False)
        assert measured(line) == pytest.approx(measured(quantized), rel=0.01)


@pytest.mark.slow
@pytest.mark.slow
def test_an_export_keeps_its_perplexity(tiny_export: ExportResult, tiny_text: Path) -> None:
    directory = tiny_export.directory
    line = evaluate_pte(directory, str(tiny_text), WINDOW, 2, progress=False)
    kept = read_perplexity(directory, tiny_export.manifest.sha256)
    assert kept is not None
    assert (kept.windows, kept.window, kept.tokens) == (2, WINDOW, 2 * (WINDOW - 1))
    assert f"perplexity {kept.perplexity:.3f}" in line


def test_a_pte_without_a_tokenizer_is_refused(tiny_export: ExportResult, tiny_text: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_export.directory / "model.pte", tmp_path)
    with pytest.raises(SharpError, match=r"tokenizer\.json: is missing; put the model's tokenizer beside the \.pte"):
        evaluate_pte(tmp_path / "model.pte", str(tiny_text), WINDOW, WINDOWS, progress=False)


def test_a_checkpoint_without_a_tokenizer_is_refused(tiny_text: Path, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "mute")
    with pytest.raises(SharpError, match=r"evaluate reads text, and there is no tokenizer; add tokenizer\.json"):
        lines_of(Recipe(model=str(tmp_path / "mute")), tiny_text, tmp_path, quantized=False, pte=False)


def test_a_window_beyond_the_models_positions_is_refused(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    recipe, wanted = Recipe(model=str(tiny_checkpoint)), Wanted(progress=False, work=tmp_path)
    with pytest.raises(SharpError, match="sequence length 129: the model takes 2 to 128 tokens"):
        list(evaluate(recipe, str(tiny_text), 129, WINDOWS, wanted))
