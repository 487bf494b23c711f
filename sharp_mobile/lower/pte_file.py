"""Write a `.pte` in which a constant that is also a delegate's weight is stored once: a tied embedding and LM head.

    file       program │ constants │ delegates │ LM head's codes │ other weights …
    segments             └ constants, as the program declares it ┘
                                               └ LM head's weight ┘ └ …

The lookup reads its table from the segment of all constants, by an offset; XNNPACK asks for the LM head's codes by
name, and they are a segment of their own. Nothing says that segments must not overlap. So the codes come first among
the named weights, the constants' segment is declared to reach to their end, and the table's offset is theirs. Every
runtime that maps the file reads both from the same pages.
"""

from dataclasses import replace
from io import BufferedRandom
from pathlib import Path
from typing import NamedTuple

from executorch.exir import ExecutorchProgramManager
from executorch.exir._serialize._named_data_store import NamedDataStoreOutput
from executorch.exir._serialize._program import PTEFile, serialize_pte_binary
from executorch.exir.schema import Buffer
from flatbuffers.table import Table
from tqdm import tqdm

from sharp_mobile.console import shows_bars
from sharp_mobile.pte.flatc import PROGRAM, as_json
from sharp_mobile.pte.read import program_size

_HEAD = 64  # bytes that hold the program's header
_UINT64 = 8
# Places of fields in the tables of ExecuTorch's program.fbs: of Program, of DataSegment, of SubsegmentOffsets.
_SEGMENTS, _CONSTANT_SEGMENT = 12, 14
_SIZE = 6
_OFFSETS = 6


class _Tied(NamedTuple):
    """A constant, by its index, and the key of the named weight that has the same bytes."""

    constant: int
    key: str


def write_pte_file(manager: ExecutorchProgramManager, path: Path) -> None:
    """Write a program; the largest constant that is a named weight too takes no further bytes.

    Args:
        manager: from `assemble`.
    """
    emitted, named = manager._emitter_output, manager._named_data
    tied = None if named is None else _find(emitted.program.constant_buffer, named)
    constants = list(emitted.program.constant_buffer)
    if named is not None and tied is not None:
        constants[tied.constant] = Buffer(storage=b"")
        named = replace(named, pte_data={tied.key: named.pte_data[tied.key], **named.pte_data})
    content = serialize_pte_binary(
        PTEFile(
            program=replace(emitted.program, constant_buffer=constants),
            mutable_data=emitted.mutable_data,
            named_data=named,
        ),
        extract_delegate_segments=True,
    )
    with path.open("w+b") as file:
        # Tensor by tensor from where each lies: nothing is put together in memory.
        with tqdm.wrapattr(file, "write", len(content), desc="write", disable=not shows_bars()) as output:
            content.write_to_file(output)
        if tied is not None:
            _overlap(file, tied)


def _find(constants: list[Buffer], named: NamedDataStoreOutput) -> _Tied | None:
    """The largest constant whose bytes are those of a named weight, if there is one."""
    sizes: dict[int, list[str]] = {}
    for key, entry in named.pte_data.items():
        sizes.setdefault(len(named.buffers[entry.buffer_index]), []).append(key)
    for index, constant in sorted(enumerate(constants), key=lambda numbered: -len(numbered[1].storage)):
        for key in sizes.get(len(constant.storage), []):
            if constant.storage and named.buffers[named.pte_data[key].buffer_index] == constant.storage:
                return _Tied(index, key)
    return None


def _overlap(file: BufferedRandom, tied: _Tied) -> None:
    """Let the constants' segment reach to the end of the tied weight, and the constant begin where that begins."""
    file.seek(0)
    size, _ = program_size(file.read(_HEAD))
    file.seek(0)
    content = bytearray(file.read(size))
    (program,) = as_json(PROGRAM, [content])
    named = {entry["key"]: entry["segment_index"] for entry in program["named_data"]}
    weight = program["segments"][named[tied.key]]
    first = program["constant_segment"]["segment_index"]
    begin = program["segments"][first]["offset"]

    def write(position: int, value: int) -> None:
        content[position : position + _UINT64] = value.to_bytes(_UINT64, "little")

    root = Table(content, int.from_bytes(content[:4], "little"))
    segment = Table(content, root.Indirect(root.Vector(root.Offset(_SEGMENTS)) + 4 * first))
    constants = Table(content, root.Indirect(root.Pos + root.Offset(_CONSTANT_SEGMENT)))
    write(segment.Pos + segment.Offset(_SIZE), weight["offset"] + weight["size"] - begin)
    write(constants.Vector(constants.Offset(_OFFSETS)) + _UINT64 * tied.constant, weight["offset"] - begin)
    file.seek(0)
    file.write(content)
