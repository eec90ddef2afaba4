"""Class activation maps: the channels of a layer, weighted and added up. A method is a choice of weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import Arguments
from torchwhy.core.inputs import check_inputs
from torchwhy.core.options import one_of
from torchwhy.core.precision import Precision
from torchwhy.core.problem import Problem
from torchwhy.core.site import At
from torchwhy.core.tensors import Tensors, accumulator
from torchwhy.engines.maps import Grid, Upsample, enlarge, find_grids, last_map
from torchwhy.methods.base import Attribution, Method

_POOL: dict[int, Callable[..., Tensor]] = {3: adaptive_avg_pool1d, 4: adaptive_avg_pool2d, 5: adaptive_avg_pool3d}


@dataclass(kw_only=True, eq=False)
class CAM(Method):
    """A map of a layer's resolution, one value for all channels at a place.

    Without ``at``, the last layer with a spatial map or a grid of tokens is taken, on which the output depends. Tokens
    (B, T, C), such as those of a vision transformer, are folded to maps; see `torchwhy.engines.maps.find_grid`.

    Args:
        relu_attributions: keep only what speaks for the target; False keeps the sign.
        upsample: "bilinear" or "nearest" brings the map to the size of the input; None leaves it as it is, and plots
            say how they enlarge it.
        grid: (rows, columns) of a layer's tokens, where these cannot be told from the model and its input; ``()`` says
            that the layer holds channels (B, C, ...) and no tokens.
        prefix: the number of tokens in front of those on the grid, such as that of the class.
    """

    relu_attributions: bool = False
    upsample: Upsample | None = None
    grid: tuple[int, ...] | None = None
    prefix: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.upsample is not None:
            one_of("upsample", self.upsample, ("bilinear", "nearest"))
        if self.grid is not None:
            if not isinstance(self.grid, tuple | list) or len(self.grid) > 2 or not all(map(_counts, self.grid)):
                raise TorchwhyError(f"grid is (rows, columns) of the tokens, or (), not {self.grid!r}")
            self.grid = tuple(self.grid)
        if self.prefix is not None and self.prefix != 0 and not _counts(self.prefix):
            raise TorchwhyError(f"prefix counts the tokens in front of the grid, not {self.prefix!r}")

    @abstractmethod
    def maps(self, p: Problem) -> Iterable[Tensor]:
        """A map (B, 1, ...) for each tensor that the layer holds, with the sign."""

    def compute(self, p: Problem) -> Attribution:
        found = [m.relu() if self.relu_attributions else m for m in self.maps(p)]
        tokens = [{"grid": list(g.size), "tokens_in_front": g.prefix} for g in self._grids(p) if g.size is not None]
        return Attribution(Tensors(self._enlarged(p, m) for m in found), details=tokens[0] if tokens else {})

    def _site(self, inputs: Tensors, extra: Arguments) -> At:
        if self.at is not None:
            return self.at
        check_inputs(inputs)
        return last_map(self.model, inputs[:1], extra, inputs.size)

    def _grids(self, p: Problem) -> list[Grid]:
        return find_grids(self.model, p.site, p.point, p.inputs, self.grid, self.prefix)

    def _folded(self, p: Problem, held: Tensors) -> list[Tensor]:
        """What the layer holds, or the gradient there, as maps (B, C, ...) in the dtype in which sums are taken."""
        return [wide(grid.fold(t)) for grid, t in zip(self._grids(p), held, strict=True)]

    def _enlarged(self, p: Problem, m: Tensor) -> Tensor:
        if self.upsample is None:
            return m
        sizes = [tuple(t.shape[2:]) for t in p.inputs if t.ndim == m.ndim or (m.ndim == 2 and t.ndim > 2)]
        if not sizes:
            raise TorchwhyError(
                f"no input of {p.inputs.shapes} has as many spatial dimensions as the map, {tuple(m.shape)}: leave "
                f"upsample out"
            )
        return enlarge(m, sizes[0], self.upsample)

    def _as_held(self, p: Problem, values: Tensors) -> Tensors:
        def each(v: Tensor, held: Tensor, grid: Grid) -> Tensor:
            shape = grid.fold(held).shape[2:]
            if v.shape[2:] != shape:
                v = _POOL[v.ndim](v, list(shape)) if shape else v.flatten(1).mean(1, keepdim=True)
            return grid.unfold(v)

        return Tensors(each(*row) for row in zip(values, p.point, self._grids(p), strict=True))


@dataclass(kw_only=True, eq=False)
class GradientCAM(CAM):
    """Weights that are read off the gradient at the layer.

    Args:
        precision: "mixed" computes the backward pass in bfloat16.
    """

    precision: Precision = "full"

    def slopes(self, p: Problem) -> Tensors:
        """What stands for the gradient, (B, ...)."""
        return p.at_point()[1]

    @abstractmethod
    def weigh(self, a: Tensor, g: Tensor) -> Tensor:
        """Weights of activations (B, C, ...), which broadcast to them, from the gradient there."""

    def maps(self, p: Problem) -> Iterable[Tensor]:
        slopes = self.slopes(p)  # first, since the pass that gives them shows the point too
        for grid, a, g in zip(self._grids(p), p.point, slopes, strict=True):
            yield self.combine(wide(grid.fold(a)), wide(grid.fold(g)))

    def combine(self, a: Tensor, g: Tensor) -> Tensor:
        """The map (B, 1, ...) of activations and the gradient there, (B, C, ...)."""
        return over_channels(self.weigh(a, g) * a)


def wide(t: Tensor) -> Tensor:
    """In the dtype in which sums are taken."""
    return t.to(accumulator(t.dtype))


def over_channels(t: Tensor) -> Tensor:
    """Of maps (B, C, ...) the sum, (B, 1, ...); a layer of one number per example is its own map."""
    return t.sum(1, keepdim=True) if t.ndim > 1 else t


def over_places(t: Tensor) -> Tensor:
    """Of maps (B, C, ...) the sum of each channel, (B, C, 1, ...)."""
    places = tuple(range(2, t.ndim))
    return t.sum(places, keepdim=True) if places else t


def _counts(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1
