"""What is predicted from an architecture is what a decoder holds, byte for byte, and what its `.pte` takes."""

from typing import Any

import pytest
from predicted import AUTO, assert_predicted, predicted
from tiny_models import MODEL_TYPES

from sharp_mobile.bench.exports import Export
from sharp_mobile.checkpoint.description import plan_source
from sharp_mobile.errors import SharpError
from sharp_mobile.pipeline import ExportResult
from sharp_mobile.quantize.stored import fused_shapes, rounded_shapes
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.size_report import predict
from sharp_mobile.verify.manifest import read_manifest

HIDDEN, INNER, VOCABULARY = 64, 96, 256
NOTHING, SHARED = SharePlan.parse("none", 6), SharePlan.parse("2:3,4", 6)
MLP, MLP_SCALES = 3 * HIDDEN * INNER // 2, 3 * HIDDEN * INNER // 32 * 2
PORTABLE = LowerSettings(max_length=32, attention="portable")


RECOVERIES = [
    Recovery("lora", 32),
    Recovery("lora", (32, 0, 64)),
    Recovery("right", 32),
    Recovery("left", 32),
    Recovery("lora", 32, neurons=32, bypass=32),
    Recovery(neurons=64, bypass=32, reference=False),
    Recovery(neurons=32),
    Recovery(),
]


@pytest.mark.parametrize("bits", [4, 8, "float"])
@pytest.mark.parametrize("recovery", RECOVERIES, ids=str)
def test_recovery_parameters_of_every_kind(recovery: Recovery, bits: Any) -> None:
    assert_predicted(SHARED, dict.fromkeys(SHARED.targets, recovery), QuantizeSettings(recovery=bits), mlp_bias=True)


def test_recovery_parameters_that_differ_from_layer_to_layer_and_adapters() -> None:
    mixed = {
        0: Recovery("lora", 32),
        2: Recovery("left", 64),
        3: Recovery(neurons=96, reference=False),
        5: Recovery("lora", 32, bypass=32),
    }
    assert_predicted(SHARED, mixed, QuantizeSettings(), attention_bias=True)
    direct = SharePlan.parse("direct:2:3,4", 6)
    assert_predicted(direct, {}, QuantizeSettings(), mlp_bias=True)


@pytest.mark.parametrize("lower", [AUTO, PORTABLE], ids=["auto", "portable"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family(model_type: str, tied: bool, lower: LowerSettings) -> None:
    given = {"model_type": model_type, "tie_word_embeddings": tied}
    recovery = dict.fromkeys(SHARED.targets, Recovery("lora", 32))
    assert_predicted(SHARED, recovery, QuantizeSettings(), lower, **given)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])  # Gemma's table is scaled, so it is never the LM head's
@pytest.mark.parametrize("lm_head", [4, 8, "float"])
@pytest.mark.parametrize("embedding", ["auto", 4, 8, "float"])
def test_table_and_lm_head_of_any_bits(embedding: Any, lm_head: Any, model_type: str, tied: bool) -> None:
    section = QuantizeSettings(embedding=embedding, lm_head=lm_head)
    assert_predicted(NOTHING, {}, section, model_type=model_type, num_hidden_layers=6, tie_word_embeddings=tied)


@pytest.mark.parametrize("linear", [4, 8, "float"])
@pytest.mark.parametrize("changes", [{"attention_bias": True, "mlp_bias": True}, {"num_key_value_heads": 1}])
def test_linears_of_any_bits(linear: Any, changes: dict[str, Any]) -> None:
    assert_predicted(NOTHING, {}, QuantizeSettings(linear=linear), **changes)


def test_wider_groups() -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 32}
    for group in (32, 64, 128):
        assert_predicted(NOTHING, {}, QuantizeSettings(group_size=group, lm_head=4), **sizes)


def test_each_part_is_what_its_shapes_make_it() -> None:
    recovery = dict.fromkeys(SHARED.targets, Recovery("lora", 32))
    tensors, found, _ = predicted(SHARED, recovery, QuantizeSettings(recovery=4))
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
    assert rounded_shapes(tensors).count((INNER, HIDDEN)) == 2 * 4
    assert len(rounded_shapes(tensors)) == 4 * 3 + 6 * 4


