"""What an export takes, told from the shapes of its quantized decoder: no weight is read, nothing is lowered.

    file      = Σ bytes of the distinct tensors  +  program
    resident  = Σ packed bytes of the distinct linears  +  KV cache  +  activations  +  program and runtime

How many bits a tensor has, in which groups, and what is stored once, `quantize` alone decides: on the meta device it
gives integers without contents, which are counted here. Only what comes on top of the tensors is modelled, by constants
that were measured.

Resident is what a process holds after loading a `.pte` and a forward pass of one token, with XNNPACK's weight cache on:
what is packed (its own memory in the first launch, pages of the packed file in later ones), the KV cache, the
activations that ExecuTorch plans for its longest step, constants and program, which are pages of the `.pte`, and the
runtime. `bench` measures the same.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import nn

from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import QuantizedLinear
from sharp_mobile.decoder.segments import Exit, RMSNorm

_LINEARS = (QuantizedLinear, nn.Linear)
# Not in the file: 0, or written at run time.
_NOT_STORED = ("zero_points", "k_cache", "v_cache")
# Of a norm, and equal in all norms of a width: stored once.
_EQUAL = ("mean", "epsilon")

# What a program takes beside its tensors, in bytes: graphs, names and padding. Fitted to exports of SmolLM2-135M (where
# it is 344,444 unshared), of the 1 B shape and of tiny models of five families, with both kinds of attention.
_PROGRAM = 7_900
_LAYER = {"custom_sdpa": 4_100, "portable": 8_600}
_LINEAR, _NORM = 740, 930

_FLOAT = 4
# XNNPACK packs with each output of a linear the sum of its codes and a bias, and with an 8-bit one its scale.
_PACKED_ROW = 2 * _FLOAT
# Code, heap, and pages of the `.pte` that Linux maps around those that are read: 16 to 26 MB in the host's runner.
_RUNTIME = 22_000_000


class FileBytes(NamedTuple):
    """Bytes of a `.pte`, by what they are for.

    lm_head: what it has beside the embedding where they are one weight. attention, mlps: projections, their scales and
    biases; a shared MLP counts once. eight_bit_budget: what some of these have more,
    because text gives them 8 bits. recovery: what the targets have of their own. rest: norms, RoPE. program: graphs,
    names and padding.
    """

    embedding: int
    lm_head: int
    attention: int
    mlps: int
    eight_bit_budget: int
    recovery: int
    rest: int
    program: int

    @property
    def total(self) -> int:
        return sum(self)


class ResidentBytes(NamedTuple):
    """Resident bytes of a model in use; see the module. constants: norms, RoPE and the program."""

    packed: int
    cache: int
    activations: int
    constants: int
    runtime: int

    @property
    def total(self) -> int:
        return sum(self)


def file_bytes(decoder: Decoder, eight_bit_budget: int = 0) -> FileBytes:
    """Bytes of the `.pte` of a quantized decoder, which may be on the meta device.

    Args:
        eight_bit_budget: bytes to spend on 8 bits in the place of 4 (see `bit_allocation.budgeted_bytes`).
    """
    parts: Counter[str] = Counter(program=_program_bytes(decoder), eight_bit_budget=eight_bit_budget)
    for name, tensor in _stored(decoder):
        parts[_part(name)] += tensor.nbytes
    return FileBytes(*(parts[part] for part in FileBytes._fields))


def resident_bytes(decoder: Decoder, eight_bit_budget: int = 0) -> ResidentBytes:
    """Resident bytes of a quantized decoder's `.pte` in use; see `file_bytes`."""
    linears = [module for module in decoder.modules() if isinstance(module, _LINEARS)]  # each once
    file = file_bytes(decoder)
    return ResidentBytes(
        packed=sum(_packed_bytes(linear) for linear in linears) + eight_bit_budget,
        cache=sum(cache.nbytes for layer in decoder.attentions for cache in (layer.k_cache, layer.v_cache)),
        activations=_activation_bytes(decoder),
        constants=file.rest + file.program,
        runtime=_RUNTIME,
    )


def _stored(decoder: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The distinct tensors that a `.pte` stores, each with the first of its names."""
    seen: set[object] = set()
    for prefix, module in decoder.named_modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            where = (tensor.untyped_storage(), tensor.storage_offset())
            identity = (name if name in _EQUAL else where, tensor.shape)
            if name not in _NOT_STORED and identity not in seen:
                seen.add(identity)
                yield f"{prefix}.{name}", tensor


def _part(name: str) -> str:
    """The field of `FileBytes` that a tensor of a `Decoder` belongs to, by its name."""
    *path, owner, tensor = name.split(".")
    if not path and owner == "embedding":
        return "embedding"
    if owner == "lm_head":
        return "lm_head"
    if owner in ("q", "k", "v", "o"):
        return "attention"
    if "recovery" in path or tensor.endswith("_alpha") or tensor.startswith("neurons_"):
        return "recovery"
    return "mlps" if "mlp" in (*path, owner) else "rest"


def _program_bytes(decoder: Decoder) -> int:
    """Bytes around the tensors: what describes each layer, and each linear and norm of it, however they are shared."""
    modules = [module for segment in (decoder.entry, *decoder.middles, decoder.exit) for module in segment.modules()]
    linears = sum(isinstance(module, _LINEARS) for module in modules)
    norms = sum(isinstance(module, RMSNorm) for module in modules)
    layers = len(decoder.attentions)
    return _PROGRAM + _LAYER[decoder.options.attention] * layers + _LINEAR * linears + _NORM * norms


def _packed_bytes(linear: QuantizedLinear | nn.Linear) -> int:
    tensors = (linear.codes, linear.scales) if isinstance(linear, QuantizedLinear) else (linear.weight,)
    return sum(tensor.nbytes for tensor in tensors) + len(tensors[0]) * _PACKED_ROW


def _activation_bytes(decoder: Decoder) -> int:
    """What ExecuTorch plans for the longest step: around a segment, or around portable attention, which is more.

    A segment reads hidden states, attention's output and the RoPE tables, and gives hidden states, q, k and v.
    """
    options, heads = decoder.options, decoder.attentions[0].settings.heads
    hidden = cast(Exit, decoder.exit).head.norm.gain.numel()
    tables = 2 * heads.width * len(decoder.rotations)
    queries, keys = heads.queries * heads.width, heads.keys * heads.width
    segment = options.chunk * (2 * hidden + 2 * queries + 2 * keys + tables)
    if options.attention == "custom_sdpa":
        return _FLOAT * segment
    scores, mask = heads.queries * options.chunk * options.max_length, options.chunk * options.max_length
    caches = 2 * keys * options.max_length
    attention = 2 * scores + mask + caches + options.chunk * (hidden + tables)
    return _FLOAT * max(segment, attention)
