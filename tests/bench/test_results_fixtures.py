"""One schema in several languages: what each of them writes, this one reads."""

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from results_example import FIXTURES, fixture

from sharp_mobile.bench.results import FirstToken, Memory, read_results, write_results

WRITTEN = sorted(FIXTURES.glob("*.json"))
WRITTEN_BY_VERSION_1 = sorted(FIXTURES.with_name("results-1").glob("*.json"))
SCHEMA = json.loads((files("sharp_mobile.bench") / "results.schema.json").read_text(encoding="utf-8"))


def test_python_writes_its_fixture(tmp_path: Path) -> None:
    """Written by: python tests/results_example.py"""
    write_results(tmp_path / "python.json", fixture("python"))
    assert (tmp_path / "python.json").read_text() == (FIXTURES / "python.json").read_text()


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_what_a_language_writes_is_read_and_is_the_same(path: Path) -> None:
    found = read_results(path)
    assert found == fixture(found.settings.harness)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_what_a_language_writes_is_of_the_schema(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(content, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"of": "no schema"}, SCHEMA)


def test_each_language_has_a_name_of_its_own() -> None:
    harnesses = [read_results(path).settings.harness for path in WRITTEN]
    assert len(set(harnesses)) == len(harnesses)


@pytest.mark.parametrize("path", WRITTEN_BY_VERSION_1, ids=lambda path: path.stem)
def test_results_of_version_1_are_read(path: Path) -> None:
    """They lack what version 2 added."""
    found = read_results(path)
    assert found.schema_version == 1
    expected = fixture(found.settings.harness)
    added = {"schema_version": 1, "first_token": FirstToken(), "token_latency": None, "idle_memory": None}
    added |= dict.fromkeys(("decode_at_depth", "threads_sweep", "sustained", "conditions", "expected_tokens"), ())
    device = expected.device.model_copy(update={"performance_cores": None})
    memory = Memory(anonymous=10, file=20, peak=40)
    assert found == expected.model_copy(update=added | {"device": device, "memory": memory})
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), SCHEMA)
