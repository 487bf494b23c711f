"""The fields that are read of a Hugging Face configuration; transformers gives them no types."""

from typing import Protocol


class Configuration(Protocol):
    """A decoder's `config.json` as transformers reads it, its defaults filled in.

    Not every family has every field: see `families` for those that only some read.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope_parameters: dict[str, object] | None
    # Of Phi-3's LongRoPE: the length that the model was first trained for.
    original_max_position_embeddings: int
    # Of the families whose description says so.
    sliding_window: int | None
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None

    def to_dict(self) -> dict[str, object]:
        """All fields."""
