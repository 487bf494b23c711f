"""The layer studies agree with the whole model measured the plain way, and go on where they were interrupted."""

import copy
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokenizer, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.cli import main
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.model.modules import mlp_weights
from sharp_mobile.model.share import share_layers
from sharp_mobile.paper import studies
from sharp_mobile.paper.studies import (
    Pair,
    ReplacedPerplexity,
    ReplacementStudy,
    Setting,
    TextSetting,
    distance_study,
    replacement_study,
    zeroing_study,
)
from sharp_mobile.paper.study_pictures import draw
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery

SETTING = TextSetting(model="tiny", fingerprint="0", text="random", window=24, windows=2)
WINDOWS = tiny_tokens(24, batch=2)
LAYERS = 6


def measured(model: PreTrainedModel) -> float:
    return perplexity(lambda tokens: model(tokens).logits, WINDOWS).value


def directly_shared(model_type: str, reference: int, target: int) -> float:
    """The perplexity of a model in which one target's MLP is its reference's, both 1-based."""
    model = tiny_model(model_type)
    model.model.layers[target - 1].mlp = copy.deepcopy(model.model.layers[reference - 1].mlp)
    return measured(model)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_running_the_rest_of_the_model_is_running_all_of_it(model_type: str) -> None:
    model = tiny_model(model_type)
    replaced = ReplacedPerplexity(model, WINDOWS)
    assert replaced() == pytest.approx(measured(model), rel=1e-5)
    replaced.advance(3)
    assert replaced(model.model.layers[1].mlp) == pytest.approx(directly_shared(model_type, 2, 4), rel=1e-5)
    assert replaced() == pytest.approx(measured(model), rel=1e-5)  # its own MLP is back


