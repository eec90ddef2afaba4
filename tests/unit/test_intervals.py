"""Do intervals hold what they say, and does the evidence say where none can?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.evidence import Sample, sampling, unseen
from torchwhy.core.explanation import Explanation
from torchwhy.core.tensors import Tensors
from torchwhy.engines.spread import error_of_mean, error_of_sum, student
from torchwhy.engines.surrogate import all_rows, banzhaf_from_all, shapley_from_all
from torchwhy.methods.banzhaf import Banzhaf
from torchwhy.methods.base import Method
from torchwhy.methods.gradient_shap import GradientShap
from torchwhy.methods.kernel_shap import KernelShap
from torchwhy.methods.saliency import Saliency
from torchwhy.methods.shapley import ShapleyValues, ShapleyValueSampling

M, MANY, SEEDS = 8, 12, 7  # features, games that share a sample, samples


# -- coverage ------------------------------------------------------------------------------------------------


def games(kind: str, seed: int) -> Tensor:
    """The worth (MANY, 2**M) of each coalition in games of a kind."""
    generator = torch.Generator().manual_seed(seed)
    rows, shape = all_rows(M).double(), (MANY, 2**M)
    if kind == "rare spikes":
        return (torch.rand(shape, generator=generator) < 0.01).double()
    if kind == "heavy tails":
        return (1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)).exp()
    if kind == "network":
        first = torch.randn(MANY, M, 8, generator=generator, dtype=torch.float64)
        return (rows @ first - 1).relu().sum(2)
    weights = torch.rand(MANY, M, generator=generator, dtype=torch.float64) + 0.5
    weights[:, 0] = 0.7 * M  # of a weighted majority, one of whom nearly decides alone
    return (weights @ rows.T > weights.sum(1, keepdim=True) / 2).double()


def lookup(worth: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A model of rows of zeros and ones, and of the number of the game that they play."""
    return lambda x, game: worth[game, (x.long() * 2 ** torch.arange(M)).sum(1)]


METHODS: dict[str, Callable[..., Method]] = {
    "orders, few": lambda model, seed: ShapleyValueSampling(model, n_samples=8, seed=seed),
    "orders": lambda model, seed: ShapleyValueSampling(model, n_samples=32, seed=seed),
    "regression": lambda model, seed: KernelShap(model, n_samples=34, seed=seed),
    "process": lambda model, seed: ShapleyValues(model, budget=36, seed=seed),
    "Banzhaf": lambda model, seed: Banzhaf(model, budget=60, seed=seed),
}


def covered(name: str, kind: str) -> tuple[Tensor, Tensor]:
    """Which intervals hold, (games, M), and for which games the error is said to be unseen."""
    from_all = banzhaf_from_all if name == "Banzhaf" else shapley_from_all
    inside, unknown = [], []
    for seed in range(SEEDS):
        worth = games(kind, seed)
        known = from_all(worth.T).T
        found = METHODS[name](lookup(worth), seed).explain(
            torch.ones(MANY, M, dtype=torch.float64), additional_forward_args=torch.arange(MANY)
        )
        (low, high), slack = found.interval(), 1e-6 * worth.amax()
        inside.append((low - slack <= known) & (known <= high + slack))
        (check,) = (c for c in found.evidence if c.name == "sampling error")
        unknown.append(torch.tensor([status == "unknown" for status in check.status]))
    return torch.cat(inside), torch.cat(unknown)


@pytest.mark.parametrize("kind", ["rare spikes", "heavy tails", "network", "majority"])
@pytest.mark.parametrize("name", METHODS)
def test_intervals_hold_or_the_evidence_says_that_no_error_is_seen(name: str, kind: str) -> None:
    inside, unknown = covered(name, kind)
    assert inside[~unknown].double().mean() >= 0.9
    if kind == "rare spikes":  # of which most samples see none
        assert unknown.double().mean() > 0.2
        assert inside[unknown].double().mean() < 0.7
    if kind in ("heavy tails", "network"):
        assert unknown.double().mean() < 0.05


def test_naive_intervals_do_not_hold() -> None:
    """The mean of a dozen draws of M features, each of which is 0 but for one in ten."""
    generator = torch.Generator().manual_seed(0)
    samples = (torch.rand(12, M, 400, generator=generator) < 0.1).double()
    away, error = (samples.mean(0) - 0.1).abs(), error_of_mean(samples)
    assert (away <= 1.96 * samples.std(0) / 12**0.5).double().mean() < 0.75
    assert (away <= student(11) * error).double().mean() > 0.9


