"""Pixels that are not there, solved for from those around them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

TRACE = 1e-9  # weight of the mean beside neighbours that weigh up to 1: of no account, unless there is nothing else
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the residual, in terms of the largest pixel


def imputed(images: Tensor, known: Tensor) -> Tensor:
    r"""Images (N, H, W) with their unknown pixels replaced.

    Each is the weighted mean of its neighbours, known or not, of which the direct ones count 1/6 and the diagonal ones
    1/12, at the border in proportion:

    .. math:: \sum_j w_{ij} (x_i - x_j) + \epsilon (x_i - \bar x) = 0

    All images are solved together by conjugate gradients, each until its own residual is small, so that none depends on
    the others.

    Args:
        images: float32 or float64.
        known: booleans (N, H, W).
    """
    unknown = (~known).to(images)
    weight = _around(torch.ones_like(images[:1])) + TRACE
    mean = images.mean((1, 2), keepdim=True)
    x = torch.where(known, images, mean)
    small = TOLERANCE[images.dtype] * images.abs().amax((1, 2), keepdim=True)

    def applied(v: Tensor) -> Tensor:
        return unknown * (weight * v - _around(v))

    residual = unknown * (_around(x) + TRACE * mean - weight * x)
    ready = residual / weight
    way, power = ready, (residual * ready).sum((1, 2), keepdim=True)
    # In exact arithmetic as many steps as there are unknowns suffice.
    for _ in range(2 * images[0].numel()):
        open_ = residual.abs().amax((1, 2), keepdim=True) > small
        if not open_.any():
            break
        moved = applied(way)
        step = open_ * power / (way * moved).sum((1, 2), keepdim=True).clamp_min(torch.finfo(images.dtype).tiny)
        x = x + step * way
        residual = residual - step * moved
        ready = residual / weight
        before, power = power, (residual * ready).sum((1, 2), keepdim=True)
        way = ready + power / before.clamp_min(torch.finfo(images.dtype).tiny) * way
    return x


def _around(x: Tensor) -> Tensor:
    """The weighted sum of each pixel's neighbours, (N, H, W): the outer product of (1, 2, 1) without its middle."""
    rows = pad(x, (0, 0, 1, 1))
    rows = rows[:, :-2] + 2 * x + rows[:, 2:]
    both = pad(rows, (1, 1))
    return (both[:, :, :-2] + 2 * rows + both[:, :, 2:] - 4 * x) / 12
