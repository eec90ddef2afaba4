"""What a user gives: checked, and brought into the form the engines take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.guard import Arguments, module_of
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


def check_batch_size(rows: int | None) -> None:
    """Refuse what is no number of rows."""
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise TorchwhyError(f"batch_size counts rows, a whole number of at least 1, not {rows!r}")


def check_rows_independent(model: Any) -> None:
    """Refuse a model of which a row's output depends on the other rows."""
    module = module_of(model)
    for m in module.modules() if module is not None else ():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None:
            assert module is not None
            name = next(name for name, one in module.named_modules() if one is m)
            raise UnsupportedError(
                f"{name} ({type(m).__name__}, track_running_stats=False) normalises over the batch even in "
                f"evaluation mode, so a score depends on the other rows: give it running statistics"
            )


def at_home(model: Any, inputs: Tensors, extra: Arguments) -> tuple[Tensors, Arguments]:
    """What is given to a ``DataParallel`` may lie anywhere; the model it spreads is on its first device."""
    if not isinstance(model, nn.DataParallel) or not model.device_ids:
        return inputs, extra
    device = model.src_device_obj
    moved: Arguments = tree_map_only(Tensor, lambda t: t.to(device), extra)
    return inputs.map(lambda t: t.to(device)), moved
