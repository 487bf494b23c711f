"""The joint closed form of shared down, own neurons and bypass."""

import itertools

import pytest
import torch

from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.warmup.closed_form import Moments, Parameters, down_parameters, weight_of
from sharp_mobile.recovery.warmup.hybrid import Widths, fit_hybrid, fit_outputs, neuron_orders

TOKENS, INNER, OWN, HIDDEN = 300, 12, 5, 8
WIDTHS = Widths(INNER, OWN, HIDDEN)


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [tokens, all], outputs [tokens, hidden] and Θ [hidden, inner]; the three blocks are correlated."""
    mixed = torch.randn(INNER + OWN + HIDDEN, INNER + OWN + HIDDEN)
    features = torch.randn(TOKENS, INNER + OWN + HIDDEN) @ (torch.eye(len(mixed)) + 0.3 * mixed)
    return features.double(), torch.randn(TOKENS, HIDDEN).double(), torch.randn(HIDDEN, INNER).double()


def moments_of(features: torch.Tensor, y: torch.Tensor) -> Moments:
    return Moments(features.T @ features, features.T @ y)


def shared_down(form: str, rank: int, reference: torch.Tensor):
    def fit(moments: Moments) -> tuple[Parameters, torch.Tensor]:
        parameters = down_parameters(form, rank, reference, moments)
        return parameters, weight_of(parameters, reference)

    return fit


@pytest.mark.parametrize("form", ["lora", "right", "left", "hadamard"])
def test_every_turn_explains_more(form: str) -> None:
    features, y, reference = data()
    fit = fit_outputs(moments_of(features, y), WIDTHS, 3, shared_down(form, 2, reference))
    assert len(fit.explained) >= 4
    assert list(fit.explained) == sorted(fit.explained)
    assert fit.bypass is not None
    weight = torch.cat([weight_of(fit.shared, reference), fit.own, fit.bypass[1] @ fit.bypass[0]], dim=1)
    error = (y - features @ weight.T).pow(2).sum().item()
    # What is said to be explained is: to the ridge's share, which counts as error.
    assert error == pytest.approx(y.pow(2).sum().item() - fit.explained[-1], rel=1e-2)


def test_without_a_reference_it_is_the_optimum() -> None:
    """The bypass's best rank given free own neurons is a reduced-rank regression on what these leave (Frisch-Waugh)."""
    features, y, _ = data()
    own, x = features[:, INNER : INNER + OWN], features[:, INNER + OWN :]
    fit = fit_outputs(moments_of(features[:, INNER:], y), Widths(0, OWN, HIDDEN), 3, None)
    assert fit.shared == {}
    assert fit.bypass is not None
    error = (y - own @ fit.own.T - x @ (fit.bypass[1] @ fit.bypass[0]).T).pow(2).sum()

    def left(matrix: torch.Tensor) -> torch.Tensor:
        return matrix - own @ torch.linalg.lstsq(own, matrix).solution

    fitted = left(x) @ torch.linalg.lstsq(left(x), left(y)).solution
    best = (left(y) - fitted).pow(2).sum() + torch.linalg.svdvals(fitted)[3:].pow(2).sum()
    assert error.item() == pytest.approx(best.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("widths", "rank"),
    [(Widths(INNER, 0, 0), 0), (Widths(INNER, OWN, 0), 0), (Widths(INNER, 0, HIDDEN), 3), (WIDTHS, 3)],
)
def test_each_part_adds(widths: Widths, rank: int) -> None:
    features, y, reference = data()
    columns = torch.cat(
        [
            torch.arange(widths.shared),
            INNER + torch.arange(widths.own),
            INNER + OWN + torch.arange(widths.bypass),
        ]
    )
    fit = fit_outputs(moments_of(features[:, columns], y), widths, rank, shared_down("lora", 2, reference))
    alone = fit_outputs(
        moments_of(features[:, :INNER], y), Widths(INNER, 0, 0), 0, shared_down("lora", 2, reference)
    ).explained[-1]
    assert fit.own.shape == (HIDDEN, widths.own)
    assert (fit.bypass is None) == (rank == 0)
    if widths != Widths(INNER, 0, 0):
        assert fit.explained[-1] > alone
    else:
        assert fit.explained[-1] == alone


def test_a_fixed_shared_down_leaves_the_rest_to_fit() -> None:
    """Rank 0: the shared MLP is the reference's as it is."""
    features, y, reference = data()
    fit = fit_outputs(moments_of(features, y), WIDTHS, HIDDEN, lambda moments: ({}, reference))
    rest, left = features[:, INNER:], y - features[:, :INNER] @ reference.T
    expected = torch.linalg.lstsq(rest, left).solution.T
    assert fit.bypass is not None
    torch.testing.assert_close(
        torch.cat([fit.own, fit.bypass[1] @ fit.bypass[0]], dim=1), expected, rtol=2e-2, atol=2e-2
    )


@pytest.mark.parametrize(("rank", "best"), [(0, 0), (HIDDEN, 1)])
def test_the_better_choice_of_neurons_is_taken(rank: int, best: int) -> None:
    """Without a bypass the first order alone counts; beside one of full rank, the second is made for it."""
    features, y, _ = data()
    columns = features[:, INNER:] if rank else features[:, INNER : INNER + OWN]
    moments, widths = moments_of(columns, y), Widths(0, OWN, HIDDEN if rank else 0)
    orders = neuron_orders(moments, widths)
    assert len(orders) == best + 1
    recovery = Recovery(neurons=2, bypass=rank, reference=False)
    kept, fit = fit_hybrid(recovery, moments, widths, orders, None)
    every = {
        pair: fit_hybrid(recovery, moments, widths, [torch.tensor(pair)], None)[1].explained[-1]
        for pair in itertools.combinations(range(OWN), 2)
    }
    assert fit.explained[-1] == pytest.approx(every[tuple(kept.tolist())])
    assert fit.explained[-1] >= sorted(every.values())[-3]  # dropping one after the other is greedy, and near the best


def test_no_own_neurons_and_nothing_but_own_neurons() -> None:
    features, y, _ = data()
    own, x = features[:, INNER : INNER + OWN], features[:, INNER + OWN :]
    alone, widths = moments_of(own, y), Widths(0, OWN, 0)
    kept, fit = fit_hybrid(Recovery(neurons=OWN, reference=False), alone, widths, neuron_orders(alone, widths), None)
    assert kept.tolist() == list(range(OWN))
    torch.testing.assert_close(fit.own, torch.linalg.lstsq(own, y).solution.T, rtol=2e-2, atol=2e-2)
    bypass, widths = moments_of(x, y), Widths(0, 0, HIDDEN)
    kept, fit = fit_hybrid(Recovery(bypass=3, reference=False), bypass, widths, neuron_orders(bypass, widths), None)
    assert len(kept) == 0
    assert fit.explained[-1] > 0
