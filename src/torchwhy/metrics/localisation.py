"""Does the explanation mark what it should, as a mask says?

Of images (B, C, H, W) and volumes, attributions belong to places: the channels of a place are pooled. Of all else every
element is a place. Positive attributions speak for the target; negative ones count as nothing marked where a paper
takes positive ones, and as the lowest where a metric looks at the order.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.options import one_of
from torchwhy.core.tensors import Tensors
from torchwhy.metrics.base import Judged, Metric
from torchwhy.metrics.erasure import NOTHING_MARKED
from torchwhy.metrics.orders import FLAT, flat, largest, mean_ranks
from torchwhy.metrics.rating import INFINITY, Rating
from torchwhy.registry import MetricInfo, register_metric

EMPTY, FULL = "the mask is empty, so nothing should be marked", "the mask is full, so nothing should be left unmarked"

Reasons: TypeAlias = list[tuple[Tensor, str]]  # (B,) where there is no value, and why

POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {  # (B, C, ...) to (B, ...)
    "sum": lambda v: v.sum(1),
    "l1": lambda v: v.abs().sum(1),
    "l2": lambda v: torch.linalg.vector_norm(v, dim=1),
    "max": lambda v: v.abs().amax(1),
}


@dataclass(frozen=True, eq=False)
class Marks:
    """What is marked and what should be, place by place.

    Attributes:
        values: (B, M).
        mask: (B, M), booleans.
        grids: how the places of each tensor lie.
    """

    values: Tensor
    mask: Tensor
    grids: list[tuple[int, ...]]

    @staticmethod
    def of(values: Tensors, mask: Tensors, pooling: str) -> Marks:
        """The channels of a place pooled."""
        pool = POOLINGS[pooling]

        def each(v: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
            if v.ndim < 4:
                return pool(v[:, None]), m
            if (m != m[:, :1]).any():
                raise TorchwhyError("the mask marks places, so it is the same for all channels: give it one channel")
            return pool(v), m[:, 0]

        pairs = [each(v, m) for v, m in zip(values, mask, strict=True)]
        pooled, masks = (Tensors(parts) for parts in zip(*pairs, strict=True))
        return Marks(pooled.flat(), masks.flat(), [tuple(v.shape[1:]) for v in pooled])

    @property
    def inside(self) -> Tensor:
        """(B,) places that should be marked."""
        return self.mask.sum(1)

    @property
    def positive(self) -> Tensor:
        """(B, M) what speaks for the target."""
        return self.values.clamp_min(0)

    @property
    def empty(self) -> tuple[Tensor, str]:
        """Where nothing should be marked."""
        return self.inside == 0, EMPTY


def _score(value: Tensor, *none: tuple[Tensor, str]) -> Rating:
    """The value, but where there is none the first of the reasons."""
    reasons = [
        next((why for b, (_, why) in zip(row, none, strict=True) if b), "")
        for row in zip(*(w.tolist() for w, _ in none), strict=True)
    ]
    return Rating.where(~torch.stack([w for w, _ in none]).any(0), value, reasons)


@dataclass(kw_only=True, eq=False)
class LocalisationMetric(Metric):
    """A metric of where attributions lie.

    Args:
        pooling: how the channels of a place of an image become one value: their "sum", or their size as "l1", "l2" or
            "max". Sizes make every attribution positive, also where there is one channel.
    """

    pooling: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pooling", self.pooling, tuple(POOLINGS))

    @abstractmethod
    def measure(self, marks: Marks) -> Rating:
        """The metric's formula."""

    def compute(self, judged: Judged) -> Rating:
        assert judged.mask is not None
        return self.measure(Marks.of(judged.values, judged.mask, self.pooling))


