"""`sharp-mobile size`: the bytes of an export in the file and in memory, by part and by plan, before it is made.

    config.json ──► architecture ──► list of the stored tensors ──► one column a plan, next to nothing shared

What a plan gives without its recovery parameters is reported too, as the paper's Table 7 has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sharp_mobile.checkpoint.description import describe_model
from sharp_mobile.decoder.options import decoder_options
from sharp_mobile.errors import SharpError
from sharp_mobile.model.planned import ModelDescription, PlannedModel, plan_model
from sharp_mobile.model.sharing import sharing_text
from sharp_mobile.quantize.groups import budgeted_bytes
from sharp_mobile.quantize.stored import rounded_shapes, stored_tensors
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.plan_budget import is_auto
from sharp_mobile.recipe.recovery import Recovery, recoveries
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.verify.estimate import FileBytes, ResidentBytes, file_bytes, resident_bytes

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

    heading: the plan as it was given. without: with nothing but what is shared or left; None without recovery.
    """

    heading: str
    planned: PlannedModel
    size: Size
    without: Size | None


@dataclass(frozen=True)
class Report:
    """The sizes of one model's plans, the one that shares nothing first."""

    name: str
    plans: tuple[PlanSize, ...]

    def as_json(self) -> dict[str, object]:
        """All of it, to be written as JSON; bytes."""
        return {"name": self.name, "plans": [_plan_json(plan) for plan in self.plans]}

    def lines(self) -> list[str]:
        """A table of bytes, a line each."""
        files, resident = [plan.size.file for plan in self.plans], [plan.size.resident for plan in self.plans]
        return [
            f"{self.name}: {_settings(self.plans[0].planned)}",
            *self.plans[0].planned.explanation,
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


def predict(planned: PlannedModel) -> Size:
    """What an export of a planned model will take.

    Raises:
        SharpError: what `stored_tensors` and `DecoderOptions.check` refuse.
    """
    recipe, model = planned.recipe, planned.architecture
    options = decoder_options(recipe.lower, model)
    options.check(model)
    tensors = stored_tensors(model, planned.plan, planned.recovery, recipe.quantize)
    budget = 0
    if recipe.rounds_to_text(planned.tokenizer):
        quantize = recipe.quantize
        budget = budgeted_bytes(rounded_shapes(tensors), quantize.group_size, quantize.eight_bit_budget)
    return Size(file_bytes(tensors, options, budget), resident_bytes(model, tensors, options, budget))


def report(recipes: Sequence[Recipe]) -> Report:
    """The sizes of recipes of one model that differ in their plans, next to those of the first with nothing shared.

    Raises:
        SharpError: the model's configuration is not there, or a plan or a setting does not fit it; or a plan is to be
            chosen by measuring.
    """
    for recipe in recipes:
        _check_sizable(recipe)
    model = describe_model(recipes[0].model)
    plans = [_sized(recipe, model) for recipe in recipes]
    shared = [plan for plan in plans if plan.planned.recovery or not plan.planned.plan.is_none]
    first = plans[0].planned
    nothing = replace(first, plan=SharePlan(first.plan.layers, ()), recovery={})
    return Report(first.name, (PlanSize("none", nothing, predict(nothing), None), *shared))


def _check_sizable(recipe: Recipe) -> None:
    recipe.check_exportable()
    if is_auto(recipe.plan):
        raise SharpError(
            f"{recipe.model}: plan '{recipe.plan}' is chosen by measuring the weights; give --plan, or the SHARP "
            "checkpoint that `sharp-mobile recover` writes"
        )


def _sized(recipe: Recipe, model: ModelDescription) -> PlanSize:
    fitted = recipe.fitted_to(model.architecture)
    planned = plan_model(fitted, model, tuple(fitted.cut_from(recipe)))
    planned.recipe.check_fits(planned.architecture)
    bare = replace(planned, recovery=_without_parameters(planned))
    recovered = _parameters(bare) < _parameters(planned)
    heading = recipe.plan if recipe.share == "mlp" else f"{recipe.share} {recipe.plan}".removesuffix(" none")
    return PlanSize(heading, planned, predict(planned), predict(bare) if recovered else None)


def _without_parameters(planned: PlannedModel) -> dict[int, Recovery]:
    """The layers of a plan with nothing but what they share; neurons that pruning leaves are no recovery parameters."""
    bare = {}
    for layer, own in planned.recovery.items():
        attention = own.attention and replace(own.attention, form="lora", rank=0, bypass=0)
        pruned = own.pruned
        mlp = Recovery(neurons=own.neurons if pruned else 0, reference=not (pruned or own.dropped))
        bare[layer] = replace(mlp, attention=attention, basis=own.basis)
    return recoveries(planned.plan, bare)


def _parameters(planned: PlannedModel) -> int:
    """How many recovery parameters a plan has, α left out."""
    model = planned.architecture
    return sum(
        own.parameters(model.hidden, model.inner)
        + (own.attention.parameters(model.hidden, model.query_width, model.key_width) if own.attention else 0)
        for own in planned.recovery.values()
    )


def _plan_json(plan: PlanSize) -> dict[str, object]:
    planned = plan.planned
    return {
        "plan": sharing_text(planned.plan, planned.recovery),
        "stored_ratio": planned.plan.stored_ratio,
        "compression_ratio": planned.compression_ratio,
        **plan.size.as_json(),
        "without_recovery": None if plan.without is None else plan.without.as_json(),
    }


def _settings(planned: PlannedModel) -> str:
    quantize = planned.recipe.quantize
    options = decoder_options(planned.recipe.lower, planned.architecture)
    return (
        f"bits: linears {quantize.linear}, embedding {quantize.embedding}, LM head {quantize.lm_head}, recovery "
        f"{quantize.recovery}; groups of {quantize.group_size}; max_length {options.max_length}, {options.attention}"
    )


def _described(plan: PlanSize) -> str:
    described = replace(plan.planned, explanation=()).describe()
    return described if plan.heading == str(plan.planned.plan) else f"{plan.heading}: {described}"
