"""The float decoder is held against Hugging Face's own forward; settings that a family ignores change nothing."""

from typing import Any

import pytest
import torch
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens
from transformers import PreTrainedModel

import sharp_mobile.decoder.build as build_module
from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.translation import (
    _check_activations,
    check_translation,
    hugging_face_logits,
    translation_tokens,
)
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery

LENGTH = 100
# Settings that some family or other computes with.
SETTINGS: dict[str, dict[str, Any]] = {
    "sliding_window": {"sliding_window": 8},
    "use_sliding_window": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
    "attn_logit_softcapping": {"attn_logit_softcapping": 0.5},
    "final_logit_softcapping": {"final_logit_softcapping": 0.5},
    "query_pre_attn_scalar": {"query_pre_attn_scalar": 3},
    "attention_multiplier": {"attention_multiplier": 3.0},
    "logits_scaling": {"logits_scaling": 3.0},
    "residual_multiplier": {"residual_multiplier": 3.0},
    "embedding_multiplier": {"embedding_multiplier": 3.0},
    "clip_qkv": {"clip_qkv": 0.01},
    "attention_chunk_size": {"attention_chunk_size": 8},
    "partial_rotary_factor": {"partial_rotary_factor": 0.5},
    "no_rope_layers": {"no_rope_layers": [0] * 6},
    "rope_theta": {"rope_theta": 50.0},
}
# In whose families they change the logits; in all others they must not.
USED = {
    "sliding_window": {"mistral", "phi3", "gemma2", "gemma3_text"},
    "use_sliding_window": {"mistral", "phi3", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text"},
    "attn_logit_softcapping": {"gemma2"},
    "final_logit_softcapping": {"gemma2", "gemma3_text"},
    "query_pre_attn_scalar": {"gemma2", "gemma3_text"},
    "partial_rotary_factor": {"phi3"},
    "no_rope_layers": {"smollm3"},
    "rope_theta": set(MODEL_TYPES),
}
# The tiny Gemmas have a window of 8 already.
PLAIN: dict[str, dict[str, Any]] = {"gemma2": {"sliding_window": 64}, "gemma3_text": {"sliding_window": 64}}


def decoder_of(model: PreTrainedModel, max_length: int = LENGTH) -> Decoder:
    return build_decoder(model, LowerSettings(max_length=max_length, attention="portable"))


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_setting_means_what_the_familys_modules_make_of_it(model_type: str, setting: str) -> None:
    plain = tiny_model(model_type, **PLAIN.get(model_type, {}))
    changed = tiny_model(model_type, **{**PLAIN.get(model_type, {}), **SETTINGS[setting]})
    changed.load_state_dict(plain.state_dict())
    assert check_translation(decoder_of(changed), changed) < 1e-5
    tokens = tiny_tokens(80)
    theirs = [hugging_face_logits(model, tokens, 80, LENGTH) for model in (plain, changed)]
    assert torch.equal(*theirs) == (model_type not in USED.get(setting, set()))


@pytest.mark.parametrize("model_type", ["llama", "phi3", "qwen2", "gemma3_text"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_shared_model_in_any_type_agrees_and_is_left_as_it_was(model_type: str, stored: torch.dtype) -> None:
    model = tiny_model(model_type, tie_word_embeddings=True)
    share_layers(model, SharePlan.parse("2:3, 4:5", 6), Recovery("lora", 4))
    for _, parameter in recovery_parameters(model):
        torch.nn.init.normal_(parameter, std=0.3)
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = parameter.to(stored)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert check_translation(decoder_of(model), model) < 1e-5
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) and after[name].dtype == stored for name, tensor in before.items())
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("max_length", [32, 100])
def test_longrope_is_compared_with_the_factors_of_the_exported_length(max_length: int) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
        "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    }
    model = tiny_model("phi3", original_max_position_embeddings=32, rope_parameters=rope)
    assert check_translation(decoder_of(model, max_length), model) < 1e-4


@pytest.mark.parametrize(
    ("window", "max_length", "tokens"), [(8, 100, 64), (70, 100, 86), (90, 100, 100), (100, 100, 64), (None, 20, 20)]
)
def test_the_text_is_longer_than_any_window_that_matters(window: int | None, max_length: int, tokens: int) -> None:
    decoder = decoder_of(tiny_model("mistral", sliding_window=window), max_length)
    assert translation_tokens(decoder, 256).shape == (1, tokens)


def test_a_text_longer_than_a_piece_goes_through_in_pieces() -> None:
    model = tiny_model("mistral", sliding_window=600, max_position_embeddings=1024)
    assert check_translation(decoder_of(model, 700), model) < 1e-5


@pytest.mark.parametrize("name", ["sliding_window", "score_cap", "logit_cap"])
def test_a_decoder_that_misreads_the_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, name, lambda *_: 8 if name == "sliding_window" else 0.5)
    model = tiny_model()
    message = r"the exported decoder differs from the model: over 64 tokens its logits differ from Hugging Face's"
    with pytest.raises(SharpError, match=message):
        check_translation(decoder_of(model), model)


def test_a_wrong_scale_or_rotation_is_refused() -> None:
    model = tiny_model()
    decoder = decoder_of(model)
    for attention in decoder.attentions:
        attention.settings = attention.settings._replace(scale=0.2)
    with pytest.raises(SharpError, match="the exported decoder differs from the model"):
        check_translation(decoder, model)
    decoder = decoder_of(model)
    decoder.rotations[0].frequencies.mul_(1.01)
    with pytest.raises(SharpError, match="the exported decoder differs from the model"):
        check_translation(decoder, model)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.embed_tokens.weight", 3e38, "after the embedding the model's hidden states reach 3e+38"),
        ("model.layers.2.mlp.down_proj.weight", 3e38, "after layer 3 the model's hidden states"),
        ("model.layers.0.self_attn.o_proj.weight", 2.0**100, "after layer 1 the model's hidden states"),
        ("model.norm.weight", 3e38, "the model's logits are not finite"),
        ("model.norm.weight", 0.0, "gives every token of the vocabulary the same logit"),
        ("lm_head.weight", 0.0, "gives every token of the vocabulary the same logit"),
    ],
)
def test_damaged_weights_are_found_by_what_they_compute(name: str, value: float, message: str) -> None:
    model = tiny_model()
    model.get_parameter(name).data.fill_(value)
    with pytest.raises(SharpError) as refusal:
        check_translation(decoder_of(model), model)
    assert message in str(refusal.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_a_piece_that_is_not_finite_is_told_wherever_it_stands(place: int, value: float) -> None:
    pieces = [torch.ones(1, 4, 8), torch.ones(1, 4, 8)]
    pieces[place][0, 2, 3] = value
    with pytest.raises(SharpError, match="after layer 2 the model's hidden states are not finite"):
        _check_activations(2, pieces)
