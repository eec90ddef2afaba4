"""Take something away and see how far the score falls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import Fill, as_fill
from torchwhy.engines.game import Game, Windows
from torchwhy.engines.patches.covering import covered
from torchwhy.methods.base import Attribution, Method
from torchwhy.methods.coalitions import GameMethod
from torchwhy.registry import Info, register

Sizes: TypeAlias = int | tuple[int, ...] | tuple[int | tuple[int, ...], ...]


@register(
    Info(
        family="perturbation",
        summary="how far the score falls when a feature is replaced by its baseline",
        paper="Robnik-Šikonja, Kononenko: Explaining Classifications for Individual Instances",
        year=2008,
        needs="forward passes",
        cost="1 forward pass per feature",
        baselines="one",
        promises=("sensitivity", "linearity"),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class FeatureAblation(GameMethod):
    r"""The fall of the score when one feature is replaced by its baseline, or what else it is filled with.

    .. math:: \phi_i = f(x) - f(x_{\setminus i})

    Args:
        feature_mask: integers that broadcast to the inputs; elements with the same number, in whichever input of a
            tuple, are one feature and get one value. None makes every element a feature.
        fill: as for `torchwhy.ShapleyValues`.

    Shapes: inputs (B, ...), values (B, ...). Units: score.

    Paper: M. Robnik-Šikonja, I. Kononenko, IEEE TKDE 20(5), 2008.

    >>> import torch
    >>> ablation = FeatureAblation(lambda x: x[:, 0] * x[:, 1] + x[:, 2])
    >>> ablation.attribute(torch.tensor([[2.0, 3.0, 4.0]]))
    tensor([[6., 6., 4.]])
    >>> ablation.attribute(torch.tensor([[2.0, 3.0, 4.0]]), feature_mask=torch.tensor([0, 0, 1]))
    tensor([[6., 6., 4.]])
    """

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        return Attribution(groups.spread(game.one_absent()), details={"features": groups.count})


@register(
    Info(
        family="perturbation",
        summary="how far the score falls when a window that slides over the input is covered",
        paper="Zeiler, Fergus: Visualizing and Understanding Convolutional Networks",
        year=2014,
        needs="forward passes",
        cost="1 forward pass per position of the window",
        baselines="one",
        promises=("linearity",),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class Occlusion(Method):
    r"""The fall of the score when a window is replaced by its baseline, as a mean over the windows on an element.

    .. math:: \phi_i = \frac{1}{|\{w \ni i\}|} \sum_{w \ni i} \left( f(x) - f(x_{\setminus w}) \right)

    Args:
        sliding_window_shapes: the window without the batch dimension, such as ``(3, 15, 15)`` for an image; a number
            for vectors; for a tuple of inputs a tuple of such. None takes all channels and about a fifth of every other
            length.
        strides: the steps of the window, a number for all dimensions, one per dimension, or for a tuple of inputs a
            tuple of such. None is 1 where the window was given, and else half the window.
        fill: as for `torchwhy.ShapleyValues`.

    On a CPU, for images, what a window cannot reach in the maps of a convolutional network is computed once;
    ``recomputed`` in the record is the share of the work that was left. The values are those of whole passes, up to
    rounding.

    Shapes: inputs (B, ...), values (B, ...). Units: score.

    Paper: M. Zeiler, R. Fergus, ECCV 2014, arXiv:1311.2901.

    >>> import torch
    >>> Occlusion(lambda x: x.sum((1, 2)), sliding_window_shapes=(1, 2)).attribute(torch.tensor([[[1.0, 2.0, 4.0]]]))
    tensor([[[3.0000, 4.5000, 6.0000]]])
    """

    sliding_window_shapes: Sizes | None = None
    strides: Sizes | None = None
    fill: str | Fill = "baseline"

    def __post_init__(self) -> None:
        super().__post_init__()
        as_fill(self.fill)

    def compute(self, p: Problem) -> Attribution:
        shapes, strides = self._windows(p.point)
        windows = Windows(p.point, shapes, strides)
        game = Game(p, windows, as_fill(self.fill))
        falls = game.one_absent(covered)
        return Attribution(
            windows.spread(falls),
            details={
                "windows": windows.count,
                "window": shapes,
                "stride": strides,
                "recomputed": round(game.recomputed, 3),
            },
        )

    def _windows(self, point: Tensors) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Window and strides for every tensor, checked."""
        if self.sliding_window_shapes is None:
            shapes = [_fifth(t) for t in point]
            default = [tuple(max(1, n // 2) for n in shape) for shape in shapes]
        else:
            shapes = _per_input(self.sliding_window_shapes, point, "sliding_window_shapes", of_number=False)
            default = [(1,) * len(shape) for shape in shapes]
        strides = default if self.strides is None else _per_input(self.strides, point, "strides", of_number=True)
        for t, window, steps in zip(point, shapes, strides, strict=True):
            for length, w, s in zip(t.shape[1:], window, steps, strict=True):
                if w > length:
                    raise TorchwhyError(f"the window {window} is larger than the input, {tuple(t.shape[1:])}")
                if w < length and s > w:
                    raise TorchwhyError(
                        f"strides {steps} are larger than the window {window}: what lies between goes unseen"
                    )
        return shapes, strides


def _fifth(t: Tensor) -> tuple[int, ...]:
    lengths = tuple(t.shape[1:])
    if len(lengths) == 0:
        raise TorchwhyError("a window slides over a dimension behind the batch: the input has none")
    if len(lengths) < 3:
        return tuple(max(1, -(-n // 5)) for n in lengths)
    return (lengths[0], *(max(1, -(-n // 5)) for n in lengths[1:]))


def _per_input(sizes: Sizes, point: Tensors, what: str, of_number: bool) -> list[tuple[int, ...]]:
    """Sizes as one tuple of dimensions for each tensor."""
    each: list[Any] = [sizes] * len(point)
    if isinstance(sizes, tuple) and (len(point) > 1 or any(isinstance(s, tuple) for s in sizes)):
        each = list(sizes)
    if len(each) != len(point):
        raise TorchwhyError(f"{what}: {len(each)} given for {len(point)} inputs")
    out: list[tuple[int, ...]] = []
    for size, t in zip(each, point, strict=True):
        dims = t.ndim - 1
        shape = tuple(size) if isinstance(size, tuple | list) else (size,) * (dims if of_number else 1)
        if len(shape) != dims or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in shape):
            raise TorchwhyError(
                f"{what} {size} must be {dims} whole numbers of at least 1, "
                f"for an input of {tuple(t.shape[1:])} per example"
            )
        out.append(shape)
    return out
