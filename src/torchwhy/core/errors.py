"""The errors a user meets. Each message is one line: what was given, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class TorchwhyError(ValueError):
    """Input that cannot be explained as asked; the command line prints it as one line and exits with 2."""


class UnsupportedError(TorchwhyError):
    """A method's promise cannot be kept on this model; the message names the operation."""


class MissingExtraError(TorchwhyError, ImportError):
    """An optional package is not installed.

    >>> raise MissingExtraError("scikit-image", "vision")
    Traceback (most recent call last):
        ...
    torchwhy.core.errors.MissingExtraError: this needs scikit-image; install it with: pip install "torchwhy[vision]"
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'this needs {package}; install it with: pip install "torchwhy[{extra}]"')


class Unfinished(KeyboardInterrupt):
    """The user has interrupted an explanation of which nothing can be shown yet.

    Attributes:
        method: that was at work.
        at: the place that is explained, None for the input.
        target: what is explained, for people.
        memories: what was evaluated, with which ``explain(..., resume=)`` goes on.
    """

    def __init__(self, method: str, at: str | None, target: tuple[str, ...], memories: dict[Any, Any]) -> None:
        super().__init__(f"{method} has nothing to show yet: explain again with this interrupt as resume= to go on")
        self.method, self.at, self.target, self.memories = method, at, target, memories


def closest(name: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'conv2' or 'conv1'?``, or all the names when none is close.

    >>> closest("conv_2", ["conv1", "conv2", "fc"])
    "; did you mean 'conv2' or 'conv1'?"
    >>> closest("q", ["conv1", "fc"])
    "; there are: 'conv1', 'fc'"
    """
    names = list(known)
    near = get_close_matches(str(name), names, n=3)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    shown = ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"; there are: {shown}" if names else ""
