"""Gradients at many points per example, summed as they come, so that memory does not grow with their number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors, align


def integrate(p: Problem, nodes: Tensor, weights: Tensor, what: str = "integrating gradients") -> list[Tensors]:
    r"""Weighted sums of gradients along the straight line from the baseline to the point.

    .. math:: S_l = \sum_k w_{lk} \, \nabla f(x' + \alpha_k (x - x'))

    Args:
        p: the problem, with point x and baseline x'.
        nodes: the positions :math:`\alpha` (K,).
        weights: (L, K); every gradient is computed once and serves all L sums.
        what: shown beside the progress bar.

    Returns:
        L sums, each (B, ...), in at least float32.
    """
    start, delta = p.base, p.point - p.base

    def points(es: slice, ks: slice) -> Tensors:
        alphas = nodes[ks].to(p.point.device)
        return start[es].map(lambda b, d: b + align(alphas, d[None]) * d, delta[es])

    sums = [p.point.double_for_sums().map(torch.zeros_like) for _ in weights]
    for part in p.sweep(points, len(nodes), gradients=True, what=what):
        assert part.gradients is not None
        slopes = part.gradients.double_for_sums()
        for total, w in zip(sums, weights[:, part.ks], strict=True):
            for t, g in zip(total, slopes, strict=True):
                t[part.examples] += torch.tensordot(w.to(g), g, 1)
    return sums


@dataclass
class Moments:
    """Running mean and spread over draws, merged chunk by chunk without loss of digits (Chan, Golub, LeVeque 1983).

    >>> m = Moments.of(Tensors([torch.tensor([[1.0], [3.0]])]))
    >>> m = m.merge(Moments.of(Tensors([torch.tensor([[5.0], [7.0]])])))
    >>> m.mean.parts[0].item(), m.variance().parts[0].item()
    (4.0, 5.0)
    """

    count: int
    mean: Tensors
    spread: Tensors  # sum of squared deviations

    @staticmethod
    def of(draws: Tensors) -> Moments:
        """Of draws (K, ...)."""
        draws = draws.double_for_sums()
        mean = draws.map(lambda t: t.mean(0))
        return Moments(len(draws.parts[0]), mean, draws.map(lambda t, m: ((t - m) ** 2).sum(0), mean))

    def merge(self, other: Moments) -> Moments:
        n = self.count + other.count
        delta = other.mean - self.mean
        spread = self.spread + other.spread + delta * delta * (self.count * other.count / n)
        return Moments(n, self.mean + delta * (other.count / n), spread)

    def variance(self) -> Tensors:
        """Of the draws, the mean squared deviation (divided by their number)."""
        return self.spread / self.count

    def standard_error(self) -> Tensors:
        """Of the mean, from the unbiased variance."""
        return (self.spread / (self.count * max(1, self.count - 1))).map(torch.sqrt)


def add(pieces: dict[int, Moments], first: int, found: Moments) -> None:
    """Merge further draws of the part of the examples that begins with ``first``."""
    pieces[first] = pieces[first].merge(found) if first in pieces else found


def join(pieces: dict[int, Moments]) -> Moments:
    """Moments of parts of the examples, keyed by their first, side by side."""
    order = [pieces[start] for start in sorted(pieces)]
    return Moments(order[0].count, Tensors.cat([m.mean for m in order]), Tensors.cat([m.spread for m in order]))
