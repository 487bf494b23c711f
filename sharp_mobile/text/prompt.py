"""Prompts as tokens: a user's turn in the model's chat template."""

from transformers import PreTrainedTokenizerBase

from sharp_mobile.console import warn
from sharp_mobile.text.chat_template import ChatTemplate, ChatTemplateError, template_text


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, *, raw: bool = False) -> list[int]:
    """A prompt's token ids.

    Args:
        raw: tokenize the prompt without the model's chat template. By default it is a user's turn in the template, if
            the model has one.
    """
    if not raw:
        try:
            if template_text(tokenizer) is not None:
                return _templated(tokenizer, prompt)
        except ChatTemplateError as error:
            warn(f"the model's chat template {error}; the prompt is used without it")
    return list(tokenizer(prompt, verbose=False)["input_ids"])


def _templated(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    with ChatTemplate(tokenizer) as template:
        text = template.render([{"role": "user", "content": prompt}], add_generation_prompt=True).text
    tokens = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if not tokens:
        raise ChatTemplateError("gives an empty text")
    return tokens
