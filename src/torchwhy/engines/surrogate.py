r"""Shapley values from some of the coalitions, by fitting what is easy to solve and sampling what is left over.

A pair is a coalition and its complement. A Shapley value is a linear function of the odd part of the game,
:math:`u(T) = (v(T) - v(\bar T)) / 2`, over pairs:

.. math:: \phi_i = \sum_h f_h \,\mathbb{E}_{|T| = h}\left[2 u(T) \left(\frac{[i \in T]}{h} - \frac{[i \notin T]}{M - h}
    \right)\right], \qquad h = 1, \dots, \lfloor M/2 \rfloor

plus ``(v(N) - v(0)) / M``, where :math:`f_h` is 1, or 1/2 where a pair is two halves. For any function g whose Shapley
values are known, ``phi(g)`` plus the sampled ``phi(v - g)`` is an unbiased estimate, and the better g fits the smaller
is its error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from torchwhy.engines.noise import draws
from torchwhy.engines.spread import error_of_sum

STREAM = 30  # of the random pairs
POOLED = 8  # sizes with fewer pairs share an estimate of the variance
MOST_FEATURES = 1024  # beyond which interactions are left to sampling


@dataclass
class Pairs:
    """Pairs of complementary coalitions, drawn without replacement, a planned number of each size.

    Attributes:
        rows: (n, M) the smaller coalition of each pair, sorted by size.
        size: (n,) its size h.
        share: (n,) how many pairs of that size there are in this sample, or should be on average.
        left: (n,) the share of all pairs of that size that were not drawn.
        turn: (n,) the order in which a growing budget would take them.
    """

    rows: Tensor
    size: Tensor
    share: Tensor
    left: Tensor
    turn: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def signs(self) -> Tensor:
        """(n, M) 1 where a feature is in the smaller coalition, else -1."""
        return self.rows.double() * 2 - 1

    @property
    def half(self) -> Tensor:
        """(n,) 1/2 where a pair is two halves, else 1."""
        return torch.where(2 * self.size == self.rows.shape[1], 0.5, 1.0).double()

    @property
    def order(self) -> Tensor:
        """(n,) the pairs in the order of their turn."""
        return self.turn.argsort(stable=True)

    def first(self, count: int) -> tuple[Tensor, Pairs]:
        """Which of them a budget of ``count`` pairs would have taken, and these as a sample of their own."""
        if count == len(self):
            return torch.arange(count), self
        kept = self.order[:count].sort().values
        return kept, _weighed(self.rows[kept], self.size[kept], self.turn[kept])

    @property
    def both(self) -> Tensor:
        """(2n, M) the smaller coalitions, then the larger ones."""
        return torch.cat([self.rows, ~self.rows])

    def contributions(self) -> Tensor:
        """(n, M) what a unit of ``u`` adds to the estimate of each Shapley value; each row sums to 0."""
        h, m = self.size, self.rows.shape[1]
        inside, outside = 2 * self.half / (self.share * h), 2 * self.half / (self.share * (m - h))
        return torch.where(self.rows, inside[:, None], -outside[:, None])

    def variance(self, y: Tensor) -> Tensor:
        """The variance of ``y.sum(0)`` for y (n, M), from its spread among pairs of like size."""
        total = torch.zeros_like(y[0])
        for part in self._groups():
            k = part.stop - part.start
            if k > 1:
                away = y[part] - y[part].mean(0)
                total += k / (k - 1) * (self.left[part, None] * away**2).sum(0)
        return total

    def standard_error(self, y: Tensor) -> Tensor:
        """The standard error (M,) of ``y.sum(0)``, for y (n, M) what every pair adds to each Shapley value.

        A feature that is in few pairs, or in few of those that make up the spread, has a small spread by luck, but
        errors of the usual size. Where few pairs are most of the spread it has fewer degrees of freedom than `freedom`,
        for which the standard error is widened.
        """
        live = self.left > 0
        squares = (self.left * (y**2).sum(1))[live]
        return error_of_sum(self.variance(y), live.double() @ self.rows.double(), squares, self.freedom)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variance."""
        groups = [part for part in self._groups() if self.left[part].max() > 0]
        count: int = sum(part.stop - part.start - 1 for part in groups)
        return max(1, count)

    def _groups(self) -> list[slice]:
        """Pairs of one size, or of neighbouring sizes where there are few."""
        edges = [0]
        ends = ((self.size[1:] != self.size[:-1]).nonzero().flatten() + 1).tolist()
        for end in ends:
            if end - edges[-1] >= POOLED:
                edges.append(end)
        if len(edges) > 1 and len(self) - edges[-1] < POOLED:
            edges.pop()
        return [slice(a, b) for a, b in zip(edges, [*edges[1:], len(self)], strict=True)]


