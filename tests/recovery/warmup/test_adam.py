"""Adam on one target: the paper's Stage 1."""

import copy

import pytest
import torch
from tiny_models import tiny_config
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from sharp_mobile.model.share import SharedMLP, recovery_parameters
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.warmup.adam import fit_by_adam, relative_error
from sharp_mobile.recovery.warmup.regression import FitError, StoredRegression

FORMS = ("lora", "right", "left", "hadamard")
SETTINGS = WarmupSettings(adam_epochs=3, adam_lr=0.01, adam_batch=32)


def task(own: nn.Module, *, weighted: bool = True) -> StoredRegression:
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return StoredRegression(x, own(x), [slice(0, 200), slice(200, 400)], weighted)


def mlps(form: str = "lora", bias: bool = False) -> tuple[LlamaMLP, SharedMLP]:
    torch.manual_seed(0)
    config = tiny_config(hidden_size=16, intermediate_size=24, mlp_bias=bias)
    own, reference = LlamaMLP(config), LlamaMLP(config)
    for module in (own, reference):
        module.requires_grad_(False)
    return own, SharedMLP(own, reference, 0, Recovery(form, 8))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weighted", [True, False])
def test_the_error_falls(form: str, weighted: bool) -> None:
    own, mlp = mlps(form)
    regression = task(own, weighted=weighted)
    before = relative_error(mlp, regression)
    steps: list[int] = []
    fit_by_adam(mlp, regression, SETTINGS, 0, steps.append)
    assert relative_error(mlp, regression) < 0.8 * before
    assert sum(steps) == 3 * 400


def test_only_recovery_parameters_move() -> None:
    own, mlp = mlps(bias=True)
    before, reference = copy.deepcopy(mlp.state_dict()), copy.deepcopy(mlp.reference.state_dict())
    fit_by_adam(mlp, task(own), SETTINGS, 0, lambda tokens: None)
    recovered = dict(recovery_parameters(mlp))
    assert recovered.keys() | {"gate.bias", "up.bias", "down.bias"} == before.keys()
    for name, value in mlp.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in recovered), name
    assert all(torch.equal(value, reference[name]) for name, value in mlp.reference.state_dict().items())


def test_the_same_seed_gives_the_same_parameters() -> None:
    results = []
    for seed in (0, 0, 1):
        own, mlp = mlps()
        fit_by_adam(mlp, task(own), SETTINGS, seed, lambda tokens: None)
        results.append(mlp.down.B.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_one_step_is_the_papers() -> None:
    """One batch of everything, w = 1: a step along the sign of the mean squared error's gradient, lr long."""
    own, mlp = mlps()
    regression, start = task(own, weighted=False), copy.deepcopy(mlp)
    fit_by_adam(mlp, regression, WarmupSettings(adam_epochs=1, adam_lr=0.001, adam_batch=400), 0, lambda tokens: None)
    (start(regression.inputs(slice(None))) - regression.outputs(slice(None))).pow(2).mean().backward()
    step = mlp.down.B.detach() - start.down.B.detach()
    torch.testing.assert_close(step, -1e-3 * start.down.B.grad.sign(), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_a_diverging_loss_says_what_to_try(lr: float) -> None:
    own, mlp = mlps()
    with pytest.raises(FitError, match=r"diverges under Adam: .*; try a smaller warmup\.adam_lr"):
        fit_by_adam(mlp, task(own), WarmupSettings(adam_epochs=4, adam_lr=lr, adam_batch=400), 0, lambda tokens: None)
