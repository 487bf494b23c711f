"""plan: auto. Which layers become targets, of which reference, with which recovery parameters, within a budget.

A layer either keeps its MLP, or becomes a target by one of several options, each a reference (or none) and recovery
parameters; its attention alike, if it may be shared. What is known of an option is its damage in nats a token: of an
MLP σ ε², by the error ε of the option and the sensitivity σ of the layer; of attention, one trial each. And its cost in
bytes, in parameters, or in nothing but MLPs. Targets are taken to add up, so that the best choice within a budget is

    minimise  Σ damage   subject to   Σ cost ≤ budget, and an option's reference keeps its MLP (its attention)

For a price λ the minimum of Σ (damage + λ · cost) is found exactly, for MLPs and attentions each: layer after layer, in
a table over which of the layers just before keep theirs; λ is then raised until the budget is met. The attention sink's
layer, the first and the last are never targets.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import AttentionRecovery, Recovery
from sharp_mobile.recovery.plan_search.plan_candidates import LayerCandidates

# What stands in for a layer's MLP (or attention) costs of the budget; its own one for None. Bytes, or whatever is to be
# saved.
Cost = Callable[[Recovery | None], float]
AttentionCost = Callable[[AttentionRecovery | None], float]


@dataclass(frozen=True)
class Option:
    """A way to make a layer a target.

    Args:
        reference: its reference, 0-based; None where the option calls none.
        error: ε, relative; None of attention, whose damage is measured.
        damage: nats a token.
        cost: of what the layer then stores, in units of the budget.
    """

    reference: int | None
    recovery: Recovery | AttentionRecovery
    error: float | None
    damage: float
    cost: float


Options = Mapping[int, Sequence[Option]]


class Part(NamedTuple):
    """The MLPs or the attentions of a model: what those that can be targets can be, and the cost of one that stays."""

    options: Options
    whole: float


@dataclass(frozen=True)
class Choice:
    """What `choose_plan` chose.

    Args:
        plan, recovery: 0-based, as `share_layers` takes them.
        chosen: the option of each target's MLP; `attention`: of each target's attention.
        sensitivity: σ of each layer that could be a target, nats a token.
        cost, whole: of all that was chosen from, as chosen, and with nothing shared.
        damage: the predicted KL from the original, nats a token.
    """

    plan: SharePlan
    recovery: dict[int, Recovery]
    chosen: dict[int, Option]
    sensitivity: dict[int, float]
    cost: float
    whole: float
    damage: float
    attention: dict[int, Option] = field(default_factory=dict)

    def explain(self) -> list[str]:
        """A line a layer, 1-based: why it is a target, or why not."""
        lines = [
            f"auto: {len(self.chosen)} targets, {self.cost / self.whole:.3f} of the MLPs kept; predicted KL from the "
            f"original {self.damage:.3f} nats a token"
        ]
        if self.attention:
            lines = [
                f"auto: {len(self.chosen)} MLPs and {len(self.attention)} attentions are targets, "
                f"{self.cost / self.whole:.3f} of the budgeted whole is kept; predicted KL from the original "
                f"{self.damage:.3f} nats a token"
            ]
        for layer in range(self.plan.layers):
            option = self.chosen.get(layer)
            if option is not None:
                what = f"target{_of(option)}, {option.recovery}: error {option.error:.3f}, {_damage(option)}"
            elif layer in self.sensitivity:
                what = "keeps its MLP"
            else:
                what = "keeps its MLP: first, last or attention sink"
            known = f" (sensitivity {self.sensitivity[layer]:.3f})" if layer in self.sensitivity else ""
            attention = self.attention.get(layer)
            more = f"; {attention.recovery}{_of(attention)}: {_damage(attention)}" if attention else ""
            lines.append(f"  layer {layer + 1}: {what}{known}{more}")
        return lines


def _of(option: Option) -> str:
    return "" if option.reference is None else f" of layer {option.reference + 1}"


def _damage(option: Option) -> str:
    return f"damage {option.damage:.4f} nats"


def choose_plan(
    measured: Sequence[LayerCandidates],
    layers: int,
    budget: float,
    cost: Cost,
    *,
    reach: int = 2,
    attention_cost: AttentionCost | None = None,
) -> Choice:
    """Choose targets, references and recovery parameters of least predicted damage.

    Args:
        measured: the layers that can be targets, and what they can be.
        layers: of the model.
        budget: the cost that all MLPs, attentions (if they are chosen too) and recovery parameters may have.
        cost, attention_cost: see `Cost`; without the second, attention stays as it is.
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
    parts = [Part(options, cost(None))]
    if attention_cost is not None:
        attentions = {
            one.layer: [
                Option(t.recovery.reference, t.recovery, None, t.damage, attention_cost(t.recovery))
                for t in one.attention
            ]
            for one in measured
        }
        parts.append(Part(attentions, attention_cost(None)))
    chosen = within_budget(parts, layers, budget, reach)
    kept = [layer for layer in range(layers) if layer not in chosen[0]]
    attention = chosen[1] if len(chosen) > 1 else {}
    return Choice(
        plan=_plan(chosen[0], kept, layers),
        recovery=_recovery(chosen[0], attention),
        chosen=chosen[0],
        attention=attention,
        sensitivity={one.layer: one.sensitivity for one in measured},
        cost=_total(parts, chosen, layers),
        whole=layers * sum(part.whole for part in parts),
        damage=sum(option.damage for its in chosen for option in its.values()),
    )


