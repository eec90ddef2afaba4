"""Give a feature the values it has in other examples and see how far the score falls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.engines.fills import Marginal
from torchwhy.engines.game import Game, Groups
from torchwhy.methods.base import Attribution, Method
from torchwhy.registry import Info, register


@register(
    Info(
        family="perturbation",
        summary="how far the score falls when a feature gets the values it has in other examples",
        paper="Breiman: Random Forests; Fisher, Rudin, Dominici: All Models are Wrong, but Many are Useful",
        year=2001,
        needs="forward passes",
        cost="1 forward pass per feature and row of the set",
        baselines="set",
        promises=("sensitivity", "linearity"),
    )
)
@dataclass(kw_only=True, eq=False)
class FeaturePermutation(Method):
    r"""The mean fall of the score when one feature is taken from another example.

    .. math:: \phi_i = f(x) - \frac1N \sum_n f(x_{\setminus i}, b_{n,i})

    over the rows b of the set. With the examples themselves as the set, this is the mean over all shuffles of the
    feature, and nothing depends on the luck of one. The mean of the values over many examples is the feature's
    importance for the model.

    Args:
        feature_mask: integers that broadcast to the inputs; elements with the same number, in whichever input of a
            tuple, are one feature and get one value. None makes every element a feature.

    Shapes: inputs (B, ...), baselines (N, ...), values (B, ...). Units: score.

    Papers: L. Breiman, Machine Learning 45, 2001; A. Fisher, C. Rudin, F. Dominici, JMLR 20, 2019, arXiv:1801.01489.

    >>> import torch
    >>> permutation = FeaturePermutation(lambda x: x[:, 0] * x[:, 1])
    >>> permutation.attribute(torch.tensor([[2.0, 3.0]]), baselines=torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    tensor([[4.5000, 4.0000]])
    """

    feature_mask: Tensor | tuple[Tensor, ...] | None = None

    def compute(self, p: Problem) -> Attribution:
        groups = Groups(p.point, self.feature_mask)
        falls = Game(p, groups, Marginal()).one_absent()
        return Attribution(groups.spread(falls), details={"features": groups.count})

    def options(self) -> dict[str, Any]:
        return {"feature_mask": "each element" if self.feature_mask is None else "given"}
