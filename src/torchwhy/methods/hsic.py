"""How far the score depends on which cells are present: the Hilbert-Schmidt independence criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pdist

from torchwhy.core.problem import Problem
from torchwhy.engines.fills import as_fill
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.noise import draws
from torchwhy.engines.soft import cells
from torchwhy.engines.surrogate import Estimate
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import CoalitionMethod, attribution
from torchwhy.registry import Info, register

STREAM = 37
BLOCKS = 20  # of the jackknife


@register(
    Info(
        family="perturbation",
        summary="how far the score depends, in any way, on whether a cell is present",
        paper="Novello, Fel, Vigouroux: Making Sense of Dependence: Efficient Black-box Explanations Using Dependence "
        "Measure",
        year=2022,
        needs="forward passes",
        cost="n_samples forward passes",
        baselines="one",
        promises=("symmetry in expectation",),
        signed=False,
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class HSICAttribution(CoalitionMethod):
    r"""The dependence between a cell's presence and the score, over random rows of present cells.

    .. math:: \phi_i = \frac{1}{(n - 1)^2} \operatorname{tr}(K_i H L H), \qquad H = I - \tfrac1n 1 1^\top

    with the Dirac kernel on presence, :math:`K_{ab} = [m_{ai} = m_{bi}]`, and a Gaussian one on the scores,
    :math:`L_{ab} = \exp(-(f_a - f_b)^2 / 2 \sigma^2)`, as wide as the median distance between two of them. Cells are
    present or not by the toss of a coin. Where the score does not depend on a cell it is 0 but for chance and a bias of
    order 1/n, which ``unbiased`` takes away.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`; None makes a grid of ``cells``.
        fill: as for `torchwhy.ShapleyValues`.
        cells: of the grid in each dimension of maps (B, C, ...), which all channels share; of anything else each
            element is a cell.
        n_samples: rows.
        unbiased: the estimator of Song et al., which can be negative where there is no dependence.
        seed: of the rows, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each (jackknife). Units: none; 1/4 at most. The
        record holds ``interval_95``, half the width of a 95 % interval in standard errors.

    Papers: P. Novello, T. Fel, D. Vigouroux, NeurIPS 2022, arXiv:2206.06219; L. Song et al., JMLR 13, 2012.

    >>> hsic = HSICAttribution(lambda x: 2 * x[:, 0] + x[:, 1])
    >>> hsic.attribute(torch.ones(1, 3)).round(decimals=2)
    tensor([[0.1500, 0.0300, 0.0000]])
    """

    cells: int = 7
    n_samples: int = 1000
    unbiased: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("cells", self.cells, 1)
        at_least("n_samples", self.n_samples, 8 if self.unbiased else 4)

    def game(self, p: Problem) -> tuple[Groups, Game]:
        groups = Groups(p.point, cells(p.point, self.cells) if self.feature_mask is None else self.feature_mask)
        return groups, Game(p, groups, as_fill(self.fill))

    def options(self) -> dict[str, Any]:
        return super().options() | {"feature_mask": "a grid" if self.feature_mask is None else "given"}

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        rows = torch.rand(self.n_samples, groups.count, generator=draws(self.seed, STREAM)) < 0.5
        scores = game.evaluate(rows, "evaluating rows").double().cpu()
        signs = rows.double() * 2 - 1
        found = [self._estimate(signs, _gaussian(f)) for f in scores.T]
        values, errors = (torch.stack(part, 1) for part in zip(*found, strict=True))
        return attribution(groups, game, Estimate(values, errors, self._blocks - 1))

    @property
    def _blocks(self) -> int:
        return max(2, min(BLOCKS, self.n_samples // 4))

    def _estimate(self, signs: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Values (M,) and their standard errors, from what a block of rows less would change."""
        dependence = _unbiased if self.unbiased else _biased
        kernel = _without_diagonal(kernel) if self.unbiased else kernel
        product, rows, every = kernel @ signs, kernel.sum(1), _Sums.of(signs, kernel)
        block, left = torch.arange(len(signs)) % self._blocks, []
        for k in range(self._blocks):
            out = block == k
            there, s = kernel[out][:, out], signs[out]
            trace = every.trace - (s * (2 * product[out] - there @ s)).sum(0)
            cross = every.cross - product[out].sum(0) - (rows[out] - there.sum(0)) @ s
            total = every.total - 2 * rows[out].sum() + there.sum()
            left.append(dependence(_Sums(every.n - len(s), every.ups - s.sum(0), trace, cross, total)))
        error = (self._blocks - 1) / self._blocks**0.5 * torch.stack(left).std(0)
        return dependence(every), error


class _Sums(NamedTuple):
    """What the criterion is made of, for signs s (n, M) and a symmetric kernel (n, n) of the scores.

    Attributes:
        n: rows.
        ups: the sum of the signs (M,).
        trace: the sum of ``s[a] kernel[a, b] s[b]`` (M,).
        cross: the sum of ``kernel[a, b] s[b]`` (M,).
        total: the sum of the kernel.
    """

    n: int
    ups: Tensor
    trace: Tensor
    cross: Tensor
    total: Tensor

    @staticmethod
    def of(signs: Tensor, kernel: Tensor) -> _Sums:
        product = kernel @ signs
        return _Sums(len(signs), signs.sum(0), (signs * product).sum(0), product.sum(0), kernel.sum())


def biased(signs: Tensor, kernel: Tensor) -> Tensor:
    """The criterion (M,) for each column of signs (n, M), with the kernel (n, n) of the scores.

    >>> signs = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    >>> biased(signs, (signs == signs.T).double())  # the score is the sign
    tensor([0.4444], dtype=torch.float64)
    """
    return _biased(_Sums.of(signs.double(), kernel))


def unbiased(signs: Tensor, kernel: Tensor) -> Tensor:
    """The same without bias, for n > 3.

    >>> signs = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    >>> unbiased(signs, torch.ones(4, 4, dtype=torch.float64))  # the score is always the same
    tensor([0.], dtype=torch.float64)
    """
    return _unbiased(_Sums.of(signs.double(), _without_diagonal(kernel)))


def _biased(sums: _Sums) -> Tensor:
    n, mean = sums.n, sums.ups / sums.n
    # The kernel of presence is (1 + s s') / 2, of which centering leaves s s' / 2.
    return (sums.trace - 2 * mean * sums.cross + mean**2 * sums.total) / 2 / (n - 1) ** 2


def _unbiased(sums: _Sums) -> Tensor:
    n, ups, total = sums.n, sums.ups, sums.total
    # Without its diagonal, the kernel of presence is (1 1' + s s') / 2 - 1.
    trace = (total + sums.trace) / 2
    own = (n**2 + ups**2) / 2 - n
    cross = (n / 2 - 1) * total + sums.cross * ups / 2
    return (trace + own * total / ((n - 1) * (n - 2)) - 2 / (n - 2) * cross) / (n * (n - 3))


def _without_diagonal(kernel: Tensor) -> Tensor:
    return kernel - kernel.diagonal().diag()


def _gaussian(scores: Tensor) -> Tensor:
    """The kernel (n, n), as wide as the median distance between two scores, or the mean where that is 0."""
    apart = (scores[:, None] - scores).abs()
    distances = pdist(scores[:, None], p=1)
    width = distances.median()
    if width == 0:
        width = distances.mean()
    return torch.exp(-((apart / width.clamp_min(1e-300)) ** 2) / 2)
