"""From a recipe's plan and share to what every layer has; what cannot be shared is refused with a way out."""

from typing import Any

import pytest
import torch
from share_recipes import KINDS, planned
from tiny_models import tiny_config, tiny_model

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.model.shared_attention import share_attention
from sharp_mobile.model.sharing import equal_ratio_ranks, kept_parameters, share_plan, sharing_text
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import MATRICES, AttentionRecovery, Basis, Recovery
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.sharp_json import describe_recoveries

RANKS: dict[str, object] = {"rank": 4, "attention_rank": 8}


def shared(
    share: str, plan: str = "none", model_type: str = "llama", **recovery: Any
) -> tuple[SharePlan, dict[int, Recovery]]:
    """The plan and what each layer has, 1-based."""
    recipe = Recipe(model="m", share=share, plan=plan, recovery=recovery or RANKS)
    found, own = share_plan(recipe, architecture_of(tiny_config(model_type).to_dict()))
    return found, {layer + 1: its for layer, its in own.items()}


def written_out(layers: dict[str, Any], plan: str = "none", model_type: str = "llama") -> str:
    """What is said of layers that are written out and refused."""
    with pytest.raises(SharpError) as refused:
        shared("mlp", plan, model_type, rank=4, layers=layers)
    return str(refused.value)


def weights(reference: int, rank: Any = 8, form: Any = "lora") -> AttentionRecovery:
    return AttentionRecovery("weights", reference - 1, form, rank)


def test_what_each_kind_gives_its_targets() -> None:
    own, nothing = Recovery("lora", 4), AttentionRecovery("none")
    expected = {
        "mlp": ("2:3", own),
        "attention": ("none", Recovery(attention=weights(2))),
        "layer": ("2:3", Recovery("lora", 4, attention=weights(2))),
        "kv": ("none", Recovery(attention=AttentionRecovery("kv", 1, rank=8))),
        "drop": ("2:3", Recovery(reference=False, attention=nothing)),
        "drop-mlp": ("2:3", Recovery(reference=False)),
        "drop-attention": ("none", Recovery(attention=nothing)),
        "prune": ("2:3", Recovery(neurons=64, reference=False)),
    }
    for share, (plan, recovery) in expected.items():
        found, layers = shared(share, "2:3")
        assert (str(found), layers) == (plan, {3: recovery}), share


def test_a_kv_target_has_lora_only_if_it_is_asked_for() -> None:
    assert shared("kv", "2:3", rank=4)[1] == {3: Recovery(attention=AttentionRecovery("kv", 1))}
    asked = shared("kv", "2:3", attention_rank=32)[1]
    assert asked == {3: Recovery(attention=AttentionRecovery("kv", 1, rank=32))}


def test_recursive_layers_call_those_of_the_first_block() -> None:
    plan, layers = shared("layer", "recursive 3")
    assert str(plan) == "recursive 3"
    called = {layer: own.attention.reference + 1 for layer, own in layers.items() if own.attention}  # type: ignore[operator]
    assert called == {3: 1, 4: 2, 5: 1, 6: 2}
    assert plan.reference_of == {layer - 1: reference - 1 for layer, reference in called.items()}


def test_direct_is_of_what_calls_a_reference() -> None:
    """What is left out or pruned stays so, and each kind of a mixture is direct for itself."""
    left_out = Recovery(reference=False)
    assert shared("layer", "direct:2:3")[1] == {3: Recovery(attention=weights(2, 0))}
    assert shared("drop-mlp", "direct:2:3")[1] == {3: left_out}
    assert shared("prune", "direct:2:3")[1] == shared("prune", "2:3")[1]
    plan, layers = shared("mlp direct:2:3; attention 2:3; drop-mlp 4:5")
    assert str(plan) == "direct:2:3, 4:5"
    assert layers == {3: Recovery(attention=weights(2)), 5: left_out}
    plan, layers = shared("layer direct:2:3; mlp 4:5")
    assert str(plan) == "2:3, 4:5"
    assert layers == {3: Recovery(attention=weights(2, 0)), 5: Recovery("lora", 4)}


