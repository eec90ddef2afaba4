"""The Hilbert-Schmidt independence criterion: against its definition, and games whose dependence is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.testing import assert_close

from torchwhy import TorchwhyError
from torchwhy.engines.spread import error_of_mean
from torchwhy.engines.surrogate import all_rows
from torchwhy.methods.hsic import Gaussian, HSICAttribution, _blocks, biased, unbiased

N = 30


def ones(m: int) -> Tensor:
    return torch.ones(1, m, dtype=torch.float64)


@pytest.fixture
def sample() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    signs = 2.0 * (torch.rand(N, 4, generator=generator) < 0.5) - 1
    scores = signs[:, 0] + 0.3 * signs[:, 1] * signs[:, 2] + 0.1 * torch.randn(N, generator=generator)
    return signs.double(), Gaussian(scores.double())[:]


def test_the_criterion_is_its_definition(sample: tuple[Tensor, Tensor]) -> None:
    signs, kernel = sample
    centre = torch.eye(N).double() - 1 / N
    known = [((s[:, None] == s).double() @ centre @ kernel @ centre).trace() / (N - 1) ** 2 for s in signs.T]
    assert_close(biased(signs, kernel), torch.stack(known))


def test_without_bias_it_is_the_mean_over_distinct_rows(sample: tuple[Tensor, Tensor]) -> None:
    """The U-statistic, written out over all quadruples of some rows."""
    signs, kernel = (t[:9] for t in sample)
    kernel = kernel[:, :9]
    n = len(signs)
    for i, s in enumerate(signs.T):
        k = (s[:, None] == s).double()
        total, count = 0.0, 0
        for a in range(n):
            for b in range(n):
                for c in range(n):
                    for d in range(n):
                        if len({a, b, c, d}) == 4:
                            total += float(kernel[a, b] * (k[a, b] + k[c, d] - 2 * k[a, c]))
                            count += 1
        assert abs(float(unbiased(signs, kernel)[i]) - total / count) < 1e-12


@pytest.mark.parametrize("kind", [True, False])
def test_a_block_less_is_taken_off_the_sums(sample: tuple[Tensor, Tensor], kind: bool) -> None:
    signs, kernel = sample
    method = HSICAttribution(lambda x: x, n_samples=N, unbiased=kind)
    values, error = method._estimate(signs, kernel)
    dependence, blocks = unbiased if kind else biased, _blocks(N)
    left = []
    for k in range(blocks):
        kept = torch.arange(N) % blocks != k
        left.append(dependence(signs[kept], kernel[kept][:, kept]))
    assert_close(values, dependence(signs, kernel), rtol=0, atol=1e-12)
    assert_close(error, error_of_mean((blocks - 1) * torch.stack(left)[:, :, None])[:, 0], rtol=0, atol=1e-12)
    assert error.min() > 1e-4


@pytest.mark.parametrize("kind", [True, False])
def test_the_kernel_is_made_row_by_row(kind: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(403, generator=generator).double()
    signs = 2.0 * (torch.rand(403, 5, generator=generator) < 0.5).double() - 1
    method, kernel = HSICAttribution(lambda x: x, unbiased=kind), Gaussian(scores)
    for one, other in zip(method._estimate(signs, kernel), method._estimate(signs, kernel[:]), strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("n", [2, 3, 8, 101, 500])
def test_the_kernel_is_as_wide_as_the_median_distance(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    for scores in (torch.randn(n, generator=generator).double(), torch.rand(n, generator=generator).round(decimals=1)):
        known = torch.nn.functional.pdist(scores[:, None], p=1).median()
        assert_close(Gaussian(scores).width, known, rtol=1e-6, atol=0)
    few = torch.zeros(n)
    few[0] = 3.0
    assert_close(Gaussian(few).width, torch.nn.functional.pdist(few[:, None], p=1).mean() if n > 3 else few[0])


def test_the_score_that_is_a_cells_presence() -> None:
    """The score is 0 or 1 and as far apart as the kernel is wide: L is 1 or exp(-1/2)."""
    signs = torch.tensor([1.0, -1, -1, 1, 1, -1], dtype=torch.float64)[:, None]
    kernel = Gaussian(3 * signs[:, 0])[:]
    apart = torch.exp(torch.tensor(-0.5, dtype=torch.float64))
    assert_close(kernel, torch.where(signs == signs.T, 1.0, apart))
    assert_close(biased(signs, kernel), ((1 - apart) / 4 * 36 / 25)[None])


@pytest.mark.parametrize("kind", [True, False])
def test_estimates_and_intervals_hold(kind: bool) -> None:
    def model(x: Tensor) -> Tensor:
        return 4 * x[:, 0] + 2 * x[:, 1] * x[:, 2] + x[:, 3]

    every = all_rows(5).double().repeat(8, 1)  # as often as the coins say
    known = biased(2 * every - 1, Gaussian(model(every))[:]) * (255 / 256) ** 2
    seeds = 40
    runs = [HSICAttribution(model, n_samples=200, unbiased=kind, seed=s).explain(ones(5)) for s in range(seeds)]
    values = torch.stack([r.values[0] for r in runs])
    errors = torch.stack([r.standard_error[0] for r in runs])
    z = ((values.mean(0) - known) / (values.std(0) / seeds**0.5)).abs()
    inside = ((values - known).abs() < runs[0].provenance["interval_95"] * errors)[:, :1]
    assert 0.85 <= inside.double().mean() <= 1
    if kind:
        assert z.max() < 4.5
        assert (values[:, 4] < 0).any()
    else:
        assert z[4] > 4.5  # no dependence, and yet above zero
        assert values.min() >= 0


def test_any_dependence_is_found() -> None:
    """Whether two cells agree is in neither alone; what squares them is."""
    even = HSICAttribution(lambda x: (2 * x[:, 0] - 1) * (2 * x[:, 1] - 1), unbiased=True).explain(ones(3))
    assert (even.values[0].abs() < 0.004).all()
    bent = HSICAttribution(lambda x: x[:, 0] * (2 * x[:, 1] - 1), unbiased=True).attribute(ones(3))[0]
    assert bent[0] > 20 * bent[2].abs()  # where it is absent the score is 0, else 1 or -1: no slope of the mean
    assert bent[1] > 5 * bent[2].abs()


def test_a_constant_score_depends_on_nothing() -> None:
    for kind in (True, False):
        found = HSICAttribution(lambda x: 0 * x.sum(1) + 2, unbiased=kind).explain(ones(3))
        assert found.values.abs().max() < 1e-12
        assert found.standard_error.abs().max() < 1e-12


def test_cells_of_a_map() -> None:
    found = HSICAttribution(lambda z: z[:, :, :2, :2].sum((1, 2, 3)), cells=2).attribute(torch.ones(1, 3, 4, 4))
    assert_close(found[0, :, :2, :2], found[0, 0, 0, 0].expand(3, 2, 2))
    assert found[0, 0, 0, 0] > 20 * found[0, 0, 2:, :].max()


def test_any_fill_will_do() -> None:
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def model(z: Tensor) -> Tensor:
        return (z**2).sum((1, 2, 3))

    found = [HSICAttribution(model, fill=fill, n_samples=100).attribute(x) for fill in ("baseline", "mean", "blur")]
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[1], found[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 3}, "n_samples is a whole number of at least 4"),
        ({"n_samples": 7, "unbiased": True}, "n_samples is a whole number of at least 8"),
        ({"cells": 0}, "cells is a whole number of at least 1"),
        ({"fill": "grey"}, "there is no fill 'grey'"),
        ({"seed": 1.5}, "seed is a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        HSICAttribution(lambda x: x.sum(1), **options)


def test_the_fewest_rows_work() -> None:
    for n, kind in ((4, False), (8, True)):
        found = HSICAttribution(lambda x: x[:, 0] + 2 * x[:, 1], n_samples=n, unbiased=kind).explain(ones(2))
        assert found.values.isfinite().all()
        assert found.standard_error.isfinite().all()


def mixed(x: Tensor) -> Tensor:
    return 4 * x[:, 0] + 2 * x[:, 1] * x[:, 2] + x[:, 3] + 0.3 * torch.sin(5 * x.sum(1))


def test_a_budget_pays_the_example_and_the_rows() -> None:
    x = ones(12)
    found = HSICAttribution(mixed, budget=201).explain(x)
    assert torch.equal(found.values, HSICAttribution(mixed, n_samples=200).attribute(x))
    assert 150 < found.provenance["evaluations"] <= 201
    assert torch.equal(HSICAttribution(mixed, n_samples=50, budget=201).attribute(x), few(50))
    assert torch.equal(HSICAttribution(mixed, n_samples=500, budget=51).attribute(x), few(50))
    assert not torch.equal(few(50), few(200))
    with pytest.raises(TorchwhyError, match="budget=8 is too small for 12 features: the least that works is 9"):
        HSICAttribution(mixed, budget=8, unbiased=True).attribute(x)


def few(rows: int) -> Tensor:
    return HSICAttribution(mixed, n_samples=rows).attribute(ones(12))


@pytest.mark.parametrize("kind", [True, False])
def test_it_stops_when_settled(kind: bool) -> None:
    found = HSICAttribution(mixed, unbiased=kind, stop_at="se<0.006").explain(ones(12))
    assert found.standard_error.max() <= 0.006
    assert found.evidence[0].status == ("pass",)
    assert 32 < found.provenance["evaluations"] < 4000
    ranked = HSICAttribution(mixed, unbiased=kind, top_k=1).explain(ones(12))
    assert ranked.provenance["stopped_because"] == "the 1 largest values are told from the others"
    assert ranked.values[0].argmax() == 0
    less = HSICAttribution(mixed, unbiased=kind, stop_at="se<0.001", budget=100).explain(ones(12))
    assert less.evidence[0].status == ("warn",)


def test_a_model_that_draws_random_numbers_is_told() -> None:
    with pytest.raises(TorchwhyError, match="functional dropout left on"):
        HSICAttribution(lambda x: dropout(x, 0.5).sum(1)).attribute(ones(6))


def test_one_cell_alone_is_all_the_dependence_there_is() -> None:
    """The score is its presence. Most pairs of rows agree, so the kernel is as wide as the mean distance, 3/2."""
    found = HSICAttribution(lambda x: 3 * x[:, 0], n_samples=1000).attribute(ones(1))
    known = (1 - torch.exp(torch.tensor(-2.0, dtype=torch.float64))) / 4
    assert_close(found[0, 0], known, rtol=0.01, atol=0)
