"""Numbers of a configuration that no model can have: found when it is opened, not as NaN at the end of an export."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

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


def check_counts(content: Mapping[str, Any], source: Path) -> None:
    """Refuse sizes that no model has, before anything is made of them; other types are left to transformers.

    Args:
        content: of config.json.
        source: the file that it comes from, for messages.

    Raises:
        SharpError: a count is below what it must be, or beyond what any model has.
    """
    for name, most in _MOST.items():
        value = content.get(name)
        least = _COUNTS.get(name, 0)
        if isinstance(value, int | float) and not least <= value <= most:
            raise _wrong(source, name, value, f"between {least} and {most:,}")


def check_config(config: PreTrainedConfig, source: Path) -> None:
    """Refuse a configuration whose numbers make no model.

    Args:
        source: the file that it comes from, for messages.

    Raises:
        SharpError: a count is below what it must be, key heads do not divide heads, a norm's ε, RoPE's base, a scale or
            a soft cap is not a finite number above zero, attention is not causal, or a token id is not in the
            vocabulary.
    """
    for name, least in _COUNTS.items():
        value = getattr(config, name, None)
        if value is not None and not (_is_count(value) and value >= least):
            raise _wrong(source, name, value, f"a whole number from {least}")
    heads, keys = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    if keys is not None and heads % keys:
        raise _wrong(source, "num_key_value_heads", keys, f"a divisor of num_attention_heads, {heads}")
    if getattr(config, "head_dim", None) is None and config.hidden_size % heads:
        raise _wrong(source, "num_attention_heads", heads, f"a divisor of hidden_size, {config.hidden_size}")
    for name in _FACTORS:
        value = getattr(config, name, None)
        if value is not None and not _is_factor(value):
            raise _wrong(source, name, value, "a finite number above 0")
    if (window := getattr(config, "sliding_window", None)) is not None and not (_is_count(window) and window >= 1):
        raise _wrong(source, "sliding_window", window, "a whole number from 1, or null")
    if getattr(config, "use_bidirectional_attention", None):
        raise SharpError(f"{source}: use_bidirectional_attention: a decoder that sees later tokens cannot be exported")
    _check_rope(getattr(config, "rope_parameters", None), "rope_parameters", source)
    for name in ("bos_token_id", "eos_token_id"):
        token_ids(getattr(config, name, None), config.vocab_size, f"{source}: {name}")


def token_ids(value: Any, vocabulary: int, field: str) -> list[int]:
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


def _check_rope(parameters: Any, name: str, source: Path) -> None:
    """RoPE's parameters, or those of each kind of layer."""
    for key, value in (parameters or {}).items():
        if key in ("short_factor", "long_factor") and value is not None and not _are_factors(value):
            raise _wrong(source, f"{name}.{key}", value, "a list of finite numbers above 0")
        if key in _ROPE_FACTORS and value is not None and not _is_factor(value):
            raise _wrong(source, f"{name}.{key}", value, "a finite number above 0")
        if isinstance(value, dict):
            _check_rope(value, f"{name}.{key}", source)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_factor(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < 1e30 and math.isfinite(value)


def _are_factors(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_factor, value))


def _wrong(source: Path, name: str, value: Any, expected: str) -> SharpError:
    return SharpError(
        f"{source}: {name} is {_shown(value)}; it must be {expected}; use the configuration that came with the weights"
    )


def _shown(value: Any) -> str:
    """A value of a file, short."""
    if _is_count(value):
        return f"{value:,}" if abs(value) < 10**30 else "out of range"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
