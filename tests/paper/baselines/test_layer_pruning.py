"""Layer pruning drops what it says, and finds the block that does least."""

import copy

import pytest
import torch
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens

from sharp_mobile.errors import SharpError
from sharp_mobile.paper.baselines.layer_pruning import angular_distances, drop_layers, drop_mlps, least_block, t_ori
from sharp_mobile.paper.baselines.parameter_count import count_parameters

WINDOWS = tiny_tokens(16, batch=3)
MLP = 3 * 64 * 96


def test_t_ori_is_the_papers_at_32_layers() -> None:
    assert t_ori(32) == tuple(range(16, 30))
    assert t_ori(30) == tuple(range(15, 28))


def test_dropping_mlps_is_zeroing_them() -> None:
    model = tiny_model()
    zeroed = copy.deepcopy(model)
    for layer in (2, 3):
        for parameter in zeroed.model.layers[layer].mlp.parameters():
            parameter.zero_()
    kept = drop_mlps(model, (2, 3))
    with torch.no_grad():
        torch.testing.assert_close(model(WINDOWS).logits, zeroed(WINDOWS).logits)
    assert kept.mlp == pytest.approx(4 / 6)
    assert kept.parameters.mlp == 4 * MLP


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_dropped_layers_are_skipped(model_type: str) -> None:
    model = tiny_model(model_type)
    skipping = copy.deepcopy(model)
    for layer in (2, 3):
        skipping.model.layers[layer].forward = lambda hidden_states, *args, **options: hidden_states
    kept = drop_layers(model, (2, 3))
    with torch.no_grad():
        torch.testing.assert_close(model(WINDOWS, use_cache=False).logits, skipping(WINDOWS, use_cache=False).logits)
    generated = model.generate(WINDOWS[:1], max_new_tokens=3, do_sample=False)  # the cache has as many layers
    assert generated.shape[1] <= 16 + 3
    assert kept.mlp == pytest.approx(4 / 6)
    assert kept.parameters == count_parameters(model)


def test_the_block_that_does_nothing_is_found() -> None:
    model = tiny_model()
    for layer in (2, 3):
        for linear in (model.model.layers[layer].mlp.down_proj, model.model.layers[layer].self_attn.o_proj):
            linear.weight.zero_()
    distances = angular_distances(model, WINDOWS, 2)
    assert len(distances) == 5
    assert distances[2] == pytest.approx(0, abs=1e-3)
    assert least_block(model, WINDOWS, 2) == (2, 3)


def test_the_angular_distance_is_its_formula() -> None:
    model = tiny_model()
    with torch.no_grad():
        states = model(WINDOWS, output_hidden_states=True).hidden_states
    before, after = states[1][:, -1], states[4][:, -1]
    cosine = (before * after).sum(-1) / before.norm(dim=-1) / after.norm(dim=-1)
    assert angular_distances(model, WINDOWS, 3)[1] == pytest.approx((cosine.arccos() / torch.pi).mean().item())


def test_an_impossible_block_is_refused() -> None:
    with pytest.raises(SharpError, match="use 1 to 6"):
        angular_distances(tiny_model(), WINDOWS, 7)
    with pytest.raises(SharpError, match="keep at least one"):
        drop_layers(tiny_model(), range(6))
