"""One name for every spelling of an operation: module, function, method, operator, in place or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor

ALIASES = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctanh": "atanh",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "expit": "sigmoid",
    "log_sigmoid": "logsigmoid",
    "multiply": "mul",
    "negative": "neg",
    "rtruediv": "rdiv",
    "subtract": "sub",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "true_divide": "div",
}
# Attributes that are tensors on the way of the gradient; the others, such as `shape`, are questions about a tensor.
_TENSOR_ATTRIBUTES = {"T", "H", "mT", "mH", "real", "imag"}
CONVOLUTIONS = tuple(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))
LAYERS = ("linear", *CONVOLUTIONS)
# Where an operation's varying inputs and its parameters stand, for `Local.argument` and `Local.with_`.
SIGNATURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LAYERS, ("input", "weight", "bias")),
    "addmm": ("bias", "input", "weight"),
    "matmul": ("input", "weight"),
    "mm": ("input", "weight"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "softmax": ("input", "dim"),
    "log_softmax": ("input", "dim"),
    "logsumexp": ("input", "dim", "keepdim"),
}


def names(text: str) -> tuple[str, ...]:
    """Names of operations, separated by space."""
    return tuple(text.split())


@dataclass(frozen=True)
class Operation:
    """What a function does.

    Attributes:
        name: the same for all spellings; "" for a question about a tensor, which computes nothing.
        function: the variant that is not in place; None where there is none.
        in_place: whether the function changes its first argument.
        flag: the position of the function's ``inplace`` parameter, which then decides.
    """

    name: str
    function: Callable[..., Any] | None
    in_place: bool = False
    flag: int | None = None

    def settle(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, tuple[Any, ...], dict[str, Any]]:
        """Whether this call is in place, and the arguments of the one that is not."""
        if self.flag is None:
            return self.in_place, args, kwargs
        if len(args) > self.flag:
            return bool(args[self.flag]), (*args[: self.flag], False, *args[self.flag + 1 :]), kwargs
        if kwargs.get("inplace"):
            return True, args, {**kwargs, "inplace": False}
        return False, args, kwargs


@cache
def operation(func: Callable[..., Any]) -> Operation:
    """The operation of a function that PyTorch dispatches.

    >>> spellings = (torch.relu, F.relu, torch.Tensor.relu_, torch.Tensor.__rsub__, torch.special.expit)
    >>> [operation(spelling).name for spelling in spellings]
    ['relu', 'relu', 'relu', 'rsub', 'sigmoid']
    >>> operation(torch.Tensor.relu_).in_place, operation(torch.Tensor.shape.__get__).name
    (True, '')
    """
    raw = getattr(func, "__name__", type(func).__name__)
    if raw == "__get__":
        attribute = func.__self__.__name__  # type: ignore[attr-defined]  # the descriptor it is bound to
        return Operation(attribute if attribute in _TENSOR_ATTRIBUTES else "", func)
    home = getattr(func, "__module__", None) or "torch"
    if home.split(".")[0] != "torch" or home == "torch.nn.init":
        return Operation(f"{home}.{raw}", func)
    if func in (torch.batch_norm, torch.instance_norm):  # their arguments have an order of their own
        return Operation(f"torch.{raw}", func)
    if raw == "__setitem__":
        return Operation("setitem", None, in_place=True)
    name = raw.split(".")[0].removeprefix("special_").replace("linalg_vector_norm", "vector_norm")
    in_place = name.startswith("__i") and name.endswith("__") and name not in ("__index__", "__invert__")
    name = name.strip("_") if name.startswith("__") else name
    if in_place:
        name = name[1:]
    elif name.endswith("_"):
        in_place, name = True, name[:-1]
    function: Callable[..., Any] | None = func
    if in_place:
        function = next((f for home in (Tensor, torch, F) if (f := getattr(home, name, None)) is not None), None)
    return Operation(ALIASES.get(name, name), function, in_place, _flag(func))


def _flag(func: Callable[..., Any]) -> int | None:
    if not inspect.isfunction(func) or "inplace" not in func.__code__.co_varnames[: func.__code__.co_argcount]:
        return None
    return func.__code__.co_varnames.index("inplace")
