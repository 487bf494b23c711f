"""A recipe whose plan is `auto`: the budget it names, the choices it has, and the recipe that comes of it.

What was measured is kept as JSON under the work directory, and taken from there the next time, whatever the budget.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sharp_mobile import __version__
from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.errors import SharpError, first_problem
from sharp_mobile.files.json_file import parse_json, read_text
from sharp_mobile.files.outputs import replace_text
from sharp_mobile.recipe.plan_budget import PlanBudget
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.recovery_settings import LayerRecovery, RecoverySettings
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.sharp_json import describe_recoveries
from sharp_mobile.recovery.plan_search.choose import Cost, choose_plan
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


def resolve(recipe: Recipe, checkpoint: Checkpoint, work: Path) -> tuple[Recipe, list[str]]:
    """The recipe with its plan written out, and the explanation, a line each.

    Raises:
        SharpError: a plan that names no budget or one too small, a checkpoint that is shared already or has no
            tokenizer, or a text that does not suffice.
    """
    budget = PlanBudget.parse(recipe.plan)
    if checkpoint.plan is not None:
        raise SharpError(f"{checkpoint.path}: already shares layers; choose a plan for the original model")
    config, auto = checkpoint.config, recipe.auto
    check_length(recipe.warmup.window, config)
    widths = config.hidden_size, config.intermediate_size
    recoveries = auto.recoveries() or usual_choices(*widths)
    if budget.kind == "tau":
        recoveries = (recipe.recovery.usual,)
    measured = _measured(checkpoint, recipe, recoveries, work)
    cost, allowed = _cost(budget, recipe, *widths, config.num_hidden_layers)
    choice = choose_plan(measured, config.num_hidden_layers, allowed, cost, reach=auto.reach)
    layers = {name: LayerRecovery.model_validate(own) for name, own in describe_recoveries(choice.recovery).items()}
    recovery = RecoverySettings(layers=layers, quantization_aware=recipe.recovery.quantization_aware)
    return recipe.model_copy(update={"plan": str(choice.plan), "recovery": recovery}), choice.explain()


_TRIALS = TypeAdapter(list[LayerCandidates])


def _measured(
    checkpoint: Checkpoint, recipe: Recipe, recoveries: Sequence[Recovery], work: Path
) -> list[LayerCandidates]:
    """The options of all layers, measured now or before."""
    warmup, auto = recipe.warmup, recipe.auto
    settings: list[object] = [checkpoint.fingerprint, [asdict(own) for own in recoveries], __version__]
    settings += [warmup.text, warmup.window, auto.auto_windows, auto.reach]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    kept = work / f"trials-{key}.json"
    if not os.path.lexists(kept):
        tokenizer = checkpoint.tokenizer_for("plan auto")
        windows = source_windows(tokenizer, warmup.text, warmup.window, auto.auto_windows)
        measured = measure_candidates(checkpoint.model, recoveries, windows, auto.reach)
        replace_text(kept, _TRIALS.dump_json(measured, indent=1).decode() + "\n")
    remedy = "delete it to measure again"
    try:
        return _TRIALS.validate_python(parse_json(read_text(kept), kept, remedy=remedy))
    except ValidationError as error:
        raise SharpError(f"{kept}: {first_problem(error)}; {remedy}") from error


def _cost(budget: PlanBudget, recipe: Recipe, hidden: int, inner: int, layers: int) -> tuple[Cost, float]:
    """What a layer costs, and what all may cost."""
    own = 3 * hidden * inner
    quantize = recipe.quantize
    if budget.kind == "tau":
        return (lambda recovery: 1.0 if recovery is None else 0.0), budget.amount * layers
    if budget.kind == "s":
        return (
            lambda recovery: own if recovery is None else recovery.parameters(hidden, inner)
        ), budget.amount * own * layers
    shared = own * _bytes_a_weight(quantize.linear, quantize.group_size)
    private = _bytes_a_weight(quantize.recovery, 32)
    return (
        lambda recovery: shared if recovery is None else private * recovery.parameters(hidden, inner)
    ), budget.amount


def _bytes_a_weight(bits: int | str, group: int) -> float:
    """With its part of the scales: bfloat16 a group at 4 bits; at 8 bits one a row, which is next to nothing."""
    if bits == "float":
        return 4.0
    return 0.5 + 2 / group if bits == 4 else 1.0
