"""`share` of a recipe: a kind with the recipe's plan, or a mixture with one for each."""

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.share import KINDS, is_mixture, parse_share


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_the_recipes_plan(kind: str) -> None:
    assert parse_share(f" {kind} ", "2:3") == [(kind, "2:3")]
    assert not is_mixture(kind)


def test_a_mixture_names_a_plan_for_each() -> None:
    mixture = "attention 3:4, 5:6; kv  7:8;drop-mlp t_next without 4"
    assert parse_share(mixture, "none") == [("attention", "3:4, 5:6"), ("kv", "7:8"), ("drop-mlp", "t_next without 4")]
    assert is_mixture(mixture)
    assert parse_share("kv 2:3", "none") == [("kv", "2:3")]


@pytest.mark.parametrize(
    ("share", "plan", "message"),
    [
        ("heads", "none", "'heads' cannot be shared; choose one of mlp, attention"),
        ("heads 2:3", "none", "'heads' cannot be shared; choose one of mlp, attention"),
        ("kv", "2:3; mlp 4:5", None),  # the plan itself is read later
        ("kv 2:3", "2:3", "give one kind (mlp, attention"),
        ("kv 2:3; kv 4:5", "none", "a kind stands there twice"),
        ("kv 2:3; ", "none", "'' names no plan; write such as 'kv 7:8; mlp 9:10'"),
    ],
)
def test_mistakes(share: str, plan: str, message: str | None) -> None:
    if message is None:
        parse_share(share, plan)
        return
    with pytest.raises(SharpError) as refused:
        parse_share(share, plan)
    assert message in str(refused.value)
