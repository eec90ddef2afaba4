"""Shapley values: each feature's share of the change of the score, over all orders in which features arrive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.engines.game import Game
from torchwhy.engines.noise import draws
from torchwhy.engines.surrogate import POOLED, Estimate, draw_pairs, shapley_from_all, solve
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import CoalitionMethod, all_scores, attribution, odd_scores, rows_of
from torchwhy.registry import Info, register

REMEMBERED = 2**28  # bits of rows


@register(
    Info(
        family="perturbation",
        summary="each feature's fair share of the change of the score: exact, or sampled with a standard error",
        paper="Shapley: A Value for n-Person Games; Štrumbelj, Kononenko: Explaining Prediction Models; "
        "Musco, Witter: Provably Accurate Shapley Value Estimation via Leverage Score Sampling",
        year=2024,
        needs="forward passes",
        cost="2^M forward passes for M features where they fit the budget, else the budget",
        baselines="one",
        promises=("completeness", "symmetry", "sensitivity", "linearity"),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class ShapleyValues(CoalitionMethod):
    r"""Shapley values with respect to what absent features get.

    .. math:: \phi_i = \sum_{S \not\ni i} \frac{|S|!\,(M - |S| - 1)!}{M!} \left(v(S \cup i) - v(S)\right)

    All :math:`2^M` coalitions where the budget pays them: the values are then exact. Else pairs of a coalition and its
    complement, without repetition, more of the sizes that decide. A Gaussian process is put through them, its own
    Shapley values are solved, and what it leaves over, each pair judged by the process through all others, is added by
    sampling: the estimate has no bias, and each value has a standard error. They always add up to
    :math:`f(x) - v(\emptyset)`.

    Args:
        feature_mask: integers that broadcast to the inputs; elements with the same number, in whichever input of a
            tuple, are one feature and each get its value. None makes every element a feature.
        fill: what absent features get: "baseline", "mean", "blur", "noise", or a `torchwhy.engines.fills.Fill`.
        budget: evaluations of the model per example, beyond the one that every method takes. None is exact where that
            takes at most 65,536 (16 features), and else evaluates 2,048 coalitions.
        seed: of the sample, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each, 0 where exact. Units: score. The record holds
        ``interval_95``, half the width of a 95 % interval in standard errors.

    Papers: L. Shapley, 1953; E. Štrumbelj, I. Kononenko, KAIS 41, 2014; C. Musco, R. T. Witter, ICLR 2025,
        arXiv:2410.01917 (pairs without repetition); R. T. Witter, Y. Liu, C. Musco, 2025, arXiv:2506.11849 (sampling
        what a surrogate leaves over).

    >>> both = ShapleyValues(lambda x: 6 * x[:, 0] * x[:, 1] + x[:, 2])
    >>> both.attribute(torch.ones(1, 3))
    tensor([[3., 3., 1.]])
    """

    budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None:
            at_least("budget", self.budget, 1)

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        rows = rows_of(game, self.budget, "budget", least=2 * POOLED + 2)
        if groups.count < 62 and rows == 2**groups.count:
            return attribution(groups, game, shapley_from_all(all_scores(game)))
        pairs = draw_pairs(groups.count, rows // 2 - 1, self.seed)
        return attribution(groups, game, solve(pairs, *odd_scores(game, pairs.rows)))


@register(
    Info(
        family="perturbation",
        summary="Shapley values from random orders in which features arrive",
        paper="Castro, Gómez, Tejada: Polynomial calculation of the Shapley value based on sampling",
        year=2009,
        needs="forward passes",
        cost="n_samples forward passes per feature",
        baselines="one",
        promises=("completeness", "symmetry in expectation", "sensitivity", "linearity"),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class ShapleyValueSampling(CoalitionMethod):
    r"""The mean over random orders of how much the score rises when a feature arrives.

    .. math:: \phi_i = \mathbb{E}_\pi \left[v(S_\pi^i \cup i) - v(S_\pi^i)\right]

    with :math:`S_\pi^i` the features in front of i. Every order adds up to the change of the score, and a feature that
    never matters gets exactly 0.

    Args:
        feature_mask: as for `ShapleyValues`.
        fill: as for `ShapleyValues`.
        n_samples: orders.
        antithetic: every second order is the one before, reversed.
        seed: of the orders, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each. Units: score.

    Papers: J. Castro, D. Gómez, J. Tejada, Computers & Operations Research 36, 2009; R. Mitchell et al., JMLR 23, 2022
        (reversed orders).

    >>> both = ShapleyValueSampling(lambda x: 6 * x[:, 0] * x[:, 1] + x[:, 2], n_samples=2)
    >>> both.attribute(torch.ones(1, 3))
    tensor([[3., 3., 1.]])
    """

    n_samples: int = 25
    antithetic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_samples", self.n_samples, 1)

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        m, step = groups.count, 2 if self.antithetic else 1
        orders = [torch.randperm(m, generator=draws(self.seed, 31, k)) for k in range(-(-self.n_samples // step))]
        if self.antithetic:
            orders = [o for first in orders for o in (first, first.flip(0))][: self.n_samples]
        rises = self._rises(game, torch.stack(orders)).double()
        values = rises.mean(0)
        units = len(rises) // step
        if units < 2:
            return Attribution(groups.spread(values), details={"features": m, "evaluations": game.evaluations})
        means = rises[: units * step].unflatten(0, (units, step)).mean(1)
        # An order without its reverse has at most the spread of two with theirs.
        error = means.std(0) * (1 / units) ** 0.5
        return attribution(groups, game, Estimate(values, error, units - 1))

    @staticmethod
    def _rises(game: Game, orders: Tensor) -> Tensor:
        """By how much the score rises when each feature arrives, (orders, M, B)."""
        count, m = orders.shape
        place = orders.argsort(1)

        def rows(ks: slice) -> Tensor:
            k = torch.arange(ks.start, ks.stop)
            return place[k // (m + 1)] < (k % (m + 1))[:, None]

        total, what = count * (m + 1), "evaluating orders"
        few = total * m <= REMEMBERED
        scores = game.evaluate(rows(slice(0, total)), what) if few else game.values(rows, total, what)
        steps = scores.unflatten(0, (count, m + 1)).diff(dim=1)
        return torch.take_along_dim(steps, place.to(steps.device)[:, :, None], 1)
