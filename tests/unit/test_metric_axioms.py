"""Metrics of axioms: exact answers have no gap, and an answer that breaks the axiom has the gap it was given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import (
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    ShapleyValues,
    Site,
    TorchwhyError,
    UnsupportedError,
    metrics,
)

WEIGHTS = torch.tensor([5.0, -3, 2, 1, 0.5, -0.2], dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    return x @ WEIGHTS + 3


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, BASE = rand(4, 6, seed=1), rand(4, 6, seed=2)
PARTS = WEIGHTS * (X - BASE)
ZERO = torch.zeros(4, dtype=torch.float64)


# -- completeness ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_exact_answer_of_a_linear_model_has_no_gap(relative: bool, dtype: torch.dtype) -> None:
    weights, x, base = WEIGHTS.to(dtype), X.to(dtype), BASE.to(dtype)
    found = metrics.Completeness(lambda x: x @ weights + 3, relative=relative).score(weights * (x - base), x, base)
    assert found.value.tolist() == [0, 0, 0, 0]


def test_the_gap_is_what_was_added() -> None:
    values = PARTS.clone()
    values[:, 2] += 0.5
    found = metrics.Completeness(linear, relative=False).score(values, X, BASE)
    assert_close(found.value, torch.full((4,), 0.5, dtype=torch.float64))
    assert found.units == "units of the score"
    share = metrics.Completeness(linear).score(values, X, BASE)
    assert_close(share.value, 0.5 / PARTS.sum(1).abs())
    assert share.units == ""


def test_the_baseline_counts() -> None:
    metric = metrics.Completeness(linear)
    assert (metric.score(WEIGHTS * X, X).value == 0).all()
    assert (metric.score(WEIGHTS * X, X, BASE).value > 0.01).all()
    assert (metric.score(WEIGHTS.expand(4, 6), X).value > 0.01).all()  # the gradient alone


def test_a_score_that_does_not_move_is_measured_by_the_size_of_the_values() -> None:
    metric = metrics.Completeness(lambda x: 0 * x.sum(1))
    assert metric.score(0 * X, X).value.tolist() == [0, 0, 0, 0]
    assert (metric.score(X, X).value > 1).all()


def test_a_baseline_without_a_score_gives_no_value() -> None:
    found = metrics.Completeness(lambda x: x.log().sum(1)).score(torch.ones(2, 3), torch.ones(2, 3))
    assert found.reasons == ("the score at the baseline is not finite",) * 2


def test_a_method_is_held_to_what_it_promises() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    rows = rand(7, 6, seed=5)
    assert (metrics.Completeness().score(DeepLiftShap(net), X, rows, target=0).value < 1e-9).all()
    given = DeepLiftShap(net).attribute(X, rows, target=0)
    assert (metrics.Completeness(net).score(given, X, rows.mean(0), target=0).value > 1e-6).any()


def test_at_a_layer_a_record_is_held_to_the_baseline_of_its_method() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    method = IntegratedGradients(net, at="0", tol=1e-9)
    assert (metrics.Completeness().score(method, X, target=0).value < 1e-8).all()
    record = method.explain(X, target=0)
    assert (metrics.Completeness(net).score(record).value < 1e-8).all()
    # Numbers alone do not say what they were compared with: zeros at the layer, unless it is given.
    zeros = metrics.Completeness(net, at="0").score(record.values, X, target=0)
    assert (zeros.value > 0.01).any()
    base = net[0](torch.zeros(1, 6, dtype=torch.float64)).detach()
    told = metrics.Completeness(net, at="0").score(record.values, X, target=0, layer_baselines=base)
    assert (told.value < 1e-8).all()


# -- non-sensitivity ---------------------------------------------------------------------------------------------


def product(x: Tensor) -> Tensor:
    return x[:, 0] * x[:, 1] + x[:, 2] ** 2


def test_marks_and_influence_are_compared_feature_by_feature() -> None:
    metric = metrics.NonSensitivity(product)
    for values, known in [
        ([1.0, 1, 1, 0, 0, 0], 0),
        ([1.0, 1, 0, 0, 0, 0], 1),
        ([1.0, 1, 1, 0, 0, -1], 1),
        ([0.0, 0, 0, 1, 1, 1], 6),
        ([0.0, 0, 0, 0, 0, 0], 3),
    ]:
        found = metric.score(torch.tensor(values, dtype=torch.float64).expand(4, 6), X)
        assert_close(found.value, ZERO + known / 6)


def test_shapley_values_are_sensitive_and_the_gradient_is_not_always() -> None:
    assert metrics.NonSensitivity().score(ShapleyValues(product), X).value.tolist() == [0, 0, 0, 0]

    def saturated(x: Tensor) -> Tensor:
        return x.sum(1).clamp(max=1)

    ones = torch.ones(1, 3, dtype=torch.float64)
    assert metrics.NonSensitivity().score(Saliency(saturated), ones).value == 1
    assert metrics.NonSensitivity().score(IntegratedGradients(saturated), ones).value == 0


def test_an_influence_beside_others_alone_is_found_among_random_subsets() -> None:
    def both(x: Tensor) -> Tensor:  # the first two count where exactly one of the others is there
        return (x[:, 0] + x[:, 1]) * (x[:, 2] + x[:, 3] == 1).double()

    x = torch.ones(1, 4, dtype=torch.float64)
    marks = torch.tensor([[1.0, 1, 1, 1]], dtype=torch.float64)
    for count in (1, 2):  # everything, and nothing
        assert metrics.NonSensitivity(both, n_subsets=count).score(marks, x).value == 0.5
    assert metrics.NonSensitivity(both, n_subsets=32).score(marks, x).value == 0


def test_it_costs_what_it_says() -> None:
    found = metrics.NonSensitivity(product, n_subsets=2).score(X, X)
    # Everything and nothing, and each without and with one; what was there before is not asked for again.
    assert found.evaluations <= 4 * (2 * (6 + 1) + 1)
    beside_all = metrics.NonSensitivity(product, n_subsets=1).score(X, X)
    assert beside_all.evaluations <= 4 * (6 + 1 + 1) < found.evaluations


# -- symmetry ----------------------------------------------------------------------------------------------------


def twins(x: Tensor) -> Tensor:
    return (x[:, 0] + x[:, 1]) ** 2 + 3 * x[:, 2] * x[:, 3]


def test_twins_are_found_and_compared() -> None:
    x = torch.tensor([[2.0, 2, 1, 3]], dtype=torch.float64)
    metric = metrics.Symmetry(twins)
    for values, known in [([4.0, 4, 5, 5], 0), ([4.0, 2, 5, 5], 2 / 5), ([4.0, 4, 5, -5], 2), ([4.0, 2, 5, 1], 4 / 5)]:
        found = metric.score(torch.tensor([values], dtype=torch.float64), x)
        assert found.value.item() == pytest.approx(known)
    assert metrics.Symmetry().score(ShapleyValues(twins), x).value.item() == pytest.approx(0, abs=1e-12)
    # As (x0 + x1)^2 with different values, they are no twins; the factors of a product from 0 are, whatever they are.
    other = torch.tensor([[2.0, 1, 1, 3]], dtype=torch.float64)
    assert metric.score(torch.tensor([[9.0, 1, 5, 5]], dtype=torch.float64), other).value == 0


def test_without_twins_there_is_no_value() -> None:
    found = metrics.Symmetry(linear).score(PARTS, X, BASE)
    assert found.reasons == ("the model treats no two positions alike",) * 4
    assert (metrics.Symmetry(linear, alike=0.9).score(PARTS, X, BASE).value > 0).all()


# -- linearity ---------------------------------------------------------------------------------------------------


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize("other", [None, 2, lambda output: output[:, 1] ** 2])
def test_methods_that_are_linear_have_no_gap(net: nn.Module, other: object) -> None:
    metric = metrics.Linearity(other=other)
    for method in (InputXGradient(net), IntegratedGradients(net), ShapleyValues(net), FeatureAblation(net)):
        assert (metric.score(method, X, target=0).value < 1e-9).all()
    sizes = metric.score(Saliency(net), X, target=0).value
    assert (sizes > 0.01).all()


def test_the_gap_is_that_of_two_outputs_by_hand(net: nn.Module) -> None:
    def size(model: object, target: object) -> Tensor:
        return Saliency(model).attribute(X, target=target)

    f, g = size(net, 0), size(net, 1)
    whole = size(net, lambda output: output[:, 0] + output[:, 1])
    known = (whole - f - g).norm(dim=1) / (f.norm(dim=1) + g.norm(dim=1))
    assert_close(metrics.Linearity(other=1).score(Saliency(net), X, target=0).value, known)


def test_each_example_can_have_a_target_of_its_own(net: nn.Module) -> None:
    together = metrics.Linearity(other=[1, 2, 0, 1]).score(Saliency(net), X, target=[0, 1, 2, 2]).value
    for i, (f, g) in enumerate([(0, 1), (1, 2), (2, 0), (2, 1)]):
        alone = metrics.Linearity(other=g).score(Saliency(net), X[i : i + 1], target=f).value
        assert_close(together[i : i + 1], alone)


def test_a_unit_of_a_layer_is_no_output(net: nn.Module) -> None:
    with pytest.raises(UnsupportedError, match="not of a layer"):
        metrics.Linearity().score(Saliency(net), X, target=Site("0", unit=(1,)))


# -- linearity over models ---------------------------------------------------------------------------------------


def second() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.mark.parametrize("weights", [(1, 1), (2.0, -0.5)])
def test_methods_add_up_over_two_models(net: nn.Module, weights: tuple[float, float]) -> None:
    for other in (second(), None):
        metric = metrics.ModelLinearity(other=other, weights=weights)
        for method in (InputXGradient(net), IntegratedGradients(net), ShapleyValues(net), FeatureAblation(net)):
            assert (metric.score(method, X).value < 1e-9).all()
        assert (metric.score(Saliency(net), X).value > 0.01).all()


def test_the_gap_over_two_models_by_hand(net: nn.Module) -> None:
    other, target = second(), net(X).argmax(1)
    f = 2 * Saliency(net).attribute(X, target=target)
    g = -3 * Saliency(other).attribute(X, target=target)  # the class that the first one predicts
    whole = Saliency(lambda x: 2 * net(x) - 3 * other(x)).attribute(X, target=target)
    known = (whole - f - g).norm(dim=1) / (f.norm(dim=1) + g.norm(dim=1))
    assert_close(metrics.ModelLinearity(other=other, weights=(2, -3)).score(Saliency(net), X).value, known)


def test_a_method_can_add_up_over_outputs_and_not_over_models() -> None:
    """DeepLift's rescale rule passes each unit's contribution on, so that what counts is which units there are."""
    first, other = (lambda x: torch.relu(x[:, :1]), lambda x: torch.relu(x[:, :1] + x[:, 1:2]))
    both = lambda x: torch.cat([first(x), other(x)], 1)  # noqa: E731
    x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    assert metrics.Linearity(other=1).score(DeepLift(both), x, target=0).value < 1e-9
    # The size of the gradient adds up over neither.
    assert metrics.Linearity(other=1).score(Saliency(lambda x: both(-(x**2) + x)), x, target=0).value < 1e-9
    planted = metrics.ModelLinearity(other=lambda x: -3 * x[:, :1]).score(Saliency(first), x, target=0)
    assert planted.value == pytest.approx(0.5)  # |1 - 3| beside 1 + 3


def test_a_second_model_may_change_its_input_in_place(net: nn.Module) -> None:
    def other(x: Tensor) -> Tensor:
        return x.mul_(2) @ WEIGHTS[:, None].expand(6, 3)

    plain = metrics.ModelLinearity(other=lambda x: (2 * x) @ WEIGHTS[:, None].expand(6, 3))
    found = metrics.ModelLinearity(other=other).score(Saliency(net), X)
    assert_close(found.value, plain.score(Saliency(net), X).value)


def test_a_sum_of_models_has_no_layers(net: nn.Module) -> None:
    for method, target in ((Saliency(net, at="0"), 0), (Saliency(net), Site("0", unit=(1,)))):
        with pytest.raises(UnsupportedError, match="a sum of models, which has no layer"):
            metrics.ModelLinearity().score(method, X, target=target)
    with pytest.raises(UnsupportedError, match="a linear term needs real numbers"):
        metrics.ModelLinearity().score(FeatureAblation(lambda x: x.sum(1).double()), torch.ones(2, 3, dtype=torch.long))
    for wrong in ({"other": 3}, {"weights": (1, 0)}, {"weights": 2}, {"weights": (1, float("nan"))}, {"seed": -1}):
        with pytest.raises(TorchwhyError):
            metrics.ModelLinearity(**wrong)


# -- input invariance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [-2.0, 0.5])
def test_the_gap_of_a_linear_model_is_the_shift(shift: float) -> None:
    metric = metrics.InputInvariance(shift=shift)
    assert_close(metric.score(Saliency(linear), X).value, ZERO)
    moved = (WEIGHTS * shift).norm() / (WEIGHTS * X).norm(dim=1)
    for method in (InputXGradient(linear), IntegratedGradients(linear)):
        assert_close(metric.score(method, X).value, moved)


def test_the_fold_into_the_first_layer_is_the_same_model(net: nn.Module) -> None:
    first = net[0]
    folded = nn.Sequential(nn.Linear(6, 8), *net[1:]).double()
    folded[0].load_state_dict({"weight": first.weight, "bias": first.bias - first.weight.sum(1)})
    before, after = InputXGradient(net).attribute(X, target=0), InputXGradient(folded).attribute(X + 1, target=0)
    known = (after - before).norm(dim=1) / before.norm(dim=1)
    assert_close(metrics.InputInvariance().score(InputXGradient(net), X, target=0).value, known)


def test_zeros_and_layers_are_told() -> None:
    found = metrics.InputInvariance().score(Saliency(lambda x: 0 * x.sum(1)), X)
    assert found.reasons == ("every attribution is zero",) * 4
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh()).double()
    with pytest.raises(UnsupportedError, match="explanations of the input, not of"):
        metrics.InputInvariance().score(Saliency(model, at="0"), X, target=0)
    with pytest.raises(UnsupportedError, match="real numbers"):
        metrics.InputInvariance().score(
            FeatureAblation(lambda x: x.sum(1).double()), torch.ones(2, 3, dtype=torch.long)
        )
    with pytest.raises(TorchwhyError, match="other than 0"):
        metrics.InputInvariance(shift=0)


def test_a_panel_judges_axioms_beside_all_else(net: nn.Module) -> None:
    judges = [metrics.Completeness(), metrics.Linearity(), metrics.Sparseness(), metrics.AUC()]
    mask = torch.arange(6)[None] < 3
    found = metrics.panel(judges, IntegratedGradients(net), X, target=0, mask=mask)
    for judge in judges:
        alone = judge.score(
            IntegratedGradients(net), X, target=0, **({"mask": mask} if "mask" in judge.info.needs else {})
        )
        assert_close(found[type(judge).__name__].value, alone.value)
