"""What is left of the score without what an explanation marks, and with nothing but that."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.options import at_least
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import check_stdevs, draws, normal
from torchwhy.metrics.orders import FLAT
from torchwhy.metrics.rating import INFINITY, Rating
from torchwhy.metrics.removal import Removal, RemovalMetric, check_shares, wide
from torchwhy.registry import MetricInfo, register_metric


@dataclass(kw_only=True, eq=False)
class RationaleMetric(RemovalMetric):
    """A metric on rationales: the positions of the largest attributions.

    Args:
        shares: of the positions, that the rationales are; the value is the mean over them.
        soft: instead, keep or drop each position by chance, with its attribution as a share of the largest as the
            probability, negative ones as 0. Attributions that are the same everywhere have no value then.
        n_samples: draws, if soft.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.5)
    soft: bool = False
    n_samples: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("shares", self.shares)
        at_least("n_samples", self.n_samples, 2)

    @abstractmethod
    def left(self, removal: Removal, counts: Tensor) -> Tensor:
        """(S, B) scores for rationales of so many positions."""

    @abstractmethod
    def kept(self, chosen: Tensor) -> Tensor:
        """Which positions stay, where some are chosen as the rationale."""

    def measure(self, removal: Removal) -> Rating:
        start = wide(removal.p.scores)
        if not self.soft:
            counts = [max(1, round(share * removal.count)) for share in self.shares]
            return Rating((start - self.left(removal, torch.tensor(counts))).mean(0))
        share, told, reasons = shares_of_largest(removal)
        generator = draws(self.seed, stream=62)
        drawn = torch.rand(self.n_samples, 1, removal.count, generator=generator, dtype=torch.float64)
        falls = start - removal.faded(self.kept(drawn.to(share.device) < share).to(share))
        error = falls.std(0) / len(falls) ** 0.5
        return Rating.where(told, falls.mean(0), reasons, standard_error=error)


NOTHING_MARKED = "no attribution is above 0, so nothing is marked"


def shares_of_largest(removal: Removal) -> tuple[Tensor, Tensor, list[str]]:
    """(B, M) positive values as a share of the largest, (B,) where they tell positions apart, and why not elsewhere.

    Those that are the same everywhere would keep or drop all there is, which says nothing about them.
    """
    positive = removal.values.clamp_min(0)
    largest = positive.amax(1, keepdim=True)
    marked = largest[:, 0] > 0
    reasons = [FLAT if there else NOTHING_MARKED for there in marked.tolist()]
    return positive / torch.where(largest > 0, largest, 1), marked & ~removal.flat, reasons


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="fall of the score without the rationale",
        paper="DeYoung et al.: ERASER",
        year=2020,
        cost="1 forward pass per share, or n_samples if soft",
        range=(-INFINITY, INFINITY),
        direction="higher",
        units="score",
    )
)
@dataclass(kw_only=True, eq=False)
class Comprehensiveness(RationaleMetric):
    r"""How far the score falls without the rationale :math:`r_q`, the share :math:`q` of largest attributions.

    .. math:: \frac{1}{|Q|} \sum_{q \in Q} f(x) - f(x_{\setminus r_q})

    Shapes: attributions like the inputs (B, ...), value (B,). Units: score.

    Paper: J. DeYoung et al., ACL 2020, arXiv:1911.03429; soft: Z. Zhao, N. Aletras, ACL 2023, arXiv:2305.10496.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 1.0])
    >>> Comprehensiveness(model, shares=(0.5,)).score(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).value
    tensor([3.])
    """

    def left(self, removal: Removal, counts: Tensor) -> Tensor:
        return removal.most_first(counts).y

    def kept(self, chosen: Tensor) -> Tensor:
        return ~chosen


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="fall of the score with nothing but the rationale",
        paper="DeYoung et al.: ERASER",
        year=2020,
        cost="1 forward pass per share, or n_samples if soft",
        range=(-INFINITY, INFINITY),
        direction="lower",
        units="score",
    )
)
@dataclass(kw_only=True, eq=False)
class Sufficiency(RationaleMetric):
    r"""How far the score falls with nothing but the rationale :math:`r_q`, the share :math:`q` of largest attributions.

    .. math:: \frac{1}{|Q|} \sum_{q \in Q} f(x) - f(r_q)

    Shapes: attributions like the inputs (B, ...), value (B,). Units: score.

    Paper: J. DeYoung et al., ACL 2020, arXiv:1911.03429; soft: Z. Zhao, N. Aletras, ACL 2023, arXiv:2305.10496.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 1.0])
    >>> Sufficiency(model, shares=(0.5,)).score(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).value
    tensor([1.])
    """

    def left(self, removal: Removal, counts: Tensor) -> Tensor:
        return removal.only_most(counts).y

    def kept(self, chosen: Tensor) -> Tensor:
        return chosen


