"""Owen sampling: Shapley values as an integral over how likely features are to be present."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.engines.game import Game
from torchwhy.engines.noise import draws
from torchwhy.engines.surrogate import Estimate, error_of_mean
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import CoalitionMethod, attribution
from torchwhy.registry import Info, register

STREAM = 35


@register(
    Info(
        family="perturbation",
        summary="Shapley values from the slope of the score's multilinear extension",
        paper="Owen: Multilinear Extensions of Games; Okhrati, Lipani: A Multilinear Sampling Algorithm to Estimate "
        "Shapley Values",
        year=2021,
        needs="forward passes",
        cost="n_nodes * n_samples forward passes per feature",
        baselines="one",
        promises=("completeness in expectation", "symmetry in expectation", "sensitivity", "linearity"),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class OwenSampling(CoalitionMethod):
    r"""The mean over q of what a feature adds to a coalition that each other feature has joined with probability q.

    .. math:: \phi_i = \int_0^1 \mathbb{E}_{S \sim q} \left[v(S \cup i) - v(S \setminus i)\right] dq

    The interval is cut into ``n_nodes`` of the same length, and each sample has a random q from every one, so that
    there is no bias, however few they are. A feature that never matters gets exactly 0, and an additive game is exact.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`.
        fill: as for `torchwhy.ShapleyValues`.
        n_nodes: parts of the interval.
        n_samples: coalitions for each part.
        antithetic: every second sample has the complements of the one before, at 1 - q.
        seed: of the coalitions, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each. Units: score. The record holds ``interval_95``,
        half the width of a 95 % interval in standard errors.

    Papers: G. Owen, Management Science 18(5), 1972; R. Okhrati, A. Lipani, ICPR 2020, arXiv:2010.12082.

    >>> both = OwenSampling(lambda x: 6 * x[:, 0] * x[:, 1] + x[:, 2], n_samples=2000)
    >>> both.attribute(torch.ones(1, 3)).round(decimals=1)
    tensor([[3., 3., 1.]])
    """

    n_nodes: int = 5
    n_samples: int = 10
    antithetic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_nodes", self.n_nodes, 1)
        at_least("n_samples", self.n_samples, 1)

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        rises = self._rises(game, self._coalitions(groups.count)).unflatten(0, (self.n_samples, self.n_nodes))
        values, step = rises.mean((0, 1)), 2 if self.antithetic else 1
        units = self.n_samples // step
        if units < 2:
            details = {"features": groups.count, "evaluations": game.evaluations}
            return Attribution(groups.spread(values), details=details)
        # A sample without its complements has at most the spread of two with theirs.
        means = rises[: units * step].unflatten(0, (units, step)).mean((1, 2))
        return attribution(groups, game, Estimate(values, error_of_mean(means).to(values), units - 1))

    def _coalitions(self, m: int) -> Tensor:
        """Rows (n_samples * n_nodes, M)."""
        step = 2 if self.antithetic else 1
        samples: list[Tensor] = []
        for k in range(-(-self.n_samples // step)):
            generator = draws(self.seed, STREAM, k)
            offset = torch.rand(self.n_nodes, generator=generator, dtype=torch.float64)
            q = (torch.arange(self.n_nodes) + offset) / self.n_nodes
            rows = torch.rand(self.n_nodes, m, generator=generator, dtype=torch.float64) < q[:, None]
            samples += [rows, ~rows][:step]
        return torch.cat(samples[: self.n_samples])

    @staticmethod
    def _rises(game: Game, coalitions: Tensor) -> Tensor:
        """By how much the score rises when each feature joins a coalition that it is left out of, (n, M, B)."""
        n, m = coalitions.shape

        def rows(ks: slice) -> Tensor:
            k = torch.arange(ks.start, ks.stop)
            # The coalition itself, and with one feature changed.
            return coalitions[k // (m + 1)] ^ (k[:, None] % (m + 1) == torch.arange(m) + 1)

        scores = game.values(rows, n * (m + 1), "evaluating coalitions").double().unflatten(0, (n, m + 1))
        joined = (2.0 * coalitions - 1)[:, :, None].to(scores)
        rises: Tensor = joined * (scores[:, :1] - scores[:, 1:])
        return rises
