"""What a target learns, and how its tokens weigh."""

import pytest
import torch

from sharp_mobile.errors import SharpError
from sharp_mobile.recovery.warmup.regression import StoredRegression, before_norm

PARTS = [slice(0, 6), slice(6, 10)]


def outputs() -> torch.Tensor:
    y = torch.randn(10, 4)
    y[0] *= 1e5  # an outlier, as an attention sink makes
    return y


def test_an_outlier_weighs_as_the_others() -> None:
    y = outputs()
    task = StoredRegression(torch.randn(10, 4), y, PARTS, weighted=True)
    shares = (task.weights[:, None] * y).pow(2).sum(1)
    assert shares.max() <= 1
    assert shares[0] < 3 * shares[1:].mean()
    assert task.energy == pytest.approx(shares.sum().item(), rel=1e-5)


def test_the_papers_loss_weighs_all_tokens_alike() -> None:
    y = outputs()
    task = StoredRegression(torch.randn(10, 4), y, PARTS, weighted=False)
    assert torch.equal(task.weights, torch.ones(10))
    assert task.energy == pytest.approx(y.pow(2).sum().item(), rel=1e-5)


def test_a_batch_is_of_slices_or_indices() -> None:
    x, y = torch.randn(10, 4), outputs()
    task = StoredRegression(x, y, PARTS, weighted=True)
    rows = torch.tensor([7, 2])
    for chosen in (rows, slice(2, 5)):
        found = task.batch(chosen)
        for tensor, expected in zip(found, (x[chosen], y[chosen], task.weights[chosen][:, None]), strict=True):
            assert torch.equal(tensor, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_outputs_without_information_are_refused(value: float) -> None:
    y = torch.zeros(10, 4) if value == 0 else outputs()
    y[3] = value
    with pytest.raises(SharpError, match="not finite or all alike"):
        StoredRegression(torch.randn(10, 4), y, PARTS, weighted=True)


def test_before_norm_is_what_the_norm_turns_into_the_needed() -> None:
    gain, wanted = torch.tensor([0.5, -2.0, 1.0, 1.5]), torch.randn(6, 4)
    direction = wanted / gain
    needed = gain * torch.nn.functional.rms_norm(direction, (4,))
    scale = torch.rand(6, 1) + 0.5
    found = before_norm(needed, gain, scale)
    torch.testing.assert_close(found.pow(2).mean(-1, keepdim=True).sqrt(), scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gain * torch.nn.functional.rms_norm(found, (4,)), needed, rtol=1e-4, atol=1e-4)
