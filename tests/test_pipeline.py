"""From a checkpoint to an export: what it holds, that it is reused and replaced, and that failing leaves no trace."""

import hashlib
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from children import Child, command
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner
from project import PROJECT
from reported import recorded
from tiny_gguf import write_gguf
from tiny_models import CHATML, save_tiny_model, tiny_model, tiny_tokenizer
from tiny_sentencepiece import VOCABULARY, write_llama2_json, write_tokenizer_model

from sharp_mobile.checkpoint.config import CONFIG_JSON, read_architecture
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.checkpoint.tokenizer import load_tokenizer
from sharp_mobile.errors import SharpError
from sharp_mobile.files.ownership import KINDS
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.pipeline import PROMPT, ExportResult, _prompt_tokens, export, summary
from sharp_mobile.pte.runtime import greedy, load_pte, quiet_native
from sharp_mobile.recipe.load import load_recipe
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.source import Source
from sharp_mobile.recovery.run import open_recipe, recover, share
from sharp_mobile.system.timing import Stages
from sharp_mobile.verify.inspect_export import inspect_export


def contents(directory: Path) -> dict[str, str]:
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


# A whole export


@pytest.mark.slow
def test_an_export_is_a_directory_with_a_true_manifest(tiny_export: ExportResult, tiny_recipe: Recipe) -> None:
    directory = tiny_export.directory
    assert {"model.pte", "manifest.json", "report.md", "sizes.png", "tokenizer.json"} <= contents(directory).keys()
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["sha256"] == hashlib.sha256((directory / "model.pte").read_bytes()).hexdigest()
    assert manifest["sizes"]["file"] == (directory / "model.pte").stat().st_size
    architecture = read_architecture(tiny_recipe.model.path / CONFIG_JSON)
    assert Recipe(**manifest["recipe"]) == tiny_recipe.fitted_to(architecture)
    assert (manifest["plan"], manifest["layers"], manifest["stored_ratio"]) == ("2:3", 4, 0.75)
    assert manifest["compression_ratio"] == pytest.approx(0.75 + 0.25 * 32 * (128 + 256) / (128 * 256))
    assert manifest["names"]["layers.3.mlp.up.codes"] == manifest["names"]["layers.2.mlp.up.codes"]
    assert manifest["names"]["layers.4.mlp.up.codes"] != manifest["names"]["layers.2.mlp.up.codes"]
    assert manifest["metadata"] == {
        "get_max_seq_len": 96,
        "get_max_context_len": 96,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
        "get_vocab_size": 49152,
        "get_n_layers": 4,
        "get_eos_ids": [2],
        "get_bos_id": 1,
    }
    assert [stage["name"] for stage in manifest["stages"]] == [
        "open",
        "recover",
        "build decoder",
        "compare with Hugging Face",
        "quantize",
        "lower segments",
        "assemble",
        "write",
        "inspect",
        "compare with eager",
    ]


@pytest.mark.slow
def test_the_expected_tokens_are_what_the_file_gives(tiny_export: ExportResult) -> None:
    expected = tiny_export.manifest.expected
    step = load_pte(tiny_export.directory / "model.pte")
    assert greedy(step, list(expected.prompt_tokens), len(expected.tokens), [2]) == list(expected.tokens)
    assert expected.prompt == "What is the capital of France?"
    assert tiny_export.agreement.problems() == []


@pytest.mark.slow
def test_an_export_is_sound(tiny_export: ExportResult) -> None:
    inspection = inspect_export(tiny_export.directory)
    assert inspection.problems == ()
    assert inspection.file_bytes < 1.01 * inspection.tensor_bytes
    assert inspection == tiny_export.inspection


@pytest.mark.slow
def test_the_report_and_the_summary_tell_the_sizes(tiny_export: ExportResult) -> None:
    sizes = tiny_export.manifest.sizes
    report = (tiny_export.directory / "report.md").read_text()
    text = "\n".join(summary(tiny_export, profile=True))
    for told in (report, text):
        assert f"{sizes.file:,} bytes" in told
        assert f"{sizes.unshared:,} bytes" in told
        assert f"{sizes.shared:,}" in told
        assert f"{sizes.recovery:,}" in told
    assert (tiny_export.directory / "sizes.png").read_bytes().startswith(b"\x89PNG")
    assert "lower segments" in text


