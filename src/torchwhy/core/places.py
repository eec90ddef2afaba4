"""Places as a problem asks about them: which it takes, and what a pass must show of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.site import Place, Sites, find_place
from torchwhy.core.tensors import Tensors


def whole_place(model: Any, at: Any) -> Place:
    """The place that is meant, which is no unit."""
    place = find_place(model, at)
    for site in place.sites if isinstance(place, Sites) else (place,):
        if site.unit is not None:
            raise TorchwhyError(f"{site!r}: a unit belongs to a target; at= explains all that a layer holds")
    return place


def check_batch(held: Tensors, rows: int, site: Place | None) -> None:
    """Refuse what a place holds where its dimension 0 is not the batch."""
    wrong = [t for t in held if t.ndim == 0 or t.shape[0] != rows]
    if not wrong:
        return
    if all(t.ndim > 0 and t.shape[0] == 1 for t in wrong):
        hint = "the model makes it once for all rows: give it what this comes from, such as position_ids, for each"
    else:
        hint = "where it is another, say so, such as Site(layer, batch=1)"
    raise TorchwhyError(
        f"{site!r} holds shapes {held.shapes} for {rows} rows: an explanation needs the batch in dimension 0; {hint}"
    )


def check_reached(site: Place, layout: list[list[int]], slopes: Sequence[Tensor | None], *, through: bool) -> None:
    """Refuse a place of several that does not act on the target.

    Args:
        site: the places.
        layout: how many tensors each call of each of them holds.
        slopes: at all places; None where the target does not depend on them.
        through: what a place does through others has been counted; else they are replaced together with it, so that
            it cannot do anything through them.
    """
    parts = iter(slopes)
    places = site.sites if isinstance(site, Sites) else (site,)
    for place, calls in zip(places, layout, strict=True):
        for number, count in enumerate([sum(calls)] if through else calls):
            if all(g is None for g in [next(parts) for _ in range(count)]):
                which = f"{place!r}{f', call {number},' if len(calls) > 1 and not through else ''}"
                others = (
                    ""
                    if through
                    else f", or only through the other places of {site!r}, which are replaced together with "
                    f"it: explain one at a time (gradients at the input itself, as of InputXGradient or GradCAM, "
                    f"can be had together, without check='basic')"
                )
                raise UnsupportedError(f"{which} does not act on the target{others}")
