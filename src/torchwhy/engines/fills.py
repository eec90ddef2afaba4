"""What absent features get.

A `Fill` is a choice, made before there is a problem; bound to one, it gives values in place of the absent elements.
Where they are random, the draws are the same for every row of a game and every example, so that a score depends on the
row alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.options import at_least
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import TensorOrTensors, Tensors, accumulator
from torchwhy.engines.imputation import imputed
from torchwhy.engines.noise import check_seed, draws

Masks: TypeAlias = Callable[[Tensor], Tensors]  # rows (K, M) to the elements that are present, (K, 1 or B, ...)


@dataclass(frozen=True)
class Bound:
    """A fill for one problem.

    Attributes:
        at: for a slice of the examples, rows (K, M) and the number of the draw for each row (K,), what absent elements
            get, (K or 1, examples or 1, ...).
        draws: how many draws a score is the mean of.
    """

    at: Callable[[slice, Tensor, Tensor], Tensors]
    draws: int = 1


class Fill(ABC):
    """A choice of what absent features get."""

    @abstractmethod
    def bind(self, p: Problem, masks: Masks) -> Bound:
        """The fill for a problem whose features have these masks."""


def _maps(t: Tensor, name: str) -> None:
    if t.ndim < 3 or not t.is_floating_point():
        raise TorchwhyError(
            f"fill={name!r} is for maps (B, C, ...) of real numbers, not {t.dtype} {tuple(t.shape)}: "
            f"give baselines, or a Marginal fill"
        )


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise TorchwhyError(f"{name} is a number above 0, not {value!r}")


def _fixed(values: Tensors) -> Bound:
    return Bound(lambda es, rows, number: values[es].map(lambda t: t[None]))


@dataclass(frozen=True)
class Baseline(Fill):
    """The problem's baseline."""

    def bind(self, p: Problem, masks: Masks) -> Bound:
        return _fixed(p.base)


@dataclass(frozen=True)
class Mean(Fill):
    """The mean of the example's own channel: maps (B, C, ...)."""

    def bind(self, p: Problem, masks: Masks) -> Bound:
        def mean(t: Tensor) -> Tensor:
            _maps(t, "mean")
            average = t.to(accumulator(t.dtype)).flatten(2).mean(2).to(t.dtype)
            return average.view(*t.shape[:2], *[1] * (t.ndim - 2)).expand(t.shape)

        return _fixed(p.point.map(mean))


@dataclass(frozen=True)
class Blur(Fill):
    """The example itself, blurred by a Gaussian: maps (B, C, ...).

    Args:
        sigma: standard deviation of the Gaussian, in elements. At the border, its part inside is weighed up to 1.
    """

    sigma: float = 5.0

    def __post_init__(self) -> None:
        _positive("sigma", self.sigma)

    def bind(self, p: Problem, masks: Masks) -> Bound:
        def blur(t: Tensor) -> Tensor:
            _maps(t, "blur")
            out = t.to(accumulator(t.dtype))
            for dim in range(2, t.ndim):
                place = torch.arange(t.shape[dim], device=t.device, dtype=out.dtype)
                weights = torch.exp(-0.5 * ((place[:, None] - place) / self.sigma) ** 2)
                out = torch.tensordot(out, weights / weights.sum(1, keepdim=True), dims=([dim], [1])).movedim(-1, dim)
            return out.to(t.dtype)

        return _fixed(p.point.map(blur))


@dataclass(frozen=True)
class Noise(Fill):
    r"""The problem's baseline plus normal noise.

    Args:
        std: standard deviation of the noise.
        n_draws: draws that a score is the mean of.
        seed: of the noise.
    """

    std: float = 1.0
    n_draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _positive("std", self.std)
        at_least("n_draws", self.n_draws, 1)
        check_seed(self.seed)

    def bind(self, p: Problem, masks: Masks) -> Bound:
        for t in p.point:
            if not t.is_floating_point():
                raise TorchwhyError(f"noise cannot be added to {t.dtype}: choose another fill")

        noise = Tensors(_normal(t, self.std, self.n_draws, self.seed, 20 + part) for part, t in enumerate(p.point))
        return Bound(lambda es, rows, number: noise[number.to(p.point.device)] + p.base[es], self.n_draws)


