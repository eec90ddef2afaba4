"""Shapley values by weighted regression."""

from __future__ import annotations

from dataclasses import dataclass

from torchwhy.core.problem import Problem
from torchwhy.engines.surrogate import POOLED, draw_pairs, shapley_from_all, solve_kernel
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import DEFAULT_ROWS, MOST_EXACT, all_scores, attribution, rows_of
from torchwhy.methods.sampling import SampledMethod, ends, pairs_of
from torchwhy.registry import Info, register


@register(
    Info(
        family="perturbation",
        summary="Shapley values by weighted regression on coalitions",
        paper="Lundberg, Lee: A Unified Approach to Interpreting Model Predictions",
        year=2017,
        needs="forward passes",
        cost="n_samples forward passes, or 2^M for M features where these are fewer",
        baselines="one",
        promises=("completeness", "linearity"),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class KernelShap(SampledMethod):
    r"""The additive game closest to the real one under the Shapley kernel.

    .. math:: \min_\phi \sum_S \frac{M - 1}{\binom{M}{|S|} |S| (M - |S|)}
        \left(v(S) - v(\emptyset) - \sum_{i \in S} \phi_i\right)^2
        \quad \text{with} \quad \sum_i \phi_i = v(N) - v(\emptyset)

    Over all coalitions these are the Shapley values, and so they are here where ``n_samples`` pays them all. Else it
    takes pairs of a coalition and its complement without repetition. `ShapleyValues` uses the same pairs better.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`.
        fill: as for `torchwhy.ShapleyValues`.
        n_samples: evaluations of the model per example, those of all and no features included; None is 2,048, or 65,536
            with ``stop_at`` or ``top_k``.
        budget: the same under the name it has for the other methods; where both are given, the smaller counts.
        stop_at: as for `torchwhy.ShapleyValues`.
        top_k: as for `torchwhy.ShapleyValues`.
        seed: of the sample, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each, 0 where exact. Units: score.

    Papers: S. Lundberg, S.-I. Lee, NeurIPS 2017, arXiv:1705.07874; I. Covert, S.-I. Lee, AISTATS 2021, arXiv:2012.01536
        (pairs).

    >>> import torch
    >>> both = KernelShap(lambda x: 6 * x[:, 0] * x[:, 1] + x[:, 2])
    >>> both.attribute(torch.ones(1, 3))
    tensor([[3., 3., 1.]])
    """

    n_samples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_samples is not None:
            at_least("n_samples", self.n_samples, 1)

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        given = {"budget": self.budget, "n_samples": self.n_samples}
        named = {name: count for name, count in given.items() if count is not None}
        name = min(named, key=named.__getitem__, default="n_samples")
        rows = rows_of(game, named.get(name, MOST_EXACT if self.rule else DEFAULT_ROWS), name, fewest(groups.count))
        if self.every(game, rows):
            return attribution(groups, game, shapley_from_all(all_scores(game)))
        whole, nothing = ends(game)
        pairs = draw_pairs(groups.count, rows // 2 - 1, self.seed)
        return self.sampled(groups, game, pairs_of(pairs, whole - nothing, groups.count + POOLED, solve_kernel))


def fewest(features: int) -> int:
    """Evaluations, fewer than which are of no use, for so many features."""
    return 2 * (features + POOLED) + 2
