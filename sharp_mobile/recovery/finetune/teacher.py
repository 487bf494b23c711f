"""One model in memory, two views of it: as it was, which teaches, and as recovered, which learns.

              embedding ─ attention ─ MLP of layer l ─ ... ─ norm ─ LM head
    original                          Θ_l                                     no gradients
    recovered                         α Θ_j + B A                             gradients for α, A, B alone

Everything but the MLPs and attentions that were recovered is the same in both, so that distillation costs the memory of
the original model, which sharing started from, and one more forward pass.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.model.modules import LayerParts, SelfAttention, causal_lm, decoder_layers, layer_parts
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recoveries
from sharp_mobile.recovery.finetune.token_loss import FrozenHead, token_loss


def original_parts(model: nn.Module, plan: SharePlan, recovery: Recoveries) -> dict[int, LayerParts]:
    """What layers that share anything have before `share_layers` (0-based): what the original view needs."""
    more = {layer for layer, own in recovery.items() if own.beyond_mlp}
    return layer_parts(model, sorted({*plan.targets, *more}))


class TwoViews(nn.Module):
    """A layer's MLP, or its attention, as recovered and as it was."""

    def __init__(self, recovered: nn.Module, original: nn.Module) -> None:
        super().__init__()
        self.recovered, self.original = recovered, original
        self.teaches = False

    def forward(self, *args: object, **others: object) -> object:
        """What the one or the other answers."""
        return self.original(*args, **others) if self.teaches else self.recovered(*args, **others)


@contextmanager
def two_views(model: nn.Module, originals: Mapping[int, LayerParts]) -> Iterator[list[TwoViews]]:
    """Within the block, each layer of `originals` (0-based) is both; afterwards the recovered one alone."""
    layers = decoder_layers(model)
    recovered = layer_parts(model, originals)
    views: list[TwoViews] = []

    def both(now: object, before: object) -> nn.Module:
        if now is before:
            return cast(nn.Module, now)
        views.append(TwoViews(cast(nn.Module, now), cast(nn.Module, before)))
        return views[-1]

    for index, before in originals.items():
        layer, now = layers[index], recovered[index]
        layer.self_attn = cast(SelfAttention, both(now.self_attn, before.self_attn))
        layer.mlp = both(now.mlp, before.mlp)
    try:
        yield views
    finally:
        for index, parts in recovered.items():
            layers[index].self_attn, layers[index].mlp = parts


class LossModel(nn.Module):
    """A shared model that answers a batch with its loss, in one forward pass: what Trainer, DDP and FSDP wrap.

    Args:
        model: a shared Hugging Face model.
        views: its two-view parts; none for next-token loss alone.
        distillation: λ of `token_loss`.
        float_view: a context in which the original computes, where the shared model computes otherwise than in float.
    """

    # Trainer counts the labels of a batch as this loss does: the first position is no target.
    loss_type = "ForCausalLM"
    accepts_loss_kwargs = True

    def __init__(
        self,
        model: PreTrainedModel,
        views: list[TwoViews],
        distillation: float,
        float_view: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__()
        self.model = model
        self.distillation = distillation
        self._views = tuple(views)  # a tuple: they are the model's own, not registered a second time
        self._float_view = float_view
        self._head, self._original_head = FrozenHead(model), FrozenHead(model, float_view)

    def train(self, mode: bool = True) -> "LossModel":
        """Keep dropout off, whatever `mode`; only checkpointed layers must believe that they train."""
        super().train(False)
        self.training = mode
        for layer in decoder_layers(self.model):
            layer.training = mode
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | None = None,
        sums: bool = False,
    ) -> dict[str, torch.Tensor]:
        """The loss over input_ids and labels [batch, T], divided by `num_items_in_batch` or its own scored tokens.

        With `sums`, the sums of the loss and of the next-token loss and the number of scored tokens instead.
        """
        original = self._original_hidden(input_ids) if self.distillation > 0 else None
        hidden = causal_lm(self.model).model(input_ids=input_ids, use_cache=False).last_hidden_state
        result = token_loss(hidden, labels, self._head, original, self.distillation, self._original_head)
        if sums:
            return result._asdict()
        return {"loss": result.loss / (result.tokens if num_items_in_batch is None else num_items_in_batch)}

    @torch.no_grad()
    def _original_hidden(self, input_ids: torch.Tensor) -> torch.Tensor:
        for view in self._views:
            view.teaches = True
        try:
            with self._float_view():
                hidden = causal_lm(self.model).model(input_ids=input_ids, use_cache=False).last_hidden_state
            return hidden
        finally:
            for view in self._views:
                view.teaches = False
