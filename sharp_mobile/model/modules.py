"""The Hugging Face modules of a decoder, whatever its family names and fuses: layers, norms and MLP projections.

transformers sets the submodules of a model by name, so type checkers know none of them. The protocols here say what is
read of each; which of a protocol's projections and options a family has, its `Family` says.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import nn

from sharp_mobile.model.configuration import Configuration

Activation = Callable[[torch.Tensor], torch.Tensor]


class Norm(Protocol):
    """An RMS norm; ε is `variance_epsilon`, in Gemma `eps`."""

    weight: torch.Tensor
    variance_epsilon: float
    eps: float


class SelfAttention(Protocol):
    """The attention of one layer. q, k and v are three projections, in Phi-3 one `qkv_proj`.

    scaling: factor of the scores. sliding_window: how many positions back a token sees, itself included.
    use_rope: only SmolLM3 has it. layer_type: names its RoPE table where a model has several. layer_idx: its place in
    the KV cache.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    qkv_proj: nn.Linear
    o_proj: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    head_dim: int
    scaling: float
    sliding_window: int | None
    use_rope: bool
    layer_type: str
    layer_idx: int


class PlainMLP(Protocol):
    """A gated MLP as transformers builds it. gate and up are two projections, in Phi-3 one `gate_up_proj`."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    gate_up_proj: nn.Linear
    down_proj: nn.Linear
    act_fn: Activation
    activation_fn: Activation


class DecoderLayer(Protocol):
    """One layer; its norms are read by the names that a `Family` gives, see `norm`.

    mlp: a plain one (see `plain_mlp`), or what has taken its place.
    """

    self_attn: SelfAttention
    mlp: nn.Module
    training: bool


class LayerParts(NamedTuple):
    """The two parts of a layer that can be replaced."""

    self_attn: SelfAttention
    mlp: nn.Module


class RotaryEmbedding(Protocol):
    """The RoPE tables of a model.

    With several tables, as in Gemma 3, `rope_type` has an entry for each layer type, and tensors are named after it.
    """

    rope_type: str | dict[str, str]
    config: Configuration


class BodyOutput(Protocol):
    """What a `TransformerBody` answers: the hidden states after its final norm, [batch, T, hidden]."""

    last_hidden_state: torch.Tensor


class TransformerBody(Protocol):
    """A causal language model without its LM head."""

    embed_tokens: nn.Embedding
    layers: nn.ModuleList
    norm: nn.Module
    rotary_emb: RotaryEmbedding

    def __call__(self, *, input_ids: torch.Tensor, use_cache: bool) -> BodyOutput: ...


class CausalLM(Protocol):
    """A causal language model of a supported family."""

    config: Configuration
    model: TransformerBody
    lm_head: nn.Linear


def causal_lm(model: nn.Module) -> CausalLM:
    """The same Hugging Face causal language model, with the types of what is read of it."""
    return cast(CausalLM, model)


class MLPWeights(NamedTuple):
    """One gated MLP's projections, as views of its parameters: gate and up [inner, hidden], down [hidden, inner]."""

    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


def decoder_layers(model: nn.Module) -> Sequence[DecoderLayer]:
    """The decoder layers of a Hugging Face causal language model, in order."""
    return cast(Sequence[DecoderLayer], causal_lm(model).model.layers)


def layer_parts(model: nn.Module, layers: Iterable[int]) -> dict[int, LayerParts]:
    """Attention and MLP of layers (0-based) of a model, as they are now."""
    modules = decoder_layers(model)
    return {layer: LayerParts(modules[layer].self_attn, modules[layer].mlp) for layer in layers}


def norm(layer: DecoderLayer, attribute: str | None) -> nn.Module:
    """A layer's norm by the attribute name that a `Family` gives; the identity where the family has none."""
    found: nn.Module = nn.Identity() if attribute is None else getattr(layer, attribute)
    return found


def rms_norm(module: nn.Module) -> Norm:
    """The same RMS norm, with the types of what is read of it."""
    return cast(Norm, module)


class NoMLP(nn.Module):
    """An MLP that answers zero, as one whose weights are all zero does; a layer with it has only its attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> zeros of the same shape."""
        return torch.zeros_like(x)


def plain_mlp(mlp: nn.Module) -> PlainMLP:
    """The same MLP as transformers built it, with the types of its projections."""
    return cast(PlainMLP, mlp)


def mlp_weights(mlp: nn.Module) -> MLPWeights:
    """A plain Hugging Face MLP's projections; a fused gate and up are given as two views of one tensor."""
    plain = plain_mlp(mlp)
    if hasattr(plain, "gate_up_proj"):
        gate, up = plain.gate_up_proj.weight.chunk(2, dim=0)
        return MLPWeights(gate, up, plain.down_proj.weight)
    return MLPWeights(plain.gate_proj.weight, plain.up_proj.weight, plain.down_proj.weight)


def mlp_biases(mlp: nn.Module) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """A plain Hugging Face MLP's biases in the order gate, up, down; None where it has none."""
    plain = plain_mlp(mlp)
    if hasattr(plain, "gate_up_proj"):
        bias = plain.gate_up_proj.bias
        gate, up = (None, None) if bias is None else bias.chunk(2, dim=0)
        return gate, up, plain.down_proj.bias
    return plain.gate_proj.bias, plain.up_proj.bias, plain.down_proj.bias


def mlp_activation(mlp: nn.Module) -> Activation:
    """The activation between gate and up."""
    plain = plain_mlp(mlp)
    return plain.activation_fn if hasattr(plain, "activation_fn") else plain.act_fn


def mlp_inner(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a plain MLP's down projection reads: x [..., hidden] -> [..., inner]."""
    weights, (gate_bias, up_bias, _) = mlp_weights(mlp), mlp_biases(mlp)
    return mlp_activation(mlp)(F.linear(x, weights.gate, gate_bias)) * F.linear(x, weights.up, up_bias)
