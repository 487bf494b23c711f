"""Every kind of variant is made, keeps as many parameters as the others that it is compared with, or says why not."""

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.errors import SharpError
from sharp_mobile.reproduce.variants import Texts, Variant, build, parameters_per_rank, rank_for, scaled_rank
from sharp_mobile.share import RecoveredProjection, Recovery, shared_layers

TEXTS = Texts(tiny_tokens(24, batch=8), 0)
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
    hidden, inner = 64, 96
    rank = rank_for(form, 24, hidden, inner)
    shapes = ((inner, hidden), (inner, hidden), (hidden, inner))
    projections = [RecoveredProjection(Recovery(form, rank), torch.zeros(shape), None) for shape in shapes]
    counted = sum(p.numel() for projection in projections for p in projection.parameters()) - 3  # the scalars α
    assert counted == rank * parameters_per_rank(form, hidden, inner)
    assert counted == pytest.approx(24 * 3 * (hidden + inner), rel=0.05)


@pytest.mark.parametrize("method", ["prune_channels", "share_bases"])
def test_baselines_keep_as_much_as_sharing(method: str) -> None:
    variant = Variant(plan="t_next", rank=400, warmup="closed_form")
    shared = build(variant, model(), TEXTS, progress=False)
    other = build(replace(variant, method=method, warmup="none"), model(), TEXTS, progress=False)
    assert other.mlp == pytest.approx(shared.mlp, abs=0.015)


def test_a_variant_is_what_its_row_says() -> None:
    recovered = model()
    build(Variant(plan="3:4-5", rank=400, warmup="closed_form"), recovered, TEXTS, progress=False)
    assert list(shared_layers(recovered)) == [3, 4]
    assert any(p.abs().max() > 0 for p in (shared_layers(recovered)[3].gate.B,))
    direct = model()
    kept = build(Variant(plan="3:4-5"), direct, TEXTS, progress=False)
    assert kept.mlp == pytest.approx(1 - 2 / LAYERS)
    dropped = model()
    assert build(Variant("drop", "3:4-5"), dropped, TEXTS, progress=False) == kept
    assert not list(dropped.model.layers[3].mlp.parameters())


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (Variant(plan="t_next", rank=400, finetune=1.0), "--finetune-tokens"),
        (Variant(plan="t_next", rank=400, full_lora=True), "Full-LoRA"),
        (Variant(plan="30:31"), "must name layers between 1 and 8"),
    ],
)
def test_what_cannot_be_made_says_why(variant: Variant, reason: str) -> None:
    with pytest.raises(SharpError, match=reason):
        build(variant, model(), TEXTS, progress=False)
