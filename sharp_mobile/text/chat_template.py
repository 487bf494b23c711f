"""A model's chat template: an untrusted Jinja program, which runs in a child process with limits.

transformers renders it in a sandbox. The sandbox blocks files and Python, but not endless loops (nested `range`s) or
huge allocations (`'a' * 10**10`).
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, cast

from pydantic import TypeAdapter

from sharp_mobile.system.child import Answer, Child, ChildError, Handler, serve

if TYPE_CHECKING:  # the child imports this module and needs no tokenizers
    from transformers import PreTrainedTokenizerBase

RENDER_SECONDS = 5.0
_MEMORY = 1 << 30
_RENDERED = TypeAdapter(tuple[str, tuple[tuple[int, int], ...]])
_LONGEST = 1_000_000  # characters that a template may add to its messages


class ChatTemplateError(Exception):
    """A chat template gives no text. The message is a predicate: 'fails: roles must alternate'."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the spans of its answers if the template marks them: characters [start, end)."""

    text: str
    answers: tuple[tuple[int, int], ...] = ()


def template_text(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The Jinja text of a tokenizer's chat template; None if it has none.

    Raises:
        ChatTemplateError: it is not a text, or there are several named templates and none is the default.
    """
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        if "default" not in template:
            raise ChatTemplateError(f"has the names {', '.join(map(str, template)) or '(none)'}, and no 'default'")
        template = template["default"]
    if template is not None and not isinstance(template, str):
        raise ChatTemplateError(f"is a {type(template).__name__}, not a text")
    return template


class ChatTemplate:
    """The chat template of a tokenizer. The first rendering starts the child process, and `close` ends it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self._child: Child | None = None

    def __enter__(self) -> "ChatTemplate":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def render(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False, mark_answers: bool = False
    ) -> Rendered:
        """Render a conversation like `tokenizer.apply_chat_template`.

        Args:
            add_generation_prompt: end with the tokens that introduce an answer.
            mark_answers: also return the spans of the answers, from the template's {% generation %}.

        Raises:
            ChatTemplateError: there is no template, it fails, or it exceeds its limits of time, memory or length.
        """
        text = template_text(self.tokenizer)
        if text is None:
            raise ChatTemplateError("is missing")
        if not messages:
            raise ChatTemplateError("needs one message or more")
        request: dict[str, object] = {
            "messages": [dict(message) for message in messages],
            "template": text,
            "special_tokens": self.tokenizer.special_tokens_map,
            "add_generation_prompt": add_generation_prompt,
            "mark_answers": mark_answers,
        }
        try:
            if self._child is None:
                self._child = Child("sharp_mobile.text.chat_template:serve_templates", memory=_MEMORY)
            answer, _ = self._child.ask(request, RENDER_SECONDS)
        except ChildError as error:
            if self._child is not None and not self._child.alive:
                self.close()  # the next rendering starts a new one
            raise ChatTemplateError(f"cannot be rendered: {error}") from error
        rendered, answers = _RENDERED.validate_python(answer)
        with contextlib.suppress(UnicodeEncodeError):
            rendered.encode()
            return Rendered(rendered, answers)
        raise ChatTemplateError("gives a text with half of a surrogate pair, which tokenizers cannot read")


def serve_templates(descriptor: int, memory: int) -> None:
    """Render conversations. The child process runs this function."""
    serve(descriptor, memory, _renderer)


def _renderer() -> Handler:
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(request: dict[str, object]) -> Answer:
        match request:
            case {
                "messages": list(messages),
                "template": str(template),
                "special_tokens": dict(special_tokens),
                "add_generation_prompt": bool(add_generation_prompt),
                "mark_answers": bool(mark_answers),
            }:
                rendered = render_jinja_template(
                    [messages],
                    chat_template=template,
                    add_generation_prompt=add_generation_prompt,
                    return_assistant_tokens_mask=mark_answers,
                    **special_tokens,
                )
            case _:
                raise ValueError("not a request to render a conversation")
        # transformers annotates a string, but returns a text and the spans of its answers for each conversation.
        (text,), spans = cast(tuple[list[str], list[list[tuple[int, int]]]], rendered)
        input_length = sum(len(message["content"]) for message in messages)
        if len(text) > input_length + _LONGEST:
            raise ValueError(f"its text has {len(text)} characters, for messages of {input_length}")
        return [text, spans[0] if spans else []], b""

    return render
