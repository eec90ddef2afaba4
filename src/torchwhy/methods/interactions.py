"""Shapley interactions: what two features do together beyond what each does alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.pairwise import FSII, K_SII, SII, STII, interactions_from_all, solve_interactions
from torchwhy.engines.surrogate import POOLED, Estimate, Pairs, draw_pairs
from torchwhy.methods.base import Attribution
from torchwhy.methods.coalitions import all_scores, placed
from torchwhy.methods.sampling import SampledMethod, ends, in_pairs
from torchwhy.registry import Info, register

Name: TypeAlias = Literal["k-SII", "SII", "FSII", "STII"]
INDICES = {"k-SII": K_SII, "SII": SII, "FSII": FSII, "STII": STII}


@register(
    Info(
        family="perturbation",
        summary="what each two features do together, and each alone: exact, or sampled with a standard error",
        paper="Grabisch, Roubens: An Axiomatic Approach to the Concept of Interaction Among Players; Tsai, Yeh, "
        "Ravikumar: Faith-Shap: The Faithful Shapley Interaction Index; Sundararajan, Dhamdhere, Agarwal: The Shapley "
        "Taylor Interaction Index",
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
class ShapleyInteractions(SampledMethod):
    r"""How features interact, in a symmetric matrix of features by features.

    .. math:: \Phi_{ij} = \sum_{S \not\ni i, j} w(|S|) \left(v(S \cup ij) - v(S \cup i) - v(S \cup j) + v(S)\right)

    with :math:`w(s) = s!\,(M - s - 2)! / (M - 1)!` for "SII" and "k-SII",
    :math:`6\,(s + 1)!\,(M - s - 1)! / (M + 1)!` for "FSII", and :math:`2\,s!\,(M - s - 1)! / M!` for "STII". On the
    diagonal stands what a feature does alone, :math:`\phi_i - \frac12 \sum_{j \ne i} \Phi_{ij}` with its Shapley value
    :math:`\phi_i`; for "SII" the Shapley value itself, and for "STII" what it adds to none,
    :math:`v(i) - v(\emptyset)`.

    Both cells of a pair hold its whole interaction. The diagonal and the cells above it add up to
    :math:`f(x) - v(\emptyset)`; with "SII" the diagonal does. "FSII" is the quadratic game closest to the real one
    under the Shapley kernel, which fits it at all features and at none. "STII", Shapley-Taylor, leaves to the features
    what they do alone and shares all else among the pairs: it is the mean, over all orders in which features arrive,
    of what two do together where the first of them does.

    All :math:`2^M` coalitions where the budget pays them: the values are then exact. Else pairs of a coalition and its
    complement, around a game of low degree fitted to them, without bias.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`.
        fill: as for `torchwhy.ShapleyValues`.
        index: "k-SII", "SII", "FSII" or "STII".
        budget: as for `torchwhy.ShapleyValues`.
        stop_at: as for `torchwhy.ShapleyValues`, of all cells.
        top_k: stop as soon as this many largest interactions of two features, whatever their sign, are told from those
            of all other two at 95 %; what features do alone is not ranked.
        seed: of the sample, which all examples share.

    Shapes: inputs (B, ...), values (B, M, M) for M features, which are numbered as ``feature_mask`` does or else as the
        elements lie, through all tensors of a tuple, with a standard error each, 0 where exact. Units: score.

    Papers: M. Grabisch, M. Roubens, International Journal of Game Theory 28, 1999; C.-P. Tsai, C.-K. Yeh, P. Ravikumar,
        JMLR 24, 2023, arXiv:2203.00870; M. Sundararajan, K. Dhamdhere, A. Agarwal, ICML 2020, arXiv:1902.05622
        (Shapley-Taylor); F. Fumagalli et al., NeurIPS 2023, arXiv:2303.01179 (unbiased sampling).

    >>> both = ShapleyInteractions(lambda x: 6 * x[:, 0] * x[:, 1] + x[:, 2])
    >>> both.attribute(torch.ones(1, 3))
    tensor([[[0., 6., 0.],
             [6., 0., 0.],
             [0., 0., 1.]]])
    """

    ranks: ClassVar[str] = "interactions"

    index: Name = "k-SII"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index not in INDICES:
            raise TorchwhyError(f"index is {', '.join(map(repr, INDICES))}, not {self.index!r}")

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        index, m = INDICES[self.index], groups.count
        alone = m if index.diagonal == "first" else 0  # rows of one feature
        rows = self.rows(game, least=2 * POOLED + 2 + alone)
        if self.every(game, rows):
            return placed(groups, game, interactions_from_all(all_scores(game), index), _matrix)
        whole, nothing = ends(game)
        first = None
        if alone:
            first = game.evaluate(torch.eye(m, dtype=torch.bool), "evaluating coalitions").double().cpu() - nothing

        def solve(pairs: Pairs, scores: Tensor) -> Estimate:
            here, there = torch.cat([torch.stack([whole, nothing])[None], scores]).unbind(1)
            return solve_interactions(pairs, index, (here - there) / 2, (here + there) / 2, first)

        pairs = draw_pairs(m, (rows - 2 - alone) // 2, self.seed)
        fitted = math.comb(m, 2) + m + (math.comb(m, 3) if alone else 0)  # of degree two, or three
        return self.sampled(groups, game, in_pairs(pairs, POOLED, solve, fitted), _matrix)

    def ranked(self, values: Tensor) -> Tensor:
        return torch.ones(values.shape[:2], dtype=torch.bool).triu(1)

    def total(self, p: Problem) -> Tensor | None:
        if self.index == "SII":
            return None
        groups, game = self.game(p)
        nothing = torch.zeros(1, groups.count, dtype=torch.bool)
        return p.scores - game.values(lambda ks: nothing[ks], 1)[0]


def _matrix(cells: Tensor) -> Tensors:
    """Cells (M, M, B) as a matrix for each example."""
    return Tensors([cells.movedim(-1, 0)])
