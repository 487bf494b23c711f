"""Conversations as tokens, with labels on the assistant's answers only.

    <|im_start|>user \n Hello <|im_end|> \n <|im_start|>assistant \n  Good morning. <|im_end|>  \n
    ─────────────────── −100 ──────────────────────────────────────  ──────── labels ────────  −100

A model learns only the text that it must generate: the answer and its end-of-turn token. A chat template with
`{% generation %}` marks the answers. For other templates two rendered prefixes locate an answer: the messages before
it, with the generation prompt, end where the answer begins; the messages up to it end where the answer ends. This works
only if the template renders a prefix like the start of the full conversation, which is checked (templates that drop
the reasoning of earlier turns fail the check).
"""

import re

from transformers import PreTrainedTokenizerBase

from sharp_mobile.errors import SharpError
from sharp_mobile.text.chat_template import ChatTemplate, ChatTemplateError, Rendered, template_text
from sharp_mobile.text.sources import Conversation

IGNORED = -100  # the label of a token that is not scored, as in transformers
_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse conversations for a model that has no chat template.

    Raises:
        SharpError: it has no usable template, or its tokenizer does not report the positions of tokens in the text.
    """
    try:
        text = template_text(tokenizer)
    except ChatTemplateError as error:
        raise SharpError(
            f"the model's chat template {error}; put the right one into chat_template.jinja next to its tokenizer"
        ) from error
    if text is None:
        raise SharpError(
            "the model's tokenizer has no chat template for conversations; take an instruction-tuned model, "
            "add chat_template.jinja next to its tokenizer, or give plain text (column 'text')"
        )
    if not tokenizer.is_fast:
        raise SharpError("the model's tokenizer does not give token positions in the text; add its tokenizer.json")


def encode_conversation(template: ChatTemplate, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Tokens of a conversation in the chat template, and labels of the same length.

    The label is the token in an answer and `IGNORED` elsewhere; models shift the labels.

    Raises:
        SharpError: the template fails on the conversation, or renders a prefix of it differently from the full text.
    """
    tokenizer, count = template.tokenizer, len(conversation.messages)
    marks = _MARKS_ANSWERS.search(template_text(tokenizer) or "") is not None
    rendered = _render(template, conversation, count, mark_answers=marks)
    answers = rendered.answers if marks else _answers(template, conversation, rendered.text)
    encoded = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if marks:  # as in transformers: every token with a character of the answer
        mask = [
            any(first < end and last > start for start, end in answers) for first, last in encoded["offset_mapping"]
        ]
    else:
        # The model would not generate a token that begins before the answer.
        mask = [any(start <= first < end for start, end in answers) for first, _ in encoded["offset_mapping"]]
    tokens = list(encoded["input_ids"])
    return tokens, [token if answer else IGNORED for token, answer in zip(tokens, mask, strict=True)]


def _answers(template: ChatTemplate, conversation: Conversation, text: str) -> list[tuple[int, int]]:
    """The spans of the answers in the rendered conversation: characters [start, end), with end-of-turn tokens."""
    spans = []
    for index, message in enumerate(conversation.messages):
        if message["role"] != "assistant":
            continue
        before = _render(template, conversation, index, add_generation_prompt=True).text
        through = _render(template, conversation, index + 1).text
        if not (text.startswith(through) and through.startswith(before) and len(through) > len(before)):
            raise SharpError(
                f"{conversation.where}: the chat template renders the messages up to the answer (message {index + 1}) "
                "differently from the full conversation, so the answer cannot be separated from the prompt; use "
                "conversations of one answer, or a template with {% generation %}"
            )
        spans.append((len(before), _end_of_turn(template.tokenizer, through)))
    return spans


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The end of a turn, without the line break that many templates write after the end-of-turn token."""
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
            f"{conversation.where}: the model's chat template refuses its first {count} messages: it {error}; correct "
            "or delete it"
        ) from error
