"""What each layer could have instead of its attention: the damage is that of the model with it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.model.share import share_layers
from sharp_mobile.model.shared_attention import attention_recovery, kept_outputs
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import AttentionRecovery, Recovery
from sharp_mobile.recovery.plan_search.plan_candidates import measure_candidates

WINDOWS = tiny_tokens(32, batch=12)
LEFT_OUT, KEYS, LORA = AttentionRecovery("none"), AttentionRecovery("kv", 0), AttentionRecovery("weights", 0, rank=8)
BYPASS = AttentionRecovery("none", bypass=8)


def damages(model: Any, *options: AttentionRecovery, reach: int = 2) -> dict[int, dict[AttentionRecovery, float]]:
    """Of each layer, 0-based, each option's."""
    measured = measure_candidates(model, [], WINDOWS, reach, list(options))
    return {one.layer: {trial.recovery: trial.damage for trial in one.attention} for one in measured}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_an_attention_that_equals_anothers_costs_nothing_to_share(model_type: str) -> None:
    """Layer 4's is made equal to layer 3's; its weights are then found, whatever its own inputs are."""
    model = tiny_model(model_type)
    layers = decoder_layers(model)
    layers[3].self_attn.load_state_dict(layers[2].self_attn.state_dict())
    before, modules = model(WINDOWS).logits, [layer.self_attn for layer in layers]
    found = damages(model, LEFT_OUT, BYPASS, KEYS, LORA)
    assert found.keys() == {1, 2, 3, 4}
    of_layer = found[3]
    equal = of_layer[AttentionRecovery("weights", 2, rank=8)]
    assert equal < 1e-4
    assert equal == min(of_layer.values())
    assert of_layer[AttentionRecovery("weights", 1, rank=8)] > 10 * max(equal, 1e-5)
    for its in found.values():
        assert 0 < its[BYPASS] < its[LEFT_OUT]  # the bypass is fitted
    # The model is as it was: its own attention, and nothing keeps outputs any more.
    assert all(layer.self_attn is own for layer, own in zip(layers, modules, strict=True))
    assert not any(attention_recovery(layer.self_attn) for layer in layers)
    assert kept_outputs(model) == []
    assert torch.equal(model(WINDOWS).logits, before)


@pytest.mark.slow
def test_every_reference_within_reach_is_tried() -> None:
    for reach in (1, 2):
        found = damages(tiny_model(), LEFT_OUT, KEYS, reach=reach)
        for layer, its in found.items():
            tried = {own.reference for own in its if own.kind == "kv"}
            assert tried == set(range(max(0, layer - reach), layer))
            assert LEFT_OUT in its


@pytest.mark.slow
def test_keys_of_another_window_are_not_offered() -> None:
    """In Gemma 2 windows alternate, so that keys come from two layers back, and weights from any."""
    found = damages(tiny_model("gemma2"), KEYS, LORA, reach=3)
    for layer, its in found.items():
        keys = {own.reference for own in its if own.kind == "kv"}
        assert keys == {reference for reference in (layer - 2,) if reference >= 0}
        weights = {own.reference for own in its if own.kind == "weights"}
        assert weights == set(range(max(0, layer - 3), layer))


@pytest.mark.slow
@torch.no_grad()
def test_the_damage_of_what_needs_no_fit_is_the_divergence_of_the_shared_model() -> None:
    original, model = tiny_model(), tiny_model()
    damage = damages(original, LEFT_OUT)[3][LEFT_OUT]
    share_layers(model, SharePlan.parse("none", 6), {3: Recovery(attention=LEFT_OUT)})
    windows = WINDOWS[::3]  # what options are tried on: four windows, at every fourth position
    expected, computed = (its(windows).logits[:, ::4].flatten(0, 1).log_softmax(-1) for its in (original, model))
    divergence = F.kl_div(computed, expected, log_target=True, reduction="sum") / len(expected)
    assert damage == pytest.approx(divergence.item(), rel=1e-3)
