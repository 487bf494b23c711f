"""The decoder cut where attention and its cache stand.

Attention and the KV cache run outside XNNPACK, so between two of them lies a stretch that XNNPACK takes whole, a
**segment**: the end of one layer and the start of the next.

    tokens ─ embedding ─► Entry ─(q,k,v)─► attention 1 ─► Middle ─(q,k,v)─► attention 2 ─► … ─► Exit ─► logits
                          norm, qkv, RoPE                  o, MLP of layer 1,                    o, MLP of layer N,
                                                           norm, qkv, RoPE of layer 2            norm, LM head

Everything here is written in operators that the XNNPACK delegate takes with a dynamic sequence length, so that each
segment is one delegate: the mean of an RMS norm is a product with a constant row, and ε is a tensor.

Shapes: S tokens, hidden width H, attention heads h of width d (k for keys and values); batch is 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation

from sharp_mobile.decoder.integer import project


class RMSNorm(nn.Module):
    """x · (mean(x²) + ε)^−½ · gain over the last dimension."""

    gain: torch.Tensor
    mean: torch.Tensor
    epsilon: torch.Tensor

    def __init__(self, gain: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        width = gain.numel()
        self.register_buffer("gain", gain.detach().float().clone())
        self.register_buffer("mean", torch.full((1, width), 1.0 / width))
        self.register_buffer("epsilon", torch.tensor([epsilon]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(F.linear(x * x, self.mean) + self.epsilon) * self.gain


class Heads(NamedTuple):
    """The attention geometry of a model; `rotary` is how many of a head's `width` dimensions RoPE turns."""

    queries: int
    keys: int
    width: int
    rotary: int


def rotate(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor, rotary: int) -> torch.Tensor:
    """RoPE on x [1, S, heads, d].

    cos and signed_sin are [1, S, 1, d]; the first half of the rotated dimensions of signed_sin carries the minus of
    rotate_half, and past the rotated dimensions cos is 1 and signed_sin 0.
    """
    half = rotary // 2
    swapped = [x[..., half:rotary], x[..., :half]]
    if rotary < x.shape[-1]:
        swapped.append(x[..., rotary:])
    return x * cos + torch.cat(swapped, dim=-1) * signed_sin


