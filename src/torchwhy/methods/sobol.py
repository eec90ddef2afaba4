"""Sobol' indices: the share of the score's variance under random soft masks that is an element's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Groups
from torchwhy.engines.noise import check_seed, draws
from torchwhy.engines.soft import cells, faded
from torchwhy.engines.surrogate import student
from torchwhy.methods.base import Attribution, Method, at_least
from torchwhy.registry import Info, register

Order: TypeAlias = Literal["total", "first"]
STREAM = 36


@register(
    Info(
        family="perturbation",
        summary="the share of the score's variance under random soft masks that is due to a cell",
        paper="Fel, Cadène, Chalvidal, Cord, Vigouroux, Serre: Look at the Variance!",
        year=2021,
        needs="forward passes",
        cost="n_replicates * n_samples * (M + 2) forward passes for M cells",
        baselines="one",
        promises=("sensitivity",),
        signed=False,
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class SobolAttribution(Method):
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
        cells: of the grid in each dimension of maps (B, C, ...), which all channels share; of anything else each
            element is a cell.
        order: "total" or "first".
        n_samples: pairs of masks in each replicate; a power of two fits the sequence best.
        n_replicates: of the sequence, from whose spread the standard errors are.
        seed: of the sequences, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each. Units: share of the variance. The record holds
        ``interval_95``, half the width of a 95 % interval in standard errors.

    Papers: T. Fel et al., NeurIPS 2021, arXiv:2111.04138; M. Jansen, Computer Physics Communications 117, 1999.

    >>> sobol = SobolAttribution(lambda x: 3 * x[:, 0] + 4 * x[:, 1], n_samples=256)
    >>> sobol.attribute(torch.ones(1, 3)).round(decimals=2)
    tensor([[0.3600, 0.6400, 0.0000]])
    """

    feature_mask: Tensor | tuple[Tensor, ...] | None = None
    cells: int = 8
    order: Order = "total"
    n_samples: int = 16
    n_replicates: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("cells", self.cells, 1)
        at_least("n_samples", self.n_samples, 2)
        at_least("n_replicates", self.n_replicates, 1)
        check_seed(self.seed)
        if self.order not in ("total", "first"):
            raise TorchwhyError(f"order is 'total' or 'first', not {self.order!r}")

    def options(self) -> dict[str, Any]:
        return super().options() | {"feature_mask": "a grid" if self.feature_mask is None else "given"}

    def compute(self, p: Problem) -> Attribution:
        groups = Groups(p.point, cells(p.point, self.cells) if self.feature_mask is None else self.feature_mask)
        m = groups.count
        if 2 * m > SobolEngine.MAXDIM:
            raise TorchwhyError(f"{m} features are more than {SobolEngine.MAXDIM // 2}: take fewer cells")
        found = [self._replicate(p, groups, masks) for masks in self._pairs(m)]
        squares, variances = (torch.stack(parts) for parts in zip(*found, strict=True))  # (R, M, B), (R, B)
        variance = variances.mean(0)
        # A score that no mask moves has nothing to share.
        known = variance > 0
        ratio = torch.where(known, squares.mean(0) / variance.where(known, 1), 0)
        first = self.order == "first"
        device = p.point.device
        values = groups.spread((known * (1 - ratio) if first else ratio).to(device))
        details: dict[str, Any] = {"features": m, "evaluations": self.n_replicates * self.n_samples * (m + 2)}
        if self.n_replicates == 1:
            return Attribution(values, details=details)
        away = (squares - ratio * variances[:, None]) / variance.where(known, 1)
        error = away.std(0) / self.n_replicates**0.5
        details["interval_95"] = student(self.n_replicates - 1)
        return Attribution(values, groups.spread(error.to(device)), details=details)

    def _pairs(self, m: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Masks A and B (n_samples, M) of each replicate."""
        for k in range(self.n_replicates):
            engine = SobolEngine(2 * m, scramble=True, seed=draws(self.seed, STREAM, k).initial_seed())
            a, b = engine.draw(self.n_samples, dtype=torch.float64).chunk(2, 1)
            yield a, b

    def _replicate(self, p: Problem, groups: Groups, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Half the mean squares of the differences (M, B), and the variance (B,)."""
        a, b = pair
        n, m = a.shape

        def masks(ks: slice) -> Tensors:
            k = torch.arange(ks.start, ks.stop)
            design, kind = k // (m + 2), (k % (m + 2))[:, None]
            # A, B, then A with one cell of B.
            rows = torch.where((kind == 1) | (kind == torch.arange(m) + 2), b[design], a[design])
            return groups.ids.map(lambda ids: rows.to(ids.device)[:, ids])

        scores = p.scores_at(faded(p, masks, type(self).__name__), n * (m + 2), "showing through masks")
        # Above the score of the example, so that digits are kept.
        f = (scores.double() - p.scores.double()).unflatten(0, (n, m + 2))
        against = f[:, 1:2] if self.order == "first" else f[:, :1]
        return (against - f[:, 2:]).square().mean(0) / 2, (f[:, 0] - f[:, 1]).square().mean(0) / 2
