"""The statistics of a comparison, on tables whose answers are known."""

import math
from itertools import combinations, pairwise

import pytest
import torch

from torchwhy import TorchwhyError
from torchwhy.recommendation.race import race
from torchwhy.recommendation.scores import Scores, judgements
from torchwhy.recommendation.statistics import all_pairs, bootstrap, cheapest_within_error, front, holm


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- intervals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skewed", [False, True])
def test_the_intervals_of_all_pairs_hold_together_as_often_as_they_say(skewed):
    runs, n, means = 200, 20, torch.tensor([0.0, 0.3, 1.0, 1.0], dtype=torch.float64)
    a, b = torch.tensor(list(combinations(range(4), 2))).T
    held = apart = 0
    for run in range(runs):
        noise = normal(n, 4, seed=run)
        x = means + (noise.exp() - math.exp(0.5) if skewed else noise)
        found = bootstrap(x[:, a] - x[:, b], seed=run, count=400)
        reach = found.reach()
        inside = (found.mean - (means[a] - means[b])).abs() <= reach
        held += bool(inside.all())
        apart += bool((2 * found.error < reach).all())
    # 95 % of 200, less three standard deviations of such a count; a joint interval is wider than one by itself.
    assert held >= 180
    assert apart > 190


def test_intervals_that_hold_one_by_one_do_not_hold_together():
    a, b = torch.tensor(list(combinations(range(6), 2))).T
    held = 0
    for run in range(200):
        x = normal(20, 6, seed=run)
        found = bootstrap(x[:, a] - x[:, b], seed=run, count=400)
        held += bool((found.mean.abs() <= 2.09 * found.error).all())  # Student's t of 19 degrees
    assert held < 160


def test_p_values_of_no_difference_are_rarely_small():
    p = torch.stack([bootstrap(normal(15, 1, seed=run), seed=run, count=400).p_above() for run in range(300)])
    assert 0.02 < (p <= 0.05).double().mean() < 0.09
    assert 0.4 < (p <= 0.5).double().mean() < 0.6