@dataclass(kw_only=True, eq=False)
class FadedMetric(RemovalMetric):
    """A metric on the input seen through its explanation: faded where little is marked."""

    def measure(self, removal: Removal) -> Rating:
        share, told, reasons = shares_of_largest(removal)
        after = removal.remember("faded", lambda: removal.faded(share[None])[0])
        return self.read(wide(removal.p.scores), after, told, reasons)

    @abstractmethod
    def read(self, before: Tensor, after: Tensor, told: Tensor, reasons: list[str]) -> Rating:
        """The value from the scores (B,) of the input and of the faded input, where attributions tell positions apart.

        Elsewhere, (B,) reasons say why there is none.
        """


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="fall of the score, as a share of it, where the input is seen through the explanation",
        paper="Chattopadhay, Sarkar, Howlader, Balasubramanian: Grad-CAM++",
        year=2018,
        cost="1 forward pass",
        range=(0, INFINITY),
        direction="lower",
    )
)
@dataclass(kw_only=True, eq=False)
class AverageDrop(FadedMetric):
    r"""How much of the score is lost where the input is seen through the explanation.

    .. math:: \frac{\max(0, f(x) - f(m \odot x + (1 - m) \odot x'))}{f(x)}, \qquad m = \frac{\max(0, a)}{\max_i a_i}

    :math:`x'` is the fill. Where the score is not above 0 there is no share of it: explain a probability, for which the
    value is at most 1. An explanation that marks almost everything loses almost nothing: do not read it alone. One that
    is the same everywhere fades nothing, and has no value.

    Shapes: attributions like the inputs (B, ...), value (B,). No units.

    Paper: A. Chattopadhay et al., WACV 2018, arXiv:1710.11063.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 1.0])
    >>> AverageDrop(model).score(torch.tensor([[1.0, 0.5]]), torch.ones(1, 2)).value
    tensor([0.1250])
    """

    def read(self, before: Tensor, after: Tensor, told: Tensor, reasons: list[str]) -> Rating:
        drop = (before - after).clamp_min(0) / torch.where(before > 0, before, 1)
        none = "the score is not above 0: explain a probability"
        reasons = [none if there else why for there, why in zip(told.tolist(), reasons, strict=True)]
        return Rating.where(told & (before > 0), drop, reasons)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="whether the score rises where the input is seen through the explanation",
        paper="Chattopadhay, Sarkar, Howlader, Balasubramanian: Grad-CAM++",
        year=2018,
        cost="1 forward pass",
        range=(0, 1),
        direction="higher",
    )
)
@dataclass(kw_only=True, eq=False)
class IncreaseInConfidence(FadedMetric):
    r"""Whether the score rises where the input is seen through the explanation, 1 or 0; the mean is the rate.

    .. math:: 1\left[f(m \odot x + (1 - m) \odot x') > f(x)\right], \qquad m = \frac{\max(0, a)}{\max_i a_i}

    :math:`x'` is the fill. An explanation that is the same everywhere fades nothing, and has no value.

    Shapes: attributions like the inputs (B, ...), value (B,). No units.

    Paper: A. Chattopadhay et al., WACV 2018, arXiv:1710.11063.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, -1.0])
    >>> IncreaseInConfidence(model).score(torch.tensor([[3.0, -1.0]]), torch.ones(1, 2)).value
    tensor([1.])
    """

    def read(self, before: Tensor, after: Tensor, told: Tensor, reasons: list[str]) -> Rating:
        return Rating.where(told, (after > before).to(before), reasons)


