"""The same numbers as Captum 0.9's perturbation methods, and other numbers where an option differs.

Captum's exact Shapley values go through all orders and LimeBase takes our rows, so that nothing is left to chance.
What both sample is compared with the exact values of either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchwhy.engines.noise import draws
from torchwhy.methods.kernel_shap import KernelShap
from torchwhy.methods.lime import Lime
from torchwhy.methods.shapley import ShapleyValues, ShapleyValueSampling

captum = pytest.importorskip("captum.attr")
linear = pytest.importorskip("captum._utils.models.linear_model")


def apart(ours: Any, theirs: Any) -> float:
    """The largest difference as a share of the largest value."""
    a, b = ((t if isinstance(t, tuple) else (t,)) for t in (ours, theirs))
    assert [t.shape for t in a] == [t.shape for t in b]
    largest = max(float(t.abs().max()) for t in b)
    assert largest > 0
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True)) / largest


def agree(ours: Any, theirs: Any, but_not: Any, tolerance: float = 1e-5) -> None:
    """``ours`` is ``theirs``, and ``but_not``, with one option changed, is something else by far."""
    assert apart(ours, theirs) < tolerance
    assert apart(but_not, theirs) > 100 * tolerance


@pytest.fixture(scope="session")
def quarters() -> Tensor:
    """Five pieces of a 12 x 12 image, two of them of one number."""
    mask = torch.zeros(12, 12, dtype=torch.long)
    mask[:6, 6:], mask[6:, :4], mask[6:, 4:8], mask[9:, 9:] = 1, 2, 3, 4
    return mask


@pytest.mark.parametrize("baseline", [None, 0.3])
def test_exact_values_of_an_image(cnn: nn.Module, digits: Tensor, quarters: Tensor, baseline: float | None) -> None:
    theirs = captum.ShapleyValues(cnn).attribute(digits, baseline, target=3, feature_mask=quarters[None, None])
    shapley = ShapleyValues(cnn, feature_mask=quarters)
    other = shapley.attribute(digits, 0.5, target=3)
    agree(shapley.attribute(digits, baseline, target=3), theirs, other)
    kernel = KernelShap(cnn, feature_mask=quarters, n_samples=32)
    agree(kernel.attribute(digits, baseline, target=3), theirs, other)


def test_exact_values_of_a_tuple(two: nn.Module, pair: tuple[Tensor, Tensor], gate: Tensor) -> None:
    mask = (torch.tensor([[0, 1, 1, 2, 0]]), torch.tensor([[3, 2, 4]]))
    extra = (gate, 2.0)
    theirs = captum.ShapleyValues(two).attribute(
        pair, (0.1, 0.2), target=[0, 3, 1, 2], additional_forward_args=extra, feature_mask=mask
    )
    shapley = ShapleyValues(two, feature_mask=mask)
    ours = shapley.attribute(pair, (0.1, 0.2), [0, 3, 1, 2], extra)
    agree(ours, theirs, shapley.attribute(pair, (0.2, 0.1), [0, 3, 1, 2], extra))


def test_both_sample_the_same_values(two: nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    a = pair[0][:1]

    def model(x: Tensor) -> Tensor:
        return two(x, pair[1][:1].expand(len(x), -1))[:, 1]

    exact = ShapleyValues(model).attribute(a)
    torch.manual_seed(0)
    theirs = captum.ShapleyValueSampling(model).attribute(a, n_samples=400)
    ours = ShapleyValueSampling(model, n_samples=400).attribute(a)
    assert apart(theirs, exact) < 0.1
    assert apart(ours, exact) < 0.1
    kernel = captum.KernelShap(model).attribute(a, n_samples=2000)
    assert apart(kernel, exact) < 0.1
    assert apart(KernelShap(model).attribute(a), exact) < 1e-5
    assert apart(ShapleyValues(model).attribute(a, 1.0), exact) > 0.2


@pytest.mark.parametrize(("surrogate", "alpha"), [("ridge", 1.0), ("lasso", 0.0005), ("linear", 1.0)])
def test_lime_on_the_same_rows(two: nn.Module, pair: tuple[Tensor, Tensor], surrogate: str, alpha: float) -> None:
    count, seed, a = 60, 3, pair[0][:1]
    rows = torch.rand(count, 5, generator=draws(seed, 33)) < 0.5
    rows[0] = True

    def model(x: Tensor) -> Tensor:
        return two(x, pair[1][:1].expand(len(x), -1))[:, 1]

    def perturb(original: Tensor, **kwargs: Any) -> Iterator[Tensor]:
        yield from rows[:, None].float()

    def similarity(original: Tensor, there: Tensor, row: Tensor, **kwargs: Any) -> float:
        away = 1 - row.mean().sqrt()
        return float(torch.exp(-((away / 0.25) ** 2)))

    fitted = {
        "ridge": lambda: linear.SkLearnRidge(alpha=alpha),
        "lasso": lambda: linear.SkLearnLasso(alpha=alpha),
        "linear": linear.SkLearnLinearRegression,
    }[surrogate]()
    theirs = captum.LimeBase(
        model, fitted, similarity, perturb, True, lambda row, original, **kwargs: row * original, None
    ).attribute(a, n_samples=count)
    lime = Lime(model, n_samples=count, surrogate=surrogate, alpha=alpha, seed=seed)
    agree(lime.attribute(a), theirs, lime.attribute(a, seed=4), tolerance=1e-4)
