r"""Interactions of two features from all or some of the coalitions.

An index is a weighted mean of what two features do together beyond what each does alone,

.. math:: I_{ij} = \sum_{S \not\ni i, j} w(|S|)\,\Delta_{ij}(S), \qquad
    \Delta_{ij}(S) = v(S \cup ij) - v(S \cup i) - v(S \cup j) + v(S)

Here :math:`w(s) = w(M - 2 - s)`, so that an index is a linear function of the even part of the game,
:math:`e(T) = (v(T) + v(\bar T)) / 2`, over pairs of a coalition and its complement. Shapley values are one of the odd
part, so both come from the same evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.engines.noise import draws
from torchwhy.engines.surrogate import MOST_CENTERS, Estimate, Pairs, all_rows, judged, shapley_from_all

STREAM = 34  # of the centers
RIDGES = (1e-6, 1e-3, 1e-1, 1.0, 100.0)  # of the quadratic surrogate, of which the best is taken


@dataclass(frozen=True)
class Index:
    r"""Weights of an index.

    Attributes:
        weight: :math:`w(s)` for M features and s of the others.
        parts: what all coalitions T of size h weigh together where they hold both features, one, none:
            :math:`\binom M h` times :math:`w(h - 2), w(h - 1), w(h)`.
    """

    weight: Callable[[int, int], float]
    parts: Callable[[int, Tensor], tuple[Tensor, Tensor, Tensor]]


def _shapley_parts(m: int, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return m / (h * (h - 1).clamp_min(1)), m / (h * (m - h)), m / ((m - h) * (m - h - 1).clamp_min(1))


def _faith_parts(m: int, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = 6 / (m + 1)
    return scale * (m - h + 1) / h, scale * torch.ones_like(h), scale * (h + 1) / (m - h)


SHAPLEY = Index(lambda m, s: 1 / ((m - 1) * math.comb(m - 2, s)), _shapley_parts)
FAITH = Index(lambda m, s: 6 * (s + 1) * (m - s - 1) / ((m + 1) * m * (m - 1) * math.comb(m - 2, s)), _faith_parts)


def interactions_from_all(scores: Tensor, index: Index, *, alone: bool) -> Tensor:
    """An index (M, M, B) from the scores of all rows (2**M, B), row ``n`` with feature i where bit i of n is set.

    On the diagonal stand Shapley values; with ``alone`` they are less half of each interaction.

    >>> interactions_from_all(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), SHAPLEY, alone=True)[:, :, 0]
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
    own = shapley_from_all(scores) - (out.sum(1) / 2 if alone else 0)
    return out + torch.diag_embed(own.T).movedim(0, -1)


def solve_interactions(pairs: Pairs, index: Index, odd: Tensor, even: Tensor, *, alone: bool) -> Estimate:
    """An index (M, M, B) from some pairs, with the diagonal of `interactions_from_all`.

    A quadratic game is fitted to the even part, and what it leaves over, each pair judged by the fit through all
    others, is added by sampling, so that there is no bias; `torchwhy.engines.surrogate.solve` does as much for the odd
    part.

    Args:
        pairs: some pairs.
        index: which one.
        odd: half the difference of the two scores of all and no features, then of each pair, (1 + n, B).
        even: half their sum, (1 + n, B).
        alone: as for `interactions_from_all`.
    """
    m, count = pairs.rows.shape[1], odd.shape[1]
    values, errors = (even.new_zeros(m, m, count) for _ in range(2))
    typical = _typical(pairs, index)
    fits, rests, missed = _quadratic(pairs, even[1:] - even[0], typical)
    # An interaction whose heaviest coalitions were not drawn has a small spread by luck, but errors of the usual size.
    least = (pairs.left * typical / (m * (m - 1))) @ missed**2
    for b, (phi, mine) in enumerate(judged(pairs, odd[1:], 2 * odd[0])):
        for i in range(m):
            # What every pair adds to the interactions of i, and in place i to its own value.
            weights = _weights(pairs, index, i)
            values[i, :, b] = fits[i, :, b] + rests[:, b] @ weights
            y = weights * missed[:, b : b + 1]
            errors[i, :, b] = pairs.variance(y).maximum(least[b].expand(m)).sqrt()
            values[i, i, b] = phi[i]
            if alone:
                others = torch.arange(m) != i
                values[i, i, b] -= values[i, others, b].sum() / 2
                mine[:, i] -= y[:, others].sum(1) / 2
        errors[:, :, b].diagonal().copy_(pairs.standard_error(mine))
    return Estimate(values, errors, pairs.freedom)


