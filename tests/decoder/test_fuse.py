"""The fused form of a target's MLP computes what was trained, around weights that stay the reference's."""

from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.fuse import FusedMLP, Projections, fuse
from sharp_mobile.decoder.integer import QuantizedLinear
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.decoder.segments import GatedMLP
from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import mlp_weights
from sharp_mobile.model.share import SharedMLP, recovery_parameters, share_layers, shared_layers
from sharp_mobile.quantize.nearest import quantize
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recovery

RANK = 32


def shared_model(
    form: Any = "lora",
    rank: int = RANK,
    plan: str = "2:3,4",
    recovery: Recovery | None = None,
    **overrides: Any,
) -> Any:
    """A tiny shared Llama with random recovery parameters."""
    model = tiny_model(**overrides)
    share_layers(model, SharePlan.parse(plan, 6), recovery or Recovery(form, rank))
    for _, parameter in recovery_parameters(model):
        torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def target_of(model: Any) -> SharedMLP:
    return shared_layers(model)[2]


def projections_of(shared: SharedMLP) -> Projections:
    return Projections(*(FloatLinear(weight, "mlp") for weight in mlp_weights(shared.reference)))


def relative_error(fused: nn.Module, shared: SharedMLP) -> float:
    x = torch.randn(1, 9, 64)
    expected = shared(x)
    return float((fused(x) - expected).norm() / expected.norm())


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("form", "rank"), [("lora", RANK), ("right", RANK), ("left", RANK), ("lora", 0)])
def test_every_form_computes_what_was_trained(form: str, rank: int, biased: bool) -> None:
    shared = target_of(shared_model(form, rank, mlp_bias=biased))
    assert relative_error(fuse(shared, projections_of(shared)), shared) < 1e-5


HYBRIDS = (
    Recovery("lora", (0, 0, RANK)),
    Recovery("lora", (8, 16, 24)),
    Recovery("lora", 8, neurons=5),
    Recovery("right", (4, 8, 12), neurons=5, bypass=3),
    Recovery("left", 8, bypass=3),
    Recovery("lora", 0, neurons=5, bypass=3),
    Recovery(neurons=5, reference=False),
    Recovery(bypass=3, reference=False),
    Recovery(neurons=5, bypass=3, reference=False),
)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("recovery", HYBRIDS, ids=str)
def test_hybrids_and_uneven_ranks_compute_what_was_trained(recovery: Recovery, biased: bool) -> None:
    shared = target_of(shared_model(recovery=recovery, mlp_bias=biased))
    fused = fuse(shared, projections_of(shared) if recovery.reference else None)
    assert relative_error(fused, shared) < 1e-5
    own = [weight for name, weight in fused.named_parameters() if name.startswith("recovery.")]
    assert sum(weight.numel() for weight in own) == recovery.parameters(64, 96)


@pytest.mark.parametrize("model_type", ["phi3", "gemma3_text"])
def test_fused_gate_and_up_and_another_activation(model_type: str) -> None:
    shared = target_of(shared_model(model_type=model_type))
    assert relative_error(fuse(shared, projections_of(shared)), shared) < 1e-5


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("alpha", "folded"), [(1.0, True), (-1.3, True), (2e-4, True), (1e-6, False), (-1e-6, False), (0.0, False)]
)
def test_alpha_of_up_costs_nothing_unless_it_is_tiny(alpha: float, folded: bool, biased: bool) -> None:
    shared = target_of(shared_model(mlp_bias=biased))
    shared.up.alpha.fill_(alpha)
    fused = fuse(shared, projections_of(shared))
    assert (fused.up_alpha is None) == folded
    assert relative_error(fused, shared) < 1e-5


@pytest.mark.parametrize("form", ["lora", "right", "left"])
@pytest.mark.parametrize("rank", [RANK, 0])
def test_shared_linears_are_the_references_own(form: str, rank: int) -> None:
    shared = target_of(shared_model(form, rank))
    projections = projections_of(shared)
    fused = fuse(shared, projections)
    assert (fused.gate, fused.up, fused.down) == projections
    for module, weight in zip(projections, mlp_weights(shared.reference), strict=True):
        assert module.weight.data_ptr() == weight.data_ptr()


def test_rank_0_is_a_plain_mlp() -> None:
    shared = target_of(shared_model(rank=0))
    fused = fuse(shared, projections_of(shared))
    assert isinstance(fused, GatedMLP)
    assert {id(module) for module in fused.modules() if isinstance(module, nn.Linear)} == {
        id(module) for module in (fused.gate, fused.up, fused.down)
    }


def test_the_factors_that_read_the_same_input_are_one_linear() -> None:
    shared = target_of(shared_model("lora"))
    fused = fuse(shared, projections_of(shared))
    assert torch.equal(fused.recovery["low"].weight, torch.cat([shared.gate.A, shared.up.A]))
    assert fused.recovery.keys() == {"low", "gate_out", "up_out", "down_in", "down_out"}

    shared = target_of(shared_model("right"))
    fused = fuse(shared, projections_of(shared))
    stacked = torch.cat([shared.gate.A, shared.gate.D, shared.up.A, shared.up.D])
    assert torch.equal(fused.recovery["low"].weight, stacked)


def test_hadamard_is_refused() -> None:
    shared = target_of(shared_model("hadamard"))
    with pytest.raises(SharpError, match=r"form 'hadamard' cannot be exported.*use lora, right or left"):
        fuse(shared, projections_of(shared))


def mlps(decoder: Decoder) -> list[Any]:
    return [middle.end.mlp for middle in decoder.middles] + [decoder.exit.end.mlp]


@pytest.mark.parametrize("quantized", [False, True])
def test_a_reference_and_its_targets_hold_the_same_objects(quantized: bool) -> None:
    decoder = build_decoder(shared_model(), LowerSettings(max_length=16))
    if quantized:
        quantize(decoder, QuantizeSettings(lm_head=4, recovery=4))
    _, reference, first, second, other, _ = mlps(decoder)
    for name in ("gate", "up", "down"):
        assert isinstance(getattr(reference, name), QuantizedLinear) == quantized
        assert getattr(first, name) is getattr(second, name) is getattr(reference, name)
        assert getattr(other, name) is not getattr(reference, name)
        assert first.recovery[f"{name}_out"] is not second.recovery[f"{name}_out"]


def activation_quantizations(mlp: nn.Module) -> int:
    """How often the MLP's traced graph quantizes an activation."""
    program = torch.export.export(mlp, (torch.randn(1, 4, 64),), strict=False)
    return sum("choose_qparams_affine" in str(node.target) for node in program.graph.nodes)


def test_an_input_is_quantized_once_for_all_that_read_it() -> None:
    """A plain MLP quantizes x and h. A target quantizes x, for gate, up and the stacked A; its two halves; h; A_d h."""
    decoder = build_decoder(shared_model(), LowerSettings(max_length=16))
    quantize(decoder, QuantizeSettings(lm_head=4, recovery=4))
    _, reference, target, *_ = mlps(decoder)
    assert isinstance(target, FusedMLP)
    assert activation_quantizations(reference) == 2
    assert activation_quantizations(target) == 5
