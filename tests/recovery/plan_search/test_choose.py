"""The plan that is chosen: exact within its own model of damage, and what the measurements behind it say."""

import itertools
import random
from typing import Any

import pytest
import torch
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.model.share import share_layers
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.plan_search.choose import Option, Part, choose_plan, within_budget
from sharp_mobile.recovery.plan_search.plan_candidates import measure_candidates

WHOLE, REACH = 10.0, 2
SMALL, LARGE = Recovery("lora", 2), Recovery("lora", 8)
OWN = Recovery(neurons=4, bypass=4, reference=False)


def random_options(layers: int, seed: int) -> dict[int, list[Option]]:
    draw = random.Random(seed)
    options: dict[int, list[Option]] = {}
    for layer in range(1, layers - 1):
        references = range(max(0, layer - REACH), layer)
        options[layer] = [Option(j, SMALL, 0.5, draw.random(), 1.0) for j in references]
        options[layer] += [Option(j, LARGE, 0.4, 0.7 * draw.random(), 3.0) for j in references]
        options[layer].append(Option(None, OWN, 0.4, draw.random(), 2.0))
    return options


def cost(chosen: dict[int, Option], layers: int) -> float:
    return (layers - len(chosen)) * WHOLE + sum(option.cost for option in chosen.values())


def all_choices(options: dict[int, list[Option]]) -> Any:
    """Every choice in which references keep their MLPs."""
    for picked in itertools.product(*([None, *options[layer]] for layer in sorted(options))):
        chosen = {layer: option for layer, option in zip(sorted(options), picked, strict=True) if option}
        if all(option.reference not in chosen for option in chosen.values()):
            yield chosen


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_nearly_the_best_that_the_budget_allows(seed: int) -> None:
    """Against all choices: never above the budget, and close to the optimum, which prices alone need not reach."""
    layers = 6
    options = random_options(layers, seed)
    choices = list(all_choices(options))
    for budget in (38.0, 45.0, 52.0, 59.0):
        (chosen,) = within_budget([Part(options, WHOLE)], layers, budget, REACH)
        assert all(option.reference not in chosen for option in chosen.values())
        assert cost(chosen, layers) <= budget
        best = min(sum(o.damage for o in c.values()) for c in choices if cost(c, layers) <= budget)
        assert sum(option.damage for option in chosen.values()) <= 1.25 * best + 1e-9


def test_with_the_whole_budget_nothing_is_shared_and_below_the_least_it_is_refused() -> None:
    options = random_options(6, 0)
    assert within_budget([Part(options, WHOLE)], 6, 60.0, REACH) == [{}]
    with pytest.raises(SharpError, match="the budget is below the"):
        within_budget([Part(options, WHOLE)], 6, 10.0, REACH)


def parameters(recovery: Recovery | None) -> float:
    return 3 * 64 * 96 if recovery is None else recovery.parameters(64, 96)


def test_a_layer_that_repeats_another_becomes_its_target() -> None:
    """Layer 4's MLP made equal to layer 2's: sharing costs nothing there, and that reference is found."""
    model = tiny_model()
    layers = decoder_layers(model)
    layers[3].mlp.load_state_dict(layers[1].mlp.state_dict())
    windows = torch.cat([tiny_tokens(32, seed=seed) for seed in range(40)])
    recoveries = [SMALL, Recovery(neurons=4, bypass=2, reference=False)]
    budget = 5 * parameters(None) + 1.01 * parameters(SMALL)
    choice = choose_plan(measure_candidates(model, recoveries, windows, 2), 6, budget, parameters)
    assert str(choice.plan) == "2:4"
    assert choice.recovery == {3: SMALL}
    assert choice.chosen[3].error < 0.05
    assert choice.sensitivity.keys() == {1, 2, 3, 4}
    lines = choice.explain()
    assert lines[0].startswith("auto: 1 targets, 0.8")
    assert "layer 4: target of layer 2, lora rank 2: error 0.0" in lines[4]
    assert lines[1] == "  layer 1: keeps its MLP: first, last or attention sink"
    before = model(windows[:1]).logits
    share_layers(model, choice.plan, choice.recovery)  # it fits the model
    assert before.shape == model(windows[:1]).logits.shape


def test_more_sharing_costs_more_and_options_without_reference_stand_under_a_kept_layer() -> None:
    model = tiny_model()
    windows = torch.cat([tiny_tokens(32, seed=seed) for seed in range(20)])
    measured = measure_candidates(model, [OWN], windows, 2)
    choices = [choose_plan(measured, 6, part * 6 * parameters(None), parameters) for part in (0.9, 0.7, 0.5)]
    assert [len(choice.chosen) for choice in choices] == sorted(len(choice.chosen) for choice in choices)
    assert 0 < choices[0].damage < choices[1].damage < choices[2].damage
    for choice in choices:
        assert all(option.reference is None for option in choice.chosen.values())
        assert not set(choice.plan.reference_of.values()) & choice.chosen.keys()
