"""Curves of the score while positions are removed or shown in the order of their attributions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchwhy.core.options import at_least, one_of
from torchwhy.engines.fills import Fill
from torchwhy.metrics.rating import INFINITY, Curve, Rating
from torchwhy.metrics.removal import Positions, Removal, RemovalMetric, check_shares, too_small
from torchwhy.registry import MetricInfo, register_metric


@dataclass(kw_only=True, eq=False)
class CurveMetric(RemovalMetric):
    """A metric read off a curve.

    Args:
        n_steps: steps from nothing to everything, but never more than there are positions; None takes one position at
            a time.
        normalise: measure scores as a share of the way from the score of nothing, 0, to that of the input, 1.
    """

    n_steps: int | None = 20
    normalise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_steps is not None:
            at_least("n_steps", self.n_steps, 1)

    @property
    def units(self) -> str:
        return "" if self.normalise else self.info.units

    def counts(self, removal: Removal) -> Tensor:
        """How many positions are removed at each step, (S,)."""
        steps = removal.count if self.n_steps is None else self.n_steps
        return removal.counts(torch.linspace(0, 1, steps + 1, dtype=torch.float64))

    def read(self, removal: Removal, curve: Curve, value: Tensor, shift: float = 1.0) -> Rating:
        """A value that is linear in the scores, and in a constant score ``shift`` times the constant."""
        if not self.normalise:
            return Rating(value, curve=curve)
        everything, nothing = removal.whole()
        way = everything - nothing
        defined = ~too_small(way, everything)
        way = torch.where(defined, way, 1)
        return Rating.where(
            defined,
            (value - shift * nothing) / way,
            "the input has the score of nothing, so there is no way between them",
            curve=replace(curve, y=(curve.y - shift * nothing) / way),
        )


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="area under the score while the positions of the largest attributions are removed first",
        paper="Petsiuk, Das, Saenko: RISE",
        year=2018,
        cost="n_steps + 1 forward passes",
        range=(-INFINITY, INFINITY),
        direction="lower",
        units="score",
    )
)
@dataclass(kw_only=True, eq=False)
class Deletion(CurveMetric):
    r"""The area under the score while what the explanation marks is removed.

    .. math:: \int_0^1 f(x_{\setminus \text{top } q})\,dq

    Shapes: attributions like the inputs (B, ...), value (B,), curve (S, B). Units: score.

    Paper: V. Petsiuk, A. Das, K. Saenko, BMVC 2018, arXiv:1806.07421.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 1.0])
    >>> Deletion(model).score(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).value
    tensor([1.5000])
    >>> Deletion(model).score(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2)).value
    tensor([2.5000])
    """

    def measure(self, removal: Removal) -> Rating:
        curve = removal.most_first(self.counts(removal))
        return self.read(removal, curve, curve.area)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="area under the score while the positions of the largest attributions are shown first",
        paper="Petsiuk, Das, Saenko: RISE",
        year=2018,
        cost="n_steps + 1 forward passes",
        range=(-INFINITY, INFINITY),
        direction="higher",
        units="score",
    )
)
@dataclass(kw_only=True, eq=False)
class Insertion(CurveMetric):
    r"""The area under the score while what the explanation marks is put into nothing.

    .. math:: \int_0^1 f(x_{\text{top } q})\,dq

    Petsiuk et al. put it into the blurred image: ``fill="blur"``.

    Shapes: attributions like the inputs (B, ...), value (B,), curve (S, B). Units: score.

    Paper: V. Petsiuk, A. Das, K. Saenko, BMVC 2018, arXiv:1806.07421.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 1.0])
    >>> Insertion(model).score(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).value
    tensor([2.5000])
    """

    def measure(self, removal: Removal) -> Rating:
        curve = removal.only_most(self.counts(removal))
        return self.read(removal, curve, curve.area)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="mean score while pixels are flipped in the order of their relevance",
        paper="Bach, Binder, Montavon, Klauschen, Müller, Samek: On Pixel-Wise Explanations",
        year=2015,
        cost="n_steps + 1 forward passes",
        range=(-INFINITY, INFINITY),
        direction="lower",
        units="score",
    )
)
@dataclass(kw_only=True, eq=False)
class PixelFlipping(CurveMetric):
    r"""The mean score while pixels are flipped, the most relevant first (MoRF) or the least relevant first (LeRF).

    .. math:: \frac{1}{S + 1} \sum_{k=0}^{S} f(x^{(k)})

    Args:
        order: "morf", of which low values are better, or "lerf", of which high ones are.

    Shapes: attributions like the inputs (B, ...), value (B,), curve (S, B). Units: score.

    Paper: S. Bach et al., PLoS ONE 10(7), 2015, doi:10.1371/journal.pone.0130140.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 1.0])
    >>> PixelFlipping(model).score(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).value
    tensor([1.6667])
    >>> PixelFlipping(model, order="lerf").score(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).value
    tensor([2.3333])
    """

    positions: Positions = "pixels"
    order: str = "morf"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("order", self.order, ("morf", "lerf"))

    @property
    def direction(self) -> str:
        return "lower" if self.order == "morf" else "higher"

    def measure(self, removal: Removal) -> Rating:
        draw = removal.most_first if self.order == "morf" else removal.least_first
        curve = draw(self.counts(removal))
        return self.read(removal, curve, curve.y.mean(0))


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="area between the curves of removing the least and the most relevant positions first",
        paper="Schulz, Sixt, Tombari, Landgraf: Restricting the Flow",
        year=2020,
        cost="2 n_steps forward passes",
        range=(-INFINITY, INFINITY),
        direction="higher",
        units="score",
    )
)
@dataclass(kw_only=True, eq=False)
class ABPC(CurveMetric):
    r"""The area between the perturbation curves: least relevant first (LeRF) above most relevant first (MoRF).

    .. math:: \int_0^1 f(x_{\setminus \text{bottom } q}) - f(x_{\setminus \text{top } q})\,dq

    A random order has 0 on average, the opposite order the opposite value; with ``normalise`` this is the degradation
    score of Schulz et al.

    Shapes: attributions like the inputs (B, ...), value (B,), curve (S, B), the difference. Units: score.

    Paper: K. Schulz, L. Sixt, F. Tombari, T. Landgraf, ICLR 2020, arXiv:2001.00396.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 1.0])
    >>> ABPC(model).score(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).value
    tensor([1.])
    """

    def measure(self, removal: Removal) -> Rating:
        curve = between(removal, self.counts(removal))
        return self.read(removal, curve, curve.area, shift=0)


def between(removal: Removal, counts: Tensor) -> Curve:
    """How far the score stays above that of removing the most relevant where the least relevant are removed."""
    most, least = removal.most_first(counts), removal.least_first(counts)
    return replace(most, y=least.y - most.y)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="mean fall of the score while the most relevant regions are removed one after the other",
        paper="Samek, Binder, Montavon, Lapuschkin, Müller: Evaluating the Visualization of What a DNN Has Learned",
        year=2017,
        cost="n_regions forward passes",
        range=(-INFINITY, INFINITY),
        direction="higher",
        units="score",
    )
)
@dataclass(kw_only=True, eq=False)
class RegionPerturbation(RemovalMetric):
    r"""The area over the perturbation curve (AOPC): the mean fall of the score after each of the first regions.

    .. math:: \frac{1}{L + 1} \sum_{k=0}^{L} f(x) - f(x^{(k)}_{\text{MoRF}})

    Args:
        n_regions: removed, L; no more than there are.

    Shapes: attributions like the inputs (B, ...), value (B,), curve (L + 1, B). Units: score.

    Paper: W. Samek et al., IEEE TNNLS 28(11), 2017, arXiv:1509.06321.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 1.0])
    >>> RegionPerturbation(model, n_regions=1).score(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).value
    tensor([1.5000])
    """

    n_regions: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_regions", self.n_regions, 1)

    def measure(self, removal: Removal) -> Rating:
        curve = removal.most_first(torch.arange(min(self.n_regions, removal.count) + 1))
        return Rating((curve.y[0] - curve.y).mean(0), curve=curve)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="area over the score, as a share of it, while superpixels are removed",
        paper="Rieger, Hansen: IROF",
        year=2020,
        cost="1 forward pass per superpixel",
        range=(-INFINITY, INFINITY),
        direction="higher",
    )
)
@dataclass(kw_only=True, eq=False)
class IROF(CurveMetric):
    r"""Iterative removal of features: the area over the curve while superpixels of the largest mean are removed first.

    .. math:: \int_0^1 1 - \frac{f(x_{\setminus \text{top } q})}{f(x)}\,dq

    Where the score is not above 0 there is no share of it: explain a probability.

    Shapes: attributions of images (B, C, H, W), value (B,), curve (S, B). No units.

    Paper: L. Rieger, L. K. Hansen, 2020, arXiv:2003.08747.

    >>> import torch
    >>> image = torch.zeros(1, 1, 8, 8)
    >>> image[..., :4, :], image[..., 4:, :] = 3.0, 1.0
    >>> halves = torch.arange(2).repeat_interleave(4).view(1, 8, 1)
    >>> IROF(lambda x: x.mean((1, 2, 3)), positions=halves, fill="baseline").score(image, image).value
    tensor([0.6250])
    """

    mean = True

    positions: Positions = "superpixels"
    fill: str | Fill = "mean"
    n_steps: int | None = None

    def measure(self, removal: Removal) -> Rating:
        curve = removal.most_first(self.counts(removal))
        start = curve.y[0]
        defined = start > 0
        share = replace(curve, y=curve.y / torch.where(defined, start, 1))
        return Rating.where(defined, 1 - share.area, "the score is not above 0: explain a probability", curve=share)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="how far the score stays up without the least relevant rather than the most, with imputed pixels",
        paper="Rong, Leemann, Borisov, Kasneci, Kasneci: ROAD",
        year=2022,
        cost="2 forward passes per share",
        range=(-INFINITY, INFINITY),
        direction="higher",
        units="score",
    )
)
@dataclass(kw_only=True, eq=False)
class ROAD(RemovalMetric):
    r"""Remove and debias: what is removed is imputed from its neighbours, so that its shape tells the model little.

    .. math:: \frac{1}{|Q|} \sum_{q \in Q} f(x_{\setminus \text{bottom } q}) - f(x_{\setminus \text{top } q})

    Args:
        shares: of the positions, that are removed.

    Shapes: attributions of images (B, C, H, W), value (B,), curve (S, B), the difference. Units: score.

    Paper: Y. Rong, T. Leemann, V. Borisov, G. Kasneci, E. Kasneci, ICML 2022, arXiv:2202.00449.

    >>> import torch
    >>> model = lambda x: x[:, 0, 0, 0] + x[:, 0, 2, 2]
    >>> image = torch.zeros(1, 1, 4, 4)
    >>> image[..., 0, 0] = image[..., 2, 2] = 1.0
    >>> bool(ROAD(model).score(image, image).value > 0.5)
    True
    """

    positions: Positions = "pixels"
    fill: str | Fill = "linear"
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("shares", self.shares)

    def measure(self, removal: Removal) -> Rating:
        curve = between(removal, removal.counts(torch.tensor(self.shares, dtype=torch.float64)))
        return Rating(curve.y.mean(0), curve=curve)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="area under the score while patches are removed one after the other",
        paper="Montavon, Samek, Müller: Methods for Interpreting and Understanding Deep Neural Networks",
        year=2018,
        cost="1 forward pass per position",
        range=(-INFINITY, INFINITY),
        direction="lower",
        units="score",
    )
)
@dataclass(kw_only=True, eq=False)
class Selectivity(Deletion):
    r"""How fast the score goes down when features are removed one after the other, the most relevant first.

    .. math:: \int_0^1 f(x_{\setminus \text{top } q})\,dq

    This is `Deletion`, one position at a time.

    Shapes: attributions like the inputs (B, ...), value (B,), curve (S, B). Units: score.

    Paper: G. Montavon, W. Samek, K.-R. Müller, Digital Signal Processing 73, 2018, arXiv:1706.07979.

    >>> import torch
    >>> model = lambda x: x @ torch.tensor([3.0, 1.0])
    >>> Selectivity(model).score(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)).value
    tensor([1.5000])
    """

    n_steps: int | None = None
