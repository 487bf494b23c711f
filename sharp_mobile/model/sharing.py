"""From a recipe's `plan` and `share` to what every layer has instead of its own weights.

    share: attention, plan: 3:4   ──►   SharePlan none, {layer 4: attention of layer 3, lora rank 32}

The `SharePlan` that comes out is that of the MLPs; what attention calls, and what is factored, stands in the layers'
`Recovery`. Whatever a model's shapes or windows forbid is refused here, before any weight is read.
"""

from collections.abc import Callable, Iterable, Set
from dataclasses import replace
from typing import NamedTuple

from sharp_mobile.errors import SharpError
from sharp_mobile.model.architecture import Architecture
from sharp_mobile.recipe.plan import SharePlan, layer_ranges
from sharp_mobile.recipe.recovery import (
    ATTENTION_MATRICES,
    MATRICES,
    WITH_SHARED_BASIS,
    AttentionKind,
    AttentionRecovery,
    Basis,
    Form,
    Recoveries,
    Recovery,
    Seven,
    attention_references,
    layers_of_kind,
    recoveries,
)
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.share import ShareKind, parse_share

_Chosen = dict[int, Recovery]
# What a target calls of its reference's attention.
_CALLED: dict[AttentionKind, str] = {"weights": "attention", "kv": "keys and values"}


def share_plan(recipe: Recipe, model: Architecture) -> tuple[SharePlan, dict[int, Recovery]]:
    """The plan of the MLPs, and what every layer that shares or is recovered has; 0-based.

    Raises:
        SharpError: a plan that does not fit the model, or shares what its layers forbid (see `check_sharing`).
    """
    mlps: dict[int, int] = {}  # target -> reference
    chosen: _Chosen = {}
    directs, rule = [], ""
    for kind, text in parse_share(recipe.share, recipe.plan):
        plan = SharePlan.parse(text, model.layers)
        takes = set(plan.targets) if _takes_mlps(kind) else set[int]()
        for layer, new in _of_kind(kind, plan, recipe, model).items():
            chosen[layer] = _both(layer, mlps.keys(), takes, chosen[layer], new) if layer in chosen else new
        if takes:
            mlps |= plan.reference_of
            rule = plan.rule or rule
        if kind in ("mlp", "layer") and takes:
            directs.append(plan.direct)
    chosen = recipe.recovery.written_out(model.layers, chosen)
    groups = {reference: tuple(t for t, its in sorted(mlps.items()) if its == reference) for reference in mlps.values()}
    plan = SharePlan(model.layers, tuple(sorted(groups.items())), bool(directs) and all(directs), rule)
    found = recoveries(plan, chosen)
    check_sharing(model, plan, found)
    return plan, found


def _takes_mlps(kind: ShareKind) -> bool:
    return kind in ("mlp", "layer", "drop", "drop-mlp", "prune")


def _both(layer: int, taken: Set[int], takes: Set[int], old: Recovery, new: Recovery) -> Recovery:
    """What two kinds of a mixture make of one layer.

    Args:
        taken, takes: the layers whose MLPs are targets by the kinds before, and by this one.
    """
    if (layer in taken and layer in takes) or (old.attention and new.attention) or old.basis or new.basis:
        raise SharpError(f"share: layer {layer + 1} is a target twice; name it once")
    own = new if layer in takes or (layer not in taken and old.direct) else old
    return replace(own, attention=old.attention or new.attention)


def _of_kind(kind: ShareKind, plan: SharePlan, recipe: Recipe, model: Architecture) -> _Chosen:
    """What one kind of sharing gives each layer of its plan; a direct one, what calls a reference no parameters."""
    settings = recipe.recovery
    multiple = max(32, recipe.quantize.group_size)  # what 4-bit groups and XNNPACK's vectors take of neurons
    neurons = settings.neurons or _pruned(settings.kept, model, multiple)
    mlp = Recovery() if plan.direct or kind != "layer" else settings.usual
    left_out = AttentionRecovery("none", bypass=settings.attention_bypass)

    def calling(kind: AttentionKind, target: int) -> AttentionRecovery:
        form: Form = "lora" if plan.direct or kind == "kv" else settings.attention_form
        rank = 0 if plan.direct else settings.attention_rank_of(kind)
        return AttentionRecovery(kind, plan.reference_of[target], form, rank)

    each: dict[str, Callable[[int], Recovery]] = {
        "attention": lambda target: Recovery(attention=calling("weights", target)),
        "layer": lambda target: replace(mlp, attention=calling("weights", target)),
        "kv": lambda target: Recovery(attention=calling("kv", target)),
        "drop": lambda target: Recovery(reference=False, attention=left_out),
        "drop-mlp": lambda target: Recovery(reference=False),
        "drop-attention": lambda target: Recovery(attention=left_out),
        "prune": lambda target: Recovery(neurons=neurons, reference=False),
    }
    if kind == "mlp":
        return settings.of_mlps(plan)
    if kind == "basis":
        return _bases(plan, recipe, model)
    return {target: each[kind](target) for target in plan.targets}


