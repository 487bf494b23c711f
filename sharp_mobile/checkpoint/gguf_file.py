"""Read a GGUF file: its header, and a tensor as it lies there. (`gguf_fields` makes a configuration of the header, and
`gguf_weights` weights of the tensors.)

    "GGUF" version counts | metadata: key, type, value | tensors: name, shape, type, offset | padding | data
"""

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import COPY_AGAIN
from sharp_mobile.files.paths import cut_short, reading

ROPE_FACTORS = "rope_freqs.weight"

# GGUF's architectures, each with the family it is; Mistral's is "llama" there.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor lies: shape as in PyTorch, `start` in bytes from the beginning of the file."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int
    nbytes: int


@dataclass(frozen=True)
class SkippedArray:
    """An array of the metadata whose elements are not read: strings (a vocabulary), or many numbers."""

    length: int


GGUFNumber = bool | int | float
GGUFValue = str | GGUFNumber | list[GGUFNumber] | SkippedArray


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says before its data."""

    path: Path
    metadata: dict[str, GGUFValue]
    tensors: dict[str, GGUFTensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    def get(self, key: str, default: GGUFNumber | str | None = None) -> GGUFValue | None:
        """A value of the architecture's own metadata, such as `block_count`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def gguf_header(path: Path) -> GGUFHeader:
    """Read the header, and check that the file holds every tensor whole.

    Raises:
        SharpError: it is no GGUF file, is cut short, or its header is broken.
    """
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) != b"GGUF":
            raise SharpError(f"{path}: is not a GGUF file (it does not begin with 'GGUF'); {COPY_AGAIN}")
        try:
            reader = _Reader(file, size)
            version, tensor_count, value_count = reader.take("IQQ")
            if version not in (2, 3):
                raise SharpError(f"{path}: GGUF version {_version(version)} is not supported; versions 2 and 3 are")
            metadata = _metadata(reader, value_count)
            table = _table(reader, tensor_count)
            alignment = _alignment(metadata)
            data = -(-file.tell() // alignment) * alignment
            tensors = _placed(table, data, alignment)
        except EOFError as error:
            raise SharpError(f"{path}: cut short in its header, at {size:,} bytes; {COPY_AGAIN}") from error
        except (ValueError, struct.error) as error:
            raise SharpError(f"{path}: its header is broken ({error}); {COPY_AGAIN}") from error
    needed = max((tensor.start + tensor.nbytes for tensor in tensors.values()), default=0)
    if size < needed:
        raise cut_short(path, size, needed)
    return GGUFHeader(path, metadata, tensors)


def shown(value: GGUFValue | None) -> str:
    """A value of the metadata for a message, on one line and not long."""
    if isinstance(value, SkippedArray):
        return f"an array of {value.length:,}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _version(number: int) -> str:
    swapped = int.from_bytes(number.to_bytes(4, "little"), "big")
    return f"{swapped} in big-endian order" if swapped in (2, 3) else str(number)


# Limits far beyond what any model has; a damaged count is refused before a loop runs over it.
_MOST_VALUES = 1 << 16
_MOST_TENSORS = 1 << 18
_MOST_STRINGS = 1 << 24  # of an array: tokens, merges
_MOST_NUMBERS = 4096  # of an array that is read: one a layer
_LONGEST_NAME = 1024  # bytes
_LARGEST_ALIGNMENT = 1 << 24
_MOST_DIMENSIONS = 4  # ggml's own limit


def _metadata(reader: "_Reader", count: int) -> dict[str, GGUFValue]:
    if count > _MOST_VALUES:
        raise ValueError(f"{count:,} metadata values")
    metadata: dict[str, GGUFValue] = {}
    for _ in range(count):
        key, value = reader.pair()
        if key in metadata:
            raise ValueError(f"key {key} occurs twice")
        metadata[key] = value
    return metadata


class _Entry(NamedTuple):
    """A tensor as the header's table has it; `offset` in bytes from the beginning of the data."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int


def _table(reader: "_Reader", count: int) -> list[_Entry]:
    if count > _MOST_TENSORS:
        raise ValueError(f"{count:,} tensors")
    return [reader.tensor() for _ in range(count)]


def _alignment(metadata: Mapping[str, GGUFValue]) -> int:
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or not 0 < value <= _LARGEST_ALIGNMENT or value & (value - 1):
        raise ValueError(f"general.alignment is {shown(value)}, not a power of two")
    return value


def _placed(table: list[_Entry], data: int, alignment: int) -> dict[str, GGUFTensor]:
    """The tensors by name, none of which may overlap another; ValueError if they do."""
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, kind, offset in table:
        if name in tensors:
            raise ValueError(f"tensor {name} occurs twice")
        if offset % alignment:
            raise ValueError(f"tensor {name} begins at {offset:,}, not at a multiple of {alignment:,}")
        tensors[name] = GGUFTensor(shape, kind, data + offset, _nbytes(name, shape, kind))
    ordered = sorted(tensors.items(), key=lambda item: item[1].start)
    for (first, before), (second, after) in pairwise(ordered):
        if before.start + before.nbytes > after.start:
            raise ValueError(f"tensors {first} and {second} overlap")
    return tensors


def _nbytes(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    elements = math.prod(shape)
    if not shape or not 0 < elements < 2**63:
        raise ValueError(f"tensor {name} has shape {list(shape)}")
    if shape[-1] % block:
        raise ValueError(f"tensor {name} has rows of {shape[-1]:,}, which {kind.name} stores in blocks of {block}")
    return elements // block * block_bytes


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class _Reader:
    """Takes the little-endian values of a header one after another; EOFError where the file ends."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size

    def read(self, count: int) -> bytes:
        if self.file.tell() + count > self.size:  # also keeps a nonsensical count out of memory
            raise EOFError
        return self.file.read(count)

    def take(self, layout: str) -> tuple[int, ...]:
        """Whole numbers of these types, as `struct` names them."""
        return struct.unpack(f"<{layout}", self.read(struct.calcsize(f"<{layout}")))

    def numbers(self, layout: str) -> tuple[GGUFNumber, ...]:
        """Numbers of these types, as `struct` names them."""
        return struct.unpack(f"<{layout}", self.read(struct.calcsize(f"<{layout}")))

    def skip(self, count: int) -> None:
        if self.file.tell() + count > self.size:
            raise EOFError
        self.file.seek(count, os.SEEK_CUR)

    def text(self) -> str:
        (length,) = self.take("Q")
        return self.read(length).decode("utf-8")

    def name(self) -> str:
        """A key, or a tensor's name."""
        (length,) = self.take("Q")
        if length > _LONGEST_NAME:
            raise ValueError(f"a name of {length:,} bytes")
        name = self.read(length).decode("utf-8")
        if not name.isprintable():
            raise ValueError(f"the name {name[:40]!r}")
        return name

    def pair(self) -> tuple[str, GGUFValue]:
        name = self.name()
        (kind,) = self.take("I")
        return name, self.value(name, kind)

    def value(self, name: str, kind: int) -> GGUFValue:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(name)
        if kind not in _SCALARS:
            raise ValueError(f"{name} is of the unknown type {kind}")
        return self.numbers(_SCALARS[kind])[0]

    def array(self, name: str) -> list[GGUFNumber] | SkippedArray:
        element, count = self.take("IQ")
        if element == _STRING:
            if count > _MOST_STRINGS:
                raise ValueError(f"{name} is an array of {count:,} strings")
            for _ in range(count):  # the tokenizer's reader takes a vocabulary
                (length,) = self.take("Q")
                self.skip(length)
            return SkippedArray(count)
        if element not in _SCALARS:
            raise ValueError(
                f"{name} is an array of {'arrays' if element == _ARRAY else f'the unknown type {element}'}"
            )
        if count > _MOST_NUMBERS:
            self.skip(count * struct.calcsize(f"<{_SCALARS[element]}"))
            return SkippedArray(count)
        return list(self.numbers(f"{count}{_SCALARS[element]}"))

    def tensor(self) -> _Entry:
        name = self.name()
        (rank,) = self.take("I")
        if rank > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {name} has {rank:,} dimensions, ggml has at most {_MOST_DIMENSIONS}")
        shape = self.take(f"{rank}Q")[::-1]  # ggml counts dimensions from the innermost
        kind, offset = self.take("IQ")
        try:
            return _Entry(name, shape, GGMLQuantizationType(kind), offset)
        except ValueError as error:
            raise ValueError(f"tensor {name} is of the unknown type {kind}") from error


def dequantized(header: GGUFHeader, name: str) -> NDArray[np.float32]:
    """A tensor of the file as float32, in its own layout.

    Raises:
        SharpError: its type cannot be dequantized, or the file cannot be read.
    """
    path, stored = header.path, header.tensors[name]
    try:
        raw = np.memmap(path, mode="r", offset=stored.start, shape=(stored.nbytes,))
    except (OSError, ValueError) as error:
        raise SharpError(f"{path}: tensor {name} cannot be read: {error}") from error
    element = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(stored.kind, np.uint8)
    rows = raw.view(element).reshape(*stored.shape[:-1], -1)
    try:
        return np.array(dequantize(rows, stored.kind), dtype=np.float32)
    except NotImplementedError as error:
        raise SharpError(
            f"{path}: tensor {name} is of type {stored.kind.name}, which cannot be read; use a Q8_0 or F16 file"
        ) from error
