"""What flows between tokens through the attention of all layers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.options import a_share
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors, accumulator
from torchwhy.engines.rules.attention import Attended, Attention
from torchwhy.methods.base import Attribution, Method
from torchwhy.registry import Info, register

Heads = Literal["mean", "max", "min"]
MOST_AHEAD = 16  # tokens in front of the patches of an image, such as a class token and registers


@dataclass(kw_only=True, eq=False)
class _Flow(Method):
    token: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.token, bool) or not isinstance(self.token, int | None):
            raise TorchwhyError(f"token is the number of a token, or None, not {self.token!r}")

    def compute(self, p: Problem) -> Attribution:
        if len(p.inputs) > 1:
            raise TorchwhyError(
                f"{type(self).__name__} explains the tokens of one input, not of {len(p.inputs)}: pass the others, "
                f"such as a mask, as additional_forward_args"
            )
        attended = Attended.by(p, type(self).__name__)
        layers = attended.attention()
        attended.share(p)
        wide = [Attention(*(t.to(accumulator(t.dtype)) for t in layer)) for layer in layers]
        values = self._read(self._flow(wide), wide[-1].gradient)
        found = Attribution(Tensors([_folded(values, p.inputs.parts[0])]))
        found.details = {"attention_layers": len(layers), "tokens": values.shape[1]}
        return found

    @abstractmethod
    def _flow(self, layers: list[Attention]) -> Tensor:
        """(B, T, T): how much of token j is in token i."""

    def _read(self, flow: Tensor, last: Tensor) -> Tensor:
        """The row of the token, (B, T), or the mean row of those that the score depends on."""
        count = flow.shape[1]
        if self.token is not None:
            if not -count <= self.token < count:
                raise TorchwhyError(f"token {self.token} is out of range: there are {count} tokens, from 0")
            row: Tensor = flow[:, self.token]
            return row
        read = (last != 0).any(3).any(1).to(flow.dtype)[:, None]  # (B, 1, T)
        mean: Tensor = (read @ flow / read.sum(2, keepdim=True).clamp(min=1)).squeeze(1)
        return mean


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def _folded(values: Tensor, inputs: Tensor) -> Tensor:
    """Values of the patches of images (B, C, H, W), where they lie, (B, 1, H, W); those of other tokens as they are."""
    if inputs.ndim != 4 or not inputs.is_floating_point():
        return values
    (height, width), count = inputs.shape[2:], values.shape[1]
    sides = [n for n in range(1, min(height, width) + 1) if height % n == 0 and width % n == 0]
    side = next((n for n in sides if height * width // n**2 <= count), 0)
    if side == 0 or (ahead := count - height * width // side**2) > min(MOST_AHEAD, count / 2):
        return values
    grid: Tensor = values[:, ahead:].unflatten(1, (1, height // side, width // side))
    return grid.repeat_interleave(side, 2).repeat_interleave(side, 3)


@register(
    Info(
        family="attention",
        summary="how much of each token is in the one the score is read from, by attention alone",
        paper="Abnar, Zuidema: Quantifying Attention Flow in Transformers",
        year=2020,
        needs="gradients",
        cost="1 gradient",
        signed=False,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class AttentionRollout(_Flow):
    r"""Attention rollout: the attention of all layers, multiplied.

    .. math:: \tilde A_l = \rho I + (1 - \rho) \, \mathrm{fuse}_h A_l^h, \qquad
        R = \hat A_L \cdots \hat A_1, \qquad \hat A_{ij} = \tilde A_{ij} / \sum_k \tilde A_{ik}

    and the row of R for the token that the score is read from. The weights are those of the model's own operations,
    fused ones included; layers that the score does not depend on are left out. The score decides nothing else.

    Args:
        heads: how heads are fused, "mean", "max" or "min".
        discard: the share of the fused weights of a layer, the smallest, that is set to zero.
        residual: :math:`\rho`, the share of the residual connection.
        token: the number of the token whose row is read, negative from the end; None takes those whose last attention
            the score depends on, which are the class token of a classifier, the last one of a language model, or all
            where they are pooled, and the mean of their rows.

    Shapes: inputs (B, T) of token ids, or (B, T, E), give values (B, T). Images (B, C, H, W) give (B, 1, H, W), where
    every pixel has the value of its patch; tokens in front of the patches are left out. Units: none.

    Raises:
        UnsupportedError: there is no attention, or not among the same tokens in all layers.

    Paper: S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv:2005.00928.

    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 8), layer)
    >>> ids = torch.tensor([[1, 5, 3]])
    >>> values = AttentionRollout(model).attribute(ids, target=lambda output: output[:, 0, 2])
    >>> values.shape, bool(torch.isclose(values.sum(), torch.ones(())))
    (torch.Size([1, 3]), True)
    """

    heads: Heads = "mean"
    discard: float = 0.0
    residual: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads not in ("mean", "max", "min"):
            raise TorchwhyError(f"heads are fused by 'mean', 'max' or 'min', not {self.heads!r}")
        a_share("discard", self.discard)
        a_share("residual", self.residual)

    def _flow(self, layers: list[Attention]) -> Tensor:
        total = _eye(layers[0].weights)
        for layer in layers:
            fused = layer.weights.mean(1) if self.heads == "mean" else getattr(layer.weights, f"a{self.heads}")(1)
            mixed = self.residual * _eye(fused) + (1 - self.residual) * self._kept(fused)
            total = mixed / mixed.sum(-1, keepdim=True).clamp(min=torch.finfo(mixed.dtype).tiny) @ total
        return total

    def _kept(self, fused: Tensor) -> Tensor:
        """Without the smallest; of equal weights all are kept, or none."""
        count = int(self.discard * fused[0].numel())
        limit = fused.flatten(1).kthvalue(count + 1, 1).values[:, None, None]
        return torch.where(fused >= limit, fused, 0)


@register(
    Info(
        family="attention",
        summary="what of each token the score takes through attention, by weights and their gradients",
        paper="Chefer, Gur, Wolf: Generic Attention-Model Explainability for Interpreting Bi-Modal and Encoder-Decoder "
        "Transformers",
        year=2021,
        needs="gradients",
        cost="1 gradient",
        signed=False,
        form="map",
    )
)
@dataclass(kw_only=True, eq=False)
class TransformerRelevance(_Flow):
    r"""Relevance through self-attention, by attention weights times their gradients.

    .. math:: \bar A_l = \frac1H \sum_h \big( \nabla A_l^h \odot A_l^h \big)^+, \qquad
        R_l = R_{l-1} + \bar A_l R_{l-1}, \qquad R_0 = I

    with :math:`\nabla A` the derivative of the score, and the row of :math:`R_L - I` for the token that the score is
    read from. For encoders and for decoders without cross-attention.

    Args:
        token: the number of the token whose row is read, negative from the end; None takes those whose last attention
            the score depends on, and the mean of their rows.

    Shapes: inputs (B, T) of token ids, or (B, T, E), give values (B, T). Images (B, C, H, W) give (B, 1, H, W), where
    every pixel has the value of its patch; tokens in front of the patches are left out. Units: none.

    Raises:
        UnsupportedError: there is no attention, or not among the same tokens in all layers.

    Paper: H. Chefer, S. Gur, L. Wolf, "Generic Attention-Model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", ICCV 2021, arXiv:2103.15679.

    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 8), layer)
    >>> ids = torch.tensor([[1, 5, 3]])
    >>> TransformerRelevance(model).attribute(ids, target=lambda output: output[:, 0, 2]).shape
    torch.Size([1, 3])
    """

    def _flow(self, layers: list[Attention]) -> Tensor:
        one = _eye(layers[0].weights)
        total = one
        for layer in layers:
            total = total + (layer.gradient * layer.weights).clamp(min=0).mean(1) @ total
        return total - one