def _recovery(mlps: Mapping[int, Option], attentions: Mapping[int, Option]) -> dict[int, Recovery]:
    """What each layer has instead of its own weights."""
    found = {}
    for layer in sorted({*mlps, *attentions}):
        own = mlps[layer].recovery if layer in mlps else Recovery()
        attention = attentions[layer].recovery if layer in attentions else None
        assert isinstance(own, Recovery)
        assert not isinstance(attention, Recovery)
        found[layer] = replace(own, attention=attention)
    return found


# The chosen options of each part: target -> its option.
Chosen = list[dict[int, Option]]


def _total(parts: Sequence[Part], chosen: Chosen, layers: int) -> float:
    return sum(
        (layers - len(its)) * part.whole + sum(option.cost for option in its.values())
        for part, its in zip(parts, chosen, strict=True)
    )


def within_budget(parts: Sequence[Part], layers: int, budget: float, reach: int) -> Chosen:
    """The options of least damage that fit the budget.

    Args:
        parts: MLPs, and attentions if they are chosen too.
        reach: how many layers before a target its reference may be.

    Raises:
        SharpError: even the smallest choice is above the budget.
    """

    def at_price(price: float) -> Chosen:
        return [_at_price(part.options, layers, part.whole, reach, price) for part in parts]

    def total(chosen: Chosen) -> float:
        return _total(parts, chosen, layers)

    cheapest = at_price(1e12)
    if total(cheapest) > budget:
        least = total(cheapest) / (layers * sum(part.whole for part in parts))
        what = "MLPs" if len(parts) == 1 else "MLPs and attentions"
        raise SharpError(
            f"plan auto: the budget is below the {least:.3f} of the {what} that has to be kept at least; raise it, or "
            "offer smaller recovery parameters"
        )
    low, high, best = 0.0, 1e12, cheapest
    for _ in range(200):
        price = math.sqrt(max(low, 1e-15) * high)
        chosen = at_price(price)
        if total(chosen) <= budget:
            best, high = chosen, price
        else:
            low = price
        if high / max(low, 1e-15) < 1 + 1e-6:
            break
    return _spend_rest(best, parts, budget - total(best))


class _Exchange(NamedTuple):
    """Another option for a target, or its own weights: the damage that it saves, and what more it costs."""

    saved: float
    more: float
    part: int
    layer: int
    new: Option | None


def _spend_rest(chosen: Chosen, parts: Sequence[Part], rest: float) -> Chosen:
    """Prices reach only some budgets: use what is left for the exchanges that save most damage."""
    chosen = [dict(its) for its in chosen]
    while True:
        exchanges = [
            exchange
            for number, part in enumerate(parts)
            for exchange in _exchanges(number, part, chosen[number])
            if exchange.saved > 0 and exchange.more <= rest
        ]
        if not exchanges:
            return chosen
        best = max(exchanges, key=lambda exchange: exchange.saved)
        rest -= best.more
        if best.new:
            chosen[best.part][best.layer] = best.new
        else:
            del chosen[best.part][best.layer]


def _exchanges(number: int, part: Part, chosen: Mapping[int, Option]) -> Iterator[_Exchange]:
    for layer, old in chosen.items():
        yield _Exchange(old.damage, part.whole - old.cost, number, layer, None)
        for new in part.options[layer]:
            if new.reference is None or new.reference not in chosen:
                yield _Exchange(old.damage - new.damage, new.cost - old.cost, number, layer, new)


# The best choice so far by state, see `_at_price`: its damage + price · cost, and its targets.
_Best = dict[int, tuple[float, tuple[tuple[int, Option], ...]]]


def _at_price(options: Options, layers: int, whole: float, reach: int, price: float) -> dict[int, Option]:
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
