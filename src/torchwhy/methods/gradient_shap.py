"""Expected gradients: integrated gradients averaged over a set of baselines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.precision import Precision
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors, align, for_examples
from torchwhy.engines.gradients import Moments, add, join
from torchwhy.engines.noise import Stdevs, check_seed, check_stdevs, draws, normal
from torchwhy.methods.base import Attribution, Method, at_least
from torchwhy.registry import Info, register


@register(
    Info(
        family="path",
        summary="integrated gradients averaged over baselines drawn from your data",
        paper="Erion, Janizek, Sturmfels, Lundberg, Lee: Improving Performance of Deep Learning Models with Axiomatic "
        "Attribution Priors and Expected Gradients",
        year=2021,
        needs="gradients",
        cost="n_samples gradients",
        baselines="set",
        promises=("completeness in expectation", "linearity", "symmetry"),
    )
)
@dataclass(kw_only=True, eq=False)
class GradientShap(Method):
    r"""Expected gradients: one random baseline and one random position on the way for every draw.

    .. math:: \phi = \mathbb{E}_{x' \sim D,\ \alpha \sim U(0,1),\ \epsilon \sim N(0, \sigma^2)}
        \left[ (x + \epsilon - x') \odot \nabla f(x' + \alpha (x + \epsilon - x')) \right]

    so that in expectation the values add up to :math:`f(x) - \mathbb{E} f(x')`. At a layer, x and x' are what the layer
    holds for them. All examples share the same draws, so an example's values do not depend on its batch.

    Args:
        n_samples: draws.
        stdevs: :math:`\sigma` of the noise added to the inputs, one for all or one per input of a tuple.
        seed: of the draws.
        multiply_by_inputs: False leaves out the factor :math:`x - x'`.
        precision: "mixed" computes the backward passes in bfloat16.

    Shapes: inputs (B, ...), baselines (N, ...), values (B, ...) with a standard error each. Units: score.

    Paper: G. Erion et al., Nature Machine Intelligence 3, 2021, arXiv:1906.10670; S. Lundberg, S.-I. Lee, NeurIPS 2017.

    >>> model = lambda x: (x * torch.tensor([1.0, -2.0])).sum(1)
    >>> GradientShap(model).attribute(torch.ones(1, 2), baselines=torch.zeros(1, 2))
    tensor([[ 1., -2.]])
    """

    n_samples: int = 50
    stdevs: Stdevs = 0.0
    seed: int = 0
    multiply_by_inputs: bool = True
    precision: Precision = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_samples", self.n_samples, 1)
        check_stdevs(self.stdevs)
        check_seed(self.seed)

    def compute(self, p: Problem) -> Attribution:
        held = p.held_by_background()
        row, alpha = self._draws(held.size)
        noise = normal(self.stdevs, p.inputs, self.seed)
        way = Tensors([])  # from the baselines to the noisy points of the draws under way

        def points(es: slice, ks: slice) -> Tensors:
            nonlocal way
            start = held[row[ks].to(p.point.device)].map(lambda t: for_examples(t, es))
            if noise is None:
                end = p.point[es].map(lambda t: t[None])
            else:
                copies = ks.stop - ks.start
                rows = torch.arange(es.start, es.stop, device=p.point.device).repeat(copies)
                end = p.carry(noise(es, ks).merge(), rows).split(copies)
            way = end - start
            a = alpha[ks].to(p.point.device)
            return start.map(lambda b, w: b + align(a, w) * w, way)

        pieces: dict[int, Moments] = {}
        totals: dict[int, Moments] = {}
        for part in p.sweep(points, self.n_samples, gradients=True, what="sampling gradients"):
            assert part.gradients is not None
            drawn = part.gradients.double_for_sums()
            if self.multiply_by_inputs:
                drawn = drawn * way
            sums = Tensors([drawn.merge().per_example().unflatten(0, part.scores.shape)])
            add(pieces, part.examples.start, Moments.of(drawn))
            add(totals, part.examples.start, Moments.of(sums))
        made = Attribution.mean(join(pieces))
        made.total_error = join(totals).standard_error().parts[0] if self.n_samples > 1 else None
        return made

    def total(self, p: Problem) -> Tensor | None:
        if not self.multiply_by_inputs:
            return None
        held = p.held_by_background()
        row, counts = self._draws(held.size)[0].unique(return_counts=True)
        used = held[row.to(p.point.device)]
        scores = p.scores_at(
            lambda es, ks: used[ks].map(lambda t: for_examples(t, es)), len(row), "scoring the baselines"
        )
        shares = align(counts.to(scores) / self.n_samples, scores)
        return p.scores - (shares * scores).sum(0)

    def _draws(self, rows: int) -> tuple[Tensor, Tensor]:
        """Which baseline and which position on the way, for every draw."""
        generator = draws(self.seed, stream=1)
        row = torch.randint(rows, (self.n_samples,), generator=generator)
        return row, torch.rand(self.n_samples, generator=generator, dtype=torch.float64)
