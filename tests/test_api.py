"""The names that `sharp_mobile` exposes: their examples are true, they load late, and they are silent unless asked."""

import ast
import doctest
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import tiny_model, tiny_tokenizer

import sharp_mobile
from sharp_mobile import Export, Recipe, SharpError, export, load_recipe, open_export, predict_size, recover
from sharp_mobile.api import _name
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.verify.manifest import read_perplexity

LIGHT = ("Recipe", "SharePlan", "SharpError", "Size", "load_recipe", "open_export", "predict_size")
METHODS = [f"Export.{name}" for name, value in vars(Export).items() if callable(value) and not name.startswith("_")]
PUBLIC = ["sharp_mobile", *sharp_mobile.__all__, *METHODS]
EXPORTED = "build/exports/mine"  # as the examples call it


@pytest.fixture(scope="module")
def place(exportable: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the examples name: a model and a text."""
    directory = tmp_path_factory.mktemp("place")
    (directory / "my-model").symlink_to(exportable)
    (directory / "notes.txt").symlink_to(tiny_text)
    return directory


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working directory."""
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def printed(place: Path) -> tuple[str, str]:
    """What the example of `export` prints in a process of its own, errors in the example included."""
    script = "import doctest, sharp_mobile; doctest.run_docstring_examples(sharp_mobile.export, {})"
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True)
    return done.stdout, done.stderr


@pytest.fixture
def mine(printed: tuple[str, str], here: Path) -> Export:
    """What that example wrote."""
    return open_export(EXPORTED)


def example(name: str) -> doctest.DocTest:
    found: object = sharp_mobile
    for part in name.split(".") if name != "sharp_mobile" else ():
        found = getattr(found, part)
    return doctest.DocTestParser().get_doctest(found.__doc__ or "", {}, name, None, None)


def is_slow(name: str) -> bool:
    return any(EXPORTED in part.source or "recover(" in part.source for part in example(name).examples)


def documented(name: str) -> object:
    return pytest.param(name, marks=[pytest.mark.slow] if is_slow(name) else [])


@pytest.mark.slow
def test_an_export_is_made_in_silence(printed: tuple[str, str]) -> None:
    assert printed == ("", "")


@pytest.mark.parametrize("name", [documented(name) for name in PUBLIC if name != "export"])
def test_the_example_of_a_public_name_is_true(name: str, here: Path, request: pytest.FixtureRequest) -> None:
    if is_slow(name):
        request.getfixturevalue("mine")
    report: list[str] = []
    failed, attempted = doctest.DocTestRunner().run(example(name), out=report.append)
    assert attempted > 0, "no example"
    assert failed == 0, "".join(report)


def test_the_package_loads_nothing_large_for_names_and_sizes(here: Path) -> None:
    script = (
        "import sys, json, sharp_mobile\n"
        "def loaded(): return [name for name in ('torch', 'transformers', 'pydantic') if name in sys.modules]\n"
        "print(json.dumps([dir(sharp_mobile), loaded()]))\n"
        f"from sharp_mobile import {', '.join(LIGHT)}\n"
        "predict_size('my-model')\n"
        "print(json.dumps(loaded()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (names, before), after = map(json.loads, done.stdout.splitlines())
    assert set(sharp_mobile.__all__) <= set(names)
    assert before == []
    assert after == ["pydantic"]


def test_type_checkers_and_users_see_the_same_names() -> None:
    package = ast.parse(Path(sharp_mobile.__file__).read_text())
    (checked,) = (node for node in package.body if isinstance(node, ast.If))
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    home = {alias.name: str(node.module) for node in imports for alias in node.names}
    assert sorted(home) == sharp_mobile.__all__
    for name, module in home.items():
        assert getattr(sharp_mobile, name) is getattr(sys.modules[module], name)


def test_a_wrong_name_is_none_of_the_package() -> None:
    with pytest.raises(AttributeError, match="module 'sharp_mobile' has no attribute 'recovr'"):
        getattr(sharp_mobile, "recovr")  # noqa: B009  the attribute, as a user writes it
    with pytest.raises(ImportError, match="cannot import name 'recovr'"):
        from sharp_mobile import recovr  # noqa: F401


@pytest.mark.slow
def test_an_export_answers_and_is_measured(mine: Export, capfd: pytest.CaptureFixture[str]) -> None:
    assert mine == open_export(Path(EXPORTED))
    expected = mine.manifest.expected
    assert mine.generate(expected.prompt, len(expected.tokens)).strip() == expected.text.strip()
    found = mine.perplexity(Path("notes.txt"), window=32, windows=2)
    kept = read_perplexity(mine.path, mine.manifest.sha256)
    assert kept is not None
    assert (kept.perplexity, kept.windows, kept.window) == (found, 2, 32)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_recovered_model_is_a_model_and_progress_is_reported_if_asked_for(
    mine: Export, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("my-model", plan="2:3", rank=32, text="notes.txt", window=32, windows=16)
    path = recover(recipe, "build/asked", progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "plan 2:3 (reference:targets, 1-based), lora rank 32" in err
    assert f"SHARP checkpoint: {path}" in err
    assert open_checkpoint(str(path)).plan == SharePlan.parse("2:3", 4)
    assert predict_size(path).file.mlps == predict_size(recipe).file.mlps < predict_size("my-model").file.mlps


def test_sizes_are_those_of_a_name_a_path_and_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    by_name, *others = (predict_size(model) for model in ("tiny", tmp_path / "tiny", load_recipe("tiny")))
    assert others == [by_name, by_name]
    shared = predict_size(load_recipe("tiny", plan="direct:3:4"))
    assert by_name.file.mlps * 5 == shared.file.mlps * 6


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("recipes/mine.yaml", "mine"),
        (Path("models/mine.gguf"), "mine"),
        (Recipe(model="org/mine"), "mine"),
    ],
)
def test_an_export_is_called_as_its_recipe_or_model(given: Recipe | str | Path, name: str) -> None:
    assert _name(given) == name


@pytest.mark.parametrize(
    "call",
    [predict_size, open_export, lambda model: export(model, "out"), lambda model: recover(model, "out")],
    ids=["predict_size", "open_export", "export", "recover"],
)
def test_what_is_not_there_is_an_error_in_one_line(
    call: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SharpError, match=r"^nowhere: .*[^\n]$"):
        call("nowhere")
    assert list(tmp_path.iterdir()) == []
