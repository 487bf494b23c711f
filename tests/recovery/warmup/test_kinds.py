"""Whatever layers share of attention, bases and left-out parts: the warm-up brings the model nearer to the original."""

import copy
from pathlib import Path

import pytest
import torch
from share_recipes import KINDS, planned
from tiny_models import tiny_model, tiny_tokens
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.model.share import layer_recoveries, recovery_parameters, share_layers
from sharp_mobile.model.shared_attention import kept_outputs
from sharp_mobile.paper.baselines.basis_sharing import share_bases
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import AttentionRecovery, Basis, Recovery
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup import sequential
from sharp_mobile.recovery.warmup.run import warm_up

WINDOWS = tiny_tokens(32, batch=40)
FAMILIES = ("llama", "qwen2", "phi3", "gemma3_text", "smollm3", "olmo2")
FITTED = [kind for kind in KINDS if kind not in ("drop", "drop mlp", "basis")]
NONE = SharePlan.parse("none", 6)


@torch.no_grad()
def divergence(model: PreTrainedModel, original: PreTrainedModel) -> float:
    """Relative error of the last hidden states."""
    expected = original.model(WINDOWS[:8]).last_hidden_state
    found = model.model(WINDOWS[:8]).last_hidden_state
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("kind", FITTED)
def test_a_fit_is_nearer_than_the_direct_share(kind: str, model_type: str) -> None:
    original = tiny_model(model_type)
    plan, recovery = planned(kind, original)
    direct, model = copy.deepcopy(original), copy.deepcopy(original)
    share_layers(direct, plan, recovery)
    report = warm_up(model, plan, recovery, WINDOWS)
    assert layer_recoveries(model) == recovery
    assert all(kept.outputs == {} for kept in kept_outputs(model))  # nothing of the text stays in memory
    assert report.targets
    assert all(fit.error_after < fit.error_before for fit in report.targets)
    assert divergence(model, original) < 0.85 * divergence(direct, original)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_is_left_out_needs_no_fit(model_type: str) -> None:
    model = tiny_model(model_type)
    plan, recovery = planned("drop", model)
    direct = copy.deepcopy(model)
    share_layers(direct, plan, recovery)
    assert warm_up(model, plan, recovery, WINDOWS).targets == ()
    assert divergence(model, direct) == 0


def test_what_is_left_out_is_made_up_for_by_later_targets() -> None:
    model = tiny_model()
    plan = SharePlan.parse("2:3, 4:5", 6)
    dropped = Recovery(reference=False, attention=AttentionRecovery("none"))
    recovery = {2: dropped, 4: Recovery("lora", 64)}
    original, alone = copy.deepcopy(model), copy.deepcopy(model)
    warm_up(model, plan, recovery, WINDOWS)
    warm_up(alone, SharePlan.parse("2:3", 6), {2: dropped}, WINDOWS)
    assert divergence(model, original) < 0.9 * divergence(alone, original)


def alike(model: PreTrainedModel, target: int, reference: int) -> None:
    """Give a layer another one's attention, and the norm before it."""
    layers = decoder_layers(model)
    layers[target].self_attn.load_state_dict(layers[reference].self_attn.state_dict())  # type: ignore[attr-defined]
    norm: nn.Module = layers[target].input_layernorm  # type: ignore[attr-defined]
    norm.load_state_dict(layers[reference].input_layernorm.state_dict())  # type: ignore[attr-defined]


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "phi3"])
@pytest.mark.parametrize("form", ["lora", "right", "left"])
def test_an_equal_attention_is_shared_without_error(form: str, model_type: str) -> None:
    model = tiny_model(model_type)
    alike(model, 2, 1)
    attention = AttentionRecovery("weights", 1, form, 32)  # type: ignore[arg-type]
    report = warm_up(copy.deepcopy(model), NONE, {2: Recovery(attention=attention)}, WINDOWS)
    (fit,) = report.targets
    assert (fit.layer, fit.reference, fit.part) == (2, 1, "attention")
    assert fit.error_before < 1e-5
    assert fit.error_after < (1e-2 if form == "lora" else 0.1)


def test_keys_of_an_equal_layer_are_read_without_error() -> None:
    """Layer 2 leaves the stream as it is, so that layer 3, which is equal, makes the same keys and values."""
    model = tiny_model()
    alike(model, 2, 1)
    layer = decoder_layers(model)[1]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()  # type: ignore[union-attr, operator]
    decoder_layers(model)[2].self_attn.o_proj.weight.data.normal_(std=0.1)
    original = copy.deepcopy(model)
    report = warm_up(model, NONE, {2: Recovery(attention=AttentionRecovery("kv", 1))}, WINDOWS)
    assert report.targets[0].error_after < 1e-5
    assert divergence(model, original) < 1e-5


