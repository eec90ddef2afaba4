"""Gradients collected on the way from a baseline to the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.evidence import relative_gap
from torchwhy.core.precision import Precision
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.gradients import integrate
from torchwhy.engines.quadrature import Quadrature, clenshaw_curtis, halved, rule
from torchwhy.methods.base import Attribution, Method, at_least
from torchwhy.registry import Info, register

FIRST_STEPS = 8  # of a refinement


@register(
    Info(
        family="path",
        summary="the change of the score from a baseline to the input, split among the inputs",
        paper="Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks",
        year=2017,
        needs="gradients",
        cost="n_steps gradients",
        baselines="one",
        promises=("completeness", "sensitivity", "implementation invariance", "linearity", "symmetry"),
    )
)
@dataclass(kw_only=True, eq=False)
class IntegratedGradients(Method):
    r"""Gradients integrated along the straight line from the baseline to the input.

    .. math:: \phi_i = (x_i - x'_i) \int_0^1 \frac{\partial f(x' + \alpha (x - x'))}{\partial x_i} \, d\alpha

    so that :math:`\sum_i \phi_i = f(x) - f(x')`. At a layer, the line runs between what the layer holds for the input
    and what it holds for the baseline.

    Args:
        n_steps: gradients per example.
        method: the quadrature; None is "gausslegendre", and "clenshawcurtis" with ``tol``.
        tol: refine each example, doubling its steps, until the attribution changes by less than this share (in L1)
            between refinements and the completeness gap is below this share of the change of the score; the evidence
            says where that could not be reached within ``max_steps``. Steps are reused, so that the last refinement is
            all one pays for. On ReLU networks the error falls like one over the number of steps.
        max_steps: of a refinement.
        multiply_by_inputs: False gives the mean gradient alone, without the factor :math:`x - x'`.
        precision: "mixed" computes the backward passes in bfloat16 and adds the error this makes to the evidence.

    Shapes: inputs (B, ...), values (B, ...). Units: score.

    Paper: M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv:1703.01365.

    >>> ig = IntegratedGradients(lambda x: (x**3).sum(1))
    >>> ig.attribute(torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    tensor([[8.0000, 1.0000]], dtype=torch.float64)
    """

    n_steps: int = 50
    method: Quadrature | None = None
    tol: float | None = None
    max_steps: int = 1024
    multiply_by_inputs: bool = True
    precision: Precision = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n_steps", self.n_steps, 1)
        at_least("max_steps", self.max_steps, 2 * FIRST_STEPS)
        if self.tol is not None:
            if self.method not in (None, "clenshawcurtis"):
                raise TorchwhyError(
                    f"tol refines by Clenshaw-Curtis quadrature, not {self.method}: leave one of them out"
                )
            if not isinstance(self.tol, int | float) or not 0 < self.tol < 1:
                raise TorchwhyError(f"tol is a share between 0 and 1, not {self.tol!r}")

    def compute(self, p: Problem) -> Attribution:
        if self.tol is not None:
            return self._refine(p, self.tol)
        nodes, weights = rule(self.method or "gausslegendre", self.n_steps)
        full, half = integrate(p, nodes, torch.stack([weights, halved(nodes)]))
        values = self._times_inputs(p, full)
        change = _relative_change(values, self._times_inputs(p, half)) if self.n_steps > 1 else None
        return Attribution(values, change=change)

    def total(self, p: Problem) -> Tensor | None:
        return p.scores - p.base_scores() if self.multiply_by_inputs else None

    def _times_inputs(self, p: Problem, slopes: Tensors) -> Tensors:
        return slopes * (p.point - p.base) if self.multiply_by_inputs else slopes

    def _refine(self, p: Problem, tol: float) -> Attribution:
        """Double the steps of every example until its own criterion is met: no example depends on the others."""
        levels = [FIRST_STEPS]
        while 2 * levels[-1] <= self.max_steps:
            levels.append(2 * levels[-1])
        moved = p.scores - p.base_scores()
        delta = p.point - p.base
        values = p.point.double_for_sums().map(torch.zeros_like)
        change, steps = torch.ones_like(moved), torch.zeros_like(moved, dtype=torch.long)
        reached = torch.zeros_like(moved, dtype=torch.bool)
        active = torch.arange(p.size, device=p.point.device)
        previous = values
        sums: list[Tensors] = []  # of the gradients seen so far, with the weights of this level and of all finer ones
        for level, n in enumerate(levels):
            sub = p.select(active)
            new = slice(None) if level == 0 else slice(1, None, 2)
            nodes = clenshaw_curtis(n)[0][new]
            weights = torch.stack([clenshaw_curtis(m)[1][:: m // n][new] for m in levels[level:]])
            added = integrate(sub, nodes, weights, f"integrating gradients, {n} steps")
            sums = [s + a for s, a in zip(sums, added, strict=True)] if sums else added
            slopes, *sums = sums
            parts = slopes * delta[active]
            answer = parts if self.multiply_by_inputs else slopes
            if level:
                change[active] = _relative_change(answer, previous).to(change)
                reached[active] = (change[active] < tol) & (relative_gap(parts, moved[active]) < tol)
            for out, found in zip(values, answer, strict=True):
                out[active] = found
            steps[active] = n + 1
            left = ~reached[active]
            active, previous = active[left], answer[left]
            sums = [s[left] for s in sums]
            if len(active) == 0:
                break
        return Attribution(values, change=change, reached=reached, details={"steps": steps.tolist()})


def _relative_change(new: Tensors, old: Tensors) -> Tensor:
    """(B,) change in L1 over the size of the new."""
    size = abs(new).per_example()
    return abs(new - old).per_example() / size.clamp_min(torch.finfo(size.dtype).tiny)
