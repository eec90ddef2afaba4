"""One operation where it stands: what went in, what came out, and how it would have been with other numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.tensors import accumulator
from torchwhy.engines.rules.decompose import Refused
from torchwhy.engines.rules.operations import LAYERS, SIGNATURES

# Their backward pass takes what went in, and does not look at what came out.
_BLIND = {*LAYERS, "batch_norm"}
# Where a tensor stands among the arguments: by position or name, and within a list.
Slot: TypeAlias = tuple[int | str, int | None]


def tensors_in(args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[tuple[Slot, Tensor]]:
    """The tensors among arguments, also in lists of them, and where they stand."""
    places: Iterable[tuple[int | str, Any]] = (*enumerate(args), *kwargs.items()) if kwargs else enumerate(args)
    for key, value in places:
        if isinstance(value, Tensor):
            yield (key, None), value
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                if isinstance(item, Tensor):
                    yield (key, i), item


@dataclass(frozen=True)
class Call:
    """A function and its arguments, without the inputs that the explanation runs through: these fill the slots."""

    name: str
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    slots: tuple[Slot, ...]

    @staticmethod
    def of(
        name: str,
        function: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        slots: Sequence[Slot],
    ) -> Call:
        call = Call(name, function, args, kwargs, tuple(slots))
        return replace(call, args=(filled := call.fill([None] * len(slots)))[0], kwargs=filled[1])

    def fill(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = list(self.args), dict(self.kwargs)
        for (key, inner), value in zip(self.slots, values, strict=True):
            holder: Any = kwargs if isinstance(key, str) else args
            if inner is None:
                holder[key] = value
            else:
                items = list(holder[key])
                items[inner] = value
                holder[key] = items
        return tuple(args), kwargs

    def run(self, values: Sequence[Tensor]) -> Any:
        if self.function is None:
            raise Refused("it only works in place")
        args, kwargs = self.fill(values)
        return self.function(*args, **kwargs)

    def constants(self) -> list[Any]:
        """All arguments but the varying inputs."""
        slots = set(self.slots)
        return [
            item
            for key, value in (*enumerate(self.args), *self.kwargs.items())
            if (key, None) not in slots
            for item in (
                [v for i, v in enumerate(value) if (key, i) not in slots]
                if isinstance(value, list | tuple)
                else [value]
            )
        ]

    def argument(self, name: str) -> Any:
        """An argument by the name it has in `SIGNATURES`, or None."""
        names = SIGNATURES.get(self.name, ())
        if name in self.kwargs:
            return self.kwargs[name]
        position = names.index(name) if name in names else len(self.args)
        return self.args[position] if position < len(self.args) else None

    def with_arguments(self, **changed: Any) -> Call:
        args, kwargs = list(self.args), dict(self.kwargs)
        names = SIGNATURES.get(self.name, ())
        for name, value in changed.items():
            if name in kwargs or name not in names or names.index(name) >= len(args):
                kwargs[name] = value
            else:
                args[names.index(name)] = value
        return replace(self, args=tuple(args), kwargs=kwargs)


@dataclass(eq=False)
class Local:
    """An operation as a rule sees it.

    Attributes:
        call: the function and its constant arguments.
        inputs: the tensors that the explanation runs through, detached.
        reference: the same operation in the pass over the baseline, for rules that compare.
        source: the operation that gave ``inputs[0]``, if the engine keeps these.
    """

    call: Call
    inputs: tuple[Tensor, ...]
    reference: Local | None = None
    source: Local | None = None
    _graph: tuple[tuple[Tensor, ...], Any] | None = field(default=None, repr=False)
    _output: Tensor | None = field(default=None, repr=False)

    @property
    def operation(self) -> str:
        return self.call.name

    def argument(self, name: str) -> Any:
        """A constant argument, such as "weight", "bias" or "eps", or None."""
        return self.call.argument(name)

    @property
    def raw(self) -> Any:
        """What the function returned."""
        return self._run()[1]

    @property
    def output(self) -> Tensor:
        """The output that has a gradient, detached."""
        if self._output is None:
            self._output = _differentiable(self.raw).detach()
        return self._output

    def vjp(self, g: Tensor) -> tuple[Tensor, ...]:
        """The plain vector-Jacobian product: one gradient per input."""
        leaves, raw = self._run()
        found = torch.autograd.grad(_differentiable(raw), leaves, g, retain_graph=True, allow_unused=True)
        return tuple(torch.zeros_like(x) if d is None else d for d, x in zip(found, leaves, strict=True))

    def slope(self) -> Tensor:
        """The derivative of an elementwise operation with one input."""
        return self.vjp(torch.ones_like(self.output))[0]

    def with_(self, inputs: Sequence[Tensor] | None = None, **arguments: Any) -> Local:
        """The same operation with other inputs or arguments, such as ``with_(weight=w.clamp(min=0), bias=None)``."""
        call = self.call.with_arguments(**arguments) if arguments else self.call
        return Local(call, self.inputs if inputs is None else tuple(inputs), self.reference, self.source)

    def wide(self) -> Local:
        """In at least float32, so that differences of half-precision numbers keep their digits."""
        if all(accumulator(x.dtype) == x.dtype for x in self.inputs):
            return self

        def widen(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.to(accumulator(value.dtype))
            return value

        call = replace(
            self.call,
            args=tuple(map(widen, self.call.args)),
            kwargs={name: widen(value) for name, value in self.call.kwargs.items()},
        )
        return Local(call, tuple(map(widen, self.inputs)))

    def _run(self) -> tuple[tuple[Tensor, ...], Any]:
        if self._graph is None:
            with torch.enable_grad():
                leaves = tuple(x.detach().requires_grad_() for x in self.inputs)
                self._graph = leaves, self.call.run(leaves)
        return self._graph

    def keep(self, output: Tensor) -> None:
        """An output that is known already need not be computed again."""
        if self._output is None:
            self._output = output.detach()

    # -- in-place operations of the model -------------------------------------------------------------------------

    def storages(self) -> Iterator[int]:
        for t in self._held():
            yield storage(t)

    def unshare(self, place: int) -> None:
        """Before the memory at ``place`` changes: copy what is held there, and forget the graph that refers to it."""

        def own(value: Any) -> Any:
            return value.clone() if isinstance(value, Tensor) and storage(value) == place else value

        if self._output is None and self._graph is not None:
            self._output = self.output
        if self.operation not in _BLIND or any(storage(t) == place for t in self._given()):
            self._graph = None
        self.inputs = tuple(map(own, self.inputs))
        self._output = own(self._output)
        args, kwargs = tuple(map(own, self.call.args)), {k: own(v) for k, v in self.call.kwargs.items()}
        self.call = replace(self.call, args=args, kwargs=kwargs)

    def _given(self) -> Iterator[Tensor]:
        yield from self.inputs
        yield from (t for _, t in tensors_in(self.call.args, self.call.kwargs))

    def _held(self) -> Iterator[Tensor]:
        yield from self._given()
        if self._output is not None:
            yield self._output
        if self._graph is not None:
            yield from (t for _, t in tensors_in((self._graph[1],), {}))


def storage(t: Tensor) -> int:
    """The memory that a tensor shares with its views."""
    return int(t.untyped_storage()._cdata)


def _differentiable(raw: Any) -> Tensor:
    for t in (raw,) if isinstance(raw, Tensor) else raw:
        if isinstance(t, Tensor) and t.requires_grad:
            return t
    raise AssertionError("an operation with a rule has an output with a gradient")
