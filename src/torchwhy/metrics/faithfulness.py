"""Does the score depend on what the explanation marks? Remove it and see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.noise import draws

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # of the positions, removed one after the other
RANDOM_ORDERS = 10


@dataclass(frozen=True)
class Deletion:
    """What removing the marked positions does, beside what removing random ones does.

    Attributes:
        fall: (B,) mean fall of the score over the removed shares, marked positions first.
        random: (R, B) the same for R random orders, which all examples share.
    """

    fall: Tensor
    random: Tensor

    @property
    def z(self) -> Tensor:
        """(B,) by how many standard deviations of a random order the marked one hurts more."""
        count = len(self.random)
        spread = self.random.std(0) * (1 + 1 / count) ** 0.5
        distance = self.fall - self.random.mean(0)
        # Without spread every order does the same, and ours is no better than random unless it differs.
        tiny = torch.finfo(spread.dtype).eps * self.random.abs().amax(0)
        return torch.where(spread > tiny, distance / spread.clamp_min(torch.finfo(spread.dtype).tiny), distance.sign() * 0)


def deletion(p: Problem, values: Tensors, *, signed: bool, seed: int = 0) -> Deletion:
    r"""Remove the positions with the largest values first, and random ones for comparison.

    .. math:: \bar{d} = \frac{1}{|Q|} \sum_{q \in Q} f(x) - f(x_{\setminus \text{top } q})

    A position of a map (B, C, H, W) is all its channels, and elsewhere it is one element; what is removed gets the baseline.

    Args:
        p: the problem that was explained.
        values: the attributions (B, ...).
        signed: the largest values come first; otherwise those of the largest size.
        seed: of the random orders.

    Cost: 5 (1 + 10) forward passes per example. Paper: W. Samek et al., IEEE TNNLS 28(11), 2017, arXiv:1509.06321.
    """
    ranked = _positions(values if signed else abs(values))
    marked = _fall(p, ranked.flat())
    count = ranked.flat().shape[1]
    random = [
        _fall(p, torch.rand(1, count, generator=draws(seed, stream=3, number=r)).to(marked).expand(p.size, -1))
        for r in range(RANDOM_ORDERS)
    ]
    return Deletion(marked, torch.stack(random))


def _positions(values: Tensors) -> Tensors:
    """One number per position, with a dimension of size 1 for the channels of a map."""
    return values.map(lambda t: t.sum(1, keepdim=True) if t.ndim == 4 else t)


def _fall(p: Problem, order: Tensor) -> Tensor:
    """(B,) mean fall of the score when the positions of the largest numbers are removed first; order (B, positions)."""
    count = order.shape[1]
    rank = order.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    edges = torch.tensor([max(1, round(share * count)) for share in SHARES], device=order.device)
    step = torch.bucketize(rank, edges, right=True)  # 0 is removed first, len(SHARES) is never removed
    like = p.point.map(lambda t: t[:, :1] if t.ndim == 4 else t)
    # One group per step, named even where it is empty: small inputs have fewer positions than shares.
    groups = Groups(p.point, like.unflatten(step).parts)
    present = torch.ones(len(SHARES), groups.count, dtype=torch.bool)
    for row, absent in enumerate(present):
        absent[groups.numbers <= row] = False
    scores = Game(p, groups).values(lambda ks: present[ks], len(SHARES), "removing what is marked")
    return (p.scores - scores).mean(0)
