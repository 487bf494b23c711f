"""What an absent field of a config.json means is what transformers' configuration classes take it for."""

import dataclasses
from typing import Any

import pytest
from tiny_models import MODEL_TYPES
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sharp_mobile.checkpoint.config_check import ACTIVATIONS, DIVIDED
from sharp_mobile.checkpoint.config_defaults import DEFAULTS, completed, field_types
from sharp_mobile.checkpoint.rope import NEEDED
from sharp_mobile.model.families import FAMILIES

# Fields that decide nothing that an export stores or computes.
IRRELEVANT = {field.name for field in dataclasses.fields(PreTrainedConfig)} | {
    *("initializer_range", "use_cache", "pretraining_tp"),
    *("attention_dropout", "resid_pdrop", "embd_pdrop"),
}
# What transformers reads without declaring a field.
UNDECLARED = {"sliding_window_pattern"}


def fields_of(model_type: str) -> dict[str, dataclasses.Field[Any]]:
    declared = dataclasses.fields(CONFIG_MAPPING[model_type])
    return {field.name: field for field in declared if field.name not in IRRELEVANT}


def type_of(field: dataclasses.Field[Any]) -> str:
    text = field.type.__name__ if isinstance(field.type, type) else str(field.type)
    return text.replace("transformers.modeling_rope_utils.RopeParameters | ", "")


def test_every_family_has_a_table() -> None:
    assert DEFAULTS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_defaults_are_those_of_transformers(model_type: str) -> None:
    ours = {name: value for name, value in DEFAULTS[model_type].items() if name not in UNDECLARED}
    assert ours == {name: field.default for name, field in fields_of(model_type).items()}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_types_are_those_of_transformers(model_type: str) -> None:
    types = field_types(model_type)
    for name, field in fields_of(model_type).items():
        assert sorted(types[name].split(" | ")) == sorted(type_of(field).split(" | ")), name


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_an_empty_configuration_is_completed_as_transformers_completes_it(model_type: str) -> None:
    fields, theirs = completed({"model_type": model_type}), CONFIG_MAPPING[model_type]()
    rope = fields.pop("rope_parameters")
    for name, value in fields.items():
        if name in UNDECLARED or (name == "layer_types" and not hasattr(theirs, name)):
            continue
        assert getattr(theirs, name) == value, name
    for kind in ("full_attention", "sliding_attention") if model_type == "gemma3_text" else (None,):
        mine, others = (rope, theirs.rope_parameters) if kind is None else (rope[kind], theirs.rope_parameters[kind])
        assert mine == {name: value for name, value in others.items() if name != "partial_rotary_factor"}


def test_the_names_of_activations_and_rope_types_are_those_of_transformers() -> None:
    assert set(ACT2FN) == set(ACTIVATIONS)
    assert {"default", *ROPE_INIT_FUNCTIONS} == NEEDED.keys()


def test_the_families_whose_heads_must_divide_the_hidden_width_are_known() -> None:
    assert set(DIVIDED) == {name for name in FAMILIES if "validate_architecture" in vars(CONFIG_MAPPING[name])}
