"""Compile a program once: again only when what it is made of has changed."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import replace_file, replace_text


def compiled(program: Path, command: Sequence[str], source: Path, made_of: str) -> Path:
    """`program`, by `command` with `-o` and a path added, unless it is there and was made of the same.

    Args:
        source: what an error names.
        made_of: a digest of all that decides what comes out; kept beside the program.

    Raises:
        SharpError: no compiler, or it does not compile; what was there before is still there.
    """
    key = program.with_suffix(".key")
    if program.is_file() and key.is_file() and key.read_text(encoding="utf-8") == made_of:
        return program
    compiler = command[0]
    if shutil.which(compiler) is None:
        raise SharpError(f"{compiler}: no such C++ compiler; install one (apt install g++) or name yours in CXX")
    with replace_file(program) as partial:
        done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "it said nothing")
            raise SharpError(f"{source}: {compiler} cannot compile it: {first}")
        key.unlink(missing_ok=True)
    replace_text(key, made_of)
    return program
