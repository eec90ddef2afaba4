r"""What an operation adds by itself: :math:`b = y - J x`, for an affine operation what it gives for zeros.

What comes to the output of an operation, :math:`g \cdot y`, is what it adds, :math:`g \cdot b`, and what it hands on,
:math:`g \cdot J x`. Over all operations and down to the inputs, the score is the sum of what was added and of
:math:`g \cdot x`: for rectifier networks by their biases, for any other network by what its tangent misses at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from torchwhy.engines.rules.composite import Backward, Composite, Prepared, on
from torchwhy.engines.rules.decompose import SMALLER, Refused
from torchwhy.engines.rules.difference import ELEMENTWISE, LINEAR
from torchwhy.engines.rules.local import Local
from torchwhy.engines.rules.lrp import PRODUCTS
from torchwhy.engines.rules.operations import LAYERS, names
from torchwhy.engines.rules.place import Place, here, names_of

_RECTIFIERS = names("relu leaky_relu prelu rrelu abs")
_MAXIMA = names("amax amin") + tuple(
    f"{kind}max_pool{n}d{indices}" for kind in ("", "adaptive_") for n in (1, 2, 3) for indices in ("", "_with_indices")
)
# Affine in what varies, with constants that may add something.
_SUMS = names("add sub rsub")
_AFFINE = names("batch_norm masked_fill where pad constant_pad_nd fill")
_CURVED = names(
    """
    softmax log_softmax logsumexp bilinear maximum minimum fmax fmin logaddexp addr addcmul addcdiv lerp inner outer ger
    vdot kron prod cumprod
    """
)
# They add something only with constants among their tensors, and may have several outputs without.
_JOINING = names(
    """
    cat stack hstack vstack dstack column_stack row_stack setitem copy masked_scatter scatter scatter_add index_add
    index_copy index_fill index_put select_scatter slice_scatter diagonal_scatter
    """
)
_CHOOSING = names("max min")
_PASSING = frozenset({*LINEAR, *_RECTIFIERS, *_MAXIMA}) - {*_SUMS, *_AFFINE, *_JOINING, *_CHOOSING}


class Added(NamedTuple):
    """What an operation added to the score, element by element of its output."""

    operation: str
    place: Place
    values: Tensor


class Collector:
    """Gathers what operations add while a backward pass runs, the last operation first."""

    def __init__(self, model: Any) -> None:
        self.found: list[Added] = []
        self._names = names_of(model)

    def composite(self, name: str) -> Composite:
        """The plain gradient, watched."""
        whole = sorted({*LAYERS, *PRODUCTS, *ELEMENTWISE, *_SUMS, *_AFFINE, *_CURVED} - _PASSING)
        return Composite(
            name,
            ((on(*whole), _Watched(self)), (on(*_JOINING, *_CHOOSING), _Joined(self))),
            linear=_PASSING,
            decompositions=SMALLER,
        )

    def place(self) -> Place:
        """Where the model is."""
        return here(self._names)

    def add(self, local: Local, place: Place, g: Tensor) -> None:
        """Note what an operation with the gradient g behind it adds."""
        offset = _offset(local)
        if offset is not None and offset.any():
            values = g * offset
            self.found.append(Added(local.operation, place, values.to(g.dtype)))


def _offset(local: Local) -> Tensor | None:
    """``y - J x``; None where it is known to be zero."""
    operation, inputs = local.operation, local.inputs
    if operation in LAYERS and len(inputs) == 1:
        bias = local.argument("bias")
        if bias is None:
            return None
        spatial = 0 if operation == "linear" else int(operation[-2])
        offset: Tensor = bias.detach().view(-1, *[1] * spatial).expand_as(local.output)
        return offset
    if operation in _SUMS and len(inputs) > 1:
        return None
    if operation in _SUMS + _AFFINE + _JOINING:
        return local.with_([torch.zeros_like(x) for x in inputs]).output
    wide = local.wide()
    return wide.output - _moved(wide)


def _moved(local: Local) -> Tensor:
    """``J x``, as the gradient of ``x J^T u`` with respect to u."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in local.inputs]
        y = local.call.run(leaves)
        u = torch.zeros_like(y, requires_grad=True)
        slopes = torch.autograd.grad(y, leaves, u, create_graph=True, allow_unused=True)
        total = sum((slope * x).sum() for slope, x in zip(slopes, local.inputs, strict=True) if slope is not None)
    if not isinstance(total, Tensor) or not total.requires_grad:
        return torch.zeros_like(y)
    return torch.autograd.grad(total, u)[0]


@dataclass(frozen=True)
class _Watched(Prepared):
    """The plain gradient of an operation, and a note of what it adds."""

    again: ClassVar[bool] = True

    collector: Collector

    def prepare(self, local: Local) -> Backward:
        place = self.collector.place()

        def backward(g: Tensor) -> tuple[Tensor, ...]:
            self.collector.add(local, place, g)
            return local.vjp(g)

        return backward


@dataclass(frozen=True)
class _Joined(_Watched):
    """Operations that join what varies to constants."""

    def needed(self, local: Local) -> bool:
        fixed = local.call.constants()
        if local.operation == "setitem":  # (into, where, what)
            fixed = [local.call.args[0], local.call.args[2]]
        return any(isinstance(c, Tensor) and c.is_floating_point() and bool(c.any()) for c in fixed)

    def prepare(self, local: Local) -> Backward:
        if local.call.function is None:
            raise Refused("it writes into a tensor of other values in place")
        return super().prepare(local)
