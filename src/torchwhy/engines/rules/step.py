"""What a trace tells of an operation: where it stands, its rule, and the relevance that came and was passed on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.engines.rules.composite import Rule
from torchwhy.engines.rules.local import Local
from torchwhy.engines.rules.place import Place


@dataclass
class Step:
    """An operation of a traced pass.

    Attributes:
        operation: its name.
        place: where it stands.
        rule: what it gets.
        out: relevance that came to its output, summed over all examples; None where it was not measured.
        into: relevance that it passed on to its inputs.
        behind: the step of its ``local.source``, for rules that look at both.
    """

    operation: str
    place: Place
    rule: str
    out: float | None = None
    into: float | None = None
    behind: Step | None = None

    @property
    def leak(self) -> float | None:
        """What came and was not passed on."""
        return None if self.out is None or self.into is None else self.out - self.into

    def measure(self, local: Local, taker: Local, g: Tensor, gradients: tuple[Tensor, ...]) -> None:
        """Note what came to an operation, and what was passed on.

        Args:
            local: the operation.
            taker: whose inputs it was passed on to: the operation, or the one before it where a rule takes in both.
            g: the gradient that came.
            gradients: those of the inputs.
        """
        before, after = taker.reference, local.reference
        self.out = _relevance((local.output,), None if after is None else (after.output,), (g,))
        self.into = _relevance(taker.inputs, None if before is None else before.inputs, gradients)


def name_of(rule: Rule | None) -> str:
    """As a trace shows it."""
    return "plain gradient" if rule is None else str(getattr(rule, "__name__", type(rule).__name__))


def _relevance(values: tuple[Tensor, ...], base: tuple[Tensor, ...] | None, g: tuple[Tensor, ...]) -> float:
    deltas = values if base is None else [v - b for v, b in zip(values, base, strict=True)]
    products = (torch.where(s == 0, 0, d * s) for d, s in zip(deltas, g, strict=True))  # what is masked is -inf
    return sum(float(product.double().sum()) for product in products)
