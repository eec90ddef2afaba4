"""Class activation maps whose weights come from the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.curvature import curvature_at_point
from torchwhy.core.errors import TorchwhyError
from torchwhy.core.options import at_least
from torchwhy.core.problem import Problem
from torchwhy.core.target import as_tensor, main_part
from torchwhy.core.tensors import Tensors
from torchwhy.methods.cam import GradientCAM, over_places
from torchwhy.registry import Info, register

_ONE_GRADIENT = "1 gradient, behind the layer only"


@register(
    Info(
        family="cam",
        summary="where in a layer's map the channels that matter are active",
        paper="Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra: Grad-CAM",
        year=2017,
        needs="gradients",
        cost=_ONE_GRADIENT,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class GradCAM(GradientCAM):
    r"""Gradient-weighted class activation map: a channel's weight is its mean gradient.

    .. math:: \phi_{uv} = \sum_c \Big( \frac{1}{|UV|} \sum_{u'v'} \frac{\partial f}{\partial A_{cu'v'}} \Big) A_{cuv}

    of what a layer holds, :math:`A`. Without ``at``, the last layer with a spatial map or a grid of tokens is taken.
    The map has the layer's resolution; plots say how they enlarge it.

    Args:
        relu_attributions: keep only what speaks for the target, as in the paper; False keeps the sign.
        sum_channels: False gives the part of every channel.
        precision: "mixed" computes the backward pass in bfloat16.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: a layer of (B, C, H, W), or of tokens (B, T, C) on a grid of H x W, gives values (B, 1, H, W), or
    (B, C, H, W) where channels are not summed; any number of dimensions behind the channels will do. Units: score.

    Paper: R. Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv:1610.02391.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> GradCAM(model, at="0").attribute(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    >>> GradCAM(model, at="0", upsample="bilinear").attribute(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 4, 4])
    """

    sum_channels: bool = True

    @property
    def facts(self) -> Info:
        return self.info if self.sum_channels else replace(self.info, form="elements")

    def weigh(self, a: Tensor, g: Tensor) -> Tensor:
        return over_places(g) / max(1, g[0, 0].numel() if g.ndim > 1 else 1)

    def combine(self, a: Tensor, g: Tensor) -> Tensor:
        return super().combine(a, g) if self.sum_channels else self.weigh(a, g) * a


@register(
    Info(
        family="cam",
        summary="as Grad-CAM, with weights that do not fade where an object shows several times",
        paper="Chattopadhyay, Sarkar, Howlader, Balasubramanian: Grad-CAM++",
        year=2018,
        needs="gradients",
        cost=_ONE_GRADIENT,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class GradCAMPlusPlus(GradientCAM):
    r"""Grad-CAM++: the positive gradients, weighed so that every place that excites the score counts alike.

    .. math:: w_c = \sum_{uv} \alpha_{cuv} \max(g_{cuv}, 0), \qquad
        \alpha_{cuv} = \frac{g_{cuv}^2}{2 g_{cuv}^2 + g_{cuv}^3 \sum_{u'v'} A_{cu'v'}}
        = \frac{1}{2 + g_{cuv} \sum_{u'v'} A_{cu'v'}}, \qquad \phi_{uv} = \sum_c w_c A_{cuv}

    The paper explains :math:`e^f`, whose derivatives this expresses by those of :math:`f`; the factor :math:`e^f`,
    the same for all channels, is left out. It assumes activations of at least 0.

    Args:
        relu_attributions: keep only what speaks for the target, as in the paper; False keeps the sign.
        precision: "mixed" computes the backward pass in bfloat16.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: score.

    Paper: A. Chattopadhyay et al., WACV 2018, arXiv:1710.11063.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> GradCAMPlusPlus(model, at="1").attribute(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    def weigh(self, a: Tensor, g: Tensor) -> Tensor:
        return over_places(torch.where(g > 0, g / (2 + g * over_places(a)), 0))


@register(
    Info(
        family="cam",
        summary="as Grad-CAM, with gradients averaged where a channel is active",
        paper="Fu, Hu, Dong, Guo, Gao, Li: Axiom-based Grad-CAM",
        year=2020,
        needs="gradients",
        cost=_ONE_GRADIENT,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class XGradCAM(GradientCAM):
    r"""Axiom-based Grad-CAM: the mean gradient, weighed by the activations.

    .. math:: w_c = \sum_{uv} \frac{A_{cuv}}{\sum_{u'v'} A_{cu'v'}} g_{cuv}, \qquad \phi_{uv} = \sum_c w_c A_{cuv}

    so that the map adds up to what `HiResCAM`'s does, the activations times their gradients. A channel that is zero
    everywhere has no weight.

    Args:
        relu_attributions: keep only what speaks for the target, as in the paper; False keeps the sign.
        precision: "mixed" computes the backward pass in bfloat16.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: score.

    Raises:
        TorchwhyError: a channel's activations cancel out, so that there is no such mean.

    Paper: R. Fu et al., BMVC 2020, arXiv:2008.02312.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> XGradCAM(model, at="1").attribute(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    def weigh(self, a: Tensor, g: Tensor) -> Tensor:
        total, used = over_places(a), over_places(a.abs()) > 0
        lost = used & (total == 0)
        if lost.any():
            example, channel = lost.nonzero()[0, :2].tolist() if lost.ndim > 1 else (0, 0)
            raise TorchwhyError(
                f"the activations of channel {channel} add up to 0 for example {example}, so XGradCAM has no weight "
                f"for it: explain a layer behind a ReLU, or use GradCAM"
            )
        return torch.where(used, over_places(a * g) / torch.where(used, total, 1), 0)


@register(
    Info(
        family="cam",
        summary="activation times gradient at every place of a layer's map",
        paper="Draelos, Carin: Use HiResCAM instead of Grad-CAM",
        year=2020,
        needs="gradients",
        cost=_ONE_GRADIENT,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class HiResCAM(GradientCAM):
    r"""High-resolution class activation map: every activation has its own gradient as its weight.

    .. math:: \phi_{uv} = \sum_c g_{cuv} A_{cuv}

    Behind a layer after which the model is linear without bias, the map adds up to the score.

    Args:
        relu_attributions: keep only what speaks for the target; False keeps the sign.
        precision: "mixed" computes the backward pass in bfloat16.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: score.

    Paper: R. Draelos, L. Carin, 2020, arXiv:2011.08891.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3, bias=False))
    >>> x = torch.rand(2, 1, 4, 4)
    >>> torch.allclose(HiResCAM(model, at="1").attribute(x, target=1).sum((1, 2, 3)), model(x)[:, 1], atol=1e-6)
    True
    """

    def weigh(self, a: Tensor, g: Tensor) -> Tensor:
        return g


@register(
    Info(
        family="cam",
        summary="activation times positive gradient at every place of a layer's map",
        paper="Jiang, Zhang, Hou, Cheng, Wei: LayerCAM",
        year=2021,
        needs="gradients",
        cost=_ONE_GRADIENT,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class LayerCAM(GradientCAM):
    r"""Layer-CAM: every activation has the positive part of its own gradient as its weight.

    .. math:: \phi_{uv} = \sum_c \max(g_{cuv}, 0) \, A_{cuv}

    Args:
        relu_attributions: keep only what is positive, as in the paper; False keeps the sign.
        precision: "mixed" computes the backward pass in bfloat16.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: score.

    Paper: P.-T. Jiang et al., IEEE TIP 30, 2021, doi:10.1109/TIP.2021.3089943.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> bool((LayerCAM(model, at="1").attribute(torch.rand(1, 1, 4, 4)) >= 0).all())
    True
    """

    def weigh(self, a: Tensor, g: Tensor) -> Tensor:
        return g.relu()


@register(
    Info(
        family="cam",
        summary="the positive activations times gradients at every place of a layer's map",
        paper="Gildenblat: pytorch-grad-cam",
        year=2022,
        needs="gradients",
        cost=_ONE_GRADIENT,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class GradCAMElementWise(GradientCAM):
    r"""Element-wise Grad-CAM: `HiResCAM` with only those channels at a place that speak for the target.

    .. math:: \phi_{uv} = \sum_c \max(g_{cuv} A_{cuv}, 0)

    Args:
        relu_attributions: changes nothing, since no value is negative.
        precision: "mixed" computes the backward pass in bfloat16.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: score.

    From J. Gildenblat's pytorch-grad-cam.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> bool((GradCAMElementWise(model, at="0").attribute(torch.rand(1, 1, 4, 4)) >= 0).all())
    True
    """

    def weigh(self, a: Tensor, g: Tensor) -> Tensor:
        return torch.where(g * a > 0, g, 0)


@register(
    Info(
        family="cam",
        summary="as Grad-CAM, with weights that take the curvature of the score into account",
        paper="Cai: CAMs as Shapley Value-based Explainers",
        year=2025,
        needs="gradients",
        cost="2 gradients, behind the layer only",
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class ShapleyCAM(GradCAM):
    r"""Shapley-CAM: `GradCAM` with the gradient corrected by the Hessian :math:`H` at the layer.

    .. math:: \phi_{uv} = \sum_c \Big( \frac{1}{|UV|} \sum_{u'v'} \big( g - \tfrac12 H A \big)_{cu'v'} \Big) A_{cuv}

    the Shapley values of the channels in the score's second-order expansion. Where the model is linear in pieces behind
    the layer, as with ReLU and a logit as the score, it is `GradCAM`.

    Args:
        relu_attributions: keep only what speaks for the target, as in the paper; False keeps the sign.
        precision: "mixed" computes the first backward pass in bfloat16.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: score.

    Paper: H. Cai, 2025, arXiv:2501.06261.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(1))
    >>> nn.init.ones_(model[0].weight).shape
    torch.Size([1, 1, 1, 1])
    >>> ShapleyCAM(model, at="0").attribute(torch.full((1, 1, 1, 1), 3.0), target=lambda y: y[:, 0] ** 2)
    tensor([[[[9.]]]])
    """

    def slopes(self, p: Problem) -> Tensors:
        slopes, bent = curvature_at_point(p)
        return slopes - bent * 0.5


@register(
    Info(
        family="cam",
        summary="where the channels are active that tell the target from the classes most like it",
        paper="Zhang, Gu, Li, Han, Chao, Peng: Finer-CAM",
        year=2025,
        needs="gradients",
        cost=_ONE_GRADIENT,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class FinerCAM(GradCAM):
    r"""Finer-CAM: `GradCAM` of how far the target's score stands above those of the classes most like it.

    .. math:: f - \alpha \sum_{d \in D} q_d y_d, \qquad q = \mathrm{softmax}(y_D)

    with the classes :math:`D` whose outputs :math:`y` come nearest to the score :math:`f` of the target.

    Args:
        alpha: strength of the comparison; 0 is `GradCAM`.
        n_classes: how many classes to compare with, or as many as there are others.
        relu_attributions: keep only what speaks for the target, as in the paper; False keeps the sign.
        precision: "mixed" computes the backward pass in bfloat16.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`; all outputs of an example are its classes. Units: score.

    Raises:
        TorchwhyError: there is only one output.

    Paper: Z. Zhang et al., CVPR 2025, arXiv:2501.11309.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> x = torch.rand(1, 1, 4, 4)
    >>> torch.equal(FinerCAM(model, at="1", alpha=0).attribute(x), GradCAM(model, at="1").attribute(x))
    True
    """

    alpha: float = 1.0
    n_classes: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_classes", self.n_classes, 1)
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 <= self.alpha < torch.inf:
            raise TorchwhyError(f"alpha is a number of at least 0, not {self.alpha!r}")

    def slopes(self, p: Problem) -> Tensors:
        if self.alpha == 0:
            return super().slopes(p)
        return p.about(replace(p.target, read=self._contrast(p.target.read))).at_point()[1]

    def _contrast(self, read: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The score, and how far above its rivals it stands."""

        def contrasted(output: Any, *given: Tensor) -> Tensor:
            values = as_tensor(main_part(output))
            if values.ndim < 2 or values[0].numel() < 2:
                raise TorchwhyError(
                    f"FinerCAM compares the target with other outputs, but the model gives one number per example, "
                    f"{tuple(values.shape)}: use GradCAM"
                )
            values = values.flatten(1)
            score = read(output, *given).reshape(len(values))
            with torch.no_grad():
                distance = (values - score[:, None]).abs()
                own = distance.argmin(1, keepdim=True)
                same = distance.gather(1, own) == 0
                distance.scatter_(1, own, torch.where(same, torch.inf, distance.gather(1, own)))
                rivals = distance.argsort(dim=1, stable=True)[:, : min(self.n_classes, values.shape[1] - 1)]
            near = values.gather(1, rivals)
            return score - self.alpha * (near.softmax(1) * near).sum(1)

        return contrasted
