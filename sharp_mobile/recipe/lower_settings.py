"""`lower`: attention, lengths and outputs of the program."""

from typing import Literal

from pydantic import Field

from sharp_mobile.recipe.section import Section


class LowerSettings(Section):
    """The program: `custom_sdpa` attention runs in Python and on phones, `portable` everywhere; `auto` takes the first
    but for models that it cannot do.

    `max_length` counts the tokens of prompt and answer together; `logits: last` gives those of the last token only.
    `prefill_chunk` is how many tokens one step takes at most: a longer prompt goes in several, and memory for the
    scores of that many is set aside. By default 128 with portable attention, whose scores are large; else all.
    """

    attention: Literal["auto", "custom_sdpa", "portable"] = "auto"
    max_length: int = Field(default=2048, ge=2)
    logits: Literal["last", "all"] = "last"
    prefill_chunk: int | None = Field(default=None, ge=2)
