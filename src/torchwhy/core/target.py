"""What is explained: one score per example, read off the model's output or off a unit inside the model.

=====================================  ==========================================================================
target                                 score of example *i*
=====================================  ==========================================================================
``3``                                  ``output[i, 3]``
``[3, 5]`` or a tensor ``(B,)``        ``output[i, target[i]]``
``(3, 0, 1)``                          ``output[i, 3, 0, 1]``
``[(3, 0, 1), (2, 0, 0)]``             ``output[i, *target[i]]``
a `Score`, such as ``Probability(3)``  see `torchwhy.core.scores` and `torchwhy.core.regions`
a callable                             ``target(output)[i]``
``Site("conv1", unit=(3, 0, 0))``      that unit's value, units summed where the index leaves several
``None``                               the model's own prediction: the largest of ``output[i]``, or its only value
=====================================  ==========================================================================

Where a model returns a dict with ``"logits"``, as those of Hugging Face do, or with ``"out"``, as torchvision's for
segmentation, that is its output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.site import Site

MAIN_PARTS = ("logits", "out")  # of a dict that a model returns


@dataclass(frozen=True)
class Score(ABC):
    """What is read off a model's output, one number per example, with a name for people.

    Arguments given as a list hold one value for each example; anything else holds for all.

    Args:
        part: which part of the output to read, where it has several: a key, a position, or a function from the output
            to a tensor. None takes the output itself, or its ``"logits"`` or ``"out"``.
    """

    part: str | int | Callable[[Any], Any] | None = field(default=None, kw_only=True)

    @abstractmethod
    def resolve(self, output: Any, rows: Tensor, size: int) -> Target:
        """The score as it stands at the point, checked against the output.

        Args:
            output: of the model for some of the examples.
            rows: which they are, (N,).
            size: the number of all examples, B.
        """

    def whole(self, output: Any) -> Any:
        """The part of the output that is read."""
        if self.part is None:
            return main_part(output)
        try:
            return self.part(output) if callable(self.part) else output[self.part]
        except (KeyError, IndexError, TypeError) as error:
            raise TorchwhyError(f"the model's output, {_kind(output)}, has no part {self.part!r}") from error

    def tensor(self, output: Any) -> Tensor:
        """The part of the output that is read, a tensor."""
        return as_tensor(self.whole(output))


TargetLike: TypeAlias = (
    "int | tuple[int, ...] | Sequence[int | tuple[int, ...]] | Tensor | Score | Callable[[Any], Tensor] | Site | None"
)


@dataclass(frozen=True, eq=False)
class Target:
    """A target that has met the model's output: every index is known to be in range.

    Attributes:
        read: from the output and ``given``, a row of it per row of the output, to the scores (N,).
        given: what belongs to the examples, (B, ...) each, such as the class of every one.
        say: from one example's part of ``given``, and the names of the classes, to words.
        source: who has given the scores, for messages.
        predicted: the user gave no target, and this is what the model predicted.
        ask: from ``given`` to the target that asks another model for the same.
    """

    read: Callable[..., Tensor]
    given: tuple[Tensor, ...] = ()
    say: Callable[..., str] = lambda *given, **names: "output"
    source: str = "the model"
    predicted: bool = False
    ask: Callable[..., Any] | None = None

    def __call__(self, output: Any, rows: Tensor) -> Tensor:
        """Scores (N,) of an output with N rows, row ``n`` belonging to example ``rows[n]``."""
        chosen = (g[rows.to(g.device)] for g in self.given)
        return _one_per_row(self.read(output, *chosen), len(rows), self.source)

    def select(self, examples: Tensor) -> Target:
        """The target of some of the examples."""
        return replace(self, given=tuple(g[examples.to(g.device)] for g in self.given))

    def names(self, size: int, classes: Sequence[str] | None = None) -> list[str]:
        """The target of each of ``size`` examples in words, with the names of classes where they are known."""
        known = ClassNames(classes or ())
        return [self.say(*(g[i] for g in self.given), names=known) for i in range(size)]

    def of_another(self, wanted: Any) -> Any:
        """What to ask another model for, where the user ``wanted`` this of the first: not what it predicts itself."""
        return wanted if self.ask is None or not self.predicted else self.ask(*self.given)

    @staticmethod
    def cat(parts: Sequence[Target]) -> Target:
        """The target of examples whose parts were resolved one after the other."""
        if all(p is parts[0] for p in parts):
            return parts[0]
        return replace(parts[0], given=tuple(map(torch.cat, zip(*(p.given for p in parts), strict=True))))


class ClassNames(tuple[str, ...]):
    """Names of classes; a class without one is called by its number.

    >>> ClassNames(("cat", "dog"))(torch.tensor(1)), ClassNames()(1)
    ('dog', '1')
    """

    __slots__ = ()

    def __call__(self, number: Any) -> str:
        """The name of a class."""
        number = int(number)
        return self[number] if 0 <= number < len(self) else str(number)


def resolve(target: Any, output: Any, size: int, site: Site | None = None) -> Target:
    """The target of ``size`` examples, checked against the model's output for them.

    >>> resolve(None, torch.tensor([[0.1, 0.9], [0.8, 0.2]]), 2).names(2)
    ['1', '0']
    >>> resolve(7, torch.zeros(2, 3), 2)
    Traceback (most recent call last):
        ...
    torchwhy.core.errors.TorchwhyError: target 7 is out of range: the model gives 3 outputs, numbered 0 to 2
    """
    if site is not None:
        return Target(_unit(site), say=lambda names: str(site), source="the target callable")
    if isinstance(target, Score):
        return target.resolve(output, torch.arange(size), size)
    if callable(target):
        name = getattr(target, "__name__", type(target).__name__)
        return Target(target, say=lambda names: name, source="the target callable")
    output = as_tensor(main_part(output))
    shape = tuple(output.shape[1:])
    if output.ndim and output.shape[0] != size:
        raise TorchwhyError(_rows_message(output, size, "the model"))
    if target is None:
        if shape in ((), (1,)):
            return Target(lambda output: as_tensor(main_part(output)), predicted=True)
        if len(shape) > 1:
            raise TorchwhyError(
                f"the model's output has shape {tuple(output.shape)}: say what to explain, with "
                f"target={_example(shape)} or a function from the output to one score per example"
            )
        return _index(output.argmax(1)[:, None], predicted=True)
    if not shape:
        raise TorchwhyError(
            f"the model gives one score per example, so there is no target {target!r}: leave target out"
        )
    return _index(indices(target, output, size))


def _index(chosen: Tensor, predicted: bool = False) -> Target:
    return Target(
        lambda output, index: pick(as_tensor(main_part(output)), index),
        (chosen,),
        lambda index, names: ", ".join(map(str, index.tolist())),
        predicted=predicted,
        ask=lambda index: [tuple(row) for row in index.tolist()],
    )


def pick(values: Tensor, index: Tensor) -> Tensor:
    """One value of each row: of (N, ...) at ``index`` (N, dimensions behind the first), (N,)."""
    if values.ndim == 0 or len(values) != len(index):
        raise TorchwhyError(_rows_message(values, len(index), "the model"))
    return values[(torch.arange(len(index), device=values.device), *index.to(values.device).unbind(1))]


def indices(target: Any, output: Tensor, size: int) -> Tensor:
    """An index into ``output[i]`` for each of ``size`` examples, all known to be in range, (B, ndim - 1)."""
    shape = tuple(output.shape[1:])
    rows = _as_rows(target, size, shape)
    for row in rows:
        for index, length in zip(row, shape, strict=True):
            if not -length <= index < length:
                shown = row[0] if len(row) == 1 else row
                many = (
                    f"{length} outputs, numbered 0 to {length - 1}" if len(shape) == 1 else f"outputs of shape {shape}"
                )
                raise TorchwhyError(f"target {shown} is out of range: the model gives {many}")
    counted = [[index % length for index, length in zip(row, shape, strict=True)] for row in rows]
    return torch.tensor(counted, device=output.device)


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
    if is_int(target) or isinstance(target, tuple):
        target = [target] * size
    if not isinstance(target, list):
        raise TorchwhyError(
            f"a target is a class index, one index per example, a tuple of indices, a Score, a callable, a Site or "
            f"None, not {type(given).__name__}"
        )
    if len(target) != size:
        raise TorchwhyError(f"{len(target)} targets were given for {size} examples: give one index, or one per example")
    rows = [row if isinstance(row, tuple) else (row,) for row in target]
    for row in rows:
        if not all(is_int(i) for i in row):
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
    if not all(is_int(i) or isinstance(i, slice) or i is ... for i in index):
        raise TorchwhyError(
            f"{site!r}: a unit is an index behind the batch dimension, such as unit=(0, 1, 1), or a callable"
        )

    def read(value: Any) -> Tensor:
        if site.call == "all":
            return torch.stack([one(v) for v in value]).sum(0)
        return one(value)

    def one(value: Any) -> Tensor:
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
        except TorchwhyError:
            raise
        except (IndexError, ValueError) as error:
            raise TorchwhyError(
                f"{site!r}: no such unit, the layer holds {tuple(value.shape[1:])} per example"
            ) from error
        return chosen.flatten(1).sum(1) if chosen.ndim > 1 else chosen

    return read


def main_part(output: Any) -> Any:
    """The logits of an output that names them, else the output itself.

    >>> main_part({"loss": None, "logits": torch.ones(1)})
    tensor([1.])
    """
    if isinstance(output, Mapping):
        for name in MAIN_PARTS:
            if isinstance(output.get(name), Tensor):
                return output[name]
    return output


def as_tensor(output: Any) -> Tensor:
    """An output that is a tensor."""
    if isinstance(output, Tensor):
        return output
    fields = list(output) if isinstance(output, Mapping) else []
    hint = f"output[{fields[0]!r}]" if fields else "output[0]"
    raise TorchwhyError(
        f"the model returns {_kind(output)}, not a tensor: say which part to explain, such as "
        f"target=lambda output: {hint}[:, 3]"
    )


def _kind(output: Any) -> str:
    return type(output).__name__


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


def is_int(value: Any) -> bool:
    """A whole number of any kind, but no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _example(shape: tuple[int, ...]) -> str:
    return "0" if len(shape) == 1 else str((0,) * len(shape))
