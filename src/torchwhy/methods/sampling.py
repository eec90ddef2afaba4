"""What methods share whose sample may grow: a budget, an answer that is settled, a user who interrupts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchwhy.core import evidence
from torchwhy.core.errors import TorchwhyError
from torchwhy.engines.game import Game, Groups, Interrupted, Rows, rows_at_once
from torchwhy.engines.surrogate import Estimate, Pairs, student
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import MOST_EXACT, BudgetedMethod, attribution, rows_of

BITS = 2**16  # of rows that are made at a time, where a pass does not take more
REMEMBERED = 2**31  # bits of rows; of more, none is remembered
FIRST_LOOK = 16  # units of a sample


@dataclass(frozen=True)
class Units:
    """What a sample consists of, such as pairs of coalitions or orders of features.

    Attributes:
        rows: of the units one after the other, in the order in which the sample grows.
        each: rows of a unit.
        count: units that the budget pays.
        least: units, fewer than which have no standard error.
        solve: an estimate from the scores (n, each, B) of the first n units.
    """

    rows: Rows
    each: int
    count: int
    least: int
    solve: Callable[[Tensor], Estimate]


@dataclass(frozen=True)
class Rule:
    """When an estimate is settled.

    Attributes:
        limit: of every standard error; 0 is none.
        relative: the limit is a share of the largest value of an example.
        top_k: this many largest values are told apart from all others; 0 is none.
    """

    limit: float = 0.0
    relative: bool = False
    top_k: int = 0

    @staticmethod
    def of(stop_at: str | None, top_k: int | None) -> Rule:
        """As a user says it.

        >>> Rule.of("se<1%", None)
        Rule(limit=0.01, relative=True, top_k=0)
        """
        found = re.fullmatch(r"\s*se\s*<\s*([0-9.]+(?:e-?[0-9]+)?)\s*(%?)\s*", stop_at or "se<0")
        try:
            limit = float(found[1]) / (100 if found[2] else 1) if found else -1.0
        except ValueError:
            limit = -1.0
        if limit < 0 or found is None or (limit == 0 and stop_at is not None):
            raise TorchwhyError(f"stop_at bounds the standard error, such as 'se<0.01' or 'se<1%', not {stop_at!r}")
        if top_k is not None:
            at_least("top_k", top_k, 1)
        return Rule(limit, bool(found[2]), top_k or 0)

    def __bool__(self) -> bool:
        return self.limit > 0 or self.top_k > 0

    def __str__(self) -> str:
        share = f"{100 * self.limit:g} % of the largest value" if self.relative else f"{self.limit:g}"
        said = [f"every standard error is below {share}"] if self.limit else []
        return " and ".join(said + [f"the {self.top_k} largest values are told from the others"] * (self.top_k > 0))

    def settled(self, found: Estimate, look: int) -> Tensor:
        """(B,) whether it is, at the first, second, ... look.

        Few degrees of freedom widen the standard error. The largest values are told apart by intervals that hold for
        all features and all looks together in 95 % of the cases, of which a look gets half of what those before left.
        """
        size, error = found.values.abs(), found.standard_error
        done = torch.ones_like(size[0], dtype=torch.bool)
        if self.limit:
            limit = self.limit * size.amax(0) if self.relative else self.limit
            wide = student(found.freedom) / student(1_000_000)
            done &= ((error * wide) <= limit).all(0)
        if self.top_k and self.top_k < len(size):
            half = error * student(found.freedom, 0.05 / (2**look * len(size)))
            top = size.sort(dim=0, descending=True, stable=True).indices
            low = torch.take_along_dim(size - half, top, 0)[: self.top_k].amin(0)
            high = torch.take_along_dim(size + half, top, 0)[self.top_k :].amax(0)
            done &= low >= high
        return done


@dataclass(kw_only=True, eq=False)
class SampledMethod(BudgetedMethod):
    """A method whose estimates have standard errors."""

    stop_at: str | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Rule.of(self.stop_at, self.top_k)

    @property
    def rule(self) -> Rule:
        """When to stop before the budget is spent."""
        return Rule.of(self.stop_at, self.top_k)

    def rows(self, game: Game, least: int) -> int:
        """How many rows may be evaluated, at least so many."""
        budget = MOST_EXACT if self.budget is None and self.rule else self.budget
        return rows_of(game, budget, "budget", least)

    def every(self, game: Game, rows: int) -> bool:
        """Whether these are all rows there are, and all are to be evaluated."""
        m = game.features.count
        return m < 62 and rows == 2**m and (not self.rule or m <= 8)

    def sampled(self, groups: Groups, game: Game, units: Units) -> Attribution:
        """The estimate from all units, or from as many as settle it, or as were evaluated when the user interrupted."""
        rule, sizes = self.rule, [units.count]
        if rule:
            doublings = (max(units.least, FIRST_LOOK) << look for look in range(64))
            sizes = [n for n in doublings if n < units.count] + sizes
        scores, complete, reached = None, True, None
        for look, size in enumerate(sizes, 1):
            start = 0 if scores is None else len(scores) * units.each
            more, complete = evaluated(game, _behind(units.rows, start), size * units.each - start)
            more = more[: len(more) // units.each * units.each].unflatten(0, (-1, units.each)).double().cpu()
            scores = more if scores is None else torch.cat([scores, more])
            if len(scores) < min(units.least, units.count):
                raise KeyboardInterrupt
            found = units.solve(scores)
            reached = rule.settled(found, look) if rule else None
            if not complete or (reached is not None and reached.all()):
                break
        made = attribution(groups, game, found)
        if reached is not None:
            made.details["stopped_because"] = str(rule) if reached.all() else "the budget was spent"
            made.checks += (evidence.settled(reached, str(rule), game.evaluations),)
        planned = units.count * units.each * game.draws
        return made if complete else broken_off(made, game.p.size, game.evaluations, planned)


def _behind(rows: Rows, start: int) -> Rows:
    return lambda ks: rows(slice(start + ks.start, start + ks.stop))


def evaluated(game: Game, rows: Rows, count: int, what: str = "evaluating coalitions") -> tuple[Tensor, bool]:
    """Scores (K, B) of ``count`` rows, or of the first of them where the user interrupts, and whether they are all."""
    m = game.features.count
    if count * m > REMEMBERED:
        return game.values(rows, count, what), True
    step = max(1, BITS // m, rows_at_once(game.p) // (game.p.size * game.draws))
    found = []
    with game.p.progress.task(what, count) as advance:
        for start in range(0, count, step):
            part = slice(start, min(count, start + step))
            try:
                found.append(game.evaluate(rows(part), what))
            except Interrupted as interrupt:
                return torch.cat([*found, interrupt.scores]), False
            advance(part.stop - start)
    return torch.cat(found), True


def broken_off(made: Attribution, examples: int, done: int, planned: int) -> Attribution:
    """An attribution that says that the user has interrupted it."""
    made.stopped = True
    made.checks += (evidence.broken_off(examples, done, planned),)
    return made


def ends(game: Game) -> Tensor:
    """Scores (2, B) with all features and with none."""
    m = game.features.count
    return game.evaluate(torch.arange(2)[:, None].expand(2, m) == 0, "evaluating coalitions").double().cpu()


def pairs_of(pairs: Pairs, change: Tensor, least: int, solve: Callable[[Pairs, Tensor, Tensor], Estimate]) -> Units:
    """Pairs of a coalition and its complement as a sample.

    Args:
        pairs: as many as the budget pays.
        change: of the score, from no features to all, (B,).
        least: pairs.
        solve: an estimate from pairs, half the difference within each, and the change.
    """
    order = pairs.order

    def rows(ks: slice) -> Tensor:
        k = torch.arange(ks.start, ks.stop)
        return pairs.rows[order[k // 2]] ^ (k % 2 == 1)[:, None]

    def found(scores: Tensor) -> Estimate:
        kept, sample = pairs.first(len(scores))
        odd = scores.new_zeros(len(pairs), scores.shape[2])
        odd[order[: len(scores)]] = (scores[:, 0] - scores[:, 1]) / 2
        return solve(sample, odd[kept], change)

    return Units(rows, 2, len(pairs), least, found)
