"""Labels stand on the answers only, whatever the chat template is like."""

from typing import Any

import pytest
from tiny_models import CHATML, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from sharp_mobile.errors import SharpError
from sharp_mobile.text.chat_template import ChatTemplate
from sharp_mobile.text.conversation import IGNORED, check_template, encode_conversation
from sharp_mobile.text.sources import Conversation

pytestmark = pytest.mark.slow

MARKED = (
    "{% for m in messages %}<s>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
    "{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
# As Qwen3's: the reasoning of all answers but the last is dropped.
FORGETFUL = (
    "{% for m in messages %}<s>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def tokenizer_with(template: Any) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def conversation(*turns: tuple[str, str]) -> Conversation:
    return Conversation("chats.jsonl: line 7", tuple({"role": role, "content": content} for role, content in turns))


TWO_ANSWERS = conversation(
    ("user", "Hello"), ("assistant", "Good morning."), ("user", "2 + 2?"), ("assistant", "\n4, ünless é")
)
ONE_ANSWER = conversation(("system", "Be short."), ("user", "Hello"), ("assistant", "Hi"))


def encode(tokenizer: PreTrainedTokenizerFast, what: Conversation) -> tuple[list[int], list[int]]:
    with ChatTemplate(tokenizer) as template:
        return encode_conversation(template, what)


def learned(tokenizer: PreTrainedTokenizerFast, what: Conversation) -> list[str]:
    """The runs of labelled tokens, as text."""
    tokens, labels = encode(tokenizer, what)
    assert all(label in (token, IGNORED) for token, label in zip(tokens, labels, strict=True))
    runs: list[list[int]] = [[]]
    for label in labels:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_answers_and_the_token_that_ends_them_are_learned(template: str) -> None:
    tokenizer = tokenizer_with(template)
    assert learned(tokenizer, TWO_ANSWERS) == ["Good morning.</s>", "\n4, ünless é</s>"]
    assert learned(tokenizer, ONE_ANSWER) == ["Hi</s>"]


def test_the_tokens_are_those_of_the_chat_template() -> None:
    tokenizer = tokenizer_with(CHATML)
    tokens, _ = encode(tokenizer, TWO_ANSWERS)
    assert tokens == tokenizer.apply_chat_template(list(TWO_ANSWERS.messages), return_dict=True)["input_ids"]
    assert tokenizer.decode(tokens).startswith("<s>system\nBe kind.</s>\n<s>user\nHello</s>\n<s>assistant\nGood")


def test_an_answer_without_an_end_token_is_learned_to_its_last_character() -> None:
    bare = tokenizer_with("{% for m in messages %}[{{ m.role }}]{{ m.content }} {% endfor %}")
    bare.chat_template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    assert learned(bare, ONE_ANSWER) == ["Hi "]


def test_a_template_that_renders_a_prefix_differently_is_refused() -> None:
    tokenizer = tokenizer_with(FORGETFUL)
    assert learned(tokenizer, ONE_ANSWER) == ["<think></think>Hi</s>"]
    with pytest.raises(SharpError, match=r"chats\.jsonl: line 7: the chat template renders .* \(message 2\) diff"):
        encode(tokenizer, TWO_ANSWERS)


def test_what_the_template_refuses_names_the_line() -> None:
    strict = tokenizer_with("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(SharpError, match=r"line 7: the model's chat template refuses .*: roles must alternate"):
        encode(strict, ONE_ANSWER)


def test_an_answer_at_the_beginning_is_refused_where_the_template_does_not_mark_it() -> None:
    monologue = conversation(("assistant", "Hi"), ("user", "Hello"))
    with pytest.raises(SharpError, match=r"line 7: the model's chat template refuses its first 0 messages"):
        encode(tokenizer_with(CHATML), monologue)
    assert learned(tokenizer_with(MARKED), monologue) == ["Hi</s>"]


def test_marked_answers_are_those_that_transformers_finds() -> None:
    tokenizer = tokenizer_with(MARKED)
    expected = tokenizer.apply_chat_template(
        list(TWO_ANSWERS.messages), return_dict=True, return_assistant_tokens_mask=True
    )
    tokens, labels = encode(tokenizer, TWO_ANSWERS)
    assert tokens == expected["input_ids"]
    assert [int(label != IGNORED) for label in labels] == expected["assistant_masks"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ({"rag": CHATML}, "has the names rag, and no 'default'; put the right one into chat_template.jinja"),
        ([], "is a list, not a text"),
        (7, "is a int, not a text"),
    ],
)
def test_a_chat_template_that_is_none_is_refused(template: Any, reason: str) -> None:
    tokenizer = tokenizer_with(CHATML)
    object.__setattr__(tokenizer, "chat_template", template)
    with pytest.raises(SharpError, match=f"the model's chat template {reason}"):
        check_template(tokenizer)


def test_a_model_without_a_chat_template_is_refused() -> None:
    with pytest.raises(SharpError, match=r"no chat template .*add chat_template\.jinja"):
        check_template(tokenizer_with(None))
    check_template(tokenizer_with(CHATML))
