"""Count what a quantized decoder holds, tensor by tensor, as its `.pte` stores it: the truth of what is predicted."""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import QuantizedEmbedding, QuantizedLinear
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.projections import Factored, Recovered
from sharp_mobile.decoder.segments import RMSNorm

_LINEARS = (QuantizedLinear, nn.Linear)
# Not in the file: 0, or written at run time.
_NOT_STORED = ("zero_points", "k_cache", "v_cache")
# Of a norm, and equal in all norms of a width: stored once.
_EQUAL = ("mean", "epsilon")


def stored_bytes(decoder: nn.Module) -> Counter[str]:
    """Bytes of the distinct tensors, by what they are for; see `estimate.FileBytes`."""
    parts: Counter[str] = Counter()
    for module, name, tensor in _stored(decoder):
        parts[_part(module, name)] += tensor.nbytes
    return parts


def _stored(decoder: nn.Module) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    """The distinct tensors that a `.pte` stores, each with the first module that holds it, and its first name."""
    seen: set[object] = set()
    for prefix, module in decoder.named_modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            where = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
            identity = (name if name in _EQUAL else where, tensor.shape)
            if name not in _NOT_STORED and identity not in seen:
                seen.add(identity)
                yield module, f"{prefix}.{name}", tensor


def _part(module: nn.Module, name: str) -> str:
    if isinstance(module, FloatLinear | QuantizedLinear):
        return "mlps" if module.role == "mlp" else str(module.role)
    if isinstance(module, nn.Embedding | QuantizedEmbedding):
        return "embedding"
    if isinstance(module, Factored | Recovered):
        return "recovery" if name.endswith("alpha") else "attention"
    *path, tensor = name.split(".")
    if tensor.endswith("_alpha") or tensor.startswith("neurons_"):
        return "recovery"
    return "mlps" if "mlp" in path else "rest"


def _called(decoder: Decoder) -> list[nn.Module]:
    """The modules of all segments, as often as they are called."""
    segments = (decoder.entry, *decoder.middles, decoder.exit)
    return [module for segment in segments for _, module in segment.named_modules(remove_duplicate=False)]


def calls(decoder: Decoder) -> tuple[int, int]:
    """How many linears and how many norms the program calls, however they are shared."""
    modules = _called(decoder)
    return sum(isinstance(module, _LINEARS) for module in modules), sum(isinstance(m, RMSNorm) for m in modules)


def linears(decoder: Decoder) -> Counter[tuple[str, tuple[int, int], object, int, bool, int]]:
    """The distinct linears, each as its role, [out, in], bits, group at 4 bits, whether it has a bias, and its uses."""
    found: Counter[tuple[str, tuple[int, int], object, int, bool, int]] = Counter()
    for linear, uses in Counter(_called(decoder)).items():
        if isinstance(linear, QuantizedLinear):
            group = linear.group if linear.bits == 4 else 0
            found[str(linear.role), linear.shape, linear.bits, group, linear.bias is not None, uses] += 1
        elif isinstance(linear, FloatLinear):
            shape = linear.out_features, linear.in_features
            found[linear.role, shape, "float", 0, linear.bias is not None, uses] += 1
    return found


def packed_bytes(decoder: Decoder) -> int:
    """Bytes of codes and scales of the distinct linears, a sum and a bias for each output."""
    total = 0
    for module in decoder.modules():  # each once
        if isinstance(module, QuantizedLinear):
            total += module.codes.nbytes + module.scales.nbytes + 8 * len(module.codes)
        elif isinstance(module, nn.Linear):
            total += module.weight.nbytes + 8 * len(module.weight)
    return total


def cache_bytes(decoder: Decoder) -> int:
    """Bytes of the KV caches of all layers that have one."""
    return sum(cache.nbytes for layer in decoder.attentions for cache in layer.buffers())
