"""Values of a configuration that no model can have: found when it is opened, not as NaN at the end of an export.

Messages name the field; whoever calls puts the file before them.
"""

import math
from collections.abc import Mapping
from typing import TypeGuard

from sharp_mobile.errors import SharpError

# Counts that must be at least this.
_COUNTS = {
    "num_hidden_layers": 1,
    "hidden_size": 1,
    "intermediate_size": 1,
    "vocab_size": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 2,
    "max_position_embeddings": 2,
}
# No model has more, and transformers makes lists and modules as long before it looks at any weight.
_MOST = {
    "num_hidden_layers": 1000,
    **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size", "head_dim"), 1 << 22),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 1 << 22),
    **dict.fromkeys(("max_position_embeddings", "max_window_layers"), (1 << 31) - 1),
}
# Factors that must be finite and above zero where they are given.
_FACTORS = ("rms_norm_eps", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
_ROPE_FACTORS = ("rope_theta", "factor", "attention_factor", "low_freq_factor", "high_freq_factor", "beta_fast")


# How the types that transformers gives its fields are called in a message.
_NAMED = {
    "int": "a whole number",
    "float": "a number with a decimal point",
    "bool": "true or false",
    "str": "a text",
    "dict": "an object",
    "list[int]": "a list of whole numbers",
    "list[str]": "a list of texts",
    "None": "null",
}
# transformers' names of activations.
ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
    *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu"),
    *("relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu"),
)
_LAYER_TYPES = ("full_attention", "sliding_attention")
_PERIODS = ("no_rope_layer_interval", "sliding_window_pattern")
# Families whose heads together are as wide as the hidden states, to transformers, whatever head_dim says.
DIVIDED = ("llama", "gemma2", "gemma3_text")


def check_counts(content: Mapping[str, object]) -> None:
    """Refuse sizes that no model has, before anything is made of them; other types are left to `check_types`.

    Args:
        content: of config.json.

    Raises:
        SharpError: a count is below what it must be, or beyond what any model has.
    """
    for name, most in _MOST.items():
        value = content.get(name)
        least = _COUNTS.get(name, 0)
        if isinstance(value, int | float) and not least <= value <= most:
            raise wrong(name, value, f"between {least} and {most:,}")


def check_types(content: Mapping[str, object], types: Mapping[str, str]) -> None:
    """Refuse fields of a type that transformers does not take.

    Args:
        types: "int | None" and the like, by field.

    Raises:
        SharpError: a field is of another type, or is a period of layers below 1.
    """
    for name in (name for name in types if name in content):
        value, kinds = content[name], types[name].split(" | ")
        fits = any(_is_of(value, kind) for kind in kinds)
        if name in _COUNTS and not fits:
            raise wrong(name, value, f"a whole number from {_COUNTS[name]}")
        if name in _PERIODS and not (fits and _is_count(value) and value >= 1):
            raise wrong(name, value, "a whole number from 1")
        if not fits and not name.endswith("token_id"):  # whose message is `token_ids`'s
            raise wrong(name, value, " or ".join(_NAMED[kind] for kind in kinds))


def _is_of(value: object, kind: str) -> bool:
    if kind.startswith("list"):
        return isinstance(value, list) and all(_is_of(entry, kind[5:-1]) for entry in value)
    python = {"int": int, "float": float, "bool": bool, "str": str, "dict": dict, "None": type(None)}
    return isinstance(value, python[kind]) and (kind == "bool" or not isinstance(value, bool))


def check_fields(fields: Mapping[str, object]) -> None:
    """Refuse a configuration whose numbers make no model.

    Args:
        fields: of a config.json, with the defaults of its family.

    Raises:
        SharpError: a count is below what it must be, key heads do not divide heads, a norm's ε, RoPE's base, a scale or
            a soft cap is not a finite number above zero, attention is not causal, a kind of layer or an activation is
            unknown, or a token id is not in the vocabulary.
    """
    for name, least in _COUNTS.items():
        value = fields.get(name)
        if value is not None and not (_is_count(value) and value >= least):
            raise wrong(name, value, f"a whole number from {least}")
    heads, keys = whole(fields, "num_attention_heads"), whole(fields, "num_key_value_heads")
    if heads % keys:
        raise wrong("num_key_value_heads", keys, f"a divisor of num_attention_heads, {heads}")
    divided = fields.get("head_dim") is None or fields["model_type"] in DIVIDED
    if divided and whole(fields, "hidden_size") % heads:
        raise wrong("num_attention_heads", heads, f"a divisor of hidden_size, {fields['hidden_size']}")
    for name in _FACTORS:
        value = fields.get(name)
        if value is not None and not is_factor(value):
            raise wrong(name, value, "a finite number above 0")
    if (window := fields.get("sliding_window")) is not None and not (_is_count(window) and window >= 1):
        raise wrong("sliding_window", window, "a whole number from 1, or null")
    if fields.get("use_bidirectional_attention"):
        raise SharpError("use_bidirectional_attention: a decoder that sees later tokens cannot be exported")
    _check_layers(fields)
    _check_rope(fields_in(fields, "rope_parameters"), "rope_parameters")
    for name in ("bos_token_id", "eos_token_id"):
        token_ids(fields.get(name), whole(fields, "vocab_size"), name)


