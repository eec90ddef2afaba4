"""RISE: what random soft masks show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from torchwhy import TorchwhyError
from torchwhy.core.tensors import Tensors
from torchwhy.methods.rise import RISE


def test_masks_are_soft_shifted_and_of_the_right_mean() -> None:
    image = torch.zeros(1, 3, 28, 30)
    masks = RISE(lambda x: x, share=0.3)._masks(Tensors([image]), slice(0, 600)).parts[0]
    assert masks.shape == (600, 1, 1, 28, 30)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert (masks.mean(0) - 0.3).abs().max() < 0.08
    assert ((masks > 0.1) & (masks < 0.9)).double().mean() > 0.2
    assert (masks.diff(dim=-1).abs() < 0.5).all()  # no hard edge


@pytest.mark.parametrize("shape", [(7,), (2, 11), (2, 9, 8), (1, 6, 5, 7)])
def test_any_number_of_dimensions_will_do(shape: tuple[int, ...]) -> None:
    x = torch.ones(2, *shape)
    found = RISE(lambda z: z.flatten(1)[:, 0], n_samples=400).attribute(x)
    assert found.shape == x.shape
    assert found.flatten(1).argmax(1).tolist() == [0, 0] or found.flatten(1)[0, 0] > 0.9 * found.max()


def test_vectors_have_a_closed_form() -> None:
    """With independent switches, what an element adds times the chance of its being off."""
    weights = torch.tensor([4.0, -2.0, 0.0, 1.0], dtype=torch.float64)
    x = torch.ones(1, 4, dtype=torch.float64)
    found = RISE(lambda z: z @ weights, n_samples=8000, share=0.25).explain(x)
    away = (found.values[0] - 0.75 * weights).abs()
    assert (away < 4.5 * found.standard_error[0]).all()
    assert (found.standard_error < 0.1).all()


def test_standard_errors_are_the_spread_over_seeds() -> None:
    def model(z: Tensor) -> Tensor:
        return torch.relu(z.sum((1, 2)) - 3) + z[:, 0, 2] * z[:, 0, 7]

    x = torch.ones(1, 1, 10, dtype=torch.float64)
    runs = [RISE(model, n_samples=150, seed=s).explain(x) for s in range(80)]
    spread = torch.stack([r.values for r in runs]).std(0)
    told = torch.stack([r.standard_error for r in runs]).mean(0)
    assert_close(told, spread, rtol=0.25, atol=0)


def test_masks_are_those_of_the_formula() -> None:
    x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def model(z: Tensor) -> Tensor:
        return (z**2).sum((1, 2, 3))

    rise = RISE(model, n_samples=30, cells=3, seed=5)
    masks = rise._masks(Tensors([x]), slice(0, 30)).parts[0]
    scores = torch.stack([model(m * x + (1 - m) * 0.5) for m in masks])
    level = torch.einsum("kb,kcij->bcij", scores, masks[:, 0]) / masks[:, 0].sum(0)
    assert_close(rise.attribute(x, 0.5), (level - scores.mean(0).view(-1, 1, 1, 1)).expand_as(x))
    for rows in (1, 7):
        assert_close(
            RISE(model, n_samples=30, cells=3, seed=5, batch_size=rows).attribute(x, 0.5), rise.attribute(x, 0.5)
        )


def test_an_element_that_was_never_shown_gets_nothing() -> None:
    found = RISE(lambda z: z.sum(1), n_samples=2, share=1e-6).attribute(torch.ones(1, 3))
    assert found.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 1}, "n_samples is a whole number of at least 2"),
        ({"cells": 0}, "cells is a whole number of at least 1"),
        ({"share": 1.0}, "share is a number between 0 and 1, not 1.0"),
        ({"seed": -1}, "seed is a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        RISE(lambda z: z.sum(1), **options).attribute(torch.ones(1, 3))


def test_integers_are_refused() -> None:
    with pytest.raises(TorchwhyError, match=r"RISE fades inputs, which torch\.int64 cannot"):
        RISE(lambda z: z.double().sum(1)).attribute(torch.ones(1, 3).long())
