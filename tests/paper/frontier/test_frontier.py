"""A frontier measures each point once through its `.pte`, and says what it shows."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from reported import recorded
from tiny_models import save_tiny_model, tiny_tokenizer

from sharp_mobile.checkpoint.description import describe_model
from sharp_mobile.cli import main
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.paper.frontier import measure, run
from sharp_mobile.paper.frontier.measure import Bench, Tools
from sharp_mobile.paper.frontier.methods import changed
from sharp_mobile.paper.frontier.points import Frontier, Measurement
from sharp_mobile.paper.frontier.run import FrontierOptions, frontier
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery import run as recovery_run
from sharp_mobile.text.windows import read_text, token_windows

WINDOW, WINDOWS = 24, 2
SIZES = (0.85, 0.8)
SHAPE = {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 768, "head_dim": 32, "vocab_size": 256}


@pytest.fixture(autouse=True)
def _no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a compiler: attention stays fast, and memory is predicted."""
    monkeypatch.setattr(run, "find_tools", lambda: Tools(None, None, ("no tools",)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory: Path = save_tiny_model(tmp_path / "model", **SHAPE)
    return directory


def recipe_of(model: Path, text: Path) -> Recipe:
    return Recipe(
        model=str(model),
        recovery={"rank": 8},
        warmup={"text": str(text), "window": 32, "windows": 8},
        quantize={"rounding": "nearest"},
    )


def options(text: Path, **others: object) -> FrontierOptions:
    given = {"methods": ("unshared", "mlp"), "sizes": SIZES, "text": str(text), "window": WINDOW, "windows": WINDOWS}
    return FrontierOptions(**{**given, **others})  # type: ignore[arg-type]


def counted(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], BaseException | None] = lambda call: None
) -> list[str]:
    """The keys of the points that are measured; call n raises what `fails` gives."""
    calls: list[str] = []
    original = Bench.measure

    def measured(bench: Bench, recipe: Recipe, *args: object) -> Measurement:
        calls.append(recipe.plan)
        if (error := fails(len(calls))) is not None:
            raise error
        return original(bench, recipe, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Bench, "measure", measured)
    return calls


