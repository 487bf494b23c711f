"""The modules of a quantized decoder: integer weights, as XNNPACK and ExecuTorch compute with them.

A linear is 8da4w or 8da8w: its weight is symmetric int4 in groups along the input (or int8 a row), its input int8,
asymmetric, quantized afresh for every token. In eager mode and in the graph that is lowered the same operation is
written with torchao's affine operators, which is the pattern that XNNPACK's partitioner takes. `project` quantizes an
input once for all the projections that read it.

At rest a 4-bit linear takes what its `.pte` will take: two codes a byte, as XNNPACK stores them, and scales in
bfloat16. While a segment is traced and serialized, its linears are `unpacked`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from executorch.exir.passes import _quant_patterns_and_replacements  # noqa: F401  registers the embedding operators
from torch import nn
from torchao.quantization import quant_primitives  # noqa: F401  registers the affine operators

from sharp_mobile.decoder.role import LinearRole
from sharp_mobile.system.memory import mapped_bytes


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
        role: of the float linear in its decoder; None for one that stands alone.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(
        self,
        codes: torch.Tensor,
        scales: torch.Tensor,
        bits: int,
        bias: torch.Tensor | None,
        role: LinearRole | None = None,
    ) -> None:
        super().__init__()
        self.bits, self.role = bits, role
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
            weight: torch.Tensor = torch.ops.torchao.dequantize_affine(
                codes, block, scales, zero_points, torch.int8, *code_range
            )
            return weight
        return codes.float().view(*scales.shape, self.group).mul_(scales.unsqueeze(-1)).flatten(1)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight: out, in."""
        return len(self.codes), self.scales.shape[1] * self.group

    def grid(self) -> tuple[list[int], tuple[int, int]]:
        """The block of codes that a scale is for, and the lowest and highest code."""
        return [1, self.group], code_range(self.bits)

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
        low, high = code_range(self.bits)
        lookup = getattr(torch.ops.quantized_decomposed, "embedding_4bit" if self.bits == 4 else "embedding_byte")
        rows: torch.Tensor = lookup(self.codes, self.scales, None, low, high, tokens)
        return rows


def _swapped(codes: torch.Tensor) -> torch.Tensor:
    """Neighbouring columns swapped: 1, 0, 3, 2, …"""
    return codes.view(-1, 2).flip(1).view(codes.shape)


class Composite(nn.Module):
    """A linear map of several linears, of which some read x; see `project`."""

    def readers(self) -> list[nn.Module]:
        """The linears that read x."""
        raise NotImplementedError

    def finish(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """What the map gives, from what its readers give."""
        raise NotImplementedError


def project(x: torch.Tensor, *maps: nn.Module) -> list[torch.Tensor]:
    """Apply linear maps that read the same input x [..., in]; x is quantized once for all that take integers."""
    readers = [each.readers() if isinstance(each, Composite) else [each] for each in maps]
    integers = any(isinstance(linear, QuantizedLinear) for its in readers for linear in its)
    quantized = quantize_activation(x) if integers else None
    results = []
    for each, its in zip(maps, readers, strict=True):
        outputs = [linear(quantized if isinstance(linear, QuantizedLinear) else x) for linear in its]
        results.append(each.finish(outputs) if isinstance(each, Composite) else outputs[0])
    return results


def code_range(bits: int) -> tuple[int, int]:
    """The lowest and the highest signed integer of so many bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
