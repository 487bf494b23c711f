"""From a Hugging Face model to the decoder: what a family is, `families.py` says; what a layer has, its modules say."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.decoder.attention import Attention, AttentionSettings, PortableAttention, Rotation
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.fuse import Projections, fuse
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.options import DecoderOptions, decoder_options
from sharp_mobile.decoder.projections import LowRank, SharedFloats
from sharp_mobile.decoder.segments import (
    AttentionInput,
    Entry,
    Exit,
    GatedMLP,
    Heads,
    LayerOutput,
    LayerOutputs,
    LayerWithoutAttention,
    LogitsHead,
    Middle,
    RMSNorm,
)
from sharp_mobile.model.basis import mlp_linears
from sharp_mobile.model.configuration import Configuration
from sharp_mobile.model.families import Family, family_of, logit_cap, score_cap, sliding_window
from sharp_mobile.model.modules import (
    DecoderLayer,
    RotaryEmbedding,
    SelfAttention,
    causal_lm,
    decoder_layers,
    mlp_activation,
    mlp_biases,
    rms_norm,
)
from sharp_mobile.model.share import SharedMLP, own_mlp
from sharp_mobile.model.shared_attention import KeptProjection, NoAttention, OwnQuery, SharedLinear, attention_recovery
from sharp_mobile.recipe.lower_settings import LowerSettings


@torch.no_grad()
def build_decoder(model: PreTrainedModel, settings: LowerSettings) -> Decoder:
    """The decoder of a Hugging Face causal language model, plain or shared, in float and without copying weights.

    Raises:
        SharpError: an unsupported family or RoPE type, or options that the model's decoder cannot have.
    """
    lm = causal_lm(model)
    config, base = lm.config, lm.model
    family = family_of(config.model_type)
    architecture = architecture_of(model.config.to_dict())
    options = decoder_options(settings, architecture)
    options.check(architecture)
    layers = decoder_layers(model)
    attending = [layer for layer in layers if not isinstance(layer.self_attn, NoAttention)]
    rotations, rotation_of = _rotations(base.rotary_emb, attending, options.max_length)
    heads = _heads(layers[0].self_attn, config, rotations)
    floats = SharedFloats(_called(layers))
    starts = _attention_inputs(layers, family, heads, rotation_of, floats)
    ends = _layer_ends(layers, family, floats)
    head = LogitsHead(
        _norm(base.norm, family),
        FloatLinear(lm.lm_head.weight, "lm_head", lm.lm_head.bias),
        logit_cap(config),
    )
    return Decoder(
        _embedding(base.embed_tokens),
        Entry(starts[0]),
        [Middle(end, start) for end, start in zip(ends, starts[1:], strict=False)],
        Exit(ends[-1], head),
        _attentions(layers, config, heads, options),
        rotations,
        rotation_of,
        options,
    ).eval()


def _norm(module: nn.Module, family: Family) -> RMSNorm:
    norm = rms_norm(module)
    epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return RMSNorm(norm.weight.float() + family.norm_gain_offset, epsilon)


def _optional_norm(layer: DecoderLayer, attribute: str | None, family: Family) -> RMSNorm | None:
    return None if attribute is None else _norm(getattr(layer, attribute), family)


def _embedding(embedding: nn.Embedding) -> nn.Embedding:
    """The lookup table; Gemma's scaling of the embedded tokens goes into a separate float table."""
    weight = embedding.weight.detach()
    scale: torch.Tensor | None = getattr(embedding, "embed_scale", None)
    if scale is not None:
        weight = weight.float() * scale
    table: nn.Embedding = nn.Embedding.from_pretrained(weight, freeze=True)
    return table


def _heads(attention: SelfAttention, config: Configuration, rotations: list[Rotation]) -> Heads:
    rotary = rotations[0].rotary if rotations else 0
    return Heads(config.num_attention_heads, config.num_key_value_heads, attention.head_dim, rotary)


def _rotations(
    rotary: RotaryEmbedding, layers: Sequence[DecoderLayer], max_length: int
) -> tuple[list[Rotation], list[int | None]]:
    """The distinct RoPE tables of a model, and which of them each layer uses (None: no RoPE)."""
    tables: dict[str, Rotation] = {}
    rotation_of: list[int | None] = []
    for layer in layers:
        attention = layer.self_attn
        if not getattr(attention, "use_rope", True):
            rotation_of.append(None)
            continue
        kind = attention.layer_type if isinstance(rotary.rope_type, dict) else ""
        if kind not in tables:
            tables[kind] = _rotation(rotary, kind, max_length, attention.head_dim)
        rotation_of.append(list(tables).index(kind))
    return list(tables.values()), rotation_of


def _rotation(rotary: RotaryEmbedding, kind: str, max_length: int, width: int) -> Rotation:
    prefix = f"{kind}_" if kind else ""
    rope_type = rotary.rope_type[kind] if isinstance(rotary.rope_type, dict) else rotary.rope_type
    frequencies = getattr(rotary, f"{prefix}original_inv_freq")
    if rope_type == "longrope":
        # Hugging Face changes the frequencies with the text's length; a cache cannot, so the exported length decides.
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](rotary.config, None, seq_len=max_length)
    return Rotation(frequencies, getattr(rotary, f"{prefix}attention_scaling"), width)


def _called(layers: Sequence[DecoderLayer]) -> set[nn.Module]:
    """The linears of attention whose weights other layers call."""
    modules = [module for layer in layers for module in cast(nn.Module, layer.self_attn).modules()]
    return {module.reference for module in modules if isinstance(module, SharedLinear) and module.base is None}


