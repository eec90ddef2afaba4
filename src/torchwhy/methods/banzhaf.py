"""Banzhaf values: what a feature adds to a random coalition of the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from torchwhy.core.problem import Problem
from torchwhy.engines.noise import draws
from torchwhy.engines.surrogate import POOLED, banzhaf_from_all, solve_banzhaf
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import CoalitionMethod, all_scores, attribution, odd_scores, rows_of
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
class Banzhaf(CoalitionMethod):
    r"""Banzhaf values, in which every coalition of the other features counts alike.

    .. math:: \beta_i = \frac{1}{2^{M-1}} \sum_{S \not\ni i} \left(v(S \cup i) - v(S)\right)

    They vary less than Shapley values where the score is noisy, and do not add up to the change of the score.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`.
        fill: as for `torchwhy.ShapleyValues`.
        budget: as for `torchwhy.ShapleyValues`; where it does not pay all coalitions, an additive game is fitted to
            random ones and their complements.
        seed: of the sample, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each, 0 where exact. Units: score.

    Papers: J. Banzhaf, Rutgers Law Review 19, 1965; Y. Liu et al., 2024, arXiv:2410.08336.

    >>> Banzhaf(lambda x: 4 * x[:, 0] * x[:, 1] * x[:, 2]).attribute(torch.ones(1, 3))
    tensor([[1., 1., 1.]])
    """

    budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None:
            at_least("budget", self.budget, 1)

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        m = groups.count
        rows = rows_of(game, self.budget, "budget", least=2 * (m + POOLED) + 2)
        if m < 62 and rows == 2**m:
            return attribution(groups, game, banzhaf_from_all(all_scores(game)))
        count = max(rows // 2 - 1, m + POOLED)
        smaller = torch.rand(count, m, generator=draws(self.seed, 32)) < 0.5
        odd, _ = odd_scores(game, smaller)
        return attribution(groups, game, solve_banzhaf(smaller, odd))
