"""Which neurons a target keeps."""

import torch

from sharp_mobile.recovery.warmup.neurons import keeping_order

TOKENS, NEURONS, BESIDE, HIDDEN = 400, 40, 6, 5


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    mixed = torch.eye(NEURONS + BESIDE) + 0.2 * torch.randn(NEURONS + BESIDE, NEURONS + BESIDE)
    return (torch.randn(TOKENS, NEURONS + BESIDE) @ mixed).double(), torch.randn(TOKENS, HIDDEN).double()


def error(features: torch.Tensor, y: torch.Tensor) -> float:
    return (y - features @ torch.linalg.lstsq(features, y).solution).pow(2).sum().item()


def test_each_neuron_is_in_the_order_once() -> None:
    features, y = problem()
    order = keeping_order(features.T @ features, features.T @ y, NEURONS)
    assert sorted(order.tolist()) == list(range(NEURONS))


def test_the_first_one_dropped_costs_least() -> None:
    features, y = problem()
    order = keeping_order(features.T @ features, features.T @ y, NEURONS)
    costs = [error(features[:, torch.arange(NEURONS + BESIDE) != neuron], y) for neuron in range(NEURONS)]
    # A few are dropped at once, all of them among the cheapest.
    assert costs[order[-1]] <= sorted(costs)[NEURONS // 16]


def test_of_two_neurons_that_say_the_same_one_stays() -> None:
    """A pair of copies writes more than any other neuron, but one copy is enough."""
    features, y = problem()
    features[:, 1] = features[:, 0]
    y += 3 * features[:, :2] @ torch.randn(2, HIDDEN).double()
    gram = features.T @ features
    gram.diagonal().add_(1e-6 * gram.diagonal().mean())
    first = keeping_order(gram, features.T @ y, NEURONS)[: NEURONS // 2].tolist()
    assert len({0, 1} & set(first)) == 1


def test_it_keeps_better_neurons_than_those_that_write_most() -> None:
    features, y = problem()
    kept = keeping_order(features.T @ features, features.T @ y, NEURONS)[:10]
    weight = torch.linalg.lstsq(features, y).solution
    writing = (features.norm(dim=0) * weight.norm(dim=1))[:NEURONS].topk(10).indices
    beside = torch.arange(NEURONS, NEURONS + BESIDE)
    assert error(features[:, torch.cat([kept, beside])], y) < error(features[:, torch.cat([writing, beside])], y)
