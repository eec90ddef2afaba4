"""Nodes and weights against integrals known by hand, and the error each rule is known to make."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from torchwhy.core.errors import TorchwhyError
from torchwhy.engines.quadrature import QUADRATURES, clenshaw_curtis, halved, rule


def exactly(found: Tensor, known: float | Tensor) -> None:
    assert_close(found, torch.as_tensor(known, dtype=torch.float64), rtol=0, atol=1e-13)


def integral(name: str, n: int, power: int) -> Tensor:
    nodes, weights = rule(name, n)
    return (weights * nodes**power).sum()


@pytest.mark.parametrize("n", [2, 3, 8, 51])
@pytest.mark.parametrize("name", QUADRATURES)
def test_nodes_ascend_within_the_interval_and_weights_sum_to_one(name: str, n: int) -> None:
    nodes, weights = rule(name, n)
    assert nodes.shape == weights.shape == (n,)
    assert nodes.dtype == weights.dtype == torch.float64
    assert nodes.min() >= 0
    assert nodes.max() <= 1
    assert (nodes.diff() > 0).all()
    assert (weights > 0).all()
    exactly(weights.sum(), 1)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_gauss_legendre_is_exact_to_degree_2n_minus_1_and_no_further(n: int) -> None:
    for power in range(2 * n):
        exactly(integral("gausslegendre", n, power), 1 / (power + 1))
    if n <= 5:  # later the error is below rounding
        assert (integral("gausslegendre", n, 2 * n) - 1 / (2 * n + 1)).abs() > 1e-8


@pytest.mark.parametrize("n", [3, 4, 9, 17])
def test_clenshaw_curtis_is_exact_to_degree_n_minus_1_and_not_much_further(n: int) -> None:
    for power in range(n):
        exactly(integral("clenshawcurtis", n, power), 1 / (power + 1))
    if n <= 9:
        assert (integral("clenshawcurtis", n, n + 1) - 1 / (n + 2)).abs() > 1e-8


def test_clenshaw_curtis_with_three_nodes_is_simpsons_rule() -> None:
    nodes, weights = clenshaw_curtis(2)
    exactly(nodes, torch.tensor([0, 0.5, 1]))
    exactly(weights, torch.tensor([1, 4, 1]).double() / 6)


def test_half_the_clenshaw_curtis_nodes_are_the_coarser_rules() -> None:
    for n in (8, 16, 512):
        exactly(clenshaw_curtis(n)[0][::2], clenshaw_curtis(n // 2)[0])


@pytest.mark.parametrize(
    ("name", "error_of_x", "error_of_x_squared"),
    [
        ("riemann_left", -1 / 20, -1 / 20 + 1 / 600),  # -1/(2n), and +1/(6n^2)
        ("riemann_right", 1 / 20, 1 / 20 + 1 / 600),
        ("riemann_middle", 0, -1 / 1200),  # -1/(12 n^2)
        ("riemann_trapezoid", 0, 1 / (6 * 81)),  # n - 1 intervals
    ],
)
def test_riemann_sums_make_the_error_they_are_known_for(
    name: str, error_of_x: float, error_of_x_squared: float
) -> None:
    exactly(integral(name, 10, 1) - 1 / 2, error_of_x)
    exactly(integral(name, 10, 2) - 1 / 3, error_of_x_squared)


@pytest.mark.parametrize(("name", "least"), [("gausslegendre", 1), ("riemann_middle", 1), ("riemann_trapezoid", 2)])
def test_too_few_steps_are_refused(name: str, least: int) -> None:
    assert len(rule(name, least)[0]) == least
    with pytest.raises(TorchwhyError, match=rf"{name} needs n_steps of at least {least}, not {least - 1}"):
        rule(name, least - 1)


def test_an_unknown_rule_is_refused_with_the_closest_name() -> None:
    with pytest.raises(TorchwhyError, match="no quadrature 'gauslegendre'; did you mean 'gausslegendre'"):
        rule("gauslegendre", 5)


def test_halved_gives_every_other_node_the_share_nearest_to_it() -> None:
    exactly(halved(torch.tensor([0.125, 0.375, 0.625, 0.875]).double()), torch.tensor([0.375, 0, 0.625, 0]))


@pytest.mark.parametrize("name", QUADRATURES)
def test_halved_approaches_the_integral_with_more_nodes(name: str) -> None:
    errors = []
    for n in (20, 200):
        nodes, _ = rule(name, n)
        weights = halved(nodes)
        exactly(weights.sum(), 1)
        assert (weights[1::2] == 0).all()
        errors.append((weights * nodes.exp()).sum() - (torch.e - 1))
    assert abs(errors[1]) < abs(errors[0]) / 5
    assert abs(errors[1]) < 0.02
