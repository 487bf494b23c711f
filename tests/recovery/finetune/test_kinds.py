"""Whatever layers share is fine-tuned: the teacher is the original model, and what was warmed up learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from share_recipes import KINDS, planned
from tiny_finetune import SETTINGS, check_original_view, tiny_rows, trained
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.model.modules import LayerParts
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.finetune.run import FinetuneReport, finetune
from sharp_mobile.recovery.finetune.shard import layer_groups
from sharp_mobile.recovery.finetune.teacher import LossModel, original_parts, two_views
from sharp_mobile.recovery.run import recover

LEARNING = [kind for kind in KINDS if kind not in ("kv", "drop", "drop mlp")]


def shared(kind: str, model_type: str = "llama") -> tuple[PreTrainedModel, dict[int, LayerParts]]:
    torch.manual_seed(0)
    model = tiny_model(model_type)
    plan, recovery = planned(kind, model)
    originals = original_parts(model, plan, recovery)
    share_layers(model, plan, recovery)
    return model, originals


def tuned(kind: str, run: Path, **settings: Any) -> tuple[PreTrainedModel, FinetuneReport]:
    model, originals = shared(kind)
    return model, finetune(model, originals, tiny_rows(), FinetuneSettings(**{**SETTINGS, **settings}), run)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_original_view_is_the_original_model(kind: str, model_type: str) -> None:
    model, originals = shared(kind, model_type)
    check_original_view(model, originals, model_type)


@pytest.mark.parametrize("distillation", [0.0, 1.0])
@pytest.mark.parametrize("kind", LEARNING)
def test_gradients_reach_all_and_nothing_else(kind: str, distillation: float) -> None:
    model, originals = shared(kind)
    with torch.no_grad():
        for _, parameter in recovery_parameters(model):
            parameter.add_(0.01)  # A has no gradient while B is zero
    with two_views(model, originals if distillation else {}) as views:
        tokens = tiny_tokens()
        LossModel(model, views, distillation)(tokens, tokens)["loss"].backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in recovery_parameters(model)}
    assert all(
        parameter.grad.abs().sum() > 0 for _, parameter in recovery_parameters(model) if parameter.grad is not None
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", "kv lora", "basis", "bypass"])
def test_the_loss_falls_and_an_interrupted_run_resumes(kind: str, tmp_path: Path) -> None:
    model, report = tuned(kind, tmp_path / "whole", max_steps=12, learning_rate=1e-2, log_every=2)
    assert report.last_loss < report.first_loss
    tuned(kind, tmp_path / "run", max_steps=12, learning_rate=1e-2, log_every=2)
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (last / "trainer_state.json").unlink()  # as if interrupted while it was written
    again, _ = tuned(kind, tmp_path / "run", max_steps=12, learning_rate=1e-2, log_every=2)
    ours, theirs = trained(model), trained(again)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", "kv lora", "basis"])
def test_gradient_checkpointing_gives_the_same_numbers(kind: str, tmp_path: Path) -> None:
    plain, _ = tuned(kind, tmp_path / "plain", max_steps=2)
    checkpointed, _ = tuned(kind, tmp_path / "checkpointed", max_steps=2, gradient_checkpointing=True)
    ours, theirs = trained(plain), trained(checkpointed)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("share", ["layer", "kv", "basis"])
def test_a_recipe_is_recovered_and_fine_tuned(
    share: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    def recovered(steps: int) -> Path:
        recipe = Recipe(
            model=str(tiny_checkpoint),
            share=share,
            plan="blocks 2" if share == "basis" else "2:3",
            recovery={"rank": 8, "attention_rank": 4, "kept": 0.7},
            warmup={"text": str(tiny_text), "window": 32, "windows": 8},
            quantize={"linear": 8},
            finetune={
                "train_text": str(tiny_text),
                "length": 32,
                "batch_size": 2,
                "learning_rate": 1e-3,
                "precision": "float32",
                "distillation": 1.0,
                "max_steps": steps,
            },
        )
        return recover(recipe, None, work=tmp_path / "work")

    warm = recovered(0)
    (first, second) = (load_file(path / "model.safetensors") for path in (warm, recovered(3)))
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert moved
    recovery = {name for name, _ in recovery_parameters(open_checkpoint(warm).model)}
    assert moved <= recovery  # also where the warmed-up model was taken from its checkpoint, with o fitted anew


def test_layers_that_share_anything_are_gathered_together() -> None:
    assert layer_groups(8, [(3, 2), (5, 3), (7, 6)]) == [[0], [1], [2, 3, 5], [4], [6, 7]]
