"""Shapley interactions: what two features do together beyond what each does alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.pairwise import FAITH, SHAPLEY, interactions_from_all, solve_interactions
from torchwhy.engines.surrogate import POOLED, Estimate, draw_pairs
from torchwhy.methods.base import Attribution
from torchwhy.methods.coalitions import BudgetedMethod, all_scores, halves, placed, rows_of
from torchwhy.registry import Info, register

Name: TypeAlias = Literal["k-SII", "SII", "FSII"]
INDICES = {"k-SII": SHAPLEY, "SII": SHAPLEY, "FSII": FAITH}


@register(
    Info(
        family="perturbation",
        summary="what each two features do together, and each alone: exact, or sampled with a standard error",
        paper="Grabisch, Roubens: An Axiomatic Approach to the Concept of Interaction Among Players; Tsai, Yeh, "
        "Ravikumar: Faith-Shap: The Faithful Shapley Interaction Index",
        year=2023,
        needs="forward passes",
        cost="2^M forward passes for M features where they fit the budget, else the budget",
        baselines="one",
        promises=("completeness", "symmetry", "sensitivity", "linearity"),
        zero_at_layer=True,
        form="pairs",
    )
)
@dataclass(kw_only=True, eq=False)
class ShapleyInteractions(BudgetedMethod):
    r"""How features interact, in a symmetric matrix of features by features.

    .. math:: \Phi_{ij} = \sum_{S \not\ni i, j} w(|S|) \left(v(S \cup ij) - v(S \cup i) - v(S \cup j) + v(S)\right)

    with :math:`w(s) = s!\,(M - s - 2)! / (M - 1)!` for "SII" and "k-SII", and
    :math:`6\,(s + 1)!\,(M - s - 1)! / (M + 1)!` for "FSII". On the diagonal stands what a feature does alone,
    :math:`\phi_i - \frac12 \sum_{j \ne i} \Phi_{ij}` with its Shapley value :math:`\phi_i`, or for "SII" the Shapley
    value itself.

    Both cells of a pair hold its whole interaction. With "k-SII" and "FSII" the diagonal and the cells above it add up
    to :math:`f(x) - v(\emptyset)`; with "SII" the diagonal does. "FSII" is the quadratic game closest to the real one
    under the Shapley kernel, which fits it at all features and at none.

    All :math:`2^M` coalitions where the budget pays them: the values are then exact. Else pairs of a coalition and its
    complement, around a quadratic game fitted to them, without bias.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`.
        fill: as for `torchwhy.ShapleyValues`.
        index: "k-SII", "SII" or "FSII".
        budget: as for `torchwhy.ShapleyValues`.
        seed: of the sample, which all examples share.

    Shapes: inputs (B, ...), values (B, M, M) for M features, which are numbered as ``feature_mask`` does or else as the
        elements lie, through all tensors of a tuple, with a standard error each, 0 where exact. Units: score.

    Papers: M. Grabisch, M. Roubens, International Journal of Game Theory 28, 1999; C.-P. Tsai, C.-K. Yeh, P. Ravikumar,
        JMLR 24, 2023, arXiv:2203.00870; F. Fumagalli et al., NeurIPS 2023, arXiv:2303.01179 (unbiased sampling).

    >>> both = ShapleyInteractions(lambda x: 6 * x[:, 0] * x[:, 1] + x[:, 2])
    >>> both.attribute(torch.ones(1, 3))
    tensor([[[0., 6., 0.],
             [6., 0., 0.],
             [0., 0., 1.]]])
    """

    index: Name = "k-SII"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index not in INDICES:
            raise TorchwhyError(f"index is {', '.join(map(repr, INDICES))}, not {self.index!r}")

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        index, alone = INDICES[self.index], self.index != "SII"
        m, rows = groups.count, rows_of(game, self.budget, "budget", least=2 * POOLED + 2)
        found: Tensor | Estimate
        if m < 62 and rows == 2**m:
            scores = all_scores(game)
            found = interactions_from_all(scores, index, alone=alone)
        else:
            pairs = draw_pairs(m, rows // 2 - 1, self.seed)
            odd, even = halves(game, pairs.rows)
            found = solve_interactions(pairs, index, odd, even, alone=alone)
        return placed(groups, game, found, lambda t: Tensors([t.movedim(-1, 0)]))

    def total(self, p: Problem) -> Tensor | None:
        if self.index == "SII":
            return None
        groups, game = self.game(p)
        nothing = torch.zeros(1, groups.count, dtype=torch.bool)
        return p.scores - game.values(lambda ks: nothing[ks], 1)[0]
