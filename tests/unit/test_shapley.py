"""Shapley and Banzhaf values: games whose values are known, axioms, estimates without bias and errors that hold."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from torchwhy import TorchwhyError
from torchwhy.engines.process import WAVES, Kernel, Part, Product, Waves, solve
from torchwhy.engines.spread import student
from torchwhy.engines.surrogate import (
    all_rows,
    banzhaf_from_all,
    draw_pairs,
    shapley_from_all,
    solve_banzhaf,
    solve_kernel,
)
from torchwhy.methods.banzhaf import Banzhaf
from torchwhy.methods.kernel_shap import KernelShap
from torchwhy.methods.shapley import ShapleyValues, ShapleyValueSampling

axiom = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def tight(found: object, known: object) -> None:
    assert_close(found, known, rtol=1e-9, atol=1e-9)


def double(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def ones(m: int) -> Tensor:
    return torch.ones(1, m, dtype=torch.float64)


def brute_force(v: Callable[[frozenset[int]], float], m: int) -> Tensor:
    """The mean over all orders."""
    total = torch.zeros(m, dtype=torch.float64)
    for order in permutations(range(m)):
        there: frozenset[int] = frozenset()
        for i in order:
            total[i] += v(there | {i}) - v(there)
            there |= {i}
    return total / math.factorial(m)


def table(m: int, seed: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A random game: the worth of each coalition, and a model of rows of zeros and ones."""
    worth = torch.randn(2**m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bits = 2 ** torch.arange(m)
    return worth, lambda x: worth[(x.long() * bits).sum(1)]


# -- games whose values are known ----------------------------------------------------------------------------


def test_linear_models() -> None:
    weights = torch.randn(9, dtype=torch.float64)
    x, base = torch.randn(4, 9, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
    found = ShapleyValues(lambda z: z @ weights + 3).attribute(x, base)
    tight(found, weights * (x - base))


def test_additive_models() -> None:
    def model(z: Tensor) -> Tensor:
        return torch.sin(z[:, 0]) + z[:, 1] ** 3 + torch.exp(z[:, 2])

    x = torch.randn(3, 3, dtype=torch.float64)
    found = ShapleyValues(model).attribute(x, 0.5)
    half = torch.tensor(0.5, dtype=torch.float64)
    tight(found, torch.stack([x[:, 0].sin() - half.sin(), x[:, 1] ** 3 - 0.125, x[:, 2].exp() - half.exp()], 1))


def test_the_two_factors_of_a_product_share_it() -> None:
    x, b = double([[3.0, 5.0, 9.0]]), double([[1.0, 2.0, 9.0]])
    found = ShapleyValues(lambda z: z[:, 0] * z[:, 1]).attribute(x, b)
    tight(found, double([[2 * (5 + 2) / 2, 3 * (3 + 1) / 2, 0]]))


def test_the_glove_game() -> None:
    """One left glove and two right ones: a pair is worth 1."""
    found = ShapleyValues(lambda z: torch.minimum(z[:, 0], (z[:, 1] + z[:, 2]).clamp_max(1))).attribute(ones(3))
    tight(found, double([[4 / 6, 1 / 6, 1 / 6]]))


@pytest.mark.parametrize("needed", [1, 3, 5, 8])
def test_all_of_some_features_share_alike(needed: int) -> None:
    every = ShapleyValues(lambda z: z[:, :needed].prod(1)).attribute(ones(8))
    some = ShapleyValues(lambda z: 1 - (1 - z[:, :needed]).prod(1)).attribute(ones(8))
    known = double([[1 / needed] * needed + [0] * (8 - needed)])
    tight(every, known)
    tight(some, known)


@pytest.mark.parametrize("m", [1, 2, 7, 12])
def test_the_airport_game(m: int) -> None:
    """The longest runway that is needed: i shares each length with all that need it."""
    cost = torch.arange(1, m + 1, dtype=torch.float64) ** 1.5
    steps = cost.diff(prepend=torch.zeros(1, dtype=torch.float64))
    known = (steps / torch.arange(m, 0, -1)).cumsum(0)
    tight(ShapleyValues(lambda z: (z * cost).amax(1)).attribute(ones(m))[0], known)


def test_a_large_airport_lies_in_the_intervals() -> None:
    m = 40
    cost = torch.arange(1, m + 1, dtype=torch.float64)
    known = (1 / torch.arange(m, 0, -1).double()).cumsum(0)
    found = ShapleyValues(lambda z: (z * cost).amax(1), budget=2000).explain(ones(m))
    away = (found.values[0] - known).abs() / found.standard_error[0]
    assert (away < found.provenance["interval_95"]).double().mean() > 0.8
    assert (found.values[0] - known).norm() / known.norm() < 0.15
    tight(found.values.sum(), known.sum())


def test_every_size_of_a_large_airport() -> None:
    """All pairs of 16 players, as a sample: nothing is left to chance, and the estimate is the closed form."""
    m = 16
    pairs = draw_pairs(m, 2 ** (m - 1) - 1, 0)
    cost = torch.arange(1, m + 1, dtype=torch.float64)
    worth = [(rows * cost).amax(1) for rows in (pairs.rows, ~pairs.rows)]
    found = solve_kernel(pairs, (worth[0] - worth[1])[:, None] / 2, cost[-1:])
    tight(found.values[:, 0], (1 / torch.arange(m, 0, -1).double()).cumsum(0))
    assert found.standard_error.max() == 0


@pytest.mark.parametrize("seed", range(4))
def test_random_games_of_six_players(seed: int) -> None:
    worth, model = table(6, seed)
    known = brute_force(lambda s: float(worth[sum(2**i for i in s)]), 6)
    tight(ShapleyValues(model).attribute(ones(6))[0], known)
    tight(KernelShap(model, n_samples=64).attribute(ones(6))[0], known)
    tight(shapley_from_all(worth[:, None])[:, 0], known)
    every = ShapleyValueSampling(model, n_samples=3000).explain(ones(6))
    assert ((every.values[0] - known).abs() < 4.5 * every.standard_error[0]).all()


def test_banzhaf_of_a_random_game() -> None:
    worth, model = table(6, 0)
    known = [
        sum(
            float(worth[sum(2**j for j in s) + 2**i] - worth[sum(2**j for j in s)])
            for k in range(6)
            for s in combinations([j for j in range(6) if j != i], k)
        )
        / 32
        for i in range(6)
    ]
    tight(Banzhaf(model).attribute(ones(6)), double([known]))
    tight(banzhaf_from_all(worth[:, None])[:, 0], double(known))


def test_the_regression_over_all_pairs_is_exact() -> None:
    m = 7
    worth, _ = table(m, 1)
    pairs = draw_pairs(m, 2 ** (m - 1) - 1, 0)
    assert (pairs.left == 0).all()
    bits = 2 ** torch.arange(m)
    odd = (worth[(pairs.rows * bits).sum(1)] - worth[(~pairs.rows * bits).sum(1)])[:, None] / 2
    change = worth[-1:] - worth[:1]
    for found in (solve_kernel(pairs, odd, change), solve(pairs, odd, change)):
        tight(found.values, shapley_from_all(worth[:, None]))
        tight(found.standard_error, torch.zeros(m, 1).double())


# -- axioms --------------------------------------------------------------------------------------------------

METHODS = {
    "exact": ShapleyValues,
    "sampled": lambda model: ShapleyValues(model, budget=60),
    "orders": lambda model: ShapleyValueSampling(model, n_samples=5),
    "kernel": lambda model: KernelShap(model, n_samples=60),
}


@axiom
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(METHODS)))
def test_values_add_up(seed: int, name: str) -> None:
    worth, model = table(8, seed)
    tight(METHODS[name](model).attribute(ones(8)).sum(), worth[-1] - worth[0])


