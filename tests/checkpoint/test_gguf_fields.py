"""Keys of a GGUF file that change what a model computes: taken over where the family has it, else refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_gguf import write_gguf
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.checkpoint.description import describe_model
from sharp_mobile.checkpoint.gguf_file import gguf_header
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError


def gguf_of(tmp_path: Path, model_type: str = "llama", **options: Any) -> Path:
    return write_gguf(tiny_model(model_type), tmp_path / "tiny.gguf", **options)


def refusal(path: Path) -> str:
    """The one line that opening it gives, and `size` as well."""
    with pytest.raises(SharpError) as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value)


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("llama", "attn_logit_softcapping", 50.0),
        ("llama", "final_logit_softcapping", 30.0),
        ("gemma3_text", "attn_logit_softcapping", 50.0),  # which Hugging Face's Gemma 3 does not apply
        ("llama", "attention.scale", 0.5),
        ("llama", "logit_scale", 0.0625),
        ("llama", "residual_scale", 0.22),
        ("qwen2", "embedding_scale", 12.0),
        ("llama", "attention.clamp_kqv", 8.0),
        ("llama", "attention.max_alibi_bias", 8.0),
        ("llama", "rope.scaling.attn_factor", 1.19),
        ("llama", "rope.scaling.yarn_ext_factor", 1.0),
        ("llama", "rope.scaling.yarn_log_multiplier", 0.1),
        ("qwen3", "rope.freq_base_swa", 20000.0),
        ("qwen2", "rope.dimension_sections", [16, 24, 24, 0]),
        ("llama", "use_parallel_residual", True),
        ("llama", "attention.causal", False),
        ("llama", "attention.layer_norm_epsilon", 1e-3),
        ("llama", "attention.value_length", 32),
        ("qwen3", "nextn_predict_layers", 1),
        ("llama", "classifier.output_labels", ["good", "bad"]),
        ("qwen2", "attention.sliding_window", 16),  # in which layers, it does not say
        ("phi3", "attention.sliding_window_pattern", 2),
        ("llama", "ssm.state_size", 16),
    ],
)
def test_a_key_that_changes_the_computation_is_refused_by_name(
    model_type: str, key: str, value: Any, tmp_path: Path
) -> None:
    own = model_type.removesuffix("_text")
    window = {f"{own}.attention.sliding_window": 16} if "pattern" in key else {}
    path = gguf_of(tmp_path, model_type, metadata={**window, f"{own}.{key}": value})
    line = refusal(path)
    assert f"{own}.{key} is " in line
    assert "changes what the model computes" in line
    with pytest.raises(SharpError, match="changes what the model computes"):
        describe_model(str(path))


@pytest.mark.parametrize(
    ("model_type", "neutral"),
    [
        (
            "llama",
            {
                **{"vocab_size": 256, "tensor_data_layout": "Meta AI original pth", "expert_count": 0},
                **{"attention.value_length": 16, "attention.scale": 0.25, "attention.causal": True},
                **{"rope.scaling.type": "none", "rope.scaling.factor": 8.0, "rope.scaling.finetuned": True},
                **{"logit_scale": 1.0, "attention.clamp_kqv": 0.0, "pooling_type": 0, "use_parallel_residual": False},
                **{
                    "attention.sliding_window": 4096,
                    "feed_forward_length": [96] * 6,
                    "attention.head_count_kv": [2] * 6,
                },
                **{"rope.scaling.yarn_ext_factor": -1.0, "rope.dimension_sections": [0, 0, 0, 0]},
            },
        ),
        ("qwen3", {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0, "attention.sliding_window": 0}),
        ("phi3", {"attention.sliding_window": 0}),
        ("gemma3_text", {"rope.freq_base_swa": 10000.0, "attention.key_length_swa": 16}),
    ],
)
def test_values_that_change_nothing_are_fine(model_type: str, neutral: dict[str, Any], tmp_path: Path) -> None:
    model, own = tiny_model(model_type), model_type.removesuffix("_text")
    path = write_gguf(model, tmp_path / "tiny.gguf", metadata={f"{own}.{key}": value for key, value in neutral.items()})
    opened = open_checkpoint(path)
    assert opened.warnings == ()
    torch.testing.assert_close(opened.model(tiny_tokens()).logits, model(tiny_tokens()).logits, rtol=1e-4, atol=1e-4)


def test_a_key_that_nobody_knows_is_a_warning(tmp_path: Path) -> None:
    (line,) = open_checkpoint(gguf_of(tmp_path, metadata={"llama.new_thing": 3, "quantize.imatrix.n": 5})).warnings
    assert line.endswith("metadata that is not known here was ignored: 1, such as llama.new_thing")


SLIDING = {"sliding_window": 8}


@pytest.mark.parametrize(
    ("model_type", "options", "metadata"),
    [
        ("mistral", SLIDING, {"llama.attention.sliding_window": 8}),
        ("phi3", SLIDING, {"phi3.attention.sliding_window": 8}),
        (
            "qwen3",
            {**SLIDING, "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"] * 3},
            {"qwen3.attention.sliding_window": 8, "qwen3.attention.sliding_window_pattern": [False, True] * 3},
        ),
        (
            "gemma3_text",
            {**SLIDING, "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2},
            {"gemma3.attention.sliding_window_pattern": 3},
        ),
        (
            "gemma3_text",
            {"rope_parameters": {f"{kind}_attention": {"rope_type": "default", "rope_theta": theta}
                                 for kind, theta in (("full", 1e6), ("sliding", 500.0))}},
            {"gemma3.rope.freq_base_swa": 500.0},
        ),
        ("gemma3_text", {"final_logit_softcapping": 3.0}, {"gemma3.final_logit_softcapping": 3.0}),
        ("gemma2", {"query_pre_attn_scalar": 4}, {"gemma2.attention.scale": 0.5}),
        (
            "gemma2",
            {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
            {"gemma2.attn_logit_softcapping": 2.0, "gemma2.final_logit_softcapping": 3.0},
        ),
        # Absent: 50 and 30 to llama.cpp and to Hugging Face alike.
        ("gemma2", {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}, {}),
    ],
)  # fmt: skip
def test_what_the_family_computes_is_taken_over(
    model_type: str, options: dict[str, Any], metadata: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_model(model_type, **options)
    path = write_gguf(model, tmp_path / "tiny.gguf", metadata=metadata)
    opened, tokens = open_checkpoint(path), tiny_tokens()
    torch.testing.assert_close(opened.model(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
    plain = tiny_model(model_type)
    if metadata:  # it makes a difference
        assert not torch.allclose(opened.model(tokens).logits, plain(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", ["attention.sliding_window", "rope.freq_base"])
def test_a_key_for_which_hugging_face_has_another_default_must_be_there(key: str, tmp_path: Path) -> None:
    path = gguf_of(tmp_path, "gemma3_text", metadata={f"gemma3.{key}": None})
    assert f"its metadata has no gemma3.{key}" in refusal(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.expert_count": 8}, "is a mixture of experts (llama.expert_count is 8)"),
        ({"general.type": "adapter"}, "holds an adapter"),
        ({"adapter.type": "lora"}, "holds an adapter"),
        ({"general.type": "mmproj"}, "the image or audio part of a model"),
        ({"general.type": "imatrix"}, "general.type is 'imatrix', so it holds no model"),
        ({"general.architecture": "clip"}, "the image or audio part of a model"),
        ({"general.architecture": "qwen3moe", "qwen3moe.expert_count": 128}, "qwen3moe.expert_count is 128"),
        ({"llama.pooling_type": 3}, "it embeds or ranks texts, and predicts no tokens"),
        ({"llama.rope.scaling.type": "yarn"}, "RoPE is scaled or partial"),
        ({"llama.rope.scaling.factor": 4.0}, "RoPE is scaled or partial"),  # no type is "linear" to llama.cpp
        ({"llama.rope.dimension_count": 8}, "RoPE is scaled or partial"),
    ],
)
def test_a_file_of_another_kind_is_named(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(gguf_of(tmp_path, metadata=metadata))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("block_count", 2**32 - 1, "block_count is 4,294,967,295"),
        ("block_count", 7, "block_count is 7, its tensors belong to 6 layers"),
        ("block_count", 0, "block_count is 0"),
        ("block_count", "six", "block_count is 'six'"),
        ("attention.head_count", 0, "head_count is 0"),
        ("attention.head_count_kv", 0, "head_count_kv is 0"),
        ("attention.head_count_kv", 3, "head_count_kv is 3, which does not divide the 4 heads"),
        ("attention.head_count_kv", [2, 2, 2, 4, 4, 4], "head_count_kv differs from layer to layer"),
        ("feed_forward_length", [96, 96, 96, 96, 96, 64], "feed_forward_length differs from layer to layer"),
        ("feed_forward_length", 2**31, "feed_forward_length is 2147483648"),
        ("attention.key_length", 15, "heads are 15 wide"),
        ("embedding_length", 2**20, "has shape [256, 64], its metadata says [256, 1048576]"),
        ("embedding_length", True, "embedding_length is True"),
        ("context_length", 2**32 - 1, "context_length is 4294967295"),
        ("attention.layer_norm_rms_epsilon", float("nan"), "layer_norm_rms_epsilon is nan"),
        ("attention.layer_norm_rms_epsilon", None, "has no llama.attention.layer_norm_rms_epsilon"),
        ("rope.freq_base", -1.0, "rope.freq_base is -1.0"),
    ],
)
def test_a_number_that_cannot_be_is_refused(key: str, value: Any, message: str, tmp_path: Path) -> None:
    assert message in refusal(gguf_of(tmp_path, metadata={f"llama.{key}": value}))


def test_a_vocabulary_alone_and_a_file_without_embedding_are_named(tmp_path: Path) -> None:
    path = gguf_of(tmp_path, without=("token_embd.weight",))  # output.weight is there
    assert "token_embd.weight is missing; output.weight cannot take its place" in refusal(path)
    everything = tuple(gguf_header(gguf_of(tmp_path)).tensors)
    assert "holds no tensors, only metadata" in refusal(gguf_of(tmp_path, without=everything))


def test_biases_on_q_k_and_v_alone_are_named(tmp_path: Path) -> None:
    biased = {f"blk.{layer}.attn_{which}.bias": torch.ones(64 if which == "q" else 32)
              for layer in range(6) for which in "qkv"}  # fmt: skip
    line = refusal(gguf_of(tmp_path, extra=biased))
    assert "blk.0.attn_output.bias is missing: q, k or v has a bias and o has none" in line
    assert "blk.0.attn_output.bias is missing" in refusal(gguf_of(tmp_path, "qwen3", extra={
        name: torch.ones(128 if ".attn_q." in name else 64) for name in biased}))  # fmt: skip


@pytest.mark.parametrize("options", [{"attention_bias": True}, {"mlp_bias": True}])
def test_biases_everywhere_survive(options: dict[str, bool], tmp_path: Path) -> None:
    model = tiny_model(**options)
    opened = open_checkpoint(write_gguf(model, tmp_path / "tiny.gguf"))
    assert torch.equal(opened.model(tiny_tokens()).logits, model(tiny_tokens()).logits)
