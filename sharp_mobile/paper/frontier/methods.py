"""The methods of a frontier: how each finds the recipe whose export has a given size.

    unshared                    fewer linears with 8 bits, then larger groups, then a 4-bit LM head
    mlp, attention, layer, kv   targets are added one by one (`recipe.share`)
    mlp-auto, layer-auto        a plan that is auto, with the bytes that are left for MLPs, or for these and attention
    basis, prune                less of every matrix or MLP is kept (`recovery.kept`)
    drop, drop-mlp, drop-attention    layers, or parts of them, are left out one by one

A method is searched by the predicted size of its exports (`size_report.predict`), so no weight is read. Targets are
added in the order of the angular distance between what enters a layer and what leaves it (`baselines.layer_pruning`):
the layer that changes the hidden states least comes first. Methods with references take layers apart from each other
before neighbours, so that references stay close to their targets. The first and the last layer and those of the
attention sink are left out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from sharp_mobile.errors import SharpError
from sharp_mobile.model.planned import ModelDescription, plan_model
from sharp_mobile.quantize.groups import INT4_GROUPS, four_bit_bytes
from sharp_mobile.quantize.stored import rounded_shapes, stored_tensors
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.share import ShareKind
from sharp_mobile.size_report import Size, predict

# A written-out plan of the predicted size can be larger by the program around recovery parameters.
_AUTO_MARGIN = 0.003
_STEPS = 100  # of a setting between 0 and 1


@dataclass(frozen=True)
class Subject:
    """What methods work on.

    Attributes:
        recipe: the settings that all methods have in common; its plan is none.
        order: the layers (0-based) that may become targets, the first to do so first.
    """

    recipe: Recipe
    description: ModelDescription
    order: tuple[int, ...] = ()

    def size(self, recipe: Recipe) -> Size:
        """The predicted size of a recipe's export.

        Raises:
            SharpError: the recipe does not fit the model.
        """
        recipe.check_fits(self.description.architecture)
        return predict(plan_model(recipe, self.description))

    def bytes_of(self, recipe: Recipe) -> int:
        """The predicted bytes of a recipe's `.pte`."""
        return self.size(recipe).file.total


@dataclass(frozen=True)
class Found:
    """The recipe of a size, and the predicted bytes of its `.pte`; None where the plan is yet to be chosen."""

    recipe: Recipe
    nbytes: int | None


@dataclass(frozen=True)
class TooLarge:
    """A method does not reach a size: `smallest` are the bytes of its smallest export, None if it has none."""

    smallest: int | None


Search = Callable[[Subject, int], Found | TooLarge]


@dataclass(frozen=True)
class Method:
    """A way to make an export smaller.

    Attributes:
        find: the recipe of the least harm whose export has at most so many bytes.
        ordered: whether it needs the order of the layers.
    """

    name: str
    find: Search
    ordered: bool = True