# -- standard errors -----------------------------------------------------------------------------------------


def test_draws_of_like_size_have_the_usual_error() -> None:
    """All features vary alike and all draws by as much, so that nothing is drawn anywhere or widened."""
    samples = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1]).double()[:, None, None].expand(8, 3, 1)
    assert_close(error_of_mean(samples), torch.full((3, 1), (1 / 7) ** 0.5, dtype=torch.float64))


def test_a_feature_that_was_lucky_has_errors_of_the_usual_size() -> None:
    own, held = torch.tensor([0.0, 1, 1, 2]).double(), torch.full((4,), 20.0).double()
    error = error_of_sum(own, held, torch.ones(20).double(), 20)
    assert_close(error[1:3], torch.ones(2).double())
    assert_close(error[0], torch.tensor((6 / 26) ** 0.5).double())  # 20 draws of none, and 6 of the mean
    one = torch.zeros(20, dtype=torch.float64)
    one[3] = 1
    # One draw makes the spread: it tells of no feature by itself, and has two degrees of freedom.
    widened = error_of_sum(own, held, one, 20) * student(20) / student(2)
    assert_close(widened[0], torch.tensor((6 / 7) ** 0.5).double())


def test_a_decision_has_room_for_what_was_missed() -> None:
    """One feature decides wherever it was looked; of a score of more values it is believed."""
    found = KernelShap(lambda x: 3 * x[:, 0], n_samples=102).explain(torch.ones(1, 20).double())
    half = found.interval()[1] - found.values
    assert_close(half, torch.full((1, 20), 3 * unseen(50)).double(), rtol=1e-3, atol=0)
    weights = torch.arange(20).double()
    exact = KernelShap(lambda x: x @ weights, n_samples=102).explain(torch.ones(1, 20).double())
    assert exact.standard_error.max() < 1e-9


def test_a_decision_that_is_known_everywhere_has_no_error() -> None:
    sampled = KernelShap(lambda x: (x.sum(1) > 4).double(), budget=512, stop_at="se<1e-9")
    found = sampled.explain(torch.ones(1, 9).double())
    assert found.provenance["evaluations"] == 512
    assert found.standard_error.max() < 1e-9
    assert_close(found.values, torch.full((1, 9), 1 / 9).double())
    assert next(c for c in found.evidence if c.name == "sampling error").status == ("pass",)


# -- what is said --------------------------------------------------------------------------------------------


def judged(error: list[float], sample: Sample | None) -> tuple[str, str]:
    values = Tensors([torch.tensor([[1.0, 2.0]])])
    check = sampling(values, Tensors([torch.tensor([error])]), sample)
    return check.status[0], check.reason[0]


def test_draws_that_all_agree_are_unknown() -> None:
    sample = Sample(100, 200, torch.tensor([50]))
    assert judged([0.0, 1e-7], sample) == (
        "unknown",
        "all 100 draws agree, so that no sampling error is seen: what happens in up to 3 % of all may have been missed",
    )
    assert judged([0.0, 1e-7], None)[0] == "pass"  # exact, or a sample that is not known
    assert judged([0.01, 0.01], sample)[0] == "pass"
    assert judged([0.0, 1.0], sample)[0] == "warn"
    assert judged([0.01, 0.01], Sample(100, 200, torch.tensor([0])))[0] == "unknown"


def test_few_rows_that_make_the_spread_are_told() -> None:
    status, reason = judged([0.01, 0.01], Sample(100, 200, torch.tensor([3])))
    assert status == "unknown"
    assert reason.endswith("if rows were missed of the kind of the 3 of 200 that make 80 % of the score's spread")
    assert judged([0.0, 1.0], Sample(100, 200, torch.tensor([3])))[0] == "warn"
    assert judged([0.01, 0.01], Sample(10, 10, torch.tensor([3])))[0] == "pass"  # they are not so few
    assert judged([0.01, 0.01], Sample(100, 200, torch.tensor([20])))[0] == "pass"


def test_rows_that_make_the_spread_are_counted() -> None:
    scores = torch.zeros(50, 2, 3)
    scores[:3, 0, 1] = torch.tensor([5.0, -5, 1])
    scores[:, :, 2] = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    found = Sample.of(scores)
    assert (found.draws, found.rows) == (50, 100)
    assert found.few[:2].tolist() == [0, 2]
    assert 25 < found.few[2] < 60


