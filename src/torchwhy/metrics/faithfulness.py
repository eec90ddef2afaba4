"""Does the score depend on what the explanation marks? Remove it and see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.noise import draws

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # of the positions, removed one after the other
RANDOM_ORDERS = 10
MOST_POSITIONS = 256  # of a map


@dataclass(frozen=True)
class Deletion:
    """What removing the marked positions does, beside what removing others does.

    Attributes:
        fall: (B,) mean fall of the score over the removed shares, marked positions first.
        random: (R, B) the same for R random orders.
    """

    fall: Tensor
    random: Tensor

    @property
    def z(self) -> Tensor:
        """(B,) by how many standard deviations of a random order the marked one hurts more."""
        count = len(self.random)
        spread = self.random.std(0) * (1 + 1 / count) ** 0.5
        distance = self.fall - self.random.mean(0)
        # Without spread every order does the same, and none is better than another.
        tiny = torch.finfo(spread.dtype).eps * self.random.abs().amax(0)
        return torch.where(spread > tiny, distance / spread, torch.zeros_like(distance))


def deletion(p: Problem, values: Tensors, *, signed: bool, seed: int = 0) -> Deletion:
    r"""Remove the positions with the largest values first, and for comparison the same values put elsewhere.

    .. math:: \bar{d} = \frac{1}{|Q|} \sum_{q \in Q} f(x) - f(x_{\setminus \text{top } q})

    A position is one element; of a map (B, C, H, W) it is all channels at one place, and of a map with more than 256
    places a square patch of them. What is removed gets the baseline. Elsewhere means at random, but for a map the
    whole pattern is shifted (round the edges) and mirrored at random: scattered holes disturb a network more than an
    object that is missing, which would flatter the random orders.

    Args:
        p: the problem that was explained.
        values: the attributions (B, ...).
        signed: the largest values come first; otherwise those of the largest size.
        seed: of the random orders.

    Cost: 5 (1 + 10) forward passes per example. Paper: W. Samek et al., IEEE TNNLS 28(11), 2017, arXiv:1509.06321.
    """
    places, grids = _places(values)
    totals = _totals(values if signed else abs(values), places)
    generators = [draws(seed, stream=3, number=r) for r in range(RANDOM_ORDERS)]
    random = [_fall(p, _elsewhere(totals, grids, g), places, g) for g in generators]
    return Deletion(_fall(p, totals, places, draws(seed, stream=4)), torch.stack(random))


def _places(values: Tensors) -> tuple[Tensors, list[tuple[int, int]]]:
    """The number of each element's position, (1, ...), counted through all tensors; rows and columns of positions."""
    out, grids, start = [], [], 0
    for t in values:
        if t.ndim == 4:
            height, width = t.shape[2:]
            side = math.ceil(math.sqrt(height * width / MOST_POSITIONS))
            rows, columns = (torch.arange(n, device=t.device) // side for n in (height, width))
            grid = -(-height // side), -(-width // side)
            ids = (rows[:, None] * grid[1] + columns)[None, None]
        else:
            grid = 1, t[0].numel()
            ids = torch.arange(grid[1], device=t.device).view(1, *t.shape[1:])
        out.append(start + ids)
        grids.append(grid)
        start += grid[0] * grid[1]
    return Tensors(out), grids


def _elsewhere(totals: Tensor, grids: list[tuple[int, int]], generator: torch.Generator) -> Tensor:
    """The same numbers (B, positions) at other positions, moved alike for all examples."""
    out = []
    for piece, (rows, columns) in zip(totals.split([r * c for r, c in grids], 1), grids, strict=True):
        count = rows * columns
        if rows == 1 or columns == 1:
            out.append(piece[:, torch.randperm(count, generator=generator).to(totals.device)])
            continue
        shift = divmod(int(torch.randint(1, count, (), generator=generator)), columns)
        mirrored = [d for d in (1, 2) if torch.rand((), generator=generator) < 0.5]
        out.append(piece.unflatten(1, (rows, columns)).roll(shift, (1, 2)).flip(mirrored).flatten(1))
    return torch.cat(out, 1)


def _totals(values: Tensors, places: Tensors) -> Tensor:
    """The sum of the values at each position, (B, positions)."""
    rows = values.map(lambda t: t.sum(1, keepdim=True) if t.ndim == 4 else t).flat()
    index = places.flat()[0]
    return rows.new_zeros(len(rows), int(index.max()) + 1).index_add_(1, index, rows)


def _fall(p: Problem, order: Tensor, places: Tensors, generator: torch.Generator) -> Tensor:
    """(B,) mean fall of the score when the positions of the largest numbers are removed first; order (B, positions).

    Equal numbers, such as the zeros around a mark, take turns at random: their place says nothing.
    """
    count = order.shape[1]
    turns = torch.randperm(count, generator=generator).to(order.device)
    first = turns[order[:, turns].argsort(dim=1, descending=True, stable=True)]
    rank = first.argsort(dim=1)
    edges = torch.tensor([max(1, round(share * count)) for share in SHARES], device=order.device)
    step = torch.bucketize(rank, edges, right=True)  # 0 is removed first, len(SHARES) is never removed
    groups = Groups(p.point, places.map(lambda ids: step[:, ids[0]]).parts)
    # Small inputs have fewer positions than there are steps, so a step may have no group.
    present = groups.numbers > torch.arange(len(SHARES))[:, None]
    scores = Game(p, groups).values(lambda ks: present[ks], len(SHARES), "removing what is marked")
    return (p.scores - scores).mean(0)
