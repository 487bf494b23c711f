"""Where each model family keeps its decoder layers, norms and MLP projections.

A family is a description, not a copy of a model: every family here is the same decoder

    h = embed(tokens)
    for each layer:  h = h + post_attention_norm(attention(pre_attention_norm(h)))
                     h = h + post_mlp_norm(down(act(gate(x)) * up(x))),  x = pre_mlp_norm(h)
    logits = head(final_norm(h))

in which some norms are absent, some projections are stored fused, and attention has a few options. What differs
from layer to layer (sliding windows, RoPE or none) is read from the Hugging Face modules themselves.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sharp_mobile.errors import SharpError
from sharp_mobile.model.configuration import Configuration

if TYPE_CHECKING:
    from sharp_mobile.model.modules import SelfAttention


@dataclass(frozen=True)
class Family:
    """Attribute names and conventions of one `config.model_type`; a norm that is None does not exist."""

    model_type: str
    name: str
    pre_attention_norm: str | None = "input_layernorm"
    post_attention_norm: str | None = None
    pre_mlp_norm: str | None = "post_attention_layernorm"
    post_mlp_norm: str | None = None
    qk_norm: Literal["head", "width"] | None = None  # RMS norm of q and k: over each head, or over the full width
    norm_gain_offset: float = 0.0  # Gemma stores gain - 1
    fused_qkv: bool = False  # one `qkv_proj`
    fused_gate_up: bool = False  # one `gate_up_proj`, gate first
    qkv_bias: bool = False  # on q, k and v, whatever the configuration says
    scales_embedding: bool = False  # embedded tokens by the root of the hidden width
    window: Literal["none", "model", "layer"] = "none"  # where the sliding window is: config (all layers), attention
    caps_scores: bool = False  # attention uses `attn_logit_softcapping`
    caps_logits: bool = False  # the LM head uses `final_logit_softcapping`


# Gemma 2 and 3 have a norm on either side of attention and of the MLP.
_GEMMA = Family(
    "gemma2",
    "Gemma 2",
    post_attention_norm="post_attention_layernorm",
    pre_mlp_norm="pre_feedforward_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
    norm_gain_offset=1.0,
    scales_embedding=True,
    window="layer",
    caps_scores=True,
    caps_logits=True,
)

FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", "Llama 2/3, SmolLM2"),
        Family("mistral", "Mistral", window="model"),
        Family("qwen2", "Qwen2/2.5", qkv_bias=True, window="layer"),
        Family("qwen3", "Qwen3", qk_norm="head", window="layer"),
        Family("phi3", "Phi-3", fused_qkv=True, fused_gate_up=True, window="model"),
        _GEMMA,
        # Gemma 3's attention has the setting that caps scores, and does not use it.
        replace(_GEMMA, model_type="gemma3_text", name="Gemma 3 (text)", qk_norm="head", caps_scores=False),
        Family("smollm3", "SmolLM3", window="layer"),
        Family(
            "olmo2",
            "OLMo 2",
            pre_attention_norm=None,
            post_attention_norm="post_attention_layernorm",
            pre_mlp_norm=None,
            post_mlp_norm="post_feedforward_layernorm",
            qk_norm="width",
        ),
    )
}


def family_of(model_type: str) -> Family:
    """The description of a `config.model_type`.

    Raises:
        SharpError: the family is not supported; the message lists those that are.
    """
    if model_type not in FAMILIES:
        known = ", ".join(f"{family.model_type} ({family.name})" for family in FAMILIES.values())
        raise SharpError(f"model type '{model_type}' is not supported; supported are: {known}")
    return FAMILIES[model_type]


def sliding_window(attention: "SelfAttention", config: Configuration) -> int | None:
    """How many positions back a layer's tokens see, themselves included; None for all.

    A configuration may carry settings that its family's modules never read, so the family decides where to look.
    """
    where = family_of(config.model_type).window
    if where == "none":
        return None
    window: int | None = attention.sliding_window if where == "layer" else config.sliding_window
    return window


def score_cap(config: Configuration) -> float | None:
    """c of the family's c·tanh(score / c) on attention scores; None where it has none."""
    return config.attn_logit_softcapping if family_of(config.model_type).caps_scores else None


def logit_cap(config: Configuration) -> float | None:
    """c of the family's c·tanh(logit / c); None where it has none."""
    return config.final_logit_softcapping if family_of(config.model_type).caps_logits else None
