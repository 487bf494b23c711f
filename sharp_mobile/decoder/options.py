"""What a recipe's `lower` settings come to for one model: the attention operator, and how long a step may be."""

from dataclasses import dataclass
from typing import Literal

from sharp_mobile.errors import SharpError
from sharp_mobile.model.architecture import Architecture
from sharp_mobile.recipe.lower_settings import LowerSettings

AttentionKind = Literal["custom_sdpa", "portable"]

# Portable attention holds the scores [h, S, length] several times over, and memory is planned for the largest S.
_PORTABLE_CHUNK = 128


@dataclass(frozen=True)
class DecoderOptions:
    """What a recipe's `lower` settings come to for one model.

    max_length: positions in the KV cache.
    attention: the operator; custom_sdpa cannot soft-cap scores (Gemma 2), portable can all.
    all_logits: logits of every token [1, S, V] rather than of the last [1, 1, V].
    chunk: tokens that one step takes at most.
    """

    max_length: int
    attention: AttentionKind
    all_logits: bool
    chunk: int

    def check(self, model: Architecture) -> None:
        """Refuse options that a model's decoder cannot have.

        Raises:
            SharpError: a length that the model does not have, RoPE that a KV cache cannot follow, or an attention
                operator that cannot do what the family needs.
        """
        if self.max_length > model.positions:
            raise SharpError(
                f"lower.max_length: {self.max_length} is more than the {model.positions} positions that this model "
                "has; use that many or fewer"
            )
        if any(table.type == "dynamic" for table in model.tables):
            raise SharpError(
                "RoPE type 'dynamic' changes with the text's length, which a KV cache cannot follow; use yarn"
            )
        if model.score_cap is not None and self.attention == "custom_sdpa":
            raise SharpError(
                f"{model.model_type} soft-caps attention scores, which custom_sdpa cannot; use lower.attention: "
                "portable"
            )


def decoder_options(settings: LowerSettings, model: Architecture) -> DecoderOptions:
    """The settings of a recipe, resolved for a model.

    `auto` is the fastest attention operator that can do what the model needs. A step takes at most one token less than
    the cache holds, as in the stock runner's exports.
    """
    attention = settings.attention
    if attention == "auto":
        attention = "custom_sdpa" if model.score_cap is None else "portable"
    usual = _PORTABLE_CHUNK if attention == "portable" else settings.max_length
    chunk = min(settings.prefill_chunk or usual, settings.max_length - 1)
    return DecoderOptions(settings.max_length, attention, settings.logits == "all", chunk)
