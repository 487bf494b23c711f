"""A tiny fine-tuning, for tests in this process and in children that are killed or are several."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_models import tiny_model, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.model.modules import LayerParts
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.finetune.run import FinetuneReport, finetune
from sharp_mobile.recovery.finetune.teacher import LossModel, original_parts, two_views
from sharp_mobile.text.conversation import IGNORED

SETTINGS: dict[str, Any] = {
    "precision": "float32",  # auto depends on the machine
    "max_steps": 6,
    "batch_size": 4,
    "save_every": 2,
    "log_every": 2,
    "learning_rate": 3e-3,
    "distillation": 1.0,
}


def shared_model(
    model_type: str = "llama", plan: str = "2:3, 4:5", rank: int = 4, adapters: int = 0
) -> tuple[PreTrainedModel, dict[int, LayerParts]]:
    """A tiny shared model, the same at every call, and what its targets had."""
    torch.manual_seed(0)
    model = tiny_model(model_type)
    parsed = SharePlan.parse(plan, 6)
    recovery = dict.fromkeys(range(6), Recovery("lora", adapters))
    recovery |= dict.fromkeys(parsed.targets, Recovery("lora", rank))
    originals = original_parts(model, parsed, recovery)
    share_layers(model, parsed, recovery)
    return model, originals


def tiny_rows(count: int = 13, length: int = 24, *, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Rows of unequal numbers of scored tokens."""
    rows = []
    for index, tokens in enumerate(tiny_tokens(length, batch=count, seed=seed)):
        labels = tokens.clone()
        labels[: index % 5] = IGNORED
        rows.append({"input_ids": tokens, "labels": labels})
    return rows


def trained(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of the recovery parameters."""
    return {name: parameter.detach().clone() for name, parameter in recovery_parameters(model)}


def tiny_finetune(
    run: Path, *, adapters: int = 0, validation: bool = False, **settings: Any
) -> tuple[PreTrainedModel, FinetuneReport]:
    """Fine-tune the tiny model with `SETTINGS` and those given."""
    model, originals = shared_model(adapters=adapters)
    held_out = tiny_rows(5, seed=2) if validation else None
    chosen = FinetuneSettings(**{**SETTINGS, **settings})
    return model, finetune(model, originals, tiny_rows(), chosen, run, validation=held_out)


def save_tiny_finetune(run: Path, out: Path, settings: dict[str, Any]) -> None:
    """What a child does: fine-tune, and write the recovery parameters, from the first of several processes."""
    model, _ = tiny_finetune(run, **settings)
    if os.environ.get("RANK", "0") == "0":
        save_file(trained(model), out)


def check_original_view(model: PreTrainedModel, originals: dict[int, LayerParts], model_type: str) -> None:
    """A recovered model's original view computes what the original does, and its own is left as it was."""
    tokens, expected = tiny_tokens(), tiny_model(model_type).model(tiny_tokens()).last_hidden_state
    recovered = model.model(tokens).last_hidden_state
    with two_views(model, originals) as views:
        loss_model = LossModel(model, views, 1.0)
        assert torch.equal(loss_model._original_hidden(tokens), expected)
        assert torch.equal(model.model(tokens).last_hidden_state, recovered)
    assert not torch.allclose(recovered, expected, atol=1e-2)
    assert torch.equal(model.model(tokens).last_hidden_state, recovered)
