"""Does a `.pte` compute the exported model? It runs next to the eager decoder that it was lowered from.

Segment by segment the two agree to a few units in the last place of a float. Over a whole integer model they cannot:
where an activation lies at the border of two int8 codes, an error of 1e-7 decides between them, the next layer
quantizes a different input, and after 30 layers two correct programs differ by about what the quantization itself
costs (eager SmolLM2-135M against itself with its input changed by 1e-6: 10% of the logits' norm, 0.01 nats). So whole
models are compared by what their predictions say: the mean KL divergence per token, and the tokens they choose. The
nearer a model is to noise, the more rounding decides; if it diverges from its eager decoder by more than usual, it is
compared with how much that decoder diverges from itself. That has a limit: where rounding alone decides what a model
says, a wrong program could not be told from a right one, and neither is written.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sharp_mobile.pte.runtime import Step, greedy, whole_window
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import ATTENTION_MATRICES, MLP_MATRICES, WITH_SHARED_BASIS, Recoveries

# Mean KL(eager ‖ .pte) per token in nats. A float model has no borders between codes to fall over.
TOLERANCE_INTEGER = 0.1
TOLERANCE_FLOAT = 1e-4
# A program may diverge from its eager decoder by this many times what that diverges from itself.
_TIMES_ITS_OWN = 3.0
# But never by more than this. SmolLM2-135M with 12 badly fitted targets (perplexity 2,516) was 1.48 nats apart.
_LARGEST_TOLERANCE = 0.5


@dataclass(frozen=True)
class Agreement:
    """How a `.pte` compares with its eager decoder on a prompt and what the `.pte` generated from it, all positions.

    divergence: mean KL(eager ‖ .pte) per token, nats.
    tokens: generated greedily by the `.pte`.
    agreeing: how many of them are the eager decoder's first choice too, given the same text before them.
    largest_gap: where they are not, the most by which the eager decoder prefers its own choice, in logits.
    typical_difference: root mean square of the differences of the logits.
    spread: the largest difference between two logits of one token of the `.pte`.
    sensitivity: how far the eager decoder is from itself with its input changed by rounding, in nats a token; None if
        that was not asked.
    """

    divergence: float
    tokens: tuple[int, ...]
    agreeing: int
    largest_gap: float
    typical_difference: float
    spread: float
    tolerance: float
    sensitivity: float | None = None

    def problems(self) -> list[str]:
        """Why the two are not the same model; empty if they are."""
        if not math.isfinite(self.divergence):
            return ["the predictions of the .pte or of the eager model are not finite"]
        if self.spread == 0:
            return ["the .pte gives every token of the vocabulary the same logit"]
        if self.divergence <= self.tolerance:
            return []
        told = (
            f"the .pte's predictions differ from the eager model's by {self.divergence:.4g} nats a token, "
            f"more than the tolerated {self.tolerance:.4g}"
        )
        if self.sensitivity is not None and self.sensitivity > _LARGEST_TOLERANCE / _TIMES_ITS_OWN:
            told += (
                f". Rounding its input alone changes the eager model's by {self.sensitivity:.4g}: it has too little "
                "left to say for a check; share less, or fit it better (warmup.windows, recovery.rank, finetune)"
            )
        return [told]


@torch.no_grad()
def compare(
    open_pte: Callable[[], Step],
    eager: Step,
    prompt: list[int],
    count: int,
    stop: list[int],
    tolerance: float,
    jittered: Step | None = None,
) -> Agreement:
    """Generate `count` tokens with the `.pte`, then let both score the whole text.

    Args:
        open_pte: loads the program, which is let go before its eager decoder computes: both may be large.
        eager: a step of that decoder.
        jittered: the eager decoder with its input changed by rounding; asked where `tolerance` is not kept.
        prompt: token ids to start from.
        stop: tokens that end the generation.
        tolerance: the largest divergence, in nats a token.
    """
    pte = open_pte()
    generated = greedy(pte, prompt, count, stop)
    text = torch.tensor([prompt + generated[:-1]])
    theirs = whole_window(pte)(text)[0].double()
    del pte
    ours = whole_window(eager)(text)[0].double()
    divergence = _divergence(ours, theirs)
    own = None
    if tolerance < divergence < math.inf and jittered is not None:
        own = _divergence(ours, whole_window(jittered)(text)[0].double())
        if math.isfinite(own):
            tolerance = max(tolerance, min(_TIMES_ITS_OWN * own, _LARGEST_TOLERANCE))
    choices = ours[len(prompt) - 1 :]
    gaps = choices.max(dim=-1).values - choices.gather(1, torch.tensor(generated)[:, None])[:, 0]
    return Agreement(
        divergence=divergence,
        tokens=tuple(generated),
        agreeing=int((gaps == 0).sum()),
        largest_gap=float(gaps.max()),
        typical_difference=float((theirs - ours).square().mean().sqrt()),
        spread=float((theirs.max(dim=-1).values - theirs.min(dim=-1).values).max()),
        tolerance=tolerance,
        sensitivity=own,
    )


def _divergence(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Mean KL(ours ‖ theirs) of logits [S, V], in nats a token; infinite if either is not finite."""
    found = F.kl_div(theirs.log_softmax(-1), ours.log_softmax(-1), log_target=True, reduction="batchmean")
    return float(found) if found.isfinite() else float("inf")


