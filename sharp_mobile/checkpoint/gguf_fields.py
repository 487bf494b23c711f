"""The header of a GGUF file as the fields of a config.json.

Every key of the architecture is one of four: translated into a field, harmless, known to the `gguf` package
but not translated (so it must have the value that changes nothing), or unknown to both (a warning). What an absent key
means is what llama.cpp takes it for; where Hugging Face's default is another, the key must be there.
"""

import math
import re

import numpy as np
from gguf import Keys

from sharp_mobile.checkpoint.config_check import whole
from sharp_mobile.checkpoint.gguf_file import ARCHITECTURES, ROPE_FACTORS, GGUFHeader, GGUFValue, dequantized, shown
from sharp_mobile.checkpoint.rope import llama3_frequencies
from sharp_mobile.errors import SharpError

_HUGGING_FACE = "give the Hugging Face directory of the model"
_WIDEST = 1 << 22  # of a layer, a vocabulary or a count of heads
_DEEPEST = 1000  # layers
_LONGEST = (1 << 31) - 1  # tokens
_LAYER = re.compile(r"blk\.([0-9]{1,9})\.")


def gguf_fields(header: GGUFHeader) -> dict[str, object]:
    """The fields of the config.json that a header stands for, model_type among them.

    Raises:
        SharpError: the file holds no model of a supported architecture, a value is missing or impossible, or a key
            changes the computation in a way that is not translated.
    """
    _check_is_model(header)
    options = _options(header)
    options |= _attention(header, options) | _rope(header, options)
    windows = _windows(header, options)
    model_type = ARCHITECTURES[header.architecture]
    if model_type == "llama" and windows:
        model_type = "mistral"  # the same model, with a window in every layer
    _check_untranslated(header, options)
    return {"model_type": model_type, **options, **windows}


def gguf_warnings(header: GGUFHeader) -> list[str]:
    """A line about keys of the architecture that neither this module nor the `gguf` package knows."""
    unknown = [key for key in _own_keys(header) if key not in _KNOWN]
    if not unknown:
        return []
    named = ", ".join(f"{header.architecture}.{key}" for key in unknown[:5])
    return [f"{header.path}: metadata that is not known here was ignored: {len(unknown)}, such as {named}"]


def _check_is_model(header: GGUFHeader) -> None:
    path, metadata, architecture = header.path, header.metadata, header.architecture
    kind = metadata.get("general.type", "model")
    if kind == "adapter" or any(key.startswith("adapter.") for key in metadata):
        raise SharpError(
            f"{path}: holds an adapter (general.type), not a model; merge it into its base model, with llama.cpp's "
            "llama-export-lora for example, and give the result"
        )
    if kind == "mmproj" or architecture == "clip":
        raise SharpError(f"{path}: holds the image or audio part of a model; give the GGUF of its language model")
    if kind != "model":
        raise SharpError(f"{path}: general.type is {shown(kind)}, so it holds no model; give the GGUF of a model")
    experts = header.get("expert_count", 0)
    if experts:
        raise SharpError(
            f"{path}: is a mixture of experts ({architecture}.expert_count is {shown(experts)}), which is not "
            "supported; use a dense model"
        )
    if architecture not in ARCHITECTURES:
        raise SharpError(
            f"{path}: GGUF architecture {shown(architecture)} is not supported; supported are "
            f"{', '.join(ARCHITECTURES)}; give the Hugging Face directory of other families"
        )
    if metadata.get("split.count", 0) not in (0, 1):
        raise SharpError(f"{path}: is one of several parts; join them with `llama-gguf-split --merge`")
    if not header.tensors:
        raise SharpError(f"{path}: holds no tensors, only metadata (a vocabulary); give the GGUF of a model")
    if "token_embd.weight" not in header.tensors:
        raise SharpError(
            f"{path}: tensor token_embd.weight is missing; output.weight cannot take its place, because GGUF does not "
            "say that they are one; use another GGUF of the model"
        )


