"""Class activation maps: channels of a layer weighted by how much the score depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchwhy.core.inputs import check_inputs
from torchwhy.core.problem import Precision, Problem
from torchwhy.core.site import Site, last_spatial_layer
from torchwhy.core.tensors import Tensors
from torchwhy.methods.base import Attribution, Method
from torchwhy.registry import Info, register


@register(
    Info(
        family="cam",
        summary="where in a layer's map the channels that matter are active",
        paper="Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra: Grad-CAM",
        year=2017,
        needs="gradients",
        cost="1 gradient, behind the layer only",
    )
)
@dataclass(kw_only=True, eq=False)
class GradCAM(Method):
    r"""Gradient-weighted class activation map.

    .. math:: \phi_{uv} = \sum_c \Big( \frac{1}{|UV|} \sum_{u'v'} \frac{\partial f}{\partial A_{cu'v'}} \Big) A_{cuv}

    of what a layer holds, :math:`A`. Without ``at``, the last layer with a spatial map is taken. The map has the
    layer's resolution; plots say how they enlarge it.

    Args:
        relu_attributions: keep only what speaks for the target, as in the paper; False keeps the sign.
        precision: "mixed" computes the backward pass in bfloat16.

    Shapes: a layer of (B, C, H, W) gives values (B, 1, H, W); any number of dimensions behind the channels will do.
    Units: score.

    Paper: R. Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv:1610.02391.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> import torch
    >>> GradCAM(model, at="0").attribute(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    relu_attributions: bool = False
    precision: Precision = "full"

    def _site(self, inputs: Tensors, extra: tuple[Any, ...]) -> str | nn.Module | Site | None:
        if self.at is not None:
            return self.at
        check_inputs(inputs)
        return last_spatial_layer(self.model, inputs[:1], extra, inputs.size)

    def compute(self, p: Problem) -> Attribution:
        _, slope = p.at_point()

        def cam(activation: Tensor, gradient: Tensor) -> Tensor:
            spatial = tuple(range(2, gradient.ndim))
            weights = gradient.mean(spatial, keepdim=True) if spatial else gradient
            total = (weights * activation).sum(1, keepdim=True) if activation.ndim > 1 else weights * activation
            return total.relu() if self.relu_attributions else total

        return Attribution(p.point.map(cam, slope))
