"""Add a term that is known to the model's score: does a method's answer change by what it says of the term alone?"""

from __future__ import annotations

import dataclasses

import torch

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.metrics.sums import random_term, summed
from torchwhy.recommendation.bench import Bench, Candidate


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
        """A random term of the size of what the inputs change in the score; None where none can be added to it.

        That is so at a layer, for a target in one, and for inputs that are whole numbers.
        """
        p = question
        if p.site is not None or p.target_site is not None or not all(t.is_floating_point() for t in p.inputs):
            return None
        term, weights = random_term(p, seed)
        both, alone = (p.put_to(model, alike=False) for model in (summed(bench.model, term), term))
        found = Plant(p, both, alone)
        try:
            moved = found.both.scores - p.scores
            expected = (p.inputs * weights).per_example()
        except TorchwhyError:
            return None
        change = float((p.scores - p.base_scores()).abs().mean()) or 1.0
        return found if torch.allclose(moved, expected, rtol=1e-2, atol=1e-3 * change) else None

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


def _values(bench: Bench, candidate: Candidate, p: Problem) -> Tensors:
    other = dataclasses.replace(candidate, method=candidate.method.with_options(model=p.model))
    return bench.explain(other, p)
