"""Soft masks: elements between absent and present."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import Fill
from torchwhy.engines.game import Features, Game, Groups, Interrupted

PRESENT = 0.5  # the degree from which on a fill that depends on what is present takes an element to be there


class SoftMasks(Features):
    """Masks in an order of their own, each of which shows every feature to some degree.

    A row of the game is the number of a mask, (K, 1): 0 shows everything, and k + 1 is the mask k.

    Args:
        groups: the features.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups, self.count = groups, groups.count
        # Of channels that share their features one is enough.
        self._ids = groups.ids.map(lambda i: i[:, :1] if is_map(i) and bool((i == i[:, :1]).all()) else i)
        self._columns = [_in_a_row(ids) for ids in self._ids]

    @abstractmethod
    def degrees(self, ks: Tensor) -> Tensor:
        """From 0 to 1 for the masks ``ks`` (K,), as (K, M)."""

    def rows(self, ks: slice) -> Tensor:
        """Rows of the masks of a slice."""
        return torch.arange(ks.start + 1, ks.stop + 1)[:, None]

    def shown(self, rows: Tensor) -> Tensors:
        """How far rows show each element, (K, 1 or B, ...), in the dtypes of the point."""
        numbers = rows[:, 0].cpu()
        found = self.degrees((numbers - 1).clamp_min(0))
        found[numbers == 0] = 1
        if self.groups.kept:
            found = torch.cat([found, torch.ones_like(found[:, :1])], 1)

        def each(ids: Tensor, t: Tensor, columns: slice | None) -> Tensor:
            if columns is None:
                return found.to(t)[:, ids]
            return found[:, columns].to(t).view(-1, *ids.shape)  # the same in less time

        parts = zip(self._ids, self.groups.point, self._columns, strict=True)
        return Tensors(each(*part) for part in parts)

    def mask(self, present: Tensor) -> Tensors:
        return self.shown(present).map(lambda t: t >= PRESENT)

    def spread(self, values: Tensor) -> Tensors:
        return self.groups.spread(values)


def _in_a_row(ids: Tensor) -> slice | None:
    """The features of elements that have one each, in order."""
    start = int(ids.flatten()[0])
    columns = slice(start, start + ids.numel())
    return columns if torch.equal(ids.flatten().cpu(), torch.arange(columns.start, columns.stop)) else None


class SoftGame(Game):
    r"""The score as a function of how far each element is shown: at :math:`m \odot x + (1 - m) \odot x'`.

    Where :math:`x'` is drawn, the score is the mean over the draws; where it depends on what is present, an element is
    from a degree of one half on, so that a mask of zeros and ones means what it means in any game.

    Args:
        p: the problem.
        masks: the rows of the game.
        fill: what gives :math:`x'`.
        whose: the name of the method, for people.
    """

    features: SoftMasks

    def __init__(self, p: Problem, masks: SoftMasks, fill: Fill, whose: str) -> None:
        for t in p.point:
            if not t.is_floating_point():
                raise TorchwhyError(
                    f"{whose} fades inputs, which {t.dtype} cannot: explain the layer behind them, such as "
                    f"at='embedding'"
                )
        super().__init__(p, masks, fill)

    def filled(self, es: slice, present: Tensor, absent: Tensors) -> Tensors:
        whole = present[:, 0] == 0

        def fade(t: Tensor, other: Tensor, degree: Tensor) -> Tensor:
            shown = degree if degree.shape[1] == 1 else degree[:, es]
            found = (shown * (t[es] - other)).add_(other)
            found[whole] = t[es]  # to the last bit
            return found

        return self.p.point.map(fade, absent, self.features.shown(present))

    def told(self, row: Tensor) -> str:
        return "elements are shown in part"

    def evaluate(self, present: Tensor, what: str = "showing through masks") -> Tensor:
        """The same, in the order of the masks: where a score is remembered is the number of its row."""
        memory, rows = self._memory, present[:, 0].cpu()
        known, asked = len(memory.scores), int(rows.max()) + 1
        try:
            if asked > known:
                self._take_in(torch.arange(known, asked)[:, None], (), what)
        except KeyboardInterrupt:
            if not self.p.partial:
                raise
            there = rows[: int((rows < len(memory.scores)).sum())]
            raise Interrupted(memory.scores[there, self.p.number]) from None
        return memory.scores[rows, self.p.number]


def is_map(t: Tensor) -> bool:
    """Whether a tensor has places, (B, C, ...), which all channels share."""
    return 3 <= t.ndim <= 5


def cells(point: Tensors, count: int) -> tuple[Tensor, ...]:
    """A feature mask of a grid: about ``count`` cells in each dimension of maps (B, C, ...), which all channels share.

    Anything but maps has a feature for each element.

    >>> cells(Tensors([torch.zeros(1, 3, 4, 5)]), 2)[0][0, 0]
    tensor([[0, 0, 0, 1, 1],
            [0, 0, 0, 1, 1],
            [2, 2, 2, 3, 3],
            [2, 2, 2, 3, 3]])
    """
    out, start = [], 0
    for t in point:
        lengths = t.shape[2:] if is_map(t) else t.shape[1:]
        counts = [min(count, n) if is_map(t) else n for n in lengths]
        ids = torch.zeros(1, dtype=torch.long)
        for n, c in zip(lengths, counts, strict=True):
            ids = ids[..., None] * c + torch.arange(n) * c // n
        out.append(start + ids.view(1, *[1] * (t.ndim - 1 - len(lengths)), *lengths))
        start += math.prod(counts)
    return tuple(out)
