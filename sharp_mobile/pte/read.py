"""Read the structure of a `.pte`: its program, where its segments lie, and the XNNPACK graphs of its delegates.

    file      program (a flatbuffer) │ segments
    program   root offset │ "ET12" │ extended header │ tables
    segment   of a delegate: XNNPACK's header │ graph (a flatbuffer) │ constants, if they have no names

Programs and graphs are JSON here, as ExecuTorch's program.fbs and XNNPACK's schema.fbs name their fields.
"""

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.pte.flatc import PROGRAM, XNNPACK_GRAPH, Table, as_json

Program = Table

# Magic, length, bytes of the program, offset of the first segment; after the root's offset and the file's magic. More
# may follow (executorch/schema/extended_header.h).
_EXTENDED_HEADER, _EXTENDED_HEADER_AT = struct.Struct("<4sIQQ"), 8
_EXTENDED_HEADER_MAGIC, _PROGRAM_MAGIC = b"eh00", b"ET12"
# Magic, length, offset and size of the graph, offset and size of the constants (backends/xnnpack/runtime/XNNHeader.h).
_XNNPACK_HEADER, _XNNPACK_MAGIC = struct.Struct("<4x4sHIIIQ"), b"XH00"


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
    except Exception as error:  # wrong offsets lead flatc and what reads its answer anywhere
        raise SharpError(f"{path}: is damaged ({type(error).__name__} in its program); export it again") from error


def parse(path: Path, data: mmap.mmap) -> tuple[Program, int]:
    """The program, and where the segments begin."""
    size, base = program_size(data)
    if not 0 < size <= len(data):
        raise SharpError(f"{path}: is not an ExecuTorch program, or is cut short; export it again")
    return as_json(PROGRAM, [data[:size]])[0], base


def program_size(data: bytes | mmap.mmap) -> tuple[int, int]:
    """Bytes of the program at the beginning of a file, and where the segments begin; 0 if there is none.

    Args:
        data: the file, or its first 64 bytes.
    """
    end = _EXTENDED_HEADER_AT + _EXTENDED_HEADER.size
    if len(data) < end or data[4:8] != _PROGRAM_MAGIC:
        return 0, 0
    magic, length, size, base = _EXTENDED_HEADER.unpack(data[_EXTENDED_HEADER_AT:end])
    sound = magic == _EXTENDED_HEADER_MAGIC and length >= _EXTENDED_HEADER.size
    return (size, base) if sound else (0, 0)


def segments_of(path: Path, program: Program, base: int, data: mmap.mmap) -> list[tuple[int, int]]:
    """Begin and end of each segment in the file."""
    segments = [(base + s["offset"], base + s["offset"] + s["size"]) for s in program.get("segments", [])]
    if any(end > len(data) for _, end in segments):
        raise SharpError(
            f"{path}: is cut short: has {len(data):,} bytes, needs {max(end for _, end in segments):,}; export it again"
        )
    return segments


def places_of(program: Program, segments: list[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {entry["key"]: segments[entry["segment_index"]] for entry in program.get("named_data", [])}


def delegate_graphs(path: Path, program: Program, data: mmap.mmap, segments: list[tuple[int, int]]) -> list[Table]:
    """The XNNPACK graphs of all delegates."""
    graphs = []
    for plan in program["execution_plan"]:
        for delegate in plan.get("delegates", []):
            if delegate["id"] != "XnnpackBackend":
                raise SharpError(f"{path}: has a delegate of {delegate['id'][:100]!r}; inspect reads XNNPACK's only")
            processed = delegate["processed"]
            if processed["location"] != "SEGMENT":
                raise SharpError(
                    f"{path}: has delegates stored inline; inspect reads delegate segments: export with them"
                )
            start, end = segments[processed["index"]]
            graphs.append(_graph(data[start:end]))
    return as_json(XNNPACK_GRAPH, graphs)


def _graph(delegate: bytes) -> bytes:
    """The flatbuffer of a delegate; ValueError if its header is not one."""
    magic, length, offset, size, _, _ = _XNNPACK_HEADER.unpack_from(delegate)
    if magic != _XNNPACK_MAGIC or length != _XNNPACK_HEADER.size:
        raise ValueError("no XNNPACK header")
    return delegate[offset : offset + size]
