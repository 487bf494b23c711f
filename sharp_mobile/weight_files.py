"""What a Hugging Face directory's weight files say about themselves, read without reading a weight.

A safetensors file is a header (a table of tensors: name, shape, type, place) and then the data:

    [8 bytes: n] [n bytes of JSON] [data]

So a file that is cut short, misses a tensor or belongs to another model is known for what it is before gigabytes are
read. A pickle, where it is allowed, is loaded to the meta device for the same answer. (`gguf_file` does this for GGUF.)
"""

import json
import math
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from sharp_mobile.errors import SharpError
from sharp_mobile.json_file import COPY_AGAIN, read_json
from sharp_mobile.paths import inside

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"


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
        raise SharpError(f"{index}: weight_map is missing or empty; {COPY_AGAIN}")
    names = sorted({str(name) for name in weight_map.values()})
    shards = [inside(index.parent, name, index, links_out=True) for name in names]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise SharpError(f"{index}: names {missing[0]}, which is not there ({len(missing)} missing); download it")
    return shards


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
            raise SharpError(f"{path}: is not a safetensors file (a git-lfs pointer?); {COPY_AGAIN}")
        if size < 8 + length:
            raise cut_short(path, size, 8 + length)
        text = file.read(length)
    try:
        table = json.loads(text)
        table.pop("__metadata__", None)
        tensors = {name: StoredTensor(path, tuple(t["shape"]), t["dtype"]) for name, t in table.items()}
        spans = {name: tuple(t["data_offsets"]) for name, t in table.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise SharpError(f"{path}: its header is not that of a safetensors file; {COPY_AGAIN}") from error
    for name, (start, end) in spans.items():
        shape, dtype = tensors[name].shape, tensors[name].dtype
        if (end - start) * 8 != math.prod(shape) * _SAFETENSORS_BITS.get(dtype, 0):
            raise SharpError(
                f"{path}: tensor {name} has {end - start} bytes, which {dtype} {list(shape)} does not fill; "
                f"{COPY_AGAIN}"
            )
    needed = 8 + length + max((end for _, end in spans.values()), default=0)
    if size != needed:
        raise cut_short(path, size, needed)
    return tensors


def cut_short(path: Path, size: int, needed: int) -> SharpError:
    """The error for a file of `size` bytes whose header says `needed`."""
    what = "cut short" if size < needed else "longer than its header says"
    return SharpError(f"{path}: {what}: has {size:,} bytes, needs {needed:,}; {COPY_AGAIN}")


def _pickle_header(path: Path) -> dict[str, StoredTensor]:
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    try:
        state = torch.load(path, map_location="meta", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise SharpError(f"{path}: is broken, or no plain state dict of tensors; {COPY_AGAIN}") from error
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
            raise SharpError(f"{directory}: tensor {name} is missing; {COPY_AGAIN}, or correct its config.json")
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
    owners = {_owner(name) for name in expected}
    for name in extra:
        if _owner(name) in owners:
            raise SharpError(
                f"{found[name].file}: tensor {name} has no place in the model that config.json describes, which would "
                "leave it out; use the config.json that belongs to these weights"
            )
    return [f"tensors that the model does not use were left out: {len(extra)}, such as {extra[0]}"] if extra else []


def _owner(name: str) -> str:
    """The decoder layer that a tensor belongs to, or the module where it belongs to none."""
    layer = re.match(r"model\.layers\.\d+\.", name)
    return layer[0] if layer else name.rpartition(".")[0]


def mapped_tensors(files: list[Path]) -> dict[str, torch.Tensor]:
    """The tensors of checked files by name, of their own types, mapped: a page is read when it is touched."""
    found: dict[str, torch.Tensor] = {}
    for file in files:
        pickled = file.suffix == ".bin"
        found |= torch.load(file, map_location="cpu", mmap=True, weights_only=True) if pickled else load_file(file)
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}


def sampled_bytes(path: Path, *, samples: int = 64, length: int = 4096) -> Iterator[bytes]:
    """A file's size, its beginning and evenly spread pieces of it: enough to tell checkpoints apart, cheaply."""
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        for i in range(samples):
            file.seek(i * max(size - length, 0) // max(samples - 1, 1))
            yield file.read(length)