@register_metric(
    MetricInfo(
        family="localisation",
        summary="whether the largest attribution lies in the mask",
        paper="Zhang, Bargal, Lin, Brandt, Shen, Sclaroff: Top-Down Neural Attention by Excitation Backprop",
        year=2018,
        cost="none",
        range=(0, 1),
        direction="higher",
        needs=("mask",),
    )
)
@dataclass(kw_only=True, eq=False)
class PointingGame(LocalisationMetric):
    r"""Whether the largest attribution lies in the mask, 1 or 0; the mean is the accuracy.

    .. math:: 1\left[\min_{j \in M} \|i^* - j\| \le \tau\right], \qquad i^* = \arg\max_i a_i

    Several largest attributions are each as likely to be pointed at: the value is the share of them that hit.

    Args:
        tolerance: :math:`\tau`, how far from the mask a hit may be, in pixels; 15 in the paper.

    Shapes: attributions (B, ...), mask like them, value (B,). No units.

    Paper: J. Zhang et al., IJCV 126, 2018, arXiv:1608.00507.

    >>> import torch
    >>> values, mask = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[True, False, False]])
    >>> PointingGame().score(values, mask=mask).value, PointingGame(tolerance=1).score(values, mask=mask).value
    (tensor([0.]), tensor([1.]))
    """

    tolerance: float = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, int | float) or self.tolerance < 0:
            raise TorchwhyError(f"tolerance is a number of pixels of at least 0, not {self.tolerance!r}")

    def measure(self, marks: Marks) -> Rating:
        pointed = marks.values == marks.values.amax(1, keepdim=True)
        hits = pointed & (marks.mask if self.tolerance == 0 else self._near(pointed, marks))
        value = hits.sum(1).to(marks.values) / pointed.sum(1)
        return _score(value, marks.empty, (flat(marks.values), FLAT))

    def _near(self, pointed: Tensor, marks: Marks) -> Tensor:
        """(B, M) which of the places pointed at lie near the mask."""
        sizes = [math.prod(grid) for grid in marks.grids]
        near = []
        for points, mask, grid in zip(pointed.split(sizes, 1), marks.mask.split(sizes, 1), marks.grids, strict=True):
            found = torch.zeros_like(points)
            for i in range(len(points)):
                at, goal = (t[i].reshape(grid).nonzero().double() for t in (points, mask))
                if len(goal):
                    found[i, points[i]] = torch.cdist(at, goal).amin(1) <= self.tolerance
            near.append(found)
        return torch.cat(near, 1)


@register_metric(
    MetricInfo(
        family="localisation",
        summary="share of the positive attribution that lies in the mask",
        paper="Kohlbrenner, Bauer, Nakajima, Binder, Samek, Lapuschkin: Towards Best Practice in Explaining Neural "
        "Network Decisions with LRP",
        year=2020,
        cost="none",
        range=(0, INFINITY),
        direction="higher",
        needs=("mask",),
    )
)
@dataclass(kw_only=True, eq=False)
class AttributionLocalisation(LocalisationMetric):
    r"""The share of the positive attribution that lies in the mask, the inside-total relevance ratio.

    .. math:: \mu = \frac{\sum_{i \in M} a_i^+}{\sum_i a_i^+}, \qquad \mu_w = \mu \cdot \frac{n}{|M|}

    Attributions that know nothing of the mask have :math:`\mu = |M| / n` in the mean, and :math:`\mu_w = 1`.

    Args:
        weighted: :math:`\mu_w`, which makes up for the size of the mask, instead of :math:`\mu`.

    Shapes: attributions (B, ...), mask like them, value (B,). No units.

    Paper: M. Kohlbrenner et al., IJCNN 2020, arXiv:1910.09840.

    >>> import torch
    >>> values, mask = torch.tensor([[3.0, 1.0, -1.0, 0.0]]), torch.tensor([[True, False, False, False]])
    >>> AttributionLocalisation().score(values, mask=mask).value
    tensor([0.7500])
    >>> AttributionLocalisation(weighted=True).score(values, mask=mask).value
    tensor([3.])
    """

    weighted: bool = False

    def measure(self, marks: Marks) -> Rating:
        found = _mass(marks)
        if not self.weighted:
            return found
        factor = marks.mask.shape[1] / marks.inside.clamp_min(1).to(marks.values)
        return Rating(found.value * factor, found.reasons)


def _mass(marks: Marks) -> Rating:
    """The share of the positive attribution in the mask."""
    total = marks.positive.sum(1)
    value = (marks.positive * marks.mask).sum(1) / torch.where(total > 0, total, 1)
    return _score(value, marks.empty, (total == 0, NOTHING_MARKED))


