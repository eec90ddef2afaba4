"""The errors a user meets. Each message is one line: what was given, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


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
