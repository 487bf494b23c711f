"""The decoder as it is exported: segments strung together by attention over a KV cache.

One `Decoder` serves all families: what a family is, `families.py` says; what a layer has, its Hugging Face modules
say. It runs in eager mode with float or quantized segments, and is exported with lowered ones.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401  registers llama::custom_sdpa and update_cache
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.checkpoint.config import architecture_of
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


class Rotation(nn.Module):
    """The RoPE tables of given positions, computed as Hugging Face computes them rather than stored.

    Args:
        frequencies: inverse frequencies [rotary / 2], any static scaling (Llama 3, linear, YaRN) included.
        scale: attention scaling of the RoPE type (1 but for YaRN and LongRoPE).
        width: d, the width of a head; dimensions past the rotated ones get cos 1 and sin 0.
    """

    frequencies: torch.Tensor
    cos_scale: torch.Tensor
    sin_scale: torch.Tensor

    def __init__(self, frequencies: torch.Tensor, scale: float, width: int) -> None:
        super().__init__()
        half = frequencies.numel()
        self.rotary = 2 * half
        rest = torch.zeros(width - self.rotary)
        self.register_buffer("frequencies", torch.cat([frequencies.float(), frequencies.float(), rest]))
        rotated = torch.full((half,), scale)
        self.register_buffer("cos_scale", torch.cat([rotated, rotated, rest + 1]))
        self.register_buffer("sin_scale", torch.cat([-rotated, rotated, rest]))

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """positions float [S] → cos and signed sin, each [1, S, 1, d]."""
        angles = positions.view(1, -1, 1, 1) * self.frequencies
        return angles.cos() * self.cos_scale, angles.sin() * self.sin_scale


class AttentionSettings(NamedTuple):
    """The attention of one layer.

    max_length: positions in its KV cache.
    scale: factor of the scores.
    window: how many positions back a token sees, itself included; None for all.
    softcap: c of Gemma 2's c·tanh(score / c); None for none.
    """

    heads: Heads
    max_length: int
    scale: float
    window: int | None
    softcap: float | None


class Attention(nn.Module):
    """Causal attention of one layer over its KV cache; subclasses choose the operator and the cache's layout.

    source: the attention whose cache is read, of a layer that has none of its own; else None.
    """

    k_cache: torch.Tensor
    v_cache: torch.Tensor

    def __init__(
        self,
        settings: AttentionSettings,
        k_shape: tuple[int, ...],
        v_shape: tuple[int, ...],
        source: "Attention | None",
    ) -> None:
        super().__init__()
        self.settings = settings
        self._source = (source,)  # a tuple hides it from PyTorch: its buffers are its own
        if source is None:
            self.register_buffer("k_cache", _untouched_zeros(k_shape))
            self.register_buffer("v_cache", _untouched_zeros(v_shape))

    @property
    def source(self) -> "Attention | None":
        return self._source[0]

    @property
    def holder(self) -> "Attention":
        """The attention that holds the cache."""
        source = self._source[0]
        return self if source is None else source

    def forward(self, start: int, mask: torch.Tensor | None, q: torch.Tensor, *keys: torch.Tensor) -> torch.Tensor:
        """q [1, S, h, d], and k and v [1, S, k, d] if the cache is its own → [1, S, h · d]."""
        if keys:
            self.write(start, *keys)
        return self.read(start, mask, q)

    def write(self, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put keys and values of positions from `start` on into the cache."""
        raise NotImplementedError

    def read(self, start: int, mask: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor:
        """Attend to the cache, which has the positions of q already."""
        raise NotImplementedError


def _untouched_zeros(shape: tuple[int, ...]) -> torch.Tensor:
    """Float zeros that take no memory before they are written; PyTorch's own are written at once."""
    return torch.from_numpy(np.zeros(shape, dtype=np.float32))


class CustomAttention(Attention):
    """`llama::custom_sdpa`, the operator of ExecuTorch's LLM runners, over a cache [1, length, k, d]."""

    def __init__(self, settings: AttentionSettings, source: Attention | None = None) -> None:
        shape = (1, settings.max_length, settings.heads.keys, settings.heads.width)
        super().__init__(settings, shape, shape, source)

    def write(self, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
        torch.ops.llama.update_cache(k, self.k_cache, start)
        torch.ops.llama.update_cache(v, self.v_cache, start)

    def read(self, start: int, mask: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor:
        held = self.holder
        attended: torch.Tensor = torch.ops.llama.custom_sdpa(
            q, held.k_cache, held.v_cache, start, mask, 0.0, mask is None, self.settings.scale
        )
        attended = attended.view(1, -1, self.settings.heads.queries * self.settings.heads.width)
        return attended


class PortableAttention(Attention):
    """Attention in plain operators, for programs without ExecuTorch's LLM operators.

    Keys lie in their cache as the product with the queries reads them, [k, d, length], and values as the product with
    the weights does, [k, length, d]. Both are read as far as they are written, so a step costs by the tokens so far and
    not by the cache's length. The queries of the heads that share a key head are laid one under the other, so keys are
    never repeated.
    """

    def __init__(self, settings: AttentionSettings, source: Attention | None = None) -> None:
        keys, width, length = settings.heads.keys, settings.heads.width, settings.max_length
        super().__init__(settings, (keys, width, length), (keys, length, width), source)

    def write(self, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
        positions = torch.arange(k.shape[1]) + start
        self.k_cache.index_copy_(2, positions, k[0].permute(1, 2, 0))
        self.v_cache.index_copy_(1, positions, v[0].transpose(0, 1))

    def read(self, start: int, mask: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor:
        assert mask is not None
        held, tokens, (queries, keys, width, _) = self.holder, q.shape[1], self.settings.heads
        group, end = queries // keys, start + tokens
        q = (q * self.settings.scale).view(tokens, keys, group, width)
        q = q.permute(1, 2, 0, 3).reshape(keys, group * tokens, width)
        scores = torch.bmm(q, held.k_cache[:, :, :end])
        if self.settings.softcap is not None:
            scores = torch.tanh(scores / self.settings.softcap) * self.settings.softcap
        scores = scores.view(keys, group, tokens, end) + mask
        weights = torch.softmax(scores, dim=-1).view(keys, group * tokens, end)
        attended = torch.bmm(weights, held.v_cache[:, :end]).view(keys, group, tokens, width)
        return attended.permute(2, 0, 1, 3).reshape(1, tokens, queries * width)


class Surroundings(NamedTuple):
    """Of a layer's attention: cos and signed sin (nothing without RoPE), and the mask of its scores."""

    rotation: tuple[torch.Tensor, ...]
    mask: torch.Tensor | None


class Decoder(nn.Module):
    """tokens int64 [1, S], input_pos int64 [1] → logits, writing positions input_pos … input_pos + S − 1 of the cache.

    The signature and the cache are what ExecuTorch's LLM runner expects. As built it computes in eager mode, with
    portable attention; `deployed` makes the one that is exported.
    """

    def __init__(
        self,
        embedding: nn.Module,
        entry: nn.Module,
        middles: list[nn.Module],
        exit_: nn.Module,
        attentions: list[Attention],
        rotations: list[Rotation],
        rotation_of: list[int | None],
        options: DecoderOptions,
    ) -> None:
        super().__init__()
        self.embedding, self.entry, self.exit = embedding, entry, exit_
        self.middles = nn.ModuleList(middles)
        # Lists with known types, next to the ones that register the modules.
        self.attentions, self.rotations = attentions, rotations
        self.attention_modules, self.rotation_modules = nn.ModuleList(attentions), nn.ModuleList(rotations)
        self.rotation_of, self.options = rotation_of, options

    def deployed(self, entry: nn.Module, middles: list[nn.Module], exit_: nn.Module) -> "Decoder":
        """This decoder around lowered segments, with the requested attention operator and its own caches."""
        kind: type[CustomAttention] | type[PortableAttention] = (
            CustomAttention if self.options.attention == "custom_sdpa" else PortableAttention
        )
        of: dict[Attention, Attention] = {}
        for attention in self.attentions:
            of[attention] = kind(attention.settings, None if attention.source is None else of[attention.source])
        attentions = list(of.values())
        return Decoder(
            self.embedding, entry, middles, exit_, attentions, self.rotations, self.rotation_of, self.options
        ).eval()

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        start: int = input_pos[0].item()  # type: ignore[assignment]
        torch._check(start >= 0)
        torch._check(start + tokens.shape[1] <= self.options.max_length)
        surroundings = self.surroundings(start, tokens.shape[1])

        hidden = self.embedding(tokens)
        queries_and_keys = self.entry(hidden, *surroundings[0].rotation)
        for number, middle in enumerate(self.middles):
            attended = self.attentions[number](start, surroundings[number].mask, *queries_and_keys)
            hidden, *queries_and_keys = middle(hidden, attended, *surroundings[number + 1].rotation)
        attended = self.attentions[-1](start, surroundings[-1].mask, *queries_and_keys)
        if not self.options.all_logits:
            # What follows the last attention works token by token, so only the last token needs it.
            hidden, attended = hidden[:, -1:], attended[:, -1:]
        logits: torch.Tensor = self.exit(hidden, attended)[0]
        return logits

    def surroundings(self, start: int, tokens: int) -> list["Surroundings"]:
        """The inputs of each attention other than q, k and v, for S = `tokens` positions from `start` on."""
        positions = torch.arange(tokens) + start
        tables = [rotation(positions.float()) for rotation in self.rotations]
        windows = [attention.settings.window for attention in self.attentions]
        masks = {window: self._mask(positions, start + tokens, window) for window in dict.fromkeys(windows)}
        return [
            Surroundings(() if turned is None else tables[turned], masks[window])
            for turned, window in zip(self.rotation_of, windows, strict=True)
        ]

    def _mask(self, positions: torch.Tensor, end: int, window: int | None) -> torch.Tensor | None:
        """What is added to the scores, 0 or −∞; None where custom_sdpa's own causal mask will do.

        [S, end] for portable attention, which reads the cache up to `end`; [S, length] for custom_sdpa.
        """
        custom = isinstance(self.attentions[0], CustomAttention)
        if window is None and custom:
            return None
        distance = positions.view(-1, 1) - torch.arange(self.options.max_length if custom else end).view(1, -1)
        seen = distance >= 0
        if window is not None:
            seen = seen & (distance < window)
        return torch.where(seen, 0.0, float("-inf"))


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