@axiom
@given(seed=st.integers(0, 10**6), scale=st.floats(-3, 3), name=st.sampled_from(["exact", "orders", "kernel"]))
def test_values_are_linear_in_the_game(seed: int, scale: float, name: str) -> None:
    (_, one), (_, two) = table(8, seed), table(8, seed + 1)
    parts = METHODS[name](one).attribute(ones(8)) + scale * METHODS[name](two).attribute(ones(8))
    tight(METHODS[name](lambda x: one(x) + scale * two(x)).attribute(ones(8)), parts)


@axiom
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["exact", "orders"]))
def test_a_feature_that_never_matters_gets_nothing(seed: int, name: str) -> None:
    _, model = table(7, seed)
    found = METHODS[name](lambda x: model(x[:, 1:])).attribute(ones(8))[0]
    tight(found[0], torch.zeros((), dtype=torch.float64))
    assert found[1:].abs().min() > 0


@axiom
@given(seed=st.integers(0, 10**6))
def test_features_that_do_the_same_get_the_same(seed: int) -> None:
    _, model = table(7, seed)

    def twins(x: Tensor) -> Tensor:
        return model(x[:, 1:]) + model(torch.cat([x[:, :1], x[:, 2:]], 1))

    found = ShapleyValues(twins).attribute(ones(8))[0]
    tight(found[0], found[1])
    assert (found[0] - found[2]).abs() > 1e-6


