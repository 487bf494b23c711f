"""Tests of the checkpoint that ExecuTorch's own exporter is given."""

from pathlib import Path

import pytest
import torch
from executorch.examples.models.llama.llama_transformer import construct_transformer
from executorch.examples.models.llama.model_args import ModelArgs
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.bench.stock.inputs import check_plain_llama, interleave_pairs, meta_state_dict, stock_params
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError

HEADS, WIDTH, HIDDEN, LENGTH = 3, 8, 5, 7


def half_split_rope(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Hugging Face's RoPE of x [S, heads, d] by angles [S, 1, d/2]: it turns (i, i + d/2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def interleaved_rope(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Meta's RoPE of x [S, heads, d]: it turns (2i, 2i + 1), as complex numbers."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def test_interleaved_rope_on_reordered_weights_gives_the_scores_of_half_split_rope() -> None:
    q, k = torch.randn(2, HEADS * WIDTH, HIDDEN)
    x = torch.randn(LENGTH, HIDDEN)
    angles = (torch.arange(LENGTH)[:, None] * 100.0 ** -(torch.arange(WIDTH // 2) / (WIDTH // 2)))[:, None]

    def scores(q: torch.Tensor, k: torch.Tensor, rope: object) -> torch.Tensor:
        turned = [rope((x @ weight.T).view(LENGTH, HEADS, WIDTH), angles) for weight in (q, k)]
        return torch.einsum("shd,thd->hst", *turned)

    expected = scores(q, k, half_split_rope)
    reordered = interleave_pairs(q, HEADS), interleave_pairs(k, HEADS)
    assert torch.allclose(scores(*reordered, interleaved_rope), expected, atol=1e-5)
    assert not torch.allclose(scores(q, k, interleaved_rope), expected, atol=1e-1)


def test_interleave_pairs_takes_a_pair_from_the_two_halves_of_a_head() -> None:
    rows = torch.arange(8.0)[:, None]
    assert interleave_pairs(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}, {"head_dim": 32}])
def test_the_stock_exporters_model_gives_hugging_faces_logits(options: dict[str, object]) -> None:
    rope = {"rope_type": "default", "rope_theta": 500.0}
    model = tiny_model(num_hidden_layers=2, rope_parameters=rope, rms_norm_eps=1e-3, **options)
    stock = construct_transformer(ModelArgs(**stock_params(model.config), generate_full_logits=True))
    stock.load_state_dict(meta_state_dict(model), strict=True)
    tokens = tiny_tokens()
    with torch.no_grad():
        logits = stock.eval()(tokens)
    expected = model(tokens).logits
    assert expected.std() > 0.1
    assert torch.allclose(logits[0] if isinstance(logits, tuple) else logits, expected, atol=1e-4)


def test_params_name_the_architecture() -> None:
    params = stock_params(tiny_model(rope_parameters={"rope_type": "default", "rope_theta": 500.0}).config)
    assert params == {
        "dim": 64,
        "n_layers": 6,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 16,
        "hidden_dim": 96,
        "vocab_size": 256,
        "norm_eps": 1e-6,
        "rope_theta": 500.0,
        "use_scaled_rope": False,
    }


@pytest.mark.parametrize(
    ("model_type", "options", "named"),
    [
        ("qwen3", {}, "qwen3"),
        ("llama", {"attention_bias": True}, "biases"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "'linear'"),
    ],
)
def test_what_is_not_a_plain_llama_is_refused(
    tmp_path: Path, model_type: str, options: dict[str, object], named: str
) -> None:
    tiny_model(model_type, num_hidden_layers=2, **options).save_pretrained(tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    with pytest.raises(SharpError, match=f"{named}.*give a plain Llama"):
        check_plain_llama(checkpoint)


def test_a_plain_llama_is_taken(tiny_checkpoint: Path) -> None:
    check_plain_llama(open_checkpoint(tiny_checkpoint))
