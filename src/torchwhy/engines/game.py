"""Games of present and absent features: every method that removes something and watches the score.

A feature is a set of elements of the point. A row says which features are present; the others are filled with the
baseline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors, accumulator

Rows: TypeAlias = Callable[[slice], Tensor]


class Features(ABC):
    """M features of a point."""

    count: int

    @abstractmethod
    def mask(self, present: Tensor) -> Tensors:
        """Which elements are present: rows (K, M) to (K, 1 or B, ...), booleans."""

    @abstractmethod
    def spread(self, values: Tensor) -> Tensors:
        """A value per feature (M, B) as a value per element (B, ...)."""


class Groups(Features):
    """Elements grouped by a number: those with the same number, in whichever tensor, are one feature.

    Args:
        point: (B, ...).
        feature_mask: integers that broadcast to each tensor of the point, as Captum's ``feature_mask``; None makes
            every element a feature of its own.
    """

    def __init__(self, point: Tensors, feature_mask: Tensor | tuple[Tensor, ...] | None = None) -> None:
        if feature_mask is None:
            ids, start = [], 0
            for t in point:
                size = t[0].numel()
                ids.append(torch.arange(start, start + size, device=t.device).view(1, *t.shape[1:]))
                start += size
        else:
            ids = self._given(point, feature_mask)
        numbers, renumbered = torch.cat([i.flatten() for i in ids]).unique(return_inverse=True)
        pieces = renumbered.split([i.numel() for i in ids])
        self.numbers, self.count = numbers.cpu(), len(numbers)
        self.ids = Tensors(piece.view(i.shape) for piece, i in zip(pieces, ids, strict=True))
        self.point = point

    @staticmethod
    def _given(point: Tensors, feature_mask: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
        masks = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
        if len(masks) != len(point):
            raise TorchwhyError(
                f"feature_mask has {len(masks)} tensors for {len(point)} of the input: give one for each"
            )
        out = []
        for m, t in zip(masks, point, strict=True):
            if not isinstance(m, Tensor) or m.is_floating_point() or m.is_complex():
                kind = m.dtype if isinstance(m, Tensor) else type(m).__name__
                raise TorchwhyError(f"feature_mask holds the integer number of each element's feature, not {kind}")
            try:
                shape = torch.broadcast_shapes(m.shape, t.shape)
            except RuntimeError:
                shape = None
            if shape != t.shape:
                raise TorchwhyError(
                    f"feature_mask of shape {tuple(m.shape)} does not broadcast to the input, {tuple(t.shape)}"
                )
            ids = m.to(t.device).long().reshape((1,) * (t.ndim - m.ndim) + tuple(m.shape))
            out.append(ids.expand(ids.shape[0], *t.shape[1:]))
        return out

    def mask(self, present: Tensor) -> Tensors:
        return self.ids.map(lambda i: present[:, i])

    def spread(self, values: Tensor) -> Tensors:
        examples = torch.arange(values.shape[1], device=values.device)

        def each(ids: Tensor) -> Tensor:
            return values[ids, examples.view(-1, *[1] * (ids.ndim - 1))]

        return self.ids.map(each)


class Windows(Features):
    """All positions of a sliding window; where windows overlap, an element gets their mean.

    Args:
        point: (B, ...).
        shapes: the window for each tensor, without the batch dimension.
        strides: the steps for each tensor; the last position in a dimension is cut off where it sticks out.
    """

    def __init__(self, point: Tensors, shapes: Sequence[tuple[int, ...]], strides: Sequence[tuple[int, ...]]) -> None:
        self.point = point
        self.boxes: list[tuple[int, tuple[slice, ...]]] = []
        for number, (t, window, steps) in enumerate(zip(point, shapes, strides, strict=True)):
            axes = []
            for length, w, s in zip(t.shape[1:], window, steps, strict=True):
                positions = -(-(length - w) // s) + 1
                axes.append([slice(i * s, min(length, i * s + w)) for i in range(positions)])
            self.boxes += [(number, box) for box in product(*axes)]
        self.count = len(self.boxes)

    def mask(self, present: Tensor) -> Tensors:
        masks = self.point.map(lambda t: t.new_ones((len(present), 1, *t.shape[1:]), dtype=torch.bool))
        for row, feature in (~present).nonzero().tolist():
            number, box = self.boxes[feature]
            masks.parts[number][(row, 0, *box)] = False
        return masks

    def spread(self, values: Tensor) -> Tensors:
        values = values.to(accumulator(values.dtype))
        total = self.point.map(lambda t: values.new_zeros(t.shape))
        covers = self.point.map(lambda t: values.new_zeros((1, *t.shape[1:])))
        for value, (number, box) in zip(values, self.boxes, strict=True):
            under = total.parts[number].movedim(0, -1)  # a view
            under[box] += value
            covers.parts[number][0][box] += 1
        return total.map(lambda t, n: t / n.clamp_min(1), covers)


class Game:
    """The score as a function of which features are present.

    Args:
        p: the problem; absent features get its baseline.
        features: what can be absent.
    """

    def __init__(self, p: Problem, features: Features) -> None:
        self.p, self.features = p, features

    def values(self, rows: Rows, count: int, what: str = "removing features") -> Tensor:
        """Scores (count, B) of ``count`` rows; ``rows`` gives those of a slice as booleans (K, M)."""
        p = self.p

        def points(es: slice, ks: slice) -> Tensors:
            masks = self.features.mask(rows(ks).to(p.point.device))

            def fill(t: Tensor, base: Tensor, mask: Tensor) -> Tensor:
                mask = mask if mask.shape[1] == 1 else mask[:, es]
                return torch.where(mask, t[es], base[es])

            return p.point.map(fill, p.base, masks)

        return p.scores_at(points, count, what)

    def one_absent(self) -> Tensor:
        """How much the score falls when one feature is absent, (M, B)."""
        m = self.features.count

        def rows(ks: slice) -> Tensor:
            present = torch.ones(ks.stop - ks.start, m, dtype=torch.bool)
            present[torch.arange(len(present)), torch.arange(ks.start, ks.stop)] = False
            return present

        return self.p.scores - self.values(rows, m)
