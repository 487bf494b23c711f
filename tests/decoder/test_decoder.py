"""The decoder that is exported computes what Hugging Face's model computes, however the text is fed to it."""

from typing import Any

import pytest
import torch
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery

LENGTH = 24
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
}


@torch.no_grad()
def hugging_face(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """The model's own logits; with eager attention, the only one that soft-caps Gemma 2's scores."""
    model.set_attn_implementation("eager")
    return model(tokens).logits


@torch.no_grad()
def in_pieces(decoder: Decoder, tokens: torch.Tensor, *lengths: int) -> torch.Tensor:
    """The decoder's logits of a text that it is fed in pieces."""
    position, logits = 0, []
    for piece in tokens.split(lengths, dim=1):
        logits.append(decoder(piece, torch.tensor([position])))
        position += piece.shape[1]
    return torch.cat(logits, dim=1)


def eager_decoder(model: PreTrainedModel, max_length: int = 32) -> Decoder:
    return build_decoder(model, LowerSettings(max_length=max_length, attention="portable", logits="all"))


def assert_same_model(model: PreTrainedModel, max_length: int = 32, length: int = LENGTH) -> torch.Tensor:
    """Prefilled at once, in chunks and token by token, the decoder gives Hugging Face's logits, which it returns."""
    tokens = tiny_tokens(length)
    expected, decoder = hugging_face(model, tokens), eager_decoder(model, max_length)
    for lengths in ((length,), (10, length - 10), (1,) * length):
        torch.testing.assert_close(in_pieces(decoder, tokens, *lengths), expected, rtol=0, atol=1e-4)
    return expected


def shared(model: PreTrainedModel, plan: str = "2:3, 4:5", form: Any = "lora", rank: int = 4) -> PreTrainedModel:
    """The model shared, with random recovery parameters."""
    share_layers(model, SharePlan.parse(plan, 6), Recovery(form, rank))
    for _, parameter in recovery_parameters(model):
        torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_is_hugging_faces(model_type: str) -> None:
    assert_same_model(tiny_model(model_type))


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma3_text"])
def test_a_shared_model_is_hugging_faces_with_shared_mlps(model_type: str) -> None:
    plain = hugging_face(tiny_model(model_type), tiny_tokens(LENGTH))
    recovered = assert_same_model(shared(tiny_model(model_type)))
    assert (recovered - plain).abs().max() > 0.1  # the recovery parameters matter


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma3_text"])
def test_hybrids_and_adapters_are_hugging_faces(model_type: str) -> None:
    recovery = {
        1: Recovery("lora", 4),
        2: Recovery("lora", (0, 2, 8), neurons=5, bypass=3),
        4: Recovery(neurons=7, bypass=2, reference=False),
        5: Recovery("lora", 3),
    }
    model = tiny_model(model_type)
    share_layers(model, SharePlan.parse("2:3, 4:5", 6), recovery)
    for _, parameter in recovery_parameters(model):
        torch.nn.init.normal_(parameter, std=0.3)
    assert_same_model(model.requires_grad_(False))


@pytest.mark.parametrize("parameters", [LLAMA3, LINEAR, YARN], ids=lambda p: p["rope_type"])
def test_scaled_rope(parameters: dict[str, Any]) -> None:
    plain = hugging_face(tiny_model(), tiny_tokens(LENGTH))
    scaled = assert_same_model(tiny_model(rope_parameters=parameters))
    assert (scaled - plain).abs().max() > 1e-2


def test_rope_on_a_part_of_each_head() -> None:
    model = tiny_model("phi3", partial_rotary_factor=0.5)
    assert_same_model(model)
    assert eager_decoder(model).attentions[0].settings.heads.rotary == 8


def test_longrope_takes_its_factors_by_the_exported_length() -> None:
    """Hugging Face switches to the long factors when the text outgrows the original length; a cache cannot."""
    model = tiny_model("phi3", original_max_position_embeddings=32, rope_parameters=LONGROPE)
    assert_same_model(model, max_length=32)
    assert_same_model(model, max_length=64, length=40)
    short, long = (eager_decoder(model, length)(tiny_tokens(), torch.tensor([0])) for length in (32, 64))
    assert (short - long).abs().max() > 1e-2


@pytest.mark.parametrize("tied", [False, True])
def test_biases_and_tied_embeddings(tied: bool) -> None:
    model = tiny_model(mlp_bias=True, attention_bias=True, tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert_same_model(model)
    assert_same_model(shared(tiny_model(mlp_bias=True, attention_bias=True, tie_word_embeddings=tied)))


WINDOWED = {
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3},
    "phi3": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
}


@pytest.mark.parametrize("model_type", WINDOWED)
def test_sliding_windows_shorter_than_the_text(model_type: str) -> None:
    assert_same_model(tiny_model(model_type, **WINDOWED[model_type]))
    windows = [a.settings.window for a in eager_decoder(tiny_model(model_type, **WINDOWED[model_type])).attentions]
    assert 8 in windows
    assert (None in windows) == (model_type not in ("mistral", "phi3"))


def test_a_window_longer_than_the_cache_is_no_window() -> None:
    decoder = eager_decoder(tiny_model("mistral", sliding_window=64))
    assert {attention.settings.window for attention in decoder.attentions} == {None}


def test_layers_with_one_window_have_one_mask() -> None:
    decoder = build_decoder(tiny_model("gemma2"), LowerSettings(max_length=32, attention="portable"))
    windows = [attention.settings.window for attention in decoder.attentions]
    masks = [surroundings.mask for surroundings in decoder.surroundings(0, LENGTH)]
    assert len({id(mask) for mask in masks}) == len(set(windows)) == 2


def test_what_an_earlier_text_left_in_the_cache_is_not_seen() -> None:
    decoder = eager_decoder(tiny_model())
    fresh = in_pieces(decoder, tiny_tokens(6), 6)
    in_pieces(decoder, tiny_tokens(LENGTH, seed=1), LENGTH)
    assert torch.equal(in_pieces(decoder, tiny_tokens(6), 6), fresh)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma3_text"])
def test_both_attention_operators_agree(model_type: str) -> None:
    model = tiny_model(model_type, **WINDOWED.get(model_type, {}))
    decoder = build_decoder(model, LowerSettings(max_length=32, attention="custom_sdpa", logits="all"))
    custom = decoder.deployed(decoder.entry, list(decoder.middles), decoder.exit)
    tokens = tiny_tokens(LENGTH)
    for lengths in ((LENGTH,), (10, 1, 13)):
        torch.testing.assert_close(
            in_pieces(custom, tokens, *lengths), in_pieces(decoder, tokens, *lengths), rtol=0, atol=1e-4
        )


def test_the_last_tokens_logits_are_the_last_of_all() -> None:
    tokens, position = tiny_tokens(LENGTH), torch.tensor([0])
    every = eager_decoder(tiny_model())(tokens, position)
    last = build_decoder(tiny_model(), LowerSettings(max_length=32))(tokens, position)
    assert last.shape == (1, 1, 256)
    torch.testing.assert_close(last, every[:, -1:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_weights_are_not_copied() -> None:
    model = tiny_model()
    decoder = eager_decoder(model)
    assert decoder.middles[0].end.mlp.gate.weight.data_ptr() == model.model.layers[0].mlp.gate_proj.weight.data_ptr()
    assert decoder.embedding.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_length_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(SharpError, match=r"lower.max_length: 129 is more than the 128 positions that this model has"):
        build_decoder(tiny_model(), LowerSettings(max_length=129))


def test_rope_that_changes_with_the_text_is_refused() -> None:
    model = tiny_model(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    with pytest.raises(SharpError, match="RoPE type 'dynamic' changes with the text's length"):
        build_decoder(model, LowerSettings(max_length=32))


def test_soft_capped_scores_need_portable_attention() -> None:
    with pytest.raises(SharpError, match=r"gemma2 soft-caps attention scores.*use lower.attention: portable"):
        build_decoder(tiny_model("gemma2"), LowerSettings(max_length=32, attention="custom_sdpa"))


@pytest.mark.parametrize("cuts", [(0, 40), (20, 16)])
def test_positions_beyond_the_cache_are_refused(cuts: tuple[int, int]) -> None:
    start, length = cuts
    with pytest.raises(RuntimeError):
        eager_decoder(tiny_model())(tiny_tokens(length), torch.tensor([start]))
