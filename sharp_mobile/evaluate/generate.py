"""The command `generate`: run an export on this machine."""

from pathlib import Path

from sharp_mobile.console import warn
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.tokenizer import read_tokenizer, stop_tokens
from sharp_mobile.pte.runtime import greedy
from sharp_mobile.text.prompt import prompt_tokens
from sharp_mobile.verify.opened import open_program


def generate(path: Path, prompt: str, count: int, raw: bool = False) -> str:
    """Generate at most `count` tokens greedily from a prompt.

    Args:
        path: an export's directory, or a `.pte` with a tokenizer.json next to it.
        raw: tokenize the prompt without the model's chat template.

    Raises:
        SharpError: there is no export or tokenizer, a file is damaged, or the prompt is empty or too long.
    """
    if count < 1:
        raise SharpError(f"tokens {count}: generate 1 token or more")
    tokenizer = read_tokenizer(path)
    tokens = prompt_tokens(tokenizer, prompt, raw=raw)
    if not tokens:
        raise SharpError("the prompt is empty, and the tokenizer adds no token; write a prompt")
    with open_program(path) as program:
        for warning in program.warnings:
            warn(warning)
        length = program.limits.length
        room = length - len(tokens)
        if room < 1:
            raise SharpError(
                f"the prompt has {len(tokens)} tokens, {program.pte} takes at most {length - 1}; "
                "write a shorter prompt, or export with a larger max_length"
            )
        generated = greedy(program.step, tokens, min(count, room), stop_tokens(program, tokenizer))
    return str(tokenizer.decode(generated, skip_special_tokens=True))
