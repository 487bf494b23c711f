"""The weights of a GGUF file, as Hugging Face names and lays them out.

transformers reads GGUF too, but parses the header again for the configuration, the weights and the tokenizer and looks
names up once a module: 18 CPU seconds for SmolLM2-135M's 93 MB file where this takes 3. The tests hold the two equal.

llama.cpp stores three things differently from Hugging Face, undone here: Llama's q and k rows are interleaved for its
RoPE, Gemma's norm gains have the 1 added, and tensors have names of their own (the `gguf` package maps them).
"""

from collections.abc import Callable, Collection, Mapping

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from transformers import PreTrainedConfig

from sharp_mobile.checkpoint.gguf_file import ROPE_FACTORS, GGUFHeader, dequantized
from sharp_mobile.checkpoint.weight_files import PARTIAL_BIAS
from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import COPY_AGAIN


def gguf_names(
    header: GGUFHeader, expected: Mapping[str, torch.Tensor], tied: Collection[str], layers: int
) -> dict[str, str]:
    """Each Hugging Face name with the name of its tensor in the file, which has the shape that the model needs.

    Args:
        expected: the state dict of the model of `gguf_config`, on the meta device.
        tied: names in it that have no tensor of their own.
        layers: of that model.

    Raises:
        SharpError: a tensor is missing, has another shape, or has no place in the model.
    """
    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == header.architecture)
    table = get_tensor_name_map(architecture, layers)
    names: dict[str, str] = {}
    for name in expected:
        if name not in tied:
            module, _, kind = name.rpartition(".")
            names[name] = f"{table.get_name(module)}.{kind}"
            _check_tensor(header, names[name], tuple(expected[name].shape))
    extra = header.tensors.keys() - {*names.values(), ROPE_FACTORS}  # the factors are in the configuration
    if extra:
        raise SharpError(f"{header.path}: tensor {min(extra)} has no place in a {header.architecture} model")
    return names


def _check_tensor(header: GGUFHeader, name: str, shape: tuple[int, ...]) -> None:
    stored = header.tensors.get(name)
    if stored is None and name.endswith("attn_output.bias"):
        raise SharpError(f"{header.path}: tensor {name} is missing: {PARTIAL_BIAS}")
    if stored is None:
        raise SharpError(f"{header.path}: tensor {name} is missing; {COPY_AGAIN}, or use another GGUF of the model")
    if stored.shape != shape:
        raise SharpError(
            f"{header.path}: tensor {name} has shape {list(stored.shape)}, its metadata says {list(shape)}; "
            f"{COPY_AGAIN}, or use another GGUF of the model"
        )


def gguf_weights(header: GGUFHeader, names: Mapping[str, str], config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """The weights, dequantized to float32, by their Hugging Face names.

    Args:
        names: from `gguf_names`.

    Raises:
        SharpError: a tensor is of a type that cannot be dequantized, or cannot be read.
    """
    undo = _undo(header.architecture, config)
    return {name: undo(name, torch.from_numpy(dequantized(header, stored))) for name, stored in names.items()}


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
    pairs: torch.Tensor = tensor.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).reshape(tensor.shape)
