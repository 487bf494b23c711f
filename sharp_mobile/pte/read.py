"""Read the structure of a `.pte`: its program, where its segments lie, and the XNNPACK graphs of its delegates."""

import json
import mmap
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program
from executorch.exir._serialize._program import _get_extended_header
from executorch.exir.schema import DataLocation, Program

from sharp_mobile.errors import SharpError

_NON_FINITE = re.compile(r'(": -?)inf\b')  # as flatc writes infinity, which is no JSON


def stored_places(path: Path) -> dict[str, tuple[int, int]]:
    """Begin and end in the file of each tensor that a delegate asks for, by its key.

    Raises:
        SharpError: as `inspect_pte`.
    """
    with mapped(path) as data:
        program, base = parse(path, data)
        return places_of(program, segments_of(path, program, base, data))


def check_file(path: Path) -> None:
    if not path.is_file():  # a FIFO would block, and a device would never end
        raise SharpError(f"{path}: cannot be read: {'is not a file' if path.exists() else 'no such file'}")


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    check_file(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, _read(path):
            yield data
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # an empty file
        raise SharpError(f"{path}: cannot be read: {error}; export it again") from error


@contextmanager
def _read(path: Path) -> Iterator[None]:
    try:
        yield
    except (SharpError, OSError, MemoryError):
        raise
    except Exception as error:  # flatbuffers and flatc raise whatever wrong offsets lead to
        raise SharpError(f"{path}: is damaged ({type(error).__name__} in its program); export it again") from error


def parse(path: Path, data: mmap.mmap) -> tuple[Program, int]:
    """The program's flatbuffer, and where the segments begin."""
    header = _get_extended_header(data[:1024])
    if data[4:8] != b"ET12" or header is None or not header.is_valid() or header.program_size > len(data):
        raise SharpError(f"{path}: is not an ExecuTorch program, or is cut short; export it again")
    return _flatbuffer_to_program(data[: header.program_size]), header.segment_base_offset


def segments_of(path: Path, program: Program, base: int, data: mmap.mmap) -> list[tuple[int, int]]:
    """Begin and end of each segment in the file."""
    segments = [(base + s.offset, base + s.offset + s.size) for s in program.segments]
    if any(end > len(data) for _, end in segments):
        raise SharpError(
            f"{path}: is cut short: has {len(data):,} bytes, needs {max(end for _, end in segments):,}; export it again"
        )
    return segments


def places_of(program: Program, segments: list[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {entry.key: segments[entry.segment_index] for entry in program.named_data or []}


def delegate_graphs(
    path: Path, program: Program, data: mmap.mmap, segments: list[tuple[int, int]]
) -> list[dict[str, Any]]:
    """The XNNPACK graphs of all delegates, as the JSON of their flatbuffers."""
    graphs = []
    with tempfile.TemporaryDirectory() as directory:
        schema, binary = Path(directory, "schema.fbs"), Path(directory, "graph.bin")
        schema.write_bytes(_get_schema_bytes())
        for plan in program.execution_plan:
            for delegate in plan.delegates:
                if delegate.id != "XnnpackBackend":
                    raise SharpError(f"{path}: has a delegate of {delegate.id[:100]!r}; inspect reads XNNPACK's only")
                if delegate.processed.location is not DataLocation.SEGMENT:
                    raise SharpError(
                        f"{path}: has delegates stored inline; inspect reads delegate segments: export with them"
                    )
                start, end = segments[delegate.processed.index]
                blob = data[start:end]
                header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
                binary.write_bytes(blob[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
                _flatc_decompile(directory, str(schema), str(binary), ["--raw-binary"])
                text = Path(directory, "graph.json").read_text()
                graphs.append(json.loads(_NON_FINITE.sub(r"\1Infinity", text)))  # a clamp without a limit
    return graphs
