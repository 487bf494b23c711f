"""Where 8 bits go: what a linear's rounding costs the predictions, and a budget that is spent and kept."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from counted_decoder import stored_bytes
from pydantic import ValidationError
from share_kinds import KINDS, shared_model
from tiny_models import tiny_model, tiny_tokens
from torch import nn

from sharp_mobile.decoder import segment_walk as walk
from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import QuantizedLinear
from sharp_mobile.decoder.segment_walk import linears_of, segments_of
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.quantize.bit_allocation import Candidate, choose, sensitivities
from sharp_mobile.quantize.gptq import round_to_text
from sharp_mobile.quantize.groups import budgeted_bytes, extra_bytes, four_bit_bytes
from sharp_mobile.quantize.nearest import quantize
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recovery

GROUP = 32


def windows() -> torch.Tensor:
    return torch.cat([tiny_tokens(48, seed=seed) for seed in range(4)])


@pytest.fixture
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float products of a walk, on machines that would take them in bfloat16, too."""
    monkeypatch.setattr(walk, "_PRODUCTS", "highest")


def plain_decoder(family: str = "llama") -> Decoder:
    options = LowerSettings(max_length=64, attention="portable", logits="all")
    return build_decoder(tiny_model(family, num_hidden_layers=4), options)


def shared_decoder() -> Decoder:
    model = tiny_model(num_hidden_layers=4)
    share_layers(model, SharePlan.parse("2:3", 4), Recovery("lora", 8))
    for _, parameter in recovery_parameters(model):
        nn.init.normal_(parameter, std=0.02)
    return build_decoder(model, LowerSettings(max_length=64, logits="all"))


def decoder_of(kind: str) -> Decoder:
    """Of a model that shares in one of the ways of `share_kinds`."""
    return build_decoder(shared_model(KINDS[kind]), LowerSettings(max_length=64, attention="portable", logits="all"))


def distinct_linears(decoder: Decoder) -> list[nn.Linear]:
    return list({linear: None for segment in segments_of(decoder) for linear in linears_of(segment)})


def shapes(linears: list[nn.Linear]) -> list[tuple[int, int]]:
    return [(linear.out_features, linear.in_features) for linear in linears]


def whole_model_sensitivities(decoder: Decoder, tokens: torch.Tensor) -> dict[nn.Linear, torch.Tensor]:
    """The same by one backward pass through the whole decoder, one window."""
    linears = distinct_linears(decoder)
    calls: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []
    for linear in linears:
        linear.register_forward_hook(lambda module, inputs, output: calls.append((module, inputs[0].detach(), output)))
    decoder.embedding.weight.requires_grad_()
    with torch.enable_grad():
        logits = decoder(tokens[None], torch.tensor([0]))[0]
        generator = torch.Generator().manual_seed(0)
        drawn = torch.multinomial(logits.detach().softmax(dim=-1), 1, generator=generator)[:, 0]
        loss = F.cross_entropy(logits, drawn, reduction="sum")
        gradients = torch.autograd.grad(loss, [output for _, _, output in calls])
    found = {linear: torch.zeros(linear.out_features) for linear in linears}
    for (linear, x, _), gradient in zip(calls, gradients, strict=True):
        found[linear] += (gradient * x.norm(dim=-1, keepdim=True)).square().sum(dim=(0, 1))
    return found


@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize(
    "make",
    [
        plain_decoder,
        shared_decoder,
        lambda: plain_decoder("gemma2"),
        *(partial(decoder_of, kind) for kind in ("attention", "kv", "drop attention", "basis")),
    ],
)
def test_segment_by_segment_gives_the_gradients_of_the_whole_model(make) -> None:  # type: ignore[no-untyped-def]
    decoder = make()
    found = sensitivities(decoder, windows()[:1])
    whole = whole_model_sensitivities(decoder, windows()[0])
    assert found.keys() == whole.keys()
    for linear, rows in found.items():
        torch.testing.assert_close(rows, whole[linear], rtol=1e-3, atol=1e-5)


def test_products_in_bfloat16_give_nearly_the_same_and_end_with_the_walk() -> None:
    before = torch.get_float32_matmul_precision()
    found = sensitivities(plain_decoder(), windows()[:1])
    assert torch.get_float32_matmul_precision() == before
    whole = whole_model_sensitivities(plain_decoder(), windows()[0])
    for one, other in zip(found.values(), whole.values(), strict=True):
        assert (one - other).norm() < 0.05 * other.norm()


