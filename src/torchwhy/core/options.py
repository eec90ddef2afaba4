"""Options are the fields of a dataclass: replaced by name, told apart from what only decides how fast it goes."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from torchwhy.core.errors import TorchwhyError, closest

_HIDDEN = frozenset({"model", "at", "batch_size", "progress"})  # these decide no number


class Options:
    """A dataclass whose fields are its options."""

    def with_options(self, **options: Any) -> Self:
        """The same with some options replaced."""
        if not options:
            return self
        known = [f.name for f in dataclasses.fields(self) if f.init]  # type: ignore[arg-type]  # a mixin of dataclasses
        for name in options:
            if name not in known:
                raise TorchwhyError(f"{type(self).__name__} has no option {name!r}{closest(name, known)}")
        return dataclasses.replace(self, **options)  # type: ignore[type-var]  # (the same)

    def options(self) -> dict[str, Any]:
        """The options that decide the numbers."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # (the same)
        return {f.name: getattr(self, f.name) for f in fields if f.name not in _HIDDEN}


def at_least(name: str, value: Any, least: int) -> None:
    """An option that counts something."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TorchwhyError(f"{name} is a whole number of at least {least}, not {value!r}")


def a_share(name: str, value: Any) -> None:
    """An option that is a part of something, never all of it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise TorchwhyError(f"{name} is a share, a number of at least 0 and below 1, not {value!r}")


def one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    """An option that is one of some words."""
    if value not in known:
        raise TorchwhyError(f"{name} is one of {', '.join(map(repr, known))}, not {value!r}")
