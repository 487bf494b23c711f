"""A float decoder walked segment by segment, so that only one segment's weights are in memory at a time.

    embedding ─► segment 0 ─► attention 0 ─► segment 1 ─► … ─► segment N ─► norm, LM head
                 given[0]                    given[1]          given[N]

A segment is given the hidden states, and (but for the first) what attention makes of the segment before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import nn

from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.segments import Exit, LogitsHead
from sharp_mobile.system.memory import page_out

SegmentInputs = tuple[torch.Tensor, ...]
# k and v [1, S, k, d] that attentions (by number) gave a text, for those that read them; see `step`.
Keys = dict[int, tuple[torch.Tensor, ...]]
# "medium" lets products of a walk be taken in bfloat16, twice as fast where a processor knows it. SmolLM2-135M's
# perplexity after rounding moves by 0.3%, as it does with other text.
_PRODUCTS: Literal["medium"] = "medium"


def segments_of(decoder: Decoder) -> list[nn.Module]:
    """The segments in their order; of the last one only the layer's end, without the LM head."""
    return [decoder.entry, *decoder.middles, cast(Exit, decoder.exit).end]


def head_of(decoder: Decoder) -> LogitsHead:
    """The last norm and the LM head."""
    return cast(Exit, decoder.exit).head


def linears_of(segment: nn.Module) -> list[FloatLinear]:
    """The float linears of a segment that are quantized as `quantize.linear` says: attention's and the MLPs'."""
    return [
        module
        for module in segment.modules()
        if isinstance(module, FloatLinear) and module.role in ("attention", "mlp")
    ]


def first_given(decoder: Decoder, window: torch.Tensor) -> SegmentInputs:
    """What the first segment is given for a window of tokens int64 [T]."""
    return (decoder.embedding(window[None]).float(),)


def step(
    decoder: Decoder,
    number: int,
    segment: nn.Module,
    given: SegmentInputs,
    start: int = 0,
    keys: Keys | None = None,
) -> SegmentInputs:
    """What the segment after this one is given; after the last, the hidden states [1, T, H].

    Args:
        start: position of the first token; those before it must have gone through this segment.
        keys: of this text, where several take turns in the decoder's caches; filled on the way.
    """
    surroundings = decoder.surroundings(start, given[0].shape[1])
    if number == len(decoder.attentions):
        return (segment(*given),)
    attention, (rotation, mask) = decoder.attentions[number], surroundings[number]
    outputs = segment(*given, *rotation)
    hidden, queries = (given, outputs) if number == 0 else (outputs[:1], outputs[1:])
    if keys is not None:
        if attention.source is not None:
            attention.holder.write(start, *keys[decoder.attentions.index(attention.holder)])
        elif is_read(decoder, number):
            keys[number] = queries[1:]
    return (*hidden, attention(start, mask, *queries))


def is_read(decoder: Decoder, number: int) -> bool:
    """Whether other layers read the keys and values of an attention."""
    return any(other.source is decoder.attentions[number] for other in decoder.attentions)


@contextmanager
def in_float(module: nn.Module, products: Literal["highest", "medium"] | None = None) -> Iterator[None]:
    """With the weights and biases of a module's linears in float32, whatever type they are stored in.

    Args:
        products: torch's `float32_matmul_precision` within the block; by default that of a walk.
    """
    stored = {linear: (linear.weight, linear.bias) for linear in module.modules() if isinstance(linear, nn.Linear)}
    for linear, (weight, bias) in stored.items():
        linear.weight = nn.Parameter(weight.float(), requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.float(), requires_grad=False)
        page_out(weight)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(products or _PRODUCTS)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for linear, (weight, bias) in stored.items():
            linear.weight, linear.bias = weight, bias
