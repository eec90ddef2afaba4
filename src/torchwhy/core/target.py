"""What is explained: one score per example, read off the model's output or off a unit inside the model.

=====================================  ==========================================================================
target                                 score of example *i*
=====================================  ==========================================================================
``3``                                  ``output[i, 3]``
``[3, 5]`` or a tensor ``(B,)``        ``output[i, target[i]]``
``(3, 0, 1)``                          ``output[i, 3, 0, 1]``
``[(3, 0, 1), (2, 0, 0)]``             ``output[i, *target[i]]``
a callable                             ``target(output)[i]``
``Site("conv1", unit=(3, 0, 0))``      that unit's value, units summed where the index leaves several
``None``                               the model's own prediction: the largest of ``output[i]``, or its only value
=====================================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.site import Site

TargetLike: TypeAlias = (
    "int | tuple[int, ...] | Sequence[int | tuple[int, ...]] | Tensor | Callable[[Any], Tensor] | Site | None"
)


@dataclass(frozen=True)
class Target:
    """A target that has met the model's output: every index is known to be in range.

    Attributes:
        indices: (B, number of output dimensions behind the batch), or None where there is nothing to choose.
        fn: reads the scores off the output instead.
        site: the place ``fn`` reads, instead of the model's output.
        predicted: the user gave no target, and this is what the model predicted.
    """

    indices: Tensor | None = None
    fn: Callable[[Any], Tensor] | None = None
    site: Site | None = None
    predicted: bool = False

    def __call__(self, output: Any, rows: Tensor) -> Tensor:
        """Scores (N,) of an output with N rows, row ``n`` belonging to example ``rows[n]``."""
        n = len(rows)
        if self.fn is not None:
            return _one_per_row(self.fn(output), n, "the target callable")
        values = _tensor(output)
        if self.indices is None:
            return _one_per_row(values, n, "the model")
        if values.shape[0] != n:
            raise TorchwhyError(_rows_message(values, n, "the model"))
        chosen = self.indices[rows]
        chosen_scores = values[(torch.arange(n, device=values.device), *chosen.unbind(1))]
        return _one_per_row(chosen_scores, n, "the model")

    def select(self, examples: Tensor) -> Target:
        """The target of some of the examples."""
        return self if self.indices is None else replace(self, indices=self.indices[examples])

    def names(self, size: int) -> list[str]:
        """The target of each of ``size`` examples in words."""
        if self.site is not None:
            return [str(self.site)] * size
        if self.fn is not None:
            return [getattr(self.fn, "__name__", type(self.fn).__name__)] * size
        if self.indices is None:
            return ["output"] * size
        return [", ".join(map(str, row)) for row in self.indices.tolist()]


def resolve(target: Any, output: Any, size: int, site: Site | None = None) -> Target:
    """The target of ``size`` examples, checked against the model's output for them.

    >>> resolve(None, torch.tensor([[0.1, 0.9], [0.8, 0.2]]), 2).indices.tolist()
    [[1], [0]]
    >>> resolve(7, torch.zeros(2, 3), 2)
    Traceback (most recent call last):
        ...
    torchwhy.core.errors.TorchwhyError: target 7 is out of range: the model gives 3 outputs, numbered 0 to 2
    """
    if site is not None:
        return Target(fn=_unit(site), site=site)
    if callable(target):
        return Target(fn=target)
    output = _tensor(output)
    shape = tuple(output.shape[1:])
    if output.ndim and output.shape[0] != size:
        raise TorchwhyError(_rows_message(output, size, "the model"))
    if target is None:
        if shape in ((), (1,)):
            return Target(predicted=True)
        if len(shape) > 1:
            raise TorchwhyError(
                f"the model's output has shape {tuple(output.shape)}: say what to explain, with "
                f"target={_example(shape)} or a function from the output to one score per example"
            )
        return Target(output.argmax(1)[:, None], predicted=True)
    if not shape:
        raise TorchwhyError(
            f"the model gives one score per example, so there is no target {target!r}: leave target out"
        )
    rows = _as_rows(target, size, shape)
    for row in rows:
        for index, length in zip(row, shape, strict=True):
            if not -length <= index < length:
                shown = row[0] if len(row) == 1 else row
                many = (
                    f"{length} outputs, numbered 0 to {length - 1}" if len(shape) == 1 else f"outputs of shape {shape}"
                )
                raise TorchwhyError(f"target {shown} is out of range: the model gives {many}")
    lengths = torch.tensor(shape, device=output.device)
    return Target(torch.tensor(rows, device=output.device) % lengths)


def _as_rows(target: Any, size: int, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """One index tuple per example."""
    given = target
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool or target.ndim > 1:
            raise TorchwhyError(
                f"a target tensor holds one integer per example, shape ({size},), "
                f"not {target.dtype} {tuple(target.shape)}"
            )
        target = target.item() if target.numel() == 1 else target.tolist()
    if hasattr(target, "tolist") and not isinstance(target, Tensor):  # numpy integers and arrays
        target = target.tolist()
    if _is_int(target) or isinstance(target, tuple):
        target = [target] * size
    if not isinstance(target, list):
        raise TorchwhyError(
            f"a target is a class index, one index per example, a tuple of indices, a callable, a Site or None, "
            f"not {type(given).__name__}"
        )
    if len(target) != size:
        raise TorchwhyError(f"{len(target)} targets were given for {size} examples: give one index, or one per example")
    rows = [row if isinstance(row, tuple) else (row,) for row in target]
    for row in rows:
        if not all(_is_int(i) for i in row):
            raise TorchwhyError(f"a target index is an integer, not {row[0] if len(row) == 1 else row!r}")
        if len(row) != len(shape):
            raise TorchwhyError(
                f"the model's output has shape (batch, {', '.join(map(str, shape))}): a target needs {len(shape)} "
                f"{'index' if len(shape) == 1 else 'indices'}, such as {_example(shape)}, not {given!r}"
            )
    return [tuple(int(i) for i in row) for row in rows]


def _unit(site: Site) -> Callable[[Any], Tensor]:
    """From what a layer holds to the wanted unit's value for each row."""
    unit = site.unit
    if callable(unit):
        return unit
    if unit is None:
        raise TorchwhyError(
            f"{site!r} as a target needs a unit: an index behind the batch dimension, such as "
            f"Site({site.layer if isinstance(site.layer, str) else '...'!r}, unit=(0, 1, 1))"
        )
    index = tuple(unit) if isinstance(unit, tuple | list) else (unit,)
    if not all(_is_int(i) or isinstance(i, slice) or i is ... for i in index):
        raise TorchwhyError(
            f"{site!r}: a unit is an index behind the batch dimension, such as unit=(0, 1, 1), or a callable"
        )

    def read(value: Any) -> Tensor:
        if site.input:  # the (args, kwargs) of the call
            value = [*value[0], *value[1].values()]
        value = value[0] if isinstance(value, tuple | list) else value
        if not isinstance(value, Tensor):
            raise TorchwhyError(
                f"{site!r}: the layer holds {type(value).__name__}, not a tensor: read it by a function, "
                f"such as unit=lambda held: held['name'][:, 3]"
            )
        try:
            chosen: Tensor = value[(slice(None), *index)]
        except (IndexError, ValueError) as error:
            raise TorchwhyError(
                f"{site!r}: no such unit, the layer holds {tuple(value.shape[1:])} per example"
            ) from error
        return chosen.flatten(1).sum(1) if chosen.ndim > 1 else chosen

    return read


