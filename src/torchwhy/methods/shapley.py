"""Shapley values: each feature's share of the change of the score, over all orders in which features arrive."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isqrt

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.noise import draws
from torchwhy.engines.process import solve
from torchwhy.engines.slopes import PRICE, slopes
from torchwhy.engines.surrogate import POOLED, Estimate, draw_pairs, shapley_from_all
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import MOST_EXACT, all_scores, attribution
from torchwhy.methods.sampling import SampledMethod, Units, ends, mean_of, pairs_of
from torchwhy.registry import Info, register

ORDERS = 25  # where nothing else is asked for
MOST_SLOPES = 24  # gradients, of which more gain little


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
        aliases=("shapley",),
    )
)
@dataclass(kw_only=True, eq=False)
class ShapleyValues(SampledMethod):
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
        fill: what absent features get: "baseline", "mean", "blur", "noise", "linear", or one of `torchwhy.fills`.
        budget: evaluations of the model per example, beyond the one that every method takes. None is exact where that
            takes at most 65,536 (16 features), and else evaluates 2,048 coalitions.
        stop_at: stop as soon as every standard error is below a number, "se<0.01", or a share of the example's largest
            value, "se<1%". The sample doubles until it is so, or until the budget is spent, None being 65,536.
        top_k: stop as soon as this many largest values, whatever their sign, are told from all others at 95 %; together
            with ``stop_at``, when both are so.
        seed: of the sample, which all examples share.
        gradients: spend some evaluations, at most 72, on derivatives at coalitions of their own, each of which counts
            as three. They say in what directions the score changes, which the process then looks along. Where the model
            has none, or with False, all of the budget goes to coalitions.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each, 0 where exact. Units: score. The record holds
        ``interval_95``, half the width of a 95 % interval in standard errors.

    Papers: L. Shapley, 1953; E. Štrumbelj, I. Kononenko, KAIS 41, 2014; C. Musco, R. T. Witter, ICLR 2025,
        arXiv:2410.01917 (pairs without repetition); R. T. Witter, Y. Liu, C. Musco, 2025, arXiv:2506.11849 (sampling
        what a surrogate leaves over); P. Constantine, E. Dow, Q. Wang, 2014, arXiv:1304.2070 (directions from
        gradients).

    >>> both = ShapleyValues(lambda x: 6 * x[:, 0] * x[:, 1] + x[:, 2])
    >>> both.attribute(torch.ones(1, 3))
    tensor([[3., 3., 1.]])
    """

    gradients: bool = True

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        rows = self.rows(game, least=2 * POOLED + 2)
        if self.every(game, rows):
            return attribution(groups, game, shapley_from_all(all_scores(game)))
        whole, nothing = ends(game)
        before = game.evaluations
        known = self._slopes(groups, game, rows)
        pairs = draw_pairs(groups.count, (rows - game.evaluations + before) // 2 - 1, self.seed)
        return self.sampled(groups, game, pairs_of(pairs, whole - nothing, POOLED, partial(solve, slopes=known)))

    def _slopes(self, groups: Groups, game: Game, rows: int) -> Tensor | None:
        """Derivatives at some coalitions of all sizes, where the pairs that a budget also pays outnumber features.

        Where it pays all pairs, these are exact in the end.
        """
        m, count = groups.count, min(isqrt(rows) // 2, MOST_SLOPES)
        if not self.gradients or count < 2 or rows == 2**m or (rows - PRICE * count) // 2 - 1 < m + POOLED:
            return None
        drawn = torch.rand(count, m + 1, generator=draws(self.seed, 38), dtype=torch.float64)
        share = (torch.arange(count)[:, None] + drawn[:, :1]) / count  # of the features that are present, on average
        return slopes(groups, game, drawn[:, 1:] < share)


@register(
    Info(
        family="perturbation",
        summary="Shapley values from random orders in which features arrive",
        paper="Castro, Gómez, Tejada: Polynomial calculation of the Shapley value based on sampling",
        year=2009,
        needs="forward passes",
        cost="n_samples forward passes per feature, or the budget",
        baselines="one",
        promises=("completeness", "symmetry in expectation", "sensitivity", "linearity"),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class ShapleyValueSampling(SampledMethod):
    r"""The mean over random orders of how much the score rises when a feature arrives.

    .. math:: \phi_i = \mathbb{E}_\pi \left[v(S_\pi^i \cup i) - v(S_\pi^i)\right]

    with :math:`S_\pi^i` the features in front of i. Every order adds up to the change of the score, and a feature that
    never matters gets exactly 0.

    Args:
        feature_mask: as for `ShapleyValues`.
        fill: as for `ShapleyValues`.
        n_samples: orders; None is 25, or with ``budget``, ``stop_at`` or ``top_k`` as many as the budget pays.
        budget: evaluations of the model per example, of which an order takes one more than there are features. None is
            65,536 with ``stop_at`` or ``top_k``, and else no limit.
        stop_at: as for `ShapleyValues`.
        top_k: as for `ShapleyValues`.
        antithetic: every second order is the one before, reversed.
        seed: of the orders, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each. Units: score.

    Papers: J. Castro, D. Gómez, J. Tejada, Computers & Operations Research 36, 2009; R. Mitchell et al., JMLR 23, 2022
        (reversed orders).

    >>> both = ShapleyValueSampling(lambda x: 6 * x[:, 0] * x[:, 1] + x[:, 2], n_samples=2)
    >>> both.attribute(torch.ones(1, 3))
    tensor([[3., 3., 1.]])
    """

    n_samples: int | None = None
    antithetic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_samples is not None:
            at_least("n_samples", self.n_samples, 1)

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        count, step = self._count(game), 2 if self.antithetic else 1
        return self.sampled(groups, game, _orders(self._drawn(groups.count, count), step))

    def _count(self, game: Game) -> int:
        """How many orders."""
        if self.budget is None and not self.rule:
            return self.n_samples or ORDERS
        each = (game.features.count + 1) * game.draws
        paid = (self.budget or MOST_EXACT) // each
        if not paid:
            raise TorchwhyError(
                f"budget={self.budget} is too small for an order of {game.features.count} features: the least that "
                f"works is {each}"
            )
        paid -= paid % 2 if self.antithetic and paid > 1 else 0
        return min(paid, self.n_samples or paid)

    def _drawn(self, m: int, count: int) -> Tensor:
        """Orders (count, M)."""
        step = 2 if self.antithetic else 1
        orders = [torch.randperm(m, generator=draws(self.seed, 31, k)) for k in range(-(-count // step))]
        if self.antithetic:
            orders = [o for first in orders for o in (first, first.flip(0))]
        return torch.stack(orders[:count])


def _orders(orders: Tensor, step: int) -> Units:
    """Orders (n, M) as a sample, ``step`` of them at a time independent of the others."""
    (count, m), place = orders.shape, orders.argsort(1).int()

    def rows(ks: slice) -> Tensor:
        k = torch.arange(ks.start, ks.stop)
        return place[k // (m + 1)] < (k % (m + 1))[:, None]

    def solve(scores: Tensor) -> Estimate:
        steps = scores.diff(dim=1)
        rises = torch.take_along_dim(steps, place[: len(scores), :, None].long(), 1)
        return mean_of(rises, step)

    return Units(rows, m + 1, count, 2 * step, solve)
