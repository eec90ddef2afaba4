"""Where in the model's code an operation stands, read off the Python stack when it is asked for."""

from __future__ import annotations

import linecache
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchwhy.core.guard import module_of

_TORCH = str(Path(torch.__file__).parent)
_OWN = tuple(str(Path(__file__).parents[2] / part) for part in ("core", "engines", "methods"))


@dataclass(frozen=True)
class Place:
    """A line of the model's code.

    Attributes:
        name: of the innermost module whose code runs, "" for the model itself or where there is none.
        module: that module.
        file: of the first line outside PyTorch and this package.
        line: its number.
    """

    name: str = ""
    module: nn.Module | None = None
    file: str = "?"
    line: int = 0

    @property
    def code(self) -> str:
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        kind = type(self.module).__name__ if self.module is not None else "function"
        where = f"{self.name} ({kind})" if self.name else kind
        return f"{where}, {Path(self.file).name}:{self.line}" + (f": {self.code}" if self.code else "")


def names_of(model: Any) -> dict[int, str]:
    """The names of a model's modules by identity."""
    root = module_of(model)
    return {} if root is None else {id(m): name for name, m in root.named_modules()}


def here(names: dict[int, str]) -> Place:
    """The place under way; ``names`` of modules by identity."""
    frame = sys._getframe(1)
    name, module = "", None
    at = frame.f_back
    while at is not None:
        code = at.f_code
        if module is None and code.co_argcount and isinstance(owner := at.f_locals.get(code.co_varnames[0]), nn.Module):
            name, module = names.get(id(owner), ""), owner
        if not code.co_filename.startswith((_TORCH, *_OWN)) and code.co_filename != __file__:
            return Place(name, module, code.co_filename, at.f_lineno)
        at = at.f_back
    return Place(name, module)
