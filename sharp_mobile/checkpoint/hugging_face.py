"""Configurations as transformers holds them, and its errors and remarks in our form."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers
from transformers import AutoConfig, PreTrainedConfig

from sharp_mobile.checkpoint.config import architecture_of, config_file, read_architecture
from sharp_mobile.checkpoint.gguf_fields import gguf_fields
from sharp_mobile.checkpoint.gguf_file import GGUFHeader
from sharp_mobile.console import shows_bars
from sharp_mobile.errors import SharpError, one_line, prefixed


def config_of(directory: Path) -> PreTrainedConfig:
    """The configuration of a Hugging Face directory.

    Raises:
        SharpError: it has none, or that of another model.
    """
    return read_config(config_file(directory))


def read_config(path: Path) -> PreTrainedConfig:
    """The config.json of a supported, unquantized model.

    Raises:
        SharpError: it is of another model, or transformers refuses it.
    """
    read_architecture(path)
    with named_errors(path):
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        return config


def gguf_config(header: GGUFHeader) -> PreTrainedConfig:
    """The configuration that the header of a GGUF file describes.

    Raises:
        SharpError: as `gguf_fields`, or transformers refuses it.
    """
    fields = gguf_fields(header)
    with prefixed(header.path):
        architecture_of(fields)
    named = str(fields.pop("model_type"))
    try:
        return AutoConfig.for_model(named, **fields)
    except Exception as error:  # transformers' checks of the fields raise errors of several kinds
        raise SharpError(f"{header.path}: its metadata describes no {named} model: {one_line(error)}") from error


@contextmanager
def named_errors(path: Path, what: str = "cannot be loaded") -> Iterator[None]:
    """Turn what transformers raises over a broken file, which is of many kinds, into one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise SharpError(f"{path}: {what}: {one_line(error)}; use the file that came with the weights") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' remarks while it loads (what matters is checked here), and its bars only if asked for."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not shows_bars():
        logging.disable_progress_bar()  # and the hub's
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
