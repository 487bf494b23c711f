"""A chat template renders as transformers renders it, or fails in one line; it never hangs and never fills memory."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reported import recorded
from tiny_models import CHATML, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from sharp_mobile.evaluate.generate import prompt_tokens
from sharp_mobile.text import chat_template
from sharp_mobile.text.chat_template import ChatTemplate, ChatTemplateError

MESSAGES = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4 <b>&\n"}]
# What real templates use: loop controls, trimmed blocks, namespaces, tojson, dates, macros, special tokens.
EVERYTHING = """{%- macro turn(m) %}{{ '<s>' + m['role'] }}
{{ m['content'] | trim }}{{ eos_token }}{% endmacro %}
{%- set seen = namespace(count=0) %}
{{- bos_token }}{{ strftime_now('%Y') }} {{ messages | tojson }}
    {% for m in messages %}
        {% if loop.index > 9 %}{% break %}{% endif %}
        {%- set seen.count = seen.count + 1 %}
{{ turn(m) }}
    {% endfor %}
{{ seen.count }} {{ tools is none }}{% if add_generation_prompt %}<s>assistant{% endif %}"""


def tokenizer_with(template: object) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def templates() -> Iterator[ChatTemplate]:
    """One child process for many templates."""
    with ChatTemplate(tiny_tokenizer()) as template:
        yield template


pytestmark = pytest.mark.usefixtures("no_warnings")


@pytest.mark.parametrize("template", [CHATML, EVERYTHING, {"tool_use": "{{ x }}", "default": CHATML}])
@pytest.mark.parametrize("prompt", [True, False])
def test_a_working_template_gives_what_transformers_gives(
    templates: ChatTemplate, template: object, prompt: bool
) -> None:
    templates.tokenizer = tokenizer_with(template)
    expected = templates.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=prompt)
    assert templates.render(MESSAGES, add_generation_prompt=prompt).text == expected
    user = [{"role": "user", "content": "2 + 2?"}]
    ids = templates.tokenizer.apply_chat_template(user, add_generation_prompt=True)["input_ids"]
    assert prompt_tokens(templates.tokenizer, "2 + 2?") == ids


BROKEN = [
    ("{{ raise_exception('roles must alternate') }}", "cannot be rendered: TemplateError: roles must alternate"),
    ("{% for m in messages %}", "cannot be rendered: TemplateSyntaxError"),
    ("{{ messages[3].content.strip() }}", "cannot be rendered: UndefinedError"),
    ("{{ ''.__class__.__mro__ }}", "cannot be rendered: SecurityError"),
    ("{% for i in range(10**9) %}{% endfor %}", "cannot be rendered: OverflowError"),
    ("{{ 'a' * 10**10 }}", r"cannot be rendered: needs more than its memory limit of 1\.1 GB"),
    ("{% for m in messages %}{{ 'a' * 10**8 }}{% endfor %}", "cannot be rendered: ValueError: its text has"),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "cannot be rendered: RecursionError"),
    ("{{ '\ud800' }}", "cannot be rendered: |half of a surrogate pair"),
    ({"tool_use": "{{ x }}", "rag": "{{ x }}"}, "has the names tool_use, rag, and no 'default'"),
    ({}, r"has the names \(none\), and no 'default'"),
    (5, "is a int, not a text"),
    ({"default": ["a"]}, "is a list, not a text"),
    (None, "is missing"),
]


@pytest.mark.parametrize(("template", "reason"), BROKEN)
def test_a_broken_template_says_why_in_one_line(templates: ChatTemplate, template: object, reason: str) -> None:
    templates.tokenizer = tokenizer_with(template)
    with pytest.raises(ChatTemplateError, match=reason) as error:
        templates.render(MESSAGES)
    assert "\n" not in str(error.value)


ENDLESS = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"


def test_an_endless_template_is_stopped_and_the_prompt_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "RENDER_SECONDS", 0.3)
    tokenizer = tokenizer_with(ENDLESS)
    with recorded() as report:
        assert prompt_tokens(tokenizer, "Hello") == tokenizer("Hello")["input_ids"]
    (warning,) = report.warnings
    assert warning == (
        "the model's chat template cannot be rendered: gave no answer in 1 s; the prompt is used without it"
    )


def test_after_a_stopped_template_another_one_renders(templates: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    templates.tokenizer = tokenizer_with(ENDLESS)
    monkeypatch.setattr(chat_template, "RENDER_SECONDS", 0.3)
    with pytest.raises(ChatTemplateError, match="no answer"):
        templates.render(MESSAGES)
    monkeypatch.undo()
    templates.tokenizer = tokenizer_with("{{ messages[0].content }}")
    assert templates.render(MESSAGES).text == "2 + 2?"


@pytest.mark.parametrize("template", ["", "{{ raise_exception('a system message is needed') }}", {"rag": "x"}])
def test_a_template_that_gives_nothing_is_a_warning_and_raw_asks_no_template(template: object) -> None:
    tokenizer = tokenizer_with(template)
    plain = tokenizer("Hello")["input_ids"]
    with recorded() as report:
        assert prompt_tokens(tokenizer, "Hello", raw=True) == plain
        assert report.warnings == []
        assert prompt_tokens(tokenizer, "Hello") == plain
    (warning,) = report.warnings
    assert warning.startswith("the model's chat template ")


PIECES = [
    "{{",
    "}}",
    "{%",
    "%}",
    " for m in messages ",
    " endfor ",
    "m.content",
    " if ",
    "'a'",
    "* 9",
    "|",
    "\ud800",
    "x",
]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
def test_any_text_is_a_template_that_renders_or_says_why(templates: ChatTemplate, text: str) -> None:
    templates.tokenizer = tokenizer_with(text)
    reason = ""
    try:
        templates.render(MESSAGES)
    except ChatTemplateError as error:
        reason = str(error)
    assert "\n" not in reason


def test_the_child_needs_no_pytorch() -> None:
    """It starts for every prompt, so it must start fast."""
    code = "import sys, sharp_mobile.text.chat_template as t; t._renderer(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"], check=True)
