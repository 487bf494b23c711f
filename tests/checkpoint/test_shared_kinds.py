"""A SHARP checkpoint of whatever layers share comes back as it was, and is as small as it should be."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from share_recipes import KINDS, planned
from tiny_models import MODEL_TYPES, tiny_config, tiny_model, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.random_weights import open_random, share_random
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.checkpoint.weight_files import WEIGHTS
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import layer_recoveries, recovery_parameters, share_layers
from sharp_mobile.model.shared_attention import refitted_linears
from sharp_mobile.recipe.sharp_json import SHARP_JSON
from sharp_mobile.recipe.source import Source

TOKENS = tiny_tokens()


def shared(kind: str, model_type: str = "llama") -> PreTrainedModel:
    """A shared model, all that is fitted being random."""
    model: PreTrainedModel = tiny_model(model_type)
    share_layers(model, *planned(kind, model))
    for _, parameter in recovery_parameters(model):
        torch.nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        for _, linear in refitted_linears(module):
            torch.nn.init.normal_(linear.weight, std=0.1)
    return model


def saved(model: PreTrainedModel, kind: str, directory: Path) -> Path:
    plan, _ = planned(kind, model)
    return save_sharp_checkpoint(model, plan, directory / "sharp")


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_comes_back(kind: str, model_type: str, tmp_path: Path) -> None:
    model = shared(kind, model_type)
    directory = saved(model, kind, tmp_path)
    opened = open_checkpoint(directory)
    assert (opened.plan, opened.recovery) == planned(kind, model)
    assert torch.equal(logits(opened.model), logits(model))
    again = save_sharp_checkpoint(opened.model, planned(kind, model)[0], tmp_path / "again")
    assert (again / WEIGHTS).read_bytes() == (directory / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("kind", "version"), [("prune", 1), ("drop mlp", 2), ("attention", 2), ("kv", 2), ("basis", 2)]
)
def test_only_what_needs_it_is_of_version_2(kind: str, version: int, tmp_path: Path) -> None:
    directory = saved(shared(kind), kind, tmp_path)
    assert json.loads((directory / SHARP_JSON).read_text())["format_version"] == version


def test_weights_that_are_shared_or_left_out_are_not_stored(tmp_path: Path) -> None:
    names = {
        kind: {
            name.removeprefix("model.layers.2.") for name in load_file(saved(shared(kind), kind, tmp_path) / WEIGHTS)
        }
        for kind in ("attention", "kv", "drop", "basis")
    }
    projections = {f"self_attn.{name}_proj.weight" for name in "qkvo"}
    assert not projections & names["attention"]
    assert projections & names["kv"] == {"self_attn.q_proj.weight", "self_attn.o_proj.weight"}
    assert {name for name in names["drop"] if name.startswith(("self_attn", "mlp"))} == set()
    assert {"self_attn.q_proj.parts.q.B", "self_attn.o_proj.parts.o.B"} <= names["basis"]  # layer 3 is a group's first
    with_basis = load_file(saved(shared("basis"), "basis", tmp_path) / WEIGHTS)
    assert "model.layers.3.self_attn.q_proj.parts.q.B" not in with_basis
    assert "model.layers.3.self_attn.o_proj.parts.o.B" in with_basis


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("attention", "model.layers.2.self_attn.q_proj.parts.0.A"),
        ("kv", "model.layers.2.self_attn.o_proj.weight"),
        ("bypass", "model.layers.2.self_attn.bypass.B"),
        ("basis", "model.layers.0.mlp.up_proj.parts.up.B"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    directory = saved(shared(kind), kind, tmp_path)
    state = load_file(directory / WEIGHTS)
    described = json.loads((directory / SHARP_JSON).read_text())
    (directory / SHARP_JSON).write_text(json.dumps({**described, "files": {}}))
    save_file({**state, name: state[name][:-1].contiguous()}, directory / WEIGHTS)
    with pytest.raises(SharpError, match=f"tensor {name} has shape"):
        open_checkpoint(directory)
    save_file({other: tensor for other, tensor in state.items() if other != name}, directory / WEIGHTS)
    with pytest.raises(SharpError, match=f"tensor {name} is missing"):
        open_checkpoint(directory)
    save_file({**state, "model.layers.2.self_attn.extra.weight": torch.ones(2)}, directory / WEIGHTS)
    with pytest.raises(SharpError, match=r"extra\.weight has no place"):
        open_checkpoint(directory)


@pytest.mark.parametrize("kind", KINDS)
def test_random_weights_are_shared_alike(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_config().to_dict()))
    model = open_random(Source.of(f"random:{path}")).model
    plan, recovery = planned(kind, model)
    share_random(model, plan, recovery)
    assert layer_recoveries(model) == recovery
    assert logits(model).isfinite().all()
    assert all(parameter.abs().sum() > 0 for _, parameter in recovery_parameters(model))
