"""Gradients with another backward pass through activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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


def _composite(name: str, rule: Rule) -> Composite:
    return Composite(name, ((on(*ACTIVATIONS), rule),))


def _activates(local: Local) -> bool:
    """Whether ``clamp`` stands for a rectifier; other bounds keep numbers in range."""
    if not local.operation.startswith("clamp"):
        return True
    floor = local.call.kwargs.get("min", local.call.args[1] if len(local.call.args) > 1 else None)
    return not isinstance(floor, Tensor) and floor == 0


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
