"""The damage that the plan is chosen by is what a warm-up on original inputs then measures."""

import copy

import pytest
import torch
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.plan_search.imitation_error import TargetDamage
from sharp_mobile.recovery.warmup.fit import WarmupSettings
from sharp_mobile.recovery.warmup.run import warm_up

WINDOWS = tiny_tokens(24, batch=30)
RECOVERIES = [
    Recovery(),
    Recovery("lora", 4),
    Recovery("lora", 8),
    Recovery("lora", (4, 4, 12)),
    Recovery("left", 4),
    Recovery("lora", 4, neurons=6, bypass=4),
    Recovery("lora", 4, neurons=12),
    Recovery(neurons=6, bypass=4, reference=False),
    Recovery(bypass=8, reference=False),
]


def inputs(layer: int, **options: bool) -> tuple[torch.nn.Module, torch.Tensor]:
    """A model and what the MLP of a layer of it reads, [tokens, hidden]."""
    model, read = tiny_model(**options), []
    mlp = decoder_layers(model)[layer].mlp
    hook = mlp.register_forward_hook(lambda module, args, output: read.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        model(WINDOWS)
    hook.remove()
    return model, read[0]


@pytest.mark.parametrize("bias", [False, True])
def test_it_is_what_the_warm_up_measures(bias: bool) -> None:
    model, x = inputs(3, mlp_bias=bias)
    layers = decoder_layers(model)
    damages = TargetDamage(layers[3].mlp, x, batch=100).errors(layers[1].mlp, RECOVERIES)
    direct = damages.pop(0)
    for recovery, damage in zip(RECOVERIES[1:], damages, strict=True):
        warmed, plan, settings = copy.deepcopy(model), SharePlan.parse("2:4", 6), WarmupSettings(inputs="original")
        (fit,) = warm_up(warmed, plan, recovery, WINDOWS, settings=settings).targets
        # The ridge counts as damage, and with so few tokens it is seen.
        assert damage == pytest.approx(fit.error_after, rel=0.05), str(recovery)
        assert direct == pytest.approx(fit.error_before, rel=0.02)


def test_the_nearest_reference_damages_least() -> None:
    model, x = inputs(3)
    layers = decoder_layers(model)
    near = copy.deepcopy(layers[3].mlp)
    with torch.no_grad():
        for parameter in near.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    damage = TargetDamage(layers[3].mlp, x)
    choices = [damage.errors(mlp, [Recovery("lora", 4)])[0] for mlp in (near, layers[1].mlp, layers[2].mlp)]
    assert choices[0] < 0.5 * min(choices[1:])


def test_without_reference_it_does_not_matter_which() -> None:
    model, x = inputs(3)
    layers, recovery = decoder_layers(model), [Recovery(neurons=6, bypass=4, reference=False)]
    damage = TargetDamage(layers[3].mlp, x)
    assert damage.errors(layers[1].mlp, recovery) == damage.errors(layers[2].mlp, recovery)
