"""Metrics of localisation against counts by hand, what chance gives, and what changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from torchwhy import TorchwhyError, metrics
from torchwhy.metrics.localisation import mosaic
from torchwhy.metrics.orders import ascending, largest, mean_ranks

CLASSES = {name: cls for name, cls in metrics.metrics().items() if cls.info.family == "localisation"}
VALUES = torch.tensor([[3.0, -1.0, 2.0, 0.5, 0.0, -4.0]], dtype=torch.float64)
MASK = torch.tensor([[True, False, False, True, False, True]])


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(name: str, values: Tensor = VALUES, mask: Tensor = MASK, **options: object) -> float:
    return CLASSES[name](**options).score(values, mask=mask).value.item()


def test_the_family_is_whole() -> None:
    assert set(CLASSES) == {
        "AUC",
        "AttributionLocalisation",
        "Focus",
        "PointingGame",
        "RelevanceMassAccuracy",
        "RelevanceRankAccuracy",
        "TopKIntersection",
    }


# -- by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "known"),
    [
        ("PointingGame", {}, 1),
        ("PointingGame", {"pooling": "l1"}, 1),  # -4 is the largest in size, and inside as well
        ("AttributionLocalisation", {}, 3.5 / 5.5),
        ("AttributionLocalisation", {"weighted": True}, 3.5 / 5.5 * 2),
        ("AttributionLocalisation", {"pooling": "l1"}, 7.5 / 10.5),
        ("RelevanceMassAccuracy", {"pooling": "l2"}, 7.5 / 10.5),
        ("Focus", {}, 3.5 / 5.5),
        ("TopKIntersection", {"k": 2}, 1 / 2),
        ("TopKIntersection", {"k": 0.5}, 2 / 3),
        ("TopKIntersection", {"k": 2, "pooling": "max"}, 1),
        ("RelevanceRankAccuracy", {}, 2 / 3),
        ("RelevanceRankAccuracy", {"pooling": "l1"}, 2 / 3),
        ("AUC", {}, 5 / 9),  # 3 above three, 0.5 above two, -4 above none
    ],
)
def test_values_by_hand(name: str, options: dict[str, object], known: float) -> None:
    assert value(name, **options) == pytest.approx(known, abs=1e-12)


def test_the_auc_is_the_share_of_pairs_in_order_with_half_for_ties() -> None:
    values = rand(5, 30, seed=1).mul(2).round()  # many ties
    mask = rand(5, 30, seed=2) > 0.3
    found = metrics.AUC().score(values, mask=mask).value
    for v, m, auc in zip(values, mask, found, strict=True):
        inside, outside = v[m][:, None], v[~m]
        pairs = (inside > outside).double() + (inside == outside).double() / 2
        assert_close(auc, pairs.mean())


def test_the_auc_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    values, mask = rand(4, 50, seed=3).mul(3).round(), rand(4, 50, seed=4) > 0
    for v, m, auc in zip(values, mask, metrics.AUC().score(values, mask=mask).value, strict=True):
        assert auc.item() == pytest.approx(roc_auc_score(m.numpy(), v.numpy()))


def test_the_pointing_game_forgives_a_distance() -> None:
    values, mask = torch.zeros(2, 1, 9, 9), torch.zeros(2, 1, 9, 9, dtype=torch.bool)
    values[:, 0, 4, 4] = 1
    mask[0, 0, 1, 0] = True  # 5 away
    mask[1, 0, 3, 3] = True  # the root of 2
    assert metrics.PointingGame(tolerance=1).score(values, mask=mask).value.tolist() == [0, 0]
    assert metrics.PointingGame(tolerance=1.5).score(values, mask=mask).value.tolist() == [0, 1]
    assert metrics.PointingGame(tolerance=4.99).score(values, mask=mask).value.tolist() == [0, 1]
    assert metrics.PointingGame(tolerance=5).score(values, mask=mask).value.tolist() == [1, 1]


def test_distances_stay_within_a_tensor() -> None:
    a, b = torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, 3)
    nothing, first = torch.zeros(1, 3, dtype=torch.bool), torch.tensor([[True, False, False]])
    assert metrics.PointingGame(tolerance=9).score((a, b), mask=(nothing, first)).value == 0
    assert metrics.PointingGame(tolerance=2).score((a, b), mask=(first, nothing)).value == 1


def test_equal_largest_attributions_are_equally_likely_to_be_pointed_at() -> None:
    values, mask = torch.tensor([[1.0, 1, 1, 0]]), torch.tensor([[True, False, False, True]])
    assert value("PointingGame", values, mask) == pytest.approx(1 / 3)
    assert value("TopKIntersection", values, mask, k=1) == pytest.approx(1 / 3)
    assert value("RelevanceRankAccuracy", values, mask) == pytest.approx(1 / 3)


def test_negative_attributions_mark_nothing() -> None:
    # All of the negative relevance is inside, all of the positive outside.
    values, mask = torch.tensor([[-9.0, 1.0, 1.0]]), torch.tensor([[True, False, False]])
    for name in CLASSES:
        assert value(name, values, mask) == 0
        assert value(name, values, mask, pooling="l1") > 0.5


@pytest.mark.parametrize(
    ("pooling", "known"), [("sum", [1.0, 5.0]), ("l1", [7.0, 5.0]), ("l2", [5.0, 5.0]), ("max", [4.0, 5.0])]
)
def test_channels_of_a_place_are_pooled(pooling: str, known: list[float]) -> None:
    values = torch.tensor([[[[4.0, 0.0]], [[-3.0, 5.0]]]], dtype=torch.float64)  # (1, 2, 1, 2)
    mask = torch.tensor([[[[True, False]]]])
    assert value("RelevanceMassAccuracy", values, mask, pooling=pooling) == pytest.approx(known[0] / sum(known))


def test_a_mask_of_channels_is_refused() -> None:
    mask = torch.zeros(1, 2, 1, 2, dtype=torch.bool)
    mask[0, 0] = True
    with pytest.raises(TorchwhyError, match="give it one channel"):
        metrics.AUC().score(rand(1, 2, 1, 2), mask=mask)


# -- where there is no value ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_an_empty_mask_has_no_value(name: str) -> None:
    found = CLASSES[name]().score(VALUES.repeat(2, 1), mask=torch.cat([MASK, MASK & False]))
    assert found.value.isnan().tolist() == [False, True]
    assert found.reasons == ("", "the mask is empty, so nothing should be marked")


@pytest.mark.parametrize("name", ["PointingGame", "TopKIntersection", "RelevanceRankAccuracy"])
def test_a_constant_map_points_nowhere(name: str) -> None:
    found = CLASSES[name]().score(torch.ones(1, 6), mask=MASK)
    assert found.reasons == ("the attributions are the same everywhere, so none stands out",)


def test_a_constant_map_is_as_good_as_chance() -> None:
    assert value("AUC", torch.ones(1, 6)) == 0.5
    assert value("AttributionLocalisation", torch.ones(1, 6), weighted=True) == pytest.approx(1)
    assert value("RelevanceMassAccuracy", torch.ones(1, 6)) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["AttributionLocalisation", "RelevanceMassAccuracy", "Focus"])
def test_without_positive_attributions_there_is_no_share(name: str) -> None:
    found = CLASSES[name]().score(-torch.ones(1, 6), mask=MASK)
    assert found.reasons == ("no attribution is above 0, so nothing is marked",)


def test_a_full_mask_has_no_outside() -> None:
    found = metrics.AUC().score(VALUES, mask=MASK | True)
    assert found.reasons == ("the mask is full, so nothing should be left unmarked",)
    assert value("AttributionLocalisation", VALUES, MASK | True) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("TopKIntersection", {"k": 0}, "whole number of at least 1, or a share"),
        ("TopKIntersection", {"k": 1.5}, "whole number of at least 1, or a share"),
        ("TopKIntersection", {"k": 7}, "more than the 6 attributions"),
        ("PointingGame", {"tolerance": -1}, "number of pixels"),
        ("AUC", {"pooling": "mean"}, "pooling is one of"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        value(name, **options)


# -- properties --------------------------------------------------------------------------------------------------

SEEDS = st.integers(0, 10_000)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_a_perfect_map_is_perfect(seed: int) -> None:
    mask = rand(3, 12, seed=seed) > 0
    mask[:, 0], mask[:, 1] = True, False
    values = mask.double() * (1 + rand(3, 12, seed=seed + 1).abs())
    for name in set(CLASSES) - {"TopKIntersection"}:
        assert_close(CLASSES[name]().score(values, mask=mask).value, torch.ones(3, dtype=torch.float64))
    assert_close(metrics.AUC().score(-values, mask=mask).value, torch.zeros(3, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.01, 100))
def test_scale_and_the_order_of_the_places_change_nothing(seed: int, scale: float) -> None:
    values, mask = rand(3, 12, seed=seed), rand(3, 12, seed=seed + 1) > 0
    mask[:, 0], mask[:, 1] = True, False
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    for cls in CLASSES.values():
        known = cls().score(values, mask=mask).value
        assert_close(cls().score(scale * values[:, order], mask=mask[:, order]).value, known, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_ranks_alone_decide_the_auc(seed: int) -> None:
    values, mask = rand(3, 12, seed=seed), rand(3, 12, seed=seed + 1) > 0
    mask[:, 0], mask[:, 1] = True, False
    auc = metrics.AUC()
    known = auc.score(values, mask=mask).value
    assert_close(auc.score(values.exp() - 7, mask=mask).value, known)
    assert_close(auc.score(values, mask=~mask).value, 1 - known)


def test_noise_is_worth_the_size_of_the_mask() -> None:
    mask = torch.arange(20) < 5
    values = rand(4000, 20, seed=7)
    for name, chance in {"AUC": 0.5, "PointingGame": 0.25, "RelevanceRankAccuracy": 0.25}.items():
        assert CLASSES[name]().score(values, mask=mask[None]).mean == pytest.approx(chance, abs=0.03)
    weighted = metrics.AttributionLocalisation(weighted=True).score(values, mask=mask[None])
    assert weighted.mean == pytest.approx(1, abs=0.03)


# -- orders, mosaics ---------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 12))
def test_the_largest_are_as_many_as_asked_for(seed: int, k: int) -> None:
    values = rand(3, 12, seed=seed).mul(2).round()
    found = largest(values, k)
    assert_close(found.sum(1), torch.full((3,), float(k), dtype=torch.float64))
    assert ((found >= 0) & (found <= 1)).all()
    best = values.sort(1, descending=True).values[:, :k].sum(1)
    assert_close((found * values).sum(1), best)  # whichever of the equal ones are taken


def test_ranks_are_those_of_scipy() -> None:
    from scipy.stats import rankdata

    values = rand(4, 30, seed=1).mul(2).round()
    assert_close(mean_ranks(values), torch.from_numpy(rankdata(values.numpy(), axis=1)))


def test_a_mosaic_shows_four_images_and_where_the_class_is() -> None:
    images, holds = rand(2, 4, 3, 2, 5), torch.tensor([[True, False, False, True], [False, True, True, False]])
    whole, mask = mosaic(images, holds)
    assert whole.shape == (2, 3, 4, 10)
    for i in range(2):
        for q, (top, left) in enumerate([(0, 0), (0, 5), (2, 0), (2, 5)]):
            assert torch.equal(whole[i, :, top : top + 2, left : left + 5], images[i, q])
            assert (mask[i, 0, top : top + 2, left : left + 5] == holds[i, q]).all()
    assert math.isclose(mask.double().mean(), 0.5)


def test_a_mosaic_of_three_images_is_refused() -> None:
    with pytest.raises(TorchwhyError, match="four images"):
        mosaic(rand(2, 3, 3, 2, 5), torch.ones(3, dtype=torch.bool))
    with pytest.raises(TorchwhyError, match="booleans"):
        mosaic(rand(2, 4, 3, 2, 5), torch.ones(2, 4))


def test_the_order_of_equal_values_is_kept_where_it_has_to_be() -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.cat([torch.randn(3, 500, generator=generator), torch.randint(5, (3, 500), generator=generator)])
    assert torch.equal(ascending(values, stable=True), values.argsort(dim=1, stable=True))
    assert torch.equal(values.gather(1, ascending(values)), values.sort(1).values)
