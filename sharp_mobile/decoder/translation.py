"""Does the float decoder compute what Hugging Face's own modules compute?

    tokens ─┬─► Hugging Face's forward, float32, without a cache ──► logits ─┐
            └─► decoder, segment by segment, in pieces ────────────► logits ─┴─► compare

The `.pte` is compared with the decoder later (`check`), which cannot see that the decoder misread the model: a window
that the family does not have, a scale that it has. So both read one text here, longer than any sliding window that the
exported length lets tokens feel, before anything is rounded. On the way the activations are looked at: a damaged weight
shows as numbers that no trained model has.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.segment_walk import SegmentInputs, head_of, in_float, segments_of, step
from sharp_mobile.errors import SharpError
from sharp_mobile.model.basis import Factors
from sharp_mobile.model.configuration import Configuration
from sharp_mobile.model.modules import causal_lm
from sharp_mobile.model.share import SharedMLP
from sharp_mobile.model.shared_attention import ReferenceNorm, SharedLinear
from sharp_mobile.system.memory import page_out

# The difference of the logits' tokens-by-vocabulary tables, as root mean squares: |ours − theirs| / |theirs − mean|.
# Correct decoders of eleven tiny families, SmolLM2-135M and Qwen2.5-Coder-0.5B stay below 2e-5; a wrong window, cap or
# scale gives 0.01 and more.
TOLERANCE = 1e-3
# The shortest text, how much longer than a window it is, how many of its last tokens are compared, and how many go
# through the decoder at a time.
_SHORTEST, _BEYOND, _COMPARED, _PIECE = 64, 16, 64, 512
# Hidden states of trained models stay below 1e6. Their squares overflow float32 at 1.8e19, where norms give zeros.
LARGEST_ACTIVATION = 1e9
_SEED = 0


def translation_tokens(decoder: Decoder, vocabulary: int) -> torch.Tensor:
    """Random tokens int64 [1, T], more than any window of the decoder's attention, if its cache holds so many."""
    windows = [attention.settings.window or 0 for attention in decoder.attentions]
    length = min(max(_SHORTEST, max(windows) + _BEYOND), decoder.options.max_length)
    return torch.randint(vocabulary, (1, length), generator=torch.Generator().manual_seed(_SEED))


@torch.no_grad()
def check_translation(decoder: Decoder, model: PreTrainedModel) -> float:
    """Compare a float decoder with the Hugging Face model that it was built from.

    Returns:
        The relative difference of their logits (see `TOLERANCE`).

    Raises:
        SharpError: they differ by more than the tolerance, or activations or logits are not those of a trained model:
            not finite, beyond `LARGEST_ACTIVATION`, or the same for every token of the vocabulary.
    """
    tokens = translation_tokens(decoder, model.config.vocab_size)
    ours = _decoder_logits(decoder, tokens)
    theirs = hugging_face_logits(model, tokens, ours.shape[1], decoder.options.max_length)
    if not theirs.isfinite().all() or not ours.isfinite().all():
        raise SharpError(
            "the model's logits are not finite; a weight is damaged: copy or download the checkpoint again"
        )
    spread = theirs - theirs.mean(dim=-1, keepdim=True)
    if not spread.any():
        raise SharpError(
            "the model gives every token of the vocabulary the same logit; a weight is damaged, copy or download "
            "the model again"
        )
    difference = float((ours - theirs).norm() / spread.norm())
    if not difference <= TOLERANCE:
        raise SharpError(
            f"the exported decoder differs from the model: over {tokens.shape[1]} tokens its logits differ from "
            "Hugging Face's by "
            f"{difference:.2g} of their standard deviation, more than the tolerance of {TOLERANCE:g}; nothing was "
            "exported. Please "
            "report it with the model's config.json"
        )
    return difference


