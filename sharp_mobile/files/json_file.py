"""JSON files from other sources: an unreadable or damaged file gives a one-line error, never a traceback."""

import json
from contextlib import suppress
from pathlib import Path

from sharp_mobile.errors import SharpError

COPY_AGAIN = "copy or download it again"


def read_text(path: str | Path) -> str:
    """Read a UTF-8 file.

    Raises:
        SharpError: the file cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SharpError(f"{path}: is not UTF-8 text; {COPY_AGAIN}") from error


def parse_json(text: str | bytes, source: str | Path, *, remedy: str = COPY_AGAIN, unique: bool = False) -> object:
    """Parse a JSON text.

    Args:
        source: where the text comes from, for messages.
        remedy: what the user should do about a damaged text.
        unique: refuse duplicate fields; by default the last value wins, as in other JSON readers.

    Raises:
        SharpError: the text is not valid JSON, or is nested deeper than Python's recursion limit.
    """
    try:
        content: object = json.loads(text, object_pairs_hook=_unique if unique else None)
        return content
    except RecursionError as error:
        raise SharpError(f"{source}: is nested too deeply; {remedy}") from error
    except json.JSONDecodeError as error:
        raise SharpError(f"{source}: is not valid JSON ({error}); {remedy}") from error
    except ValueError as error:  # from `_unique`, or from Python, which would advise to change an interpreter setting
        reason = "a number has more digits than Python reads" if "integer string conversion" in str(error) else error
        raise SharpError(f"{source}: is not valid JSON ({reason}); {remedy}") from error


def read_json(path: str | Path, *, remedy: str = COPY_AGAIN, unique: bool = False) -> dict[str, object]:
    """Read a JSON file that holds an object.

    Raises:
        SharpError: the file cannot be read, is not valid JSON, or holds something else.
    """
    content = parse_json(read_text(path), path, remedy=remedy, unique=unique)
    if not isinstance(content, dict):
        raise SharpError(f"{path}: must hold a JSON object, holds a {type(content).__name__}; {remedy}")
    return content


def fields_of(path: Path) -> dict[str, object]:
    """The fields of a JSON file; empty if it is missing, damaged, or does not hold an object."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"the field {name!r} is written twice")
        fields[name] = value
    return fields
