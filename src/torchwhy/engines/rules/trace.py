"""Which operations a model runs, which rule each gets, and where relevance leaks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from torchwhy.core.guard import as_arguments, untouched
from torchwhy.core.problem import Problem
from torchwhy.core.site import Site
from torchwhy.core.target import TargetLike
from torchwhy.core.tensors import TensorOrTensors, as_tensors
from torchwhy.engines.rules.composite import Composite
from torchwhy.engines.rules.lrp import MergeBatchNorm
from torchwhy.engines.rules.passes import Compared, Ruled
from torchwhy.engines.rules.step import Step

if TYPE_CHECKING:
    from rich.console import RenderableType


HEAD = ("operation", "module", "line", "rule", "relevance", "leak")


@dataclass(frozen=True)
class Trace:
    """The operations between what is explained and the score, in the order they ran; printed and shown as a table.

    A batch norm that is part of the layer before it is one step with it.

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

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        steps = [
            {
                "operation": s.operation,
                "module": s.place.name,
                "line": f"{Path(s.place.file).name}:{s.place.line}",
                "rule": s.rule,
                "relevance": s.out,
                "leak": s.leak,
            }
            for s in self.steps
        ]
        return {"composite": self.composite, "score": self.score, "passed": self.passed, "steps": steps}

    def __str__(self) -> str:
        rows = (HEAD, *self._rows())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self._arrived()])

    def __rich__(self) -> RenderableType:
        from rich.box import SIMPLE_HEAD
        from rich.table import Column, Table
        from rich.text import Text

        columns = [Column(name, justify="right" if name in HEAD[-2:] else "left", overflow="fold") for name in HEAD]
        table = Table(*columns, box=SIMPLE_HEAD, caption=Text(self._arrived()), caption_justify="left")
        leaking = set(map(id, self.leaks()))
        for step, row in zip(self.steps, self._rows(), strict=True):
            table.add_row(*map(Text, row), style="bold" if id(step) in leaking else None)
        return table

    def _repr_html_(self) -> str:
        leaking = set(map(id, self.leaks()))

        def line(row: tuple[str, ...], cell: str) -> str:
            return "<tr>" + "".join(f"<{cell}>{escape(text)}</{cell}>" for text in row) + "</tr>"

        body = [
            line(row, "th" if id(step) in leaking else "td") for step, row in zip(self.steps, self._rows(), strict=True)
        ]
        return f"<table><thead>{line(HEAD, 'th')}</thead>{''.join(body)}</table><p>{escape(self._arrived())}</p>"

    def _rows(self) -> list[tuple[str, ...]]:
        """What is told of each step, in the order of `HEAD`."""
        told: list[tuple[str, ...]] = []
        for s in self.as_dict()["steps"]:
            relevance, leak = s["relevance"], s["leak"]
            numbers = "-" if relevance is None else f"{relevance:.4g}", "-" if leak is None else f"{leak:.1e}"
            told.append((s["operation"], s["module"] or "-", s["line"], s["rule"], *numbers))
        return told

    def _arrived(self) -> str:
        return f"{self.composite}: {self.passed:.6g} of {self.score:.6g} arrived at the inputs"


def together(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps, with a batch norm and the layer it is part of as one.

    What came to the two is what came to the norm, and to the layer from elsewhere; they passed on what the layer did.
    """
    whole: dict[int, Step] = {}
    for step in steps:
        layer = step.behind and whole.get(id(step.behind))
        if step.rule != MergeBatchNorm.__name__ or not layer:
            whole[id(step)] = replace(step)
            continue
        layer.operation = f"{layer.operation} + {step.operation}"
        if layer.out is not None and step.leak is not None:
            layer.out += step.leak
    return tuple(whole.values())


def account(p: Problem, composite: Composite) -> Trace:
    """What the rules of a composite do with a question, operation by operation."""
    steps: list[Step] = []
    ruled = (Compared if composite.reference else Ruled).of(p, composite, steps)
    scores, m = ruled.at_point()
    ruled.share(p)
    delta, total = p.point, scores.sum()
    if composite.reference:
        delta, total = p.point - p.base, total - p.base_scores().sum()
    return Trace(composite.name, together(steps), float(total), float((m * delta).per_example().sum()))


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
    with untouched(model, tensors.device):
        p = Problem(
            model,
            tensors,
            extra=as_arguments(additional_forward_args),
            at=at,
            target=target,
            baselines=baselines,
        )
        return account(p, composite)
