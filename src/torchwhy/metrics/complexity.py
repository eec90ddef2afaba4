"""How much does the explanation mark? Little is easier to read, and says nothing about whether it is right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.metrics.base import Judged, Metric
from torchwhy.metrics.rating import INFINITY, Rating
from torchwhy.metrics.removal import Removal, RemovalMetric, check_shares, too_small
from torchwhy.registry import MetricInfo, register_metric

ALL_ZERO = "every attribution is zero"


def _sizes(judged: Judged) -> tuple[Tensor, Tensor]:
    """(B, M) sizes of the attributions, and where there are any that are not zero."""
    sizes = abs(judged.values).flat()
    return sizes, sizes.amax(1) > 0


@register_metric(
    MetricInfo(
        family="complexity",
        summary="the Gini index of the sizes of the attributions",
        paper="Chalasani, Chen, Chowdhury, Jha, Wu: Concise Explanations of Neural Networks Using Adversarial Training",
        year=2020,
        cost="none",
        range=(0, 1),
        direction="higher",
        needs=(),
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class Sparseness(Metric):
    r"""The Gini index of the sizes of the attributions: 0 where all are alike, almost 1 where one stands alone.

    .. math:: 1 - 2 \sum_{k=1}^{n} \frac{|a|_{(k)}}{\|a\|_1} \cdot \frac{n - k + \tfrac12}{n}, \qquad
        |a|_{(1)} \le \dots \le |a|_{(n)}

    Shapes: attributions (B, ...), value (B,). No units.

    Paper: P. Chalasani et al., ICML 2020, arXiv:1810.06583.

    >>> import torch
    >>> Sparseness().score(torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, -2.0, 0.0]])).value
    tensor([0.0000, 0.7500])
    """

    def compute(self, judged: Judged) -> Rating:
        sizes, there = _sizes(judged)
        # As shares of the largest, of which the sum cannot overflow.
        ordered = (sizes.sort(1).values / torch.where(there, sizes.amax(1), 1)[:, None]).double()
        n = ordered.shape[1]
        weights = (n - torch.arange(1, n + 1, device=sizes.device).double() + 0.5) / n
        total = torch.where(there, ordered.sum(1), 1)
        value = (1 - 2 * (ordered * weights).sum(1) / total).clamp(0, 1).to(sizes)
        return Rating.where(there, value, ALL_ZERO)


@register_metric(
    MetricInfo(
        family="complexity",
        summary="entropy of the shares that features have in the attribution",
        paper="Bhatt, Weller, Moura: Evaluating and Aggregating Feature-based Model Explanations",
        year=2020,
        cost="none",
        range=(0, INFINITY),
        direction="lower",
        units="nats",
        needs=(),
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class Complexity(Metric):
    r"""The entropy of the shares that features have in the attribution, from 0 for one feature to :math:`\ln n`.

    .. math:: -\sum_i p_i \ln p_i, \qquad p_i = \frac{|a_i|}{\sum_j |a_j|}

    Its exponential is a number of features: as many as would, alike, have the same entropy.

    Shapes: attributions (B, ...), value (B,) in nats.

    Paper: U. Bhatt, A. Weller, J. M. F. Moura, IJCAI 2020, arXiv:2005.00631.

    >>> import torch
    >>> Complexity().score(torch.tensor([[1.0, -1.0], [0.0, 3.0]])).value
    tensor([0.6931, 0.0000])
    """

    def compute(self, judged: Judged) -> Rating:
        sizes, there = _sizes(judged)
        shares = (sizes / torch.where(there, sizes.amax(1), 1)[:, None]).double()
        shares = shares / torch.where(there, shares.sum(1), 1)[:, None]
        return Rating.where(there, torch.special.entr(shares).sum(1).clamp_min(0).to(sizes), ALL_ZERO)


@register_metric(
    MetricInfo(
        family="complexity",
        summary="number of attributions whose size is above a threshold",
        paper="Nguyen, Martínez: On Quantitative Aspects of Model Interpretability",
        year=2020,
        cost="none",
        range=(0, INFINITY),
        direction="lower",
        units="features",
        needs=(),
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class SupportSize(Metric):
    r"""How many attributions have a size above a threshold.

    .. math:: \left| \left\{ i : |a_i| > \varepsilon \max_j |a_j| \right\} \right|

    It asks the attributions alone; `EffectiveComplexity` asks the model how many of them matter.

    Args:
        threshold: :math:`\varepsilon`, of the largest size.
        relative: False takes the threshold as it is, :math:`|a_i| > \varepsilon`.

    Shapes: attributions (B, ...), value (B,) in features.

    Paper: A. Nguyen, M. R. Martínez, 2020, arXiv:2007.07584, counted without the model.

    >>> import torch
    >>> SupportSize(threshold=0.1).score(torch.tensor([[5.0, -1.0, 0.4, 0.0]])).value
    tensor([2.])
    """

    threshold: float = 1e-5
    relative: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, int | float) or self.threshold < 0:
            raise TorchwhyError(f"threshold is a number of at least 0, not {self.threshold!r}")

    def compute(self, judged: Judged) -> Rating:
        sizes, _ = _sizes(judged)
        limit = self.threshold * (sizes.amax(1, keepdim=True) if self.relative else 1)
        return Rating((sizes > limit).sum(1).to(sizes))


@register_metric(
    MetricInfo(
        family="complexity",
        summary="number of the most marked positions that are enough for the score",
        paper="Nguyen, Martínez: On Quantitative Aspects of Model Interpretability",
        year=2020,
        cost="positions + 1 forward passes",
        range=(0, INFINITY),
        direction="lower",
        units="positions",
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class EffectiveComplexity(RemovalMetric):
    r"""The smallest number of the most marked positions that are enough for the score.

    .. math:: \min\left\{ k : \left| f(x) - f(x_{\operatorname{top}_k}) \right| \le \varepsilon\,|f(x) - f(x')| \right\}

    :math:`x_{\operatorname{top}_k}` holds the k positions of largest size, and the fill elsewhere; :math:`x'` is the
    fill alone. Of a fill that draws, scores are means over its draws.

    Args:
        tolerance: :math:`\varepsilon`, of the change of the score, that may be missed.
        abs: the most marked positions are those of the largest size, else of the largest value.

    Shapes: attributions like the inputs (B, ...), value (B,) in positions.

    Paper: A. Nguyen, M. R. Martínez, 2020, arXiv:2007.07584, with the size of the difference as the loss.

    >>> import torch
    >>> w = torch.tensor([5.0, 4.0, 1.0, 0.0])
    >>> EffectiveComplexity(lambda x: x @ w).score(w[None], torch.ones(1, 4)).value
    tensor([2.])
    """

    tolerance: float = 0.1
    abs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("tolerance", self.tolerance)

    def measure(self, removal: Removal) -> Rating:
        scores = removal.only_most(torch.arange(removal.count + 1)).y
        nothing, everything = scores[0], scores[-1]
        change = (everything - nothing).abs()
        enough = (everything - scores).abs() <= self.tolerance * change
        value = enough.int().argmax(0).to(scores)
        same = too_small(change, everything)
        return Rating.where(~same, value, "the score is the same where everything is replaced by the fill")
