"""What a Hugging Face directory's weight files say about themselves, read without reading a weight.

A safetensors file is a header (a table of tensors: name, shape, type, place) and then the data:

    [8 bytes: n] [n bytes of JSON] [data]

So a file that is cut short, misses a tensor or belongs to another model is known for what it is before gigabytes are
read. A pickle, where it is allowed, is loaded to the meta device for the same answer. (`gguf_file` does this for GGUF.)
"""

import json
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors.torch import load_file

from sharp_mobile.checkpoint.other_formats import other_format
from sharp_mobile.errors import SharpError, one_line
from sharp_mobile.files.json_file import COPY_AGAIN, read_json
from sharp_mobile.files.paths import cut_short, inside, is_regular_file, reading

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
_LONGEST_HEADER = 100_000_000  # bytes: safetensors' own limit
_LONGEST_NAME = 1024  # characters
_LONGEST_FILE_NAME = 255
_FLOATS = ("F64", "F32", "F16", "BF16")


def weight_files(directory: Path, *, allow_pickle: bool = False) -> list[Path]:
    """The weight files of a Hugging Face directory: one file, or the shards that its index names.

    Raises:
        SharpError: there are none, an index is broken or names a shard that is not there, or only pickles are there
            and `allow_pickle` was not given.
    """
    if is_regular_file(directory / WEIGHTS):
        return [directory / WEIGHTS]
    if is_regular_file(directory / INDEX):
        return _shards(directory / INDEX)
    pickles = sorted(directory.glob("pytorch_model*.bin"))
    if not pickles:
        nothing = f"holds no weights; {WEIGHTS}, or {INDEX} with its shards, must be there"
        raise SharpError(f"{directory}: {other_format(directory) or nothing}")
    if not allow_pickle:
        raise SharpError(
            f"{pickles[0]}: a pickle can run any program when it is opened; convert the checkpoint to safetensors, "
            "or allow pickles if you trust its source"
        )
    if is_regular_file(directory / PICKLE):
        return [directory / PICKLE]
    if is_regular_file(directory / PICKLE_INDEX):
        return _shards(directory / PICKLE_INDEX)
    raise SharpError(f"{directory}: holds neither {PICKLE} nor {PICKLE_INDEX}; {COPY_AGAIN}")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SharpError(f"{index}: weight_map is missing or empty; {COPY_AGAIN}")
    if not all(isinstance(name, str) and len(name) <= _LONGEST_FILE_NAME for name in weight_map.values()):
        raise SharpError(f"{index}: weight_map must give a file's name for each tensor; {COPY_AGAIN}")
    names = sorted(set(weight_map.values()))
    shards = [inside(index.parent, name, index, links_out=True) for name in names]
    suffix = ".bin" if index.name == PICKLE_INDEX else ".safetensors"
    other = [name for name in names if not name.endswith(suffix)]
    if other:  # a pickle among safetensors files would be opened unasked
        raise SharpError(f"{index}: names {other[0]}, which is not a {suffix} file; {COPY_AGAIN}")
    missing = [shard.name for shard in shards if not is_regular_file(shard)]
    if missing:
        raise SharpError(f"{index}: names {missing[0]}, which is not there ({len(missing)} missing); download it")
    return shards


def stored_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """The tensors of safetensors files (or pickles, by their name) from their headers alone.

    Raises:
        SharpError: a file is cut short or broken, or two files hold the same tensor.
    """
    found: dict[str, StoredTensor] = {}
    for file in files:
        tensors = _pickle_header(file) if file.suffix == ".bin" else safetensors_header(file)
        twice = next((name for name in tensors if name in found), None)
        if twice is not None:
            raise SharpError(f"{file}: tensor {twice} is also in {found[twice].file.name}; {COPY_AGAIN}")
        found |= tensors
    return found


def safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file.

    Raises:
        SharpError: the header is broken, a tensor's bytes do not fit its shape, or the file has another length than
            its header says.
    """
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:  # text, most likely: the pointer that git leaves where git-lfs is not installed
            raise SharpError(f"{path}: is not a safetensors file (a git-lfs pointer?); {COPY_AGAIN}")
        if size < 8 + length:
            raise cut_short(path, size, 8 + length)
        text = file.read(length)
    try:
        table = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise SharpError(f"{path}: its header is not that of a safetensors file; {COPY_AGAIN}") from error
    if not isinstance(table, dict):
        raise SharpError(f"{path}: its header is not that of a safetensors file; {COPY_AGAIN}")
    table.pop("__metadata__", None)
    spans = {name: _span(path, name, fields) for name, fields in table.items()}
    end = _end_of_contiguous(path, spans)
    if size != 8 + length + end:
        raise cut_short(path, size, 8 + length + end)
    return {name: StoredTensor(path, tuple(fields["shape"]), fields["dtype"]) for name, fields in table.items()}


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object whose names differ; `json` itself keeps the last of two without a word."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _span(path: Path, name: str, fields: object) -> tuple[int, int]:
    """Where a tensor's bytes begin and end in the data, its fields having been checked."""
    if not name.isprintable() or len(name) > _LONGEST_NAME or not isinstance(fields, dict):
        raise SharpError(f"{path}: its header is not that of a safetensors file; {COPY_AGAIN}")
    shape, dtype, offsets = (fields.get(key) for key in ("shape", "dtype", "data_offsets"))
    if shape is None or not _counts(shape):
        raise SharpError(f"{path}: tensor {name}: shape is not a list of sizes; {COPY_AGAIN}")
    if not isinstance(dtype, str) or dtype not in _SAFETENSORS_BITS:
        known = dtype if isinstance(dtype, str) and dtype.isidentifier() and len(dtype) < 20 else "unknown"
        raise SharpError(f"{path}: tensor {name}: dtype {known} is not supported; use the original in F32, F16 or BF16")
    if offsets is None or not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise SharpError(f"{path}: tensor {name}: data_offsets is not a beginning and an end; {COPY_AGAIN}")
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * _SAFETENSORS_BITS[dtype]:
        raise SharpError(
            f"{path}: tensor {name} has {end - start} bytes, which {dtype} {shape} does not fill; {COPY_AGAIN}"
        )
    return start, end


