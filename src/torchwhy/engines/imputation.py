"""Pixels that are not there, solved for from those around them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

TRACE = 1e-9  # weight of the mean beside neighbours that weigh up to 1: of no account, unless there is nothing else
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the residual, in terms of the largest pixel
AT_ONCE = 2**17  # pixels, of which what is needed fits into a cache


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
    at_once = max(1, AT_ONCE // images[0].numel()) if images.device.type == "cpu" else len(images)
    parts = zip(images.split(at_once), known.split(at_once), strict=True)
    return torch.cat([_solved(*part) for part in parts])


def _solved(images: Tensor, known: Tensor) -> Tensor:
    """The same of a few images, whose lines lie one after the other with a zero before and after each."""
    line = images.shape[2] + 2
    inner = slice(line + 1, -line - 1)  # from the first pixel to the last

    def flat(t: Tensor) -> Tensor:
        return pad(t, (1, 1, 1, 1)).flatten(1)

    unknown = flat((~known).to(images))[:, inner]
    weight = _around(flat(torch.ones_like(images[:1])), line) + TRACE
    mean = images.mean((1, 2), keepdim=True)
    small = TOLERANCE[images.dtype] * images.abs().amax((1, 2))[:, None]
    tiny = torch.finfo(images.dtype).tiny
    full = flat(torch.where(known, images, mean))
    x = full[:, inner]
    residual = unknown * (_around(full, line) + TRACE * mean[:, 0] - weight * x)
    spread, own, share = unknown / -12, unknown * weight, 1 / weight
    ready = residual * share
    ahead = pad(ready, (line + 1, line + 1))  # the way, with zeros around
    way, power = ahead[:, inner], (residual * ready).sum(1, keepdim=True)
    # In exact arithmetic as many steps as there are unknowns suffice.
    for _ in range(2 * images[0].numel()):
        open_ = residual.abs().amax(1, keepdim=True) > small
        if not open_.any():
            break
        moved = (own * way).addcmul_(spread, _twelvefold(ahead, line))
        step = open_ * power / (way * moved).sum(1, keepdim=True).clamp_min(tiny)
        x.addcmul_(step, way)
        residual.addcmul_(step, moved, value=-1)
        ready = residual * share
        before, power = power, (residual * ready).sum(1, keepdim=True)
        way.mul_(power / before.clamp_min(tiny)).add_(ready)
    return full.view(len(images), -1, line)[:, 1:-1, 1:-1]


def _around(x: Tensor, line: int) -> Tensor:
    """The weighted sum of each pixel's neighbours."""
    return _twelvefold(x, line) / 12


def _twelvefold(x: Tensor, line: int) -> Tensor:
    """Twelve times that: the outer product of (1, 2, 1) without its middle."""
    rows = torch.add(x[:, : -2 * line], x[:, line:-line], alpha=2).add_(x[:, 2 * line :])
    both = torch.add(rows[:, :-2], rows[:, 1:-1], alpha=2).add_(rows[:, 2:])
    return both.sub_(x[:, line + 1 : -line - 1], alpha=4)
