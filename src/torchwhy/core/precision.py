"""Backward passes in bfloat16: the large products of a gradient at half the width, everything else as it was."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.dispatch import Dispatch

Precision: TypeAlias = Literal["full", "mixed"]

_aten = torch.ops.aten
# The products that nearly all of a backward pass is made of.
_PRODUCTS = {
    _aten.convolution_backward.default,
    _aten.convolution.default,
    _aten.mm.default,
    _aten.bmm.default,
    _aten.addmm.default,
}


class _Bfloat16Products(Dispatch):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        wide = next(a.dtype for a in args if isinstance(a, Tensor))
        narrow = [a.to(torch.bfloat16) if isinstance(a, Tensor) else a for a in args]
        out = func(*narrow, **(kwargs or {}))
        if isinstance(out, Tensor):
            return out.to(wide)
        return tuple(None if t is None else t.to(wide) for t in out)


def backward(precision: Precision) -> AbstractContextManager[Any]:
    """The context a backward pass runs in: "full" as the model's dtype has it, "mixed" with products in bfloat16."""
    return _Bfloat16Products() if precision == "mixed" else nullcontext()
