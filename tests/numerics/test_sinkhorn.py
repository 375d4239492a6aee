"""The divergence between features of two domains: closed forms, an independent solver, its gradient."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from models.disk_adaptation import Domains, dynamic_blur, sinkhorn_divergence


def points(num: int, seed: int, dims: int = 3) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(num, dims)))


def test_two_points_are_half_their_squared_distance_apart() -> None:
    a, b = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    for blur in (0.1, 1.0, 100.0):
        assert float(sinkhorn_divergence(a, b, blur)) == pytest.approx(12.5, rel=1e-4)


def test_a_set_is_nothing_from_itself_in_any_order() -> None:
    a = points(20, 0)
    assert float(sinkhorn_divergence(a, a.flip(0), 0.2)) == pytest.approx(0, abs=1e-6)
    assert float(sinkhorn_divergence(a, points(20, 1), 0.2)) > 0.01


@pytest.mark.parametrize("blur", [0.05, 0.5, 50.0])
def test_a_shift_costs_half_its_square_whatever_the_blur(blur: float) -> None:
    shift = torch.tensor([0.6, -0.2, 0.3], dtype=torch.float64)
    a = points(24, 2)
    assert float(sinkhorn_divergence(a, a + shift, blur)) == pytest.approx(float(shift @ shift) / 2, rel=2e-2)


def test_without_blur_it_is_the_cheapest_assignment() -> None:
    a, b = points(16, 3), points(16, 4) + 1
    cost = 0.5 * cdist(a, b, "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    assert float(sinkhorn_divergence(a, b, 0.03)) == pytest.approx(cost[rows, columns].mean(), rel=1e-2)


def test_with_much_blur_it_compares_means() -> None:
    a, b = points(16, 3), points(9, 4) + 1
    wanted = 0.5 * float((a.mean(0) - b.mean(0)).square().sum())
    assert float(sinkhorn_divergence(a, b, 200.0)) == pytest.approx(wanted, rel=1e-3)


def test_its_gradient_is_that_of_finite_differences() -> None:
    a, b = points(7, 5).requires_grad_(), points(9, 6) + 0.5
    sinkhorn_divergence(a, b, 0.5).backward()
    assert a.grad is not None
    for row, column in ((0, 0), (3, 2), (6, 1)):
        step = torch.zeros_like(a)
        step[row, column] = 1e-4
        with torch.no_grad():
            change = sinkhorn_divergence(a + step, b, 0.5) - sinkhorn_divergence(a - step, b, 0.5)
        assert float(a.grad[row, column]) == pytest.approx(float(change) / 2e-4, rel=3e-2)


def test_following_it_brings_two_sets_together() -> None:
    a, b = points(8, 7).requires_grad_(), points(8, 8) + 2
    before = float(sinkhorn_divergence(a, b, 0.3).detach())
    optimizer = torch.optim.SGD([a], lr=4.0)
    for _ in range(12):
        optimizer.zero_grad()
        sinkhorn_divergence(a, b, dynamic_blur(a, b)).backward()
        optimizer.step()
    assert float(sinkhorn_divergence(a, b, 0.3).detach()) < 0.05 * before


def test_blur_is_a_twentieth_of_the_largest_distance_and_never_nothing() -> None:
    a, b = torch.zeros(3, 2), torch.tensor([[0.0, 10.0], [1.0, 0.0]])
    assert dynamic_blur(a, b) == pytest.approx(0.5)
    assert dynamic_blur(a, a) == 0.01


def test_batches_of_one_domain_are_compared_with_the_last_of_the_other() -> None:
    domains, source, target = Domains(), points(5, 0), points(6, 1)
    yes, no = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    assert float(domains.divergence(source, yes[:5], yes[:5])) == 0
    both = sinkhorn_divergence(source, target, dynamic_blur(source, target))
    assert float(domains.divergence(target, no, yes)) == pytest.approx(float(both))
    again = Domains()
    again.load_state_dict(domains.state_dict())
    assert float(again.divergence(source, yes[:5], yes[:5])) == pytest.approx(float(both))
    # Objects that were not observed belong to neither.
    assert float(domains.divergence(points(6, 9), no, no)) == pytest.approx(float(both))
    together = torch.cat([source, target])
    known = torch.cat([yes[:5], no])
    found = Domains().divergence(together, known, torch.ones_like(known))
    assert float(found) == pytest.approx(float(both))
