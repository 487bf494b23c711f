import pytest
import torch
from tiny_finetune import check_original_view, shared_model
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens

from sharp_mobile.model.modules import LayerParts, decoder_layers
from sharp_mobile.model.share import recovery_parameters
from sharp_mobile.quantize.fake_quantize import simulated
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recovery.finetune.teacher import LossModel, two_views


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("adapters", [0, 3])
def test_the_original_view_is_the_original_model(model_type: str, adapters: int) -> None:
    model, originals = shared_model(model_type, adapters=adapters)
    with torch.no_grad():
        for _, parameter in recovery_parameters(model):
            parameter.add_(0.1)
    if adapters:
        layers = decoder_layers(model)
        adapted = {index: LayerParts(layer.self_attn, layer.mlp.reference) for index, layer in enumerate(layers)}
        originals = adapted | originals
    check_original_view(model, originals, model_type)


@pytest.mark.parametrize("distillation", [0.0, 1.0])
def test_nothing_before_the_first_target_and_no_frozen_weight_gets_a_backward_pass(distillation: float) -> None:
    model, originals = shared_model(plan="3:4")  # the first target is the fourth layer
    differentiable: list[bool] = []
    for layer in decoder_layers(model):
        layer.register_forward_hook(lambda _module, _args, output: differentiable.append(output.requires_grad))
    with two_views(model, originals) as views:
        tokens = tiny_tokens()
        LossModel(model, views, distillation)(tokens, tokens)["loss"].backward()
    assert differentiable[-6:] == [False, False, False, True, True, True]
    assert not any(differentiable[:-6])  # the original's forward pass, if there is one
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in recovery_parameters(model)}


def test_training_mode_does_not_switch_dropout_on() -> None:
    model, originals = shared_model()
    with two_views(model, originals) as views:
        loss_model = LossModel(model, views, 1.0).train()
        attention = decoder_layers(model)[0].self_attn
        assert loss_model.training
        assert not attention.training
        assert decoder_layers(model)[0].training  # what gradient checkpointing asks for


def test_the_original_is_in_float_where_the_shared_model_simulates_its_export() -> None:
    model, originals = shared_model(rank=32)
    tokens, original = tiny_tokens(), tiny_model()
    with simulated(model, QuantizeSettings(lm_head=4, recovery=4)) as simulation, two_views(model, originals) as views:
        loss = LossModel(model, views, 1.0, simulation.suspended)(tokens, tokens)["loss"]
        loss.backward()
        log_p = model(tokens).logits[0, :-1].log_softmax(-1)
    log_p0 = original(tokens).logits[0, :-1].log_softmax(-1)
    expected = (log_p0.exp() * (log_p0 - log_p)).sum() / log_p.shape[0]
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    assert all(parameter.grad is not None for _, parameter in recovery_parameters(model))
