"""Quantization: the one place where weights become integers.

A linear is 8da4w or 8da8w: its weight is symmetric int4 in groups along the input (or int8 a row), its input int8,
asymmetric, quantized afresh for every token. XNNPACK computes with the integers; here, in eager mode and in the graph
that is lowered, the same operation is written with torchao's affine operators, which is the pattern that XNNPACK's
partitioner takes.

`project` quantizes an input once for all the projections that read it. `quantize` is the only entry: it replaces the
float linears and the embedding of a decoder, each object once, however many layers call it.

At rest a 4-bit linear takes what its `.pte` will take: two codes a byte, as XNNPACK stores them, and scales in
bfloat16. While a segment is traced and serialized, its linears are `unpacked`. Float weights may be of any type and lie
in a file that is mapped: they are read once, a few rows at a time. Or they are on the meta device and have shapes
alone, as the integers have then: so `size` tells what an export takes before it is made.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeGuard, cast

import torch
import torch.nn.functional as F
from executorch.exir.passes import _quant_patterns_and_replacements  # noqa: F401  registers the embedding operators
from torch import nn
from torchao.quantization.quant_primitives import (
    MappingType,
    _choose_qparams_and_quantize_scale_only_hqq,
    choose_qparams_affine,
)
from tqdm import tqdm

from sharp_mobile.errors import SharpError
from sharp_mobile.pages import mapped_bytes, page_out
from sharp_mobile.recipe import Bits, QuantizeSection, embedding_bits

INT4_GROUPS = (128, 64, 32)
# So many numbers of a weight are rounded together, a few rows: five times faster than what no CPU cache holds.
_AT_ONCE = 1 << 17
_EMBEDDING, _LM_HEAD = "embedding", "exit.head.lm_head"  # in a `Decoder`


class QuantizedActivation(NamedTuple):
    """int8 codes [..., width] with one scale and zero point a token."""

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor


def quantize_activation(x: torch.Tensor) -> QuantizedActivation:
    """Dynamic int8 quantization of x [..., width], a token at a time."""
    block = [1] * (x.dim() - 1) + [x.shape[-1]]
    scale, zero_point = torch.ops.torchao.choose_qparams_affine(
        x, "ASYMMETRIC", block, torch.int8, -128, 127, None, None, torch.int8
    )
    codes = torch.ops.torchao.quantize_affine(x, block, scale, zero_point, torch.int8, -128, 127)
    return QuantizedActivation(codes, scale, zero_point)


def dequantize_activation(x: QuantizedActivation) -> torch.Tensor:
    """The numbers [..., width] that the codes stand for."""
    block = [1] * (x.codes.dim() - 1) + [x.codes.shape[-1]]
    dequantized: torch.Tensor = torch.ops.torchao.dequantize_affine(
        x.codes, block, x.scale, x.zero_point, torch.int8, -128, 127
    )
    return dequantized


class QuantizedLinear(nn.Module):
    """A linear with integer weights.

    Buffers: codes int8 [out, in] and scales float32 [out, in / group] with zero_points int8 (all 0); at 4 bits, unless
    it is `unpacked`, codes uint8 [out, in / 2] and scales bfloat16 without zero points; bias float32 [out] or None.

    `key` names the codes in the `.pte` once they are lowered.

    Args:
        codes: int8 [out, in], within −8…7 at 4 bits.
        scales: float32 [out, in / group], representable in bfloat16 at 4 bits.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, bits: int, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.bits = bits
        self.group = codes.shape[1] // scales.shape[1]
        self.key: str | None = None
        self.register_buffer("codes", pack_codes(codes) if bits == 4 else codes)
        self.register_buffer("scales", scales.to(torch.bfloat16) if bits == 4 else scales)
        self.register_buffer("zero_points", None if bits == 4 else _zero_points(scales))
        self.register_buffer("bias", bias)

    def forward(self, x: QuantizedActivation) -> torch.Tensor:
        return F.linear(dequantize_activation(x), self.weight(), self.bias)

    def weight(self) -> torch.Tensor:
        """The dequantized weight [out, in]; in an exported graph by the operator that XNNPACK's partitioner knows."""
        codes, scales, zero_points = self.tensors()
        if torch.compiler.is_exporting():
            block, code_range = self.grid()
            return torch.ops.torchao.dequantize_affine(codes, block, scales, zero_points, torch.int8, *code_range)
        return codes.float().view(*scales.shape, self.group).mul_(scales.unsqueeze(-1)).flatten(1)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight: out, in."""
        return len(self.codes), self.scales.shape[1] * self.group

    def grid(self) -> tuple[list[int], tuple[int, int]]:
        """The block of codes that a scale is for, and the lowest and highest code."""
        return [1, self.group], _code_range(self.bits)

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes int8 [out, in], scales float32 and zero points int8 [out, in / group], however they are kept."""
        if self.zero_points is not None:
            return self.codes, self.scales, self.zero_points
        scales = self.scales.float()
        return unpack_codes(self.codes), scales, _zero_points(scales)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, group={self.group}, bias={self.bias is not None}"


