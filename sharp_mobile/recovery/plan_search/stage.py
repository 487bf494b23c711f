"""A recipe whose plan is `auto`: the budget it names, the choices it has, and the recipe that comes of it.

What was measured is kept as JSON under the work directory, and taken from there the next time, whatever the budget.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.decoder.options import decoder_options
from sharp_mobile.errors import SharpError
from sharp_mobile.model.architecture import Architecture
from sharp_mobile.quantize.stored import Role, stored_tensors
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.plan_budget import PlanBudget
from sharp_mobile.recipe.recovery import AttentionRecovery, Recovery
from sharp_mobile.recipe.recovery_settings import LayerRecovery, RecoverySettings
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.sharp_json import describe_recoveries
from sharp_mobile.recovery.plan_search.choose import choose_plan
from sharp_mobile.recovery.plan_search.measured_once import kept_path, measured_once
from sharp_mobile.recovery.plan_search.plan_candidates import LayerCandidates, measure_candidates
from sharp_mobile.text.windows import check_length, source_windows


def usual_choices(hidden: int, inner: int) -> tuple[Recovery, ...]:
    """What a target may have, in units of about a ninth of the hidden width, a multiple of 32.

    LoRA, even and with more rank on down; and, without a reference, own neurons, from a few to three quarters of all,
    and a bypass. Reference and own neurons together can be given as `auto.choices`; they are fitted in turns, which
    for every pair of layers takes long.
    """
    unit = max(32, round(hidden / 9 / 32) * 32)
    half = max(32, unit // 64 * 32)
    parts = sorted({max(32, inner * part // 12 // 32 * 32) for part in (3, 4, 5, 6, 7, 8, 9)})
    return (
        Recovery("lora", half),
        Recovery("lora", unit),
        Recovery("lora", (half, half, 2 * unit)),
        Recovery(neurons=half, bypass=unit, reference=False),
        Recovery(neurons=unit + half, bypass=2 * unit + half, reference=False),
        Recovery(neurons=3 * unit, bypass=3 * unit, reference=False),
        *(Recovery(neurons=part, bypass=3 * unit, reference=False) for part in parts),
    )


def usual_attentions(hidden: int) -> tuple[AttentionRecovery, ...]:
    """What may stand in for an attention, references aside: nothing, a bypass, a reference's weights, keys and values.

    References are 0 here; each within reach is tried.
    """
    unit = max(32, round(hidden / 9 / 32) * 32)
    return (
        AttentionRecovery("none"),
        AttentionRecovery("none", bypass=unit),
        AttentionRecovery("kv", 0),
        AttentionRecovery("weights", 0, rank=unit),
    )


def resolve(recipe: Recipe, checkpoint: Checkpoint, work: Path) -> tuple[Recipe, list[str]]:
    """The recipe with its plan written out, and the explanation, a line each.

    Raises:
        SharpError: a plan that names no budget or one too small, a kind of sharing that is not chosen, a checkpoint
            that is shared already or has no tokenizer, or a text that does not suffice.
    """
    budget = PlanBudget.parse(recipe.plan)
    check_chosen(recipe.share, budget)
    if checkpoint.plan is not None:
        raise SharpError(f"{checkpoint.path}: already shares layers; choose a plan for the original model")
    config, auto = checkpoint.config, recipe.auto
    check_length(recipe.warmup.window, config)
    model = checkpoint.architecture
    recoveries = auto.recoveries() or usual_choices(model.hidden, model.inner)
    if budget.kind == "tau":
        recoveries = (recipe.recovery.usual,)
    if recipe.share == "attention":
        recoveries = ()
    if recipe.share == "layer":
        recoveries = (*recoveries, Recovery(reference=False))  # the MLP left out
    attentions = () if recipe.share == "mlp" else usual_attentions(model.hidden)
    measured = _measured(checkpoint, recipe, recoveries, attentions, work)
    costs = Costs(budget, recipe, model)
    choice = choose_plan(
        measured,
        model.layers,
        costs.allowed,
        costs.mlp,
        reach=auto.reach,
        attention_cost=costs.attention if attentions else None,
    )
    layers = {name: LayerRecovery.model_validate(own) for name, own in describe_recoveries(choice.recovery).items()}
    recovery = RecoverySettings(layers=layers, quantization_aware=recipe.recovery.quantization_aware)
    chosen = {"plan": str(choice.plan), "share": "mlp", "recovery": recovery}  # attention is written out by layer
    return recipe.model_copy(update=chosen), choice.explain()


def check_chosen(share: str, budget: PlanBudget) -> None:
    """Refuse what a plan that is auto does not choose.

    Raises:
        SharpError: a kind of sharing that has no candidates, or a budget of MLPs alone for more than MLPs.
    """
    if share not in ("mlp", "attention", "layer"):
        raise SharpError(
            f"plan auto with share '{share}': it chooses among MLPs, attention or both; use share: mlp, attention or "
            "layer, or write the plan out"
        )
    if share != "mlp" and budget.kind == "tau":
        raise SharpError(f"plan auto: tau counts MLPs alone; with share {share} name s, bytes or resident bytes")


_TRIALS = TypeAdapter(list[LayerCandidates])


def _measured(
    checkpoint: Checkpoint,
    recipe: Recipe,
    recoveries: Sequence[Recovery],
    attentions: Sequence[AttentionRecovery],
    work: Path,
) -> list[LayerCandidates]:
    """The options of all layers, measured now or before."""
    warmup, auto = recipe.warmup, recipe.auto

    def measure() -> list[LayerCandidates]:
        tokenizer = checkpoint.tokenizer_for("plan auto")
        windows = source_windows(tokenizer, warmup.text, warmup.window, auto.auto_windows)
        return measure_candidates(checkpoint.model, recoveries, windows, auto.reach, attentions)

    settings: list[object] = [checkpoint.fingerprint, [asdict(own) for own in recoveries]]
    settings += [warmup.text, warmup.window, auto.auto_windows, auto.reach, *(asdict(own) for own in attentions)]
    return measured_once(kept_path(work, "trials", settings), _TRIALS, measure, "delete it to measure again")


class Costs:
    """What the parts of a layer cost, in the unit of a budget, and what all may cost.

    In bytes that is what an export stores of them, scales included; a budget of resident bytes counts an attention's KV
    cache too, which is float32.
    """

    def __init__(self, budget: PlanBudget, recipe: Recipe, model: Architecture) -> None:
        self._model, self._quantize, self._kind = model, recipe.quantize, budget.kind
        self._bytes: dict[Recovery, int] = {}
        length = decoder_options(recipe.lower, model).max_length
        self._cache = 2 * model.key_width * length * 4 if budget.kind == "resident" else 0
        self._mlp = 3 * model.hidden * model.inner
        self._queries = 2 * model.hidden * model.query_width  # q and o
        self._keys = 2 * model.hidden * model.key_width  # k and v
        parts = {"mlp": self._mlp, "attention": self._queries + self._keys}
        counted = sum(parts.values()) if recipe.share == "layer" else parts[recipe.share]
        whole = {"tau": model.layers, "s": model.layers * counted}
        self.allowed = budget.amount * whole.get(budget.kind, 1)
        if recipe.share == "mlp":  # attention stays: its caches are there
            self.allowed -= model.layers * self._cache
        self._counts_mlps = recipe.share != "attention"  # else they stay, and do not count

    def mlp(self, recovery: Recovery | None) -> float:
        """Of an MLP: its own, or what stands in for it."""
        if not self._counts_mlps:
            return 0.0
        if self._kind == "tau":
            return 1.0 if recovery is None else 0.0
        if self._kind == "s":
            return self._mlp if recovery is None else recovery.parameters(self._model.hidden, self._model.inner)
        return self._whole("mlp") + (0 if recovery is None else self._more(recovery))

    def attention(self, recovery: AttentionRecovery | None) -> float:
        """Of an attention with its cache: its own, or what stands in for it."""
        model = self._model
        cache = self._cache if recovery is None or recovery.kind == "weights" else 0
        if self._kind == "s":
            if recovery is None:
                return self._queries + self._keys
            private = recovery.parameters(model.hidden, model.query_width, model.key_width)
            return private + (self._queries if recovery.kind == "kv" else 0)
        if recovery is None:
            return self._whole("attention") + cache
        reference = None if recovery.reference is None else 0  # what it costs does not depend on which
        return self._whole("attention") + self._more(Recovery(attention=replace(recovery, reference=reference))) + cache

    def _whole(self, role: Literal["mlp", "attention"]) -> float:
        """The bytes of a layer's own MLP or attention."""
        nothing = stored_tensors(self._model, SharePlan(self._model.layers, ()), {}, self._quantize)
        return nothing.nbytes(role) / self._model.layers

    def _more(self, own: Recovery) -> int:
        """The bytes by which an export grows if its second layer has this; less than 0 where it shrinks."""
        if own not in self._bytes:
            shared = SharePlan(self._model.layers, () if own.attention else ((0, (1,)),))
            plans: tuple[tuple[SharePlan, dict[int, Recovery]], ...] = (
                (shared, {1: own}),
                (SharePlan(self._model.layers, ()), {}),
            )
            with_it, without = (
                sum(stored_tensors(self._model, plan, its, self._quantize).nbytes(role) for role in _COUNTED)
                for plan, its in plans
            )
            self._bytes[own] = with_it - without
        return self._bytes[own]


_COUNTED: tuple[Role, ...] = ("attention", "mlp", "recovery")
