"""What methods share whose sample may grow: a budget, an answer that is settled, a user who interrupts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from torchwhy.core import evidence
from torchwhy.core.errors import TorchwhyError
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game, Groups, Interrupted, Rows, rows_at_once
from torchwhy.engines.spread import error_of_mean, student
from torchwhy.engines.surrogate import Estimate, Pairs
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import MOST_EXACT, BudgetedMethod, placed, rows_of

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
        first: units after which it is first asked whether the answer is settled.
        there: how many units there are, where none is drawn twice; None is no end of them.
        in_scores: values are in units of the score.
        fitted: numbers that ``solve`` fits to the sample.
    """

    rows: Rows
    each: int
    count: int
    least: int
    solve: Callable[[Tensor], Estimate]
    first: int = FIRST_LOOK
    there: int | None = None
    in_scores: bool = True
    fitted: int = 0

    def estimate(self, scores: Tensor, whole: Tensor) -> Estimate:
        """From the scores of the first units, and those (B,) of the examples themselves.

        Of a score that takes two values alone, such as a decision, draws may agree although some that were not made
        would not: then an interval has room for such ones, as many as may have been missed, each of which moves values
        by all that lies between the two.
        """
        found, n = self.solve(scores), len(scores)
        if not self.in_scores:
            return found
        every = torch.cat([scores.flatten(0, 1), whole.to(scores)[None]])
        low, high = every.aminmax(dim=0)
        decides = ((every == low) | (every == high)).all(0)
        least = decides * (high - low) * evidence.unseen(n) * self.left(n) ** 0.5 / student(found.freedom)
        return replace(found, standard_error=found.standard_error.maximum(least.to(found.standard_error)))

    def left(self, count: int) -> float:
        """The share of all units that are not among so many."""
        return 1.0 if self.there is None else 1 - count / self.there


