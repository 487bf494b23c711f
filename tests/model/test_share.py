import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import decoder_layers, mlp_activation, mlp_biases, mlp_weights
from sharp_mobile.model.recovered import RecoveredProjection
from sharp_mobile.model.share import own_mlp, recovery_parameters, share_layers, shared_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import DEPLOYABLE, Recovery

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "pad_token_id": 0,
}
FORMS = ("lora", "right", "left", "hadamard")


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def llama_with_biases() -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, mlp_bias=True)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def phi3() -> PreTrainedModel:
    torch.manual_seed(0)
    return Phi3ForCausalLM(Phi3Config(**SIZES)).eval()


def randomized(model: PreTrainedModel, plan: SharePlan, recovery: Recovery) -> PreTrainedModel:
    """The model shared, its recovery parameters random."""
    share_layers(model, plan, recovery)
    torch.manual_seed(1)
    for _, parameter in recovery_parameters(model):
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def dense(projection: RecoveredProjection, theta: torch.Tensor) -> torch.Tensor:
    """The target's whole weight, by the equations of the paper."""
    p = dict(projection.named_parameters())
    shared = {
        "lora": lambda: theta,
        "right": lambda: theta @ p["C"].T @ p["D"],
        "left": lambda: p["E"] @ p["F"].T @ theta,
        "hadamard": lambda: (p["U"] @ p["V"]) * theta,
    }[projection.form]()
    return p["alpha"] * shared + p["B"] @ p["A"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("build", [llama, llama_with_biases, phi3])
def test_each_form_is_its_equation(form: str, build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    gate_bias, up_bias, down_bias = mlp_biases(copy.deepcopy(decoder_layers(model)[3].mlp))
    randomized(model, SharePlan.parse("3:4", 6), Recovery(form, 8))
    mlp, reference = decoder_layers(model)[3].mlp, decoder_layers(model)[2].mlp
    gate, up, down = mlp_weights(reference)
    x = torch.randn(2, 5, 64)
    hidden = mlp_activation(reference)(F.linear(x, dense(mlp.gate, gate), gate_bias))
    hidden = hidden * F.linear(x, dense(mlp.up, up), up_bias)
    expected = F.linear(hidden, dense(mlp.down, down), down_bias)
    torch.testing.assert_close(mlp(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [llama, phi3])
def test_direct_share_is_the_references_mlp(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    share_layers(model, SharePlan.parse("direct:3:4", 6), Recovery("lora", 8))
    x = torch.randn(2, 5, 64)
    layers = decoder_layers(model)
    assert torch.equal(layers[3].mlp(x), layers[2].mlp(x))
    assert not list(recovery_parameters(model))


@pytest.mark.parametrize("form", ["lora", "hadamard"])
def test_full_rank_start_is_the_reference(form: str) -> None:
    model = llama()
    share_layers(model, SharePlan.parse("3:4", 6), Recovery(form, 8))
    x = torch.randn(2, 5, 64)
    layers = decoder_layers(model)
    torch.testing.assert_close(layers[3].mlp(x), layers[2].mlp(x))


@pytest.mark.parametrize("form", FORMS)
def test_training_lowers_the_loss_of_every_form(form: str) -> None:
    model = llama()
    teacher = copy.deepcopy(decoder_layers(model)[3].mlp)
    share_layers(model, SharePlan.parse("3:4", 6), Recovery(form, 8))
    mlp = decoder_layers(model)[3].mlp
    x = torch.randn(64, 64)
    optimizer = torch.optim.Adam([parameter for _, parameter in recovery_parameters(model)], lr=1e-3)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(mlp(x), teacher(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_only_recovery_parameters_train_and_are_stored() -> None:
    model = llama()
    share_layers(model, SharePlan.parse("3:4,5", 6), Recovery("lora", 8))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {
        f"model.layers.{layer}.mlp.{projection}.{name}"
        for layer in (3, 4)
        for projection in ("gate", "up", "down")
        for name in ("alpha", "A", "B")
    }
    assert trainable == dict(recovery_parameters(model)).keys()
    stored = {name for name in model.state_dict() if ".3.mlp." in name or ".4.mlp." in name}
    assert stored == trainable


def test_parameter_count_is_equation_1() -> None:
    model, plan = llama(), SharePlan.parse("3:4,5", 6)
    before = sum(w.numel() for layer in decoder_layers(model) for w in layer.mlp.parameters())
    share_layers(model, plan, Recovery("lora", 8))
    after = sum(w.numel() for layer in decoder_layers(model) for w in layer.mlp.parameters() if w.ndim)
    assert after / before == pytest.approx(
        plan.compression_ratio(64, 96, 2 * Recovery("lora", 8).parameters(64, 96)), rel=1e-12
    )


HYBRIDS = (
    Recovery("lora", (3, 0, 8)),
    Recovery("right", (3, 4, 5), neurons=7, bypass=2),
    Recovery("left", (3, 4, 5)),
    Recovery("hadamard", (3, 4, 5)),
    Recovery("lora", 0, neurons=7),
    Recovery(bypass=5, reference=False),
    Recovery(neurons=7, bypass=5, reference=False),
)


@pytest.mark.parametrize("recovery", HYBRIDS, ids=str)
def test_parameters_counts_every_kind(recovery: Recovery) -> None:
    model = llama()
    share_layers(model, SharePlan.parse("3:4,5", 6), recovery)
    stored = sum(parameter.numel() for _, parameter in recovery_parameters(model) if parameter.ndim)
    assert stored == 2 * recovery.parameters(64, 96)


@pytest.mark.parametrize("build", [llama, llama_with_biases, phi3])
@pytest.mark.parametrize("reference", [True, False])
def test_a_hybrid_is_the_sum_of_its_parts(reference: bool, build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    _, _, down_bias = mlp_biases(copy.deepcopy(decoder_layers(model)[3].mlp))
    recovery = Recovery("lora", 4 if reference else 0, neurons=7, bypass=5, reference=reference)
    randomized(model, SharePlan.parse("3:4", 6), recovery)
    mlp, x = decoder_layers(model)[3].mlp, torch.randn(2, 5, 64)
    own, bypass = mlp.neurons, mlp.bypass
    inner = mlp.activation(F.linear(x, own.gate, own.gate_bias)) * F.linear(x, own.up, own.up_bias)
    expected = inner @ own.down.T + x @ bypass.A.T @ bypass.B.T
    if reference:
        expected = expected + mlp.down(mlp.inner(x), mlp_weights(mlp.reference).down)
    elif down_bias is not None:
        expected = expected + down_bias
    torch.testing.assert_close(mlp(x), expected)


def test_a_hybrid_starts_as_the_direct_share_or_as_its_largest_neurons() -> None:
    model, x = llama(), torch.randn(2, 5, 64)
    own = copy.deepcopy(decoder_layers(model)[3].mlp)
    beside = Recovery("lora", 4, neurons=7, bypass=5)
    share_layers(model, SharePlan.parse("3:4,5", 6), {3: beside, 4: Recovery(neurons=96, reference=False)})
    layers = decoder_layers(model)
    torch.testing.assert_close(layers[3].mlp(x), layers[2].mlp(x))
    torch.testing.assert_close(layers[4].mlp(x), llama().model.layers[4].mlp(x))  # all of its neurons
    weights, kept = mlp_weights(own), layers[3].mlp.neurons
    size = weights.gate.norm(dim=1) * weights.up.norm(dim=1) * weights.down.norm(dim=0)
    assert torch.equal(kept.gate, weights.gate[size.topk(7).indices])


def test_adapters_stand_around_a_layers_own_mlp() -> None:
    """Full-LoRA: adapters start as nothing, leave the weights where they are, and targets still find them there."""
    model, plain, tokens = llama(), llama(), torch.arange(20)[None]
    plan = SharePlan.parse("3:4", 6)
    share_layers(model, plan, {layer: Recovery("lora", 4) for layer in range(6)})
    share_layers(plain, plan, Recovery("lora", 4))
    torch.testing.assert_close(model(tokens).logits, plain(tokens).logits)
    layers = decoder_layers(model)
    assert layers[3].mlp.reference is layers[2].mlp.base
    assert own_mlp(layers[2].mlp) is layers[2].mlp.base
    assert "model.layers.2.mlp.base.gate_proj.weight" in model.state_dict()
    assert not any(".3.mlp.base" in name for name in model.state_dict())
    assert {name.split(".")[2] for name, _ in recovery_parameters(model)} == {str(layer) for layer in range(6)}
    twin = copy.deepcopy(model)
    assert decoder_layers(twin)[3].mlp.reference is decoder_layers(twin)[2].mlp.base


@pytest.mark.parametrize(
    ("recovery", "says"),
    [
        ({"rank": (4, 0, 4), "form": "right"}, "0 would make a zero weight"),
        ({"rank": 4, "reference": False, "bypass": 2}, "without the reference has no weight to correct"),
        ({"neurons": -1}, "recovery neurons -1 is negative"),
    ],
)
def test_recovery_parameters_that_make_no_sense_are_refused(recovery: dict[str, Any], says: str) -> None:
    with pytest.raises(SharpError, match=says):
        Recovery(**recovery)


@pytest.mark.parametrize(
    ("recovery", "says"),
    [
        ({3: Recovery("lora", 4)}, "target 5 has no entry"),
        ({3: Recovery("lora", 4), 4: Recovery("lora", 4), 6: Recovery("lora", 4)}, "layer 7 does not exist"),
        ({3: Recovery(), 4: Recovery(), 1: Recovery(bypass=2, reference=False)}, "layer 2 is not a target"),
        ({3: Recovery(neurons=97), 4: Recovery()}, "97 own neurons are more than its MLP's 96"),
    ],
)
def test_recoveries_that_do_not_fit_are_refused(recovery: dict[int, Recovery], says: str) -> None:
    with pytest.raises(SharpError, match=says):
        share_layers(llama(), SharePlan.parse("3:4,5", 6), recovery)


def test_a_copy_shares_with_its_own_reference() -> None:
    model = randomized(llama(), SharePlan.parse("3:4", 6), Recovery("lora", 8))
    twin = copy.deepcopy(model)
    x = torch.randn(1, 4, 64)
    before = decoder_layers(twin)[3].mlp(x)
    with torch.no_grad():
        decoder_layers(model)[2].mlp.down_proj.weight.zero_()
    assert torch.equal(decoder_layers(twin)[3].mlp(x), before)
    assert decoder_layers(twin)[3].mlp.reference is decoder_layers(twin)[2].mlp


def test_dtype_follows_the_model() -> None:
    model = llama().to(torch.bfloat16)
    share_layers(model, SharePlan.parse("3:4", 6), Recovery("right", 8))
    assert {parameter.dtype for _, parameter in recovery_parameters(model)} == {torch.bfloat16}
    model.to(torch.float32)
    assert decoder_layers(model)[3].mlp(torch.randn(1, 64)).dtype == torch.float32


def test_generates() -> None:
    model = randomized(llama(), SharePlan.parse("3:4", 6), Recovery("lora", 8))
    prompt = torch.tensor([[1, 2, 3]])
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    expected = prompt
    for _ in range(tokens.shape[1] - 3):  # greedy without a cache
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(tokens, expected)


def test_shared_layers_name_their_reference() -> None:
    model = llama()
    assert shared_layers(model) == {}
    share_layers(model, SharePlan.parse("2:3, 4:5", 6), Recovery("lora", 4))
    assert {layer: mlp.reference_layer for layer, mlp in shared_layers(model).items()} == {2: 1, 4: 3}


def test_shapes_that_differ_are_refused() -> None:
    model = llama()
    narrow = LlamaForCausalLM(LlamaConfig(**{**SIZES, "intermediate_size": 80}))
    decoder_layers(model)[3].mlp = decoder_layers(narrow)[3].mlp
    with pytest.raises(
        SharpError, match=r"layer 4 cannot share layer 3: .*64 wide with 80 inner.*64 wide with 96 inner"
    ):
        share_layers(model, SharePlan.parse("3:4", 6), Recovery("lora", 4))
    assert shared_layers(model) == {}


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(SharpError, match="for 8 layers and the model has 6"):
        share_layers(llama(), SharePlan.parse("3:4", 8), Recovery("lora", 4))
    model = llama()
    share_layers(model, SharePlan.parse("3:4", 6), Recovery("lora", 4))
    with pytest.raises(SharpError, match="layer 4 is a target already"):
        share_layers(model, SharePlan.parse("4:5", 6), Recovery("lora", 4))
    with pytest.raises(SharpError, match="form 'dora' does not exist"):
        Recovery("dora", 4)
    with pytest.raises(SharpError, match="rank -1 is negative"):
        Recovery("lora", -1)


def test_hadamard_is_not_deployable() -> None:
    assert set(FORMS) - DEPLOYABLE == {"hadamard"}
