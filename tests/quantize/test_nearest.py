"""Integers stand for the weights as closely as their bits allow, and for each weight once."""

from typing import Any

import pytest
import torch
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
from tiny_models import tiny_model, tiny_tokens
from torch import nn

from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import (
    QuantizedEmbedding,
    QuantizedLinear,
    pack_codes,
    project,
    quantize_activation,
    unpack_codes,
    unpacked,
)
from sharp_mobile.decoder.linear import FloatLinear
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.quantize.nearest import (
    quantize,
    quantize_embedding,
    quantize_linear,
    quantize_weight,
    recovery_group,
)
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recovery


def dequantized(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """codes [out, in] times scales [out, in / group]."""
    groups = codes.float().reshape(*scales.shape, -1)
    return (groups * scales.unsqueeze(-1)).reshape(codes.shape)


def shared_decoder(rank: int = 32, **overrides: Any) -> Decoder:
    model = tiny_model(**overrides)
    share_layers(model, SharePlan.parse("2:3,4", 6), Recovery("lora", rank))
    for _, parameter in recovery_parameters(model):
        nn.init.normal_(parameter, std=0.3)
    return build_decoder(model.requires_grad_(False), LowerSettings(max_length=32, attention="portable", logits="all"))


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("scales", ["hqq", "minmax"])
def test_4_bit_codes_are_the_nearest_to_the_weight(group: int, scales: Any) -> None:
    weight = torch.randn(24, 256)
    codes, scale = quantize_weight(weight, 4, group, scales)
    assert codes.dtype == torch.int8
    assert scale.shape == (24, 256 // group)
    assert codes.min() >= -8
    assert codes.max() <= 7
    error = (dequantized(codes, scale) - weight).abs()
    step = scale.repeat_interleave(group, dim=1)
    inside = (weight / step >= -8.5) & (weight / step <= 7.5)
    assert (error <= 0.5001 * step)[inside].all()
    assert error.norm() / weight.norm() < 0.15


@pytest.mark.parametrize("scales", ["hqq", "minmax"])
def test_scales_are_those_that_xnnpack_stores(scales: Any) -> None:
    """XNNPACK keeps a 4-bit group's scale in bfloat16; the codes must be chosen for that scale."""
    _, scale = quantize_weight(torch.randn(24, 256), 4, 32, scales)
    assert scale.dtype == torch.float32
    assert torch.equal(scale, scale.bfloat16().float())


def test_minmax_loses_half_a_step_at_most() -> None:
    weight = torch.randn(24, 256)
    codes, scale = quantize_weight(weight, 4, 32, "minmax")
    # The scale is rounded to bfloat16 (8 bits), so the largest weight may be cut by a little more.
    assert ((dequantized(codes, scale) - weight).abs() <= 0.57 * scale.repeat_interleave(32, dim=1)).all()


def test_hqq_scales_lose_less_where_weights_have_long_tails() -> None:
    weight = torch.distributions.StudentT(4.0).sample((64, 256))
    error = {}
    for scales in ("hqq", "minmax"):
        codes, scale = quantize_weight(weight, 4, 32, scales)
        error[scales] = (dequantized(codes, scale) - weight).abs().pow(0.7).mean()  # HQQ's loss has a norm below 1
    assert error["hqq"] < error["minmax"]


@pytest.mark.parametrize("scales", ["hqq", "minmax"])
@pytest.mark.parametrize("bits", [4, 8])
def test_zero_weights_get_scale_1(bits: int, scales: Any) -> None:
    """Equal codes must come with equal scales, and all groups of zeros have equal codes."""
    weight = torch.randn(4, 64)
    weight[1] = 0
    weight[2, :32] = 0
    codes, scale = quantize_weight(weight, bits, 32, scales)
    assert torch.equal(scale[1], torch.ones(2))
    assert scale[2, 0] == 1
    assert not codes[1].any()
    assert not codes[2, :32].any()
    assert (scale[[0, 3]] < 1).all()


def test_8_bits_have_one_scale_a_row() -> None:
    layer = nn.Linear(96, 24)
    with torch.no_grad():
        layer.weight[3] *= 100
    quantized = quantize_linear(layer, 8, 32)
    assert quantized.scales.shape == (24, 1)
    assert quantized.codes.abs().max() >= 127
    error = (quantized.weight() - layer.weight).abs()
    assert (error <= 0.51 * quantized.scales).all()


def test_an_activation_has_its_own_range_for_every_token() -> None:
    x = torch.randn(1, 5, 64) * torch.tensor([1e-3, 1.0, 10.0, 1e3, 0.0])[:, None] + 0.5
    codes, scale, zero_point = quantize_activation(x)
    assert codes.dtype == torch.int8
    assert scale.numel() == zero_point.numel() == 5
    back = (codes.float() - zero_point.view(1, 5, 1)) * scale.view(1, 5, 1)
    assert ((back - x).abs() <= 1.01 * scale.view(1, 5, 1)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_linear_is_its_dequantized_weight_on_its_dequantized_input(bits: Any) -> None:
    layer, x = nn.Linear(64, 24), torch.randn(1, 5, 64)
    quantized = quantize_linear(layer, bits, 32)
    codes, scale, zero_point = quantize_activation(x)
    seen = (codes.float() - zero_point.view(1, 5, 1)) * scale.view(1, 5, 1)
    (y,) = project(x, quantized)
    torch.testing.assert_close(y, seen @ dequantized(*quantized.tensors()[:2]).T + layer.bias)
    assert (y - layer(x)).norm() / layer(x).norm() < (0.15 if bits == 4 else 0.02)


def test_a_4_bit_linear_takes_half_a_byte_a_code_until_it_is_unpacked() -> None:
    codes, scales = quantize_weight(torch.randn(24, 64), 4, 32)
    linear = QuantizedLinear(codes, scales, 4, None)
    assert linear.codes.nbytes + linear.scales.nbytes == 24 * 64 / 2 + 24 * 2 * 2
    at_rest = (linear.codes, linear.scales)
    with unpacked(nn.Sequential(linear)):
        assert torch.equal(linear.codes, codes)
        assert torch.equal(linear.scales, scales)
        weight = linear.weight()
    assert (linear.codes, linear.scales, linear.zero_points) == (*at_rest, None)
    assert torch.equal(linear.weight(), weight)


def test_codes_are_packed_as_xnnpack_stores_them() -> None:
    codes = torch.randint(-8, 8, (6, 32), dtype=torch.int8)
    packed = pack_codes(codes)
    assert torch.equal(packed, NodeVisitor.convert_to_qc4w(codes))
    assert torch.equal(unpack_codes(packed), codes)


def test_rows_are_rounded_alike_however_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(40, 64, dtype=torch.bfloat16)
    for bits, group in ((4, 32), (8, 64)):
        codes, scale = quantize_weight(weight.float(), bits, group, "minmax")
        monkeypatch.setattr("sharp_mobile.quantize.nearest._AT_ONCE", 3 * 64)
        again = quantize_weight(weight, bits, group, "minmax")
        assert torch.equal(codes, again[0])
        assert torch.equal(scale, again[1])


def test_project_leaves_float_linears_their_float_input() -> None:
    layer, x = nn.Linear(64, 24), torch.randn(1, 5, 64)
    exact, rounded = project(x, layer, quantize_linear(layer, 8, 64))
    assert torch.equal(exact, layer(x))
    assert not torch.equal(rounded, exact)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_embedding_looks_up_its_dequantized_rows(bits: Any) -> None:
    table, tokens = nn.Embedding(40, 64), torch.tensor([[0, 39, 7, 7]])
    codes, scale = quantize_weight(table.weight, bits, 32 if bits == 4 else 64)
    embedding = quantize_embedding(table, bits, 32)
    assert isinstance(embedding, QuantizedEmbedding)
    torch.testing.assert_close(embedding(tokens), dequantized(codes, scale)[tokens], rtol=0, atol=1e-6)
    assert embedding.codes.numel() * embedding.codes.element_size() == 40 * 64 * bits // 8


def test_float_leaves_weights_alone() -> None:
    layer, table = nn.Linear(64, 24), nn.Embedding(40, 64)
    assert quantize_linear(layer, "float", 32) is layer
    assert quantize_embedding(table, "float", 32) is table


def test_every_kind_of_weight_gets_its_bits() -> None:
    decoder = shared_decoder()
    quantize(decoder, QuantizeSettings(linear=4, group_size=32, embedding=8, lm_head=8, recovery=4))
    bits: dict[str, set[tuple[int, int]]] = {"linear": set(), "recovery": set(), "lm_head": set()}
    for name, module in decoder.named_modules():
        assert not isinstance(module, nn.Linear | nn.Embedding), name
        if isinstance(module, QuantizedLinear):
            kind = "recovery" if ".recovery." in name else "lm_head" if "lm_head" in name else "linear"
            bits[kind].add((module.bits, module.group))
    # Recovery parameters read 64 (A of gate and up), 96 (A of down) and 32 (every B) inputs.
    assert bits == {"linear": {(4, 32)}, "lm_head": {(8, 64)}, "recovery": {(4, 64), (4, 32)}}
    assert decoder.embedding.bits == 8


def test_a_float_recovery_stays_float_beside_integers() -> None:
    decoder = shared_decoder(rank=5)
    quantize(decoder, QuantizeSettings(recovery="float", lm_head="float"))
    kept = {name.rpartition(".")[2] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    assert kept == {"low", "gate_out", "up_out", "down_in", "down_out", "lm_head"}


def test_quantizing_twice_changes_nothing() -> None:
    decoder, tokens = shared_decoder(), tiny_tokens()
    quantize(decoder, QuantizeSettings(lm_head=4, recovery=4))
    modules, logits = list(decoder.modules()), decoder(tokens, torch.tensor([0]))
    quantize(decoder, QuantizeSettings(linear=8, lm_head=4, recovery=4))
    assert list(decoder.modules()) == modules
    assert torch.equal(decoder(tokens, torch.tensor([0])), logits)


@pytest.mark.parametrize(("tied", "lm_head", "bits"), [(True, 8, 8), (True, 4, 4), (False, 8, 4), (True, "float", 4)])
def test_tied_weights_have_one_set_of_codes_where_both_have_8_bits(tied: bool, lm_head: Any, bits: int) -> None:
    decoder = shared_decoder(tie_word_embeddings=tied)
    table, tokens = decoder.embedding.weight.detach().clone(), tiny_tokens()
    quantize(decoder, QuantizeSettings(group_size=32, lm_head=lm_head, recovery=4))
    assert decoder.embedding.bits == bits
    assert (decoder.embedding.codes is getattr(decoder.exit.head.lm_head, "codes", None)) == (bits == 8)
    torch.testing.assert_close(decoder.embedding(tokens), table[tokens], rtol=0, atol=0.6 * 2.0**-bits)


def test_tied_weights_are_quantized_apart_if_they_should_be() -> None:
    """The embedding is looked up and the LM head multiplied: two operators, two layouts, two numbers of bits."""
    decoder = shared_decoder(tie_word_embeddings=True)
    quantize(decoder, QuantizeSettings(embedding=4, lm_head=8, recovery=4))
    assert (decoder.embedding.bits, decoder.exit.head.lm_head.bits) == (4, 8)


def test_8_bits_keep_the_predictions() -> None:
    decoder, tokens = shared_decoder(), tiny_tokens()
    exact = decoder(tokens, torch.tensor([0])).log_softmax(-1)
    quantize(decoder, QuantizeSettings(linear=8, embedding=8, lm_head=8, recovery=8))
    rounded = decoder(tokens, torch.tensor([0])).log_softmax(-1)
    divergence = (exact.exp() * (exact - rounded)).sum(-1).mean()
    assert 0 < divergence < 0.02


def test_a_group_that_does_not_divide_names_the_weight() -> None:
    with pytest.raises(SharpError, match=r"^embedding: group size 128 does not divide the input width 64"):
        quantize(shared_decoder(), QuantizeSettings(group_size=128, lm_head=4, recovery=4))
    with pytest.raises(SharpError, match=r"^\S*\.down: group size 64 does not divide the input width 96"):
        quantize(shared_decoder(), QuantizeSettings(group_size=64, lm_head=8, recovery=4))


def test_a_rank_that_4_bits_cannot_take_is_refused() -> None:
    with pytest.raises(SharpError, match=r"recovery\.\w+: 4-bit recovery .* multiple of 32, not 40; .*recovery: 8"):
        quantize(shared_decoder(rank=40), QuantizeSettings(lm_head=4, recovery=4))
    quantize(shared_decoder(rank=40), QuantizeSettings(lm_head=4, recovery=8))


@pytest.mark.parametrize(("rank", "group"), [(32, 32), (64, 64), (96, 32), (128, 128), (192, 64), (384, 128)])
def test_recovery_groups_are_the_largest_that_divide(rank: int, group: int) -> None:
    assert recovery_group(rank) == group


def test_roles_survive_quantization() -> None:
    decoder = shared_decoder()
    roles = {name: module.role for name, module in decoder.named_modules() if isinstance(module, FloatLinear)}
    assert {name.split(".")[-1] for name, role in roles.items() if role == "attention"} == {"q", "k", "v", "o"}
    assert {name.split(".")[-1] for name, role in roles.items() if role == "mlp"} == {"gate", "up", "down"}
    assert {name for name, role in roles.items() if role == "lm_head"} == {"exit.head.lm_head"}
    assert {name for name, role in roles.items() if role == "recovery"} == {
        name for name in roles if ".recovery." in name
    }
    quantize(decoder, QuantizeSettings(recovery=8))
    found = {name: module.role for name, module in decoder.named_modules() if isinstance(module, QuantizedLinear)}
    assert found == roles