def sharing_problems(plan: SharePlan, recovery: Recoveries, keys: dict[str, str]) -> list[str]:
    """Weights that a layer should take from another one and that are stored apart in the `.pte`, or should not have.

    Args:
        recovery: of every target, and every other layer that shares; see `recoveries`.
        keys: weight name → key, as `lower_segments` gives them.
    """
    problems = []
    for target, reference in plan.reference_of.items():
        if recovery[target].reference:
            problems += _stored_apart(keys, target, reference, MLP_MATRICES, ("", "shared"))
    for layer, own in recovery.items():
        attention = own.attention
        if attention is not None and attention.kind == "weights" and attention.reference is not None:
            problems += _stored_apart(keys, layer, attention.reference, ATTENTION_MATRICES, ("", "shared"))
        elif attention is not None:
            names = ("k", "v") if attention.kind == "kv" else ATTENTION_MATRICES
            problems += _left_over(keys, layer, names)
        if own.dropped:
            problems += _left_over(keys, layer, (*MLP_MATRICES, "recovery"))
        if own.basis:
            common = tuple(name for name in own.basis.rank_of if name in WITH_SHARED_BASIS)
            problems += _stored_apart(keys, layer, own.basis.first, common, ("basis",))
    return problems


def _place(layer: int, matrix: str) -> str:
    """Where names of a layer's matrix begin."""
    part = {"o": "o", **dict.fromkeys(("q", "k", "v"), f"attention.{matrix}")}.get(matrix, f"mlp.{matrix}")
    return f"layers.{layer + 1}.{part}."


def _stored_apart(
    keys: dict[str, str], layer: int, reference: int, matrices: Iterable[str], inside: tuple[str, ...]
) -> list[str]:
    """What a layer stores of another one's matrices; `inside`: in which modules of a matrix the common weight lies."""

    def weight(layer: int, matrix: str) -> dict[str, str]:
        found = {}
        for name, key in keys.items():
            module, _, tensor = name.removeprefix(_place(layer, matrix)).rpartition(".")
            if name.startswith(_place(layer, matrix)) and module in inside and tensor != "bias":
                found[tensor] = key
        return found

    what = "basis" if inside == ("basis",) else "weight"
    return [
        f"layer {layer + 1} must call layer {reference + 1}'s {matrix} {what}, but the file has "
        + ("a separate one" if weight(layer, matrix) else "none for it")
        for matrix in matrices
        if not weight(layer, matrix) or weight(layer, matrix) != weight(reference, matrix)
    ]


def _left_over(keys: dict[str, str], layer: int, matrices: Iterable[str]) -> list[str]:
    """The matrices that a layer should not have, and that the file has."""
    return [
        f"layer {layer + 1} has no {matrix} of its own, but the file has one"
        for matrix in matrices
        if any(name.startswith(_place(layer, matrix)) for name in keys)
    ]
