"""Gradients with another backward pass through activations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import accumulator
from torchwhy.engines.rules import Composite, Local, Rule, Ruled, on
from torchwhy.engines.rules.operations import names
from torchwhy.methods.base import Attribution, Method
from torchwhy.registry import Info, register

ACTIVATIONS = names(
    """
    relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish softplus hardswish hardsigmoid hardtanh threshold
    sigmoid tanh softsign logsigmoid clamp clamp_min
    """
)
RECTIFIERS = names("relu relu6 leaky_relu prelu rrelu clamp clamp_min")


def _composite(name: str, rule: Rule, operations: tuple[str, ...] = ACTIVATIONS) -> Composite:
    return Composite(name, ((on(*operations), rule),))


def _activates(local: Local) -> bool:
    """Whether ``clamp`` stands for a rectifier; other bounds keep numbers in range."""
    if not local.operation.startswith("clamp"):
        return True
    floor = _bound(local, "min", 1)
    return not isinstance(floor, Tensor) and floor == 0


def _bound(local: Local, name: str, position: int) -> Any:
    """An argument of ``clamp``."""
    args = local.call.args
    return local.call.kwargs.get(name, args[position] if len(args) > position else None)


def guided(local: Local, g: Tensor) -> Tensor:
    """Where the activation lets pass, only what is positive."""
    return local.vjp(g.clamp(min=0) if _activates(local) else g)[0]


def deconvolution(local: Local, g: Tensor) -> Tensor:
    """What is positive, wherever the activation was."""
    return g.clamp(min=0) if _activates(local) else local.vjp(g)[0]


@dataclass(frozen=True)
class Rectified:
    """What is among the largest of activation times gradient of an example."""

    q: float

    def __call__(self, local: Local, g: Tensor) -> Tensor:
        if not _activates(local):
            return local.vjp(g)[0]
        relevance = local.output * g
        rows = relevance.flatten(1) if relevance.ndim > 1 else relevance[:, None]
        place = int(self.q / 100 * (rows.shape[1] - 1)) + 1
        limit = rows.to(accumulator(rows.dtype)).kthvalue(place, 1).values.to(rows.dtype)
        return g * (relevance > limit.view(-1, *[1] * (g.ndim - 1)))


@dataclass(frozen=True)
class Smoothed:
    """The derivative of a rectifier with rounded corners: where it jumps, it rises along a logistic curve."""

    beta: float

    def __call__(self, local: Local, g: Tensor) -> Tensor:
        if not _activates(local) or isinstance(top := _top(local), Tensor):
            return local.vjp(g)[0]
        x = local.inputs[0]
        follows = torch.sigmoid(self.beta * x)
        if top is not None:
            follows = follows - torch.sigmoid(self.beta * (x - top))
        below = -local.with_([-torch.ones_like(x)]).output  # the slope there
        return g * (follows + below * (1 - follows))


def _top(local: Local) -> Any:
    """From where on a rectifier is flat again; None if nowhere."""
    if local.operation == "relu6":
        return 6
    return _bound(local, "max", 2) if local.operation == "clamp" else None


@dataclass(kw_only=True, eq=False)
class _Backprop(Method):
    composite: ClassVar[Composite]

    def compute(self, p: Problem) -> Attribution:
        ruled = Ruled.of(p, self._composite())
        _, slope = ruled.at_point()
        ruled.share(p)
        return Attribution(slope)

    def _composite(self) -> Composite:
        return self.composite


@register(
    Info(
        family="gradient",
        summary="the gradient, with only positive parts passed back through activations",
        paper="Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for Simplicity: The All Convolutional Net",
        year=2014,
        needs="gradients",
        cost="1 gradient",
    )
)
@dataclass(kw_only=True, eq=False)
class GuidedBackprop(_Backprop):
    r"""The gradient, where every activation passes back positive parts only: :math:`g \mapsto f'(x) \max(g, 0)`.

    For relu, :math:`1_{x > 0} \max(g, 0)`. Modules, functions, methods and in-place calls are treated alike.

    Shapes: inputs (B, ...), values (B, ...). Units: none; it is a picture of what excites the score, not a share of it.

    Paper: J. Springenberg et al., "Striving for Simplicity: The All Convolutional Net", 2014, arXiv:1412.6806.

    >>> import torch
    >>> model = lambda x: -torch.relu(x[:, 0]) + torch.relu(x[:, 1])
    >>> GuidedBackprop(model).attribute(torch.ones(1, 2))
    tensor([[0., 1.]])
    """

    composite = _composite("GuidedBackprop", guided)


@register(
    Info(
        family="gradient",
        summary="the gradient, with activations replaced by themselves on the way back",
        paper="Zeiler, Fergus: Visualizing and Understanding Convolutional Networks",
        year=2013,
        needs="gradients",
        cost="1 gradient",
    )
)
@dataclass(kw_only=True, eq=False)
class Deconvolution(_Backprop):
    r"""A deconvolutional network: the gradient, where every activation passes back :math:`g \mapsto \max(g, 0)`.

    Shapes: inputs (B, ...), values (B, ...). Units: none.

    Paper: M. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", 2013, arXiv:1311.2901.

    >>> import torch
    >>> model = lambda x: -torch.relu(x[:, 0]) + torch.relu(x[:, 1])
    >>> Deconvolution(model).attribute(-torch.ones(1, 2))
    tensor([[0., 1.]])
    """

    composite = _composite("Deconvolution", deconvolution)


@register(
    Info(
        family="gradient",
        summary="the gradient through the units that matter most, layer by layer",
        paper="Kim, Seo, Jeon, Koo, Choe, Jeon: Why are Saliency Maps Noisy?",
        year=2019,
        needs="gradients",
        cost="1 gradient",
    )
)
@dataclass(kw_only=True, eq=False)
class RectGrad(_Backprop):
    r"""Rectified gradient: every activation passes back :math:`g \mapsto g \cdot 1[a\, g > \tau_q(a\, g)]`.

    with its output :math:`a` and the q-th percentile :math:`\tau_q` over an example.

    Args:
        q: percent of the units of each layer that are silenced, from 0 to 100.
        multiply_by_inputs: multiply the gradient by the input, as in the paper.

    Shapes: inputs (B, ...), values (B, ...). Units: none.

    Paper: B. Kim et al., "Why are Saliency Maps Noisy? Cause of and Solution to Noisy Saliency Maps", 2019,
        arXiv:1902.04893.

    >>> import torch
    >>> model = lambda x: torch.relu(x) @ torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> RectGrad(model, q=50).attribute(torch.ones(1, 4))
    tensor([[0., 0., 3., 4.]])
    """

    q: float = 98.0
    multiply_by_inputs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.q, bool) or not isinstance(self.q, int | float) or not 0 <= self.q < 100:
            raise TorchwhyError(f"q is a percentage from 0 to below 100, not {self.q!r}")

    def compute(self, p: Problem) -> Attribution:
        found = super().compute(p)
        return Attribution(found.values * p.point) if self.multiply_by_inputs else found

    def _composite(self) -> Composite:
        return _composite("RectGrad", Rectified(self.q))


@register(
    Info(
        family="gradient",
        summary="the gradient of the same network with soft corners in its rectifiers",
        paper="Dombrowski, Alber, Anders, Ackermann, Müller, Kessel: Explanations Can Be Manipulated and Geometry Is "
        "to Blame",
        year=2019,
        needs="gradients",
        cost="1 gradient",
    )
)
@dataclass(kw_only=True, eq=False)
class BetaSmooth(_Backprop):
    r"""The gradient, where a rectifier's derivative is that of softplus: :math:`g \mapsto \sigma(\beta x)\, g`.

    Softplus, :math:`\log(1 + e^{\beta x}) / \beta`, is relu with a soft corner, sharper the larger :math:`\beta`.
    The forward pass stays as it is. ReLU6 has two such corners, and leaky rectifiers keep their slope below zero. Other
    activations pass back their gradient.

    Args:
        beta: how sharp the corners are; the larger, the closer to the gradient.

    Shapes: inputs (B, ...), values (B, ...). Units: score per unit of the input.

    Paper: A.-K. Dombrowski et al., "Explanations can be manipulated and geometry is to blame", NeurIPS 2019,
        arXiv:1906.07983.

    >>> import torch
    >>> model = lambda x: torch.relu(x).sum(1)
    >>> BetaSmooth(model, beta=1.0).attribute(torch.tensor([[0.0, 1.0, -1.0]]))
    tensor([[0.5000, 0.7311, 0.2689]])
    """

    beta: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.beta, bool) or not isinstance(self.beta, int | float) or not 0 < self.beta < math.inf:
            raise TorchwhyError(f"beta is a number above 0, not {self.beta!r}")

    def _composite(self) -> Composite:
        return _composite("BetaSmooth", Smoothed(self.beta), RECTIFIERS)
