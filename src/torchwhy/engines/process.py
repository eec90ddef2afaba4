"""Shapley values from pairs of coalitions by a Gaussian process, and what that leaves over by sampling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
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
ENOUGH_TRIED = 256  # where directions are known
MOST_NODES = 48
AT_ONCE = 512  # pairs that are no centers, whose covariances are made at a time
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
        angles = None if slopes is None else _angles(slopes[:, :, b])
        with _one_thread():
            phi, rest, y = _process(pairs, u, d, contributions, angles)
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
    pairs: Pairs, u: Tensor, change: Tensor, contributions: Tensor, angles: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapley values (M,) of a process through u, and what is left over at each pair (n,).

    Last, by how much the process through all others misses each pair, times what a unit of it adds to the estimate
    (n, M).
    """
    n, m = pairs.rows.shape
    order = torch.randperm(n, generator=draws(0, STREAM + 1))
    every = pairs.signs
    weights = (contributions**2).sum(1)
    importance = torch.linalg.lstsq(every, u[:, None], driver="gelsd").solution[:, 0].abs()
    scale = importance.mean()
    if scale == 0:
        return torch.zeros_like(importance), u, contributions * u[:, None]
    # In coarse steps, so that roundings of the score do not change the process.
    importance = 2 ** ((4 * (importance / scale + 0.05).log2()).round() / 4)

    def with_whole(part: Tensor) -> tuple[Tensor, Tensor]:
        """The signs and values of some pairs, and of the whole, which is known."""
        return torch.cat([every[part], every.new_ones(1, m)]), torch.cat([u[part], change[None] / 2])

    few = order[: MOST_TRIED if angles is None else ENOUGH_TRIED]
    # Rates of their own for all features would fit fewer pairs than that whatever these are.
    rates = [importance**power for power in ((0, 1) if n >= m + POOLED else (0,))]
    kernel = _chosen(*with_whole(few), weights[few], rates, angles) if m <= MOST_FEATURES else Kernel()
    center = torch.zeros(n, dtype=torch.bool)
    center[order[: kernel.centers]] = True
    x, y = with_whole(center)
    root = _root(kernel(x, x), kernel.noise)
    alpha, out = _missed(root, y)
    # The mean over the pairs of the processes that judge them is the process through these values.
    y = torch.cat([y[:-1] - out[:-1] / n, y[-1:]])
    mean = root.T @ (root @ y)
    missed, settled = u.clone(), u.clone()
    missed[center] = out[:-1]
    settled[center] -= y[:-1] - kernel.noise * mean[:-1]
    # What a unit more at a pair adds: by what it leaves over, and at a center by what all others then leave over.
    left = pairs.left[:, None]
    adds = torch.where(center[:, None], left + (1 - left) / n, 1) * contributions
    behind = torch.zeros(len(x), m, dtype=torch.float64)
    for part in (~center).nonzero().flatten().split(AT_ONCE):
        near = kernel(every[part], x)
        missed[part] -= near @ alpha
        settled[part] -= near @ mean
        behind -= near.T @ adds[part]
    solved = root @ kernel.solved(x)
    pull = root.T @ solved
    behind[:-1] += (adds[center] - pull[:-1] / n) / torch.linalg.vector_norm(root, dim=0)[:-1, None] ** 2
    adds[center] = (pull + root.T @ (root @ behind))[:-1]
    # A pair stands for itself, which is known, and for those of its size that were not drawn.
    rest = pairs.left * missed + (1 - pairs.left) * settled
    return solved.T @ (root @ y), rest, (adds - adds.mean(1, keepdim=True)) * missed[:, None]