def _counts(value: object) -> TypeGuard[list[int]]:
    """Whether a JSON value is a short list of whole numbers of at most 63 bits, none negative (and no booleans)."""
    return isinstance(value, list) and len(value) <= 16 and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _end_of_contiguous(path: Path, spans: Mapping[str, tuple[int, int]]) -> int:
    """The length of the data, in which each tensor must begin where another ends."""
    end = 0
    for name, (start, its_end) in sorted(spans.items(), key=lambda item: item[1]):
        if start != end:
            what = "overlaps another tensor" if start < end else "leaves a gap before it"
            raise SharpError(f"{path}: tensor {name} {what}; {COPY_AGAIN}")
        end = its_end
    return end


def _pickle_header(path: Path) -> dict[str, StoredTensor]:
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    broken = f"{path}: is broken, or no plain state dict of tensors; {COPY_AGAIN}"
    try:
        state = torch.load(path, map_location="meta", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its instructions run into
        raise SharpError(broken) from error
    if not isinstance(state, dict) or not all(isinstance(name, str) and name.isprintable() for name in state):
        raise SharpError(broken)
    return {
        name: StoredTensor(path, tuple(tensor.shape), names.get(tensor.dtype, str(tensor.dtype)))
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }


def check_layers(found: Mapping[str, StoredTensor], layers: int, config: Path) -> None:
    """Compare a configuration's `num_hidden_layers` with the layers that the files' headers name.

    Args:
        found: from `stored_tensors`.
        config: the configuration's file, for the message.

    Raises:
        SharpError: the numbers differ.
    """
    stored = len({match[1] for name in found if (match := _LAYER.match(name)) is not None})
    if stored and stored != layers:
        raise SharpError(
            f"{config}: num_hidden_layers is {layers:,}, the weight files have {stored:,} layers; use the config.json "
            "that belongs to these weights"
        )


_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.")
_BIASES = re.compile(r"(model\.layers\.[0-9]+\.self_attn\.)[qkv]_proj\.bias")


def check_tensors(
    found: Mapping[str, StoredTensor], expected: Mapping[str, torch.Tensor], tied: Mapping[str, str], directory: Path
) -> list[str]:
    """Compare what the files hold with what the model of config.json needs.

    Args:
        found: from `stored_tensors`.
        expected: the state dict of that model, on the meta device.
        tied: pairs of names for one tensor; the files may hold it under either.
        directory: for messages.

    Returns:
        Warnings: tensors that the model has no place for and that are not part of its layers.

    Raises:
        SharpError: a tensor is missing, has another shape than config.json says, is not of a floating-point type, or
            belongs to a layer that has no place for it, so that leaving it out would change the model.
    """
    _check_names(found, expected, directory)
    present = found.keys() | {a for pair in tied.items() if any(b in found for b in pair) for a in pair}
    for name, tensor in expected.items():
        if name not in present:
            raise SharpError(f"{directory}: tensor {name} is missing; {COPY_AGAIN}, or correct its config.json")
        if name not in found:
            continue
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


def _check_names(found: Mapping[str, StoredTensor], expected: Collection[str], directory: Path) -> None:
    """Name what a checkpoint of another kind is, rather than the first tensor that it lacks."""
    packed = next((name for name in found if name.endswith((".qweight", ".weight_packed", ".absmax"))), None)
    if packed is not None:
        raise SharpError(f"{directory}: tensor {packed} shows that it is quantized already; use the original")
    if found and not any(name in found for name in expected):
        raise SharpError(f"{directory}: {other_format(directory) or _other_names(found, expected)}")
    for name in found:
        biased = _BIASES.fullmatch(name)
        if biased and f"{biased[1]}o_proj.bias" not in found and not _bias_fits(biased[0], biased[1], expected):
            raise SharpError(f"{found[name].file}: tensor {name}: {PARTIAL_BIAS}")


PARTIAL_BIAS = (
    "q, k or v has a bias and o has none; Hugging Face's Llama and its like have one on all four (attention_bias) or "
    "on none, and cannot hold these weights"
)


def _bias_fits(name: str, attention: str, expected: Collection[str]) -> bool:
    """Whether the model takes this bias and needs none on o, as Qwen2 does."""
    return name in expected and f"{attention}o_proj.bias" not in expected


def _other_names(found: Collection[str], expected: Collection[str]) -> str:
    return (
        f"its tensors have other names, such as {next(iter(found))}, than this model's, such as "
        f"{next(iter(expected))}; give what save_pretrained of the causal language model (AutoModelForCausalLM) writes"
    )


def _owner(name: str) -> str:
    """The decoder layer that a tensor belongs to, or the module where it belongs to none."""
    layer = _LAYER.match(name)
    return layer[0] if layer else name.rpartition(".")[0]


def mapped_tensors(files: list[Path]) -> dict[str, torch.Tensor]:
    """The tensors of checked files by name, of their own types, mapped: a page is read when it is touched.

    Raises:
        SharpError: a file cannot be read any more.
    """
    found: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            found |= _mapped(file)
        except MemoryError:
            raise
        except Exception as error:  # torch's and safetensors' own
            raise SharpError(f"{file}: cannot be loaded: {one_line(error)}; {COPY_AGAIN}") from error
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}


def _mapped(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".bin":
        loaded: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        return loaded
    return load_file(file)
