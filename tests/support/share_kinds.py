"""Every kind of sharing on a tiny model of six layers, of which layers 3 and 5 have a sliding window like layer 2's."""

from typing import Any, NamedTuple

import torch
from tiny_models import tiny_model

from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import AttentionRecovery, Basis, Recovery


class Kind(NamedTuple):
    """What layers share: the plan of the MLPs as text, and what each layer has."""

    plan: str
    recovery: dict[int, Recovery]

    def parsed(self) -> SharePlan:
        """The plan for six layers."""
        return SharePlan.parse(self.plan, 6)


def _weights(reference: int, rank: Any = 32, form: Any = "lora") -> AttentionRecovery:
    return AttentionRecovery("weights", reference, form, rank)


_NO_ATTENTION = AttentionRecovery("none")
KINDS = {
    "attention": Kind(
        "none",
        {
            2: Recovery(attention=_weights(1)),
            3: Recovery(attention=_weights(1, 0)),
            4: Recovery(attention=_weights(1, 32, "right")),
        },
    ),
    "attention left": Kind("none", {2: Recovery(attention=_weights(1, 32, "left"))}),
    "attention ranks": Kind("none", {2: Recovery("lora", 32, attention=_weights(1, (0, 32, 64, 32)))}),
    "layer": Kind("2:3", {2: Recovery("lora", 32, attention=_weights(1))}),
    "recursive": Kind("recursive 2", {i + 3: Recovery("lora", 32, attention=_weights(i)) for i in range(3)}),
    "kv": Kind(
        "none",
        {
            2: Recovery(attention=AttentionRecovery("kv", 0)),
            4: Recovery(attention=AttentionRecovery("kv", 0, rank=(32, 0, 0, 64))),
        },
    ),
    "kv of a target": Kind(
        "none", {2: Recovery(attention=_weights(0)), 4: Recovery(attention=AttentionRecovery("kv", 2, rank=32))}
    ),
    "drop": Kind("2:3, 4:5", {2: Recovery(reference=False, attention=_NO_ATTENTION), 4: Recovery("lora", 32)}),
    "drop attention": Kind(
        "2:3",
        {
            2: Recovery("lora", 32, attention=_NO_ATTENTION),
            4: Recovery(attention=AttentionRecovery("none", bypass=32)),
            5: Recovery(attention=_NO_ATTENTION),
        },
    ),
    "drop MLP": Kind("2:3, 4:5", {2: Recovery(reference=False), 4: Recovery(reference=False)}),
    "prune": Kind("2:3", {2: Recovery(neurons=64, reference=False)}),
    "basis": Kind("none", dict.fromkeys((1, 2, 3), Recovery(basis=Basis(1, (32, 32, 32, 32, 32, 32, 32))))),
    "basis in part": Kind("none", dict.fromkeys((1, 2), Recovery(basis=Basis(1, (64, 0, 32, 32, 32, 0, 0))))),
}


def shared_model(kind: Kind, model_type: str = "llama", **overrides: Any) -> Any:
    """A tiny model that shares in this way, with random recovery parameters."""
    model = tiny_model(model_type, **overrides)
    share_layers(model, kind.parsed(), kind.recovery)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in recovery_parameters(model):
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)
