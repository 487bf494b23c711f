"""A quantized decoder on the meta device: everything that an export stores, as shapes alone."""

import torch

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.meta_model import meta_model
from sharp_mobile.decoder.decoder import Decoder, build_decoder
from sharp_mobile.model.share import share_layers
from sharp_mobile.quantize.nearest import quantize
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recoveries
from sharp_mobile.recipe.settings import Recipe


@torch.no_grad()
def blueprint_decoder(recipe: Recipe, checkpoint: Checkpoint, plan: SharePlan, recovery: Recoveries) -> Decoder:
    """The quantized decoder, on the meta device, that a recipe makes of a checkpoint's architecture and a plan.

    Raises:
        SharpError: a plan, a length or a group size that does not fit the architecture.
    """
    with torch.device("meta"):
        model = meta_model(checkpoint.config, checkpoint.path)
        share_layers(model, plan, recovery)
        decoder = build_decoder(model, recipe.lower)
        quantize(decoder, recipe.quantize)
    return decoder
