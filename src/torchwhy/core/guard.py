"""Explaining leaves everything as it was: the model's mode and gradients, the hooks, the random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook


def module_of(model: Any) -> nn.Module | None:
    """The module behind a model: the model itself, or the owner of a bound method such as ``model.encode``."""
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


@contextmanager
def untouched(model: Any, device: torch.device) -> Iterator[None]:
    """Inside, the model is in evaluation mode and its parameters ask for no gradient; outside, nothing has changed.

    Evaluation mode, because an explanation of a network that drops units at random or updates its running statistics
    is not an explanation of its decision. Parameters are frozen, because autograd then records only what leads from
    the explained point to the score. The random state is put back even if the model itself draws numbers.
    """
    devices = [device.index or 0] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.inference_mode(mode=False))
        module = module_of(model)
        if module is not None:
            _freeze(module, stack, device)
        else:
            # A function shows the modules it calls only when it calls them.
            met: set[nn.Module] = set()

            def meet(called: nn.Module, args: Any) -> None:
                if called not in met:
                    met.update(called.modules())
                    _freeze(called, stack, device)

            stack.callback(register_module_forward_pre_hook(meet).remove)
        yield


def _freeze(module: nn.Module, stack: ExitStack, device: torch.device) -> None:
    """Put a module into evaluation mode without parameter gradients until the stack unwinds."""
    if device.type == "cuda" and any(isinstance(m, nn.RNNBase) for m in module.modules()):
        # cuDNN computes no gradient of a recurrent network in evaluation mode.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
    training = [m for m in module.modules() if m.training]
    trained = [p for p in module.parameters() if p.requires_grad]

    def restore() -> None:
        for m in training:
            m.training = True
        for p in trained:
            p.requires_grad_(requires_grad=True)

    stack.callback(restore)
    for m in training:
        m.training = False
    for p in trained:
        p.requires_grad_(requires_grad=False)
