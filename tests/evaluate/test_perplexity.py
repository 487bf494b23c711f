import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.perplexity import perplexity


def test_agrees_with_hugging_faces_loss() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=256,
    )
    model = LlamaForCausalLM(config).eval()
    windows = torch.randint(256, (3, 20))
    measured = perplexity(lambda tokens: model(tokens).logits, windows)
    with torch.no_grad():
        loss = model(windows, labels=windows).loss.item()
    assert measured.tokens == 3 * 19
    assert measured.nll == pytest.approx(loss, rel=1e-5)
    assert measured.value == pytest.approx(math.exp(loss), rel=1e-5)


def test_a_uniform_guess_among_many_has_their_number_as_perplexity() -> None:
    windows = torch.arange(30).view(2, 15)
    logits = torch.tensor([0.0] * 30 + [-1e4] * 2)  # the last two are never guessed
    found = perplexity(lambda tokens: logits.expand(*tokens.shape, 32), windows)
    assert found.value == pytest.approx(30, rel=1e-6)


def test_a_certain_and_wrong_model_is_infinitely_perplexed() -> None:
    windows = torch.ones(1, 4, dtype=torch.long)
    logits = torch.tensor([1e4, 0.0]).expand(1, 4, 2)
    assert perplexity(lambda tokens: logits, windows).value == math.inf


def test_logits_that_are_not_numbers_are_refused() -> None:
    windows = torch.arange(30).view(2, 15)

    def broken(tokens: torch.Tensor) -> torch.Tensor:
        return torch.full((*tokens.shape, 32), float("nan")) if tokens[0, 0] == 15 else torch.randn(*tokens.shape, 32)

    with pytest.raises(SharpError, match=r"NaN in window 2; .*; copy or download the model again"):
        perplexity(broken, windows)


@pytest.mark.parametrize("logit", [0.0, -2.5, 1e30])
def test_a_model_that_prefers_no_token_is_told(logit: float) -> None:
    """Its perplexity would be the size of the vocabulary."""
    with pytest.raises(SharpError, match="the same logit in window 1"):
        perplexity(lambda tokens: torch.full((*tokens.shape, 32), logit), torch.arange(30).view(2, 15))


@pytest.mark.parametrize("shape", [(0, 8), (3, 1)])
def test_windows_without_a_token_to_score_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(SharpError, match="no token to score"):
        perplexity(lambda t: torch.zeros(*t.shape, 4), torch.zeros(shape, dtype=torch.long))
