"""What recipes share of a tiny model of six layers, one recipe a kind; `share_kinds` has what no `share` alone says."""

from typing import Any

from transformers import PreTrainedModel

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.model.sharing import share_plan
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.settings import Recipe

# kind -> share, plan and recovery of a model of six layers
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "attention": ("attention", "2:3, 4:5", {"attention_rank": 8}),
    "attention right": ("attention", "2:3, 4:5", {"attention_form": "right", "attention_rank": 4}),
    "attention left": ("attention", "2:3, 4:5", {"attention_form": "left", "attention_rank": 4}),
    "layer": ("layer", "2:3, 4:5", {"rank": 8, "attention_rank": 8}),
    "recursive": ("layer", "recursive 2", {"rank": 8, "attention_rank": 8}),
    "kv": ("kv", "1:3,5", {}),
    "kv lora": ("kv", "1:3,5", {"attention_rank": 4}),
    "bypass": ("drop-attention", "2:3, 4:5", {"attention_bypass": 16}),
    "drop": ("drop", "2:3, 4:5", {}),
    "drop mlp": ("drop-mlp", "2:3, 4:5", {}),
    "prune": ("prune", "2:3, 4:5", {"kept": 0.7}),
    "basis": ("basis", "blocks 2", {"kept": 0.7}),
    "mixture": ("attention 2:3; mlp 2:3; kv 1:5; drop-mlp 4:5", "none", {"rank": 8, "attention_rank": 8}),
}


def planned(kind: str, model: PreTrainedModel) -> tuple[SharePlan, dict[int, Recovery]]:
    """The plan and what each layer has, of one of `KINDS`."""
    share, plan, recovery = KINDS[kind]
    quantize: dict[str, object] = {"linear": 8} if share == "basis" else {}
    recipe = Recipe(model="m", share=share, plan=plan, recovery=recovery, quantize=quantize)
    return share_plan(recipe, architecture_of(model.config.to_dict()))
