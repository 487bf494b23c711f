"""Conversations as tokens, with labels on the assistant's answers only.

    <|im_start|>user \n Hello <|im_end|> \n <|im_start|>assistant \n  Good morning. <|im_end|>  \n
    ─────────────────── −100 ──────────────────────────────────────  ──────── labels ────────  −100

A model learns what it must say itself: the answer and the token that ends it. A chat template with `{% generation %}`
marks the answers. For any other they are found by rendering prefixes: what the template writes for the messages before
an answer, with the generation prompt, is where the answer begins; what it writes for the messages up to the answer is
where it ends. This holds only where the template renders a prefix as it renders the whole, which is checked (templates
that drop the reasoning of earlier turns do not).
"""

import re

from transformers import PreTrainedTokenizerBase

from sharp_mobile.errors import SharpError
from sharp_mobile.text.chat_template import ChatTemplate, ChatTemplateError, Rendered, template_text
from sharp_mobile.text.sources import Conversation

IGNORED = -100  # the label of a token that is not scored, as transformers has it
_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse conversations for a model that has no chat template.

    Raises:
        SharpError: it has none that can be used, or its tokenizer cannot say where tokens stand in the text.
    """
    try:
        text = template_text(tokenizer)
    except ChatTemplateError as error:
        raise SharpError(
            f"the model's chat template {error}; put the right one into chat_template.jinja next to its tokenizer"
        ) from error
    if text is None:
        raise SharpError(
            "the model's tokenizer has no chat template to write conversations with; take an instruction-tuned model, "
            "add chat_template.jinja next to its tokenizer, or give plain text (column 'text')"
        )
    if not tokenizer.is_fast:
        raise SharpError("the model's tokenizer does not give token positions in the text; add its tokenizer.json")


def encode_conversation(template: ChatTemplate, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Tokens of a conversation as the chat template renders it, and labels of the same length.

    A label is the token itself in an answer and `IGNORED` elsewhere; models shift labels themselves.

    Raises:
        SharpError: the template fails on the conversation, or renders a prefix of it otherwise than the whole.
    """
    tokenizer, count = template.tokenizer, len(conversation.messages)
    marks = _MARKS_ANSWERS.search(template_text(tokenizer) or "") is not None
    rendered = _render(template, conversation, count, mark_answers=marks)
    answers = rendered.answers if marks else _answers(template, conversation, rendered.text)
    encoded = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if marks:  # as transformers: every token that has a character of the answer
        mask = [
            any(first < end and last > start for start, end in answers) for first, last in encoded["offset_mapping"]
        ]
    else:
        # A token that begins before the answer is no token that the model would generate.
        mask = [any(start <= first < end for start, end in answers) for first, _ in encoded["offset_mapping"]]
    tokens = list(encoded["input_ids"])
    return tokens, [token if answer else IGNORED for token, answer in zip(tokens, mask, strict=True)]


def _answers(template: ChatTemplate, conversation: Conversation, text: str) -> list[tuple[int, int]]:
    """Where the answers stand in the rendered conversation, as characters [start, end), end-of-turn tokens included."""
    spans = []
    for index, message in enumerate(conversation.messages):
        if message["role"] != "assistant":
            continue
        before = _render(template, conversation, index, add_generation_prompt=True).text
        through = _render(template, conversation, index + 1).text
        if not (text.startswith(through) and through.startswith(before) and len(through) > len(before)):
            raise SharpError(
                f"{conversation.where}: the chat template renders the messages up to the answer (message {index + 1}) "
                "otherwise than in the whole, so the answer cannot be separated from the prompt; use conversations of "
                "one "
                "answer, or a template with {% generation %}"
            )
        spans.append((len(before), _end_of_turn(template.tokenizer, through)))
    return spans


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Where a turn ends: without the line break that many templates write after the token that ends it."""
    stripped = text.rstrip()
    return len(stripped) if stripped.endswith(tuple(tokenizer.all_special_tokens)) else len(text)


def _render(
    template: ChatTemplate,
    conversation: Conversation,
    count: int,
    *,
    add_generation_prompt: bool = False,
    mark_answers: bool = False,
) -> Rendered:
    try:
        return template.render(
            conversation.messages[:count], add_generation_prompt=add_generation_prompt, mark_answers=mark_answers
        )
    except ChatTemplateError as error:
        raise SharpError(
            f"{conversation.where}: the model's chat template refuses its first {count} messages: it {error}; mend or "
            "delete it"
        ) from error
