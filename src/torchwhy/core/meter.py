"""What a pass through the model takes, so that as many rows are sent at a time as there is room for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# On a CPU, rows are cheapest while what a pass touches stays in the cache; but every pass has costs of its own.
# Measured on a small CNN, ResNet-18 and EfficientNet-Lite0, these are within a few per cent of the best time per row.
CACHED = {
    True: 16 * 2**20,
    False: 4 * 2**20,
}  # bytes kept for a backward pass, or of the largest value of a forward pass
FEW, ROOM = 8, {True: 192 * 2**20, False: 24 * 2**20}  # rows to have at least, while they take no more than this


class Meter(TorchDispatchMode):
    """Measures what the intermediate values of a forward pass take.

    Args:
        gradients: whether the pass is recorded by autograd; what its backward pass makes is then not counted.
    """

    def __init__(self, *, gradients: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        self.gradients = gradients
        self.total = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.is_grad_enabled() == self.gradients:  # in a backward pass it is not enabled
            # Views and in-place results take nothing: they lie where an argument lies.
            there = {_place(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            new = [t for t in tree_leaves(out) if isinstance(t, Tensor) and _place(t) not in there]
            size = sum(t.numel() * t.element_size() for t in new)
            self.total += size
            self.largest = max(self.largest, size)
        return out

    def limits(self, rows: int, device: torch.device) -> dict[bool, int]:
        """How many rows to send at a time with gradients and without, judged by a pass over ``rows`` of them."""
        # Without a graph, a value lives until the next few operations have used it.
        taken = {True: max(1, self.total / rows), False: max(1, self.largest / rows)}
        if device.type == "cuda":
            unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            room = 0.4 * (torch.cuda.mem_get_info(device)[0] + unused)
            found = {True: room / taken[True], False: room / (8 * taken[False])}
        else:
            found = {g: max(CACHED[g] / size, min(FEW, ROOM[g] / size)) for g, size in taken.items()}
        return {gradients: max(1, int(count)) for gradients, count in found.items()}


def _place(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()
