"""Soft masks: elements between absent and present."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Points, Problem
from torchwhy.core.tensors import Tensors


def faded(p: Problem, masks: Callable[[slice], Tensors], whose: str) -> Points:
    r"""Points :math:`m \odot x + (1 - m) \odot x'` for masks (K, 1 or B, ...) of a slice of the draws.

    Args:
        p: the problem, whose baseline is :math:`x'`.
        masks: from 0 to 1.
        whose: the name of the method, for people.
    """
    for t in p.point:
        if not t.is_floating_point():
            raise TorchwhyError(
                f"{whose} fades inputs, which {t.dtype} cannot: explain the layer behind them, such as at='embedding'"
            )

    def points(es: slice, ks: slice) -> Tensors:
        def fade(t: Tensor, b: Tensor, m: Tensor) -> Tensor:
            shown = m if m.shape[1] == 1 else m[:, es]
            return b[es] + shown.to(t.dtype) * (t[es] - b[es])

        return p.point.map(fade, p.base, masks(ks))

    return points


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
        lengths = t.shape[2:] if 3 <= t.ndim <= 5 else t.shape[1:]
        counts = [min(count, n) if 3 <= t.ndim <= 5 else n for n in lengths]
        ids = torch.zeros(1, dtype=torch.long)
        for n, c in zip(lengths, counts, strict=True):
            ids = ids[..., None] * c + torch.arange(n) * c // n
        out.append(start + ids.view(1, *[1] * (t.ndim - 1 - len(lengths)), *lengths))
        start += math.prod(counts)
    return tuple(out)
