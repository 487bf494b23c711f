"""Next-token loss and distillation, without ever holding the logits of all tokens.

For one token with logits z, probabilities p = softmax(z), true next token t, and the original model's probabilities p₀:

    loss = (1 − λ) · (−log p[t])  +  λ · KL(p₀ ‖ p)              λ = 0: next-token, λ = 1: distillation

Both terms are cross-entropies against the mixture q = (1 − λ)·onehot(t) + λ·p₀ (up to the entropy of p₀, which is no
function of z), so the gradient is ∂loss/∂z = p − q. The LM head is frozen: what is needed of the logits is
(∂loss/∂z)·∂z/∂h, which is computed in the forward pass, some tokens at a time. The logits of 2048 tokens of a
vocabulary of 128 k would be 1 GB in float32, and several times that with their gradients.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import BackwardCFunction
from transformers import PreTrainedModel

from sharp_mobile.model.families import logit_cap
from sharp_mobile.model.modules import causal_lm
from sharp_mobile.text.conversation import IGNORED

_LOGITS_AT_ONCE = 2**23  # 32 MB in float32


class TokenLoss(NamedTuple):
    """Sums over the scored tokens, in nats: the training loss (differentiable) and −log p[t]; and their number."""

    loss: torch.Tensor
    nll: torch.Tensor
    tokens: torch.Tensor


class FrozenHead:
    """The LM head of a Hugging Face model, called within `view`."""

    def __init__(
        self, model: PreTrainedModel, view: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        self._view = view
        self._linear = model.get_output_embeddings()
        config = causal_lm(model).config
        self._cap, self.vocabulary = logit_cap(config), config.vocab_size

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        with self._view():
            z = self._linear(hidden)
        return z if self._cap is None else self._cap * torch.tanh(z / self._cap)


def token_loss(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: FrozenHead,
    original: torch.Tensor | None = None,
    distillation: float = 0.0,
    original_head: FrozenHead | None = None,
) -> TokenLoss:
    """The loss of a batch (see the module).

    Args:
        hidden: final hidden states [batch, T, hidden].
        labels: token ids [batch, T]; position i is scored by the logits at i − 1, `IGNORED` is not scored.
        head: the frozen LM head.
        original: the original model's final hidden states, for `distillation` > 0.
        distillation: λ.
        original_head: the original model's LM head, if it is another one.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    scored = targets != IGNORED
    student = hidden.flatten(0, 1)[scored]
    teacher = original.flatten(0, 1)[scored] if original is not None and distillation > 0 else None
    loss, nll = _ChunkedLoss.apply(student, targets[scored], teacher, head, original_head or head, distillation)
    return TokenLoss(loss, nll, scored.sum())


class _ChunkedLoss(torch.autograd.Function):
    """Sums of the loss and of −log p[t]; the gradient by the hidden states is computed along with them."""

    @staticmethod
    def forward(
        ctx: BackwardCFunction,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        original: torch.Tensor | None,
        head: FrozenHead,
        original_head: FrozenHead,
        distillation: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        differentiate = ctx.needs_input_grad[0]
        loss, nll = (torch.zeros((), dtype=torch.float32, device=hidden.device) for _ in range(2))
        gradient = torch.empty_like(hidden) if differentiate else None
        size = max(1, _LOGITS_AT_ONCE // head.vocabulary)
        for start in range(0, len(hidden), size):
            chunk = slice(start, start + size)
            with torch.enable_grad():
                read = hidden[chunk].detach().requires_grad_(differentiate)
                z = head(read)
            with torch.no_grad():
                teacher = None if original is None else original_head(original[chunk]).float().log_softmax(-1)
                chunk_loss, chunk_nll, by_logits = _loss_of(z.float(), targets[chunk], teacher, distillation)
            loss += chunk_loss
            nll += chunk_nll
            if gradient is not None:
                (gradient[chunk],) = torch.autograd.grad(z, read, by_logits.to(z.dtype))
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: BackwardCFunction, *by_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * by_outputs[0].to(gradient.dtype), None, None, None, None, None


def _loss_of(
    z: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None, distillation: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, −log p[t] and ∂loss/∂z = p − q of some tokens; `teacher` is log p₀ [n, vocabulary]."""
    log_p = z.log_softmax(-1)
    columns = targets[:, None]
    nll = -log_p.gather(1, columns).sum()
    if teacher is None:
        return nll, nll, log_p.exp_().scatter_add_(1, columns, -torch.ones_like(columns, dtype=z.dtype))
    loss = (1 - distillation) * nll + distillation * F.kl_div(log_p, teacher, reduction="sum", log_target=True)
    by_logits = log_p.exp_().sub_(teacher.exp(), alpha=distillation)
    return loss, nll, by_logits.scatter_add_(1, columns, torch.full_like(columns, distillation - 1, dtype=z.dtype))
