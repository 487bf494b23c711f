"""RoPE's parameters in a configuration: the form that transformers 5 gives them, and the rotations that they make.

    rope_theta, rope_scaling, partial_rotary_factor (transformers 4)  ─┐
    rope_parameters                                                    ├──► rope_parameters ──► tables, a kind each
    rope_parameters of each kind of layer, rope_local_base_freq        ─┘

Only Gemma 3 has parameters for each kind of layer; the other families' modules read one set.
"""

import copy
import math
from collections.abc import Mapping

from sharp_mobile.checkpoint.config_check import entries, fields_in, is_factor, whole, wrong, wrong_length
from sharp_mobile.model.architecture import RotaryTable

PARAMETERS = "rope_parameters"
_THETA = {"smollm3": 2_000_000.0}
_USUAL_THETA = 10_000.0
_GEMMA3_THETA = {"full_attention": ("rope_theta", 1_000_000.0), "sliding_attention": ("rope_local_base_freq", 10_000.0)}

# What each type must have besides rope_theta.
NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "proportional": (),
}
_FACTOR_LISTS = ("short_factor", "long_factor")
_OF_SCALED_LENGTH, _TRAINED = ("llama3", "yarn", "longrope"), "original_max_position_embeddings"


def standard_rope(content: Mapping[str, object], fields: Mapping[str, object]) -> dict[str, object]:
    """RoPE's parameters as transformers 5 holds them, with its defaults; of each kind of layer for Gemma 3.

    Args:
        content: of a config.json. fields: its fields, with the defaults of the family.

    Raises:
        SharpError: they are not an object, or hold something else where an object belongs.
    """
    own = {} if fields[PARAMETERS] is None else copy.deepcopy(fields_in(fields, PARAMETERS))
    scaling = copy.deepcopy(content.get("rope_scaling"))
    if scaling is not None and not isinstance(scaling, dict):
        raise wrong("rope_scaling", scaling, "an object, or null")
    if fields["model_type"] == "gemma3_text":
        return _of_each_kind(content, fields, own, scaling or {})
    usual = _THETA.get(str(fields["model_type"]), _USUAL_THETA)
    return _standard(scaling or own, content, fields, "rope_theta", usual)


def _of_each_kind(
    content: Mapping[str, object], fields: Mapping[str, object], own: dict[str, object], scaling: dict[str, object]
) -> dict[str, object]:
    """Gemma 3's parameters: `scaling` is for the layers that see everything."""
    found: dict[str, object] = {}
    for kind, (theta, usual) in _GEMMA3_THETA.items():
        parameters = own.get(kind)
        if parameters is not None and not isinstance(parameters, dict):
            raise wrong(f"{PARAMETERS}.{kind}", parameters, "an object, or null")
        parameters = {"rope_type": "default"} if parameters is None else parameters
        parameters |= scaling if kind == "full_attention" else {}
        found[kind] = _standard(parameters, content, fields, theta, usual)
    return found


def _standard(
    parameters: dict[str, object], content: Mapping[str, object], fields: Mapping[str, object], theta: str, usual: float
) -> dict[str, object]:
    """One set of parameters with its defaults; `theta` is the field of transformers 4 that has its base."""
    parameters.setdefault("rope_theta", content.get(theta, usual))
    if content.get("partial_rotary_factor") is not None:
        parameters.setdefault("partial_rotary_factor", content["partial_rotary_factor"])
    parameters.setdefault("rope_type", parameters.get("type", "default"))
    if fields["model_type"] == "phi3" and parameters["rope_type"] in ("su", "yarn"):
        parameters["rope_type"] = "longrope"  # as Phi-3's first files had it
    if parameters["rope_type"] in _OF_SCALED_LENGTH:
        if (trained := fields.get(_TRAINED)) is not None:  # Phi-3's own field counts
            parameters[_TRAINED] = trained
        parameters.setdefault(_TRAINED, fields["max_position_embeddings"])
    return parameters


