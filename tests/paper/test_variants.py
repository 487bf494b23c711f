"""Every kind of variant is made, keeps as many parameters as the others that it is compared with, or says why not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import shared_layers
from sharp_mobile.paper.variants import RecoverySetup, Variant, build, scaled_rank
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.warmup_settings import WarmupSettings

NO_TRAINING = torch.empty(0, 24, dtype=torch.long)
MEANS = RecoverySetup(tiny_tokens(24, batch=8), WarmupSettings(), NO_TRAINING, FinetuneSettings(), Path("runs"))
LAYERS = 8


def model():
    return tiny_model(num_hidden_layers=LAYERS)


def test_ranks_scale_with_the_widths() -> None:
    assert scaled_rank(400, 4096, 11008) == 400
    assert scaled_rank(400, 576, 1536) == 56
    assert scaled_rank(5, 576, 1536) == 1
    assert scaled_rank(0, 576, 1536) == 0


@pytest.mark.parametrize("form", ["lora", "right", "left", "hadamard"])
def test_forms_are_compared_at_equal_numbers_of_parameters(form: str) -> None:
    recovery = Variant(form=form, rank=400).recovery(576, 1536)
    assert recovery.form == form
    lora = Variant(rank=400).recovery(576, 1536)
    assert recovery.parameters(576, 1536) == pytest.approx(lora.parameters(576, 1536), rel=0.02)


def test_a_control_without_sharing_has_as_many_parameters() -> None:
    recovery = Variant(rank=400, reference=False).recovery(576, 1536)
    assert not recovery.reference
    lora = Variant(rank=400).recovery(576, 1536)
    assert recovery.parameters(576, 1536) == pytest.approx(lora.parameters(576, 1536), rel=0.005)
    assert (lora.rank, recovery.neurons, recovery.bypass) == (56, 103, 154)


def test_full_lora_adapts_every_layer() -> None:
    adapted = model()
    kept = build(Variant(plan="3:4-5", rank=400, full_lora=True), adapted, MEANS)
    assert list(shared_layers(adapted)) == list(range(LAYERS))
    lora = Variant(rank=400).recovery(64, 96).parameters(64, 96) + 3
    assert kept.parameters.mlp == (LAYERS - 2) * 3 * 64 * 96 + LAYERS * lora


@pytest.mark.parametrize("method", ["prune_channels", "share_bases"])
def test_baselines_keep_as_much_as_sharing(method: str) -> None:
    variant = Variant(plan="t_next", rank=400, warmup=True)
    shared = build(variant, model(), MEANS)
    other = build(replace(variant, method=method, warmup=False), model(), MEANS)
    assert other.mlp == pytest.approx(shared.mlp, abs=0.015)


def test_a_variant_is_what_its_row_says() -> None:
    recovered = model()
    build(Variant(plan="3:4-5", rank=400, warmup=True), recovered, MEANS)
    assert list(shared_layers(recovered)) == [3, 4]
    assert any(p.abs().max() > 0 for p in (shared_layers(recovered)[3].gate.B,))
    direct = model()
    kept = build(Variant(plan="3:4-5"), direct, MEANS)
    assert kept.mlp == pytest.approx(1 - 2 / LAYERS)
    dropped = model()
    assert build(Variant("drop", "3:4-5"), dropped, MEANS) == kept
    assert not list(dropped.model.layers[3].mlp.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["share", "drop", "drop_t_ori", "prune_channels", "share_bases"])
def test_fine_tuning_trains_as_many_parameters_whatever_the_method(method: str, tmp_path: Path) -> None:
    settings = FinetuneSettings(learning_rate=1e-2, batch_size=2, max_steps=12)
    means = replace(MEANS, training=MEANS.calibration, finetune=settings, runs=tmp_path)
    plain, tuned = model(), model()
    variant = Variant(method, plan="3:4-6", rank=1600, warmup=method == "share")
    build(variant, plain, means)
    kept = build(replace(variant, finetune=1.0), tuned, means)
    with torch.no_grad():
        losses = [m(MEANS.calibration, labels=MEANS.calibration).loss for m in (plain, tuned)]
    assert losses[1] < losses[0]
    assert not list(tmp_path.iterdir())  # a finished run leaves nothing behind
    trained = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    wanted = 3 * variant.recovery(64, 96).parameters(64, 96)
    assert trained == pytest.approx(wanted, rel=0.15)  # ranks are whole numbers
    if method != "drop_t_ori":  # which drops another number of layers
        assert kept.mlp == pytest.approx(5 / 8 + trained / (8 * 3 * 64 * 96), abs=0.01)


def test_the_control_without_sharing_is_warmed_up() -> None:
    variant = Variant(plan="3:4-5", rank=400, reference=False, warmup=True)
    control = model()
    build(variant, control, MEANS)
    assert all(not mlp.recovery.reference for mlp in shared_layers(control).values())


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (Variant(plan="t_next", rank=400, finetune=1.0), "--finetune-tokens"),
        (Variant(plan="30:31"), "must name layers between 1 and 8"),
    ],
)
def test_what_cannot_be_made_says_why(variant: Variant, reason: str) -> None:
    with pytest.raises(SharpError, match=reason):
        build(variant, model(), MEANS)
