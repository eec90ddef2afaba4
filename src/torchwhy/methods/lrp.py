"""Layer-wise relevance propagation: the score, shared out backwards layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.evidence import COMPLETENESS_LIMIT, Check, Status, percent, relative_gap
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.rules import Composite, On, Prepared, Rule, Ruled, account, on
from torchwhy.engines.rules.attnlrp import NAMES, transformer
from torchwhy.engines.rules.lrp import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    InputRule,
    ZBox,
    ZPlus,
    composite,
    nonzero,
)
from torchwhy.engines.rules.operations import CONVOLUTIONS, LAYERS
from torchwhy.methods.base import Attribution, Method
from torchwhy.registry import Info, register

_Rules = tuple[tuple[On, Rule], ...]


def _dense(m: LRP) -> _Rules:
    return ((on(*LAYERS), Epsilon(m.epsilon)),)


def _convolutions(rule: Rule) -> _Rules:
    return ((on(*CONVOLUTIONS), rule),)


def _first(m: LRP) -> _Rules:
    return ((on(*LAYERS, position="first"), Flat(m.stabilizer)),)


def _box(m: LRP) -> _Rules:
    assert m.low is not None
    assert m.high is not None
    return ((on(*CONVOLUTIONS, position="first"), ZBox(m.low, m.high, m.stabilizer)),)


# Rules for layers, best first; the epsilon rule for the rest of them is the same for all.
_COMPOSITES: dict[str, Callable[[LRP], _Rules]] = {
    "epsilon": lambda m: (),
    "epsilon-plus": lambda m: _convolutions(ZPlus(stabilizer=m.stabilizer)),
    "epsilon-plus-flat": lambda m: _first(m) + _convolutions(ZPlus(stabilizer=m.stabilizer)),
    "epsilon-alpha2beta1": lambda m: _convolutions(AlphaBeta(stabilizer=m.stabilizer)),
    "epsilon-alpha2beta1-flat": lambda m: _first(m) + _convolutions(AlphaBeta(stabilizer=m.stabilizer)),
    "epsilon-gamma-box": lambda m: _box(m) + _convolutions(Gamma(m.gamma, m.stabilizer)),
    **dict.fromkeys(NAMES, lambda m: ()),
}


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


# By their names without case and dashes.
_SPELLINGS = {_plain(name): name for name in _COMPOSITES}


def _is_pair(item: Any) -> bool:
    if not isinstance(item, tuple) or len(item) != 2:
        return False
    selector, rule = item
    return isinstance(selector, On) and (callable(rule) or isinstance(rule, Prepared))


@register(
    Info(
        family="gradient",
        summary="the score, shared out backwards layer by layer in proportion to contributions",
        paper="Bach, Binder, Montavon, Klauschen, Müller, Samek: On Pixel-Wise Explanations by Layer-Wise Relevance "
        "Propagation",
        year=2015,
        needs="gradients",
        cost="1 gradient",
    )
)
@dataclass(kw_only=True, eq=False)
class LRP(Method):
    r"""Layer-wise relevance propagation.

    .. math:: R_i = \sum_j \frac{z_{ji}}{\sum_k z_{jk}} R_j, \qquad \sum_i R_i \approx f(x)

    from the score back to the input, with contributions :math:`z_{ji}` that each rule defines
    (`torchwhy.engines.rules.lrp`). Activations hand on what they get; sums and averages share in proportion; of a
    maximum, the winner takes all; a batch norm counts as part of the layer before it, without a change to the model.
    Rules act on operations, so that activations may be modules, functions, used twice or in place. What biases
    contribute, nobody gets: `explain` tells how much that was, and `torchwhy.engines.rules.trace` where.

    ============================ ============ ======================== =======================
    composite                    first layer  convolutions             linear layers
    ============================ ============ ======================== =======================
    "epsilon"                                 epsilon                  epsilon
    "epsilon-plus"                            z-plus                   epsilon
    "epsilon-plus-flat"          flat         z-plus                   epsilon
    "epsilon-alpha2beta1"                     alpha-beta, 2 and 1      epsilon
    "epsilon-alpha2beta1-flat"   flat         alpha-beta, 2 and 1      epsilon
    "epsilon-gamma-box"          z-box        gamma                    epsilon
    "AttnLRP"                                 epsilon                  epsilon
    "CP-LRP"                                  epsilon                  epsilon
    ============================ ============ ======================== =======================

    The last two have rules for attention, gates and normalisation as well (`torchwhy.engines.rules.attnlrp`), and are
    for transformers. The others refuse these operations. Token ids have no gradient: explain the embedding, as in
    ``at="model.embed_tokens"``.

    Args:
        composite: which rule for which layer; a name of the table, selectors with rules such as
            ``[(on("linear"), Gamma())]``, completed by those for activations and the like, or a whole `Composite`.
        epsilon: what the epsilon rule adds to denominators; 0 is LRP-0, in a relu network input times gradient.
        gamma: how much more positive contributions count.
        stabilizer: what the other rules add to denominators.
        low: the smallest value an input can have, a number or a tensor that broadcasts to the inputs.
        high: the largest.

    Shapes: inputs (B, ...), values (B, ...). Units: score.

    Raises:
        UnsupportedError: an operation has no rule in this composite, or hides in compiled code.

    Paper: S. Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation", PLOS ONE 2015. Composites: G. Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019;
    R. Achtibat et al., "AttnLRP", ICML 2024, arXiv:2402.05602; A. Ali et al., "XAI for Transformers", ICML 2022,
    arXiv:2202.07304.

    >>> import torch
    >>> model = lambda x: torch.relu(x @ torch.tensor([[1.0], [-2.0]]))
    >>> LRP(model, epsilon=0).attribute(torch.tensor([[3.0, 1.0]]))
    tensor([[ 3., -2.]])
    """

    composite: str | Composite | Sequence[tuple[On, Rule]] = "epsilon-plus"
    epsilon: float = 1e-6
    gamma: float = 0.25
    stabilizer: float = 1e-6
    low: float | Tensor | None = None
    high: float | Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("epsilon", self.epsilon), ("gamma", self.gamma), ("stabilizer", self.stabilizer)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise TorchwhyError(f"{name} is a number of at least 0, not {value!r}")
        if isinstance(self.composite, str):
            if _plain(self.composite) not in _SPELLINGS:
                raise TorchwhyError(f"there is no composite {self.composite!r}{closest(self.composite, _COMPOSITES)}")
            self.composite = _SPELLINGS[_plain(self.composite)]
        boxed = self.composite == "epsilon-gamma-box"
        if boxed and (self.low is None or self.high is None):
            raise TorchwhyError("epsilon-gamma-box needs the smallest and largest value of an input: low=..., high=...")
        if not boxed and (self.low is not None or self.high is not None):
            raise TorchwhyError("low and high are for the composite 'epsilon-gamma-box'")
        self._composite()

    def compute(self, p: Problem) -> Attribution:
        rules = self._composite()
        ruled = Ruled.of(p, rules)
        _, g = ruled.at_point()
        ruled.share(p)
        first = any(isinstance(rule, InputRule) for _, rule in rules.rules)
        return Attribution(g * (p.point.map(nonzero) if first else p.point))

    def options(self) -> dict[str, Any]:
        found = super().options()
        if not isinstance(self.composite, str):
            found["composite"] = [
                f"{' '.join(sorted(selector.operations))}: {getattr(rule, '__name__', rule)!s}"
                for selector, rule in (
                    self.composite.rules if isinstance(self.composite, Composite) else self.composite
                )
            ]
        return found

    def account(self, p: Problem) -> dict[str, Any]:
        """Where relevance leaks."""
        return {"trace": account(p, self._composite()).as_dict()}

    def _composite(self) -> Composite:
        chosen: Any = self.composite
        if isinstance(chosen, Composite):
            return chosen
        if isinstance(chosen, str):
            rules = _COMPOSITES[chosen](self) + _dense(self)
            if chosen in NAMES:
                return transformer(chosen, rules, self.epsilon)
            return composite(rules, self.epsilon)
        if not isinstance(chosen, Sequence) or not all(map(_is_pair, chosen)):
            raise TorchwhyError(
                f"composite is a name, a Composite, or pairs such as (on('linear'), Gamma()), not {chosen!r}"
            )
        return composite(chosen, self.epsilon)

    def _free_checks(self, p: Problem, found: Attribution) -> tuple[Check, ...]:
        kept = f"softmax, {_KEPT}" if self.composite == "AttnLRP" else _KEPT
        return (conservation(found.values, p.scores, kept), *super()._free_checks(p, found))


_KEPT = "biases, stabilisers and units with nothing to share by"


def conservation(values: Tensors, scores: Tensor, kept: str = _KEPT) -> Check:
    """How much of the score came through to the input? (B,) relative gaps.

    Biases and stabilisers keep some, and units that have no contributions of the sign a rule divides by; ``kept`` names
    what does.
    """
    total = values.double_for_sums().per_example().double()

    def judge(share: float, i: int) -> tuple[Status, str]:
        told = f"the relevances add up to {total[i]:.4g} of a score of {scores[i]:.4g}"
        if share <= COMPLETENESS_LIMIT:
            return "pass", f"{told}: a gap of {percent(share)}"
        return (
            "unknown",
            f"{told}: the gap of {percent(share)} is at {kept}",
        )

    return Check.of("conservation", "How much of the score came through?", relative_gap(values, scores), judge)
