"""Metrics of complexity against closed forms, and what changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from torchwhy import TorchwhyError, metrics

CLASSES = (metrics.Sparseness, metrics.Complexity, metrics.SupportSize)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_of(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)[:1]


# -- closed forms ------------------------------------------------------------------------------------------------


def test_the_gini_index_is_half_the_mean_difference_over_the_mean() -> None:
    values = rand(4, 9)
    sizes = values.abs()
    apart = (sizes[:, :, None] - sizes[:, None]).abs().mean((1, 2))
    assert_close(metrics.Sparseness().score(values).value, apart / (2 * sizes.mean(1)))


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_the_ends_of_the_scales(n: int) -> None:
    same = torch.full((1, n), -0.3, dtype=torch.float64)
    assert metrics.Sparseness().score(same).value.item() == pytest.approx(0, abs=1e-12)
    assert metrics.Sparseness().score(one_of(n)).value.item() == pytest.approx(1 - 1 / n)
    assert metrics.Complexity().score(same).value.item() == pytest.approx(math.log(n))
    assert metrics.Complexity().score(one_of(n)).value.item() == 0
    assert metrics.SupportSize().score(same).value.item() == n
    assert metrics.SupportSize().score(one_of(n)).value.item() == 1


def test_the_entropy_is_that_of_the_shares() -> None:
    values = torch.tensor([[1.0, -1.0, 2.0, 0.0]], dtype=torch.float64)
    assert metrics.Complexity().score(values).value.item() == pytest.approx(1.5 * math.log(2))


def test_the_support_has_a_threshold_of_either_kind() -> None:
    values = torch.tensor([[100.0, -2.0, 0.5, 0.0]], dtype=torch.float64)
    assert metrics.SupportSize(threshold=0.01).score(values).value == 2
    assert metrics.SupportSize(threshold=0.4, relative=False).score(values).value == 3
    assert metrics.SupportSize(threshold=0, relative=False).score(values).value == 3


def test_zeros_have_no_complexity() -> None:
    values = torch.stack([torch.zeros(5), torch.ones(5)])
    for metric in (metrics.Sparseness(), metrics.Complexity()):
        assert metric.score(values).reasons == ("every attribution is zero", "")
    assert metrics.SupportSize().score(values).value.tolist() == [0, 5]


def test_sizes_at_the_ends_of_a_dtype_are_no_trouble() -> None:
    for size in (1e38, 1e-40):
        values = torch.tensor([[size, size, 0, 0]])
        assert metrics.Sparseness().score(values).value.item() == pytest.approx(0.5)
        assert metrics.Complexity().score(values).value.item() == pytest.approx(math.log(2))


# -- with the model ----------------------------------------------------------------------------------------------


def test_as_many_positions_as_are_enough_for_the_score() -> None:
    w = torch.tensor([10.0, 5, 3, 2, 0], dtype=torch.float64)
    x, model = torch.ones(1, 5, dtype=torch.float64), lambda x: x @ w
    known = {0.5: 1, 0.25: 2, 0.1: 3, 0.05: 4, 1: 0}  # 10, 15, 18 and 20 of 20
    for tolerance, count in known.items():
        assert metrics.EffectiveComplexity(model, tolerance=tolerance).score(w[None], x).value == count
    assert metrics.EffectiveComplexity(model).score(-w[None], x).value == 3  # by size
    assert metrics.EffectiveComplexity(model, abs=False).score(-w[None], x).value == 5
    assert metrics.EffectiveComplexity(model).score(w.flip(0)[None], x).value == 5  # upside down


def test_a_worse_order_needs_more() -> None:
    w, x = rand(1, 12, seed=1).abs(), torch.ones(1, 12, dtype=torch.float64)
    metric = metrics.EffectiveComplexity(lambda x: x @ w[0])
    best = metric.score(w, x).value
    assert all(metric.score(rand(1, 12, seed=s), x).value >= best for s in range(20))
    assert metric.score(1 / w, x).value > best


def test_a_score_that_does_not_move_needs_nothing() -> None:
    found = metrics.EffectiveComplexity(lambda x: 0 * x.sum(1) + 2).score(rand(1, 4), rand(1, 4))
    assert found.reasons == ("the score is the same where everything is replaced by the fill",)


@pytest.mark.parametrize(
    ("cls", "options"),
    [(metrics.SupportSize, {"threshold": -1}), (metrics.EffectiveComplexity, {"tolerance": 0})],
)
def test_options_are_checked(cls: type[metrics.Metric], options: dict[str, float]) -> None:
    with pytest.raises(TorchwhyError, match=next(iter(options))):
        cls(**options)


# -- properties --------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_scale_signs_and_order_change_nothing(seed: int, scale: float) -> None:
    values = rand(3, 11, seed=seed)
    signs = rand(3, 11, seed=seed + 1).sign()
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    for cls in CLASSES:
        known = cls().score(values).value
        assert_close(cls().score((scale * signs * values)[:, order]).value, known)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_transfer_from_large_to_small_is_less_sparse(seed: int, share: float) -> None:
    values = rand(1, 6, seed=seed).abs().sort(1).values
    moved = share * (values[0, 5] - values[0, 0]) / 2
    evened = values + torch.tensor([1.0, 0, 0, 0, 0, -1]) * moved
    assert metrics.Sparseness().score(evened).value <= metrics.Sparseness().score(values).value + 1e-12
    assert metrics.Complexity().score(evened).value >= metrics.Complexity().score(values).value - 1e-12


def test_copies_keep_the_gini_index_and_add_to_the_entropy() -> None:
    values = rand(2, 5)
    assert_close(metrics.Sparseness().score(values.repeat(1, 3)).value, metrics.Sparseness().score(values).value)
    more = metrics.Complexity().score(values.repeat(1, 3)).value - metrics.Complexity().score(values).value
    assert_close(more, torch.full((2,), math.log(3), dtype=torch.float64))
