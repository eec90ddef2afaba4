"""Are differences over the same examples more than chance? Bootstrap intervals that hold together, and Holm's order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.engines.noise import draws

LEVEL = 0.05  # how often a family of statements may hold a false one
DRAWS = 10_000
ROUNDING = 1e-5  # of the largest value: differences below are none
CHUNK = 2**24  # numbers held at a time
STREAM = 90  # of random numbers, with the next one


@dataclass(frozen=True, eq=False)
class Differences:
    """Means of P paired differences over N examples, and what chance does to all of them together.

    Attributes:
        mean: (P,).
        error: (P,) standard errors.
        chance: (R, P) the statistics t of resampled examples, around their own mean.
    """

    mean: Tensor
    error: Tensor
    chance: Tensor

    @property
    def t(self) -> Tensor:
        """(P,) means in standard errors."""
        return _ratio(self.mean, self.error)

    def reach(self, level: float = LEVEL) -> Tensor:
        r"""(P,) half widths of intervals that hold all means together with probability 1 - level.

        .. math:: q\,s_p, \qquad q = \text{quantile}_{1 - \alpha} \max_p |t_p^*|

        Where hardly any examples differ, so that resamples often hold none of these, nothing can be said: the interval
        is infinite, and that of the others is none the wider.
        """
        sizes = self.chance.abs()
        lost = sizes.isinf()
        alone = lost & ~lost[:, self.error > 0].all(1, keepdim=True)  # not as where one example is drawn N times
        known = alone.double().mean(0) <= level / sizes.shape[1]
        if not known.any():
            return torch.where(self.error > 0, torch.inf, 0.0).to(self.error)
        q = torch.quantile(sizes[:, known].amax(1), 1 - level, interpolation="higher")
        return torch.where(known, q * self.error, torch.inf)

    def p_above(self) -> Tensor:
        """(P,) one-sided p-values, each by itself: how often chance alone would give as high a mean."""
        return (1 + (self.chance >= self.t).sum(0)).double() / (1 + len(self.chance))


def bootstrap(differences: Tensor, seed: int = 0, count: int = DRAWS) -> Differences:
    r"""The bootstrap-t of means: examples are drawn with replacement, the same for all P columns.

    .. math:: t^*_p = (\bar d^*_p - \bar d_p) / s^*_p

    with the standard error :math:`s^*_p` of each resample, so that few or skewed examples widen the intervals.

    Args:
        differences: (N, P), finite, of at least two examples.
        seed: of the draws.
        count: resamples R.

    Paper: P. Hall, "Theoretical Comparison of Bootstrap Confidence Intervals", Annals of Statistics 16(3), 1988; of
    all columns together: P. H. Westfall, S. S. Young, "Resampling-Based Multiple Testing", 1993.
    """
    d = differences.double()
    n = len(d)
    if n < 2:
        raise TorchwhyError(f"differences are compared over two examples or more, not {n}")
    mean, error = d.mean(0), _error((d**2).mean(0), d.mean(0), n)
    generator = draws(seed, stream=STREAM)
    chance = []
    rows = max(1, CHUNK // max(n, d.shape[1]))
    for start in range(0, count, rows):
        drawn = torch.randint(n, (min(rows, count - start), n), generator=generator)
        weights = torch.zeros(drawn.shape, dtype=d.dtype).scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=d.dtype))
        weights = (weights / n).to(d.device)
        means = weights @ d
        chance.append(_ratio(means - mean, _error(weights @ d**2, means, n)))
    return Differences(mean, error, torch.cat(chance))


def _error(squares: Tensor, means: Tensor, n: int) -> Tensor:
    """The standard error of a mean of n, from the mean square and the mean; what is rounding is 0."""
    variance = squares - means**2
    variance = torch.where(variance > 1e-12 * squares, variance, 0)
    return (variance / (n - 1)).sqrt()


def _ratio(distance: Tensor, error: Tensor) -> Tensor:
    """In standard errors; without any, 0 for no distance and else infinitely many."""
    rounding = 1e-12 * distance.abs().amax(0)
    certain = torch.where(distance.abs() > rounding, distance.sign() * torch.inf, 0)
    return torch.where(error > 0, distance / error.clamp_min(torch.finfo(error.dtype).tiny), certain)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which of C columns are better than which, where no statement of all is false with probability 1 - level.

    Attributes:
        difference: (C, C) mean of the row's column above that of the column's.
        low: (C, C) where it may be at least, jointly.
        error: (C, C) its standard error.
    """

    difference: Tensor
    low: Tensor
    error: Tensor

    @property
    def better(self) -> Tensor:
        """(C, C) the row is above the column by more than chance."""
        return self.low > 0

    def ties(self, a: int, b: int) -> bool:
        """Neither is better."""
        return not (self.better[a, b] or self.better[b, a])


