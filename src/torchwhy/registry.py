"""What methods and metrics there are, and the facts about each that the command line, the docs and the tests read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.explanation import Form

_T = TypeVar("_T", bound=type[Any])
_I = TypeVar("_I")
Need: TypeAlias = Literal["model", "explainer", "mask", "inputs"]


@dataclass(frozen=True)
class Info:
    """The facts about a method.

    Attributes:
        family: the idea it stands on.
        summary: what it computes, in a line.
        paper: authors and title, or where it comes from.
        year: of the paper.
        needs: what it asks of the model.
        baselines: what it compares with: nothing, one value per input, or a set of rows.
        promises: the axioms it keeps.
        cost: model evaluations per example in terms of its options.
        signed: positive values raise the score and negative ones lower it; otherwise values are sizes.
        zero_at_layer: at a layer, the baseline is zero there, rather than what zero inputs bring about there.
        standalone: runs from a model alone; otherwise it needs another method.
        form: of the values: "elements" like what is explained; a "map" of one channel at a layer, with or without a
            layer named; "pairs" of features, a symmetric matrix (B, M, M), of which the diagonal and what lies above it
            are to be added up.
        aliases: other names it is known by.
    """

    family: Literal["gradient", "path", "noise", "cam", "attention", "perturbation"]
    summary: str
    paper: str
    year: int
    needs: Literal["gradients", "forward passes"]
    cost: str
    baselines: Literal["none", "one", "set"] = "none"
    promises: tuple[str, ...] = ()
    signed: bool = True
    zero_at_layer: bool = False
    standalone: bool = True
    form: Form = "elements"
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricInfo:
    """The facts about a metric.

    Attributes:
        family: what it asks of an explanation.
        summary: what it measures, in a line.
        paper: authors and title, or where it comes from.
        year: of the paper.
        cost: model evaluations per example in terms of its options.
        range: the lowest and the highest value it can have.
        direction: which values are better; "none" where neither is.
        units: of the value; "" for a pure number.
        needs: a model; a method that can explain again; a mask of what should be marked; the inputs.
        signed: the sign of the attributions matters.
    """

    family: Literal["faithfulness", "robustness", "randomisation", "localisation", "complexity", "axioms", "agreement"]
    summary: str
    paper: str
    year: int
    cost: str
    range: tuple[float, float]
    direction: Literal["higher", "lower", "none"]
    units: str = ""
    needs: tuple[Need, ...] = ("model", "inputs")
    signed: bool = True


class _Registry(Generic[_I]):
    """Classes of one kind by name, each with its facts."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.classes: dict[str, type[Any]] = {}

    def enter(self, info: _I) -> Callable[[_T], _T]:
        def decorate(cls: _T) -> _T:
            cls.info = info
            self.classes[cls.__name__] = cls
            return cls

        return decorate

    def all(self) -> dict[str, type[Any]]:
        return dict(sorted(self.classes.items()))

    def lookup(self, name: str) -> type[Any]:
        by_plain = {_plain(known): known for known in self.classes}
        for known, cls in self.classes.items():
            by_plain |= {_plain(alias): known for alias in getattr(cls.info, "aliases", ())}
        if _plain(name) in by_plain:
            return self.classes[by_plain[_plain(name)]]
        hint = closest(_plain(name), by_plain)
        for short, known in by_plain.items():
            hint = hint.replace(repr(short), repr(known))
        raise TorchwhyError(f"there is no {self.kind} {name!r}{hint}")


def _plain(text: str) -> str:
    return text.lower().replace("-", "").replace("_", "")


_METHODS = _Registry[Info]("method")
_METRICS = _Registry[MetricInfo]("metric")


def register(info: Info) -> Callable[[_T], _T]:
    """A class decorator that gives a method its facts and its place in the registry, under its class name."""
    return _METHODS.enter(info)


def methods() -> dict[str, type[Any]]:
    """All registered methods by name, sorted."""
    return _METHODS.all()


def lookup(name: str) -> type[Any]:
    """The method of a name; case, dashes and underscores do not matter.

    >>> import torchwhy.methods
    >>> lookup("integrated-gradients").__name__, lookup("shapley").__name__
    ('IntegratedGradients', 'ShapleyValues')
    >>> lookup("integrated_gradient")
    Traceback (most recent call last):
        ...
    torchwhy.core.errors.TorchwhyError: there is no method 'integrated_gradient'; did you mean 'IntegratedGradients'...
    """
    return _METHODS.lookup(name)


def register_metric(info: MetricInfo) -> Callable[[_T], _T]:
    """The same for a metric."""
    return _METRICS.enter(info)


def metrics() -> dict[str, type[Any]]:
    """All registered metrics by name, sorted."""
    return _METRICS.all()


def lookup_metric(name: str) -> type[Any]:
    """The metric of a name; case, dashes and underscores do not matter.

    >>> import torchwhy.metrics
    >>> lookup_metric("deletion").__name__
    'Deletion'
    """
    return _METRICS.lookup(name)
