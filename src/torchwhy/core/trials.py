"""What is tried on a few rows before many follow: how they are evaluated fastest, and whether that is the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from torchwhy.core.behind import Shortcut, cut, same_numbers
from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import bare
from torchwhy.core.passes import FIRST_ROWS, Passes
from torchwhy.core.places import check_reached
from torchwhy.core.site import Site
from torchwhy.core.tensors import Tensors


def find_shortcut(p: Passes, site: Site, point: Tensors, gradients: bool) -> Shortcut | None:
    """How to run only what stands behind the site; None where that cannot be done, or would not be the same.

    Tried on two of the examples, as they are, with other values and with none at the site.
    """
    if len(point) > 1 or tree_leaves(p.extra):
        return None
    cuts = p._shared.behind
    if site not in cuts:
        cuts[site] = cut(bare(p.model), site, p._target_site, len(p.inputs))
    behind = cuts[site]
    found = behind and Shortcut.of(behind, p.inputs, p._limit(False, FIRST_ROWS))
    if not found:
        return None
    p.cost.forward += p.size if found.beside else 0
    two = torch.tensor([p.size - 1, 0], device=p.inputs.device)
    held = point[two]
    z = Tensors.cat([held, held.map(lambda t: t.flatten(1).flip(1).view_as(t)), held.map(torch.zeros_like)])
    known = _trial(p, z, two.repeat(3), gradients)
    p._shortcuts[gradients] = found
    try:
        again = _trial(p, z, two.repeat(3), gradients)
    except Exception:  # noqa: BLE001  what was traced may fail in any way; the model itself has just run
        return None
    finally:
        p._shortcuts[gradients] = None
    return found if same_numbers(known, again) else None


def _trial(p: Passes, z: Tensors, rows: Tensor, gradients: bool) -> list[Any]:
    """All that a pass gives."""
    seen = p._forward(z, rows, gradients)
    scores, target = p._score(seen, rows, gradients)
    return [seen.output, *(p._differentiate(scores, seen.leaves, target) if gradients else ())]


def can_be_channels_last(p: Passes, scores: Tensor) -> bool:
    """Whether images may lie in memory pixel by pixel, which makes convolutions on a CPU faster.

    Tried on one row: a model that views its feature maps as vectors cannot take it, and one that reads memory by
    strides would silently see something else.
    """
    score = scores[:1]
    p._shared.channels_last = True
    try:
        other = p._evaluate(p.inputs[:1], torch.zeros(1, dtype=torch.long), gradients=False).scores
    except TorchwhyError:
        return False
    return torch.allclose(other, score, rtol=1e-4, atol=1e-5)


def check_apart(p: Passes, point: Tensors) -> None:
    """Where the model has a gradient, every place of several must have one when all of them are replaced."""
    assert p.site is not None
    first = torch.zeros(1, dtype=torch.long, device=p.inputs.device)
    seen = p._forward(point[:1].map(torch.clone), first, gradients=True)
    scores, _ = p._score(seen, first, gradients=True)
    if scores.requires_grad:
        found = torch.autograd.grad(scores.sum(), seen.leaves.parts, allow_unused=True)
        check_reached(p.site, p._layout, found, through=False)
