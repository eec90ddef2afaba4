"""Does the score depend on what is marked? Asked by taking it away."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchwhy.core.evidence import Check, Status, undecided
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.methods.base import Method
from torchwhy.metrics.faithfulness import deletion

CLEARLY, HARDLY = 2.0, 1.0  # standard deviations of a random order

QUESTION = "Does the score depend on what is marked?"


def faithfulness(p: Problem, method: Method, values: Tensors, shares: Sequence[float], orders: int) -> Check:
    """Does removing what the explanation marks hurt more than removing at random? (B,) z-scores.

    Args:
        p: the problem that was explained.
        method: how.
        values: the attributions.
        shares: of the positions, removed one after the other.
        orders: random ones to compare with.
    """
    if method.facts.form == "pairs":
        told = "pairs of features mark no elements that could be removed"
        return undecided("faithfulness", QUESTION, p.size, told)
    held = method._as_held(p, values)
    found = deletion(p, held, signed=method.facts.signed, shares=shares, orders=orders)
    random = found.random.mean(0)
    rows = values.double_for_sums().flat()
    largest = rows.abs().amax(1)
    rounding = 32 * torch.finfo(values.parts[0].dtype).eps * largest
    uniform = (rows.amax(1) - rows.amin(1) <= rounding) & (largest > 0) & (rows.shape[1] > 1)

    # Where every order removes the same, as with a single position, nothing can be told.
    same = (found.random == found.fall).all(0)

    def judge(z: float, i: int) -> tuple[Status, str]:
        if uniform[i]:
            return "warn", "every value is the same, so that the explanation marks nothing"
        if same[i]:
            return "unknown", "removing what is marked and removing as much elsewhere are the same here"
        told = f"lowers the score by {found.fall[i]:.3g} on average, elsewhere by {random[i]:.3g} (z = {z:.1f})"
        if z >= CLEARLY:
            return "pass", f"removing what is marked {told}"
        if z < HARDLY:
            return "warn", f"removing what is marked hurts no more than removing as much elsewhere: it {told}"
        return "unknown", f"removing what is marked hurts hardly more than removing as much elsewhere: it {told}"

    return Check.of("faithfulness", QUESTION, found.z, judge)
