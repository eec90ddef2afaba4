"""Owen sampling: Shapley values without bias, whatever the nodes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.testing import assert_close

from torchwhy import TorchwhyError
from torchwhy.engines.fills import Marginal
from torchwhy.engines.surrogate import all_rows, banzhaf_from_all, shapley_from_all
from torchwhy.methods.owen import OwenSampling
from torchwhy.methods.shapley import ShapleyValues

M = 8


def ones(m: int = M) -> Tensor:
    return torch.ones(1, m, dtype=torch.float64)


def game(m: int = M) -> tuple[Tensor, object]:
    worth = torch.randn(2**m, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    bits = 2 ** torch.arange(m)
    return worth, lambda x: worth[(x.long() * bits).sum(1)]


@pytest.mark.parametrize("antithetic", [False, True])
def test_an_additive_game_is_exact(antithetic: bool) -> None:
    x, weights = torch.randn(3, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    found = OwenSampling(lambda z: z @ weights + z[:, 0] ** 3, antithetic=antithetic, n_nodes=1, n_samples=2)
    known = weights * (x - 0.5)
    known[:, 0] += x[:, 0] ** 3 - 0.125
    assert_close(found.attribute(x, 0.5), known)


def test_a_product_of_two_is_exact_with_complements() -> None:
    """What i adds is 1 where j is there: with a row and its complement, every second time."""
    found = OwenSampling(lambda z: z[:, 0] * z[:, 1], n_samples=2, n_nodes=1).attribute(ones(3))
    assert_close(found, torch.tensor([[0.5, 0.5, 0]], dtype=torch.float64))
    plain = OwenSampling(lambda z: z[:, 0] * z[:, 1], n_samples=1, n_nodes=1).attribute(ones(3))
    assert not torch.allclose(plain, found)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(("n_nodes", "n_samples"), [(1, 24), (2, 20), (6, 16)])
def test_estimates_have_no_bias_and_intervals_hold(n_nodes: int, n_samples: int, antithetic: bool) -> None:
    worth, model = game()
    known, seeds = shapley_from_all(worth[:, None])[:, 0], 40
    runs = [
        OwenSampling(model, n_nodes=n_nodes, n_samples=n_samples, antithetic=antithetic, seed=s).explain(ones())
        for s in range(seeds)
    ]
    values = torch.stack([r.values[0] for r in runs])
    errors = torch.stack([r.standard_error[0] for r in runs])
    spread = values.std(0) / seeds**0.5
    assert ((values.mean(0) - known) / spread).abs().max() < 4.5
    inside = (values - known).abs() < runs[0].provenance["interval_95"] * errors
    assert 0.9 <= inside.double().mean() <= 0.99
    # Other values of the same game lie elsewhere.
    assert ((values.mean(0) - banzhaf_from_all(worth[:, None])[:, 0]) / spread).abs().max() > 4.5


def test_nodes_and_complements_make_the_error_smaller() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(M, 6, generator=generator, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return torch.relu(x @ first - 0.5).sum(1)

    known = shapley_from_all(model(all_rows(M).double())[:, None])[:, 0]

    def error(**options: object) -> float:
        runs = [OwenSampling(model, seed=s, **options).attribute(ones())[0] for s in range(20)]
        return float((torch.stack(runs) - known).square().mean().sqrt())

    plain = error(n_nodes=1, n_samples=40, antithetic=False)
    assert error(n_nodes=10, n_samples=4, antithetic=False) < 0.9 * plain
    assert error(n_nodes=10, n_samples=4) < 0.8 * plain


def test_a_feature_that_never_matters_gets_nothing() -> None:
    _, model = game()
    found = OwenSampling(lambda x: model(x[:, 1:])).attribute(ones(M + 1))[0]
    assert found[0] == 0
    assert found[1:].abs().min() > 0


def test_what_is_told() -> None:
    _, model = game()
    found = OwenSampling(model, n_nodes=3, n_samples=4).explain(ones())
    assert 3 * 4 * (M + 1) / 2 < found.provenance["evaluations"] <= 3 * 4 * (M + 1) + 1  # each coalition once
    assert not found.provenance["exact"]
    alone = OwenSampling(model, n_nodes=3, n_samples=3).explain(ones())
    assert alone.standard_error is None  # one sample with its complements has no spread


def test_a_budget_of_samples() -> None:
    _, model = game()
    each = 3 * (M + 1)
    found = OwenSampling(model, n_nodes=3, budget=7 * each).explain(ones())
    assert torch.equal(found.values, OwenSampling(model, n_nodes=3, n_samples=6).attribute(ones()))
    assert found.provenance["evaluations"] <= 7 * each
    fewer = OwenSampling(model, n_nodes=3, n_samples=4, budget=7 * each).attribute(ones())
    assert torch.equal(fewer, OwenSampling(model, n_nodes=3, n_samples=4).attribute(ones()))
    one = OwenSampling(model, n_nodes=3, budget=each + 1).explain(ones())
    assert one.standard_error is None
    assert "interval_95" not in one.provenance
    with pytest.raises(TorchwhyError, match=f"budget={each} is too small for 8 features: the least that works is 28"):
        OwenSampling(model, n_nodes=3, budget=each).attribute(ones())
    with pytest.raises(TorchwhyError, match="the least that works is 109"):  # two samples and their complements
        OwenSampling(model, n_nodes=3, budget=each + 1, stop_at="se<1").attribute(ones())


@pytest.mark.parametrize("m", [1, 2])
def test_one_and_two_features(m: int) -> None:
    worth, model = game(m)
    found = OwenSampling(model).explain(ones(m))
    assert_close(found.values.sum(), worth[-1] - worth[0])
    assert found.provenance["evaluations"] <= 2**m
    assert m == 1 or found.standard_error.max() < 1e-12


def test_a_fill_that_draws_is_paid_for_each_draw() -> None:
    data = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return (x[:, 0] * x[:, 1] + x[:, 2]).tanh()

    found = OwenSampling(model, fill=Marginal(data), budget=6 * (1 + 5 * 5 * 8), seed=1).explain(ones(4))
    assert found.provenance["evaluations"] <= 6 * 201
    known = ShapleyValues(model, fill=Marginal(data)).attribute(ones(4))
    assert ((found.values - known).abs() < 5 * found.standard_error + 1e-12).all()
    with pytest.raises(TorchwhyError, match="the least that works is 156"):
        OwenSampling(model, fill=Marginal(data), budget=155).attribute(ones(4))


def test_a_model_that_draws_random_numbers_is_told() -> None:
    with pytest.raises(TorchwhyError, match=r"gave example 0 the score .*functional dropout left on"):
        OwenSampling(lambda x: dropout(x, 0.5).sum(1)).attribute(ones())


def test_groups_play_as_one() -> None:
    mask = torch.tensor([0, 0, 1, 2])
    found = OwenSampling(lambda x: x[:, 0] * x[:, 1] + x[:, 3], feature_mask=mask).attribute(ones(4))
    assert_close(found, torch.tensor([[1.0, 1, 0, 1]], dtype=torch.float64))


@pytest.mark.parametrize("option", ["n_nodes", "n_samples"])
def test_what_does_not_fit_is_refused(option: str) -> None:
    with pytest.raises(TorchwhyError, match=f"{option} is a whole number of at least 1, not 0"):
        OwenSampling(lambda x: x.sum(1), **{option: 0})
