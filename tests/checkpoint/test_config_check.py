"""Numbers of a configuration that no model has are refused when it is opened."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MODEL_TYPES, tiny_config, tiny_model

from sharp_mobile.checkpoint.config_check import check_config, check_counts, token_ids
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError

SOURCE = Path("config.json")
NO_FACTORS = [float("nan"), float("inf"), -float("inf"), 0, 0.0, -1, -1e-6, 10**400, 1e31, True, "1e-6", [1.0]]
NO_COUNTS = [0, -1, True, 4.0, float("nan"), "4", [4], 10**400]


def loose(model_type: str = "llama", **changes: Any) -> Any:
    """A configuration that takes any value, unlike transformers'."""
    return SimpleNamespace(**(tiny_config(model_type).to_dict() | changes))


def edited(directory: Path, name: str, **changes: Any) -> Path:
    path = directory / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))
    return directory


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_familys_configuration_passes(model_type: str) -> None:
    config = tiny_config(model_type)
    check_config(config, SOURCE)
    check_counts(config.to_dict(), SOURCE)


@pytest.mark.parametrize("value", NO_FACTORS)
@pytest.mark.parametrize("name", ["rms_norm_eps", "query_pre_attn_scalar", "final_logit_softcapping"])
def test_a_factor_is_a_finite_number_above_zero(name: str, value: Any) -> None:
    with pytest.raises(SharpError, match=rf"^config\.json: {name} is .*; it must be a finite number above 0; use"):
        check_config(loose("gemma2", **{name: value}), SOURCE)


@pytest.mark.parametrize("value", NO_FACTORS)
@pytest.mark.parametrize("name", ["rope_theta", "factor", "low_freq_factor"])
def test_ropes_parameters_are_factors(name: str, value: Any) -> None:
    for config in (tiny_config(), tiny_config("gemma3_text")):
        parameters = config.rope_parameters
        parameters = parameters.get("full_attention", parameters)
        parameters[name] = value
        with pytest.raises(SharpError, match=rf"^config\.json: rope_parameters\.\S*{name} is "):
            check_config(config, SOURCE)


@pytest.mark.parametrize("factors", [[1.0, 0.0], [1.0, float("nan")], [], 3.0, ["a"], {}])
def test_long_ropes_factors_are_a_list_of_them(factors: Any) -> None:
    config = tiny_config()
    config.rope_parameters["long_factor"] = factors
    with pytest.raises(SharpError, match=r"rope_parameters\.long_factor is .*; it must be a list of finite numbers"):
        check_config(config, SOURCE)


def check_both(content: dict[str, Any]) -> None:
    """As a config.json is checked: before transformers reads it, and after."""
    check_counts(content, SOURCE)
    check_config(loose(**content), SOURCE)


@pytest.mark.parametrize("value", NO_COUNTS)
@pytest.mark.parametrize("name", ["num_hidden_layers", "vocab_size", "num_attention_heads", "head_dim"])
def test_a_count_is_a_whole_number_from_one(name: str, value: Any) -> None:
    with pytest.raises(SharpError, match=rf"^config\.json: {name} is "):
        check_both({name: value})


def test_heads_are_divided_and_attention_looks_back() -> None:
    with pytest.raises(SharpError, match="num_key_value_heads is 3; it must be a divisor of num_attention_heads, 4"):
        check_config(loose(num_key_value_heads=3), SOURCE)
    with pytest.raises(SharpError, match="use_bidirectional_attention: a decoder that sees later tokens"):
        check_config(loose("gemma3_text", use_bidirectional_attention=True), SOURCE)
    for window in (0, -4, 1.5, "8"):
        with pytest.raises(SharpError, match=r"sliding_window is .*; it must be a whole number from 1, or null"):
            check_config(loose("gemma2", sliding_window=window), SOURCE)


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
