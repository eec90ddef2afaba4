"""Nodes and weights for integrals over [0, 1]."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError, closest

Quadrature: TypeAlias = Literal[
    "gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid", "clenshawcurtis"
]
QUADRATURES = (
    "gausslegendre",
    "riemann_left",
    "riemann_middle",
    "riemann_right",
    "riemann_trapezoid",
    "clenshawcurtis",
)


@lru_cache(maxsize=64)
def rule(name: str, n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights (n,) in float64; the first five are Captum's, number for number.

    Captum's trapezoid spaces its n nodes by 1/(n-1) but weights them by 1/n, so its weights sum to 1 - 1/n. Ours sum
    to 1: the attribution of a linear model is then exact.

    >>> nodes, weights = rule("gausslegendre", 3)
    >>> bool(torch.isclose((weights * nodes**5).sum(), torch.tensor(1 / 6, dtype=torch.float64)))
    True
    """
    if name not in QUADRATURES:
        raise TorchwhyError(f"there is no quadrature {name!r}{closest(name, QUADRATURES)}")
    least = 1 if name in ("gausslegendre", "riemann_middle") else 2
    if n < least:
        raise TorchwhyError(f"{name} needs n_steps of at least {least}, not {n}")
    if name == "gausslegendre":
        x, w = np.polynomial.legendre.leggauss(n)
        return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)
    if name == "clenshawcurtis":
        return clenshaw_curtis(n - 1)
    even = torch.full((n,), 1 / n, dtype=torch.float64)
    steps = torch.arange(n, dtype=torch.float64)
    if name == "riemann_left":
        return steps / n, even
    if name == "riemann_middle":
        return (steps + 0.5) / n, even
    if name == "riemann_right":
        return (steps + 1) / n, even
    weights = torch.full((n,), 1 / (n - 1), dtype=torch.float64)
    weights[[0, -1]] /= 2
    return steps / (n - 1), weights


def clenshaw_curtis(n: int) -> tuple[Tensor, Tensor]:
    """N + 1 nodes, of which those of n / 2 are every other one; exact for polynomials up to degree n.

    Weights by the cosine sum of Waldvogel, "Fast construction of the Fejér and Clenshaw-Curtis quadrature rules", 2006.
    """
    j = np.arange(n + 1)
    theta = np.pi * j / n
    nodes = (1 - np.cos(theta)) / 2
    k = np.arange(1, n // 2 + 1)
    b = np.where(2 * k == n, 1.0, 2.0)
    sums = (b / (4 * k**2 - 1) * np.cos(2 * np.outer(theta, k))).sum(1)
    c = np.where((j == 0) | (j == n), 1.0, 2.0)
    return torch.from_numpy(nodes), torch.from_numpy(c / n * (1 - sums) / 2)


def halved(nodes: Tensor) -> Tensor:
    """Weights (n,) for the same nodes that use every other one: each gets the share of [0, 1] nearest to it.

    The difference to the full rule tells what half as many steps would have changed, at no further evaluation.
    """
    kept = torch.arange(0, len(nodes), 2)
    chosen = nodes[kept]
    edges = torch.cat([nodes.new_zeros(1), (chosen[1:] + chosen[:-1]) / 2, nodes.new_ones(1)])
    weights = torch.zeros_like(nodes)
    weights[kept] = edges.diff()
    return weights
