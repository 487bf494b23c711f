"""The tokenizer beside a `.pte`."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sharp_mobile.errors import SharpError
from sharp_mobile.lower.opened import OpenedProgram, find_pte

TOKENIZER_JSON = "tokenizer.json"


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an export's directory, or the one beside a `.pte`.

    Raises:
        SharpError: there is no `.pte` or no tokenizer.json, or the tokenizer cannot be read.
    """
    directory = find_pte(path).parent
    file = directory / TOKENIZER_JSON
    if not file.is_file():
        raise SharpError(f"{file}: is missing; put the model's {TOKENIZER_JSON} beside the .pte")
    try:
        return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the tokenizers library panics over some damaged files, which is no Exception
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SharpError(f"{file}: cannot be read ({line[:300]}); copy the model's tokenizer files again") from error


def stop_tokens(program: OpenedProgram, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
    """The tokens that end a text: those that the program names, else the tokenizer's."""
    if program.limits.stop is not None:
        return program.limits.stop
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
