"""What of a layer is shared: `share` in a recipe, next to its plan of references and targets.

    mlp              a target calls the reference's MLP plus recovery parameters (SHARP)
    attention        a target calls the reference's q, k, v and o plus recovery parameters
    layer            both: whole layers (with the plan `recursive K`: a block of layers looped K times)
    kv               a target reads the reference's keys and values from its cache; it has none of its own
    basis            a reference and its targets factor their matrices by common bases (Basis Sharing)
    drop             a target has neither MLP nor attention; `drop-mlp` and `drop-attention` leave out one
    prune            a target keeps some of its own neurons, and calls no reference (LLM-Pruner)

A mixture names a plan for each: "attention 3:4, 5:6; kv 7:8".
"""

from typing import Literal, get_args

from sharp_mobile.errors import SharpError

ShareKind = Literal["mlp", "attention", "layer", "kv", "basis", "drop", "drop-mlp", "drop-attention", "prune"]
KINDS: tuple[ShareKind, ...] = get_args(ShareKind)


def is_mixture(share: str) -> bool:
    """Whether a `share` names the plans itself."""
    return share.strip() not in KINDS


def parse_share(share: str, plan: str) -> list[tuple[ShareKind, str]]:
    """Each kind of a recipe's `share` with its plan, which is the recipe's for a kind that stands alone.

    Raises:
        SharpError: a kind that does not exist, or plans in both places.
    """
    text = share.strip()
    if not is_mixture(share):
        return [(_kind(text), plan)]
    if plan.strip() != "none":
        raise SharpError(
            f"share '{share}' and plan '{plan}': give one kind ({', '.join(KINDS)}) with a plan, or a mixture such as "
            "'attention 3:4; kv 7:8' without"
        )
    pairs = []
    for item in text.split(";"):
        kind, _, its_plan = item.strip().partition(" ")
        if not its_plan.strip() and (kind in KINDS or not kind):
            raise SharpError(f"share '{share}': '{item.strip()}' names no plan; write such as 'kv 7:8; mlp 9:10'")
        pairs.append((_kind(kind), its_plan.strip()))
    if len({kind for kind, _ in pairs}) < len(pairs):
        raise SharpError(f"share '{share}': a kind stands there twice; give it one plan")
    return pairs


def _kind(text: str) -> ShareKind:
    for kind in KINDS:
        if text == kind:
            return kind
    raise SharpError(f"share: '{text}' cannot be shared; choose one of {', '.join(KINDS)}")
