r"""Interactions of two features from all or some of the coalitions.

An index is a weighted mean of what two features do together beyond what each does alone,

.. math:: I_{ij} = \sum_{S \not\ni i, j} w(|S|)\,\Delta_{ij}(S), \qquad
    \Delta_{ij}(S) = v(S \cup ij) - v(S \cup i) - v(S \cup j) + v(S)

Where :math:`w(s) = w(M - 2 - s)`, an index is a linear function of the even part of the game,
:math:`e(T) = (v(T) + v(\bar T)) / 2`, over pairs of a coalition and its complement. Shapley values are one of the odd
part, :math:`u(T) = (v(T) - v(\bar T)) / 2`, so both come from the same evaluations. What of the weights changes its
sign with :math:`M - 2 - s` in place of s, as half of those of Shapley-Taylor do, is a function of the odd part too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from torchwhy.engines.noise import draws
from torchwhy.engines.process import MOST_CENTERS, judged
from torchwhy.engines.spread import widened
from torchwhy.engines.surrogate import Estimate, Pairs, all_rows, shapley_from_all

STREAM = 34  # of the centers
RIDGES = (1e-6, 1e-3, 1e-1, 1.0, 100.0)  # of the quadratic surrogate, of which the best is taken


Parts: TypeAlias = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Index:
    r"""Weights of an index.

    Attributes:
        weight: :math:`w(s)` for M features and s of the others.
        even: what all coalitions T of size h weigh together where they hold both features, one, none, of the part of
            the weights that :math:`M - 2 - s` leaves as it is: :math:`\binom M h` times
            :math:`w(h - 2), w(h - 1), w(h)`.
        odd: the same of the part that changes its sign; None where there is none.
        diagonal: what stands for a feature: its Shapley "value", the "rest" of that less half of each of its
            interactions, or what it adds to none as the "first", :math:`v(i) - v(\emptyset)`.
    """

    weight: Callable[[int, int], float]
    even: Callable[[int, Tensor], Parts]
    odd: Callable[[int, Tensor], Parts] | None
    diagonal: Literal["value", "rest", "first"]


def _shapley_parts(m: int, h: Tensor) -> Parts:
    return m / (h * (h - 1).clamp_min(1)), m / (h * (m - h)), m / ((m - h) * (m - h - 1).clamp_min(1))


def _taylor_parts(m: int, h: Tensor) -> Parts:
    inside, across, outside = _shapley_parts(m, h)
    return inside * (m + 2 - 2 * h) / m, across * (m - 2 * h) / m, outside * (m - 2 - 2 * h) / m


def _faith_parts(m: int, h: Tensor) -> Parts:
    scale = 6 / (m + 1)
    return scale * (m - h + 1) / h, scale * torch.ones_like(h), scale * (h + 1) / (m - h)


SII = Index(lambda m, s: 1 / ((m - 1) * math.comb(m - 2, s)), _shapley_parts, None, "value")
K_SII = replace(SII, diagonal="rest")
FSII = Index(
    lambda m, s: 6 * (s + 1) * (m - s - 1) / ((m + 1) * m * (m - 1) * math.comb(m - 2, s)), _faith_parts, None, "rest"
)
STII = Index(lambda m, s: 2 / (m * math.comb(m - 1, s)), _shapley_parts, _taylor_parts, "first")


def interactions_from_all(scores: Tensor, index: Index) -> Tensor:
    """An index (M, M, B) from the scores of all rows (2**M, B), row ``n`` with feature i where bit i of n is set.

    >>> interactions_from_all(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), K_SII)[:, :, 0]
    tensor([[1., 6.],
            [6., 2.]], dtype=torch.float64)
    """
    m, v = len(scores).bit_length() - 1, scores.double()
    out = v.new_zeros(m, m, v.shape[1])
    w = v.new_tensor([index.weight(m, s) for s in range(m - 1)])
    if m > 1:
        w = w[all_rows(m - 2).sum(1).to(v.device), None]
    for j in range(m):
        for i in range(j):
            cube = v.view(2 ** (m - 1 - j), 2, 2 ** (j - 1 - i), 2, 2**i, -1)
            together = cube[:, 1, :, 1] - cube[:, 1, :, 0] - cube[:, 0, :, 1] + cube[:, 0, :, 0]
            out[i, j] = out[j, i] = (w * together.flatten(0, 2)).sum(0)
    if index.diagonal == "first":
        own = v[2 ** torch.arange(m)] - v[0]
    else:
        own = shapley_from_all(scores) - (out.sum(1) / 2 if index.diagonal == "rest" else 0)
    return out + torch.diag_embed(own.T).movedim(0, -1)


def solve_interactions(pairs: Pairs, index: Index, odd: Tensor, even: Tensor, first: Tensor | None = None) -> Estimate:
    """An index (M, M, B) from some pairs.

    A quadratic game is fitted to the even part, and where the odd part counts, a cubic one to that. What they leave
    over, each pair judged by the fit through all others, is added by sampling, so that there is no bias;
    `torchwhy.engines.process.solve` does as much for Shapley values.

    Args:
        pairs: some pairs.
        index: which one.
        odd: half the difference of the two scores of all and no features, then of each pair, (1 + n, B).
        even: half their sum, (1 + n, B).
        first: what each feature adds to none, (M, B), for an index that has it on the diagonal.
    """
    found = _fitted(pairs, index.even, even[1:] - even[0], QUADRATIC)
    if index.odd is not None:
        # Less an additive game with the same change, in which no two do anything together.
        additive = (2 * pairs.size / pairs.rows.shape[1] - 1)[:, None] * odd[0]
        more = _fitted(pairs, index.odd, odd[1:] - additive, CUBIC)
        found = _Fitted(*(a + b for a, b in zip(found, more, strict=True)))
    return _by_itself(pairs, index, found, odd) if first is None else _beside(pairs, found, first, 2 * odd[0])


def _by_itself(pairs: Pairs, index: Index, found: _Fitted, odd: Tensor) -> Estimate:
    """Interactions with Shapley values on the diagonal, or the rest of them."""
    values, errors = _cells(pairs, found)
    off = (1 - torch.eye(len(values), dtype=values.dtype))[:, :, None]
    less, lacks = (values * off).sum(1) / 2, _of_all(pairs, found.missed) / 2
    for b, (phi, mine) in enumerate(judged(pairs, odd[1:], 2 * odd[0])):
        rest = index.diagonal == "rest"
        values[:, :, b].diagonal().copy_(phi - less[:, b] if rest else phi)
        errors[:, :, b].diagonal().copy_(pairs.standard_error(mine - lacks[:, :, b] if rest else mine))
    return Estimate(values, errors, pairs.freedom)


def _beside(pairs: Pairs, found: _Fitted, first: Tensor, change: Tensor) -> Estimate:
    """Interactions that add up to what the known diagonal (M, B) leaves of the change (B,)."""
    mean = (found.missed * _shares(pairs)[:, :, None]).sum(1, keepdim=True)
    values, errors = _cells(pairs, found._replace(missed=found.missed - mean))
    off = ~torch.eye(len(first), dtype=torch.bool)
    values[off] += (change - first.sum(0)) / math.comb(len(first), 2) - values[off].mean(0)
    values[~off], errors[~off] = first, 0.0
    return Estimate(values, errors, pairs.freedom)


class _Fitted(NamedTuple):
    """A part of a game.

    Attributes:
        together: interactions (M, M, B) of its fit.
        rest: what each pair, by what the fit leaves over, adds to the interaction of two features of which it holds
            both, one, none, (n, 3, B).
        missed: the same by what the fit through all others misses: the random part of it.
    """

    together: Tensor
    rest: Tensor
    missed: Tensor


def _cells(pairs: Pairs, found: _Fitted) -> tuple[Tensor, Tensor]:
    """Interactions (M, M, B) and their standard errors; on the diagonal is nothing of use."""
    values, errors = found.together.clone(), torch.zeros_like(found.together)
    # An interaction whose heaviest coalitions were not drawn has a small spread by luck, but errors of the usual size.
    squares = pairs.left[:, None] * (found.missed**2 * _shares(pairs)[:, :, None]).sum(1)
    for b, low in enumerate(squares.sum(0)):
        wide = widened(squares[pairs.left > 0, b], pairs.freedom)
        for i in range(len(values)):
            values[i, :, b] += _adds(pairs, found.rest[:, :, b], i).sum(0)
            errors[i, :, b] = pairs.variance(_adds(pairs, found.missed[:, :, b], i)).maximum(low).sqrt() * wide
    return values, errors


def _adds(pairs: Pairs, parts: Tensor, i: int) -> Tensor:
    """What each pair adds to the interactions of feature i, (n, M), from what it does where it holds 2, 1, 0 (n, 3)."""
    inside, across, outside = parts.split(1, 1)
    here, there = pairs.rows[:, i : i + 1], pairs.rows
    return torch.where(here & there, inside, torch.where(here | there, across, outside))


def _of_all(pairs: Pairs, parts: Tensor) -> Tensor:
    """What each pair adds to all interactions of a feature together, (n, M, B), from the same (n, 3, B)."""
    h, m = pairs.size[:, None, None], pairs.rows.shape[1]
    inside, across, outside = parts.split(1, 1)
    present, absent = (h - 1) * inside + (m - h) * across, h * across + (m - h - 1) * outside
    return torch.where(pairs.rows[:, :, None], present, absent)


def _shares(pairs: Pairs) -> Tensor:
    """Of how many of all two features each pair holds both, one, none, (n, 3)."""
    m, h = pairs.rows.shape[1], pairs.size
    return torch.stack([h * (h - 1), 2 * h * (m - h), (m - h) * (m - h - 1)], 1) / (m * (m - 1))


@dataclass(frozen=True)
class Surrogate:
    """A sum of kernels of signs.

    Attributes:
        kernel: (n, M) and (k, M) to (n, k).
        together: interactions (M, M) of a sum of kernels around centers (n, M) of weights (n,).
    """

    kernel: Callable[[Tensor, Tensor], Tensor]
    together: Callable[[Tensor, Tensor], Tensor]


def _fitted(pairs: Pairs, weights: Callable[[int, Tensor], Parts], part: Tensor, surrogate: Surrogate) -> _Fitted:
    """A surrogate fitted to a part of the game.

    Args:
        pairs: some pairs.
        weights: of that part, see `Index`.
        part: its value at each pair, (n, B), which is 0 where all features are present, or none.
        surrogate: to fit.
    """
    n, m = pairs.rows.shape
    inside, across, outside = weights(m, pairs.size)
    parts = (2 * pairs.half / pairs.share)[:, None] * torch.stack([inside, -across, outside], 1)
    # How much a squared error counts in all interactions together; the penalty is chosen by that.
    typical = (parts**2 * _shares(pairs)).sum(1)
    order = torch.randperm(n, generator=draws(0, STREAM))
    center = torch.zeros(n, dtype=torch.bool)
    center[order[:MOST_CENTERS]] = True
    signs = pairs.signs
    x, y = signs[center], part[center]
    spectrum, basis = torch.linalg.eigh(surrogate.kernel(x, x))
    scale, turned = spectrum.mean().clamp_min(1e-300), basis.T @ y

    def fit(ridge: float, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Of a fit: its weights (n, B), and what each center misses the fit through all others by."""
        inverse = 1 / (spectrum.clamp_min(0) + ridge * scale)
        alpha = basis @ (inverse[:, None] * coefficients)
        return alpha, alpha / (basis**2 @ inverse)[:, None]

    costs = torch.stack([typical[center] @ fit(r, turned)[1] ** 2 for r in RIDGES])
    chosen = torch.tensor(RIDGES, dtype=torch.float64)[costs.argmin(0)]
    together, rest, missed = part.new_zeros(m, m, part.shape[1]), torch.empty_like(part), part.clone()
    for b, ridge in enumerate(chosen.tolist()):
        alpha, out = fit(ridge, turned[:, b : b + 1])
        missed[center, b] = out[:, 0]
        missed[~center, b] -= (surrogate.kernel(signs[~center], x) @ alpha)[:, 0]
        # The mean over the pairs of the fits that judge them is the fit through these values.
        alpha, _ = fit(ridge, basis.T @ (y[:, b : b + 1] - out / n))
        rest[:, b] = part[:, b] - (surrogate.kernel(signs, x) @ alpha)[:, 0]
        together[:, :, b] = surrogate.together(x, alpha[:, 0])
    # A pair stands for itself, which is known, and for those that were not drawn.
    left = pairs.left[:, None]
    rest = left * missed + (1 - left) * rest
    return _Fitted(together, parts[:, :, None] * rest[:, None], parts[:, :, None] * missed[:, None])


