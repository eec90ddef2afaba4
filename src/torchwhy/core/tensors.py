"""Tuple in, tuple out: the one adapter between a user's tensors and the engines.

Models take one tensor or several, layers give one or several, and every formula of this library reads the same for
both: `Tensors` is a fixed sequence of tensors that share their leading dimensions, with elementwise arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError

TensorOrTensors: TypeAlias = Tensor | tuple[Tensor, ...]
Operand: TypeAlias = "Tensors | Tensor | float"


class Tensors:
    """Several tensors treated as one vector per example.

    >>> z = Tensors([torch.ones(2, 3), torch.ones(2, 4, 4)])
    >>> (2 * z - 1).per_example()
    tensor([19., 19.])
    >>> z.shapes
    ((2, 3), (2, 4, 4))
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Iterable[Tensor]) -> None:
        self.parts = tuple(parts)

    def map(self, fn: Callable[..., Tensor], *others: Operand) -> Tensors:
        """Apply ``fn`` part by part; another operand is `Tensors` of the same length, or one value for all parts."""
        columns = (o.parts if isinstance(o, Tensors) else (o,) * len(self) for o in others)
        return Tensors(fn(*row) for row in zip(self.parts, *columns, strict=True))

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: Any) -> Tensors:
        """Index the leading dimension of every part: ``z[2:4]`` is examples 2 and 3."""
        return self.map(lambda t: t[index])

    def __add__(self, other: Operand) -> Tensors:
        return self.map(torch.add, other)

    def __sub__(self, other: Operand) -> Tensors:
        return self.map(torch.sub, other)

    def __rsub__(self, other: Operand) -> Tensors:
        return self.map(torch.rsub, other)

    def __mul__(self, other: Operand) -> Tensors:
        return self.map(torch.mul, other)

    def __truediv__(self, other: Operand) -> Tensors:
        return self.map(torch.div, other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __abs__(self) -> Tensors:
        return self.map(torch.abs)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of every part."""
        return tuple(tuple(t.shape) for t in self)

    @property
    def size(self) -> int:
        """The length of the leading dimension."""
        return self.parts[0].shape[0]

    @property
    def device(self) -> torch.device:
        """Where the first part lies."""
        return self.parts[0].device

    def scale(self, factors: Tensor) -> Tensors:
        """Multiply by one factor per leading index, ``factors`` (N,) or (K, N)."""
        return self.map(lambda t: t * align(factors, t))

    def per_example(self) -> Tensor:
        """Sum of every part over all but the leading dimension, (N,)."""
        return torch.stack([t.flatten(1).sum(1) if t.ndim > 1 else t for t in self]).sum(0)

    def flat(self) -> Tensor:
        """All parts side by side as rows, (N, total number of elements)."""
        return torch.cat([t.flatten(1) if t.ndim > 1 else t[:, None] for t in self], 1)

    def unflatten(self, rows: Tensor) -> Tensors:
        """The inverse of `flat`: rows (N, elements) in the shapes of ``self`` (whose own leading size may differ)."""
        sizes = [t[0].numel() for t in self]
        pieces = rows.split(sizes, 1)
        return Tensors(piece.reshape(-1, *t.shape[1:]) for piece, t in zip(pieces, self, strict=True))

    def repeat(self, copies: int) -> Tensors:
        """``copies`` of the whole batch, one after the other: (N, ...) -> (copies * N, ...)."""
        return self.map(lambda t: t.repeat(copies, *[1] * (t.ndim - 1)))

    def merge(self) -> Tensors:
        """(K, N, ...) -> (K * N, ...)."""
        return self.map(lambda t: t.flatten(0, 1))

    def split(self, copies: int) -> Tensors:
        """(K * N, ...) -> (K, N, ...)."""
        return self.map(lambda t: t.unflatten(0, (copies, -1)))

    def double_for_sums(self) -> Tensors:
        """At least float32, in which long sums of half-precision numbers are taken."""
        return self.map(lambda t: t.to(accumulator(t.dtype)))

    def like(self, other: Tensors) -> Tensors:
        """In the dtypes of ``other``."""
        return self.map(lambda t, o: t.to(o.dtype), other)

    @staticmethod
    def cat(pieces: list[Tensors]) -> Tensors:
        """Concatenate along the leading dimension."""
        if len(pieces) == 1:
            return pieces[0]
        return Tensors(torch.cat(parts) for parts in zip(*pieces, strict=True))

    def unwrap(self, as_tuple: bool) -> TensorOrTensors:
        """In the form a user gave: the tuple, or its only tensor."""
        return self.parts if as_tuple else self.parts[0]


def align(factors: Tensor, like: Tensor) -> Tensor:
    """``factors`` with trailing dimensions of size 1, so that it multiplies ``like`` along its leading dimensions."""
    return factors.to(like.dtype).reshape(*factors.shape, *[1] * (like.ndim - factors.ndim))


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over many values of ``dtype`` are taken.

    >>> accumulator(torch.bfloat16), accumulator(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def as_tensors(value: object, what: str = "inputs") -> tuple[Tensors, bool]:
    """A tensor or tuple of tensors as `Tensors`, and whether it was a tuple."""
    parts = value if isinstance(value, tuple) else (value,)
    if not parts or not all(isinstance(t, Tensor) for t in parts):
        given = ", ".join(type(t).__name__ for t in parts)
        raise TorchwhyError(f"{what} must be a tensor or a tuple of tensors, not ({given})")
    return Tensors(parts), isinstance(value, tuple)


def for_examples(shared: Tensor, es: slice) -> Tensor:
    """(K, 1, ...), which all examples share, or (K, all, ...), as (K, some of the examples, ...)."""
    if shared.shape[1] > 1:
        return shared[:, es]
    return shared.expand(-1, es.stop - es.start, *shared.shape[2:])
