"""Whether to believe an explanation: the checks that cost something."""

from __future__ import annotations

import torch

from torchwhy.core.evidence import Check, Status
from torchwhy.core.explanation import Form
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.metrics.faithfulness import deletion

CLEARLY, HARDLY = 2.0, 1.0  # standard deviations of a random order


QUESTION = "Does the score depend on what is marked?"


def basic_checks(p: Problem, values: Tensors, *, signed: bool, form: Form = "elements") -> tuple[Check, ...]:
    """Faithfulness: does removing what the explanation marks hurt more than removing at random?"""
    if form == "pairs":
        told = "pairs of features mark no elements that could be removed"
        return (Check.of("faithfulness", QUESTION, torch.zeros(p.size), lambda z, i: ("unknown", told)),)
    found = deletion(p, values, signed=signed)
    random = found.random.mean(0)

    # Where every order removes the same, as with a single position, nothing can be told.
    same = (found.random == found.fall).all(0)

    def judge(z: float, i: int) -> tuple[Status, str]:
        if same[i]:
            return "unknown", "removing what is marked and removing as much elsewhere are the same here"
        told = f"lowers the score by {found.fall[i]:.3g} on average, elsewhere by {random[i]:.3g} (z = {z:.1f})"
        if z >= CLEARLY:
            return "pass", f"removing what is marked {told}"
        if z < HARDLY:
            return "warn", f"removing what is marked hurts no more than removing as much elsewhere: it {told}"
        return "unknown", f"removing what is marked hurts hardly more than removing as much elsewhere: it {told}"

    return (Check.of("faithfulness", QUESTION, found.z, judge),)
