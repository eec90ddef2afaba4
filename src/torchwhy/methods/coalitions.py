"""What methods share that look at coalitions of present features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import Fill, as_fill
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.noise import check_seed
from torchwhy.engines.surrogate import Estimate, all_rows
from torchwhy.methods.base import Attribution, Method, at_least

MOST_EXACT = 65_536  # evaluations, without a budget
DEFAULT_ROWS = 2048
AT_ONCE = 4096  # rows that are made at a time


@dataclass(kw_only=True, eq=False)
class GameMethod(Method):
    """A method on features that are present or absent."""

    feature_mask: Tensor | tuple[Tensor, ...] | None = None
    fill: str | Fill = "baseline"

    def __post_init__(self) -> None:
        super().__post_init__()
        as_fill(self.fill)

    def game(self, p: Problem) -> tuple[Groups, Game]:
        """The features, and the game they play."""
        groups = Groups(p.point, self.feature_mask)
        return groups, Game(p, groups, as_fill(self.fill))

    def options(self) -> dict[str, Any]:
        mask = "each element" if self.feature_mask is None else "given"
        return super().options() | {"feature_mask": mask, "fill": str(self.fill)}


@dataclass(kw_only=True, eq=False)
class BudgetedMethod(GameMethod):
    """The same, on coalitions drawn at random, as many as a number of evaluations pays."""

    budget: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        if self.budget is not None:
            at_least("budget", self.budget, 1)


def rows_of(game: Game, budget: int | None, name: str, least: int) -> int:
    """How many rows of the game a budget pays; at most all there are.

    Args:
        game: not yet played.
        budget: evaluations; None takes all rows where they cost at most 65,536, else 2,048 rows.
        name: of the budget, for people.
        least: rows, fewer than which are of no use.
    """
    m = game.features.count
    most = 2**m if m < 62 else None
    if budget is None:
        return most if most is not None and most * game.draws <= MOST_EXACT else DEFAULT_ROWS
    at_least(name, budget, 1)
    least = least if most is None else min(least, most)
    if budget < least * game.draws:
        each = f", each of {game.draws} draws" if game.draws > 1 else ""
        raise TorchwhyError(
            f"{name}={budget} is too small for {m} features{each}: the least that works is {least * game.draws}"
        )
    rows = budget // game.draws
    return rows if most is None else min(rows, most)


def all_scores(game: Game) -> Tensor:
    """Scores (2**M, B) of all rows."""
    m, what = game.features.count, "evaluating all coalitions"
    with game.p.progress.task(what, 2**m) as advance:
        parts = []
        for start in range(0, 2**m, AT_ONCE):
            parts.append(game.evaluate(all_rows(m, slice(start, min(2**m, start + AT_ONCE))), what))
            advance(len(parts[-1]))
    return torch.cat(parts)


def attribution(groups: Groups, game: Game, found: Tensor | Estimate) -> Attribution:
    """Values (M, B), or an estimate of them, at the elements."""
    return placed(groups, game, found, groups.spread)


def placed(groups: Groups, game: Game, found: Tensor | Estimate, place: Callable[[Tensor], Tensors]) -> Attribution:
    """Values, or an estimate of them, wherever they belong."""
    details: dict[str, Any] = {"features": groups.count, "evaluations": game.evaluations}
    details["exact"] = isinstance(found, Tensor)
    if isinstance(found, Tensor):
        values, error, freedom = found, torch.zeros_like(found), None
    else:
        values, error, freedom = found.values, found.standard_error, found.freedom
    device = groups.point.device
    return Attribution(place(values.to(device)), place(error.to(device)), freedom=freedom, details=details)
