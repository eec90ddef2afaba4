"""Which operations a model runs, which rule each gets, and where relevance leaks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from torchwhy.core.guard import untouched
from torchwhy.core.problem import Problem
from torchwhy.core.site import Site
from torchwhy.core.target import TargetLike
from torchwhy.core.tensors import TensorOrTensors, as_tensors
from torchwhy.engines.rules.composite import Composite
from torchwhy.engines.rules.engine import Step
from torchwhy.engines.rules.passes import Compared, Ruled


@dataclass(frozen=True)
class Trace:
    """The operations between what is explained and the score, in the order they ran; printed as a table.

    Attributes:
        composite: the name of the composite.
        steps: a line for each operation.
        score: what there was to hand down, summed over the examples.
        passed: what arrived at the inputs.
    """

    composite: str
    steps: tuple[Step, ...]
    score: float
    passed: float

    def leaks(self, share: float = 1e-6) -> tuple[Step, ...]:
        """The operations that did not pass on all they got, the largest leak first.

        Args:
            share: of the score, from which on a difference counts.
        """
        limit = share * abs(self.score)
        found = [s for s in self.steps if s.leak is not None and abs(s.leak) > limit]
        return tuple(sorted(found, key=lambda s: -abs(s.leak or 0)))

    def __str__(self) -> str:
        head = ("operation", "module", "line", "rule", "relevance", "leak")
        rows = [
            (
                s.operation,
                s.place.name or "-",
                f"{Path(s.place.file).name}:{s.place.line}",
                s.rule,
                "-" if s.out is None else f"{s.out:.4g}",
                "-" if s.leak is None else f"{s.leak:.1e}",
            )
            for s in self.steps
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
        ]
        return "\n".join([*lines, f"{self.composite}: {self.passed:.6g} of {self.score:.6g} arrived at the inputs"])


def trace(
    model: Any,
    inputs: TensorOrTensors,
    composite: Composite,
    *,
    baselines: Any = None,
    target: TargetLike = None,
    additional_forward_args: Any = None,
    at: str | nn.Module | Site | None = None,
) -> Trace:
    """Run a model under the rules of a composite and account for every operation.

    Relevance is ``value * g``, for composites that compare with a baseline ``(value - baseline's) * g``. Operations
    in place, and those that only move values, are listed and not measured.

    Args:
        model: a module or function.
        inputs: (B, ...) or a tuple of such.
        composite: the rules.
        baselines: to compare with, where the composite does.
        target: what is explained.
        additional_forward_args: further arguments of the model.
        at: explain this layer instead of the inputs.

    >>> import torch
    >>> from torchwhy.engines.rules.difference import RESCALE
    >>> found = trace(lambda x: torch.relu(2 * x).sum(1), torch.tensor([[1.0, -3.0]]), RESCALE)
    >>> [(s.operation, s.rule, s.out, s.leak) for s in found.steps]  # doctest: +NORMALIZE_WHITESPACE
    [('mul', 'plain gradient', 2.0, 0.0), ('relu', 'Rescale', 2.0, 0.0), ('sum', 'plain gradient', 2.0, 0.0)]
    >>> print(str(found).splitlines()[-1])
    DeepLift: 2 of 2 arrived at the inputs
    """
    tensors, _ = as_tensors(inputs)
    extra = () if additional_forward_args is None else additional_forward_args
    with untouched(model, tensors.device):
        p = Problem(
            model,
            tensors,
            extra=extra if isinstance(extra, tuple) else (extra,),
            at=at,
            target=target,
            baselines=baselines,
        )
        steps: list[Step] = []
        ruled = (Compared if composite.reference else Ruled).of(p, composite, steps)
        scores, m = ruled.at_point()
        ruled.share(p)
        delta, total = p.point, scores.sum()
        if composite.reference:
            delta, total = p.point - p.base, total - p.base_scores().sum()
        return Trace(composite.name, tuple(steps), float(total), float((m * delta).per_example().sum()))
