"""Merge a SHARP model into a plain Hugging Face one, for runtimes that know nothing of sharing.

Every target gets its own full weights (Eq. 3-6, Θ the reference's weight of the same projection, or the layer's
own one under an adapter):

    lora  α Θ + B A      right  α Θ Cᵀ D + B A      left  α E Fᵀ Θ + B A      hadamard  α (U V) ⊙ Θ + B A

and the plain MLP or attention of its family around them. Matrices that are factored by a basis become C B, and an MLP
or an attention that is left out one of zeros. The logits stay the same, but for the order of rounding; the file is as
large as the original model's again, so this is for comparing and for other tools, not for phones.
"""

import copy
from pathlib import Path
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile import __version__
from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.sharp_format import stored_state, write_model
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import check_writable, replace_directory
from sharp_mobile.files.ownership import MERGED_JSON
from sharp_mobile.model.basis import BASIS_MARK, BasisLinear, layer_bases, matrix_linears
from sharp_mobile.model.modules import DecoderLayer, SelfAttention, causal_lm, decoder_layers, mlp_biases, mlp_weights
from sharp_mobile.model.recovered import RecoveredProjection
from sharp_mobile.model.share import SharedMLP, shared_layers
from sharp_mobile.model.shared_attention import (
    RECOVERY_MARK,
    NoAttention,
    SharedLinear,
    around_same,
    attention_recovery,
)
from sharp_mobile.recipe.recovery import AttentionRecovery
from sharp_mobile.recipe.sharp_json import describe_recoveries


class MergeDescription(BaseModel):
    """merged.json: where a merged model comes from. Other tools do not read it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    fingerprint: str
    plan: str
    recovery: dict[str, dict[str, object]]
    sharp_mobile: str = __version__


def merged_weight(projection: RecoveredProjection, weight: torch.Tensor) -> torch.Tensor:
    """The whole weight [out, in] of a recovered projection, `weight` [out, in] being the reference's."""
    p = projection
    if p.direct:
        return weight.detach().clone()
    match p.form:
        case "right":
            shared = weight @ p.C.T @ p.D
        case "left":
            shared = p.E @ (p.F.T @ weight)
        case "hadamard":
            shared = (p.U @ p.V) * weight
        case _:
            shared = weight
    whole = p.alpha * shared
    return (whole + p.B @ p.A if p.rank else whole).detach()


@torch.no_grad()
def merge_layers(model: nn.Module) -> None:
    """Give every layer of a shared model a plain MLP and attention with whole weights, in place; adapters are merged
    alike.

    Raises:
        SharpError: a layer computes what a plain one cannot. The model is left as it was.
    """
    layers, shared = decoder_layers(model), shared_layers(model)
    attentions = {index: own for index, layer in enumerate(layers) if (own := attention_recovery(layer.self_attn))}
    for layer, mlp in shared.items():
        _check(layer, mlp)
    for layer, own in attentions.items():
        _check_attention(layer, own)
    plain = {layer: _plain_mlp(mlp) for layer, mlp in shared.items()}
    plain_attentions = {layer: _plain_attention(model, layer) for layer in attentions}
    for layer, merged in plain.items():
        layers[layer].mlp = merged
    for layer, whole in plain_attentions.items():
        layers[layer].self_attn = whole
    for each in layers:
        if layer_bases(each):
            _merge_bases(each)


def _check(layer: int, mlp: SharedMLP) -> None:
    recovery, inner = mlp.recovery, len(mlp_weights(mlp.reference).gate)
    if recovery.bypass:
        raise SharpError(
            f"merge: layer {layer + 1} has a linear bypass of rank {recovery.bypass}, and a plain MLP has no place for "
            "it; merge a model that was recovered without (recovery.bypass 0)"
        )
    if recovery.reference and recovery.neurons:
        raise SharpError(
            f"merge: layer {layer + 1} has {recovery.neurons} own neurons beside the shared {inner}, and plain layers "
            f"all have {inner}; merge a model that was recovered without (recovery.neurons 0)"
        )


def _check_attention(layer: int, recovery: AttentionRecovery) -> None:
    if recovery.kind == "kv" and recovery.reference is not None:
        raise SharpError(
            f"merge: layer {layer + 1} reads the keys and values of layer {recovery.reference + 1}, which come of that "
            "layer's input, so that no weights of its own give them; evaluate and export the SHARP checkpoint as it "
            "is, or recover with share: attention"
        )
    if recovery.bypass:
        raise SharpError(
            f"merge: layer {layer + 1} has a linear bypass of rank {recovery.bypass} instead of its attention, "
            "and plain attention has no place for it; merge a model that was recovered without "
            "(recovery.attention_bypass 0)"
        )


