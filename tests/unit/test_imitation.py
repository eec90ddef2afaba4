"""Linear models in spaces of the user's own, where the answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor

from torchwhy import FeaturePermutation, TorchwhyError
from torchwhy.core.tensors import Tensors
from torchwhy.methods.imitation import Imitation

X = torch.tensor([[2.0, -1.0, 3.0]])
SLOPE = torch.tensor([1.0, 4.0, -2.0])
ROWS = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]]).float()


def rows(x: Tensor) -> Iterator[Tensor]:
    yield from ROWS[:, None]


def curved(changed: Tensors) -> Tensor:
    return changed.parts[0] @ SLOPE + changed.parts[0][:, 0] * changed.parts[0][:, 1]


def weigh(x: Tensor, near: Tensor, row: Tensor) -> float:
    return float(row.sum()) + 0.5


def test_weighted_least_squares() -> None:
    found = Imitation(Ridge(alpha=0.3), weigh, rows, lambda row, x: row * x).coefficients(curved, X, 6)
    z = np.hstack([ROWS.numpy(), np.ones((6, 1))]).astype(float)
    w, y = np.diag(ROWS.sum(1).numpy() + 0.5), curved(Tensors([ROWS * X])).numpy()
    expected = np.linalg.solve(z.T @ w @ z + np.diag([0.3, 0.3, 0.3, 0.0]), z.T @ w @ y)
    np.testing.assert_allclose(found[0].numpy(), expected[:3], rtol=1e-4)
    alike = Imitation(Ridge(alpha=0.3), lambda x, near, row: 1.0, rows, lambda row, x: row * x)
    assert not torch.allclose(alike.coefficients(curved, X, 6), found, rtol=1e-2)


def test_changed_inputs_are_read_as_rows() -> None:
    """The slope, in units of the change."""

    def steps(x: Tensor, size: float) -> Tensor:
        return x + size * torch.randn(x.shape, generator=generator)

    generator = torch.Generator().manual_seed(0)
    near = Imitation(
        LinearRegression(),
        lambda x, moved, row, size: torch.tensor([1.0]),
        steps,
        to_row=lambda moved, x, size: (moved - x) / size,
        known={"size": 0.5},
    )
    found = near.coefficients(lambda changed: changed.parts[0] @ SLOPE, X, 12)
    torch.testing.assert_close(found, 0.5 * SLOPE[None], rtol=1e-4, atol=1e-5)


def test_what_is_no_imitation() -> None:
    with pytest.raises(TorchwhyError, match="to_inputs where perturb gives rows"):
        Imitation(Ridge(), weigh, rows)
    with pytest.raises(TorchwhyError, match="gave no changed copy"):
        Imitation(Ridge(), weigh, rows, lambda row, x: row * x).coefficients(curved, X, 0)

    class Nearest(KNeighborsRegressor):
        def fit(self, x: Any, y: Any, sample_weight: Any = None) -> Any:
            return super().fit(x, y)

    with pytest.raises(TorchwhyError, match="has no coef_"):
        Imitation(Nearest(), weigh, rows, lambda row, x: row * x).coefficients(curved, X, 6)


def test_shuffles_of_ones_own() -> None:
    """A cycle of the examples, by hand, for each of two features of which one spans both inputs."""
    a, b = torch.tensor([[1.0, 2.0], [3.0, 5.0], [4.0, 0.0]]), torch.tensor([[2.0], [1.0], [7.0]])
    masks = (torch.tensor([[0, 1]]), torch.tensor([[1]]))

    def model(a: Tensor, b: Tensor) -> Tensor:
        return a[:, 0] * a[:, 1] + 10 * b[:, 0]

    def cycle(x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, x.roll(1, 0), x)

    method = FeaturePermutation(model, feature_mask=masks, perm_func=cycle)
    first, second = method.attribute((a, b))
    scores, back = model(a, b), [2, 0, 1]
    torch.testing.assert_close(first[:, 0], scores - a[back, 0] * a[:, 1] - 10 * b[:, 0])
    torch.testing.assert_close(first[:, 1], scores - a[:, 0] * a[back, 1] - 10 * b[back, 0])
    assert torch.equal(second[:, 0], first[:, 1])
    assert torch.equal(method.attribute((a, b), batch_size=1)[0], first)
    mean = FeaturePermutation(model, feature_mask=masks).attribute((a, b), baselines=(a, b))
    assert not torch.allclose(mean[0], first)
    with pytest.raises(TorchwhyError, match="gives a tensor of the inputs' shape"):
        method.attribute((a, b), perm_func=lambda x, mask: x[:1])
