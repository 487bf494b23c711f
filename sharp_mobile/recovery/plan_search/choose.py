"""plan: auto. Which layers become targets, of which reference, with which recovery parameters, within a budget.

A layer either keeps its MLP, or becomes a target by one of several options, each a reference (or none) and recovery
parameters. What is known of them is the error ε of each option and the sensitivity σ of each layer (`trials`), and the
cost of an option in bytes, in parameters, or in nothing but MLPs. Targets are taken to add up, so that the best choice
within a budget is

    minimise  Σ σ ε²   subject to   Σ cost ≤ budget, and an option's reference keeps its MLP

For a price λ the minimum of Σ (σ ε² + λ · cost) is found exactly, layer after layer, in a table over which of the
layers just before keep their MLP; λ is then raised until the budget is met. The attention sink's layer, the first and
the last are never targets.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.plan_search.plan_candidates import LayerCandidates

# What a layer's recovery parameters cost of the budget; its own MLP for None. Bytes, or whatever is to be saved.
Cost = Callable[[Recovery | None], float]


@dataclass(frozen=True)
class Option:
    """A way to make a layer a target.

    Args:
        reference: its reference, 0-based; None where the option calls none.
        error: ε, relative.
        damage: σ ε², nats a token.
        cost: of its recovery parameters, in units of the budget.
    """

    reference: int | None
    recovery: Recovery
    error: float
    damage: float
    cost: float


@dataclass(frozen=True)
class Choice:
    """What `choose_plan` chose.

    Args:
        plan, recovery: 0-based, as `share_layers` takes them.
        chosen: the option of each target.
        sensitivity: σ of each layer that could be a target, nats a token.
        cost, whole: of all MLPs and recovery parameters as chosen, and with nothing shared.
        damage: Σ σ ε², the predicted KL from the original, nats a token.
    """

    plan: SharePlan
    recovery: dict[int, Recovery]
    chosen: dict[int, Option]
    sensitivity: dict[int, float]
    cost: float
    whole: float
    damage: float

    def explain(self) -> list[str]:
        """A line a layer, 1-based: why it is a target, or why not."""
        lines = [
            f"auto: {len(self.chosen)} targets, {self.cost / self.whole:.3f} of the MLPs kept; predicted KL from the "
            f"original {self.damage:.3f} nats a token"
        ]
        for layer in range(self.plan.layers):
            option = self.chosen.get(layer)
            if option is not None:
                of = "" if option.reference is None else f" of layer {option.reference + 1}"
                what = f"target{of}, {option.recovery}: error {option.error:.3f}, damage {option.damage:.4f} nats"
            elif layer in self.sensitivity:
                what = "keeps its MLP"
            else:
                what = "keeps its MLP: first, last or attention sink"
            known = f" (sensitivity {self.sensitivity[layer]:.3f})" if layer in self.sensitivity else ""
            lines.append(f"  layer {layer + 1}: {what}{known}")
        return lines


def choose_plan(
    measured: Sequence[LayerCandidates], layers: int, budget: float, cost: Cost, *, reach: int = 2
) -> Choice:
    """Choose targets, references and recovery parameters of least predicted damage.

    Args:
        measured: the layers that can be targets, and what they can be.
        layers: of the model.
        budget: the cost that all MLPs and recovery parameters may have.
        cost: see `Cost`.
        reach: how many layers before a target its reference may be.

    Raises:
        SharpError: no choice stays within the budget.
    """
    options = {
        one.layer: [
            Option(t.reference, t.recovery, t.error, one.sensitivity * t.error**2, cost(t.recovery)) for t in one.trials
        ]
        for one in measured
    }
    whole = cost(None)
    chosen = within_budget(options, layers, whole, budget, reach)
    kept = [layer for layer in range(layers) if layer not in chosen]
    return Choice(
        plan=_plan(chosen, kept, layers),
        recovery={layer: option.recovery for layer, option in chosen.items()},
        chosen=chosen,
        sensitivity={one.layer: one.sensitivity for one in measured},
        cost=len(kept) * whole + sum(option.cost for option in chosen.values()),
        whole=layers * whole,
        damage=sum(option.damage for option in chosen.values()),
    )


def within_budget(
    options: Mapping[int, Sequence[Option]], layers: int, whole: float, budget: float, reach: int
) -> dict[int, Option]:
    """The options of least damage that fit the budget: target -> its option.

    Args:
        options: of each layer that can be a target.
        whole: cost of a layer's own MLP.
        reach: how many layers before a target its reference may be.

    Raises:
        SharpError: even the smallest choice is above the budget.
    """

    def total(chosen: dict[int, Option]) -> float:
        return (layers - len(chosen)) * whole + sum(option.cost for option in chosen.values())

    cheapest = _at_price(options, layers, whole, reach, 1e12)
    if total(cheapest) > budget:
        raise SharpError(
            f"plan auto: the budget is below the {total(cheapest) / (layers * whole):.3f} of the MLPs that has to be "
            "kept at least; raise it, or offer smaller recovery parameters"
        )
    low, high, best = 0.0, 1e12, cheapest
    for _ in range(200):
        price = math.sqrt(max(low, 1e-15) * high)
        chosen = _at_price(options, layers, whole, reach, price)
        if total(chosen) <= budget:
            best, high = chosen, price
        else:
            low = price
        if high / max(low, 1e-15) < 1 + 1e-6:
            break
    return _spend_rest(best, options, whole, budget - total(best))


def _spend_rest(
    chosen: dict[int, Option], options: Mapping[int, Sequence[Option]], whole: float, rest: float
) -> dict[int, Option]:
    """Prices reach only some budgets: use what is left for the exchanges that save most damage."""
    while True:
        exchanges: list[tuple[float, float, int, Option | None]] = []
        for layer, old in chosen.items():
            others = [o for o in options[layer] if o.reference is None or o.reference not in chosen]
            for new in (None, *others):
                saved = old.damage - (0.0 if new is None else new.damage)
                more = (whole if new is None else new.cost) - old.cost
                if saved > 0 and more <= rest:
                    exchanges.append((saved, more, layer, new))
        if not exchanges:
            return chosen
        _, more, layer, new = max(exchanges, key=lambda exchange: exchange[0])
        rest -= more
        chosen = {**chosen, layer: new} if new else {k: v for k, v in chosen.items() if k != layer}


# The best choice so far by state, see `_at_price`: its damage + price · cost, and its targets.
_Best = dict[int, tuple[float, tuple[tuple[int, Option], ...]]]


def _at_price(
    options: Mapping[int, Sequence[Option]], layers: int, whole: float, reach: int, price: float
) -> dict[int, Option]:
    """The choice of least Σ (damage + price · cost), exactly.

    A state is which of the last `reach` layers keep their MLP, bit 0 being the layer just before.
    """
    mask = (1 << reach) - 1
    best: _Best = {0: (0.0, ())}
    for layer in range(layers):
        after: _Best = {}

        def offer(state: int, cost: float, chosen: tuple[tuple[int, Option], ...], after: _Best = after) -> None:
            if state not in after or cost < after[state][0]:
                after[state] = (cost, chosen)

        for state, (spent, chosen) in best.items():
            offer((state << 1 | 1) & mask, spent + price * whole, chosen)
            for option in options.get(layer, ()):
                if option.reference is None or state >> (layer - 1 - option.reference) & 1:
                    total = spent + option.damage + price * option.cost
                    offer((state << 1) & mask, total, (*chosen, (layer, option)))
        best = after
    return dict(min(best.values(), key=lambda found: found[0])[1])


def _plan(chosen: Mapping[int, Option], kept: Sequence[int], layers: int) -> SharePlan:
    """The plan; a target that calls no reference stands under the nearest layer before it that keeps its MLP."""
    targets_of: dict[int, list[int]] = {}
    for target, option in sorted(chosen.items()):
        reference = option.reference
        if reference is None:
            reference = max(layer for layer in kept if layer < target)
        targets_of.setdefault(reference, []).append(target)
    return SharePlan(layers, tuple((reference, tuple(targets)) for reference, targets in sorted(targets_of.items())))
