"""Features that are present or absent: which elements they are, and what the score is without them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from torchwhy import FeatureAblation, Occlusion, TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game, Groups, Windows


def booleans(*rows: str) -> Tensor:
    """Rows such as "101"."""
    return torch.tensor([[letter == "1" for letter in row] for row in rows])


POINT = Tensors([torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([[10.0, 20], [30, 40]])])


def total(a: Tensor, b: Tensor) -> Tensor:
    return a.sum(1) + b.sum(1)


# -- groups -----------------------------------------------------------------------------------------


def test_without_a_mask_every_element_is_a_feature() -> None:
    groups = Groups(POINT)
    assert groups.count == 5
    first, second = groups.mask(booleans("10110", "01111"))
    assert torch.equal(first, booleans("101", "011")[:, None])
    assert torch.equal(second, booleans("10", "11")[:, None])


def test_equal_numbers_are_one_feature_in_whichever_tensor() -> None:
    groups = Groups(POINT, (torch.tensor([5, 5, -2]), torch.tensor([[-2, 8]])))
    assert groups.count == 3
    assert groups.numbers.tolist() == [-2, 5, 8]
    first, second = groups.mask(booleans("011", "101", "110"))
    assert torch.equal(first[:, 0], booleans("110", "001", "111"))
    assert torch.equal(second[:, 0], booleans("01", "11", "10"))


def test_masks_per_example_make_masks_per_example() -> None:
    groups = Groups(POINT, (torch.tensor([[0, 0, 1], [1, 0, 0]]), torch.tensor([2, 2])))
    first, second = groups.mask(booleans("011"))
    assert torch.equal(first[0], booleans("001", "100"))
    assert torch.equal(second[0], booleans("11"))


def test_groups_spread_a_value_to_all_their_elements() -> None:
    groups = Groups(POINT, (torch.tensor([[0, 0, 1], [1, 0, 0]]), torch.tensor([2, 0])))
    first, second = groups.spread(torch.tensor([[0.5, 1.5], [10, 20], [100, 200]]))
    assert first.tolist() == [[0.5, 0.5, 10], [20, 1.5, 1.5]]
    assert second.tolist() == [[100, 0.5], [200, 1.5]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([0, 0, 1]), "feature_mask has 1 tensors for 2 of the input"),
        (
            (torch.tensor([0.0, 0, 1]), torch.tensor([0, 0])),
            "the integer number of each element's feature, not torch.float32",
        ),
        (([0, 0, 1], torch.tensor([0, 0])), "not list"),
        ((torch.tensor([0, 1]), torch.tensor([0, 0])), r"\(2,\) does not broadcast to the input, \(2, 3\)"),
        (
            (torch.zeros(3, 2, 3).long(), torch.tensor([0, 0])),
            r"\(3, 2, 3\) does not broadcast to the input, \(2, 3\)",
        ),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: object, message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        FeatureAblation(total, feature_mask=mask).attribute(POINT.parts)


# -- windows ----------------------------------------------------------------------------------------


def test_windows_slide_to_the_end_and_are_cut_off_there() -> None:
    point = Tensors([torch.zeros(1, 5)])
    assert [box[0] for _, box in Windows(point, [(2,)], [(2,)]).boxes] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 5),
    ]
    assert [box[0] for _, box in Windows(point, [(3,)], [(2,)]).boxes] == [slice(0, 3), slice(2, 5)]
    assert [box[0] for _, box in Windows(point, [(5,)], [(1,)]).boxes] == [slice(0, 5)]
    assert Windows(Tensors([torch.zeros(1, 3, 8, 9)]), [(3, 3, 4)], [(1, 2, 3)]).count == 1 * 4 * 3


def test_a_window_covers_its_box_of_its_own_tensor() -> None:
    windows = Windows(POINT, [(2,), (2,)], [(1,), (1,)])
    first, second = windows.mask(booleans("011", "101", "110", "111"))
    assert torch.equal(first[:, 0], booleans("001", "100", "111", "111"))
    assert torch.equal(second[:, 0], booleans("11", "11", "00", "11"))


def test_an_element_gets_the_mean_of_the_windows_that_cover_it() -> None:
    windows = Windows(POINT, [(2,), (2,)], [(1,), (1,)])
    first, second = windows.spread(torch.tensor([[1.0, 10], [3, 30], [7, 70]]))
    assert first.tolist() == [[1, 2, 3], [10, 20, 30]]
    assert second.tolist() == [[7, 7], [70, 70]]


def test_windows_chosen_by_default_cover_everything() -> None:
    x = torch.ones(1, 3, 12, 7)
    found = Occlusion(lambda t: t.sum((1, 2, 3))).explain(x)
    assert found.provenance["window"] == [(3, 3, 2)]
    assert found.provenance["stride"] == [(1, 1, 1)]
    assert (found.values > 0).all()
    assert found.provenance["windows"] == 10 * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sliding_window_shapes": (4,)}, r"the window \(4,\) is larger than the input, \(3,\)"),
        ({"sliding_window_shapes": (2,), "strides": 3}, r"strides \(3,\) are larger than the window \(2,\)"),
        ({"sliding_window_shapes": (2, 2)}, "must be 1 whole numbers of at least 1"),
        ({"sliding_window_shapes": (0,)}, "must be 1 whole numbers of at least 1"),
        ({"sliding_window_shapes": (True,)}, "must be 1 whole numbers of at least 1"),
        ({"sliding_window_shapes": ((2,), (2,))}, "sliding_window_shapes: 2 given for 1 inputs"),
        ({"sliding_window_shapes": (2,), "strides": 0}, "must be 1 whole numbers of at least 1"),
    ],
)
def test_windows_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        Occlusion(lambda t: t.sum(1), **options).attribute(torch.ones(2, 3))


# -- the game ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3])
def test_absent_features_get_the_baseline(batch_size: int | None) -> None:
    p = Problem(total, POINT, baselines=(0.5, torch.tensor([[100.0, 200]])), batch_size=batch_size)
    rows = booleans("11111", "01111", "11110", "00000", "10101")
    scores = Game(p, Groups(POINT)).values(lambda ks: rows[ks], len(rows))
    known = [
        [36.0, 85],
        [35.5, 81.5],
        [216, 245],
        [301.5, 301.5],
        [1 + 0.5 + 3 + 100 + 20, 4 + 0.5 + 6 + 100 + 40],
    ]
    assert scores.tolist() == known


def test_rows_of_masks_per_example() -> None:
    p = Problem(total, POINT)
    groups = Groups(POINT, (torch.tensor([[0, 0, 1], [1, 0, 0]]), torch.tensor([2, 2])))
    for batch_size in (None, 1):
        p.batch_size = batch_size
        scores = Game(p, groups).values(lambda ks: booleans("011", "101")[ks], 2)
        assert scores.tolist() == [[33, 74], [33, 81]]


def test_one_absent_is_the_fall_for_each_feature_and_example() -> None:
    falls = Game(Problem(total, POINT), Groups(POINT)).one_absent()
    assert_close(falls, POINT.flat().T)


def test_each_feature_costs_one_row_per_example() -> None:
    found = FeatureAblation(total).explain(POINT.parts)
    assert found.provenance["features"] == 5
    assert found.provenance["forward_rows"] == 2 * (1 + 5)
    assert found.provenance["backward_rows"] == 0


def test_a_model_without_gradients_can_be_ablated() -> None:
    with torch.no_grad():
        values = FeatureAblation(lambda x: (x > 0.5).double().sum(1)).attribute(torch.tensor([[1.0, 0.2, 3]]))
    assert values.tolist() == [[1, 0, 1]]
