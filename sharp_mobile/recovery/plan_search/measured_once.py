"""What a choice was made by is kept as JSON, and taken from there the next time."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from sharp_mobile import __version__
from sharp_mobile.errors import SharpError, first_problem
from sharp_mobile.files.json_file import parse_json, read_text
from sharp_mobile.files.outputs import replace_text

Measured = TypeVar("Measured")


def kept_path(work: Path, name: str, settings: list[object]) -> Path:
    """The file of what depends on these settings, and on the version."""
    key = hashlib.sha256(json.dumps([*settings, __version__], sort_keys=True).encode()).hexdigest()[:12]
    return work / f"{name}-{key}.json"


def measured_once(kept: Path, form: TypeAdapter[Measured], measure: Callable[[], Measured], remedy: str) -> Measured:
    """What `measure` gives, now or before.

    Args:
        kept: the file; what `measure` gives is written there if it is missing.
        remedy: what to do about a file that cannot be read.

    Raises:
        SharpError: the file is not what was written.
    """
    if not os.path.lexists(kept):
        replace_text(kept, form.dump_json(measure(), indent=1).decode() + "\n")
    try:
        return form.validate_python(parse_json(read_text(kept), kept, remedy=remedy))
    except ValidationError as error:
        raise SharpError(f"{kept}: {first_problem(error)}; {remedy}") from error
