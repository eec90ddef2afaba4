"""Changed copies of inputs sent through a model, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import Arguments, as_arguments, untouched
from torchwhy.core.options import at_least

_K = TypeVar("_K")


def attempts_in_batches(
    forward: Callable[..., Any], attempts: Iterable[tuple[_K, Any, Any]], extra: Any, count: int
) -> Iterator[tuple[_K, Any, Any]]:
    """The output for every attempt: ``(key, made, ready)`` gives ``(key, made, forward(ready))``.

    Attempts are made when they are needed; ``count`` of them, tensors or tuples of tensors with a batch dimension, go
    through the model together. Further arguments that are tensors belong to the examples. The model is guarded while
    it runs.
    """
    at_least("perturbations_per_eval", count, 1)
    arguments, waiting = as_arguments(extra), iter(attempts)
    while some := list(islice(waiting, count)):
        ready = [r for _, _, r in some]
        if len(ready) == 1:
            outputs = [_forward(forward, ready[0], arguments)]
        else:
            sizes = [len(r[0] if isinstance(r, tuple) else r) for r in ready]
            outputs = _split(_forward(forward, _joined(ready), _repeated(arguments, len(ready))), sizes)
        for (key, made, _), output in zip(some, outputs, strict=True):
            yield key, made, output


def _forward(forward: Callable[..., Any], ready: Any, extra: Arguments) -> Any:
    device = next((t.device for t in tree_leaves(ready) if isinstance(t, Tensor)), torch.device("cpu"))
    with untouched(forward, device), torch.no_grad():
        return forward(ready, **extra) if isinstance(extra, dict) else forward(ready, *extra)


def _split(output: Any, sizes: list[int]) -> list[Any]:
    """The output of every attempt, from that of all of them."""
    leaves, spec = tree_flatten(output)
    wrong = [t for t in leaves if not isinstance(t, Tensor) or t.ndim == 0 or len(t) != sum(sizes)]
    if wrong:
        given = f"shape {tuple(wrong[0].shape)}" if isinstance(wrong[0], Tensor) else type(wrong[0]).__name__
        raise TorchwhyError(
            f"the model gave {given} for {sum(sizes)} rows, which cannot be told apart: leave perturbations_per_eval "
            f"at 1"
        )
    parts = [t.split(sizes) for t in leaves]
    return [tree_unflatten([part[k] for part in parts], spec) for k in range(len(sizes))]


def _joined(ready: list[Any]) -> Any:
    if isinstance(ready[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*ready, strict=True))
    if not isinstance(ready[0], Tensor):
        raise TorchwhyError(
            f"inputs of type {type(ready[0]).__name__} go through the model one at a time: leave "
            f"perturbations_per_eval at 1"
        )
    return torch.cat(ready)


def _repeated(extra: Arguments, copies: int) -> Arguments:
    def repeat(a: Any) -> Any:
        return a.repeat(copies, *[1] * (a.ndim - 1)) if isinstance(a, Tensor) and a.ndim else a

    return {k: repeat(a) for k, a in extra.items()} if isinstance(extra, dict) else tuple(map(repeat, extra))
