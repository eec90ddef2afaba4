"""What a pass through the model takes, so that as many rows are sent at a time as there is room for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.dispatch import Dispatch

# On a CPU, rows are cheapest while what a pass touches stays in the cache; but every pass has costs of its own.
# Measured on small CNNs, ResNet-18, EfficientNets and a transformer, these are close to the best time per row.
CACHED = {
    True: 32 * 2**20,
    False: 4 * 2**20,
}  # bytes kept for a backward pass, or of the largest value of a forward pass
FEW, ROOM = 8, {True: 192 * 2**20, False: 24 * 2**20}  # rows to have at least, while they take no more than this


class Meter(Dispatch):
    """Measures what the intermediate values of a forward pass take.

    Args:
        gradients: whether the pass is recorded by autograd; what it makes without recording it is then not counted.
    """

    def __init__(self, *, gradients: bool) -> None:
        super().__init__()
        self.gradients = gradients
        self.total = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if torch.is_grad_enabled() == self.gradients:
            # Views and in-place results take nothing: they lie where an argument lies.
            there = {_place(t) for t in _tensors((*args, *kwargs.values()))}
            size = sum(t.numel() * t.element_size() for t in _tensors((out,)) if _place(t) not in there)
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


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among what an operation takes or gives: tensors, lists of them, and other things."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (t for t in value if isinstance(t, Tensor))


def _place(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()
