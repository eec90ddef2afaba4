"""Does a small change of the input change the explanation?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.options import at_least, one_of
from torchwhy.core.problem import Points, Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import Stdevs, check_seed, check_stdevs, normal, uniform
from torchwhy.metrics.base import Judged, Metric
from torchwhy.metrics.rating import INFINITY, Curve, Rating
from torchwhy.metrics.removal import as_they_say, places, totals
from torchwhy.metrics.repeats import repeats
from torchwhy.registry import MetricInfo, register_metric

NORMS = {"l1": 1.0, "l2": 2.0, "linf": math.inf}
ALL_ZERO = "the attributions are all zero"


def lengths(values: Tensors, norm: str) -> Tensor:
    """(K, B) of (K, B, ...), all tensors taken together."""
    each = [torch.linalg.vector_norm(t.double().reshape(*t.shape[:2], -1), NORMS[norm], dim=2) for t in values]
    found: Tensor = torch.linalg.vector_norm(torch.stack(each), NORMS[norm], dim=0)
    return found


def difference(a: Tensors, b: Tensors) -> Tensors:
    """In float64, of numbers of any kind."""
    return a.map(lambda s, t: s.double() - t.double(), b)


@dataclass(kw_only=True, eq=False)
class RobustnessMetric(Metric):
    """A metric that explains changed copies of the inputs, for the target of the inputs themselves.

    Args:
        perturbation: "uniform" adds noise drawn evenly between minus and plus the radius to every number; "normal" adds
            normal noise, whose standard deviation the radius is. All examples get the same draws.
        radius: one for all inputs, or one each.
        n_samples: changed copies of each example.
        seed: of the draws.
    """

    perturbation: str = "uniform"
    radius: Stdevs = 0.02
    n_samples: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("perturbation", self.perturbation, ("uniform", "normal"))
        check_stdevs(self.radius, "radii", "sizes of noise")
        at_least("n_samples", self.n_samples, 1)
        check_seed(self.seed)

    def copies(self, judged: Judged) -> Points:
        """The changed copies."""
        draw = uniform if self.perturbation == "uniform" else normal
        points = draw(self.radius, judged.p.inputs, self.seed)
        if points is None:
            raise TorchwhyError("radius is 0, so that nothing is changed: give it a size")
        return points

    @property
    def drawn(self) -> tuple[object, ...]:
        """What decides the copies."""
        return (self.perturbation, self.radius, self.n_samples, self.seed)


@dataclass(kw_only=True, eq=False)
class DistanceMetric(RobustnessMetric):
    """A metric of how far explanations of changed copies lie from that of the input.

    Args:
        norm: of differences of attributions, "l2", "l1" or "linf".
    """

    norm: str = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("norm", self.norm, tuple(NORMS))

    def distances(self, judged: Judged) -> Tensor:
        """(n_samples, B), which metrics that judge the same explanations share."""

        def make() -> Tensor:
            here = judged.values
            found = repeats(judged, self.copies(judged), self.n_samples)
            return torch.cat([lengths(difference(part.values, here), self.norm) for part in found])

        return judged.remember(("distances", self.norm, *self.drawn), make, of_values=True)


@dataclass(kw_only=True, eq=False)
class Sensitivity(DistanceMetric):
    """A metric of these distances themselves.

    Args:
        relative: as shares of the length of the explanation.
    """

    relative: bool = False

    @property
    def units(self) -> str:
        return "" if self.relative else self.info.units

    def shares(self, judged: Judged) -> tuple[Tensor, Tensor]:
        """Distances (n_samples, B), as they are or as shares; and where they are defined."""
        found = self.distances(judged)
        if not self.relative:
            return found, torch.ones(judged.size, dtype=torch.bool, device=found.device)
        size = lengths(judged.values[None], self.norm)[0]
        return found / torch.where(size > 0, size, 1), size > 0


@register_metric(
    MetricInfo(
        family="robustness",
        summary="the farthest the explanation moves when the input is changed a little",
        paper="Yeh, Hsieh, Suggala, Inouye, Ravikumar: On the (In)fidelity and Sensitivity of Explanations",
        year=2019,
        cost="n_samples explanations",
        range=(0, INFINITY),
        direction="lower",
        units="attribution",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class MaxSensitivity(Sensitivity):
    r"""The largest distance between the explanations of the input and of changed copies.

    .. math:: \max_k \| \phi(x + \epsilon_k) - \phi(x) \|

    More copies find larger distances: compare values of the same ``n_samples``.

    Shapes: attributions like the inputs (B, ...), value (B,). Units: as the attributions, none where ``relative``.

    Paper: C.-K. Yeh et al., NeurIPS 2019, arXiv:1901.09392.

    >>> import torch, torchwhy
    >>> MaxSensitivity().score(torchwhy.Saliency(lambda x: x.sum(1)), torch.ones(1, 4)).value
    tensor([0.])
    >>> MaxSensitivity(radius=0.1).score(torchwhy.Saliency(lambda x: (x**2).sum(1)), torch.ones(1, 4)).value <= 0.4
    tensor([True])
    """

    def compute(self, judged: Judged) -> Rating:
        found, defined = self.shares(judged)
        return Rating.where(defined, found.amax(0).to(judged.values.parts[0]), ALL_ZERO)


@register_metric(
    MetricInfo(
        family="robustness",
        summary="how far the explanation moves in the mean when the input is changed a little",
        paper="Yeh, Hsieh, Suggala, Inouye, Ravikumar: On the (In)fidelity and Sensitivity of Explanations",
        year=2019,
        cost="n_samples explanations",
        range=(0, INFINITY),
        direction="lower",
        units="attribution",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class AvgSensitivity(Sensitivity):
    r"""The mean distance between the explanations of the input and of changed copies.

    .. math:: \mathbb{E}_\epsilon\, \| \phi(x + \epsilon) - \phi(x) \|

    Shapes: attributions like the inputs (B, ...), value and standard error (B,). Units: as the attributions, none where
    ``relative``.

    Paper: C.-K. Yeh et al., NeurIPS 2019, arXiv:1901.09392.

    >>> import torch, torchwhy
    >>> AvgSensitivity().score(torchwhy.Saliency(lambda x: x.sum(1)), torch.ones(1, 4)).value
    tensor([0.])
    """

    def compute(self, judged: Judged) -> Rating:
        found, defined = self.shares(judged)
        found = found.to(judged.values.parts[0])
        error = found.std(0) / len(found) ** 0.5 if len(found) > 1 else None
        return Rating.where(defined, found.mean(0), ALL_ZERO, standard_error=error)


@register_metric(
    MetricInfo(
        family="robustness",
        summary="the farthest the explanation moves for the way the input moves",
        paper="Alvarez-Melis, Jaakkola: Towards Robust Interpretability with Self-Explaining Neural Networks",
        year=2018,
        cost="n_samples explanations",
        range=(0, INFINITY),
        direction="lower",
        units="attribution per unit of the input",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class LocalLipschitzEstimate(DistanceMetric):
    r"""The largest quotient of the distances of explanations and of inputs, over changed copies.

    .. math:: \max_k \frac{\| \phi(x_k) - \phi(x) \|}{\| x_k - x \|}

    Args:
        input_norm: of differences of inputs.

    Shapes: attributions like the inputs (B, ...), value (B,). Units: of the attributions by that of the input.

    Paper: D. Alvarez-Melis, T. Jaakkola, NeurIPS 2018, arXiv:1806.07538.

    >>> import torch, torchwhy
    >>> x = torch.ones(1, 4, dtype=torch.float64)
    >>> LocalLipschitzEstimate().score(torchwhy.Saliency(lambda x: (x**2).sum(1)), x).value.round(decimals=6)
    tensor([2.], dtype=torch.float64)
    """

    input_norm: str = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("input_norm", self.input_norm, tuple(NORMS))

    def compute(self, judged: Judged) -> Rating:
        found, p, points = self.distances(judged), judged.p, self.copies(judged)
        ways = [
            lengths(difference(points(slice(0, p.size), slice(k, k + 1)), p.inputs), self.input_norm)
            for k in range(self.n_samples)
        ]
        return steepest(judged, found, torch.cat(ways), "no copy differs from the input in its dtype")


def steepest(judged: Judged, far: Tensor, way: Tensor, reason: str, curve: Curve | None = None) -> Rating:
    """The largest quotient of distances (K, B) each, where anything was moved."""
    quotients = torch.where(way > 0, far / torch.where(way > 0, way, 1), -math.inf).to(judged.values.parts[0])
    return Rating.where((way > 0).any(0), quotients.amax(0), reason, curve=curve)


@register_metric(
    MetricInfo(
        family="robustness",
        summary="the farthest the explanation moves for the way the input moves, from one translation to the next",
        paper="Montavon, Samek, Müller: Methods for Interpreting and Understanding Deep Neural Networks",
        year=2018,
        cost="n_steps explanations",
        range=(0, INFINITY),
        direction="lower",
        units="attribution per unit of the input",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class Continuity(Metric):
    r"""The largest quotient of the distances of explanations and of inputs, while the input is moved step by step.

    .. math:: \max_t \frac{\| \phi(x_t) - \phi(x_{t-1}) \|_1}{\| x_t - x_{t-1} \|_2}

    :math:`x_t` is the input moved by t steps along one dimension; what comes in at the edge is the baseline. Inputs
    without spatial dimensions, (B, F), stay. The curve has the quotient of every step, NaN where nothing moved.

    Args:
        n_steps: moves.
        step: places per move; a negative number moves towards the start.
        dim: the dimension, -1 the last.

    Shapes: attributions like the inputs (B, ...), of which one has spatial dimensions (B, C, ...); value (B,), curve
    (n_steps, B). Units: of the attributions by that of the input.

    Paper: G. Montavon, W. Samek, K.-R. Müller, Digital Signal Processing 73, 2018, arXiv:1706.07979.

    >>> import torch, torchwhy
    >>> x = torch.tensor([[[0.0, 0.0, 1.0, 2.0, 0.0, 0.0]]])
    >>> found = Continuity(n_steps=2).score(torchwhy.InputXGradient(lambda x: x.sum((1, 2))), x)
    >>> found.value  # (1 + 1 + 2) / (1 + 1 + 4)^(1/2)
    tensor([1.6330])
    """

    n_steps: int = 8
    step: int = 1
    dim: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_steps", self.n_steps, 1)
        if isinstance(self.step, bool) or not isinstance(self.step, int) or self.step == 0:
            raise TorchwhyError(f"step is a whole number of places other than 0, not {self.step!r}")
        if isinstance(self.dim, bool) or not isinstance(self.dim, int) or self.dim in (0, 1):
            raise TorchwhyError(f"dim is a spatial dimension, from 2 on or counted from the end, not {self.dim!r}")

    def compute(self, judged: Judged) -> Rating:
        points = self.translations(judged.p)
        before, here = judged.values[None], judged.p.inputs[None]
        far, way = [], []
        for part in repeats(judged, points, self.n_steps):
            values, inputs = _behind(before, part.values), _behind(here, part.inputs)
            far.append(lengths(difference(values[1:], values[:-1]), "l1"))
            way.append(lengths(difference(inputs[1:], inputs[:-1]), "l2"))
            before, here = values[-1:], inputs[-1:]
        distances, ways = torch.cat(far), torch.cat(way)
        y = torch.where(ways > 0, distances / ways, math.nan).to(judged.values.parts[0])
        x = (self.step * torch.arange(1, self.n_steps + 1)).to(y)[:, None].expand(y.shape)
        curve = Curve(x, y, "places moved")
        return steepest(judged, distances, ways, "the input is the same wherever it is moved", curve)

    def translations(self, p: Problem) -> Points:
        """The moved inputs."""
        spatial = [t.ndim > 2 and -t.ndim + 1 < self.dim < t.ndim for t in p.inputs]
        if not any(spatial):
            raise TorchwhyError(
                f"Continuity moves what has spatial dimensions along dim={self.dim}, (B, C, ...), not {p.inputs.shapes}"
            )
        reach = self.n_steps * abs(self.step)
        for t, moves in zip(p.inputs, spatial, strict=True):
            if moves and reach >= t.shape[self.dim]:
                raise TorchwhyError(
                    f"{self.n_steps} steps of {abs(self.step)} move all of {t.shape[self.dim]} places out of sight: "
                    f"take fewer steps"
                )
        base = p.elsewhere(None).base

        def each(t: Tensor, b: Tensor, shift: int) -> Tensor:
            length = t.shape[self.dim] - abs(shift)
            start, end = (0, abs(shift)) if shift > 0 else (abs(shift), 0)
            moved = b.expand(t.shape).clone()
            moved.narrow(self.dim, end, length).copy_(t.narrow(self.dim, start, length))
            return moved

        def points(es: slice, ks: slice) -> Tensors:
            shifts = [self.step * (k + 1) for k in range(ks.start, ks.stop)]
            return Tensors(
                torch.stack([each(t[es], b[es], s) if moves else t[es] for s in shifts])
                for t, b, moves in zip(p.inputs, base, spatial, strict=True)
            )

        return points


def _behind(first: Tensors, rest: Tensors) -> Tensors:
    return first.map(lambda a, b: torch.cat([a, b]), rest)


@register_metric(
    MetricInfo(
        family="robustness",
        summary="share of the changed copies with the same marks that the model puts in the same class",
        paper="Dasgupta, Frost, Moshkovitz: Framework for Evaluating Faithfulness of Local Explanations",
        year=2022,
        cost="n_samples explanations and forward passes",
        range=(0, 1),
        direction="higher",
        needs=("explainer", "inputs"),
    )
)
@dataclass(kw_only=True, eq=False)
class Consistency(RobustnessMetric):
    r"""Where the explanation says the same, does the model decide the same?

    .. math:: P_\epsilon\left( \hat{y}(x + \epsilon) = \hat{y}(x) \;\middle|\; e(x + \epsilon) = e(x) \right)

    :math:`e` is what the explanation marks: the positions of the largest sizes with their signs, where a position is a
    patch of an image and an element of all else, see `torchwhy.metrics.removal.places`. The paper's distribution of
    inputs is here that of the changed copies, so that the value of an example does not depend on others. There is none
    where the explanation of no copy marks the same.

    Args:
        top_k: marked positions, or all where there are fewer.

    Shapes: attributions like the inputs (B, ...), value and standard error (B,). No units.

    Paper: S. Dasgupta, N. Frost, M. Moshkovitz, ICML 2022, arXiv:2202.00734.

    >>> import torch, torchwhy
    >>> model = torch.nn.Linear(4, 3)
    >>> Consistency(radius=1e-6).score(torchwhy.InputXGradient(model), torch.ones(1, 4)).value
    tensor([1.])
    """

    top_k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("top_k", self.top_k, 1)

    def compute(self, judged: Judged) -> Rating:
        groups = places(judged.p.point, as_they_say(judged.values, judged.p.point))
        marks, known = self.marks(totals(judged.values, groups)), classes(judged.p)
        alike, agree = [], []
        for part in repeats(judged, self.copies(judged), self.n_samples):
            found = self.marks(totals(part.values.merge(), groups)).unflatten(0, (-1, judged.size))
            alike.append((found == marks).all(2))
            agree.append(classes(part.p).unflatten(0, (-1, judged.size)) == known)
        same, both = torch.cat(alike), torch.cat(alike) & torch.cat(agree)
        count = same.sum(0).to(judged.values.parts[0])
        share = both.sum(0) / count.clamp(min=1)
        return Rating.where(
            count > 0,
            share,
            "the explanation of no changed copy marks the same",
            standard_error=(share * (1 - share) / count.clamp(min=1)).sqrt(),
            details={"alike": count.tolist()},
        )

    def marks(self, values: Tensor) -> Tensor:
        """(N, M) the signs of the largest of (N, M) values, else 0; of equal ones, the first is larger."""
        order = values.abs().sort(dim=1, descending=True, stable=True).indices[:, : self.top_k]
        return torch.zeros_like(values).scatter_(1, order, values.sign().gather(1, order))


def outputs(p: Problem) -> Tensor:
    """(N, classes) what the model gives, or (N, 1) the score where that is not a table."""
    if p.output is None:
        p.scores  # noqa: B018  a pass has seen the output
    return (p.scores[:, None] if p.output is None else p.output).double()


def classes(p: Problem) -> Tensor:
    """(N,) which class the model predicts."""
    found = outputs(p)
    if found.shape[1] < 2:
        raise TorchwhyError("Consistency compares predicted classes, and this model gives no table (B, classes)")
    return found.argmax(1)
