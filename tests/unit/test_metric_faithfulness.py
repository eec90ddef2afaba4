"""Metrics of faithfulness against closed forms on a linear model, and what they make of good and bad attributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import FeatureAblation, IntegratedGradients, Saliency, ShapleyValues, TorchwhyError, metrics
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.masks import KEPT, superpixels
from torchwhy.engines.noise import draws, normal
from torchwhy.metrics import Metric, Rating

WEIGHTS = torch.tensor([5.0, -3, 2, 1, 0.5, -0.2, -1, 4, -2, 0.25], dtype=torch.float64)
FAITHFUL = {name: cls for name, cls in metrics.metrics().items() if cls.info.family == "faithfulness"}


def linear(x: Tensor) -> Tensor:
    return x @ WEIGHTS + 3


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, BASE = rand(4, 10, seed=1), rand(4, 10, seed=2)
PARTS = WEIGHTS * (X - BASE)  # what each element adds to the score
EXACT = {"rtol": 0, "atol": 1e-9}


def score(metric: Metric, values: Tensor = PARTS) -> Rating:
    return metric.score(values, X, BASE)


def without(values: Tensor, count: int, *, largest: bool = True) -> Tensor:
    """(B,) the linear score without so many elements, one example after the other."""
    out = []
    for i in range(len(X)):
        order = values[i].argsort(descending=largest)
        out.append(linear(X[i : i + 1])[0] - PARTS[i, order[:count]].sum())
    return torch.stack(out)


# -- closed forms on a linear model ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["values", "others"])
def test_curves_are_sums_of_what_is_left(name: str) -> None:
    values = {"values": PARTS, "others": rand(4, 10, seed=3)}[name]
    most = torch.stack([without(values, k) for k in range(11)])
    least = torch.stack([without(values, k, largest=False) for k in range(11)])
    shown = least.flip(0)  # without the 10 - k least is with the k most
    found = score(metrics.Deletion(linear), values)
    assert_close(found.curve.y, most, **EXACT)
    assert_close(found.curve.x[:, 0], torch.linspace(0, 1, 11, dtype=torch.float64))
    assert_close(found.value, (most[1:] + most[:-1]).sum(0) / 20, **EXACT)
    assert_close(score(metrics.Insertion(linear), values).value, (shown[1:] + shown[:-1]).sum(0) / 20, **EXACT)
    gap = least - most
    assert_close(score(metrics.ABPC(linear), values).value, (gap[1:] + gap[:-1]).sum(0) / 20, **EXACT)
    assert_close(score(metrics.PixelFlipping(linear), values).value, most.mean(0), **EXACT)
    assert_close(score(metrics.PixelFlipping(linear, order="lerf"), values).value, least.mean(0), **EXACT)
    assert_close(
        score(metrics.RegionPerturbation(linear, n_regions=4), values).value, most[0] - most[:5].mean(0), **EXACT
    )
    assert_close(score(metrics.Selectivity(linear), values).value, found.value, **EXACT)


def test_few_steps_remove_several_positions_at_once() -> None:
    found = score(metrics.Deletion(linear, n_steps=4))
    assert found.curve.x[:, 0].tolist() == [0, 0.2, 0.5, 0.8, 1]
    assert_close(found.curve.y, torch.stack([without(PARTS, k) for k in (0, 2, 5, 8, 10)]), **EXACT)


def test_normalised_curves_run_from_1_to_0() -> None:
    everything, nothing = linear(X), linear(BASE)
    for cls in (metrics.Deletion, metrics.Insertion, metrics.PixelFlipping, metrics.ABPC):
        plain, share = score(cls(linear)), score(cls(linear, normalise=True))
        shift = 0 if cls is metrics.ABPC else nothing
        assert_close(share.value, (plain.value - shift) / (everything - nothing), **EXACT)
        assert share.units == ""
        assert plain.units == "score"
    assert_close(score(metrics.Deletion(linear, normalise=True)).curve.y[[0, -1], 0], torch.tensor([1.0, 0]).double())
    # Adding the same to every score changes nothing.
    moved = metrics.Deletion(lambda x: linear(x) + 100, normalise=True)
    assert_close(score(moved).value, score(metrics.Deletion(linear, normalise=True)).value)


def test_rationales_are_the_largest() -> None:
    values, shares, counts = rand(4, 10, seed=3), (0.01, 0.2, 0.5), (1, 2, 5)
    start = linear(X)
    gone = torch.stack([start - without(values, k) for k in counts]).mean(0)
    kept = torch.stack([start - without(values, 10 - k, largest=False) for k in counts]).mean(0)
    assert_close(score(metrics.Comprehensiveness(linear, shares=shares), values).value, gone, **EXACT)
    assert_close(score(metrics.Sufficiency(linear, shares=shares), values).value, kept, **EXACT)


def test_soft_rationales_drop_as_often_as_they_should() -> None:
    chance = PARTS.clamp_min(0) / PARTS.amax(1, keepdim=True)
    for cls, expected in (
        (metrics.Comprehensiveness, (PARTS * chance).sum(1)),
        (metrics.Sufficiency, (PARTS * (1 - chance)).sum(1)),
    ):
        found = score(cls(linear, soft=True, n_samples=4000))
        assert ((found.value - expected).abs() < 5 * found.standard_error).all()
        assert (found.standard_error < 0.2).all()


def test_what_is_seen_through_the_explanation() -> None:
    shift = 40  # so that every score is above 0
    mask = PARTS.clamp_min(0) / PARTS.amax(1, keepdim=True)
    before = linear(X) + shift
    after = linear(BASE) + (mask * PARTS).sum(1) + shift
    drop = score(metrics.AverageDrop(lambda x: linear(x) + shift))
    assert_close(drop.value, ((before - after) / before).clamp_min(0), **EXACT)
    rise = score(metrics.IncreaseInConfidence(lambda x: linear(x) + shift))
    assert rise.value.tolist() == (after > before).double().tolist()
    assert drop.evaluations == len(X) * 2  # with the pass over the inputs themselves


def test_noise_on_what_is_important() -> None:
    values = rand(4, 10, seed=3)
    noise = normal(0.3, Tensors([torch.zeros_like(X)]), 5)(slice(0, 4), slice(0, 7)).parts[0]  # (K, B, D)
    rank = values.abs().argsort(1, descending=True).argsort(1)
    for cls, chosen in ((metrics.PGI, rank < 2), (metrics.PGU, rank >= 2)):
        sizes = ((noise * chosen) @ WEIGHTS).abs()
        found = score(cls(linear, share=0.2, stdevs=0.3, n_samples=7, seed=5), values)
        assert_close(found.value, sizes.mean(0), **EXACT)
        assert_close(found.standard_error, sizes.std(0) / 7**0.5, **EXACT)


def test_exact_parts_correlate_exactly_with_what_removal_does() -> None:
    for name in (
        "FaithfulnessCorrelation",
        "FaithfulnessEstimate",
        "MuFidelity",
        "SensitivityN",
        "MonotonicityCorrelation",
    ):
        metric = FAITHFUL[name](linear)
        assert_close(score(metric).value, torch.ones(4).double(), **EXACT)
        if metric.info.signed:
            assert_close(score(metric, -PARTS).value, -torch.ones(4).double(), **EXACT)
        assert_close(score(metric, 3 * PARTS).value, torch.ones(4).double(), **EXACT)
    curve = score(metrics.SensitivityN(linear)).curve
    assert_close(curve.y, torch.ones(5, 4).double()[: len(curve.y)], **EXACT)


def drawn(count: int, share: float, seed: int = 0) -> Tensor:
    """Subsets (K, 10), true where something is removed."""
    chance = torch.rand(count, 10, generator=draws(seed, stream=63), dtype=torch.float64)
    removed = torch.zeros(count, 10, dtype=torch.bool)
    return removed.scatter(1, chance.argsort(1)[:, : round(share * 10)], value=True)


def test_correlations_over_subsets_are_those_of_numpy() -> None:
    import numpy as np
    from scipy.stats import spearmanr

    values = rand(4, 10, seed=3)
    for share in (0.2, 0.5):
        removed = drawn(50, share).double()
        said, falls = removed @ values.T, removed @ PARTS.T
        pearson = [np.corrcoef(said[:, i], falls[:, i])[0, 1] for i in range(4)]
        ranked = [spearmanr(said[:, i], falls[:, i]).statistic for i in range(4)]
        options = {"n_subsets": 50, "share": share}
        assert_close(
            score(metrics.FaithfulnessCorrelation(linear, **options), values).value, torch.tensor(pearson), **EXACT
        )
        assert_close(score(metrics.MuFidelity(linear, **options), values).value, torch.tensor(ranked), **EXACT)
    single = [np.corrcoef(values[i], PARTS[i])[0, 1] for i in range(4)]
    assert_close(score(metrics.FaithfulnessEstimate(linear), values).value, torch.tensor(single), **EXACT)
    sizes = [spearmanr(values[i].abs(), PARTS[i].abs()).statistic for i in range(4)]
    assert_close(score(metrics.MonotonicityCorrelation(linear), values).value, torch.tensor(sizes), **EXACT)
    found = score(metrics.SensitivityN(linear, shares=(0.2, 0.5), n_subsets=50), values)
    both = [score(metrics.FaithfulnessCorrelation(linear, n_subsets=50, share=s), values).value for s in (0.2, 0.5)]
    assert_close(found.curve.y, torch.stack(both), **EXACT)
    assert_close(found.value, torch.stack(both).mean(0), **EXACT)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.FaithfulnessCorrelation(linear, n_subsets=40),
        metrics.MuFidelity(linear, n_subsets=40),
        metrics.SensitivityN(linear, n_subsets=40, shares=(0.2, 0.4)),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_the_standard_error_of_a_correlation_is_its_spread_over_the_seeds(metric: Metric) -> None:
    found = [score(metric.with_options(seed=s), PARTS + 4 * rand(4, 10, seed=3)) for s in range(80)]
    spread = torch.stack([f.value for f in found]).std(0)
    told = torch.stack([f.standard_error for f in found]).mean(0)
    assert ((told / spread - 1).abs() < 0.3).all()
    # Whatever subsets are drawn, exact parts have 1.
    assert_close(score(metric).standard_error, torch.zeros(4).double(), rtol=0, atol=1e-9)
    assert score(metric, torch.ones(4, 10).double()).standard_error.isnan().all()


def test_sizes_of_subsets_at_which_nothing_changes_do_not_count() -> None:
    def rule(z: Tensor) -> Tensor:
        return (z.sum(1) > 3.5) * z[:, :4].sum(1)  # 0 whichever 5 of 8 are gone

    x = torch.ones(1, 8, dtype=torch.float64)
    values = torch.tensor([[0.5, 2, 1, -1, 3, 1, 2, -1]], dtype=torch.float64)
    found = metrics.SensitivityN(rule, shares=(0.25, 0.625, 1.0)).score(values, x)
    assert found.curve.x[:, 0].tolist() == [0.25, 0.625]  # of all positions there is one subset
    assert found.curve.y.isnan().tolist() == [[False], [True]]
    alone = metrics.FaithfulnessCorrelation(rule, share=0.25).score(values, x)
    assert_close(found.value, alone.value, **EXACT)
    assert_close(found.standard_error, alone.standard_error, **EXACT)
    none = metrics.SensitivityN(lambda z: z.prod(1), shares=(0.25, 0.625)).score(values, x)
    assert none.undefined == {"the score falls by as much whatever is removed": 1}


def test_two_positions_have_a_size_of_subsets() -> None:
    x = torch.ones(1, 2, dtype=torch.float64)
    metric = metrics.SensitivityN(lambda z: z @ z.new_tensor([3.0, 1.0]))
    assert_close(metric.score(x * torch.tensor([3.0, 1.0]), x).value, torch.ones(1).double(), **EXACT)
    assert_close(metric.score(x * torch.tensor([1.0, 3.0]), x).value, -torch.ones(1).double(), **EXACT)


def test_rounding_breaks_no_ties() -> None:
    x = torch.full((1, 12), 0.1, dtype=torch.float64)
    found = metrics.MuFidelity(lambda z: z.sum(1) - 0.3 * z[:, 9:].sum(1), share=0.4).score(
        x * torch.tensor([1.0] * 9 + [0.7] * 3, dtype=torch.float64), x
    )
    assert_close(found.value, torch.ones(1).double(), **EXACT)


def test_small_changes_of_a_large_score_have_ranks() -> None:
    # Their squares are below the rounding of the score, they are not.
    found = score(metrics.MonotonicityCorrelation(lambda x: 1e4 + 1e-6 * linear(x)))
    assert_close(found.value, torch.ones(4).double(), **EXACT)


def test_ranks_of_equal_values_are_shared() -> None:
    from scipy.stats import spearmanr

    values = PARTS.round()  # many are equal
    expected = [spearmanr(values[i].abs(), PARTS[i].abs()).statistic for i in range(4)]
    assert_close(score(metrics.MonotonicityCorrelation(linear), values).value, torch.tensor(expected), **EXACT)


def test_infidelity_is_the_gap_that_is_left() -> None:
    assert (score(metrics.Infidelity(linear)).value < 1e-20).all()
    off = rand(4, 10, seed=3)
    gaps = (drawn(100, 0.2).double() @ off.T).square()
    found = score(metrics.Infidelity(linear), PARTS + off)
    assert_close(found.value, gaps.mean(0), **EXACT)
    assert_close(found.standard_error, gaps.std(0) / 10, **EXACT)


def test_scaled_infidelity_forgives_a_factor() -> None:
    found = score(metrics.Infidelity(linear, scaled=True), 4 * PARTS)
    assert (found.value < 1e-20).all()
    assert found.details["scale"] == pytest.approx([0.25] * 4)
    assert (score(metrics.Infidelity(linear), 4 * PARTS).value > 0.1).all()
    values = rand(4, 10, seed=3)
    best = score(metrics.Infidelity(linear, scaled=True), values)
    for factor in (0.9, 1.1):
        scale = torch.tensor(best.details["scale"]).double()[:, None] * factor
        assert (score(metrics.Infidelity(linear), scale * values).value > best.value).all()


def test_slopes_tell_what_noise_does() -> None:
    options = {"perturbation": "noise", "stdevs": 0.3, "n_subsets": 9}
    slopes = WEIGHTS.expand(4, 10)
    assert (score(metrics.Infidelity(linear, **options), slopes).value < 1e-20).all()
    off = rand(4, 10, seed=3)
    noise = normal(0.3, Tensors([torch.zeros_like(X)]), 0)(slice(0, 4), slice(0, 9)).parts[0]
    found = score(metrics.Infidelity(linear, **options), slopes + off)
    assert_close(found.value, (noise * off).sum(2).square().mean(0), **EXACT)


def test_monotonicity_counts_the_steps_that_do_not_fall() -> None:
    assert_close(score(metrics.Monotonicity(linear)).value, (PARTS >= 0).double().mean(1), **EXACT)
    pairs = rand(4, 10, seed=3).argsort(1).unflatten(1, (5, 2))  # two at a time, the least first
    values = torch.zeros(4, 10).double().scatter(1, pairs.flatten(1), torch.arange(10.0).double().expand(4, 10))
    rises = PARTS.gather(1, pairs.flatten(1)).unflatten(1, (5, 2)).sum(2) >= 0
    assert_close(score(metrics.Monotonicity(linear, n_steps=5), values).value, rises.double().mean(1), **EXACT)


def test_superpixels_go_by_their_mean() -> None:
    image, values, weight = rand(2, 3, 6, 6, seed=1).abs(), rand(2, 3, 6, 6, seed=2), rand(3, 6, 6, seed=3).abs()
    mask = torch.tensor([0, 0, 0, 1, 1, 2]).view(1, 6, 1)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2, 3))

    found = metrics.IROF(model, positions=mask, fill="baseline").score(values, image)
    for i in range(2):
        means = torch.stack([values[i][:, rows].mean() for rows in (slice(0, 3), slice(3, 5), slice(5, 6))])
        parts = torch.stack([(image[i] * weight)[:, rows].sum() for rows in (slice(0, 3), slice(3, 5), slice(5, 6))])
        left = (
            parts.sum() - torch.cat([torch.zeros(1).double(), parts[means.argsort(descending=True)].cumsum(0)])
        ) / parts.sum()
        assert_close(found.value[i], 1 - (left[1:] + left[:-1]).sum() / 6, **EXACT)


def test_road_imputes_what_it_removes() -> None:
    image, values, weight = rand(2, 2, 5, 5, seed=1), rand(2, 2, 5, 5, seed=2), rand(2, 5, 5, seed=3)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2, 3)).square()

    found = metrics.ROAD(model, shares=(0.2, 0.6)).score(values, image)
    pixels = torch.arange(25).view(1, 5, 5)
    p = Problem(model, Tensors([image]))
    from torchwhy.engines.fills import as_fill

    game = Game(p, Groups(p.point, pixels), as_fill("linear"))
    for i in range(2):
        order = values[i].sum(0).flatten().argsort(descending=True)
        gaps = []
        for count in (5, 15):
            rows = torch.ones(2, 25, dtype=torch.bool)
            rows[0, order[:count]] = False
            rows[1, order[-count:]] = False
            most, least = game.evaluate(rows)[:, i]
            gaps.append(least - most)
        assert_close(found.value[i], torch.stack(gaps).mean(), **EXACT)


# -- good and bad attributions -----------------------------------------------------------------------------------


class Bilinear(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 4 + linear(x) + 0.3 * (x[:, :5] * x[:, 5:]).sum(1)


def relu_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    with torch.no_grad():
        net[2].bias += 2
    return net


def additive(x: Tensor) -> Tensor:
    return (torch.sin(x) * WEIGHTS).sum(1) + 3


MODELS = {"linear": linear, "additive": additive, "bilinear": Bilinear(), "relu": relu_net()}


@pytest.fixture(scope="module", params=MODELS)
def known(request: pytest.FixtureRequest) -> tuple[Any, Tensor, Tensor]:
    """A model of scores above 0, inputs, and their exact Shapley values."""
    model, x = MODELS[request.param], rand(24, 10, seed=7)
    values = ShapleyValues(model).attribute(x)
    keep = values.sum(1).sort().indices[-12:]  # scores well above the baseline's, as a decision's are
    return model, x[keep], values[keep]


@pytest.mark.parametrize("name", sorted(set(FAITHFUL) - {"IROF", "ROAD", "Monotonicity"}))
def test_exact_beats_random_beats_negated(known: tuple[Any, Tensor, Tensor], name: str) -> None:
    # Monotonicity does not depend on the order where features do not interact, and two are for images.
    model, x, values = known
    metric = FAITHFUL[name](model)
    sign = 1 if metric.direction == "higher" else -1

    def goodness(given: Tensor) -> float:
        return sign * metric.score(given, x).mean

    chance = torch.stack([values[:, torch.randperm(10, generator=draws(0, number=k))] for k in range(8)])
    exact, random = goodness(values), sum(map(goodness, chance)) / len(chance)
    assert exact > random
    if metric.info.signed:
        assert random > goodness(-values)
    assert not goodness(torch.ones_like(values)) > exact


@pytest.mark.parametrize("name", ["IROF", "ROAD"])
def test_exact_beats_random_beats_negated_on_images(name: str) -> None:
    images = rand(6, 1, 8, 8, seed=1).abs().cumsum(2).cumsum(3) / 16
    weight = rand(1, 8, 8, seed=2)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2, 3)).exp()

    values = FeatureAblation(model, feature_mask=superpixels(images, 12)).attribute(images)
    metric = FAITHFUL[name](model)
    exact, negated = metric.score(values, images).mean, metric.score(-values, images).mean
    random = sum(metric.score(rand(6, 1, 8, 8, seed=s), images).mean for s in range(8)) / 8
    assert exact > random > negated


# -- positions ---------------------------------------------------------------------------------------------------


def test_a_position_of_an_image_is_a_patch_of_all_channels() -> None:
    x, values, weight = rand(2, 3, 20, 33, seed=1), rand(2, 3, 20, 33, seed=2), rand(3, 20, 33, seed=3)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2, 3))

    # 20 x 33 = 660 places are more than 256, so that a position is a patch of 2 x 2.
    rows, columns = torch.arange(20)[:, None] // 2, torch.arange(33) // 2
    by_hand = metrics.Deletion(model, positions=rows * 17 + columns).score(values, x)
    assert_close(metrics.Deletion(model).score(values, x).value, by_hand.value)
    assert_close(metrics.Deletion(model, positions=2).score(values, x).value, by_hand.value)
    pixels = torch.arange(660).view(20, 33)
    assert_close(
        metrics.Deletion(model, positions="pixels").score(values, x).value,
        metrics.Deletion(model, positions=pixels).score(values, x).value,
    )
    elements = metrics.Deletion(model, positions="elements").score(values, x).value
    assert_close(elements, metrics.Deletion(model, positions=torch.arange(1980).view(3, 20, 33)).score(values, x).value)
    assert not torch.allclose(elements, by_hand.value)


def test_one_channel_of_values_stands_for_all_channels() -> None:
    x, values, weight = rand(2, 3, 6, 6, seed=1), rand(2, 1, 6, 6, seed=2), rand(3, 6, 6, seed=3)
    metric = metrics.Infidelity(lambda z: (z * weight).sum((1, 2, 3)))
    assert_close(metric.score(values, x).value, metric.score(values.expand(2, 3, 6, 6) / 3, x).value)


def test_one_value_per_token_removes_tokens() -> None:
    x, values, weight = rand(2, 7, 4, seed=1), rand(2, 7, seed=2), rand(7, 4, seed=3)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2))

    tokens = torch.arange(7).view(7, 1)
    expected = metrics.Deletion(model, positions=tokens).score(values[..., None].expand(2, 7, 4), x)
    assert_close(metrics.Deletion(model).score(values, x).value, expected.value)
    flipped = metrics.PixelFlipping(model, positions=tokens).score(values[..., None].expand(2, 7, 4), x)
    assert_close(metrics.PixelFlipping(model).score(values, x).value, flipped.value)


def test_one_channel_of_values_removes_places_of_a_series() -> None:
    x, weight = rand(2, 3, 8, seed=1), rand(3, 8, seed=2)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2))

    exact = (x * weight).sum(1, keepdim=True)
    for name in ("FaithfulnessEstimate", "FaithfulnessCorrelation", "MonotonicityCorrelation", "SensitivityN"):
        assert_close(FAITHFUL[name](model).score(exact, x).value, torch.ones(2).double(), **EXACT)
    places = torch.arange(8).view(1, 8)
    expected = metrics.Deletion(model, positions=places).score(exact, x)
    assert_close(metrics.Deletion(model).score(exact, x).value, expected.value)
    # With a value for each, elements are removed.
    elements = metrics.Deletion(model).score(x * weight, x)
    assert len(elements.curve.y) == 21
    assert len(expected.curve.y) == 9


def test_examples_may_have_positions_of_their_own() -> None:
    x, values, weight = rand(3, 1, 9, 9, seed=1), rand(3, 1, 9, 9, seed=2), rand(9, 9, seed=3)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2, 3))

    pieces = torch.stack([torch.arange(81).view(1, 9, 9) // n for n in (9, 20, 27)])
    for positions, own in (("superpixels", ["superpixels"] * 3), (pieces, pieces.split(1))):
        together = metrics.Deletion(model, positions=positions).score(values, x)
        for i in range(3):
            part = slice(i, i + 1)
            alone = metrics.Deletion(model, positions=own[i]).score(values[part], x[part])
            assert_close(together.value[part], alone.value)
    assert [len(p.unique()) for p in pieces] == [9, 5, 3]


def test_what_is_kept_is_never_removed() -> None:
    mask = torch.arange(10)
    mask[3] = KEPT
    values = PARTS.clone()
    values[:, 3] = 100
    found = metrics.Deletion(linear, positions=mask).score(values, X, BASE)
    assert_close(found.curve.y[-1], linear(BASE) + PARTS[:, 3])
    faded = metrics.AverageDrop(lambda x: linear(x) + 40, positions=mask).score(values, X, BASE)
    rest = PARTS.clone()
    rest[:, 3] = 0
    share = rest.clamp_min(0) / rest.amax(1, keepdim=True)
    share[:, 3] = 1
    before, after = linear(X) + 40, linear(BASE) + (share * PARTS).sum(1) + 40
    assert_close(faded.value, ((before - after) / before).clamp_min(0))


def test_unknown_options_are_refused() -> None:
    for options, match in (
        ({"positions": "pixel"}, "'pixels'"),
        ({"positions": 0}, "positions"),
        ({"fill": "blurred"}, "did you mean 'blur'"),
        ({"seed": -1}, "seed"),
        ({"n_steps": 0}, "n_steps"),
        ({"controls": ("nothing",)}, "no control 'nothing'"),
        ({"controls": "random"}, r"a tuple of names, \('random',\), not 'random'"),
    ):
        with pytest.raises(TorchwhyError, match=match):
            metrics.Deletion(linear, **options)
    with pytest.raises(TorchwhyError, match="order"):
        metrics.PixelFlipping(linear, order="most")
    with pytest.raises(TorchwhyError, match="shares"):
        metrics.Comprehensiveness(linear, shares=(0.0,))


def test_the_fill_takes_the_place_of_what_is_removed() -> None:
    x = rand(2, 1, 8, 8, seed=1)

    def model(z: Tensor) -> Tensor:
        return z.std((1, 2, 3))

    values = x.abs()
    by_fill = {fill: metrics.Deletion(model, fill=fill).score(values, x).curve.y[-1] for fill in ("mean", "baseline")}
    assert_close(by_fill["mean"], torch.zeros(2).double(), rtol=0, atol=1e-12)
    blurred = metrics.Deletion(model, fill="blur").score(values, x).curve.y[-1]
    assert (blurred > 0.01).all()


# -- where there is no value -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FaithfulnessCorrelation", "FaithfulnessEstimate", "MuFidelity", "SensitivityN"])
def test_without_spread_there_is_no_correlation(name: str) -> None:
    flat = score(FAITHFUL[name](linear), torch.ones(4, 10).double())
    assert flat.value.isnan().all()
    assert set(flat.reasons) == {"the attributions are the same for all that is removed"}
    assert flat.undefined == {flat.reasons[0]: 4}
    still = score(FAITHFUL[name](lambda x: 0 * x.sum(1) + 3))
    assert still.value.isnan().all()
    assert set(still.reasons) == {"the score falls by as much whatever is removed"}


@pytest.mark.parametrize(
    "metric",
    [
        metrics.AverageDrop(linear),
        metrics.IncreaseInConfidence(linear),
        metrics.Comprehensiveness(linear, soft=True),
        metrics.Sufficiency(linear, soft=True),
        metrics.Monotonicity(linear),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_what_is_the_same_everywhere_wins_nothing(metric: Metric) -> None:
    # It would keep all there is, or drop it, or have any order.
    flat = score(metric, torch.full((4, 10), 0.5).double())
    assert flat.undefined == {"the attributions are the same everywhere, so none stands out": 4}
    groups = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2, 3]])  # of several sizes, so that their sums differ
    grouped = score(metric.with_options(positions=groups), torch.full((4, 10), 0.5).double())
    assert grouped.undefined == flat.undefined
    assert score(metric, PARTS).value.isfinite().any()


def test_rounding_is_no_spread() -> None:
    def model(x: Tensor) -> Tensor:
        return 1e6 + 1e-12 * x.sum(1)  # less than a float64 of this size can tell

    found = metrics.FaithfulnessEstimate(model).score(PARTS, X)
    assert found.value.isnan().all()


def test_there_is_no_share_of_a_score_below_0() -> None:
    shift = torch.tensor([40.0, -40, 40, -40]).double()[:, None]
    found = metrics.AverageDrop(lambda x, s: linear(x) + s[:, 0]).score(PARTS, X, BASE, additional_forward_args=shift)
    assert found.value.isnan().tolist() == [False, True, False, True]
    assert found.reasons[1] == "the score is not above 0: explain a probability"
    unmarked = metrics.AverageDrop(lambda x: linear(x) + 40).score(-PARTS.abs(), X, BASE)
    assert set(unmarked.reasons) == {"no attribution is above 0, so nothing is marked"}
    same = metrics.Deletion(linear, normalise=True).score(PARTS, X, X)
    assert set(same.reasons) == {"the input has the score of nothing, so there is no way between them"}


# -- what is judged ----------------------------------------------------------------------------------------------


def test_a_record_brings_its_layer_and_its_target() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = rand(3, 6)
    method = IntegratedGradients(net, at="1")
    record = method.explain(x, target=[2, 0, 1])
    found = metrics.Deletion(net).score(record)
    assert_close(found.value, metrics.Deletion().score(method, x, target=[2, 0, 1]).value)
    # The method compares with what zero inputs bring about at the layer; numbers alone do not say so.
    base = net[:2](torch.zeros(1, 6, dtype=torch.float64)).detach()
    plain = metrics.Deletion(net, at="1").score(record.values, x, target=[2, 0, 1], layer_baselines=base)
    assert_close(found.value, plain.value)
    assert not torch.allclose(found.value, metrics.Deletion(net).score(record, target=0).value)
    with pytest.raises(TorchwhyError, match="give target="):
        metrics.Deletion(net).score(IntegratedGradients(net).explain(x, target=lambda out: out[:, 0]))


def test_values_of_another_form_are_refused() -> None:
    with pytest.raises(TorchwhyError, match="not of the form"):
        metrics.Deletion(linear).score(PARTS[:, :4], X)
    with pytest.raises(TorchwhyError, match="not of the form"):
        metrics.Deletion(linear).score(PARTS[:2], X)
    with pytest.raises(TorchwhyError, match="real numbers"):
        metrics.Deletion(linear).score(PARTS.long(), X)
    with pytest.raises(TorchwhyError, match="another model"):
        metrics.Deletion(additive).score(Saliency(linear), X)


def test_baselines_are_the_metrics_where_the_method_takes_none() -> None:
    found = metrics.Deletion().score(Saliency(linear, abs=False), X, BASE)
    assert_close(found.value, score(metrics.Deletion(linear), WEIGHTS.expand(4, 10)).value)


def test_the_size_of_values_is_taken_where_it_is_asked_for() -> None:
    values = rand(4, 10, seed=3)
    assert_close(
        score(metrics.Deletion(linear, abs=True), values).value, score(metrics.Deletion(linear), values.abs()).value
    )
    assert not torch.allclose(
        score(metrics.Deletion(linear), values).value, score(metrics.Deletion(linear), values.abs()).value
    )


def test_equal_values_take_turns_by_the_seed() -> None:
    flat = torch.ones(4, 10).double()
    first, again, other = (score(metrics.Deletion(linear, seed=s), flat).value for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("Deletion", 11),
        ("Insertion", 11),
        ("ABPC", 20),
        ("RegionPerturbation", 11),
        ("FaithfulnessEstimate", 11),
        ("FaithfulnessCorrelation", None),
        ("AverageDrop", 1),
    ],
)
def test_it_costs_what_it_says(name: str, rows: int | None) -> None:
    found = score(FAITHFUL[name](linear))
    known = rows if rows is not None else len(drawn(100, 0.2).unique(dim=0)) + 1  # a subset drawn twice is known
    assert found.evaluations == 4 * (known + 1)  # and the pass over the inputs themselves


def test_the_point_of_many_examples_is_asked_for_again_for_a_few_of_them() -> None:
    x, base = rand(20, 10, seed=1), rand(20, 10, seed=2)
    rows = {}
    for count in (8, 20):
        found = metrics.Deletion(linear).score((WEIGHTS * (x - base))[:count], x[:count], base[:count])
        assert_close(found.curve.y[0], linear(x[:count]), **EXACT)
        assert_close(found.curve.y[-1], linear(base[:count]), **EXACT)
        rows[count] = found.evaluations
    assert rows == {8: 8 * (1 + 11), 20: 20 * (1 + 10) + 8}


@pytest.mark.parametrize("count", [4, 20])
@pytest.mark.parametrize(
    "model",
    [
        lambda x: linear(x) + torch.randn(len(x), dtype=x.dtype),
        lambda x: linear(x - x.mean(0)),
    ],
    ids=["draws numbers", "mixes rows"],
)
def test_a_model_that_gives_the_point_another_score_is_found_out(model: Any, count: int) -> None:
    x = rand(count, 10, seed=1)
    with pytest.raises(TorchwhyError, match="it draws random numbers"):
        metrics.FaithfulnessCorrelation(model).score(x, x)
    assert metrics.FaithfulnessCorrelation(linear).score(WEIGHTS * x, x).value.isfinite().all()
