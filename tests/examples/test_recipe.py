"""examples/recipe.yaml has every field of a recipe, with its default and a comment, and its other values are valid."""

import re
from dataclasses import dataclass

import pytest
import yaml
from project import PROJECT
from pydantic import BaseModel

from sharp_mobile.recipe.load import load_recipe
from sharp_mobile.recipe.settings import Recipe

PATH = PROJECT / "examples/recipe.yaml"
SECTIONS = {
    name: field.annotation
    for name, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


@dataclass(frozen=True)
class Line:
    """A field of the file: its path, its value, and its comment."""

    path: str
    value: object
    comment: str

    @property
    def default(self) -> object:
        """The default that the comment names, or else the value."""
        named = re.search(r"\(default: ([^)]+)\)", self.comment)
        return yaml.safe_load(named[1]) if named else self.value

    @property
    def others(self) -> list[object]:
        """The other values that the comment shows: a list, a dictionary, a quoted text or a word."""
        shown = re.findall(r"e\.g\. (\[.*\]|\{.*\}|'[^']*'|[^\s,;]+)", self.comment)
        return [yaml.safe_load(value) for value in shown]


def lines() -> list[Line]:
    found, section = [], ""
    for text in PATH.read_text().splitlines():
        if match := re.fullmatch(r"( *)(\w+):(?: (.*?))? +# (.+)", text):
            indent, name, value, comment = match.groups()
            if not indent:
                section = name
            if value:
                found.append(Line(f"{section}.{name}" if indent else name, yaml.safe_load(value), comment))
            else:
                assert name in SECTIONS
        else:
            assert not text or text.startswith("#"), f"no comment: {text}"
    return found


FIELDS = lines()


def test_it_has_every_field_once_and_in_order() -> None:
    expected = [name for name in Recipe.model_fields if name not in SECTIONS]
    expected += [f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields]
    assert [field.path for field in FIELDS] == expected
    content = yaml.safe_load(PATH.read_text())
    assert list(content) == list(Recipe.model_fields)


@pytest.mark.parametrize("field", [field for field in FIELDS if field.path != "model"], ids=lambda field: field.path)
def test_a_field_has_its_default_unless_its_comment_names_it(field: Line) -> None:
    section, _, name = field.path.rpartition(".")
    default = (SECTIONS[section] if section else Recipe).model_fields[name].default
    assert field.default == default
    assert type(field.default) is type(default)
    if "(default: " in field.comment:
        assert field.value != default, "its value is the default"


@pytest.mark.parametrize("field", [field for field in FIELDS if field.others], ids=lambda field: field.path)
def test_other_values_in_comments_are_valid(field: Line) -> None:
    recipe = load_recipe(str(PATH))
    for value in field.others:
        changed = load_recipe(str(PATH), **{field.path: value})
        assert changed != recipe


def test_it_is_the_recipe_of_a_plan_with_defaults() -> None:
    assert load_recipe(str(PATH)) == Recipe(model="smollm2-135m-instruct", plan="t_next")
