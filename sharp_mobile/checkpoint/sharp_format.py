"""The SHARP checkpoint: a directory as Hugging Face writes it, whose targets lack the weights that they share.

`model.safetensors` has the recovery parameters instead of the weights that targets share, and `sharp.json` says
which layers share:

    {"format_version": 1, "plan": "3:4, 5:6", "layers": 30, "recovery": ..., "produced_by": ..., "report": ...}
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from sharp_mobile import __version__
from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.config import CONFIG_JSON, GENERATION_JSON
from sharp_mobile.checkpoint.weight_files import WEIGHTS
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.files.outputs import replace_directory
from sharp_mobile.model.share import layer_recoveries
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.sharp_json import (
    SHARP_JSON,
    SharpDescription,
    describe_recoveries,
    format_version,
)


def save_sharp_checkpoint(
    model: PreTrainedModel,
    plan: SharePlan,
    directory: str | Path,
    *,
    tokenizer_source: Checkpoint | None = None,
    provenance: Mapping[str, object] | None = None,
    report: Mapping[str, object] | None = None,
) -> Path:
    """Write a shared model as a SHARP checkpoint: whole, or not at all.

    Args:
        model: a model after `share_layers` with this plan.
        directory: replaced once the new one is whole, if it is a SHARP checkpoint or empty.
        tokenizer_source: whose tokenizer to write with the weights.
        provenance: what made it (source, commands, settings); any JSON.
        report: measurements made on the way; any JSON.

    Returns:
        The directory.

    Raises:
        SharpError: the directory cannot be written, or the disk is full.
    """
    recovery = layer_recoveries(model)
    description = SharpDescription(
        format_version=format_version(recovery),
        plan=str(plan),
        layers=plan.layers,
        recovery=describe_recoveries(recovery),
        produced_by={"sharp_mobile": __version__, **(provenance or {})},
        report=dict(report or {}),
    )
    with replace_directory(directory) as partial:
        write_model(model, partial, tokenizer_source)
        written = sorted(path for path in partial.rglob("*") if path.is_file())
        files = {path.relative_to(partial).as_posix(): sha256_of(path) for path in written}
        sealed = description.model_copy(update={"files": files})
        (partial / SHARP_JSON).write_text(sealed.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Path(directory)


def write_model(model: PreTrainedModel, directory: Path, tokenizer_source: Checkpoint | None) -> None:
    """Write a model into an empty directory as Hugging Face does, with the tokenizer of a checkpoint if it is given."""
    # Not save_pretrained, which refuses sampling options that many models come with (Llama 2's, for one).
    model.config.to_json_file(directory / CONFIG_JSON)
    if model.generation_config is not None:
        model.generation_config.to_json_file(directory / GENERATION_JSON)
    if tokenizer_source is not None:
        tokenizer_source.write_tokenizer(directory)
    state = {name: tensor.contiguous() for name, tensor in stored_state(model).items()}
    save_file(state, directory / WEIGHTS, {"format": "pt"})


def stored_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What is stored of a model: a tied tensor, which its state dict has under each name, under the first alone."""
    return {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}
