"""A decoder in eager mode as a step function, as a `.pte` is one."""

import torch
from torch import nn

from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.pte.runtime import Step


def eager_step(decoder: Decoder, jitter: float = 0.0) -> Step:
    """An eager decoder as a step function that gives all logits; `jitter` changes what is embedded by that fraction."""

    def shaken(embedding: nn.Module, inputs: tuple[torch.Tensor], embedded: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(0))
        return embedded * (1 + jitter * noise)

    def step(tokens: torch.Tensor, position: int) -> torch.Tensor:
        hook = decoder.embedding.register_forward_hook(shaken) if jitter else None
        try:
            with torch.no_grad():
                logits: torch.Tensor = decoder(tokens, torch.tensor([position]))
                return logits
        finally:
            if hook is not None:
                hook.remove()

    return step