@register_metric(
    MetricInfo(
        family="localisation",
        summary="share of the pooled relevance that lies in the mask",
        paper="Arras, Osman, Samek: CLEVR-XAI",
        year=2022,
        cost="none",
        range=(0, 1),
        direction="higher",
        needs=("mask",),
    )
)
@dataclass(kw_only=True, eq=False)
class RelevanceMassAccuracy(LocalisationMetric):
    r"""The share of the relevance that lies in the mask, where relevance is pooled over the channels.

    .. math:: \frac{\sum_{i \in M} r_i^+}{\sum_i r_i^+}

    With the sum over the channels it is `AttributionLocalisation`; the paper also pools sizes, as ``pooling="l2"``.

    Shapes: attributions (B, ...), mask like them, value (B,). No units.

    Paper: L. Arras, A. Osman, W. Samek, Information Fusion 81, 2022, arXiv:2003.07258.

    >>> import torch
    >>> values, mask = torch.tensor([[3.0, 1.0, -2.0]]), torch.tensor([[True, False, False]])
    >>> RelevanceMassAccuracy().score(values, mask=mask).value
    tensor([0.7500])
    >>> RelevanceMassAccuracy(pooling="l1").score(values, mask=mask).value
    tensor([0.5000])
    """

    def measure(self, marks: Marks) -> Rating:
        return _mass(marks)


@register_metric(
    MetricInfo(
        family="localisation",
        summary="share of the positive attribution on a mosaic that lies on the images of the target's class",
        paper="Arias-Duart, Parés, Garcia-Gasulla, Giménez-Ábalos: Focus! Rating XAI Methods and Finding Biases",
        year=2022,
        cost="none",
        range=(0, 1),
        direction="higher",
        needs=("mask",),
    )
)
@dataclass(kw_only=True, eq=False)
class Focus(LocalisationMetric):
    r"""The share of the positive attribution on a mosaic that lies on images of the class that is explained.

    .. math:: \frac{\sum_{i \in M} a_i^+}{\sum_i a_i^+}

    A mosaic is four images of which some, two in the paper, are of the class. `mosaic` makes it and its mask
    :math:`M`. Attributions that know nothing of the class have the share of images of the class, 1/2.

    Shapes: attributions (B, ...), mask like them, value (B,). No units.

    Paper: A. Arias-Duart, F. Parés, D. Garcia-Gasulla, V. Giménez-Ábalos, FUZZ-IEEE 2022, arXiv:2109.15035.

    >>> import torch
    >>> images, mask = mosaic(torch.rand(2, 4, 3, 8, 8), torch.tensor([True, False, False, True]))
    >>> images.shape, mask.shape
    (torch.Size([2, 3, 16, 16]), torch.Size([2, 1, 16, 16]))
    >>> Focus().score(mask.float(), mask=mask).value, Focus().score(torch.ones(2, 1, 16, 16), mask=mask).value
    (tensor([1., 1.]), tensor([0.5000, 0.5000]))
    """

    def measure(self, marks: Marks) -> Rating:
        return _mass(marks)


def mosaic(images: Tensor, holds: Tensor) -> tuple[Tensor, Tensor]:
    """Four images as one, and where it shows the class that is explained.

    Args:
        images: (B, 4, C, H, W), those above and then those below, from left to right.
        holds: booleans (B, 4) or (4,), which of them are of the class.

    Returns:
        Images (B, C, 2H, 2W) and masks (B, 1, 2H, 2W), booleans.
    """
    if images.ndim != 5 or images.shape[1] != 4:
        raise TorchwhyError(f"a mosaic is made of four images, (B, 4, C, H, W), not {tuple(images.shape)}")
    if holds.dtype != torch.bool or holds.shape not in ((4,), images.shape[:2]):
        raise TorchwhyError(
            f"holds says which of the four images are of the class, booleans {tuple(images.shape[:2])}, "
            f"not {holds.dtype} {tuple(holds.shape)}"
        )
    b, _, _, h, w = images.shape
    mask = holds.to(images.device).expand(b, 4)[:, :, None, None, None].expand(b, 4, 1, h, w)
    whole, marked = (
        torch.cat([torch.cat([t[:, 2 * row], t[:, 2 * row + 1]], 3) for row in range(2)], 2) for t in (images, mask)
    )
    return whole, marked


