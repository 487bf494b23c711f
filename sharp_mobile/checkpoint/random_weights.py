"""A model from its config.json alone, with random weights: for studies of size, memory and speed.

What a `.pte` takes on disk and in memory, and how long it runs, depends on the architecture and on how it is shared and
quantized, not on what its numbers say. So any published architecture can be measured without its weights. Recovery
parameters are random too; there is no tokenizer, and nothing to fit.

All weights are windows on one strip of random numbers, each a little further along it:

    strip   ├──────────────────────────────────────────┤
    weights ├────────────────┤
              ├───────┤
                ├──────────────────────────────────┤

So no two are equal, and a model of seven billion parameters takes the memory of its largest tensor.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.checkpoint.build import skeleton
from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.hugging_face import read_config
from sharp_mobile.checkpoint.shapes import shape_file
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recoveries
from sharp_mobile.recipe.source import Source

_SEED = 0
# As published models are initialised. Large enough that no group of a quantized recovery parameter is all zeros, which
# would be stored once for all.
_STD = 0.02
# From one window to the next: not a multiple of a quantization group, whose codes could be another tensor's.
_STEP = 101


def open_random(source: Source, dtype: torch.dtype | None = torch.float32) -> Checkpoint:
    """A model of the architecture that `random:<config.json>` names; the same weights every time.

    Args:
        dtype: of the weights; None for bfloat16, as most are published.

    Raises:
        SharpError: no such file, or it describes no supported model.
    """
    path = shape_file(source)
    model = skeleton(read_config(path), path)
    model.tie_weights()  # before they are counted and filled
    _fill(model.parameters(), dtype or torch.bfloat16)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # a norm's gain or a bias
            parameter.data = torch.full_like(parameter, float(not name.endswith("bias")))
    return Checkpoint(
        name=source.name,
        source=str(source),
        path=path,
        model=model.eval().requires_grad_(False),
        fingerprint=hashlib.sha256(b"random" + path.read_bytes()).hexdigest()[:16],
        warnings=(f"{path}: the weights are random; size, memory and speed are those of the architecture",),
        random=True,
    )


@torch.no_grad()
def share_random(model: PreTrainedModel, plan: SharePlan, recovery: Recoveries) -> None:
    """Share a model of random weights by a plan, in place, with random recovery parameters."""
    share_layers(model, plan, recovery)
    _fill((parameter for _, parameter in recovery_parameters(model)), model.dtype)


def _fill(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Make each parameter a window on one strip of random numbers."""
    distinct = list(dict.fromkeys(parameters))
    length = max((parameter.numel() for parameter in distinct), default=0) + _STEP * len(distinct)
    strip = torch.empty(length, dtype=dtype)
    strip.normal_(std=_STD, generator=torch.Generator().manual_seed(_SEED))
    for number, parameter in enumerate(distinct):
        first = _STEP * number
        parameter.data = strip[first : first + parameter.numel()].view(parameter.shape)
