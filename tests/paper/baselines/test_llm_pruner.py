"""LLM-Pruner drops whole channels, those of least salience, and as many as it was asked to."""

import copy

import pytest
import torch
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import mlp_weights
from sharp_mobile.paper.baselines.llm_pruner import channel_salience, prune_channels
from sharp_mobile.paper.baselines.parameter_count import count_parameters

WINDOWS = tiny_tokens(16, batch=3)
CHANNELS = torch.tensor([3, 17, 18, 40, 95])


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(WINDOWS).logits


def test_keeping_everything_is_the_identity() -> None:
    model = tiny_model()
    expected = logits(model)
    kept = prune_channels(model, WINDOWS, 1.0)
    assert torch.equal(logits(model), expected)
    assert kept.mlp == kept.total == 1


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_channels_that_do_nothing_go_first_and_nothing_changes(model_type: str) -> None:
    model = tiny_model(model_type)
    for layer in (2, 3, 4):
        mlp_weights(model.model.layers[layer].mlp).down[:, CHANNELS] = 0
        mlp_weights(model.model.layers[layer].mlp).gate[CHANNELS] = 0
        mlp_weights(model.model.layers[layer].mlp).up[CHANNELS] = 0
    expected = logits(model)
    kept = prune_channels(model, WINDOWS, 1 - 3 / 6 * 5 / 96)
    assert mlp_weights(model.model.layers[2].mlp).gate.shape == (91, 64)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert kept.mlp == pytest.approx(1 - 3 / 6 * 5 / 96)


def test_a_channels_biases_go_with_it() -> None:
    model = tiny_model(mlp_bias=True)
    mlp = model.model.layers[2].mlp
    mlp.down_proj.weight[:, CHANNELS] = 0  # so the loss has no gradient to their rows either
    expected = logits(model)
    prune_channels(model, WINDOWS, 1 - 1 / 6 * 5 / 96, first=2, last=3)
    assert mlp.gate_proj.bias.shape == (91,)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_salience_is_the_summed_product_of_weight_and_gradient(model_type: str) -> None:
    model = tiny_model(model_type)
    found = channel_salience(model, WINDOWS, range(2, 4))
    assert list(found) == [2, 3]
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    clone = copy.deepcopy(model).requires_grad_(True)
    with torch.enable_grad():
        # the summed loss of the windows, in one batch
        (clone(WINDOWS, labels=WINDOWS).loss * len(WINDOWS)).backward()
    mlp = clone.model.layers[2].mlp
    down = (mlp.down_proj.weight * mlp.down_proj.weight.grad).abs()
    if model_type == "phi3":
        product = (mlp.gate_up_proj.weight * mlp.gate_up_proj.weight.grad).abs()
        gate, up = product[:96], product[96:]
    else:
        gate, up = ((p.weight * p.weight.grad).abs() for p in (mlp.gate_proj, mlp.up_proj))
    expected = gate.sum(1) + up.sum(1) + down.sum(0)
    torch.testing.assert_close(found[2], expected.detach(), rtol=1e-3, atol=1e-6)


def test_the_ends_stay_whole_and_the_share_is_met() -> None:
    model = tiny_model(num_hidden_layers=8)
    original = count_parameters(model)
    kept = prune_channels(model, WINDOWS, 0.6)
    widths = [layer.mlp.down_proj.in_features for layer in model.model.layers]
    assert widths[:2] == [96, 96]
    assert widths[-1] == 96
    assert len(set(widths[2:-1])) == 1
    assert kept.mlp == pytest.approx(0.6, abs=0.01)
    assert kept.parameters.total == original.total - (original.mlp - kept.parameters.mlp)


def test_a_share_out_of_reach_is_refused() -> None:
    with pytest.raises(SharpError, match="cannot be kept by pruning layers 3 to 5 of 6"):
        prune_channels(tiny_model(), WINDOWS, 0.4)
    with pytest.raises(SharpError, match="up to 100%"):
        prune_channels(tiny_model(), WINDOWS, 1.1)
