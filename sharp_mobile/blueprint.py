"""A model without its weights: what config.json, or the header of a GGUF file, tells of it.

    config ──► modules on the meta device, shared by a plan ──► a quantized decoder on the meta device

A tensor on the meta device has a shape and a type and nothing in it, so a model of any size takes no memory and
milliseconds. It goes through the code that exports a model, as far as that asks for shapes alone.
"""

import hashlib
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from sharp_mobile.checkpoint import (
    CONFIG_JSON,
    RANDOM,
    Checkpoint,
    checkpoint_name,
    config_of,
    locate,
    on_meta,
    prefixed,
    quiet,
    read_config,
    read_sharing,
)
from sharp_mobile.gguf_config import gguf_config
from sharp_mobile.gguf_file import gguf_header
from sharp_mobile.lower.decoder import Decoder, DecoderOptions, build_decoder
from sharp_mobile.lower.quantize import QuantizeOptions, quantize
from sharp_mobile.other_formats import TELLING_FILES
from sharp_mobile.paths import is_regular_file
from sharp_mobile.plan import SharePlan
from sharp_mobile.random_weights import shape_file
from sharp_mobile.recipe import Recipe
from sharp_mobile.share import Recoveries, share_layers
from sharp_mobile.sharp_json import SHARP_JSON
from sharp_mobile.tokenizer_files import TOKENIZER_FILES


def open_blueprint(source: str) -> Checkpoint:
    """What `open_checkpoint` opens, with every tensor of the model on the meta device, and without a tokenizer.

    Of a hub repository only the configuration and the tokenizer are downloaded. Whether the LM head is tied is what the
    configuration says.

    Raises:
        SharpError: nothing is there, or it is of a model that is not supported.
    """
    plan = recovery = None
    with quiet(progress=False):
        path = (
            shape_file(source)
            if source.startswith(RANDOM)
            else locate(source, [CONFIG_JSON, SHARP_JSON, *TOKENIZER_FILES, *TELLING_FILES])
        )
        config = _config(source, path)
        model = _on_meta(config, path)
        if path.is_dir() and is_regular_file(path / SHARP_JSON):
            plan, recovery = read_sharing(path / SHARP_JSON, config)
            with prefixed(path / SHARP_JSON), torch.device("meta"):
                share_layers(model, plan, recovery)
    return Checkpoint(
        name=checkpoint_name(source),
        source=source,
        path=path,
        model=model,
        fingerprint=hashlib.sha256(config.to_json_string().encode()).hexdigest()[:16],
        plan=plan,
        recovery=recovery,
        random=source.startswith(RANDOM),
    )


def _config(source: str, path: Path) -> PreTrainedConfig:
    if source.startswith(RANDOM):
        return read_config(path)
    return gguf_config(gguf_header(path)) if path.is_file() else config_of(path)


def _on_meta(config: PreTrainedConfig, path: Path) -> PreTrainedModel:
    return on_meta(config, path).eval().requires_grad_(False)


@torch.no_grad()
def blueprint_decoder(recipe: Recipe, checkpoint: Checkpoint, plan: SharePlan, recovery: Recoveries) -> Decoder:
    """The quantized decoder, on the meta device, that a recipe makes of a checkpoint's architecture and a plan.

    Raises:
        SharpError: a plan, a length or a group size that does not fit the architecture.
    """
    with torch.device("meta"):
        model = _on_meta(checkpoint.config, checkpoint.path)
        share_layers(model, plan, recovery)
        decoder = build_decoder(model, DecoderOptions.of(recipe.lower, checkpoint.config))
        quantize(decoder, QuantizeOptions.of(recipe.quantize))
    return decoder
