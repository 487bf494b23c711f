"""An export answers with the tokens that its manifest expects."""

import json
import shutil
from pathlib import Path

import pytest
from reported import recorded
from tiny_models import tiny_tokenizer

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.generate import generate, prompt_tokens
from sharp_mobile.evaluate.tokenizer import read_tokenizer
from sharp_mobile.pipeline import ExportResult

pytestmark = pytest.mark.usefixtures("no_warnings")


@pytest.mark.slow
def test_an_export_answers_what_its_manifest_expects(tiny_export: ExportResult) -> None:
    expected = tiny_export.manifest.expected
    answer = generate(tiny_export.directory, expected.prompt, len(expected.tokens))
    assert answer == expected.text
    shorter = generate(tiny_export.directory, expected.prompt, 5)
    assert expected.text.startswith(shorter)


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_refused(tiny_export: ExportResult) -> None:
    for length in (96, 97, 5000):
        with pytest.raises(SharpError, match=rf"the prompt has {length} tokens, .*model\.pte takes at most 95"):
            generate(tiny_export.directory, "x" * length, 5)


@pytest.mark.slow
def test_an_empty_prompt_and_no_tokens_are_refused(tiny_export: ExportResult) -> None:
    for raw in (True, False):
        with pytest.raises(SharpError, match="the prompt is empty, and the tokenizer adds no token"):
            generate(tiny_export.directory, "", 5, raw)
    for count in (0, -3):
        with pytest.raises(SharpError, match=f"^tokens {count}: generate 1 token or more"):
            generate(tiny_export.directory, "Hello", count)


@pytest.mark.slow
def test_an_empty_prompt_in_a_chat_template_is_a_question(tiny_export: ExportResult, tmp_path: Path) -> None:
    export = shutil.copytree(tiny_export.directory, tmp_path / "export")
    (export / "chat_template.jinja").write_text("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}")
    assert isinstance(generate(export, "", 3), str)
    (export / "chat_template.jinja").write_text("{{ raise_exception('a system message is needed') }}")
    with recorded() as report:
        answer = generate(export, "Hello", 3)
    assert answer == generate(export, "Hello", 3, raw=True)
    assert report.warnings == [
        "the model's chat template cannot be rendered: TemplateError: a system message is needed; the prompt is used "
        "without it"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "BPE"}}', "[" * 100_000, "\udcff"])
def test_a_damaged_tokenizer_is_an_answer_or_a_line(
    name: str, content: str, tiny_export: ExportResult, tmp_path: Path
) -> None:
    export = shutil.copytree(tiny_export.directory, tmp_path / "export")
    (export / name).write_text(content, errors="surrogateescape")
    told = ""
    try:
        read_tokenizer(export)("Hello")
    except SharpError as error:
        told = str(error)
        assert told.startswith(f"{export}: its tokenizer cannot be read: ")
    assert "\n" not in told
    assert told or name == "tokenizer_config.json" or content == "{}"


@pytest.mark.slow
def test_the_tokenizer_of_another_model_is_told_by_both_numbers(tiny_export: ExportResult, tmp_path: Path) -> None:
    export = shutil.copytree(tiny_export.directory, tmp_path / "export")
    tokenizer = json.loads((export / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 60000, "content": "<new>"})
    tokenizer["model"]["vocab"]["<new>"] = 60000
    (export / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(SharpError, match=r"tokenizer\.json: gives the token id 60000, and model\.pte has 49152 tokens"):
        generate(export, "Hello <new>", 5)


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
    with pytest.raises(SharpError, match=r"has no tokenizer; put the model's tokenizer\.json next to the \.pte"):
        generate(tmp_path, "Hello", 5)
    (tmp_path / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(SharpError, match="its tokenizer cannot be read"):
        generate(tmp_path, "Hello", 5)
