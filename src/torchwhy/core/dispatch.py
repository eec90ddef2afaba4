"""What sees every operation of a pass, below autograd."""

from __future__ import annotations

import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Dispatch(TorchDispatchMode):
    """A `TorchDispatchMode` that does not load PyTorch's compiler, a second's work, unless something is compiled.

    PyTorch keeps its compiler away from ``__torch_dispatch__`` by a wrapper that loads it. Only a compiled model needs
    that, and one has it loaded already.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        kind = type(self)
        if "torch._dynamo" in sys.modules and "_kept_away" not in kind.__dict__:
            setattr(kind, "__torch_dispatch__", torch.compiler.disable(kind.__torch_dispatch__))  # noqa: B010  of a class
            setattr(kind, "_kept_away", True)  # noqa: B010  (the same)