def changed(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """A recipe with other settings, by path ("quantize.group_size"), checked as if it was read from a file.

    Raises:
        SharpError: the settings exclude each other.
    """
    content = recipe.model_dump(exclude_unset=True)
    for path, value in changes.items():
        section, dot, name = path.rpartition(".")
        if dot:
            content[section] = {**content.get(section, {}), name: value}
        else:
            content[name] = value
    return Recipe(**content).model_copy(update={"model": recipe.model})


def largest(subject: Subject, recipes: Iterable[Recipe], limit: int) -> Found | TooLarge:
    """The recipe whose export is the largest with at most `limit` bytes; recipes that do not fit are left out."""
    smallest, best = None, None
    for recipe in recipes:
        try:
            nbytes = subject.bytes_of(recipe)
        except SharpError:
            continue
        smallest = nbytes if smallest is None else min(smallest, nbytes)
        if nbytes <= limit and (best is None or nbytes > best[1]):
            best = (recipe, nbytes)
    return TooLarge(smallest) if best is None else Found(*best)


def _parts(highest: float = 1.0) -> Iterator[float]:
    """Settings from just below the highest down to just above 0."""
    return (round(highest * step / _STEPS, 6) for step in range(_STEPS - 1, 0, -1))


def _unshared(subject: Subject, limit: int) -> Found | TooLarge:
    """The first coarser quantization that fits; the bytes that it leaves give 8 bits to the linears that need them."""
    smallest = None
    for coarser in _coarser(subject.recipe):
        budgets = (coarser.quantize.eight_bit_budget, *_parts(coarser.quantize.eight_bit_budget), 0.0)
        found = largest(subject, (changed(coarser, {"quantize.eight_bit_budget": budget}) for budget in budgets), limit)
        if isinstance(found, Found):
            return found
        smallest = min(filter(None, (smallest, found.smallest)), default=None)
    return TooLarge(smallest)


def _coarser(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe with larger groups, then also with a 4-bit LM head."""
    quantize = recipe.quantize
    groups = [group for group in sorted(INT4_GROUPS) if group >= quantize.group_size]
    heads = [quantize.lm_head, *([4] if quantize.lm_head == 8 else [])]
    for head in heads:
        for group in groups:
            yield changed(recipe, {"quantize.group_size": group, "quantize.lm_head": head})


Fits = Callable[[int, int], bool]  # whether a layer can be the reference of a target


def target_plan(layers: int, targets: Iterable[int], fits: Fits = lambda reference, target: True) -> SharePlan:
    """The plan of some targets (0-based): each has the nearest layer before it that fits and is none as its reference.

    Raises:
        ValueError: a target has none.
    """
    chosen, groups = set(targets), dict[int, list[int]]()
    for target in sorted(chosen):
        reference = max(layer for layer in range(target) if layer not in chosen and fits(layer, target))
        groups.setdefault(reference, []).append(target)
    return SharePlan(layers, tuple((reference, tuple(own)) for reference, own in sorted(groups.items())))


def apart(order: Iterable[int]) -> list[int]:
    """The order with layers next to an earlier one behind all others."""
    first, rest = list[int](), list[int]()
    for layer in order:
        (rest if {layer - 1, layer + 1} & set(first) else first).append(layer)
    return first + rest


def _targets(subject: Subject, share: ShareKind, order: Iterable[int], fits: Fits) -> Iterator[Recipe]:
    """Recipes with the first target of an order, the first two, …; a layer that leaves one without reference is not."""
    chosen = list[int]()
    for layer in order:
        try:
            plan = target_plan(subject.description.architecture.layers, [*chosen, layer], fits)
        except ValueError:
            continue
        chosen.append(layer)
        yield changed(subject.recipe, {"plan": str(plan), "share": share})


def _calling(share: ShareKind, subject: Subject, limit: int) -> Found | TooLarge:
    """Targets that call something of a reference."""
    model = subject.description.architecture

    def fits(reference: int, target: int) -> bool:
        return share != "kv" or model.keys_alike(reference, target)

    return largest(subject, _targets(subject, share, apart(subject.order), fits), limit)


def _dropping(share: ShareKind, subject: Subject, limit: int) -> Found | TooLarge:
    """Layers without something, in the plain order: no layer depends on another."""
    return largest(subject, _targets(subject, share, subject.order, lambda reference, target: True), limit)


def _basis(subject: Subject, limit: int) -> Found | TooLarge:
    recipes = (
        changed(subject.recipe, {"share": "basis", "plan": "blocks 2", "recovery.kept": kept}) for kept in _parts()
    )
    return largest(subject, recipes, limit)


def _prune(subject: Subject, limit: int) -> Found | TooLarge:
    if not subject.order:
        return TooLarge(None)
    plan = str(target_plan(subject.description.architecture.layers, subject.order))
    recipes = (changed(subject.recipe, {"share": "prune", "plan": plan, "recovery.kept": kept}) for kept in _parts())
    return largest(subject, recipes, limit)


def _auto(share: ShareKind, subject: Subject, limit: int) -> Found | TooLarge:
    """What is left for what may be shared and recovery parameters; the linears with 8 bits take their share of it."""
    planned = plan_model(subject.recipe, subject.description)
    quantize, file = subject.recipe.quantize, predict(planned).file
    tensors = stored_tensors(planned.architecture, planned.plan, planned.recovery, quantize)
    part = quantize.eight_bit_budget if subject.recipe.rounds_to_text(planned.tokenizer) else 0.0
    four_bits = sum(four_bit_bytes(shape, quantize.group_size) for shape in rounded_shapes(tensors))
    sharable = file.mlps + (file.attention if share == "layer" else 0)
    rest = file.total - sharable - file.eight_bit_budget
    budget = ((1 - _AUTO_MARGIN) * limit - rest - part * (four_bits - sharable)) / (1 + part)
    if budget <= 0:
        return TooLarge(None)
    return Found(changed(subject.recipe, {"share": share, "plan": f"auto {budget / 1e6:.3f}MB"}), None)


UNSHARED = "unshared"
_CALLING: tuple[ShareKind, ...] = ("mlp", "attention", "layer", "kv")
_DROPPING: tuple[ShareKind, ...] = ("drop", "drop-mlp", "drop-attention")
METHODS = {
    method.name: method
    for method in (
        Method(UNSHARED, _unshared, ordered=False),
        *(Method(share, partial(_calling, share)) for share in _CALLING),
        Method("mlp-auto", partial(_auto, "mlp"), ordered=False),
        Method("layer-auto", partial(_auto, "layer"), ordered=False),
        Method("basis", _basis, ordered=False),
        *(Method(share, partial(_dropping, share)) for share in _DROPPING),
        Method("prune", _prune),
    )
}


def chosen_methods(names: Iterable[str]) -> list[Method]:
    """Methods by name, in this order, each once; `unshared` is always among them, as the one to compare with.

    Raises:
        SharpError: there is no method of a name.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in METHODS:
            raise SharpError(f"--methods {name}: there is no such method; choose from {', '.join(METHODS)}")
    return [METHODS[name] for name in METHODS if name in names or name == UNSHARED]
