"""Directories that hold something else than a Hugging Face model: what it is, and what to do with it.

People give the adapter that PEFT wrote, the files of a maker's own release, or a directory of GGUF files. Each is known
by the files in it, so the message can name it instead of listing what is missing.
"""

import fnmatch
import os
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import read_json
from sharp_mobile.files.paths import is_regular_file

ADAPTER_CONFIG = "adapter_config.json"
# Small files that tell what a repository of the hub is, where it is not a model.
TELLING_FILES = (
    ADAPTER_CONFIG,
    "params.json",
    "model_index.json",
    "modules.json",
    "quantize_config.json",
    "quant_config.json",
)
_HUGGING_FACE = "use the Hugging Face version of the model, with config.json and model.safetensors"


def other_format(directory: Path) -> str | None:
    """What a directory without config.json or without weights is, and the way out; None if it is not recognised."""
    names = _names(directory)
    for known in (_adapter, _makers_own, _pipeline, _quantized, _gguf_files, _other_weights, _subdirectory):
        found = known(directory, names)
        if found is not None:
            return found
    return None


def _names(directory: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name.isprintable())
    except OSError:
        return []


def _fields(path: Path) -> dict[str, object]:
    """What a JSON file holds; nothing if it is broken, since another message is on its way."""
    try:
        return read_json(path) if is_regular_file(path) else {}
    except SharpError:
        return {}


def _adapter(directory: Path, names: list[str]) -> str | None:
    if ADAPTER_CONFIG not in names and not any(name.startswith("adapter_model.") for name in names):
        return None
    base = _fields(directory / ADAPTER_CONFIG).get("base_model_name_or_path")
    whose = f" of the base model {base!r}" if isinstance(base, str) and base and len(base) < 500 else ""
    return (
        f"holds an adapter (PEFT){whose}, not a model; merge it into its base model with peft's merge_and_unload(), "
        "save the result with save_pretrained, and give that directory"
    )


def _makers_own(directory: Path, names: list[str]) -> str | None:
    if not fnmatch.filter(names, "consolidated*") and not {"params.json", "tokenizer.model"} <= set(names):
        return None
    fields = _fields(directory / "params.json")
    if "tekken.json" in names or fnmatch.filter(names, "consolidated*.safetensors"):
        whose = "Mistral's own format"
    elif "multiple_of" in fields:
        whose = "Meta's own Llama format"
    else:
        whose = "the own format of Meta or Mistral"
    return f"holds a model in {whose} (params.json, consolidated.*), which is not supported; {_HUGGING_FACE}"


def _pipeline(directory: Path, names: list[str]) -> str | None:
    if "model_index.json" in names:
        return "holds a diffusers pipeline (model_index.json), not a language model"
    if "modules.json" in names and "config_sentence_transformers.json" in names:
        return "holds a sentence-transformers model (modules.json), which embeds texts and predicts no tokens"
    return None


def _quantized(directory: Path, names: list[str]) -> str | None:
    for name in ("quantize_config.json", "quant_config.json"):
        if name in names:
            return f"holds a model that is quantized already ({name}); use the original"
    return None


def _gguf_files(directory: Path, names: list[str]) -> str | None:
    files = fnmatch.filter(names, "*.gguf")
    if not files:
        return None
    if all(fnmatch.fnmatch(name, "*-?????-of-?????.gguf") for name in files):
        return f"holds a split GGUF file ({files[0]}, …); join it with `llama-gguf-split --merge`, and give the result"
    if len(files) == 1:
        return f"holds a GGUF file and no config.json; give {directory / files[0]} itself"
    return f"holds {len(files)} GGUF files; give one of them itself, such as {directory / files[0]}"


def _other_weights(directory: Path, names: list[str]) -> str | None:
    if {"model.safetensors", "model.safetensors.index.json"} & set(names):
        return None
    if fnmatch.filter(names, "*.onnx") or "onnx" in names:
        return f"holds an ONNX model; {_HUGGING_FACE}"
    for pattern in ("tf_model*.h5", "flax_model*.msgpack", "rust_model.ot"):
        if found := fnmatch.filter(names, pattern):
            return f"holds the weights for another framework ({found[0]}); {_HUGGING_FACE}"
    if found := fnmatch.filter(names, "model*-of-*.safetensors"):
        return f"holds shards of weights ({found[0]}) without model.safetensors.index.json; copy or download that, too"
    if "config.json" in names and (found := fnmatch.filter(names, "*.safetensors")):
        return (
            f"holds {found[0]}, and not the names that Hugging Face gives weights: model.safetensors, or "
            "model.safetensors.index.json with its shards; rename the file if it is the whole model"
        )
    return None


def _subdirectory(directory: Path, names: list[str]) -> str | None:
    if "config.json" in names:
        return None
    found = [name for name in names if os.path.exists(directory / name / "config.json")]  # which never raises
    return f"holds no config.json; give a directory that does, such as {directory / found[0]}" if found else None
