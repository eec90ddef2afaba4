"""Explaining leaves everything as it was: the model's mode, buffers and gradients, the hooks, the random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from torchwhy.core.errors import TorchwhyError, UnsupportedError

Arguments: TypeAlias = tuple[Any, ...] | dict[str, Any]  # further ones of a model, by position or by name


def as_arguments(extra: Any) -> Arguments:
    """Further arguments as a user gives them: a tuple by position, a dict by name, anything else is the only one.

    >>> as_arguments(None), as_arguments(0.5), as_arguments({"mask": None})
    ((), (0.5,), {'mask': None})
    """
    if isinstance(extra, dict):
        if not all(isinstance(name, str) for name in extra):
            raise TorchwhyError(f"further arguments by name are a dict of str, not with {list(extra)}")
        return dict(extra)
    return () if extra is None else extra if isinstance(extra, tuple) else (extra,)


def call(model: Any, inputs: Iterable[Tensor], extra: Arguments) -> Any:
    """The model's output; an error of its own is told together with what it was given."""
    inputs = tuple(inputs)
    try:
        return model(*inputs, **extra) if isinstance(extra, dict) else model(*inputs, *extra)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError) as error:
        reason = str(error).split("\n", 1)[0]
        if "numpy() on Tensor that requires grad" in reason:
            raise UnsupportedError(
                "the model computes with numpy, which has no derivative: use a method that needs no gradient, such as "
                "FeatureAblation"
            ) from error
        if "Inference tensors" in reason:
            raise UnsupportedError(
                "the model's weights were made in inference mode, where there are no gradients: copy the model outside "
                "of it, or use a method that needs no gradient, such as FeatureAblation"
            ) from error
        given = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in inputs)
        module = module_of(model)
        kinds = {str(p.dtype).removeprefix("torch.") for p in module.parameters()} if module is not None else set()
        weights = f"; its weights are {', '.join(sorted(kinds))}" if kinds else ""
        raise TorchwhyError(f"the model cannot take inputs of {given}: {reason}{weights}") from error


def module_of(model: Any) -> nn.Module | None:
    """The module behind a model: the model itself, or the owner of a bound method such as ``model.encode``."""
    owner = bare(model) if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def bare(model: Any) -> Any:
    """The model that ``DataParallel`` spreads over devices, whose copies could not be looked into; else itself."""
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return model.module if parallel else model


@contextmanager
def untouched(model: Any, device: torch.device) -> Iterator[None]:
    """Inside, the model is in evaluation mode and its parameters ask for no gradient; outside, nothing has changed.

    Evaluation mode, because an explanation of a network that drops units at random or updates its running statistics
    is not an explanation of its decision. Parameters are frozen, because autograd then records only what leads from
    the explained point to the score. The random state is put back even if the model itself draws numbers, and buffers
    even if it writes them. Modules inside a function are met, and treated alike, when it first calls them.
    """
    devices = [device.index or 0] if device.type == "cuda" else []
    module = module_of(model)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002  the one a model may draw from
        stack.enter_context(torch.inference_mode(mode=False))
        rest = _Rest()
        stack.callback(rest.undo)
        if module is None:
            stack.callback(register_module_forward_pre_hook(lambda m, args: rest.settle(m)).remove)
        else:
            for m in module.modules():
                rest.settle(m)
            if device.type == "cuda" and any(isinstance(m, nn.RNNBase) for m in rest.seen):
                # cuDNN computes no gradient of a recurrent network in evaluation mode.
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


class _Rest:
    """Modules at rest, and how they were."""

    def __init__(self) -> None:
        self.seen: set[nn.Module] = set()
        self.training: list[nn.Module] = []
        self.trained: list[nn.Parameter] = []
        self.buffers: list[tuple[nn.Module, dict[str, Tensor | None], dict[str, Tensor]]] = []

    def settle(self, m: nn.Module) -> None:
        """Evaluation mode, no parameter gradients; the buffers are remembered."""
        if m in self.seen:
            return
        self.seen.add(m)
        if getattr(m, "training", False):  # a frozen script has no mode
            self.training.append(m)
            m.training = False
        for p in m._parameters.values():
            # The flag of one made in inference mode cannot be set again.
            if p is not None and p.requires_grad and not p.is_inference():
                self.trained.append(p)
                p.requires_grad = False
        if m._buffers:
            kept = {
                name: b.detach().clone() for name, b in m._buffers.items() if b is not None and not b.is_inference()
            }
            self.buffers.append((m, dict(m._buffers), kept))

    def undo(self) -> None:
        """Everything as it was."""
        for m in self.training:
            m.training = True
        for p in self.trained:
            p.requires_grad = True
        for m, there, kept in self.buffers:
            if isinstance(m, torch.jit.ScriptModule):  # has always the same names, in something that is no dict
                for name in kept:
                    m._buffers[name] = there[name]
            else:
                m._buffers.clear()
                m._buffers.update(there)
            for name, value in kept.items():
                b = there[name]
                assert b is not None
                if not torch.equal(b, value):
                    with torch.no_grad():
                        b.copy_(value)