def test_groups_play_as_one() -> None:
    def model(x: Tensor) -> Tensor:
        return x[:, 0] * x[:, 1] * x[:, 2] + x[:, 3]

    found = ShapleyValues(model, feature_mask=torch.tensor([0, 0, 1, 2])).attribute(ones(4))
    tight(found, double([[0.5, 0.5, 0.5, 1]]))


# -- what is sampled -----------------------------------------------------------------------------------------


def rough(m: int) -> Callable[[Tensor], Tensor]:
    """A network with kinks, interactions of all orders and a jump, of rows of zeros and ones."""
    generator = torch.Generator().manual_seed(5)
    first = torch.randn(m, 24, generator=generator, dtype=torch.float64)
    second = torch.randn(24, generator=generator, dtype=torch.float64)
    return lambda x: torch.relu(x @ first - 1) @ second + 2 * (x[:, :5].sum(1) > 2).double()


ESTIMATORS = {
    "ShapleyValues": lambda model, seed: ShapleyValues(model, budget=150, seed=seed),
    "ShapleyValues without gradients": lambda model, seed: ShapleyValues(model, budget=150, seed=seed, gradients=False),
    "ShapleyValues, few": lambda model, seed: ShapleyValues(model, budget=60, seed=seed),
    "KernelShap": lambda model, seed: KernelShap(model, n_samples=150, seed=seed),
    "ShapleyValueSampling": lambda model, seed: ShapleyValueSampling(model, n_samples=16, seed=seed),
    "ShapleyValueSampling, plain": lambda model, seed: ShapleyValueSampling(
        model, n_samples=12, seed=seed, antithetic=False
    ),
    "Banzhaf": lambda model, seed: Banzhaf(model, budget=150, seed=seed),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_have_no_bias_and_intervals_hold(name: str) -> None:
    m, seeds = 12, 60
    model = rough(m)
    scores = model(all_rows(m).double())[:, None]
    known = (banzhaf_from_all if name == "Banzhaf" else shapley_from_all)(scores)[:, 0]
    runs = [ESTIMATORS[name](model, seed).explain(ones(m)) for seed in range(seeds)]
    values = torch.stack([r.values[0] for r in runs])
    errors = torch.stack([r.standard_error[0] for r in runs])
    z = (values.mean(0) - known) / (values.std(0) / seeds**0.5)
    assert z.abs().max() < 4.5
    inside = (values - known).abs() < errors * torch.tensor([[r.provenance["interval_95"]] for r in runs])
    assert 0.9 <= inside.double().mean() <= 0.99
    assert values.std(0).norm() > 1e-3  # there is something to estimate
    assert 0.7 < (errors**2).mean().sqrt() / (values - known).square().mean().sqrt() < 1.4


def games(m: int, seed: int) -> dict[str, Tensor]:
    """Games of many kinds: the worth of each coalition (2**M,)."""
    generator = torch.Generator().manual_seed(seed)
    rows = all_rows(m).double()

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "random": drawn(2**m),
        "heavy tails": (1.5 * drawn(2**m)).exp(),
        "additive": rows @ drawn(m),
        "all of three": 6 * rows[:, :3].prod(1) + rows @ drawn(m),
        "three alone": rows[:, :3].prod(1),
        "exponential": (rows @ drawn(m)).exp(),
        "network": torch.relu(rows @ drawn(m, 8) + drawn(8)) @ drawn(8),
        "airport": (rows * torch.arange(1, m + 1)).amax(1),
        "majority": (rows.sum(1) > m / 2).double(),
    }