def _quadratic(a: Tensor, b: Tensor) -> Tensor:
    r"""Covariances of an even function, :math:`2 / M^2 \sum_{i<j} (a_i a_j - 1) (b_i b_j - 1)`."""
    m = a.shape[1]
    return ((a @ b.T) ** 2 - (a.sum(1) ** 2)[:, None] - b.sum(1) ** 2 + m**2) / m**2


def _of_quadratic(x: Tensor, alpha: Tensor) -> Tensor:
    found = 8 / x.shape[1] ** 2 * ((x * alpha[:, None]).T @ x - alpha.sum())
    return (found + found.T) / 2


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    r"""Covariances of an odd function that is 0 where all signs are one: additive, with products of up to three."""
    m = a.shape[1]
    mean = a @ b.T / m
    ends = [t.mean(1) + t.mean(1) ** 3 for t in (a, b)]
    return mean + mean**3 - ends[0][:, None] * ends[1] / 2


def _of_cubic(x: Tensor, alpha: Tensor) -> Tensor:
    r"""Under the weights of `STII` that change their sign, where a product of three signs adds -4/3 to each two."""
    m = x.shape[1]
    mean, pull = x.mean(1), x.T @ alpha
    whole = alpha @ (mean + mean**3) / 2  # the kernel around all signs at once, which takes their value away
    found = m * (x * (alpha * mean)[:, None]).T @ x - pull - pull[:, None] - (m - 2) * whole
    return -8 / m**3 * (found + found.T) / 2


QUADRATIC, CUBIC = Surrogate(_quadratic, _of_quadratic), Surrogate(_cubic, _of_cubic)
