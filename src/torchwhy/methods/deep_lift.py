"""DeepLIFT: the difference from a baseline, handed down operation by operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import for_examples
from torchwhy.engines.gradients import Moments, add, join
from torchwhy.engines.rules import Compared, account
from torchwhy.engines.rules.difference import RESCALE, REVEAL_CANCEL
from torchwhy.methods.base import Attribution, Method
from torchwhy.registry import Info, register

_COMPOSITES = {"rescale": RESCALE, "reveal-cancel": REVEAL_CANCEL}


@dataclass(kw_only=True, eq=False)
class _DeepLift(Method):
    rule: Literal["rescale", "reveal-cancel"] = "rescale"
    multiply_by_inputs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rule, str) or self.rule not in _COMPOSITES:
            raise TorchwhyError(f"rule is one of {', '.join(_COMPOSITES)}, not {self.rule!r}")


@register(
    Info(
        family="gradient",
        summary="the change of the score from a baseline to the input, handed down operation by operation",
        paper="Shrikumar, Greenside, Kundaje: Learning Important Features Through Propagating Activation Differences",
        year=2017,
        needs="gradients",
        cost="1 gradient, 1 baseline score",
        baselines="one",
        promises=("completeness",),
    )
)
@dataclass(kw_only=True, eq=False)
class DeepLift(_DeepLift):
    r"""Multipliers from differences: :math:`\phi_i = m_i\, (x_i - x'_i)`, with m by a chain rule for differences.

    Every operation gets multipliers with :math:`\sum_i m_i \Delta x_i = \Delta y` between the baseline's pass and
    the input's: :math:`\Delta y / \Delta x` for functions of one number, the derivative half way for products, and
    alike for maxima and softmax (`torchwhy.engines.rules.difference`). They chain like derivatives, so that
    :math:`\sum_i \phi_i = f(x) - f(x')`. Whether an activation is a module, a function, used twice or in place does
    not matter. An operation for which no such multipliers are known is refused by its name.

    Args:
        rule: "rescale", or "reveal-cancel" for activations directly behind a linear or convolutional layer: these
            treat positive and negative contributions apart.
        multiply_by_inputs: False gives the multipliers.

    Shapes: inputs (B, ...), values (B, ...). Units: score.

    Raises:
        UnsupportedError: an operation has no rule that keeps the sum, or hides in compiled code.

    Paper: A. Shrikumar, P. Greenside, A. Kundaje, "Learning Important Features Through Propagating Activation
    Differences", ICML 2017, arXiv:1704.02685.

    >>> import torch
    >>> model = lambda x: torch.relu(x @ torch.tensor([[1.0], [-2.0]]) + 1)
    >>> DeepLift(model).attribute(torch.tensor([[3.0, 1.0]]))
    tensor([[ 3., -2.]])
    """

    def compute(self, p: Problem) -> Attribution:
        pair = Compared.of(p, _COMPOSITES[self.rule])
        _, m = pair.at_point()
        pair.share(p)
        return Attribution(m * (p.point - p.base) if self.multiply_by_inputs else m)

    def total(self, p: Problem) -> Tensor | None:
        return p.scores - p.base_scores() if self.multiply_by_inputs else None

    def account(self, p: Problem) -> dict[str, Any]:
        """Where relevance leaks."""
        return {"trace": account(p, _COMPOSITES[self.rule]).as_dict()}


@register(
    Info(
        family="gradient",
        summary="DeepLIFT averaged over a set of baselines: approximate Shapley values",
        paper="Lundberg, Lee: A Unified Approach to Interpreting Model Predictions",
        year=2017,
        needs="gradients",
        cost="1 gradient and 1 score per baseline",
        baselines="set",
        promises=("completeness",),
    )
)
@dataclass(kw_only=True, eq=False)
class DeepLiftShap(_DeepLift):
    r"""The mean of `DeepLift` over a set of baselines.

    .. math:: \phi = \frac1N \sum_{n} \phi^{\mathrm{DeepLIFT}}(x, x'_n), \qquad
        \sum_i \phi_i = f(x) - \frac1N \sum_n f(x'_n)

    Args:
        rule: see `DeepLift`.
        multiply_by_inputs: False gives the mean multipliers.

    Shapes: inputs (B, ...), baselines (N, ...), values (B, ...) with a standard error each: what another sample of
    N baselines would change. Units: score.

    Paper: S. Lundberg, S.-I. Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017,
        arXiv:1705.07874.

    >>> import torch
    >>> model = lambda x: torch.relu(x).sum(1)
    >>> DeepLiftShap(model).attribute(torch.ones(1, 2), baselines=torch.tensor([[0.0, 0.0], [-1.0, 0.5]]))
    tensor([[1.0000, 0.7500]])
    """

    def compute(self, p: Problem) -> Attribution:
        bases = p.held_by_background()
        pieces: dict[int, Moments] = {}
        for es, ks, m in Compared.of(p, _COMPOSITES[self.rule]).slopes(bases, "comparing with the baselines"):
            values = m.double_for_sums()
            if self.multiply_by_inputs:
                values = values * (
                    p.point[es].map(lambda t: t[None]) - bases[ks].map(lambda t, es=es: for_examples(t, es))
                )
            add(pieces, es.start, Moments.of(values))
        return Attribution.mean(join(pieces))

    def total(self, p: Problem) -> Tensor | None:
        if not self.multiply_by_inputs:
            return None
        bases = p.held_by_background()
        scores = p.scores_at(
            lambda es, ks: bases[ks].map(lambda t: for_examples(t, es)), bases.size, "scoring the baselines"
        )
        return p.scores - scores.mean(0)
