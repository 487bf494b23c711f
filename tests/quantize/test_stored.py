"""What an export stores of every kind of sharing is listed tensor by tensor, in families of every shape."""

from typing import Any

import pytest
from predicted import assert_predicted, predicted
from share_kinds import KINDS, Kind
from tiny_models import tiny_config

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.errors import SharpError
from sharp_mobile.quantize.stored import missing_bytes, recovered_shapes, rounded_shapes
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import AttentionRecovery, Basis, Recovery

HIDDEN, INNER, QUERIES, KEYS = 64, 96, 64, 32
NOTHING = SharePlan.parse("none", 6)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "phi3", "gemma3_text", "olmo2"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_families_of_every_shape(kind: str, model_type: str) -> None:
    """Biases of q, k and v in Qwen2, fused projections in Phi-3, more norms in Gemma 3, wide ones in OLMo 2."""
    assert_predicted(KINDS[kind].parsed(), KINDS[kind].recovery, QuantizeSettings(), model_type=model_type)


@pytest.mark.parametrize("bits", [4, "float"])
@pytest.mark.parametrize("kind", KINDS)
def test_biases_everywhere_and_recovery_parameters_of_other_bits(kind: str, bits: Any) -> None:
    section = QuantizeSettings(recovery=bits, linear=8 if bits == 4 else 4)
    assert_predicted(KINDS[kind].parsed(), KINDS[kind].recovery, section, attention_bias=True, mlp_bias=True)


@pytest.mark.parametrize("kind", ["drop", "drop attention"])
def test_a_rope_table_that_no_attention_is_left_to_use_is_not_stored(kind: str) -> None:
    """Gemma 3's sixth layer is the only one that sees all positions."""
    recovery = KINDS[kind].recovery | {5: Recovery(attention=AttentionRecovery("none"))}
    assert_predicted(KINDS[kind].parsed(), recovery, QuantizeSettings(), model_type="gemma3_text")


def test_a_layer_without_anything_leaves_no_norm() -> None:
    plan, recovery = SharePlan.parse("2:3", 6), {2: Recovery(reference=False, attention=AttentionRecovery("none"))}
    tensors, _, _ = predicted(plan, recovery, QuantizeSettings(), model_type="gemma3_text")
    assert tensors.norms == 5 * 6 + 1


def test_shared_attention_is_stored_once_and_called_by_each() -> None:
    recovery = dict.fromkeys((2, 3), Recovery(attention=AttentionRecovery("weights", 1, rank=32)))
    tensors, _, _ = predicted(NOTHING, recovery, QuantizeSettings())
    uses = [linear.uses for linear in tensors.linears if linear.role == "attention"]
    assert uses == [1] * 4 + [3] * 4 + [1] * 8
    assert sum(linear.role == "recovery" for linear in tensors.linears) == 2 * 8
    assert (tensors.attentions, tensors.caches) == (6, 6)


def test_a_kv_target_has_no_keys_and_values_of_its_own() -> None:
    recovery = {3: Recovery(attention=AttentionRecovery("kv", 1))}
    tensors, _, resident = predicted(NOTHING, recovery, QuantizeSettings())
    assert [linear.shape for linear in tensors.linears].count((KEYS, HIDDEN)) == 2 * 5
    assert (tensors.attentions, tensors.caches) == (6, 5)
    assert resident.cache == 2 * 5 * KEYS * 32 * 4


def test_a_basis_is_stored_once_for_its_group_but_those_of_o_and_down() -> None:
    recovery = dict.fromkeys((1, 2, 3), Recovery(basis=Basis(1, (32, 32, 32, 32, 64, 64, 32))))
    tensors, _, _ = predicted(NOTHING, recovery, QuantizeSettings())
    found = {linear.name: linear for linear in tensors.linears}
    assert [name for name in found if name.startswith("layers.3.") and name.endswith("basis")] == [
        "layers.3.attention.o.basis",
        "layers.3.mlp.down.basis",
    ]
    assert (found["layers.2.mlp.up.basis"].shape, found["layers.2.mlp.up.basis"].uses) == ((64, HIDDEN), 3)
    assert found["layers.4.mlp.up.coefficients"].shape == (INNER, 64)
    assert rounded_shapes(tensors).count((32, HIDDEN)) == 2 * 3 + 3 + 3  # k and v of the others; B of q, k, v; of o


@pytest.mark.parametrize(
    ("rank", "section", "allowed"),
    [(24, QuantizeSettings(), False), (24, QuantizeSettings(linear=8), True), (32, QuantizeSettings(), True)],
)
def test_4_bit_groups_must_divide_the_rank_of_a_basis(rank: int, section: QuantizeSettings, allowed: bool) -> None:
    kind = Kind("none", dict.fromkeys((1, 2), Recovery(basis=Basis(1, (rank, 0, 0, 0, 0, 0, 0)))))
    if allowed:
        assert_predicted(kind.parsed(), kind.recovery, section)
        return
    with pytest.raises(SharpError, match=r"layers\.2\.attention\.q: .*a basis of rank 24; use a multiple of 32, or qu"):
        predicted(kind.parsed(), kind.recovery, section)


def test_4_bit_groups_must_divide_the_factors_of_attention() -> None:
    recovery = {2: Recovery(attention=AttentionRecovery("weights", 1, rank=24))}
    with pytest.raises(SharpError, match=r"^layers\.3\.attention\.q\.recovery\.out: 4-bit recovery parameters need an"):
        predicted(NOTHING, recovery, QuantizeSettings(recovery=4))


def test_what_sharing_saves_by_hand() -> None:
    """At 4 bits in groups of 32 a weight takes 9/16 of a byte."""
    model = architecture_of(tiny_config().to_dict())

    def missing(kind: Kind) -> int:
        return missing_bytes(model, kind.parsed(), kind.recovery, QuantizeSettings())

    attention, mlp = (2 * QUERIES + 2 * KEYS) * HIDDEN * 9 // 16, 3 * HIDDEN * INNER * 9 // 16
    assert missing(KINDS["attention"]) == 3 * attention
    assert missing(KINDS["layer"]) == attention + mlp
    assert missing(KINDS["kv"]) == 2 * 2 * KEYS * HIDDEN * 9 // 16
    assert missing(KINDS["drop"]) == attention + 2 * mlp
    assert missing(Kind("none", {})) == 0
    factors = (32 * QUERIES + 2 * 32 * KEYS + 32 * HIDDEN + 2 * 32 * INNER + 32 * HIDDEN) * 3 + 5 * 32 * HIDDEN
    factors += 3 * 32 * (QUERIES + INNER)  # B of o and down
    assert missing(KINDS["basis"]) == 3 * (attention + mlp) - factors * 9 // 16


def test_the_factors_around_a_projection_by_hand() -> None:
    assert recovered_shapes("lora", 0, (48, 64)) == {}
    assert recovered_shapes("lora", 8, (48, 64)) == {"low": (8, 64), "out": (48, 8)}
    low = {"low": (8, 64), "out": (48, 8)}
    assert recovered_shapes("right", 8, (48, 64)) == low | {"right_in": (8, 64), "right_out": (64, 8)}
    assert recovered_shapes("left", 8, (48, 64)) == low | {"left_in": (8, 48), "left_out": (48, 8)}
