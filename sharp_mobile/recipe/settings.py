"""A recipe: everything that decides what an export holds, in one YAML file in export/.

    model: smollm2-135m-instruct          what `open_checkpoint` takes
    plan: t_next without 12               which MLPs share
    recovery: {form: lora, rank: 64}      what a target keeps of its own
    warmup:   {text: "sotu:1950-2004"}    what the recovery parameters are fitted to
    finetune: {max_steps: 400}            how they are trained together afterwards
    quantize: {linear: 4, group_size: 32} bits of every kind of weight
    lower:    {max_length: 2048}          attention, lengths and outputs of the program

Every field has a default, so a model without a recipe can be exported too. Relative paths are taken from where the
command runs. A recipe is checked as far as it can be before a model is opened; `check_fits` then checks the rest
against the model's configuration, before the long work.
"""

import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.plan import SharePlan, parse_layers
from sharp_mobile.recipe.recovery import DEPLOYABLE, Form, Recovery, recoveries
from sharp_mobile.recipe.source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _number(value: object) -> object:
    """Digits as a number: options of a command line come as text."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value) else value


def _float(value: object) -> object:
    """Text as a number: options of a command line, and `1e-3`, which YAML takes for text (it wants `1.0e-3`)."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _flag(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


Float = Annotated[float, BeforeValidator(_float)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Bits = Annotated[Literal[4, 8, "float"], BeforeValidator(_number)]
GroupSize = Annotated[Literal[32, 64, 128], BeforeValidator(_number)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _ranks(value: object) -> object:
    """A rank, or three for gate, up and down as a list or as text "32/32/96"."""
    several = value.split("/") if isinstance(value, str) and "/" in value else value
    ranks = [_number(rank) for rank in (several if isinstance(several, list | tuple) else [several])]
    if len(ranks) not in (1, 3) or not all(type(rank) is int and rank >= 0 for rank in ranks):
        raise ValueError(f"a rank is a whole number ≥ 0, or three of them for gate, up and down, not {value!r}")
    return tuple(ranks) if len(ranks) == 3 else ranks[0]


Ranks = Annotated[int | tuple[int, int, int], BeforeValidator(_ranks)]


class LayerRecovery(_Section):
    """What one layer has; see `share.Recovery`. Where rank is not given it is the section's, or 0 without reference."""

    form: Form | None = None
    rank: Ranks | None = None
    neurons: int | None = Field(default=None, ge=0)
    bypass: int | None = Field(default=None, ge=0)
    reference: Flag | None = None


class RecoverySection(_Section):
    """What every target keeps of its own: the transformation g0 to g3 (lora, right, left, hadamard) with its rank r, or
    ranks [gate, up, down]; own `neurons` and a linear `bypass` beside the shared MLP, or in its place with
    `reference: false`. Rank 0 without these is the direct share.

    `layers` says otherwise for some layers ("14-16, 20", 1-based); `adapters` is the rank of LoRA on the MLPs of all
    layers that are no targets (Full-LoRA). `quantization_aware` fits and tunes all of it against the model as it will
    be exported (see `quantize.fake_quantize`), not against the float one.
    """

    form: Form = "lora"
    rank: Ranks = 64
    neurons: int = Field(default=0, ge=0)
    bypass: int = Field(default=0, ge=0)
    reference: Flag = True
    adapters: int = Field(default=0, ge=0)
    quantization_aware: Flag = False
    layers: dict[str, LayerRecovery] = {}

    @property
    def usual(self) -> Recovery:
        """What a target has where `layers` does not say otherwise."""
        return self._of(LayerRecovery())

    def recoveries(self, plan: SharePlan) -> dict[int, Recovery]:
        """The recovery parameters of each layer that has any, 0-based.

        Raises:
            SharpError: layers that do not exist, or settings that make no `Recovery`.
        """
        if plan.direct or self.adapters == 0:
            chosen = dict.fromkeys(plan.targets, self.usual)
        else:
            adapter = Recovery("lora", self.adapters)
            chosen = dict.fromkeys(range(plan.layers), adapter)
            chosen |= dict.fromkeys(plan.targets, self.usual)
        for names, own in self.layers.items():
            chosen |= dict.fromkeys(parse_layers(names, plan.layers), self._of(own))
        return recoveries(plan, chosen)

    def all_ranks(self) -> set[int]:
        """Every width that a recovery parameter can have, as far as it is known without a plan."""
        mine = [self.usual, *(self._of(own) for own in self.layers.values())]
        return {width for own in mine for width in (*own.ranks, own.neurons, own.bypass)} | {self.adapters}

    def _of(self, own: LayerRecovery) -> Recovery:
        reference = self.reference if own.reference is None else own.reference
        usual = self.rank if reference else 0
        return Recovery(
            own.form or self.form,
            usual if own.rank is None else own.rank,
            self.neurons if own.neurons is None else own.neurons,
            self.bypass if own.bypass is None else own.bypass,
            reference,
        )


class AutoSection(_Section):
    """What a plan that is `auto` is chosen by (see `recovery.plan_search.choose`).

    `auto_windows` of the warm-up's text are read; a reference may be `reach` layers back; every target has the
    `choices`, the usual ones if none are given.
    """

    auto_windows: int = Field(default=16, ge=4)
    reach: int = Field(default=2, ge=1, le=8)
    choices: list[LayerRecovery] = []

    def recoveries(self) -> tuple[Recovery, ...]:
        """The choices written out.

        Raises:
            SharpError: settings that make no `Recovery`.
        """
        none = RecoverySection(rank=0)
        return tuple(none._of(choice) for choice in self.choices)


class WarmupSection(_Section):
    """The text that recovery parameters are fitted to (see `text.sources`), in windows of tokens; and how.

    `method`, `inputs` and `weighted` choose the loss and its minimiser (see `recovery.warmup.run`); the paper's are
    adam, original and false. Adam takes `adam_epochs`, `adam_lr` and `adam_batch` (tokens). `workers` processes
    share the targets of original inputs.
    """

    text: str = "sotu:1950-2004"
    window: int = Field(default=512, ge=2)
    windows: int = Field(default=48, ge=1)
    method: Literal["closed_form", "adam", "closed_form_adam"] = "closed_form"
    inputs: Literal["sequential", "original"] = "sequential"
    weighted: Flag = True
    adam_epochs: int = Field(default=5, ge=1)
    adam_lr: Float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    adam_batch: int = Field(default=256, ge=1)
    workers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _workers_need_independent_targets(self) -> "WarmupSection":
        if self.workers > 1 and self.inputs == "sequential":
            raise ValueError(
                "workers cannot share targets that are fitted one after the other; use inputs: original, or workers: 1"
            )
        return self


class FinetuneSection(_Section):
    """Fine-tuning of the recovery parameters (see `recovery.finetune.run.FinetuneSettings`), off while neither `epochs`
    nor `max_steps` says how long: on `train_text` in sequences of `length` tokens, watched on `validation_text`.
    """

    DATA: ClassVar = ("train_text", "length", "validation_text", "validation_windows")

    epochs: Float = 0.0
    max_steps: int | None = None
    distillation: Float = 0.0
    learning_rate: Float = 2e-5
    warmup_ratio: Float = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: Float = 0.0
    max_grad_norm: Float = 1.0
    batch_size: int = 8
    micro_batch: int = 1
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: Flag = False
    shard: Flag = False
    log_every: int = 10
    save_every: int = 100
    evaluate_every: int | None = None
    keep: int = 2
    keep_best: Flag = False
    train_text: str = "sotu:1950-2004"
    length: int = Field(default=2048, ge=2)
    validation_text: str | None = None
    validation_windows: int = Field(default=8, ge=1)

    @property
    def is_on(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.epochs or self.max_steps)


def embedding_bits(embedding: Bits | Literal["auto"], lm_head: Bits, tied: bool) -> Bits:
    """The bits of a lookup table: tied to an LM head of 8 bits it has 8, since both are stored once then."""
    if embedding != "auto":
        return embedding
    return 8 if tied and lm_head == 8 else 4


class QuantizeSection(_Section):
    """Bits of the weights; activations are quantized to 8 bits dynamically wherever a linear's weights are.

    4 bits are in groups of `group_size` inputs, 8 bits per output channel. `scales` says how 4-bit scales are chosen
    where codes are the nearest.
    On SmolLM2-135M, 4 bits raise the perplexity of 24.3 to 26.4 in the LM head alone, and to 24.4 in the embedding
    alone: hence 8 for the LM head. `embedding: auto` is 8 bits where it is tied to an LM head of 8, since both are
    stored once then, and 4 where it is a table of its own. `rounding: gptq` rounds the 4-bit linears by the warm-up's
    text, so that their products stay what they were; recovery that is quantization-aware simulates `nearest` alone.
    `auto` is gptq where that is possible. With gptq, the linears that suffer most from 4 bits get 8, for `fragile`
    more than what all of them take at 4 bits (see `quantize.bit_allocation`); 0 leaves that out.
    """

    linear: Bits = 4
    group_size: GroupSize = 32
    embedding: Bits | Literal["auto"] = "auto"
    lm_head: Bits = 8
    recovery: Bits = 8
    scales: Literal["hqq", "minmax"] = "hqq"
    rounding: Literal["nearest", "gptq", "auto"] = "nearest"
    fragile: Float = Field(default=0.05, ge=0, le=1, allow_inf_nan=False)


class LowerSection(_Section):
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


def _source(value: object) -> Source:
    if not isinstance(value, Source | str):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    if not str(value):
        raise ValueError("is empty; name a model")
    return Source.of(value)


Model = Annotated[InstanceOf[Source], BeforeValidator(_source), PlainSerializer(str, return_type=str)]


class Recipe(_Section):
    """A validated recipe.

        >>> from sharp_mobile import Recipe
        >>> recipe = Recipe(model="my-model", plan="2:3", recovery={"rank": 64}, lower={"max_length": 512})
        >>> recipe.recovery.rank, recipe.lower.max_length, recipe.quantize.linear
        (64, 512, 4)

    Raises:
        pydantic.ValidationError: a field does not exist or has a wrong value; `load_recipe` makes it one line.
    """

    model: Model
    plan: str = Field(default="none", min_length=1)
    recovery: RecoverySection = RecoverySection()
    auto: AutoSection = AutoSection()
    warmup: WarmupSection = WarmupSection()
    finetune: FinetuneSection = FinetuneSection()
    quantize: QuantizeSection = QuantizeSection()
    lower: LowerSection = LowerSection()

    @model_validator(mode="after")
    def _rank_fits_its_bits(self) -> "Recipe":
        if self.quantize.rounding == "gptq" and self.recovery.quantization_aware:
            raise ValueError(
                "quantize.rounding: gptq and recovery.quantization_aware exclude each other; leave one out"
            )
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

    def rounds_to_text(self, tokenizer: bool) -> bool:
        """Whether 4-bit linears are rounded by text, given that there is a tokenizer or not."""
        rounding = self.quantize.rounding
        possible = tokenizer and not self.recovery.quantization_aware
        return rounding == "gptq" or (rounding == "auto" and possible)

    def check_exportable(self) -> None:
        """Refuse what can be trained and evaluated but not run on a phone.

        Raises:
            SharpError: the recovery form is `hadamard`.
        """
        forms = {self.recovery.form, *(own.form for own in self.recovery.layers.values() if own.form)}
        for form in sorted(forms - DEPLOYABLE):
            raise SharpError(
                f"recovery.form: {form} cannot be exported, because it builds a full weight for every "
                f"target and saves nothing; use {' or '.join(sorted(DEPLOYABLE))}"
            )

    def fitted_to(self, config: "PreTrainedConfig") -> "Recipe":
        """The recipe with its default lengths cut to the positions that a model has.

        A length that the recipe or the user sets stays: it is checked where it is used.
        """
        longest, changed = config.max_position_embeddings, {}
        for section, name in (("lower", "max_length"), ("warmup", "window"), ("finetune", "length")):
            settings = getattr(self, section)
            if name not in settings.model_fields_set and getattr(settings, name) > longest:
                changed[section] = settings.model_copy(update={name: longest})
        return self.model_copy(update=changed)

    def cut_from(self, original: "Recipe") -> list[str]:
        """What the user is told where `fitted_to` cut the length of a recipe's program."""
        length = self.lower.max_length
        if length == original.lower.max_length:
            return []
        return [f"max_length is {length}: the model has no more positions (max_position_embeddings)"]

    def check_fits(self, config: "PreTrainedConfig") -> None:
        """Check what depends on the model's widths and lengths.

        Raises:
            SharpError: 4-bit groups do not divide a linear's input width, or `max_length` is beyond the model's.
        """
        quantize = self.quantize
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        widths = {}
        table = embedding_bits(quantize.embedding, quantize.lm_head, config.tie_word_embeddings)
        if 4 in (quantize.linear, quantize.lm_head, table):
            widths["hidden width"] = config.hidden_size
        if quantize.linear == 4:
            widths |= {"MLP width": config.intermediate_size, "attention width": config.num_attention_heads * head_dim}
        for what, width in widths.items():
            if width % quantize.group_size:
                fitting = next((f"group_size: {size}" for size in (64, 32) if width % size == 0), "8 bits")
                raise SharpError(
                    f"quantize.group_size: {quantize.group_size} does not divide the model's {what} of {width}; "
                    f"use {fitting}"
                )
        longest = config.max_position_embeddings
        if self.lower.max_length > longest:
            raise SharpError(
                f"lower.max_length: {self.lower.max_length} is beyond the model's {longest} positions; "
                f"use {longest} or less"
            )
