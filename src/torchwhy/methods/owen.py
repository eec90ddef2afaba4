"""Owen sampling: Shapley values as an integral over how likely features are to be present."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.engines.game import Game
from torchwhy.engines.noise import draws
from torchwhy.engines.surrogate import Estimate
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.sampling import SampledMethod, Units, mean_of
from torchwhy.registry import Info, register

STREAM = 35
SAMPLES = 10  # where nothing else is asked for


@register(
    Info(
        family="perturbation",
        summary="Shapley values from the slope of the score's multilinear extension",
        paper="Owen: Multilinear Extensions of Games; Okhrati, Lipani: A Multilinear Sampling Algorithm to Estimate "
        "Shapley Values",
        year=2021,
        needs="forward passes",
        cost="n_nodes * n_samples forward passes per feature, or the budget",
        baselines="one",
        promises=("completeness in expectation", "symmetry in expectation", "sensitivity", "linearity"),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class OwenSampling(SampledMethod):
    r"""The mean over q of what a feature adds to a coalition that each other feature has joined with probability q.

    .. math:: \phi_i = \int_0^1 \mathbb{E}_{S \sim q} \left[v(S \cup i) - v(S \setminus i)\right] dq

    The interval is cut into ``n_nodes`` of the same length, and each sample has a random q from every one, so that
    there is no bias, however few they are. A feature that never matters gets exactly 0, and an additive game is exact.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`.
        fill: as for `torchwhy.ShapleyValues`.
        n_nodes: parts of the interval.
        n_samples: coalitions for each part; None is 10, or with ``budget``, ``stop_at`` or ``top_k`` as many as the
            budget pays.
        budget: evaluations of the model per example, of which a sample takes ``n_nodes`` times one more than there are
            features. None is 65,536 with ``stop_at`` or ``top_k``, and else no limit.
        stop_at: as for `torchwhy.ShapleyValues`.
        top_k: as for `torchwhy.ShapleyValues`.
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
    n_samples: int | None = None
    antithetic: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_nodes", self.n_nodes, 1)
        if self.n_samples is not None:
            at_least("n_samples", self.n_samples, 1)

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        return self.sampled(groups, game, self._units(groups.count, self._count(game)))

    def _count(self, game: Game) -> int:
        """How many samples."""
        paid = self.paid(game, self.n_nodes * (game.features.count + 1), 2 * self._step if self.rule else 1)
        if paid is None:
            return self.n_samples or SAMPLES
        paid = max(1, paid - paid % self._step)
        return min(paid, self.n_samples or paid)

    @property
    def _step(self) -> int:
        """So many samples at a time are independent of the others."""
        return 2 if self.antithetic else 1

    def _units(self, m: int, count: int) -> Units:
        """Samples: a coalition for every node, and the same with each feature changed."""
        coalitions = self._coalitions(m, count)
        joined = (2.0 * coalitions - 1).unflatten(0, (count, self.n_nodes))[..., None]

        def rows(ks: slice) -> Tensor:
            k = torch.arange(ks.start, ks.stop)
            return coalitions[k // (m + 1)] ^ (k[:, None] % (m + 1) == torch.arange(m) + 1)

        def solve(scores: Tensor) -> Estimate:
            scores = scores.unflatten(1, (self.n_nodes, m + 1))
            rises = joined[: len(scores)] * (scores[:, :, :1] - scores[:, :, 1:])
            return mean_of(rises.mean(1), self._step)

        return Units(rows, self.n_nodes * (m + 1), count, 2 * self._step, solve)

    def _coalitions(self, m: int, count: int) -> Tensor:
        """Rows (count * n_nodes, M)."""
        samples: list[Tensor] = []
        for k in range(-(-count // self._step)):
            generator = draws(self.seed, STREAM, k)
            offset = torch.rand(self.n_nodes, generator=generator, dtype=torch.float64)
            q = (torch.arange(self.n_nodes) + offset) / self.n_nodes
            rows = torch.rand(self.n_nodes, m, generator=generator, dtype=torch.float64) < q[:, None]
            samples += [rows, ~rows][: self._step]
        return torch.cat(samples[:count])