def _decoder_logits(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    """Float logits [1, k, V] of the last k tokens, from the segments in turn: one is in float32 at a time."""
    pieces = tokens.split(_PIECE, dim=1)
    starts = [sum(piece.shape[1] for piece in pieces[:i]) for i in range(len(pieces))]
    given: list[SegmentInputs] = [(decoder.embedding(piece).float(),) for piece in pieces]
    for number, segment in enumerate(segments_of(decoder)):
        with in_float(segment, "highest"):
            given = [step(decoder, number, segment, one, start) for one, start in zip(given, starts, strict=True)]
        _check_activations(number, [one[0] for one in given])
    hidden = torch.cat([one[0] for one in given], dim=1)[:, -_COMPARED:]
    head = head_of(decoder)
    with in_float(head, "highest"):
        logits: torch.Tensor = head(hidden)
    return logits


def _check_activations(number: int, hidden: list[torch.Tensor]) -> None:
    """Refuse what no trained model has; `number` counts segments, whose first ends in the first layer's attention."""
    largest = float(torch.stack([one.abs().max() for one in hidden]).max())  # NaN if any is, unlike Python's max
    if not largest <= LARGEST_ACTIVATION:
        where = f"layer {number}" if number else "the embedding"
        what = f"reach {largest:.2g}" if math.isfinite(largest) else "are not finite"
        raise SharpError(
            f"after {where} the model's hidden states {what}; a weight there or before it is damaged, copy or "
            "download the model again"
        )


def hugging_face_logits(model: PreTrainedModel, tokens: torch.Tensor, count: int, max_length: int) -> torch.Tensor:
    """The Hugging Face model's own float32 logits [1, count, V] of the last tokens of int64 [1, T].

    Weights that are stored in 16 bits are made float32 module by module.

    Args:
        max_length: the exported length, which decides between LongRoPE's factors.
    """
    lm = causal_lm(model)
    base = lm.model
    with ExitStack() as stack:
        embedding = base.embed_tokens
        stack.enter_context(_swapped_while_called(embedding, lambda: _rows_in_float(embedding, tokens)))
        for module in (*base.layers, base.norm, lm.lm_head):
            stack.enter_context(_swapped_while_called(module, partial(_in_float, module)))
        logits: torch.Tensor = model(
            input_ids=tokens,
            position_ids=_positions(lm.config, tokens.shape[1], max_length),
            use_cache=False,
            logits_to_keep=count,
        ).logits
    return logits.float()


def _positions(config: Configuration, length: int, max_length: int) -> torch.Tensor:
    """Positions int64 [1, T]; far enough out for Hugging Face to take LongRoPE's long factors, if the export does.

    Attention feels distances alone, so it does not matter where a text begins.
    """
    first = 0
    parameters = config.rope_parameters or {}
    if parameters.get("rope_type") == "longrope":
        given = parameters.get("original_max_position_embeddings")
        original = given if isinstance(given, int) and given else config.original_max_position_embeddings
        first = original if max_length > original else 0
    return (torch.arange(length) + first)[None]


@contextmanager
def _swapped_while_called(module: nn.Module, swap: Callable[[], dict[nn.Parameter, torch.Tensor]]) -> Iterator[None]:
    """With other data in a module's parameters for as long as it is called; `swap` says which."""
    stored: dict[nn.Parameter, torch.Tensor] = {}

    def enter(*_: object) -> None:
        for parameter, data in swap().items():
            stored[parameter], parameter.data = parameter.data, data

    def leave(*_: object) -> None:
        for parameter, weight in stored.items():
            parameter.data = weight
            page_out(weight)
        stored.clear()

    hooks = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _in_float(module: nn.Module) -> dict[nn.Parameter, torch.Tensor]:
    """A module's parameters, and those that it shares with other layers, in float32."""
    parameters = list(module.parameters())
    for part in module.modules():
        if isinstance(part, SharedMLP | SharedLinear | ReferenceNorm):
            parameters += part.reference.parameters()
        elif isinstance(part, Factors):
            parameters.append(part.basis)
    return {parameter: parameter.float() for parameter in parameters if parameter.dtype != torch.float32}


def _rows_in_float(embedding: nn.Embedding, tokens: torch.Tensor) -> dict[nn.Parameter, torch.Tensor]:
    """A table with the rows of these tokens in float32, and zeros instead of the others."""
    weight = embedding.get_parameter("weight")
    if weight.dtype == torch.float32:
        return {}
    # Pages of zeros that nobody touches take no memory; `torch.zeros` touches them.
    table = torch.from_numpy(np.zeros(tuple(weight.shape), dtype=np.float32))
    rows = tokens.unique()
    table[rows] = weight[rows].float()
    return {weight: table}