def pack_codes(codes: torch.Tensor) -> torch.Tensor:
    """Two 4-bit codes a byte, uint8 [out, in / 2]: the even column in the low half, with an offset of 8."""
    shifted = codes.view(torch.uint8) + 8
    return shifted[:, ::2] | shifted[:, 1::2] << 4


def unpack_codes(packed: torch.Tensor) -> torch.Tensor:
    """The codes int8 [out, in] of `pack_codes`."""
    return (torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1) - 8).view(torch.int8)


def _zero_points(scales: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(scales, dtype=torch.int8)


def read_codes(decoder: nn.Module, pte: Path, places: Mapping[str, tuple[int, int]]) -> None:
    """Let the linears of a lowered decoder read their codes from its `.pte`, where they take no memory of their own.

    Args:
        places: begin and end of each stored tensor in the file, by its key.
    """
    content = mapped_bytes(pte)
    for linear in decoder.modules():
        if isinstance(linear, QuantizedLinear) and linear.key is not None:
            begin, end = places[linear.key]
            linear.codes = content[begin:end].view(linear.codes.dtype).view(linear.codes.shape)


@contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """Within the block the 4-bit linears of a module hold a code a byte, as they are traced and serialized."""
    at_rest = {linear: (linear.codes, linear.scales) for linear in module.modules() if _is_packed(linear)}
    try:
        for linear in at_rest:
            linear.codes, linear.scales, linear.zero_points = linear.tensors()
        yield
    finally:
        for linear, (codes, scales) in at_rest.items():
            linear.codes, linear.scales, linear.zero_points = codes, scales, None


def _is_packed(module: nn.Module) -> TypeGuard[QuantizedLinear]:
    return isinstance(module, QuantizedLinear) and module.zero_points is None


class QuantizedEmbedding(nn.Module):
    """A lookup in an int4 or int8 table: one scale a group of columns."""

    codes: torch.Tensor
    scales: torch.Tensor

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.embedding_dim = bits, codes.shape[1]
        # ExecuTorch's operator keeps the even column in the high half of a byte: not as XNNPACK does.
        self.register_buffer("codes", pack_codes(_swapped(codes)) if bits == 4 else codes)
        self.register_buffer("scales", scales)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():  # in eager mode the operator dequantizes the whole table
            codes, scales = self.codes[tokens.flatten()], self.scales[tokens.flatten()]
            codes = _swapped(unpack_codes(codes)) if self.bits == 4 else codes
            groups = codes.view(len(codes), -1, codes.shape[1] // (scales.numel() // len(scales)))
            return (groups * scales.view(len(codes), -1, 1)).view(*tokens.shape, self.embedding_dim)
        low, high = _code_range(self.bits)
        lookup = getattr(torch.ops.quantized_decomposed, "embedding_4bit" if self.bits == 4 else "embedding_byte")
        return lookup(self.codes, self.scales, None, low, high, tokens)


def _swapped(codes: torch.Tensor) -> torch.Tensor:
    """Every even column in the place of the odd one after it, and the other way round."""
    return codes.view(-1, 2).flip(1).view(codes.shape)


def project(x: torch.Tensor, *linears: nn.Module) -> list[torch.Tensor]:
    """Apply linears that read the same input x [..., in]; x is quantized once for all that take integers."""
    quantized = quantize_activation(x) if any(isinstance(linear, QuantizedLinear) for linear in linears) else None
    return [linear(quantized if isinstance(linear, QuantizedLinear) else x) for linear in linears]


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
    if weight.is_meta:
        return codes, scale
    count = max(1, _AT_ONCE // weight.shape[1])
    for first in range(0, weight.shape[0], count):
        rows = slice(first, first + count)
        codes[rows], scale[rows] = _quantize_rows(weight[rows].detach().float(), bits, group, scales)
    page_out(weight)
    return codes, scale


def _quantize_rows(
    weight: torch.Tensor, bits: int, group: int, scales: Literal["hqq", "minmax"]
) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = _code_range(bits)
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


def _code_range(bits: int) -> tuple[int, int]:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def quantize_linear(linear: nn.Linear, bits: Bits, group: int, scales: Literal["hqq", "minmax"] = "hqq") -> nn.Module:
    """The integer form of a linear; at 8 bits one scale a row, at "float" the linear itself.

    Raises:
        SharpError: a 4-bit group that does not divide the input width.
    """
    if bits == "float":
        return linear.float()
    codes, scale = quantize_weight(linear.weight, bits, group if bits == 4 else linear.weight.shape[1], scales)
    return QuantizedLinear(codes, scale, bits, None if linear.bias is None else linear.bias.detach().float())


def quantize_embedding(
    embedding: nn.Embedding, bits: Bits, group: int, scales: Literal["hqq", "minmax"] = "hqq"
) -> nn.Module:
    """The integer form of a lookup table [vocabulary, width]; at "float" the embedding itself."""
    if bits == "float":
        return embedding.float()
    width = embedding.weight.shape[1]
    codes, scale = quantize_weight(embedding.weight, bits, group if bits == 4 else width, scales)
    return QuantizedEmbedding(codes, scale if bits == 4 else scale.reshape(-1), bits)


def recovery_group(rank_width: int) -> int:
    """The group of a 4-bit recovery parameter: the largest of 128, 64, 32 that divides its input width."""
    for group in INT4_GROUPS:
        if rank_width % group == 0:
            return group
    raise SharpError(
        f"4-bit recovery parameters need an input width (rank) that is a multiple of 32, not {rank_width}; "
        "use a multiple of 32, or quantize.recovery: 8"
    )


class QuantizeOptions(NamedTuple):
    """Bits of each kind of weight ("float" leaves it), the int4 group size, and how scales are chosen.

    embedding: "auto" as `recipe.embedding_bits` says. scales: of what is rounded to the nearest. fragile: see
    `fragile.budgeted_bytes`.
    """

    linear: Bits = 4
    group_size: int = 32
    embedding: Bits | Literal["auto"] = "auto"
    lm_head: Bits = 4
    recovery: Bits = 4
    scales: Literal["hqq", "minmax"] = "hqq"
    fragile: float = 0.0

    @classmethod
    def of(cls, section: QuantizeSection) -> "QuantizeOptions":
        """The options of a recipe; how codes are rounded is `rounding`'s."""
        return cls(**section.model_dump(exclude={"rounding"}))


@torch.no_grad()
def quantize(decoder: nn.Module, options: QuantizeOptions, *, progress: bool = False) -> None:
    """Replace the float linears and the embedding of a `Decoder` by integer ones, in place.

    A linear that several layers call is quantized once and stays one object.

    Raises:
        SharpError: a group size that does not divide a weight's input width, naming the weight.
    """
    modules = dict(decoder.named_modules())
    tied = is_tied(modules.get(_EMBEDDING), modules.get(_LM_HEAD))
    options = options._replace(embedding=embedding_bits(options.embedding, options.lm_head, tied))
    done: dict[int, nn.Module] = {}
    if tied and options.embedding == options.lm_head == 8:
        table, head = modules[_EMBEDDING], modules[_LM_HEAD]
        both = cast(QuantizedLinear, _quantized(_LM_HEAD, head, options))
        done = {id(head): both, id(table): QuantizedEmbedding(both.codes, both.scales.reshape(-1), 8)}
    wanted = [module for module in modules.values() if isinstance(module, nn.Linear | nn.Embedding)]
    total = sum(module.weight.numel() for module in wanted if id(module) not in done)
    bar = tqdm(total=total, desc="quantize", unit="weight", unit_scale=True, disable=None if progress else True)
    for name, module in modules.items():
        for child_name, child in list(module.named_children()):
            if not isinstance(child, nn.Linear | nn.Embedding):
                continue
            if id(child) not in done:
                done[id(child)] = _quantized(f"{name}.{child_name}".strip("."), child, options)
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
    # By storage, not by address, which a tensor on the meta device has not.
    return table.untyped_storage() is head.untyped_storage() and table.storage_offset() == head.storage_offset()


def _quantized(name: str, module: nn.Module, options: QuantizeOptions) -> nn.Module:
    try:
        if isinstance(module, nn.Embedding):
            return quantize_embedding(module, cast(Bits, options.embedding), options.group_size, options.scales)
        linear = cast(nn.Linear, module)
        if ".recovery." in name:
            group = recovery_group(linear.in_features) if options.recovery == 4 else 0
            return quantize_linear(linear, options.recovery, group, options.scales)
        bits = options.lm_head if name.endswith("lm_head") else options.linear
        return quantize_linear(linear, bits, options.group_size, options.scales)
    except SharpError as error:
        raise SharpError(f"{name}: {error}") from error
