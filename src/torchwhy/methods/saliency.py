"""The gradient at the point, alone and times the input."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torchwhy.core.precision import Precision
from torchwhy.core.problem import Problem
from torchwhy.methods.base import Attribution, Method
from torchwhy.registry import Info, register


@register(
    Info(
        family="gradient",
        summary="how fast the score changes with each input",
        paper="Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks",
        year=2013,
        needs="gradients",
        cost="1 gradient",
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class Saliency(Method):
    r"""The gradient of the score.

    .. math:: \phi = |\nabla f(x)|

    Args:
        abs: the size of the gradient, as in the paper; False keeps its sign.
        precision: "mixed" computes the backward pass in bfloat16.

    Shapes: inputs (B, ...), values (B, ...). Units: score per unit of the input.

    Paper: K. Simonyan, A. Vedaldi, A. Zisserman, "Deep Inside Convolutional Networks", 2013, arXiv:1312.6034.

    >>> import torch
    >>> Saliency(lambda x: (x * torch.tensor([1.0, -2.0])).sum(1)).attribute(torch.ones(1, 2))
    tensor([[1., 2.]])
    """

    abs: bool = True
    precision: Precision = "full"

    @property
    def facts(self) -> Info:
        return self.info if self.abs else replace(self.info, signed=True)

    def compute(self, p: Problem) -> Attribution:
        _, slope = p.at_point()
        return Attribution(abs(slope) if self.abs else slope)


@register(
    Info(
        family="gradient",
        summary="the gradient times the input: each input's part in a linear model of the score",
        paper="Shrikumar, Greenside, Shcherbina, Kundaje: Not Just a Black Box",
        year=2016,
        needs="gradients",
        cost="1 gradient",
        promises=("completeness for linear and for bias-free ReLU networks",),
    )
)
@dataclass(kw_only=True, eq=False)
class InputXGradient(Method):
    r"""The gradient of the score times the input, or times what the layer holds.

    .. math:: \phi = x \odot \nabla f(x)

    Args:
        precision: "mixed" computes the backward pass in bfloat16.

    Shapes: inputs (B, ...), values (B, ...). Units: score.

    Paper: A. Shrikumar, P. Greenside, A. Shcherbina, A. Kundaje, "Not Just a Black Box", 2016, arXiv:1605.01713.

    >>> import torch
    >>> InputXGradient(lambda x: (x * torch.tensor([1.0, -2.0])).sum(1)).attribute(torch.tensor([[3.0, 4.0]]))
    tensor([[ 3., -8.]])
    """

    precision: Precision = "full"

    def compute(self, p: Problem) -> Attribution:
        _, slope = p.at_point()
        return Attribution(p.point * slope)
