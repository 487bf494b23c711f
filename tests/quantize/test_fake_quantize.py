"""What trains is what ships: the simulation computes with the exporter's own integers, and can be trained."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from share_kinds import KINDS as SHARED_KINDS
from share_kinds import shared_model as sharing_model
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.fuse import Projections, fuse
from sharp_mobile.decoder.integer import project
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.projections import LowRank, SharedFloats
from sharp_mobile.model.basis import BasisLinear
from sharp_mobile.model.modules import mlp_weights
from sharp_mobile.model.recovered import Bypass
from sharp_mobile.model.share import recovery_parameters, share_layers, shared_layers
from sharp_mobile.model.shared_attention import SharedLinear
from sharp_mobile.quantize.fake_quantize import simulated
from sharp_mobile.quantize.nearest import quantize, quantize_modules
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recovery

PLAN = SharePlan.parse("2:3, 4:5", 6)
KINDS: dict[str, Recovery | dict[int, Recovery]] = {
    "lora": Recovery("lora", 32),
    "right": Recovery("right", 32),
    "left": Recovery("left", 32),
    "direct": Recovery(),
    "hybrids": {
        2: Recovery("lora", (0, 32, 64), neurons=32, bypass=32),
        4: Recovery(neurons=32, bypass=32, reference=False),
    },
    "adapters": {layer: Recovery("lora", 32) for layer in range(6)},
}
OPTIONS = (
    QuantizeSettings(lm_head=4, recovery=4),
    QuantizeSettings(),
    QuantizeSettings(linear=8, recovery="float", lm_head=4),
)


def shared_model(recovery: Any = KINDS["lora"], model_type: str = "llama", **overrides: Any) -> Any:
    model = tiny_model(model_type, **overrides)
    share_layers(model, PLAN, recovery)
    torch.manual_seed(1)
    for _, parameter in recovery_parameters(model):
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_target_computes_as_its_exported_form(kind: str, options: QuantizeSettings) -> None:
    model = shared_model(KINDS[kind], mlp_bias=True)
    x = torch.randn(1, 9, 64)
    for mlp in shared_layers(model).values():
        exported = torch.nn.Module()
        projections = Projections(*(FloatLinear(weight, "mlp") for weight in mlp_weights(mlp.reference)))
        exported.mlp = fuse(mlp, projections if mlp.recovery.reference else None)
        quantize_modules(exported, options, 4)
        with simulated(model, options), torch.no_grad():
            torch.testing.assert_close(mlp(x), exported.mlp(x), rtol=1e-5, atol=1e-5)
        if mlp.recovery.reference or options.recovery != "float":  # rounding is seen at all
            with torch.no_grad():
                assert not torch.allclose(mlp(x), exported.mlp(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma3_text", "olmo2"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model_computes_as_the_quantized_decoder(model_type: str, tied: bool) -> None:
    """But for what a code at the border between two decides (see lower/check.py): compared in what it predicts."""
    assert_computes_as_the_decoder(shared_model(model_type=model_type, tie_word_embeddings=tied))


def assert_computes_as_the_decoder(model: Any) -> None:
    tokens, options = tiny_tokens(24), QuantizeSettings()
    decoder = build_decoder(model, LowerSettings(max_length=32, attention="portable", logits="all"))
    quantize(decoder, options)
    with torch.no_grad():
        expected = decoder(tokens, torch.tensor([0])).log_softmax(-1)
        floating = model(tokens).logits.log_softmax(-1)
        with simulated(model, options):
            computed = model(tokens).logits.log_softmax(-1)

    def divergence(other: torch.Tensor) -> float:
        return float(F.kl_div(other, expected, log_target=True, reduction="sum") / tokens.numel())

    assert divergence(computed) < 0.1 * divergence(floating)


@pytest.mark.parametrize("options", OPTIONS[::2], ids=str)
@pytest.mark.parametrize(
    "kind", ["attention", "attention left", "attention ranks", "kv", "drop attention", "basis in part"]
)
@pytest.mark.parametrize("model_type", ["qwen2", "phi3"])
def test_linears_of_attention_compute_as_their_exported_form(
    model_type: str, kind: str, options: QuantizeSettings
) -> None:
    """Biases of q, k and v in Qwen2; one fused projection in Phi-3."""
    model = sharing_model(SHARED_KINDS[kind], model_type)
    exported, replaced = torch.nn.ModuleDict(), {}
    floats = SharedFloats(set())
    for name, module in model.named_modules():
        key = name.replace(".", "_")
        if isinstance(module, SharedLinear | BasisLinear):
            replaced[key], role = module, "mlp" if ".mlp." in name else "attention"
            exported[key] = torch.nn.ModuleList(floats.parts(module, module.sizes, role))  # type: ignore[arg-type]
        elif isinstance(module, Bypass):
            replaced[key], exported[key] = module, LowRank(module)
    quantize_modules(exported, options, 4)
    for key, module in replaced.items():
        width = module.A.shape[1] if isinstance(module, Bypass) else linear_of(module).in_features
        x, form = torch.randn(1, 9, width), exported[key]
        with torch.no_grad():
            expected = form(x) if isinstance(form, LowRank) else torch.cat(project(x, *form), dim=-1)
            with simulated(model, options):
                torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(module(x), expected, rtol=1e-5, atol=1e-5) or options.recovery == "float"


def linear_of(module: Any) -> Any:
    return module.reference if isinstance(module, SharedLinear) else module


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [*((kind, "llama") for kind in SHARED_KINDS), ("kv", "gemma3_text"), ("kv", "phi3"), ("layer", "qwen2")],
)
def test_a_model_of_every_kind_computes_as_the_quantized_decoder(kind: str, model_type: str) -> None:
    """As above, with the same measure."""
    assert_computes_as_the_decoder(sharing_model(SHARED_KINDS[kind], model_type))


def test_afterwards_and_while_suspended_it_is_the_float_model() -> None:
    model, tokens = shared_model(), tiny_tokens(24)
    before, names = model(tokens).logits, dict(model.named_parameters())
    with simulated(model, QuantizeSettings(lm_head=4, recovery=4)) as simulation:
        inside = model(tokens).logits
        assert dict(model.named_parameters()).keys() == names.keys()
        with simulation.suspended():
            assert torch.equal(model(tokens).logits, before)
        assert torch.equal(model(tokens).logits, inside)
    assert not torch.allclose(inside, before)
    assert torch.equal(model(tokens).logits, before)
    assert all(parameter is names[name] for name, parameter in model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "right", "left", "hybrids", "adapters"])
def test_recovery_parameters_learn_through_the_rounding(kind: str) -> None:
    """Trained to give the float model's logits, the quantized model comes closer than by rounding afterwards."""
    model, tokens = shared_model(KINDS[kind]), tiny_tokens(24, batch=4)
    teacher = copy.deepcopy(model)
    expected = teacher(tokens).logits.detach()
    trained = [parameter for _, parameter in recovery_parameters(model)]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    losses = []
    with simulated(model, QuantizeSettings(recovery=4)):
        for _ in range(25):
            loss = F.mse_loss(model(tokens).logits, expected)
            optimizer.zero_grad()
            loss.backward()
            assert all(parameter.grad is not None for parameter in trained)
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if "mlp" not in name)
