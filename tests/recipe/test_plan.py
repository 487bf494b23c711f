import re

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.plan import PRESETS, SharePlan, layer_ranges

# Table 8 of the SHARP paper, as it prints the types for 32 layers.
TABLE_8 = {
    "t_next": "(3:4)(5:6)(7:8)(9:10)(11:12)(13:14)(15:16)(17:18)(19:20)(21:22)(23:24)(25:26)(27:28)(29:30)",
    "t_next2": "(3:4,5)(6:7,8)(9:10,11)(12:13,14)(15:16,17)(18:19,20)(21:22,23)(24:25,26)(27:28,29)",
    "t_back": "(3:4)(5:6)(7:8)(9:10)(11:12)(13:14,15)(16:17..22)(23:24..30)",
    "t_front": "(3:4..10)(11:12..17)(18:19,20)(21:22)(23:24)(25:26)(27:28)(29:30)",
    "t_more": "(3:4,5,6)(7:8..11)(13:14..22)(23:24..30)",
    "t_max": "(2:3..10)(11:12..20)(21:22..31)",
}


@pytest.mark.parametrize("name", TABLE_8)
def test_presets_are_the_papers_at_32_layers(name: str) -> None:
    assert SharePlan.parse(name, 32) == SharePlan.parse(TABLE_8[name], 32)


@pytest.mark.parametrize(
    ("name", "percent"),
    [("t_next", 56), ("t_next2", 44), ("t_back", 38), ("t_front", 38), ("t_more", 28), ("t_max", 16)],
)
def test_stored_ratio_of_table_8(name: str, percent: int) -> None:
    # The paper prints 25 for t_more, whose list stores 9 of 32 layers.
    assert round(100 * SharePlan.parse(name, 32).stored_ratio + 1e-9) == percent


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("layers", range(7, 81))
def test_presets_scale(name: str, layers: int) -> None:
    plan = SharePlan.parse(name, layers)
    assert plan.targets
    assert plan.targets[0] >= 2
    assert plan.targets[-1] <= layers - 2
    assert abs(plan.stored_ratio - SharePlan.parse(name, 32).stored_ratio) < 0.16 + 3 / layers
    assert SharePlan.parse(str(plan), layers) == plan


def test_presets_that_follow_a_rule() -> None:
    assert str(SharePlan.parse("t_next", 9)) == "3:4, 5:6, 7:8"
    assert str(SharePlan.parse("t_next2", 9)) == "3:4,5, 6:7,8"


def test_written_out() -> None:
    plan = SharePlan.parse("3:4, 16:17-19", 30)
    assert plan.groups == ((2, (3,)), (15, (16, 17, 18)))
    assert plan.targets == (3, 16, 17, 18)
    assert plan.reference_of == {3: 2, 16: 15, 17: 15, 18: 15}
    assert plan == SharePlan.parse(" (3:4)(16 : 17..19) ", 30) == SharePlan.parse("16:17,18-19,3:4", 30)


def test_targets_need_not_be_neighbours() -> None:
    plan = SharePlan.parse("3:4,7-9, 5:6", 12)
    assert plan.reference_of == {3: 2, 5: 4, 6: 2, 7: 2, 8: 2}
    assert str(plan) == "3:4,7-9, 5:6"


def test_direct_and_none() -> None:
    assert SharePlan.parse("direct", 9) == SharePlan(9, SharePlan.parse("t_next", 9).groups, direct=True)
    assert str(SharePlan.parse("direct:3:4", 9)) == "direct:3:4"
    assert SharePlan.parse("direct: 3:4", 9).direct
    assert SharePlan.parse("none", 9).is_none
    assert SharePlan.parse("none", 9).stored_ratio == 1.0
    assert str(SharePlan.parse("direct:none", 9)) == "none"


def test_without() -> None:
    assert str(SharePlan.parse("t_next without 6", 9)) == "3:4, 7:8"
    assert str(SharePlan.parse("3:4-7 without 4, 6", 9)) == "3:5,7"
    assert str(SharePlan.parse("direct without 4,8", 9)) == "direct:5:6"


