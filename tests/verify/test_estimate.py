"""A decoder without weights is counted as the one with weights is, and its `.pte` takes what was told."""

from typing import Any

import pytest
import torch
from tiny_models import tiny_config, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from sharp_mobile.bench.exports import Export
from sharp_mobile.checkpoint.meta_model import open_blueprint
from sharp_mobile.decoder.decoder import Decoder, build_decoder
from sharp_mobile.decoder.integer import QuantizedLinear
from sharp_mobile.model.share import share_layers
from sharp_mobile.pipeline import ExportResult
from sharp_mobile.quantize.nearest import quantize
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.verify.estimate import file_bytes, resident_bytes
from sharp_mobile.verify.manifest import read_manifest
from sharp_mobile.verify.meta_decoder import blueprint_decoder

HIDDEN, INNER, VOCABULARY = 64, 96, 256
NOTHING = SharePlan.parse("none", 6)
MLP, MLP_SCALES = 3 * HIDDEN * INNER // 2, 3 * HIDDEN * INNER // 32 * 2


def decoder_of(model: nn.Module, plan: SharePlan, recovery: Any, options: QuantizeSettings) -> Decoder:
    share_layers(model, plan, recovery)
    attention = "portable" if model.config.model_type == "gemma2" else "custom_sdpa"
    decoder = build_decoder(model.requires_grad_(False), LowerSettings(max_length=32, attention=attention))
    quantize(decoder, options)
    return decoder


def real(plan: SharePlan, recovery: Any, options: QuantizeSettings, **model: Any) -> Decoder:
    return decoder_of(tiny_model(**model), plan, recovery, options)


def on_meta(plan: SharePlan, recovery: Any, options: QuantizeSettings, **model: Any) -> Decoder:
    with torch.device("meta"):
        return decoder_of(AutoModelForCausalLM.from_config(tiny_config(**model)), plan, recovery, options)


RECOVERIES = [
    Recovery("lora", 32),
    Recovery("lora", (32, 0, 64)),
    Recovery("right", 32),
    Recovery("left", 32),
    Recovery("lora", 32, neurons=32, bypass=32),
    Recovery(neurons=64, bypass=32, reference=False),
    Recovery(),
]


@pytest.mark.parametrize("recovery", RECOVERIES, ids=str)
def test_shapes_alone_tell_what_weights_tell(recovery: Recovery) -> None:
    plan = SharePlan.parse("2:3,4", 6)
    for recovered in (4, 8, "float"):
        options = QuantizeSettings(recovery=recovered, lm_head=4)  # type: ignore[arg-type]
        one, other = real(plan, recovery, options), on_meta(plan, recovery, options)
        assert all(module.codes.is_meta for module in other.modules() if isinstance(module, QuantizedLinear))
        assert file_bytes(one) == file_bytes(other)
        assert resident_bytes(one) == resident_bytes(other)


@pytest.mark.parametrize("model_type", ["qwen3", "phi3", "gemma2", "gemma3_text", "smollm3", "olmo2"])
def test_every_family_has_a_decoder_without_weights(model_type: str) -> None:
    for tied in (True, False):
        given = {"model_type": model_type, "tie_word_embeddings": tied}
        one, other = (make(NOTHING, {}, QuantizeSettings(recovery=4), **given) for make in (real, on_meta))
        assert file_bytes(one) == file_bytes(other)
        assert resident_bytes(one) == resident_bytes(other)


def test_each_part_is_what_its_shapes_make_it() -> None:
    plan, recovery = SharePlan.parse("2:3,4", 6), Recovery("lora", 32)
    found = file_bytes(on_meta(plan, recovery, QuantizeSettings(recovery=4)))
    assert found.embedding == VOCABULARY * HIDDEN // 2 + VOCABULARY * HIDDEN // 32 * 4
    assert found.lm_head == VOCABULARY * (HIDDEN + 4)
    assert found.attention == 6 * 2 * HIDDEN * (64 + 32) * (1 / 2 + 2 / 32)
    assert found.mlps == 4 * (MLP + MLP_SCALES)
    # A of gate and up as one, in groups of 64; A of down and three B, in groups of 32; α of gate and down.
    weights = 2 * 32 * HIDDEN + 32 * INNER + 32 * (2 * INNER + HIDDEN)
    groups = 2 * 32 + 32 * INNER // 32 + 2 * INNER + HIDDEN
    assert found.recovery == 2 * (weights // 2 + groups * 2 + 2 * 4)
    # A gain for each norm, one row that means and one ε for all of them; three RoPE tables.
    assert found.rest == 13 * HIDDEN * 4 + HIDDEN * 4 + 4 + 3 * 16 * 4


def test_a_tied_table_counts_once_at_8_bits_and_as_floats() -> None:
    tied, own = (on_meta(NOTHING, {}, QuantizeSettings(recovery=4), tie_word_embeddings=tie) for tie in (True, False))
    assert file_bytes(tied).embedding == VOCABULARY * (HIDDEN + 4)
    assert file_bytes(tied).lm_head == VOCABULARY * 4  # the scales are in both layouts
    assert file_bytes(own).embedding < file_bytes(own).lm_head == VOCABULARY * (HIDDEN + 4)
    floats = QuantizeSettings(linear="float", group_size=32, embedding="float", lm_head="float", recovery=4)
    tied = on_meta(NOTHING, {}, floats, tie_word_embeddings=True)
    assert file_bytes(tied).embedding == VOCABULARY * HIDDEN * 4
    assert file_bytes(tied).lm_head == 0


def test_memory_has_a_shared_weight_once_and_the_cache_of_every_layer() -> None:
    options = QuantizeSettings(recovery=4)
    alone, shared = on_meta(NOTHING, {}, options), on_meta(SharePlan.parse("direct:2:3,4", 6), {}, options)
    one, other = resident_bytes(alone), resident_bytes(shared)
    assert one.packed - other.packed == 2 * (MLP + MLP_SCALES + (2 * INNER + HIDDEN) * 8)
    assert one.cache == other.cache == 6 * 2 * 32 * 2 * 16 * 4
    assert one.total - other.total == one.packed - other.packed


@pytest.mark.slow
def test_a_real_file_is_within_half_a_percent(tiny_export: ExportResult, tiny_recipe: Recipe) -> None:
    told = file_bytes(blueprint(tiny_recipe))
    assert told.total == pytest.approx(tiny_export.manifest.sizes.file, rel=0.005)
    assert told.recovery == pytest.approx(tiny_export.manifest.sizes.recovery, rel=0.005)


@pytest.mark.slow
def test_portable_files_are_within_half_a_percent_and_differ_by_what_is_shared(
    shared: Export, unshared: Export
) -> None:
    one, other = (file_bytes(blueprint(recipe_of(export))).total for export in (shared, unshared))
    sizes = [export.identity.file_bytes for export in (shared, unshared)]
    assert [one, other] == pytest.approx(sizes, rel=0.005)
    assert other - one == pytest.approx(sizes[1] - sizes[0], rel=0.02)


def recipe_of(export: Export) -> Recipe:
    return Recipe(**read_manifest(export.directory).recipe)


def blueprint(recipe: Recipe) -> Decoder:
    checkpoint = open_blueprint(recipe.model)
    plan = SharePlan.parse(recipe.plan, checkpoint.config.num_hidden_layers)
    return blueprint_decoder(recipe, checkpoint, plan, recipe.recovery.recoveries(plan))