def _tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    fields = list(output) if isinstance(output, dict) else []
    hint = f"output[{fields[0]!r}]" if fields else "output[0]"
    raise TorchwhyError(
        f"the model returns {type(output).__name__}, not a tensor: say which part to explain, such as "
        f"target=lambda output: {hint}[:, 3]"
    )


def _one_per_row(given: Any, n: int, source: str) -> Tensor:
    if not isinstance(given, Tensor):
        raise TorchwhyError(f"{source} must give a tensor of one score per example, not {type(given).__name__}")
    if given.is_complex():
        raise TorchwhyError(f"{source} gave {given.dtype}: a score is real, such as its absolute value")
    # Differences of unsigned integers and of booleans are not what they seem.
    scores: Tensor = given if given.is_floating_point() else given.double()
    if scores.shape == (n, 1):
        return scores[:, 0]
    if scores.shape == (n,):
        return scores
    if scores.ndim == 0 and n == 1:
        return scores[None]
    raise TorchwhyError(_rows_message(scores, n, source))


def _rows_message(output: Tensor, n: int, source: str) -> str:
    return (
        f"{source} gave shape {tuple(output.shape)} for {n} rows, where one score per row is needed; "
        f"rows are examples, or changed copies of them, so a score must depend on its own row alone"
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _example(shape: tuple[int, ...]) -> str:
    return "0" if len(shape) == 1 else str((0,) * len(shape))