def _check_layers(fields: Mapping[str, object]) -> None:
    """What differs from layer to layer, the activation, and the padding that the embedding has no row for."""
    layers, kinds = whole(fields, "num_hidden_layers"), entries(fields, "layer_types")
    if unknown := [kind for kind in kinds if kind not in _LAYER_TYPES]:
        raise wrong("layer_types", unknown[0], f"of {' and '.join(_LAYER_TYPES)} alone")
    if len(kinds) != layers:
        raise wrong_length("layer_types", len(kinds), f"{layers}, one a layer")
    model_type = str(fields["model_type"])
    if model_type == "smollm3" and len(rotates := entries(fields, "no_rope_layers")) < layers:
        raise wrong_length("no_rope_layers", len(rotates), f"{layers}, one a layer")
    activation = "hidden_activation" if model_type.startswith("gemma") else "hidden_act"
    if fields[activation] not in ACTIVATIONS:
        raise wrong(activation, fields[activation], f"one of {', '.join(ACTIVATIONS)}")
    padding, vocabulary = fields.get("pad_token_id"), whole(fields, "vocab_size")
    if padding is not None and not (_is_count(padding) and -vocabulary <= padding < vocabulary):
        raise wrong("pad_token_id", padding, f"below vocab_size, {vocabulary:,}, or null")


def token_ids(value: object, vocabulary: int, field: str) -> list[int]:
    """The token ids of a field that holds one, a list of them, or nothing.

    Args:
        field: the file and the field, for messages.

    Raises:
        SharpError: an id is not a whole number of the vocabulary.
    """
    ids = value if isinstance(value, list | tuple) else [] if value is None else [value]
    for token in ids:
        if not (_is_count(token) and 0 <= token < vocabulary):
            raise SharpError(f"{field}: {_shown(token)} is not a token id; it must be from 0 to {vocabulary - 1}")
    return list(ids)


def _check_rope(parameters: Mapping[str, object], name: str) -> None:
    """RoPE's parameters, or those of each kind of layer."""
    for key, value in parameters.items():
        if key in ("short_factor", "long_factor") and value is not None and not _are_factors(value):
            raise wrong(f"{name}.{key}", value, "a list of finite numbers above 0")
        if key in _ROPE_FACTORS and value is not None and not is_factor(value):
            raise wrong(f"{name}.{key}", value, "a finite number above 0")
        if key == "original_max_position_embeddings" and value is not None and not (_is_count(value) and value >= 1):
            raise wrong(f"{name}.{key}", value, "a whole number from 1")
        if isinstance(value, dict):
            _check_rope(value, f"{name}.{key}")


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_factor(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < 1e30 and math.isfinite(value)


def _are_factors(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_factor, value))


def whole(fields: Mapping[str, object], name: str) -> int:
    """A field that is a whole number.

    Raises:
        SharpError: it is something else.
    """
    value = fields[name]
    if not _is_count(value):
        raise wrong(name, value, "a whole number")
    return value


def entries(fields: Mapping[str, object], name: str) -> list[object]:
    """A field that is a list.

    Raises:
        SharpError: it is something else.
    """
    value = fields[name]
    if not isinstance(value, list):
        raise wrong(name, value, "a list")
    return value


def fields_in(fields: Mapping[str, object], name: str) -> dict[str, object]:
    """A field that is an object.

    Raises:
        SharpError: it is something else.
    """
    value = fields[name]
    if not isinstance(value, dict):
        raise wrong(name, value, "an object, or null")
    return value


def wrong(name: str, value: object, expected: str) -> SharpError:
    """The error for a field's value."""
    return SharpError(
        f"{name} is {_shown(value)}; it must be {expected}; use the configuration that came with the weights"
    )


def wrong_length(name: str, count: int, expected: str) -> SharpError:
    """The error for a list of so many entries."""
    return SharpError(
        f"{name} has {count} entries; it must have {expected}; use the configuration that came with the weights"
    )


def _shown(value: object) -> str:
    """A value of a file, short."""
    if _is_count(value):
        return f"{value:,}" if abs(value) < 10**30 else "out of range"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
