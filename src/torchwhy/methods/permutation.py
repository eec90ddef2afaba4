"""Give a feature the values it has in other examples and see how far the score falls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
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
        perm_func: from the inputs (B, ...) and a boolean mask of one feature, (1 or B, ...), to the inputs with that
            feature shuffled as you like, once for each feature and tensor; the set is then not looked at. What it
            draws from the global generators is the same in every call, which leaves them as they were.

    Shapes: inputs (B, ...), baselines (N, ...), values (B, ...). Units: score.

    Papers: L. Breiman, Machine Learning 45, 2001; A. Fisher, C. Rudin, F. Dominici, JMLR 20, 2019, arXiv:1801.01489.

    >>> import torch
    >>> permutation = FeaturePermutation(lambda x: x[:, 0] * x[:, 1])
    >>> permutation.attribute(torch.tensor([[2.0, 3.0]]), baselines=torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    tensor([[4.5000, 4.0000]])
    """

    feature_mask: Tensor | tuple[Tensor, ...] | None = None
    perm_func: Callable[[Tensor, Tensor], Tensor] | None = None

    def compute(self, p: Problem) -> Attribution:
        groups = Groups(p.point, self.feature_mask)
        falls = Game(p, groups, Marginal()).one_absent() if self.perm_func is None else self._shuffled(p, groups)
        return Attribution(groups.spread(falls), details={"features": groups.count})

    def options(self) -> dict[str, Any]:
        shuffled = {} if self.perm_func is None else {"perm_func": getattr(self.perm_func, "__name__", "given")}
        return {"feature_mask": "each element" if self.feature_mask is None else "given"} | shuffled

    def _shuffled(self, p: Problem, groups: Groups) -> Tensor:
        """The falls (M, B) under the user's own shuffles, which see all examples at once."""
        falls = []
        with p.progress.task("shuffling", groups.count) as advance:
            for feature in range(groups.count):
                falls.append(p.scores - self._score(p, groups, feature))
                advance(1)
        return torch.stack(falls)

    def _score(self, p: Problem, groups: Groups, feature: int) -> Tensor:
        moved = p.point.map(lambda t, ids: self._shuffle(t, ids == feature), groups.ids)
        return p.scores_at(lambda es, ks: moved[es].map(lambda t: t[None]))[0]

    def _shuffle(self, t: Tensor, mask: Tensor) -> Tensor:
        assert self.perm_func is not None
        if not mask.any():
            return t
        moved = self.perm_func(t.clone(), mask)
        if not isinstance(moved, Tensor) or moved.shape != t.shape:
            raise TorchwhyError(f"perm_func gives a tensor of the inputs' shape, {tuple(t.shape)}, not {moved!r:.80}")
        return moved.to(t)