def all_pairs(values: Tensor, seed: int = 0, level: float = LEVEL) -> Pairs:
    """Compare every two columns of (N, C) over the same examples.

    >>> a = torch.arange(8.0)
    >>> found = all_pairs(torch.stack([a, a + 0.1 * torch.cos(5 * a), a + 8 + 0.1 * torch.sin(a)], 1))
    >>> found.better[2].tolist(), found.ties(0, 1)
    ([True, True, False], True)
    """
    count = values.shape[1]
    table = torch.zeros(3, count, count, dtype=torch.float64)
    pairs = list(combinations(range(count), 2))
    if not pairs:
        return Pairs(*table)
    a, b = torch.tensor(pairs).T
    differences = values[:, a].double() - values[:, b].double()
    found = bootstrap(torch.where(differences.abs() > ROUNDING * values.abs().amax(), differences, 0), seed)
    reach = found.reach(level)
    table[:, a, b] = torch.stack([found.mean, found.mean - reach, found.error])
    table[:, b, a] = torch.stack([-found.mean, -found.mean - reach, found.error])
    return Pairs(*table)


def holm(p: Tensor) -> Tensor:
    """P-values of a family, adjusted so that one false statement among all of them is as rare as its level says.

    Paper: S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian J. of Statistics 6(2), 1979.

    >>> holm(torch.tensor([0.04, 0.01, 0.03]))
    tensor([0.0600, 0.0300, 0.0600])
    """
    order = p.argsort(stable=True)
    steps = p[order] * torch.arange(len(p), 0, -1, device=p.device)
    adjusted = torch.empty_like(p)
    adjusted[order] = steps.cummax(0).values.clamp_max(1) if len(p) else steps
    return adjusted


def cheapest_within_error(values: Tensor, costs: list[float]) -> int:
    """The cheapest column of (N, C) whose mean is within one standard error of the highest.

    The error is that of the difference over the same examples. Of equal costs, the higher mean is taken.

    Paper: L. Breiman, J. Friedman, R. Olshen, C. Stone, "Classification and Regression Trees", 1984, section 3.4.3.
    """
    means = values.double().mean(0)
    best = int(means.argmax())
    behind = values[:, [best]].double() - values.double()
    error = _error((behind**2).mean(0), behind.mean(0), len(values)) if len(values) > 1 else torch.zeros_like(means)
    near = [c for c in range(len(costs)) if c == best or behind.mean(0)[c] <= error[c]]
    return min(near, key=lambda c: (costs[c], -float(means[c]), c))


def front(points: Tensor) -> list[int]:
    """The rows of (C, K) that no other row is better than in something and worse than in nothing; higher is better.

    >>> front(torch.tensor([[1.0, 5.0], [2.0, 4.0], [1.5, 4.0], [0.5, 5.0]]))
    [0, 1]
    """
    kept = []
    for i, row in enumerate(points):
        others = torch.cat([points[:i], points[i + 1 :]])
        if not ((others >= row).all(1) & (others > row).any(1)).any():
            kept.append(i)
    return kept
