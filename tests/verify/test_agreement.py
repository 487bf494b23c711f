"""Two models that are not the same, or no models, never pass as equal."""

import copy
import math
from typing import Any

import pytest
import torch
from share_kinds import KINDS, Kind, shared_model

from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.lower.program import weight_names
from sharp_mobile.pte.runtime import Step
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.recovery import AttentionRecovery, Recovery, recoveries
from sharp_mobile.verify.agreement import Agreement, compare, sharing_problems

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


def test_a_model_that_rounding_upsets_may_differ_as_much() -> None:
    near = LOGITS + torch.linspace(0, 1, VOCABULARY)
    found = agreement(near, LOGITS, LOGITS - torch.linspace(0, 1, VOCABULARY))
    assert found.sensitivity is not None
    assert 1e-3 < found.divergence < found.tolerance < 0.5
    assert found.problems() == []


def test_a_model_that_rounding_turns_into_another_cannot_be_checked() -> None:
    """However much its eager decoder differs from itself, it excuses no more than half a nat."""
    other = LOGITS.flip(0)
    found = agreement(other, LOGITS, LOGITS.flip(1))
    assert found.divergence > found.tolerance == 0.5
    assert "too little left to say for a check" in found.problems()[0]


def decoder_of(kind: Kind, model_type: str = "llama") -> Any:
    return build_decoder(shared_model(kind, model_type), LowerSettings(max_length=32, attention="portable"))


def problems(kind: Kind, decoder: Decoder) -> list[str]:
    """What is found in names and keys as lowering gives them; here a key is where a weight lies in memory."""
    keys: dict[str, str] = {}
    for segment in (decoder.entry, *decoder.middles, decoder.exit):
        linears = {name: module for name, module in segment.named_modules() if isinstance(module, FloatLinear)}
        keys |= weight_names(segment, {f"{name}.weight": str(id(one.weight)) for name, one in linears.items()})
    return sharing_problems(kind.parsed(), recoveries(kind.parsed(), kind.recovery), keys)


@pytest.mark.parametrize("model_type", ["qwen2", "phi3"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_of_every_kind_shares_what_it_should(kind: str, model_type: str) -> None:
    assert problems(KINDS[kind], decoder_of(KINDS[kind], model_type)) == []


def test_attention_weights_that_are_stored_apart_are_told() -> None:
    decoder = decoder_of(KINDS["layer"])
    start = decoder.middles[1].start
    start.k.shared = copy.deepcopy(start.k.shared)
    o = decoder.middles[2].end.o
    o.shared = copy.deepcopy(o.shared)
    assert problems(KINDS["layer"], decoder) == [
        "layer 3 must call layer 2's k weight, but the file has a separate one",
        "layer 3 must call layer 2's o weight, but the file has a separate one",
    ]


def test_a_weight_that_is_not_there_is_told() -> None:
    kind, other = KINDS["layer"], decoder_of(Kind("none", {}))
    other.middles[2].end.mlp.up = torch.nn.Identity()
    told = problems(kind, other)
    assert "layer 3 must call layer 2's up weight, but the file has none for it" in told
    assert len(told) == 7


def test_keys_and_values_of_a_kv_target_are_told() -> None:
    decoder = decoder_of(KINDS["kv"])
    decoder.middles[1].start.v = copy.deepcopy(decoder.entry.start.v)
    assert problems(KINDS["kv"], decoder) == ["layer 3 has no v of its own, but the file has one"]


def test_parts_that_should_be_left_out_are_told() -> None:
    whole = decoder_of(Kind("none", {}))
    found = problems(KINDS["drop"], whole)
    assert [problem for problem in found if problem.startswith("layer 3")] == [
        f"layer 3 has no {name} of its own, but the file has one" for name in ("q", "k", "v", "o", "gate", "up", "down")
    ]


def test_a_basis_that_is_stored_apart_is_told() -> None:
    decoder = decoder_of(KINDS["basis"])
    mlp = decoder.middles[2].end.mlp
    mlp.gate.basis = copy.deepcopy(mlp.gate.basis)
    mlp.down.basis = copy.deepcopy(mlp.down.basis)  # is its own anyway
    assert problems(KINDS["basis"], decoder) == [
        "layer 3 must call layer 2's gate basis, but the file has a separate one"
    ]


def test_a_weight_that_one_segment_calls_twice_has_a_name_for_each_layer() -> None:
    """Layer 3 has no attention, so that it follows layer 2 in its segment."""
    kind = Kind("2:3", {2: Recovery(attention=AttentionRecovery("none"))})
    assert problems(kind, decoder_of(kind)) == []
