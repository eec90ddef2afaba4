"""How alike two explanations are, in one number.

============  ======================================================================================================
similarity    of attributions a and b over all their elements, with their signs
============  ======================================================================================================
``spearman``  correlation of the ranks; equal values share their mean rank
``pearson``   correlation
``cosine``    of the angle between them
``ssim``      structural similarity of maps (B, C, H, W) in a Gaussian window of 11 pixels (Wang et al. 2004), as a
              mean over windows and channels; each is first divided by its largest size, and the range is from -1 to 1
============  ======================================================================================================

All lie between -1 and 1. They are not defined, NaN here, where one of the two is the same everywhere (zero, for
``cosine`` and ``ssim``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.tensors import Tensors
from torchwhy.metrics.orders import mean_ranks

WINDOW, SIGMA = 11, 1.5


@dataclass(frozen=True)
class Kind:
    """A similarity in two steps, of which the first looks at one explanation alone.

    Attributes:
        prepare: (N, ...) to the same shape; whether before or after elements trade places does not matter.
        beside: a prepared explanation to what compares another with it, (N,), NaN where there is no similarity.
    """

    prepare: Callable[[Tensors], Tensors]
    beside: Callable[[Tensors], Callable[[Tensors], Tensor]]


class Likeness:
    """Similarity to one batch of explanations.

    Args:
        kind: a name of the table above.
        values: (B, ...).

    >>> a = Tensors([torch.tensor([[1.0, 2.0, 4.0]])])
    >>> Likeness("spearman", a)(Tensors([torch.tensor([[0.0, 5.0, 6.0], [3.0, 2.0, 1.0]])])).round(decimals=6)
    tensor([[ 1.],
            [-1.]], dtype=torch.float64)
    """

    def __init__(self, kind: str, values: Tensors) -> None:
        self.kind = KINDS[kind]
        self.prepared = self.kind.prepare(values)
        self._compare = self.kind.beside(self.prepared)

    def __call__(self, others: Tensors) -> Tensor:
        """(K, B) of other explanations (K * B, ...) of the same examples."""
        return self.of_prepared(self.kind.prepare(others))

    def of_prepared(self, others: Tensors) -> Tensor:
        """The same of what was prepared already."""
        rows = self.prepared.size
        pieces = [others[start : start + rows] for start in range(0, others.size, rows)]
        return torch.stack([self._compare(piece) for piece in pieces])


def _direction(values: Tensors, *, centred: bool, ranked: bool = False) -> Tensors:
    """Rows of length 1, which the correlation is the product of; NaN where there is no direction."""
    rows = mean_ranks(values.flat()) if ranked else values.flat()
    # What is left of equal numbers by rounding is no direction.
    least = 4 * torch.finfo(rows.dtype).eps * rows.shape[1] ** 0.5
    # Squares of very small and very large numbers leave what a number can hold.
    size = rows.abs().amax(1, keepdim=True)
    rows = rows.double() / torch.where(size > 0, size, 1)
    rows = rows - rows.mean(1, keepdim=True) if centred else rows
    length = rows.norm(dim=1, keepdim=True)
    return values.unflatten(rows / torch.where(length > least, length, math.nan))


def _product(a: Tensors) -> Callable[[Tensors], Tensor]:
    def beside(b: Tensors) -> Tensor:
        each = [torch.linalg.vecdot(x.flatten(1), y.flatten(1)) for x, y in zip(a, b, strict=True)]
        return torch.stack(each).sum(0).clamp(-1, 1)

    return beside


def _scaled(values: Tensors) -> Tensors:
    """Divided by the largest size of an example."""
    if not all(t.ndim == 4 for t in values):
        raise TorchwhyError(
            f"structural similarity is of images (B, C, H, W), not {values.shapes}: take similarity='spearman'"
        )
    size = abs(values).flat().amax(1)
    return values.scale(1 / torch.where(size > 0, size, 1))


def _ssim(a: Tensors) -> Callable[[Tensors], Tensor]:
    maps, there = [_Maps(t.double()) for t in a], _marked(a)

    def beside(b: Tensors) -> Tensor:
        found = torch.stack([x.ssim(y.double()) for x, y in zip(maps, b, strict=True)]).mean(0)
        return torch.where(there & _marked(b), found, math.nan)

    return beside


def _marked(values: Tensors) -> Tensor:
    """(N,) where not all is zero."""
    return abs(values).flat().amax(1) > 0


class _Maps:
    """Maps (N, C, H, W) between -1 and 1, and what is known of them in every window."""

    C1, C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2

    def __init__(self, x: Tensor) -> None:
        side = min(WINDOW, *x.shape[2:])
        side -= 1 - side % 2
        self.x = x
        self.down, self.across = (_windows(length, side).to(x) for length in x.shape[2:])
        self.mean, squares = self.means(x, x * x)
        self.square = self.mean**2 + self.C1
        self.variance = squares - self.mean**2 + self.C2

    def means(self, *maps: Tensor) -> Tensor:
        """The means in all windows; across is made down, for the sake of one large product of matrices each."""
        lines: Tensor = torch.stack(maps) @ self.across
        return lines.mT.contiguous() @ self.down

    def ssim(self, y: Tensor) -> Tensor:
        """(N,) with other maps."""
        mean, squares, both = self.means(y, y * y, self.x * y)
        product, square = self.mean * mean, mean**2
        alike = (2 * product + self.C1) * (2 * (both - product) + self.C2)
        found: Tensor = alike / ((self.square + square) * (self.variance + squares - square))
        return found.flatten(1).mean(1)


def _windows(length: int, side: int) -> Tensor:
    """The weights of every window that lies within a line, (length, windows)."""
    places = torch.arange(length, dtype=torch.float64)[:, None] - torch.arange(length - side + 1) - side // 2
    weights = torch.where(places.abs() <= side // 2, (-(places**2) / (2 * SIGMA**2)).exp(), 0)
    return weights / weights.sum(0)


KINDS = {
    "spearman": Kind(partial(_direction, centred=True, ranked=True), _product),
    "pearson": Kind(partial(_direction, centred=True), _product),
    "cosine": Kind(partial(_direction, centred=False), _product),
    "ssim": Kind(_scaled, _ssim),
}
