"""Successive halving: all are tried on few examples, the better half on twice as many, until few are left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.recommendation.statistics import front

FINALISTS = 6
FIRST = 2  # examples of the first round


@dataclass(frozen=True)
class Round:
    """One round of a race.

    Attributes:
        examples: seen by its end, from the first one on.
        alive: who took part.
        left: who is still there after it.
    """

    examples: int
    alive: tuple[int, ...]
    left: tuple[int, ...]


def race(
    costs: Sequence[float],
    examples: int,
    look: Callable[[list[int], slice], None],
    merits: Callable[[list[int], int], Tensor],
    *,
    shared: float = 0.0,
    budget: float = math.inf,
    finalists: int = FINALISTS,
) -> list[Round]:
    """Leave out the worse half, round after round; whom none beats in both merit and cost stays as well.

    Args:
        costs: of one example, of each.
        examples: there are.
        look: look at those alive on some further examples.
        merits: of those alive, after so many examples; higher is better.
        shared: what an example costs whoever looks at it.
        budget: of all rounds.
        finalists: that no round goes below.

    Paper: K. Jamieson, A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS
    2016, arXiv:1502.07943.
    """
    alive, seen, rounds = list(range(len(costs))), 0, []
    total = max(1, math.ceil(math.log2(max(1, len(alive) / finalists))) + 1)
    for number in range(total):
        price = shared + sum(costs[i] for i in alive)
        affordable = budget / (total - number) / price if price else math.inf
        aim = examples if number == total - 1 else min(examples, max(FIRST, examples >> (total - 1 - number)))
        more = int(min(aim - seen, affordable if seen else max(affordable, min(1, budget / price))))
        if more > 0:
            look(alive, slice(seen, seen + more))
            seen, budget = seen + more, budget - more * price
        if not seen:
            break
        found = merits(alive, seen)
        left = _better_half(alive, found, [costs[i] for i in alive], finalists) if number < total - 1 else alive
        rounds.append(Round(seen, tuple(alive), tuple(left)))
        alive = left
    return rounds


def _better_half(alive: list[int], merits: Tensor, costs: list[float], finalists: int) -> list[int]:
    keep = max(finalists, math.ceil(len(alive) / 2))
    order = merits.argsort(descending=True, stable=True).tolist()
    undominated = front(torch.stack([merits.double(), -torch.tensor(costs, dtype=torch.float64)], 1))
    return [alive[i] for i in sorted({*order[:keep], *undominated})]