@pytest.mark.parametrize(("m", "count"), [(5, 8), (7, 8), (7, 19), (7, 49), (7, 59), (9, 30)])
def test_intervals_hold_for_games_of_all_kinds_at_all_budgets(m: int, count: int) -> None:
    inside: dict[str, list[Tensor]] = {}
    for seed in range(40):
        worth = games(m, seed)
        v = torch.stack(list(worth.values()), 1)
        known = shapley_from_all(v)
        pairs = draw_pairs(m, count, seed)
        number = (pairs.rows.long() * 2 ** torch.arange(m)).sum(1)
        found = solve(pairs, (v[number] - v[2**m - 1 - number]) / 2, v[-1] - v[0])
        half = found.standard_error * student(found.freedom) + 1e-6 * v.abs().amax(0)
        for name, right in zip(worth, ((found.values - known).abs() <= half).T, strict=True):
            inside.setdefault(name, []).append(right)
    shares = {name: float(torch.stack(right).double().mean()) for name, right in inside.items()}
    assert min(shares.values()) >= 0.84, shares  # of 40 samples, most features of which are right or wrong together
    assert 0.9 <= sum(shares.values()) / len(shares) <= 0.995, shares


def test_the_surrogate_makes_the_error_smaller() -> None:
    """Where, as is usual, few features matter most."""
    m = 14
    first = torch.randn(m, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first *= 3 / torch.arange(1, m + 1)[:, None]

    def model(x: Tensor) -> Tensor:
        return torch.tanh(x @ first / 2).sum(1)

    known = shapley_from_all(model(all_rows(m).double())[:, None])[:, 0]

    def error(method: type, option: str) -> float:
        runs = [method(model, seed=s, **{option: 300}).attribute(ones(m))[0] for s in range(10)]
        return float((torch.stack(runs) - known).square().mean().sqrt())

    assert error(ShapleyValues, "budget") < 0.7 * error(KernelShap, "n_samples")


def test_sampling_is_exact_where_the_game_is_additive() -> None:
    weights = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for method in (ShapleyValues, Banzhaf):
        tight(method(lambda x: x @ weights, budget=100).attribute(ones(30))[0], weights)
    tight(KernelShap(lambda x: x @ weights, n_samples=100).attribute(ones(30))[0], weights)


def test_a_constant_score_gets_nothing() -> None:
    found = ShapleyValues(lambda x: 0 * x.sum(1) + 4, budget=100).explain(ones(30))
    assert found.values.abs().max() == 0
    assert found.standard_error.max() == 0


def test_many_features_and_few_evaluations() -> None:
    """Fewer pairs than features: the errors say so."""
    weights = torch.linspace(-1, 1, 500, dtype=torch.float64)
    found = ShapleyValues(lambda x: x @ weights, budget=200).explain(ones(500))
    assert ((found.values[0] - weights).abs() < 5 * found.standard_error[0]).all()
    assert found.verdict.status == "warn"
    large = ShapleyValues(lambda x: x.sum(1), budget=64).attribute(ones(5000))
    assert_close(large, ones(5000), rtol=0.02, atol=0.02)


def test_what_is_told() -> None:
    exact = ShapleyValues(rough(8)).explain(ones(8))
    assert exact.provenance["exact"]
    assert exact.provenance["evaluations"] == 256
    assert exact.standard_error.abs().max() == 0
    assert exact.verdict.status == "pass"
    drawn = ShapleyValues(rough(12), budget=201).explain(ones(12))
    assert not drawn.provenance["exact"]
    assert drawn.provenance["evaluations"] == 201  # 180 coalitions and 7 gradients
    assert drawn.provenance["forward_rows"] == 1 + 180 + 7
    assert drawn.provenance["backward_rows"] == 7
    assert drawn.evidence[0].name == "sampling error"


def test_rows_are_not_evaluated_twice() -> None:
    found = ShapleyValueSampling(rough(3), n_samples=50).explain(ones(3))
    assert found.provenance["evaluations"] == 8


# -- derivatives ---------------------------------------------------------------------------------------------


PARTS = [Product(torch.linspace(0.1, 1, 7).double()), Waves(torch.linspace(-2, 3, 35).double().sin().view(5, 7))]


@pytest.mark.parametrize("part", PARTS, ids=["product", "waves"])
def test_shapley_values_of_covariances(part: Part) -> None:
    """Those of the functions of signs that a process is made of, against all coalitions."""
    kernel = Kernel(((0.7, part),))
    signs = all_rows(7).double() * 2 - 1
    x = signs[[3, 41, 100]]
    tight(kernel.solved(x), shapley_from_all(covariances(kernel, signs, x)).T)
    assert (kernel.solved(x) - Kernel().solved(x)).abs().max() > 0.01


def covariances(kernel: Kernel, a: Tensor, b: Tensor) -> Tensor:
    return kernel.between(a, b, torch.eye(len(b)).double(), torch.zeros(len(a), 0).double())[0]


@pytest.mark.parametrize("part", PARTS, ids=["product", "waves"])
def test_covariances_are_the_same_in_parts_and_never_made(part: Part) -> None:
    """More signs than are taken at a time: products with covariances, one way and the other."""
    kernel = Kernel(((0.3, part), (0.7, part)))
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 7, generator=generator, dtype=torch.float64).sign() for n in (600, 300))
    v, w = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (300, 600))
    whole = a @ b.T / 7 + part.joined(part.mapped(a), part.mapped(b))
    tight(kernel.between(a, b, v, w), (whole @ v, whole.T @ w))
    tight(kernel.among(a).tril(), covariances(kernel, a, a).tril())
    assert (whole - a @ b.T / 7).abs().max() > 0.1


