"""What is no Hugging Face model is named for what it is, with the way out, and no guess at a cause."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from sharp_mobile.checkpoint.description import describe_model
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError

ADAPTER = {"base_model_name_or_path": "org/base-1b", "peft_type": "LORA"}
MISTRAL = {"dim": 64, "n_layers": 6, "head_dim": 16}
META = {"dim": 64, "n_layers": 6, "multiple_of": 256}


def told(directory: Path) -> str:
    """The one line that opening a directory gives."""
    with pytest.raises(SharpError) as error:
        open_checkpoint(directory)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"adapter_config.json": ADAPTER, "adapter_model.safetensors": ""},
            "holds an adapter (PEFT) of the base model 'org/base-1b', not a model; merge it into its base model with "
            "peft's merge_and_unload()",
        ),
        ({"adapter_config.json": {}, "adapter_model.bin": ""}, "holds an adapter (PEFT), not a model; merge it"),
        ({"adapter_model.safetensors": ""}, "holds an adapter (PEFT), not a model"),
        (
            {"params.json": MISTRAL, "consolidated.safetensors": "", "tekken.json": {}},
            "a model in Mistral's own format",
        ),
        ({"params.json": META, "consolidated.00.pth": ""}, "a model in Meta's own Llama format"),
        ({"params.json": "broken", "consolidated.00.pth": ""}, "the own format of Meta or Mistral"),
        ({"model_index.json": {}, "unet/config.json": {}}, "holds a diffusers pipeline"),
        ({"modules.json": [], "config_sentence_transformers.json": {}}, "holds a sentence-transformers model"),
        ({"quantize_config.json": {}}, "quantized already (quantize_config.json)"),
        ({"a.Q4_0.gguf": "", "b.Q8_0.gguf": ""}, "holds 2 GGUF files; give one of them itself, such as "),
        ({"m-00001-of-00002.gguf": "", "m-00002-of-00002.gguf": ""}, "holds a split GGUF file (m-00001-of-00002.gguf"),
        ({"onnx/model.onnx": ""}, "holds an ONNX model"),
        ({"tf_model.h5": ""}, "holds the weights for another framework (tf_model.h5)"),
        ({"checkpoint-500/config.json": {}}, "holds no config.json; give a directory that does, such as "),
        ({"notes.txt": ""}, "holds no config.json; give the directory that holds config.json and the weights"),
    ],
)
def test_a_directory_of_something_else_is_named(files: dict, message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    line = told(tmp_path)
    assert line.startswith(f"{tmp_path}: ")
    assert message in line
    with pytest.raises(SharpError) as error:  # `size` says the same
        describe_model(str(tmp_path))
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter (PEFT)"),
        (["model-00001-of-00002.safetensors"], "holds shards of weights (model-00001-of-00002.safetensors) without"),
        (["weights.safetensors"], "holds weights.safetensors, and not the names that Hugging Face gives weights"),
        (["model.onnx"], "holds an ONNX model"),
    ],
)
def test_a_config_without_its_weights_is_named_too(files: list[str], message: str, tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "model.safetensors").unlink()
    for name in files:
        (tiny_checkpoint / name).write_text("{}")
    assert message in told(tiny_checkpoint)


def test_an_adapter_beside_a_model_is_not_applied_and_said_so(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (line,) = open_checkpoint(tiny_checkpoint).warnings
    assert "adapter_config.json: the adapter in this directory is not applied" in line


def rename_tensors(directory: Path, change: dict[str, str]) -> None:
    tensors = load_file(directory / "model.safetensors")
    for old, new in change.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def test_tensors_with_other_names_are_named(tiny_checkpoint: Path) -> None:
    rename_tensors(tiny_checkpoint, {"model.": "", "lm_head": "head"})  # as AutoModel's base model has them
    assert "its tensors have other names, such as embed_tokens.weight, than this model's" in told(tiny_checkpoint)
    (tiny_checkpoint / "modules.json").write_text("[]")
    (tiny_checkpoint / "config_sentence_transformers.json").write_text("{}")
    assert "holds a sentence-transformers model" in told(tiny_checkpoint)


def test_packed_weights_are_named(tiny_checkpoint: Path) -> None:
    rename_tensors(tiny_checkpoint, {"up_proj.weight": "up_proj.qweight"})
    assert "up_proj.qweight shows that it is quantized already" in told(tiny_checkpoint)


@pytest.mark.parametrize("configured", [True, False])
def test_biases_on_q_k_and_v_alone_are_named(configured: bool, tmp_path: Path) -> None:
    tiny_model(attention_bias=True).save_pretrained(tmp_path)
    tensors = {n: t for n, t in load_file(tmp_path / "model.safetensors").items() if not n.endswith("o_proj.bias")}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": configured}))
    line = told(tmp_path)
    assert "_proj.bias: q, k or v has a bias and o has none" in line


def test_mlx_weights_are_named(tiny_checkpoint: Path) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (tiny_checkpoint / "config.json").write_text(json.dumps({**config, "quantization": {"bits": 4, "group_size": 64}}))
    assert "config.json: quantization: the checkpoint is quantized already" in told(tiny_checkpoint)


def test_qwen2_needs_no_bias_on_o(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    model.save_pretrained(tmp_path)
    assert torch.equal(open_checkpoint(tmp_path).model.lm_head.weight, model.lm_head.weight)
