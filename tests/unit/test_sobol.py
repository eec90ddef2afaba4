"""Sobol' indices: functions of the masks whose indices are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.testing import assert_close

from torchwhy import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import Gaussian, Marginal, Noise
from torchwhy.engines.game import Groups
from torchwhy.engines.masks import KEPT
from torchwhy.engines.soft import SoftGame
from torchwhy.methods.sobol import Designs, SobolAttribution


def double(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def ones(m: int) -> Tensor:
    return torch.ones(1, m, dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    return x @ double([1, 2, 0, -4]) + 100


def product(x: Tensor) -> Tensor:
    return (1 + x).prod(1)


def ishigami(x: Tensor) -> Tensor:
    """In [-pi, pi] for masks in [0, 1]."""
    z = math.pi * (2 * x - 1)
    return z[:, 0].sin() + 7 * z[:, 1].sin() ** 2 + 0.1 * z[:, 2] ** 4 * z[:, 0].sin()


def indices_of_a_product(m: int) -> tuple[Tensor, Tensor]:
    """Every factor has the mean 3/2 and the variance 1/12: the square of its relative spread is 1/27."""
    spread = 1 / 27
    whole = (1 + spread) ** m - 1
    return double([[spread / whole] * m]), double([[spread * (1 + spread) ** (m - 1) / whole] * m])


def indices_of_ishigami() -> tuple[Tensor, Tensor]:
    """T. Homma, A. Saltelli, Reliability Engineering & System Safety 52, 1996."""
    a, b = 7.0, 0.1
    one = 0.5 * (1 + b * math.pi**4 / 5) ** 2
    two = a**2 / 8
    both = b**2 * math.pi**8 * (1 / 18 - 1 / 50)
    whole = one + two + both
    return double([[one, two, 0]]) / whole, double([[one + both, two, both]]) / whole


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], int, tuple[Tensor, Tensor]]] = {
    "linear": (linear, 4, (double([[1, 4, 0, 16]]) / 21,) * 2),
    "product": (product, 3, indices_of_a_product(3)),
    "ishigami": (ishigami, 3, indices_of_ishigami()),
}


@pytest.mark.parametrize("order", ["first", "total"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_indices_that_are_known(name: str, order: str) -> None:
    model, m, both = FUNCTIONS[name]
    found = SobolAttribution(model, order=order, n_samples=1024).explain(ones(m))
    known = both[order == "total"]
    assert_close(found.values, known, atol=0.02, rtol=0)
    assert ((found.values - known).abs() <= 4.5 * found.standard_error + 1e-12).all()
    if name == "ishigami":
        assert (found.values - both[order == "first"]).abs().max() > 0.2


@pytest.mark.parametrize("order", ["first", "total"])
def test_estimates_have_no_bias_and_intervals_hold(order: str) -> None:
    model, m, both = FUNCTIONS["ishigami"]
    known, seeds = both[order == "total"][0], 40
    runs = [
        SobolAttribution(model, order=order, n_samples=64, n_replicates=16, seed=s).explain(ones(m))
        for s in range(seeds)
    ]
    values = torch.stack([r.values[0] for r in runs])
    errors = torch.stack([r.standard_error[0] for r in runs])
    assert ((values.mean(0) - known) / (values.std(0) / seeds**0.5)).abs().max() < 4.5
    inside = (values - known).abs() < runs[0].provenance["interval_95"] * errors
    assert 0.9 <= inside.double().mean() <= 0.99


def test_a_cell_without_influence_has_no_total_index() -> None:
    found = SobolAttribution(linear).explain(ones(4))
    assert found.values[0, 2] == 0
    assert (found.values[0, [0, 1, 3]] > 0).all()
    assert not found.signed


def test_a_constant_score_shares_nothing() -> None:
    for order in ("total", "first"):
        found = SobolAttribution(lambda x: 0 * x.sum(1) + 3, order=order).explain(ones(3))
        assert found.values.abs().max() == 0
        assert found.standard_error.abs().max() == 0


def test_masks_fade_from_the_baseline_and_cells_are_shared_by_channels() -> None:
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = []

    def model(z: Tensor) -> Tensor:
        seen.append(z)
        return z.sum((1, 2, 3))

    SobolAttribution(model, cells=2, n_samples=4, n_replicates=1).attribute(x, 0.5, batch_size=1)
    shown = (seen[-1] - 0.5) / (x[1:] - 0.5)
    for rows in (slice(0, 2), slice(2, 4)):
        for columns in (slice(0, 3), slice(3, 6)):
            cell = shown[0, :, rows, columns]
            assert_close(cell, cell[:1, :1, :1].expand(cell.shape))
    assert len(shown.mul(1e6).round().unique()) == 4
    assert ((shown > 0) & (shown < 1)).all()


def test_cells_that_matter_are_found() -> None:
    found = SobolAttribution(lambda z: z[:, 0, :2, :2].sum((1, 2)) + 0.1 * z[:, 0, 3, 3], cells=2).attribute(
        torch.ones(1, 1, 4, 4)
    )
    assert (found[0, 0, :2, :2] > 0.9).all()
    assert (found[0, 0, 2:, :2] == 0).all()


BACKGROUND = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_linear_model_has_a_closed_form_with_a_background() -> None:
    """What a cell is above its mean over the background is what fades."""
    weights, x = double([1, 2, 0, -4]), double([[1, -1, 2, 0.5], [0.3, 2, 1, 1]])
    moved = (weights * (x - BACKGROUND.mean(0))) ** 2
    known = moved / moved.sum(1, keepdim=True)
    found = SobolAttribution(linear, fill=Marginal(BACKGROUND), n_samples=256).explain(x)
    assert ((found.values - known).abs() <= 4.5 * found.standard_error + 1e-9).all()
    assert found.standard_error.max() < 0.01
    assert found.provenance["evaluations"] == (8 * 256 * 6 + 1) * 5
    assert ((SobolAttribution(linear, n_samples=256).attribute(x) - known).abs() > 0.05).any()


def test_what_depends_on_what_is_present_looks_at_the_larger_half() -> None:
    """Masks are made by hand for a conditional Gaussian, whose absent values are drawn in pairs."""
    x, fill = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)).double(), Gaussian(BACKGROUND, n_draws=2)

    def model(z: Tensor) -> Tensor:
        return z.prod(1) + z[:, 0]

    p = Problem(model, Tensors([x]))
    masks = Designs(Groups(p.point), 4, seed=0)
    ks = torch.arange(masks.each)
    found = SoftGame(p, masks, fill, "").evaluate(masks.rows(slice(0, masks.each)))
    m = masks.degrees(ks)
    bound = fill.bind(p, lambda rows: Tensors([rows[:, None]]))
    scores = []
    for draw in (0, 1):
        other = bound.at(slice(0, 2), m >= 0.5, torch.full_like(ks, draw)).parts[0]
        scores.append(model((m[:, None] * x + (1 - m[:, None]) * other).flatten(0, 1)).view(-1, 2))
    assert_close(found, (scores[0] + scores[1]) / 2)
    assert not torch.allclose(scores[0], scores[1])


def test_what_is_kept_is_not_faded() -> None:
    mask = torch.tensor([0, 1, KEPT, KEPT])
    found = SobolAttribution(linear, feature_mask=mask, n_samples=256).attribute(ones(4))
    assert_close(found, double([[0.2, 0.8, 0, 0]]), atol=0.01, rtol=0)


def test_a_budget_pays_replicates() -> None:
    def evaluations(**options: object) -> int:
        return SobolAttribution(linear, **options).explain(ones(4)).provenance["evaluations"]

    assert evaluations() == 8 * 96 + 1
    assert evaluations(budget=300) == 3 * 96 + 1
    assert evaluations(budget=300, n_replicates=2) == 2 * 96 + 1
    assert evaluations(budget=600, fill=Noise(n_draws=2)) == (3 * 96 + 1) * 2
    with pytest.raises(TorchwhyError, match=r"budget=96 is too small for 4 features: the least that works is 97"):
        evaluations(budget=96)


def test_it_stops_when_it_is_settled() -> None:
    found = SobolAttribution(ishigami, stop_at="se<0.03").explain(ones(3))
    assert (found.standard_error < 0.03).all()
    assert found.evidence[0].status == ("pass",)
    assert found.provenance["evaluations"] < 20_000
    top = SobolAttribution(linear, top_k=1).explain(ones(4))
    assert top.values[0].argmax() == 3
    assert top.evidence[0].status == ("pass",)
    few = SobolAttribution(ishigami, stop_at="se<0.001", budget=500).explain(ones(3))
    assert few.evidence[0].status == ("warn",)
    assert few.provenance["evaluations"] <= 500


def test_a_model_that_draws_random_numbers_is_told() -> None:
    with pytest.raises(TorchwhyError, match="it draws random numbers"):
        SobolAttribution(lambda z: dropout(z, 0.5).sum(1)).attribute(ones(20))


def test_one_replicate_has_no_error() -> None:
    assert SobolAttribution(linear, n_replicates=1).explain(ones(4)).standard_error is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 1}, "n_samples is a whole number of at least 2"),
        ({"n_replicates": 0}, "n_replicates is a whole number of at least 1"),
        ({"cells": 0}, "cells is a whole number of at least 1"),
        ({"order": "second"}, "order is 'total' or 'first', not 'second'"),
        ({"seed": -1}, "seed is a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        SobolAttribution(linear, **options)


def test_inputs_that_cannot_be_faded_or_are_too_many_are_refused() -> None:
    with pytest.raises(TorchwhyError, match=r"SobolAttribution fades inputs, which torch\.int64 cannot"):
        SobolAttribution(lambda z: z.double().sum(1)).attribute(torch.ones(1, 3).long())
    with pytest.raises(TorchwhyError, match="11000 features are more than 10600: take fewer cells"):
        SobolAttribution(lambda z: z.sum(1)).attribute(torch.ones(1, 11_000))
