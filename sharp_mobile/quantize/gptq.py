"""Round weights so that their products, not their numbers, stay what they were: GPTQ on calibration text.

    for each column j of W [out, in], the one with the largest inputs first:
        q_j = round(w_j)
        the columns still to come take over the error (w_j − q_j) in the direction that H = Σ x xᵀ says is felt least

Frantar et al. 2022 (arXiv:2210.17323). The scale of a group of columns is fixed before, from the weights as they were:
the one of many that clips them to the least error, every column counted by its inputs, Σ_j H_jj (w_j − q_j)². So the
columns may be rounded in any order, whatever group they lie in. Every token counts 1/‖x‖²: a few tokens (the first one
of a text above all) have inputs a hundred times larger than all others, and would decide alone. A weight that several
layers call sees the inputs of all of them.

The text goes through the float model segment by segment, all windows at once. A weight is rounded when its last user
has seen the text, so what is held at a time is the float weights and the H of one segment, and those of the references
whose targets are still to come. Weights that `bit_allocation` finds to cost most are then rounded to 8 bits instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from sharp_mobile.console import progress_bar
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import QuantizedLinear
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.segment_walk import Keys, first_given, in_float, linears_of, segments_of, step
from sharp_mobile.quantize.bit_allocation import Candidate, choose, sensitivities
from sharp_mobile.quantize.nearest import quantize_linear
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.system.memory import page_out

# H gets this fraction of its mean diagonal added, so that inputs that never come are not trusted with errors.
_DAMPING = 0.05
# The largest weight of a group is clipped to at least this fraction of itself; so many scales are tried.
_CLIPS = torch.linspace(0.55, 1.1, 20)
# Columns that are rounded before their errors go to the rest, and numbers whose scales are searched at a time.
_BLOCK, _AT_ONCE = 32, 1 << 17
# Windows that sensitivities are taken from.
_SENSITIVITY_WINDOWS = 2


@torch.no_grad()
def round_to_text(decoder: Decoder, windows: torch.Tensor, settings: QuantizeSettings) -> None:
    """Round the 4-bit linears of a float `Decoder` by calibration text, in place; all others stay for `quantize`.

    Recovery parameters and the LM head are left, too.

    Args:
        windows: tokens int64 [windows, T], T at most the decoder's cache.
    """
    if settings.linear != 4:
        return
    few = windows[:: -(-len(windows) // _SENSITIVITY_WINDOWS)]
    found = sensitivities(decoder, few) if settings.eight_bit_budget else {}
    segments, candidates = segments_of(decoder), []
    for linear, hessian in _hessians(decoder, windows):
        codes, scales, errors = round_weight(linear.weight, hessian, settings.group_size)
        bias = None if linear.bias is None else linear.bias.detach().float()
        rounded = QuantizedLinear(codes, scales, 4, bias, linear.role)
        _replace(segments, linear, rounded)
        if settings.eight_bit_budget:
            candidates.append(Candidate(linear, rounded, float(found[linear] @ errors / hessian.trace())))
    for chosen in choose(candidates, settings.group_size, settings.eight_bit_budget):
        _replace(segments, chosen.rounded, quantize_linear(chosen.linear, 8, 0))


def _hessians(decoder: Decoder, windows: torch.Tensor) -> Iterator[tuple[FloatLinear, torch.Tensor]]:
    """Each linear that is to be rounded, with its H [in, in], as soon as its last user has seen the text."""
    segments = segments_of(decoder)
    last_user = {linear: number for number, segment in enumerate(segments) for linear in linears_of(segment)}
    hessians: dict[FloatLinear, torch.Tensor] = {}
    inputs = [first_given(decoder, window) for window in windows]
    keys: list[Keys] = [{} for _ in windows]
    bar = progress_bar(segments, desc="round", unit="segment")
    for number, segment in enumerate(bar):
        with in_float(segment), _collected(linears_of(segment), hessians):
            inputs = [step(decoder, number, segment, given, keys=its) for given, its in zip(inputs, keys, strict=True)]
        for linear in [linear for linear in hessians if last_user[linear] == number]:
            yield linear, hessians.pop(linear)


@contextmanager
def _collected(linears: list[FloatLinear], hessians: dict[FloatLinear, torch.Tensor]) -> Iterator[None]:
    """Add the inputs of all calls in the block to each linear's H [in, in]."""
    latest: list[torch.Tensor] = []  # an input and its products: q, k and v read the same one

    def collect(linear: FloatLinear, inputs: tuple[torch.Tensor, ...]) -> None:
        if not latest or latest[0] is not inputs[0]:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
            latest[:] = [inputs[0], rows.T @ rows]
        hessians[linear] += latest[1]

    for linear in linears:
        hessians.setdefault(linear, torch.zeros(linear.in_features, linear.in_features))
    hooks = [linear.register_forward_pre_hook(collect) for linear in linears]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _replace(segments: list[nn.Module], old: nn.Module, new: nn.Module) -> None:
    """Put one linear wherever another is called."""
    for segment in segments:
        for module in list(segment.modules()):
            for name, child in list(module.named_children()):
                if child is old:
                    setattr(module, name, new)


