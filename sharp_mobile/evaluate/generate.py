"""The verb `generate`: let an export speak on this machine."""

from pathlib import Path

from sharp_mobile.console import warn
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.tokenizer import read_tokenizer, stop_tokens
from sharp_mobile.pte.runtime import greedy
from sharp_mobile.text.prompt import prompt_tokens
from sharp_mobile.verify.opened import open_program


def generate(path: Path, prompt: str, count: int, raw: bool = False) -> str:
    """What an export answers to a prompt, greedily, in at most `count` tokens.

    Args:
        path: an export's directory, or a `.pte` with a tokenizer.json beside it.

    Raises:
        SharpError: no export there, no tokenizer in it, a damaged file, or a prompt that is empty or too long.
    """
    if count < 1:
        raise SharpError(f"tokens {count}: generate 1 token or more")
    tokenizer = read_tokenizer(path)
    tokens = prompt_tokens(tokenizer, prompt, raw=raw)
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