def test_resamples_depend_on_the_seed_alone():
    x = normal(9, 3)
    one, same, other = (bootstrap(x, seed=seed, count=50).chance for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.testing.assert_close(bootstrap(x[:, :1], seed=1, count=50).chance, one[:, :1])


def test_one_example_compares_nothing():
    with pytest.raises(TorchwhyError, match="two examples or more, not 1"):
        bootstrap(torch.ones(1, 2))


# -- pairs ---------------------------------------------------------------------------------------------------


def test_a_clear_difference_is_told_and_a_tie_is_a_tie():
    base = normal(12, 1)
    x = torch.cat([base, base + 0.01 * normal(12, 1, seed=1), base - 3 + 0.1 * normal(12, 1, seed=2)], 1)
    found = all_pairs(x)
    assert found.better.tolist() == [[False, False, True], [False, False, True], [False, False, False]]
    assert found.ties(0, 1)
    torch.testing.assert_close(found.difference, -found.difference.T)
    torch.testing.assert_close(found.difference[0, 2], (x[:, 0] - x[:, 2]).mean())


def test_equal_columns_tie_and_a_constant_difference_is_certain():
    x = normal(8, 1)
    found = all_pairs(torch.cat([x, x + 1e-9, x - 1], 1))
    assert found.ties(0, 1)
    assert found.difference[0, 1] == 0
    assert found.better[0, 2]


def test_a_pair_that_hardly_differs_says_nothing_and_does_not_widen_the_others():
    x = normal(12, 3)
    twin = x[:, :1].clone()
    twin[3] += 5
    alone, beside = all_pairs(x), all_pairs(torch.cat([x, twin], 1))
    assert beside.low[0, 3] == -torch.inf
    assert beside.ties(0, 3)
    assert beside.low[0, 1].isfinite()
    # More pairs, so a little wider.
    width = alone.difference - alone.low
    assert ((beside.difference - beside.low)[:3, :3] <= 1.5 * width + 1e-12).all()


def test_five_examples_are_enough_for_a_clear_difference_among_many():
    x = 0.1 * normal(5, 10) + torch.arange(10)
    found = all_pairs(x)
    assert found.better[9, 0]
    assert found.low[9, 0].isfinite()


def test_one_column_has_no_pairs():
    assert not all_pairs(normal(5, 1)).better.any()


# -- Holm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.04, 0.001, 0.03], [0.06, 0.003, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_is_what_it_is_by_hand(p, adjusted):
    found = holm(torch.tensor(p, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(adjusted, dtype=torch.float64))


# -- choosing ------------------------------------------------------------------------------------------------


def test_the_cheapest_within_one_standard_error_is_taken():
    base = normal(10, 1)
    near, far = base - 0.01 + 0.1 * normal(10, 1, seed=3), base - 2
    near += (base - 0.01 - near).mean()
    x = torch.cat([base, near, far], 1)
    assert cheapest_within_error(x, [100.0, 5.0, 1.0]) == 1
    assert cheapest_within_error(x, [5.0, 5.0, 1.0]) == 0
    assert cheapest_within_error(x[:1], [100.0, 5.0, 1.0]) in (0, 1)


def test_the_front_is_what_brute_force_finds():
    points = normal(30, 3)

    def beaten(i):
        return any(bool((q >= points[i]).all() and (q > points[i]).any()) for q in points)

    assert front(points) == [i for i in range(30) if not beaten(i)]
    assert front(torch.ones(3, 2)) == [0, 1, 2]


# -- halving -------------------------------------------------------------------------------------------------


class Track:
    """A race over a table, which notes what was looked at."""

    def __init__(self, table, costs, shared=0.0):
        self.table, self.costs, self.shared = table, costs, shared
        self.spent, self.seen = 0.0, torch.zeros(len(table), dtype=torch.long)

    def run(self, **options):
        return race(self.costs, self.table.shape[1], self.look, self.merits, shared=self.shared, **options)

    def look(self, alive, part):
        assert (self.seen[alive] == part.start).all()
        self.seen[alive] = part.stop
        self.spent += (part.stop - part.start) * (self.shared + sum(self.costs[i] for i in alive))

    def merits(self, alive, seen):
        return self.table[alive, :seen].mean(1)


@pytest.mark.parametrize("seed", range(5))
def test_halving_never_loses_the_best_where_there_is_no_noise(seed):
    merits = normal(40, 1, seed=seed)
    track = Track(merits.expand(40, 32), [1.0 + i % 7 for i in range(40)])
    rounds = track.run()
    assert int(merits.argmax()) in rounds[-1].left
    assert rounds[-1].examples == 32
    assert len(rounds[-1].left) < 20
    assert [r.examples for r in rounds] == sorted(r.examples for r in rounds)
    assert all(set(later.alive) == set(one.left) for one, later in pairwise(rounds))
    assert track.spent < sum(track.costs) * 32 / 2


def test_halving_keeps_what_is_cheap_and_beaten_by_nothing_cheaper():
    merits = torch.linspace(1, 0, 40, dtype=torch.float64)[:, None].expand(40, 16)
    rounds = Track(merits, [10.0] * 39 + [1.0]).run()
    assert 39 in rounds[-1].left
    assert 38 not in rounds[-1].left


@pytest.mark.parametrize("budget", [150.0, 600.0, 5000.0])
def test_halving_stays_within_its_budget(budget):
    track = Track(normal(40, 64), [1.0 + i % 3 for i in range(40)], shared=5.0)
    rounds = track.run(budget=budget)
    assert rounds
    assert track.spent <= budget


def test_a_budget_for_not_even_one_example_gives_no_rounds():
    assert Track(normal(4, 8), [10.0] * 4).run(budget=39.0) == []


def test_few_are_all_looked_at_in_full():
    rounds = Track(normal(5, 8), [1.0] * 5).run()
    assert len(rounds) == 1
    assert rounds[0].examples == 8
    assert rounds[0].left == (0, 1, 2, 3, 4)


# -- scores --------------------------------------------------------------------------------------------------


def scores(methods, **controls):
    """By one metric."""
    rivals = {name: torch.as_tensor(v, dtype=torch.float64) for name, v in controls.items()}
    return Scores({"m": torch.as_tensor(methods, dtype=torch.float64)}, {"m": rivals})


def test_what_is_undefined_for_some_gets_the_worst_and_for_all_nothing():
    nan = math.nan
    found = scores([[1.0, nan, nan], [3.0, 2.0, nan]], random=[0.5, nan, nan], constant=[nan, 1.0, nan]).settled()
    assert found.methods["m"].tolist() == [[1.0, 1.0, 0.0], [3.0, 2.0, 0.0]]
    assert found.controls["m"]["random"].tolist() == [0.5, 1.0, 0.0]
    assert found.controls["m"]["constant"].tolist() == [0.5, 1.0, 0.0]


def test_merit_is_0_for_random_and_1_for_the_best():
    found = scores([[4.0, 6.0], [2.0, 3.0], [1.0, 0.0]], random=[0.0, 1.0])
    torch.testing.assert_close(found.merits(["m"]).mean(1), torch.tensor([1.0, 2 / 4.5, 0.0], dtype=torch.float64))


def test_a_metric_counts_only_if_its_leader_is_above_every_control():
    noise = 0.1 * normal(5, 12)
    methods = torch.stack([1 + noise[0], 0.2 + noise[1]])
    clear = Scores(
        {"a": methods, "b": methods},
        {
            "a": {"random": noise[2], "edges": 0.5 + noise[3]},
            "b": {"random": noise[2], "edges": 1 + noise[4]},
        },
    )
    a, b = judgements(clear, {"a": 0, "b": 0}, ["one", "two"], {"a": 1, "b": -1}, seed=0)
    assert a.informative
    assert not b.informative
    assert b.control == "edges"
    assert b.control_value == pytest.approx(-float(clear.controls["b"]["edges"].mean()))
    assert (a.leader, a.value) == ("one", pytest.approx(float(methods[0].mean())))
    # The leader is not chosen anew on these examples.
    (weak,) = judgements(clear.of([1]), {"a": 0}, ["two"], {"a": 1}, seed=0)
    assert not weak.informative


def test_controls_pass_for_no_method_more_often_than_the_level_says():
    passed = 0
    for run in range(200):
        x = normal(4, 12, seed=run)
        made = Scores({"m": x[:1]}, {"m": {"random": x[1], "edges": x[2]}})
        passed += judgements(made, {"m": 0}, ["one"], {"m": 1}, seed=run)[0].informative
    assert passed <= 10
