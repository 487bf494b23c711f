"""An architecture that is read without transformers is that of the modules which transformers builds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_gguf import write_gguf
from tiny_models import MODEL_TYPES, tiny_config, tiny_model
from transformers import AutoModelForCausalLM

from sharp_mobile.checkpoint.config import architecture_of, read_architecture
from sharp_mobile.checkpoint.gguf_fields import gguf_fields
from sharp_mobile.checkpoint.gguf_file import ARCHITECTURES, gguf_header
from sharp_mobile.checkpoint.hugging_face import gguf_config, read_config
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.rope import llama3_frequencies
from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.errors import SharpError
from sharp_mobile.model.architecture import Architecture, RotaryTable
from sharp_mobile.model.families import family_of, logit_cap, score_cap, sliding_window
from sharp_mobile.model.modules import decoder_layers, mlp_biases, mlp_weights
from sharp_mobile.recipe.lower_settings import LowerSettings

LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 64,
}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
SLIDING = ["sliding_attention", "full_attention", "full_attention"] * 2
ROPE_OF_KINDS = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def described_by_modules(model: Any) -> Architecture:
    """What the modules of a Hugging Face model are."""
    config, layers = model.config, list(decoder_layers(model))
    attention, mlp = layers[0].self_attn, mlp_weights(layers[0].mlp)
    projections = (attention.qkv_proj,) if hasattr(attention, "qkv_proj") else (attention.q_proj, attention.k_proj)
    decoder = build_decoder(model, LowerSettings(max_length=32, attention="portable"))
    types = model.model.rotary_emb.rope_type
    used = [types[layer.self_attn.layer_type] if isinstance(types, dict) else types for layer in layers]
    tables = {table: used[layer] for layer, table in reversed(list(enumerate(decoder.rotation_of)))}
    return Architecture(
        model_type=config.model_type,
        layers=len(layers),
        hidden=mlp.gate.shape[1],
        inner=mlp.gate.shape[0],
        heads=attention.o_proj.in_features // attention.head_dim,
        key_heads=decoder.attentions[0].settings.heads.keys,
        head_width=attention.head_dim,
        vocabulary=len(model.model.embed_tokens.weight),
        tied=model.lm_head.weight is model.model.embed_tokens.weight,
        positions=config.max_position_embeddings,
        qkv_bias=all(projection.bias is not None for projection in projections),
        o_bias=attention.o_proj.bias is not None,
        mlp_bias=mlp_biases(layers[0].mlp)[0] is not None,
        tables=tuple(RotaryTable(tables[i], rotation.rotary) for i, rotation in enumerate(decoder.rotations)),
        table_of=tuple(decoder.rotation_of),
        windows=tuple(sliding_window(layer.self_attn, config) for layer in layers),
        score_cap=score_cap(config),
        logit_cap=logit_cap(config),
        embedding_scale=getattr(model.model.embed_tokens, "scalar_embed_scale", None),
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_is_what_its_modules_are(model_type: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(model_type, tie_word_embeddings=tied)
    model.config.to_json_file(tmp_path / "config.json")
    assert read_architecture(tmp_path / "config.json") == described_by_modules(model)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"num_key_value_heads": None, "head_dim": None}),
        ("llama", {"rope_scaling": LLAMA3, "rope_theta": 500000.0}),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.5}}),
        ("mistral", {"sliding_window": 8}),
        ("mistral", {"head_dim": None, "hidden_size": 66}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "layer_types": SLIDING}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8, "layer_types": SLIDING}),
        ("qwen3", {"attention_bias": True}),
        ("phi3", {"partial_rotary_factor": 0.75}),
        ("phi3", {"rope_scaling": {**LONG, "type": "su"}, "original_max_position_embeddings": 64}),
        ("phi3", {"sliding_window": 8, "head_dim": 32}),
        ("gemma2", {"layer_types": SLIDING, "attn_logit_softcapping": None, "attention_bias": True}),
        ("gemma3_text", {"sliding_window_pattern": 2, "final_logit_softcapping": 30.0}),
        ("gemma3_text", {"layer_types": ["full_attention"] * 6}),
        ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("gemma3_text", {"rope_parameters": ROPE_OF_KINDS}),
        ("smollm3", {"no_rope_layer_interval": 2, "mlp_bias": True}),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 0, 1, 1], "use_sliding_window": True, "sliding_window": 8}),
        ("olmo2", {"attention_bias": True, "num_key_value_heads": None}),
        ("smollm3", {"no_rope_layers": [0] * 6}),
    ],
)
def test_options_are_what_the_modules_make_of_them(model_type: str, changes: dict[str, Any], tmp_path: Path) -> None:
    content = {name: value for name, value in tiny_config(model_type).to_dict().items() if name != "layer_types"}
    for name in ("rope_parameters", "no_rope_layers", "sliding_window_pattern"):
        content.pop(name, None)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content | changes))
    assert read_architecture(path) == described_by_modules(AutoModelForCausalLM.from_config(read_config(path)))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_is_the_same_from_transformers_configuration(model_type: str, tmp_path: Path) -> None:
    """Which holds every field, where the file holds those alone that are not transformers' defaults."""
    config = tiny_config(model_type)
    config.to_json_file(tmp_path / "config.json")
    assert architecture_of(config.to_dict()) == read_architecture(tmp_path / "config.json")


