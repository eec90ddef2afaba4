"""The numbers of Quantus where it asks the model what the paper asks, and known answers where it does not."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import metrics

PLAIN = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}
ZERO = {"perturb_baseline": 0.0}


class Linear(nn.Module):
    """Scores of 2 classes that are sums over 36 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 36, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + 0.5


@pytest.fixture
def model() -> Linear:
    return Linear().eval()


X = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def parts(model: Linear) -> Tensor:
    """What each pixel adds to the score of class 0: the exact answer."""
    return (X * model.weight[0].view(1, 1, 6, 6)).detach()


def theirs(metric: Any, model: nn.Module, values: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(
            model=model,
            x_batch=X.numpy(),
            y_batch=np.zeros(6, dtype=int),
            a_batch=values.numpy(),
            device="cpu",
            softmax=False,
        )


def test_the_correlation_with_single_pixels(model: Linear) -> None:
    values = parts(model) + torch.randn(X.shape, generator=torch.Generator().manual_seed(2))
    peer = quantus.FaithfulnessEstimate(features_in_step=1, **ZERO, **PLAIN)
    found = metrics.FaithfulnessEstimate(model, positions="elements").score(values, X, target=0)
    known = torch.tensor(theirs(peer, model, values)).to(found.value)
    assert_close(found.value, known, rtol=1e-4, atol=1e-4)
    other = metrics.FaithfulnessEstimate(model, positions="elements").score(-values, X, target=0)
    assert_close(other.value, -known, rtol=1e-4, atol=1e-4)


def test_the_scores_while_pixels_are_flipped(model: Linear) -> None:
    values = parts(model)
    peer = quantus.PixelFlipping(features_in_step=4, **ZERO, **PLAIN)
    found = metrics.PixelFlipping(model, n_steps=9).score(values, X, target=0)
    known = torch.tensor(np.array(theirs(peer, model, values))).to(found.value)
    assert_close(found.curve.y[1:].T, known, rtol=1e-4, atol=1e-4)  # theirs begins after the first step
    lerf = metrics.PixelFlipping(model, n_steps=9, order="lerf").score(values, X, target=0)
    assert not torch.allclose(lerf.curve.y[1:].T, known, atol=1e-2)


# -- known answers that it misses --------------------------------------------------------------------------------


def test_exact_parts_of_a_linear_model_are_complete(model: Linear) -> None:
    found = metrics.Completeness(model).score(parts(model), X, target=0)
    assert_close(found.value, torch.zeros(6), rtol=0, atol=1e-6)
    assert (metrics.Completeness(model).score(2 * parts(model), X, target=0).value > 0.9).all()
    # Theirs asks floating-point sums to be equal to the last bit, and takes the darkest pixel for black by default.
    assert not all(theirs(quantus.Completeness(**ZERO, **PLAIN), model, parts(model)))
    assert not any(theirs(quantus.Completeness(**PLAIN), model, parts(model)))


def test_monotonicity_is_not_true_of_everything(model: Linear) -> None:
    # Half of the pixels lower the score, so that it falls on the way whatever the order.
    values = parts(model)
    found = metrics.Monotonicity(model, n_steps=None).score(values, X, target=0)
    rises = (values > 0).flatten(1).float().mean(1)
    assert_close(found.value, rises)
    assert (rises < 0.8).all()
    for given in (values, -values, torch.randn(X.shape, generator=torch.Generator().manual_seed(3))):
        assert all(theirs(quantus.Monotonicity(features_in_step=1, **ZERO, **PLAIN), model, given))


def test_exact_parts_correlate_at_every_size_of_subsets(model: Linear) -> None:
    found = metrics.SensitivityN(model, positions="elements").score(parts(model), X, target=0)
    assert_close(found.curve.y, torch.ones_like(found.curve.y), rtol=0, atol=1e-4)
    for step in (1, 4, 6):
        peer = quantus.SensitivityN(features_in_step=step, n_max_percentage=0.8, **ZERO, **PLAIN)
        assert max(theirs(peer, model, parts(model))) < 0.9
