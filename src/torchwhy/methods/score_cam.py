"""Class activation maps whose weights come from changed copies: a channel taken away, or the input shown through it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.maps import enlarge
from torchwhy.methods.cam import CAM, over_channels, wide
from torchwhy.registry import Info, register


def weighted(a: Tensor, weights: Tensor) -> Tensor:
    """Activations (B, C, ...) with weights (C, B), summed over channels."""
    return over_channels(weights.T.to(a).reshape(*a.shape[:2], *[1] * (a.ndim - 2)) * a)


@register(
    Info(
        family="cam",
        summary="a layer's channels, weighed by the score of the input shown through each of them",
        paper="Wang, Wang, Du, Yang, Zhang, Ding, Mardziel, Hu: Score-CAM",
        year=2020,
        needs="forward passes",
        cost="1 forward pass per channel",
        baselines="one",
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class ScoreCAM(CAM):
    r"""Score-CAM: the weights are a softmax over the scores of the input, masked by each channel.

    .. math:: \phi_{uv} = \sum_c w_c A_{cuv}, \qquad w = \mathrm{softmax}_c f(m_c \odot x + (1 - m_c) \odot x'), \qquad
        m_c = \frac{\hat A_c - \min \hat A_c}{\max \hat A_c - \min \hat A_c}

    with the channel's map enlarged to the input, :math:`\hat A_c`, and a baseline :math:`x'` at the input, zero in the
    paper. A channel that is the same everywhere shows nothing. Of several inputs, those with as many spatial dimensions
    as the map are masked.

    Args:
        relu_attributions: keep only what is positive, as in the paper; False keeps the sign.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: those of the activations.

    Paper: H. Wang et al., CVPR Workshops 2020, arXiv:1910.01279.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> ScoreCAM(model, at="0").attribute(torch.rand(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    def maps(self, p: Problem) -> Iterable[Tensor]:
        for a in self._folded(p, p.point):
            yield weighted(a, self._scores(p.elsewhere(None), a).softmax(0))

    def _scores(self, p: Problem, a: Tensor) -> Tensor:
        """Of the input shown through each channel, (C, B)."""
        seen = [t.is_floating_point() and (a.ndim <= 2 or t.ndim == a.ndim) for t in p.point]
        if not any(seen):
            raise TorchwhyError(
                f"ScoreCAM shows the input through maps of {tuple(a.shape[2:])}, but no input of {p.point.shapes} has "
                f"as many spatial dimensions: choose another layer, or use AblationCAM"
            )

        def points(es: slice, ks: slice) -> Tensors:
            return Tensors(
                self._shown(t, b, a[es, ks], masked) for t, b, masked in zip(p.point[es], p.base[es], seen, strict=True)
            )

        scores = p.scores_at(points, a.shape[1] if a.ndim > 1 else 1, "showing through channels")
        return wide(scores)

    @staticmethod
    def _shown(t: Tensor, base: Tensor, a: Tensor, masked: bool) -> Tensor:
        """An input through channels (B, K, ...), (K, B, ...)."""
        if not masked:
            return t.expand(a.shape[1], *t.shape)
        mask = enlarge(a, tuple(t.shape[2:]), "bilinear")
        places = tuple(range(2, mask.ndim))
        if places:
            least, most = mask.amin(places, keepdim=True), mask.amax(places, keepdim=True)
            # Where only rounding tells the places apart, they are the same.
            varies = most - least > 32 * torch.finfo(a.dtype).eps * torch.maximum(most.abs(), least.abs())
            mask = torch.where(varies, (mask - least) / torch.where(varies, most - least, 1), 0)
        else:
            mask = torch.zeros_like(mask)
        mask = mask.movedim(1, 0).to(t.dtype)  # (K, B, ...), without the input's channels
        return base + (mask.unsqueeze(2) if t.ndim > 1 else mask) * (t - base)


@register(
    Info(
        family="cam",
        summary="a layer's channels, weighed by how far the score falls without each of them",
        paper="Desai, Ramaswamy: Ablation-CAM",
        year=2020,
        needs="forward passes",
        cost="1 forward pass per channel, behind the layer only where the model can be traced",
        baselines="one",
        zero_at_layer=True,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class AblationCAM(CAM):
    r"""Ablation-CAM: a channel's weight is the share of the score that is lost without it.

    .. math:: \phi_{uv} = \sum_c w_c A_{cuv}, \qquad w_c = \frac{f(A) - f(A_{\setminus c})}{|f(A)|}

    A channel that is taken away gets the baseline, zero unless one is given. The paper divides by :math:`f(A)`; its
    size keeps the sign of the weights where the score is negative.

    Args:
        relu_attributions: keep only what speaks for the target, as in the paper; False keeps the sign.
        upsample: as in `torchwhy.methods.cam.CAM`, like ``grid`` and ``prefix``.

    Shapes: as `GradCAM`. Units: those of the activations.

    Raises:
        TorchwhyError: the score is 0, of which there is no share.

    Paper: S. Desai, H. G. Ramaswamy, WACV 2020.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> AblationCAM(model, at="0").attribute(torch.rand(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    def maps(self, p: Problem) -> Iterable[Tensor]:
        nothing = (p.scores == 0).nonzero().flatten().tolist()
        if nothing:
            raise TorchwhyError(
                f"the score of example {nothing[0]} is 0, and AblationCAM weighs a channel by the share of the score "
                f"that is lost without it: choose another target, or use GradCAM"
            )
        activations = self._folded(p, p.point)
        counts = [a.shape[1] if a.ndim > 1 else 1 for a in activations]
        masks = tuple(
            grid.channels(count, t, sum(counts[:n]))
            for n, (grid, count, t) in enumerate(zip(self._grids(p), counts, p.point, strict=True))
        )
        falls = wide(Game(p, Groups(p.point, masks)).one_absent())
        for a, weights in zip(activations, (falls / wide(p.scores).abs()).split(counts), strict=True):
            yield weighted(a, weights)
