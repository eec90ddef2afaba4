"""Explanations of changed copies of the inputs, so many at a time as memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torchwhy.core.problem import Points, Problem
from torchwhy.core.tensors import Tensors
from torchwhy.metrics.base import Judged

ELEMENTS = 2**24  # of changed copies that are held at a time


@dataclass
class Repeat:
    """Some of the changed copies.

    Attributes:
        ks: which they are.
        inputs: (K, B, ...).
        values: their attributions, (K, B, ...).
        p: the question about them, (K * B) rows.
    """

    ks: slice
    inputs: Tensors
    values: Tensors
    p: Problem


def repeats(judged: Judged, points: Points, count: int) -> Iterator[Repeat]:
    """Explain ``count`` changed copies of every example.

    Args:
        judged: the method and the inputs.
        points: gives, for a slice of the examples and a slice of ``range(count)``, the inputs (K, B, ...).
        count: so many of each example.
    """
    p = judged.p
    p.target  # noqa: B018  is resolved at the inputs themselves
    elements = sum(t.numel() for t in p.inputs)
    at_once = max(1, ELEMENTS // max(1, elements))
    for k in range(0, count, at_once):
        ks = slice(k, min(count, k + at_once))
        inputs = points(slice(0, p.size), ks)
        moved = p.moved(inputs.merge(), ks.stop - ks.start)
        yield Repeat(ks, inputs, judged._explained(moved).split(ks.stop - ks.start), moved)
