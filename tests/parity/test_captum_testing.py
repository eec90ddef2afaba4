"""Captum's methods on the models with known answers: the judge is fair to explainers that are not of this library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr as theirs
import pytest
import torch
from torch import Tensor, nn

from torchwhy.testing import AXIOMS, score


def wrapped(make: Callable[[Any], Any], *, compares: bool, **options: Any) -> Callable[..., Tensor]:
    def plain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        return make(model).attribute(inputs.requires_grad_(), target=target, **options)

    def compared(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
        return make(model).attribute(inputs, baselines, target=target, **options)

    return compared if compares else plain


@pytest.mark.parametrize(
    ("make", "compares", "options", "concept"),
    [
        (theirs.Saliency, False, {"abs": False}, "gradient"),
        (theirs.InputXGradient, False, {}, "input x gradient"),
        (theirs.IntegratedGradients, True, {}, "integrated gradients"),
    ],
    ids=["Saliency", "InputXGradient", "IntegratedGradients"],
)
def test_what_they_compute_is_recognised(make: Any, compares: bool, options: dict[str, Any], concept: str) -> None:
    report = score(wrapped(make, compares=compares, **options), claims=(concept,))
    assert report.ok, report.failed
    assert report.computes == (concept,)


def test_integrated_gradients_keep_all_axioms() -> None:
    report = score(wrapped(theirs.IntegratedGradients, compares=True), AXIOMS)
    assert report.ok, report.failed


def test_the_size_of_the_gradient_is_not_the_gradient() -> None:
    report = score(wrapped(theirs.Saliency, compares=False), claims=("gradient",))
    assert not report.ok
    assert report.computes == ()


def test_a_single_permutation_is_complete_and_not_symmetric() -> None:
    torch.manual_seed(0)
    sampled = wrapped(theirs.ShapleyValueSampling, compares=True, n_samples=1)
    report = score(sampled, claims=("completeness", "sensitivity"))
    assert report.ok, report.failed
    assert "symmetry" not in report.keeps