def test_adapters_stand_next_to_whatever_a_mixture_shares() -> None:
    for share in ("attention 2:3; mlp 4:5", "mlp 4:5; attention 2:3"):
        _, layers = shared(share, rank=4, attention_rank=8, adapters=2)
        assert layers[2] == Recovery("lora", 2)
        assert layers[3] == Recovery("lora", 2, attention=weights(2))
        assert layers[5] == Recovery("lora", 4)
    assert shared("mlp 2:3; layer 4:5", rank=4, attention_rank=8, adapters=2) == (
        shared("layer 4:5; mlp 2:3", rank=4, attention_rank=8, adapters=2)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_with_every_layer_written_out_is_the_same(kind: str) -> None:
    """As that of a SHARP checkpoint is."""
    model = tiny_model()
    plan, recovery = planned(kind, model)
    again = Recipe(model="m", plan=str(plan), recovery={"layers": describe_recoveries(recovery)})
    assert share_plan(again, architecture_of(model.config.to_dict())) == (plan, recovery)


@pytest.mark.parametrize(
    ("share", "plan", "text"),
    [
        ("mlp", "2:3", "2:3"),
        ("attention", "2:3-5", "attention 2:3-5"),
        ("kv", "2:3, 4:5", "keys and values 2:3, 4:5"),
        ("layer", "recursive 2", "MLPs recursive 2; attention 1:4, 2:5, 3:6"),
        ("drop", "2:3,4", "no attention in layers 3,4; no MLP in layers 3,4"),
        ("drop-mlp", "2:3", "no MLP in layer 3"),
        ("prune", "2:3,4", "fewer neurons in layers 3,4"),
        ("mlp 2:3; drop-mlp 4:5", "none", "MLPs 2:3; no MLP in layer 5"),
        ("attention 2:3; kv 4:5", "none", "attention 2:3; keys and values 4:5"),
    ],
)
def test_who_shares_what_in_a_line(share: str, plan: str, text: str) -> None:
    found, layers = shared(share, plan)
    assert sharing_text(found, {layer - 1: own for layer, own in layers.items()}) == text


def test_kept_parameters_by_hand() -> None:
    model = architecture_of(tiny_config().to_dict())
    attention, mlp = 2 * 64 * 64 + 2 * 64 * 32, 3 * 64 * 96
    for share, kept in {
        "drop": 5 * (attention + mlp),
        "kv": 6 * (attention + mlp) - 2 * 64 * 32 + 2 * 8 * 128,
        "attention": 6 * mlp + 5 * attention + 2 * 8 * 128 + 2 * 8 * 96,
    }.items():
        found, layers = shared(share, "2:3")
        counted = kept_parameters(model, found, {layer - 1: own for layer, own in layers.items()})
        assert counted == (kept, 6 * (attention + mlp)), share


def test_ranks_of_an_equal_ratio_keep_that_part() -> None:
    model = architecture_of(tiny_config().to_dict())
    ranks = dict(zip(MATRICES, equal_ratio_ranks(model, 2, 0.5, 1), strict=True))
    assert ranks["q"] == 64 * 128 // 2 // (64 + 128)
    assert ranks["o"] == 64 * 64 // 2 // 128
    assert ranks["gate"] == ranks["up"] == 64 * 192 // 2 // (64 + 192)
    # The factors of k and v, 64 by 64 for two layers, would not be smaller: they stay whole.
    assert equal_ratio_ranks(model, 2, 0.9, 32)[1] == 0
    with pytest.raises(SharpError, match=r"kept 0\.1 leaves q a basis of rank 0 \(in multiples of 32.*; keep more"):
        equal_ratio_ranks(model, 2, 0.1, 32)
    with pytest.raises(SharpError, match=r"kept 1\.0 factors nothing.*; keep less"):
        equal_ratio_ranks(model, 2, 1.0, 1)


# Refused, with the reason and the way out


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("kv 2:3; kv 4:5", "a kind stands there twice; give it one plan"),
        ("kv 2:3; mlp", "'mlp' names no plan; write such as 'kv 7:8; mlp 9:10'"),
        ("kv 2:3;", "names no plan"),
        ("heads 2:3; mlp 4:5", "'heads' cannot be shared; choose one of mlp, attention, layer"),
        ("mlp 2:3; drop-mlp 2:3", "layer 3 is a target twice; name it once"),
        ("mlp 2:3; layer direct:2:3", "layer 3 is a target twice; name it once"),
        ("attention 2:3; kv 1:3", "layer 3 is a target twice; name it once"),
        ("basis 2:3; mlp 3:4", "layer 3 is factored by a basis and shares its MLP; leave one out"),
        ("basis 2:3; mlp 4:3", "target 3 must come after its reference 4"),
        ("basis 2:3; attention 2:3", "layer 3 is a target twice"),
        ("basis 2:3; kv 3:4", "the weights of that layer are factored by a basis; leave one out"),
        ("mlp 2:3; prune 3:4", "layer 3 is a target and a reference; a reference keeps its weights"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(share: str, message: str) -> None:
    with pytest.raises(SharpError) as refused:
        shared(share, kept=0.9)
    assert message in str(refused.value)


def test_a_mixture_stands_without_a_plan() -> None:
    with pytest.raises(SharpError, match=r"share 'kv 2:3; mlp 4:5' and plan 't_next': give one kind .* without"):
        Recipe(model="m", share="kv 2:3; mlp 4:5", plan="t_next")


ATTENTION = {"kind": "weights", "rank": 8}
KV = {"kind": "kv"}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"3": {"attention": {**KV, "reference": 4}}}, "target 3 must come after its reference 4"),
        ({"3": {"attention": {**KV, "reference": 9}}}, "layer 9: the model has layers 1 to 6"),
        (
            {"3": {"attention": {**KV, "reference": 2}}, "4": {"attention": {**KV, "reference": 3}}},
            "layer 4 cannot take the keys and values of layer 3: that one has none of its own, it takes those of "
            "layer 2; write 2:3,4, or choose another reference",
        ),
        (
            {"3": {"attention": {**ATTENTION, "reference": 2}}, "4": {"attention": {**ATTENTION, "reference": 3}}},
            "layer 4 cannot take the attention of layer 3: that one has none of its own",
        ),
        (
            {"3": {"attention": {**KV, "reference": 2}}, "4": {"attention": {**ATTENTION, "reference": 3}}},
            "layer 4 cannot take the attention of layer 3: that one has none of its own",
        ),
        (
            {"3": {"attention": {"kind": "none"}}, "4": {"attention": {**KV, "reference": 3}}},
            "layer 4 cannot take the keys and values of layer 3: that layer has none; choose another reference",
        ),
        ({"1": {"attention": {"kind": "none"}}}, "layer 1 needs its attention, since the cache's length is read there"),
        ({"3": {"reference": False}}, "layer 3 is not a target, so it keeps its own MLP"),
        ({"3": {"attention": {"kind": "none", "rank": 4}}}, "has no weight to correct with rank 4; use bypass"),
        ({"3": {"attention": {**ATTENTION, "reference": 2, "bypass": 4}}}, "give it to a layer without attention"),
        ({"3": {"attention": {"kind": "kv"}}}, "attention of kind 'kv' needs a reference"),
        ({"3": {"attention": {"kind": "none", "reference": 2}}}, "attention of kind 'none' needs no reference"),
        (
            {"3": {"attention": {**KV, "reference": 2, "rank": 4, "form": "left"}}},
            "corrects shared weights, and q and o of a kv target are its own",
        ),
        (
            {"3": {"attention": {**ATTENTION, "reference": 2, "form": "right", "rank": "8/0/8/8"}}},
            "0 would make a zero weight; use 'lora'",
        ),
    ],
)
def test_layers_that_cannot_be_as_written_are_refused(layers: dict[str, Any], message: str) -> None:
    assert message in written_out(layers)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"2-3": {"rank": 0, "basis": {"first": 2, "ranks": [65, 0, 0, 0, 0, 0, 0]}}}, "rank 65 is above q, which is"),
        ({"2-3": {"rank": 0, "basis": {"first": 2, "ranks": [0, 0, 0, 0, 0, 0, 65]}}}, "is above down, which is 64"),
        ({"2-3": {"rank": 0, "basis": {"first": 2, "ranks": [0] * 7}}}, "a basis of rank 0 leaves nothing of a matrix"),
        ({"2-3": {"rank": 0, "basis": {"first": 2, "ranks": [-1] * 7}}}, "basis rank -1 is negative; use 0"),
        ({"2-3": {"rank": 0, "basis": {"first": 3, "ranks": [8] * 7}}}, "to lie in layer 3, which is not the first"),
        ({"2-3": {"rank": 0, "basis": {"first": 1, "ranks": [8] * 7}}}, "to lie in layer 1, which is not the first"),
        (
            {
                "2": {"rank": 0, "basis": {"first": 2, "ranks": [8] * 7}},
                "3": {"rank": 0, "basis": {"first": 2, "ranks": [4, *[8] * 6]}},
            },
            "layers 2 and 3 have bases of other ranks for q; one has one rank",
        ),
        ({"2-3": {"rank": 4, "basis": {"first": 2, "ranks": [8] * 7}}}, "shares nothing else; leave one out"),
    ],
)
def test_bases_that_cannot_be_are_refused(layers: dict[str, Any], message: str) -> None:
    assert message in written_out(layers)


