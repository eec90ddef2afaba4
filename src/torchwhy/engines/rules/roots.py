"""Functions of one number, followed from operation to operation, however many of these they are written in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from torchwhy.engines.rules.local import Call, Local

# Stands for the operations between a tensor and one that takes several functions of it.
ROOT = Local(Call("root", None, (), {}, ()), ())


class Root(NamedTuple):
    """A tensor that others are functions of, element by element, and what it was when they were computed."""

    key: Any
    tensor: Tensor

    def source(self) -> tuple[Local, tuple[Tensor, ...]]:
        """As the ``local.source`` of an operation, with the inputs as autograd has them."""
        return replace(ROOT, inputs=(self.tensor.detach(),)), (self.tensor,)


class Roots:
    """The roots of the tensors of a forward pass."""

    def __init__(self) -> None:
        self._known: dict[Any, Root] = {}

    def common(self, values: tuple[Tensor, ...]) -> Root | None:
        """The one tensor that all values are functions of, if it is still what it was."""
        found = [self._known.get(key := _key(t), Root(key, t)) for t in values]
        same = all(root.key == found[0].key for root in found)
        return found[0] if same and _key(found[0].tensor) == found[0].key else None

    def note(self, root: Root, local: Local, out: Any) -> None:
        """What an elementwise operation made of functions of a root, if it does the same to all elements."""
        constants = (c for c in local.call.constants() if isinstance(c, Tensor))
        if isinstance(out, Tensor) and out.shape == root.tensor.shape and all(c.numel() == 1 for c in constants):
            self._known[_key(out)] = root


def _key(t: Tensor) -> Any:
    """What a tensor is at this moment; operations in place make it another."""
    return (id(t), t._version) if t.grad_fn is None else (t.grad_fn, t.output_nr)
