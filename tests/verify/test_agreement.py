"""Two models that are not the same, or no models, never pass as equal."""

import math

import pytest
import torch

from sharp_mobile.pte.runtime import Step
from sharp_mobile.verify.agreement import Agreement, compare

VOCABULARY, PROMPT, COUNT = 16, [1, 2, 3], 8
LOGITS = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3


def step_of(logits: torch.Tensor) -> Step:
    """A decoder whose logits [V] depend on the last token alone."""
    return lambda tokens, position: logits[tokens[0]][None]


def agreement(pte: torch.Tensor, eager: torch.Tensor, jittered: torch.Tensor | None = None) -> Agreement:
    """The programs given by their logits [V, V]."""
    other = None if jittered is None else step_of(jittered)
    return compare(lambda: step_of(pte), step_of(eager), PROMPT, COUNT, [], 1e-3, other)


def changed(row: int, column: int, value: float) -> torch.Tensor:
    logits = LOGITS.clone()
    logits[row, column] = value
    return logits


def test_equal_logits_agree() -> None:
    found = agreement(LOGITS, LOGITS.clone())
    assert (found.problems(), found.divergence, found.agreeing) == ([], 0.0, COUNT)
    assert found.spread > 1


def test_a_difference_is_told_with_its_size() -> None:
    (problem,) = agreement(LOGITS + torch.linspace(0, 1, VOCABULARY), LOGITS).problems()
    assert "nats" in problem


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("broken", ["pte", "eager", "both"])
def test_logits_that_are_not_finite_never_agree(broken: str, value: float) -> None:
    bad = changed(PROMPT[0], 5, value)
    found = agreement(LOGITS if broken == "eager" else bad, LOGITS if broken == "pte" else bad)
    assert found.problems() == ["the predictions of the .pte or of the eager model are not finite"]
    found = agreement(torch.full_like(LOGITS, value), torch.full_like(LOGITS, value), torch.full_like(LOGITS, value))
    assert found.problems() == ["the predictions of the .pte or of the eager model are not finite"]


@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
def test_a_model_that_prefers_no_token_is_told(value: float) -> None:
    same = torch.full_like(LOGITS, value)
    assert agreement(same, same).problems() == ["the .pte gives every token of the vocabulary the same logit"]


def test_a_jitter_that_is_not_finite_excuses_nothing() -> None:
    near = LOGITS + torch.linspace(0, 1, VOCABULARY)
    assert agreement(near, LOGITS, torch.full_like(LOGITS, math.nan)).problems()
    assert agreement(near, LOGITS, torch.full_like(LOGITS, math.inf)).problems()