class Rounded(NamedTuple):
    """A weight [out, in] at 4 bits.

    codes: int8 [out, in], within −8…7. scales: float32 [out, in / group], representable in bfloat16. errors: of each
    row, (w − q) H (w − q)ᵀ with the damped H, float32 [out].
    """

    codes: torch.Tensor
    scales: torch.Tensor
    errors: torch.Tensor


def round_weight(weight: torch.Tensor, hessian: torch.Tensor, group: int) -> Rounded:
    """Round a weight [out, in] so that its products with inputs of H = `hessian` = Σ x xᵀ [in, in] stay the same."""
    rows, width = weight.shape
    order = hessian.diagonal().argsort(descending=True, stable=True)
    damped = hessian + _DAMPING * hessian.diagonal().mean().clamp_min(1e-12) * torch.eye(width)
    # Row j of this factor says where the error of column j goes, once all columns before it are rounded.
    spread = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped[order][:, order])), upper=True)
    scales = clipped_scales(weight, damped.diagonal(), group)
    columns = weight.detach()[:, order].float().T.contiguous()  # a column is a row here, read and written in one go
    codes, totals = torch.empty(width, rows, dtype=torch.int8), torch.zeros(rows)
    places, scale_of = order.tolist(), scales.T.contiguous()
    for first in range(0, width, _BLOCK):
        block, errors = columns[first : first + _BLOCK], torch.empty(_BLOCK, rows)
        for j, column in enumerate(block):
            scale = scale_of[places[first + j] // group]
            code = (column / scale).round_().clamp_(-8, 7)
            codes[places[first + j]] = code
            row = spread[first + j, first + j : first + _BLOCK]
            errors[j] = (column - code * scale) / row[0]
            block[j + 1 :] -= row[1:, None] * errors[j]
        totals += errors.square().sum(dim=0)
        columns[first + _BLOCK :] -= spread[first : first + _BLOCK, first + _BLOCK :].T @ errors
    page_out(weight)
    return Rounded(codes.T.contiguous(), scales, totals)


def clipped_scales(weight: torch.Tensor, importance: torch.Tensor, group: int) -> torch.Tensor:
    """Scales float32 [out, in / group] that round a weight [out, in] to the nearest with the least weighted error.

    They are representable in bfloat16, since XNNPACK stores them so. A group of zeros gets scale 1, so that equal codes
    always come with equal scales.

    Args:
        importance: of each column, [in].
    """
    found = torch.empty(weight.shape[0], weight.shape[1] // group)
    importance = importance.reshape(-1, group)
    count = max(1, _AT_ONCE // weight.shape[1])
    for first in range(0, weight.shape[0], count):
        groups = weight[first : first + count].detach().float().reshape(-1, *importance.shape)
        whole = groups.abs().amax(dim=-1) / 7.5  # between the codes −8 and 7
        least, best = torch.full_like(whole, float("inf")), torch.ones_like(whole)
        for scale in (_CLIPS[:, None, None] * whole).clamp_min(torch.finfo(torch.bfloat16).tiny).to(torch.bfloat16):
            scale = scale.float()
            ideal = groups / scale[..., None]
            lost = ideal.round().clamp_(-8, 7).sub_(ideal).square_().mul_(importance).sum(dim=-1) * scale.square()
            better = lost < least
            least, best = torch.where(better, lost, least), torch.where(better, scale, best)
        found[first : first + count] = torch.where(whole == 0, 1.0, best)
    return found
