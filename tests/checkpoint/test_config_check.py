"""Numbers of a configuration that no model has are refused when it is opened."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MODEL_TYPES, tiny_config, tiny_model

from sharp_mobile.checkpoint.config_check import check_counts, check_fields, check_types, token_ids
from sharp_mobile.checkpoint.config_defaults import completed, field_types
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError

NO_FACTORS = [float("nan"), float("inf"), -float("inf"), 0, 0.0, -1, -1e-6, 10**400, 1e31, True, "1e-6", [1.0]]
NO_COUNTS = [0, -1, True, 4.0, float("nan"), "4", [4], 10**400]


def loose(model_type: str = "llama", **changes: Any) -> dict[str, Any]:
    """The fields of a configuration, which take any value, unlike transformers'."""
    return completed(tiny_config(model_type).to_dict()) | changes


def edited(directory: Path, name: str, **changes: Any) -> Path:
    path = directory / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))
    return directory


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_familys_configuration_passes(model_type: str) -> None:
    content = tiny_config(model_type).to_dict()
    check_counts(content)
    check_types(content, field_types(model_type))
    check_fields(completed(content))


@pytest.mark.parametrize("value", NO_FACTORS)
@pytest.mark.parametrize("name", ["rms_norm_eps", "query_pre_attn_scalar", "final_logit_softcapping"])
def test_a_factor_is_a_finite_number_above_zero(name: str, value: Any) -> None:
    with pytest.raises(SharpError, match=rf"^{name} is .*; it must be a finite number above 0; use"):
        check_fields(loose("gemma2", **{name: value}))


@pytest.mark.parametrize("value", NO_FACTORS)
@pytest.mark.parametrize("name", ["rope_theta", "factor", "low_freq_factor"])
def test_ropes_parameters_are_factors(name: str, value: Any) -> None:
    for fields in (loose(), loose("gemma3_text")):
        parameters = fields["rope_parameters"]
        parameters.get("full_attention", parameters)[name] = value
        with pytest.raises(SharpError, match=rf"^rope_parameters\.\S*{name} is "):
            check_fields(fields)


@pytest.mark.parametrize("factors", [[1.0, 0.0], [1.0, float("nan")], [], 3.0, ["a"], {}])
def test_long_ropes_factors_are_a_list_of_them(factors: Any) -> None:
    fields = loose()
    fields["rope_parameters"]["long_factor"] = factors
    with pytest.raises(SharpError, match=r"rope_parameters\.long_factor is .*; it must be a list of finite numbers"):
        check_fields(fields)


def check_all(content: dict[str, Any]) -> None:
    """As a config.json is checked: before its family's defaults are added, and after."""
    check_counts(content)
    check_types(content, field_types("llama"))
    check_fields(loose(**content))


@pytest.mark.parametrize("value", NO_COUNTS)
@pytest.mark.parametrize("name", ["num_hidden_layers", "vocab_size", "num_attention_heads", "head_dim"])
def test_a_count_is_a_whole_number_from_one(name: str, value: Any) -> None:
    with pytest.raises(SharpError, match=rf"^{name} is "):
        check_all({name: value})


def test_heads_are_divided_and_attention_looks_back() -> None:
    with pytest.raises(SharpError, match="num_key_value_heads is 3; it must be a divisor of num_attention_heads, 4"):
        check_fields(loose(num_key_value_heads=3))
    with pytest.raises(SharpError, match="use_bidirectional_attention: a decoder that sees later tokens"):
        check_fields(loose("gemma3_text", use_bidirectional_attention=True))
    for window in (0, -4, 1.5, "8"):
        with pytest.raises(SharpError, match=r"sliding_window is .*; it must be a whole number from 1, or null"):
            check_fields(loose("gemma2", sliding_window=window))


@pytest.mark.parametrize("value", [0, -6, True, 2.0, None, "6", [6]])
@pytest.mark.parametrize(
    ("model_type", "name"), [("gemma3_text", "sliding_window_pattern"), ("smollm3", "no_rope_layer_interval")]
)
def test_a_period_of_layers_is_a_whole_number_from_one(model_type: str, name: str, value: Any) -> None:
    with pytest.raises(SharpError, match=rf"^{name} is .*; it must be a whole number from 1"):
        check_types({name: value}, field_types(model_type))
    check_types({name: value}, field_types("llama"))  # which has none


NO_TOKENS = ["2", "</s>", -1, 256, 10**30, [2, [3]], [2, 300], 2.5, True, {"id": 2}]


@pytest.mark.parametrize("value", NO_TOKENS)
@pytest.mark.parametrize("name", ["eos_token_id", "bos_token_id"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_token_id_is_one_of_the_vocabulary(file: str, name: str, value: Any, tiny_checkpoint: Path) -> None:
    with pytest.raises(SharpError) as error:
        open_checkpoint(edited(tiny_checkpoint, file, **{name: value}))
    assert str(error.value).startswith(str(tiny_checkpoint))
    assert "\n" not in str(error.value)


def test_token_ids_are_one_a_list_or_none() -> None:
    assert (token_ids(None, 9, "x"), token_ids(8, 9, "x"), token_ids([0, 8], 9, "x")) == ([], [8], [0, 8])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", 0.0),
        ("rope_theta", -1.0),
        ("rope_theta", 0.0),
        ("rope_scaling", {"rope_type": "linear", "factor": float("inf")}),
        ("sliding_window", 0),
        ("head_dim", 0),
    ],
)
def test_a_checkpoint_with_such_a_number_is_refused_when_it_is_opened(
    name: str, value: Any, tiny_checkpoint: Path
) -> None:
    config = tiny_checkpoint / "config.json"
    content = json.loads(config.read_text())
    if name.startswith("rope"):
        content.pop("rope_parameters")
    config.write_text(json.dumps(content | {name: value}))
    with pytest.raises(SharpError) as error:
        open_checkpoint(tiny_checkpoint)
    assert str(error.value).startswith(str(tiny_checkpoint))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(name=st.sampled_from(sorted(tiny_config().to_dict())), value=ANYTHING)
@pytest.mark.slow
def test_any_value_of_any_field_is_taken_or_told(
    name: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("config")
    tiny_model(num_hidden_layers=1).save_pretrained(directory)
    edited(directory, "config.json", **{name: value})
    told = ""
    try:
        open_checkpoint(directory)
    except SharpError as error:
        told = str(error)
    assert "\n" not in told
    assert len(told) < 1000
