"""Guided Grad-CAM: fine detail where a class activation map says that it matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn

from torchwhy.core.errors import UnsupportedError
from torchwhy.core.options import one_of
from torchwhy.core.problem import Problem
from torchwhy.core.site import Site
from torchwhy.methods.backprop import GuidedBackprop
from torchwhy.methods.base import Attribution, Method
from torchwhy.methods.grad_cam import GradCAM
from torchwhy.registry import Info, register

Interpolation: TypeAlias = Literal["nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area"]
INTERPOLATIONS = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area")


@register(
    Info(
        family="gradient",
        summary="guided backpropagation, where a layer's class activation map speaks for the target",
        paper="Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra: Grad-CAM",
        year=2017,
        needs="gradients",
        cost="2 gradients",
    )
)
@dataclass(kw_only=True, eq=False)
class GuidedGradCAM(Method):
    r"""The product of `GuidedBackprop` at the input with the positive part of `GradCAM` at a layer, enlarged.

    .. math:: \phi = \mathrm{GuidedBackprop}(x) \odot \mathrm{enlarge}\big(\max(\mathrm{GradCAM}_l(x), 0)\big)

    The map has one channel, which multiplies all channels of the input. An input without spatial dimensions is
    multiplied by the map's mean.

    Args:
        layer: of the map; None is the last layer with a spatial map. (`at` is where guided backpropagation looks.)
        interpolate_mode: how the map is enlarged, a mode of ``torch.nn.functional.interpolate``.

    Shapes: inputs (B, C, ...), values (B, C, ...), with as many spatial dimensions as the layer has. Units: none.

    Raises:
        UnsupportedError: an input has other spatial dimensions than the layer's map.

    Paper: R. Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv:1610.02391.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> GuidedGradCAM(model, layer="0").attribute(torch.ones(2, 1, 4, 4)).shape
    torch.Size([2, 1, 4, 4])
    """

    layer: str | nn.Module | Site | None = None
    interpolate_mode: Interpolation = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("interpolate_mode", self.interpolate_mode, INTERPOLATIONS)

    def compute(self, p: Problem) -> Attribution:
        guided = GuidedBackprop(self.model).compute(p)
        cam = GradCAM(self.model, at=self.layer, relu_attributions=True)
        site = cam._site(p.inputs, p.extra)
        assert site is not None
        maps = cam.compute(p.elsewhere(site)).values
        if len(maps) > 1:
            raise UnsupportedError(f"{site!r} holds {len(maps)} tensors, where one map is needed: choose another layer")
        return Attribution(guided.values.map(lambda g: g * self._enlarged(maps.parts[0], g)))

    def _enlarged(self, cam: Tensor, like: Tensor) -> Tensor:
        """The map (B, 1, ...) in the spatial dimensions of (B, C, ...)."""
        if like.ndim <= 2:
            return cam.flatten(1).mean(1).view(-1, *[1] * (like.ndim - 1)).to(like.dtype)
        if like.ndim != cam.ndim:
            raise UnsupportedError(
                f"the map of the layer has shape {tuple(cam.shape)}, which cannot be enlarged to "
                f"{tuple(like.shape)}: choose a layer with as many spatial dimensions"
            )
        return F.interpolate(cam.to(like.dtype), like.shape[2:], mode=self.interpolate_mode)
