"""Which layers share: references, their targets, and what that saves.

A plan over N decoder layers maps each reference layer j to its target layers T_j, all later than j. What of a layer is
shared, `recipe.share` says. Of MLPs, a target keeps its own attention and norms; its MLP calls the reference's weights
plus small recovery parameters:

    layers   1  2  3  4  5  6  7  8 ...        plan "3:4, 5:6-7"
    MLP      1  2  3  3' 5  5' 5" 8 ...        3' = the weights of 3, recovered for layer 4

Layer 1 and layer N are never targets, but by the rules `recursive K`, which loops the first N / K layers K times, and
`blocks G`, which groups all layers by G. Text is 1-based, as the paper numbers layers; the fields of `SharePlan` are
0-based.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from sharp_mobile.errors import SharpError

Groups = tuple[tuple[int, tuple[int, ...]], ...]

# The paper's replacement types (Table 8), drawn for 32 layers: (reference, last target), 1-based, the targets being
# all the layers between. "t_next" and "t_next2" are rules, see `_preset`.
_PRESETS: dict[str, tuple[tuple[int, int], ...]] = {
    "t_back": ((3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 15), (16, 22), (23, 30)),
    "t_front": ((3, 10), (11, 17), (18, 20), (21, 22), (23, 24), (25, 26), (27, 28), (29, 30)),
    "t_more": ((3, 6), (7, 11), (13, 22), (23, 30)),
    "t_max": ((2, 10), (11, 20), (21, 31)),
}
_PRESET_LAYERS = 32
_TARGETS_PER_REFERENCE = {"t_next": 1, "t_next2": 2}
PRESETS = (*_TARGETS_PER_REFERENCE, *_PRESETS)
_RULE = re.compile(r"(recursive|blocks)\s+(\d{1,9})")

SYNTAX = (
    f"write 'none', a preset ({', '.join(PRESETS)}, recursive K, blocks G), a plan such as '3:4, 16:17-22' "
    "(reference:targets, layers counted from 1), 'direct:<plan>' "
    "for no recovery parameters, or '<plan> without 12, 20' to leave targets out"
)
_ITEM = r"\d+(?:(?:-|\.\.)\d+)?"
_ITEMS = re.compile(rf"{_ITEM}(?:,{_ITEM})*")
_GROUP = re.compile(rf"(\d+):({_ITEM}(?:,{_ITEM})*)")


@dataclass(frozen=True)
class SharePlan:
    """References and their targets, 0-based, both ascending.

        >>> from sharp_mobile import SharePlan
        >>> plan = SharePlan.parse("t_back without 10", layers=16)
        >>> str(plan), plan.stored_ratio
        ('7:8, 9:11, 12:13-15', 0.6875)

    Args:
        layers: N, the model's decoder layers.
        groups: (reference, its targets) for each reference.
        direct: the targets have no recovery parameters at all.
        rule: "recursive K" or "blocks G" where the groups come from such a rule, by which layer N may be a target.

    Raises:
        SharpError: a reference without targets, a layer out of range, layer 1 or N as a target, a target before its
            reference, a target that is another's reference, or a target twice.
    """

    layers: int
    groups: Groups
    direct: bool = False
    rule: str = ""

    def __post_init__(self) -> None:
        references = {reference for reference, _ in self.groups}
        seen: set[int] = set()
        for reference, targets in self.groups:
            if not targets:
                raise _refused(f"reference {reference + 1} has no target; leave it out")
            for layer in (reference, *targets):
                if not 0 <= layer < self.layers:
                    raise _refused(f"layer {layer + 1} does not exist, the model has layers 1 to {self.layers}")
            for target in targets:
                _check_target(target, reference, self.layers, self.rule)
                if target in references:
                    raise _refused(f"layer {target + 1} is a target and a reference; a reference keeps its weights")
                if target in seen:
                    raise _refused(f"layer {target + 1} is a target twice; name it once")
                seen.add(target)

    @classmethod
    def parse(cls, text: str, layers: int) -> "SharePlan":
        """Read a plan for a model of `layers` decoder layers.

        `text` is 'none', a preset, a plan written out ("3:4, 16:17-22" or the paper's "(3:4)(16:17..22)"), any of
        these behind "direct:" (and 'direct' alone means direct:t_next), or any of these followed by
        " without 12, 20", which drops those targets. Layers are counted from 1.

        Raises:
            SharpError: the text is not a plan, or the plan is refused (see the class).
        """
        body, direct = text.strip(), False
        if match := re.fullmatch(r"direct(?:\s*:\s*(.+)|(\s+without\s.+))?", body, re.DOTALL):
            body, direct = match[1] or "t_next" + (match[2] or ""), True
        body, _, without = (part.strip() for part in re.sub(r"\s", " ", body).partition(" without "))
        rule = " ".join(match.groups()) if (match := _RULE.fullmatch(body)) else ""
        groups = _by_rule(rule, layers) if rule else _base_groups(body, layers)
        if without:
            groups = _without(groups, parse_layers(without, layers))
        return cls(layers, groups, direct and bool(groups), rule if groups else "")

    @property
    def is_none(self) -> bool:
        """Whether nothing is shared."""
        return not self.groups

    @cached_property
    def reference_of(self) -> dict[int, int]:
        """Each target's reference, targets ascending."""
        return dict(sorted((target, reference) for reference, targets in self.groups for target in targets))

    @property
    def targets(self) -> tuple[int, ...]:
        """All targets, ascending."""
        return tuple(self.reference_of)

    @property
    def stored_ratio(self) -> float:
        """τ = (N − targets) / N: the part of the MLPs that is still stored."""
        return (self.layers - len(self.targets)) / self.layers

    def compression_ratio(self, hidden: int, inner: int, recovery: int) -> float:
        """s, MLP parameters kept over original ones, `recovery` parameters in all included (paper, Eq. 1).

        With X targets of rank r in form g0, and d₁, d₂ the hidden and inner widths, that is
        s = 1 − X/N + (X/N) · r(d₁ + d₂) / (d₁d₂): all three projections are d₁ × d₂, one way or the other.
        """
        return self.stored_ratio + recovery / (self.layers * 3 * hidden * inner)

    def __str__(self) -> str:
        """The plan written out, 1-based; `parse` reads it back."""
        if self.is_none:
            return "none"
        groups = ", ".join(f"{reference + 1}:{layer_ranges(targets)}" for reference, targets in self.groups)
        if self.rule:
            every = {target for _, targets in _by_rule(self.rule, self.layers) for target in targets}
            left_out = layer_ranges(tuple(sorted(every - set(self.targets))))
            groups = f"{self.rule} without {left_out}" if left_out else self.rule
        return f"direct:{groups}" if self.direct else groups


def _refused(reason: str) -> SharpError:
    return SharpError(f"share plan: {reason}")


def _check_target(target: int, reference: int, layers: int, rule: str) -> None:
    if target == 0 or (target == layers - 1 and not rule):
        raise _refused(f"layer {target + 1} cannot be a target: the first and the last layer keep their own MLP")
    if target <= reference:
        raise _refused(f"target {target + 1} must come after its reference {reference + 1}")


def _base_groups(text: str, layers: int) -> Groups:
    if text == "none":
        return ()
    if text in PRESETS:
        return _preset(text, layers)
    return _written_out(text, layers)


def _preset(name: str, layers: int) -> Groups:
    """A replacement type of the paper, for any number of layers: a rule, or the 32-layer boundaries scaled."""
    if name in _TARGETS_PER_REFERENCE:
        count = _TARGETS_PER_REFERENCE[name]
        starts = range(2, layers - 1 - count, count + 1)
        groups = tuple((start, tuple(range(start + 1, start + 1 + count))) for start in starts)
    else:
        # Scaling the boundaries before and after a group keeps neighbouring groups neighbours at every N.
        spans = [(max(1, _scaled(first - 1, layers)), _scaled(last, layers)) for first, last in _PRESETS[name]]
        pairs = [(start, tuple(range(start + 1, min(end, layers - 1)))) for start, end in spans]
        groups = tuple((start, targets) for start, targets in pairs if targets)
    if not groups:
        if layers < 3:
            raise _refused(f"a model of {layers} layers has none to share: the first and the last keep their own MLP")
        example = "2:3" if layers > 3 else "1:2"
        raise _refused(f"{name} has no target in a model of {layers} layers; write the plan out, such as '{example}'")
    return groups


def _by_rule(rule: str, layers: int) -> Groups:
    """The groups of "recursive K" or "blocks G"."""
    name, number = rule.split()
    count = int(number)
    if count < 2:
        raise _refused(f"'{rule}' shares nothing; use {name} 2 or more")
    if name == "recursive":
        if layers % count or count >= layers:
            fitting = [str(loops) for loops in range(2, layers) if layers % loops == 0]
            use = f"use recursive {' or '.join(fitting)}" if fitting else "no number does; write a plan out"
            raise _refused(f"'{rule}' does not divide the {layers} layers into equal blocks; {use}")
        size = layers // count
        return tuple((layer, tuple(range(layer + size, layers, size))) for layer in range(size))
    if count > layers:
        raise _refused(f"'{rule}' needs groups of {count} layers, the model has {layers}; use blocks 2")
    groups = ((first, tuple(range(first + 1, min(first + count, layers)))) for first in range(0, layers, count))
    return tuple((first, others) for first, others in groups if others)


def _scaled(boundary: int, layers: int) -> int:
    """round(boundary · N / 32), halves up."""
    return (2 * boundary * layers + _PRESET_LAYERS) // (2 * _PRESET_LAYERS)


def _written_out(text: str, layers: int) -> Groups:
    compact = re.sub(r"\s*([:,()-]|\.\.)\s*", r"\1", text)
    if re.fullmatch(r"(\([^()]+\),?)+", compact):
        pieces = re.findall(r"\(([^()]+)\)", compact)
    else:
        pieces = re.split(r",(?=\d+:)", compact)
    targets_of: dict[int, tuple[int, ...]] = {}
    for piece in pieces:
        match = _GROUP.fullmatch(piece)
        if match is None:
            raise _refused(f"'{_cut(text)}' is not a plan; {SYNTAX}")
        reference = _layer_number(match[1]) - 1
        targets_of[reference] = targets_of.get(reference, ()) + parse_layers(match[2], layers)
    return tuple((reference, tuple(sorted(targets))) for reference, targets in sorted(targets_of.items()))


def parse_layers(text: str, layers: int) -> tuple[int, ...]:
    """Layers "4, 6-8" (1-based, also "6..8") as 0-based numbers."""
    compact = re.sub(r"\s*([,-]|\.\.)\s*", r"\1", text)
    if not _ITEMS.fullmatch(compact):
        raise _refused(f"'{_cut(text)}' is not a list of layers; {SYNTAX}")
    numbers: list[int] = []
    for item in compact.split(","):
        first, _, last = item.replace("..", "-").partition("-")
        start, end = _layer_number(first), _layer_number(last or first)
        if not 1 <= start <= end <= layers:
            raise _refused(f"'{_cut(item)}' must name layers between 1 and {layers}, the lower one first")
        numbers += range(start - 1, end)
    return tuple(numbers)


def _layer_number(digits: str) -> int:
    """A layer's number; 10⁹ for whatever is larger, since Python reads no number of more than 4,300 digits."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) < 10 else 10**9


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def _without(groups: Groups, dropped: tuple[int, ...]) -> Groups:
    targets = {target for _, group in groups for target in group}
    for layer in dropped:
        if layer not in targets:
            raise _refused(f"'without {layer + 1}': layer {layer + 1} is no target of this plan; leave it out")
    kept = ((reference, tuple(t for t in group if t not in dropped)) for reference, group in groups)
    return tuple((reference, group) for reference, group in kept if group)


def layer_ranges(layers: tuple[int, ...]) -> str:
    """0-based ascending layers as 1-based text, runs of three and more as ranges: (3, 5, 6, 7) -> "4,6-8"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts = [
        f"{run[0] + 1}-{run[-1] + 1}" if len(run) > 2 else ",".join(str(layer + 1) for layer in run) for run in runs
    ]
    return ",".join(parts)