@dataclass(kw_only=True, eq=False)
class GapMetric(RemovalMetric):
    """A metric on how the score moves where noise is added to some of the positions.

    Args:
        abs: the important positions are those of the largest size, else of the largest value.
        share: of the positions, that count as important.
        stdevs: standard deviations of the noise; one for all inputs, or one each.
        n_samples: draws.
    """

    abs: bool = True
    share: float = 0.25
    stdevs: float | tuple[float, ...] = 0.1
    n_samples: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("share", self.share)
        check_stdevs(self.stdevs)
        at_least("n_samples", self.n_samples, 2)

    def gap(self, removal: Removal, *, important: bool) -> Rating:
        """The mean size of the change where the important, or all other, positions are noisy."""
        p = removal.p
        count = max(1, round(self.share * removal.count))
        noisy = normal(self.stdevs, p.point, self.seed)
        if noisy is None:
            raise TorchwhyError("stdevs are 0, so that nothing is noisy: give the noise a size")
        moved = removal.groups.spread((removal.rank < count).T if important else (removal.rank >= count).T)

        def points(es: slice, ks: slice) -> Tensors:
            return noisy(es, ks).map(lambda n, t, m: torch.where(m[es], n, t[es]), p.point, moved)

        scores = wide(p.scores_at(points, self.n_samples, "adding noise"))
        sizes = (wide(p.scores) - scores).abs()
        return Rating(sizes.mean(0), standard_error=sizes.std(0) / len(sizes) ** 0.5)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="how much the score moves where the important positions are noisy",
        paper="Agarwal et al.: OpenXAI",
        year=2022,
        cost="n_samples forward passes",
        range=(0, INFINITY),
        direction="higher",
        units="score",
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class PGI(GapMetric):
    r"""The prediction gap on important features: the mean size of the change where these are noisy.

    .. math:: \frac{1}{n} \sum_k \left| f(x) - f(x + m \odot \epsilon_k) \right|, \qquad
        \epsilon_k \sim N(0, \sigma^2), \quad m_i = 1[i \in \text{top } q \text{ by } |a|]

    Noise of one size asks for slopes: of parts of the score, which grow with the input, the largest may move it less.

    Shapes: attributions like the inputs (B, ...), value and standard error (B,). Units: score.

    Paper: C. Agarwal et al., NeurIPS 2022, arXiv:2206.11104.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 0.0])
    >>> x = torch.ones(1, 2)
    >>> bool(PGI(model, share=0.5).score(torch.tensor([[3.0, 0.0]]), x).value > 0)
    True
    >>> PGI(model, share=0.5).score(torch.tensor([[0.0, 3.0]]), x).value
    tensor([0.])
    """

    def measure(self, removal: Removal) -> Rating:
        return self.gap(removal, important=True)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="how much the score moves where all but the important positions are noisy",
        paper="Agarwal et al.: OpenXAI",
        year=2022,
        cost="n_samples forward passes",
        range=(0, INFINITY),
        direction="lower",
        units="score",
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class PGU(GapMetric):
    r"""The prediction gap on unimportant features: the mean size of the change where these are noisy.

    .. math:: \frac{1}{n} \sum_k \left| f(x) - f(x + m \odot \epsilon_k) \right|, \qquad
        \epsilon_k \sim N(0, \sigma^2), \quad m_i = 1[i \notin \text{top } q \text{ by } |a|]

    As of `PGI`, noise of one size asks for slopes.

    Shapes: attributions like the inputs (B, ...), value and standard error (B,). Units: score.

    Paper: C. Agarwal et al., NeurIPS 2022, arXiv:2206.11104.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 0.0])
    >>> PGU(model, share=0.5).score(torch.tensor([[3.0, 0.0]]), torch.ones(1, 2)).value
    tensor([0.])
    """

    def measure(self, removal: Removal) -> Rating:
        return self.gap(removal, important=False)
