"""What a layer has instead of its own weights: what makes no sense is refused, and sharp.json gives it back."""

import json
from typing import Any

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import AttentionRecovery, Basis, Recovery, recoveries
from sharp_mobile.recipe.sharp_json import describe_recoveries, format_version, read_recoveries

LAYERS = {
    1: Recovery("lora", 4),
    2: Recovery(attention=AttentionRecovery("weights", 0, "left", (4, 8, 8, 4))),
    3: Recovery("right", (4, 4, 8), attention=AttentionRecovery("kv", 1, rank=8)),
    4: Recovery(reference=False, attention=AttentionRecovery("none", bypass=16)),
    5: Recovery(attention=AttentionRecovery("none")),
    6: Recovery(basis=Basis(6, (8, 8, 8, 8, 0, 0, 4))),
    7: Recovery(basis=Basis(6, (8, 8, 8, 4, 0, 0, 0))),
}


def test_sharp_json_gives_back_what_was_written() -> None:
    written = json.loads(json.dumps(describe_recoveries(LAYERS)))
    assert read_recoveries(written, 8) == LAYERS
    assert written["3"]["attention"]["reference"] == 1  # layers are 1-based there
    assert written["7"]["basis"] == {"first": 7, "ranks": [8, 8, 8, 8, 0, 0, 4]}


def test_what_shares_mlps_alone_is_of_version_1() -> None:
    assert format_version({1: Recovery("lora", 4), 2: Recovery(neurons=4, bypass=4, reference=False)}) == 1
    for layer in (2, 4, 5, 6):
        assert format_version({layer: LAYERS[layer]}) == 2
    assert format_version({1: Recovery(neurons=4, reference=False)}) == 1
    assert format_version({1: Recovery(reference=False)}) == 2
    (written,) = describe_recoveries({1: Recovery("lora", 4)}).values()
    assert "attention" not in written
    assert "basis" not in written


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": {"kind": "heads", "reference": 1}}, "recovery of layers 3"),
        ({"attention": {"kind": "kv", "reference": "one"}}, "recovery of layers 3"),
        ({"basis": {"first": 1, "ranks": [8, 8]}}, "recovery of layers 3"),
    ],
)
def test_what_sharp_json_cannot_mean_names_the_layer(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SharpError, match=message):
        read_recoveries({"3": fields}, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionRecovery("heads", 1), "attention 'heads' does not exist; choose one of weights, kv, none"),
        (lambda: AttentionRecovery("weights"), "attention of kind 'weights' needs a reference"),
        (lambda: AttentionRecovery("none", 1), "attention of kind 'none' needs no reference"),
        (lambda: AttentionRecovery("none", rank=4), "use bypass"),
        (lambda: AttentionRecovery("kv", 1, bypass=4), "give it to a layer without attention"),
        (lambda: AttentionRecovery("kv", 1, "right", 4), "q and o of a kv target are its own"),
        (lambda: AttentionRecovery("weights", 1, "right", (4, 0, 4, 4)), "0 would make a zero weight"),
        (lambda: AttentionRecovery("weights", 1, rank=-1), "rank -1 is negative"),
        (lambda: AttentionRecovery("weights", 1, "dora"), "recovery form 'dora' does not exist"),
        (lambda: Basis(0, (0, 0, 0, 0, 0, 0, 0)), "keep more"),
        (lambda: Recovery("lora", 4, basis=Basis(0, (8,) * 7)), "shares nothing else; leave one out"),
        (lambda: Recovery("lora", 4, reference=False), "has no weight to correct"),
    ],
)
def test_what_has_nothing_to_stand_on_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SharpError) as refused:
        make()
    assert message in str(refused.value)


def test_what_is_fitted() -> None:
    learning = {layer for layer, own in LAYERS.items() if own.learns}
    assert learning == {1, 2, 3, 4, 6, 7}
    assert Recovery(attention=AttentionRecovery("kv", 0)).learns  # its o
    assert not Recovery(attention=AttentionRecovery("weights", 0)).learns
    assert not Recovery(reference=False).learns
    assert Recovery(neurons=4, reference=False).learns


def test_a_kv_target_has_ranks_of_q_and_o_alone() -> None:
    assert AttentionRecovery("kv", 0, rank=8).ranks == (8, 0, 0, 8)
    assert AttentionRecovery("kv", 0, rank=(4, 1, 1, 8)).ranks == (4, 0, 0, 8)
    assert AttentionRecovery("kv", 0, rank=8).parameters(64, 48, 16) == 2 * 8 * (64 + 48)
    assert AttentionRecovery("none", bypass=8).parameters(64, 48, 16) == 2 * 8 * 64
    assert AttentionRecovery("weights", 0, rank=2).parameters(64, 48, 16) == 2 * (2 * (64 + 48) + 2 * (64 + 16))


def test_a_direct_plan_strips_what_calls_a_reference() -> None:
    plan = SharePlan.parse("direct:2:3-5", 6)
    attention = AttentionRecovery("weights", 1, rank=4)
    given = {
        2: Recovery("left", 4, attention=attention),
        3: Recovery(reference=False),
        4: Recovery(neurons=8, reference=False),
    }
    assert recoveries(plan, given) == {2: Recovery(attention=attention), 3: given[3], 4: given[4]}


@pytest.mark.parametrize(
    ("recovery", "text"),
    [
        (LAYERS[2], "attention + left ranks 4/8/8/4"),
        (LAYERS[3], "keys and values + lora rank 8; right ranks 4/4/8"),
        (LAYERS[4], "no attention + bypass rank 16; no MLP"),
        (LAYERS[7], "bases of rank 8 (q), 8 (k), 8 (v), 4 (o)"),
        (Recovery(reference=False), "no MLP"),
        (Recovery(), "no recovery parameters"),
    ],
)
def test_in_words(recovery: Recovery, text: str) -> None:
    assert str(recovery) == text
