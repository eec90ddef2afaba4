"""Pixels that are not there, solved for from those around them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

TRACE = 1e-12  # weight of the mean beside neighbours that weigh up to 1: of no account, unless there is nothing else
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the residual, in terms of the largest pixel
LARGEST = 1.5  # above the eigenvalues, which are at most 4/3
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
    weight = _total(_additions(flat(torch.ones_like(images[:1])), line)) / 12 - 1 / 3 + TRACE
    mean = images.mean((1, 2), keepdim=True)
    small = TOLERANCE[images.dtype] * images.abs().amax((1, 2))[:, None]
    tiny = torch.finfo(images.dtype).tiny
    full = flat(torch.where(known, images, mean))
    x = full[:, inner]
    # A pixel counts 4 times in its own total, which is given back here.
    own, spread = -12 * weight - 4, unknown / -12
    ahead, left = full.clone(), torch.zeros_like(full)  # the way and the residual, with zeros around
    additions, way = _additions(ahead, line), ahead[:, inner]
    remaining, residual = _additions(left, line), left[:, inner]
    torch.sub(unknown * (TRACE * mean[:, 0]), spread * (_total(additions) + own * x), out=residual)
    held = torch.empty_like(x)
    apart, back = own + 12 * LARGEST, -spread

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.mul(a, b, out=held).sum(1, keepdim=True)

    def smoothed() -> Tensor:
        """What is left, times ``LARGEST`` less the matrix: near to its inverse, so that fewer steps are needed."""
        return _total(remaining).addcmul_(apart, residual).mul_(back)

    toward = smoothed()
    way.copy_(toward)
    power = product(residual, toward)
    # In exact arithmetic as many steps as there are unknowns suffice.
    for _ in range(2 * images[0].numel()):
        open_ = torch.abs(residual, out=held).amax(1, keepdim=True) > small
        if not open_.any():
            break
        moved = _total(additions).addcmul_(own, way).mul_(spread)
        step = open_ * power / product(way, moved).clamp_min_(tiny)
        x.addcmul_(step, way)
        residual.addcmul_(step, moved, value=-1)
        toward = smoothed()
        before, power = power, product(residual, toward)
        torch.addcmul(toward, power / before.clamp_min(tiny), way, out=way)
    return full.view(len(images), -1, line)[:, 1:-1, 1:-1]


def _additions(x: Tensor, line: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What is to be added up, and where it is put, for the total of each pixel and its neighbours.

    Twice two neighbours along the line and twice across it: the weights are the outer product of (1, 2, 1).
    """
    found, room = [], [torch.empty_like(x), torch.empty_like(x)]
    for number, shift in enumerate((1, 1, line, line)):
        before, behind = x[:, :-shift], x[:, shift:]
        x = room[number % 2][:, : before.shape[1]]
        found.append((before, behind, x))
    return found


def _total(additions: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The total for the numbers that lie there now."""
    for before, behind, both in additions:
        torch.add(before, behind, out=both)
    return additions[-1][2]
