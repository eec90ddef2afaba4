"""Orders of values among which some are equal: none of them is put first by chance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FLAT = "the attributions are the same everywhere, so none stands out"


def ascending(values: Tensor, *, stable: bool = False) -> Tensor:
    """The places of each of (B, M) values in its row, from that of the smallest to that of the largest.

    Args:
        values: on a CPU they are sorted by NumPy, which is several times as fast as PyTorch.
        stable: equal ones stay in their order; else any of them may come first.

    >>> ascending(torch.tensor([[3.0, 1.0, 1.0, 0.0]]), stable=True)
    tensor([[3, 1, 2, 0]])
    """
    if values.device.type != "cpu":
        return values.argsort(dim=1, stable=stable)
    found = torch.from_numpy(np.argsort(values.detach().numpy(), axis=1))
    if stable:
        ordered = values.gather(1, found)
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        found[again] = values[again].argsort(dim=1, stable=True)
    return found


def largest(values: Tensor, k: Tensor | int) -> Tensor:
    """How much each of (B, M) values belongs to the ``k`` largest of its row, (B, M) from 0 to 1.

    Equal values of which not all belong to them share the places that are left, so that a row adds up to ``k``.

    >>> largest(torch.tensor([[3.0, 1.0, 1.0, 0.0]]), 2)
    tensor([[1.0000, 0.5000, 0.5000, 0.0000]])
    """
    counts = torch.as_tensor(k, device=values.device).expand(len(values))[:, None]
    last = values.sort(1, descending=True).values.gather(1, (counts - 1).clamp_min(0))
    above, level = values > last, values == last
    left = (counts - above.sum(1, keepdim=True)).to(values.dtype) / level.sum(1, keepdim=True)
    return torch.where(above, 1, torch.where(level, left, 0)) * (counts > 0)


def mean_ranks(values: Tensor) -> Tensor:
    """The rank of each of (B, M) values in its row, from 1 for the smallest, in float64; equal ones share their mean.

    >>> mean_ranks(torch.tensor([[3.0, 1.0, 1.0, 0.0]]))
    tensor([[4.0000, 2.5000, 2.5000, 1.0000]], dtype=torch.float64)
    """
    found = ascending(values)
    ordered = values.gather(1, found)
    places = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=torch.float64).expand(values.shape)
    differs = ordered[:, 1:] != ordered[:, :-1]
    if not differs.all():
        edge = differs.new_ones(len(values), 1)
        first = torch.where(torch.cat([edge, differs], 1), places, 0).cummax(1).values
        last = torch.where(torch.cat([differs, edge], 1), places, torch.inf).flip(1).cummin(1).values.flip(1)
        places = (first + last) / 2
    return torch.empty_like(places).scatter_(1, found, places)


def flat(values: Tensor) -> Tensor:
    """(B,) whether all of (B, M) values are the same."""
    return (values == values[:, :1]).all(1)
