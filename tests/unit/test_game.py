"""Features that are present or absent: which elements they are, and what the score is without them."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchwhy import FeatureAblation, Occlusion, TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import Noise
from torchwhy.engines.game import Game, Groups, Windows, either
from torchwhy.engines.masks import KEPT, channels, columns, superpixels, tokens
from torchwhy.methods.banzhaf import Banzhaf
from torchwhy.methods.base import Method
from torchwhy.methods.rise import RISE
from torchwhy.methods.shapley import ShapleyValues, ShapleyValueSampling


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
    assert found.provenance["forward_rows"] == 2 * (1 + 5 + 1)  # with the point, which is scored again
    assert found.provenance["backward_rows"] == 0


def test_a_model_without_gradients_can_be_ablated() -> None:
    with torch.no_grad():
        values = FeatureAblation(lambda x: (x > 0.5).double().sum(1)).attribute(torch.tensor([[1.0, 0.2, 3]]))
    assert values.tolist() == [[1, 0, 1]]


def test_a_row_is_evaluated_once() -> None:
    calls = []

    def model(a: Tensor, b: Tensor) -> Tensor:
        calls.append(len(a))
        return total(a, b)

    p = Problem(model, POINT)
    game = Game(p, Groups(POINT))
    p.scores  # noqa: B018  the problem's own look at the point
    calls.clear()
    first = game.evaluate(booleans("10110", "01111", "10110", "00000"))
    assert game.evaluations == 4  # with the point, which is scored again
    assert sum(calls) == 2 * 4
    assert torch.equal(first[0], first[2])
    again = game.evaluate(booleans("00000", "11111", "10110"))
    assert game.evaluations == 4
    assert sum(calls) == 2 * 4
    assert torch.equal(again, torch.stack([first[3], p.scores, first[0]]))
    more = game.evaluate(booleans("10000", "00000"))
    assert game.evaluations == 5
    assert_close(more, torch.stack([POINT.parts[0][:, 0], torch.zeros(2)]))


def test_more_than_eight_features_are_told_apart() -> None:
    x = Tensors([torch.ones(1, 20)])
    game = Game(Problem(lambda z: z @ 2.0 ** torch.arange(20), x), Groups(x))
    rows = torch.arange(20)[:, None] >= torch.arange(20)
    assert game.evaluate(rows)[:, 0].tolist() == [2.0 ** (k + 1) - 1 for k in range(20)]


def test_a_budget_is_kept_and_says_the_least_that_works() -> None:
    game = Game(Problem(total, POINT), Groups(POINT), max_evals=4)
    game.evaluate(booleans("10110", "01111", "10110"))
    with pytest.raises(TorchwhyError, match="4 evaluations are too few: the least that works is 5"):
        game.evaluate(booleans("00000", "10000"))
    game.evaluate(booleans("00000", "01111"))
    draws = Game(Problem(total, POINT), Groups(POINT), Noise(n_draws=3), max_evals=4)
    with pytest.raises(TorchwhyError, match="the least that works is 6"):
        draws.evaluate(booleans("00000"))


def test_a_model_that_gives_a_row_several_scores_is_told() -> None:
    scores = iter(range(100))

    def model(a: Tensor, b: Tensor) -> Tensor:
        return total(a, b) + next(scores)

    with pytest.raises(TorchwhyError, match="the model gave example 0 the score 36 and then 37"):
        Game(Problem(model, POINT), Groups(POINT)).evaluate(booleans("00000"))


@pytest.mark.parametrize("method", [FeatureAblation, partial(FeatureAblation, fill=Noise(n_draws=2)), Occlusion])
def test_dropout_that_was_left_on_is_told_where_one_feature_is_absent(method: Callable[..., Method]) -> None:
    torch.manual_seed(0)
    weights = 2.0 ** torch.arange(6)  # so that every draw has a score of its own

    def model(x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(x, 0.5, training=True) @ weights

    with pytest.raises(TorchwhyError, match=r"and then .* random numbers \(functional dropout left on\?\)"):
        method(model).attribute(torch.ones(1, 6))
    assert method(lambda x: x @ weights).attribute(torch.ones(1, 6)).abs().max() > 0


def test_scores_that_are_not_finite_are_told() -> None:
    game = Game(Problem(lambda a, b: total(a, b).log(), POINT), Groups(POINT))
    with pytest.raises(TorchwhyError, match="the score of example 0 is -inf where 5 of 5 features are absent"):
        game.evaluate(booleans("10000", "00000"))


# -- ways to make features --------------------------------------------------------------------------


def test_columns_of_one_group_are_one_feature() -> None:
    assert columns(6, {"b": [4, 1], "a": [2]}).tolist() == [0, 1, 2, 3, 1, 4]
    assert columns(3, [[0, 1, 2]]).tolist() == [0, 0, 0]
    assert columns(3, {}).tolist() == [0, 1, 2]
    x = torch.tensor([[1.0, 2, 3, 4]])
    found = FeatureAblation(lambda z: z.prod(1), feature_mask=columns(4, {"pair": [1, 2]})).attribute(x)
    assert found.tolist() == [[24, 24, 24, 24]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": [0, 4]}, "group 'a' holds column 4: columns are numbered 0 to 3"),
        ({"a": [-1]}, "group 'a' holds column -1"),
        ({"a": [True]}, "holds column True"),
        ({"a": [0, 1], "b": [1]}, "column 1 is in two groups, 'a' and 'b'"),
        ([[0, 1], [1]], "column 1 is in two groups, 0 and 1"),
    ],
)
def test_groups_of_columns_that_do_not_fit_are_refused(groups: object, message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        columns(4, groups)


def test_channels_are_features() -> None:
    x = torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    found = FeatureAblation(lambda z: z.mean((2, 3)).prod(1), feature_mask=channels(x)).attribute(x, 1.0)
    assert_close(found, torch.tensor([0.0, 3, 4]).view(1, 3, 1, 1).expand_as(found))
    assert channels(torch.ones(4, 6)).tolist() == list(range(6))
    with pytest.raises(TorchwhyError, match="dimension 1"):
        channels(torch.ones(4))


def test_superpixels_follow_the_edges_of_each_image() -> None:
    pytest.importorskip("skimage")
    images = torch.zeros(2, 3, 24, 24)
    images[0, :, :, 12:] = 1  # left and right
    images[1, 1, 12:] = 1  # above and below
    mask = superpixels(images, n_segments=12)
    assert mask.shape == (2, 1, 24, 24)
    for image, pieces in zip(images, mask, strict=True):
        for number in pieces.unique():
            inside = image[:, pieces[0] == number]
            assert (inside == inside[:, :1]).all()
    assert len(mask[0].unique()) > 3
    assert not torch.equal(mask[0], mask[1])
    values = FeatureAblation(lambda z: z.sum((1, 2, 3)), feature_mask=mask).attribute(images)
    assert_close(values[0, 0, 3, 20], 3.0 * (mask[0, 0] == mask[0, 0, 3, 20]).sum())
    assert superpixels(images[:, :1]).shape == (2, 1, 24, 24)
    with pytest.raises(TorchwhyError, match=r"superpixels are of images \(B, C, H, W\), not \(3, 24, 24\)"):
        superpixels(images[0])


def test_superpixels_need_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(TorchwhyError, match=r'scikit-image; install it with: pip install "torchwhy\[vision\]"'):
        superpixels(torch.zeros(1, 3, 8, 8))


IDS = torch.tensor([[101, 7, 8, 9, 102, 0], [101, 7, 7, 102, 0, 0]])


def counts(ids: Tensor) -> Tensor:
    """How many tokens are 7, ten times how many are 8, and so on; the mask is 103."""
    return ((ids == 7) + 10 * (ids == 8) + 100 * (ids == 9) + 1000 * (ids == 101)).sum(1)


def test_elements_that_are_kept_are_no_feature() -> None:
    mask = torch.tensor([KEPT, 0, 5])
    groups = Groups(Tensors(POINT.parts[:1]), mask)
    assert groups.count == 2
    assert groups.numbers.tolist() == [0, 5]
    assert torch.equal(groups.mask(booleans("00", "01"))[...].parts[0][:, 0], booleans("100", "101"))
    assert groups.spread(torch.tensor([[1.0, 2], [3, 4]])).parts[0].tolist() == [[0, 1, 3], [0, 2, 4]]
    with pytest.raises(TorchwhyError, match="feature_mask keeps every element"):
        Groups(POINT, (torch.full((3,), KEPT), torch.full((2,), KEPT)))


def test_tokens_are_features_and_special_ones_stay() -> None:
    mask = tokens(IDS, special=(101, 102, 0))
    assert mask.tolist() == [[KEPT, 1, 2, 3, KEPT, KEPT], [KEPT, 1, 2, KEPT, KEPT, KEPT]]
    found = FeatureAblation(counts, feature_mask=mask).attribute(IDS, baselines=103)
    assert found.tolist() == [[0, 1, 10, 100, 0, 0], [0, 1, 1, 0, 0, 0]]
    everything = FeatureAblation(counts, feature_mask=tokens(IDS)).attribute(IDS, baselines=103)
    assert everything[:, 0].tolist() == [1000, 1000]
    booleans_given = tokens(IDS, special=(IDS == 0) | (IDS > 100))
    assert torch.equal(booleans_given, mask)
    shapley = ShapleyValues(counts, feature_mask=mask).attribute(IDS, baselines=103)
    assert_close(shapley, found)


def test_pieces_of_a_word_are_one_feature() -> None:
    words = [[None, 0, 0, 1, None, None], [None, 0, 1, None, None, None]]
    mask = tokens(IDS, words=words)
    assert mask.tolist() == [[KEPT, 0, 0, 1, KEPT, KEPT], [KEPT, 0, 1, KEPT, KEPT, KEPT]]
    found = FeatureAblation(counts, feature_mask=mask).attribute(IDS, baselines=103)
    assert found.tolist() == [[0, 11, 11, 100, 0, 0], [0, 1, 1, 0, 0, 0]]


def test_positions_of_embeddings_are_features() -> None:
    embedding = torch.nn.Embedding(200, 4)
    held = embedding(IDS).detach()
    special = (IDS == 0) | (IDS > 100)
    mask = tokens(held, special=special)
    assert mask.shape == (2, 6, 1)
    found = FeatureAblation(lambda e: e.sum((1, 2)), feature_mask=mask).attribute(held)
    known = held.sum(2, keepdim=True).expand_as(held).masked_fill(special[..., None], 0)
    assert_close(found, known)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = embedding

        def forward(self, ids: Tensor) -> Tensor:
            return self.embedding(ids).sum((1, 2))

    at = FeatureAblation(Model(), at="embedding", feature_mask=mask).attribute(IDS)
    assert_close(at, known)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tokens(torch.zeros(2, 3)), r"token ids \(B, T\)|tokens are ids"),
        (lambda: tokens(IDS[0]), "tokens are ids"),
        (lambda: tokens(IDS, words=[[0] * 6]), "for each of 2 examples"),
        (lambda: tokens(IDS, words=[[0] * 5] * 2), "each of 6 tokens"),
        (lambda: tokens(IDS, special=IDS), r"special holds booleans \(2, 6\), or ids, not torch.int64"),
        (lambda: tokens(torch.zeros(2, 6, 4), special=(1,)), "embeddings have no ids"),
    ],
    ids=["floats", "one", "examples", "length", "ids", "embeddings"],
)
def test_tokens_that_do_not_fit_are_refused(make: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        make()


# -- memory -------------------------------------------------------------------------------------------------


class Live(TorchDispatchMode):
    """The most bytes that tensors made within have held at one time."""

    def __init__(self, apart: Iterable[Tensor]) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.known = {t.untyped_storage()._cdata for t in apart}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                storage = t.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
                    self.peak = max(self.peak, self.now)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


PLACES = torch.arange(3 * 24 * 24).view(3, 24, 24)
GROUPED = PLACES // 54
LARGE = {
    "ablation": lambda net, n: FeatureAblation(net, batch_size=16, feature_mask=PLACES // (108 // n)),
    "occlusion": lambda net, n: Occlusion(net, batch_size=16, sliding_window_shapes=(3, 4, 4), strides=(3, n, n)),
    "pairs": lambda net, n: Banzhaf(net, batch_size=16, feature_mask=GROUPED, budget=100 * n),
    "orders": lambda net, n: ShapleyValueSampling(net, batch_size=16, feature_mask=GROUPED, n_samples=3 * n),
    "exact": lambda net, n: ShapleyValues(net, batch_size=16, feature_mask=GROUPED // (5 - n // 2)),
    "masks": lambda net, n: RISE(net, batch_size=16, n_samples=40 * n),
    "noise": lambda net, n: FeatureAblation(net, batch_size=16, feature_mask=GROUPED // 4, fill=Noise(n_draws=10 * n)),
}


@pytest.mark.parametrize("name", LARGE)
def test_memory_is_that_of_a_pass_whatever_the_number_of_rows(name: str) -> None:
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1)]
    net = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8 * 24 * 24, 4)).requires_grad_(
        requires_grad=False
    )
    x = torch.randn(1, 3, 24, 24)
    held = [x, GROUPED, *net.parameters()]
    with Live(held) as one:
        net(x.repeat(16, 1, 1, 1))
    peaks = {}
    for n in (2, 4):
        with Live(held) as live:
            LARGE[name](net, n).attribute(x, target=0)
        peaks[n] = live.peak
    assert one.peak > 16 * 8 * 24 * 24 * 4
    assert max(peaks.values()) < 2 * one.peak, (peaks, one.peak)
    assert peaks[4] < max(1.2 * peaks[2], one.peak)


DENSE = torch.arange(600)
LARGE_DENSE = {
    "ablation": lambda net, n: FeatureAblation(net, batch_size=256, feature_mask=DENSE // (4 // n)),
    "pairs": lambda net, n: Banzhaf(net, batch_size=256, feature_mask=DENSE // 50, budget=500 * n),
    "orders": lambda net, n: ShapleyValueSampling(net, batch_size=256, feature_mask=DENSE // 50, n_samples=20 * n),
}


@pytest.mark.parametrize("name", LARGE_DENSE)
def test_memory_is_that_of_a_pass_where_the_input_is_the_largest_of_all(name: str) -> None:
    layers = [torch.nn.Linear(600, 400), torch.nn.ReLU(), torch.nn.Linear(400, 4)]
    net = torch.nn.Sequential(*layers).requires_grad_(requires_grad=False)
    x = torch.randn(1, 600)
    held = [x, DENSE, *net.parameters()]
    with Live(held) as one:
        net(x.repeat(256, 1))
    for n in (1, 4):
        with Live(held) as live:
            LARGE_DENSE[name](net, n).attribute(x, target=0)
        assert live.peak < 2 * one.peak, (n, live.peak, one.peak)


@pytest.mark.parametrize("examples", [1, 16])
def test_derivatives_take_no_more_memory_than_a_pass(examples: int) -> None:
    layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(8):
        layers += [torch.nn.Tanh(), torch.nn.Conv2d(8, 8, 3, padding=1)]
    net = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8 * 48 * 48, 2)).requires_grad_(
        requires_grad=False
    )
    x, mask = torch.randn(examples, 3, 48, 48), torch.arange(48) // 4
    held = [x, mask, *net.parameters()]
    with Live(held) as one:
        net(torch.randn(16, 3, 48, 48))
    method = ShapleyValues(net, batch_size=16, feature_mask=mask, budget=70)
    with Live(held) as live:
        found = method.explain(x, target=0)
    assert found.provenance["backward_rows"] >= 4 * examples
    assert live.peak < 2 * one.peak
    with Live(held) as kept:  # the same of a pass that keeps what gradients need
        net(torch.randn(16, 3, 48, 48, requires_grad=True)).sum().backward()
    assert kept.peak > 3 * one.peak


def test_what_is_live_is_counted() -> None:
    with Live([]) as live:
        a = torch.ones(1000)
        for _ in range(5):
            b = a + 1
            del b
        c = a[:10]
        del a, c
        torch.ones(10)
    assert live.peak == 8000
    assert live.now == 0


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_either_is_where_to_the_last_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    there, absent = ((9 * torch.randn(2, 5, 1, 4, generator=generator)).to(dtype) for _ in range(2))
    if dtype.is_floating_point:
        there[0, 0, 0] = torch.tensor([torch.nan, torch.inf, -0.0, 0.0], dtype=dtype)
        absent[0, 1, 0] = torch.tensor([torch.nan, -torch.inf, -0.0, 0.0], dtype=dtype)
    mask = torch.rand(3, 1, 5, 1, 4, generator=generator) < 0.5
    for other in (absent[None], absent[:1, :1].expand(2, 5, 1, 4)[None], torch.stack([absent, there, absent])):
        found, known = either(mask, there, other), torch.where(mask, there, other)
        assert found.shape == known.shape == (3, 2, 5, 1, 4)
        assert_close(found, known, rtol=0, atol=0, equal_nan=True)
        if dtype.is_floating_point:
            assert torch.equal(found.signbit(), known.signbit())


def test_either_keeps_derivatives() -> None:
    there, absent = torch.ones(3, requires_grad=True), torch.zeros(3)
    mask = torch.tensor([True, False, True])
    (slopes,) = torch.autograd.grad(either(mask, there, absent).sum(), there)
    assert slopes.tolist() == [1, 0, 1]
