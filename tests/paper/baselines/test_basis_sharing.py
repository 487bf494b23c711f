"""Basis Sharing is the best factoring in the data's metric, and keeps as many parameters as it was asked to."""

import pytest
import torch
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.model.modules import mlp_weights
from sharp_mobile.paper.baselines.basis_sharing import basis_rank, share_bases, shared_basis
from sharp_mobile.recipe.recovery import ATTENTION_MATRICES as ATTENTION
from sharp_mobile.recipe.recovery import MLP_MATRICES as MLP

WINDOWS = tiny_tokens(32, batch=8)


def measured(model: PreTrainedModel) -> float:
    return perplexity(lambda tokens: model(tokens).logits, WINDOWS).value


def test_all_basis_vectors_give_the_weights_back() -> None:
    x = torch.randn(200, 24, dtype=torch.float64)
    weights = [torch.randn(16, 24), torch.randn(16, 24)]
    for weight, new in zip(weights, shared_basis(weights, x.T @ x, 24), strict=True):
        torch.testing.assert_close(new.float(), weight, rtol=1e-5, atol=1e-5)


def test_the_basis_is_shared_and_the_best_on_the_data() -> None:
    x = torch.randn(200, 24, dtype=torch.float64) @ torch.diag(torch.logspace(0, -2, 24, dtype=torch.float64))
    weights = [torch.randn(16, 24), torch.randn(16, 24)]
    both = torch.cat(weights).double().T
    new = torch.cat(shared_basis(weights, x.T @ x, 6)).T
    assert torch.linalg.matrix_rank(new) == 6  # of both weights together: one basis
    discarded = torch.linalg.svdvals(x @ both)[6:].norm()  # Eckart and Young
    assert (x @ (new - both)).norm().item() == pytest.approx(discarded.item(), rel=1e-3)


def test_weights_of_low_rank_are_kept_exactly() -> None:
    x = torch.randn(100, 24, dtype=torch.float64)
    basis = torch.randn(24, 5)
    weights = [(basis @ torch.randn(5, 16)).T, (basis @ torch.randn(5, 16)).T]
    for weight, new in zip(weights, shared_basis(weights, x.T @ x, 5), strict=True):
        torch.testing.assert_close(new.float(), weight, rtol=1e-4, atol=1e-4)


def test_keeping_everything_is_the_identity() -> None:
    model = tiny_model()
    kept = share_bases(model, WINDOWS, 1.0)
    assert measured(model) == measured(tiny_model())
    assert kept.mlp == kept.total == 1


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_is_factored_and_counted(model_type: str) -> None:
    model, original = tiny_model(model_type), tiny_model(model_type)
    kept = share_bases(model, WINDOWS, 0.5)
    assert kept.mlp == pytest.approx(0.5, abs=0.02)
    assert kept.mlp < kept.total < 1  # the embedding stays
    for first in (0, 2, 4):
        pair = [mlp_weights(model.model.layers[layer].mlp) for layer in (first, first + 1)]
        rank = basis_rank(64, 2 * 96, 0.5)
        assert torch.linalg.matrix_rank(torch.cat([weights.gate for weights in pair]), rtol=1e-4) == rank
        assert torch.linalg.matrix_rank(pair[0].down, rtol=1e-4) == basis_rank(96, 64, 0.5)
    with torch.no_grad():
        assert model(WINDOWS).logits.isfinite().all()
        assert not torch.allclose(model(WINDOWS).logits, original(WINDOWS).logits, atol=1e-2)


def test_only_the_named_matrices_change() -> None:
    model, original = tiny_model(), tiny_model()
    kept = share_bases(model, WINDOWS, 0.6, matrices=MLP)
    for changed, before in zip(model.model.layers, original.model.layers, strict=True):
        assert torch.equal(changed.self_attn.q_proj.weight, before.self_attn.q_proj.weight)
        assert not torch.equal(changed.mlp.up_proj.weight, before.mlp.up_proj.weight)
    assert kept.mlp == pytest.approx(0.6, abs=0.02)
    attention = share_bases(tiny_model(), WINDOWS, 0.6, matrices=ATTENTION)
    assert attention.mlp == 1


def test_bad_settings_are_refused() -> None:
    with pytest.raises(SharpError, match="more than 0"):
        share_bases(tiny_model(), WINDOWS, 0.0)
    with pytest.raises(SharpError, match="no matrix 'norm'"):
        share_bases(tiny_model(), WINDOWS, 0.5, matrices=("norm",))
    with pytest.raises(SharpError, match="not finite or all equal"):
        shared_basis([torch.randn(4, 4)], torch.full((4, 4), torch.nan, dtype=torch.float64), 2)