def draw_pairs(m: int, count: int, seed: int) -> Pairs:
    r"""Draw ``count`` pairs of M features.

    A size gets a share in proportion to :math:`1 / \sqrt{h (M - h)}`, which is best where the rest of a fit is as large
    at every size, but never more pairs than it has.

    >>> pairs = draw_pairs(5, 9, seed=0)
    >>> pairs.size.long().tolist()  # all 5 of size 1, and 4 of the 10 of size 2
    [1, 1, 1, 1, 1, 2, 2, 2, 2]
    >>> pairs.left[[0, 8]].tolist()
    [0.0, 0.6]
    """
    there, wanted = _sizes(m)
    share = _shares(count, there, wanted)
    generator = draws(seed, STREAM)
    full = share >= there
    if (share[~full] < 2).any():
        # Too few for two of every size: steps of one through the sizes, from a random start.
        start = float(torch.rand((), generator=generator, dtype=torch.float64))
        edges = np.floor(np.concatenate([[0], np.cumsum(np.where(full, 0, share))]) + start)
        taken = np.where(full, there, np.diff(edges)).astype(int)
    else:
        taken = np.floor(share).astype(int)
        rest = round(share.sum()) - taken.sum()
        taken[np.argsort(taken - share, kind="stable")[:rest]] += 1
        share = taken.astype(float)
    rows = [_subsets(m, h, k, generator) for h, k in enumerate(taken.tolist(), 1) if k]
    each = np.repeat(np.arange(len(taken)), taken)
    number = np.arange(len(each)) - np.repeat(np.cumsum(taken) - taken, taken)
    # A size takes a new pair whenever the budget has grown by so much; all have started somewhere within their step.
    begin = torch.rand(len(taken), generator=generator, dtype=torch.float64).numpy()
    turn = (number + begin[each]) / wanted[each]
    return _weighed(torch.cat(rows), torch.from_numpy(each + 1.0), torch.from_numpy(turn))


def _weighed(rows: Tensor, size: Tensor, turn: Tensor) -> Pairs:
    """Pairs, sorted by size, that are all there are of this sample."""
    there, wanted = _sizes(rows.shape[1])
    each = size.long().numpy() - 1
    taken = np.bincount(each, minlength=len(there))
    planned = _shares(len(rows), there, wanted)
    full = taken >= there
    few = (planned[planned < there] < 2).any()
    share = np.where(full | (planned >= there) | ~few, taken, planned)
    left = np.where(full, 0.0, 1 - taken / there)
    return Pairs(rows, size, torch.from_numpy(share[each]).double(), torch.from_numpy(left[each]), turn)


