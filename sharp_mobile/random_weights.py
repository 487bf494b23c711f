"""A model from its config.json alone, with random weights: for studies of size, memory and speed.

What a `.pte` takes on disk and in memory, and how long it runs, depends on the architecture and on how it is shared and
quantized, not on what its numbers say. So any published architecture can be measured without its weights. Recovery
parameters are random too; there is no tokenizer, and nothing to fit.
"""

import hashlib
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from sharp_mobile.checkpoint import RANDOM, Checkpoint, checkpoint_name, named_errors, read_config
from sharp_mobile.errors import SharpError
from sharp_mobile.plan import SharePlan
from sharp_mobile.share import Recoveries, recovery_parameters, share_layers

_SEED = 0
# Large enough that no group of a quantized recovery parameter is all zeros, which would be stored once for all.
_RECOVERY_STD = 0.02


def open_random(source: str, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """A model of the architecture that `random:<config.json>` names; the same weights every time.

    Raises:
        SharpError: no such file, or it describes no supported model.
    """
    path = Path(source.removeprefix(RANDOM)).expanduser()
    if not path.is_file():
        raise SharpError(f"{path}: no such file; give the config.json of a model, such as those in export/shapes/")
    config = read_config(path)
    with torch.random.fork_rng(), named_errors(path, "describes no model"):
        torch.manual_seed(_SEED)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return Checkpoint(
        name=checkpoint_name(source),
        source=source,
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
    generator = torch.Generator().manual_seed(_SEED)
    for _, parameter in recovery_parameters(model):
        parameter.normal_(std=_RECOVERY_STD, generator=generator)
