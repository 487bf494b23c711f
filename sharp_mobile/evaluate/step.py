"""A Hugging Face model as a step function over a KV cache, like an eager decoder and a `.pte`.

Several continuations of one context can follow each other, as in a multiple-choice question:

    step(context, 0)     step(first choice, m)     step(second choice, m)     ...
"""

import copy

import torch
from transformers import DynamicCache, PreTrainedModel


class ModelStep:
    """A Hugging Face model as a step function: tokens int64 [1, S] at a position -> logits [1, S, vocabulary].

    A step begins at position 0, at the end of the last step, or at the end of the step at position 0.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._context: DynamicCache | None = None  # read-only after the step at position 0
        self._context_length = 0
        self._cache: DynamicCache | None = None
        self._length = 0

    @torch.no_grad()
    def __call__(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        if position == 0:
            # Do not pass the configuration: its sliding window would cut the cache of families that do not use one.
            self._context = self._cache = DynamicCache()
            self._context_length = tokens.shape[1]
        elif position == self._context_length:
            self._cache = copy.deepcopy(self._context)
        elif position != self._length:
            raise ValueError(f"no step ended at position {position}")
        self._length = position + tokens.shape[1]
        logits: torch.Tensor = self._model(tokens, past_key_values=self._cache, use_cache=True).logits
        return logits
