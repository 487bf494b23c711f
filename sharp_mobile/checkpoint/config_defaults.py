"""The fields of a config.json that decide an architecture, and what transformers takes an absent one for.

transformers' configuration classes say the same (tests compare them), but importing one imports PyTorch.
"""

from collections.abc import Mapping

from sharp_mobile.checkpoint.config_check import entries, whole
from sharp_mobile.checkpoint.rope import standard_rope

# As transformers names the types of the fields.
_TYPES = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), "int"),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"), "int"),
    **dict.fromkeys(("original_max_position_embeddings", "max_window_layers", "no_rope_layer_interval"), "int"),
    "sliding_window_pattern": "int",
    **dict.fromkeys(("query_pre_attn_scalar", "sliding_window", "pad_token_id", "bos_token_id"), "int"),
    **dict.fromkeys(("rms_norm_eps", "attn_logit_softcapping", "final_logit_softcapping"), "float"),
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"), "bool"),
    **dict.fromkeys(("hidden_act", "hidden_activation"), "str"),
    "use_bidirectional_attention": "bool",
    "eos_token_id": "int | list[int]",
    "rope_parameters": "dict",
    "layer_types": "list[str]",
    "no_rope_layers": "list[int]",
}
# May be null, as may every field that is null by default.
_NULLABLE = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "sliding_window"),
    *("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"),
)
_NULLABLE_KEY_HEADS = ("qwen2", "qwen3", "smollm3")

_LLAMA: dict[str, object] = {
    **{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 2048},
    **{"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False},
    **{"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_parameters": None, "attention_bias": False, "mlp_bias": False},
}
_QWEN2: dict[str, object] = {
    **{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768},
    **{"pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False},
    **{"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_parameters": None},
    **{"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None},
}
_GEMMA2: dict[str, object] = {
    **{"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192},
    **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "tie_word_embeddings": True},
    **{"hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "rope_parameters": None},
    **{"attention_bias": False, "query_pre_attn_scalar": 256, "sliding_window": 4096, "layer_types": None},
    **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "use_bidirectional_attention": None},
}

DEFAULTS: dict[str, dict[str, object]] = {
    "llama": _LLAMA,
    "mistral": {
        **{name: value for name, value in _LLAMA.items() if name not in ("attention_bias", "mlp_bias")},
        **{"intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072},
        "sliding_window": 4096,
    },
    "qwen2": _QWEN2,
    "qwen3": {**_QWEN2, "head_dim": 128, "attention_bias": False},
    "phi3": {
        **{"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 4096},
        **{"pad_token_id": 32000, "bos_token_id": 1, "eos_token_id": 32000, "tie_word_embeddings": False},
        **{"hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_parameters": None, "sliding_window": None},
        "original_max_position_embeddings": 4096,
    },
    "gemma2": _GEMMA2,
    "gemma3_text": {
        **_GEMMA2,
        **{"vocab_size": 262208, "max_position_embeddings": 131072, "use_bidirectional_attention": False},
        **{"attn_logit_softcapping": None, "final_logit_softcapping": None},
        "sliding_window_pattern": 6,  # not a field to transformers 5, which reads it all the same
    },
    "smollm3": {
        **{"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36},
        **{"num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768},
        **{"pad_token_id": 128004, "bos_token_id": 128000, "eos_token_id": 128001, "tie_word_embeddings": True},
        **{"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_parameters": None},
        **{"attention_bias": False, "mlp_bias": False, "use_sliding_window": False, "sliding_window": None},
        **{"no_rope_layers": None, "no_rope_layer_interval": 4, "layer_types": None},
    },
    "olmo2": {
        **{"vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 2048},
        **{"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 50279, "tie_word_embeddings": False},
        **{"hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_parameters": None, "attention_bias": False},
    },
}
_SLIDING, _FULL = "sliding_attention", "full_attention"
# Of the fields that are not every family's, and that its modules read all the same where a configuration has them.
_READ_IF_THERE = ("head_dim", "layer_types")


def field_types(model_type: str) -> dict[str, str]:
    """The type of each field of a family, as transformers names it: "int | None"."""
    types = {}
    for name, default in DEFAULTS[model_type].items():
        nullable = default is None or name in _NULLABLE
        nullable = nullable or (name == "num_key_value_heads" and model_type in _NULLABLE_KEY_HEADS)
        types[name] = f"{_TYPES[name]} | None" if nullable else _TYPES[name]
    return {name: _TYPES[name] for name in _READ_IF_THERE} | types


def completed(content: Mapping[str, object]) -> dict[str, object]:
    """The fields of a config.json as transformers' configuration holds them: none absent, RoPE's parameters in full.

    Fields that the family's modules do not read stay as they are.

    Args:
        content: of the file; its fields have the types that `field_types` says.

    Raises:
        SharpError: RoPE's parameters make no rotation.
    """
    model_type = str(content["model_type"])
    fields = {**DEFAULTS[model_type], **content}
    if fields["num_key_value_heads"] is None:
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    if model_type in ("llama", "mistral") and fields["head_dim"] is None:
        fields["head_dim"] = head_width(fields)
    if "use_sliding_window" in DEFAULTS[model_type] and not fields["use_sliding_window"]:
        fields["sliding_window"] = None
    if model_type == "smollm3" and fields["no_rope_layers"] is None:
        period, layers = whole(fields, "no_rope_layer_interval"), whole(fields, "num_hidden_layers")
        fields["no_rope_layers"] = [int((layer + 1) % period != 0) for layer in range(layers)]
    if fields.get("layer_types") is None:
        fields["layer_types"] = _layer_types(fields)
    kinds = entries(fields, "layer_types")
    fields["layer_types"] = [_FULL if kind == "attention" else kind for kind in kinds]  # as 4.x had it
    fields["rope_parameters"] = standard_rope(content, fields)
    return fields


def head_width(fields: Mapping[str, object]) -> int:
    """The width of a head, which follows from that of all where a configuration does not say it."""
    if fields.get("head_dim") is not None:
        return whole(fields, "head_dim")
    return whole(fields, "hidden_size") // whole(fields, "num_attention_heads")


def _layer_types(fields: Mapping[str, object]) -> list[str]:
    """Which layers have a sliding window, where a configuration does not list them."""
    slides = [False] * whole(fields, "num_hidden_layers")
    windowed = fields.get("sliding_window") is not None
    match fields["model_type"]:
        case "qwen2" | "qwen3":
            slides = [windowed and layer >= whole(fields, "max_window_layers") for layer in range(len(slides))]
        case "gemma2":
            slides = [layer % 2 == 0 for layer in range(len(slides))]
        case "gemma3_text":
            slides = [(layer + 1) % whole(fields, "sliding_window_pattern") != 0 for layer in range(len(slides))]
        case "smollm3":
            slides = [windowed and not entries(fields, "no_rope_layers")[layer] for layer in range(len(slides))]
    return [_SLIDING if one else _FULL for one in slides]
