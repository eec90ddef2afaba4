"""From numbers to colours: one scale for signed values, one for sizes.

A value is painted over whatever lies beneath with an opacity proportional to its magnitude. Zero is
therefore no paint at all, neutral on a white page, on a dark one and over a photograph, and twice the paint
is twice the value.

Orange raises the score and blue lowers it: the pair that every common colour blindness tells apart. Both,
and the teal of unsigned values, have the lightness L* = 55, half-way between a white and a black page, so
neither sign looks stronger and a picture weighs the same on both pages. Red-green blind readers see the
teal as a grey, which neither orange nor blue is to them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError

POSITIVE = (217, 95, 2)
NEGATIVE = (31, 135, 229)
SIZE = (0, 148, 120)

CLIP = 0.995
"""Share of the values within the scale; the few above it have full colour, and the legend says how large."""


def full_colour(values: Tensor) -> float:
    """The magnitude at which a scale reaches full colour: the 99.5th percentile of ``|values|``.

    It is one of the values, so fewer than 200 of them are never clipped; 0 means that all are zero.

    >>> full_colour(torch.arange(-100.0, 1.0)), full_colour(torch.arange(10_000.0))
    (100.0, 9949.0)
    """
    sizes = finite(values).abs().flatten()
    limit = float(sizes.kthvalue(max(1, math.ceil(CLIP * sizes.numel()))).values)
    return limit or float(sizes.max())  # all but a handful are zero: show the handful


def paint(values: Tensor, *, signed: bool, limit: float | None = None) -> Tensor:
    """Values of any shape as RGBA, ``(..., 4)``, each channel from 0 to 1, alpha not premultiplied.

    >>> paint(torch.tensor([-2.0, 0.0, 1.0]), signed=True, limit=2.0)[:, 3]
    tensor([1.0000, 0.0000, 0.5000], dtype=torch.float64)
    """
    values = finite(values)
    limit = full_colour(values) if limit is None else limit
    alpha = (values.abs() / limit).clamp(max=1) if limit > 0 else torch.zeros_like(values)
    above, below = (values.new_tensor(c) / 255 for c in ((POSITIVE, NEGATIVE) if signed else (SIZE, SIZE)))
    return torch.cat([torch.where((values < 0)[..., None], below, above), alpha[..., None]], -1)


def over(top: Tensor, bottom: Tensor) -> Tensor:
    """One RGBA picture over another, both ``(..., 4)`` (Porter and Duff, 1984).

    >>> red, white = torch.tensor([1.0, 0, 0, 0.25]), torch.tensor([1.0, 1, 1, 1])
    >>> over(red, white)
    tensor([1.0000, 0.7500, 0.7500, 1.0000])
    """
    a, b = top[..., 3:], bottom[..., 3:] * (1 - top[..., 3:])
    alpha = a + b
    mixed = (a * top[..., :3] + b * bottom[..., :3]) / alpha.clamp_min(torch.finfo(alpha.dtype).tiny)
    return torch.cat([mixed, alpha], -1)


def finite(values: Tensor) -> Tensor:
    """The values in double precision on the CPU.

    Raises:
        TorchwhyError: some are NaN or infinite, which no colour stands for.
    """
    values = values.detach().double().cpu()
    if values.numel() == 0:
        raise TorchwhyError(f"there is nothing to draw: the values have shape {tuple(values.shape)}")
    if bad := int((~values.isfinite()).sum()):
        raise TorchwhyError(f"{bad} of {values.numel()} values are NaN or infinite, which no colour stands for")
    return values
