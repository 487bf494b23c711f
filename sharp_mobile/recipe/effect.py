"""The settings of a recipe that change nothing next to its other settings.

A setting counts if the recipe sets it, and to something else than its default: a recipe may write defaults out, and
what equals the default misleads nobody.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sharp_mobile.recipe.plan_budget import PlanBudget, is_auto
from sharp_mobile.recipe.share import ShareKind, is_mixture, parse_share

if TYPE_CHECKING:
    from sharp_mobile.recipe.recovery_settings import RecoverySettings
    from sharp_mobile.recipe.settings import Recipe

_TARGET = ("form", "rank", "neurons", "bypass", "reference")  # what `recovery` says of every target
_CALLED = ("attention_form", "attention_rank")  # of every target that calls another's attention
_OTHERS = (*_CALLED, "attention_bypass", "kept", "basis_ranks")
_ADAM = ("adam_epochs", "adam_lr", "adam_batch")

# Settings as "section.field" or "section.*", and why they have no effect.
_Rule = tuple[tuple[str, ...], str]


def without_effect(recipe: "Recipe") -> list[str]:
    """A line for each reason why settings of a recipe have no effect, naming the settings and the way out."""
    lines, named = [], set[str]()
    for settings, reason in _rules(recipe):
        useless = [name for setting in settings for name in _changed(recipe, setting) if name not in named]
        if useless:
            named.update(useless)
            lines.append(f"{', '.join(useless)}: no effect, because {reason}")
    return lines


def recovers(recipe: "Recipe") -> bool:
    """Whether any layer may have recovery parameters, as far as it is known without the model."""
    if is_auto(recipe.plan) or recipe.recovery.layers:
        return True
    return any(_recovers(kind, plan.strip(), recipe.recovery) for kind, plan in _kinds(recipe))


def _kinds(recipe: "Recipe") -> list[tuple[ShareKind, str]]:
    return parse_share(recipe.share, recipe.plan)


def _recovers(kind: ShareKind, plan: str, recovery: "RecoverySettings") -> bool:
    """Whether a kind of sharing gives a layer parameters that are fitted."""
    if plan == "none" or kind == "drop-mlp":
        return kind == "mlp" and recovery.adapters > 0
    if kind in ("kv", "basis", "prune"):
        return True
    if kind in ("drop", "drop-attention"):
        return recovery.attention_bypass > 0
    if _is_direct(plan):
        return False
    of_mlps = kind != "attention" and (recovery.adapters > 0 or not recovery.usual.direct)
    rank = recovery.attention_rank_of("weights")
    return of_mlps or (kind != "mlp" and (any(rank) if isinstance(rank, tuple) else rank > 0))


def _rules(recipe: "Recipe") -> Iterator[_Rule]:
    """In the order in which they are looked at: a setting is named with its first reason only."""
    yield from _of_the_plan(recipe)
    yield from _of_finetune(recipe)
    if recipe.warmup.method == "closed_form":
        yield _named("warmup", _ADAM), "warmup.method is closed_form; use adam or closed_form_adam, or leave it out"
    yield from _of_quantize(recipe)
    lower = recipe.lower
    if lower.attention == "custom_sdpa" and (lower.prefill_chunk or 0) >= lower.max_length - 1:
        yield ("lower.prefill_chunk",), f"a step never takes more than lower.max_length - 1 = {lower.max_length - 1}"


def _of_the_plan(recipe: "Recipe") -> Iterator[_Rule]:
    plan, layers = recipe.plan.strip(), recipe.recovery.layers
    if is_auto(plan):
        chosen = ("adapters", "layers", *_OTHERS)
        yield _named("recovery", chosen), f"plan '{plan}' chooses what every layer has; name the layers"
        if PlanBudget.parse(plan).kind == "tau":
            yield ("auto.choices",), "with a budget of tau every target has what recovery says; use s or bytes"
        else:
            yield _named("recovery", _TARGET), f"plan '{plan}' chooses from auto.choices; set these, or use tau"
        return
    yield ("auto.*",), f"plan '{plan}' is not chosen; use a plan such as 'auto s=0.62'"
    if _is_direct(plan):
        reason = f"plan '{plan}' shares without recovery parameters; leave 'direct' out"
        yield ("recovery.adapters",), reason
        if not layers:
            of_targets = (*(_TARGET if recipe.share != "prune" else ()), *_CALLED)
            yield _named("recovery", of_targets), reason
    elif plan == "none" and not layers and not is_mixture(recipe.share):
        yield _named("recovery", (*_TARGET, *_OTHERS)), "plan none has no targets; name a plan"
    yield from _of_the_kinds(recipe)
    if not recovers(recipe):
        of_warmup = [name for name in type(recipe.warmup).model_fields if not _read_by_rounding(recipe, name)]
        useless = (*_named("warmup", of_warmup), "finetune.*", "quantize.recovery")
        yield useless, "no layer has recovery parameters; name a plan that shares, or a rank"


def _of_the_kinds(recipe: "Recipe") -> Iterator[_Rule]:
    """Settings of what is not shared, or is left out."""
    kinds, recovery = {kind for kind, _ in _kinds(recipe)}, recipe.recovery

    def unless(needed: set[ShareKind], *names: str) -> Iterator[_Rule]:
        if not needed & kinds:
            yield _named("recovery", names), f"share '{recipe.share}' has no use for it; use {_either(sorted(needed))}"

    if not recovery.layers:
        yield from unless({"mlp", "layer"}, "form", "rank", "bypass", "reference")
        yield from unless({"mlp", "layer", "prune"}, "neurons")
    yield from unless({"mlp"}, "adapters")
    yield from unless({"attention", "layer"}, "attention_form")
    yield from unless({"attention", "layer", "kv"}, "attention_rank")
    yield from unless({"drop", "drop-attention"}, "attention_bypass")
    yield from unless({"prune", "basis"}, "kept")
    yield from unless({"basis"}, "basis_ranks")
    if recovery.neurons and "basis" not in kinds:
        yield ("recovery.kept",), "recovery.neurons says how many are kept; leave one out"
    only = kinds <= {"basis", "prune", "kv"} and not recovery.layers
    if only and not ("kv" in kinds and recovery.attention_rank):
        yield ("quantize.recovery",), f"share '{recipe.share}' has no recovery matrices; leave it out"


def _either(kinds: list[ShareKind]) -> str:
    return " or ".join(kinds)


def _of_finetune(recipe: "Recipe") -> Iterator[_Rule]:
    settings = recipe.finetune
    if not settings.is_on:
        if settings.max_steps is None:  # 0 says that it is meant to be off
            yield ("finetune.*",), "fine-tuning is off; set finetune.max_steps or finetune.epochs, or leave it out"
        return
    if settings.max_steps is not None:
        yield ("finetune.epochs",), "finetune.max_steps comes first; leave one out"
    if settings.validation_text is None:
        yield ("finetune.validation_windows",), "they are windows of finetune.validation_text; set it, too"


def _of_quantize(recipe: "Recipe") -> Iterator[_Rule]:
    quantize = recipe.quantize
    if quantize.linear != 4:
        of_four = ("quantize.eight_bit_budget", *(["quantize.rounding"] if quantize.rounding == "gptq" else []))
        yield of_four, "quantize.linear is not 4; use 4, or leave it out"
    elif not recipe.rounds_to_text(tokenizer=True):
        aware = recipe.recovery.quantization_aware
        yield (
            ("quantize.eight_bit_budget",),
            "recovery.quantization_aware fits to weights that are rounded to the nearest; leave one out"
            if aware
            else "quantize.rounding is nearest; use auto or gptq, or leave it out",
        )
    others = (quantize.lm_head, quantize.embedding, quantize.recovery if recovers(recipe) else 8)
    if not {4, "auto"} & {*others, "auto" if quantize.linear == 4 and quantize.rounding != "gptq" else 8}:
        yield ("quantize.scales",), "no weight is rounded to the nearest 4-bit code; leave it out"
    if not {4, "auto"} & {quantize.linear, quantize.lm_head, quantize.embedding}:
        yield ("quantize.group_size",), "no linear or embedding has 4 bits; leave it out"


def _read_by_rounding(recipe: "Recipe", name: str) -> bool:
    return name in ("text", "window") and recipe.rounds_to_text(tokenizer=True)


def _is_direct(plan: str) -> bool:
    return re.match(r"direct\b", plan) is not None


def _named(section: str, names: "tuple[str, ...] | list[str]") -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names)


def _changed(recipe: "Recipe", setting: str) -> list[str]:
    """The setting, or all settings of "section.*", as far as the recipe sets them to something else."""
    section, _, name = setting.partition(".")
    return [f"{section}.{changed}" for changed in getattr(recipe, section).changed() if name in ("*", changed)]
