"""`quantize`: bits of every kind of weight, and how they are rounded."""

from typing import Literal

from pydantic import Field

from sharp_mobile.recipe.section import Bits, Float, GroupSize, Section


class QuantizeSettings(Section):
    """Bits of the weights; activations are quantized to 8 bits dynamically wherever a linear's weights are.

    4 bits are in groups of `group_size` inputs, 8 bits per output channel. `scales` says how 4-bit scales are chosen
    where codes are the nearest.

    On SmolLM2-135M, 4 bits raise the perplexity of 24.3 to 26.4 in the LM head alone, and to 24.4 in the embedding
    alone: hence 8 for the LM head. `embedding: auto` is 8 bits where it is tied to an LM head of 8, since both are
    stored once then, and 4 where it is a separate table.

    `rounding: gptq` rounds the 4-bit linears by the warm-up's text, so that their products stay what they were;
    recovery that is quantization-aware simulates `nearest` alone. `auto` is gptq where that is possible: where there
    is a tokenizer and recovery is not quantization-aware. With gptq, the linears that suffer most from 4 bits get 8,
    for `eight_bit_budget` more than what all of them take at 4 bits (see `quantize.bit_allocation`); 0 leaves that out.
    """

    linear: Bits = 4
    group_size: GroupSize = 32
    embedding: Bits | Literal["auto"] = "auto"
    lm_head: Bits = 8
    recovery: Bits = 8
    scales: Literal["hqq", "minmax"] = "hqq"
    rounding: Literal["nearest", "gptq", "auto"] = "auto"
    eight_bit_budget: Float = Field(default=0.05, ge=0, le=1)

    def embedding_bits(self, tied: bool) -> Bits:
        """The bits of the lookup table, which is tied to the LM head or not."""
        if self.embedding != "auto":
            return self.embedding
        return 8 if tied and self.lm_head == 8 else 4

    @property
    def nearest(self) -> dict[str, object]:
        """What rounding to the nearest depends on, and quantization-aware recovery with it."""
        return self.model_dump(exclude={"rounding", "eight_bit_budget"})
