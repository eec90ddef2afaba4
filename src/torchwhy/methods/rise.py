"""Random soft masks: where the score is high, what was shown?"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import accumulator
from torchwhy.engines.fills import as_fill
from torchwhy.engines.game import Groups
from torchwhy.engines.noise import draws
from torchwhy.engines.soft import SoftGame, SoftMasks, cells, is_map
from torchwhy.engines.spread import student
from torchwhy.engines.surrogate import Estimate
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.sampling import SampledMethod, Units
from torchwhy.registry import Info, register

STREAM = 40  # of the masks
MASKS = 2000  # where nothing else is asked for
FIRST_LOOK = 256  # masks
BLOCK, NUMBERS = 256, 2**12  # masks, and numbers, that one generator draws
USUAL = 8  # masks of the usual spread that a feature has besides its own
AT_ONCE, WEIGHED = 8, 2**16  # masks that are weighed at a time, or numbers of them where these are more
FINEST = 2**40  # cells in each dimension: one for each place


@register(
    Info(
        family="perturbation",
        summary="how far above its mean the score is when an element is shown through a random soft mask",
        paper="Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models",
        year=2018,
        needs="forward passes",
        cost="n_samples forward passes, or the budget",
        baselines="one",
        promises=("linearity",),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class RISE(SampledMethod):
    r"""The mean score over random masks, weighed by what they show, above the mean over all masks.

    .. math:: \phi_i = \frac{\sum_k m_{ki} f_k}{\sum_k m_{ki}} - \frac1n \sum_k f_k, \qquad
        f_k = f(m_k \odot x + (1 - m_k) \odot x')

    The paper's map is the first term; the second is the same for all elements and gives the map a zero.
    A mask is a coarse grid of zeros and ones, enlarged with linear interpolation and shifted at random; all channels
    share it. Vectors (B, D) have a mask of zeros and ones for each element.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`: each feature is shown or not. None makes the soft masks above.
        fill: :math:`x'`, as for `torchwhy.ShapleyValues`: what is drawn is averaged over, and what depends on what is
            present takes an element to be there where its mask is at least one half.
        n_samples: masks; None is 2,000, or with ``budget``, ``stop_at`` or ``top_k`` as many as the budget pays.
        budget: evaluations of the model per example. None is 65,536 with ``stop_at`` or ``top_k``, and else no limit.
        stop_at: as for `torchwhy.ShapleyValues`.
        top_k: as for `torchwhy.ShapleyValues`; neighbours in a map are alike, and hardly ever told apart.
        cells: of the grid in each dimension.
        share: chance of a cell to be shown.
        seed: of the masks, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each. Units: score. The record holds ``interval_95``,
        half the width of a 95 % interval in standard errors.

    Paper: V. Petsiuk, A. Das, K. Saenko, BMVC 2018, arXiv:1806.07421.

    >>> rise = RISE(lambda x: 6 * x[:, 0] + 2 * x[:, 1])
    >>> rise.attribute(torch.ones(1, 2)).round()
    tensor([[3., 1.]])
    """

    n_samples: int | None = None
    cells: int = 7
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_samples is not None:
            at_least("n_samples", self.n_samples, 2)
        at_least("cells", self.cells, 1)
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 < self.share < 1:
            raise TorchwhyError(f"share is a number between 0 and 1, not {self.share!r}")

    def options(self) -> dict[str, Any]:
        return super().options() | {"feature_mask": "a grid" if self.feature_mask is None else "given"}

    def compute(self, p: Problem) -> Attribution:
        masks = self._masks(p)
        game = SoftGame(p, masks, as_fill(self.fill), type(self).__name__)
        paid = self.paid(game, 1, 2)
        count = self.n_samples or MASKS if paid is None else min(paid, self.n_samples or paid)

        def solve(scores: Tensor) -> Estimate:
            return _weighed(masks, scores[:, 0].to(p.point.device), max(AT_ONCE, WEIGHED // masks.count))

        return self.sampled(masks.groups, game, Units(masks.rows, 1, count, 2, solve, first=FIRST_LOOK))

    def _masks(self, p: Problem) -> RandomMasks:
        grid = self.feature_mask is None
        groups = Groups(p.point, cells(p.point, FINEST) if grid else self.feature_mask)
        return RandomMasks(groups, self.cells if grid else None, self.share, self.seed)


class RandomMasks(SoftMasks):
    """Masks of features that are shown by chance; in maps, of a coarse grid of them, enlarged and shifted by chance.

    Args:
        groups: the features; with ``cells`` the places of maps (B, C, ...), and the elements of anything else.
        cells: of the grid in each dimension; None has no grid.
        share: chance to be shown.
        seed: of the masks.
    """

    def __init__(self, groups: Groups, cells: int | None, share: float, seed: int) -> None:
        super().__init__(groups)
        self.cells, self.share, self.seed = cells, share, seed
        self.dtype = reduce(torch.promote_types, [accumulator(t.dtype) for t in groups.point])
        self._last: dict[int, tuple[int, Tensor]] = {}

    def key(self) -> Hashable:
        return self.groups.key(), self.cells, self.share, self.seed

    def degrees(self, ks: Tensor) -> Tensor:
        if self.cells is None:
            return self._tossed(0, ks, self.count).to(self.dtype)
        parts = enumerate(self.groups.point)
        found = [self._map(n, t, ks) if is_map(t) else self._tossed(n, ks, t[0].numel()) for n, t in parts]
        return torch.cat([t.to(self.dtype) for t in found], 1)

    def _tossed(self, part: int, ks: Tensor, count: int) -> Tensor:
        """(K, count) of zeros and ones."""
        return self._drawn(part, ks, count, lambda n, g: torch.rand(n, count, generator=g) < self.share)

    def _map(self, part: int, t: Tensor, ks: Tensor) -> Tensor:
        """(K, places) of a map."""
        assert self.cells is not None
        lengths = t.shape[2:]
        counts = [min(self.cells, length) for length in lengths]
        steps = [-(-length // n) for length, n in zip(lengths, counts, strict=True)]
        size = torch.Size(n + 1 for n in counts)

        def draw(n: int, g: torch.Generator) -> Tensor:
            tossed = torch.rand(n, size.numel(), generator=g) < self.share
            return torch.cat([tossed, *(torch.randint(s, (n, 1), generator=g) for s in steps)], 1)

        drawn = self._drawn(part, ks, size.numel(), draw)
        grid, shifts = drawn[:, : size.numel()].to(self.dtype), drawn[:, size.numel() :]
        for dim, (length, n, s) in enumerate(zip(lengths, counts, steps, strict=True)):
            weights = _enlarging(length, n + 1, s).to(self.dtype)[shifts[:, dim]]
            # (K, what is enlarged, cells, what is not) to (K, what is enlarged, not)
            grid = grid.view(len(ks), -1, n + 1, size[dim + 1 :].numel())
            last = dim + 1 == len(lengths)
            grid = grid[..., 0] @ weights.mT if last else weights[:, None] @ grid
        return grid.flatten(1)

    def _drawn(self, part: int, ks: Tensor, numbers: int, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """What is drawn for the masks ``ks``, in blocks of a generator each."""
        each = max(1, min(BLOCK, NUMBERS // numbers))
        blocks, where = (ks // each).unique(return_inverse=True)
        found = []
        for block in blocks.tolist():
            if self._last.get(part, (-1,))[0] != block:
                self._last[part] = block, draw(each, draws(self.seed, STREAM + part, block))
            found.append(self._last[part][1])
        return torch.cat(found)[where * each + ks % each]


@lru_cache(16)
def _enlarging(length: int, cells: int, step: int) -> Tensor:
    """Weights (step, length, cells) of linear interpolation to ``step`` places for each cell, shifted by 0, 1, ...

    >>> _enlarging(2, 2, 2)
    tensor([[[1.0000, 0.0000],
             [0.7500, 0.2500]],
    <BLANKLINE>
            [[0.7500, 0.2500],
             [0.2500, 0.7500]]], dtype=torch.float64)
    """
    place = torch.arange(step, dtype=torch.float64)[:, None] + torch.arange(length)
    at = ((place + 0.5) / step - 0.5).clamp(0, cells - 1)
    return (1 - (at[..., None] - torch.arange(cells)).abs()).clamp_min(0)


def _weighed(masks: RandomMasks, scores: Tensor, step: int) -> Estimate:
    """Values (M, B) from the scores (n, B) behind the first masks, which are made ``step`` at a time.

    A feature that few masks show or hide has a small spread by luck: as if it had some more, of the usual spread.
    """
    n, b = scores.shape
    f = scores - scores.mean(0)
    powers = torch.cat([torch.ones_like(f[:, :1]), f, f**2], 1)
    first, second = powers.new_zeros(2, 1 + 2 * b, masks.count)  # sums weighed by the masks, and by their squares
    for start in range(0, n, step):
        ks = slice(start, min(n, start + step))
        m = masks.degrees(torch.arange(ks.start, ks.stop)).to(f.device)
        weights = powers[ks].T.to(m)
        first += weights @ m
        second += weights @ m.square_()
    (shown, up, up2), (square, high, high2) = (sums.split([1, b, b]) for sums in (first, second))
    known = shown > 0
    shown = shown.where(known, 1)
    values = up / shown
    usual = (f**2).sum(0)[:, None] / (n - 1)
    # What a mask adds to a value: (f - value) m / mean(m) - f, with f from its mean.
    own = high2 - 2 * values * high + values**2 * square + USUAL * usual * (square / shown) ** 2
    cross = up2 - values * up
    spread = own * (n / shown) ** 2 - 2 * cross * n / shown + usual * n
    error = torch.where(known, spread.clamp_min(0).sqrt() / n, usual.sqrt())
    hidden = (n - shown) ** 2 / (n - 2 * shown + square).clamp_min(1e-9)
    effective = torch.minimum(known * shown**2 / square.clamp_min(1e-9), hidden)
    return Estimate(values.T.cpu(), (error * _widened(effective, n)).T.cpu(), n - 1)


def _widened(effective: Tensor, n: int) -> Tensor:
    """By how much longer intervals are than those of n masks, where so many show a feature and as many hide it (M,)."""
    freedom, which = (effective.long().clamp(max=n) - 1).clamp_min(1).unique(return_inverse=True)
    wide = [student(f) / student(n - 1) for f in freedom.tolist()]
    return effective.new_tensor(wide)[which]
