r"""Rules of LRP for attention, gates and normalisation.

As in `torchwhy.engines.rules.lrp`, relevance is carried as a gradient, :math:`R = x\, g`.

========================  ==================================================  ==========
operation                 AttnLRP                                             CP-LRP
========================  ==================================================  ==========
softmax                   :math:`R_{x_i} = x_i (R_i - s_i \sum_j R_j)`         a constant
products of N             in equal parts                                      the same
what is divided by        a constant                                          the same
functions of one number   :math:`R_x = R_y`                                   the same
========================  ==================================================  ==========

What is divided by covers normalisation in every spelling: layer norm and RMS norm as functions, with ``rsqrt``, with
``/ std`` or as a negative power. The rule of softmax is its Taylor expansion at x, with R as a gradient its plain
gradient. Functions of one number may be written out, as ``x * sigmoid(x)``.

Papers: R. Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", ICML 2024,
arXiv:2402.05602. A. Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation",
ICML 2022, arXiv:2202.07304.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.engines.rules.composite import Backward, Composite, On, Prepared, Rule, on
from torchwhy.engines.rules.decompose import SMALLER
from torchwhy.engines.rules.local import Local
from torchwhy.engines.rules.lrp import FOLLOWED, PLAIN, PRODUCTS, Epsilon, OneFactor, Pass, common, shares
from torchwhy.engines.rules.operations import LAYERS, names

NAMES = ("AttnLRP", "CP-LRP")
SOFTMAX = names("softmax log_softmax logsumexp")
# The first argument is a summand beside the product of the others.
_ADDED = names("addmm baddbmm addbmm addmv")


@dataclass(frozen=True)
class Constant(Prepared):
    """What the operation gives counts as a constant: nothing flows back."""

    def stops(self, local: Local) -> bool:
        return True

    def prepare(self, local: Local) -> Backward:
        raise AssertionError("a constant has no backward pass")


class Power(Pass):
    """A negative power is something to divide by, and counts as a constant; others are functions of one number."""

    def stops(self, local: Local) -> bool:
        args, kwargs = local.call.args, local.call.kwargs
        exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
        if local.call.slots[0][0] not in (0, "input") or exponent is None:
            return False
        return bool((exponent < 0).all()) if isinstance(exponent, Tensor) else exponent < 0


@dataclass(frozen=True)
class Uniform(OneFactor):
    r"""Products of N varying factors share in equal parts, matrix products after `Epsilon`.

    .. math:: R_{A_{ji}} = \sum_p \frac{A_{ji} V_{ip}}{2\, O_{jp} + \epsilon} R_{jp}

    A summand beside a product, as in ``baddbmm``, gets its own contribution.
    """

    def needed(self, local: Local) -> bool:
        return len(local.inputs) > 1 or super().needed(local)

    def prepare(self, local: Local) -> Backward:
        if self.fuses(local) or len(local.inputs) == 1:
            return super().prepare(local)
        added = local.operation in _ADDED
        factors = [not (added and slot[0] in (0, "input")) for slot in local.call.slots]
        count = sum(factors)
        y = local.output
        m = shares(y, y, self.epsilon) if self.epsilon else None

        def backward(g: Tensor) -> tuple[Tensor, ...]:
            found = local.vjp(g if m is None else g * m)
            return tuple(d / count if factor else d for d, factor in zip(found, factors, strict=True))

        return backward


class Quotient(OneFactor):
    """What is divided by counts as a constant."""

    def stops(self, local: Local) -> bool:
        return len(local.inputs) == 1 and self.divides(local)

    def needed(self, local: Local) -> bool:
        return len(local.inputs) > 1

    def prepare(self, local: Local) -> Backward:
        if self.fuses(local):
            return super().prepare(local)

        def backward(g: Tensor) -> tuple[Tensor, ...]:
            above, below = local.vjp(g)
            return above, below.new_zeros(()).expand_as(below)

        return backward


def transformer(name: str, rules: Sequence[tuple[On, Rule]] = (), epsilon: float = 1e-6) -> Composite:
    """Rules for layers, completed by those for transformers.

    Args:
        name: "AttnLRP", or "CP-LRP", for which attention weights are constants.
        rules: for layers, best first; the others get `Epsilon`.
        epsilon: of layers and products.

    >>> transformer("CP-LRP").rules[0]
    (On(operations=frozenset({'softmax'}), module=(), name=None, position=None), Constant())
    """
    if name not in NAMES:
        raise TorchwhyError(f"the composites for transformers are {' and '.join(map(repr, NAMES))}, not {name!r}")
    constant = ((on("softmax"), Constant()),) if name == "CP-LRP" else ()
    products = [product for product in PRODUCTS if product not in ("mul", "div")]
    return Composite(
        name,
        (
            *constant,
            *rules,
            (on(*LAYERS), Epsilon(epsilon)),
            (on("rsqrt", "reciprocal", "rdiv"), Constant()),
            (on("pow", "float_power"), Power()),
            (on("div"), Quotient()),
            (on("mul"), Uniform()),
            (on(*products), Uniform(epsilon)),
            *common(epsilon),
        ),
        linear=PLAIN | {*SOFTMAX},
        decompositions={operation: smaller for operation, smaller in SMALLER.items() if operation != "einsum"},
        sources=frozenset(LAYERS),
        elementwise=FOLLOWED,
    )
