"""Does the score depend on what the explanation marks? Remove it and see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game
from torchwhy.engines.noise import draws
from torchwhy.metrics.base import formed
from torchwhy.metrics.controls import moved
from torchwhy.metrics.removal import Places, as_they_say, places, ranks, totals

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # of the positions, removed one after the other
RANDOM_ORDERS = 10


@dataclass(frozen=True)
class Contrast:
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


def deletion(
    p: Problem,
    values: Tensors,
    *,
    signed: bool,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
    orders: int = RANDOM_ORDERS,
) -> Contrast:
    r"""Remove the positions with the largest values first, and for comparison the same values put elsewhere.

    .. math:: \bar{d} = \frac{1}{|Q|} \sum_{q \in Q} f(x) - f(x_{\setminus \text{top } q})

    A position is one element; of a map (B, C, H, W) it is all channels at one place, and of a map with more than 256
    places a square patch of them; where there is one value for each token, it is all of a token. What is removed gets
    the baseline. Elsewhere means at random, but for a map the whole pattern is shifted (round the edges) and mirrored
    at random: scattered holes disturb a network more than an object that is missing, which would flatter the random
    orders.

    Args:
        p: the problem that was explained.
        values: the attributions (B, ...).
        signed: the largest values come first; otherwise those of the largest size.
        seed: of the random orders.
        shares: :math:`Q`, of the positions, ascending.
        orders: random ones to compare with.

    Cost: ``len(shares) * (1 + orders)`` forward passes per example.

    Paper: W. Samek et al., IEEE TNNLS 28(11), 2017, arXiv:1509.06321.
    """
    values = formed(values, p.point)
    groups = places(p.point, as_they_say(values, p.point))
    marked = totals(values if signed else abs(values), groups)
    generators = [draws(seed, stream=3, number=r) for r in range(orders)]
    random = [_fall(p, _elsewhere(marked, groups.grids, g), groups, g, shares) for g in generators]
    return Contrast(_fall(p, marked, groups, draws(seed, stream=4), shares), torch.stack(random))


def _elsewhere(values: Tensor, grids: Sequence[tuple[int, ...]], generator: torch.Generator) -> Tensor:
    """The same numbers (B, positions) at other positions, moved alike for all examples."""
    pieces = zip(values.split([math.prod(grid) for grid in grids], 1), grids, strict=True)
    return torch.cat([moved(piece.unflatten(1, grid), 1, generator).flatten(1) for piece, grid in pieces], 1)


def _fall(p: Problem, values: Tensor, groups: Places, generator: torch.Generator, shares: Sequence[float]) -> Tensor:
    """(B,) mean fall of the score when the positions of the largest values (B, positions) are removed first."""
    edges = torch.tensor([max(1, round(share * groups.count)) for share in shares], device=values.device)
    # Step 0 is removed first, the last one never.
    step = torch.bucketize(ranks(values, generator), edges, right=True)
    steps = Places(p.point, groups.spread(step.T), [(len(shares) + 1,)])
    present = torch.arange(len(shares) + 1) > torch.arange(len(shares))[:, None]
    scores = Game(p, steps).values(lambda ks: present[ks], len(shares), "removing what is marked")
    return (p.scores - scores).mean(0)
