"""How much does the explanation change for as much as something else does? Everything relative."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import module_of
from torchwhy.core.options import one_of
from torchwhy.core.problem import Problem
from torchwhy.core.site import Site
from torchwhy.core.tensors import Tensors
from torchwhy.metrics.base import Judged
from torchwhy.metrics.randomisation import running
from torchwhy.metrics.rating import INFINITY, Rating
from torchwhy.metrics.repeats import Repeat, repeats
from torchwhy.metrics.robustness import NORMS, RobustnessMetric, difference, lengths, outputs
from torchwhy.registry import MetricInfo, register_metric


def _info(summary: str, cost: str = "n_samples explanations", units: str = "") -> MetricInfo:
    return MetricInfo(
        family="robustness",
        summary=summary,
        paper="Agarwal, Johnson, Pawelczyk, Krishna, Saxena, Zitnik, Lakkaraju: Rethinking Stability for "
        "Attribution-based Explanations",
        year=2022,
        cost=cost,
        range=(0, INFINITY),
        direction="lower",
        units=units,
        needs=("explainer", "inputs"),
    )


@dataclass(kw_only=True, eq=False)
class StabilityMetric(RobustnessMetric):
    """A metric of the relative change of the explanation, by the change of something else.

    Only copies that the model puts in the same class as the input count; all, where it gives no table (B, classes).

    Args:
        norm: of changes, "l2", "l1" or "linf".
        least: what is divided by has at least this size, so that a number near 0 does not count as changed without end.
    """

    norm: str = "l2"
    least: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("norm", self.norm, tuple(NORMS))
        if isinstance(self.least, bool) or not isinstance(self.least, int | float) or not 0 < self.least < math.inf:
            raise TorchwhyError(f"least is a number above 0, not {self.least!r}")

    @abstractmethod
    def change(self, judged: Judged, part: Repeat) -> Tensor:
        """(K, B) how much the other thing changes for some of the copies."""

    def relative(self, after: Tensors, before: Tensors) -> Tensor:
        r"""(K, B) :math:`\| (a' - a) / a \|` of (K, B, ...) and (B, ...)."""

        def by(change: Tensor, t: Tensor) -> Tensor:
            t = t.double()
            return change / torch.where(t.abs() < self.least, self.least, t)

        return lengths(difference(after, before).map(by, before), self.norm)

    def compute(self, judged: Judged) -> Rating:
        here, known = judged.values, outputs(judged.p).argmax(1)
        quotients, kept = [], []
        for part in repeats(judged, self.copies(judged), self.n_samples):
            moved = self.relative(part.values, here)
            quotients.append(moved / self.change(judged, part).clamp(min=self.least))
            kept.append(outputs(part.p).argmax(1).unflatten(0, (-1, judged.size)) == known)
        same = torch.cat(kept)
        value = torch.where(same, torch.cat(quotients), -math.inf).amax(0).to(here.parts[0])
        reason = "the model puts every changed copy in another class"
        return Rating.where(same.any(0), value, reason, details={"same class": same.sum(0).tolist()})


@register_metric(_info("relative change of the explanation by that of the input, at most"))
@dataclass(kw_only=True, eq=False)
class RelativeInputStability(StabilityMetric):
    r"""The largest quotient of the relative changes of the explanation and of the input (RIS).

    .. math:: \max_k \frac{\left\| \frac{\phi(x_k) - \phi(x)}{\phi(x)} \right\|}{\max\left(
        \left\| \frac{x_k - x}{x} \right\|, \epsilon \right)}

    Shapes: attributions like the inputs (B, ...), value (B,). No units.

    Paper: C. Agarwal et al., 2022, arXiv:2203.06877.

    >>> import torch, torchwhy
    >>> x = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64)
    >>> RelativeInputStability().score(torchwhy.InputXGradient(lambda x: x @ x.new_tensor([1, -2, 3])), x).value
    tensor([1.0000], dtype=torch.float64)
    """

    def change(self, judged: Judged, part: Repeat) -> Tensor:
        return self.relative(part.inputs, judged.p.inputs)


@register_metric(_info("relative change of the explanation by the change of the output, at most", units="per score"))
@dataclass(kw_only=True, eq=False)
class RelativeOutputStability(StabilityMetric):
    r"""The largest quotient of the relative change of the explanation and the change of the output (ROS).

    .. math:: \max_k \frac{\left\| \frac{\phi(x_k) - \phi(x)}{\phi(x)} \right\|}{\max\left(
        \| h(x_k) - h(x) \|, \epsilon \right)}

    :math:`h` is all that the model gives, (B, classes), or the score where that is no table.

    Shapes: attributions like the inputs (B, ...), value (B,). Units: 1 by that of the output.

    Paper: C. Agarwal et al., 2022, arXiv:2203.06877.

    >>> import torch, torchwhy
    >>> x = torch.tensor([[2.0]], dtype=torch.float64)
    >>> RelativeOutputStability().score(torchwhy.InputXGradient(lambda x: 5 * x), x).value
    tensor([0.1000], dtype=torch.float64)
    """

    def change(self, judged: Judged, part: Repeat) -> Tensor:
        moved = outputs(part.p).unflatten(0, (-1, judged.size))
        return lengths(difference(Tensors([moved]), Tensors([outputs(judged.p)])), self.norm)


@register_metric(
    _info(
        "relative change of the explanation by that of what a layer holds, at most",
        cost="n_samples explanations and forward passes",
    )
)
@dataclass(kw_only=True, eq=False)
class RelativeRepresentationStability(StabilityMetric):
    r"""The largest quotient of the relative changes of the explanation and of what a layer holds (RRS).

    .. math:: \max_k \frac{\left\| \frac{\phi(x_k) - \phi(x)}{\phi(x)} \right\|}{\max\left(
        \left\| \frac{L(x_k) - L(x)}{L(x)} \right\|, \epsilon \right)}

    Args:
        layer: a module, its name, or a `Site`; None is the input of the last layer that has parameters.

    Shapes: attributions like the inputs (B, ...), value (B,). No units.

    Paper: C. Agarwal et al., 2022, arXiv:2203.06877.

    >>> import torch, torchwhy
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).double()
    >>> x = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64)
    >>> found = RelativeRepresentationStability().score(torchwhy.InputXGradient(model), x)
    >>> named = RelativeRepresentationStability(layer="0").score(torchwhy.InputXGradient(model), x)
    >>> bool(found.value == named.value)
    True
    """

    layer: str | nn.Module | Site | None = None

    def change(self, judged: Judged, part: Repeat) -> Tensor:
        before = judged.remember(("layer", self.layer), lambda: self._held(judged))
        rows = torch.arange(judged.size, device=part.inputs.device).repeat(len(part.inputs.parts[0]))
        after = self._looking(judged).carry(part.inputs.merge(), rows)
        return self.relative(after.split(len(part.inputs.parts[0])), before)

    def _held(self, judged: Judged) -> Tensors:
        p = judged.p
        return self._looking(judged).carry(p.inputs, torch.arange(p.size, device=p.inputs.device))

    def _looking(self, judged: Judged) -> Problem:
        """The same question, asked where the layer is."""
        return judged.remember(("looking", self.layer), lambda: judged.p.elsewhere(self._place(judged)))

    def _place(self, judged: Judged) -> Any:
        if self.layer is not None:
            return self.layer
        if module_of(judged.p.model) is None:
            raise TorchwhyError("the model is a function, whose layers are not known: name one, layer=module")
        names = running(judged)
        if not names:
            raise TorchwhyError("the model has no layer with parameters: name one, layer=")
        return Site(names[-1], input=True)
