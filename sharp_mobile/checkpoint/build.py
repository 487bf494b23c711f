"""From a configuration and tensors to a Hugging Face model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from sharp_mobile.checkpoint.config import GENERATION_JSON
from sharp_mobile.checkpoint.config_check import token_ids
from sharp_mobile.checkpoint.hugging_face import named_errors
from sharp_mobile.errors import SharpError
from sharp_mobile.files.paths import is_regular_file
from sharp_mobile.system.memory import page_out


def on_meta(config: PreTrainedConfig, path: Path) -> PreTrainedModel:
    """A model with shapes and nothing in them, to be compared with what the files say.

    Args:
        path: of the configuration, for messages.

    Raises:
        SharpError: transformers can make no model of it.
    """
    with torch.device("meta"), named_errors(path, "describes no model"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return model


def skeleton(config: PreTrainedConfig, path: Path) -> PreTrainedModel:
    """A model whose parameters are allocated but not set: untouched pages take no memory until `assemble`.

    Not on the meta device, because buffers that no file holds (RoPE frequencies) must be real.

    Args:
        path: of the configuration, for messages.

    Raises:
        SharpError: transformers can make no model of it.
    """
    with no_init_weights(), named_errors(path, "describes no model"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return model


def without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A skeleton that has shapes instead of its parameters, so that whoever shares it computes nothing of them."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty_like(parameter, device="meta")
            module.register_parameter(name, nn.Parameter(empty, requires_grad=False))
    return model


def assemble(model: PreTrainedModel, state: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    """Give a skeleton its weights, of which a tied one may have either name; uncopied if they may keep their types."""
    typed = {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in state.items()}
    for name, source in model.all_tied_weights_keys.items():
        if source not in typed and name in typed:
            typed[source] = typed[name]
    tied = {name: typed[source] for name, source in model.all_tied_weights_keys.items()}
    model.load_state_dict({**typed, **tied}, strict=True, assign=True)
    model.tie_weights()


def read_generation_config(model: PreTrainedModel, directory: Path) -> None:
    path = directory / GENERATION_JSON
    if is_regular_file(path):
        with named_errors(path):
            config = GenerationConfig.from_pretrained(directory)
        for name in ("bos_token_id", "eos_token_id"):
            token_ids(getattr(config, name, None), model.config.vocab_size, f"{path}: {name}")
        model.generation_config = config


def ready(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    """In eval mode, frozen, and known to hold finite numbers only."""
    for name, parameter in model.named_parameters():
        # NaN and Inf survive a sum, which needs no memory; a finite tensor whose sum overflows is looked at again.
        if not torch.isfinite(parameter.detach().sum()) and not torch.isfinite(parameter.detach()).all():
            what = "NaN" if torch.isnan(parameter.detach()).any() else "Inf"
            raise SharpError(f"{path}: tensor {name} holds {what}; copy or download it again, or train it again")
        page_out(parameter)
    model.eval()
    model.requires_grad_(False)
    return model
