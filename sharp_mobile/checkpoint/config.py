"""The configuration of a checkpoint: config.json, read and checked before any weight is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from sharp_mobile.checkpoint.config_check import check_config, check_counts
from sharp_mobile.checkpoint.other_formats import other_format
from sharp_mobile.errors import SharpError, one_line, prefixed
from sharp_mobile.files.json_file import read_json
from sharp_mobile.files.paths import is_regular_file
from sharp_mobile.model.families import FAMILIES, family_of

CONFIG_JSON = "config.json"
GENERATION_JSON = "generation_config.json"


def config_of(directory: Path) -> PreTrainedConfig:
    """The configuration of a Hugging Face directory.

    Raises:
        SharpError: it has none, or that of another model.
    """
    path = directory / CONFIG_JSON
    if not is_regular_file(path):
        nothing = "holds no config.json; give the directory that holds config.json and the weights"
        raise SharpError(f"{directory}: {other_format(directory) or nothing}")
    return read_config(path)


def read_config(path: Path) -> PreTrainedConfig:
    """The config.json of a supported, unquantized model.

    Raises:
        SharpError: it is of another model.
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
    check_counts(content, path)
    with named_errors(path):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    check_config(config, path)
    return config


@contextmanager
def named_errors(path: Path, what: str = "cannot be loaded") -> Iterator[None]:
    """Turn what transformers raises over a broken file, which is of many kinds, into one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise SharpError(f"{path}: {what}: {one_line(error)}; use the file that came with the weights") from error
