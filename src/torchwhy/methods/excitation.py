"""Excitation backpropagation: which units a winner owes its excitation to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.evidence import Check
from torchwhy.core.problem import Problem
from torchwhy.engines.rules import Composite, Local, Prepared, Refused, Ruled, account, on
from torchwhy.engines.rules.composite import Backward
from torchwhy.engines.rules.decompose import Decomposition
from torchwhy.engines.rules.lrp import PRODUCTS, ZPlus, composite
from torchwhy.engines.rules.operations import LAYERS
from torchwhy.methods.base import Attribution, Method
from torchwhy.methods.lrp import conservation
from torchwhy.registry import Info, register


@dataclass(frozen=True)
class Contrast(ZPlus):
    """What excites the winner less what excites its dual unit, whose weights are the winner's negated."""

    def propagate(self, local: Local, g: Tensor) -> Tensor:
        weight, bias = local.argument("weight"), local.argument("bias")
        dual = local.with_(weight=-weight, bias=None if bias is None else -bias)
        # The dual's output is negated too, and with it the relevance that the rule hands down.
        return super().propagate(local, g) + super().propagate(dual, g)


class _Unknown(Prepared):
    """Products whose weights have no rule."""

    def prepare(self, local: Local) -> Backward:
        raise Refused("which of its weights excite is not known: write it as torch.nn.functional.linear")


def _matmul(input: Tensor, other: Tensor) -> Any:  # noqa: A002  PyTorch's name
    """``x @ W`` as a linear layer, whose rule it then gets."""
    if other.ndim == 1:
        return F.linear(input, other[None]).squeeze(-1)
    return F.linear(input, other.T) if other.ndim == 2 else NotImplemented


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:  # noqa: A002
    plain = beta == 1 and alpha == 1 and input.ndim == 1
    return F.linear(mat1, mat2.T, input) if plain else NotImplemented


_AS_LAYERS: dict[str, Decomposition] = {"matmul": _matmul, "mm": _matmul, "mv": _matmul, "addmm": _addmm}


@register(
    Info(
        family="gradient",
        summary="the probability that a winner's excitation came from an input, along excitatory connections only",
        paper="Zhang, Lin, Brandt, Shen, Sclaroff: Top-down Neural Attention by Excitation Backprop",
        year=2016,
        needs="gradients",
        cost="1 gradient",
    )
)
@dataclass(kw_only=True, eq=False)
class ExcitationBackprop(Method):
    r"""Marginal winning probabilities: where the winner takes its excitation from, layer by layer.

    .. math:: P_i = \sum_j P_j \frac{x_i w_{ji}^+}{\sum_k x_k w_{jk}^+}, \qquad P_{\mathrm{target}} = 1

    over positive weights and inputs; negative inputs count with negative weights, which excite as well. Sums and
    averages share in proportion, maxima and rectifiers hand on, a batch norm is part of the layer before it. The rules
    are those of `LRP` with z-plus everywhere, for a winning probability of one in place of the score.

    Args:
        contrastive: subtract what excites the dual of the target, a unit with the opposite weights in the last layer:
            what then stays positive is for the target in particular. Such values add up to about zero.
        stabilizer: what is added to denominators.

    Shapes: inputs (B, ...), values (B, ...). Units: probability; the values of an example add up to at most one, less
    what biases take. A score of zero has excited nothing, and gives zeros.

    Raises:
        UnsupportedError: an operation has no rule, such as attention, or hides in compiled code.

    Paper: J. Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, arXiv:1608.00507.

    >>> import torch
    >>> model = torch.nn.Linear(3, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 3.0, -2.0]])
    >>> ExcitationBackprop(model).attribute(torch.ones(1, 3))
    tensor([[0.2500, 0.7500, 0.0000]])
    """

    contrastive: bool = False
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.stabilizer, int | float) and not isinstance(self.stabilizer, bool)
        if not number or not 0 <= self.stabilizer < math.inf:
            raise TorchwhyError(f"stabilizer is a number of at least 0, not {self.stabilizer!r}")

    def compute(self, p: Problem) -> Attribution:
        ruled = Ruled.of(p, self._composite())
        scores, g = ruled.at_point()
        ruled.share(p)
        return Attribution((p.point * g).scale(torch.where(scores == 0, 0, 1 / scores)))

    def account(self, p: Problem) -> dict[str, Any]:
        """Where relevance, the score times the probability, leaks."""
        return {"trace": account(p, self._composite()).as_dict()}

    def _composite(self) -> Composite:
        rule = on(*LAYERS), ZPlus(stabilizer=self.stabilizer)
        top = on(*LAYERS, position="last"), Contrast(stabilizer=self.stabilizer)
        other = on(*[name for name in PRODUCTS if name not in ("mul", "div")]), _Unknown()
        found = composite([top, rule, other] if self.contrastive else [rule, other])
        apart = {**found.decompositions, **_AS_LAYERS}
        return replace(found, name=type(self).__name__, decompositions=apart)

    def _free_checks(self, p: Problem, found: Attribution) -> tuple[Check, ...]:
        checks = super()._free_checks(p, found)
        return checks if self.contrastive else (conservation(found.values.scale(p.scores), p.scores), *checks)
