"""LIME: the weights of a linear model are found, and how well it fits is told."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import ARDRegression, BayesianRidge, LinearRegression, Ridge
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor
from torch.testing import assert_close

from torchwhy import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import Noise
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.noise import draws
from torchwhy.methods.lime import Lime

WEIGHTS = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
X = torch.tensor([[1.0, 2, 3, 4, 5], [-1, 0.5, 2, 1, 1]], dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    return x @ WEIGHTS + 7


def curved(x: Tensor) -> Tensor:
    return (x @ WEIGHTS / 4).tanh() + x[:, 0] * x[:, 1]


def test_a_linear_model_is_found() -> None:
    found = Lime(linear, surrogate="linear", n_samples=100).explain(X, 0.5)
    assert_close(found.values, WEIGHTS * (X - 0.5), rtol=1e-9, atol=1e-9)
    assert_close(torch.tensor(found.provenance["r2"]), torch.ones(2))


def test_how_well_it_fits_is_told() -> None:
    x = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 0]])
    found = Lime(lambda x: x.prod(1), surrogate="linear").explain(x)
    product, flat = found.provenance["r2"]
    assert 0.5 < product < 0.95
    assert flat == 1  # a score that never moves is fitted
    assert found.values[1].abs().max() < 1e-6


def test_the_weighted_regression_is_the_formula() -> None:
    """Against normal equations written out, with either distance."""
    rows = torch.rand(200, 5, generator=draws(4, 33)) < 0.5
    rows[0] = True
    p = Problem(curved, Tensors([X]))
    y = Game(p, Groups(p.point)).evaluate(rows).double()
    share = rows.double().mean(1)
    for distance, away in (("cosine", 1 - share.sqrt()), ("hamming", 1 - share)):
        w = torch.exp(-((away / 0.3) ** 2))[:, None]
        z = torch.cat([rows.double(), torch.ones(200, 1, dtype=torch.float64)], 1)
        penalty = torch.diag(torch.tensor([0.7] * 5 + [0], dtype=torch.float64))
        known = torch.linalg.solve(z.T @ (w * z) + penalty, z.T @ (w * y))[:5].T
        found = Lime(curved, n_samples=200, distance=distance, kernel_width=0.3, alpha=0.7, seed=4).attribute(X)
        assert_close(found, known, rtol=1e-8, atol=1e-8)


def test_surrogates_differ() -> None:
    found = {
        name: Lime(curved, surrogate=s, alpha=0.1, n_samples=200).attribute(X)
        for name, s in {
            "ridge": "ridge",
            "lasso": "lasso",
            "linear": "linear",
            "given": BayesianRidge(),
        }.items()
    }
    assert found["lasso"][0, 4] == 0  # a penalty that leaves out
    kinds = list(found.values())
    assert all(not torch.allclose(a, b, rtol=1e-6) for i, a in enumerate(kinds) for b in kinds[:i])


def test_a_given_estimator_is_not_changed() -> None:
    given = Ridge(alpha=1.0)
    values = Lime(curved, surrogate=given).attribute(X)
    assert not hasattr(given, "coef_")
    assert_close(values, Lime(curved).attribute(X))
    assert Lime(curved, surrogate=LinearRegression()).options()["surrogate"] == "LinearRegression()"


def test_groups_get_one_weight() -> None:
    mask = torch.tensor([0, 0, 1, 1, 1])
    found = Lime(linear, surrogate="linear", feature_mask=mask).attribute(X)
    known = torch.stack([(WEIGHTS * X)[:, :2].sum(1), (WEIGHTS * X)[:, 2:].sum(1)], 1)[:, mask]
    assert_close(found, known, rtol=1e-9, atol=1e-9)


def test_a_budget_counts_the_draws() -> None:
    def evaluations(**options: object) -> int:
        x = torch.ones(1, 20, dtype=torch.float64)
        return Lime(lambda z: z.sum(1), **options).explain(x).provenance["evaluations"]

    assert evaluations() == 1000
    assert (
        evaluations(budget=80) == evaluations(budget=80, n_samples=300) == evaluations(budget=300, n_samples=80) == 80
    )
    assert evaluations(budget=80, fill=Noise(n_draws=3)) == 78
    with pytest.raises(TorchwhyError, match=r"budget=5 is too small: the least that works is 6"):
        evaluations(budget=5, fill=Noise(n_draws=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 1}, "n_samples is a whole number of at least 2"),
        ({"distance": "euclid"}, "distance is 'cosine' or 'hamming', not 'euclid'"),
        ({"kernel_width": 0}, "kernel_width is a number above 0, not 0"),
        ({"alpha": -1.0}, "alpha is a number of at least 0, not -1.0"),
        ({"surrogate": "svm"}, "surrogate is 'ridge', 'lasso' or 'linear', not 'svm'"),
        ({"surrogate": 3}, "a name or a scikit-learn estimator, not 3"),
        ({"surrogate": DecisionTreeRegressor()}, "has no coef_"),
        ({"surrogate": ARDRegression()}, r"ARDRegression\(\) takes no sample_weight"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        Lime(linear, **options).attribute(X)