@dataclass(frozen=True)
class Product:
    """Interactions of all orders: the odd part of a product in which signs that differ cost their rate (M,)."""

    rates: Tensor

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The covariances (n, k) of the values at two sets of signs."""
        total = self.rates.sum()
        odd = ((a * (self.rates / 2)) @ b.T).sinh_()  # in place, since it is large
        odd *= 2 * torch.exp(-total / 2) / (1 - torch.exp(-total))
        return odd

    def solved(self, x: Tensor) -> Tensor:
        r"""The Shapley values (n, M) of the covariance with each x. Those of a product are integrals.

        .. math:: \int_0^1 \prod_{j \ne i} (q k_j(1) + (1 - q) k_j(-1))\,dq\,(k_i(1) - k_i(-1))
        """
        nodes, weights = np.polynomial.legendre.leggauss(min(x.shape[1] // 2 + 1, MOST_NODES))
        apart, found = torch.exp(-self.rates), torch.zeros_like(x)
        for side in (1, -1):
            there, absent = (torch.where(side * x == sign, 1.0, apart) for sign in (1, -1))
            integral = torch.zeros_like(x)
            for q, w in zip((nodes + 1) / 2, weights / 2, strict=True):
                factor = q * there + (1 - q) * absent
                integral += w * factor.log().sum(1, keepdim=True).exp() / factor
            found += side * integral * (there - absent)
        return found / (1 - torch.exp(-self.rates.sum()))


@dataclass(frozen=True)
class Waves:
    """Sines of sums of angles (D, M): functions of directions that need not be single features."""

    angles: Tensor

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """As `Product` has it."""
        here = self._sines(a)
        return (here @ (here if a is b else self._sines(b)).T).div_(len(self.angles))

    def solved(self, x: Tensor) -> Tensor:
        r"""As `Product` has it. Those of a sine are integrals, of which those of a feature lack one factor.

        .. math:: 2 \sin\theta_i \int_0^1 \Re \prod_{j \ne i} (\cos\theta_j + \mathrm{i}\,t \sin\theta_j)\,dt
        """
        count = min(x.shape[1] // 4 + 1, MOST_NODES // 2)  # on either side of 0
        nodes, weights = (part[count:] for part in np.polynomial.legendre.leggauss(2 * count))
        cosine, sine, found = self.angles.cos(), self.angles.sin(), torch.zeros_like(self.angles)
        for t, w in zip(nodes, weights, strict=True):
            factor = torch.complex(cosine, t * sine)
            found += w * (factor.prod(1, keepdim=True) / factor).real
        return self._sines(x) @ (found * sine) * (2 / len(self.angles))

    def _sines(self, x: Tensor) -> Tensor:
        return (x @ self.angles.T).sin_()


@dataclass(frozen=True)
class Kernel:
    """Additive functions of signs, and interactions of some amplitudes."""

    terms: tuple[tuple[float, Product | Waves], ...] = ()

    @property
    def noise(self) -> float:
        """The variance beyond the covariances, such as what so many sines leave out of a smooth function."""
        return 1e-6 + NOISE * sum(amplitude for amplitude, part in self.terms if isinstance(part, Waves))

    @property
    def centers(self) -> int:
        """The most of a process."""
        return ENOUGH_CENTERS if any(isinstance(part, Waves) for _, part in self.terms) else MOST_CENTERS

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The covariances (n, k) of the values at two sets of signs."""
        return self.of((part(a, b) for _, part in self.terms), a, b)

    def of(self, parts: Iterable[Tensor], a: Tensor, b: Tensor) -> Tensor:
        """The same from those of each term."""
        found = a @ b.T / a.shape[1]
        for (amplitude, _), part in zip(self.terms, parts, strict=True):
            found.add_(part, alpha=amplitude)
        return found

    def solved(self, x: Tensor) -> Tensor:
        """The Shapley values (n, M) of the covariance with each x."""
        found = 2 * x / x.shape[1]
        for amplitude, part in self.terms:
            found += amplitude * part.solved(x)
        return found


def _angles(slopes: Tensor) -> Tensor | None:
    """Random angles (D, M) whose covariance is that of the slopes (K, M), or None where these are all the same.

    As much again goes the way of the mean slope, and a part of it to each feature on its own.
    """
    mean = slopes.mean(0)
    away = (slopes - mean) / (len(slopes) - 1) ** 0.5
    total = (away**2).sum()
    if total <= 1e-12 * (mean**2).sum():
        return None
    mean = mean * (total**0.5 / torch.linalg.vector_norm(mean).clamp_min(1e-300))
    alone = torch.diag((ALONE * (away**2).sum(0)).sqrt())
    parts = torch.cat([away, mean[None], alone]) / ((2 + ALONE) * total) ** 0.5
    engine = torch.quasirandom.SobolEngine(len(parts), scramble=True, seed=0)
    normal = torch.special.ndtri(engine.draw(WAVES, dtype=torch.float64).clamp(1e-9, 1 - 1e-9))
    found: Tensor = normal @ parts
    return found


def _chosen(x: Tensor, y: Tensor, weights: Tensor, rates: list[Tensor], angles: Tensor | None) -> Kernel:
    """The kernel of the process through all others that misses each pair by the least."""
    known: dict[int, Tensor] = {}  # covariances, since few terms make many kernels

    def tried(kernels: list[Kernel]) -> tuple[float, Kernel]:
        missed = []
        for kernel in kernels:
            for _, part in kernel.terms:
                if id(part) not in known:
                    known[id(part)] = part(x, x)
            between = kernel.of((known[id(part)] for _, part in kernel.terms), x, x)
            missed.append(float((weights * _missed(_root(between, kernel.noise), y)[1][:-1] ** 2).sum()))
        best = min(range(len(kernels)), key=missed.__getitem__)
        return missed[best], kernels[best]

    spreads = (1, 3, 10, 30) if angles is None else (3, 10)
    products = [
        Product(r * (spread / r.sum())) for r in (rates if angles is None else rates[-1:]) for spread in spreads
    ]
    found = tried([Kernel(((0.3, product),)) for product in products])
    if angles is not None:
        waves = [Waves(angles * scale) for scale in (0.5, 1, 1.8)]
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


def _missed(root: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the centers, and by how much a process through all others misses each."""
    alpha = root.T @ (root @ y)
    return alpha, alpha / torch.linalg.vector_norm(root, dim=0) ** 2
