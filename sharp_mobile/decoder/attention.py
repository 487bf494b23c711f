"""Attention between the segments of a decoder: RoPE's tables, the KV caches, and the operators that read them."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401  registers llama::custom_sdpa and update_cache
import numpy as np
import torch
from torch import nn

from sharp_mobile.decoder.segments import Heads


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


class Attention(nn.Module, ABC):
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

    @abstractmethod
    def write(self, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put keys and values of positions from `start` on into the cache."""

    @abstractmethod
    def read(self, start: int, mask: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor:
        """Attend to the cache, which has the positions of q already."""


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
