"""An export answers with the tokens that its manifest expects."""

import shutil
from pathlib import Path

import pytest
from tiny_models import tiny_tokenizer

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.generate import generate, prompt_tokens
from sharp_mobile.pipeline import ExportResult


@pytest.mark.slow
def test_an_export_answers_what_its_manifest_expects(tiny_export: ExportResult) -> None:
    expected = tiny_export.manifest.expected
    answer = generate(tiny_export.directory, expected.prompt, len(expected.tokens))
    assert answer == expected.text
    shorter = generate(tiny_export.directory, expected.prompt, 5)
    assert expected.text.startswith(shorter)


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_refused(tiny_export: ExportResult) -> None:
    with pytest.raises(SharpError):
        generate(tiny_export.directory, "x" * 97, 5)


def test_prompts_go_through_the_chat_template_unless_raw() -> None:
    tokenizer = tiny_tokenizer()
    plain = tokenizer("Hello")["input_ids"]
    assert prompt_tokens(tokenizer, "Hello") == plain
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
    assert prompt_tokens(tokenizer, "Hello") == [1, *plain, 2]
    assert prompt_tokens(tokenizer, "Hello", raw=True) == plain


@pytest.mark.slow
def test_an_export_without_its_tokenizer_is_refused(tiny_export: ExportResult, tmp_path: Path) -> None:
    shutil.copy(tiny_export.directory / "model.pte", tmp_path)
    with pytest.raises(SharpError, match=r"has no tokenizer\.json; name the directory of an export"):
        generate(tmp_path, "Hello", 5)
