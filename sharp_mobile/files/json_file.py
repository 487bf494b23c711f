"""JSON files that others wrote: one that cannot be read or is damaged gives a one-line error, never a traceback."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from sharp_mobile.errors import SharpError

COPY_AGAIN = "copy or download it again"


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        SharpError: it cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SharpError(f"{path}: is not UTF-8 text; {COPY_AGAIN}") from error


def parse_json(text: str | bytes, source: str | Path, *, remedy: str = COPY_AGAIN, unique: bool = False) -> Any:
    """What a JSON text holds.

    Args:
        source: where the text comes from, for messages.
        remedy: what the user should do about a damaged text.
        unique: refuse a field that is written twice; else its last value counts, as everywhere.

    Raises:
        SharpError: it is not valid JSON, or is nested deeper than Python's recursion limit.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError as error:
        raise SharpError(f"{source}: is nested too deeply; {remedy}") from error
    except json.JSONDecodeError as error:
        raise SharpError(f"{source}: is not valid JSON ({error}); {remedy}") from error
    except ValueError as error:  # our own, or Python's, which advises on how to change Python
        reason = "a number has more digits than Python reads" if "integer string conversion" in str(error) else error
        raise SharpError(f"{source}: is not valid JSON ({reason}); {remedy}") from error


def read_json(path: str | Path, *, remedy: str = COPY_AGAIN, unique: bool = False) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        SharpError: it cannot be read, is not valid JSON, or holds something else.
    """
    content = parse_json(read_text(path), path, remedy=remedy, unique=unique)
    if not isinstance(content, dict):
        raise SharpError(f"{path}: must hold a JSON object, holds a {type(content).__name__}; {remedy}")
    return content


def fields_of(path: Path) -> dict[str, Any]:
    """The fields of a JSON file that need not be there or whole: none where it holds no object or cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the field {name!r} is written twice")
        found[name] = value
    return found
