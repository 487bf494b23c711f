"""The decoder as it is exported: segments strung together by attention over a KV cache.

One `Decoder` serves all families (`build.py` makes it from a Hugging Face model). It runs in eager mode with float or
quantized segments, and is exported with lowered ones.
"""

from typing import NamedTuple

import torch
from torch import nn

from sharp_mobile.decoder.attention import Attention, CustomAttention, PortableAttention, Rotation
from sharp_mobile.decoder.options import DecoderOptions


class Surroundings(NamedTuple):
    """Of a layer's attention: cos and signed sin (nothing without RoPE), and the mask of its scores."""

    rotation: tuple[torch.Tensor, ...]
    mask: torch.Tensor | None


class Decoder(nn.Module):
    """tokens int64 [1, S], input_pos int64 [1] → logits, writing positions input_pos … input_pos + S − 1 of the cache.

    The signature and the cache are what ExecuTorch's LLM runner expects. As built it computes in eager mode, with
    portable attention; `deployed` makes the one that is exported.
    """

    def __init__(
        self,
        embedding: nn.Module,
        entry: nn.Module,
        middles: list[nn.Module],
        exit_: nn.Module,
        attentions: list[Attention],
        rotations: list[Rotation],
        rotation_of: list[int | None],
        options: DecoderOptions,
    ) -> None:
        super().__init__()
        self.embedding, self.entry, self.exit = embedding, entry, exit_
        self.middles = nn.ModuleList(middles)
        # Lists with known types, next to the ones that register the modules.
        self.attentions, self.rotations = attentions, rotations
        self.attention_modules, self.rotation_modules = nn.ModuleList(attentions), nn.ModuleList(rotations)
        self.rotation_of, self.options = rotation_of, options

    def deployed(self, entry: nn.Module, middles: list[nn.Module], exit_: nn.Module) -> "Decoder":
        """This decoder around lowered segments, with the requested attention operator and its own caches."""
        kind: type[CustomAttention] | type[PortableAttention] = (
            CustomAttention if self.options.attention == "custom_sdpa" else PortableAttention
        )
        of: dict[Attention, Attention] = {}
        for attention in self.attentions:
            of[attention] = kind(attention.settings, None if attention.source is None else of[attention.source])
        attentions = list(of.values())
        return Decoder(
            self.embedding, entry, middles, exit_, attentions, self.rotations, self.rotation_of, self.options
        ).eval()

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        start: int = input_pos[0].item()  # type: ignore[assignment]
        torch._check(start >= 0)
        torch._check(start + tokens.shape[1] <= self.options.max_length)
        surroundings = self.surroundings(start, tokens.shape[1])

        hidden = self.embedding(tokens)
        queries_and_keys = self.entry(hidden, *surroundings[0].rotation)
        for number, middle in enumerate(self.middles):
            attended = self.attentions[number](start, surroundings[number].mask, *queries_and_keys)
            hidden, *queries_and_keys = middle(hidden, attended, *surroundings[number + 1].rotation)
        attended = self.attentions[-1](start, surroundings[-1].mask, *queries_and_keys)
        if not self.options.all_logits:
            # What follows the last attention works token by token, so only the last token needs it.
            hidden, attended = hidden[:, -1:], attended[:, -1:]
        logits: torch.Tensor = self.exit(hidden, attended)[0]
        return logits

    def surroundings(self, start: int, tokens: int) -> list["Surroundings"]:
        """The inputs of each attention other than q, k and v, for S = `tokens` positions from `start` on."""
        positions = torch.arange(tokens) + start
        tables = [rotation(positions.float()) for rotation in self.rotations]
        windows = [attention.settings.window for attention in self.attentions]
        masks = {window: self._mask(positions, start + tokens, window) for window in dict.fromkeys(windows)}
        return [
            Surroundings(() if turned is None else tables[turned], masks[window])
            for turned, window in zip(self.rotation_of, windows, strict=True)
        ]

    def _mask(self, positions: torch.Tensor, end: int, window: int | None) -> torch.Tensor | None:
        """What is added to the scores, 0 or −∞; None where custom_sdpa's own causal mask will do.

        [S, end] for portable attention, which reads the cache up to `end`; [S, length] for custom_sdpa.
        """
        custom = isinstance(self.attentions[0], CustomAttention)
        if window is None and custom:
            return None
        distance = positions.view(-1, 1) - torch.arange(self.options.max_length if custom else end).view(1, -1)
        seen = distance >= 0
        if window is not None:
            seen = seen & (distance < window)
        return torch.where(seen, 0.0, float("-inf"))
