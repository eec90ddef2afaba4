"""What a user gives: checked, and brought into the form the engines take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.tensors import Tensors


def broadcast(given: Any, like: Tensors, what: str, whose: str) -> Tensors:
    """Numbers or tensors, one for all parts or one for each, expanded to the shapes of ``like``."""
    parts = given.parts if isinstance(given, Tensors) else given if isinstance(given, tuple) else (given,) * len(like)
    if (isinstance(given, Tensor) and len(like) > 1) or len(parts) != len(like):
        count = len(parts) if isinstance(given, tuple) else 1
        raise TorchwhyError(
            f"{what}: {count} given for {len(like)} tensors of {whose}; give one number, or a tuple of one each"
        )
    out = []
    for part, t in zip(parts, like, strict=True):
        if isinstance(part, bool) or not isinstance(part, int | float | Tensor):
            raise TorchwhyError(f"{what} are numbers or tensors, not {type(part).__name__}")
        value = cast(torch.as_tensor(part), t, what)
        try:
            out.append(value.expand(t.shape))
        except RuntimeError as error:
            raise TorchwhyError(
                f"{what} of shape {tuple(value.shape)} do not broadcast to {whose}, {tuple(t.shape)}"
            ) from error
    return Tensors(out)


def cast(given: Tensor, like: Tensor, what: str) -> Tensor:
    """In the dtype of ``like``, where that holds the same numbers."""
    value = given.detach().to(like)
    if value.is_floating_point() and not value.isfinite().all():
        raise TorchwhyError(f"{what} hold NaN or infinity, or more than {like.dtype} can")
    if not value.is_floating_point() and not torch.equal(value.to(given), given):
        raise TorchwhyError(f"{what} hold numbers that {like.dtype}, the dtype of the inputs, cannot: give others")
    return value


def leaf(t: Tensor) -> Tensor:
    """A copy that autograd differentiates with respect to; integers are refused."""
    if not t.is_floating_point():
        raise TorchwhyError(
            f"the input is {t.dtype}, which has no gradient: explain the layer behind it, such as at='embedding', "
            f"or pass it as an additional forward argument"
        )
    return t.detach().requires_grad_()


def check_inputs(inputs: Tensors) -> None:
    """Refuse what is no batch of finite numbers."""
    if any(t.ndim == 0 for t in inputs):
        raise TorchwhyError("inputs have a batch dimension first; a single number needs shape (1,) or (1, 1)")
    if len({t.shape[0] for t in inputs}) > 1:
        raise TorchwhyError(f"a tuple of inputs shares its batch dimension, not {inputs.shapes}")
    if inputs.size == 0:
        raise TorchwhyError(f"there are no examples in inputs of shape {inputs.shapes[0]}")
    for number, t in enumerate(inputs):
        if t.numel() == 0:
            raise TorchwhyError(f"input {number} of shape {tuple(t.shape)} has no elements to explain")
        # A finite sum has finite summands, and is found in one reading.
        if t.is_floating_point() and not t.sum().isfinite() and not (finite := t.isfinite()).all():
            where = tuple((~finite).nonzero()[0].tolist())
            raise TorchwhyError(
                f"input {number} holds {int((~finite).sum())} values that are NaN or infinite, the first at {where}"
            )
