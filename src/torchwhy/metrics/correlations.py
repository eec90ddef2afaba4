"""Do attributions of random subsets say how far the score falls without them?"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.options import at_least, one_of
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import check_stdevs, draws, normal
from torchwhy.metrics.orders import FLAT, mean_ranks
from torchwhy.metrics.rating import INFINITY, Curve, Rating
from torchwhy.metrics.removal import Removal, RemovalMetric, check_shares, wide
from torchwhy.registry import MetricInfo, register_metric

UNVARIED = "the attributions are the same for all that is removed"
UNMOVED = "the score falls by as much whatever is removed"


def subsets(removal: Removal, share: float, n_subsets: int, seed: int) -> Tensor:
    """Rows (n_subsets, M) that lack a share of the positions, drawn at random; the same for equal arguments."""
    count = min(max(1, round(share * removal.count)), removal.count)
    drawn = torch.rand(n_subsets, removal.count, generator=draws(seed, stream=63), dtype=torch.float64)
    return drawn.argsort(1).argsort(1) >= count


def one_absent(removal: Removal) -> Tensor:
    """Rows (M, M) that lack one position each."""
    return ~torch.eye(removal.count, dtype=torch.bool)


def sums(removal: Removal, present: Tensor) -> Tensor:
    """(K, B) sums of the attributions of what rows (K, M) lack."""
    return (~present).to(removal.values) @ removal.values.T


@dataclass(frozen=True)
class Relation:
    """A correlation, where it is defined.

    Attributes:
        value: (B,), NaN where it is not.
        varied: (B,) where the attributions differ.
        moved: (B,) where the falls do.
        influence: (K, B) what each of the K rows does to the value: K times what it changes there, 0 in the mean.
    """

    value: Tensor
    varied: Tensor
    moved: Tensor
    influence: Tensor

    @property
    def reasons(self) -> list[str]:
        """(B,) why there would be no value."""
        return [UNVARIED if not v else UNMOVED for v in self.varied.tolist()]

    def score(self, *, drawn: bool = False) -> Rating:
        """As the value of a metric, with its standard error where the rows were drawn."""
        error = standard_error(self.influence) if drawn else None
        return Rating.where(self.varied & self.moved, self.value, self.reasons, standard_error=error)


def standard_error(found: Tensor) -> Tensor:
    """(B,) of the mean of drawn (K, B)."""
    error: Tensor = found.std(0) / len(found) ** 0.5
    return error


def pearson(attributed: Tensor, falls: Tensor, level: Tensor) -> Relation:
    """Correlation over the first dimension of (K, B) each.

    Args:
        attributed: attributions.
        falls: of the score.
        level: (B,) the score, of which falls have the rounding.
    """
    varied = _varied(attributed, attributed.double().abs().amax(0))
    moved = _varied(falls, _level(falls, level))
    a, f = (_standardised(t, there) for t, there in ((attributed, varied), (falls, moved)))
    value = (a * f).mean(0).clamp(-1, 1)
    influence = a * f - value / 2 * (a**2 + f**2)
    value = torch.where(varied & moved, value, math.nan)
    return Relation(value.to(attributed.dtype), varied, moved, influence.to(attributed.dtype))


def _varied(values: Tensor, size: Tensor) -> Tensor:
    """(B,) where (K, B) values of so large numbers differ by more than rounding."""
    spread = (values.double() - values.double().mean(0)).norm(dim=0)
    varied: Tensor = spread > 4 * torch.finfo(values.dtype).eps * len(values) ** 0.5 * size
    return varied


def _level(falls: Tensor, level: Tensor) -> Tensor:
    """(B,) how large the scores are that falls (K, B) are differences of."""
    return torch.maximum(level.double().abs(), falls.double().abs().amax(0))


def _standardised(values: Tensor, varied: Tensor) -> Tensor:
    """Values (K, B) with the mean 0 and the mean square 1."""
    values = values.double() - values.double().mean(0)
    return values / torch.where(varied, values.square().mean(0).sqrt(), 1)


def spearman(attributed: Tensor, falls: Tensor, level: Tensor) -> Relation:
    """Correlation of the ranks; values that are equal but for rounding share their mean rank."""
    plain = pearson(attributed, falls, level)
    ranked = _ranks(attributed, attributed.double().abs().amax(0)), _ranks(falls, _level(falls, level))
    order = pearson(*ranked, torch.zeros_like(level))
    varied, moved = plain.varied & order.varied, plain.moved & order.moved
    value = torch.where(varied & moved, order.value, math.nan)
    return Relation(value.to(attributed.dtype), varied, moved, order.influence.to(attributed.dtype))


def _ranks(values: Tensor, size: Tensor) -> Tensor:
    """(K, B) ranks of (K, B) values of so large numbers, in float64."""
    ordered, order = values.sort(0)
    # Neighbours no farther apart than rounding are one value.
    steps = ordered.diff(dim=0) > 4 * torch.finfo(values.dtype).eps * size
    places = torch.cat([torch.zeros_like(values[:1]), steps.cumsum(0).to(values)])
    return mean_ranks(torch.empty_like(values).scatter_(0, order, places).T).T


@dataclass(kw_only=True, eq=False)
class SubsetMetric(RemovalMetric):
    """A metric on random subsets of the positions.

    Args:
        n_subsets: drawn.
        share: of the positions, that a subset is.
    """

    n_subsets: int = 100
    share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_subsets", self.n_subsets, 2)
        check_shares("share", self.share)

    def drawn(self, removal: Removal) -> tuple[Tensor, Tensor]:
        """Attributions and falls of the subsets, (K, B) each."""
        present = subsets(removal, self.share, self.n_subsets, self.seed)
        return sums(removal, present), removal.falls(present)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="correlation of the attributions of random subsets with the fall of the score without them",
        paper="Bhatt, Weller, Moura: Evaluating and Aggregating Feature-based Model Explanations",
        year=2020,
        cost="n_subsets forward passes",
        range=(-1, 1),
        direction="higher",
    )
)
@dataclass(kw_only=True, eq=False)
class FaithfulnessCorrelation(SubsetMetric):
    r"""Pearson's correlation over random subsets of the attribution and the fall of the score.

    .. math:: \operatorname{corr}_S\left( \sum_{i \in S} a_i,\; f(x) - f(x_{\setminus S}) \right)

    The standard error is that of what each subset does to the correlation (the infinitesimal jackknife).

    Shapes: attributions like the inputs (B, ...), value and standard error (B,). No units.

    Paper: U. Bhatt, A. Weller, J. M. F. Moura, IJCAI 2020, arXiv:2005.00631.

    >>> import torch
    >>> w = torch.tensor([3.0, 1.0, -2.0, 0.5])
    >>> FaithfulnessCorrelation(lambda x: x @ w, share=0.5).score(w[None], torch.ones(1, 4)).value.round(decimals=4)
    tensor([1.])
    """

    def measure(self, removal: Removal) -> Rating:
        return pearson(*self.drawn(removal), wide(removal.p.scores)).score(drawn=True)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="rank correlation of the attributions of random subsets with the fall of the score without them",
        paper="Fel et al.: Xplique, after Bhatt, Weller, Moura",
        year=2022,
        cost="n_subsets forward passes",
        range=(-1, 1),
        direction="higher",
    )
)
@dataclass(kw_only=True, eq=False)
class MuFidelity(SubsetMetric):
    r"""Spearman's correlation over random subsets of the attribution and the fall of the score.

    .. math:: \operatorname{corr}_S\left( \operatorname{rank} \sum_{i \in S} a_i,\;
        \operatorname{rank} f(x) - f(x_{\setminus S}) \right)

    The standard error is that of `FaithfulnessCorrelation`, of the ranks.

    Shapes: attributions like the inputs (B, ...), value and standard error (B,). No units.

    Paper: U. Bhatt, A. Weller, J. M. F. Moura, IJCAI 2020, arXiv:2005.00631; with ranks T. Fel et al., 2022,
    arXiv:2206.04394.

    >>> import torch
    >>> w = torch.tensor([3.0, 1.0, -2.0, 0.5])
    >>> model = lambda x: (x @ w).exp()
    >>> MuFidelity(model, share=0.25).score(w[None], torch.ones(1, 4)).value.round(decimals=4)
    tensor([1.])
    """

    def measure(self, removal: Removal) -> Rating:
        return spearman(*self.drawn(removal), wide(removal.p.scores)).score(drawn=True)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="correlation of the attributions with the fall of the score without each position",
        paper="Alvarez-Melis, Jaakkola: Towards Robust Interpretability with Self-Explaining Neural Networks",
        year=2018,
        cost="1 forward pass per position",
        range=(-1, 1),
        direction="higher",
    )
)
@dataclass(kw_only=True, eq=False)
class FaithfulnessEstimate(RemovalMetric):
    r"""Pearson's correlation over the positions of the attribution and the fall of the score.

    .. math:: \operatorname{corr}_i\left( a_i,\; f(x) - f(x_{\setminus i}) \right)

    Shapes: attributions like the inputs (B, ...), value (B,). No units.

    Paper: D. Alvarez-Melis, T. Jaakkola, NeurIPS 2018, arXiv:1806.07538.

    >>> import torch
    >>> w = torch.tensor([3.0, 1.0, -2.0, 0.5])
    >>> FaithfulnessEstimate(lambda x: x @ w).score(w[None], torch.ones(1, 4)).value.round(decimals=4)
    tensor([1.])
    """

    def measure(self, removal: Removal) -> Rating:
        falls = removal.falls(one_absent(removal))
        return pearson(removal.values.T, falls, wide(removal.p.scores)).score()


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="rank correlation of the sizes of the attributions with the change without each position",
        paper="Nguyen, Rodríguez Martínez: On Quantitative Aspects of Model Interpretability",
        year=2020,
        cost="1 evaluation of the fill per position",
        range=(-1, 1),
        direction="higher",
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class MonotonicityCorrelation(RemovalMetric):
    r"""Spearman's correlation over the positions of the size of the attribution and the expected squared change.

    .. math:: \operatorname{corr}_i\left( \operatorname{rank} |a_i|,\;
        \operatorname{rank} \left( f(x) - f(x_{\setminus i}) \right)^2 \right)

    Where the fill is random, a score is its mean over the draws.

    Shapes: attributions like the inputs (B, ...), value (B,). No units.

    Paper: A. Nguyen, M. Rodríguez Martínez, 2020, arXiv:2007.07584.

    >>> import torch
    >>> w = torch.tensor([3.0, 1.0, -2.0, 0.5])
    >>> MonotonicityCorrelation(lambda x: x @ w).score(w[None], torch.ones(1, 4)).value.round(decimals=4)
    tensor([1.])
    """

    def measure(self, removal: Removal) -> Rating:
        # The squares of changes have the ranks of their sizes, and another rounding.
        changes = removal.falls(one_absent(removal)).abs()
        return spearman(removal.values.abs().T, changes, wide(removal.p.scores)).score()


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="share of the steps in which the score does not fall while positions are added, the least first",
        paper="Arya et al.: One Explanation Does Not Fit All",
        year=2019,
        cost="n_steps + 1 forward passes",
        range=(0, 1),
        direction="higher",
    )
)
@dataclass(kw_only=True, eq=False)
class Monotonicity(RemovalMetric):
    r"""The share of steps in which the score does not fall while positions are put into nothing, the least first.

    .. math:: \frac{1}{S} \sum_{k=1}^{S} 1\left[ f(x_{\text{bottom } k}) \ge f(x_{\text{bottom } k - 1}) \right]

    Arya et al. ask whether it is 1. Where features do not interact, it does not depend on their order, and where they
    do a better explanation need not have more of it: read it for what it is, and not as a rank of explanations. One
    that is the same everywhere has no order, and no value.

    Args:
        n_steps: steps from nothing to everything, but never more than there are positions; None takes one position at
            a time.

    Shapes: attributions like the inputs (B, ...), value (B,), curve (S, B). No units.

    Paper: V. Arya et al., 2019, arXiv:1909.03012.

    >>> import torch
    >>> model = lambda x: torch.relu(x[:, 0] + x[:, 1] - 1) - 0.1 * x[:, 1] * (1 - x[:, 0])
    >>> x = torch.ones(1, 2)
    >>> Monotonicity(model).score(torch.tensor([[1.0, 2.0]]), x).value
    tensor([1.])
    >>> Monotonicity(model).score(torch.tensor([[2.0, 1.0]]), x).value
    tensor([0.5000])
    """

    n_steps: int | None = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_steps is not None:
            at_least("n_steps", self.n_steps, 1)

    def measure(self, removal: Removal) -> Rating:
        steps = removal.count if self.n_steps is None else self.n_steps
        without = removal.most_first(removal.counts(torch.linspace(0, 1, steps + 1, dtype=torch.float64)))
        curve = Curve(1 - without.x.flip(0), without.y.flip(0), "share shown, least first")
        rises = curve.y.diff(dim=0)
        rounding = 4 * torch.finfo(curve.y.dtype).eps * curve.y.abs().amax(0)
        return Rating.where(~removal.flat, (rises >= -rounding).to(rises).mean(0), FLAT, curve=curve)


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="mean squared gap between what attributions say of random subsets and the fall without them",
        paper="Yeh, Hsieh, Suggala, Inouye, Ravikumar: On the (In)fidelity and Sensitivity of Explanations",
        year=2019,
        cost="n_subsets forward passes",
        range=(0, INFINITY),
        direction="lower",
        units="score squared",
    )
)
@dataclass(kw_only=True, eq=False)
class Infidelity(SubsetMetric):
    r"""The mean squared gap between what the attributions say of a change :math:`I` of the input and what it does.

    .. math:: \frac{1}{n} \sum_I \left( \beta\, \phi^\top I - \left( f(x) - f(x - I) \right) \right)^2

    Args:
        perturbation: "subsets" of the positions get the fill, and attributions of what was removed say what this does:
            :math:`\phi^\top I = \sum_{i \in S} a_i`. "noise" is added to all elements, and attributions are slopes:
            :math:`\phi^\top I = \sum_i a_i \epsilon_i`.
        scaled: :math:`\beta` makes the gap least, so that only the proportions of the attributions count; else it is 1.
            It may be negative, and so forgives a wrong sign of all: ``details["scale"]`` holds it.
        stdevs: of the noise; one for all inputs, or one each.

    Shapes: attributions like the inputs (B, ...), value and standard error (B,). Units: score squared.

    Paper: C.-K. Yeh et al., NeurIPS 2019, arXiv:1901.09392.

    >>> import torch
    >>> w = torch.tensor([3.0, 1.0, -2.0, 0.5])
    >>> x = 2 * torch.ones(1, 4)
    >>> Infidelity(lambda x: x @ w).score(w * x, x).value
    tensor([0.])
    >>> Infidelity(lambda x: x @ w, scaled=True).score(w[None], x).value
    tensor([0.])
    >>> Infidelity(lambda x: x @ w, perturbation="noise").score(w[None], x).value < 1e-6
    tensor([True])
    """

    perturbation: str = "subsets"
    scaled: bool = False
    stdevs: float | tuple[float, ...] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("perturbation", self.perturbation, ("subsets", "noise"))
        check_stdevs(self.stdevs)

    def measure(self, removal: Removal) -> Rating:
        said, falls = self.drawn(removal) if self.perturbation == "subsets" else self.noisy(removal)
        said, falls = said.double(), falls.double()
        details = {}
        if self.scaled:
            size = (said**2).sum(0)
            scale = (said * falls).sum(0) / torch.where(size > 0, size, 1)
            said = scale * said
            details["scale"] = scale.tolist()
        gaps = ((said - falls) ** 2).to(removal.values)
        return Rating(gaps.mean(0), standard_error=standard_error(gaps), details=details)

    def noisy(self, removal: Removal) -> tuple[Tensor, Tensor]:
        """What slopes say of noise, and what it does, (K, B) each."""
        p = removal.p
        noise = normal(self.stdevs, p.point, self.seed)
        if noise is None:
            raise TorchwhyError("stdevs are 0, so that nothing is changed: give the noise a size")
        said = removal.values.new_zeros(self.n_subsets, p.size)

        def points(es: slice, ks: slice) -> Tensors:
            moved = noise(es, ks)
            changes = p.point[es].map(lambda t, m: wide(t) - wide(m), moved)
            products = changes.map(lambda c, v: (c * v[es]).flatten(2).sum(2), removal.elements)
            said[ks, es] = torch.stack(products.parts).sum(0).to(said)
            return moved

        scores = wide(p.scores_at(points, self.n_subsets, "adding noise"))
        return said, wide(p.scores) - scores


@register_metric(
    MetricInfo(
        family="faithfulness",
        summary="correlation of attributions and falls over random subsets, as a mean over sizes of subsets",
        paper="Ancona, Ceolini, Öztireli, Gross: Towards Better Understanding of Gradient-based Attribution Methods",
        year=2018,
        cost="n_subsets forward passes per share",
        range=(-1, 1),
        direction="higher",
    )
)
@dataclass(kw_only=True, eq=False)
class SensitivityN(RemovalMetric):
    r"""Pearson's correlation over random subsets of each of several sizes; the curve has them all.

    .. math:: \frac{1}{|N|} \sum_{n \in N} \operatorname{corr}_{|S| = n}\left( \sum_{i \in S} a_i,\;
        f(x) - f(x_{\setminus S}) \right)

    A size at which the score falls by as much whatever is removed has no correlation, for no attributions: it is NaN in
    the curve and not in the mean. Nor is a size of all positions, of which there is one subset.

    Args:
        shares: of the positions, that subsets are.
        n_subsets: drawn of each size.

    Shapes: attributions like the inputs (B, ...), value and standard error (B,), curve (sizes, B). No units.

    Paper: M. Ancona, E. Ceolini, C. Öztireli, M. Gross, ICLR 2018, arXiv:1711.06104.

    >>> import torch
    >>> w = torch.tensor([3.0, 1.0, -2.0, 0.5])
    >>> SensitivityN(lambda x: x @ w).score(w[None], torch.ones(1, 4)).value.round(decimals=4)
    tensor([1.])
    """

    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    n_subsets: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("shares", self.shares)
        at_least("n_subsets", self.n_subsets, 2)

    def measure(self, removal: Removal) -> Rating:
        level = wide(removal.p.scores)
        rows = {  # by how many positions they lack, so that a size is there once
            int((~drawn[0]).sum()): drawn
            for drawn in (subsets(removal, share, self.n_subsets, self.seed) for share in self.shares)
        }
        if len(rows) > 1:
            rows.pop(removal.count, None)
        found = [pearson(sums(removal, present), removal.falls(present), level) for present in rows.values()]
        values, varied, moved = (
            torch.stack(parts) for parts in zip(*((f.value, f.varied, f.moved) for f in found), strict=True)
        )
        # A row of one size lies within that of the next, so it is drawn once for all of them.
        influence = torch.stack([f.influence for f in found])
        count = moved.sum(0).clamp_min(1).to(values)
        sizes = torch.tensor(list(rows)).to(values) / removal.count
        whole = Relation(
            torch.where(moved, values, 0).sum(0) / count,
            (varied | ~moved).all(0),
            moved.any(0),
            (influence * moved[:, None]).sum(0) / count,
        )
        curve = Curve(sizes[:, None].expand(values.shape), values, "share in a subset")
        return dataclasses.replace(whole.score(drawn=True), curve=curve)
