"""How the score changes with the presence of features, to first order."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.passes import Seen
from torchwhy.core.problem import Problem
from torchwhy.core.target import Target
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game, Groups

PRICE = 3  # evaluations that a gradient counts as


def slopes(groups: Groups, game: Game, rows: Tensor) -> Tensor | None:
    r"""The derivatives of the score by the presence of each feature, where some are present.

    .. math:: g_i(S) = \sum_{e \in i} \frac{\partial f}{\partial z_e}(z_S)\,(x_e - x'_e)

    Args:
        groups: the features.
        game: that they play, with one draw of what absent features get.
        rows: of present features (K, M).

    Returns:
        (K, M, B), in double precision; each counts as three evaluations. None where there is no derivative: to find
        that out counts as one, or as all of them where it comes out later. Targets that are asked about together share
        the forward passes.
    """
    p = game.p
    if game.draws > 1 or not all(t.is_floating_point() for t in p.point):
        return None
    key = ("slopes", groups.key(), rows.numpy().tobytes())
    known: dict[Any, tuple[int, Tensor | None]] = {} if p.memories is None else p.memories
    if key not in known:
        known[key] = _tried(groups, game, rows)
    cost, found = known[key]
    game.evaluations += cost
    return found[p.number] if found is not None and found[p.number].isfinite().all() else None


def _tried(groups: Groups, game: Game, rows: Tensor) -> tuple[int, Tensor | None]:
    """What it counts as, and the derivatives of all targets (T, K, M, B), if there are any."""
    cost = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of numbers that are taken out of a graph
            every = Every.of(game.p.sparing())
            first = _at(groups, game, every, rows[:1])
            cost = PRICE * len(rows)
            return cost, torch.cat([first, _at(groups, game, every, rows[1:])], 1)
    except Exception:  # noqa: BLE001  whatever it is that the model or the memory has against it
        return cost, None


class Every(Problem):
    """The same question, with the gradients of all targets that are asked about together, (N, T, ...)."""

    @classmethod
    def of(cls, p: Problem) -> Every:
        """For a problem."""
        part = object.__new__(cls)
        part.__dict__.update(p.__dict__)
        return part

    def _score(self, seen: Seen, rows: Tensor, gradients: bool) -> tuple[Tensor, Target]:
        self._last = seen, rows
        return super()._score(seen, rows, gradients)

    def _differentiate(self, scores: Tensor, leaves: Tensors, target: Target, *, again: bool = False) -> Tensors:
        seen, rows = self._last
        del self._last
        asked = [target] if self._asked is None else self._asked.targets
        found = []
        for one in asked:
            with torch.enable_grad():
                score = one(seen.output, rows)
            found.append(super()._differentiate(score, leaves, one, again=again))
        return Tensors(torch.stack(parts, 1) for parts in zip(*found, strict=True))

    def _gradients(
        self, scores: Tensor, leaves: tuple[Tensor, ...], target: Target, *, again: bool = False
    ) -> tuple[Tensor | None, ...]:
        if not scores.requires_grad:
            return super()._gradients(scores, leaves, target, again=again)
        self.cost.backward += len(scores)
        return torch.autograd.grad(scores.sum(), leaves, allow_unused=True, retain_graph=True)


def _at(groups: Groups, game: Game, p: Every, rows: Tensor) -> Tensor:
    """The same for all targets, (T, K, M, B)."""
    out = torch.zeros(p.together, len(rows), groups.count, p.size, dtype=torch.float64)

    def absent(es: slice, ks: slice) -> Tensors:
        return game.bound.at(es, rows[ks].to(p.point.device), torch.zeros(ks.stop - ks.start, dtype=torch.long))

    def points(es: slice, ks: slice) -> Tensors:
        return game.filled(es, rows[ks].to(p.point.device), absent(es, ks))

    for part in p.sweep(points, len(rows), gradients=True, what="differentiating"):
        assert part.gradients is not None
        es, ks = part.examples, part.ks
        away = p.point[es] - absent(es, ks)
        for t in range(p.together):
            moved = Tensors(g[:, :, t] for g in part.gradients) * away
            out[t, ks, :, es] = groups.totals(moved, es).movedim(1, 2)
    return out
