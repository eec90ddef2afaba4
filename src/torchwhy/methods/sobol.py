"""Sobol' indices: the share of the score's variance under random soft masks that is an element's."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.engines.fills import as_fill
from torchwhy.engines.game import Groups
from torchwhy.engines.noise import draws
from torchwhy.engines.soft import SoftGame, SoftMasks, cells
from torchwhy.engines.spread import error_of_mean
from torchwhy.engines.surrogate import Estimate
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.sampling import SampledMethod, Units
from torchwhy.registry import Info, register

Order: TypeAlias = Literal["total", "first"]
STREAM = 36
REPLICATES = 8  # where nothing else is asked for
FIRST_LOOK = 4  # replicates


@register(
    Info(
        family="perturbation",
        summary="the share of the score's variance under random soft masks that is due to a cell",
        paper="Fel, Cadène, Chalvidal, Cord, Vigouroux, Serre: Look at the Variance!",
        year=2021,
        needs="forward passes",
        cost="n_replicates * n_samples * (M + 2) forward passes for M cells, or the budget",
        baselines="one",
        promises=("sensitivity",),
        signed=False,
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class SobolAttribution(SampledMethod):
    r"""Sobol' indices of the cells of a grid, each of which is shown to a random degree.

    .. math:: S_{T_i} = \frac{\mathbb{E}\left[(f(A) - f(A_B^i))^2\right]}{2 \operatorname{Var} f(A)}, \qquad
        S_i = 1 - \frac{\mathbb{E}\left[(f(B) - f(A_B^i))^2\right]}{2 \operatorname{Var} f(A)}

    with :math:`f(m) = f(m \odot x + (1 - m) \odot x')`, independent masks A and B, uniform in [0, 1] for each cell, and
    A with the cell i of B, :math:`A_B^i` (Jansen's estimators). The total index is the share of the variance that a
    cell has part in; the first-order index the share that is its own. Where cells interact, total indices add up to
    more than 1 and first-order indices to less.

    Masks are from a scrambled Sobol' sequence, of which ``n_replicates`` are independent.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`; None makes a grid of ``cells``.
        fill: :math:`x'`, as for `torchwhy.ShapleyValues`: what is drawn is averaged over, and what depends on what is
            present takes a cell to be there where its mask is at least one half.
        cells: of the grid in each dimension of maps (B, C, ...), which all channels share; of anything else each
            element is a cell.
        order: "total" or "first".
        n_samples: pairs of masks in each replicate; a power of two fits the sequence best.
        n_replicates: of the sequence, from whose spread the standard errors are; None is 8, or with ``budget``,
            ``stop_at`` or ``top_k`` as many as the budget pays.
        budget: evaluations of the model per example, of which a replicate takes n_samples (M + 2). None is 65,536 with
            ``stop_at`` or ``top_k``, and else no limit.
        stop_at: as for `torchwhy.ShapleyValues`.
        top_k: as for `torchwhy.ShapleyValues`.
        seed: of the sequences, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each. Units: share of the variance. The record holds
        ``interval_95``, half the width of a 95 % interval in standard errors.

    Papers: T. Fel et al., NeurIPS 2021, arXiv:2111.04138; M. Jansen, Computer Physics Communications 117, 1999.

    >>> sobol = SobolAttribution(lambda x: 3 * x[:, 0] + 4 * x[:, 1], n_samples=256)
    >>> sobol.attribute(torch.ones(1, 3)).round(decimals=2)
    tensor([[0.3600, 0.6400, 0.0000]])
    """

    cells: int = 8
    order: Order = "total"
    n_samples: int = 16
    n_replicates: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("cells", self.cells, 1)
        at_least("n_samples", self.n_samples, 2)
        if self.n_replicates is not None:
            at_least("n_replicates", self.n_replicates, 1)
        if self.order not in ("total", "first"):
            raise TorchwhyError(f"order is 'total' or 'first', not {self.order!r}")

    def options(self) -> dict[str, Any]:
        return super().options() | {"feature_mask": "a grid" if self.feature_mask is None else "given"}

    def compute(self, p: Problem) -> Attribution:
        groups = Groups(p.point, cells(p.point, self.cells) if self.feature_mask is None else self.feature_mask)
        if 2 * groups.count > SobolEngine.MAXDIM:
            raise TorchwhyError(f"{groups.count} features are more than {SobolEngine.MAXDIM // 2}: take fewer cells")
        masks = Designs(groups, self.n_samples, self.seed)
        game = SoftGame(p, masks, as_fill(self.fill), type(self).__name__)
        paid = self.paid(game, masks.each, 2 if self.rule else 1)
        count = self.n_replicates or REPLICATES if paid is None else min(paid, self.n_replicates or paid)

        def solve(scores: Tensor) -> Estimate:
            # Above the score of the example, so that digits are kept.
            f = (scores - p.scores.to(scores)).unflatten(1, (self.n_samples, -1))
            return _indices(f, first=self.order == "first")

        return self.sampled(groups, game, Units(masks.rows, masks.each, count, 2, solve, FIRST_LOOK, in_scores=False))


class Designs(SoftMasks):
    """Masks A, B, and A with one feature of B, of each pair of a replicate, replicate after replicate.

    Args:
        groups: the features, M.
        n_samples: pairs in a replicate.
        seed: of the sequences.
    """

    def __init__(self, groups: Groups, n_samples: int, seed: int) -> None:
        super().__init__(groups)
        self.n_samples, self.seed = n_samples, seed
        self.each = n_samples * (groups.count + 2)  # masks in a replicate
        self._last: tuple[int, Tensor] = (-1, torch.empty(0))

    def key(self) -> Hashable:
        return self.groups.key(), self.n_samples, self.seed

    def degrees(self, ks: Tensor) -> Tensor:
        m = self.count
        replicates, which = (ks // self.each).unique(return_inverse=True)
        pairs = torch.stack([self._pairs(k) for k in replicates.tolist()])
        a, b = pairs[which, ks % self.each // (m + 2)].chunk(2, 1)
        kind = (ks % (m + 2))[:, None]
        return torch.where((kind == 1) | (kind == torch.arange(m) + 2), b, a)

    def _pairs(self, replicate: int) -> Tensor:
        """Masks A and B side by side, (n_samples, 2 M)."""
        if self._last[0] != replicate:
            engine = SobolEngine(2 * self.count, scramble=True, seed=draws(self.seed, STREAM, replicate).initial_seed())
            self._last = replicate, engine.draw(self.n_samples, dtype=torch.float64)
        return self._last[1]


def _indices(f: Tensor, *, first: bool) -> Estimate:
    """Indices (M, B) from the scores (R, n_samples, M + 2, B) of replicates."""
    against = f[:, :, 1:2] if first else f[:, :, :1]
    squares = (against - f[:, :, 2:]).square().mean(1) / 2
    variances = (f[:, :, 0] - f[:, :, 1]).square().mean(1) / 2
    variance = variances.mean(0)
    # A score that no mask moves has nothing to share.
    known = variance > 0
    ratio = torch.where(known, squares.mean(0) / variance.where(known, 1), 0)
    values = known * (1 - ratio) if first else ratio
    if len(f) == 1:
        return Estimate(values, torch.full_like(values, torch.inf), 1)
    away = (squares - ratio * variances[:, None]) / variance.where(known, 1)
    return Estimate(values, error_of_mean(away), len(f) - 1)
