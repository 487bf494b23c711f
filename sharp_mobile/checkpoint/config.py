"""The configuration of a checkpoint: config.json, read and checked before any weight is, without PyTorch.

config.json ──► fields, as they are ──► checked, completed by the family's defaults ──► Architecture
"""

from collections.abc import Mapping
from pathlib import Path

from sharp_mobile.checkpoint.config_check import check_counts, check_fields, check_types, entries, whole, wrong
from sharp_mobile.checkpoint.config_defaults import DEFAULTS, completed, field_types, head_width
from sharp_mobile.checkpoint.other_formats import other_format
from sharp_mobile.checkpoint.rope import rotary_tables
from sharp_mobile.errors import SharpError, prefixed
from sharp_mobile.files.json_file import read_json
from sharp_mobile.files.paths import is_regular_file
from sharp_mobile.model.architecture import Architecture
from sharp_mobile.model.families import FAMILIES, family_of

CONFIG_JSON = "config.json"
GENERATION_JSON = "generation_config.json"


def config_file(directory: Path) -> Path:
    """The config.json of a Hugging Face directory.

    Raises:
        SharpError: it has none; what the directory holds instead is named where it is known.
    """
    path = directory / CONFIG_JSON
    if not is_regular_file(path):
        nothing = "holds no config.json; give the directory that holds config.json and the weights"
        raise SharpError(f"{directory}: {other_format(directory) or nothing}")
    return path


def read_architecture(path: Path) -> Architecture:
    """The architecture that the config.json of a supported, unquantized model describes.

    Raises:
        SharpError: it is of another model, or of none.
    """
    content = read_json(path)
    model_type = content.get("model_type")
    if not isinstance(model_type, str) or not model_type.isprintable() or len(model_type) > 100:
        raise SharpError(f"{path}: model_type is missing; use the config.json that belongs to these weights")
    if f"{model_type}_text" in FAMILIES:
        raise SharpError(
            f"{path}: model type '{model_type}' also takes images; give its text model ('{model_type}_text') alone"
        )
    with prefixed(path):
        family_of(model_type)
    for field_name in ("quantization_config", "quantization"):  # MLX writes the latter
        if content.get(field_name):
            raise SharpError(f"{path}: {field_name}: the checkpoint is quantized already; use the original")
    if content.get("per_layer_config"):
        raise SharpError(f"{path}: per_layer_config: layers of different widths are not supported")
    with prefixed(path):
        return architecture_of(content)


def architecture_of(content: Mapping[str, object]) -> Architecture:
    """The architecture that the fields of a config.json describe.

    Args:
        content: with a supported model_type; other fields may be absent.

    Raises:
        SharpError: a field is of a wrong type, or has a value that makes no model; the message begins with the field.
    """
    check_counts(content)
    check_types(content, field_types(str(content["model_type"])))
    fields = completed(content)
    check_fields(fields)
    return _architecture(fields)


def _architecture(fields: Mapping[str, object]) -> Architecture:
    family, window = family_of(str(fields["model_type"])), _optional(fields, "sliding_window")
    of_layers = {"none": lambda _: False, "model": lambda _: True, "layer": lambda kind: kind == "sliding_attention"}
    slides = map(of_layers[family.window], entries(fields, "layer_types"))
    width = head_width(fields)
    tables, table_of = rotary_tables(fields, width)
    biased, mlp_biased = (
        name in DEFAULTS[family.model_type] and bool(fields[name]) for name in ("attention_bias", "mlp_bias")
    )
    return Architecture(
        model_type=family.model_type,
        layers=whole(fields, "num_hidden_layers"),
        hidden=whole(fields, "hidden_size"),
        inner=whole(fields, "intermediate_size"),
        heads=whole(fields, "num_attention_heads"),
        key_heads=whole(fields, "num_key_value_heads"),
        head_width=width,
        vocabulary=whole(fields, "vocab_size"),
        tied=bool(fields["tie_word_embeddings"]),
        positions=whole(fields, "max_position_embeddings"),
        qkv_bias=biased or family.qkv_bias,
        o_bias=biased,
        mlp_bias=mlp_biased,
        tables=tables,
        table_of=table_of,
        windows=tuple(window if one else None for one in slides),
        score_cap=_cap(fields, "attn_logit_softcapping") if family.caps_scores else None,
        logit_cap=_cap(fields, "final_logit_softcapping") if family.caps_logits else None,
        embedding_scale=whole(fields, "hidden_size") ** 0.5 if family.scales_embedding else None,
    )


def _optional(fields: Mapping[str, object], name: str) -> int | None:
    return None if fields.get(name) is None else whole(fields, name)


def _cap(fields: Mapping[str, object], name: str) -> float | None:
    value = fields[name]
    if value is not None and not isinstance(value, float):
        raise wrong(name, value, "a number with a decimal point, or null")
    return value