def _pruned(kept: float, model: Architecture, multiple: int) -> int:
    """How many neurons `kept` leaves of an MLP."""
    return max(multiple, int(kept * model.inner) // multiple * multiple)


def _bases(plan: SharePlan, recipe: Recipe, model: Architecture) -> _Chosen:
    multiple = basis_multiple(recipe)
    chosen: _Chosen = {}
    for first, others in plan.groups:
        ranks = equal_ratio_ranks(model, 1 + len(others), recipe.recovery.kept, multiple)
        chosen |= dict.fromkeys((first, *others), Recovery(basis=Basis(first, ranks)))
    return chosen


def basis_multiple(recipe: Recipe) -> int:
    """What ranks of bases are multiples of: a rank is the input width of C, which 4-bit groups divide."""
    return recipe.quantize.group_size if recipe.quantize.linear == 4 else 1


def matrix_shapes(model: Architecture) -> dict[str, tuple[int, int]]:
    """[out, in] of a layer's matrices."""
    queries, keys, hidden, inner = model.query_width, model.key_width, model.hidden, model.inner
    return {
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, queries),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }


def ratio_rank(inputs: int, outputs: int, kept: float) -> int:
    """k = ⌊ in · out · kept / (in + out) ⌋: the rank whose factors keep this part of a matrix's parameters."""
    return int(inputs * outputs * kept / (inputs + outputs))


def equal_ratio_ranks(model: Architecture, group: int, kept: float, multiple: int) -> Seven:
    """Ranks of the bases of a group of layers that keep this part of each matrix's parameters.

    k = ⌊ in · out·G · kept / (in + out·G) ⌋ (Basis Sharing, Section 3), G being 1 for o and down, and then the next
    lower multiple; 0, a matrix that stays whole, where its factors would not be smaller.

    Raises:
        SharpError: a rank of 0.
    """
    ranks = []
    for name in MATRICES:
        out, into = matrix_shapes(model)[name]
        outputs = out * (group if name in WITH_SHARED_BASIS else 1)
        rank = ratio_rank(into, outputs, kept) // multiple * multiple
        smaller = multiple * (into + outputs) < into * outputs  # whether any factors are
        if kept < 1 and rank == 0 and smaller:
            raise SharpError(
                f"recovery.kept {kept} leaves {name} a basis of rank 0 (in multiples of {multiple}, as 4-bit groups "
                "ask for); keep more"
            )
        ranks.append(rank if kept < 1 and rank * (into + outputs) < into * outputs else 0)
    if not any(ranks):
        raise SharpError(f"recovery.kept {kept} factors nothing, because no factors are smaller; keep less")
    q, k, v, o, gate, up, down = ranks
    return q, k, v, o, gate, up, down


def check_sharing(model: Architecture, plan: SharePlan, recovery: Recoveries) -> None:
    """Refuse what layers of this model cannot share.

    Raises:
        SharpError: a reference after its target, a chain of references, a reference without what its target calls,
            keys and values of another window or RoPE, or a basis that is no group's or above its matrix.
    """
    for target, own in sorted(recovery.items()):
        if own.attention and own.attention.reference is not None:
            _check_reference(model, own.attention.kind, target, own.attention.reference, recovery)
    if 0 in layers_of_kind(recovery, "none"):
        raise _refused("layer 1 needs its attention, since the cache's length is read there; leave it out")
    _check_bases(model, plan, recovery)


def _check_reference(
    model: Architecture, kind: AttentionKind, target: int, reference: int, recovery: Recoveries
) -> None:
    both = f"layer {target + 1} cannot take the {_CALLED[kind]} of layer {reference + 1}"
    if not 0 <= target < model.layers or not 0 <= reference < model.layers:
        raise _refused(f"{both}: the model has layers 1 to {model.layers}")
    if target <= reference:
        raise _refused(f"{both}: target {target + 1} must come after its reference {reference + 1}")
    its = recovery.get(reference, Recovery()).attention
    if its is not None and its.kind == "none":
        raise _refused(f"{both}: that layer has none; choose another reference")
    if its is not None and (its.kind == kind or kind == "weights"):
        raise _refused(
            f"{both}: that one has none of its own, it takes those of layer {(its.reference or 0) + 1}; "
            f"write {(its.reference or 0) + 1}:{reference + 1},{target + 1}, or choose another reference"
        )
    if recovery.get(reference, Recovery()).basis:
        raise _refused(f"{both}: the weights of that layer are factored by a basis; leave one out")
    if kind != "kv" or model.keys_alike(target, reference):
        return
    theirs, its_own = model.windows[reference], model.windows[target]
    why = (
        f"one sees {_window(theirs)}, the other {_window(its_own)}"
        if theirs != its_own
        else "their positions are encoded differently (RoPE)"
    )
    alike = [layer + 1 for layer in range(target) if model.keys_alike(layer, target)]
    raise _refused(f"{both}: {why}; " + (f"take layer {alike[-1]}" if alike else "leave it out"))


