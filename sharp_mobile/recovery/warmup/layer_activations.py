"""Activations of a model on calibration text, one decoder layer at a time.

A decoder layer is called as the model calls it, with the masks and position embeddings that the model made for a
window of the same length. So the hidden states of many windows can be carried from layer to layer in files, and
memory holds one small batch of them.

The residual norms show the attention sink. In most language models one early MLP writes a huge activation at the
first position (23,000 against a median of 130 in SmolLM2-135M), which later attention relies on. A few low-rank
parameters cannot imitate it: that MLP must not be a target.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.model.families import logit_cap
from sharp_mobile.model.modules import causal_lm

SINK_RATIO = (
    20.0  # max / median residual norm from which a layer can be a sink; 11 at most before SmolLM2's sink, 186 after
)
SINK_JUMP = 10.0  # and how many times the ratio before it


class _FirstLayerReached(Exception):
    """Ends a forward pass once the embedding is known."""


class LayerwiseDecoder:
    """The decoder layers of a model, to be called one by one on batches of equally long windows.

    Args:
        model: a Hugging Face causal language model in eval mode.
        window: tokens int64 [1, T]; masks and position embeddings are recorded on it.
    """

    def __init__(self, model: nn.Module, window: torch.Tensor) -> None:
        self._model = causal_lm(model)
        self._layers = list(self._model.model.layers)
        self._kwargs: list[dict[str, object]] = []
        hooks = [layer.register_forward_pre_hook(self._record, with_kwargs=True) for layer in self._layers]
        try:
            self._model.model(input_ids=window, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()

    def _record(self, layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self._kwargs.append(kwargs)

    def __len__(self) -> int:
        return len(self._layers)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the first layer reads: tokens int64 [batch, T] -> [batch, T, hidden]."""
        inputs: list[torch.Tensor] = []

        def stop(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            inputs.append(args[0])
            raise _FirstLayerReached

        hook = self._layers[0].register_forward_pre_hook(stop)
        try:
            self._model.model(input_ids=tokens, use_cache=False)
        except _FirstLayerReached:
            pass
        finally:
            hook.remove()
        return inputs[0]

    def layer(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """Decoder layer `index` (0-based): hidden states [batch, T, hidden] -> the same shape."""
        output: torch.Tensor = self._layers[index](hidden, **self._kwargs[index])
        return output

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the model answers, from the last layer's hidden states: [batch, T, hidden] -> [batch, T, vocabulary]."""
        logits = self._model.lm_head(self._model.model.norm(hidden))
        cap = logit_cap(self._model.config)
        return logits if cap is None else torch.tanh(logits / cap) * cap


def hidden_file(path: Path, *shape: int) -> torch.Tensor:
    """A float32 tensor that lives in a file, for hidden states that need not fit in memory; made unless it is there.

    Its room on the disk is taken at once: a mapped file that finds the disk full later ends the process by a signal.

    Raises:
        SharpError: the disk, a quota or a file size limit has no room for it.
    """
    size = math.prod(shape)
    if not path.exists() and hasattr(os, "posix_fallocate"):  # macOS has none
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 4 * size)
        except OSError as error:
            raise SharpError(
                f"{path.parent}: no room for {4 * size / 1e9:.1f} GB of hidden states ({error.strerror}); "
                "name a workdir on another disk, or calibrate on fewer tokens"
            ) from error
    return torch.from_file(str(path), shared=True, size=size, dtype=torch.float32).view(shape)


def batches(windows: torch.Tensor, tokens: int = 2048) -> list[slice]:
    """Slices over windows [windows, T] that hold about `tokens` tokens each, at least one window."""
    size = max(1, tokens // windows.shape[1])
    return [slice(start, min(start + size, len(windows))) for start in range(0, len(windows), size)]


@torch.no_grad()
def norm_ratios(model: nn.Module, windows: torch.Tensor) -> tuple[float, ...]:
    """Max over median residual norm over all tokens of `windows` [windows, T], after each decoder layer.

    All windows are carried at once: give one or two.
    """
    decoder = LayerwiseDecoder(model, windows[:1])
    hidden = decoder.embed(windows)
    ratios = []
    for index in range(len(decoder)):
        hidden = decoder.layer(index, hidden)
        norms = hidden.norm(dim=-1)
        ratios.append((norms.max() / norms.median()).item())
    return tuple(ratios)


def sink_layers(ratios: Sequence[float]) -> tuple[int, ...]:
    """The layers (0-based) where `norm_ratios` jump: those that write an attention-sink activation."""
    before = (1.0, *ratios)
    return tuple(i for i, ratio in enumerate(ratios) if ratio > SINK_RATIO and ratio > SINK_JUMP * before[i])


def find_sink_layers(model: nn.Module, windows: torch.Tensor) -> tuple[int, ...]:
    """The layers (0-based) of a model that must not be targets; one or two windows [windows, T] are enough."""
    return sink_layers(norm_ratios(model, windows))