@pytest.mark.parametrize(
    ("model_type", "plan", "message"),
    [
        ("gemma2", "2:3", "one sees all positions, the other the last 8; take layer 1"),
        ("gemma2", "recursive 2", "layer 4 cannot take the keys and values of layer 1: one sees the last 8, the other"),
        ("gemma3_text", "4:6", "target"),
        ("smollm3", "3:4", "their positions are encoded differently (RoPE); leave it out"),
        ("smollm3", "4:5", "their positions are encoded differently (RoPE); take layer 3"),
    ],
)
def test_keys_of_other_windows_or_positions_are_refused(model_type: str, plan: str, message: str) -> None:
    with pytest.raises(SharpError) as refused:
        shared("kv", plan, model_type)
    assert message in str(refused.value)


def test_weights_of_other_windows_are_shared() -> None:
    assert list(shared("attention", "2:3", "gemma2")[1]) == [3]


def test_attention_of_another_shape_is_refused() -> None:
    for kind in ("weights", "kv"):
        layers = decoder_layers(tiny_model())
        layers[1].self_attn.q_proj = torch.nn.Linear(64, 32, bias=False)
        layers[1].self_attn.k_proj = torch.nn.Linear(64, 16, bias=False)
        own = layers[2].self_attn
        with pytest.raises(SharpError, match=r"layer 3 cannot share layer 2: .*(heads or widths|key heads differ)"):
            share_attention(layers, {2: AttentionRecovery(kind, 1)})  # type: ignore[arg-type]
        assert layers[2].self_attn is own


def test_attention_with_norms_of_one_alone_is_refused() -> None:
    layers = decoder_layers(tiny_model())
    layers[1].self_attn.add_module("q_norm", torch.nn.RMSNorm(16))
    with pytest.raises(SharpError, match="one of the two has a q_norm and the other has none; choose another"):
        share_attention(layers, {2: AttentionRecovery("weights", 1)})


def test_an_attention_is_shared_once() -> None:
    layers = decoder_layers(tiny_model())
    share_attention(layers, {2: AttentionRecovery("weights", 1)})
    with pytest.raises(SharpError, match="layer 3 is a target already; start from the original model"):
        share_attention(layers, {2: AttentionRecovery("kv", 1)})


def test_a_basis_knows_its_ranks() -> None:
    assert Basis(1, (8, 0, 0, 0, 0, 0, 4)).rank_of == {"q": 8, "down": 4}
