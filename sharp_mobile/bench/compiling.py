"""Compile a program, unless its inputs are unchanged."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import replace_file, replace_text


def compiled(program: Path, command: Sequence[str], source: Path, digest: str) -> Path:
    """Compile `program` with `command -o <path>`, unless it exists and was compiled with the same digest.

    Args:
        source: the file that errors name.
        digest: a digest of all inputs, stored next to the program.

    Raises:
        SharpError: there is no compiler, or the source does not compile; an existing program is unchanged.
    """
    key = program.with_suffix(".key")
    if program.is_file() and key.is_file() and key.read_text(encoding="utf-8") == digest:
        return program
    compiler = command[0]
    if shutil.which(compiler) is None:
        raise SharpError(f"{compiler}: no such C++ compiler; install one (apt install g++) or name yours in CXX")
    with replace_file(program) as partial:
        done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "no error message")
            raise SharpError(f"{source}: {compiler} cannot compile it: {first}")
        key.unlink(missing_ok=True)
    replace_text(key, digest)
    return program
