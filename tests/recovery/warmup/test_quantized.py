"""Quantization-aware warm-up: what is fitted to the rounded model fits it better than a fit to the float one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.model.share import shared_layers
from sharp_mobile.model.shared_attention import refitted_linears
from sharp_mobile.quantize.fake_quantize import simulated
from sharp_mobile.quantize.nearest import quantize_linear
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import AttentionRecovery, Recovery
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.run import warm_up

OPTIONS = QuantizeSettings()
WINDOWS = torch.cat([tiny_tokens(32, seed=seed) for seed in range(60)])
HELD_OUT = torch.cat([tiny_tokens(32, seed=1000 + seed) for seed in range(8)])


@torch.no_grad()
def divergence(model: Any, original: Any) -> float:
    """KL(original in float ‖ model as exported), nats a token."""
    expected = original(HELD_OUT).logits.log_softmax(-1)
    with simulated(model, OPTIONS):
        computed = model(HELD_OUT).logits.log_softmax(-1)
    return float(F.kl_div(computed, expected, log_target=True, reduction="sum") / HELD_OUT.numel())


@torch.no_grad()
def stream_error(model: Any, original: Any, layer: int) -> float:
    """Relative error of the hidden states behind a layer (1-based) of the model as exported."""
    expected = original(WINDOWS, output_hidden_states=True).hidden_states[layer]
    with simulated(model, OPTIONS):
        computed = model(WINDOWS, output_hidden_states=True).hidden_states[layer]
    return float((computed - expected).norm() / expected.norm())


def fitted(plan: str, recovery: Any, quantized: QuantizeSettings | None, **options: Any) -> Any:
    model = tiny_model(tie_word_embeddings=True)
    settings = options.pop("settings", None)
    warm_up(model, SharePlan.parse(plan, 6), recovery, WINDOWS, quantized=quantized, settings=settings, **options)
    return model


@pytest.mark.parametrize(
    "recovery",
    [
        Recovery("lora", 32),
        Recovery("lora", 32, neurons=32, bypass=32),
        Recovery(neurons=32, bypass=32, reference=False),
    ],
    ids=str,
)
def test_fitted_to_the_quantized_model_it_is_closer_to_the_original(recovery: Recovery) -> None:
    """Where the fit looks: at the residual stream behind the target, on the calibration text."""
    original = tiny_model(tie_word_embeddings=True)
    after = fitted("2:3", recovery, None)
    aware = fitted("2:3", recovery, OPTIONS)
    assert stream_error(aware, original, 3) < 0.97 * stream_error(after, original, 3)


ATTENTIONS = {
    "weights": AttentionRecovery("weights", 1, rank=32),
    "kv": AttentionRecovery("kv", 0),
    "kv with LoRA": AttentionRecovery("kv", 0, rank=32),
    "bypass": AttentionRecovery("none", bypass=32),
}


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_is_fitted_to_the_quantized_model(kind: str) -> None:
    original = tiny_model(tie_word_embeddings=True)
    recovery = {2: Recovery(attention=ATTENTIONS[kind])}
    after, aware = fitted("none", recovery, None), fitted("none", recovery, OPTIONS)
    assert stream_error(aware, original, 3) < 0.995 * stream_error(after, original, 3)


def test_a_resumed_fit_of_o_is_the_float_one(tmp_path: Path) -> None:
    recovery = {2: Recovery(attention=ATTENTIONS["kv"]), 4: Recovery(attention=AttentionRecovery("kv", 0))}
    whole = fitted("none", recovery, OPTIONS, checkpoint_dir=tmp_path)
    (saved,) = tmp_path.iterdir()
    (saved / "layer-5.attention.safetensors").unlink()
    resumed = fitted("none", recovery, OPTIONS, checkpoint_dir=tmp_path)
    for layer in (2, 4):
        ours, theirs = (model.model.layers[layer].self_attn.o_proj.weight for model in (whole, resumed))
        assert torch.equal(ours, theirs)
        assert len(ours.unique()) > 0.9 * ours.numel()  # not a few 4-bit codes a group


def test_adapters_repair_the_rounding_where_nothing_is_shared() -> None:
    """Full-LoRA on an unshared model: α Θ̂ + B A close to Θ."""
    original = tiny_model(tie_word_embeddings=True)
    recovery = dict.fromkeys(range(6), Recovery("lora", 32))
    untouched = fitted("none", recovery, None)
    repaired = fitted("none", recovery, OPTIONS)
    assert divergence(repaired, original) < 0.9 * divergence(untouched, original)
    assert torch.equal(  # the weights that are stored are the original's
        repaired.model.layers[2].mlp.base.gate_proj.weight, original.model.layers[2].mlp.gate_proj.weight
    )


@pytest.mark.parametrize("kind", ["kv", "kv with LoRA"])
def test_o_of_a_kv_target_is_simulated_as_it_was_refitted(kind: str) -> None:
    model = fitted("none", {2: Recovery(attention=ATTENTIONS[kind])}, OPTIONS)
    (_, o), *others = refitted_linears(decoder_layers(model)[2].self_attn)
    own = decoder_layers(tiny_model(tie_word_embeddings=True))[2].self_attn.o_proj.weight
    assert not others
    assert (o.weight - own).norm() > 0.1 * own.norm()
    expected = quantize_linear(o, OPTIONS.linear, OPTIONS.group_size, OPTIONS.scales).weight()
    with simulated(model, OPTIONS):
        assert torch.equal(o.weight, expected)


def test_a_weight_that_changes_while_it_is_simulated_is_rounded_again() -> None:
    model = tiny_model()
    o = decoder_layers(model)[2].self_attn.o_proj
    weight, changed = o.weight, 2 * o.weight + 1
    with simulated(model, OPTIONS) as simulation:
        weight.copy_(changed)
        simulation.round_again(o)
        found = o.weight.clone()
        assert not torch.equal(found, changed)
    assert torch.equal(o.weight, changed)
    with simulated(model, OPTIONS):
        assert torch.equal(o.weight, found)


def test_adam_trains_through_the_simulation() -> None:
    original = tiny_model(tie_word_embeddings=True)
    settings = WarmupSettings(method="closed_form_adam")
    after = fitted("2:3", Recovery("lora", 32), None, settings=settings)
    aware = fitted("2:3", Recovery("lora", 32), OPTIONS, settings=settings)
    assert stream_error(aware, original, 3) < 0.97 * stream_error(after, original, 3)


def test_the_model_is_float_again_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    kept = {"checkpoint_dir": tmp_path}
    first = fitted("2:3", Recovery("lora", 4), OPTIONS, **kept)
    again = fitted("2:3", Recovery("lora", 4), OPTIONS, **kept)
    other = fitted("2:3", Recovery("lora", 4), None, **kept)  # takes nothing of theirs
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(shared_layers(first)[2].gate.A, shared_layers(other)[2].gate.A)
    plain = copy.deepcopy(tiny_model(tie_word_embeddings=True)).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in first.state_dict().items() if name in plain)
