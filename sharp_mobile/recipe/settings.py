"""A recipe: everything that decides what an export holds, in one YAML file in export/.

    model: smollm2-135m-instruct          what `open_checkpoint` takes
    plan: t_next without 12               which layers share
    share: mlp                            what of them
    recovery: {form: lora, rank: 64}      a target's own parameters
    auto:     {reach: 3}                  what a plan that is auto chooses from
    warmup:   {text: "sotu:1950-2004"}    what the recovery parameters are fitted to
    finetune: {max_steps: 400}            how they are trained together afterwards
    quantize: {linear: 4, group_size: 32} bits of every kind of weight
    lower:    {max_length: 2048}          attention, lengths and outputs of the program

Every field has a default, so a model without a recipe can be exported too. The sections stand in one module each, and
the work reads them as they are. Relative paths are taken from where the command runs. A recipe is checked as far as it
can be before a model is opened; `check_fits` then checks the rest against the model's configuration, before the long
work.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.effect import without_effect
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.mistakes import explained
from sharp_mobile.recipe.plan_budget import PlanBudget, is_auto
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import DEPLOYABLE
from sharp_mobile.recipe.recovery_settings import AutoSettings, RecoverySettings
from sharp_mobile.recipe.section import Section
from sharp_mobile.recipe.share import parse_share
from sharp_mobile.recipe.source import Source
from sharp_mobile.recipe.warmup_settings import WarmupSettings

if TYPE_CHECKING:
    from sharp_mobile.model.architecture import Architecture


def _source(value: object) -> Source:
    if not isinstance(value, Source | str | Path):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    if not str(value):
        raise ValueError("is empty; name a model")
    return Source.of(value)


Model = Annotated[InstanceOf[Source], BeforeValidator(_source), PlainSerializer(str, return_type=str)]


class Recipe(Section):
    """A validated recipe.

        >>> from sharp_mobile import Recipe
        >>> recipe = Recipe(model="my-model", plan="2:3", recovery={"rank": 64}, lower={"max_length": 512})
        >>> recipe.recovery.rank, recipe.lower.max_length, recipe.quantize.linear
        (64, 512, 4)

    Raises:
        SharpError: a field does not exist or has a wrong value, settings exclude each other or make no recovery
            parameters, or a plan that is auto names no budget.
    """

    model: Model
    plan: str = Field(default="none", min_length=1)
    share: str = Field(default="mlp", min_length=1)
    recovery: RecoverySettings = RecoverySettings()
    auto: AutoSettings = AutoSettings()
    warmup: WarmupSettings = WarmupSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    quantize: QuantizeSettings = QuantizeSettings()
    lower: LowerSettings = LowerSettings()

    if TYPE_CHECKING:  # what the fields are made from, which type checkers would not take

        def __init__(
            self,
            *,
            model: Source | str | Path,
            plan: str = "none",
            share: str = "mlp",
            recovery: RecoverySettings | dict[str, object] = ...,
            auto: AutoSettings | dict[str, object] = ...,
            warmup: WarmupSettings | dict[str, object] = ...,
            finetune: FinetuneSettings | dict[str, object] = ...,
            quantize: QuantizeSettings | dict[str, object] = ...,
            lower: LowerSettings | dict[str, object] = ...,
        ) -> None: ...
    else:

        def __init__(self, /, **fields):
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise SharpError(explained(error, type(self))) from error

    @model_validator(mode="after")
    def _budget_is_named(self) -> "Recipe":
        if is_auto(self.plan):
            PlanBudget.parse(self.plan)
        return self

    @model_validator(mode="after")
    def _share_exists(self) -> "Recipe":
        parse_share(self.share, self.plan)
        return self

    @model_validator(mode="after")
    def _aware_recovery_fits_its_quantization(self) -> "Recipe":
        if not self.recovery.quantization_aware:
            return self
        if self.quantize.rounding == "gptq":
            raise ValueError(
                "quantize.rounding: gptq and recovery.quantization_aware exclude each other; leave one out"
            )
        if self.warmup.inputs == "original":
            raise ValueError(
                "warmup.inputs: original inputs cannot be quantization-aware; use sequential, or leave "
                "recovery.quantization_aware out"
            )
        if self.finetune.shard and self.finetune.distillation > 0:
            # FSDP splits the weights that are installed when it starts, which are the quantized ones.
            raise ValueError(
                "finetune.shard: the original cannot teach in float where split weights are quantization-aware; use "
                "shard: false, or distillation: 0"
            )
        return self

    @model_validator(mode="after")
    def _rank_fits_its_bits(self) -> "Recipe":
        # A rank is the input width of LoRA's B, and XNNPACK's 4-bit groups are multiples of 32 that divide the width.
        for rank in sorted(self.recovery.all_ranks()):
            if self.quantize.recovery == 4 and rank % 32:
                above = rank + 32 - rank % 32
                raise ValueError(
                    f"rank {rank} with 4-bit recovery parameters must be a multiple of 32; use {above}, or "
                    "quantize.recovery: 8"
                )
        return self

    def allowing_pickle(self) -> "Recipe":
        """The recipe with leave to read its model from a pickle, which can run any code."""
        return self.model_copy(update={"model": replace(self.model, allow_pickle=True)})

    def without_effect(self) -> list[str]:
        """What the user should know of settings that change nothing next to the others, a line for each reason."""
        return without_effect(self)

    def rounds_to_text(self, tokenizer: bool) -> bool:
        """Whether 4-bit linears are rounded by text, given that there is a tokenizer or not."""
        rounding = self.quantize.rounding
        possible = tokenizer and not self.recovery.quantization_aware
        return self.quantize.linear == 4 and (rounding == "gptq" or (rounding == "auto" and possible))

    def check_exportable(self) -> None:
        """Refuse what can be trained and evaluated but not run on a phone.

        Raises:
            SharpError: the recovery form is `hadamard`.
        """
        forms = {self.recovery.form, *(own.form for own in self.recovery.layers.values() if own.form)}
        forms |= {self.recovery.attention_form}
        forms |= {own.attention.form for own in self.recovery.layers.values() if own.attention}
        for form in sorted(forms - DEPLOYABLE):
            raise SharpError(
                f"recovery.form: {form} cannot be exported, because it builds a full weight for every "
                f"target and saves nothing; use {' or '.join(sorted(DEPLOYABLE))}"
            )

    def fitted_to(self, model: "Architecture") -> "Recipe":
        """The recipe with its default lengths cut to the positions that a model has.

        A length that the recipe or the user sets stays: it is checked where it is used.
        """
        longest, changed = model.positions, {}
        for section, name in (("lower", "max_length"), ("warmup", "window"), ("finetune", "length")):
            settings = getattr(self, section)
            if name not in settings.model_fields_set and getattr(settings, name) > longest:
                changed[section] = settings.model_copy(update={name: longest})
        return self.model_copy(update=changed)

    def cut_from(self, original: "Recipe") -> list[str]:
        """The line for the user if `fitted_to` cut the length of a recipe's program."""
        length = self.lower.max_length
        if length == original.lower.max_length:
            return []
        return [f"max_length is {length}: the model has no more positions (max_position_embeddings)"]

    def check_fits(self, model: "Architecture") -> None:
        """Check what depends on the model's widths and lengths.

        Raises:
            SharpError: 4-bit groups do not divide a linear's input width, or `max_length` is beyond the model's.
        """
        quantize = self.quantize
        widths = {}
        table = quantize.embedding_bits(model.tied)
        if 4 in (quantize.linear, quantize.lm_head, table):
            widths["hidden width"] = model.hidden
        if quantize.linear == 4:
            widths |= {"MLP width": model.inner, "attention width": model.query_width}
        for what, width in widths.items():
            if width % quantize.group_size:
                fitting = next((f"group_size: {size}" for size in (64, 32) if width % size == 0), "8 bits")
                raise SharpError(
                    f"quantize.group_size: {quantize.group_size} does not divide the model's {what} of {width}; "
                    f"use {fitting}"
                )
        longest = model.positions
        if self.lower.max_length > longest:
            raise SharpError(
                f"lower.max_length: {self.lower.max_length} is beyond the model's {longest} positions; "
                f"use {longest} or less"
            )