def _plain_attention(model: nn.Module, layer: int) -> SelfAttention:
    """The plain attention that answers as a layer's does."""
    attention = decoder_layers(model)[layer].self_attn
    if isinstance(attention, NoAttention):
        return _silent_attention(model, layer)
    plain = around_same(attention)
    plain.__dict__.pop(RECOVERY_MARK)
    for name in ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"):
        shared = getattr(attention, name, None)
        if isinstance(shared, SharedLinear):
            weight = torch.cat([merged_weight(projection, weight) for projection, weight in shared.projections()])
            biases = tuple(projection.bias for projection, _ in shared.projections() if projection.bias is not None)
            setattr(plain, name, _linear(weight, torch.cat(biases) if biases else None))
    return plain


def _silent_attention(model: nn.Module, layer: int) -> SelfAttention:
    """A layer's attention whose linears are all zero."""
    donor = cast(nn.Module, next(its.self_attn for its in decoder_layers(model) if hasattr(its.self_attn, "o_proj")))
    silent: nn.Module = type(donor)(causal_lm(model).config, layer)
    for module in silent.modules():
        if isinstance(module, nn.Linear):
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
    silent.to(next(donor.parameters()).dtype).eval().requires_grad_(False)
    return cast(SelfAttention, silent)


def _merge_bases(layer: DecoderLayer) -> None:
    for owner, attribute, _, _ in matrix_linears(layer):
        linear = getattr(owner, attribute)
        if isinstance(linear, BasisLinear):
            setattr(owner, attribute, _linear(linear.weight, linear.bias))
    layer.self_attn.__dict__.pop(BASIS_MARK)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A linear of these weights."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


def _plain_mlp(mlp: SharedMLP) -> nn.Module:
    """The plain MLP that answers as a shared one does; what it lacks is filled up with neurons that are zero."""
    plain = copy.deepcopy(mlp.reference)
    weights, biases = mlp_weights(plain), mlp_biases(plain)
    if not mlp.recovery.reference:
        for tensor in (*weights, *biases):
            if tensor is not None:
                tensor.zero_()
        own = mlp.neurons
        if own is None:
            return plain
        count = len(own.gate)
        weights.gate[:count], weights.up[:count], weights.down[:, :count] = own.gate, own.up, own.down
        for bias, values in zip(biases, (own.gate_bias, own.up_bias, mlp.bias), strict=True):
            if bias is not None and values is not None:
                bias[: len(values)] = values
        return plain
    parts = zip((mlp.gate, mlp.up, mlp.down), mlp_weights(mlp.reference), weights, biases, strict=True)
    for projection, theta, weight, bias in parts:
        weight.copy_(merged_weight(projection, theta))  # a view, so a fused gate and up are written through it
        if bias is not None and projection.bias is not None:
            bias.copy_(projection.bias)
    return plain


def merge(source: str | Path, out: str | Path) -> Path:
    """Write a SHARP checkpoint as a plain Hugging Face directory: config, weights, tokenizer, generation settings.

    Returns:
        The directory.

    Raises:
        SharpError: the source is no SHARP checkpoint, or cannot be merged exactly; the directory cannot be written.
    """
    directory = check_writable(out, sources=[source])
    checkpoint = open_checkpoint(source)
    if checkpoint.plan is None:
        raise SharpError(f"{source}: shares nothing, so there is nothing to merge; give a SHARP checkpoint")
    merge_layers(checkpoint.model)
    _write(checkpoint, directory)
    return directory


def _write(checkpoint: Checkpoint, directory: Path) -> None:
    model: PreTrainedModel = checkpoint.model
    model.config.dtype = model.dtype  # or readers would round the weights to what the original was stored in
    check_writable(directory, needed=sum(tensor.nbytes for tensor in stored_state(model).values()))
    description = MergeDescription(
        source=checkpoint.source,
        fingerprint=checkpoint.fingerprint,
        plan=str(checkpoint.plan),
        recovery=describe_recoveries(checkpoint.recovery or {}),
    )
    with replace_directory(directory) as partial:
        write_model(model, partial, checkpoint)
        (partial / MERGED_JSON).write_text(description.model_dump_json(indent=1) + "\n", encoding="utf-8")