def test_figure_2_has_each_pair_once(tmp_path: Path) -> None:
    path = tmp_path / "fig2.json"
    adjacent = replacement_study(tiny_model(), WINDOWS, SETTING, path)
    assert [(p.reference, p.target) for p in adjacent.pairs] == [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert adjacent.original == pytest.approx(measured(tiny_model()))
    for pair in adjacent.pairs:
        assert pair.perplexity == pytest.approx(directly_shared("llama", pair.reference, pair.target), rel=1e-5)
    both = replacement_study(tiny_model(), WINDOWS, SETTING, path, pairs="all")
    assert both.pairs[:5] == adjacent.pairs
    assert len({(p.reference, p.target) for p in both.pairs}) == len(both.pairs) == LAYERS * (LAYERS - 1) // 2
    assert all(pair.reference < pair.target for pair in both.pairs)
    assert ReplacementStudy.model_validate_json(path.read_text()) == both


def test_an_interrupted_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replacement_study(tiny_model(), WINDOWS, SETTING, tmp_path / "whole.json", pairs="all")
    path, calls = tmp_path / "cut.json", 0

    def interrupted(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return perplexity(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(studies, "perplexity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replacement_study(tiny_model(), WINDOWS, SETTING, path, pairs="all")
    assert len(json.loads(path.read_text())["pairs"]) == 6  # the first call measures the original
    resumed = replacement_study(tiny_model(), WINDOWS, SETTING, path, pairs="all")
    assert resumed.pairs == whole.pairs
    assert calls == 8 + 9


def test_a_file_of_another_study_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    zeroing_study(tiny_model(), WINDOWS, SETTING, path)
    with pytest.raises(SharpError, match="is not a fig2 study"):
        replacement_study(tiny_model(), WINDOWS, SETTING, path)
    other = SETTING.model_copy(update={"text": "another", "windows": 3})
    with pytest.raises(SharpError, match="made with another text, windows"):
        zeroing_study(tiny_model(), WINDOWS, other, path)
    shared = tiny_model()
    share_layers(shared, SharePlan.parse("2:3", LAYERS), Recovery("lora", 2))
    with pytest.raises(SharpError, match="already share"):
        zeroing_study(shared, WINDOWS, SETTING, tmp_path / "new.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda study: study | {"layers": 99},
        lambda study: study | {"original": None},
        lambda study: study | {"pairs": study["pairs"] * 2},
        lambda study: study | {"pairs": [{"reference": 0, "target": 7, "perplexity": 1.0}]},
        lambda study: study | {"pairs": "x"},
        lambda study: [],
    ],
)
def test_a_study_with_values_that_cannot_be_is_refused(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "fig2.json"
    replacement_study(tiny_model(), WINDOWS, SETTING, path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(SharpError, match=r"fig2\.json: is not a fig2 study; move it away"):
        replacement_study(tiny_model(), WINDOWS, SETTING, path)


def test_a_directory_in_the_place_of_a_study_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "fig4.json").mkdir()
    with pytest.raises(SharpError, match=r"fig4\.json: is not a fig4 study; move it away"):
        zeroing_study(tiny_model(), WINDOWS, SETTING, tmp_path / "fig4.json")


def test_a_model_of_one_layer_has_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="has one layer"):
        distance_study(tiny_model(num_hidden_layers=1), SETTING, tmp_path / "fig3.json")


def test_figure_3_is_the_relative_frobenius_distance(tmp_path: Path) -> None:
    model = tiny_model("phi3")  # gate and up in one tensor
    gates = [mlp_weights(layer.mlp).gate for layer in model.model.layers]
    gates[2].copy_(3 * gates[1])
    study = distance_study(model, Setting(model="tiny", fingerprint="0"), tmp_path / "fig3.json")
    assert [distance.layer for distance in study.distances] == [1, 2, 3, 4, 5]
    assert study.distances[1].gate == pytest.approx(2.0)
    down = [layer.mlp.down_proj.weight for layer in model.model.layers]
    expected = [math.sqrt(((b - a) ** 2).sum() / (a**2).sum()) for a, b in pairwise(down)]
    assert study.mean["down"] == pytest.approx(sum(expected) / 5)


def test_figure_4_zeroes_each_layer(tmp_path: Path) -> None:
    study = zeroing_study(tiny_model(), WINDOWS, SETTING, tmp_path / "fig4.json")
    assert [zeroed.layer for zeroed in study.zeroed] == [1, 2, 3, 4, 5, 6]
    model = tiny_model()
    for parameter in model.model.layers[3].mlp.parameters():
        parameter.zero_()
    assert study.zeroed[3].perplexity == pytest.approx(measured(model), rel=1e-5)


def test_figure_4_puts_a_task_to_each_zeroed_model(tmp_path: Path) -> None:
    model = tiny_model()

    def score() -> dict[str, float]:
        return {"acc": float(sum(not list(layer.mlp.parameters()) for layer in model.model.layers))}

    setting = SETTING.model_copy(update={"task": "counting"})
    study = zeroing_study(model, WINDOWS, setting, tmp_path / "fig4.json", score=score)
    assert study.original_scores == {"acc": 0}
    assert [zeroed.scores["acc"] for zeroed in study.zeroed] == [1] * LAYERS  # one at a time
    draw(study, tmp_path / "fig4.png")


def test_the_command_scores_a_task(tiny_text: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "long"
    tiny_model(max_position_embeddings=1024).save_pretrained(checkpoint)
    tiny_tokenizer().save_pretrained(checkpoint)
    options = ["--out", tmp_path, "--text", tiny_text, "--window", 24, "--windows", 1, "--quiet"]
    options += ["--task", "sotu_continuation", "--limit", 2]
    result = CliRunner().invoke(main, ["study", "fig4", str(checkpoint), *map(str, options)])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "fig4.json").read_text())
    assert content["original_scores"].keys() == content["zeroed"][0]["scores"].keys() != set()
    refused = CliRunner().invoke(main, ["study", "fig2", str(checkpoint), *map(str, options)])
    assert "use it with fig4" in refused.stderr


def test_an_infinite_perplexity_is_kept_and_drawn(tmp_path: Path) -> None:
    pairs = [Pair(reference=1, target=2, perplexity=math.inf), Pair(reference=2, target=3, perplexity=20.0)]
    study = ReplacementStudy(setting=SETTING, layers=3, original=10.0, pairs=pairs)
    assert ReplacementStudy.model_validate_json(study.model_dump_json()) == study
    draw(study, tmp_path / "fig2.png")
    assert (tmp_path / "fig2.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("figure", ["fig2", "fig3", "fig4"])
def test_the_command_writes_a_json_and_a_picture(
    figure: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--out", out, "--text", tiny_text, "--window", 24, "--windows", 2, "--pairs", "all", "--quiet"]
    result = CliRunner().invoke(main, ["study", figure, str(tiny_checkpoint), *map(str, options)])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [f"{figure}.json", f"{figure}.png"]
    content = json.loads((out / f"{figure}.json").read_text())
    assert content["layers"] == LAYERS
    assert content["setting"]["model"] == "tiny-llama"
    assert content["seconds"] > 0
