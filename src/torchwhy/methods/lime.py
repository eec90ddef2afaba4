"""A simple model that imitates the network near one example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.engines.game import Game
from torchwhy.engines.noise import draws
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import BudgetedMethod
from torchwhy.methods.sampling import broken_off, evaluated
from torchwhy.registry import Info, register

Distance: TypeAlias = Literal["cosine", "hamming"]
ROWS = 1000  # where nothing else is asked for


@register(
    Info(
        family="perturbation",
        summary="the weights of a linear model that imitates the network near the example",
        paper='Ribeiro, Singh, Guestrin: "Why Should I Trust You?": Explaining the Predictions of Any Classifier',
        year=2016,
        needs="forward passes",
        cost="n_samples forward passes, or the budget",
        baselines="one",
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class Lime(BudgetedMethod):
    r"""The weights of a linear model of which features are present, fitted near the example.

    .. math:: \min_{w, b} \sum_k e^{-d(z_k)^2 / \sigma^2} \left(v(z_k) - b - w \cdot z_k\right)^2 + \Omega(w)

    over rows :math:`z_k` in which each feature is present or not by the toss of a coin; the first has all. The record
    holds ``r2``, the weighted share of the variance that the linear model explains: where it is low, the weights say
    little about the network.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`.
        fill: as for `torchwhy.ShapleyValues`.
        n_samples: rows; None is 1,000, or with ``budget`` as many as it pays.
        budget: evaluations of the model per example.
        distance: d from the whole example, "cosine", :math:`1 - \sqrt{|z| / M}`, or "hamming", the share that is
            absent.
        kernel_width: :math:`\sigma`.
        surrogate: "ridge", "lasso", "linear", or a scikit-learn estimator with ``fit(X, y, sample_weight)`` and
            ``coef_``.
        alpha: the weight of the penalty :math:`\Omega` of "ridge" and "lasso", in scikit-learn's units.
        seed: of the rows, which all examples share.

    Shapes: inputs (B, ...), values (B, ...). Units: score.

    Paper: M. T. Ribeiro, S. Singh, C. Guestrin, KDD 2016, arXiv:1602.04938.

    >>> lime = Lime(lambda x: 6 * x[:, 0] - x[:, 1], surrogate="linear", n_samples=20)
    >>> lime.attribute(torch.ones(1, 2, dtype=torch.float64)).round(decimals=6)
    tensor([[ 6., -1.]], dtype=torch.float64)
    """

    n_samples: int | None = None
    distance: Distance = "cosine"
    kernel_width: float = 0.25
    surrogate: Any = "ridge"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_samples is not None:
            at_least("n_samples", self.n_samples, 2)
        if self.distance not in ("cosine", "hamming"):
            raise TorchwhyError(f"distance is 'cosine' or 'hamming', not {self.distance!r}")
        for name, value, above in (("kernel_width", self.kernel_width, 0), ("alpha", self.alpha, -1e-300)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < float("inf"):
                raise TorchwhyError(f"{name} is a number {'above 0' if above == 0 else 'of at least 0'}, not {value!r}")
        if isinstance(self.surrogate, str):
            if self.surrogate not in ("ridge", "lasso", "linear"):
                raise TorchwhyError(f"surrogate is 'ridge', 'lasso' or 'linear', not {self.surrogate!r}")
        elif not hasattr(self.surrogate, "fit"):
            raise TorchwhyError(f"surrogate is a name or a scikit-learn estimator, not {self.surrogate!r}")

    def options(self) -> dict[str, Any]:
        return super().options() | {"surrogate": str(self.surrogate)}

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        count = self._count(game)
        rows = torch.rand(count, groups.count, generator=draws(self.seed, 33)) < 0.5
        rows[0] = True
        scores, complete = evaluated(game, lambda ks: rows[ks], len(rows), "evaluating rows")
        if len(scores) < 2:
            raise KeyboardInterrupt
        scores, rows = scores.double().cpu(), rows[: len(scores)]
        weights = self._weights(rows).numpy()
        x, values, fits = rows.double().numpy(), [], []
        for y in scores.T.numpy():
            model = self._model().fit(x, y, sample_weight=weights)
            if not hasattr(model, "coef_"):
                raise TorchwhyError(f"the surrogate {model} has no coef_: choose a linear one")
            values.append(torch.as_tensor(model.coef_, dtype=torch.float64).flatten())
            fits.append(float(model.score(x, y, sample_weight=weights)))
        found = groups.spread(torch.stack(values, 1).to(p.point.device))
        made = Attribution(found, details={"features": groups.count, "evaluations": game.evaluations, "r2": fits})
        return made if complete else broken_off(made, p.size, game.evaluations, count * game.draws)

    def _count(self, game: Game) -> int:
        """How many rows."""
        if self.budget is None:
            return self.n_samples or ROWS
        paid = self.budget // game.draws
        if paid < 2:
            raise TorchwhyError(f"budget={self.budget} is too small: the least that works is {2 * game.draws}")
        return min(paid, self.n_samples or paid)

    def _weights(self, rows: Tensor) -> Tensor:
        share = rows.double().mean(1)
        away = 1 - (share.sqrt() if self.distance == "cosine" else share)
        return torch.exp(-((away / self.kernel_width) ** 2))

    def _model(self) -> Any:
        from sklearn import base, linear_model
        from sklearn.utils.validation import has_fit_parameter

        if not isinstance(self.surrogate, str):
            if not has_fit_parameter(self.surrogate, "sample_weight"):
                raise TorchwhyError(f"the surrogate {self.surrogate} takes no sample_weight: choose one that does")
            return base.clone(self.surrogate)
        if self.surrogate == "linear":
            return linear_model.LinearRegression()
        return {"ridge": linear_model.Ridge, "lasso": linear_model.Lasso}[self.surrogate](alpha=self.alpha)