@dataclass(frozen=True)
class Rule:
    """When an estimate is settled.

    Attributes:
        limit: of every standard error; 0 is none.
        relative: the limit is a share of the largest value of an example.
        top_k: this many largest values are told apart from all others; 0 is none.
        what: the values are called that are ranked.
    """

    limit: float = 0.0
    relative: bool = False
    top_k: int = 0
    what: str = field(default="values", repr=False)

    @staticmethod
    def of(stop_at: str | None, top_k: int | None, what: str = "values") -> Rule:
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
        return Rule(limit, bool(found[2]), top_k or 0, what)

    def __bool__(self) -> bool:
        return self.limit > 0 or self.top_k > 0

    def __str__(self) -> str:
        share = f"{100 * self.limit:g} % of the largest value" if self.relative else f"{self.limit:g}"
        said = [f"every standard error is below {share}"] if self.limit else []
        return " and ".join(
            said + [f"the {self.top_k} largest {self.what} are told from the others"] * (self.top_k > 0)
        )

    def settled(self, found: Estimate, look: int, ranked: Tensor | None = None) -> Tensor:
        """(B,) whether it is, at the first, second, ... look.

        Args:
            found: values (..., B).
            look: from 1.
            ranked: booleans (...), among which values the largest are looked for; None is all.

        Few degrees of freedom widen the standard error. The largest values are told apart by intervals that hold for
        all features and all looks together in 95 % of the cases, of which a look gets half of what those before left.
        """
        size, error = (t.flatten(0, -2) for t in (found.values.abs(), found.standard_error))
        done = torch.ones_like(size[0], dtype=torch.bool)
        if self.limit:
            limit = self.limit * size.amax(0) if self.relative else self.limit
            wide = student(found.freedom) / student(1_000_000)
            done &= ((error * wide) <= limit).all(0)
        if ranked is not None:
            size, error = size[ranked.flatten()], error[ranked.flatten()]
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

    ranks: ClassVar[str] = "values"  # is what top_k ranks

    stop_at: str | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Rule.of(self.stop_at, self.top_k)

    @property
    def rule(self) -> Rule:
        """When to stop before the budget is spent."""
        return Rule.of(self.stop_at, self.top_k, self.ranks)

    def ranked(self, values: Tensor) -> Tensor | None:
        """Among which values (..., B) the largest are looked for, booleans (...); None is all."""
        return None

    def rows(self, game: Game, least: int) -> int:
        """How many rows may be evaluated, at least so many."""
        budget = MOST_EXACT if self.budget is None and self.rule else self.budget
        return rows_of(game, budget, "budget", least)

    def paid(self, game: Game, each: int, least: int, most: int = MOST_EXACT) -> int | None:
        """How many units the budget pays beside the point itself; None where nothing limits them.

        Args:
            game: not yet played.
            each: rows of a unit.
            least: units, fewer than which are of no use.
            most: evaluations, where a rule but no budget is given.
        """
        if self.budget is None and not self.rule:
            return None
        budget = self.budget or most
        paid = (budget // game.draws - 1) // each
        if paid < least:
            raise TorchwhyError(
                f"budget={budget} is too small for {game.features.count} features: the least that works is "
                f"{(least * each + 1) * game.draws}"
            )
        return paid

    def every(self, game: Game, rows: int) -> bool:
        """Whether these are all rows there are, and all are to be evaluated."""
        m = game.features.count
        return m < 62 and rows == 2**m and (not self.rule or m <= 8)

    def sampled(
        self, groups: Groups, game: Game, units: Units, place: Callable[[Tensor], Tensors] | None = None
    ) -> Attribution:
        """The estimate from all units, or from as many as settle it, or as were evaluated when the user interrupted.

        Args:
            groups: the features.
            game: that they play.
            units: the sample.
            place: puts values (..., B) where they belong; None is at the elements of their features.
        """
        rule, sizes = self.rule, [units.count]
        if rule:
            doublings = (max(units.least, units.first) << look for look in range(64))
            sizes = [n for n in doublings if n < units.count] + sizes
        scores, complete, reached = torch.zeros(0, units.each, game.p.size, dtype=torch.float64), True, None
        for look, size in enumerate(sizes, 1):
            start = len(scores) * units.each
            more, complete = evaluated(game, _behind(units.rows, start), size * units.each - start)
            more = more[: len(more) // units.each * units.each].unflatten(0, (-1, units.each)).double().cpu()
            scores = torch.cat([scores, more])
            if len(scores) < min(units.least, units.count):
                raise KeyboardInterrupt
            found = units.estimate(scores, game.p.scores)
            reached = rule.settled(found, look, self.ranked(found.values)) if rule else None
            if not complete or (reached is not None and reached.all()):
                break
        made = placed(groups, game, found, place or groups.spread)
        made.sample = evidence.Sample.of(scores, units.fitted) if units.left(len(scores)) else None
        if len(scores) < units.least:  # of which no spread can be seen
            made.standard_error = None
            made.freedom = None
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
        game.p.check_again()
        try:
            return game.values(rows, count, what), True
        except Interrupted as interrupt:
            return interrupt.scores, False
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

    def found(sample: Pairs, scores: Tensor) -> Estimate:
        return solve(sample, (scores[:, 0] - scores[:, 1]) / 2, change)

    return in_pairs(pairs, least, found, fitted=pairs.rows.shape[1])


def in_pairs(pairs: Pairs, least: int, solve: Callable[[Pairs, Tensor], Estimate], fitted: int) -> Units:
    """The same where ``solve`` makes the estimate of pairs and the two scores (n, 2, B) of each."""
    order = pairs.order

    def rows(ks: slice) -> Tensor:
        k = torch.arange(ks.start, ks.stop)
        return pairs.rows[order[k // 2]] ^ (k % 2 == 1)[:, None]

    def found(scores: Tensor) -> Estimate:
        kept, sample = pairs.first(len(scores))
        every = scores.new_zeros(len(pairs), *scores.shape[1:])
        every[order[: len(scores)]] = scores
        return solve(sample, every[kept])

    m = pairs.rows.shape[1]
    return Units(rows, 2, len(pairs), least, found, there=2 ** (m - 1) - 1 if m < 62 else None, fitted=fitted)


def mean_of(samples: Tensor, step: int) -> Estimate:
    """The mean of samples (n, M, B), ``step`` of them at a time independent of the others."""
    values, independent = samples.mean(0), len(samples) // step
    if independent < 2:
        return Estimate(values, torch.full_like(values, torch.inf), 1)
    # What is left over, such as an order without its reverse, has at most the spread of those together.
    means = samples[: independent * step].unflatten(0, (independent, step)).mean(1)
    return Estimate(values, error_of_mean(means).to(values), independent - 1)
