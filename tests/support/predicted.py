"""What is predicted of an export, next to a decoder of real weights."""

from collections import Counter
from typing import Any

from counted_decoder import cache_bytes, calls, linears, packed_bytes, stored_bytes
from tiny_models import tiny_config, tiny_model

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.options import decoder_options
from sharp_mobile.model.share import share_layers
from sharp_mobile.quantize.nearest import quantize
from sharp_mobile.quantize.stored import StoredTensors, stored_tensors
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.verify.estimate import FileBytes, ResidentBytes, file_bytes, resident_bytes

AUTO = LowerSettings(max_length=32)


def real(plan: SharePlan, recovery: Any, section: QuantizeSettings, lower: LowerSettings, **model: Any) -> Decoder:
    """The quantized decoder of a tiny model."""
    shared = tiny_model(**model)
    share_layers(shared, plan, recovery)
    decoder = build_decoder(shared.requires_grad_(False), lower)
    quantize(decoder, section)
    return decoder


def predicted(
    plan: SharePlan, recovery: Any, section: QuantizeSettings, lower: LowerSettings = AUTO, **model: Any
) -> tuple[StoredTensors, FileBytes, ResidentBytes]:
    """Its tensors, its file and its memory."""
    architecture = architecture_of(tiny_config(**model).to_dict())
    tensors = stored_tensors(architecture, plan, recovery, section)
    options = decoder_options(lower, architecture)
    return tensors, file_bytes(tensors, options), resident_bytes(architecture, tensors, options)


def assert_predicted(
    plan: SharePlan, recovery: Any, section: QuantizeSettings, lower: LowerSettings = AUTO, **model: Any
) -> None:
    """Every tensor and every byte that a decoder of real weights holds is in its prediction, and no other."""
    section = section.model_copy(update={"scales": "minmax"})  # as many scales, found faster
    decoder, (tensors, file, resident) = (
        real(plan, recovery, section, lower, **model),
        predicted(plan, recovery, section, lower, **model),
    )
    found = {name: size for name, size in file._asdict().items() if name not in ("program", "eight_bit_budget")}
    counted = stored_bytes(decoder)
    assert found == {name: counted[name] for name in found}
    assert listed(tensors) == linears(decoder)
    assert (sum(linear.uses for linear in tensors.linears), tensors.norms) == calls(decoder)
    assert (resident.packed, resident.cache) == (packed_bytes(decoder), cache_bytes(decoder))
    assert tensors.attentions == len(decoder.attentions)


def listed(tensors: StoredTensors) -> Counter[tuple[str, tuple[int, int], object, int, bool, int]]:
    """The predicted linears, as `counted_decoder.linears` has them."""
    return Counter(
        (one.role, one.shape, one.bits, one.group if one.bits == 4 else 0, one.bias, one.uses)
        for one in tensors.linears
    )
