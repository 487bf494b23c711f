"""The verb `generate`: let an export speak on this machine."""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sharp_mobile.chat_template import ChatTemplate, ChatTemplateError, template_text
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.tokenizer import read_tokenizer, stop_tokens
from sharp_mobile.lower.opened import open_program
from sharp_mobile.lower.runtime import greedy

Warn = Callable[[str], None]


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, *, raw: bool = False, warn: Warn) -> list[int]:
    """A prompt's token ids: as a user's turn in the model's chat template, if it has one and `raw` is not asked for.

    Args:
        warn: receives a line if the template cannot be rendered; the prompt is used as it is then.
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


def generate(path: Path, prompt: str, count: int, raw: bool = False, *, warn: Warn) -> str:
    """What an export answers to a prompt, greedily, in at most `count` tokens.

    Args:
        path: an export's directory, or a `.pte` with a tokenizer.json beside it.
        warn: receives what the user should know, a line each.

    Raises:
        SharpError: no export there, no tokenizer in it, a damaged file, or a prompt that is empty or too long.
    """
    if count < 1:
        raise SharpError(f"--tokens {count}: generate 1 token or more")
    tokenizer = read_tokenizer(path)
    tokens = prompt_tokens(tokenizer, prompt, raw=raw, warn=warn)
    if not tokens:
        raise SharpError("the prompt is empty and the tokenizer puts no token before it; write a prompt")
    with open_program(path) as program:
        for warning in program.warnings:
            warn(warning)
        length = program.limits.length
        room = length - len(tokens)
        if room < 1:
            raise SharpError(
                f"the prompt has {len(tokens)} tokens, {program.pte} takes {length - 1} at most; "
                "write a shorter prompt, or export with a larger max_length"
            )
        generated = greedy(program.step, tokens, min(count, room), stop_tokens(program, tokenizer))
    return str(tokenizer.decode(generated, skip_special_tokens=True))
