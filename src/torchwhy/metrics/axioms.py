"""Does an explanation, or the method behind it, keep the axioms that are asked of attributions?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.evidence import relative_gap, rounding
from torchwhy.core.options import a_share, at_least
from torchwhy.core.site import Site
from torchwhy.core.target import Target, TargetLike, main_part
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import check_seed, draws
from torchwhy.metrics.base import Judged, Metric
from torchwhy.metrics.complexity import ALL_ZERO
from torchwhy.metrics.rating import INFINITY, Rating
from torchwhy.metrics.removal import Removal, RemovalMetric, too_small, wide
from torchwhy.metrics.sums import random_term, summed
from torchwhy.registry import MetricInfo, register_metric


@register_metric(
    MetricInfo(
        family="axioms",
        summary="gap between the sum of the attributions and the change of the score",
        paper="Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks",
        year=2017,
        cost="2 forward passes",
        range=(0, INFINITY),
        direction="lower",
    )
)
@dataclass(kw_only=True, eq=False)
class Completeness(Metric):
    r"""By how much the attributions miss adding up to the change of the score.

    .. math:: \left| \sum_i a_i - \left( f(x) - f(x') \right) \right|

    As a share of :math:`|f(x) - f(x')|`; where the score hardly moves, of 1/1000 of :math:`\sum_i |a_i|`. A gap that is
    no more than the rounding of the scores is 0. A method that promises another sum, as over a set of baselines, is
    held to that; attributions given as numbers, to the baselines given with them.

    Args:
        relative: False gives the gap in units of the score.

    Shapes: attributions like the inputs (B, ...), value (B,). No units, or those of the score.

    Paper: M. Sundararajan, A. Taly, Q. Yan, ICML 2017, arXiv:1703.01365.

    >>> import torch
    >>> w, x = torch.tensor([3.0, 1.0]), torch.ones(1, 2)
    >>> metric = Completeness(lambda x: x @ w + 5)
    >>> metric.score(w * x, x).value, metric.score(2 * w * x, x).value
    (tensor([0.]), tensor([1.]))
    """

    relative: bool = True

    @property
    def units(self) -> str:
        return "" if self.relative else "units of the score"

    def compute(self, judged: Judged) -> Rating:
        p, values = judged.p, judged.values
        promised = None if judged.explainer is None else judged.explainer.total(p)
        change = wide(p.scores) - wide(p.base_scores()) if promised is None else wide(promised)
        gap = (values.per_example() - change).abs()
        size = relative_gap(values, change).to(gap) if self.relative else gap
        value = torch.where(gap <= torch.as_tensor(rounding(p.scores)).to(gap), 0, size)
        return Rating.where(value.isfinite(), value, "the score at the baseline is not finite")


@dataclass(kw_only=True, eq=False)
class EffectMetric(RemovalMetric):
    """A metric on what each position does to the score, beside everything, nothing, and random subsets of the others.

    Args:
        n_subsets: beside which a position comes and goes: the first is everything, the second nothing.
    """

    n_subsets: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_subsets", self.n_subsets, 1)

    def effects(self, removal: Removal) -> Effects:
        """What each position does."""
        count = removal.count
        generator = draws(self.seed, stream=66)
        drawn = torch.rand(max(0, self.n_subsets - 2), count, generator=generator) < 0.5
        ends = torch.tensor([[True], [False]]).expand(2, count)
        beside = torch.cat([ends, drawn])[: self.n_subsets]
        turned = beside[:, None] ^ torch.eye(count, dtype=torch.bool)
        scores = wide(removal.game.evaluate(torch.cat([beside, turned.flatten(0, 1)])))
        there, other = scores[: len(beside), None], scores[len(beside) :].unflatten(0, (len(beside), count))
        change = torch.where(beside[:, :, None].to(scores.device), there - other, other - there)
        level = torch.maximum(there.abs(), other.abs()).amax((0, 1))
        return Effects(torch.where(too_small(change, level), 0, change), beside.to(scores.device))


@dataclass(frozen=True, eq=False)
class Effects:
    """What positions do to the score.

    Attributes:
        change: (K, M, B) the score with a position minus that without it, 0 where that is no more than rounding.
        beside: (K, M) beside which others.
    """

    change: Tensor
    beside: Tensor

    @property
    def largest(self) -> Tensor:
        """(M, B) the largest size over what they come and go beside."""
        return self.change.abs().amax(0)

    def apart(self) -> Tensor:
        """(B, M, M) how differently two positions act where the others are the same: 0 for twins."""
        apart = self.change.new_zeros(self.change.shape[2], *[self.change.shape[1]] * 2)
        for change, beside in zip(self.change.movedim(2, 1), self.beside, strict=True):
            alike = beside[:, None] == beside  # both are there, or neither, so that the others are the same
            apart = torch.maximum(apart, (change[:, :, None] - change[:, None]).abs() * alike)
        return apart


@register_metric(
    MetricInfo(
        family="axioms",
        summary="share of the positions that are marked without influence, or have influence unmarked",
        paper="Nguyen, Martínez: On Quantitative Aspects of Model Interpretability",
        year=2020,
        cost="n_subsets * (positions + 1) forward passes",
        range=(0, 1),
        direction="lower",
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class NonSensitivity(EffectMetric):
    r"""The share of the positions that are marked without influence, or have influence and are not marked.

    .. math:: \frac{1}{n} \left| \{ i : a_i = 0 \} \,\triangle\, \{ i : f(x_{S \cup i}) = f(x_{S \setminus i})
        \text{ for all } S \} \right|

    S is everything, nothing and random subsets, so that an influence that shows beside few others alone can be missed.
    The paper takes everything: ``n_subsets=1``.

    Args:
        zero: attributions of no more than this share of the largest count as 0.

    Shapes: attributions like the inputs (B, ...), value (B,). No units.

    Paper: A. Nguyen, M. R. Martínez, 2020, arXiv:2007.07584, as a share of the positions.

    >>> import torch
    >>> model = lambda x: x[:, 0] * x[:, 1]
    >>> metric, x = NonSensitivity(model), torch.ones(1, 4)
    >>> metric.score(torch.tensor([[0.5, 0.5, 0.0, 0.0]]), x).value
    tensor([0.])
    >>> metric.score(torch.tensor([[0.5, 0.0, 0.5, 0.0]]), x).value
    tensor([0.5000])
    """

    zero: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        a_share("zero", self.zero)

    def measure(self, removal: Removal) -> Rating:
        sizes = removal.values.abs()
        marked = sizes > self.zero * sizes.amax(1, keepdim=True)
        acts = self.effects(removal).largest.T > 0
        return Rating((marked != acts).to(sizes).mean(1))


@register_metric(
    MetricInfo(
        family="axioms",
        summary="largest difference of the attributions of two positions that the model treats alike",
        paper="Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks",
        year=2017,
        cost="n_subsets * (positions + 1) forward passes",
        range=(0, 2),
        direction="lower",
    )
)
@dataclass(kw_only=True, eq=False)
class Symmetry(EffectMetric):
    r"""The largest difference of the attributions of two positions that the model treats alike.

    .. math:: \max_{i \sim j} \frac{|a_i - a_j|}{\max_k |a_k|}, \qquad
        i \sim j : f(x_{S \cup i}) = f(x_{S \cup j}) \text{ for all } S \not\ni i, j

    S is nothing, what is left of everything, and random subsets, so that positions that differ beside few others alone
    can be taken for twins: more subsets make it less likely. Where no two are alike there is no value.

    Args:
        alike: by how much the effects of twins may differ, as a share of the largest effect.

    Shapes: attributions like the inputs (B, ...), value (B,). No units.

    Paper: M. Sundararajan, A. Taly, Q. Yan, ICML 2017, arXiv:1703.01365.

    >>> import torch
    >>> model = lambda x: x[:, 0] * x[:, 1] + x[:, 2]
    >>> metric, x = Symmetry(model), torch.tensor([[2.0, 2.0, 1.0]])
    >>> metric.score(torch.tensor([[2.0, 2.0, 1.0]]), x).value, metric.score(torch.tensor([[4.0, 0.0, 1.0]]), x).value
    (tensor([0.]), tensor([1.]))
    """

    alike: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        a_share("alike", self.alike)

    def measure(self, removal: Removal) -> Rating:
        effects, values = self.effects(removal), removal.values
        limit = self.alike * effects.largest.amax(0)
        twins = effects.apart() <= limit[:, None, None]
        twins &= ~torch.eye(removal.count, dtype=torch.bool, device=twins.device)
        apart = ((values[:, :, None] - values[:, None]).abs() * twins).amax((1, 2))
        largest = values.abs().amax(1)
        value = apart / torch.where(largest > 0, largest, 1)
        return Rating.where(twins.any((1, 2)), value, "the model treats no two positions alike")


@register_metric(
    MetricInfo(
        family="axioms",
        summary="how far the explanation of a sum of two scores is from the sum of their explanations",
        paper="Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks",
        year=2017,
        cost="3 explanations",
        range=(0, INFINITY),
        direction="lower",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class Linearity(Metric):
    r"""How far the explanation of a sum of two scores is from the sum of their explanations.

    .. math:: \frac{\left\| \phi(f + g) - \phi(f) - \phi(g) \right\|_2}{\| \phi(f) \|_2 + \| \phi(g) \|_2}

    :math:`f` is the score that is explained, and :math:`g` another of the same model, so that the sum runs the same
    operations once. The axiom speaks of any two models, see `ModelLinearity`: a method can add up over the outputs of
    one network, as all rules of one backward pass do, and not over two.

    Args:
        other: the target :math:`g`, see `torchwhy.core.target`; None is the mean of the output.

    Shapes: inputs (B, ...), value (B,). No units.

    Paper: M. Sundararajan, A. Taly, Q. Yan, ICML 2017, arXiv:1703.01365.

    >>> import torch
    >>> from torchwhy import InputXGradient, Saliency
    >>> weights = torch.tensor([[1.0, -2.0], [3.0, 1.0]])
    >>> model, x = lambda x: x @ weights, torch.ones(1, 2)
    >>> Linearity(other=1).score(InputXGradient(model), x, target=0).value < 1e-6
    tensor([True])
    >>> Linearity(other=1).score(Saliency(model), x, target=0).value > 0.01
    tensor([True])
    """

    other: TargetLike = None

    def compute(self, judged: Judged) -> Rating:
        p = judged.p
        if isinstance(judged._target, Site):
            raise UnsupportedError("Linearity adds scores of the model's output, not of a layer: give another target")
        other = p.aimed([_mean if self.other is None else self.other])[0].target
        both = _sum(p.target, other)
        f, g, whole = (judged.values, judged._explained(p.about(other)), judged._explained(p.about(both)))
        return _added_up(whole, f, g, "scores")


@register_metric(
    MetricInfo(
        family="axioms",
        summary="how far the explanation of a sum of two models is from the sum of their explanations",
        paper="Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks",
        year=2017,
        cost="3 explanations",
        range=(0, INFINITY),
        direction="lower",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class ModelLinearity(Metric):
    r"""How far the explanation of a sum of two models is from the sum of their explanations.

    .. math:: \frac{\left\| \phi(a f + b g) - a\,\phi(f) - b\,\phi(g) \right\|_2}
        {\| a\,\phi(f) \|_2 + \| b\,\phi(g) \|_2}

    :math:`f` is the method's model and :math:`g` another one, or a random linear term of the inputs, of the size of
    what they change in the score. The same target is explained of all three: an output, or what is linear in outputs.

    Args:
        other: :math:`g`, from the same arguments to outputs of the same form; None plants the term.
        weights: :math:`a` and :math:`b`.
        seed: of the term.

    Shapes: inputs (B, ...), value (B,). No units.

    Raises:
        UnsupportedError: what is explained is a layer, or the target lies in one: the sum has none of these; or a term
            cannot be planted into whole numbers.

    Paper: M. Sundararajan, A. Taly, Q. Yan, ICML 2017, arXiv:1703.01365.

    >>> import torch
    >>> from torchwhy import InputXGradient, Saliency
    >>> f, g, x = lambda x: (x**2).sum(1), lambda x: x.prod(1), torch.tensor([[1.0, -2.0]])
    >>> ModelLinearity(other=g, weights=(2, -3)).score(InputXGradient(f), x).value < 1e-6
    tensor([True])
    >>> ModelLinearity(other=g).score(Saliency(f), x).value > 0.1
    tensor([True])
    >>> ModelLinearity().score(InputXGradient(f), x).value < 1e-6
    tensor([True])
    """

    other: Any = None
    weights: tuple[float, float] = (1.0, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        if self.other is not None and not callable(self.other):
            raise TorchwhyError(f"other is a model, a module or a function, not {type(self.other).__name__}")
        if not isinstance(self.weights, tuple | list) or len(self.weights) != 2 or not all(map(_factor, self.weights)):
            raise TorchwhyError(f"weights are two finite numbers other than 0, not {self.weights!r}")

    def compute(self, judged: Judged) -> Rating:
        p = judged.p
        if p.site is not None or p.target_site is not None:
            raise UnsupportedError(
                f"ModelLinearity explains a sum of models, which has no layer {p.site or p.target_site!r}: explain an "
                f"output, at the input"
            )
        other = random_term(p, self.seed)[0] if self.other is None else self.other
        a, b = map(float, self.weights)
        f, g = a * judged.values, b * judged.with_model(other)
        whole = judged.with_model(summed(p.model, other, (a, b)))
        return _added_up(whole, f, g, "models")


def _added_up(whole: Tensors, f: Tensors, g: Tensors, what: str) -> Rating:
    """How far an explanation is from the sum of two, in parts of their size."""
    size = _norm(f) + _norm(g)
    value = _norm(whole - f - g) / torch.where(size > 0, size, 1)
    return Rating.where((size > 0) | (_norm(whole) == 0), value, f"for both {what}, {ALL_ZERO}")


def _factor(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value != 0


def _mean(output: Any) -> Tensor:
    mean: Tensor = _rows(main_part(output)).mean(1)
    return mean


def _rows(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TorchwhyError(f"there is no mean of an output of {type(output).__name__}: name another score with other=")
    return output.flatten(1) if output.ndim > 1 else output[:, None]


def _sum(first: Target, second: Target) -> Target:
    """The sum of two scores that have met the same output."""
    count = len(first.given)

    def read(output: Any, *given: Tensor) -> Tensor:
        a, b = first.read(output, *given[:count]), second.read(output, *given[count:])
        return a.reshape(-1) + b.reshape(-1)

    return Target(read, first.given + second.given)


def _norm(values: Tensors) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values.flat(), dim=1)
    return norm


@register_metric(
    MetricInfo(
        family="axioms",
        summary="how far the explanation moves where input and model are shifted alike",
        paper="Kindermans, Hooker, Adebayo, Alber, Schütt, Dähne, Erhan, Kim: The (Un)reliability of Saliency Methods",
        year=2017,
        cost="2 explanations",
        range=(0, INFINITY),
        direction="lower",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class InputInvariance(Metric):
    r"""How far the explanation moves where the input is shifted and the model takes the shift back.

    .. math:: \frac{\left\| \phi_{g}(x + c) - \phi_f(x) \right\|_2}{\| \phi_f(x) \|_2}, \qquad g(z) = f(z - c)

    The two models say the same about every example. A method that compares with a baseline keeps it where it is, so
    that it moves unless the baseline is moved as well: the paper's point is that it matters what one compares with.

    Args:
        shift: :math:`c`, added to every element; integers stay.

    Shapes: inputs (B, ...), value (B,). No units.

    Paper: P.-J. Kindermans et al., 2017, arXiv:1711.00867.

    >>> import torch
    >>> from torchwhy import InputXGradient, Saliency
    >>> model, x = lambda x: x @ torch.tensor([3.0, 1.0]), torch.ones(1, 2)
    >>> InputInvariance().score(Saliency(model), x).value, InputInvariance().score(InputXGradient(model), x).value
    (tensor([0.]), tensor([1.]))
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.shift, bool) or not isinstance(self.shift, int | float) or self.shift == 0:
            raise TorchwhyError(f"shift is a number other than 0, not {self.shift!r}")

    def compute(self, judged: Judged) -> Rating:
        if judged.p.site is not None:
            raise UnsupportedError(
                f"InputInvariance shifts the input, so it judges explanations of the input, not of {judged.p.site!r}"
            )
        inputs, before = judged.p.inputs, judged.values
        if not any(t.is_floating_point() for t in inputs):
            raise UnsupportedError(f"InputInvariance shifts real numbers, of which inputs {inputs.shapes} hold none")
        shifted = Shifted(judged.p.model, self.shift, len(inputs))
        after = judged.with_model(shifted, inputs.map(lambda t: _moved(t, self.shift)))
        size = _norm(before)
        value = _norm(after - before) / torch.where(size > 0, size, 1)
        return Rating.where(size > 0, value, ALL_ZERO)


def _moved(t: Any, shift: float) -> Any:
    return t + shift if isinstance(t, Tensor) and t.is_floating_point() else t


class Shifted(nn.Module):
    """A model that takes a shift of its first arguments back."""

    def __init__(self, model: Callable[..., Any], shift: float, count: int) -> None:
        super().__init__()
        self.model, self.shift, self.count = model, shift, count

    def forward(self, *args: Any, **named: Any) -> Any:
        """What the model gives for the arguments as they were."""
        back = [_moved(a, -self.shift) for a in args[: self.count]]
        return self.model(*back, *args[self.count :], **named)
