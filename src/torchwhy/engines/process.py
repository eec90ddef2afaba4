"""Shapley values from pairs of coalitions by a Gaussian process, and what that leaves over by sampling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from torchwhy.engines.noise import draws
from torchwhy.engines.surrogate import MOST_FEATURES, POOLED, STREAM, Estimate, Pairs, regression

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

MOST_CENTERS = 1536  # of a process, whose cost grows with their cube
ENOUGH_CENTERS = 1024  # of one that few functions span
MOST_TRIED = 384  # pairs on which its parameters are chosen
ENOUGH_TRIED, LEAST_TRIED = 256, 128  # where directions are known, and a fourth of all between these
MOST_NODES = 48
AT_ONCE = 256  # pairs whose covariances with others are made at a time
NOISE = 1 / 300  # of their amplitude
WAVES = 512  # directions of a kernel
ALONE = 0.3  # of the variance of the slopes goes to single features


def solve(pairs: Pairs, odd: Tensor, change: Tensor, slopes: Tensor | None = None) -> Estimate:
    """Shapley values by a Gaussian process through the pairs, and what it leaves over by sampling.

    Args:
        pairs: some pairs.
        odd: u (n, B).
        change: ``v(N) - v(0)`` (B,).
        slopes: derivatives of the score by each feature at some coalitions (K, M, B), which say what directions matter
            to it; they know nothing of the pairs.

    Every pair is judged by the process through all others, so that the estimate is unbiased and its standard error
    takes in how badly the process predicts, and how far the process follows that pair.
    """
    values, errors = [], []
    for phi, y in judged(pairs, odd, change, slopes):
        values.append(phi)
        errors.append(pairs.standard_error(y))
    return Estimate(torch.stack(values, 1), torch.stack(errors, 1), pairs.freedom)


def judged(pairs: Pairs, odd: Tensor, change: Tensor, slopes: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """For each example the values (M,) of `solve`, and what the chance of every pair has added to them (n, M)."""
    contributions = pairs.contributions()
    weights = (contributions**2).sum(1)
    additive = regression(pairs, odd, change) if len(pairs) >= pairs.rows.shape[1] + POOLED else None
    for b, (u, d) in enumerate(zip(odd.T, change, strict=True)):
        spread = None if slopes is None else _spread(slopes[:, :, b])
        with _one_thread():
            phi, rest, y = _process(pairs, u, d, contributions, spread)
        if additive is not None and weights @ additive[1][:, b] ** 2 <= weights @ rest**2:
            # Nothing but the additive part is to be seen: the regression is then exact, or as good as it gets.
            phi, rest = additive[0][:, b], additive[1][:, b]
            y = additive[2] * rest[:, None]
        else:
            phi = phi + rest @ contributions
        yield phi + (d - phi.sum()) / len(phi), y


@contextmanager
def _one_thread() -> Iterator[None]:
    """Much algebra of small matrices: more threads gain little, and cost a hundredfold on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _libraries() -> ThreadpoolController:
    """Those of linear algebra that are loaded, SciPy's among them."""
    import scipy.linalg  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _process(
    pairs: Pairs, u: Tensor, change: Tensor, contributions: Tensor, spread: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapley values (M,) of a process through u, and what is left over at each pair (n,).

    Last, by how much the process through all others misses each pair, times what a unit of it adds to the estimate
    (n, M).
    """
    n, m = pairs.rows.shape
    order = torch.randperm(n, generator=draws(0, STREAM + 1))
    every = pairs.signs
    importance = torch.linalg.lstsq(every, u[:, None], driver="gelsd").solution[:, 0].abs()
    scale = importance.mean()
    if scale == 0:
        return torch.zeros_like(importance), u, contributions * u[:, None]
    # In coarse steps, so that roundings of the score do not change the process.
    importance = 2 ** ((4 * (importance / scale + 0.05).log2()).round() / 4)

    def with_whole(part: Tensor) -> tuple[Tensor, Tensor]:
        """The signs and values of some pairs, and of the whole, which is known."""
        return torch.cat([every[part], every.new_ones(1, m)]), torch.cat([u[part], change[None] / 2])

    few = order[: MOST_TRIED if spread is None else min(ENOUGH_TRIED, max(LEAST_TRIED, n // 4))]
    weights = (contributions[few] ** 2).sum(1)
    # Rates of their own for all features would fit fewer pairs than that whatever these are.
    rates = [importance**power for power in ((0, 1) if n >= m + POOLED else (0,))]
    kernel = _chosen(*with_whole(few), weights, rates, spread) if m <= MOST_FEATURES else Kernel()
    center = torch.zeros(n, dtype=torch.bool)
    center[order[: kernel.centers]] = True
    x, y = with_whole(center)
    root = _root(kernel.among(x), kernel.noise)
    alpha, out, variance = _missed(root, y)
    # The mean over the pairs of the processes that judge them is the process through these values.
    y = torch.cat([y[:-1] - out[:-1] / n, y[-1:]])
    whitened = root @ y
    mean = root.T @ whitened
    # What a unit more at a pair adds: by what it leaves over, and at a center by what all others then leave over.
    left = pairs.left[:, None]
    adds = torch.where(center[:, None], left + (1 - left) / n, 1) * contributions
    found, behind = kernel.between(every[~center], x, torch.stack([alpha, mean], 1), adds[~center])
    missed, settled = u.clone(), u.clone()
    missed[center] = out[:-1]
    settled[center] -= y[:-1] - kernel.noise * mean[:-1]
    missed[~center] -= found[:, 0]
    settled[~center] -= found[:, 1]
    solved = root @ kernel.solved(x)
    pull = root.T @ solved
    behind[:-1] -= (adds[center] - pull[:-1] / n) * variance[:-1, None]
    adds[center] = (pull - root.T @ (root @ behind))[:-1]
    # A pair stands for itself, which is known, and for those of its size that were not drawn.
    rest = pairs.left * missed + (1 - pairs.left) * settled
    return solved.T @ whitened, rest, (adds - adds.mean(1, keepdim=True)) * missed[:, None]


class Part(ABC):
    """Functions of signs (n, M), as a covariance of their values at any two."""

    @abstractmethod
    def mapped(self, x: Tensor) -> Tensor:
        """What it takes of x, (n, D)."""

    def joined(self, here: Tensor, there: Tensor) -> Tensor:
        """The covariances (n, k) of two that are mapped."""
        return here @ there.T

    def times(self, here: Tensor, there: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """``K v`` and ``K^T w`` for the covariances K, which need not be made."""
        return here @ (there.T @ v), there @ (here.T @ w)

    @abstractmethod
    def solved(self, x: Tensor) -> Tensor:
        """The Shapley values (n, M) of the covariance with each x."""

    def smooth(self, x: Tensor) -> Tensor:
        """The covariances (n, n), or what they come close to where that is sooner known."""
        here = self.mapped(x)
        return self.joined(here, here)


class Additive(Part):
    """Sums of single features."""

    def mapped(self, x: Tensor) -> Tensor:
        return x / sqrt(x.shape[1])

    def solved(self, x: Tensor) -> Tensor:
        return 2 * x / x.shape[1]


@dataclass(frozen=True)
class Product(Part):
    """Interactions of all orders: the odd part of a product in which signs that differ cost their rate (M,)."""

    rates: Tensor

    def mapped(self, x: Tensor) -> Tensor:
        return x * (self.rates / 2).sqrt()

    def joined(self, here: Tensor, there: Tensor) -> Tensor:
        total = self.rates.sum()
        odd = (here @ there.T).sinh_()  # in place, since it is large
        odd *= 2 * torch.exp(-total / 2) / (1 - torch.exp(-total))
        return odd

    def times(self, here: Tensor, there: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        covariances = self.joined(here, there)
        return covariances @ v, covariances.T @ w

    def solved(self, x: Tensor) -> Tensor:
        r"""Those of a product are integrals.

        .. math:: \int_0^1 \prod_{j \ne i} (q k_j(1) + (1 - q) k_j(-1))\,dq\,(k_i(1) - k_i(-1))
        """
        nodes, weights = _quadrature(min(x.shape[1] // 2 + 1, MOST_NODES))
        q, apart = (nodes[:, None] + 1) / 2, torch.exp(-self.rates)
        # A factor (Q, M) has two values only, so that the logarithm of a product is a sum of signs.
        same, other = q + (1 - q) * apart, q * apart + 1 - q
        middle, away = (same * other).log().sum(1) / 2, (same / other).log() / 2
        found = torch.zeros_like(x)
        for side in (1, -1):
            signs = side * x
            product = (signs @ away.T + middle).exp() * (weights / 2)
            found += side * torch.where(signs > 0, product @ (1 / same), -product @ (1 / other))
        return found * (1 - apart) / (1 - torch.exp(-self.rates.sum()))


@dataclass(frozen=True)
class Waves(Part):
    """Sines of sums of random angles whose covariance is that of a spread (R, M), the sum of squares of its rows.

    They are functions of directions that need not be single features.
    """

    spread: Tensor

    @cached_property
    def angles(self) -> Tensor:
        """(D, M)."""
        return _normal(len(self.spread)) @ self.spread

    def mapped(self, x: Tensor) -> Tensor:
        sines = (x @ self.angles.T).sin_()
        sines /= sqrt(WAVES)  # in place, since there are many
        return sines

    def solved(self, x: Tensor) -> Tensor:
        r"""Those of a sine are integrals, of which those of a feature lack one factor.

        .. math:: 2 \sin\theta_i \int_0^1 \Re \prod_{j \ne i} (\cos\theta_j + \mathrm{i}\,t \sin\theta_j)\,dt
        """
        count = min(x.shape[1] // 4 + 1, MOST_NODES // 2)  # on either side of 0
        nodes, weights = (part[count:] for part in _quadrature(2 * count))
        cosine, sine, found = self.angles.cos(), self.angles.sin(), torch.zeros_like(self.angles)
        whole = torch.ones(len(sine), count, dtype=torch.complex128)
        for c, s in zip(cosine.T[:, :, None], sine.T[:, :, None], strict=True):
            whole *= torch.complex(c.expand_as(whole), s * nodes)
        for w, t, of in zip(weights, nodes, whole.T[:, :, None], strict=True):
            # The real part of the whole without one factor.
            found += w * (of.real * cosine + t * of.imag * sine) / (cosine**2 + (t * sine) ** 2)
        return self.mapped(x) @ (found * sine) * (2 / sqrt(WAVES))

    def smooth(self, x: Tensor) -> Tensor:
        """Those of sines without number."""
        along = x @ self.spread.T
        cross, size = along @ along.T, (along**2).sum(1) / 2
        most = size[:, None] + size
        return ((cross - most).exp_() - (-cross - most).exp_()) / 2


@dataclass(frozen=True)
class Kernel:
    """Additive functions of signs, and interactions of some amplitudes."""

    terms: tuple[tuple[float, Part], ...] = ()

    @property
    def noise(self) -> float:
        """The variance beyond the covariances, such as what so many sines leave out of a smooth function."""
        return 1e-6 + NOISE * sum(amplitude for amplitude, part in self.terms if isinstance(part, Waves))

    @property
    def centers(self) -> int:
        """The most of a process."""
        return ENOUGH_CENTERS if any(isinstance(part, Waves) for _, part in self.terms) else MOST_CENTERS

    @property
    def parts(self) -> tuple[tuple[float, Part], ...]:
        """With their amplitudes."""
        return (1.0, Additive()), *self.terms

    def among(self, x: Tensor) -> Tensor:
        """The covariances (n, n) of the values at x, of which only the lower triangle is to be read."""
        found = x.new_zeros(len(x), len(x))
        for amplitude, part in self.parts:
            here = part.mapped(x)
            for start in range(0, len(x), AT_ONCE):
                stop = start + AT_ONCE
                found[start:stop, :stop].add_(part.joined(here[start:stop], here[:stop]), alpha=amplitude)
        return found

    def between(self, a: Tensor, b: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """``K v`` and ``K^T w`` for the covariances K of the values at a and b."""
        forward, back = v.new_zeros(len(a), v.shape[1]), w.new_zeros(len(b), w.shape[1])
        for amplitude, part in self.parts:
            there = part.mapped(b)
            for start in range(0, len(a), AT_ONCE):
                rows = slice(start, start + AT_ONCE)
                more, behind = part.times(part.mapped(a[rows]), there, v, w[rows])
                forward[rows].add_(more, alpha=amplitude)
                back.add_(behind, alpha=amplitude)
        return forward, back

    def solved(self, x: Tensor) -> Tensor:
        """The Shapley values (n, M) of the covariance with each x."""
        found = torch.zeros_like(x)
        for amplitude, part in self.parts:
            found.add_(part.solved(x), alpha=amplitude)
        return found


def _spread(slopes: Tensor) -> Tensor | None:
    """The spread (R, M) of the slopes (K, M), or None where these are all the same.

    As much again goes the way of the mean slope, and a part of it to each feature on its own.
    """
    mean = slopes.mean(0)
    away = (slopes - mean) / (len(slopes) - 1) ** 0.5
    total = (away**2).sum()
    if total <= 1e-12 * (mean**2).sum():
        return None
    mean = mean * (total**0.5 / torch.linalg.vector_norm(mean).clamp_min(1e-300))
    alone = torch.diag((ALONE * (away**2).sum(0)).sqrt())
    found: Tensor = torch.cat([away, mean[None], alone]) / ((2 + ALONE) * total) ** 0.5
    return found


@lru_cache(1)
def _normal(count: int) -> Tensor:
    """Normal random numbers (D, count), evenly spread; all examples have the same."""
    engine = torch.quasirandom.SobolEngine(count, scramble=True, seed=0)
    found: Tensor = torch.special.ndtri(engine.draw(WAVES, dtype=torch.float64).clamp(1e-9, 1 - 1e-9))
    return found


@lru_cache(2)
def _quadrature(count: int) -> tuple[Tensor, Tensor]:
    """The nodes and weights of Gauss and Legendre from -1 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def _chosen(x: Tensor, y: Tensor, weights: Tensor, rates: list[Tensor], spread: Tensor | None) -> Kernel:
    """The kernel of the process through all others that misses each pair by the least."""
    additive = Additive().smooth(x)
    known: dict[int, Tensor] = {}  # covariances, since few terms make many kernels

    def tried(kernels: list[Kernel]) -> tuple[float, Kernel]:
        missed = []
        for kernel in kernels:
            covariances = additive.clone()
            for amplitude, part in kernel.terms:
                if id(part) not in known:
                    known[id(part)] = part.smooth(x)
                covariances.add_(known[id(part)], alpha=amplitude)
            missed.append(float((weights * _missed(_root(covariances, kernel.noise), y)[1][:-1] ** 2).sum()))
            if spread is None:
                known.clear()  # no two share any
        best = min(range(len(kernels)), key=missed.__getitem__)
        return missed[best], kernels[best]

    totals = (1, 3, 10, 30) if spread is None else (3, 10)
    products = [Product(r * (total / r.sum())) for r in (rates if spread is None else rates[-1:]) for total in totals]
    found = tried([Kernel(((0.3, product),)) for product in products])
    if spread is not None:
        waves = [Waves(spread * scale) for scale in (0.5, 1, 1.8)]
        both = [Kernel(((small, products[-1]), (0.03, wave))) for wave in waves for small in (0.003, 0.03)]
        found = min(found, tried(both), key=lambda f: f[0])
    *others, (amplitude, last) = found[1].terms
    louder = tried([Kernel((*others, (amplitude * factor, last))) for factor in (0.1, 10)])
    return min(found, louder, key=lambda f: f[0])[1]


def _root(covariances: Tensor, noise: float) -> Tensor:
    """R, lower triangular, with R' R the inverse of the covariances, which are used up."""
    from scipy.linalg import lapack  # three times as fast as torch on one core

    covariances.diagonal().add_(noise)
    factor, failed = lapack.dpotrf(covariances.numpy().T, lower=0, clean=1, overwrite_a=1)
    assert not failed, "the kernel has no negative eigenvalue"
    return torch.from_numpy(lapack.dtrtri(factor, lower=0, overwrite_c=1)[0]).T


def _missed(root: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of the centers, by how much a process through all others misses each, and its variance there."""
    alpha = root.T @ (root @ y)
    variance = torch.linalg.vector_norm(root, dim=0) ** -2
    return alpha, alpha * variance, variance
