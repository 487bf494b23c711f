"""A model without its weights: what config.json, or the header of a GGUF file, tells of it.

    config ──► modules on the meta device, shared by a plan

A tensor on the meta device has a shape and a type and nothing in it, so a model of any size takes no memory and
milliseconds. It goes through the code that exports a model, as far as that asks for shapes alone.
"""

import hashlib
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from sharp_mobile.checkpoint.build import on_meta
from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.config import CONFIG_JSON, config_of, read_config
from sharp_mobile.checkpoint.gguf_config import gguf_config
from sharp_mobile.checkpoint.gguf_file import gguf_header
from sharp_mobile.checkpoint.locate import locate, quiet
from sharp_mobile.checkpoint.other_formats import TELLING_FILES
from sharp_mobile.checkpoint.random_weights import shape_file
from sharp_mobile.checkpoint.sharp_format import read_sharing
from sharp_mobile.checkpoint.tokenizer import TOKENIZER_FILES
from sharp_mobile.errors import prefixed
from sharp_mobile.files.paths import is_regular_file
from sharp_mobile.model.share import share_layers
from sharp_mobile.recipe.sharp_json import SHARP_JSON
from sharp_mobile.recipe.source import Source


def open_blueprint(source: Source | str) -> Checkpoint:
    """What `open_checkpoint` opens, with every tensor of the model on the meta device, and without a tokenizer.

    Of a hub repository only the configuration and the tokenizer are downloaded. Whether the LM head is tied is what the
    configuration says.

    Raises:
        SharpError: nothing is there, or it is of a model that is not supported.
    """
    source, plan, recovery = Source.of(source), None, None
    with quiet():
        path = (
            shape_file(source)
            if source.kind == "random"
            else locate(source, [CONFIG_JSON, SHARP_JSON, *TOKENIZER_FILES, *TELLING_FILES])
        )
        config = _config(source, path)
        model = meta_model(config, path)
        if path.is_dir() and is_regular_file(path / SHARP_JSON):
            plan, recovery = read_sharing(path / SHARP_JSON, config)
            with prefixed(path / SHARP_JSON), torch.device("meta"):
                share_layers(model, plan, recovery)
    return Checkpoint(
        name=source.name,
        source=str(source),
        path=path,
        model=model,
        fingerprint=hashlib.sha256(config.to_json_string().encode()).hexdigest()[:16],
        plan=plan,
        recovery=recovery,
        random=source.kind == "random",
    )


def _config(source: Source, path: Path) -> PreTrainedConfig:
    if source.kind == "random":
        return read_config(path)
    return gguf_config(gguf_header(path)) if path.is_file() else config_of(path)


def meta_model(config: PreTrainedConfig, path: Path) -> PreTrainedModel:
    """The modules of a configuration, frozen, on the meta device."""
    return on_meta(config, path).eval().requires_grad_(False)