def test_unseen_is_exact_for_few_draws_and_three_in_many() -> None:
    assert_close(unseen(1), 0.95)
    assert_close((1 - unseen(7)) ** 7, 0.05)
    assert_close(1e6 * unseen(1_000_000), 2.9957, rtol=1e-4, atol=0)


def test_an_additive_model_says_that_its_error_is_unseen() -> None:
    weights = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = ShapleyValues(lambda x: x @ weights, budget=100).explain(torch.ones(1, 30).double())
    check = next(c for c in linear.evidence if c.name == "sampling error")
    assert check.status == ("unknown",)
    assert "draws agree, so that no sampling error is seen" in check.reason[0]
    assert linear.verdict.status == "unknown"
    bent = ShapleyValues(lambda x: (x @ weights).tanh(), budget=100).explain(torch.ones(1, 30).double())
    assert next(c for c in bent.evidence if c.name == "sampling error").status != ("unknown",)


@pytest.mark.parametrize(("draws", "fitted", "status"), [(299, 0, "pass"), (298, 0, "unknown"), (299, 1, "unknown")])
def test_draws_that_agree_pass_where_they_may_have_missed_one_in_a_hundred(
    draws: int, fitted: int, status: str
) -> None:
    several = Sample(draws, 2 * draws, torch.tensor([50]), fitted)
    assert judged([0.0, 1e-7], several)[0] == status
    assert f"all {draws} draws agree" in judged([0.0, 1e-7], several)[1]
    for few in (0, 3):  # rows that tell nothing of others
        assert judged([0.0, 1e-7], Sample(draws, 2 * draws, torch.tensor([few]), fitted))[0] == "unknown"


@pytest.mark.parametrize("method", [ShapleyValues, KernelShap, Banzhaf])
def test_an_additive_model_passes_where_many_draws_agree(method: type[Method]) -> None:
    weights = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = method(lambda x: x @ weights, budget=800).explain(torch.ones(1, 30).double())
    check = next(c for c in linear.evidence if c.name == "sampling error")
    assert check.status == ("pass",)
    assert "draws agree" in check.reason[0]
    assert linear.verdict.status == "pass"
    # Of draws that are hardly more than features, most agree with any additive game.
    many = method(lambda x: x.sum(1), budget=700).explain(torch.ones(1, 200).double())
    assert many.verdict.status == "unknown"


# -- intervals -----------------------------------------------------------------------------------------------


def test_an_interval_is_as_many_standard_errors_wide_as_the_record_says() -> None:
    found = ShapleyValueSampling(lambda x: x.prod(1) + x[:, 0], n_samples=12).explain(torch.ones(2, 4).double())
    low, high = found.interval()
    assert_close(found.provenance["interval_95"], student(5))
    assert_close(high - found.values, student(5) * found.standard_error)
    assert_close(found.values - low, student(5) * found.standard_error)
    assert (high > low).all()
    assert_close(found[1].interval()[0], low[1:])


def test_intervals_have_the_form_of_the_values() -> None:
    x = (torch.ones(1, 2), torch.ones(1, 1, 3))
    record = Explanation(x, x, torch.ones(1), ("0",), "RISE", standard_error=tuple(t / 2 for t in x))
    low, high = record.interval()  # as wide as where the standard errors are known well
    assert [t.shape for t in low] == [t.shape for t in x]
    assert_close(high[1] - low[1], torch.full((1, 1, 3), 1.959964))


def test_values_that_are_exact_have_intervals_without_width() -> None:
    found = ShapleyValues(lambda x: x.prod(1)).explain(torch.ones(1, 4))
    low, high = found.interval()
    assert torch.equal(low, found.values)
    assert torch.equal(high, found.values)


def test_averages_over_draws_have_intervals_too() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    found = GradientShap(net, n_samples=6).explain(torch.ones(1, 4), torch.zeros(1, 4))
    assert_close(found.provenance["interval_95"], student(5))


def test_without_standard_errors_there_is_no_interval() -> None:
    found = Saliency(lambda x: x.sum(1)).explain(torch.ones(1, 4))
    with pytest.raises(TorchwhyError, match="an interval needs standard errors, and Saliency gave none"):
        found.interval()
