"""Class activation maps that project the channels on one direction: the principal one, or a random one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.options import one_of
from torchwhy.core.problem import Problem
from torchwhy.engines.noise import check_seed, draws
from torchwhy.methods.cam import CAM, GradientCAM, over_channels
from torchwhy.registry import Info, register

Kernel: TypeAlias = Literal["sigmoid", "rbf", "poly", "linear"]
KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": lambda x, gamma: torch.tanh(gamma * x @ x.T + 1),
    "rbf": lambda x, gamma: torch.exp(-gamma * torch.cdist(x, x) ** 2),
    "poly": lambda x, gamma: (gamma * x @ x.T + 1) ** 3,
    "linear": lambda x, gamma: x @ x.T,
}


def rows(t: Tensor) -> Tensor:
    """Maps (B, C, ...) as a row of channels for each place, (B, places, C)."""
    return t.reshape(len(t), t.shape[1] if t.ndim > 1 else 1, -1).mT


def project(t: Tensor, center: bool) -> Tensor:
    """Maps (B, C, ...) on their first principal direction, (B, 1, ...); its sign is left open."""
    x = rows(t)
    x = x - x.mean(1, keepdim=True) if center else x
    direction = torch.linalg.svd(x, full_matrices=False).Vh[:, :1]
    found: Tensor = (x @ direction.mT).mT
    return found.reshape(len(t), *[1] * (t.ndim > 1), *t.shape[2:])


def signed_like(m: Tensor, like: Tensor) -> Tensor:
    """A map with the sign that makes it agree with another."""
    agreement = (m * like).flatten(1).sum(1) if m.ndim > 1 else m * like
    return m * torch.where(agreement < 0, -1, 1).view(-1, *[1] * (m.ndim - 1))


@register(
    Info(
        family="cam",
        summary="the principal component of a layer's channels, whatever the target",
        paper="Muhammad, Yeasin: Eigen-CAM: Class Activation Map using Principal Components",
        year=2020,
        needs="forward passes",
        cost="1 forward pass",
        signed=False,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class EigenCAM(CAM):
    r"""Eigen-CAM: the activations on their first right singular vector.

    .. math:: \phi = A V_1, \qquad A = U \Sigma V^T

    with a row of :math:`A` for each place and a column for each channel. It says what the layer holds most of, and
    nothing of the target. Of the two signs a singular vector can have, the one is taken in which the map agrees with
    the sum of the activations' sizes.

    Args:
        center: subtract every channel's mean first, which makes it a principal component analysis, as
            pytorch-grad-cam does; the paper does not.
        relu_attributions: keep only what is positive; False keeps the sign.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: those of the activations.

    Paper: M. B. Muhammad, M. Yeasin, IJCNN 2020, arXiv:2008.00299.

    >>> from torch import nn
    >>> EigenCAM(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), at="0").attribute(torch.rand(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    center: bool = False
    relu_attributions: bool = True

    def maps(self, p: Problem) -> Iterable[Tensor]:
        for a in self._folded(p, p.point):
            yield signed_like(project(a, self.center), over_channels(a.abs()))


@register(
    Info(
        family="cam",
        summary="the principal component of a layer's activations times gradients",
        paper="Gildenblat: pytorch-grad-cam",
        year=2021,
        needs="gradients",
        cost="1 gradient, behind the layer only",
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class EigenGradCAM(GradientCAM):
    r"""Eigen-Grad-CAM: `EigenCAM` of the activations times their gradients, :math:`g \odot A`.

    Of the two signs the one is taken in which the map agrees with that of `HiResCAM`.

    Args:
        center: subtract every channel's mean first, as pytorch-grad-cam does.
        relu_attributions: keep only what speaks for the target; False keeps the sign.
        precision: "mixed" computes the backward pass in bfloat16.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: score.

    From J. Gildenblat's pytorch-grad-cam, after M. B. Muhammad, M. Yeasin, arXiv:2008.00299.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> EigenGradCAM(model, at="0").attribute(torch.rand(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    center: bool = False

    def weigh(self, a: Tensor, g: Tensor) -> Tensor:
        return g

    def combine(self, a: Tensor, g: Tensor) -> Tensor:
        t = self.weigh(a, g) * a
        return signed_like(project(t, self.center), over_channels(t))


@register(
    Info(
        family="cam",
        summary="the principal component of a layer's channels in the space of a kernel, whatever the target",
        paper="Karmani, Sivakaran, Prasad, Ali, Yang, Tang: KPCA-CAM",
        year=2024,
        needs="forward passes",
        cost="1 forward pass",
        signed=False,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class KPCACAM(CAM):
    r"""KPCA-CAM: the first component of a kernel principal component analysis of the places.

    .. math:: \phi = \sqrt{\lambda_1} \, v_1, \qquad \bar K v_1 = \lambda_1 v_1, \qquad K_{ij} = k(a_i, a_j)

    with the channels :math:`a_i` at every place, less their means, and :math:`K` centred to :math:`\bar K`. The sign is
    that of `EigenCAM`.

    ========== ==============================================
    kernel     :math:`k(a, b)`
    ========== ==============================================
    "sigmoid"  :math:`\tanh(\gamma \, a \cdot b + 1)`
    "rbf"      :math:`\exp(-\gamma \, |a - b|^2)`
    "poly"     :math:`(\gamma \, a \cdot b + 1)^3`
    "linear"   :math:`a \cdot b`, `EigenCAM` with ``center``
    ========== ==============================================

    Args:
        kernel: see above.
        gamma: its scale; None is one by the number of channels.
        relu_attributions: keep only what is positive; False keeps the sign.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`; time grows with the third power of the number of places. Units: those of the kernel's space.

    Paper: S. Karmani et al., 2024, arXiv:2410.00267.

    >>> from torch import nn
    >>> KPCACAM(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), at="0").attribute(torch.rand(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    kernel: Kernel = "sigmoid"
    gamma: float | None = None
    relu_attributions: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("kernel", self.kernel, tuple(KERNELS))
        number = isinstance(self.gamma, int | float) and not isinstance(self.gamma, bool)
        if self.gamma is not None and not (number and 0 < self.gamma < torch.inf):
            raise TorchwhyError(f"gamma is a number above 0, not {self.gamma!r}")

    def maps(self, p: Problem) -> Iterable[Tensor]:
        for a in self._folded(p, p.point.map(torch.Tensor.double)):
            m = torch.stack([self._component(x) for x in rows(a)]).view(len(a), *[1] * (a.ndim > 1), *a.shape[2:])
            yield signed_like(m, over_channels(a.abs()))

    def _component(self, x: Tensor) -> Tensor:
        """Of places (N, C), (N,)."""
        k = KERNELS[self.kernel](x - x.mean(0), 1 / x.shape[1] if self.gamma is None else self.gamma)
        k = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
        found, vectors = torch.linalg.eigh((k + k.T) / 2)
        component: Tensor = vectors[:, -1] * found[-1].clamp_min(0).sqrt()
        return component


@register(
    Info(
        family="cam",
        summary="a control: a layer's channels with random weights",
        paper="Gildenblat: pytorch-grad-cam",
        year=2021,
        needs="forward passes",
        cost="1 forward pass",
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class RandomCAM(CAM):
    r"""A control: the weight of every channel is drawn evenly from -1 to 1, the same for all examples.

    .. math:: \phi_{uv} = \sum_c w_c A_{cuv}, \qquad w_c \sim U(-1, 1)

    It knows nothing of the target. What another map says, it says only as far as it differs from this one.

    Args:
        seed: of the weights.
        relu_attributions: keep only what is positive; False keeps the sign.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: those of the activations.

    From J. Gildenblat's pytorch-grad-cam.

    >>> from torch import nn
    >>> RandomCAM(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), at="0").attribute(torch.rand(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)

    def maps(self, p: Problem) -> Iterable[Tensor]:
        for part, a in enumerate(self._folded(p, p.point)):
            channels = a.shape[1] if a.ndim > 1 else 1
            drawn = 2 * torch.rand(channels, generator=draws(self.seed, 60 + part), dtype=torch.float32) - 1
            yield over_channels(drawn.to(a).view(-1, *[1] * (a.ndim - 2)) * a)