@pytest.mark.slow
def test_what_was_recovered_once_is_taken_again(own_export: ExportResult, tiny_recipe: Recipe) -> None:
    work = own_export.directory.parent / "recovered"
    kept = {path.name for path in work.iterdir()}
    opened = open_recipe(tiny_recipe)
    with recorded() as report:
        again = share(opened, work=work, stages=Stages())
    assert any(line.startswith("using the recovered model in") for line in report.lines)
    assert again.kept.parent == work
    assert {path.name for path in work.iterdir()} == kept
    alpha = dict(recovery_parameters(again.checkpoint.model))["model.layers.2.mlp.gate.alpha"]
    assert alpha != 1  # fitted, not as it starts
    other = tiny_recipe.model_copy(update={"recovery": tiny_recipe.recovery.model_copy(update={"rank": 8})})
    with recorded() as report:
        share(open_recipe(other), work=work, stages=Stages())
    assert not any("using the recovered model" in line for line in report.lines)


@pytest.mark.slow
def test_a_recovered_checkpoint_exports_to_the_same_bytes(
    own_export: ExportResult, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    work = own_export.directory.parent / "recovered"
    directory = recover(tiny_recipe, tmp_path / "sharp", work=work)
    sharp = tiny_recipe.model_copy(update={"model": Source(str(directory))})
    result = export(sharp, "sharp", tmp_path / "out", work=tmp_path / "unused")
    assert not (tmp_path / "unused").exists()
    assert result.manifest.plan == "2:3"
    assert result.manifest.sha256 == own_export.manifest.sha256


@pytest.mark.slow
def test_sizes_foretell_the_unshared_export_which_needs_no_tokenizer(
    tiny_export: ExportResult, mute_export: tuple[ExportResult, list[str]]
) -> None:
    result, reported = mute_export
    assert any("has no tokenizer" in line for line in reported)
    assert any("has no tokenizer" in warning for warning in result.manifest.warnings)
    assert not (result.directory / "tokenizer.json").exists()
    assert result.manifest.sizes.shared == result.manifest.sizes.recovery == 0
    unshared = result.manifest.sizes.file
    assert tiny_export.manifest.sizes.unshared == pytest.approx(unshared, rel=1e-3)


@pytest.mark.slow
def test_the_other_forms_export_and_agree(tmp_path: Path) -> None:
    """With float linears, where the program must be the trained model but for the embedding's 8 bits."""
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "model", num_hidden_layers=5))
    plan = SharePlan.parse("1:2, 3:4", 5)
    share_layers(checkpoint.model, plan, {1: Recovery("right", 16), 3: Recovery("left", 16)})
    for _, parameter in recovery_parameters(checkpoint.model):
        torch.nn.init.normal_(parameter, std=0.1)
    save_sharp_checkpoint(checkpoint.model, plan, tmp_path / "sharp", tokenizer_source=checkpoint)
    floats = {f"quantize.{kind}": "float" for kind in ("linear", "lm_head", "recovery")}
    recipe = load_recipe(str(tmp_path / "sharp"), max_length=96, **{"quantize.embedding": 8}, **floats)
    result = export(recipe, "forms", tmp_path / "out", work=tmp_path)
    assert result.agreement.divergence < 1e-6
    assert result.agreement.agreeing == len(result.agreement.tokens)
    prompt = torch.tensor([result.manifest.expected.prompt_tokens])
    expected = open_checkpoint(tmp_path / "sharp").model(prompt).logits[:, -1:]
    computed = load_pte(result.directory / "model.pte")(prompt, 0)
    assert (computed - expected).norm() < 0.05 * expected.norm()