def _sizes(m: int) -> tuple[np.ndarray, np.ndarray]:
    """How many pairs there are of each size, and how much each is wanted, (H,) both."""
    h = np.arange(1, m // 2 + 1)
    half = np.where(2 * h == m, 0.5, 1.0)
    most = [min(math.comb(m, n), 1 << 62) for n in h.tolist()] if m <= MOST_FEATURES else [1 << 62] * len(h)
    return np.array(most, dtype=float) * half, half / np.sqrt(h * (m - h))


def _shares(count: int, there: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How many pairs of each size, not rounded, (H,)."""
    share, free = np.zeros(len(there)), np.ones(len(there), dtype=bool)
    while free.any():
        offer = (count - share[~free].sum()) * wanted / wanted[free].sum()
        full = free & (offer >= there)
        if not full.any():
            share[free] = offer[free]
            break
        share[full] = there[full]
        free &= ~full
    return share


def _subsets(m: int, h: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` different subsets of size h, of two complementary halves the one with feature 0, (count, M)."""
    halves = 2 * h == m
    if m <= 64 and math.comb(m, h) <= max(2000, 4 * count):
        every = list(combinations(range(1, m), h - 1)) if halves else list(combinations(range(m), h))
        chosen = [every[i] for i in torch.randperm(len(every), generator=generator)[:count].tolist()]
        index = torch.tensor([(0, *c) for c in chosen] if halves else chosen).view(count, h)
        return torch.zeros(count, m, dtype=torch.bool).scatter_(1, index, True)
    seen: dict[bytes, Tensor] = {}
    while len(seen) < count:
        order = torch.rand(count - len(seen), m, generator=generator).argsort(1)
        rows = torch.zeros(len(order), m, dtype=torch.bool).scatter_(1, order[:, :h], True)
        if halves:
            rows ^= ~rows[:, :1]
        for row in rows:
            seen.setdefault(row.numpy().tobytes(), row)
    return torch.stack(list(seen.values()))


@dataclass
class Estimate:
    """Values (M, B) with their standard errors (M, B) and the degrees of freedom of these."""

    values: Tensor
    standard_error: Tensor
    freedom: int


def solve_kernel(pairs: Pairs, odd: Tensor, change: Tensor) -> Estimate:
    r"""The additive game closest to the sampled one under the Shapley kernel: KernelSHAP.

    .. math:: \min_\phi \sum_T \frac{1}{h (M - h)\, n_h} \left(u(T) - \tfrac12 \sum_i \pm \phi_i\right)^2
        \quad \text{with} \quad \sum_i \phi_i = v(N) - v(0)

    Args:
        pairs: at least M of them that are independent.
        odd: u (n, B).
        change: ``v(N) - v(0)`` (B,).
    """
    values, rest, pull = regression(pairs, odd, change)
    error = torch.stack([pairs.standard_error(pull * r[:, None]) for r in rest.T], 1)
    return Estimate(values, error, max(1, pairs.freedom - len(values)))


def regression(pairs: Pairs, odd: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of `solve_kernel`: values (M, B), what each pair misses a fit without it by (n, B), and its pull (n, M)."""
    x = pairs.signs / 2
    h, m = pairs.size, x.shape[1]
    weighted = x * (pairs.half / (pairs.share * h * (m - h)))[:, None]
    inverse = torch.linalg.inv(weighted.T @ x)
    one = inverse.sum(1)
    free = inverse @ (weighted.T @ odd)
    values = free + one[:, None] * ((change - free.sum(0)) / one.sum())
    pull = weighted @ (inverse - torch.outer(one, one) / one.sum())
    rest = (odd - x @ values) / (1 - (pull * x).sum(1, keepdim=True)).clamp_min(1e-6)
    return values, rest, pull


def solve_banzhaf(rows: Tensor, odd: Tensor) -> Estimate:
    """The additive game closest to the sampled one, all coalitions alike: KernelBanzhaf.

    Args:
        rows: (n, M) one coalition of each pair, drawn uniformly with replacement, more than M.
        odd: u (n, B).
    """
    x = rows.double() - 0.5
    pull = x @ torch.linalg.inv(x.T @ x)
    values = pull.T @ odd
    rest = (odd - x @ values) / (1 - (pull * x).sum(1, keepdim=True)).clamp_min(1e-6)
    freedom = len(x) - x.shape[1]
    held = pull.new_full((x.shape[1],), freedom)
    error = [error_of_sum(p.sum(0), held, p.sum(1), freedom) for p in ((pull * r[:, None]) ** 2 for r in rest.T)]
    return Estimate(values, torch.stack(error, 1), freedom)


def shapley_from_all(scores: Tensor) -> Tensor:
    """Shapley values (M, B) from the scores of all rows (2**M, B), row ``n`` with feature i where bit i of n is set.

    >>> shapley_from_all(torch.tensor([[0.0], [0.0], [0.0], [6.0]]))  # both are needed
    tensor([[3.],
            [3.]], dtype=torch.float64)
    """
    m = len(scores).bit_length() - 1
    return _from_all(scores, torch.tensor([1 / (m * math.comb(m - 1, s)) for s in range(m)], dtype=torch.float64))


def banzhaf_from_all(scores: Tensor) -> Tensor:
    """Banzhaf values (M, B) from the scores of all rows, ordered as for `shapley_from_all`."""
    m = len(scores).bit_length() - 1
    return _from_all(scores, torch.full((m,), 0.5 ** (m - 1), dtype=torch.float64))


def _from_all(scores: Tensor, weights: Tensor) -> Tensor:
    """Sums of what a feature adds to a coalition of the others, weighed by its size: weights (M,)."""
    m, v = len(weights), scores.double()
    w = weights.to(v.device)[all_rows(m - 1).sum(1).to(v.device), None]
    out = []
    for i in range(m):
        sides = v.view(2 ** (m - 1 - i), 2, 2**i, -1)
        out.append((w * (sides[:, 1] - sides[:, 0]).flatten(0, 1)).sum(0))
    return torch.stack(out)


def all_rows(m: int, part: slice | None = None) -> Tensor:
    """All rows (2**M, M), or some of them, row ``n`` with feature i where bit i of n is set."""
    numbers = torch.arange(2**m) if part is None else torch.arange(part.start, part.stop)
    return (numbers[:, None] >> torch.arange(m)) & 1 == 1
