"""Groups of 4-bit weights: which one a weight has, and what codes and scales take."""

from collections.abc import Iterable

from sharp_mobile.errors import SharpError

INT4_GROUPS = (128, 64, 32)


def recovery_group(rank_width: int) -> int:
    """The group of a 4-bit recovery parameter: the largest of 128, 64, 32 that divides its input width."""
    for group in INT4_GROUPS:
        if rank_width % group == 0:
            return group
    raise SharpError(
        f"4-bit recovery parameters need an input width (rank) that is a multiple of 32, not {rank_width}; "
        "use a multiple of 32, or quantize.recovery: 8"
    )


def four_bit_bytes(shape: tuple[int, int], group: int) -> int:
    """Bytes of a linear [out, in] at 4 bits: half a byte a code, a bfloat16 scale a group."""
    rows, width = shape
    return rows * width // 2 + 2 * rows * (width // group)


def eight_bit_bytes(shape: tuple[int, int]) -> int:
    """Bytes of a linear [out, in] at 8 bits: a byte a code, a float32 scale a row."""
    rows, width = shape
    return rows * width + 4 * rows


def extra_bytes(shape: tuple[int, int], group: int) -> int:
    """What a linear has more at 8 bits than at 4."""
    return eight_bit_bytes(shape) - four_bit_bytes(shape, group)


def budgeted_bytes(shapes: Iterable[tuple[int, int]], group: int, share: float) -> int:
    """The bytes that 8 bits add to an export, from shapes alone: `share` of what all distinct linears take at 4 bits.

    What is chosen stays below it by less than the extra bytes of the smallest linear that is left at 4 bits.

    Args:
        shapes: [out, in] of the distinct linears that `quantize.linear` covers, a shared one once.
    """
    shapes = list(shapes)
    most = sum(extra_bytes(shape, group) for shape in shapes)
    return min(most, int(share * sum(four_bit_bytes(shape, group) for shape in shapes)))
