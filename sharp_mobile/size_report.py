"""`sharp-mobile size`: the bytes of an export in the file and in memory, by part and by plan, before it is made.

    config.json ──► blueprint: decoder on the meta device ──► lower.size ──► one column a plan, beside nothing shared

What a plan gives without its recovery parameters is told too, as the paper's Table 7 has it.
"""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sharp_mobile.checkpoint.meta_model import open_blueprint
from sharp_mobile.checkpoint.tokenizer import has_tokenizer
from sharp_mobile.decoder.options import decoder_options
from sharp_mobile.errors import SharpError
from sharp_mobile.model.duration import spoken, warmup_seconds
from sharp_mobile.quantize.bit_allocation import budgeted_bytes, rounded_shapes
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.plan_budget import is_auto
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.run import Opened, planned
from sharp_mobile.verify.estimate import FileBytes, ResidentBytes, file_bytes, resident_bytes
from sharp_mobile.verify.meta_decoder import blueprint_decoder

_LABELS = {
    "embedding": "embedding",
    "lm_head": "LM head",
    "attention": "attention",
    "mlps": "MLPs",
    "eight_bit_budget": "8 for 4 bits",
    "recovery": "recovery parameters",
    "rest": "norms and rest",
    "program": "program",
    "packed": "packed weights",
    "cache": "KV cache",
    "activations": "activations",
    "constants": "norms and program",
    "runtime": "runtime",
}
_WIDTH = 16
_SUGGESTED = ("t_next", "t_next2", "t_back")


class Size(NamedTuple):
    """Predicted bytes of one export, by part: `file` of the `.pte`, `resident` in memory while the model runs.

    >>> from sharp_mobile import predict_size
    >>> size = predict_size("my-model")
    >>> size.file.total == sum(size.file), size.resident.cache
    (True, 262144)
    """

    file: FileBytes
    resident: ResidentBytes

    def total(self, name: str) -> int:
        """Of the "file" or "resident"."""
        return self.file.total if name == "file" else self.resident.total

    def as_json(self) -> dict[str, dict[str, int]]:
        """Both by part, and their totals."""
        return {
            "file": {**self.file._asdict(), "total": self.file.total},
            "resident": {**self.resident._asdict(), "total": self.resident.total},
        }


@dataclass(frozen=True)
class PlanSize:
    """Predicted bytes of a plan.

    heading: the plan as it was given. without: with nothing but the shared MLPs; None where there is no recovery.
    """

    heading: str
    opened: Opened
    size: Size
    without: Size | None


