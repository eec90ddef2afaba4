"""How far the score depends on which cells are present: the Hilbert-Schmidt independence criterion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchwhy.core.problem import Problem
from torchwhy.engines.fills import as_fill
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.noise import draws
from torchwhy.engines.soft import cells
from torchwhy.engines.spread import error_of_mean
from torchwhy.engines.surrogate import Estimate
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.sampling import SampledMethod, Units
from torchwhy.registry import Info, register

STREAM = 37
BLOCKS = 20  # of the jackknife
NUMBERS = 2**15  # of the kernel that are made at a time
ROWS, MOST_ROWS = 1000, 4096  # where nothing else is asked for; the work grows with their square


@register(
    Info(
        family="perturbation",
        summary="how far the score depends, in any way, on whether a cell is present",
        paper="Novello, Fel, Vigouroux: Making Sense of Dependence: Efficient Black-box Explanations Using Dependence "
        "Measure",
        year=2022,
        needs="forward passes",
        cost="n_samples forward passes, or the budget",
        baselines="one",
        promises=("symmetry in expectation",),
        signed=False,
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class HSICAttribution(SampledMethod):
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
        n_samples: rows; None is 1,000, or with ``budget``, ``stop_at`` or ``top_k`` as many as the budget pays.
        budget: evaluations of the model per example, that of the point itself included. None is 4,096 with ``stop_at``
            or ``top_k``, and else no limit. The work on n scores grows with n * n.
        stop_at: as for `torchwhy.ShapleyValues`.
        top_k: as for `torchwhy.ShapleyValues`.
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
    n_samples: int | None = None
    unbiased: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("cells", self.cells, 1)
        if self.n_samples is not None:
            at_least("n_samples", self.n_samples, self._fewest)

    def game(self, p: Problem) -> tuple[Groups, Game]:
        groups = Groups(p.point, cells(p.point, self.cells) if self.feature_mask is None else self.feature_mask)
        return groups, Game(p, groups, as_fill(self.fill))

    def options(self) -> dict[str, Any]:
        return super().options() | {"feature_mask": "a grid" if self.feature_mask is None else "given"}

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        paid = self.paid(game, 1, self._fewest, MOST_ROWS)
        wanted = self.n_samples or paid or ROWS
        count = min(wanted, paid or wanted)
        rows = torch.rand(count, groups.count, generator=draws(self.seed, STREAM)) < 0.5

        def solve(scores: Tensor) -> Estimate:
            signs = rows[: len(scores)].double().mul_(2).sub_(1)
            found = [self._estimate(signs, Gaussian(f)) for f in scores[:, 0].T]
            values, errors = (torch.stack(part, 1) for part in zip(*found, strict=True))
            return Estimate(values, errors, _blocks(len(scores)) - 1)

        return self.sampled(groups, game, Units(lambda ks: rows[ks], 1, count, self._fewest, solve, in_scores=False))

    @property
    def _fewest(self) -> int:
        """Rows, fewer than which have no standard error."""
        return 8 if self.unbiased else 4

    def _estimate(self, signs: Tensor, kernel: Tensor | Gaussian) -> tuple[Tensor, Tensor]:
        """Values (M,) and their standard errors, from what a block of rows less would change."""
        dependence, n, blocks = _unbiased if self.unbiased else _biased, len(signs), _blocks(len(signs))
        own, gone = zip(*(self._block(signs, kernel, torch.arange(k, n, blocks)) for k in range(blocks)), strict=True)
        every = reduce(_Sums.plus, own)
        left = [dependence(every.plus(one, -1)) for one in gone]
        # Less the same number each, the values of the jackknife, whose mean is the estimate without its bias.
        error = error_of_mean((blocks - 1) * torch.stack(left)[:, :, None])[:, 0]
        return dependence(every), error

    def _block(self, signs: Tensor, kernel: Tensor | Gaussian, out: Tensor) -> tuple[_Sums, _Sums]:
        """What the rows ``out`` of the kernel add to the sums, and what the sums lose without these rows and columns.

        Few rows of the kernel are made at a time.
        """
        n = len(signs)
        own = gone = _Sums.none(signs.shape[1])
        for part in out.split(max(1, NUMBERS // n)):
            rows, s = kernel[part], signs[part]
            if self.unbiased:
                rows = rows.scatter(1, part[:, None], 0)
            within = rows[:, out]
            product, inner = rows @ signs, within @ signs[out]
            across, total = product.sum(0), rows.sum()
            own = own.plus(_Sums(len(s), s.sum(0), (s * product).sum(0), across, total))
            trace, cross = (s * (2 * product - inner)).sum(0), across + rows.sum(1) @ s - inner.sum(0)
            gone = gone.plus(_Sums(len(s), s.sum(0), trace, cross, 2 * total - within.sum()))
        return own, gone


def _blocks(rows: int) -> int:
    """Into how many blocks the jackknife takes so many rows apart."""
    return min(BLOCKS, max(4, rows // 4))


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

    def plus(self, other: _Sums, times: int = 1) -> _Sums:
        """The sums of both."""
        return _Sums(
            self.n + times * other.n,
            self.ups + times * other.ups,
            self.trace + times * other.trace,
            self.cross + times * other.cross,
            self.total + times * other.total,
        )

    @staticmethod
    def none(m: int) -> _Sums:
        """Of no rows."""
        zero = torch.zeros(m, dtype=torch.float64)
        return _Sums(0, zero, zero, zero, zero.new_zeros(()))

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


class Gaussian:
    """The kernel (n, n) of scores (n,), of which ``kernel[rows]`` are made when they are needed.

    It is as wide as the median distance between two scores, or the mean where that is 0.

    >>> Gaussian(torch.tensor([0.0, 3.0]))[:]
    tensor([[1.0000, 0.6065],
            [0.6065, 1.0000]])
    """

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores
        self.width = _middle(scores).clamp_min(1e-300)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        apart = self.scores[rows][:, None] - self.scores
        return apart.div_(self.width).square_().div_(-2).exp_()


def _middle(scores: Tensor) -> Tensor:
    """The median distance between two of some scores, the lower one of two, or the mean distance where that is 0."""
    x, n = scores.double().sort().values, len(scores)
    pairs = n * (n - 1) // 2
    # As whole numbers, positive floating-point numbers keep their order.
    low, high = 0, int((x[-1] - x[0]).view(torch.long))
    while low < high:
        half = (low + high) // 2
        apart = torch.tensor(half).view(torch.float64)
        near = int(torch.searchsorted(x, x + apart, right=True).sum()) - n * (n + 1) // 2
        low, high = (low, half) if 2 * near >= pairs else (half + 1, high)
    middle = torch.tensor(low).view(torch.float64)
    order = 2 * torch.arange(n) - (n - 1)
    return (middle if low else (order * x).sum() / pairs).to(scores)
