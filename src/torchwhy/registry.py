"""What methods there are, and the facts about each that the command line, the docs and the tests read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torchwhy.core.errors import TorchwhyError, closest

_T = TypeVar("_T", bound=type[Any])


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
    """

    family: Literal["gradient", "path", "noise", "cam", "perturbation"]
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


_METHODS: dict[str, type[Any]] = {}


def register(info: Info) -> Callable[[_T], _T]:
    """A class decorator that gives a method its facts and its place in the registry, under its class name."""

    def enter(cls: _T) -> _T:
        cls.info = info
        _METHODS[cls.__name__] = cls
        return cls

    return enter


def methods() -> dict[str, type[Any]]:
    """All registered methods by name, sorted."""
    return dict(sorted(_METHODS.items()))


def lookup(name: str) -> type[Any]:
    """The method of a name; case, dashes and underscores do not matter.

    >>> import torchwhy.methods
    >>> lookup("integrated-gradients").__name__
    'IntegratedGradients'
    >>> lookup("integrated_gradient")
    Traceback (most recent call last):
        ...
    torchwhy.core.errors.TorchwhyError: there is no method 'integrated_gradient'; did you mean 'IntegratedGradients'...
    """

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    for known, cls in _METHODS.items():
        if plain(known) == plain(name):
            return cls
    by_plain = {plain(known): known for known in _METHODS}
    hint = closest(plain(name), by_plain)
    for short, known in by_plain.items():
        hint = hint.replace(repr(short), repr(known))
    raise TorchwhyError(f"there is no method {name!r}{hint}")
