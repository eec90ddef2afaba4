"""`IntegratedGradients(tol=...)` against a long run: as near as it says, at the cost it says?"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import Check, Explanation, IntegratedGradients, Site, TorchwhyError

ACTIVATIONS = {"tanh": nn.Tanh, "softplus": nn.Softplus, "gelu": nn.GELU, "relu": nn.ReLU}
LEVELS = (9, 17, 33, 65, 129, 257, 513, 1025)  # one node more than steps


def network(activation: str, seed: int = 0, features: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    act = ACTIVATIONS[activation]
    return (
        nn.Sequential(nn.Linear(features, 24), act(), nn.Linear(24, 24), act(), nn.Linear(24, 3))
        .double()
        .requires_grad_(False)
    )


def rows(count: int, seed: int = 1, features: int = 6) -> Tensor:
    return 2 * torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@cache
def truth(activation: str, seed: int = 0) -> Tensor:
    """A midpoint sum of 20,000 steps at `rows`."""
    ig = IntegratedGradients(network(activation, seed), method="riemann_middle", n_steps=20_000)
    found = ig.attribute(rows(8, seed + 1), target=1)
    assert isinstance(found, Tensor)
    return found


def error(values: object, known: Tensor) -> Tensor:
    """(B,) L1 distance as a share of the truth."""
    assert isinstance(values, Tensor)
    return (values - known).abs().sum(1) / known.abs().sum(1)


def check(found: Explanation, name: str) -> Check:
    (one,) = (c for c in found.evidence if c.name == name)
    return one


@pytest.mark.parametrize("tol", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_answer_is_within_the_tolerance_of_the_truth(activation: str, tol: float) -> None:
    # What is measured is the change between refinements; on ReLU networks the next may move as much again.
    worst = 1 if activation in ("tanh", "softplus", "gelu") else 2
    for seed in range(3):
        model, x = network(activation, seed), rows(8, seed + 1)
        found = IntegratedGradients(model, tol=tol).explain(x, target=1)
        off = error(found.values, truth(activation, seed))
        reached = torch.tensor([status == "pass" for status in check(found, "convergence").status])
        assert reached.any()
        assert (off[reached] <= worst * tol).all()
        assert max(v for v, ok in zip(check(found, "convergence").value, reached, strict=True) if ok) < tol
        assert max(v for v, ok in zip(check(found, "completeness").value, reached, strict=True) if ok) < tol


def test_a_smaller_tolerance_is_nearer_to_the_truth_and_costs_more() -> None:
    model, x = network("relu"), rows(8)
    known = truth("relu")
    runs = [IntegratedGradients(model, tol=tol).explain(x, target=1) for tol in (0.1, 0.01, 0.001)]
    errors = [error(run.values, known).mean() for run in runs]
    steps = [sum(run.provenance["steps"]) for run in runs]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert steps[0] < steps[1] < steps[2]


def test_what_counts_is_the_change_of_the_attribution_not_of_the_gradient() -> None:
    # The third input is its own baseline, so that its steady, enormous gradient is no part of the answer;
    # the gap of the first two is zero on every level, since they cancel.
    def model(x: Tensor) -> Tensor:
        return (30 * x[:, 0]).sin() - (30 * x[:, 1]).sin() + 1e6 * x[:, 2]

    x = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    sine = torch.tensor(30, dtype=torch.float64).sin()
    found = IntegratedGradients(model, tol=1e-4).attribute(x)
    assert_close(found, torch.stack([sine, -sine, 0 * sine])[None], rtol=2e-4, atol=1e-12)


def test_without_the_factor_it_is_the_mean_gradient_that_settles() -> None:
    model, x = network("tanh"), rows(8)
    ig = IntegratedGradients(model, tol=1e-4, multiply_by_inputs=False)
    assert_close(ig.attribute(x, target=1), truth("tanh") / x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_refinement_costs_its_last_level_only(activation: str) -> None:
    model, x = network(activation), rows(8) * torch.linspace(0.1, 20, 8)[:, None]
    found = IntegratedGradients(model, tol=0.005).explain(x, target=1)
    steps = found.provenance["steps"]
    assert set(steps) <= set(LEVELS[1:])
    assert len(set(steps)) > 1  # every example stops when it is done itself
    assert found.provenance["backward_rows"] == sum(steps)
    assert found.provenance["forward_rows"] <= sum(steps) + 3 * len(x)  # at the input and the baseline


def test_each_answer_is_the_clenshaw_curtis_rule_of_its_last_level() -> None:
    model, x = network("relu"), rows(6)
    found = IntegratedGradients(model, tol=0.005).explain(x, target=1)
    for i, n in enumerate(found.provenance["steps"]):
        plain = IntegratedGradients(model, method="clenshawcurtis", n_steps=n).attribute(x[i : i + 1], target=1)
        assert_close(found.values[i : i + 1], plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_a_row_in_a_batch_equals_the_row_alone(activation: str, batch_size: int | None) -> None:
    model, x = network(activation), rows(7)
    ig = IntegratedGradients(model, tol=0.02, batch_size=batch_size)
    together = ig.explain(x, target=[0, 1, 2, 0, 1, 2, 0])
    for i in range(len(x)):
        alone = ig.explain(x[i : i + 1], target=i % 3)
        assert_close(together.values[i : i + 1], alone.values, rtol=1e-10, atol=1e-12)
        assert together.provenance["steps"][i] == alone.provenance["steps"][0]
        assert together[i].verdict.status == alone.verdict.status


def test_a_tolerance_out_of_reach_is_said() -> None:
    model, x = network("relu"), rows(4)
    found = IntegratedGradients(model, tol=1e-9, max_steps=32).explain(x, target=1)
    assert found.provenance["steps"] == [33] * 4
    assert found.provenance["backward_rows"] == 4 * 33
    assert check(found, "convergence").status == ("warn",) * 4
    assert all("tol=1e-09 was not reached" in reason for reason in check(found, "convergence").reason)
    assert found.verdict.status == "warn"
    best = IntegratedGradients(model, method="clenshawcurtis", n_steps=33).attribute(x, target=1)
    assert_close(found.values, best, rtol=1e-10, atol=1e-12)


def test_only_the_rows_that_did_not_reach_it_warn() -> None:
    # A linear row settles at once; a kinked one cannot within 16 steps.
    def model(x: Tensor) -> Tensor:
        return x[:, 0] + 5 * (x[:, 1] - 0.37).relu()

    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    found = IntegratedGradients(model, tol=1e-4, max_steps=16).explain(x)
    assert check(found, "convergence").status == ("pass", "warn")


def test_an_input_that_is_its_own_baseline_settles_on_zero() -> None:
    x = rows(2)
    found = IntegratedGradients(network("relu"), tol=0.01).explain(x, x, target=1)
    assert (found.values == 0).all()
    assert check(found, "convergence").status == ("pass", "pass")


def test_refinement_at_a_layer_and_of_a_unit() -> None:
    model, x = network("softplus"), rows(3)
    ig = IntegratedGradients(model, at="1", tol=1e-4)
    long = IntegratedGradients(model, at="1", n_steps=400)
    assert error(ig.attribute(x, target=1), long.attribute(x, target=1)).max() < 1e-4
    unit = Site("2", unit=4)
    ig, long = IntegratedGradients(model, tol=1e-4), IntegratedGradients(model, n_steps=400)
    assert error(ig.attribute(x, target=unit), long.attribute(x, target=unit)).max() < 1e-4


def test_further_arguments_follow_their_examples_through_every_level() -> None:
    # The shared argument has as many rows as examples are left after a refinement: it is not one of theirs.
    shared = rows(3, seed=5)

    def model(x: Tensor, kink: Tensor, everywhere: Tensor) -> Tensor:
        return (x @ everywhere.T).sum(1) + kink * (x.sum(1) - 0.37).relu()

    x, kink = rows(8).abs(), torch.tensor([0.0, 5, 0, 0, 7, 9, 0, 0], dtype=torch.float64)
    ig = IntegratedGradients(model, tol=0.003)
    together = ig.explain(x, additional_forward_args=(kink, shared))
    assert [n > LEVELS[1] for n in together.provenance["steps"]] == (kink > 0).tolist()
    for i in range(len(x)):
        one = slice(i, i + 1)
        alone = ig.attribute(x[one], additional_forward_args=(kink[one], shared))
        assert_close(together.values[one], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_dtypes_reach_what_they_can(dtype: torch.dtype) -> None:
    x, known = rows(8), truth("tanh")
    found = IntegratedGradients(network("tanh").to(dtype), tol=0.05).explain(x.to(dtype), target=1)
    assert error(found.values.double(), known).max() < 0.1
    assert found.values.dtype == dtype


@pytest.mark.parametrize("tol", [0, -0.1, 1, 1.5, float("nan")])
def test_a_tolerance_is_a_share(tol: float) -> None:
    with pytest.raises(TorchwhyError, match="tol is a share between 0 and 1"):
        IntegratedGradients(network("relu"), tol=tol)


def test_tol_and_another_rule_exclude_each_other() -> None:
    with pytest.raises(TorchwhyError, match="tol refines by Clenshaw-Curtis quadrature, not gausslegendre"):
        IntegratedGradients(network("relu"), tol=0.01, method="gausslegendre")
    IntegratedGradients(network("relu"), tol=0.01, method="clenshawcurtis")
