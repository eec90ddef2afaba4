"""Scores of regions of a picture: the pixels of a class, a detected object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.scores import Classes, each, rows_of
from torchwhy.core.target import ClassNames, Score, Target, is_int

Corners: TypeAlias = Literal["xyxy", "xywh", "cxcywh"]
Quad: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Pixels(Score):
    r"""How much a segmentation speaks for a class on a set of pixels.

    .. math:: f(x) = \sum_{u \in M} y_{c u}(x) \quad\text{or}\quad \frac{1}{|M|} \sum_{u \in M} y_{c u}(x)

    of maps (B, C, H, W), or with any other number of dimensions behind the classes.

    Args:
        cls: the class, or a list or tensor with one for each example; None is the one that the model gives most pixels.
        mask: the pixels :math:`M`, (H, W) or (B, H, W), true or 1; a list with one for each example; None takes those
            that the model gives the class. They stay the same for changed copies.
        reduce: "sum" or "mean".

    >>> maps = torch.tensor([[[[1.0, 0.0]], [[0.0, 3.0]]]])
    >>> target = Pixels(1).resolve(maps, torch.tensor([0]), 1)
    >>> target.names(1), target(maps, torch.tensor([0])).item()
    (['class 1 on 1 pixel'], 3.0)
    """

    cls: Classes = None
    mask: Tensor | list[Tensor] | None = field(default=None, repr=False)
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        if self.reduce not in ("sum", "mean"):
            raise TorchwhyError(f"reduce is 'sum' or 'mean', not {self.reduce!r}")

    def resolve(self, output: Any, rows: Tensor, size: int) -> Target:
        maps = self.tensor(output)
        rows_of(maps, rows)
        if maps.ndim < 3:
            raise TorchwhyError(f"pixels are explained of maps (B, classes, H, W), not of shape {tuple(maps.shape)}")
        labels = maps.argmax(1).flatten(1)
        mask = self._mask(maps, rows, size)
        chosen = self._class(maps, labels, mask, rows, size)
        if mask is None:
            mask = labels == chosen[:, None]
        empty = (~mask.any(1)).nonzero().flatten().tolist()
        if empty:
            why = (
                "the mask marks no pixel" if self.mask is not None else f"no pixel is of class {int(chosen[empty[0]])}"
            )
            raise TorchwhyError(f"in example {int(rows[empty[0]])} {why}: give a mask of what to explain")
        return Target(
            self._read,
            (chosen, mask),
            self._say,
            predicted=self.cls is None,
            ask=lambda cls, mask: replace(self, cls=cls.tolist(), mask=mask.unflatten(1, maps.shape[2:])),
        )

    def _mask(self, maps: Tensor, rows: Tensor, size: int) -> Tensor | None:
        """(N, pixels), true or false."""
        if self.mask is None:
            return None
        given = torch.stack(self.mask) if isinstance(self.mask, list) else self.mask
        if not isinstance(given, Tensor) or (given.dtype != torch.bool and not ((given == 0) | (given == 1)).all()):
            raise TorchwhyError("a mask is a tensor of true and false, or of ones and zeros")
        shape = maps.shape[2:]
        if given.shape == (size, *shape):
            given = given[rows.to(given.device)]
        elif given.shape == shape:
            given = given.expand(len(rows), *shape)
        else:
            raise TorchwhyError(
                f"the mask has shape {tuple(given.shape)}, the model's maps {tuple(shape)}: give one such, or one for "
                f"each of {size} examples"
            )
        return given.to(maps.device).bool().flatten(1)

    def _class(self, maps: Tensor, labels: Tensor, mask: Tensor | None, rows: Tensor, size: int) -> Tensor:
        count = maps.shape[1]
        if self.cls is None:
            votes = torch.nn.functional.one_hot(labels, count)
            return (votes if mask is None else votes * mask[..., None]).sum(1).argmax(1)
        given = each(self.cls, rows, size, "classes")
        given = given if isinstance(given, list) else [given] * len(rows)
        for cls in given:
            if not is_int(cls) or not -count <= cls < count:
                raise TorchwhyError(f"class {cls!r} is out of range: the model gives {count} maps, 0 to {count - 1}")
        return torch.tensor(given, device=maps.device) % count

    def _read(self, output: Any, chosen: Tensor, mask: Tensor) -> Tensor:
        maps = self.tensor(output)
        rows_of(maps, chosen)
        here = maps[torch.arange(len(chosen), device=maps.device), chosen].flatten(1)
        total = (here * mask).sum(1)
        return total if self.reduce == "sum" else total / mask.sum(1)

    def _say(self, chosen: Tensor, mask: Tensor, names: ClassNames) -> str:
        count = int(mask.sum())
        return f"class {names(chosen)} on {count:,} pixel{'s' * (count != 1)}"


@dataclass(frozen=True, eq=False)
class Box(Score):
    r"""How surely a detector finds an object of a class in a box.

    .. math:: f(x) = \max_j \; \mathrm{IoU}(b, b_j(x)) \; s_{jc}(x)

    over the boxes :math:`b_j` that the model gives with scores :math:`s_{jc}` for the class: 0 where none of them
    overlaps. The detection of a changed copy is found again by where it is and what it is, not by its number.

    A model gives, for each example, a dict of ``boxes`` (N, 4), ``scores`` (N,) with ``labels`` (N,), or ``scores``
    (N, C), as a list, as torchvision does, or stacked in one dict; or it gives one tensor (B, N, 4 + 1 + C) of
    boxes, the score that there is any object, and scores of classes, which are multiplied. Scores are used as they are.

    Args:
        box: four numbers in the form and units in which the model gives them, or a list with one for each example;
            None is the model's surest detection (of ``label``, where that is given).
        label: the class of the object, or a list with one for each example; None is the one that the model finds best
            in the box.
        form: what the four numbers are, corners "xyxy", or a corner or the centre and the size, "xywh", "cxcywh".
        objectness: a tensor has a score that there is any object; False reads (B, N, 4 + C).

    Papers: the matching of V. Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps" (D-RISE),
        CVPR 2021, arXiv:2006.03204.

    >>> found = [{"boxes": torch.tensor([[0.0, 0, 2, 2]]), "scores": torch.tensor([0.8]), "labels": torch.tensor([3])}]
    >>> target = Box((0, 0, 2, 1)).resolve(found, torch.tensor([0]), 1)
    >>> target.names(1), round(target(found, torch.tensor([0])).item(), 3)
    (['3 in the box (0, 0, 2, 1)'], 0.4)
    """

    box: Quad | list[Quad] | None = None
    label: int | list[int] | None = None
    form: Corners = "xyxy"
    objectness: bool = True

    def __post_init__(self) -> None:
        if self.form not in ("xyxy", "xywh", "cxcywh"):
            raise TorchwhyError(f"form is 'xyxy', 'xywh' or 'cxcywh', not {self.form!r}")

    def resolve(self, output: Any, rows: Tensor, size: int) -> Target:
        found = self._detections(output, len(rows))
        boxes, labels = each(self.box, rows, size, "boxes"), each(self.label, rows, size, "labels")
        chosen = [
            self._choose(
                found[n],
                boxes[n] if isinstance(boxes, list) else boxes,
                labels[n] if isinstance(labels, list) else labels,
                int(rows[n]),
            )
            for n in range(len(rows))
        ]
        return Target(
            self._read,
            (torch.stack([box for box, _ in chosen]), torch.tensor([label for _, label in chosen])),
            self._say,
            predicted=self.box is None,
            ask=lambda box, label: replace(self, box=[tuple(b) for b in box.tolist()], label=label.tolist()),
        )

    def _choose(self, found: _Found, box: Any, label: Any, example: int) -> tuple[Tensor, int]:
        """The box and label that are explained, found by the model in the example."""
        if label is not None and not is_int(label):
            raise TorchwhyError(f"a label is a whole number, not {label!r}")
        if box is None:
            match = torch.ones_like(found.boxes[:, 0])
        else:
            if not isinstance(box, tuple | list) or len(box) != 4 or any(isinstance(b, str | bool) for b in box):
                raise TorchwhyError(f"a box is four numbers, such as (10, 20, 50, 60), not {box!r}")
            wanted = found.boxes.new_tensor(box)
            if not bool((self._corners(wanted)[2:] > self._corners(wanted)[:2]).all()):
                raise TorchwhyError(f"the box {box} has no area: its numbers are {self.form!r}")
            match = self._overlap(wanted, found.boxes)
        best, kind = found.best(match, label)
        if not best > 0:
            where = "finds nothing" if box is None else f"finds nothing that overlaps the box {tuple(box)}"
            what = "" if label is None else f" with label {label}"
            raise TorchwhyError(f"in example {example} the model {where}{what}: there is no detection to explain")
        if box is None:
            wanted = found.boxes[found.of(kind).argmax()].detach()
        return wanted, kind

    def _read(self, output: Any, boxes: Tensor, labels: Tensor) -> Tensor:
        found = self._detections(output, len(boxes))
        return torch.stack(
            [
                f.score(self._overlap(b.to(f.boxes), f.boxes), int(k))
                for f, b, k in zip(found, boxes, labels, strict=True)
            ]
        )

    def _say(self, box: Tensor, label: Tensor, names: ClassNames) -> str:
        return f"{names(label)} in the box ({', '.join(f'{b:.4g}' for b in box.tolist())})"

    def _corners(self, boxes: Tensor) -> Tensor:
        """As left, top, right, bottom."""
        first, second = boxes[..., :2], boxes[..., 2:]
        match self.form:
            case "xyxy":
                return boxes
            case "xywh":
                return torch.cat([first, first + second], -1)
        return torch.cat([first - second / 2, first + second / 2], -1)

    def _overlap(self, box: Tensor, boxes: Tensor) -> Tensor:
        """Intersection over union of a box with each of (N, 4), (N,)."""
        one, many = self._corners(box), self._corners(boxes)
        sides = (torch.minimum(one[2:], many[:, 2:]) - torch.maximum(one[:2], many[:, :2])).clamp(min=0)
        common = sides.prod(1)
        union = (one[2:] - one[:2]).prod() + (many[:, 2:] - many[:, :2]).clamp(min=0).prod(1) - common
        return common / union

    def _detections(self, output: Any, count: int) -> list[_Found]:
        """What the model has found in each of ``count`` examples."""
        output = self.whole(output)
        if isinstance(output, Tensor):
            least = 6 if self.objectness else 5
            if output.ndim != 3 or output.shape[2] < least:
                raise TorchwhyError(
                    f"detections are a tensor (B, N, 4 + {'1 + ' * self.objectness}C), not of shape "
                    f"{tuple(output.shape)}"
                )
            scores = output[..., 4:5] * output[..., 5:] if self.objectness else output[..., 4:]
            found = [_Found(b, s, None) for b, s in zip(output[..., :4], scores, strict=True)]
        else:
            found = [_Found.read(one) for one in _split(output)]
        if len(found) != count:
            raise TorchwhyError(f"the model gave detections for {len(found)} examples, of {count} rows")
        return found


@dataclass(frozen=True, eq=False)
class _Found:
    """What a detector has found in one example: boxes (N, 4), scores (N,) of labels (N,), or scores (N, C)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor | None

    @staticmethod
    def read(given: Mapping[str, Any]) -> _Found:
        """From a dict."""
        boxes, scores, labels = given.get("boxes"), given.get("scores"), given.get("labels")
        scores = given.get("logits") if scores is None else scores
        if (
            not isinstance(boxes, Tensor)
            or not isinstance(scores, Tensor)
            or (scores.ndim == 1) != (labels is not None)
        ):
            raise TorchwhyError(
                f"a detection is a dict of boxes (N, 4), scores (N,) and labels (N,), or of boxes and scores (N, C), "
                f"not of {sorted(given)}"
            )
        return _Found(boxes, scores, labels)

    def of(self, label: int) -> Tensor:
        """The score of every box for a label, (N,)."""
        if self.labels is not None:
            return self.scores * (self.labels == label)
        if not -self.scores.shape[1] <= label < self.scores.shape[1]:
            raise TorchwhyError(
                f"label {label} is out of range: the model gives scores of {self.scores.shape[1]} classes"
            )
        return self.scores[:, label]

    def score(self, match: Tensor, label: int) -> Tensor:
        """The best of match times score; 0 where nothing was found."""
        each_one = match * self.of(label)
        return each_one.max() if len(each_one) else self.scores.sum()

    def best(self, match: Tensor, label: int | None) -> tuple[float, int]:
        """The score of the best detection, and its label."""
        if not len(self.boxes):
            return 0.0, 0
        if label is not None:
            return float(self.score(match, int(label))), int(label)
        scores = match * self.scores if self.labels is not None else (match[:, None] * self.scores).amax(1)
        place = int(scores.argmax())
        kind = self.labels[place] if self.labels is not None else self.scores[place].argmax()
        return float(scores[place]), int(kind)


def _split(output: Any) -> list[Mapping[str, Any]]:
    """A dict for each example."""
    if isinstance(output, Mapping):
        parts = {name: t for name, t in output.items() if isinstance(t, Tensor) and t.ndim > 1}
        count = min((len(t) for t in parts.values()), default=0)
        return [{name: t[n] for name, t in parts.items()} for n in range(count)]
    if isinstance(output, tuple | list) and all(isinstance(one, Mapping) for one in output):
        return list(output)
    raise TorchwhyError(
        f"detections are a list of dicts with boxes, scores and labels, one such dict, or a tensor, not "
        f"{type(output).__name__}"
    )
