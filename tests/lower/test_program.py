"""The `.pte` of every family computes what its eager decoder computes, in one go and step by step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens

from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.errors import SharpError
from sharp_mobile.lower.program import assemble, lower_segments
from sharp_mobile.model.share import share_layers
from sharp_mobile.pipeline import eager_step
from sharp_mobile.pte.runtime import Step, greedy, load_pte, whole_window
from sharp_mobile.quantize.nearest import quantize
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.verify.agreement import TOLERANCE_INTEGER, compare

LENGTH, MAX_LENGTH = 24, 32
# Two layers; the second of SmolLM3's has no RoPE, and windows are shorter than the text.
OPTIONS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 8},
    "smollm3": {"no_rope_layers": [1, 0]},
}


def write(decoder: Decoder, path: Path) -> Step:
    """A decoder with lowered segments as a `.pte`, loaded."""
    path.write_bytes(assemble(decoder, {"get_max_context_len": MAX_LENGTH}).buffer)
    return load_pte(path)


def in_pieces(step: Step, tokens: torch.Tensor, *lengths: int) -> torch.Tensor:
    position, logits = 0, []
    for piece in tokens.split(lengths, dim=1):
        logits.append(step(piece, position))
        position += piece.shape[1]
    return torch.cat(logits, dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_float_program_of_every_family_is_its_eager_decoder(model_type: str, tmp_path: Path) -> None:
    model = tiny_model(model_type, num_hidden_layers=2, **OPTIONS.get(model_type, {}))
    decoder = build_decoder(model, LowerSettings(max_length=MAX_LENGTH, attention="portable", logits="all"))
    tokens = tiny_tokens(LENGTH)
    expected = eager_step(decoder)(tokens, 0)
    lowered, _ = lower_segments(decoder)
    programs = {"portable": lowered}
    if decoder.attentions[0].settings.softcap is None:
        lowered.options = replace(lowered.options, attention="custom_sdpa")
        programs["custom_sdpa"] = lowered.deployed(lowered.entry, list(lowered.middles), lowered.exit)
    for name, program in programs.items():
        step = write(program, tmp_path / f"{name}.pte")
        for lengths in ((LENGTH,), (10, 14), (1,) * LENGTH):
            torch.testing.assert_close(in_pieces(step, tokens, *lengths), expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Path]:
    """A quantized llama of three layers, the second a direct share of the first, and its `.pte`."""
    model = tiny_model(num_hidden_layers=3)
    share_layers(model, SharePlan.parse("direct:1:2", 3), Recovery("lora", 0))
    decoder = build_decoder(model, LowerSettings(max_length=MAX_LENGTH))
    quantize(decoder, QuantizeSettings(linear=4, group_size=32, embedding=4, lm_head=8, recovery=4))
    path = tmp_path_factory.mktemp("quantized") / "model.pte"
    write(lower_segments(decoder)[0], path)
    decoder.options = replace(decoder.options, all_logits=True)
    return decoder, path


@pytest.mark.slow
def test_a_quantized_program_predicts_what_its_eager_decoder_predicts(quantized: tuple[Decoder, Path]) -> None:
    decoder, path = quantized
    prompt = tiny_tokens(8)[0].tolist()
    agreement = compare(lambda: load_pte(path), eager_step(decoder), prompt, 16, [], TOLERANCE_INTEGER)
    assert agreement.problems() == []
    # Far below the tolerance: three layers have few borders between codes to fall over.
    assert agreement.divergence < 5e-3
    assert len(agreement.tokens) == 16
    assert agreement.agreeing >= 15
    assert agreement.largest_gap < 0.1


@pytest.mark.slow
def test_quantized_linears_with_a_bias_predict_what_their_eager_decoder_predicts(tmp_path: Path) -> None:
    """Qwen2 has biases on q, k and v."""
    decoder = build_decoder(tiny_model("qwen2", num_hidden_layers=2), LowerSettings(max_length=MAX_LENGTH))
    quantize(decoder, QuantizeSettings())
    assert decoder.entry.start.q.bias.abs().max() > 0.1
    path = tmp_path / "model.pte"
    write(lower_segments(decoder)[0], path)
    decoder.options = replace(decoder.options, all_logits=True)
    prompt = tiny_tokens(8)[0].tolist()
    agreement = compare(lambda: load_pte(path), eager_step(decoder), prompt, 16, [], TOLERANCE_INTEGER)
    assert agreement.problems() == []
    assert agreement.divergence < 5e-3


@pytest.mark.slow
def test_another_models_program_is_not_taken_for_this_one(quantized: tuple[Decoder, Path]) -> None:
    other = build_decoder(tiny_model(num_hidden_layers=3, seed=1), LowerSettings(max_length=MAX_LENGTH, logits="all"))
    agreement = compare(lambda: load_pte(quantized[1]), eager_step(other), [5, 6, 7], 8, [], TOLERANCE_INTEGER)
    assert "more than the tolerated 0.1" in agreement.problems()[0]
    assert agreement.agreeing < 8


@pytest.mark.slow
def test_a_program_gives_the_last_tokens_logits_and_any_length(quantized: tuple[Decoder, Path]) -> None:
    decoder, path = quantized
    step, tokens = load_pte(path), tiny_tokens(MAX_LENGTH - 1)
    expected = eager_step(decoder)(tokens, 0)
    for length in (1, 2, 7, MAX_LENGTH - 1):
        logits = step(tokens[:, :length], 0)
        assert logits.shape == (1, 1, 256)
        torch.testing.assert_close(logits[:, 0], expected[:, length - 1], rtol=0, atol=0.05)
    assert whole_window(step)(tokens[:, :9]).shape == (1, 9, 256)


@pytest.mark.slow
def test_a_text_that_fills_the_cache_is_taken_and_a_longer_one_refused(quantized: tuple[Decoder, Path]) -> None:
    step, tokens = load_pte(quantized[1]), tiny_tokens(MAX_LENGTH + 1)
    assert in_pieces(step, tokens[:, :MAX_LENGTH], MAX_LENGTH - 1, 1).shape == (1, 2, 256)
    with pytest.raises(SharpError, match=rf"position {MAX_LENGTH + 1} is beyond its cache of {MAX_LENGTH}"):
        step(tokens, 0)
    with pytest.raises(SharpError, match="is beyond its cache"):
        step(tokens[:, :1], MAX_LENGTH)
    assert step(tokens[:, :MAX_LENGTH], 0).shape == (1, 1, 256)


@pytest.mark.slow
@pytest.mark.parametrize("all_logits", [True, False], ids=["all", "last"])
def test_a_long_prompt_goes_in_chunks(all_logits: bool, tmp_path: Path) -> None:
    options = LowerSettings(
        max_length=64, attention="portable", logits="all" if all_logits else "last", prefill_chunk=4
    )
    decoder = build_decoder(tiny_model(num_hidden_layers=1), options)
    program = assemble(lower_segments(decoder)[0], {"get_max_context_len": 64, "get_max_seq_len": 4})
    (tmp_path / "model.pte").write_bytes(program.buffer)
    tokens = tiny_tokens(11)
    with torch.no_grad():
        expected = decoder(tokens, torch.tensor([0]))
    torch.testing.assert_close(load_pte(tmp_path / "model.pte")(tokens, 0), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_portable_attention_writes_its_cache_in_place_and_plans_memory_for_it_once(tmp_path: Path) -> None:
    length = 1024
    model = tiny_model(num_hidden_layers=4, max_position_embeddings=length)
    decoder = lower_segments(
        build_decoder(model, LowerSettings(max_length=length, attention="portable", prefill_chunk=8))
    )[0]
    caches = sum(cache.numel() * 4 for a in decoder.attentions for cache in (a.k_cache, a.v_cache))
    method = assemble(decoder, {}).executorch_program.execution_plan[0]
    names = {operator.name for operator in method.operators}
    assert "aten::index_put_" in names
    assert not {"aten::index_put", "aten::copy_"} & names
    assert caches < sum(method.non_const_buffer_sizes) < 1.5 * caches


@pytest.mark.slow
def test_generation_is_greedy_and_stops(quantized: tuple[Decoder, Path]) -> None:
    step, prompt = load_pte(quantized[1]), [5, 6, 7]
    tokens = greedy(step, prompt, 10, [])
    assert len(tokens) == 10
    text = torch.tensor([prompt + tokens])
    choices = whole_window(step)(text)[0, len(prompt) - 1 : -1].argmax(-1)
    assert tokens == choices.tolist()
    first = tokens.index(tokens[4])
    assert greedy(step, prompt, 10, [tokens[4]]) == tokens[: first + 1]
    assert len(greedy(step, prompt, MAX_LENGTH - len(prompt), [])) == MAX_LENGTH - len(prompt)


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"model\.pte: no such file"):
        load_pte(tmp_path / "model.pte")
    for content in (b"no program" * 100, b"", b"\x18\0\0\0ET12eh00" * 20):
        (tmp_path / "model.pte").write_bytes(content)
        with pytest.raises(SharpError, match=r"model\.pte: this ExecuTorch cannot load it: .*; export it again$"):
            load_pte(tmp_path / "model.pte")


def test_a_model_near_noise_is_held_against_itself() -> None:
    """A step that parts from another by as much as that parts from itself is the same model, and no more than that."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(40, 16, generator=generator)

    def noisy(scale: float) -> Step:
        noise = scale * torch.randn(exact.shape, generator=generator)
        return lambda tokens, position: (exact + noise)[None, position : position + tokens.shape[1]]

    eager, pte, jittered, other = noisy(0.0), noisy(0.5), noisy(0.4), noisy(2.0)
    assert compare(lambda: pte, eager, [1, 2], 8, [], 0.05).problems()
    assert not compare(lambda: pte, eager, [1, 2], 8, [], 0.05, jittered).problems()
    assert compare(lambda: other, eager, [1, 2], 8, [], 0.05, jittered).problems()
