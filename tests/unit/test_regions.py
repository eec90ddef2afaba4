"""Scores of regions: pixels of a class and detected objects, in toy models whose answers can be written down."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchwhy as why
from torchwhy import Box, Pixels, TorchwhyError


def refused(model: Any, x: Tensor, target: Any, *words: str) -> None:
    with pytest.raises(TorchwhyError) as caught:
        why.FeatureAblation(model).attribute(x, target=target)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# -- pixels --------------------------------------------------------------------------------------------------

torch.manual_seed(0)
SEGMENT = nn.Conv2d(1, 3, 1).double().requires_grad_(False)
IMAGES = torch.randn(2, 1, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SLOPES, LABELS = SEGMENT.weight[:, 0, 0, 0], SEGMENT(IMAGES).argmax(1)
CORNER = torch.zeros(4, 5, dtype=torch.bool)
CORNER[:2, :3] = True


def pixels(target: Pixels, model: Any = SEGMENT, **options: Any) -> Tensor:
    return why.Saliency(model, abs=False, **options).attribute(IMAGES, target=target)[:, 0]


def test_the_gradient_is_the_slope_of_the_class_on_the_mask():
    assert torch.equal(pixels(Pixels(1, CORNER)), (SLOPES[1] * CORNER).expand(2, 4, 5))
    torch.testing.assert_close(pixels(Pixels(1, CORNER, reduce="mean")), (SLOPES[1] * CORNER / 6).expand(2, 4, 5))
    assert not torch.equal(pixels(Pixels(2, CORNER)), pixels(Pixels(1, CORNER)))


@pytest.mark.parametrize("as_list", [False, True])
def test_a_mask_and_a_class_for_each_example(as_list):
    masks = torch.stack([CORNER, ~CORNER])
    found = pixels(Pixels([0, -1], list(masks) if as_list else masks.long()), batch_size=1)
    assert torch.equal(found, torch.stack([SLOPES[0] * CORNER, SLOPES[2] * ~CORNER]))
    target = why.Saliency(SEGMENT).explain(IMAGES, target=Pixels([0, 2], masks)).target
    assert target == ("class 0 on 6 pixels", "class 2 on 14 pixels")


def test_no_mask_is_what_the_model_gives_the_class():
    cls = int(LABELS[0].flatten().mode().values)
    found = why.Saliency(SEGMENT, abs=False, batch_size=1).explain(IMAGES, target=Pixels())
    wanted = torch.stack([SLOPES[c] * (labels == c) for labels in LABELS for c in [labels.flatten().mode().values]])
    assert torch.equal(found.values[:, 0], wanted)
    assert found.predicted
    assert found.target[0] == f"class {cls} on {int((LABELS[0] == cls).sum())} pixels"
    # The pixels are those of the point: a copy in which the class is nowhere is scored on them all the same.
    fall = why.FeatureAblation(SEGMENT, feature_mask=torch.zeros(1, dtype=torch.long)).attribute(
        IMAGES, target=Pixels(cls, CORNER)
    )
    torch.testing.assert_close(fall[:, 0, 0, 0], SLOPES[cls] * (IMAGES[:, 0] * CORNER).sum((1, 2)))


def test_the_maps_of_a_dict_and_a_class_within_a_mask():
    model = why.Saliency(lambda x: {"out": SEGMENT(x), "aux": -SEGMENT(x)}, abs=False)
    found = model.explain(IMAGES, target=Pixels(mask=CORNER))
    for i, labels in enumerate(LABELS):
        cls = int(labels[CORNER].mode().values)
        assert torch.equal(found.values[i, 0], SLOPES[cls] * CORNER)
    assert torch.equal(
        model.attribute(IMAGES, target=Pixels(1, CORNER, part="aux"))[:, 0], (-SLOPES[1] * CORNER).expand(2, 4, 5)
    )


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (Pixels(3, CORNER), "class 3 is out of range: the model gives 3 maps"),
        (Pixels(1.5, CORNER), "class 1.5"),
        (Pixels(1, CORNER[:3]), "(3, 5), the model's maps (4, 5)"),
        (Pixels(1, CORNER & False), "in example 0 the mask marks no pixel"),
        (Pixels(1, CORNER * 0.5), "true and false"),
        (Pixels(1, "all"), "true and false"),
        (Pixels([0, 1, 2], CORNER), "a list of 3 was given for 2 examples"),
    ],
)
def test_pixels_that_are_not_there_are_refused(target, word):
    refused(SEGMENT, IMAGES, target, word)


def test_a_class_on_no_pixel_is_refused():
    absent = lambda x: SEGMENT(x) - torch.tensor([0.0, 0.0, 99.0]).view(3, 1, 1)  # noqa: E731
    refused(absent, IMAGES, Pixels(2), "no pixel is of class 2")
    refused(lambda x: x.flatten(1), IMAGES, Pixels(0), "(2, 20)")
    with pytest.raises(TorchwhyError, match="reduce is 'sum' or 'mean'"):
        Pixels(1, CORNER, reduce="max")


# -- boxes ---------------------------------------------------------------------------------------------------

SPOTS = torch.tensor([[2.0, 0.5, 0.3, 0.0], [1.0, 0.25, 0.6, 9.0]], dtype=torch.float64)


def dicts(x: Tensor) -> list[dict[str, Tensor]]:
    """Of (B, 4): two boxes, the first as wide as x0 and as sure as x1, the second as sure as x2."""
    one = x.new_ones(len(x))
    boxes = torch.stack(
        [torch.stack([0 * one, 0 * one, x[:, 0], one], 1), torch.stack([5 * one, 5 * one, 6 * one, 7 * one], 1)], 1
    )
    return [{"boxes": b, "scores": s, "labels": torch.tensor([4, 2])} for b, s in zip(boxes, x[:, 1:3], strict=True)]


def stacked(x: Tensor) -> dict[str, Tensor]:
    found = dicts(x)
    return {name: torch.stack([one[name] for one in found]) for name in found[0]}


def raw(x: Tensor) -> Tensor:
    """(B, 2, 4 + 1 + 5), centres and sizes, the class after a sure object."""
    corners = stacked(x)["boxes"]
    middle, size = (corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]
    scores = torch.stack([x[:, 1:2] * (torch.arange(5) == 4), x[:, 2:3] * (torch.arange(5) == 2)], 1)
    return torch.cat([middle, size, torch.ones_like(middle[..., :1]), scores], 2)


FORMS = {"dicts": (dicts, {}), "stacked": (stacked, {}), "tensor": (raw, {"form": "cxcywh"})}


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def detector(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    return request.param


def overlap(width: Tensor) -> Tensor:
    """Of the first box with one from 0 to 1.5."""
    return torch.minimum(width, torch.tensor(1.5)) / torch.maximum(width, torch.tensor(1.5))


def wanted(form: str | None) -> tuple[float, ...]:
    return (0.75, 0.5, 1.5, 1.0) if form == "cxcywh" else (0.0, 0.0, 1.5, 1.0)


def test_the_score_is_overlap_times_confidence(detector):
    model, options = detector
    target = Box(wanted(options.get("form")), label=4, **options)
    found = why.Saliency(model, abs=False).explain(SPOTS, target=target)
    torch.testing.assert_close(found.scores, overlap(SPOTS[:, 0]) * SPOTS[:, 1])
    slope = torch.tensor([-1.5 / 4 * 0.5, 0.25 / 1.5], dtype=torch.float64)  # of 1.5 / w, and of w / 1.5
    expected = torch.stack([slope, overlap(SPOTS[:, 0]), 0 * slope, 0 * slope], 1)
    torch.testing.assert_close(found.values, expected)
    assert found.target[0].startswith("4 in the box (")


def test_a_detection_is_found_again_by_place_and_class(detector):
    """Where the surer detection is elsewhere, or of another class, it does not answer."""
    model, options = detector
    found = why.FeatureAblation(model).attribute(SPOTS, target=Box(wanted(options.get("form")), **options))
    torch.testing.assert_close(found[:, 1], overlap(SPOTS[:, 0]) * SPOTS[:, 1])
    torch.testing.assert_close(found[:, 2], torch.zeros(2, dtype=torch.float64))
    shapley = why.ShapleyValues(model).attribute(SPOTS, target=Box(wanted(options.get("form")), label=4, **options))
    torch.testing.assert_close(shapley.sum(1), overlap(SPOTS[:, 0]) * SPOTS[:, 1])


def test_no_box_is_the_surest_detection(detector):
    model, options = detector
    found = why.Saliency(model, abs=False, batch_size=1).explain(SPOTS, target=Box(**options))
    torch.testing.assert_close(found.scores, torch.tensor([0.5, 0.6], dtype=torch.float64))
    assert found.predicted
    assert [name[:2] for name in found.target] == ["4 ", "2 "]
    expected = torch.zeros(2, 4, dtype=torch.float64)
    expected[0, 1] = expected[1, 2] = 1
    torch.testing.assert_close(found.values[:, 1:], expected[:, 1:])
    of_label = why.Saliency(model, abs=False).explain(SPOTS, target=Box(label=[2, 4], **options))
    torch.testing.assert_close(of_label.scores, torch.tensor([0.3, 0.25], dtype=torch.float64))


def test_a_tensor_without_a_score_of_any_object():
    found = why.Saliency(lambda x: torch.cat([raw(x)[..., :4], raw(x)[..., 5:]], 2), abs=False)
    target = Box((0.75, 0.5, 1.5, 1.0), 4, form="cxcywh", objectness=False)
    torch.testing.assert_close(found.explain(SPOTS, target=target).scores, overlap(SPOTS[:, 0]) * SPOTS[:, 1])


def test_a_corner_and_the_size():
    def sized(x: Tensor) -> list[dict[str, Tensor]]:
        return [
            one | {"boxes": torch.cat([one["boxes"][:, :2], one["boxes"][:, 2:] - one["boxes"][:, :2]], 1)}
            for one in dicts(x)
        ]

    found = why.Saliency(sized).explain(SPOTS, target=Box((0, 0, 1.5, 1), 4, form="xywh"))
    torch.testing.assert_close(found.scores, overlap(SPOTS[:, 0]) * SPOTS[:, 1])
    second = why.Saliency(sized).explain(SPOTS, target=Box((5, 5, 1, 2), form="xywh"))
    torch.testing.assert_close(second.scores, SPOTS[:, 2])
    refused(dicts, SPOTS, Box((5, 5, 1, 2)), "has no area")


def test_a_copy_without_any_detection_scores_nothing():
    def sure(x: Tensor) -> list[dict[str, Tensor]]:
        """A detector with a threshold."""
        return [{name: t[one["scores"] > 0.2] for name, t in one.items()} for one in dicts(x)]

    found = why.FeatureAblation(sure).attribute(SPOTS, target=Box((0, 0, 1.5, 1), 4))
    torch.testing.assert_close(found[:, 1], overlap(SPOTS[:, 0]) * SPOTS[:, 1])
    both = why.FeatureAblation(sure, feature_mask=torch.zeros(1, dtype=torch.long)).attribute(
        SPOTS, target=Box((0, 0, 1.5, 1), 4)
    )
    torch.testing.assert_close(both[:, 0], overlap(SPOTS[:, 0]) * SPOTS[:, 1])


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (Box((50, 50, 60, 60)), "in example 0 the model finds nothing that overlaps the box (50, 50, 60, 60)"),
        (Box((0, 0, 1.5, 1), 2), "with label 2"),
        (Box((0, 0, 1.5, 1), 7), "with label 7"),
        (Box(label=7), "finds nothing with label 7"),
        (Box((1, 1, 0, 0)), "no area"),
        (Box((1, 2, 3)), "four numbers"),
        (Box("box"), "four numbers"),
        (Box((0, 0, 1, 1), "dog"), "a label is a whole number"),
        (Box([(0, 0, 1, 1)]), "a list of 1 was given for 2 examples"),
    ],
)
def test_detections_that_are_not_there_are_refused(target, word):
    refused(dicts, SPOTS, target, word)


def test_what_is_no_detection_is_refused():
    refused(lambda x: x, SPOTS, Box(), "(B, N, 4 + 1 + C)", "(2, 4)")
    refused(lambda x: [{"boxes": x[:, None]}] * 2, SPOTS, Box(), "['boxes']")
    refused(lambda x: dicts(x)[:1], SPOTS, Box(), "for 1 examples, of 2 rows")
    refused(lambda x: None, SPOTS, Box(), "NoneType")
    refused(raw, SPOTS, Box((0.75, 0.5, 1.5, 1.0), 9, form="cxcywh"), "label 9 is out of range")
    with pytest.raises(TorchwhyError, match="form is"):
        Box(form="yxyx")
