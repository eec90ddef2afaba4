"""Random soft masks: where the score is high, what was shown?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors, accumulator
from torchwhy.engines.game import rows_at_once
from torchwhy.engines.noise import check_seed, draws
from torchwhy.engines.soft import faded
from torchwhy.methods.base import Attribution, Method, at_least
from torchwhy.methods.sampling import broken_off
from torchwhy.registry import Info, register

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@register(
    Info(
        family="perturbation",
        summary="how far above its mean the score is when an element is shown through a random soft mask",
        paper="Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models",
        year=2018,
        needs="forward passes",
        cost="n_samples forward passes",
        baselines="one",
        promises=("linearity",),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class RISE(Method):
    r"""The mean score over random masks, weighed by what they show, above the mean over all masks.

    .. math:: \phi_i = \frac{\sum_k m_{ki} f_k}{\sum_k m_{ki}} - \frac1n \sum_k f_k, \qquad
        f_k = f(m_k \odot x + (1 - m_k) \odot x')

    The paper's map is the first term; the second is the same for all elements and gives the map a zero.
    A mask is a coarse grid of zeros and ones, enlarged with linear interpolation and shifted at random; all channels
    share it. Vectors (B, D) have a mask of zeros and ones for each element.

    Args:
        n_samples: masks.
        cells: of the grid in each dimension.
        share: chance of a cell to be shown.
        seed: of the masks, which all examples share.

    Shapes: inputs (B, ...), values (B, ...) with a standard error each. Units: score.

    Paper: V. Petsiuk, A. Das, K. Saenko, BMVC 2018, arXiv:1806.07421.

    >>> rise = RISE(lambda x: 6 * x[:, 0], n_samples=2000)
    >>> rise.attribute(torch.ones(1, 2)).round()
    tensor([[3., 0.]])
    """

    n_samples: int = 2000
    cells: int = 7
    share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_samples", self.n_samples, 2)
        at_least("cells", self.cells, 1)
        check_seed(self.seed)
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 < self.share < 1:
            raise TorchwhyError(f"share is a number between 0 and 1, not {self.share!r}")

    def compute(self, p: Problem) -> Attribution:
        memory = p.memory(("RISE", self.cells, self.share, self.seed), list[Tensor])
        # Sums over the masks of m, m^2, and of f and f^2 weighed by them; f from the score, so that digits are kept.
        wide = p.point.double_for_sums()
        sums = {(i, j): wide.map(torch.zeros_like) for i in (0, 1, 2) for j in (1, 2)}
        falls: list[Tensor] = []
        n = 0
        try:
            for masks, shown in self._shown(p, memory):
                fall = shown.to(wide.parts[0].dtype) - p.scores.to(wide.parts[0].dtype)
                more = {key: total.map(partial(_weighed, fall, *key), masks) for key, total in sums.items()}
                # All or nothing, should the user interrupt.
                sums, falls, n = {key: total + more[key] for key, total in sums.items()}, [*falls, fall], n + len(fall)
        except KeyboardInterrupt:
            if not p.partial or n < 2:
                raise
        scores = torch.cat(falls)
        mean = scores.mean(0)

        def each(b: Tensor, b2: Tensor, a: Tensor, a2: Tensor, c: Tensor, c2: Tensor) -> tuple[Tensor, Tensor]:
            """Values and standard errors from sums of m, m^2, f m, f m^2, f^2 m, f^2 m^2."""
            shown = b.clamp_min(torch.finfo(b.dtype).tiny)
            level = a / shown
            f = mean.view(-1, *[1] * (b.ndim - 1))
            # What each mask adds: (f - level) m / mean(m) - (f - mean(f)).
            ratio = n / shown
            own = (c2 - 2 * level * a2 + level**2 * b2) * ratio**2
            cross = (c - (level + f) * a + level * f * b) * ratio
            rest = ((scores - mean) ** 2).sum(0).view(f.shape)
            spread = (own - 2 * cross + rest).clamp_min(0)
            known = b > 0
            return (level - f) * known, spread.sqrt() / n * known

        columns = [sums[key] for key in ((0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2))]
        found = [each(*row) for row in zip(*columns, strict=True)]
        made = Attribution(Tensors(v for v, _ in found), Tensors(e for _, e in found), details={"evaluations": n})
        return made if n == self.n_samples else broken_off(made, p.size, n, self.n_samples)

    def _shown(self, p: Problem, memory: list[Tensor]) -> Iterator[tuple[Tensors, Tensor]]:
        """Masks (K, 1, 1 or D, ...) and the scores (K, B) behind them, some after the other.

        Args:
            p: the problem.
            memory: scores (T, K, B) of all targets that are asked about together, as far as they are known; it grows.
        """
        start, number, masks = 0, 0, Tensors([])
        seen = faded(p, lambda ks: masks[ks], type(self).__name__)
        with p.progress.task("showing through masks", self.n_samples) as advance:
            while start < self.n_samples:
                known = len(memory[number]) if number < len(memory) else max(1, rows_at_once(p) // p.size)
                ks = slice(start, min(self.n_samples, start + known))
                masks = self._masks(p.point, ks)
                if number == len(memory):
                    memory.append(p.every_score(seen, ks.stop - start).movedim(0, 1))
                yield masks, memory[number][: ks.stop - start, p.number]
                advance(ks.stop - start)
                start, number = ks.stop, number + 1

    def _masks(self, point: Tensors, ks: slice) -> Tensors:
        """Masks for a slice of the draws."""

        def each(part: int, t: Tensor) -> Tensor:
            masks = [self._mask(t, draws(self.seed, 40 + part, k)) for k in range(ks.start, ks.stop)]
            return torch.stack(masks)[:, None].to(t)

        return Tensors(each(part, t) for part, t in enumerate(point))

    def _mask(self, t: Tensor, generator: torch.Generator) -> Tensor:
        """Of the shape of an example, with one channel."""
        lengths = t.shape[2:]
        if t.ndim < 3 or t.ndim > 5:
            return (torch.rand(t.shape[1:], generator=generator) < self.share).to(accumulator(t.dtype))
        cells = [min(self.cells, length) for length in lengths]
        size = [math.ceil(length / n) for length, n in zip(lengths, cells, strict=True)]
        grid = (torch.rand([n + 1 for n in cells], generator=generator) < self.share).to(accumulator(t.dtype))
        large = interpolate(
            grid[None, None], [(n + 1) * s for n, s in zip(cells, size, strict=True)], mode=MODES[len(lengths)]
        )[0]
        for dim, (length, s) in enumerate(zip(lengths, size, strict=True), 1):
            large = large.narrow(dim, int(torch.randint(s, (), generator=generator)), length)
        return large


def _weighed(fall: Tensor, i: int, j: int, total: Tensor, mask: Tensor) -> Tensor:
    """The sum over the masks of ``fall**i * mask**j``, (B, ...)."""
    found: Tensor = torch.tensordot((fall**i).T.to(total), mask[:, 0].to(total) ** j, 1)
    return found
