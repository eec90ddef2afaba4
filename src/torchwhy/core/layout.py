"""Images that lie in memory pixel by pixel, which makes convolutions on a CPU faster and shall change nothing else.

Code can see how a tensor lies in memory: by its strides, by its storage, or by whether a reshaped tensor is a copy that
a later change in place does not reach. A pass is watched, therefore, and given up as soon as it does anything of which
it is not known that it cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from torchwhy.core.tensors import Tensors

# Smaller images lie in memory as usual: for them, a pass spends more on bringing the weights into the other order than
# it gains. Measured on ResNet-18 with images of 64 to 224 pixels a side.
MANY_PIXELS = 25_000
# So many times that in a whole pass: fewer do not make up for the weights, which every pass brings into that order. On
# the same network, 4 images of 224 pixels a side gain a tenth, 2 nothing, and 1 loses.
MANY_TOGETHER = 6


class Tells(Exception):  # noqa: N818  nothing is wrong
    """The model may see how its images lie in memory."""


def _functions(names: str) -> frozenset[Callable[..., Any]]:
    """All spellings of operations: functions of torch and of torch.nn.functional, methods, methods in place."""
    spaces = (torch, F, torch._C._nn, Tensor, torch._C.TensorBase)
    spelled = [s for name in names.split() for s in (name, f"{name}_", f"__{name}__", f"__r{name}__", f"__i{name}__")]
    found = [getattr(space, name, None) for space in spaces for name in spelled]
    return frozenset(f for f in found if f is not None)


# What gives the same numbers however its inputs lie in memory, and a view exactly where it always does.
_ALIKE = _functions(
    """
    conv2d conv_transpose2d linear batch_norm group_norm instance_norm layer_norm
    relu relu6 leaky_relu prelu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid sigmoid tanh softplus
    softmax log_softmax dropout dropout2d
    max_pool2d avg_pool2d adaptive_max_pool2d adaptive_avg_pool2d interpolate pad normalize
    add sub mul div truediv neg pow sqrt rsqrt exp abs square maximum minimum clamp where
    mean sum amax amin var matmul bmm addmm cat stack chunk split unbind narrow select squeeze unsqueeze
    permute transpose movedim view expand clone detach requires_grad_ size dim numel is_floating_point is_complex
    getitem len
    """
) | {getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad", "is_leaf")}
# What gives a view or a copy, depending on how its input lies in memory.
_VIEW_OR_COPY = _functions("reshape flatten contiguous unflatten ravel")
_RANDOM = _functions("dropout dropout2d")


def has_many_pixels(inputs: Tensors) -> bool:
    """Whether some inputs are images of which the memory layout makes a difference in time."""
    images = [t for t in inputs if t.ndim == 4 and t.shape[1] > 1 and t.dtype == torch.float32]
    return inputs.device.type == "cpu" and any(t.shape[2] * t.shape[3] >= MANY_PIXELS for t in images)


def has_many_together(inputs: Tensors, rows: int) -> bool:
    """Whether so many rows of such images make up for what the other layout costs a pass."""
    sizes = [t.shape[2] * t.shape[3] for t in inputs if t.ndim == 4]
    return rows * max(sizes, default=0) >= MANY_TOGETHER * MANY_PIXELS


class ByPixel(TorchFunctionMode):
    """Inside, a model runs on images that lie in memory pixel by pixel, or raises `Tells`.

    Args:
        model: its parameters and buffers are nothing to be afraid of; a tensor from an unknown place is.
        images: what the model gets.
    """

    def __init__(self, model: nn.Module | None, images: Iterable[Tensor]) -> None:
        super().__init__()
        self._ours = _Seen(images)  # made from the images
        self._others = _Seen([*model.parameters(), *model.buffers()] if model is not None else ())
        self._forked: dict[int, Any] = {}  # storages of which it depends on the layout whether they are one

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        ours = [t for t in given if t in self._ours]
        if len(ours) < len(given) and not all(t in self._ours or t in self._others for t in given):
            raise Tells("a tensor from elsewhere")
        if not ours:
            out = func(*args, **kwargs)
            self._others.add(out)
            return out
        if func not in _ALIKE and func not in _VIEW_OR_COPY:
            raise Tells(str(func))
        self._check(func, args, kwargs)
        out = func(*args, **kwargs)
        self._ours.add(out)
        if func in _VIEW_OR_COPY:
            for t in (*ours, out):
                storage = t.untyped_storage()
                self._forked[storage.data_ptr()] = storage
        return out

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        """Nothing random, and nothing in place where it is not certain what else changes with it."""
        if func in _RANDOM and (kwargs.get("training", args[2] if len(args) > 2 else True)):
            raise Tells("an operation that draws numbers")
        if "out" in kwargs:
            raise Tells("an output that is given")
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if in_place or name.startswith("__i") or kwargs.get("inplace") or any(a is True for a in args[1:]):
            target = args[0] if args else kwargs.get("input")
            if target not in self._ours or target.untyped_storage().data_ptr() in self._forked:
                raise Tells("a change in place")

    def settled(self, output: Any) -> Any:
        """What the model gave, in the usual layout."""
        leaves = tree_leaves(output)
        if not all(t in self._ours or t in self._others for t in leaves if isinstance(t, Tensor)) or any(
            not isinstance(leaf, Tensor | int | float | str | None) for leaf in leaves
        ):
            raise Tells("an output from elsewhere")
        return tree_map_only(Tensor, Tensor.contiguous, output)


class _Seen:
    """Tensors, as long as they live."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._by_id: WeakValueDictionary[int, Tensor] = WeakValueDictionary((id(t), t) for t in tensors)

    def __contains__(self, t: object) -> bool:
        return self._by_id.get(id(t)) is t

    def add(self, out: Any) -> None:
        for t in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(t, Tensor):
                self._by_id[id(t)] = t