def _weights(pairs: Pairs, index: Index, i: int) -> Tensor:
    """What a unit of the even part adds to the interactions of feature i, (n, M)."""
    inside, across, outside = _parts(pairs, index)
    here, there = pairs.rows[:, i : i + 1], pairs.rows
    return torch.where(here & there, inside, torch.where(here | there, -across, outside))


def _parts(pairs: Pairs, index: Index) -> list[Tensor]:
    """What a unit of the even part adds where a row holds both features, one, none, (n, 1) each."""
    scale = 2 * pairs.half / pairs.share
    return [(scale * part)[:, None] for part in index.parts(pairs.rows.shape[1], pairs.size)]


def _typical(pairs: Pairs, index: Index) -> Tensor:
    """How much the square of a pair's even part counts in all errors together, (n,)."""
    m, h = pairs.rows.shape[1], pairs.size
    inside, across, outside = (part[:, 0] ** 2 for part in _parts(pairs, index))
    return inside * h * (h - 1) + across * 2 * h * (m - h) + outside * (m - h) * (m - h - 1)


def _quadratic(pairs: Pairs, even: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Interactions (M, M, B) of a quadratic game through the even part, and what it leaves over at each pair (n, B).

    Last, by how much the fit through all others misses each pair (n, B): of what is left over this is the random part.

    Args:
        pairs: some pairs.
        even: the even part less its value where all features are present, or none, (n, B).
        weights: (n,) of the squared errors of a fit, by which the penalty is chosen.
    """
    n, m = pairs.rows.shape
    order = torch.randperm(n, generator=draws(0, STREAM))
    center = torch.zeros(n, dtype=torch.bool)
    center[order[:MOST_CENTERS]] = True
    signs = pairs.signs
    x, y = signs[center], even[center]
    spectrum, basis = torch.linalg.eigh(_kernel(x, x))
    scale, turned = spectrum.mean().clamp_min(1e-300), basis.T @ y

    def fit(ridge: float, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Of a fit: its weights (n, B), and what each center misses the fit through all others by."""
        inverse = 1 / (spectrum.clamp_min(0) + ridge * scale)
        alpha = basis @ (inverse[:, None] * coefficients)
        return alpha, alpha / (basis**2 @ inverse)[:, None]

    ridges = torch.tensor(RIDGES, dtype=torch.float64)
    costs = torch.stack([weights[center] @ fit(r, turned)[1] ** 2 for r in RIDGES])
    chosen = ridges[costs.argmin(0)]
    fits, rest, missed = even.new_zeros(m, m, even.shape[1]), torch.empty_like(even), even.clone()
    left = pairs.left[:, None]
    for b, ridge in enumerate(chosen.tolist()):
        alpha, out = fit(ridge, turned[:, b : b + 1])
        missed[center, b] = out[:, 0]
        missed[~center, b] -= (_kernel(signs[~center], x) @ alpha)[:, 0]
        # The mean over the pairs of the fits that judge them is the fit through these values.
        alpha, _ = fit(ridge, basis.T @ (y[:, b : b + 1] - out / n))
        rest[:, b] = even[:, b] - (_kernel(signs, x) @ alpha)[:, 0]
        found = 8 / m**2 * ((x * alpha).T @ x - alpha.sum())
        fits[:, :, b] = (found + found.T) / 2
    # A pair stands for itself, which is known, and for those that were not drawn.
    return fits, left * missed + (1 - left) * rest, missed


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    r"""Covariances (n, k) of a quadratic function of signs, :math:`2 / M^2 \sum_{i<j} (a_i a_j - 1) (b_i b_j - 1)`."""
    m = a.shape[1]
    return ((a @ b.T) ** 2 - (a.sum(1) ** 2)[:, None] - b.sum(1) ** 2 + m**2) / m**2