def _options(header: GGUFHeader) -> dict[str, object]:
    """The sizes, and the fields that every model has."""
    tensors = header.tensors
    layers = _whole(header, "block_count", least=0, most=1 << 64)
    stored = len({match[1] for name in tensors if (match := _LAYER.match(name))})
    if layers != stored:
        raise SharpError(
            f"{header.path}: {header.architecture}.block_count is {layers:,}, its tensors belong to {stored:,} layers; "
            "use another GGUF of the model"
        )
    if not 0 < layers <= _DEEPEST:
        raise _impossible(header, "block_count", f"a whole number from 1 to {_DEEPEST:,}")
    heads, hidden = _whole(header, "attention.head_count"), _whole(header, "embedding_length")
    tokens = (_token(header, name) for name in ("eos", "eot"))
    ends = list(dict.fromkeys(token for token in tokens if token is not None))
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": _whole(header, "feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": _whole(header, "attention.head_count_kv", heads),
        "head_dim": _whole(header, "attention.key_length", hidden // heads),
        "max_position_embeddings": _whole(header, "context_length", most=_LONGEST),
        "rms_norm_eps": _positive(header, "attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": _token(header, "bos"),
        "pad_token_id": _token(header, "padding"),
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        # The tokens listed may be fewer: embeddings are often padded.
        "vocab_size": tensors["token_embd.weight"].shape[0],
    }


def _attention(header: GGUFHeader, options: dict[str, object]) -> dict[str, object]:
    """Heads, scale, soft-capping and biases, each where the family's Hugging Face module has it."""
    own = header.architecture
    heads, key_heads, width = (
        whole(options, key) for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    if heads % key_heads:
        raise SharpError(
            f"{header.path}: {own}.attention.head_count_kv is {key_heads}, which does not divide the {heads} heads; "
            "use another GGUF of the model"
        )
    if width < 2 or width % 2:
        raise SharpError(f"{header.path}: its heads are {width} wide, which RoPE cannot turn; use another GGUF of it")
    found: dict[str, object] = {}
    if own.startswith("gemma"):
        found["query_pre_attn_scalar"] = _gemma_scale(header, options)
    for key in _SOFT_CAPS.get(own, ()):
        if header.get(key) is not None:
            found[key] = _positive(header, key)
    if own in ("llama", "qwen3", "gemma3"):
        found["attention_bias"] = any(f"blk.0.attn_{which}.bias" in header.tensors for which in "qkv")
    if own == "llama":
        found["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    return found


# Gemma 3's attention in Hugging Face takes no soft-capping. Absent, Gemma 2's are 50 and 30 to llama.cpp, as to
# Hugging Face.
_SOFT_CAPS = {
    "gemma2": ("attn_logit_softcapping", "final_logit_softcapping"),
    "gemma3": ("final_logit_softcapping",),
}


def _gemma_scale(header: GGUFHeader, options: dict[str, object]) -> int:
    """What q·k is divided by the root of: the head's width in all but the 27B models."""
    if header.get("attention.scale"):
        return round(_positive(header, "attention.scale") ** -2)
    if (header.architecture, options["num_hidden_layers"]) in (("gemma2", 46), ("gemma3", 62)):
        raise SharpError(f"{header.path}: GGUF does not give the attention scale of 27B; {_HUGGING_FACE}")
    return whole(options, "head_dim")


def _rope(header: GGUFHeader, options: dict[str, object]) -> dict[str, object]:
    """RoPE's base frequency, and Llama 3's scaling."""
    kind = header.get("rope.scaling.type", "linear")  # as llama.cpp has it
    factors = [header.get(key) for key in ("rope.scaling.factor", "rope.scale_linear")]
    scaled = kind != "none" and (kind != "linear" or any(factor not in (None, 0, 1) for factor in factors))
    if scaled or header.get("rope.dimension_count", whole(options, "head_dim")) != options["head_dim"]:
        raise _scaled(header)
    found: dict[str, object] = {}
    if header.get("rope.freq_base") is not None or header.architecture == "gemma3":
        found["rope_theta"] = _positive(header, "rope.freq_base")
    if header.architecture == "gemma3":  # absent, 10,000 to both
        found["rope_local_base_freq"] = _positive(header, "rope.freq_base_swa", 10000.0)
    if header.architecture == "llama" and ROPE_FACTORS in header.tensors:
        found["rope_parameters"] = _llama3_rope(header, options)
    elif any(name.startswith("rope_") for name in header.tensors):
        raise _scaled(header)
    return found


def _scaled(header: GGUFHeader) -> SharpError:
    return SharpError(
        f"{header.path}: its RoPE is scaled or partial, which GGUF does not describe fully; {_HUGGING_FACE}"
    )


def _llama3_rope(header: GGUFHeader, options: dict[str, object]) -> dict[str, object]:
    """Llama 3's RoPE scaling, of which GGUF keeps only the divisors of the frequencies that it comes to.

    All Llama 3.1 to 3.3 differ in the largest divisor alone (8, or 32 in 3.2); that these settings give the file's
    divisors is checked.
    """
    divisors = dequantized(header, ROPE_FACTORS)
    theta = _positive(header, "rope.freq_base", 10000.0)
    settings = {
        "rope_theta": theta,
        "factor": float(divisors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    unlike = SharpError(f"{header.path}: its RoPE is scaled unlike Llama 3's; {_HUGGING_FACE}")
    width = whole(options, "head_dim")
    if divisors.shape != (width // 2,) or not ((divisors > 0) & np.isfinite(divisors)).all():
        raise unlike
    frequencies = llama3_frequencies(width, settings)
    plain = theta ** -(np.arange(len(divisors)) / len(divisors))
    if not np.allclose(plain / divisors, frequencies, rtol=1e-3):
        raise unlike
    return {"rope_type": "llama3", **settings}


# The period of layers of which the last sees everything, where a family has its own; 0: none does.
_PERIODS = {"gemma2": 2, "gemma3": 6, "phi3": 0, "llama": 0}


def _windows(header: GGUFHeader, options: dict[str, object]) -> dict[str, object]:
    """Sliding windows: how far they reach back, and which layers have one."""
    own, layers = header.architecture, whole(options, "num_hidden_layers")
    if own == "gemma3" and not header.get("attention.sliding_window"):
        raise _missing(header, "attention.sliding_window")  # Hugging Face's default is another model's
    window = _whole(header, "attention.sliding_window", 4096 if own == "gemma2" else 0, least=0, most=_LONGEST)
    if own == "gemma2" and window == 0:
        raise _impossible(header, "attention.sliding_window", "1 or more")
    if window == 0 or (own in ("llama", "qwen2", "qwen3") and window >= whole(options, "max_position_embeddings")):
        return {"sliding_window": None} if own == "phi3" else {}
    sliding = _sliding_layers(header, layers)
    if own in ("llama", "phi3"):
        if not all(sliding):
            raise _untranslated(header, "attention.sliding_window_pattern")
        return {"sliding_window": window}
    types = ["sliding_attention" if slides else "full_attention" for slides in sliding]
    used: dict[str, object] = {"use_sliding_window": True} if own[:4] == "qwen" else {}
    return {"sliding_window": window, "layer_types": types, **used}


def _sliding_layers(header: GGUFHeader, layers: int) -> list[bool]:
    """Which layers have a window: from a list with an entry a layer, or from the period of those that have none."""
    key = "attention.sliding_window_pattern"
    pattern = header.get(key, _PERIODS.get(header.architecture))
    if pattern is None:
        raise _untranslated(header, "attention.sliding_window")  # which layers it is for is not said
    if isinstance(pattern, list) and len(pattern) == layers and all(entry in (0, 1) for entry in pattern):
        return [bool(entry) for entry in pattern]
    if type(pattern) is not int or not 0 <= pattern <= layers:
        raise _impossible(header, key, f"a period, or {layers} times 0 or 1")
    return [pattern == 0 or layer % pattern < pattern - 1 for layer in range(layers)]


_TRANSLATED = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon"),
    *("attention.sliding_window", "rope.freq_base", "rope.dimension_count"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "expert_count"),
}
_TRANSLATED_OF = {
    "gemma2": {"attention.scale", "attention.sliding_window_pattern", *_SOFT_CAPS["gemma2"]},
    "gemma3": {
        *("attention.scale", "attention.sliding_window_pattern", "rope.freq_base_swa"),
        *_SOFT_CAPS["gemma3"],
    },
    "llama": {"attention.sliding_window_pattern"},
    "phi3": {"attention.sliding_window_pattern"},
    "qwen2": {"attention.sliding_window_pattern"},
    "qwen3": {"attention.sliding_window_pattern"},
}
# What these say has no effect: llama.cpp uses the last four with YaRN and LongRoPE alone, which are refused.
_HARMLESS = {
    *("vocab_size", "tensor_data_layout"),
    *("rope.scaling.finetuned", "rope.scaling.original_context_length"),
    *("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
}


def _gguf_keys(group: type = Keys) -> set[str]:
    """The keys of an architecture that the `gguf` package knows, without the architecture."""
    found: set[str] = set()
    for value in vars(group).values():
        if isinstance(value, type):
            found |= _gguf_keys(value)
        elif isinstance(value, str) and value.startswith("{arch}."):
            found.add(value.removeprefix("{arch}."))
    return found


_KNOWN = _gguf_keys() | _TRANSLATED | _HARMLESS


def _own_keys(header: GGUFHeader) -> list[str]:
    prefix = f"{header.architecture}."
    return [key.removeprefix(prefix) for key in header.metadata if key.startswith(prefix)]


def _check_untranslated(header: GGUFHeader, options: dict[str, object]) -> None:
    """Refuse a key that changes the computation and is in no field."""
    width, theta = whole(options, "head_dim"), options.get("rope_theta", 10000.0)
    neutral: dict[str, tuple[object, ...]] = {
        **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale", "attention.output_scale"), (0, 1)),
        **dict.fromkeys(("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"), (0, 1)),
        **dict.fromkeys(("attention.value_length", "attention.key_length_swa", "attention.value_length_swa"), (width,)),
        "rope.dimension_count_swa": (width,),
        "rope.freq_base_swa": (theta,),
        "rope.scaling.yarn_ext_factor": (0, -1),
        "embedding_length_out": (0, options["hidden_size"]),
        "attention.layer_norm_epsilon": (options["rms_norm_eps"],),
        "attention.causal": (True,),
        "attention.scale": (0, width**-0.5),
    }
    translated = _TRANSLATED | _HARMLESS | _TRANSLATED_OF[header.architecture]
    for key in _own_keys(header):
        if key in _KNOWN and key not in translated and not _is_one_of(header.get(key), neutral.get(key, (0, ""))):
            if key == "pooling_type":
                raise SharpError(
                    f"{header.path}: {header.architecture}.pooling_type is {shown(header.get(key))}: it embeds or "
                    "ranks texts, and predicts no tokens; give the GGUF of a causal language model"
                )
            raise _untranslated(header, key)


def _is_one_of(value: GGUFValue | None, neutral: tuple[object, ...]) -> bool:
    """Whether a value, or each entry of a list, is one of these; numbers as far as float32 tells them apart."""
    if isinstance(value, list):
        return all(_is_one_of(entry, neutral) for entry in value)
    if isinstance(value, int | float):
        return any(isinstance(n, int | float) and math.isclose(value, n, rel_tol=1e-6) for n in neutral)
    return value in neutral


def _untranslated(header: GGUFHeader, key: str) -> SharpError:
    return SharpError(
        f"{header.path}: {header.architecture}.{key} is {shown(header.get(key))}, which changes what the model "
        f"computes and cannot be taken over; {_HUGGING_FACE}"
    )


def _missing(header: GGUFHeader, key: str) -> SharpError:
    return SharpError(
        f"{header.path}: its metadata has no {header.architecture}.{key}; use another GGUF of the model, or "
        f"{_HUGGING_FACE}"
    )


def _impossible(header: GGUFHeader, key: str, wanted: str) -> SharpError:
    return SharpError(
        f"{header.path}: {header.architecture}.{key} is {shown(header.get(key))}, must be {wanted}; use another GGUF "
        "of the model"
    )


def _whole(header: GGUFHeader, key: str, default: int | None = None, *, least: int = 1, most: int = _WIDEST) -> int:
    """A whole number of the architecture's metadata; from a list with an entry a layer, if all are equal."""
    value = header.get(key, default)
    if isinstance(value, list) and value:
        if any(entry != value[0] for entry in value):
            raise SharpError(
                f"{header.path}: {header.architecture}.{key} differs from layer to layer, which is not supported; "
                "use a model whose layers are alike"
            )
        value = value[0]
    if value is None:
        raise _missing(header, key)
    if type(value) is not int or not least <= value <= most:
        if key in _own_keys(header):
            raise _impossible(header, key, f"a whole number from {least:,} to {most:,}")
        raise _missing(header, key)  # and nothing to take in its place
    return value


def _positive(header: GGUFHeader, key: str, default: float | None = None) -> float:
    value = header.get(key, default)
    if value is None:
        raise _missing(header, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _impossible(header, key, "a positive number")
    return float(value)


def _token(header: GGUFHeader, name: str) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = header.metadata.get(key)
    if value is not None and type(value) is not int:
        raise SharpError(
            f"{header.path}: {key} is {shown(value)}, must be a token's number; use another GGUF of the model"
        )
    return value
