"""What a configuration says of a decoder: every size and option that decides what is stored and computed, no weights.

It is read without PyTorch and transformers: `checkpoint.config` reads it from a config.json, `checkpoint.gguf_fields`
from the header of a GGUF file.
"""

from dataclasses import dataclass
from typing import NamedTuple

from sharp_mobile.model.families import Family, family_of


class RotaryTable(NamedTuple):
    """A distinct RoPE table: its type ("default", "llama3", …), and how many of a head's dimensions it turns."""

    type: str
    rotary: int


@dataclass(frozen=True)
class Architecture:
    """The decoder of a configuration.

    Attributes:
        model_type: the family; which norms a layer has, and how q and k are normed, is its `family`'s.
        hidden, inner: widths of the hidden states and inside the MLPs.
        heads, key_heads, head_width: query heads, key and value heads, and the width of each.
        vocabulary: rows of the embedding.
        tied: the LM head is the embedding.
        positions: the most that the model was made for.
        qkv_bias, o_bias, mlp_bias: which projections have one.
        tables: distinct RoPE tables; `table_of` names each layer's, None for a layer without RoPE.
        windows: how many positions back each layer's tokens see, themselves included; None for all.
        score_cap, logit_cap: c of c·tanh(x / c) on attention scores and logits; None for none.
        embedding_scale: factor of embedded tokens; None for none.
    """

    model_type: str
    layers: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    positions: int
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    tables: tuple[RotaryTable, ...]
    table_of: tuple[int | None, ...]
    windows: tuple[int | None, ...]
    score_cap: float | None
    logit_cap: float | None
    embedding_scale: float | None

    @property
    def family(self) -> Family:
        """The conventions of its family."""
        return family_of(self.model_type)

    def keys_alike(self, layer: int, other: int) -> bool:
        """Whether keys and values of two layers (0-based) mean the same: one window, one RoPE table."""
        return self.windows[layer] == self.windows[other] and self.table_of[layer] == self.table_of[other]

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.key_heads * self.head_width
