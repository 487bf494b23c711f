"""Quantization to the nearest code: the one place where a decoder's weights become integers.

`quantize` is the only entry: it replaces the float linears and the embedding of a decoder by the modules of
`decoder.integer`, each object once, however many layers call it.

Float weights may be of any type and lie in a file that is mapped: they are read once, a few rows at a time.
"""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import nn
from torchao.quantization.quant_primitives import (
    MappingType,
    _choose_qparams_and_quantize_scale_only_hqq,
    choose_qparams_affine,
)

from sharp_mobile.console import progress_bar
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import QuantizedEmbedding, QuantizedLinear, code_range
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.segment_walk import head_of
from sharp_mobile.errors import SharpError
from sharp_mobile.quantize.groups import recovery_group
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.section import Bits
from sharp_mobile.system.memory import page_out

# So many numbers of a weight are rounded together, a few rows: five times faster than what no CPU cache holds.
_AT_ONCE = 1 << 17


def quantize_weight(
    weight: torch.Tensor, bits: int, group: int, scales: Literal["hqq", "minmax"] = "hqq"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric integer codes int8 [out, in] and scales float32 [out, in / group] of weight [out, in].

    At 4 bits the scales are representable in bfloat16, since XNNPACK stores a group's scale so; the codes are chosen
    for these rounded scales. A group of zeros gets scale 1, so that equal codes always come with equal scales.

    Raises:
        SharpError: the group does not divide the input width.
    """
    if weight.shape[1] % group:
        raise SharpError(f"group size {group} does not divide the input width {weight.shape[1]} of a {bits}-bit weight")
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(weight.shape[0], weight.shape[1] // group, device=weight.device)
    count = max(1, _AT_ONCE // weight.shape[1])
    for first in range(0, weight.shape[0], count):
        rows = slice(first, first + count)
        codes[rows], scale[rows] = _quantize_rows(weight[rows].detach().float(), bits, group, scales)
    page_out(weight)
    return codes, scale


def _quantize_rows(
    weight: torch.Tensor, bits: int, group: int, scales: Literal["hqq", "minmax"]
) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = code_range(bits)
    block = (1, group)
    groups = weight.reshape(weight.shape[0], -1, group)
    if scales == "hqq" and bits == 4:
        _, scale = _choose_qparams_and_quantize_scale_only_hqq(weight, list(block), low, high)
    else:
        scale, _ = choose_qparams_affine(weight, MappingType.SYMMETRIC, block, torch.int8, low, high, keepdim=True)
    if bits == 4:
        scale = scale.to(torch.bfloat16)
    scale = scale.float().reshape(groups.shape[:2])
    scale = torch.where((groups == 0).all(dim=-1), torch.ones_like(scale), scale)
    codes = torch.clamp(torch.round(groups / scale.unsqueeze(-1)), low, high)
    return codes.to(torch.int8).reshape(weight.shape), scale


def quantize_linear(linear: nn.Linear, bits: Bits, group: int, scales: Literal["hqq", "minmax"] = "hqq") -> nn.Module:
    """The integer form of a linear, in the same role; at 8 bits one scale a row, at "float" the linear itself.

    Raises:
        SharpError: a 4-bit group that does not divide the input width.
    """
    if bits == "float":
        return linear.float()
    codes, scale = quantize_weight(linear.weight, bits, group if bits == 4 else linear.weight.shape[1], scales)
    bias = None if linear.bias is None else linear.bias.detach().float()
    return QuantizedLinear(codes, scale, bits, bias, linear.role if isinstance(linear, FloatLinear) else None)


def quantize_embedding(
    embedding: nn.Embedding, bits: Bits, group: int, scales: Literal["hqq", "minmax"] = "hqq"
) -> nn.Module:
    """The integer form of a lookup table [vocabulary, width]; at "float" the embedding itself."""
    if bits == "float":
        return embedding.float()
    width = embedding.weight.shape[1]
    codes, scale = quantize_weight(embedding.weight, bits, group if bits == 4 else width, scales)
    return QuantizedEmbedding(codes, scale if bits == 4 else scale.reshape(-1), bits)


@torch.no_grad()
def quantize(decoder: Decoder, settings: QuantizeSettings) -> None:
    """Replace the float linears and the embedding of a `Decoder` by integer ones, in place.

    A linear that several layers call is quantized once and stays one object.

    Raises:
        SharpError: a group size that does not divide a weight's input width, naming the weight.
    """
    table, head = decoder.embedding, head_of(decoder).lm_head
    tied = is_tied(table, head)
    table_bits = settings.embedding_bits(tied)
    done: dict[int, nn.Module] = {}
    if tied and isinstance(head, FloatLinear) and table_bits == settings.lm_head == 8:
        both = cast(QuantizedLinear, quantize_linear(head, 8, 0))
        done = {id(head): both, id(table): QuantizedEmbedding(both.codes, both.scales.reshape(-1), 8)}
    quantize_modules(decoder, settings, table_bits, done)


def quantize_modules(
    root: nn.Module, settings: QuantizeSettings, table_bits: Bits, known: Mapping[int, nn.Module] | None = None
) -> None:
    """Replace the float linears and lookup tables below a module by integer ones, in place; see `quantize`.

    Args:
        table_bits: of lookup tables.
        known: the integer form of some of them, by the `id` of the float module.
    """
    done = dict(known or {})
    modules = dict(root.named_modules())
    wanted = [module for module in modules.values() if isinstance(module, FloatLinear | nn.Embedding)]
    total = sum(module.weight.numel() for module in wanted if id(module) not in done)
    bar = progress_bar(total=total, desc="quantize", unit="weight", unit_scale=True)
    for name, module in modules.items():
        for child_name, child in list(module.named_children()):
            if not isinstance(child, FloatLinear | nn.Embedding):
                continue
            if id(child) not in done:
                done[id(child)] = _quantized(f"{name}.{child_name}".strip("."), child, settings, table_bits)
                bar.update(child.weight.numel())
            setattr(module, child_name, done[id(child)])
    bar.close()


def is_tied(embedding: nn.Module | None, lm_head: nn.Module | None) -> bool:
    """Whether a lookup table and an LM head are one weight; a table that is scaled as it is read (Gemma's) is not."""
    if hasattr(embedding, "embed_scale"):
        return False
    table, head = (getattr(module, "weight", None) for module in (embedding, lm_head))
    if table is None or head is None or table.shape != head.shape:
        return False
    return table.untyped_storage() is head.untyped_storage() and table.storage_offset() == head.storage_offset()


def _quantized(
    name: str, module: FloatLinear | nn.Embedding, settings: QuantizeSettings, table_bits: Bits
) -> nn.Module:
    group_size, scales = settings.group_size, settings.scales
    try:
        if isinstance(module, nn.Embedding):
            return quantize_embedding(module, table_bits, group_size, scales)
        if module.role == "recovery":
            group = recovery_group(module.in_features) if settings.recovery == 4 else 0
            return quantize_linear(module, settings.recovery, group, scales)
        bits = settings.lm_head if module.role == "lm_head" else settings.linear
        return quantize_linear(module, bits, group_size, scales)
    except SharpError as error:
        raise SharpError(f"{name}: {error}") from error
