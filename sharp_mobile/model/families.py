"""Where each model family keeps its decoder layers, norms and MLP projections.

A family is a description, not a copy of a model: every family here is the same decoder

    h = embed(tokens)
    for each layer:  h = h + post_attention_norm(attention(pre_attention_norm(h)))
                     h = h + post_mlp_norm(down(act(gate(x)) * up(x))),  x = pre_mlp_norm(h)
    logits = head(final_norm(h))

in which some norms are absent, some projections are stored fused, and attention has a few options. What differs
from layer to layer (sliding windows, RoPE or none) is read from the Hugging Face modules themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sharp_mobile.errors import SharpError


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
    window="layer",
    caps_scores=True,
    caps_logits=True,
)

FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", "Llama 2/3, SmolLM2"),
        Family("mistral", "Mistral", window="model"),
        Family("qwen2", "Qwen2/2.5", window="layer"),
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


def sliding_window(attention: Any, config: Any) -> int | None:
    """How many positions back a layer's tokens see, themselves included; None for all.

    A configuration may carry settings that its family's modules never read, so the family decides where to look.
    """
    where = family_of(config.model_type).window
    if where == "none":
        return None
    window: int | None = attention.sliding_window if where == "layer" else config.sliding_window
    return window


def score_cap(config: Any) -> float | None:
    """c of the family's c·tanh(score / c) on attention scores; None where it has none."""
    return config.attn_logit_softcapping if family_of(config.model_type).caps_scores else None


def logit_cap(config: Any) -> float | None:
    """c of the family's c·tanh(logit / c); None where it has none."""
    return config.final_logit_softcapping if family_of(config.model_type).caps_logits else None


class MLPWeights(NamedTuple):
    """One gated MLP's projections, as views of its parameters: gate and up [inner, hidden], down [hidden, inner]."""

    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a Hugging Face causal language model, in order."""
    return model.model.layers


def norm(layer: Any, attribute: str | None) -> nn.Module:
    """A layer's norm by the attribute name that a `Family` gives; the identity where the family has none."""
    return nn.Identity() if attribute is None else getattr(layer, attribute)


class NoMLP(nn.Module):
    """An MLP that answers zero, as one whose weights are all zero does; a layer with it has only its attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> zeros of the same shape."""
        return torch.zeros_like(x)


def mlp_weights(mlp: Any) -> MLPWeights:
    """A plain Hugging Face MLP's projections; a fused gate and up are given as two views of one tensor."""
    if hasattr(mlp, "gate_up_proj"):
        gate, up = mlp.gate_up_proj.weight.chunk(2, dim=0)
        return MLPWeights(gate, up, mlp.down_proj.weight)
    return MLPWeights(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)


def mlp_biases(mlp: Any) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """A plain Hugging Face MLP's biases in the order gate, up, down; None where it has none."""
    if hasattr(mlp, "gate_up_proj"):
        bias = mlp.gate_up_proj.bias
        gate, up = (None, None) if bias is None else bias.chunk(2, dim=0)
        return gate, up, mlp.down_proj.bias
    return mlp.gate_proj.bias, mlp.up_proj.bias, mlp.down_proj.bias


def mlp_activation(mlp: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation between gate and up."""
    return mlp.activation_fn if hasattr(mlp, "activation_fn") else mlp.act_fn


def mlp_inner(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a plain MLP's down projection reads: x [..., hidden] -> [..., inner]."""
    weights, (gate_bias, up_bias, _) = mlp_weights(mlp), mlp_biases(mlp)
    return mlp_activation(mlp)(F.linear(x, weights.gate, gate_bias)) * F.linear(x, weights.up, up_bias)
