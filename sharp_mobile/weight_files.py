"""What weight files say about themselves, read without reading a weight.

Both formats are a header (a table of tensors: name, shape, type, place) and then the data. So a file that is cut
short, misses a tensor or belongs to another model is known for what it is before gigabytes are read:

    safetensors   [8 bytes: n] [n bytes of JSON] [data]            pickles   torch.load to the meta device
    GGUF          "GGUF" version counts, metadata, tensor table, padding, [data]
"""

import json
import math
import os
import pickle
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from sharp_mobile.errors import SharpError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"

_COPY_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file's header describes it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # safetensors' name for it: F32, BF16, ...


_SAFETENSORS_BITS = {
    **{"F64": 64, "F32": 32, "F16": 16, "BF16": 16},
    **{"I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4},
}
_LONGEST_HEADER = 100_000_000  # safetensors' own limit
_FLOATS = ("F64", "F32", "F16", "BF16")


def weight_files(directory: Path, *, allow_pickle: bool = False) -> list[Path]:
    """The weight files of a Hugging Face directory: one file, or the shards that its index names.

    Raises:
        SharpError: there are none, an index is broken or names a shard that is not there, or only pickles are there
            and `allow_pickle` was not given.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        return _shards(directory / INDEX)
    pickles = sorted(directory.glob("pytorch_model*.bin"))
    if not pickles:
        raise SharpError(f"{directory}: holds no weights; {WEIGHTS}, or {INDEX} with its shards, must be there")
    if not allow_pickle:
        raise SharpError(
            f"{pickles[0]}: a pickle can run any program when it is opened; convert the checkpoint to safetensors, "
            "or allow pickles if you trust its source"
        )
    return [directory / PICKLE] if (directory / PICKLE).is_file() else _shards(directory / PICKLE_INDEX)


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SharpError(f"{index}: weight_map is missing or empty; {_COPY_AGAIN}")
    shards = [index.parent / name for name in sorted({str(name) for name in weight_map.values()})]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise SharpError(f"{index}: names {missing[0]}, which is not there ({len(missing)} missing); download it")
    return shards


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        SharpError: it cannot be read, is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, or no JSON
        raise SharpError(f"{path}: is not valid JSON ({error}); {_COPY_AGAIN}") from error
    if not isinstance(content, dict):
        raise SharpError(f"{path}: must hold a JSON object, holds a {type(content).__name__}; {_COPY_AGAIN}")
    return content


def stored_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """The tensors of safetensors files (or pickles, by their name) from their headers alone.

    Raises:
        SharpError: a file is cut short or broken.
    """
    found: dict[str, StoredTensor] = {}
    for file in files:
        found |= _pickle_header(file) if file.suffix == ".bin" else safetensors_header(file)
    return found


def safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file.

    Raises:
        SharpError: the header is broken, a tensor's bytes do not fit its shape, or the file has another length than
            its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:  # text, most likely: the pointer that git leaves where git-lfs is not installed
            raise SharpError(f"{path}: is not a safetensors file (a git-lfs pointer?); {_COPY_AGAIN}")
        if size < 8 + length:
            raise _cut_short(path, size, 8 + length)
        text = file.read(length)
    try:
        table = json.loads(text)
        table.pop("__metadata__", None)
        tensors = {name: StoredTensor(path, tuple(t["shape"]), t["dtype"]) for name, t in table.items()}
        spans = {name: tuple(t["data_offsets"]) for name, t in table.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise SharpError(f"{path}: its header is not that of a safetensors file; {_COPY_AGAIN}") from error
    for name, (start, end) in spans.items():
        shape, dtype = tensors[name].shape, tensors[name].dtype
        if (end - start) * 8 != math.prod(shape) * _SAFETENSORS_BITS.get(dtype, 0):
            raise SharpError(
                f"{path}: tensor {name} has {end - start} bytes, which {dtype} {list(shape)} does not fill; "
                f"{_COPY_AGAIN}"
            )
    needed = 8 + length + max((end for _, end in spans.values()), default=0)
    if size != needed:
        raise _cut_short(path, size, needed)
    return tensors


def _cut_short(path: Path, size: int, needed: int) -> SharpError:
    what = "cut short" if size < needed else "longer than its header says"
    return SharpError(f"{path}: {what}: has {size:,} bytes, needs {needed:,}; {_COPY_AGAIN}")


def _pickle_header(path: Path) -> dict[str, StoredTensor]:
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    try:
        state = torch.load(path, map_location="meta", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise SharpError(f"{path}: is broken, or no plain state dict of tensors; {_COPY_AGAIN}") from error
    return {
        name: StoredTensor(path, tuple(tensor.shape), names.get(tensor.dtype, str(tensor.dtype)))
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }


def check_tensors(
    found: Mapping[str, StoredTensor], expected: Mapping[str, torch.Tensor], tied: Mapping[str, str], directory: Path
) -> list[str]:
    """Compare what the files hold with what the model of config.json needs.

    Args:
        found: from `stored_tensors`.
        expected: the state dict of that model, on the meta device.
        tied: names that may be missing, each with the tensor that takes its place.
        directory: for messages.

    Returns:
        Warnings: tensors that the model has no place for and that are not part of its layers.

    Raises:
        SharpError: a tensor is missing, has another shape than config.json says, is not of a floating-point type, or
            belongs to a layer that has no place for it, so that leaving it out would change the model.
    """
    for name, tensor in expected.items():
        if name not in found:
            if name in tied and tied[name] in found:
                continue
            raise SharpError(f"{directory}: tensor {name} is missing; {_COPY_AGAIN}, or correct its config.json")
        stored = found[name]
        if stored.shape != tuple(tensor.shape):
            raise SharpError(
                f"{stored.file}: tensor {name} has shape {list(stored.shape)}, config.json says {list(tensor.shape)}; "
                "use the config.json that belongs to these weights"
            )
        if stored.dtype not in _FLOATS:
            raise SharpError(
                f"{stored.file}: tensor {name} is of type {stored.dtype}, so the checkpoint is quantized already; "
                "use the original in F32, F16 or BF16"
            )
    extra = [name for name in found if name not in expected and not name.endswith("rotary_emb.inv_freq")]
    modules = {name.rsplit(".", 1)[0] for name in expected}
    for name in extra:
        if any(name.startswith(f"{module}.") for module in modules):
            raise SharpError(
                f"{found[name].file}: tensor {name} has no place in the model that config.json describes, which would "
                "leave it out; use the config.json that belongs to these weights"
            )
    return [f"{len(extra)} tensors that the model does not use were left out, such as {extra[0]}"] if extra else []


@dataclass(frozen=True)
class GGUFHeader:
    """The metadata of a GGUF file; an array among it is given as its length."""

    architecture: str
    metadata: dict[str, Any]
    tensors: tuple[str, ...]


_GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


def gguf_header(path: Path) -> GGUFHeader:
    """The metadata and tensor names of a GGUF file, after checking that the file holds every tensor whole.

    Raises:
        SharpError: it is no GGUF file, or is cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SharpError(f"{path}: is not a GGUF file (it does not begin with 'GGUF'); {_COPY_AGAIN}")
        try:
            reader = _GGUFReader(file, size)
            version, tensor_count, value_count = reader.take("IQQ")
            if version not in (2, 3):
                raise SharpError(f"{path}: GGUF version {version} is not supported; convert it to version 3")
            metadata = dict(reader.pair() for _ in range(value_count))
            table = [reader.tensor() for _ in range(tensor_count)]
        except EOFError as error:
            raise SharpError(f"{path}: cut short: has {size:,} bytes, its header is longer; {_COPY_AGAIN}") from error
        except (ValueError, KeyError) as error:
            raise SharpError(f"{path}: its header is broken ({error}); {_COPY_AGAIN}") from error
        start = file.tell()
    alignment = metadata.get("general.alignment", 32)
    data = -(-start // alignment) * alignment
    needed = data + max((offset + nbytes for _, offset, nbytes in table), default=0)
    if size < needed:
        raise _cut_short(path, size, needed)
    return GGUFHeader(str(metadata.get("general.architecture")), metadata, tuple(name for name, _, _ in table))


class _GGUFReader:
    """Reads the little-endian values of a GGUF header one after another; EOFError where the file ends."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size

    def take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self.bytes(struct.calcsize(f"<{layout}")))

    def bytes(self, count: int) -> bytes:
        if self.file.tell() + count > self.size:  # also guards against reading a nonsensical count into memory
            raise EOFError
        return self.file.read(count)

    def text(self) -> str:
        (length,) = self.take("Q")
        return self.bytes(length).decode("utf-8")

    def pair(self) -> tuple[str, Any]:
        name = self.text()
        (kind,) = self.take("I")
        return name, self.value(kind)

    def value(self, kind: int) -> Any:
        if kind == _GGUF_STRING:
            return self.text()
        if kind != _GGUF_ARRAY:
            return self.take(_GGUF_SCALARS[kind])[0]
        element, count = self.take("IQ")
        if element == _GGUF_STRING:
            for _ in range(count):
                (length,) = self.take("Q")
                self.skip(length)
        else:
            self.skip(count * struct.calcsize(f"<{_GGUF_SCALARS[element]}"))
        return count

    def skip(self, count: int) -> None:
        if self.file.tell() + count > self.size:
            raise EOFError
        self.file.seek(count, os.SEEK_CUR)

    def tensor(self) -> tuple[str, int, int]:
        """A tensor's name, offset in the data, and bytes."""
        name = self.text()
        (rank,) = self.take("I")
        shape = self.take(f"{rank}Q")
        kind, offset = self.take("IQ")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        return name, offset, math.prod(shape) // block * block_bytes


def sampled_bytes(path: Path, *, samples: int = 64, length: int = 4096) -> Iterator[bytes]:
    """A file's size, its beginning and evenly spread pieces of it: enough to tell checkpoints apart, cheaply."""
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        for i in range(samples):
            file.seek(i * max(size - length, 0) // max(samples - 1, 1))
            yield file.read(length)
