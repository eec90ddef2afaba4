"""Classes made from rows of the table: real ones, whose signatures are Captum's."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any, ClassVar

from torch import Tensor

from torchwhy import methods
from torchwhy.captum._asking import answer, captums_errors, change, question
from torchwhy.captum._table import ROWS, Row
from torchwhy.core.tensors import as_tensors

Answer = Callable[["Shim", dict[str, Any]], Any]


class Shim:
    """What all of Captum's attribution classes share.

    Attributes:
        seed: of methods that draw random numbers, which Captum takes from the global generator. Set another on the
            object for other draws.
    """

    seed = 0
    _row: ClassVar[Row]
    _given: dict[str, Any]

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions have the factor of the inputs, or of their difference from the baselines."""
        multiplies: bool = self._given.get("multiply_by_inputs", self._row.multiplies)
        return multiplies

    def has_convergence_delta(self) -> bool:
        """Whether ``attribute`` has a ``return_convergence_delta``."""
        inner = self._given.get("attribution_method")
        if isinstance(inner, Shim):
            return inner.has_convergence_delta()
        return "return_convergence_delta" in (self._row.attribute or "")

    @classmethod
    def get_name(cls) -> str:
        """The name in words."""
        return "".join(c if c.islower() or i == 0 else f" {c}" for i, c in enumerate(cls.__name__))


def signature(text: str, **names: Any) -> Signature:
    """A method's signature from its arguments as one writes them; ``names`` are those that defaults may use.

    >>> signature("inputs, target=None, **kwargs")
    <Signature (self, inputs, target=None, **kwargs)>
    """
    args = ast.parse(f"def f(self, {text}): ...").body[0].args  # type: ignore[attr-defined]  # it is a function
    first = len(args.args) - len(args.defaults)
    found = []
    for n, arg in enumerate(args.args):
        default = Parameter.empty if n < first else _value(args.defaults[n - first], names)
        found.append(Parameter(arg.arg, Parameter.POSITIONAL_OR_KEYWORD, default=default))
    if args.kwarg is not None:
        found.append(Parameter(args.kwarg.arg, Parameter.VAR_KEYWORD))
    return Signature(found)


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    return names[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


def bound(told: Signature, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Every argument by its name, without ``self``."""
    filled = told.bind(*args, **kwargs)
    filled.apply_defaults()
    return dict(list(filled.arguments.items())[1:])


def function(name: str, told: Signature, doc: str, run: Callable[[Any, dict[str, Any]], Any]) -> Callable[..., Any]:
    """A method with this name, signature and docstring."""

    def method(*args: Any, **kwargs: Any) -> Any:
        return run(args[0] if args else None, bound(told, *args, **kwargs))

    method.__name__ = name
    method.__signature__ = told  # type: ignore[attr-defined]  # what `inspect` reads
    method.__doc__ = doc
    return method


def make(special: dict[str, Answer], **names: Any) -> dict[str, type[Any]]:
    """All classes of the table by name.

    Args:
        special: how those are answered that a method of ours does not answer by itself.
        names: what defaults may use.
    """
    made: dict[str, type[Any]] = {}
    for name, row in ROWS.items():
        bases = tuple(made[base] for base in row.bases) or (Shim,)
        body: dict[str, Any] = {"_row": row, "__module__": "torchwhy.captum", "__doc__": _doc(name, row)}
        told = signature(row.init, **names)
        body["__init__"] = function("__init__", told, "Keep what the method is to be asked about.", _keep)
        if row.attribute is not None:
            told = signature(row.attribute, **names)
            ask = special.get(name, _ask)
            body["attribute"] = function("attribute", told, _told(row), _answering(ask, name))
        made[name] = type(name, bases, body)
        for one in body.values():
            if inspect.isfunction(one):
                one.__qualname__ = f"{name}.{one.__name__}"
    delta = signature("attributions, start_point, end_point, target=None, additional_forward_args=None")
    made["GradientAttribution"].compute_convergence_delta = function(
        "compute_convergence_delta", delta, "By how much attributions miss the change of the score, (B,).", _change
    )
    made["LRP"].compute_convergence_delta = function(
        "compute_convergence_delta", signature("attributions, output"), "The score less its parts, (B,).", _left
    )
    return made


def _keep(self: Any, given: dict[str, Any]) -> None:
    self._given = given
    model = given.get("model", given.get("forward_func"))
    inner = given.get("attribution_method", given.get("attr_method"))
    self.forward_func = getattr(inner, "forward_func", model)
    for name, value in given.items():
        if name != "multiply_by_inputs":  # a property tells
            setattr(self, name, value)


def everything(self: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments, as they are on the object now, with those of ``attribute``."""
    kept = {name: getattr(self, name, value) for name, value in self._given.items()}
    return {**kept, **given}


def _answering(ask: Answer, name: str) -> Callable[[Any, dict[str, Any]], Any]:
    def run(self: Any, given: dict[str, Any]) -> Any:
        with captums_errors():
            return ask(self, everything(self, given))

    return run


def _ask(self: Shim, given: dict[str, Any]) -> Any:
    row = type(self)._row
    return answer(row, question(row, given, **seeded(self)), given)


def seeded(self: Shim) -> dict[str, Any]:
    """The seed, where our method takes one."""
    method = type(self)._row.method
    return {"seed": self.seed} if "seed" in getattr(methods, method).__dataclass_fields__ else {}


def _change(self: Any, given: dict[str, Any]) -> Tensor:
    with captums_errors():
        return change(
            self.forward_func,
            given["attributions"],
            given["start_point"],
            given["end_point"],
            given["target"],
            given["additional_forward_args"],
        )


def _left(self: Any, given: dict[str, Any]) -> Tensor:
    with captums_errors():
        left: Tensor = given["output"].flatten() - as_tensors(given["attributions"], "attributions")[0].per_example()
        return left


def _doc(name: str, row: Row) -> str:
    if not row.method:
        return f"Captum's ``{name}``."
    ours = getattr(methods, row.method)
    return f"Captum's ``{name}``: {ours.info.summary}. See `torchwhy.{row.method}`."


def _told(row: Row) -> str:
    see = f"`torchwhy.{row.method}`" if row.method else "the class"
    return f"The attributions, in the shape of what is explained; with a convergence delta, a pair. See {see}."