class AttentionInput(nn.Module):
    """Norm, q/k/v projections, their norms and RoPE: hidden [1, S, H] → q [1, S, h, d], k and v [1, S, k, d].

    Without k and v, for a layer that reads another one's, q alone.
    """

    place = ""  # where names of its tensors say that it is, such as "layers.4.attention"

    def __init__(
        self,
        norm: nn.Module | None,
        q: nn.Module,
        k: nn.Module | None,
        v: nn.Module | None,
        heads: Heads,
        q_norm: RMSNorm | None = None,
        k_norm: RMSNorm | None = None,
        norm_each_head: bool = True,
    ) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v = norm, q, k, v
        self.q_norm, self.k_norm, self.norm_each_head = q_norm, k_norm, norm_each_head
        self.heads = heads

    def forward(self, hidden: torch.Tensor, *rotation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = hidden if self.norm is None else self.norm(hidden)
        if self.k is None or self.v is None:
            (q,) = project(x, self.q)
            q = self._split(q, self.heads.queries, self.q_norm)
            return (self._rotated(q, rotation),)
        q, k, v = project(x, self.q, self.k, self.v)
        q = self._split(q, self.heads.queries, self.q_norm)
        k = self._split(k, self.heads.keys, self.k_norm)
        q, k = self._rotated(q, rotation), self._rotated(k, rotation)
        return q, k, v.view(1, -1, self.heads.keys, self.heads.width)

    def _rotated(self, x: torch.Tensor, rotation: tuple[torch.Tensor, ...]) -> torch.Tensor:
        if not rotation:
            return x
        cos, signed_sin = rotation
        return rotate(x, cos, signed_sin, self.heads.rotary)

    def _split(self, x: torch.Tensor, heads: int, norm: RMSNorm | None) -> torch.Tensor:
        if norm is not None and not self.norm_each_head:
            x = norm(x)
        x = x.view(1, -1, heads, self.heads.width)
        return norm(x) if norm is not None and self.norm_each_head else x

    def extra_repr(self) -> str:
        return f"{self.heads}, norm_each_head={self.norm_each_head}"


class LayerOutput(nn.Module):
    """What follows a layer's attention: output projection, MLP, and their norms and residuals.

    mlp: None where it is left out.
    """

    place = ""  # where names of its tensors say that it is, such as "layers.4"

    def __init__(
        self,
        o: nn.Module,
        mlp: nn.Module | None,
        post_attention_norm: RMSNorm | None,
        pre_mlp_norm: RMSNorm | None,
        post_mlp_norm: RMSNorm | None,
    ) -> None:
        super().__init__()
        self.o, self.mlp = o, mlp
        self.post_attention_norm, self.pre_mlp_norm, self.post_mlp_norm = (
            post_attention_norm,
            pre_mlp_norm,
            post_mlp_norm,
        )

    def forward(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        (attended,) = project(attended, self.o)
        hidden = hidden + _maybe(self.post_attention_norm, attended)
        return _add_mlp(hidden, self.mlp, self.pre_mlp_norm, self.post_mlp_norm)


class LayerWithoutAttention(nn.Module):
    """A layer whose attention is left out, or a linear map: it works token by token, so it needs no cut."""

    place = ""

    def __init__(
        self,
        bypass: nn.Module | None,
        mlp: nn.Module | None,
        pre_attention_norm: RMSNorm | None,
        post_attention_norm: RMSNorm | None,
        pre_mlp_norm: RMSNorm | None,
        post_mlp_norm: RMSNorm | None,
    ) -> None:
        super().__init__()
        self.bypass, self.mlp = bypass, mlp
        self.pre_attention_norm, self.post_attention_norm = pre_attention_norm, post_attention_norm
        self.pre_mlp_norm, self.post_mlp_norm = pre_mlp_norm, post_mlp_norm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.bypass is not None:
            passed = self.bypass(_maybe(self.pre_attention_norm, hidden))
            hidden = hidden + _maybe(self.post_attention_norm, passed)
        return _add_mlp(hidden, self.mlp, self.pre_mlp_norm, self.post_mlp_norm)


class LayerOutputs(nn.Module):
    """What follows a layer's attention, and the layers after it that have none."""

    def __init__(self, end: LayerOutput, without_attention: list[LayerWithoutAttention]) -> None:
        super().__init__()
        self.end, self.without_attention = end, nn.ModuleList(without_attention)

    def forward(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        hidden = self.end(hidden, attended)
        for layer in self.without_attention:
            hidden = layer(hidden)
        return hidden


def _add_mlp(
    hidden: torch.Tensor, mlp: nn.Module | None, pre_norm: RMSNorm | None, post_norm: RMSNorm | None
) -> torch.Tensor:
    return hidden if mlp is None else hidden + _maybe(post_norm, mlp(_maybe(pre_norm, hidden)))


def _maybe(norm: RMSNorm | None, x: torch.Tensor) -> torch.Tensor:
    return x if norm is None else norm(x)


class TanhGELU(nn.Module):
    """GELU's tanh approximation x · σ(2√(2/π) (x + 0.044715 x³)): XNNPACK's own GELU is the exact one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = 2 * math.sqrt(2 / math.pi)
        return x * torch.sigmoid(x * (x * x * (0.044715 * scale) + scale))


def lowerable(activation: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A Hugging Face activation, in operators that XNNPACK computes as PyTorch does."""
    return TanhGELU() if isinstance(activation, GELUTanh | NewGELUActivation | FastGELUActivation) else activation


class GatedMLP(nn.Module):
    """down(act(gate(x)) · up(x)); biases are adds of their own, so that a shared weight is packed once."""

    gate_bias: torch.Tensor | None
    up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None

    def __init__(
        self,
        gate: nn.Module,
        up: nn.Module,
        down: nn.Module,
        activation: Callable[[torch.Tensor], torch.Tensor],
        biases: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None] = (None, None, None),
    ) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.activation = gate, up, down, lowerable(activation)
        for name, bias in zip(("gate_bias", "up_bias", "down_bias"), biases, strict=True):
            self.register_buffer(name, None if bias is None else bias.detach().float().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = project(x, self.gate, self.up)
        inner = self.activation(add(gate, self.gate_bias)) * add(up, self.up_bias)
        (down,) = project(inner, self.down)
        return add(down, self.down_bias)


def add(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x, plus a bias where there is one."""
    return x if bias is None else x + bias


class LogitsHead(nn.Module):
    """The last norm, the LM head, and Gemma 2's soft cap c·tanh(logits / c)."""

    place = "head"
    softcap: torch.Tensor | None

    def __init__(self, norm: RMSNorm, lm_head: nn.Module, softcap: float | None) -> None:
        super().__init__()
        self.norm, self.lm_head = norm, lm_head
        self.register_buffer("softcap", None if softcap is None else torch.tensor([softcap]))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        (logits,) = project(self.norm(hidden), self.lm_head)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


class Entry(nn.Module):
    """From the embedded tokens to the first layer's q, k, v."""

    def __init__(self, start: AttentionInput) -> None:
        super().__init__()
        self.start = start

    def forward(self, hidden: torch.Tensor, *rotation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        started: tuple[torch.Tensor, ...] = self.start(hidden, *rotation)
        return started


class Middle(nn.Module):
    """From one layer's attention to the q, k, v of the next one that has any; hands the residual stream on."""

    def __init__(self, end: LayerOutput | LayerOutputs, start: AttentionInput) -> None:
        super().__init__()
        self.end, self.start = end, start

    def forward(
        self, hidden: torch.Tensor, attended: torch.Tensor, *rotation: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        hidden = self.end(hidden, attended)
        return hidden, *self.start(hidden, *rotation)


class Exit(nn.Module):
    """From the last layer's attention to the logits."""

    def __init__(self, end: LayerOutput | LayerOutputs, head: LogitsHead) -> None:
        super().__init__()
        self.end, self.head = end, head

    def forward(self, hidden: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.head(self.end(hidden, attended)),)
