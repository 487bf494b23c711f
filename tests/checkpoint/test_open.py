"""Checkpoints: good ones of every kind open, broken ones are told in a line, SHARP ones come back bit for bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from pydantic_core import PydanticSerializationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokenizer, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.source import Source
from sharp_mobile.system.memory import page_out

PLAN = SharePlan.parse("2:3, 4:5", 6)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(directory: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors of model.safetensors; __ in a name stands for a dot."""
    tensors = load_file(directory / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def told(source: Path, allow_pickle: bool = False) -> str:
    """The one line that opening a broken checkpoint gives."""
    with pytest.raises(SharpError) as error:
        open_checkpoint(Source(str(source), allow_pickle))
    assert "\n" not in str(error.value)
    return str(error.value)


# Hugging Face directories


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_directory_of_every_family_opens_to_the_same_model(model_type: str, tmp_path: Path) -> None:
    model = tiny_model(model_type)
    model.save_pretrained(tmp_path / "tiny")
    checkpoint = open_checkpoint(tmp_path / "tiny")
    assert torch.equal(checkpoint.model(tiny_tokens()).logits, model(tiny_tokens()).logits)
    assert (checkpoint.name, checkpoint.family.model_type) == ("tiny", model_type)
    assert not checkpoint.model.training
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())


def test_tied_embeddings_stay_one_tensor(tmp_path: Path) -> None:
    tiny_model(tie_word_embeddings=True).save_pretrained(tmp_path)
    model = open_checkpoint(tmp_path).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_embeddings_that_differ_though_the_config_ties_them_stay_two(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "tiny")
    edit_json(tmp_path / "tiny" / "config.json", tie_word_embeddings=True)
    checkpoint = open_checkpoint(tmp_path / "tiny")
    assert "ties the LM head to the embedding, but they differ" in checkpoint.warnings[0]
    save_sharp_checkpoint(checkpoint.model, SharePlan.parse("none", 6), tmp_path / "out")
    for opened in (checkpoint, open_checkpoint(tmp_path / "out")):
        assert torch.equal(opened.model(tiny_tokens()).logits, model(tiny_tokens()).logits)


