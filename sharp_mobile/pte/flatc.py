"""Flatbuffers as JSON, by the `flatc` and the schemas that come with ExecuTorch.

ExecuTorch's own Python reads a program, too, but imports PyTorch: seconds and hundreds of megabytes for a file's table
of contents.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharp_mobile.errors import SharpError
from sharp_mobile.pte.package import executorch_package

# A table's fields by name. What each holds, only the schema says: a number, a text, a list, or another table.
Table = dict[str, Any]

# Schemas, from the package's directory. The first includes scalar_type.fbs.
PROGRAM, XNNPACK_GRAPH = "exir/_serialize/program.fbs", "backends/xnnpack/serialization/schema.fbs"
_FLATC = "data/bin/flatc"

# A vector of bytes is read as its offset, one number: constants and delegates may be stored inline, and as JSON each of
# their bytes would take several. Nothing here reads them.
_BYTES = re.compile(rb"\[ubyte\](?:\s*\([^)]*\))?")
# Where flatc ends a line with a number that JSON has not; a text would end it with a quotation mark.
_NON_FINITE = re.compile(r"(?m)(-?)(inf|nan)(?=,?$)")


def as_json(schema: str, buffers: Sequence[bytes | bytearray]) -> list[Table]:
    """The content of flatbuffers of one schema, in one run of flatc. A field that is not stored is left out.

    Raises:
        SharpError: executorch's flatc is not there.
        CalledProcessError: a buffer is damaged: flatc does not check offsets, and may crash.
    """
    if not buffers:
        return []
    package, _ = executorch_package()
    flatc = package / _FLATC
    if not flatc.is_file():
        raise SharpError(f"{flatc}: is missing; install executorch again")
    with tempfile.TemporaryDirectory() as directory:
        for file in (package / schema).parent.glob("*.fbs"):
            Path(directory, file.name).write_bytes(_BYTES.sub(b"uint", file.read_bytes()))
        names = [str(number) for number in range(len(buffers))]
        for name, buffer in zip(names, buffers, strict=True):
            Path(directory, f"{name}.bin").write_bytes(buffer)
        options = ["--raw-binary", "--json", "--defaults-json", "--strict-json"]
        subprocess.run(
            [flatc, *options, Path(schema).name, "--", *(f"{name}.bin" for name in names)],
            cwd=directory,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return [_parsed(Path(directory, f"{name}.json").read_text(encoding="utf-8")) for name in names]


def _parsed(text: str) -> Table:
    content: Table = json.loads(_NON_FINITE.sub(_as_python_reads, text))
    return content


def _as_python_reads(number: re.Match[str]) -> str:
    return "NaN" if number[2] == "nan" else f"{number[1]}Infinity"