@pytest.mark.parametrize("part", PARTS, ids=["product", "waves"])
def test_covariances_that_a_process_is_chosen_by(part: Part) -> None:
    """Closed forms, to which those of many sines come close."""
    x = all_rows(7).double() * 2 - 1
    here = part.mapped(x)
    away = (part.smooth(x) - part.joined(here, here)).square().mean().sqrt()
    assert away < (1e-12 if isinstance(part, Product) else WAVES**-0.5)
    drawn = torch.randn(400_000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ PARTS[1].spread
    known = ((drawn @ x[3]).sin() * (drawn @ x[41]).sin()).mean()
    assert abs(float(PARTS[1].smooth(x)[3, 41] - known)) < 4 / 400_000**0.5


def ridges(m: int) -> Callable[[Tensor], Tensor]:
    """A function of two directions, neither of which is a feature."""
    first = torch.randn(m, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return lambda x: (1.2 * x @ first / m**0.5).sin().prod(1) + (2 * x @ first[:, 0] / m**0.5).tanh()


@pytest.mark.parametrize("budget", [120, 400])
def test_derivatives_make_the_error_smaller(budget: int) -> None:
    m = 14
    model = ridges(m)
    known = shapley_from_all(model(all_rows(m).double())[:, None])[:, 0]

    def run(*, gradients: bool) -> tuple[float, float]:
        made = [ShapleyValues(model, budget=budget, seed=s, gradients=gradients).explain(ones(m)) for s in range(10)]
        paid = {e.provenance["evaluations"] for e in made}
        assert paid <= {budget, budget - 1}
        return float((torch.cat([e.values for e in made]) - known).norm()), made[0].provenance["backward_rows"]

    (with_them, some), (without, none) = run(gradients=True), run(gradients=False)
    assert with_them < 0.7 * without
    assert some > 0 == none


def test_a_gradient_counts_as_three_evaluations() -> None:
    found = ShapleyValues(rough(20), budget=500).explain(torch.rand(3, 20).double())
    made = found.provenance["backward_rows"] / 3
    assert made == 11
    assert found.provenance["evaluations"] == found.provenance["forward_rows"] / 3 - 1 - made + 3 * made
    assert found.provenance["evaluations"] in (499, 500)


def test_derivatives_of_groups() -> None:
    """A model of the sums of groups: groups in two tensors play as the single features do."""
    m, ids = 14, torch.arange(28) // 2
    model = ridges(m)
    x = torch.rand(2, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def summed(*parts: Tensor) -> Tensor:
        return model(torch.cat(parts, 1).unflatten(1, (m, 2)).sum(2))

    alone = ShapleyValues(model, budget=150).attribute(x.unflatten(1, (m, 2)).sum(2))
    grouped = ShapleyValues(summed, budget=150, feature_mask=(ids[:9], ids[9:])).attribute((x[:, :9], x[:, 9:]))
    places = torch.cat(grouped, 1)
    assert_close(places[:, ::2], alone, rtol=1e-6, atol=1e-8)
    tight(places[:, ::2], places[:, 1::2])


@pytest.mark.parametrize(
    "hidden",
    [lambda y: y.detach(), lambda y: torch.from_numpy(y.detach().numpy()), lambda y: y.round(decimals=3)],
    ids=["detached", "numpy", "flat"],
)
def test_what_has_no_derivative_is_done_without(hidden: Callable[[Tensor], Tensor]) -> None:
    model = rough(12)
    found = ShapleyValues(lambda x: hidden(model(x)), budget=150).explain(ones(12))
    known = shapley_from_all(hidden(model(all_rows(12).double()))[:, None])[:, 0]
    assert ((found.values[0] - known).abs() < 5 * found.standard_error[0]).all()
    assert found.provenance["evaluations"] <= 150


def unwilling(error: Exception, most: int) -> Callable[[Tensor], Tensor]:
    """A model that raises in the pass after so many that need gradients."""
    passes = []

    def model(x: Tensor) -> Tensor:
        passes.append(x.requires_grad)
        if x.requires_grad and sum(passes) > most:
            raise error
        return rough(12)(x)

    return model


@pytest.mark.parametrize("most", [0, 1])
@pytest.mark.parametrize("error", [ValueError("no"), AssertionError(), NotImplementedError(), torch.OutOfMemoryError()])
def test_a_model_that_fails_where_derivatives_are_asked_for_is_explained_without(error: Exception, most: int) -> None:
    found = ShapleyValues(unwilling(error, most), budget=150).explain(ones(12))
    known = shapley_from_all(rough(12)(all_rows(12).double())[:, None])[:, 0]
    assert ((found.values[0] - known).abs() < 5 * found.standard_error[0]).all()
    assert found.provenance["evaluations"] in (149, 150)
    with pytest.raises(type(error)):
        unwilling(error, 0)(ones(12).requires_grad_())


def test_a_warning_where_derivatives_are_asked_for_is_not_shown() -> None:
    def model(x: Tensor) -> Tensor:
        if x.requires_grad:
            warnings.warn("a number is taken out of a graph", stacklevel=1)
        return rough(12)(x)

    found = ShapleyValues(model, budget=150).explain(ones(12))  # here warnings are errors
    assert found.provenance["backward_rows"] > 0
    with pytest.warns(UserWarning, match="out of a graph"):
        model(ones(12).requires_grad_())


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_given_back(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    seen = []

    def watched(self: Kernel, x: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        if fails:
            raise KeyboardInterrupt
        return 2 * x / x.shape[1]

    monkeypatch.setattr(Kernel, "solved", watched)
    torch.set_num_threads(3)
    try:
        with nullcontext() if not fails else pytest.raises(KeyboardInterrupt):
            ShapleyValues(rough(12), budget=100).attribute(ones(12))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


# -- pairs ---------------------------------------------------------------------------------------------------


@axiom
@given(m=st.integers(4, 40), count=st.integers(8, 300), seed=st.integers(0, 100))
def test_pairs_are_different_and_of_the_planned_sizes(m: int, count: int, seed: int) -> None:
    count = min(count, 2 ** (m - 1) - 1)
    pairs = draw_pairs(m, count, seed)
    assert abs(len(pairs) - count) <= 1
    assert torch.equal(pairs.rows.sum(1).double(), pairs.size)
    assert len({row.numpy().tobytes() for row in pairs.both}) == 2 * len(pairs)
    halves = pairs.rows[2 * pairs.size == m]
    assert halves[:, 0].all()
    assert ((pairs.left >= 0) & (pairs.left < 1)).all()
    assert_close(pairs.contributions().sum(1), torch.zeros(len(pairs)).double(), atol=1e-12, rtol=0)


def test_a_solved_banzhaf_of_an_additive_game() -> None:
    rows = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    weights = torch.arange(6).double()
    odd = ((rows.double() - 0.5) @ weights)[:, None]
    tight(solve_banzhaf(rows, odd).values[:, 0], weights)


def test_students_quantiles() -> None:
    known = {4: 2.7764, 8: 2.3060, 15: 2.1314, 40: 2.0211, 200: 1.9719}
    for freedom, quantile in known.items():
        assert abs(student(freedom) - quantile) < 0.03


# -- what cannot be done is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShapleyValues(rough(20), budget=17), "budget=17 is too small for 20 features: .* works is 18"),
        (lambda: ShapleyValues(rough(20), budget=3, feature_mask=torch.arange(20) // 10), "works is 4"),
        (lambda: KernelShap(rough(20), n_samples=57), "n_samples=57 is too small for 20 features: .* works is 58"),
        (lambda: Banzhaf(rough(20), budget=57), "works is 58"),
        (lambda: ShapleyValues(rough(20), budget=0), "budget is a whole number of at least 1"),
        (lambda: ShapleyValues(rough(20), budget=2.5), "budget is a whole number"),
        (lambda: ShapleyValueSampling(rough(20), n_samples=0), "n_samples is a whole number"),
        (lambda: ShapleyValues(rough(20), fill="grey"), "there is no fill 'grey'"),
        (lambda: ShapleyValues(rough(20), feature_mask=torch.zeros(3).long()), "does not broadcast"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], ShapleyValues], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        make().attribute(ones(20))


@pytest.mark.parametrize("least", [18, 58])
def test_the_least_that_works_works(least: int) -> None:
    method = ShapleyValues(rough(20), budget=18) if least == 18 else KernelShap(rough(20), n_samples=58)
    found = method.explain(ones(20))
    assert found.values.isfinite().all()
    assert (found.standard_error > 0).all()


def test_a_model_that_draws_random_numbers_is_told() -> None:
    weights = 2.0 ** torch.arange(6)  # so that every draw has a score of its own
    torch.manual_seed(0)

    def model(x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(x.float(), 0.5, training=True) @ weights

    for method in (ShapleyValues, ShapleyValueSampling, KernelShap, Banzhaf):
        with pytest.raises(TorchwhyError, match=r"and then .* random numbers \(functional dropout left on\?\)"):
            method(model).attribute(ones(6))