def _attention_inputs(
    layers: Sequence[DecoderLayer],
    family: Family,
    heads: Heads,
    rotation_of: list[int | None],
    floats: SharedFloats,
) -> list[AttentionInput]:
    """What comes before each attention; a reference and its targets hold the same linear objects."""
    inputs, turned = [], iter(rotation_of)
    for number, layer in enumerate(layers, start=1):
        attention = layer.self_attn
        if isinstance(attention, NoAttention):
            continue
        q, k, v = _projections(attention, family, heads, floats)
        normed, own_keys = family.qk_norm is not None, k is not None
        start = AttentionInput(
            _optional_norm(layer, family.pre_attention_norm, family),
            q,
            k,
            v,
            heads if next(turned) is not None else heads._replace(rotary=0),
            _norm(attention.q_norm, family) if normed else None,
            _norm(attention.k_norm, family) if normed and own_keys else None,
            family.qk_norm != "width",
        )
        start.place = f"layers.{number}.attention"
        inputs.append(start)
    return inputs


def _projections(
    attention: SelfAttention, family: Family, heads: Heads, floats: SharedFloats
) -> tuple[nn.Module, nn.Module | None, nn.Module | None]:
    """q, k and v of an attention; no k and v if it reads another one's."""
    queries, keys = heads.queries * heads.width, heads.keys * heads.width
    if family.fused_qkv:
        fused = attention.qkv_proj
        if isinstance(fused, OwnQuery):
            return floats.parts(fused.q, [queries], "attention")[0], None, None
        q, k, v = floats.parts(fused, [queries, keys, keys], "attention")
        return q, k, v
    (q,) = floats.parts(attention.q_proj, [queries], "attention")
    if isinstance(attention.k_proj, KeptProjection):
        return q, None, None
    k, v = (floats.parts(linear, [keys], "attention")[0] for linear in (attention.k_proj, attention.v_proj))
    return q, k, v


def _layer_ends(
    layers: Sequence[DecoderLayer], family: Family, floats: SharedFloats
) -> list[LayerOutput | LayerOutputs]:
    """What follows each attention, up to the next one."""
    projections: dict[int, Projections] = {}
    runs: list[tuple[LayerOutput, list[LayerWithoutAttention]]] = []
    for index, layer in enumerate(layers):
        mlp = _mlp(index, layer, projections, floats)
        post_attention, pre_mlp, post_mlp = (
            _optional_norm(layer, norm, family) if norm is None or used else None
            for norm, used in (
                (family.post_attention_norm, True),
                (family.pre_mlp_norm, mlp is not None),
                (family.post_mlp_norm, mlp is not None),
            )
        )
        attention = layer.self_attn
        if isinstance(attention, NoAttention):
            bypass = None if attention.bypass is None else LowRank(attention.bypass)
            if bypass is None and mlp is None:
                continue
            pre_attention = None if bypass is None else _optional_norm(layer, family.pre_attention_norm, family)
            post_attention = None if bypass is None else post_attention
            alone = LayerWithoutAttention(bypass, mlp, pre_attention, post_attention, pre_mlp, post_mlp)
            alone.place = f"layers.{index + 1}"
            runs[-1][1].append(alone)
            continue
        (o,) = floats.parts(attention.o_proj, [attention.o_proj.out_features], "attention")
        end = LayerOutput(o, mlp, post_attention, pre_mlp, post_mlp)
        end.place = f"layers.{index + 1}"
        runs.append((end, []))
    return [LayerOutputs(end, others) if others else end for end, others in runs]


def _mlp(
    index: int, layer: DecoderLayer, projections: dict[int, Projections], floats: SharedFloats
) -> nn.Module | None:
    """A layer's MLP; a reference and its targets hold the same linear objects. None where it is left out."""
    shared = layer.mlp if isinstance(layer.mlp, SharedMLP) else None
    if shared is None or shared.base is not None:
        plain = own_mlp(layer.mlp)
        parts = [
            part
            for place in mlp_linears(plain)
            for part in floats.parts(place.linear, place.sizes, "mlp", biases=False)
        ]
        projections[index] = Projections(*parts)
    if shared is None:
        return GatedMLP(*projections[index], mlp_activation(layer.mlp), mlp_biases(layer.mlp))
    if shared.recovery.dropped:
        return None
    own = shared.neurons
    if shared.recovery.pruned and own is not None:
        gate, up, down = (FloatLinear(weight, "mlp") for weight in (own.gate, own.up, own.down))
        return GatedMLP(gate, up, down, shared.activation, (own.gate_bias, own.up_bias, shared.bias))
    return fuse(shared, projections[shared.reference_layer] if shared.recovery.reference else None)


def _attentions(
    layers: Sequence[DecoderLayer], config: Configuration, heads: Heads, options: DecoderOptions
) -> list[Attention]:
    """The attention of each layer that has one; one without keys of its own reads its reference's cache."""
    of: dict[int, Attention] = {}
    for index, layer in enumerate(layers):
        attention = layer.self_attn
        if isinstance(attention, NoAttention):
            continue
        window = sliding_window(attention, config)
        if window is not None and window >= options.max_length:
            window = None
        settings = AttentionSettings(heads, options.max_length, attention.scaling, window, score_cap(config))
        recovery = attention_recovery(attention)
        reads = None if recovery is None or recovery.kind != "kv" else recovery.reference
        of[index] = PortableAttention(settings, None if reads is None else of[reads])
    return list(of.values())
