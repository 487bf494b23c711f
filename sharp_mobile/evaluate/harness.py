"""A step function as lm-eval's language model: log-likelihoods of continuations.

    context  c₁ … c_m   ─ step(c, 0) ─────────►  log p(t₁ | c)
    choice   t₁ … t_n   ─ step(t₁ … t_n₋₁, m) ►  log p(t₂ | c t₁), …, log p(t_n | c t₁ … t_n₋₁)

A step function reads tokens at a position of its KV cache and gives logits. An eager decoder, a `.pte` and (through
`step.ModelStep`) a Hugging Face model are step functions, so the same code measures all of them. The choices of a
question share the context, which is read once: the next choice overwrites the cache from position m. This module needs
the extra `eval`.
"""

from collections.abc import Sequence
from typing import TextIO, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sharp_mobile.errors import SharpError
from sharp_mobile.pte.runtime import Step

_Request = TypeVar("_Request")
_MAX_GENERATED = 256  # tokens of a generated answer if the task sets no limit; lm-eval's default


class StepLM(TemplateLM):
    """A step function and a tokenizer as lm-eval's language model.

    Args:
        step: the step function. If it gives only the last token's logits, continuations are read token by token.
        max_length: the largest number of tokens that it takes; longer contexts lose their beginning.
        stop: the tokens that end a text.
        progress: the stream for a progress bar; None for no bar.
    """

    def __init__(
        self,
        step: Step,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stop: Sequence[int],
        progress: TextIO | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._step = step
        self._stop = list(stop)
        self._progress = progress
        self._last_only = False
        self._read: tuple[list[int], torch.Tensor] | None = None  # the last context and its last logits

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        if not self._stop:
            raise SharpError("the model has no end-of-text token (eos_token_id); add it to its config.json")
        return self._stop[0]

    @property
    def prefix_token_id(self) -> int:
        """The token that replaces an empty context."""
        bos: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's caches."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: object) -> list[int]:
        """Token ids of a text; by default with the special tokens that the tokenizer adds."""
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer(string, verbose=False, **special)["input_ids"])

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """For each request, log p(continuation | context) in nats and whether it is the greedy continuation."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def _loglikelihood_tokens(
        self, requests: list[tuple[object, list[int], list[int]]], **options: object
    ) -> list[tuple[float, bool]]:
        return [self._score(context, continuation) for _, context, continuation in self._bar(requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """For each request, log p(text) in nats, over windows of the maximal length that do not overlap."""
        return [self._full_text(request.args[0]) for request in self._bar(requests)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """For each request, the greedy answer up to its first stop text."""
        return [self._generate(*request.args) for request in self._bar(requests)]

    def _bar(self, requests: Sequence[_Request]) -> "tqdm[_Request]":
        off = True if self._progress is None else None
        return tqdm(requests, desc="requests", unit="request", disable=off, file=self._progress)

    @torch.no_grad()
    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            raise SharpError(
                f"a continuation of {len(continuation)} tokens exceeds the model's {self.max_length}; raise max_length"
            )
        context = context[-room:]
        logits = self._after(context)
        if len(continuation) > 1:
            logits = torch.cat([logits, self._all_logits(continuation[:-1], len(context))])
        tokens = torch.tensor(continuation, dtype=torch.int64)  # an empty list would become float32
        scores = torch.log_softmax(logits.float(), dim=-1).gather(1, tokens[:, None])
        return scores.double().sum().item(), bool((logits.argmax(dim=-1) == tokens).all())

    def _after(self, context: list[int]) -> torch.Tensor:
        """Logits [1, vocabulary] after a context; then the cache holds the context."""
        if self._read is None or self._read[0] != context:
            self._read = (context, self._step(torch.tensor([context]), 0)[0, -1:].clone())
        return self._read[1]

    def _all_logits(self, tokens: list[int], position: int) -> torch.Tensor:
        """Logits [S, vocabulary] of S tokens."""
        if not self._last_only:
            logits = self._step(torch.tensor([tokens]), position)[0]
            if len(logits) == len(tokens):
                return logits
            self._last_only = True
        singly = [self._step(torch.tensor([[token]]), position + i)[0] for i, token in enumerate(tokens)]
        return torch.cat(singly)

    def _full_text(self, text: str) -> float:
        windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
        return sum((self._score(*make_disjoint_window(window))[0] for window in windows), 0.0)

    def _generate(self, prompt: str, options: dict[str, object]) -> str:
        settings = normalize_gen_kwargs(options, _MAX_GENERATED)
        if settings.get("do_sample"):
            raise SharpError("the task samples its answers; only greedy answers are supported: set do_sample: false")
        count = settings["max_gen_toks"]
        until = settings["until"]
        if count >= self.max_length:
            raise SharpError(
                f"the task's answers have {count} tokens, which leaves no room for its question within the model's "
                f"{self.max_length}; raise max_length"
            )
        context = self.tok_encode(prompt)[-(self.max_length - count) :] or [self.prefix_token_id]
        logits = self._after(context)
        generated: list[int] = []
        text = ""
        while len(generated) < count and (token := int(logits[-1].argmax())) not in self._stop:
            generated.append(token)
            text = str(self.tokenizer.decode(generated))
            if any(stop in text for stop in until):
                break
            logits = self._step(torch.tensor([[token]]), len(context) + len(generated) - 1)[0]
        return min((text.partition(stop)[0] for stop in until), key=len, default=text)
