"""Shapley interactions: games whose indices are known, promises, estimates without bias and errors that hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.testing import assert_close

from torchwhy import Explanation, NoiseTunnel, TorchwhyError
from torchwhy.engines.fills import Marginal
from torchwhy.engines.surrogate import all_rows
from torchwhy.methods.interactions import INDICES, ShapleyInteractions
from torchwhy.methods.shapley import ShapleyValues
from torchwhy.render.figure import figure
from torchwhy.render.panels import HeatMap, panels

M = 6
NAMES = sorted(INDICES)


def ones(m: int = M) -> Tensor:
    return torch.ones(1, m, dtype=torch.float64)


def off(m: int = M) -> Tensor:
    return ~torch.eye(m, dtype=torch.bool)


def table(seed: int, m: int = M) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A random game: the worth of each coalition, and a model of rows of zeros and ones."""
    worth = torch.randn(2**m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bits = 2 ** torch.arange(m)
    return worth, lambda x: worth[(x.long() * bits).sum(1)]


def rough(m: int) -> Callable[[Tensor], Tensor]:
    """A network with kinks, interactions of all orders and a jump, of rows of zeros and ones."""
    generator = torch.Generator().manual_seed(5)
    first = torch.randn(m, 24, generator=generator, dtype=torch.float64)
    second = torch.randn(24, generator=generator, dtype=torch.float64)
    return lambda x: torch.relu(x @ first - 1) @ second + 2 * (x[:, :5].sum(1) > 2).double()


def quadratic(m: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What the pairs and the features alone are worth, and their sum."""
    worth = torch.randn(m, m, generator=torch.Generator().manual_seed(m), dtype=torch.float64).triu()
    return worth + worth.triu(1).T, lambda x: ((x @ worth) * x).sum(1)


def brute_force(worth: Tensor, i: int, j: int) -> float:
    """The Shapley interaction index by its definition."""
    rest = [k for k in range(M) if k not in (i, j)]
    total = 0.0
    for size in range(M - 1):
        for chosen in combinations(rest, size):
            s = sum(2**k for k in chosen)
            together = worth[s + 2**i + 2**j] - worth[s + 2**i] - worth[s + 2**j] + worth[s]
            total += math.factorial(size) * math.factorial(M - size - 2) / math.factorial(M - 1) * float(together)
    return total


def taylor(worth: Tensor) -> Tensor:
    """The Shapley-Taylor index: over all orders, what two do together where the first of them arrives."""
    v, total, number = worth.tolist(), torch.zeros(M, M, dtype=torch.float64), 0
    for order in permutations(range(M)):
        there = 0
        for k, i in enumerate(order):
            for j in order[k + 1 :]:
                total[i, j] += v[there + 2**i + 2**j] - v[there + 2**i] - v[there + 2**j] + v[there]
            there += 2**i
        number += 1
    alone = [v[2**i] - v[0] for i in range(M)]
    return (total + total.T) / number + torch.tensor(alone, dtype=torch.float64).diag()


def closest_quadratic_game(worth: Tensor) -> tuple[Tensor, Tensor]:
    """What features and pairs are worth in it: weighted least squares, with the ends of a very large weight."""
    rows = all_rows(M).double()
    pairs = list(combinations(range(M), 2))
    columns = [torch.ones(len(rows), 1).double(), rows, *[(rows[:, i] * rows[:, j])[:, None] for i, j in pairs]]
    sizes = rows.sum(1).int().tolist()
    kernel = [1e8 if k in (0, M) else (M - 1) / (math.comb(M, k) * k * (M - k)) for k in sizes]
    root = torch.tensor(kernel, dtype=torch.float64).sqrt()[:, None]
    found = torch.linalg.lstsq(root * torch.cat(columns, 1), root * worth[:, None], driver="gelsd").solution[:, 0]
    both = torch.zeros(M, M, dtype=torch.float64)
    for (i, j), value in zip(pairs, found[1 + M :], strict=True):
        both[i, j] = both[j, i] = value
    return found[1 : 1 + M], both


# -- games whose indices are known ---------------------------------------------------------------------------


@pytest.mark.parametrize("index", NAMES)
def test_a_quadratic_game_is_found(index: str) -> None:
    worth, model = quadratic(7)
    found = ShapleyInteractions(model, index=index).attribute(ones(7))[0]
    assert_close(found[off(7)], worth[off(7)])
    alone = worth.diagonal()
    known = alone + (worth.sum(1) - alone) / 2 if index == "SII" else alone
    assert_close(found.diagonal(), known)


@pytest.mark.parametrize("seed", range(3))
def test_shapley_interactions_of_random_games(seed: int) -> None:
    worth, model = table(seed)
    known = torch.tensor([[brute_force(worth, i, j) if i != j else 0.0 for j in range(M)] for i in range(M)]).double()
    phi = ShapleyValues(model).attribute(ones())[0]
    sii = ShapleyInteractions(model, index="SII").attribute(ones())[0]
    assert_close(sii, known + phi.diag(), rtol=1e-6, atol=1e-6)
    split = ShapleyInteractions(model, index="k-SII").attribute(ones())[0]
    assert_close(split, known + (phi - known.sum(1) / 2).diag(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_faith_interactions_are_the_closest_quadratic_game(seed: int) -> None:
    worth, model = table(seed)
    alone, both = closest_quadratic_game(worth)
    found = ShapleyInteractions(model, index="FSII").attribute(ones())[0]
    assert_close(found, both + alone.diag(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, ShapleyInteractions(model, index="k-SII").attribute(ones())[0])


def test_shapley_taylor_interactions_are_means_over_orders() -> None:
    worth, model = table(1)
    found = ShapleyInteractions(model, index="STII").attribute(ones())[0]
    assert_close(found, taylor(worth))
    assert not torch.allclose(found, ShapleyInteractions(model).attribute(ones())[0])


def test_what_many_do_together_is_shared_by_their_pairs() -> None:
    """A product of four has six pairs, and is nothing to each alone."""
    found = ShapleyInteractions(lambda x: x[:, :4].prod(1), index="STII").attribute(ones(5))[0]
    known = torch.zeros(5, 5, dtype=torch.float64)
    known[:4, :4] = (1 - torch.eye(4)) / 6
    assert_close(found, known)


def test_three_that_are_needed_share_their_interaction() -> None:
    """Of a product of three, each two have in the mean 1/2; what is left of 1 is alone."""
    found = ShapleyInteractions(lambda x: x[:, 0] * x[:, 1] * x[:, 2]).attribute(ones(4))[0]
    known = torch.full((4, 4), 0.5, dtype=torch.float64)
    known[3], known[:, 3] = 0, 0
    assert_close(found, known.where(off(4), torch.tensor([-1 / 6] * 3 + [0.0], dtype=torch.float64).diag()))


@pytest.mark.parametrize("index", NAMES)
def test_one_and_two_features(index: str) -> None:
    found = ShapleyInteractions(lambda x: 3 * x[:, 0], index=index).attribute(ones(1))
    assert found.tolist() == [[[3]]]
    two = ShapleyInteractions(lambda x: x[:, 0] + 4 * x[:, 0] * x[:, 1], index=index).attribute(ones(2))
    assert two.tolist() == [[[3, 4], [4, 2]] if index == "SII" else [[1, 4], [4, 0]]]


# -- promises ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 100])
@pytest.mark.parametrize("index", NAMES)
def test_what_adds_up(index: str, budget: int | None) -> None:
    m = 9
    worth, model = table(3, m)
    found = ShapleyInteractions(model, index=index, budget=budget).explain(ones(m))
    sums = [c for c in found.evidence if c.name == "completeness"]
    change = worth[-1] - worth[0]
    if index == "SII":
        assert not sums
        assert_close(found.values[0].diagonal().sum(), change)
        assert (found.values[0].triu().sum() - change).abs() > 0.1
    else:
        assert_close(found.values[0].triu().sum(), change)
        assert sums[0].status == ("pass",)
        assert sums[0].value[0] < 1e-9


def test_sums_are_of_what_absent_features_get() -> None:
    data = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = rough(4)
    found = ShapleyInteractions(model, fill=Marginal(data)).explain(ones(4))
    assert_close(found.values[0].triu().sum(), (model(ones(4)) - model(data).mean())[0])
    assert found.evidence[0].value[0] < 1e-9


@pytest.mark.parametrize("index", NAMES)
def test_a_feature_that_never_matters_has_no_part_in_anything(index: str) -> None:
    _, model = table(1)
    found = ShapleyInteractions(lambda x: model(x[:, 1:]), index=index).attribute(ones(M + 1))[0]
    assert found[0].abs().max() < 1e-12
    assert found[1:, 1:].abs().min() > 1e-6


def test_groups_play_as_one_and_tuples_give_one_matrix() -> None:
    def model(a: Tensor, b: Tensor) -> Tensor:
        return a[:, 0] * a[:, 1] * b[:, 0] + b[:, 1]

    masks = torch.tensor([5, 5]), torch.tensor([7, 9])
    found = ShapleyInteractions(model, feature_mask=masks).attribute((ones(2), ones(2)))
    assert_close(found, torch.tensor([[[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]], dtype=torch.float64))


# -- what is sampled -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [100, 250])
@pytest.mark.parametrize("index", NAMES)
def test_estimates_have_no_bias_and_intervals_hold(index: str, budget: int) -> None:
    m, seeds = 10, 30
    model = rough(m)
    known = ShapleyInteractions(model, index=index).attribute(ones(m))[0]
    runs = [ShapleyInteractions(model, index=index, budget=budget, seed=s).explain(ones(m)) for s in range(seeds)]
    values = torch.stack([r.values[0] for r in runs])
    errors = torch.stack([r.standard_error[0] for r in runs])
    z = (values.mean(0) - known) / (values.std(0) / seeds**0.5)
    inside = (values - known).abs() < runs[0].provenance["interval_95"] * errors
    assert z[off(m)].abs().max() < 4.5
    assert 0.9 <= inside[:, off(m)].double().mean() <= 0.99
    if index == "STII":  # what each adds to none is evaluated
        assert_close(values[:, ~off(m)], known.diagonal().expand(seeds, m))
        assert errors[:, ~off(m)].max() == 0
    else:
        assert z[~off(m)].abs().max() < 4.5
        assert 0.9 <= inside[:, ~off(m)].double().mean() <= 0.99
    assert_close(values, values.mT, rtol=0, atol=0)
    if budget == 100:
        return
    # Other weights would be seen.
    other = ShapleyInteractions(model, index="STII" if index == "FSII" else "FSII").attribute(ones(m))[0]
    assert ((values.mean(0) - other) / (values.std(0) / seeds**0.5))[off(m)].abs().max() > 4.5


def test_sampling_is_exact_where_the_game_is_quadratic() -> None:
    worth, model = quadratic(24)
    found = ShapleyInteractions(model, budget=800).explain(ones(24))
    assert_close(found.values[0], worth, rtol=1e-4, atol=1e-4)
    assert found.standard_error.max() < 1e-3
    few = ShapleyInteractions(model, budget=200).explain(ones(24))
    assert (few.values[0] - worth).abs().max() > 0.1
    assert few.standard_error.max() > 0.1


def test_a_budget_pays_what_each_adds_to_none() -> None:
    model = rough(20)
    assert ShapleyInteractions(model, index="STII", budget=38).explain(ones(20)).provenance["evaluations"] <= 38
    with pytest.raises(TorchwhyError, match="budget=37 is too small for 20 features: the least that works is 38"):
        ShapleyInteractions(model, index="STII", budget=37).attribute(ones(20))


@pytest.mark.parametrize("index", NAMES)
def test_it_stops_when_all_cells_are_settled(index: str) -> None:
    found = ShapleyInteractions(rough(14), index=index, stop_at="se<0.15").explain(ones(14))
    assert found.standard_error.max() <= 0.15
    assert found.evidence[0].status == ("pass",)
    assert found.provenance["evaluations"] < 8000
    less = ShapleyInteractions(rough(14), index=index, stop_at="se<0.15", budget=200).explain(ones(14))
    assert less.evidence[0].status == ("warn",)
    assert less.provenance["stopped_because"] == "the budget was spent"


def test_it_stops_when_the_largest_interactions_are_told_from_the_others() -> None:
    """What features do alone, here far more, is not ranked."""

    def model(x: Tensor) -> Tensor:
        small = 0.2 * torch.sin(3 * x @ torch.linspace(0.1, 1, 20, dtype=torch.float64))
        return 50 * x[:, 7] + 3 * x[:, 0] * x[:, 1] - 2 * x[:, 2] * x[:, 3] + small

    found = ShapleyInteractions(model, top_k=2).explain(ones(20))
    largest = found.values[0].triu(1).abs().flatten().topk(2).indices
    assert sorted(largest.tolist()) == [1, 2 * 20 + 3]
    assert found.provenance["stopped_because"] == "the 2 largest interactions are told from the others"
    assert found.provenance["evaluations"] < 20_000
    more = ShapleyInteractions(model, top_k=3, budget=300).explain(ones(20))
    assert more.evidence[0].status == ("warn",)


def test_a_model_that_draws_random_numbers_is_told() -> None:
    with pytest.raises(TorchwhyError, match="functional dropout left on"):
        ShapleyInteractions(lambda x: dropout(x, 0.5).sum(1), index="STII").attribute(ones())


def test_the_diagonal_is_what_shapley_values_are() -> None:
    model = rough(14)
    found = ShapleyInteractions(model, index="SII", budget=300, seed=3).explain(ones(14))
    known = ShapleyValues(model, budget=300, seed=3, gradients=False).explain(ones(14))
    assert_close(found.values[0].diagonal(), known.values[0])
    assert_close(found.standard_error[0].diagonal(), known.standard_error[0])
    assert found.provenance["evaluations"] == known.provenance["evaluations"]


# -- how it is shown and kept --------------------------------------------------------------------------------


def test_a_heat_map_of_pairs(tmp_path) -> None:
    image = torch.rand(2, 1, 2, 3, dtype=torch.float64)
    found = ShapleyInteractions(lambda x: x[:, 0, 0].prod(1) + x[:, 0, 1, 2]).explain(image, check="basic")
    assert found.form == "pairs"
    (panel,) = panels(found, 1)
    assert isinstance(panel, HeatMap)
    assert panel.caption == "pairs of 6 features, each alone on the diagonal"
    assert panel.background is None
    assert_close(panel.values, found.values[1])
    assert len(figure(found).subfigs) == 2
    again = Explanation.load(found.save(tmp_path / "pairs.safetensors"))
    assert again.form == "pairs"
    assert again.evidence[-1].reason[0] == "pairs of features mark no elements that could be removed"
    # A matrix of as many elements is another thing.
    (other,) = panels(ShapleyValues(lambda x: x.sum((1, 2, 3))).explain(image), 1)
    assert other.background is not None


def test_noise_keeps_the_form() -> None:
    worth, model = quadratic(4)
    found = NoiseTunnel(ShapleyInteractions(model), nt_samples=400, stdevs=0.1).explain(ones(4))
    assert found.form == "pairs"
    assert ((found.values[0] - worth).abs() < 5 * found.standard_error[0] + 0.02).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "BII"}, "index is .*'FSII'.*, not 'BII'"),
        ({"top_k": 0}, "top_k is a whole number of at least 1"),
        ({"stop_at": "0.1"}, "stop_at bounds the standard error"),
        ({"budget": 0}, "budget is a whole number of at least 1"),
        ({"budget": 17}, "budget=17 is too small for 20 features: the least that works is 18"),
        ({"fill": "grey"}, "there is no fill 'grey'"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        ShapleyInteractions(lambda x: x.sum(1), **options).attribute(ones(20))
