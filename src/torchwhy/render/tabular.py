"""Features as bars: the largest by magnitude, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.render.colour import finite
from torchwhy.render.words import number


@dataclass(frozen=True)
class Bars:
    """The features that matter most, largest magnitude first.

    Attributes:
        names: of the features shown.
        values: one per name.
        errors: half the widths of their 95 % intervals, for sampling methods.
        signed: positive values raise the score, negative ones lower it; otherwise values are sizes.
        caption: what is shown and what is not.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...] | None
    signed: bool
    caption: str

    @property
    def limit(self) -> float:
        """The largest magnitude shown, error included."""
        return max(abs(v) + e for v, e in zip(self.values, self.errors or [0.0] * len(self.values), strict=True))


def bars(values: Tensor, errors: Tensor | None = None, *, signed: bool, what: str = "feature", most: int = 20) -> Bars:
    """The ``most`` largest of one example's ``values`` of any shape.

    >>> shown = bars(torch.tensor([0.5, -2.0, 0.25]), signed=True, most=2)
    >>> shown.names, shown.values, shown.caption
    (('feature 1', 'feature 0'), (-2.0, 0.5), 'the 2 largest of 3 features; the others add up to 0.25')
    """
    flat = finite(values).flatten()
    order = flat.abs().argsort(descending=True, stable=True)[:most]
    places = torch.stack(torch.unravel_index(order, values.shape), 1).tolist() if values.ndim else [[]]
    caption = f"{flat.numel()} {what}{'s' if flat.numel() > 1 else ''}"
    if flat.numel() > most:
        rest = float(flat.sum() - flat[order].sum())
        caption = f"the {most} largest of {caption}; the others add up to {number(rest)}"
    return Bars(
        names=tuple(" ".join([what, ", ".join(map(str, place))]).rstrip() for place in places),
        values=tuple(flat[order].tolist()),
        errors=None if errors is None else tuple(finite(errors).flatten()[order].tolist()),
        signed=signed,
        caption=caption,
    )