def rotary_tables(fields: Mapping[str, object], width: int) -> tuple[tuple[RotaryTable, ...], tuple[int | None, ...]]:
    """The distinct RoPE tables of completed fields, and which one each layer uses (None: no RoPE).

    Args:
        width: of a head.

    Raises:
        SharpError: parameters that make no rotation.
    """
    layers, model_type = whole(fields, "num_hidden_layers"), fields["model_type"]
    rotates = entries(fields, "no_rope_layers") if model_type == "smollm3" else [True] * layers
    kinds = map(str, entries(fields, "layer_types")) if model_type == "gemma3_text" else [""] * layers
    tables: dict[str, RotaryTable] = {}
    table_of: list[int | None] = []
    for kind, turned in zip(kinds, rotates, strict=False):
        if not turned:
            table_of.append(None)
            continue
        if kind not in tables:
            tables[kind] = _table(fields, kind, width)
        table_of.append(list(tables).index(kind))
    return tuple(tables.values()), tuple(table_of)


def _table(fields: Mapping[str, object], kind: str, width: int) -> RotaryTable:
    parameters = fields_in(fields, PARAMETERS)
    parameters = fields_in(parameters, kind) if kind else parameters
    where = f"{PARAMETERS}.{kind}" if kind else PARAMETERS
    rope_type, phi3 = parameters["rope_type"], fields["model_type"] == "phi3"
    types = ("default", "longrope") if phi3 else tuple(NEEDED)
    if not isinstance(rope_type, str) or rope_type not in types:
        raise wrong(f"{where}.rope_type", rope_type, f"one of {', '.join(types)}")
    for name in ("rope_theta", *NEEDED[rope_type], *([_TRAINED] if rope_type in _OF_SCALED_LENGTH else [])):
        if parameters.get(name) is None:
            raise wrong(f"{where}.{name}", None, f"a number, which RoPE of type {rope_type} needs")
    for name, value in parameters.items():
        if isinstance(value, dict):
            raise wrong(f"{where}.{name}", value, "a number: the layers of this family have one RoPE")
    turned = _turned(parameters, width, where, rope_type, phi3)
    if 2 * turned > width:
        raise wrong("head_dim", width, "even, because RoPE turns pairs of dimensions")
    for name in _FACTOR_LISTS:
        factors = parameters.get(name)
        if isinstance(factors, list) and (rope_type == "longrope" or phi3) and len(factors) != turned:
            raise wrong_length(f"{where}.{name}", len(factors), f"{turned}, one for each pair of dimensions")
    return RotaryTable(rope_type, 2 * turned)


def _turned(parameters: Mapping[str, object], width: int, where: str, rope_type: str, phi3: bool) -> int:
    """How many pairs of a head's dimensions are turned."""
    part = parameters.get("partial_rotary_factor", 1.0)
    if part is None or not is_factor(part) or part > 1:
        raise wrong(f"{where}.partial_rotary_factor", part, "a number above 0, 1 at most")
    if rope_type == "proportional":  # all are in the table, some by an angle of 0
        return width // 2
    # The plain type reads it in Phi-3 alone.
    partial = width if rope_type == "default" and not phi3 else int(width * part)
    return -(-partial // 2)


def llama3_frequencies(width: int, settings: Mapping[str, float]) -> list[float]:
    """Inverse frequencies [width / 2] of Llama 3's RoPE, for heads of a width and the parameters of a configuration.

    Long waves are stretched by the factor, short ones stay, and those between are blended.
    """
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    found = []
    for dimension in range(0, width, 2):
        plain = settings["rope_theta"] ** -(dimension / width)
        periods = settings["original_max_position_embeddings"] * plain / (2 * math.pi)
        kept = min(max((periods - low) / (high - low), 0.0), 1.0)
        found.append((1 - kept) * plain / settings["factor"] + kept * plain)
    return found
