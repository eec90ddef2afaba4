"""Banzhaf values: what a feature adds to a random coalition of the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.engines.noise import draws
from torchwhy.engines.surrogate import POOLED, Estimate, banzhaf_from_all, solve_banzhaf
from torchwhy.methods.base import Attribution
from torchwhy.methods.coalitions import all_scores, attribution
from torchwhy.methods.sampling import SampledMethod, Units
from torchwhy.registry import Info, register


@register(
    Info(
        family="perturbation",
        summary="what a feature adds to the score on average over all coalitions of the others",
        paper="Banzhaf: Weighted Voting Doesn't Work; Liu, Witter, Korn, Alrashed, Paparas, Musco, Freire: Kernel "
        "Banzhaf",
        year=2024,
        needs="forward passes",
        cost="2^M forward passes for M features where they fit the budget, else the budget",
        baselines="one",
        promises=("symmetry", "sensitivity", "linearity"),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class Banzhaf(SampledMethod):
    r"""Banzhaf values, in which every coalition of the other features counts alike.

    .. math:: \beta_i = \frac{1}{2^{M-1}} \sum_{S \not\ni i} \left(v(S \cup i) - v(S)\right)

    They vary less than Shapley values where the score is noisy, and do not add up to the change of the score.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`.
        fill: as for `torchwhy.ShapleyValues`.
        budget: as for `torchwhy.ShapleyValues`; where it does not pay all coalitions, an additive game is fitted to
            random ones and their complements.
        stop_at: as for `torchwhy.ShapleyValues`.
        top_k: as for `torchwhy.ShapleyValues`.
        seed: of the sample, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each, 0 where exact. Units: score.

    Papers: J. Banzhaf, Rutgers Law Review 19, 1965; Y. Liu et al., 2024, arXiv:2410.08336.

    >>> Banzhaf(lambda x: 4 * x[:, 0] * x[:, 1] * x[:, 2]).attribute(torch.ones(1, 3))
    tensor([[1., 1., 1.]])
    """

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        least = groups.count + POOLED
        rows = self.rows(game, 2 * least + 2)
        if self.every(game, rows):
            return attribution(groups, game, banzhaf_from_all(all_scores(game)))
        count = max(rows // 2 - 1, least)
        drawn = torch.rand(count, groups.count, generator=draws(self.seed, 32)) < 0.5

        def pairs(ks: slice) -> Tensor:
            k = torch.arange(ks.start, ks.stop)
            return drawn[k // 2] ^ (k % 2 == 1)[:, None]

        def solve(scores: Tensor) -> Estimate:
            return solve_banzhaf(drawn[: len(scores)], (scores[:, 0] - scores[:, 1]) / 2)

        return self.sampled(groups, game, Units(pairs, 2, count, least, solve, fitted=groups.count))