def _window(window: int | None) -> str:
    return "all positions" if window is None else f"the last {window}"


def _check_bases(model: Architecture, plan: SharePlan, recovery: Recoveries) -> None:
    groups: dict[int, list[int]] = {}
    for layer, own in recovery.items():
        if own.basis:
            groups.setdefault(own.basis.first, []).append(layer)
            if layer in plan.reference_of or layer in plan.reference_of.values():
                raise _refused(f"layer {layer + 1} is factored by a basis and shares its MLP; leave one out")
    shapes = matrix_shapes(model)
    for first, layers in groups.items():
        if first not in layers or min(layers) < first:
            raise _refused(
                f"the bases of layers {layer_ranges(tuple(layers))} are to lie in layer {first + 1}, which is not the "
                "first of them"
            )
        for layer in layers:
            basis = recovery[layer].basis
            its_first = recovery[first].basis
            assert basis is not None
            assert its_first is not None
            for name, rank in basis.rank_of.items():
                if rank > min(shapes[name]):
                    rows, columns = shapes[name]
                    if name not in WITH_SHARED_BASIS or rank > columns:
                        raise _refused(
                            f"layer {layer + 1}: a basis of rank {rank} is above {name}, which is {rows} by {columns}"
                        )
                if name in WITH_SHARED_BASIS and its_first.rank_of.get(name) != rank:
                    raise _refused(
                        f"layers {first + 1} and {layer + 1} have bases of other ranks for {name}; one has one rank"
                    )


def _refused(reason: str) -> SharpError:
    return SharpError(f"share plan: {reason}")


class Kept(NamedTuple):
    """Parameters of the layers' matrices and their recovery parameters: as planned, and of the original model."""

    planned: int
    original: int


def kept_parameters(model: Architecture, plan: SharePlan, recovery: Recoveries) -> Kept:
    """How many parameters of attention and MLPs a plan keeps; norms and biases left out."""
    shapes = matrix_shapes(model)
    sizes = {name: out * into for name, (out, into) in shapes.items()}
    planned = 0
    for layer in range(model.layers):
        own = recovery.get(layer, Recovery())
        stored = set(ATTENTION_MATRICES if layer in plan.reference_of else MATRICES)
        if own.attention:
            stored -= {"k", "v"} if own.attention.kind == "kv" else set(ATTENTION_MATRICES)
            planned += own.attention.parameters(model.hidden, model.query_width, model.key_width)
        if own.basis:
            for name, rank in own.basis.rank_of.items():
                stored.discard(name)
                holds = name not in WITH_SHARED_BASIS or layer == own.basis.first
                out, into = shapes[name]
                planned += rank * (out + (into if holds else 0))
        planned += sum(sizes[name] for name in stored) + own.parameters(model.hidden, model.inner)
    return Kept(planned, model.layers * sum(sizes.values()))


def sharing_text(plan: SharePlan, recovery: Recoveries) -> str:
    """Who shares what in a line; of MLPs alone, the plan."""
    references = attention_references(recovery)
    parts = []
    for kind, called in _CALLED.items():
        groups: dict[int, list[int]] = {}
        for target in sorted(layers_of_kind(recovery, kind)):
            groups.setdefault(references[target], []).append(target)
        if groups:
            written = (f"{first + 1}:{layer_ranges(tuple(its))}" for first, its in sorted(groups.items()))
            parts.append(f"{called} {', '.join(written)}")
    parts += _named("no attention in layer", layers_of_kind(recovery, "none"))
    parts += _named("no MLP in layer", (layer for layer, own in recovery.items() if own.dropped))
    parts += _named("fewer neurons in layer", (layer for layer, own in recovery.items() if own.pruned))
    parts += _named("bases in layer", (layer for layer, own in recovery.items() if own.basis))
    if not parts:
        return str(plan)
    alone = {layer for layer, own in recovery.items() if own.dropped or own.pruned}
    left = tuple((r, tuple(t for t in its if t not in alone)) for r, its in plan.groups)
    groups_left = tuple((reference, its) for reference, its in left if its)
    if groups_left:
        parts.insert(0, f"MLPs {replace(plan, groups=groups_left)}")
    return "; ".join(parts)


def _named(what: str, layers: Iterable[int]) -> list[str]:
    found = tuple(sorted(layers))
    return [f"{what}{'s' if len(found) > 1 else ''} {layer_ranges(found)}"] if found else []
