"""Add a term that is known to the model's score: does a method's answer change by what it says of the term alone?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import draws
from torchwhy.recommendation.bench import Bench, Candidate

STREAM = 92  # of random numbers


class Term(nn.Module):
    """A weighted sum of the inputs, (B,) or the same for each of a number of outputs, (B, outputs)."""

    def __init__(self, weights: Tensors, outputs: int | None) -> None:
        super().__init__()
        self.outputs = outputs
        self.parts = nn.ModuleList()
        for w in weights:
            part = nn.Linear(w.numel(), 1, bias=False, device=w.device, dtype=w.dtype)
            part.weight = nn.Parameter(w.reshape(1, -1), requires_grad=False)
            self.parts.append(part)
        self.eval()

    def forward(self, *inputs: Any, **others: Any) -> Tensor:
        """The sum; further arguments are for the model."""
        sums = [part(t.flatten(1)) for part, t in zip(self.parts, inputs, strict=False)]
        total: Tensor = sum(sums[1:], sums[0])
        return total[:, 0] if self.outputs is None else total.expand(-1, self.outputs)


class Planted(nn.Module):
    """A module and the term, added to every output."""

    def __init__(self, model: nn.Module, term: Term) -> None:
        super().__init__()
        self.model, self.term = model, term
        self.training = model.training

    def forward(self, *inputs: Any, **others: Any) -> Tensor:
        """The model's output and the term."""
        added = self.term(*inputs, **others)  # first, since a model may change its input in place
        found: Tensor = self.model(*inputs, **others) + added
        return found


def planted(model: Any, term: Term) -> Callable[..., Any]:
    """A model and the term; a function stays one, so that modules inside it are met when it calls them."""
    if isinstance(model, nn.Module):
        return Planted(model, term)

    def both(*inputs: Any, **others: Any) -> Any:
        added = term(*inputs, **others)
        return model(*inputs, **others) + added

    return both


@dataclasses.dataclass(frozen=True, eq=False)
class Plant:
    """The term g for some examples, and the questions about f + g and about g alone.

    Attributes:
        question: about f.
        both: about f + g.
        alone: about g.
    """

    question: Problem
    both: Problem
    alone: Problem

    @staticmethod
    def of(bench: Bench, question: Problem, seed: int) -> Plant | None:
        """A random term of the size of what the inputs change in the score; None where none can be added to it."""
        p = question
        if p._target_site is not None or not all(t.is_floating_point() for t in p.inputs):
            return None
        generator = draws(seed, stream=STREAM)
        weights = p.inputs.map(
            lambda t: torch.randn(t.shape[1:], generator=generator, dtype=torch.float64).to(t.device, t.dtype)
        )
        size = float(abs((p.point - p.base) * weights).per_example().mean())
        change = float((p.scores - p.base_scores()).abs().mean())
        weights = weights * (change / size) if size and change else weights
        outputs = None if bench.p.output is None else bench.p.output.shape[1]
        term = Term(weights, outputs)
        found = Plant(p, _of(p, planted(bench.model, term)), _of(p, term))
        try:
            moved = found.both.scores - p.scores
            expected = (p.inputs * weights).per_example()
        except TorchwhyError:
            return None
        return found if torch.allclose(moved, expected, rtol=1e-2, atol=1e-3 * (change or 1)) else None

    def error(self, bench: Bench, candidate: Candidate) -> float | None:
        r"""How far the method is from adding up, as a share of what it says of the term.

        .. math:: \frac{\lVert \phi(f + g) - \phi(f) - \phi(g) \rVert_1}{\lVert \phi(g) \rVert_1}

        None for a method that looks at a layer, which the term goes past, or that does not run on the term alone.
        """
        if candidate.method.at is not None:
            return None
        try:
            f, both, alone = (_values(bench, candidate, p) for p in (self.question, self.both, self.alone))
        except TorchwhyError:
            return None
        size = float(abs(alone).per_example().sum())
        return float(abs(both - f - alone).per_example().sum()) / size if size else None


def _of(p: Problem, model: Any) -> Problem:
    """The same question about another model with outputs of the same form."""
    part = p._copy()
    part.model, part._scores, part._output = model, None, None
    part._shared = dataclasses.replace(p._shared, behind={}, limits={}, channels_last=None)
    part._shortcuts = {}
    return part


def _values(bench: Bench, candidate: Candidate, p: Problem) -> Tensors:
    other = dataclasses.replace(candidate, method=candidate.method.with_options(model=p.model))
    return bench.explain(other, p)
