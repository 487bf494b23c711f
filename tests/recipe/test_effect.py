"""Settings that change nothing next to the others are named with the reason; those that matter are not."""

from typing import Any

import pytest

from sharp_mobile.recipe.load import load_recipe, recipe_files
from sharp_mobile.recipe.settings import Recipe

ON = {"max_steps": 10}
AUTO = "auto s=0.62"


@pytest.mark.parametrize(
    ("settings", "names", "reason"),
    [
        ({"quantize": {"rounding": "nearest", "eight_bit_budget": 0.1}}, "quantize.eight_bit_budget", "is nearest"),
        (
            {"plan": "t_next", "recovery": {"quantization_aware": True}, "quantize": {"eight_bit_budget": 0.1}},
            "quantize.eight_bit_budget",
            "recovery.quantization_aware fits to weights that are rounded to the nearest",
        ),
        ({"quantize": {"linear": 8, "eight_bit_budget": 0.1}}, "quantize.eight_bit_budget", "linear is not 4"),
        (
            {"quantize": {"linear": 8, "rounding": "gptq", "eight_bit_budget": 0.1}},
            "quantize.eight_bit_budget, quantize.rounding",
            "linear is not 4",
        ),
        ({"quantize": {"rounding": "gptq", "embedding": 8, "scales": "minmax"}}, "quantize.scales", "nearest 4-bit"),
        ({"quantize": {"linear": 8, "embedding": 8, "group_size": 64}}, "quantize.group_size", "has 4 bits"),
        ({"plan": "t_next", "warmup": {"adam_lr": 1e-2, "adam_epochs": 2}}, "warmup.adam_epochs, warmup.adam_lr", "is"),
        (
            {"plan": "t_next", "finetune": {"learning_rate": 1e-3, "length": 512}},
            "finetune.learning_rate, finetune.length",
            "fine-tuning is off; set finetune.max_steps or finetune.epochs",
        ),
        ({"plan": "t_next", "finetune": {**ON, "epochs": 2}}, "finetune.epochs", "finetune.max_steps comes first"),
        (
            {"plan": "t_next", "finetune": {**ON, "validation_windows": 2}},
            "finetune.validation_windows",
            "they are windows of finetune.validation_text",
        ),
        ({"plan": "t_next", "auto": {"reach": 3}}, "auto.reach", "plan 't_next' is not chosen"),
        ({"plan": AUTO, "recovery": {"rank": 32}}, "recovery.rank", "chooses from auto.choices"),
        ({"plan": AUTO, "recovery": {"adapters": 8}}, "recovery.adapters", "chooses what every layer has"),
        (
            {"plan": "auto tau=0.5", "auto": {"choices": [{"rank": 4}]}},
            "auto.choices",
            "every target has what recovery",
        ),
        ({"plan": "none", "recovery": {"rank": 32, "bypass": 8}}, "recovery.rank, recovery.bypass", "has no targets"),
        ({"plan": "none", "finetune": ON, "quantize": {"recovery": 4}}, "finetune.max_steps, quantize.recovery", "no"),
        ({"plan": "none", "warmup": {"windows": 8, "text": "a.txt"}}, "warmup.windows", "no layer has recovery"),
        (
            {"plan": "none", "warmup": {"text": "a.txt"}, "quantize": {"rounding": "nearest"}},
            "warmup.text",
            "no layer has recovery parameters",
        ),
        ({"plan": "direct:t_next", "recovery": {"rank": 8}}, "recovery.rank", "shares without recovery parameters"),
        ({"plan": "direct", "recovery": {"adapters": 8}}, "recovery.adapters", "shares without recovery parameters"),
        ({"plan": "t_next", "recovery": {"rank": 0}, "finetune": ON}, "finetune.max_steps", "no layer has recovery"),
        ({"plan": "2:3", "recovery": {"attention_rank": 8}}, "recovery.attention_rank", "use attention or kv or layer"),
        ({"plan": "2:3", "recovery": {"attention_form": "left"}}, "recovery.attention_form", "use attention or layer"),
        ({"share": "kv", "plan": "2:3", "recovery": {"rank": 8}}, "recovery.rank", "share 'kv' has no use for it; use"),
        (
            {"share": "kv", "plan": "2:3", "recovery": {"attention_form": "left"}},
            "recovery.attention_form",
            "attention",
        ),
        ({"share": "attention", "plan": "2:3", "recovery": {"adapters": 8}}, "recovery.adapters", "use mlp"),
        ({"share": "drop", "plan": "2:3", "recovery": {"attention_rank": 8}}, "recovery.attention_rank", "has no use"),
        (
            {"share": "drop-mlp", "plan": "2:3", "recovery": {"attention_bypass": 8}},
            "recovery.attention_bypass",
            "drop",
        ),
        ({"share": "layer", "plan": "2:3", "recovery": {"kept": 0.5}}, "recovery.kept", "use basis or prune"),
        ({"share": "prune", "plan": "2:3", "recovery": {"kept": 0.5, "neurons": 32}}, "recovery.kept", "leave one out"),
        ({"share": "prune", "plan": "2:3", "recovery": {"basis_ranks": "loss"}}, "recovery.basis_ranks", "use basis"),
        ({"share": "basis", "plan": "2:3", "quantize": {"recovery": 4}}, "quantize.recovery", "no recovery matrices"),
        ({"share": "drop", "plan": "2:3", "finetune": ON}, "finetune.max_steps", "no layer has recovery parameters"),
        (
            {"share": "attention", "plan": "none", "recovery": {"attention_rank": 8}},
            "recovery.attention_rank",
            "targets",
        ),
        (
            {"share": "layer", "plan": "direct:2:3", "recovery": {"attention_rank": 8}},
            "recovery.attention_rank",
            "leave",
        ),
        (
            {"share": "layer", "plan": AUTO, "recovery": {"attention_rank": 8}},
            "recovery.attention_rank",
            "chooses what",
        ),
        (
            {"lower": {"attention": "custom_sdpa", "max_length": 64, "prefill_chunk": 63}},
            "lower.prefill_chunk",
            "never takes more than lower.max_length - 1 = 63",
        ),
    ],
)
def test_a_setting_without_effect_is_named_with_the_reason(settings: dict[str, Any], names: str, reason: str) -> None:
    (line,) = Recipe(model="a/b", **settings).without_effect()
    assert line.startswith(f"{names}: no effect, because ")
    assert reason in line


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"quantize": {"eight_bit_budget": 0.1, "scales": "minmax", "group_size": 64}},
        {"quantize": {"rounding": "gptq", "scales": "minmax", "lm_head": 4}},
        {"quantize": {"rounding": "nearest", "linear": 8}},
        {"plan": "t_next", "warmup": {"method": "adam", "adam_lr": 1e-2}, "quantize": {"recovery": 4}},
        {"plan": "t_next", "recovery": {"rank": 32, "adapters": 8}, "finetune": {"epochs": 1, "length": 512}},
        {"plan": "t_next", "finetune": {"max_steps": 0, "learning_rate": 1e-3}},
        {"plan": AUTO, "auto": {"reach": 3, "choices": [{"rank": 4}]}, "finetune": ON},
        {"plan": "auto tau=0.5", "recovery": {"rank": 32}},
        {"plan": "none", "recovery": {"adapters": 8}, "finetune": ON, "warmup": {"windows": 8}},
        {"plan": "none", "recovery": {"rank": 32, "layers": {"3": {}}}},
        {"plan": "none", "warmup": {"text": "a.txt", "window": 64}},
        {"share": "attention", "plan": "2:3", "recovery": {"attention_rank": 8, "attention_form": "left"}},
        {"share": "layer", "plan": "2:3", "recovery": {"rank": 8, "attention_rank": 8, "bypass": 8}, "finetune": ON},
        {"share": "kv", "plan": "2:3", "recovery": {"attention_rank": 32}, "quantize": {"recovery": 4}},
        {"share": "kv", "plan": "2:3", "warmup": {"windows": 8}},
        {"share": "drop", "plan": "2:3", "recovery": {"attention_bypass": 32}, "quantize": {"recovery": 4}},
        {"share": "prune", "plan": "2:3", "recovery": {"kept": 0.5}, "warmup": {"windows": 8}},
        {"share": "prune", "plan": "direct:2:3", "recovery": {"neurons": 32}},
        {"share": "basis", "plan": "blocks 2", "recovery": {"kept": 0.5, "basis_ranks": "loss"}},
        {"share": "mlp 2:3; kv 4:5; drop-mlp 6:7", "recovery": {"rank": 8, "adapters": 4, "attention_rank": 8}},
        {"share": "drop-mlp", "plan": "2:3", "recovery": {"rank": 8, "layers": {"3": {}}}},
        {"lower": {"max_length": 64, "prefill_chunk": 63}},
        {"lower": {"attention": "custom_sdpa", "max_length": 64, "prefill_chunk": 32}},
    ],
)
def test_a_setting_that_matters_is_not_named(settings: dict[str, Any]) -> None:
    assert Recipe(model="a/b", **settings).without_effect() == []


@pytest.mark.parametrize("name", recipe_files())
def test_shipped_recipes_and_the_ways_in_which_they_are_documented_to_be_used_are_silent(name: str) -> None:
    assert load_recipe(name).without_effect() == []
    assert Recipe(**load_recipe(name).model_dump()).without_effect() == []
    if name == "smollm2-135m":
        for overrides in ({"plan": "none"}, {"rounding": "nearest"}, {"quantization_aware": "true"}, {"rank": 0}):
            assert load_recipe(name, **overrides).without_effect() == []
