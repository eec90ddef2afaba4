"""Which operation gets which rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor, nn

from torchwhy.engines.rules.decompose import WHOLE, Decomposition, opened
from torchwhy.engines.rules.local import Local
from torchwhy.engines.rules.operations import Operation, operation
from torchwhy.engines.rules.place import Place

Gradients: TypeAlias = "Tensor | tuple[Tensor, ...]"
Backward: TypeAlias = Callable[[Tensor], Gradients]


class Prepared(ABC):
    """A rule that works in the forward pass, and keeps of the operation's values what its backward pass takes.

    It knows the operation before it runs, so it may leave it alone or take the one before it in.

    Attributes:
        again: its backward pass looks at the operation again, which is then kept as it was.
    """

    again: ClassVar[bool] = False

    def needed(self, local: Local) -> bool:
        """Before the operation runs: False leaves it to autograd, which does the same."""
        return True

    def stops(self, local: Local) -> bool:
        """Whether what the operation gives counts as a constant, through which nothing flows back."""
        return False

    def fuses(self, local: Local) -> bool:
        """Whether the rule takes in ``local.source``, so that its gradients are for the inputs of that."""
        return False

    @abstractmethod
    def prepare(self, local: Local) -> Backward:
        """The backward pass of this operation: from the output's gradient to one for each input."""


Rule: TypeAlias = "Callable[[Local, Tensor], Gradients] | Prepared"


@dataclass(frozen=True)
class On:
    """Which operations a rule is for; made by `on`."""

    operations: frozenset[str]
    module: tuple[type[nn.Module], ...] = ()
    name: str | None = None
    position: Literal["first", "last"] | None = None

    def meets(self, place: Callable[[], Place]) -> bool:
        """Whether an operation of the right name stands at the right place, which is looked up if it matters."""
        return (not self.module or isinstance(place().module, self.module)) and (
            self.name is None or fnmatchcase(place().name, self.name)
        )


def on(
    *operations: str,
    module: type[nn.Module] | tuple[type[nn.Module], ...] = (),
    name: str | None = None,
    position: Literal["first", "last"] | None = None,
) -> On:
    """A selector.

    Args:
        operations: names such as "relu", "linear" or "conv2d", each for all spellings of the operation.
        module: the type of the innermost module whose code runs the operation.
        name: a pattern of that module's name, such as "layer4.*".
        position: the first or last operation of the forward pass that the rest of the selector meets.

    >>> on("linear", "conv2d", position="first").position
    'first'
    """
    return On(frozenset(operations), module if isinstance(module, tuple) else (module,), name, position)


@dataclass(frozen=True, eq=False)
class Composite:
    """Rules for a whole model.

    Attributes:
        name: of the method, for messages.
        rules: selectors with their rules; the first that an operation meets decides.
        linear: operations that autograd treats as the method promises. Others without a rule are refused; None refuses
            none.
        decompositions: operations to be taken apart into smaller ones, besides those that always are.
        reference: the rules compare with the same operation in a pass over the baseline.
        sources: names of operations that are kept as the ``local.source`` of the next one.
        elementwise: names of operations that are followed from number to number: where all inputs of one are functions
            of the same tensor, element by element, its ``local.source`` is `roots.ROOT` with that tensor as its input.
    """

    name: str
    rules: tuple[tuple[On, Rule], ...]
    linear: frozenset[str] | None = None
    decompositions: Mapping[str, Decomposition] = field(default_factory=dict)
    reference: bool = False
    sources: frozenset[str] = frozenset()
    elementwise: frozenset[str] = frozenset()
    plans: dict[Any, Plan] = field(default_factory=dict, init=False, repr=False)

    def plan(self, func: Callable[..., Any]) -> Plan:
        """What to do with a function; remembered, so that it costs a look-up."""
        found = self.plans.get(func)
        if found is None:
            op = operation(func)
            rules = tuple((selector, rule) for selector, rule in self.rules if op.name in selector.operations)
            known = self.linear is not None and op.name in self.linear
            smaller = self.decompositions.get(op.name)
            if smaller is None and not rules:
                smaller = WHOLE.get(op.name) or (None if known else opened(func))
            listed = bool(rules) or known or self.linear is None
            found = self.plans[func] = Plan(op, rules, smaller, listed)
        return found


@dataclass(frozen=True)
class Plan:
    """What a composite does with a function.

    Attributes:
        operation: what the function computes.
        rules: that may apply.
        smaller: the same written in smaller operations.
        listed: known to the composite.
    """

    operation: Operation
    rules: tuple[tuple[On, Rule], ...]
    smaller: Decomposition | None
    listed: bool
