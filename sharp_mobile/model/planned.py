"""A model and how its layers share, before any weight is read."""

from dataclasses import dataclass
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.model.architecture import Architecture
from sharp_mobile.model.sharing import kept_parameters, share_plan, sharing_text
from sharp_mobile.recipe.plan import SharePlan, layer_ranges
from sharp_mobile.recipe.recovery import Recoveries, Recovery, mlps_alone
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.sharp_json import SHARP_JSON, SharpDescription


@dataclass(frozen=True)
class ModelDescription:
    """What the files of a model say without its weights.

    Attributes:
        name: a short name for reports.
        path: the directory, the GGUF file or the config.json that was read.
        plan, recovery: of a SHARP checkpoint, else None.
        tokenizer: whether one comes with it.
    """

    name: str
    path: Path
    architecture: Architecture
    plan: SharePlan | None = None
    recovery: Recoveries | None = None
    tokenizer: bool = False


@dataclass(frozen=True)
class PlannedModel:
    """A model and how its layers share by a recipe.

    explanation: lines about how the recipe was fitted to the model, or its plan chosen.
    """

    recipe: Recipe
    name: str
    architecture: Architecture
    tokenizer: bool
    plan: SharePlan
    recovery: dict[int, Recovery]
    explanation: tuple[str, ...] = ()

    def describe(self) -> str:
        """The plan written out, τ and s (paper, Eq. 1); where it was chosen, why."""
        return "\n".join((*self.explanation, self._described()))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the plan, a sentence each."""
        last = self.plan.layers - 1
        sharing = self.recovery.get(last)
        shares = sharing is not None and (last in self.plan.targets or sharing.attention is not None)
        return (
            (
                f"layer {last + 1}, the last one, shares: its output goes into the LM head uncorrected, which costs "
                f"more quality than sharing any other; leave it out by 'without {last + 1}' after the plan",
            )
            if shares
            else ()
        )

    def _described(self) -> str:
        plan = self.plan
        kinds: dict[str, list[int]] = {}
        for layer, recovery in self.recovery.items():
            kinds.setdefault(str(recovery), []).append(layer)
        described = [
            kind if len(kinds) == 1 else f"{kind} in layers {layer_ranges(tuple(layers))}"
            for kind, layers in kinds.items()
        ]
        if not mlps_alone(self.recovery):
            kept = kept_parameters(self.architecture, plan, self.recovery)
            return (
                f"shares {sharing_text(plan, self.recovery)} (reference:targets, 1-based), {', '.join(described)}; "
                f"{kept.planned / kept.original:.3f} of the layers' parameters are kept"
            )
        if plan.is_none:
            return f"plan none: {'; '.join([f'{plan.layers} layers, nothing shared', *described])}"
        return (
            f"plan {plan} (reference:targets, 1-based), {', '.join(described)}; stored ratio "
            f"τ = {plan.stored_ratio:.2f}, compression ratio s = {self.compression_ratio:.3f}"
        )

    @property
    def compression_ratio(self) -> float:
        """s: MLP parameters kept over original ones, those of attention aside."""
        widths = (self.architecture.hidden, self.architecture.inner)
        return self.plan.compression_ratio(*widths, sum(own.parameters(*widths) for own in self.recovery.values()))


def plan_model(recipe: Recipe, model: ModelDescription, explanation: tuple[str, ...] = ()) -> PlannedModel:
    """How a model shares by its recipe, whose plan is written out or a preset.

    Raises:
        SharpError: the plan does not fit, or the model is shared already by another plan.
    """
    plan, recovery = share_plan(recipe, model.architecture)
    if model.plan is not None and (model.plan, model.recovery) != (plan, recovery):
        raise SharpError(
            f"{model.path}: already shares layers, by plan {sharing_text(model.plan, model.recovery or {})}; leave out "
            "plan, share and recovery, or "
            "start from the original model"
        )
    if model.plan is not None:
        recipe = _rounded_as_recovered(recipe, model.path)
    return PlannedModel(recipe, model.name, model.architecture, model.tokenizer, plan, recovery, explanation)


def _rounded_as_recovered(recipe: Recipe, directory: Path) -> Recipe:
    """The recipe of a SHARP checkpoint, its weights rounded to the nearest if recovery saw them so."""
    if recipe.quantize.rounding != "auto" or SharpDescription.read(directory / SHARP_JSON).recovered_in_float:
        return recipe
    return recipe.model_copy(update={"quantize": recipe.quantize.model_copy(update={"rounding": "nearest"})})
