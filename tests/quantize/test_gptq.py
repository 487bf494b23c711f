"""Rounding by text: nearer products, the same grid, and one set of codes for a shared weight."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from share_kinds import KINDS, Kind, shared_model
from tiny_models import tiny_model, tiny_tokens
from torch import nn

from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import QuantizedLinear
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.quantize.gptq import clipped_scales, round_to_text, round_weight
from sharp_mobile.quantize.nearest import quantize, quantize_weight
from sharp_mobile.quantize.run import check_lowerable
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import AttentionRecovery, Recovery
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.run import open_recipe

GROUP, WIDTH, OUT = 32, 128, 48
OPTIONS = QuantizeSettings(group_size=GROUP, lm_head=4, recovery=4, eight_bit_budget=0)
PLAIN = Kind("none", {})
WINDOWS = torch.cat([tiny_tokens(48, seed=seed) for seed in range(12)])
DTYPES = (torch.bfloat16, torch.float32)


def dequantized(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return codes.float() * scales.repeat_interleave(GROUP, dim=1)


def related_inputs() -> torch.Tensor:
    return torch.randn(400, 24) @ torch.randn(24, WIDTH) + 0.1 * torch.randn(400, WIDTH)


def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest() -> None:
    weight = torch.randn(OUT, WIDTH)
    codes, scales, _ = round_weight(weight, torch.eye(WIDTH), GROUP)
    nearest = (weight / scales.repeat_interleave(GROUP, dim=1)).round().clamp(-8, 7)
    assert torch.equal(codes.float(), nearest)


def test_products_are_nearer_than_those_of_the_nearest_codes() -> None:
    weight, inputs = torch.randn(OUT, WIDTH), related_inputs()
    codes, scales, _ = round_weight(weight, inputs.T @ inputs, GROUP)
    assert codes.dtype == torch.int8
    assert codes.min() >= -8
    assert codes.max() <= 7
    assert torch.equal(scales, scales.to(torch.bfloat16).float())  # as XNNPACK stores it
    exact = inputs @ weight.T

    def error(codes: torch.Tensor, scales: torch.Tensor) -> float:
        return float((inputs @ dequantized(codes, scales).T - exact).norm() / exact.norm())

    assert error(codes, scales) < 0.5 * error(*quantize_weight(weight, 4, GROUP))


def test_it_tells_the_error_of_each_row() -> None:
    weight, inputs = torch.randn(OUT, WIDTH), related_inputs()
    hessian = inputs.T @ inputs
    codes, scales, errors = round_weight(weight, hessian, GROUP)
    lost = weight - dequantized(codes, scales)
    damped = hessian + 0.05 * hessian.diagonal().mean() * torch.eye(WIDTH)
    torch.testing.assert_close(errors, ((lost @ damped) * lost).sum(dim=1), rtol=1e-3, atol=1e-3)


def test_the_column_with_the_largest_inputs_comes_first_and_takes_over_no_error() -> None:
    weight, inputs = torch.randn(OUT, WIDTH), related_inputs()
    inputs[:, 77] *= 10
    codes, scales, _ = round_weight(weight, inputs.T @ inputs, GROUP)
    nearest = (weight[:, 77] / scales[:, 77 // GROUP]).round().clamp(-8, 7)
    assert torch.equal(codes[:, 77].float(), nearest)
    assert not torch.equal(codes.float(), (weight / scales.repeat_interleave(GROUP, dim=1)).round().clamp(-8, 7))


def test_scales_clip_where_that_loses_less_of_what_matters() -> None:
    weight, importance = torch.randn(OUT, WIDTH), torch.ones(WIDTH)
    weight[:, 0], importance[0] = 8.0, 1e-6  # large, and hardly ever used
    clipped, whole = clipped_scales(weight, importance, GROUP), clipped_scales(weight, torch.ones(WIDTH), GROUP)
    assert (clipped[:, 0] < whole[:, 0]).all()
    assert torch.equal(clipped[:, 1:], whole[:, 1:])


def test_a_group_of_zeros_has_scale_1() -> None:
    weight = torch.randn(OUT, WIDTH)
    weight[:, GROUP : 2 * GROUP] = 0
    codes, scales, _ = round_weight(weight, torch.eye(WIDTH), GROUP)
    assert (scales[:, 1] == 1).all()
    assert not codes[:, GROUP : 2 * GROUP].any()


def shared_decoder() -> Decoder:
    model = tiny_model(num_hidden_layers=4)
    share_layers(model, SharePlan.parse("2:3", 4), Recovery("lora", 8))
    for _, parameter in recovery_parameters(model):
        nn.init.normal_(parameter, std=0.02)
    return build_decoder(model, LowerSettings(max_length=64))


def test_a_shared_weight_stays_one_and_sees_all_its_users() -> None:
    decoder, windows = shared_decoder(), torch.cat([tiny_tokens(48, seed=seed) for seed in range(4)])
    alone = build_decoder(tiny_model(num_hidden_layers=4), LowerSettings(max_length=64))
    for one in (decoder, alone):
        round_to_text(one, windows, OPTIONS)
    assert not decoder.options.all_logits
    reference, target = decoder.middles[1].end.mlp, decoder.middles[2].end.mlp
    assert isinstance(reference.gate, QuantizedLinear)
    assert target.gate is reference.gate
    assert not torch.equal(reference.gate.codes, alone.middles[1].end.mlp.gate.codes)  # other inputs came, too
    assert torch.equal(decoder.entry.start.q.codes, alone.entry.start.q.codes)
    assert isinstance(decoder.exit.head.lm_head, nn.Linear)
    assert all(isinstance(linear, nn.Linear) for linear in target.recovery.values())


def test_shared_attention_stays_one_and_sees_all_its_users() -> None:
    kind = Kind("none", {2: Recovery(attention=AttentionRecovery("weights", 1, rank=32))})
    decoder, alone = (build_decoder(shared_model(its), LowerSettings(max_length=64)) for its in (kind, PLAIN))
    for one in (decoder, alone):
        round_to_text(one, WINDOWS, OPTIONS)
    q, its_q = decoder.middles[0].start.q, decoder.middles[1].start.q
    assert isinstance(q, QuantizedLinear)
    assert its_q.shared is q
    assert not torch.equal(q.codes, alone.middles[0].start.q.codes)  # other inputs came, too
    assert torch.equal(decoder.entry.start.q.codes, alone.entry.start.q.codes)


@pytest.mark.parametrize("name", ["kv", "drop attention", "basis", "basis in part"])
def test_what_shares_otherwise_is_rounded_by_text_too(name: str) -> None:
    """The rounded decoder is nearer to the float one than the decoder of nearest codes."""
    decoders = [
        build_decoder(shared_model(KINDS[name]), LowerSettings(max_length=64, attention="portable", logits="all"))
        for _ in range(3)
    ]
    exact, rounded, nearest = decoders
    round_to_text(rounded, WINDOWS, OPTIONS)
    for one in (rounded, nearest):
        quantize(one, OPTIONS)
        assert not any(isinstance(module, nn.Linear) for module in one.modules())
    texts = [tiny_tokens(48, seed=seed) for seed in range(20, 24)]

    def divergence(one: Decoder) -> float:
        pairs = [[its(text, torch.tensor([0])).log_softmax(-1) for its in (one, exact)] for text in texts]
        return sum(float(F.kl_div(ours, its, log_target=True, reduction="sum")) for ours, its in pairs)

    assert divergence(rounded) < divergence(nearest)


def test_quantizing_leaves_what_is_rounded_and_takes_the_rest() -> None:
    decoder = shared_decoder()
    round_to_text(decoder, tiny_tokens(48), OPTIONS)
    codes = decoder.middles[0].start.k.codes
    assert (decoder.middles[0].start.k.role, decoder.middles[0].end.mlp.up.role) == ("attention", "mlp")
    quantize(decoder, OPTIONS.model_copy(update={"recovery": 8}))
    assert decoder.middles[0].start.k.codes is codes
    assert not any(isinstance(module, nn.Linear) for module in decoder.modules())


def test_weights_of_a_shorter_type_are_rounded_as_the_same_numbers_in_float() -> None:
    short, long = (
        build_decoder(tiny_model().to(torch.bfloat16).to(dtype), LowerSettings(max_length=64)) for dtype in DTYPES
    )
    for decoder in (short, long):
        round_to_text(decoder, tiny_tokens(48), OPTIONS)
        quantize(decoder, OPTIONS)
    assert torch.equal(short.middles[1].end.mlp.down.codes, long.middles[1].end.mlp.down.codes)
    assert torch.equal(*(decoder(tiny_tokens(), torch.tensor([0])) for decoder in (short, long)))


def test_it_needs_a_text_and_no_quantization_aware_recovery(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    recipe = Recipe(model=str(tmp_path / "model"), quantize={"rounding": "gptq"}, lower={"max_length": 64})
    with pytest.raises(SharpError, match=r"rounding: gptq reads text, and there is no tokenizer"):
        check_lowerable(recipe, open_recipe(recipe).checkpoint)
    other = recipe.model_copy(update={"quantize": QuantizeSettings(rounding="auto")})
    check_lowerable(other, open_recipe(other).checkpoint)
    with pytest.raises(SharpError, match="exclude each other"):
        Recipe(model="a", quantize={"rounding": "gptq"}, recovery={"quantization_aware": True})


def test_a_text_that_is_too_short_to_round_by_names_both_ways_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Hello")
    warmup = {"text": str(tmp_path / "short.txt"), "window": 32}
    recipe = Recipe(model=str(tiny_checkpoint), warmup=warmup, lower={"max_length": 64})
    opened = open_recipe(recipe)
    with pytest.raises(SharpError, match=r"its 5 tokens give .*; or use quantize\.rounding: nearest") as error:
        check_lowerable(opened.recipe, opened.checkpoint)
    assert str(error.value).startswith("weights are rounded by warmup.text: ")