@dataclass(frozen=True)
class Report:
    """The sizes of one model's plans, the one that shares nothing first."""

    name: str
    plans: tuple[PlanSize, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it, to be written as JSON; bytes."""
        return {"name": self.name, "plans": [_plan_json(plan) for plan in self.plans]}

    def lines(self) -> list[str]:
        """A table of bytes, a line each."""
        files, resident = [plan.size.file for plan in self.plans], [plan.size.resident for plan in self.plans]
        return [
            f"{self.name}: {_settings(self.plans[0].opened)}",
            *self.plans[0].opened.explanation,
            *(_described(plan) for plan in self.plans[1:]),
            "",
            self._row("bytes", [plan.heading for plan in self.plans]),
            *self._parts(files),
            *self._totals("file", files),
            "",
            *self._parts(resident),
            *self._totals("resident", resident),
        ]

    def _parts(self, columns: Sequence[FileBytes] | Sequence[ResidentBytes]) -> list[str]:
        return [
            self._row(_LABELS[part], [f"{getattr(column, part):,}" for column in columns])
            for part in columns[0]._fields
        ]

    def _totals(self, name: str, columns: Sequence[FileBytes] | Sequence[ResidentBytes]) -> list[str]:
        totals = [column.total for column in columns]
        lines = [self._row(name, [f"{total:,}" for total in totals])]
        if len(totals) > 1:
            lines.append(self._row("", ["", *(f"{total / totals[0] - 1:+.1%}" for total in totals[1:])]))
        without = ["" if plan.without is None else f"{plan.without.total(name):,}" for plan in self.plans]
        return [*lines, self._row("… without recovery", without)] if any(without) else lines

    def _row(self, label: str, cells: Sequence[str]) -> str:
        widths = [max(_WIDTH, len(plan.heading) + 2) for plan in self.plans]
        return (
            f"{label:<20}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        ).rstrip()


def predict(opened: Opened) -> Size:
    """What an export of an opened recipe will take.

    Raises:
        SharpError: as `blueprint.blueprint_decoder`.
    """
    decoder = blueprint_decoder(opened.recipe, opened.checkpoint, opened.plan, opened.recovery)
    recipe = opened.recipe
    budget = 0
    if recipe.rounds_to_text(has_tokenizer(opened.checkpoint.path)):
        quantize = recipe.quantize
        budget = budgeted_bytes(rounded_shapes(decoder), quantize.group_size, quantize.eight_bit_budget)
    return Size(file_bytes(decoder, budget), resident_bytes(decoder, budget))


def report(recipes: Sequence[Recipe]) -> Report:
    """The sizes of recipes that differ in their plans, beside those of the first with nothing shared.

    Raises:
        SharpError: the model's configuration is not there, or a plan or a setting does not fit it; or a plan is to be
            chosen by measuring.
    """
    plans = [_measured(recipe) for recipe in recipes]
    shared = [plan for plan in plans if plan.opened.recovery or not plan.opened.plan.is_none]
    opened = plans[0].opened
    nothing = replace(opened, plan=SharePlan(opened.plan.layers, ()), recovery={})
    return Report(opened.checkpoint.name, (PlanSize("none", nothing, predict(nothing), None), *shared))


def what_sharing_gives(recipe: Recipe, argument: str) -> list[str]:
    """For a model of which nothing is shared: the sizes that presets would give, and their commands, in lines.

    Args:
        argument: the model as the user named it.

    Returns:
        Nothing if no preset makes the file smaller.
    """
    config = open_blueprint(recipe.model).config
    fitting = [name for name in _SUGGESTED if _has_targets(name, config.num_hidden_layers)]
    if not fitting:
        return []
    nothing, *plans = report([recipe.model_copy(update={"plan": name}) for name in fitting]).plans
    total = nothing.size.file.total
    different = {str(plan.opened.plan): plan for plan in reversed(plans)}.values()
    smaller = [plan for plan in reversed(different) if plan.size.file.total < total]
    if not smaller:
        return []
    warming = [spoken(warmup_seconds(config, recipe.warmup, plan.opened.recovery)) for plan in smaller]
    named = shlex.quote(argument)
    return [
        "",
        f"nothing is shared. With recovery parameters of rank {recipe.recovery.rank}, sharing would give:",
        *(
            f"  {plan.size.file.total:>13,} bytes ({plan.size.file.total / total - 1:+.1%}), {seconds} of warm-up:  "
            f"sharp-mobile export {named} --plan {plan.heading}"
            for plan, seconds in zip(smaller, warming, strict=True)
        ),
        f"Sharing costs quality. Measure it: sharp-mobile evaluate {named} --quantized --plan {smaller[0].heading}",
    ]


def _has_targets(preset: str, layers: int) -> bool:
    with suppress(SharpError):
        return bool(SharePlan.parse(preset, layers).targets)
    return False


def _measured(recipe: Recipe) -> PlanSize:
    recipe.check_exportable()
    if is_auto(recipe.plan):
        raise SharpError(
            f"{recipe.model}: plan '{recipe.plan}' is chosen by measuring the weights; give --plan, or the SHARP "
            "checkpoint that `sharp-mobile recover` writes"
        )
    blueprint = open_blueprint(recipe.model)
    fitted = recipe.fitted_to(blueprint.config)
    opened = planned(fitted, blueprint, tuple(fitted.cut_from(recipe)))
    fitted.check_fits(blueprint.config)
    bare = replace(opened, plan=replace(opened.plan, direct=not opened.plan.is_none), recovery=dict[int, Any]())
    recovered = any(not own.direct for own in opened.recovery.values())
    return PlanSize(recipe.plan, opened, predict(opened), predict(bare) if recovered else None)


def _plan_json(plan: PlanSize) -> dict[str, Any]:
    opened = plan.opened
    return {
        "plan": str(opened.plan),
        "stored_ratio": opened.plan.stored_ratio,
        "compression_ratio": opened.compression_ratio,
        **plan.size.as_json(),
        "without_recovery": None if plan.without is None else plan.without.as_json(),
    }


def _settings(opened: Opened) -> str:
    quantize = opened.recipe.quantize
    options = decoder_options(opened.recipe.lower, opened.checkpoint.config)
    return (
        f"bits: linears {quantize.linear}, embedding {quantize.embedding}, LM head {quantize.lm_head}, recovery "
        f"{quantize.recovery}; groups of {quantize.group_size}; max_length {options.max_length}, {options.attention}"
    )


def _described(plan: PlanSize) -> str:
    described = replace(plan.opened, explanation=()).describe()
    return described if plan.heading == str(plan.opened.plan) else f"{plan.heading}: {described}"
