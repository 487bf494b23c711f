"""Recipes that are made in Python."""

import ast
import inspect
import pickle
from pathlib import Path

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe import settings
from sharp_mobile.recipe.recovery_settings import RecoverySettings
from sharp_mobile.recipe.settings import Recipe


def test_a_section_is_a_dictionary_or_an_object_and_a_model_a_text_or_a_path() -> None:
    recipe = Recipe(model="models/mine", recovery={"rank": 32})
    assert recipe == Recipe(model=Path("models/mine"), recovery=RecoverySettings(rank=32))
    assert recipe.recovery.model_fields_set == {"rank"}
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"recovery": {"rnk": 4}}, r"^recovery\.rnk: no such field; choose from form, rank, "),
        ({"lower": {"max_length": 1}}, r"^lower\.max_length: Input should be greater than or equal to 2, not 1$"),
        ({"quantize": {"fragile": 0.1}}, r"^quantize\.fragile: is called eight_bit_budget now; rename it$"),
        ({"plan": "auto"}, "^plan 'auto': name a budget"),
        ({"model": ""}, "^model: is empty; name a model$"),
    ],
)
def test_what_is_wrong_is_an_error_in_one_line(fields: dict[str, object], says: str) -> None:
    with pytest.raises(SharpError, match=says):
        Recipe(**{"model": "a/b", **fields})


def test_type_checkers_know_every_field() -> None:
    functions = [node for node in ast.walk(ast.parse(inspect.getsource(settings))) if isinstance(node, ast.FunctionDef)]
    declared, _ = (function.args for function in functions if function.name == "__init__")
    assert [argument.arg for argument in declared.kwonlyargs] == list(Recipe.model_fields)
