"""Messages of other libraries in one line that says why."""

import pytest
from pydantic import BaseModel, ValidationError
from transformers import LlamaConfig

from sharp_mobile.errors import first_problem, one_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Field 'x' is wrong:\n    TypeError: expected int", "Field 'x' is wrong: TypeError: expected int"),
        ("\n  first\nsecond", "first"),
        ("only:", "only:"),
        ("while reading:\n\n  why\n  where", "while reading: why"),
        ("x" * 400, "x" * 297 + "..."),
        ("field:\n" + "y" * 400, "field: " + "y" * 290 + "..."),
        ("", "ValueError"),
    ],
)
def test_the_line_that_says_why_stays(message: str, line: str) -> None:
    assert one_line(ValueError(message)) == line


def test_a_configuration_that_transformers_refuses_says_why() -> None:
    with pytest.raises(Exception, match="hidden_size") as caught:
        LlamaConfig(hidden_size="wide")
    assert one_line(caught.value).startswith("Validation error for field 'hidden_size': TypeError: ")


def test_the_path_of_a_field_is_cut() -> None:
    class Model(BaseModel):
        counts: dict[str, int]

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"counts": {"k" * 10_000: "no"}})
    assert len(first_problem(caught.value)) < 400