@pytest.mark.slow
def test_two_methods_at_two_sizes(
    model: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    found = frontier(recipe_of(model, tiny_text), tmp_path / "out", options(tiny_text))
    assert [(point.method, point.size) for point in found.points] == [
        ("unshared", 1.0),
        ("mlp", 0.85),
        ("mlp", 0.8),
    ]
    assert {missing.method for missing in found.missing} == {"unshared"}
    assert "not reached; its smallest is " in found.missing[0].reason
    unshared, first, second = (point.measured for point in found.points)
    assert unshared.file_bytes == pytest.approx(found.unshared_bytes, rel=0.01)
    assert second.file_bytes < first.file_bytes < unshared.file_bytes
    assert all(measured.kl is not None and measured.kl > 0 for measured in (unshared, first, second))
    assert len({first.plan, second.plan, "none"}) == 3
    assert calls == ["none", first.plan, second.plan]

    windows = token_windows(tiny_tokenizer(), read_text(tiny_text), WINDOW, WINDOWS)
    from sharp_mobile.checkpoint.open import open_checkpoint

    float_model = open_checkpoint(model).model
    assert found.original == pytest.approx(perplexity(lambda tokens: float_model(tokens).logits, windows).value)
    out = tmp_path / "out"
    assert Frontier.model_validate_json((out / "frontier.json").read_text()) == found
    assert (out / "frontier.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (out / "frontier.svg").read_text()
    assert len(list((out / "points").iterdir())) == 3
    assert not list(out.rglob("*.pte"))
    assert not list(out.rglob("*.logits"))

    monkeypatch.setattr(run, "_measure_original", pytest.fail)
    assert frontier(recipe_of(model, tiny_text), out, options(tiny_text)) == found
    assert len(calls) == 3


@pytest.mark.slow
def test_a_recipe_is_measured_again_after_fine_tuning(
    model: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is warmed up once."""
    warmed: list[str] = []
    original = recovery_run.warm_up
    monkeypatch.setattr(recovery_run, "warm_up", lambda *args, **kw: (warmed.append(""), original(*args, **kw))[1])
    recipe = changed(recipe_of(model, tiny_text), {"finetune.train_text": str(tiny_text), "finetune.length": 32})
    wanted = options(tiny_text, methods=("mlp",), sizes=(0.85,), finetune=2)
    found = frontier(recipe, tmp_path / "out", wanted)
    assert [(point.method, point.finetuned) for point in found.points] == [("unshared", 0), ("mlp", 0), ("mlp", 2)]
    plain, tuned = found.points[1].measured, found.points[2].measured
    assert plain.plan == tuned.plan
    assert plain.file_bytes == pytest.approx(tuned.file_bytes, rel=1e-3)
    assert plain.perplexity != tuned.perplexity
    assert len(warmed) == 1
    assert not list((tmp_path / "out" / "recovered").iterdir())


def test_a_recipe_with_nothing_to_train_is_not_fine_tuned(model: Path, tiny_text: Path) -> None:
    recipe = changed(recipe_of(model, tiny_text), {"plan": "2:3"})
    description = describe_model(recipe.model)
    assert run._learns(recipe, description)
    assert not run._learns(changed(recipe, {"share": "drop"}), description)
    assert not run._learns(changed(recipe, {"plan": "none"}), description)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(
    model: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, lambda call: KeyboardInterrupt() if call == 2 else None)
    recipe, wanted, out = recipe_of(model, tiny_text), options(tiny_text, sizes=(0.85,)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        frontier(recipe, out, wanted)
    (first,) = (out / "points").iterdir()
    before = first.stat().st_mtime_ns
    found = frontier(recipe, out, wanted)
    assert first.stat().st_mtime_ns == before
    assert calls == ["none", found.points[1].measured.plan, found.points[1].measured.plan]
    assert len(list((out / "points").iterdir())) == 2


@pytest.mark.slow
def test_a_point_that_fails_is_left_out_with_the_reason(
    model: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, lambda call: SharpError("it broke") if call == 2 else None)
    with recorded() as report:
        found = frontier(recipe_of(model, tiny_text), tmp_path / "out", options(tiny_text, sizes=(0.85,)))
    assert [point.method for point in found.points] == ["unshared"]
    assert [missing.reason for missing in found.missing if missing.method == "mlp"] == ["it broke"]
    assert "mlp at 85%: left out: it broke" in report.warnings


@pytest.mark.slow
def test_another_model_of_the_tokenizer_stands_beside(
    model: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = save_tiny_model(tmp_path / "smaller", seed=1, **{**SHAPE, "num_hidden_layers": 2})
    wanted = options(tiny_text, methods=("unshared",), sizes=(0.5,), beside=recipe_of(smaller, tiny_text))
    found = frontier(recipe_of(model, tiny_text), tmp_path / "out", wanted)
    (beside,) = found.beside
    assert beside.method == "smaller"
    assert beside.measured.file_bytes < found.points[0].measured.file_bytes
    assert beside.measured.kl is not None


def test_a_model_of_another_tokenizer_is_refused(model: Path, tiny_text: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", **{**SHAPE, "vocab_size": 320})
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["things"])
    tokenizer.save_pretrained(other)
    wanted = options(tiny_text, beside=recipe_of(other, tiny_text))
    with pytest.raises(SharpError, match=r"--beside .*other: its tokenizer differs from that of model"):
        frontier(recipe_of(model, tiny_text), tmp_path / "out", wanted)
    assert not (tmp_path / "out" / "points").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": ("mlps",)}, "--methods mlps: there is no such method; choose from unshared, mlp, attention"),
        ({"sizes": (1.5,)}, "--sizes 1.5: is not a share"),
        ({"sizes": (0.0,)}, "--sizes 0: is not a share"),
        ({"sizes": ()}, "--sizes: is empty"),
        ({"windows": 0}, "--windows 0: measure on 1 window or more"),
        ({"window": 1}, "--window 1: leaves no token"),
        ({"finetune": -1}, "--finetune -1: is negative"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    changes: dict[str, object], says: str, tiny_text: Path, tmp_path: Path
) -> None:
    with pytest.raises(SharpError, match=says):
        frontier(Recipe(model="nowhere"), tmp_path / "out", options(tiny_text, **changes))


def test_a_model_without_a_tokenizer_is_refused(model: Path, tiny_text: Path, tmp_path: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(SharpError, match=r"frontier reads text, and there is no tokenizer; add tokenizer\.json"):
        frontier(recipe_of(model, tiny_text), tmp_path / "out", options(tiny_text))


def test_a_directory_that_cannot_be_written_is_refused(tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SharpError, match="cannot be written"):
        frontier(Recipe(model="nowhere"), tmp_path / "file" / "out", options(tiny_text))


def test_a_foreign_file_is_not_replaced(tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "frontier.json").write_text("{}")
    with pytest.raises(SharpError, match="was not written by sharp-mobile"):
        frontier(Recipe(model="nowhere"), tmp_path, options(tiny_text))


@pytest.mark.slow
def test_the_command_prints_the_table_and_the_findings(model: Path, tiny_text: Path, tmp_path: Path) -> None:
    arguments = ["frontier", model, "--methods", "unshared", "--sizes", "0.8", "--text", tiny_text, "--quiet"]
    arguments += ["--window", WINDOW, "--windows", WINDOWS, "--out", tmp_path / "out"]
    arguments += ["--set", f"warmup.text={tiny_text}", "--set", "warmup.window=32", "--set", "rounding=nearest"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "100%  unshared" in result.stdout
    assert "unshared at 80%: not reached; its smallest is" in result.stdout
    assert result.stdout.splitlines()[-1] == str(tmp_path / "out" / "frontier.json")
    content = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert content["settings"]["profile"] is None
    refused = CliRunner().invoke(main, ["frontier", str(model), "--sizes", "0.9,small"])
    assert "--sizes small: is no number" in refused.stderr


def test_the_tools_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*args: object) -> None:
        raise SharpError("g++ not found")

    monkeypatch.setattr(measure, "build_runner", nothing)
    monkeypatch.setattr(measure, "find_emulator", nothing)
    assert measure.find_tools().lacking == (
        "memory is predicted, not measured: g++ not found",
        "instructions are not counted: g++ not found",
    )
