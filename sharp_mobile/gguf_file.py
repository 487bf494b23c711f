"""Read a GGUF file: its header, the configuration that it describes, and its weights as Hugging Face names them.

    "GGUF" version counts | metadata: key, type, value | tensors: name, shape, type, offset | padding | data

transformers reads GGUF too, but parses the header anew for the configuration, the weights and the tokenizer and looks
names up once a module: 18 CPU seconds for SmolLM2-135M's 93 MB file where this takes 3. The tests hold the two equal.

llama.cpp stores three things differently from Hugging Face, undone here: Llama's q and k rows are interleaved for its
RoPE, Gemma's norm gains have the 1 added, and tensors have names of their own (the `gguf` package maps them).
"""

import math
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGMLQuantizationType, get_tensor_name_map
from gguf.quants import dequantize
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sharp_mobile.errors import SharpError
from sharp_mobile.json_file import COPY_AGAIN
from sharp_mobile.weight_files import cut_short

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
class GGUFHeader:
    """What a GGUF file says before its data; a string array among the metadata is given as its length."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the architecture's own metadata, such as `block_count`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def gguf_header(path: Path) -> GGUFHeader:
    """Read the header, and check that the file holds every tensor whole.

    Raises:
        SharpError: it is no GGUF file, or is cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SharpError(f"{path}: is not a GGUF file (it does not begin with 'GGUF'); {COPY_AGAIN}")
        try:
            reader = _Reader(file, size)
            version, tensor_count, value_count = reader.take("IQQ")
            if version not in (2, 3):
                raise SharpError(f"{path}: GGUF version {version} is not supported; convert the model again")
            metadata = dict(reader.pair() for _ in range(value_count))
            table = [reader.tensor() for _ in range(tensor_count)]
        except EOFError as error:
            raise SharpError(f"{path}: cut short in its header, at {size:,} bytes; {COPY_AGAIN}") from error
        except (ValueError, KeyError, struct.error) as error:
            raise SharpError(f"{path}: its header is broken ({error}); {COPY_AGAIN}") from error
        alignment = metadata.get("general.alignment", 32)
        data = -(-file.tell() // alignment) * alignment
    tensors = {
        name: GGUFTensor(shape, kind, data + offset, _nbytes(shape, kind)) for name, shape, kind, offset in table
    }
    needed = max((tensor.start + tensor.nbytes for tensor in tensors.values()), default=data)
    if size < needed:
        raise cut_short(path, size, needed)
    return GGUFHeader(path, metadata, tensors)


def _nbytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block * block_bytes


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

    def take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self.read(struct.calcsize(f"<{layout}")))

    def skip(self, count: int) -> None:
        if self.file.tell() + count > self.size:
            raise EOFError
        self.file.seek(count, os.SEEK_CUR)

    def text(self) -> str:
        (length,) = self.take("Q")
        return self.read(length).decode("utf-8")

    def pair(self) -> tuple[str, Any]:
        name = self.text()
        (kind,) = self.take("I")
        return name, self.value(kind)

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.take(_SCALARS[kind])[0]
        element, count = self.take("IQ")
        if element != _STRING:
            return list(self.take(f"{count}{_SCALARS[element]}"))
        for _ in range(count):  # a vocabulary: the tokenizer's reader takes it
            (length,) = self.take("Q")
            self.skip(length)
        return count

    def tensor(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        """A tensor's name, shape, type, and offset in the data."""
        name = self.text()
        (rank,) = self.take("I")
        shape = self.take(f"{rank}Q")[::-1]  # ggml counts dimensions from the innermost
        kind, offset = self.take("IQ")
        return name, shape, GGMLQuantizationType(kind), offset


def gguf_config(header: GGUFHeader) -> PreTrainedConfig:
    """The Hugging Face configuration that a header describes.

    Raises:
        SharpError: the architecture is not supported, a value is missing, or the file is one of several parts or has a
            property that GGUF does not tell enough about.
    """
    path, get = header.path, header.get
    if header.architecture not in ARCHITECTURES:
        raise SharpError(
            f"{path}: GGUF architecture '{header.architecture}' is not supported; supported are "
            f"{', '.join(ARCHITECTURES)}; give the Hugging Face directory of other families"
        )
    if header.metadata.get("split.count", 0) > 1:
        raise SharpError(f"{path}: is one of several parts; join them with `llama-gguf-split --merge`")
    model_type = ARCHITECTURES[header.architecture]
    try:
        options = _options(header)
    except KeyError as error:
        raise SharpError(f"{path}: its metadata has no {error.args[0]}; convert the model again") from error
    rotary = get("rope.dimension_count", options["head_dim"])
    scaled = get("rope.scaling.type", "none") != "none"
    if model_type == "llama" and ROPE_FACTORS in header.tensors:
        options["rope_parameters"] = _llama3_rope(header, options)
        scaled = False
    elif any(name.startswith("rope_") for name in header.tensors):
        scaled = True
    if scaled or rotary != options["head_dim"]:
        raise SharpError(
            f"{path}: its RoPE is scaled or partial, which GGUF does not tell enough about; give the Hugging Face "
            "directory"
        )
    if model_type.startswith("gemma"):
        options["query_pre_attn_scalar"] = options["head_dim"]  # true of all but the 27B models
        if (header.architecture, options["num_hidden_layers"]) in (("gemma2", 46), ("gemma3", 62)):
            raise SharpError(f"{path}: GGUF does not tell the attention scale of 27B; give the Hugging Face directory")
    if model_type == "llama":
        options["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    return AutoConfig.for_model(model_type, **options)


def _llama3_rope(header: GGUFHeader, options: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's RoPE scaling, of which GGUF keeps only the divisors of the frequencies that it comes to.

    All Llama 3.1 to 3.3 differ in the largest divisor alone (8, or 32 in 3.2); that these settings give the file's
    divisors is checked.
    """
    divisors = _dequantized(header.path, ROPE_FACTORS, header.tensors[ROPE_FACTORS])
    settings = {
        "rope_type": "llama3",
        "rope_theta": header.get("rope.freq_base", 10000.0),
        "factor": float(divisors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = AutoConfig.for_model("llama", **{**options, "rope_parameters": settings})
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = settings["rope_theta"] ** -(torch.arange(len(divisors)) / len(divisors))
    if frequencies.shape != divisors.shape or not torch.allclose(plain / divisors, frequencies, rtol=1e-3):
        raise SharpError(f"{header.path}: its RoPE is scaled unlike Llama 3's; give the Hugging Face directory")
    return settings


def _options(header: GGUFHeader) -> dict[str, Any]:
    """The configuration's fields; KeyError for one that every model must have."""
    get, metadata, prefix = header.get, header.metadata, header.architecture
    heads = metadata[f"{prefix}.attention.head_count"]
    hidden = metadata[f"{prefix}.embedding_length"]
    options = {
        "num_hidden_layers": metadata[f"{prefix}.block_count"],
        "hidden_size": hidden,
        "intermediate_size": metadata[f"{prefix}.feed_forward_length"],
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": get("attention.key_length", hidden // heads),
        "max_position_embeddings": metadata[f"{prefix}.context_length"],
        "rms_norm_eps": metadata[f"{prefix}.attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    if "token_embd.weight" in header.tensors:  # the tokens listed may be fewer: embeddings are often padded
        options["vocab_size"] = header.tensors["token_embd.weight"].shape[0]
    ends = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot"))
    options["eos_token_id"] = _one_or_list({end: None for end in ends if end is not None})
    for key, option in _OPTIONAL.items():
        if get(key) is not None:
            options[option] = get(key)
    return options


_OPTIONAL = {
    "rope.freq_base": "rope_theta",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}


def _one_or_list(ids: Iterable[int]) -> int | list[int] | None:
    found = list(ids)
    return found if len(found) > 1 else found[0] if found else None


def gguf_weights(
    header: GGUFHeader, expected: dict[str, torch.Tensor], tied: Iterable[str], config: PreTrainedConfig
) -> dict[str, torch.Tensor]:
    """The weights, dequantized to float32, by their Hugging Face names.

    Args:
        expected: the state dict of the model of `gguf_config`; its tensors give the shapes.
        tied: names in it that have no tensor of their own.

    Raises:
        SharpError: a tensor is missing, has another shape, has no place in the model, or is of a type that cannot be
            dequantized.
    """
    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == header.architecture)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    undo = _undo(header.architecture, config)
    left, weights = dict(header.tensors), {}
    left.pop(ROPE_FACTORS, None)  # in the configuration
    for name in expected.keys() - set(tied):
        module, _, kind = name.rpartition(".")
        stored_name = f"{names.get_name(module)}.{kind}"
        stored = left.pop(stored_name, None)
        if stored is None:
            raise SharpError(f"{header.path}: tensor {stored_name} is missing; convert the model again")
        if stored.shape != tuple(expected[name].shape):
            raise SharpError(
                f"{header.path}: tensor {stored_name} has shape {list(stored.shape)}, its metadata says "
                f"{list(expected[name].shape)}; convert the model again"
            )
        weights[name] = undo(name, _dequantized(header.path, stored_name, stored))
    if left:
        raise SharpError(f"{header.path}: tensor {next(iter(left))} has no place in a {header.architecture} model")
    return weights


def _dequantized(path: Path, name: str, stored: GGUFTensor) -> torch.Tensor:
    raw = np.memmap(path, mode="r", offset=stored.start, shape=(stored.nbytes,))
    element = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(stored.kind, np.uint8)
    rows = raw.view(element).reshape(*stored.shape[:-1], -1)
    try:
        return torch.from_numpy(np.array(dequantize(rows, stored.kind), dtype=np.float32))
    except NotImplementedError as error:
        raise SharpError(
            f"{path}: tensor {name} is of type {stored.kind.name}, which cannot be read; use a Q8_0 or F16 file"
        ) from error


def _undo(architecture: str, config: PreTrainedConfig) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """What turns a stored tensor back into Hugging Face's (see the module)."""

    def undo(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if architecture == "llama" and ".q_proj." in name:
            return _half_split(tensor, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            return _half_split(tensor, config.num_key_value_heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            return tensor - 1
        return tensor

    return undo


def _half_split(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from llama.cpp's order (pairs that rotate together adjacent) to Hugging Face's (halves)."""
    return tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(tensor.shape)
