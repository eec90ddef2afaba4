"""Attributions that know nothing of the model: what a metric says about them is what it says about nothing.

============  ======================================================================================
control       attributions
============  ======================================================================================
``random``    drawn from a normal distribution, the same for every example; a mean over 5 draws
``elsewhere`` the given ones, but shifted and mirrored (maps) or permuted; a mean over 5 draws
``constant``  1 everywhere
``input``     the size of the input
``edges``     the length of the gradient of an image, over its places; of other inputs, as ``input``
============  ======================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import draws

DRAWS = 5


def random(values: Tensors, point: Tensors | None) -> list[Tensors]:
    """Normal draws."""

    def drawn(number: int) -> Tensors:
        generator = draws(0, 60, number)
        return values.map(
            lambda t: torch.randn(t.shape[1:], generator=generator, dtype=t.dtype).to(t.device).expand(t.shape)
        )

    return [drawn(k) for k in range(DRAWS)]


def elsewhere(values: Tensors, point: Tensors | None) -> list[Tensors]:
    """The given ones at other places."""
    return [displaced(values, draws(0, 61, k)) for k in range(DRAWS)]


def displaced(values: Tensors, generator: torch.Generator) -> Tensors:
    """Maps shifted and mirrored, all else permuted, alike for all examples."""

    def each(t: Tensor) -> Tensor:
        return moved(t, 2, generator) if t.ndim > 3 else moved(t.flatten(1), 1, generator).view(t.shape)

    return values.map(each)


def moved(t: Tensor, first: int, generator: torch.Generator) -> Tensor:
    """The same numbers at other places of the grid from dimension ``first`` on, moved alike in all other dimensions.

    The whole pattern of a grid is shifted, round the edges, and mirrored at random; of a line, numbers are permuted.
    """
    grid = t.shape[first:]
    count = math.prod(grid)
    if len(grid) < 2 or 1 in grid:
        places = torch.randperm(count, generator=generator).to(t.device)
        return t.flatten(first)[..., places].view(t.shape)
    shift: list[int] = []
    rest = int(torch.randint(1, count, (), generator=generator))
    for length in reversed(grid):
        rest, step = divmod(rest, length)
        shift.insert(0, step)
    dims = list(range(first, t.ndim))
    mirrored = [d for d in dims if torch.rand((), generator=generator) < 0.5]
    return t.roll(shift, dims).flip(mirrored)


def constant(values: Tensors, point: Tensors | None) -> list[Tensors]:
    """The same everywhere."""
    return [values.map(torch.ones_like)]


def magnitude(values: Tensors, point: Tensors | None) -> list[Tensors]:
    """The size of the input."""
    return [_shown(point).map(lambda t, v: _as(t.abs().to(v.dtype), v), values)]


def edges(values: Tensors, point: Tensors | None) -> list[Tensors]:
    """The length of the gradient of an image."""

    def each(t: Tensor, v: Tensor) -> Tensor:
        wide = t.to(v.dtype)
        if t.ndim != 4 or min(t.shape[2:]) < 2:
            return _as(wide.abs(), v)
        down, across = torch.gradient(wide, dim=(2, 3))
        return _as((down**2 + across**2).sum(1, keepdim=True).sqrt(), v)

    return [_shown(point).map(each, values)]


def _shown(point: Tensors | None) -> Tensors:
    if point is None:
        raise TorchwhyError("this control is made of the inputs: give them")
    return point


def _as(t: Tensor, values: Tensor) -> Tensor:
    """In the shape of the attributions, which may have one channel for all."""
    summed = t.sum(1, keepdim=True) if values.ndim > 1 and values.shape[1] == 1 < t.shape[1] else t
    return summed.expand(values.shape)


CONTROLS: dict[str, Callable[[Tensors, Tensors | None], list[Tensors]]] = {
    "random": random,
    "elsewhere": elsewhere,
    "constant": constant,
    "input": magnitude,
    "edges": edges,
}
