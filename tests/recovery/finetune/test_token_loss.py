import pytest
import torch
import torch.nn.functional as F
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokens

from sharp_mobile.recovery.finetune import token_loss as module
from sharp_mobile.recovery.finetune.token_loss import FrozenHead, token_loss
from sharp_mobile.text.conversation import IGNORED


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one smaller than the others."""
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 256 * 5)


def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = tiny_tokens(17, batch=2)
    labels = tokens.clone()
    labels[0, 3:9] = IGNORED
    return tokens, labels


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_next_token_loss_is_hugging_faces(model_type: str) -> None:
    model = tiny_model(model_type)
    tokens, labels = labelled()
    result = token_loss(model.model(tokens).last_hidden_state, labels, FrozenHead(model))
    assert result.tokens == 2 * 16 - 6
    torch.testing.assert_close(result.loss / result.tokens, model(tokens, labels=labels).loss)
    torch.testing.assert_close(result.nll, result.loss)


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])  # gemma2 caps its logits
@pytest.mark.parametrize("distillation", [0.0, 0.3, 1.0])
def test_loss_and_gradient_are_those_of_the_formula(model_type: str, distillation: float) -> None:
    model, (tokens, labels) = tiny_model(model_type), labelled()
    hidden = model.model(tokens).last_hidden_state.requires_grad_()
    original = (hidden + torch.randn_like(hidden)).detach()
    head, scored = FrozenHead(model), labels[:, 1:] != IGNORED

    result = token_loss(hidden, labels, head, original, distillation)
    (gradient,) = torch.autograd.grad(2 * result.loss, hidden)

    log_p, log_p0 = (head(states[:, :-1][scored]).log_softmax(-1) for states in (hidden, original))
    nll = F.nll_loss(log_p, labels[:, 1:][scored], reduction="sum")
    expected = (1 - distillation) * nll + distillation * (log_p0.exp() * (log_p0 - log_p)).sum()
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(result.nll, nll)
    torch.testing.assert_close(gradient, torch.autograd.grad(2 * expected, hidden)[0])


def test_a_model_equal_to_its_original_has_nothing_to_learn_from_it() -> None:
    model, (tokens, labels) = tiny_model(), labelled()
    hidden = model.model(tokens).last_hidden_state.requires_grad_()
    loss = token_loss(hidden, labels, FrozenHead(model), hidden.detach(), 1.0).loss
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert loss.abs() < 1e-4
    assert gradient.abs().max() < 1e-6


def test_a_batch_without_a_scored_token_adds_nothing() -> None:
    model, (tokens, labels) = tiny_model(), labelled()
    result = token_loss(model.model(tokens).last_hidden_state, torch.full_like(labels, IGNORED), FrozenHead(model))
    assert (result.loss, result.tokens) == (0, 0)
