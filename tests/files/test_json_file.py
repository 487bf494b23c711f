"""JSON of others: what cannot be read is one line."""

from pathlib import Path

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import parse_json, read_json


def test_a_field_that_is_written_twice_is_refused_where_that_is_asked_for() -> None:
    text = '{"a": 1, "b": {"c": 1, "c": 2}}'
    assert parse_json(text, "x.json") == {"a": 1, "b": {"c": 2}}
    with pytest.raises(SharpError, match=r"^x\.json: is not valid JSON \(the field 'c' is written twice\)"):
        parse_json(text, "x.json", unique=True)


@pytest.mark.parametrize("text", ["9" * 5000, '{"a": -' + "1" * 4301 + "}", f"[{'7' * 10**5}]"])
def test_a_number_that_is_too_long_is_told_without_advice_about_python(text: str) -> None:
    with pytest.raises(SharpError) as error:
        parse_json(text, "x.json")
    assert str(error.value) == (
        "x.json: is not valid JSON (a number has more digits than Python reads); copy or download it again"
    )


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", "", "[]", "NaN"])
def test_what_is_no_object_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(SharpError, match=r"x\.json: .*copy or download it again$"):
        read_json(path)