def test_a_tied_table_counts_once_at_8_bits_and_as_floats() -> None:
    tied, own = (predicted(NOTHING, {}, QuantizeSettings(), tie_word_embeddings=tie)[1] for tie in (True, False))
    assert tied.embedding == VOCABULARY * (HIDDEN + 4)
    assert tied.lm_head == VOCABULARY * 4  # the scales are in both layouts
    assert own.embedding < own.lm_head == VOCABULARY * (HIDDEN + 4)
    floats = QuantizeSettings(linear="float", embedding="float", lm_head="float")
    tied = predicted(NOTHING, {}, floats, tie_word_embeddings=True)[1]
    assert tied.embedding == VOCABULARY * HIDDEN * 4
    assert tied.lm_head == 0


def test_memory_has_a_shared_weight_once_and_the_cache_of_every_layer() -> None:
    one, other = (predicted(plan, {}, QuantizeSettings())[2] for plan in (NOTHING, SharePlan.parse("direct:2:3,4", 6)))
    assert one.packed - other.packed == 2 * (MLP + MLP_SCALES + (2 * INNER + HIDDEN) * 8)
    assert one.cache == other.cache == 6 * 2 * 32 * 2 * 16 * 4
    assert one.total - other.total == one.packed - other.packed


def test_what_cannot_be_quantized_or_shared_is_refused() -> None:
    narrow = {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 3}
    given = dict.fromkeys(SHARED.targets, Recovery("lora", 32))
    with pytest.raises(SharpError, match=r"^layers\.3\.mlp\.recovery\.low: 4-bit recovery parameters need an"):
        predicted(SHARED, given, QuantizeSettings(linear=8, embedding=8, recovery=4), **narrow)
    many = dict.fromkeys(SHARED.targets, Recovery(neurons=97, reference=False))
    with pytest.raises(SharpError, match="layer 3 cannot share layer 2: 97 own neurons are more than its MLP's 96"):
        predicted(SHARED, many, QuantizeSettings())


def test_the_matrices_of_a_hybrid_by_hand() -> None:
    """Of a MLP of 96, in a model 64 wide."""
    hybrid = Recovery("right", (2, 3, 5), neurons=7, bypass=11)
    assert fused_shapes(hybrid, HIDDEN, INNER) == {
        "low": (2 + 2 + 3 + 3 + 7 + 7 + 11, HIDDEN),
        "gate_out": (INNER, 2),
        "gate_right_out": (HIDDEN, 2),
        "up_out": (INNER, 3),
        "up_right_out": (HIDDEN, 3),
        "down_in": (5, INNER),
        "down_out": (HIDDEN, 5),
        "down_right_in": (5, INNER),
        "down_right_out": (INNER, 5),
        "neurons_out": (HIDDEN, 7),
        "bypass_out": (HIDDEN, 11),
    }


@pytest.mark.slow
def test_a_real_file_is_within_half_a_percent(tiny_export: ExportResult, tiny_recipe: Recipe) -> None:
    found = predict(plan_source(tiny_recipe)).file
    assert found.total == pytest.approx(tiny_export.manifest.sizes.file, rel=0.005)
    assert found.recovery == pytest.approx(tiny_export.manifest.sizes.recovery, rel=0.005)


@pytest.mark.slow
def test_portable_files_are_within_half_a_percent_and_differ_by_what_is_shared(
    shared: Export, unshared: Export
) -> None:
    one, other = (predict(plan_source(recipe_of(export))).file.total for export in (shared, unshared))
    sizes = [export.identity.file_bytes for export in (shared, unshared)]
    assert [one, other] == pytest.approx(sizes, rel=0.005)
    assert other - one == pytest.approx(sizes[1] - sizes[0], rel=0.02)


def recipe_of(export: Export) -> Recipe:
    return Recipe(**read_manifest(export.directory).recipe)
