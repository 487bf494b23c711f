import copy

import pytest
import torch
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens

from sharp_mobile.adapters import adapted_layers, add_adapters
from sharp_mobile.errors import SharpError
from sharp_mobile.families import decoder_layers, mlp_activation, mlp_weights
from sharp_mobile.lower.fuse import Projections, fuse, linear
from sharp_mobile.plan import SharePlan
from sharp_mobile.share import Recovery, recovery_parameters, share_layers, shared_layers

LORA = Recovery("lora", 3)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_adapters_start_as_the_identity_and_keep_the_names_of_the_weights(model_type: str) -> None:
    model = tiny_model(model_type)
    weights, logits = set(model.state_dict()), model(tiny_tokens()).logits
    assert add_adapters(model, LORA) == (0, 1, 2, 3, 4, 5)
    torch.testing.assert_close(model(tiny_tokens()).logits, logits)
    added = set(model.state_dict()) - weights
    assert weights < set(model.state_dict())
    assert added == {name for name, _ in recovery_parameters(model)}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == added


def test_a_target_reads_its_references_weights_without_the_references_adapter() -> None:
    model = tiny_model()
    share_layers(model, SharePlan.parse("2:3", 6), LORA)
    assert add_adapters(model, LORA) == (0, 1, 3, 4, 5)
    x = torch.randn(2, 64)
    before = decoder_layers(model)[2].mlp(x)
    adapted = decoder_layers(model)[1].mlp(x)
    with torch.no_grad():
        decoder_layers(model)[1].mlp.down.B.add_(1.0)
    assert torch.equal(decoder_layers(model)[2].mlp(x), before)
    assert not torch.equal(decoder_layers(model)[1].mlp(x), adapted)
    assert shared_layers(model)[2].reference_layer == 1


def test_adapters_survive_saving_and_copying() -> None:
    model = tiny_model()
    add_adapters(model, LORA)
    with torch.no_grad():
        for _, parameter in recovery_parameters(model):
            parameter.add_(0.1)
    again = tiny_model(seed=1)
    add_adapters(again, LORA)
    again.load_state_dict(model.state_dict())
    for other in (again, copy.deepcopy(model)):
        assert torch.equal(other(tiny_tokens()).logits, model(tiny_tokens()).logits)


def test_an_adapted_mlp_is_fused_as_a_target_is() -> None:
    model = tiny_model()
    add_adapters(model, LORA)
    mlp = adapted_layers(model)[2]
    with torch.no_grad():
        for name in ("gate", "up", "down"):
            getattr(mlp, name).B.normal_()
            getattr(mlp, name).alpha.fill_(0.7)
    fused = fuse(mlp, Projections(*(linear(weight) for weight in mlp_weights(mlp))))
    x = torch.randn(5, 64)
    torch.testing.assert_close(fused(x), mlp(x), atol=1e-5, rtol=1e-5)
    assert mlp_activation(mlp) is mlp_activation(mlp.reference)


def test_what_cannot_be_adapted_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(SharpError, match="rank 0"):
        add_adapters(model, Recovery("lora", 0))
    add_adapters(model, LORA)
    with pytest.raises(SharpError, match="already"):
        add_adapters(model, LORA)
    with pytest.raises(SharpError, match="target already"):
        share_layers(model, SharePlan.parse("2:3", 6), LORA)