def test_the_refit_of_o_leaves_the_original_layer_whole() -> None:
    model = tiny_model()
    own = decoder_layers(model)[2].self_attn.o_proj
    before = own.weight.clone()
    warm_up(model, NONE, {2: Recovery(attention=AttentionRecovery("kv", 1))}, WINDOWS)
    assert torch.equal(own.weight, before)
    assert not torch.equal(decoder_layers(model)[2].self_attn.o_proj.weight, before)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_bases_are_those_of_the_published_method(model_type: str) -> None:
    model, published = tiny_model(model_type), tiny_model(model_type)
    plan, recovery = planned("basis", model)
    report = warm_up(model, plan, recovery, WINDOWS)
    assert [(fit.layer, fit.part) for fit in report.targets] == [(layer, "basis") for layer in range(6)]
    assert all(0 < fit.error_after < fit.error_before for fit in report.targets)
    share_bases(published, WINDOWS, 0.7)
    for ours, theirs in zip(decoder_layers(model), decoder_layers(published), strict=True):
        for own, name in (("self_attn", "o_proj"), ("mlp", "down_proj")):
            found, expected = (getattr(getattr(layer, own), name).weight for layer in (ours, theirs))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert divergence(model, published) < 1e-4


def test_targets_after_a_basis_learn_from_its_error() -> None:
    model = tiny_model()
    ranks = (32, 16, 16, 32, 32, 32, 32)
    recovery = {0: Recovery(basis=Basis(0, ranks)), 1: Recovery(basis=Basis(0, ranks)), 4: Recovery("lora", 64)}
    plan = SharePlan.parse("4:5", 6)
    original, alone = copy.deepcopy(model), copy.deepcopy(model)
    report = warm_up(model, plan, recovery, WINDOWS)
    assert [(fit.layer, fit.part) for fit in report.targets] == [(0, "basis"), (1, "basis"), (4, "mlp")]
    warm_up(alone, NONE, {layer: recovery[layer] for layer in (0, 1)}, WINDOWS)
    assert divergence(model, original) < divergence(alone, original)


@pytest.mark.parametrize("kind", ["layer", "kv", "kv lora", "bypass", "basis", "mixture"])
def test_an_interrupted_run_resumes_to_the_same_numbers(kind: str, tmp_path: Path) -> None:
    first, second = tiny_model(), tiny_model()
    plan, recovery = planned(kind, first)
    warm_up(first, plan, recovery, WINDOWS, checkpoint_dir=tmp_path)
    (saved,) = tmp_path.iterdir()
    files = sorted(saved.iterdir())
    files[-1].unlink()  # as if interrupted there
    kept = {path: path.stat().st_mtime_ns for path in files[:-1]}
    torch.manual_seed(7)
    warm_up(second, plan, recovery, WINDOWS, checkpoint_dir=tmp_path)
    assert sorted(saved.iterdir()) == files
    if kind != "basis":  # a group's files belong together
        assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("kind", "what"), [("layer", "measure"), ("kv", "measure_attention"), ("basis", "named")])
def test_an_interruption_leaves_the_model_whole(kind: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    model = tiny_model()
    if what == "named":
        monkeypatch.setattr("sharp_mobile.recovery.warmup.bases.basis_factors", stop)
    else:
        monkeypatch.setattr(sequential, what, stop)
    plan, recovery = planned(kind, model)
    with pytest.raises(KeyboardInterrupt):
        warm_up(model, plan, recovery, WINDOWS)
    assert layer_recoveries(model) == {}
    assert kept_outputs(model) == []
    assert divergence(model, tiny_model()) == 0
    monkeypatch.undo()
    warm_up(model, plan, recovery, WINDOWS)  # and it can be shared again


@pytest.mark.parametrize("settings", [{"inputs": "original"}, {"method": "adam"}, {"method": "closed_form_adam"}])
@pytest.mark.parametrize("kind", ["attention", "kv", "bypass", "basis"])
def test_other_ways_than_the_closed_form_are_refused(kind: str, settings: dict[str, str]) -> None:
    model = tiny_model()
    plan, recovery = planned(kind, model)
    with pytest.raises(SharpError, match=r"shares more than its MLP.*leave out warmup\.method"):
        warm_up(model, plan, recovery, WINDOWS, settings=WarmupSettings.model_validate(settings))
    assert layer_recoveries(model) == {}


@pytest.mark.parametrize(
    ("attention", "says"),
    [
        (AttentionRecovery("weights", 1, rank=33), "attention_rank 33 exceeds the width of k; use at most 32"),
        (AttentionRecovery("weights", 1, rank=(65, 1, 1, 1)), "attention_rank 65 exceeds the width of q"),
        (AttentionRecovery("none", bypass=65), "attention_bypass 65 exceeds the hidden width; use at most 64"),
    ],
)
def test_ranks_above_the_weights_are_refused(attention: AttentionRecovery, says: str) -> None:
    model = tiny_model()
    with pytest.raises(SharpError, match=says):
        warm_up(model, NONE, {2: Recovery(attention=attention)}, WINDOWS)
    assert layer_recoveries(model) == {}


def test_an_attention_that_is_not_finite_is_named() -> None:
    model = tiny_model()
    decoder_layers(model)[4].self_attn.v_proj.weight.data[3, 3] = float("inf")
    with pytest.raises(SharpError, match="layer 5 has activations that are not finite"):
        warm_up(model, NONE, {4: Recovery(attention=AttentionRecovery("weights", 1, rank=4))}, WINDOWS)
    assert layer_recoveries(model) == {}


def test_what_was_fitted_is_trainable() -> None:
    model = tiny_model()
    plan, recovery = planned("layer", model)
    warm_up(model, plan, recovery, WINDOWS)
    model(WINDOWS[:2], labels=WINDOWS[:2]).loss.backward()
    assert all(parameter.grad is not None for _, parameter in recovery_parameters(model))