@dataclass(frozen=True)
class Marginal(Fill):
    """Rows of a background set, all absent features from the same row; a score is the mean over the rows.

    Args:
        background: (N, ...) like the inputs; at a layer, the model carries it there. None is the set that the method is
            given as baselines.
        n_draws: rows drawn from it without replacement; None takes all.
        seed: of the drawing.
    """

    background: TensorOrTensors | None = field(default=None, repr=False)
    n_draws: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_draws is not None:
            at_least("n_draws", self.n_draws, 1)
        check_seed(self.seed)

    def bind(self, p: Problem, masks: Masks) -> Bound:
        rows = p.background(self.background)
        if self.n_draws is not None and self.n_draws < rows.size:
            rows = rows[torch.randperm(rows.size, generator=draws(self.seed, 19))[: self.n_draws].to(rows.device)]
        held = carried(p, rows)

        def at(es: slice, present: Tensor, number: Tensor) -> Tensors:
            chosen = held[number.to(p.point.device)]
            return chosen.map(lambda t: t if t.shape[1] == 1 else t[:, es])

        return Bound(at, rows.size)


@dataclass(frozen=True)
class Gaussian(Fill):
    r"""Drawn from a normal distribution given the present features: vectors (B, D).

    .. math:: z_{\bar S} \sim N\left(\mu_{\bar S} + \Sigma_{\bar S S} \Sigma_{SS}^{-1} (x_S - \mu_S),\;
        \Sigma_{\bar S \bar S} - \Sigma_{\bar S S} \Sigma_{SS}^{-1} \Sigma_{S \bar S}\right)

    with the mean and covariance of the background. Draws come in pairs on both sides of the conditional mean, so that
    the mean over them is exact for a linear model.

    Args:
        background: (N, D) like the inputs, N > 1; at a layer, the model carries it there.
        n_draws: draws that a score is the mean of, an even number.
        seed: of the draws.

    Paper: K. Aas, M. Jullum, A. Løland, Artificial Intelligence 298, 2021, arXiv:1903.10464.
    """

    background: Tensor = field(repr=False)
    n_draws: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("n_draws", self.n_draws, 1)
        if self.n_draws % 2:
            raise TorchwhyError(f"n_draws of a conditional Gaussian come in pairs: an even number, not {self.n_draws}")
        check_seed(self.seed)

    def bind(self, p: Problem, masks: Masks) -> Bound:
        held = carried(p, p.background(self.background))
        point = p.point.parts[0]
        if len(p.point) > 1 or point.ndim != 2 or not point.is_floating_point() or held.parts[0].shape[1] != 1:
            raise TorchwhyError(f"a conditional Gaussian fills vectors (B, D) of real numbers, not {p.point.shapes}")
        data = held.parts[0][:, 0].double()
        if len(data) < 2:
            raise TorchwhyError("a conditional Gaussian needs a background of at least 2 rows")
        mean, width = data.mean(0), point.shape[1]
        spread = (data - mean).T @ (data - mean) / (len(data) - 1)
        # Columns that say the same twice have a covariance without an inverse.
        spread += 1e-9 * spread.diagonal().clamp_min(spread.diagonal().mean()).clamp_min(1e-30).diag()
        half = torch.stack(
            [
                torch.randn(width, generator=draws(self.seed, 18, k), dtype=torch.float64)
                for k in range(self.n_draws // 2)
            ]
        ).to(point.device)
        normal = torch.cat([half, -half])

        def at(es: slice, present: Tensor, number: Tensor) -> Tensors:
            number = number.to(point.device)
            shown = masks(present).parts[0]
            if shown.shape[1] != 1:
                raise TorchwhyError("a conditional Gaussian needs the same feature_mask for all examples")
            away = point[es].double() - mean
            out = away.new_empty(len(present), *away.shape)
            kinds, kind = shown[:, 0].unique(dim=0, return_inverse=True)
            for i, there in enumerate(kinds):
                s, a = there.nonzero().flatten(), (~there).nonzero().flatten()
                slope = torch.linalg.solve(spread[s][:, s], spread[s][:, a]).T  # (absent, present)
                left = torch.linalg.cholesky(spread[a][:, a] - slope @ spread[s][:, a])
                rows = (kind == i).nonzero().flatten()
                filled = (away[:, s] @ slope.T)[None] + (normal[number[rows]][:, a] @ left.T)[:, None]
                block = out.new_zeros(len(rows), *away.shape)
                block[:, :, a] = filled
                out[rows] = block
            return Tensors([(out + mean).to(point.dtype)])

        return Bound(at, self.n_draws)


@dataclass(frozen=True)
class NoisyLinear(Fill):
    r"""Noisy linear imputation, of ROAD: what the present pixels around suggest, images (B, C, H, W).

    Every absent pixel is the weighted mean of its neighbours, of which the direct ones count 1/6 and the diagonal ones
    1/12, at the border in proportion. Absent neighbours are solved for together, so that little is left to see of the
    shape of what was removed. Where nothing is present, all is the mean of the example's channel.

    One sparse system per row, example and channel, solved for all of them together, see
    `torchwhy.engines.imputation`: up to 0.2 ms for 32 x 32 pixels and 30 ms for 224 x 224 on one core.

    Args:
        std: standard deviation of the noise.
        n_draws: draws that a score is the mean of.
        seed: of the noise.

    Paper: Y. Rong et al., ICML 2022, arXiv:2202.00449.
    """

    std: float = 0.01
    n_draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.std != 0:
            _positive("std", self.std)
        at_least("n_draws", self.n_draws, 1)
        check_seed(self.seed)

    def bind(self, p: Problem, masks: Masks) -> Bound:
        for t in p.point:
            if t.ndim != 4 or not t.is_floating_point():
                raise TorchwhyError(
                    f"noisy linear imputation fills images (B, C, H, W) of real numbers, not {t.dtype} {tuple(t.shape)}"
                )
        noise = Tensors(_normal(t, self.std, self.n_draws, self.seed, 50 + part) for part, t in enumerate(p.point))

        def at(es: slice, present: Tensor, number: Tensor) -> Tensors:
            drawn = noise[number.to(p.point.device)]
            shown = masks(present).map(lambda m: m if m.shape[1] == 1 else m[:, es])
            return p.point[es].map(lambda t, m, z: _imputed(t, m) + z, shown, drawn)

        return Bound(at, self.n_draws)


def _normal(t: Tensor, std: float, count: int, seed: int, stream: int) -> Tensor:
    """Draws (count, 1, ...) like an example."""
    wide = accumulator(t.dtype)
    drawn = [torch.randn(t.shape[1:], generator=draws(seed, stream, k), dtype=wide) for k in range(count)]
    return (std * torch.stack(drawn)).to(t)[:, None]


def _imputed(t: Tensor, shown: Tensor) -> Tensor:
    """Images (b, C, H, W) whose pixels are there where ``shown`` (K, 1 or b, 1 or C, H, W), the others solved for."""
    images = t.detach().to(accumulator(t.dtype)).expand(len(shown), *t.shape)
    found = imputed(images.flatten(0, 2), shown.expand(images.shape).flatten(0, 2))
    return found.view(images.shape).to(t.dtype)


def carried(p: Problem, rows: Tensors) -> Tensors:
    """What the site holds for rows (N, ...) of inputs, (N, 1, ...), or (N, B, ...) where it depends on the example."""
    n = rows.size
    if p.site is None or not p.extra_follows:
        return p.carry(rows, torch.zeros(n, dtype=torch.long, device=p.inputs.device)).map(lambda t: t[:, None])
    examples = torch.arange(p.size, device=p.inputs.device).repeat(n)
    return p.carry(rows.map(lambda t: t.repeat_interleave(p.size, 0)), examples).split(n)


NAMED: dict[str, Fill] = {
    "baseline": Baseline(),
    "mean": Mean(),
    "blur": Blur(),
    "noise": Noise(),
    "linear": NoisyLinear(),
}


def as_fill(given: Any) -> Fill:
    """A fill, or the one of a name.

    >>> as_fill("blur")
    Blur(sigma=5.0)
    >>> as_fill("blurred")
    Traceback (most recent call last):
        ...
    torchwhy.core.errors.TorchwhyError: there is no fill 'blurred'; did you mean 'blur'?
    """
    if isinstance(given, Fill):
        return given
    if not isinstance(given, str) or given not in NAMED:
        hint = closest(given, NAMED) if isinstance(given, str) else f": it is a Fill, or one of {', '.join(NAMED)}"
        raise TorchwhyError(f"there is no fill {given!r}{hint}")
    return NAMED[given]
