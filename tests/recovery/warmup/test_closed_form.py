"""Each form's closed form is the optimum of its error, in the data's metric."""

import pytest
import torch
from tiny_models import tiny_config
from transformers.models.llama.modeling_llama import LlamaMLP

from sharp_mobile.errors import SharpError
from sharp_mobile.model.recovered import RecoveredProjection
from sharp_mobile.model.share import SharedMLP
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.warmup.closed_form import (
    INPUT_RIDGE,
    InputStatistics,
    Moments,
    cholesky,
    fit_down,
    fit_gate_up,
    fit_input,
    input_statistics,
)
from sharp_mobile.recovery.warmup.hybrid import feature_moments, set_outputs

FORMS = ("lora", "right", "left", "hadamard")


def statistics_of(x: torch.Tensor) -> InputStatistics:
    covariance, unused = x.T @ x, torch.empty(0)
    return InputStatistics(covariance, cholesky(covariance, INPUT_RIDGE), unused, unused)


def weight_of(projection: RecoveredProjection, reference: torch.Tensor) -> torch.Tensor:
    """The target's weight [out, in]: the projection of the unit vectors."""
    return projection(torch.eye(reference.shape[1]), reference).T


def test_gate_and_up_are_the_best_of_their_rank() -> None:
    torch.manual_seed(0)
    own, reference, x = torch.randn(12, 8), torch.randn(12, 8), torch.randn(50, 8).double()
    importance = torch.rand(12).double() + 0.5
    projection = RecoveredProjection("lora", 3, own, None)
    with torch.no_grad():
        fit_input(projection, own, reference, statistics_of(x), importance)
        left = own - projection.alpha * reference
        error = (importance[:, None] * ((left - projection.B @ projection.A).double() @ x.T)).norm()
        tail = torch.linalg.svdvals(importance[:, None] * (left.double() @ x.T))[3:]  # Eckart and Young
    assert error.item() == pytest.approx(tail.norm().item(), rel=1e-3)
    torch.testing.assert_close(projection.A.norm(dim=1), projection.B.norm(dim=0))


def test_down_is_the_best_of_its_rank() -> None:
    torch.manual_seed(0)
    h, y, reference = torch.randn(80, 12).double(), torch.randn(80, 8).double(), torch.randn(8, 12)
    projection = RecoveredProjection("lora", 3, reference, None)
    with torch.no_grad():
        fit_down(projection, reference, Moments(h.T @ h, h.T @ y))
        left = y - projection.alpha * (h @ reference.double().T)
        error = (left - h @ (projection.B @ projection.A).double().T).norm()
        fitted = h @ torch.linalg.lstsq(h, left).solution
        tail = torch.linalg.svdvals(fitted)[3:]  # reduced-rank regression: what cannot be fitted, and the tail
    assert error.item() == pytest.approx(((left - fitted).norm() ** 2 + tail.norm() ** 2).sqrt().item(), rel=1e-3)


def gate_error(projection: RecoveredProjection, data: dict[str, torch.Tensor]) -> torch.Tensor:
    left = (data["own"] - weight_of(projection, data["reference"])).double()
    return (data["importance"][:, None] * (left @ data["x"].T)).norm()


def gate_data() -> dict[str, torch.Tensor]:
    own, reference, x = torch.randn(12, 8), torch.randn(12, 8), torch.randn(50, 8).double()
    return {"own": own, "reference": reference, "x": x, "importance": torch.rand(12).double() + 0.5}


@pytest.mark.parametrize("form", ["right", "left", "hadamard"])
def test_no_small_step_betters_gate_and_up(form: str) -> None:
    data = gate_data()
    projection = RecoveredProjection(form, 2, data["own"], None)
    start = gate_error(projection, data).item()
    with torch.no_grad():
        fit_input(projection, data["own"], data["reference"], statistics_of(data["x"]), data["importance"])
    error = gate_error(projection, data)
    assert error < 0.9 * start
    error.backward()
    if form == "hadamard":
        projection.U.grad[:, 1:] = 0  # only a factor a row is fitted, the rest is left to training
    trained = [p for name, p in projection.named_parameters() if name not in ("alpha", "V")]
    # The slope of the error along a step as long as the parameter itself, against the error.
    slopes = [(p.grad.norm() * p.norm() / error).item() for p in trained]
    assert max(slopes) < 0.1


@pytest.mark.parametrize("form", ["right", "left"])
def test_a_square_side_gives_twice_the_rank(form: str) -> None:
    """g2 on gate and up, g1 on down: the reference's rows (columns) span all, so both parts are free."""
    out, inside = (12, 8) if form == "left" else (8, 12)
    own, reference, x = torch.randn(out, inside), torch.randn(out, inside), torch.randn(80, inside).double()
    projection = RecoveredProjection(form, 2, own, None)
    y = x @ own.double().T
    with torch.no_grad():
        if form == "left":
            fit_input(projection, own, reference, statistics_of(x), torch.ones(out).double())
        else:
            fit_down(projection, reference, Moments(x.T @ x, x.T @ y))
        error = (y - x @ weight_of(projection, reference).double().T).norm()
    assert error.item() == pytest.approx(torch.linalg.svdvals(y)[4:].norm().item(), rel=1e-3)


def test_hadamard_scales_the_rows_of_the_reference() -> None:
    reference, x = torch.randn(12, 8), torch.randn(50, 8).double()
    own = torch.linspace(-2, 2, 12)[:, None] * reference
    projection = RecoveredProjection("hadamard", 1, own, None)
    with torch.no_grad():
        fit_input(projection, own, reference, statistics_of(x), torch.ones(12).double())
        torch.testing.assert_close(weight_of(projection, reference), own, atol=1e-2, rtol=1e-2)


def mlps(form: str, rank: int) -> tuple[LlamaMLP, SharedMLP]:
    torch.manual_seed(0)
    config = tiny_config(hidden_size=16, intermediate_size=24)
    own, reference = LlamaMLP(config).requires_grad_(False), LlamaMLP(config).requires_grad_(False)
    return own, SharedMLP(own, reference, 0, Recovery(form, rank))


@torch.no_grad()
def relative_error(own: LlamaMLP, mlp: SharedMLP, x: torch.Tensor) -> float:
    batch = [(x, own(x), torch.ones(len(x), 1))]
    fit_gate_up(mlp, own, input_statistics(own, batch))
    set_outputs(mlp, own, *feature_moments(mlp, own, batch))
    return ((mlp(x) - own(x)).norm() / own(x).norm()).item()


@pytest.mark.parametrize("form", FORMS)
def test_more_rank_errs_less(form: str) -> None:
    x = torch.randn(400, 16)
    errors = [relative_error(*mlps(form, rank), x) for rank in (1, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", ["equal", "few"])
def test_a_singular_covariance_is_fitted(form: str, tokens: str) -> None:
    """Tokens that are all equal, or fewer than the width, leave most directions without data."""
    x = torch.randn(1, 16).expand(50, 16) if tokens == "equal" else torch.randn(5, 16)
    own, mlp = mlps(form, 8)
    assert relative_error(own, mlp, x) < 0.1
    assert all(parameter.isfinite().all() for parameter in mlp.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_inputs_without_a_fit_are_refused(value: float) -> None:
    own, mlp = mlps("lora", 4)
    x = torch.zeros(20, 16) if value == 0 else torch.randn(20, 16).index_fill(0, torch.tensor([3]), value)
    with pytest.raises(SharpError, match="not finite or all alike"):
        relative_error(own, mlp, x)
