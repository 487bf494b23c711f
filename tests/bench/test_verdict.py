"""What is judged of a results file, from any device."""

import pytest
from results_example import results

from sharp_mobile.bench.results import Condition, Device, Results, Window
from sharp_mobile.bench.verdict import charge_per_token, divergence_warnings, throttled, warnings_of


def test_tokens_that_differ_from_the_exports_are_reported_with_their_position() -> None:
    expected = (5, 6, 7)
    assert divergence_warnings((5, 6, 7), expected) == ()
    for tokens, position in (((5, 9, 7), 1), ((4, 6, 7), 0), ((5, 6), 2), ((5, 6, 7, 8), 3)):
        (warning,) = divergence_warnings(tokens, expected)
        assert f"differ from the export's at position {position} of 3" in warning
    assert divergence_warnings((), expected) == ()  # a benchmark that failed before it generated
    assert divergence_warnings((5, 6), ()) == ()  # a file of version 1


def test_a_first_token_that_differs_is_reported_with_its_logit() -> None:
    expected = (5, 6, 7)
    (near,) = divergence_warnings((4, 6, 7), expected, [(4, 22.75), (5, 22.5)])
    assert near.endswith("the export's token is 0.25 behind in logits")
    (far,) = divergence_warnings((4, 6, 7), expected, [(4, 22.75), (6, 22.5)])
    assert far.endswith("is not among the likeliest, so this is another model")


@pytest.mark.parametrize("state", ["moderate", "severe", "critical", "emergency", "shutdown", "serious"])
def test_a_throttled_device_is_reported_once(state: str) -> None:
    assert throttled(state)
    conditions = (Condition(at=0.0, thermal="none"), Condition(at=2.0, thermal=state), Condition(at=4.0, thermal=state))
    found = _judged(conditions=conditions)
    assert [warning for warning in found if warning.startswith("throttled: ")] == [
        f"throttled: the thermal state was {state}, so the processor was slowed down; let it cool and measure again"
    ]


@pytest.mark.parametrize("state", [None, "none", "light", "nominal", "fair"])
def test_a_cool_device_is_not_reported(state: str | None) -> None:
    assert not throttled(state)
    assert _judged(conditions=(Condition(at=0.0, thermal=state),)) == ()


def test_a_sustained_run_that_slows_down_is_reported() -> None:
    windows = [Window(at=float(end + 1), tokens=count, seconds=1.0) for end, count in enumerate((20, 20, 16, 10))]
    (warning,) = _judged(sustained=tuple(windows))
    assert warning.startswith("sustained decoding slowed down from 20.0 to 10.0 tokens/s (-50%)")
    assert _judged(sustained=tuple(windows[:2])) == ()  # too short to compare


def test_the_batterys_charge_per_token() -> None:
    windows = tuple(Window(at=10.0 + end, tokens=10, seconds=1.0) for end in range(1, 5))
    charges = ((5.0, 2000), (10.0, 1000), (12.0, 900), (14.0, 800))
    conditions = tuple(Condition(at=at, charge_uah=charge, charging=False) for at, charge in charges)
    assert charge_per_token(_results(sustained=windows, conditions=conditions)) == 200 / 40
    plugged_in = tuple(condition.model_copy(update={"charging": True}) for condition in conditions)
    found = _results(sustained=windows, conditions=plugged_in)
    assert charge_per_token(found) is None
    assert any("the phone was charging" in warning for warning in warnings_of(found))
    assert charge_per_token(_results(sustained=windows)) is None
    assert charge_per_token(_results(conditions=conditions)) is None


def _results(**changes: object) -> Results:
    device = Device(kind="android", model="a phone", os="Android", cpu="a CPU", cores=8)
    emptied = {"tokens": (1, 2), "expected_tokens": (1, 2), "conditions": (), "sustained": (), "device": device}
    return results().model_copy(update=emptied | changes)


def _judged(**changes: object) -> tuple[str, ...]:
    return warnings_of(_results(**changes))
