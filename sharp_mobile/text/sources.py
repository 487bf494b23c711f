"""Text sources: files, directories, speeches and hub datasets, read document by document.

    notes.txt, texts/        long pieces of running text  ─┐
    chats.jsonl, chats/      a JSON object per line        │
    data.parquet, tables/    rows of a table               ├──►  Text  or  Conversation
    org/name:split           a dataset of the hub          │
    sotu:1950-2004           the speeches of those years  ─┘

The columns of a row give its kind: `messages` is a conversation, `prompt` with `completion` is a conversation of two
turns, and `text` is plain text. Only the current document is in memory. A hub dataset is downloaded to the Hugging Face
cache (HF_HOME). Its default split is `train`; its configuration is a third part of the name (`org/name/config:split`).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sharp_mobile.console import shows_bars
from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import parse_json
from sharp_mobile.text.speeches import SPEECHES, speech_files

SUFFIXES = (".jsonl", ".parquet", ".txt")
_COLUMNS = ("messages", "prompt", "completion", "text")
_HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.:%+[\]-]+))?")
_PIECE = 100_000  # characters of running text per tokenizer call


@dataclass(frozen=True)
class Text:
    """A document of plain text, or a piece of one.

    Args:
        where: the file, and the line or row counted from 1, for messages.
        ends: the document ends here, so that an EOS follows.
    """

    where: str
    text: str
    ends: bool = True


@dataclass(frozen=True)
class Conversation:
    """Messages {"role", "content"}: at least one answer of the assistant, and no empty answer."""

    where: str
    messages: tuple[dict[str, str], ...]


Document = Text | Conversation


def source_files(source: str | Path) -> list[Path]:
    """The files of a source; an empty list for a hub dataset.

    Raises:
        SharpError: a directory without text, or with several kinds of it; a file of another kind; a missing file.
    """
    if SPEECHES.fullmatch(str(source)):
        return speech_files(str(source))
    path = Path(source).expanduser()
    if path.is_dir():
        return _directory_files(path)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise SharpError(f"{path}: is not a {', '.join(SUFFIXES)} file; convert it to one of these")
        return [path]
    if path.suffix in SUFFIXES or not _HUB_NAME.fullmatch(str(source)):
        raise SharpError(f"{source}: no such file; name a {', '.join(SUFFIXES)} file or a directory with such files")
    return []


def read_documents(source: str | Path) -> Iterator[Document]:
    """The documents of a source (see the module) in order, without empty texts.

    Raises:
        SharpError: as `source_files`; a line that is not JSON, a row without known columns or with an empty answer, an
            unreadable file, or a missing hub dataset. The message names the line or row.
    """
    files = source_files(source)
    for path in files:
        if path.suffix == ".txt":
            yield from _text_pieces(path)
        else:
            yield from _documents(_json_lines(path) if path.suffix == ".jsonl" else _parquet_rows(path))
    if not files:
        yield from _documents(_hub_rows(str(source)))


def _directory_files(directory: Path) -> list[Path]:
    by_suffix = {suffix: sorted(p for p in directory.glob(f"*{suffix}") if p.is_file()) for suffix in SUFFIXES}
    kinds = [suffix for suffix, files in by_suffix.items() if files]
    if not kinds:
        raise SharpError(f"{directory}: holds no {', '.join(SUFFIXES)} file; name a directory or a file that does")
    if len(kinds) > 1:
        raise SharpError(
            f"{directory}: holds {' and '.join(kinds)} files; keep one kind in a directory, or name a file"
        )
    return by_suffix[kinds[0]]


def _text_pieces(path: Path) -> Iterator[Text]:
    """Read a file in pieces that end between paragraphs if possible, otherwise between lines or words."""
    piece, rest = "", ""
    try:
        with path.open(encoding="utf-8") as file:
            while block := file.read(_PIECE):
                if piece:
                    yield Text(str(path), piece, ends=False)
                rest += block
                cut = _last_break(rest)
                piece, rest = rest[:cut], rest[cut:]
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    if piece + rest:
        yield Text(str(path), piece + rest)


def _last_break(text: str) -> int:
    return next((cut for mark in ("\n\n", "\n", " ") if (cut := text.rfind(mark)) > 0), len(text))


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}: line {number}", _json_object(line, f"{path}: line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _json_object(line: str, where: str) -> Mapping[str, object]:
    row = parse_json(line, where, remedy="correct or delete the line")
    if not isinstance(row, dict):
        raise SharpError(f'{where}: is not a JSON object; write {{"text": ...}} or {{"messages": [...]}}')
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            known = [name for name in file.schema_arrow.names if name in _COLUMNS] or file.schema_arrow.names
            rows = (row for batch in file.iter_batches(1000, columns=known) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path}: row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SharpError(
            f"{path}: is not a complete parquet file ({_one_line(error)}); copy or write it again"
        ) from error


def _hub_rows(source: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    import datasets

    match = _HUB_NAME.fullmatch(source)
    assert match is not None, "source_files checks the name"
    try:
        with dataset_bars():
            rows = datasets.load_dataset(match["name"], match["config"], split=match["split"] or "train")
    except ConnectionError as error:
        raise SharpError(
            f"{source}: no file of that name here, not in the local cache, and the hub cannot be reached; connect to "
            f"the network, or give local {', '.join(SUFFIXES)} files"
        ) from error
    except Exception as error:  # a missing name, configuration or split, a script, a broken file
        raise SharpError(
            f"{source}: is neither a local file nor a readable dataset of the hub: {_one_line(error)}"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{source}: row {number}", row


@contextmanager
def dataset_bars() -> Iterator[None]:
    """Show the progress bars of `datasets` only if the console shows bars."""
    import datasets

    hide = not shows_bars() and not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()


def _documents(rows: Iterator[tuple[str, Mapping[str, object]]]) -> Iterator[Document]:
    for where, row in rows:
        document = _document(row, where)
        if isinstance(document, Conversation) or document.text:
            yield document


def _document(row: Mapping[str, object], where: str) -> Document:
    if "messages" in row:
        return _conversation(row["messages"], where)
    if "prompt" in row and "completion" in row:
        turns = [("user", row["prompt"]), ("assistant", row["completion"])]
        return _conversation([{"role": role, "content": content} for role, content in turns], where)
    if "text" not in row:
        raise SharpError(
            f"{where}: its columns are {', '.join(row) or 'none'}; 'text', 'messages', or 'prompt' with 'completion' "
            "is needed: rename them"
        )
    text = row["text"]
    if not isinstance(text, str):
        raise SharpError(f"{where}: text is {type(text).__name__}, not a string; correct or delete it")
    _check_unicode(text, f"{where}: text")
    return Text(where, text)


def _conversation(messages: object, where: str) -> Conversation:
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise SharpError(f'{where}: messages must be a list of {{"role": ..., "content": ...}}; correct or delete it')
    checked = []
    for number, message in enumerate(messages, start=1):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise SharpError(f"{where}: message {number} has no role or content that is a string; correct or delete it")
        _check_unicode(role + content, f"{where}: message {number}")
        if role == "assistant" and not content.strip():
            raise SharpError(f"{where}: the answer (message {number}) is empty; write it, or delete the row")
        checked.append({"role": role, "content": content})
    if all(message["role"] != "assistant" for message in checked):
        raise SharpError(f"{where}: no message is the assistant's, so there is nothing to learn; delete the row")
    return Conversation(where, tuple(checked))


def _check_unicode(text: str, where: str) -> None:
    """Refuse half of a surrogate pair: JSON can hold it, but it is not a character and tokenizers cannot read it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SharpError(
            f"{where} has half of a surrogate pair (character {error.start + 1}); correct or delete it"
        ) from error


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> SharpError:
    if isinstance(error, OSError):
        return SharpError(f"{path}: cannot be read: {error.strerror}")
    return SharpError(f"{path}: is not UTF-8 text; convert it, or name another file")


def _one_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