def test_compression_ratio_is_equation_1() -> None:
    plan = SharePlan.parse("t_next", 30)  # 13 targets
    kept = 17 * 3 * 576 * 1536 + 13 * 3 * 64 * (576 + 1536)
    recovery = 13 * 3 * 64 * (576 + 1536)
    assert plan.compression_ratio(576, 1536, recovery) == pytest.approx(kept / (30 * 3 * 576 * 1536), rel=1e-12)
    assert plan.compression_ratio(576, 1536, 0) == plan.stored_ratio


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4:3", "target 3 must come after its reference 4"),
        ("3:4, 4:5", "layer 4 is a target and a reference"),
        ("3:4,4", "layer 4 is a target twice"),
        ("3:5, 4:5", "layer 5 is a target twice"),
        ("1:1", "layer 1 cannot be a target"),
        ("8:9", "layer 9 cannot be a target"),
        ("3:10", "between 1 and 9"),
        ("3:4-99999999999", "between 1 and 9"),
        ("12:13", "between 1 and 9"),
        ("12:8", "layer 12 does not exist"),
        ("3:6-4", "lower one first"),
        ("", "such as '3:4, 16:17-22'"),
        ("3:", "such as '3:4, 16:17-22'"),
        ("3:4)", "such as '3:4, 16:17-22'"),
        ("1 2:3", "such as '3:4, 16:17-22'"),
        ("t_nxt", "t_next2"),
        ("t_next without 5", "layer 5 is no target"),
        ("t_next without x", "not a list of layers"),
        ("2:" + "9" * 5000, "must name layers between 1 and 9"),
        ("9" * 5000 + ":3", "layer 1000000000 does not exist"),
        ("t_next without 1-" + "1" * 4301, "must name layers between 1 and 9"),
        ("x" * 5000, "is not a plan"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(SharpError, match=re.escape(says)) as error:
        SharePlan.parse(text, 9)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_leading_zeros_are_no_other_layer() -> None:
    assert SharePlan.parse("02:" + "0" * 5000 + "3", 9) == SharePlan.parse("2:3", 9)


def test_a_model_too_small_for_a_preset_is_told_so() -> None:
    with pytest.raises(SharpError, match=r"t_next has no target in a model of 4 layers; .* such as '2:3'"):
        SharePlan.parse("t_next", 4)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_plan_that_is_suggested_fits_the_model(preset: str, layers: int) -> None:
    try:
        SharePlan.parse(preset, layers)
    except SharpError as error:
        told = str(error)
    else:
        return
    suggested = re.search(r"such as '(\S+)'", told)
    assert (suggested is None) == (layers < 3)
    if suggested:
        SharePlan.parse(suggested[1], layers)


def test_a_reference_needs_targets() -> None:
    with pytest.raises(SharpError, match="reference 3 has no target"):
        SharePlan(9, ((2, ()),))


@pytest.mark.parametrize(
    ("text", "written_out"),
    [
        ("recursive 2", "1:5, 2:6, 3:7, 4:8"),
        ("recursive 4", "1:3,5,7, 2:4,6,8"),
        ("blocks 2", "1:2, 3:4, 5:6, 7:8"),
        ("blocks 3", "1:2,3, 4:5,6, 7:8"),
        ("blocks 8", "1:2-8"),
    ],
)
def test_rules_take_all_layers(text: str, written_out: str) -> None:
    plan = SharePlan.parse(text, 8)
    groups = ", ".join(f"{first + 1}:{layer_ranges(its)}" for first, its in plan.groups)
    assert groups == written_out
    assert str(plan) == text
    assert SharePlan.parse(str(plan), 8) == plan
    assert SharePlan.parse(f"  {text.replace(' ', '   ')} ", 8) == plan
    assert plan.targets[-1] == 7  # which no plan that is written out may have


def test_a_rule_without_some_targets_is_still_that_rule() -> None:
    plan = SharePlan.parse("recursive 2 without 8, 5", 8)
    assert plan.groups == ((1, (5,)), (2, (6,)))
    assert str(plan) == "recursive 2 without 5,8"
    assert SharePlan.parse(str(plan), 8) == plan
    direct = SharePlan.parse("direct: recursive 2 without 5", 8)
    assert str(direct) == "direct:recursive 2 without 5"
    assert SharePlan.parse(str(direct), 8) == direct
    assert SharePlan.parse("recursive 2 without 5-8", 8).is_none


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recursive 3", "'recursive 3' does not divide the 8 layers into equal blocks; use recursive 2 or 4"),
        ("recursive 8", "use recursive 2 or 4"),
        ("recursive 1", "'recursive 1' shares nothing; use recursive 2 or more"),
        ("blocks 0", "'blocks 0' shares nothing; use blocks 2 or more"),
        ("blocks 9", "needs groups of 9 layers, the model has 8; use blocks 2"),
        ("recursive", "'recursive' is not a plan"),
        ("recursive 2 without 4", "layer 4 is no target of this plan"),
        ("recursive -2", "is not a plan"),
    ],
)
def test_a_rule_that_does_not_fit_names_one_that_does(text: str, message: str) -> None:
    with pytest.raises(SharpError) as refused:
        SharePlan.parse(text, 8)
    assert message in str(refused.value)


def test_a_prime_number_of_layers_has_no_loops() -> None:
    with pytest.raises(SharpError, match="no number does; write a plan out"):
        SharePlan.parse("recursive 2", 7)
