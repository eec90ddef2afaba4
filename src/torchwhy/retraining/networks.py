"""Networks that are trained from scratch, the same from the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.explanation import fingerprint
from torchwhy.core.guard import call, untouched
from torchwhy.data import Dataset
from torchwhy.engines.weights import randomised
from torchwhy.train import TrainingConfig, fit

Maker: TypeAlias = Callable[[], nn.Module]
Loop: TypeAlias = Callable[[nn.Module, Tensor, Tensor, int], object]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, random numbers come from the seed, and there are gradients; outside, they go on as if nothing was."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002  the one a loop may draw from
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.default_generators[devices[0]].manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (the same)
        yield


@dataclass(frozen=True)
class Trainer:
    """Makes networks and trains them.

    Attributes:
        make: a function that makes a network, or a network whose weights are drawn again.
        config: of the built-in loop.
        loop: another one, which gets a network, inputs, labels and a seed.
    """

    make: Maker | nn.Module
    config: TrainingConfig
    loop: Loop | None = None

    def fresh(self, seed: int, device: torch.device) -> nn.Module:
        """A network that has learnt nothing."""
        if isinstance(self.make, nn.Module):
            made: Any = randomised(self.make, seed=seed)
        else:
            with seeded(seed, device):
                made = self.make()
        if not isinstance(made, nn.Module):
            raise TorchwhyError(f"make_model makes a torch.nn.Module, not {type(made).__name__}")
        return made

    def trained(self, data: Dataset, seed: int, advance: Callable[[int], None]) -> nn.Module:
        """A network that has learnt from data, in evaluation mode; ``advance`` is told of as many rows as `rows`."""
        model = self.fresh(seed, data.inputs.device)
        with seeded(seed, data.inputs.device):
            if self.loop is None:
                fit(model, data, replace(self.config, seed=seed), advance=advance)
            else:
                self.loop(model, data.inputs, data.labels, seed)
                advance(self.rows(data))
        return model.eval()

    def rows(self, data: Dataset) -> int:
        """What a training takes, in examples."""
        return len(data) * (self.config.epochs if self.loop is None else 1)

    def told(self) -> dict[str, Any]:
        """How networks are trained, as far as it can be told."""
        if self.loop is not None:
            return {"loop": getattr(self.loop, "__qualname__", type(self.loop).__qualname__)}
        config = self.config
        return {
            "epochs": config.epochs,
            "lr": config.lr,
            "momentum": config.momentum,
            "batch_size": config.batch_size,
        }

    def checked(self, data: Dataset, seed: int) -> nn.Module:
        """A fresh network of which it is known that it fits the data, and that another is made each time.

        Raises:
            TorchwhyError: it does not.
        """
        device = data.inputs.device
        one, two = self.fresh(seed, device), self.fresh(seed, device)
        learning = [p for p in one.parameters() if p.requires_grad]
        if not learning:
            raise TorchwhyError(f"{type(one).__name__} has no parameter that requires a gradient, so it learns nothing")
        if {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}:
            raise TorchwhyError(
                "make_model gives the same network each time, which would go on from what it has learnt: make a new "
                "one in it, such as make_model=lambda: Net()"
            )
        if fingerprint(one) != fingerprint(two):
            raise TorchwhyError(
                "make_model gives other weights after the same torch.manual_seed: draw them from PyTorch's global "
                "random numbers, which are seeded before each call"
            )
        with untouched(one, device), torch.no_grad():
            output = call(one, [data.inputs[:2]], ())
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        rows, classes = min(2, len(data)), len(data.classes)
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != rows or output.shape[1] < classes:
            raise TorchwhyError(
                f"the network gives {shape} for {rows} examples; expected a score for each of {classes} classes, "
                f"({rows}, {classes})"
            )
        return one