@pytest.mark.parametrize("model_type", ARCHITECTURES.values())
def test_the_header_of_a_gguf_file_is_the_same_architecture(model_type: str, tmp_path: Path) -> None:
    model = tiny_model(model_type)
    header = gguf_header(write_gguf(model, tmp_path / "tiny.gguf"))
    found = architecture_of(gguf_fields(header))
    assert found == architecture_of(gguf_config(header).to_dict())
    assert found == described_by_modules(open_checkpoint(tmp_path / "tiny.gguf").model)


def test_a_family_s_conventions_come_with_it() -> None:
    assert architecture_of({"model_type": "qwen3"}).family is family_of("qwen3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size is '64'; it must be a whole number from 1"),
        ({"num_key_value_heads": True}, "num_key_value_heads is True; it must be a whole number from 1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; it must be true or false"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'; it must be a number with a decimal point"),
        ({"hidden_act": "magic"}, "hidden_act is 'magic'; it must be one of gelu,"),
        (
            {"layer_types": ["chunked_attention"] * 6},
            "layer_types is 'chunked_attention'; it must be of full_attention",
        ),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries; it must have 6, one a layer"),
        ({"layer_types": "full_attention"}, "layer_types is 'full_attention'; it must be a list of texts"),
        ({"pad_token_id": 256}, "pad_token_id is 256; it must be below vocab_size, 256"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be an object, or null"),
        ({"rope_scaling": {"rope_type": "magic"}}, "rope_parameters.rope_type is 'magic'; it must be one of default,"),
        ({"rope_scaling": {"rope_type": []}}, "rope_parameters.rope_type is []; it must be one of default,"),
        ({"rope_scaling": {"type": "linear"}}, "rope_parameters.factor is None; it must be a number, which RoPE of"),
        ({"rope_scaling": LONG | {"long_factor": [1.0]}}, "long_factor has 1 entries; it must have 8, one for"),
        ({"rope_scaling": {"partial_rotary_factor": 1.5}}, "partial_rotary_factor is 1.5; it must be a number above 0"),
        ({"rope_scaling": {"full_attention": {}}}, "rope_parameters.full_attention is {}; it must be a number: the"),
        ({"head_dim": 15}, "head_dim is 15; it must be even, because RoPE turns pairs"),
        ({"per_layer_config": {"1": {"intermediate_size": 48}}}, "per_layer_config: layers of different widths"),
    ],
)
def test_what_makes_no_model_is_told_alike_with_and_without_transformers(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    content = {name: value for name, value in tiny_config().to_dict().items() if name != "rope_parameters"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content | changes))
    for read in (read_architecture, read_config):
        with pytest.raises(SharpError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ")
        assert message in str(error.value)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_s_frequencies_are_those_of_transformers(factor: float) -> None:
    settings = {**LLAMA3, "factor": factor, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}
    model = tiny_model(rope_parameters=settings, head_dim=64, max_position_embeddings=131072)
    found = torch.tensor(llama3_frequencies(64, settings))
    torch.testing.assert_close(found, model.model.rotary_emb.inv_freq)