def test_half_precision_weights_open_in_float32(tmp_path: Path) -> None:
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    assert open_checkpoint(tmp_path).model.dtype == torch.float32
    assert open_checkpoint(tmp_path, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_weights_may_stay_in_their_files_with_their_types(tmp_path: Path) -> None:
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    mapped, read = (open_checkpoint(tmp_path, dtype=dtype).model for dtype in (None, torch.float32))
    assert {parameter.dtype for parameter in mapped.parameters()} == {torch.bfloat16}
    for a, b in zip(mapped.parameters(), read.parameters(), strict=True):
        assert torch.equal(a.float(), b)
    weight = mapped.get_input_embeddings().weight
    page_out(weight)  # and read again when they are touched
    assert torch.equal(weight.float(), read.get_input_embeddings().weight)


def test_a_sharded_directory_opens(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert torch.equal(open_checkpoint(tmp_path).model(tiny_tokens()).logits, model(tiny_tokens()).logits)


def test_the_tokenizer_and_the_special_tokens_come_along(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    tokenizer = checkpoint.tokenizer()
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer("naïve, 2026").input_ids) == "naïve, 2026"
    assert (checkpoint.eos_token_ids, checkpoint.bos_token_id, checkpoint.warnings) == ([2], 1, ())
    checkpoint.write_tokenizer(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_all_end_tokens_are_collected(tiny_checkpoint: Path) -> None:
    edit_json(tiny_checkpoint / "generation_config.json", eos_token_id=[9, 2])
    assert open_checkpoint(tiny_checkpoint).eos_token_ids == [9, 2]


def test_no_tokenizer_is_a_warning(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tokenizer() is None
    assert "has no tokenizer" in checkpoint.warnings[0]
    checkpoint.write_tokenizer(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_fingerprint_follows_the_content_not_the_place(tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = open_checkpoint(tiny_checkpoint).fingerprint
    shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    assert open_checkpoint(tmp_path / "copy").fingerprint == before
    edit_weights(tmp_path / "copy", model__norm__weight=torch.full((64,), 0.5))
    assert open_checkpoint(tmp_path / "copy").fingerprint != before


# Broken directories


def test_a_shard_cut_short_is_told_with_its_bytes(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="300KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-10])
    assert f"{shard}: cut short: has {size - 10:,} bytes, needs {size:,}" in told(tmp_path)


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="300KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert f"model.safetensors.index.json: names {shard.name}, which is not there (1 missing)" in told(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a safetensors file (a git-lfs pointer?)"),
        (b"\x10\x00", "cut short"),
        (b"", "cut short"),
        (b"\x02" + bytes(7) + b"[]", "its header is not that of a safetensors file"),
        (b"\x04" + bytes(7) + b"nope", "its header is not that of a safetensors file"),
    ],
)
def test_a_weight_file_of_something_else_is_told(tiny_checkpoint: Path, content: bytes, message: str) -> None:
    (tiny_checkpoint / "model.safetensors").write_bytes(content)
    assert f"model.safetensors: {message}" in told(tiny_checkpoint)


def test_a_tensor_whose_bytes_do_not_fill_its_shape_is_told(tiny_checkpoint: Path) -> None:
    path = tiny_checkpoint / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(b'"shape":[64,96]', b'"shape":[64,95]', 1)
    path.write_bytes(content[:8] + header + content[8 + length :])
    assert "has 24576 bytes, which F32 [64, 95] does not fill" in told(tiny_checkpoint)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_inf_are_told_with_their_tensor(tiny_checkpoint: Path, value: float) -> None:
    weight = load_file(tiny_checkpoint / "model.safetensors")["model.layers.3.mlp.up_proj.weight"]
    weight[5, 7] = value
    edit_weights(tiny_checkpoint, model__layers__3__mlp__up_proj__weight=weight)
    what = "NaN" if value != value else "Inf"
    assert f"tensor model.layers.3.mlp.up_proj.weight holds {what}" in told(tiny_checkpoint)


def test_large_finite_weights_are_fine(tiny_checkpoint: Path) -> None:
    edit_weights(tiny_checkpoint, model__norm__weight=torch.full((64,), 3e38))  # their sum is not finite
    open_checkpoint(tiny_checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__norm__weight": torch.ones(65)}, "tensor model.norm.weight has shape [65], config.json says [64]"),
        ({"model__norm__weight": None}, "tensor model.norm.weight is missing"),
        ({"lm_head__weight": None}, "tensor lm_head.weight is missing"),
        ({"model__norm__weight": torch.ones(64, dtype=torch.int8)}, "tensor model.norm.weight is of type I8"),
        ({"model__layers__5__self_attn__q_norm__weight": torch.ones(16)}, "self_attn.q_norm.weight has no place"),
        ({"model__layers__0__mlp__up_proj__bias": torch.ones(96)}, "mlp.up_proj.bias has no place in the model"),
    ],
)
def test_weights_of_another_model_are_told(tiny_checkpoint: Path, changes: dict[str, Any], message: str) -> None:
    edit_weights(tiny_checkpoint, **changes)
    assert message in told(tiny_checkpoint)


def test_tensors_beside_the_model_are_left_out_with_a_warning(tiny_checkpoint: Path) -> None:
    frequencies = {
        "model__layers__0__self_attn__rotary_emb__inv_freq": torch.ones(8)
    }  # old Llama checkpoints have them
    edit_weights(tiny_checkpoint, v_head__weight=torch.ones(3), **frequencies)
    warnings = open_checkpoint(tiny_checkpoint).warnings
    assert warnings == ("tensors that the model does not use were left out: 1, such as v_head.weight",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model type 'mamba' is not supported; supported are: llama (Llama 2/3"),
        ({"model_type": "gemma3"}, "model type 'gemma3' also takes images; give its text model ('gemma3_text') alone"),
        ({"model_type": None}, "model_type is missing"),
        ({"quantization_config": {"quant_method": "gptq"}}, "the checkpoint is quantized already"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'; it must be a whole number from 1"),
        ({"hidden_act": "swash"}, "hidden_act is 'swash'; it must be one of gelu, "),
        ({"intermediate_size": 128}, "has shape"),
    ],
)
def test_a_config_that_cannot_be_used_is_told(tiny_checkpoint: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(tiny_checkpoint / "config.json", **changes)
    line = told(tiny_checkpoint)
    assert message in line
    assert "config.json" in line


@pytest.mark.parametrize("changes", [{"use_cache": [True]}, {"dtype": "float99"}, {"id2label": 5}])
def test_what_transformers_refuses_names_the_way_out(tiny_checkpoint: Path, changes: dict[str, Any]) -> None:
    edit_json(tiny_checkpoint / "config.json", **changes)
    line = told(tiny_checkpoint)
    assert str(tiny_checkpoint / "config.json") in line
    assert line.endswith("; use the file that came with the weights")


def test_a_broken_config_and_none_at_all(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "config.json").write_text('{"model_type": ')
    assert "config.json: is not valid JSON" in told(tiny_checkpoint)
    (tiny_checkpoint / "config.json").unlink()
    assert "holds no config.json" in told(tiny_checkpoint)
    (tiny_checkpoint / "tiny.gguf").touch()
    assert f"give {tiny_checkpoint / 'tiny.gguf'} itself" in told(tiny_checkpoint)


def test_a_directory_without_weights_is_told(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "model.safetensors").unlink()
    assert "holds no weights" in told(tiny_checkpoint)


def test_a_broken_tokenizer_is_told_at_once(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "tokenizer.json").write_text("{}")
    assert "its tokenizer cannot be read" in told(tiny_checkpoint)


def test_code_in_a_checkpoint_is_not_run(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "evil.py").write_text(f"open({str(tiny_checkpoint / 'ran')!r}, 'w')\nclass Evil: pass\n")
    edit_json(
        tiny_checkpoint / "config.json", auto_map={"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}
    )
    open_checkpoint(tiny_checkpoint)  # the family's own code is used
    assert not (tiny_checkpoint / "ran").exists()


def test_pickles_are_taken_only_when_allowed(tiny_checkpoint: Path) -> None:
    model = tiny_model()
    (tiny_checkpoint / "model.safetensors").unlink()
    torch.save(model.state_dict(), tiny_checkpoint / "pytorch_model.bin")
    assert "pytorch_model.bin: a pickle can run any program" in told(tiny_checkpoint)
    checkpoint = open_checkpoint(Source(str(tiny_checkpoint), allow_pickle=True))
    assert torch.equal(checkpoint.model(tiny_tokens()).logits, model(tiny_tokens()).logits)


def test_a_broken_pickle_and_one_of_another_model_are_told(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "model.safetensors").unlink()
    pickled = tiny_checkpoint / "pytorch_model.bin"
    torch.save(tiny_model(intermediate_size=128).state_dict(), pickled)
    assert "config.json says [96, 64]" in told(tiny_checkpoint, allow_pickle=True)
    pickled.write_bytes(pickled.read_bytes()[:1000])
    assert "pytorch_model.bin: is broken" in told(tiny_checkpoint, allow_pickle=True)


# Other sources


def test_a_source_that_is_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    assert "no such directory or file" in told(tmp_path / "nowhere")
    assert "no such directory or file" in told(Path("models/missing.gguf"))
    assert "is a file, but not a .gguf" in told(tmp_path / "weights.bin")


def test_without_a_network_a_hub_id_is_told_or_taken_from_the_cache(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "somebody/tiny: no directory of that name, not in the local hub cache" in told(Path("somebody/tiny"))

    repository = tmp_path / "hub" / "models--somebody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_checkpoint, repository / "snapshots" / ("0" * 40))
    checkpoint = open_checkpoint("somebody/tiny")
    assert (checkpoint.name, checkpoint.source, checkpoint.warnings) == ("tiny", "somebody/tiny", ())


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Source("a/b.Q4_0.gguf").name == "b.Q4_0"
    assert Source("out/").name == "out"
    assert Source(".").name == tmp_path.name


# SHARP checkpoints


def shared_model(model_type: str = "llama", form: str = "lora", rank: int = 4, **options: Any) -> PreTrainedModel:
    model = tiny_model(model_type, **options)
    share_layers(model, PLAN, Recovery(form, rank))
    with torch.no_grad():
        for _, parameter in recovery_parameters(model):
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma3_text"])
@pytest.mark.parametrize(("form", "rank"), [("lora", 4), ("right", 4), ("left", 4), ("hadamard", 4), ("lora", 0)])
def test_a_sharp_checkpoint_comes_back_bit_for_bit(model_type: str, form: str, rank: int, tmp_path: Path) -> None:
    model = shared_model(model_type, form, rank)
    save_sharp_checkpoint(model, PLAN, tmp_path / "out")
    checkpoint = open_checkpoint(tmp_path / "out")
    assert torch.equal(checkpoint.model(tiny_tokens()).logits, model(tiny_tokens()).logits)
    assert (checkpoint.plan, checkpoint.recovery) == (PLAN, dict.fromkeys(PLAN.targets, Recovery(form, rank)))


def test_recovery_parameters_of_every_kind_come_back(tmp_path: Path) -> None:
    """Uneven ranks, own neurons, a bypass without reference, and adapters on layers that are no targets."""
    recovery = {
        1: Recovery("lora", 2),
        2: Recovery("lora", (0, 2, 8), neurons=5, bypass=3),
        4: Recovery(neurons=7, bypass=2, reference=False),
        5: Recovery("lora", 2),
    }
    model = tiny_model(mlp_bias=True)
    share_layers(model, PLAN, recovery)
    save_sharp_checkpoint(model, PLAN, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "sharp.json").read_text())["recovery"].keys() == {"2,6", "3", "5"}
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.recovery == recovery
    assert torch.equal(checkpoint.model(tiny_tokens()).logits, model(tiny_tokens()).logits)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_it_holds_no_target_mlp_and_a_tied_tensor_once(model_type: str, tmp_path: Path) -> None:
    model = shared_model(model_type, tie_word_embeddings=True)
    save_sharp_checkpoint(model, PLAN, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        stored = set(file.keys())
    assert "lm_head.weight" not in stored
    assert not any(name.startswith("model.layers.2.mlp") and "_proj" in name for name in stored)
    assert {name for name, _ in recovery_parameters(model)} < stored
    loaded = open_checkpoint(tmp_path / "out").model
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_biases_of_a_target_are_its_own(tmp_path: Path) -> None:
    model = shared_model(mlp_bias=True)
    save_sharp_checkpoint(model, PLAN, tmp_path / "out")
    assert torch.equal(open_checkpoint(tmp_path / "out").model(tiny_tokens()).logits, model(tiny_tokens()).logits)


def test_it_generates_as_the_model_that_was_saved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    original = open_checkpoint(tiny_checkpoint)
    model = shared_model()
    model.generation_config.eos_token_id = [2, 9]
    model.generation_config.temperature = 0.6  # without do_sample: invalid to transformers, and found in the wild
    save_sharp_checkpoint(model, PLAN, tmp_path / "out", tokenizer_source=original, provenance={"source": "tiny"})
    loaded = open_checkpoint(tmp_path / "out")
    options = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(loaded.model.generate(tiny_tokens(5), **options), model.generate(tiny_tokens(5), **options))
    assert (loaded.eos_token_ids, loaded.warnings) == ([2, 9], ())
    assert loaded.tokenizer() is not None
    description = json.loads((tmp_path / "out" / "sharp.json").read_text())
    assert (description["format_version"], description["plan"], description["layers"]) == (1, "2:3, 4:5", 6)
    assert description["produced_by"]["source"] == "tiny"


def test_an_unshared_model_is_a_sharp_checkpoint_too(tmp_path: Path) -> None:
    model, plan = tiny_model(), SharePlan.parse("none", 6)
    save_sharp_checkpoint(model, plan, tmp_path / "out")
    assert torch.equal(open_checkpoint(tmp_path / "out").model(tiny_tokens()).logits, model(tiny_tokens()).logits)


def test_an_interrupted_save_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    model = shared_model()
    out = save_sharp_checkpoint(model, PLAN, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    # sharp.json is written last, so this fails when the new weights are on disk already.
    with pytest.raises(PydanticSerializationError):
        save_sharp_checkpoint(shared_model(), PLAN, out, provenance={"not JSON": object()})
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format_version 3 is newer than 2"),
        ({"plan": "6:2"}, "share plan"),
        ({"layers": 7}, "share plan: it is for 7 layers and the model has 6"),
        ({"recovery": {"3,5": {"rank": -4}}}, "recovery rank -4 is negative"),
        ({"recovery": {"3,5": {"rank": "many"}}}, "recovery of layers 3,5.rank"),
        ({"recovery": {"3,5": {"form": "magic"}}}, "recovery of layers 3,5.form: Input should be 'lora'"),
        ({"recovery": {"3,40": {"rank": 4}}}, "must name layers between 1 and 6"),
        ({"recovery": {"3": {"rank": 4}}}, "recovery: target 5 has no entry"),
        ({"recovery": {"3,5": {"rank": 4}, "5": {"rank": 8}}}, "layer 5 is named twice"),
    ],
)
def test_a_sharp_json_that_cannot_be_used_is_told(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    out = save_sharp_checkpoint(shared_model(), PLAN, tmp_path / "out")
    edit_json(out / "sharp.json", **changes)
    line = told(out)
    assert line.startswith(f"{out / 'sharp.json'}: ")
    assert message in line


def test_a_plan_or_rank_that_is_not_of_the_weights_is_told(tmp_path: Path) -> None:
    out = save_sharp_checkpoint(shared_model(), PLAN, tmp_path / "out")
    edit_json(out / "sharp.json", recovery={"3,5": {"rank": 8}})
    assert "has shape [4, 64]" in told(out)
    edit_json(out / "sharp.json", recovery={"3": {"rank": 4}}, plan="2:3")
    assert "is missing" in told(out)


def test_a_sharp_checkpoint_is_whole_finite_and_replaces_only_its_kind(tmp_path: Path) -> None:
    model = shared_model()
    with torch.no_grad():
        model.model.layers[2].mlp.gate.A[0, 0] = torch.nan
    out = save_sharp_checkpoint(model, PLAN, tmp_path / "out")
    assert "tensor model.layers.2.mlp.gate.A holds NaN" in told(out)
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "does not match sharp.json" in told(out)
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(SharpError, match="was not written by sharp-mobile"):
        save_sharp_checkpoint(model, PLAN, tmp_path / "other")


def test_a_sharp_checkpoint_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    out = save_sharp_checkpoint(shared_model(), PLAN, tmp_path / "sharp")
    for name in ("model.safetensors", "config.json"):
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
        with pytest.raises(SharpError, match=rf"{name}: does not match sharp\.json"):
            open_checkpoint(out)
        (out / name).write_bytes(content)
    (out / "generation_config.json").unlink()  # the user's own to change
    assert open_checkpoint(out).plan == PLAN
