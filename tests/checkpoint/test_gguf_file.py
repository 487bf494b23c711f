"""GGUF files: the same model comes out that went in, as transformers reads it too; broken files are named."""

from pathlib import Path

import gguf
import pytest
import torch
from tiny_gguf import write_gguf
from tiny_models import tiny_model, tiny_tokens
from transformers import AutoModelForCausalLM

from sharp_mobile.checkpoint.gguf_file import ARCHITECTURES, gguf_header
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError


@pytest.mark.parametrize("model_type", ARCHITECTURES.values())
def test_a_model_survives_the_way_through_gguf(model_type: str, tmp_path: Path) -> None:
    model = tiny_model(model_type)
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "tiny.gguf"))
    tokens = tiny_tokens()
    assert (checkpoint.name, checkpoint.config.model_type) == ("tiny", model_type)
    # Gemma's gains lose an ulp or two by the 1 that is added and taken away.
    tolerance = 1e-4 if model_type.startswith("gemma") else 0.0
    torch.testing.assert_close(checkpoint.model(tokens).logits, model(tokens).logits, rtol=tolerance, atol=tolerance)
    assert checkpoint.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert (checkpoint.eos_token_ids, checkpoint.bos_token_id) == ([2], 1)


@pytest.mark.parametrize("model_type", ARCHITECTURES.values())
def test_it_is_read_as_transformers_reads_it(model_type: str, tmp_path: Path) -> None:
    # transformers takes Qwen3's head width for 128, whatever the file says.
    model = tiny_model(model_type, **({"head_dim": 128} if model_type == "qwen3" else {}))
    path = write_gguf(model, tmp_path / "tiny.gguf", kind=gguf.GGMLQuantizationType.Q4_1)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).state_dict()
    ours = open_checkpoint(path).model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_rope_scaling_is_found_again_from_its_divisors(factor: float, tmp_path: Path) -> None:
    scaled = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = tiny_model(rope_parameters=scaled, max_position_embeddings=131072)
    plain = 500000.0 ** -(torch.arange(8) / 8)
    divisors = plain / model.model.rotary_emb.inv_freq
    path = write_gguf(model, tmp_path / "llama3.gguf", extra={"rope_freqs.weight": divisors})
    read = open_checkpoint(path).model
    assert read.config.rope_parameters == pytest.approx(scaled)
    tokens = tiny_tokens()
    torch.testing.assert_close(read(tokens).logits, model(tokens).logits)


def test_the_tokenizer_comes_out_of_the_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tiny_model(), tmp_path / "tiny.gguf"))
    tokenizer = checkpoint.tokenizer()
    text = "the year 2026, <s>wärts"
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer(" t").input_ids) == 1  # the one merge
    checkpoint.write_tokenizer(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_second_end_token_is_kept(tmp_path: Path) -> None:
    path = write_gguf(tiny_model(), tmp_path / "tiny.gguf", metadata={"tokenizer.ggml.eot_token_id": 7})
    assert open_checkpoint(path).eos_token_ids == [2, 7]


def test_a_file_without_a_tokenizer_opens_with_a_warning(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tiny_model(), tmp_path / "tiny.gguf", tokenizer=None))
    assert checkpoint.tokenizer() is None
    assert "has no tokenizer" in checkpoint.warnings[0]


def test_a_file_cut_short_anywhere_is_told_from_its_header(tmp_path: Path) -> None:
    path = write_gguf(tiny_model(), tmp_path / "tiny.gguf")
    whole = path.read_bytes()
    last = gguf_header(path)
    end = max(tensor.start + tensor.nbytes for tensor in last.tensors.values())
    for length in (end - 1, len(whole) // 2, 4000, 30, 5):
        path.write_bytes(whole[:length])
        with pytest.raises(SharpError, match=r"tiny\.gguf: cut short"):
            open_checkpoint(path)
    path.write_bytes(whole[: end - 1])
    with pytest.raises(SharpError, match=f"has {end - 1:,} bytes, needs {end:,}"):
        open_checkpoint(path)


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>404</html>")
    with pytest.raises(SharpError, match="is not a GGUF file"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "mamba"}, "GGUF architecture 'mamba' is not supported; supported are llama, qwen2"),
        ({"metadata": {"split.count": 3}}, "one of several parts"),
        ({"metadata": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 8}}, "RoPE is scaled"),
        ({"extra": {"rope_freqs.weight": torch.linspace(1, 8, 8)}}, "RoPE is scaled unlike Llama 3's"),
        ({"without": ("blk.3.ffn_up.weight",)}, "tensor blk.3.ffn_up.weight is missing"),
        ({"metadata": {"llama.feed_forward_length": 128}}, r"has shape \[.*\], its metadata says \[.*128.*\]"),
        ({"extra": {"blk.2.ffn_gate_inp.weight": torch.ones(4, 64)}}, "blk.2.ffn_gate_inp.weight has no place"),
        ({"extra": {"output_norm.weight": torch.full((64,), torch.nan)}}, "tensor model.norm.weight holds NaN"),
    ],
)
def test_what_would_come_out_wrong_is_refused(options: dict, message: str, tmp_path: Path) -> None:
    path = write_gguf(tiny_model(), tmp_path / "tiny.gguf", **options)
    with pytest.raises(SharpError, match=message) as error:
        open_checkpoint(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_packaged_model_answers() -> None:
    checkpoint = open_checkpoint("smollm2-135m-instruct")
    tokenizer = checkpoint.tokenizer()
    assert tokenizer is not None
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = checkpoint.model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(answer[0]) == "The capital of France is Paris."
    assert (checkpoint.name, checkpoint.eos_token_ids) == ("smollm2-135m-instruct", [2])