@register_metric(
    MetricInfo(
        family="localisation",
        summary="share of the k largest attributions that lie in the mask",
        paper="Theiner, Müller-Budack, Ewerth: Interpretable Semantic Photo Geolocation",
        year=2022,
        cost="none",
        range=(0, 1),
        direction="higher",
        needs=("mask",),
    )
)
@dataclass(kw_only=True, eq=False)
class TopKIntersection(LocalisationMetric):
    r"""The share of the k largest attributions that lie in the mask.

    .. math:: \frac{1}{k} \left| \operatorname{top}_k(a) \cap M \right|

    Equal attributions of which not all are among the k largest share the places that are left. A mask of fewer than
    ``k`` places allows no value of 1.

    Args:
        k: how many: a whole number of places, or a share of all below 1.

    Shapes: attributions (B, ...), mask like them, value (B,). No units.

    Paper: J. Theiner, E. Müller-Budack, R. Ewerth, WACV 2022, arXiv:2104.14995.

    >>> import torch
    >>> values, mask = torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([[True, True, False, False]])
    >>> TopKIntersection(k=2).score(values, mask=mask).value
    tensor([0.5000])
    """

    k: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_k(self.k)

    def measure(self, marks: Marks) -> Rating:
        k = count_of(self.k, marks.mask.shape[1])
        value = (largest(marks.values, k) * marks.mask).sum(1) / k
        return _score(value, marks.empty, (flat(marks.values), FLAT))


def check_k(k: object) -> None:
    """Raise unless this is a number of places or a share of them."""
    if isinstance(k, bool) or not isinstance(k, int | float) or k <= 0 or (k >= 1 and k != int(k)):
        raise TorchwhyError(f"k is a whole number of at least 1, or a share between 0 and 1, not {k!r}")


def count_of(k: float, places: int) -> int:
    """The number that ``k`` is of so many places."""
    if k > places:
        raise TorchwhyError(f"k={k:g} is more than the {places} attributions that there are")
    return int(k) if k >= 1 else max(1, round(k * places))


@register_metric(
    MetricInfo(
        family="localisation",
        summary="share of the mask that the attributions of highest rank cover",
        paper="Arras, Osman, Samek: CLEVR-XAI",
        year=2022,
        cost="none",
        range=(0, 1),
        direction="higher",
        needs=("mask",),
    )
)
@dataclass(kw_only=True, eq=False)
class RelevanceRankAccuracy(LocalisationMetric):
    r"""The share of the mask that is covered by as many of the largest attributions as it has places.

    .. math:: \frac{1}{|M|} \left| \operatorname{top}_{|M|}(a) \cap M \right|

    Equal attributions of which not all are among the largest share the places that are left. Attributions that know
    nothing of the mask have :math:`|M| / n` in the mean.

    Shapes: attributions (B, ...), mask like them, value (B,). No units.

    Paper: L. Arras, A. Osman, W. Samek, Information Fusion 81, 2022, arXiv:2003.07258.

    >>> import torch
    >>> values, mask = torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([[True, True, False, False]])
    >>> RelevanceRankAccuracy().score(values, mask=mask).value
    tensor([0.5000])
    """

    def measure(self, marks: Marks) -> Rating:
        value = (largest(marks.values, marks.inside) * marks.mask).sum(1) / marks.inside.clamp_min(1)
        return _score(value, marks.empty, (flat(marks.values), FLAT))


@register_metric(
    MetricInfo(
        family="localisation",
        summary="chance that an attribution in the mask is larger than one outside",
        paper="Fawcett: An Introduction to ROC Analysis",
        year=2006,
        cost="none",
        range=(0, 1),
        direction="higher",
        needs=("mask",),
    )
)
@dataclass(kw_only=True, eq=False)
class AUC(LocalisationMetric):
    r"""The area under the ROC curve: the chance that an attribution in the mask is larger than one outside.

    .. math:: \frac{1}{|M|\,|\bar M|} \sum_{i \in M,\, j \notin M} 1[a_i > a_j] + \tfrac12\, 1[a_i = a_j]

    Attributions that know nothing of the mask, and those that are the same everywhere, have 1/2.

    Shapes: attributions (B, ...), mask like them, value (B,). No units.

    Paper: T. Fawcett, Pattern Recognition Letters 27(8), 2006.

    >>> import torch
    >>> values, mask = torch.tensor([[3.0, 1.0, 1.0, 0.0]]), torch.tensor([[True, True, False, False]])
    >>> AUC().score(values, mask=mask).value
    tensor([0.8750])
    """

    def measure(self, marks: Marks) -> Rating:
        inside = marks.inside.double()
        outside = marks.mask.shape[1] - inside
        above = (mean_ranks(marks.values) * marks.mask).sum(1) - inside * (inside + 1) / 2
        value = (above / (inside * outside).clamp_min(1)).to(marks.values)
        return _score(value, marks.empty, (outside == 0, FULL))
