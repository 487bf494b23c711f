"""Which linears get 8 bits instead of 4, when some bytes may be spent: those whose rounding changes the most of what
the model says, a byte.

A linear y = W x whose row o is rounded with the error e_o changes the model's predictions, to second order, by

    KL ≈ ½ Σ_o E[(g_o · e_o x)²],   g = ∂ log p(t) / ∂y  for a token t drawn from the model's own prediction

(the Fisher information of y). With tokens that count 1/‖x‖², as in `gptq`, this is taken apart:

    KL ≈ ½ Σ_o E[(g_o ‖x‖)²] · e_o H e_oᵀ / tr H,   H = Σ x xᵀ / ‖x‖²

The first factor comes from one pass forwards and backwards, a segment at a time; the second is what rounding reports.
Linears are taken in the order of KL per extra byte as long as the bytes last. A shared weight counts once, with the
sum over its users. SmolLM2-135M: the down projections and v come first, q and o last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sharp_mobile.console import progress_bar
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.segment_walk import (
    Keys,
    SegmentInputs,
    first_given,
    head_of,
    in_float,
    linears_of,
    segments_of,
    step,
)
from sharp_mobile.quantize.groups import budgeted_bytes, extra_bytes


class Candidate(NamedTuple):
    """A linear [out, in], itself at 4 bits, and the KL that these cost, in a unit that all candidates share."""

    linear: FloatLinear
    rounded: nn.Module
    divergence: float


def choose(candidates: list[Candidate], group: int, share: float) -> list[Candidate]:
    """Those that get 8 bits for `budgeted_bytes`, the one that is worth it most first."""

    def shape(candidate: Candidate) -> tuple[int, int]:
        return candidate.linear.out_features, candidate.linear.in_features

    def worth(candidate: Candidate) -> float:
        return candidate.divergence / extra_bytes(shape(candidate), group)

    left = budgeted_bytes(map(shape, candidates), group, share)
    chosen = []
    for candidate in sorted(candidates, key=worth, reverse=True):
        cost = extra_bytes(shape(candidate), group)
        if cost <= left:
            chosen.append(candidate)
            left -= cost
    return chosen


def sensitivities(decoder: Decoder, windows: torch.Tensor) -> dict[FloatLinear, torch.Tensor]:
    """Of each linear that is to be rounded, Σ (g_o ‖x‖)² of its rows o, float32 [out], over all tokens and users.

    Each window goes forwards through all segments, then backwards, each segment computed again: memory holds one
    segment in float and what every segment was given, 8 bytes a token, layer and hidden width.

    Args:
        windows: tokens int64 [windows, T], T at most the decoder's cache.
    """
    segments = segments_of(decoder)
    found = {linear: torch.zeros(linear.out_features) for segment in segments for linear in linears_of(segment)}
    generator = torch.Generator().manual_seed(0)
    for window in progress_bar(windows, desc="sensitivity", unit="window"):
        given, keys = [first_given(decoder, window)], Keys()
        with torch.no_grad():
            for number, segment in enumerate(segments):
                with in_float(segment):
                    given.append(step(decoder, number, segment, given[-1], keys=keys))
        (gradients,) = _head_gradient(head_of(decoder), given.pop(), generator)
        upstream: SegmentInputs = (gradients,)
        of_keys: Keys = {}  # gradients at what attentions give to others
        for number in reversed(range(len(segments))):
            upstream = _backwards(decoder, number, segments[number], given[number], upstream, keys, of_keys, found)
    return found


def _head_gradient(head: nn.Module, given: SegmentInputs, generator: torch.Generator) -> SegmentInputs:
    """The gradient of −log p at the last layer's hidden states, of tokens that the model draws itself."""
    hidden = given[0].requires_grad_()
    with torch.enable_grad(), in_float(head):
        logits = head(hidden)[0]
        drawn = torch.multinomial(logits.detach().softmax(dim=-1), 1, generator=generator)[:, 0]
        return torch.autograd.grad(F.cross_entropy(logits, drawn, reduction="sum"), hidden)


def _backwards(
    decoder: Decoder,
    number: int,
    segment: nn.Module,
    given: SegmentInputs,
    upstream: SegmentInputs,
    keys: Keys,
    of_keys: Keys,
    found: dict[FloatLinear, torch.Tensor],
) -> SegmentInputs:
    """The gradient at what a segment is given, from that at what the next one is; adds to `found` on the way.

    Args:
        keys: what attentions that others read gave to them.
        of_keys: the gradients there so far; those of what this segment's attention reads are added.
    """
    inputs = tuple(tensor.detach().requires_grad_() for tensor in given)
    attention = decoder.attentions[number] if number < len(decoder.attentions) else None
    source = None if attention is None or attention.source is None else decoder.attentions.index(attention.source)
    read = () if source is None else tuple(tensor.detach().requires_grad_() for tensor in keys[source])
    its_keys: Keys = {} if source is None else {source: read}
    with torch.enable_grad(), in_float(segment), _watched(linears_of(segment), found):
        outputs = step(decoder, number, segment, inputs, keys=its_keys)
        outputs, upstream = (*outputs, *its_keys.get(number, ())), (*upstream, *of_keys.pop(number, ()))
        gradients = torch.autograd.grad(outputs[: len(upstream)], (*inputs, *read), upstream)
    if source is not None:
        so_far = of_keys.get(source, tuple(torch.zeros_like(tensor) for tensor in read))
        of_keys[source] = tuple(old + new for old, new in zip(so_far, gradients[len(inputs) :], strict=True))
    if attention is not None:  # the caches were written in place and hold the graph
        for cache in attention.holder.buffers():
            cache.detach_()
    return gradients[: len(inputs)]


@contextmanager
def _watched(linears: list[FloatLinear], found: dict[FloatLinear, torch.Tensor]) -> Iterator[None]:
    """Within the block, backward passes add (g_o ‖x‖)² of every call to what is found of a linear."""

    def watch(linear: FloatLinear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        norms = inputs[0].detach().norm(dim=-1, keepdim=True)

        def add(gradient: torch.Tensor) -> None:
            found[linear] += (gradient * norms).square().flatten(0, -2).sum(dim=0)

        output.register_hook(add)

    hooks = [linear.register_forward_hook(watch) for linear in linears]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