# What is refused, and costs nothing


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """An earlier export."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(json.dumps(dict.fromkeys(KINDS[0].fields)))
    (out / "model.pte").write_bytes(b"an earlier program")
    return out


def refused(recipe: Recipe, out: Path, work: Path) -> str:
    with pytest.raises(SharpError) as error:
        export(recipe, "x", out, work=work)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (".", "is the source itself, and would be replaced"),
        ("..", "holds the source"),
        ("export/deeper", "is inside the source"),
    ],
)
def test_neither_export_nor_recover_replaces_its_source(
    place: str, told: str, tiny_recipe: Recipe, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    recipe = tiny_recipe.model_copy(update={"model": Source(str(tiny_checkpoint))})
    assert told in refused(recipe, tiny_checkpoint / place, tmp_path / "work")
    with pytest.raises(SharpError, match=told):
        recover(recipe, tiny_checkpoint / place, work=tmp_path / "work")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rank": 56, "recovery": 4}, "rank 56 with 4-bit recovery parameters must be a multiple of 32; use 64, or"),
        ({"group_size": 128}, "group_size: 128 does not divide the model's hidden width of 64; use group_size: 64"),
        ({"group_size": 64}, "group_size: 64 does not divide the model's MLP width of 96; use group_size: 32"),
        ({"max_length": 1000}, "max_length: 1000 is beyond the model's 128 positions; use 128 or less"),
        ({"max_length": 16}, "max_length: 16 leaves no room for the 30-token prompt"),
        ({"plan": "3:40"}, "must name layers between 1 and 6"),
        ({"plan": "3:6"}, "layer 6 cannot be a target"),
        ({"plan": "2:3", "window": 512}, "sequence length 512: the model takes 2 to 128 tokens"),
        ({"plan": "2:3", "window": 64, "text": "missing.txt"}, "missing.txt: no text found"),
        ({"plan": "2:3", "form": "hadamard"}, "recovery.form: hadamard cannot be exported"),
    ],
)
def test_a_wrong_setting_is_told_in_a_line(
    settings: dict[str, Any], told: str, tiny_checkpoint: Path, earlier: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)

    def run() -> None:
        recipe = load_recipe(str(tiny_checkpoint), **{"max_length": 64, "plan": "none", **settings})
        export(recipe, "x", earlier, work=tmp_path / "work")

    with pytest.raises(SharpError) as error:
        run()
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def prompt_and_warnings(checkpoint: Path, template: Any, max_length: int = 128) -> tuple[list[int], list[str]]:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(checkpoint)
    opened = open_checkpoint(str(checkpoint))
    return _prompt_tokens(opened, max_length)


RAW = tiny_tokenizer()(PROMPT)["input_ids"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('a system message is needed') }}",
        "{% for m in messages %}",
        {"rag": "{{ x }}", "tool_use": "{{ x }}"},
        5,
        "",
    ],
)
def test_a_chat_template_that_fails_is_a_warning(template: Any, tiny_checkpoint: Path) -> None:
    prompt, warnings = prompt_and_warnings(tiny_checkpoint, template)
    assert prompt == RAW
    assert len(warnings) == 1
    assert all(line.startswith("the model's chat template ") and "\n" not in line for line in warnings)


def test_a_chat_template_that_leaves_no_room_is_a_warning(tiny_checkpoint: Path) -> None:
    prompt, warnings = prompt_and_warnings(tiny_checkpoint, CHATML, 60)
    assert prompt == RAW
    (warning,) = warnings
    assert "makes the prompt 67 tokens long, and lower.max_length is 60; the export is checked" in warning
    prompt, warnings = prompt_and_warnings(tiny_checkpoint, CHATML, 68)
    assert (len(prompt), warnings) == (67, [])


def test_a_tokenizer_of_another_model_is_told(tiny_checkpoint: Path) -> None:
    opened = open_checkpoint(str(tiny_checkpoint))
    opened.config.vocab_size = 80
    with pytest.raises(SharpError, match="its tokenizer gives the token id 220, and the model has 80 tokens"):
        _prompt_tokens(opened, 128)


@pytest.mark.slow
def test_a_failing_chat_template_does_not_stop_an_export(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", num_hidden_layers=1)
    (model / "chat_template.jinja").write_text("{{ raise_exception('a system message is needed') }}")
    recipe = Recipe(model=str(model), plan="none", quantize={"rounding": "nearest"}, lower={"max_length": 96})
    with recorded() as report:
        result = export(recipe, "x", tmp_path / "out", work=tmp_path / "work")
    (warning,) = result.manifest.warnings
    assert warning.startswith("the model's chat template cannot be rendered: TemplateError: a system message is needed")
    assert warning in report.warnings
    assert result.manifest.expected.prompt_tokens == tuple(RAW)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json", "gguf"])
def test_the_stock_runner_speaks_with_the_tokenizer_that_was_written(kind: str, tmp_path: Path) -> None:
    """SentencePiece as Llama 2 has it: its model alone, its tokenizer.json, and in a GGUF."""
    model, source = tiny_model(vocab_size=VOCABULARY, num_hidden_layers=1), tmp_path / "source"
    with torch.no_grad():
        model.lm_head.weight[:259] = 0  # special tokens and bytes, which make no text alone, are never the largest
    if kind == "gguf":
        source = write_gguf(model, tmp_path / "source.gguf", tokenizer="sentencepiece")
    else:
        model.save_pretrained(source)
        (write_tokenizer_model if kind == "tokenizer.model" else write_llama2_json)(source)
    recipe = Recipe(model=str(source), quantize={"rounding": "nearest"}, lower={"max_length": 64})
    result = export(recipe, "x", tmp_path / "out", work=tmp_path / "work")
    named = result.manifest.tokenizer
    assert named == ("tokenizer.model" if kind == "tokenizer.model" else "tokenizer.json")
    assert any("reads special tokens" in line for line in result.manifest.warnings) == (kind == "tokenizer.model")
    tokenizer = load_tokenizer(result.directory)
    assert tokenizer is not None
    prompt = tokenizer("Hello, world", add_special_tokens=False)["input_ids"]
    tokens = greedy(load_pte(result.directory / "model.pte"), prompt, 6, [])
    said: list[str] = []
    with quiet_native():
        runner = TextLLMRunner(str(result.directory / "model.pte"), str(result.directory / named))
        runner.generate("Hello, world", GenerationConfig(max_new_tokens=6, temperature=0.0, echo=False), said.append)
    assert "".join(said).strip() == tokenizer.decode(tokens).strip() != ""


def test_an_unknown_family_is_told_in_a_line(tiny_checkpoint: Path, earlier: Path, tmp_path: Path) -> None:
    config = tiny_checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "mamba"}))
    before = contents(tmp_path)
    told = refused(Recipe(model=str(tiny_checkpoint)), earlier, tmp_path / "work")
    assert "model type 'mamba' is not supported; supported are: llama" in told
    assert contents(tmp_path) == before


def test_a_plan_without_a_tokenizer_is_refused(tmp_path: Path, earlier: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "mute")
    told = refused(
        Recipe(model=str(tmp_path / "mute"), plan="2:3", lower={"max_length": 64}), earlier, tmp_path / "work"
    )
    assert "recovery reads text, and there is no tokenizer; add tokenizer.json" in told


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_opened(tmp_path: Path) -> None:
    nothing = Recipe(model=str(tmp_path / "missing"))
    (tmp_path / "file").write_text("")
    assert "file: is a file; choose a directory" in refused(nothing, tmp_path / "file", tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    assert "was not written by sharp-mobile" in refused(nothing, tmp_path / "photos", tmp_path)
    assert "cannot be written" in refused(nothing, Path("/proc/out"), tmp_path)


def test_the_recipes_warm_up_settings_are_used(tiny_recipe: Recipe, tmp_path: Path) -> None:
    warmup = tiny_recipe.warmup.model_copy(update={"method": "adam", "inputs": "original", "adam_lr": 1e30})
    recipe = tiny_recipe.model_copy(update={"warmup": warmup})
    with pytest.raises(SharpError, match=r"layer 3 diverges under Adam: .* smaller warmup\.adam_lr \(now 1e\+30\)"):
        recover(recipe, tmp_path / "sharp", work=tmp_path / "work")
    assert not (tmp_path / "sharp").exists()


def test_a_plan_that_shares_nothing_recovers_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="plan none shares no layers"):
        recover(Recipe(model=str(tiny_checkpoint)), tmp_path / "sharp", work=tmp_path)
    assert not (tmp_path / "sharp").exists()


@pytest.mark.parametrize(("aware", "rounding"), [(False, "auto"), (True, "nearest"), (None, "nearest")])
def test_what_was_recovered_for_rounded_weights_keeps_them(
    aware: bool | None, rounding: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    plan = SharePlan.parse("2:3", 6)
    share_layers(checkpoint.model, plan, Recovery("lora", 8))
    made = {} if aware is None else {"quantization_aware": aware}
    save_sharp_checkpoint(checkpoint.model, plan, tmp_path / "sharp", provenance=made)
    assert load_recipe(str(tmp_path / "sharp")).quantize.rounding == rounding
    (tmp_path / "mine.yaml").write_text(f"model: {tmp_path / 'sharp'}\nplan: '2:3'\nrecovery: {{rank: 8}}\n")
    written = load_recipe(str(tmp_path / "mine.yaml"))
    assert open_recipe(written).recipe.quantize.rounding == rounding
    asked = written.model_copy(update={"quantize": written.quantize.model_copy(update={"rounding": "gptq"})})
    assert open_recipe(asked).recipe.quantize.rounding == "gptq"


def test_a_sharp_checkpoint_keeps_its_plan(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    plan, recovery = SharePlan.parse("2:3,4", 6), Recovery("left", 4)
    share_layers(checkpoint.model, plan, recovery)
    save_sharp_checkpoint(checkpoint.model, plan, tmp_path / "sharp")
    opened = open_recipe(load_recipe(str(tmp_path / "sharp")))
    assert (opened.plan, opened.recovery) == (plan, dict.fromkeys(plan.targets, recovery))
    other = load_recipe(str(tmp_path / "sharp"), plan="2:3")
    with pytest.raises(SharpError, match="already shares layers, by plan 2:3,4"):
        open_recipe(other)


# Interrupted, and out of room


@pytest.fixture
def export_over(earlier: Path, tmp_path: Path) -> list[str]:
    """Arguments of the command that replaces the earlier export by one of a model with two layers."""
    model = save_tiny_model(tmp_path / "two-layers", num_hidden_layers=2)
    settings = ["--set", "max_length=64", "--set", "rounding=nearest"]
    return ["export", str(model), "--plan", "none", "--out", str(earlier), "--quiet", *settings]


def test_too_little_room_is_told_before_the_long_work(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr("sharp_mobile.files.outputs.shutil.disk_usage", lambda path: free)
    with pytest.raises(SharpError, match=r"out: needs 7,\d{3},\d{3} bytes and 5,000,000 are free"):
        export(tiny_recipe, "tiny", tmp_path / "out", work=tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_the_earlier_one(
    interrupt: signal.Signals, export_over: list[str], tmp_path: Path
) -> None:
    before = contents(tmp_path)
    child = Child(command, *export_over)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out.partial-*")) and child.running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child.running
    child.send(interrupt)
    ended = child.ended()
    assert ended.status == 128 + interrupt, ended.stderr
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob("out.*"))
    # The libraries may say above it where they were interrupted.
    assert ended.stderr.splitlines()[-1] == "error: interrupted; existing files are unchanged"


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_one(export_over: list[str], earlier: Path, tmp_path: Path) -> None:
    """A process that may not write more than 40 kB a file meets the same error path as a full disk."""
    before = contents(tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "sharp_mobile.cli", *export_over],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    assert result.returncode == 1
    assert re.match(rf"error: {re.escape(str(earlier))}: disk full after [\d,]+ of [\d,]+ bytes", result.stderr)
    assert result.stderr.count("\n") == 1
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob("out.*"))
