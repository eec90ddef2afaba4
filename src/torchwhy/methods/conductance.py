"""What flows from a baseline to the input through a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.problem import Problem
from torchwhy.core.site import Site, Tap, find_site
from torchwhy.core.target import resolve
from torchwhy.core.tensors import Tensors, align
from torchwhy.engines.quadrature import Quadrature, rule
from torchwhy.methods.base import Attribution, Method, at_least
from torchwhy.registry import Info, register


@dataclass(kw_only=True, eq=False)
class PathMethod(Method):
    """A method on the straight line from the baseline to the input, in the space of the inputs."""

    n_steps: int = 50
    method: Quadrature | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_steps", self.n_steps, 1)

    def mean_slope(self, p: Problem, slopes: Callable[[Problem], Tensors]) -> Tensors:
        """The integral along the line of what ``slopes`` gives for problems (K * B, ...)."""
        nodes, weights = rule(self.method or "gausslegendre", self.n_steps)
        left = iter(weights)
        pieces = []
        for copies, z in self.line(p, nodes):
            w = torch.stack([next(left) for _ in range(copies)])
            found = slopes(p.moved(z, copies)).split(copies).double_for_sums()
            pieces.append(found.map(lambda s, w=w: torch.tensordot(w.to(s), s, 1)))
        return sum(pieces[1:], pieces[0])

    def line(self, p: Problem, nodes: Tensor) -> Iterator[tuple[int, Tensors]]:
        """As many inputs (K * B, ...) as fit at a time, and how many nodes K they are."""
        home = p.elsewhere(None)
        if p.has_layer_baselines:
            raise TorchwhyError(
                f"the path of {type(self).__name__} runs through the inputs: give baselines instead of layer_baselines"
            )
        start, delta = home.base, home.point - home.base
        with p.progress.task("integrating", len(nodes)) as advance:
            first = 0
            while first < len(nodes):
                alphas = nodes[first : first + max(1, p.rows_per_pass() // p.size)].to(p.inputs.device)
                yield len(alphas), start.map(lambda b, d, a=alphas: b + align(a, d[None]) * d, delta).merge()
                first += len(alphas)
                advance(len(alphas))


@register(
    Info(
        family="path",
        summary="the change of the score from a baseline to the input, split among the units of a layer, or what of it "
        "the input sends through one unit",
        paper="Dhamdhere, Sundararajan, Yan: How Important Is a Neuron?",
        year=2019,
        needs="gradients",
        cost="n_steps + 1 gradients",
        baselines="one",
        promises=("completeness", "linearity"),
    )
)
@dataclass(kw_only=True, eq=False)
class Conductance(PathMethod):
    r"""How much of the change of the score flows through each unit of a layer, as the input leaves its baseline.

    .. math:: \phi_y = \int_0^1 \frac{\partial f}{\partial y} \frac{d\, y(x' + \alpha (x - x'))}{d \alpha} \, d\alpha

    summed over steps as the rise of y times its gradient. The path runs through the inputs, where integrated gradients
    at a layer go straight from what it holds for the baseline to what it holds for the input. Where all that matters
    passes the layer, the values add up to :math:`f(x) - f(x')`. At the input itself these are integrated gradients.

    With ``through``, what each element of the input sends through that hidden unit,

    .. math:: \phi_i = (x_i - x'_i) \int_0^1 \frac{\partial f}{\partial y} \frac{\partial y}{\partial x_i} \, d\alpha

    which adds up to the conductance of the unit.

    Args:
        through: a `Site` with the index of a unit. Several units are summed to one, whose slope is the sum of theirs.
        n_steps: steps; one more gradient is computed.
        method: at a layer, None takes even steps and the mean of the gradients at both ends of each: exact where the
            gradient is linear in y. A quadrature takes its nodes and the gradient at the beginning of each step, as
            Captum does. With ``through``, the quadrature; None is "gausslegendre".
        multiply_by_inputs: False leaves out the factor :math:`x - x'`, with ``through``.

    Shapes: inputs (B, ...), values in the shape of what the layer holds. Units: score.

    Papers: K. Dhamdhere, M. Sundararajan, Q. Yan, ICLR 2019, arXiv:1805.12233; A. Shrikumar, J. Su, A. Kundaje, 2018,
        arXiv:1807.09946.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
    >>> _ = torch.nn.init.eye_(model[0].weight)
    >>> conductance = Conductance(model, at="0", n_steps=2)
    >>> conductance.attribute(torch.tensor([[3.0, -1.0]]), target=lambda output: (output**2).sum(1))
    tensor([[9., 1.]])
    """

    through: Site | None = None
    multiply_by_inputs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.through is None:
            if not self.multiply_by_inputs:
                raise TorchwhyError("multiply_by_inputs=False is for the conductance through one unit: say which")
            return
        if not isinstance(self.through, Site) or self.through.unit is None or self.through.call == "all":
            raise TorchwhyError(
                f"through is a Site with an index, such as Site('conv1', unit=(3, 0, 0)), not {self.through!r}"
            )
        if self.at is not None:
            raise TorchwhyError("what goes through a unit is split among the inputs: leave at out")

    def compute(self, p: Problem) -> Attribution:
        if self.through is not None:
            return self._of_unit(p, find_site(self.model, self.through))
        count = self.n_steps + 1
        nodes = torch.linspace(0, 1, count, dtype=torch.float64) if self.method is None else rule(self.method, count)[0]
        total: Tensors | None = None
        held: Tensors | None = None
        slope: Tensors | None = None
        for copies, z in self.line(p, nodes):
            q = p.moved(z, copies)
            slopes = q.at_point()[1].split(copies).double_for_sums()
            values = q.point.split(copies).double_for_sums()
            if held is not None and slope is not None:
                values = values.map(lambda v, last: torch.cat([last, v]), held)
                slopes = slopes.map(lambda s, last: torch.cat([last, s]), slope)
            rises = values.map(lambda v: v.diff(dim=0))
            before, after = slopes[:-1], slopes[1:]
            found = (rises * (before if self.method is not None else (before + after) * 0.5)).map(lambda t: t.sum(0))
            total = found if total is None else total + found
            held, slope = values[-1:], slopes[-1:]
        assert total is not None
        return Attribution(total)

    def total(self, p: Problem) -> Tensor | None:
        return None if self.through is not None else p.scores - p.elsewhere(None).base_scores()

    def _of_unit(self, p: Problem, site: Site) -> Attribution:
        found = self.mean_slope(p, lambda q: _slope_through(q, site))
        return Attribution(found * (p.point - p.base) if self.multiply_by_inputs else found)


@register(
    Info(
        family="path",
        summary="the mean gradient at a layer on the way from a baseline to the input",
        paper="Leino, Sen, Datta, Fredrikson, Li: Influence-Directed Explanations for Deep Convolutional Networks",
        year=2018,
        needs="gradients",
        cost="n_steps gradients",
        baselines="one",
        promises=("linearity",),
    )
)
@dataclass(kw_only=True, eq=False)
class InternalInfluence(PathMethod):
    r"""The mean of the gradient at a layer over inputs on the way from the baseline.

    .. math:: \phi_y = \int_0^1 \frac{\partial f}{\partial y} \left(x' + \alpha (x - x')\right) d\alpha

    Args:
        n_steps: gradients per example.
        method: the quadrature; None is "gausslegendre".

    Shapes: inputs (B, ...), values in the shape of what the layer holds. Units: score per unit of the layer.

    Paper: K. Leino et al., ITC 2018, arXiv:1802.03788.

    >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten())
    >>> InternalInfluence(model, at="0").attribute(torch.tensor([[3.0, -1.0]]), target=0).round(decimals=4)
    tensor([[1., 0.]])
    """

    def compute(self, p: Problem) -> Attribution:
        return Attribution(self.mean_slope(p, lambda q: q.at_point()[1]))


def _slope_through(q: Problem, site: Site) -> Tensors:
    """The slope of the score in the unit times that of the unit in the inputs, (N, ...)."""
    rows = torch.arange(q.size, device=q.inputs.device)
    with Tap(q.model, site, leaf=True, through=True) as tap:
        seen = q._forward(None, rows, gradients=True)
    assert tap.held is not None
    scores, target = q._score(seen, rows, gradients=True)
    slopes = q._gradients(scores, tap.held.parts, target)
    if slopes[0] is None:
        raise UnsupportedError(f"the score does not depend on {site!r}: name a unit on the way to it")
    one = resolve(None, None, q.size, site)
    unit, slope = (one.read((held, {}) if site.input else held) for held in (tap.held.parts, slopes))
    found = torch.autograd.grad(unit, seen.leaves.parts, slope, allow_unused=True)
    return Tensors(torch.zeros_like(t) if g is None else g for g, t in zip(found, seen.leaves, strict=True))
