"""What is scored: every way to say it, checked against plain indexing, and everything that says nothing."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchwhy import FeatureAblation, IntegratedGradients, Saliency, Site, TorchwhyError
from torchwhy.core.target import Target, resolve

ROWS = torch.arange(3)
FLAT = torch.arange(12.0).view(3, 4).roll(1, 1)
MAPS = torch.arange(72.0).view(3, 4, 3, 2)


def score(target: Any, output: Any) -> Tensor:
    return resolve(target, output, 3)(output, ROWS)


# -- what may be said ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        2,
        -2,
        (2,),
        (-2,),
        [2, 2, 2],
        [2, -2, 2],
        [(2,), (2,), (-2,)],
        torch.tensor(2),
        torch.tensor([2]),
        torch.tensor([2, 2, 2], dtype=torch.uint8),
        torch.tensor([2, -2, 2]),
        np.int8(2),
        np.array(2),
        np.array([2, 2, 2], dtype=np.uint16),
        np.array([2, -2, 2]),
    ],
    ids=repr,
)
def test_all_ways_to_name_a_class(target):
    assert torch.equal(score(target, FLAT), FLAT[:, 2])
    assert resolve(target, FLAT, 3).names(3) == ["2", "2", "2"]
    model = nn.Linear(2, 4)
    x = torch.ones(3, 2)
    assert torch.equal(
        Saliency(model, batch_size=2).attribute(x, target=target), Saliency(model).attribute(x, target=2)
    )


@pytest.mark.parametrize("target", [[3, 0, 1], [-1, -4, 1], torch.tensor([3, 0, -3]), np.array([3, 0, 1])], ids=repr)
def test_one_class_per_example(target):
    assert torch.equal(score(target, FLAT), FLAT[[0, 1, 2], [3, 0, 1]])
    resolved = resolve(target, FLAT, 3)
    assert resolved.names(3) == ["3", "0", "1"]
    assert not resolved.predicted
    # Rows are copies of examples in any order.
    rows = torch.tensor([2, 2, 0, 1])
    assert torch.equal(resolved(FLAT[rows], rows), FLAT[[2, 2, 0, 1], [1, 1, 3, 0]])
    assert resolved.select(torch.tensor([2, 0])).names(2) == ["1", "3"]


def test_several_indices():
    assert torch.equal(score((1, 2, 0), MAPS), MAPS[:, 1, 2, 0])
    assert torch.equal(score((1, -1, -2), MAPS), MAPS[:, 1, 2, 0])
    each = [(1, 2, 0), (0, 0, 1), (-1, -1, -1)]
    assert torch.equal(score(each, MAPS), torch.stack([MAPS[0, 1, 2, 0], MAPS[1, 0, 0, 1], MAPS[2, 3, 2, 1]]))
    assert resolve(each, MAPS, 3).names(3) == ["1, 2, 0", "0, 0, 1", "3, 2, 1"]


def test_the_prediction():
    resolved = resolve(None, FLAT, 3)
    assert resolved.predicted
    assert torch.equal(resolved(FLAT, ROWS), FLAT.amax(1))
    # It stays what it was at the input, whatever a changed copy would be predicted as.
    assert torch.equal(resolved(-FLAT, ROWS), -FLAT.amax(1))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_score_per_example_is_its_own_target(shape):
    output = torch.tensor([1.0, -2.0, 3.0]).view(shape)
    resolved = resolve(None, output, 3)
    assert resolved.predicted
    assert resolved.names(3) == ["output"] * 3
    assert torch.equal(resolved(output, ROWS), output.flatten())
    if shape == (3, 1):
        assert torch.equal(score(0, output), output.flatten())


def test_a_single_score_of_no_dimensions():
    output = torch.tensor(4.0)
    assert resolve(None, output, 1)(output, torch.tensor([0])).tolist() == [4.0]


@pytest.mark.parametrize("keep", [False, True])
def test_a_function_reads_any_output(keep):
    pair = namedtuple("pair", "scores rest")(FLAT, None)  # noqa: PYI024  a plain container

    def third(output: Any) -> Tensor:
        return output.scores[:, 2:3] if keep else output.scores[:, 2]

    assert torch.equal(score(third, pair), FLAT[:, 2])
    assert resolve(third, pair, 3).names(3) == ["third"] * 3


def test_integer_scores_keep_their_sign():
    """An unsigned score falls below nothing without a wrap to 255."""
    for kind, scale in ((torch.uint8, 10), (torch.int8, 50), (torch.int64, 10)):
        found = FeatureAblation(lambda x: ((3 - x.sum(1)) * scale).to(kind)).attribute(torch.ones(1, 2))  # noqa: B023
        assert found.tolist() == [[-scale, -scale]]


def test_yes_and_no_are_one_and_zero():
    found = FeatureAblation(lambda x: x.sum(1) > 0).attribute(torch.tensor([[2.0, -1.0], [-1.0, -1.0]]))
    assert found.tolist() == [[1.0, 0.0], [0.0, 0.0]]


# -- what says nothing ---------------------------------------------------------------------------------------


def refused(target: Any, output: Any, *words: str) -> None:
    with pytest.raises(TorchwhyError) as caught:
        score(target, output)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("target", [4, -5, [0, 4, 0], torch.tensor([0, 0, -5]), np.int64(4), 2**40], ids=repr)
def test_a_class_out_of_range_tells_how_many_there_are(target):
    refused(target, FLAT, "out of range", "4 outputs, numbered 0 to 3")


def test_an_index_out_of_range_tells_the_shape():
    refused((0, 3, 0), MAPS, "(0, 3, 0)", "(4, 3, 2)")


@pytest.mark.parametrize("target", [[0, 1], [], torch.tensor([0, 1]), np.array([0, 1, 2, 3]), [(0,), (1,)]], ids=repr)
def test_a_wrong_number_of_targets_is_told(target):
    for call in (
        lambda: score(target, FLAT),
        lambda: Saliency(nn.Linear(2, 4)).attribute(torch.ones(3, 2), target=target),
    ):
        with pytest.raises(TorchwhyError, match=rf"{len(target)} targets were given for 3 examples"):
            call()


@pytest.mark.parametrize(
    "target",
    [
        1.0,
        [0.0, 1.0, 2.0],
        torch.tensor(1.0),
        torch.tensor([0.0, 1.0, 2.0]),
        np.float32(1),
        np.array([0.0, 1.0, 2.0]),
        True,
        [True, False, True],
        torch.tensor([True, False, True]),
        torch.tensor(True),
        np.bool_(1),
        1j,
        "1",
        "123",
        b"123",
        ["0", "1", "2"],
        [None, None, None],
        [[0], [1], [2]],
        {0: 0, 1: 1, 2: 2},
        {0, 1, 2},
        ...,
        (0, "a"),
        (0.5,),
    ],
    ids=repr,
)
def test_what_is_no_index_is_refused(target):
    refused(target, FLAT, "target")
    with pytest.raises(TorchwhyError, match="target"):
        Saliency(nn.Linear(2, 4)).attribute(torch.ones(3, 2), target=target)


def test_too_few_or_too_many_indices_are_refused():
    refused(1, MAPS, "(batch, 4, 3, 2)", "3 indices", "(0, 0, 0)")
    refused((1, 2), FLAT, "(batch, 4)", "1 index", "(1, 2)")
    refused([(1, 2, 0), (1, 2), (1, 2, 0)], MAPS, "3 indices")
    refused(torch.zeros(3, 3, dtype=torch.int64), MAPS, "(3, 3)")


def test_no_prediction_among_maps():
    refused(None, MAPS, "(3, 4, 3, 2)", "(0, 0, 0)")


def test_a_class_of_a_single_score_is_refused():
    refused(0, torch.zeros(3), "one score per example", "leave target out")


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ((FLAT, FLAT), "output[0]"),
        ([FLAT], "output[0]"),
        ({"scores": FLAT}, "output['scores']"),
        (None, "NoneType"),
        (3.5, "float"),
        (FLAT.numpy(), "ndarray"),
    ],
    ids=["tuple", "list", "dict", "None", "float", "array"],
)
@pytest.mark.parametrize("target", [None, 2])
def test_an_output_that_is_no_tensor_is_refused(output, hint, target):
    refused(target, output, type(output).__name__, hint)


@pytest.mark.parametrize("shape", [(1, 4), (4, 4), (6, 4), (12,), (1,)])
@pytest.mark.parametrize("target", [None, 2])
def test_a_wrong_number_of_rows_is_told(shape, target):
    refused(target, torch.zeros(shape), str(shape), "3 rows")


def test_a_score_for_the_whole_batch_is_refused():
    with pytest.raises(TorchwhyError, match=r"shape \(\) for 3 rows"):
        Saliency(torch.sum).attribute(torch.ones(3, 2))


@pytest.mark.parametrize(
    "scores",
    [
        torch.zeros(()),
        torch.zeros(1),
        torch.zeros(2),
        torch.zeros(3, 2),
        torch.zeros(1, 3),
        3.0,
        None,
        [0.0] * 3,
    ],
)
def test_a_function_must_give_one_score_per_row(scores):
    refused(lambda output: scores, FLAT, "the target callable")


def test_complex_scores_are_refused():
    for method in (Saliency, FeatureAblation):
        with pytest.raises(TorchwhyError, match="complex"):
            method(lambda x: x * 1j).attribute(torch.ones(3, 4), target=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", [Saliency, IntegratedGradients, FeatureAblation])
def test_scores_that_are_not_finite_are_told(value, method):
    def model(x: Tensor) -> Tensor:
        return x.sum(1) * torch.where(x[:, 0] > 0, 1, value)

    with pytest.raises(TorchwhyError, match=r"score is (nan|-?inf) for example 1 and 1 more"):
        method(model).attribute(torch.tensor([[1.0, 2.0], [-1.0, 2.0], [-1.0, 3.0]]))


def test_scores_that_mix_the_rows_are_refused():
    """A score that is the sum over the batch can be told where rows are copies."""
    with pytest.raises(TorchwhyError, match="must depend on its own row alone"):
        IntegratedGradients(lambda x: x.sum()).attribute(torch.ones(1, 2))


def test_a_site_is_a_target_with_its_name():
    resolved = resolve(None, FLAT, 3, Site("conv", unit=(2,)))
    assert torch.equal(resolved(FLAT, ROWS), FLAT[:, 2])
    assert resolved.names(2) == ["conv[2]"] * 2
    assert isinstance(resolved, Target)