def test_several_windows_add_up() -> None:
    decoder = plain_decoder()
    first = sensitivities(decoder, windows()[:1])
    again = sensitivities(decoder, windows()[:1].repeat(2, 1))
    both = sum(float(rows.sum()) for rows in again.values()) / sum(float(rows.sum()) for rows in first.values())
    assert 1.5 < both < 2.5  # the model draws other tokens the second time
    assert not any(buffer.requires_grad for buffer in decoder.buffers())


def test_it_foretells_the_divergence_that_a_change_makes() -> None:
    """Within a factor of 4, though linears part by more than 40."""
    decoder, tokens = plain_decoder(), windows()
    found = sensitivities(decoder, tokens)
    count, foretold, seen = tokens.numel(), [], []

    def predictions() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([decoder(window[None], torch.tensor([0]))[0] for window in tokens]).log_softmax(dim=-1)

    before = predictions()
    for linear in distinct_linears(decoder)[:14]:
        error = 0.02 * torch.randn(linear.weight.shape)
        kept = linear.weight.data.clone()
        rows: list[torch.Tensor] = []
        hook = linear.register_forward_pre_hook(
            lambda _, inputs, rows=rows: rows.append(F.normalize(inputs[0].flatten(0, -2), dim=-1))  # type: ignore[misc]
        )
        linear.weight.data += error
        after = predictions()
        hook.remove()
        linear.weight.data.copy_(kept)
        errors = (torch.cat(rows) @ error.T).square().mean(dim=0)
        foretold.append(float(found[linear] @ errors) / (2 * count))
        seen.append(float(F.kl_div(after, before, reduction="none", log_target=True).sum(dim=-1).mean()))
    ratios = [a / b for a, b in zip(foretold, seen, strict=True)]
    assert all(1 / 4 < ratio < 4 for ratio in ratios), ratios
    assert max(seen) > 40 * min(seen)


def test_bytes_go_where_one_saves_the_most_and_the_budget_is_kept() -> None:
    linears = distinct_linears(plain_decoder())
    candidates = [Candidate(linear, linear, float(number)) for number, linear in enumerate(linears)]
    cost = dict(zip(linears, (extra_bytes(shape, GROUP) for shape in shapes(linears)), strict=True))
    for share in (0.0, 0.1, 0.3, 1.0):
        budget = budgeted_bytes(shapes(linears), GROUP, share)
        chosen = [candidate.linear for candidate in choose(candidates, GROUP, share)]
        left = [cost[linear] for linear in linears if linear not in chosen]
        assert 0 <= budget - sum(cost[linear] for linear in chosen) < min(left, default=1)
    assert len(chosen) == len(linears)
    best = max(candidates, key=lambda candidate: candidate.divergence / cost[candidate.linear])
    assert choose(candidates, GROUP, 0.1)[0] is best


def test_a_decoder_has_as_many_bytes_more_as_were_foretold() -> None:
    def rounded(budget: float) -> Decoder:
        decoder, options = shared_decoder(), QuantizeSettings(lm_head=4, eight_bit_budget=budget)
        round_to_text(decoder, windows(), options)
        quantize(decoder, options)
        return decoder

    linears = distinct_linears(shared_decoder())
    budget = budgeted_bytes(shapes(linears), GROUP, 0.25)
    decoder = rounded(0.25)
    more = stored_bytes(decoder).total() - stored_bytes(rounded(0.0)).total()
    assert budget - max(extra_bytes(shape, GROUP) for shape in shapes(linears)) < more <= budget
    eights = {m for m in decoder.modules() if isinstance(m, QuantizedLinear) and m.bits == 8}
    assert eights
    reference, target = decoder.middles[1].end.mlp, decoder.middles[2].end.mlp
    assert reference.down is target.down


def test_bytes_by_hand() -> None:
    assert four_bit_bytes((64, 96), 32) == 64 * 48 + 64 * 3 * 2
    assert extra_bytes((64, 96), 32) == 64 * 96 + 64 * 4 - four_bit_bytes((64, 96), 32)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_from_0_to_1(share: float) -> None:
    with pytest.raises(ValidationError, match="eight_bit_budget"):
        QuantizeSettings(eight_bit_budget=share)
