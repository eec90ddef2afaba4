"""What a comparison of methods has found, to print, plot, save or show in a notebook."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.files import write_page_or_numbers
from torchwhy.methods import Method
from torchwhy.recommendation.scores import Judgement

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group

Standing: TypeAlias = Literal["chosen", "ties", "better", "worse", "unjudged"]
NAMED = 4  # in a sentence
TRADES = 3  # sentences
NAME = 24  # characters that stay together in a table
RIVALS = {
    "random": "random attributions do",
    "constant": "attributions that are the same everywhere do",
    "input": "the size of the input does",
    "edges": "an edge detector does",
}


@dataclass(frozen=True, eq=False)
class Contender:
    """A method in its best setting, as scored on the examples kept for that.

    Attributes:
        name: of the method.
        told: with its options, as Python has it.
        method: made.
        options: what differs from the method's defaults.
        cost: model evaluations an example takes, forward and backward.
        merit: how far it gets from random attributions, 0, to the best method of each metric, 1; None where no metric
            says anything.
        error: standard error of the merit.
        behind: how far its merit is behind that of the method chosen, on average.
        margin: half the width of the interval around ``behind`` that holds jointly for all pairs; infinite where hardly
            any examples differ.
        values: means of the metrics, as these give them.
        planted: what it misses of a term added to the model, as a share; None where it could not be asked.
        standing: beside the method chosen.
        front: none of the others is better in faithfulness, stability or cost and worse in none of these.
    """

    name: str
    told: str
    method: Method = field(repr=False)
    options: dict[str, Any]
    cost: int
    merit: float | None
    error: float | None
    behind: float | None
    margin: float | None
    values: dict[str, float]
    planted: float | None
    standing: Standing
    front: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = {name: value for name, value in vars(self).items() if name not in ("method", "options")}
        told["margin"] = None if self.margin is None else finite(self.margin)
        options = {name: value if _is_plain(value) else repr(value) for name, value in self.options.items()}
        return told | {"options": options, "values": {name: finite(v) for name, v in self.values.items()}}


@dataclass(frozen=True)
class Screened:
    """A method that did not get to the end.

    Attributes:
        told: its best setting.
        cost: of an example.
        merit: as far as it was looked at, on other examples than the finalists' merit.
        examples: so many.
    """

    told: str
    cost: int
    merit: float
    examples: int


@dataclass(frozen=True, eq=False)
class Recommendation:
    """Which method to use on a model and data like these, and what speaks for it.

    Attributes:
        contenders: the finalists, of most merit first.
        judgements: whether each metric of faithfulness counts.
        screened: methods that were left behind on the examples for tuning.
        refused: methods that do not run here, and why.
        stability: the metrics of robustness.
        directions: of all metrics, "higher" or "lower".
        tuned: examples the settings were chosen on.
        scored: other examples, which the contenders were scored on.
        evaluations: of the model, forward and backward, in all.
        budget: that was given for them.
        seed: of the split and of whatever else is random.
        at: the layer that is explained; None is the input.
        unasked: metrics of robustness that cannot be asked here, and why.
        provenance: of the model and of what ran it.
    """

    contenders: tuple[Contender, ...]
    judgements: tuple[Judgement, ...]
    screened: tuple[Screened, ...]
    refused: dict[str, str]
    stability: tuple[str, ...]
    directions: dict[str, str]
    tuned: int
    scored: int
    evaluations: int
    budget: int | None
    seed: int
    at: str | None = None
    unasked: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Contender | None:
        """The cheapest of those within one standard error of the most merit; None where no metric counts."""
        return next((c for c in self.contenders if c.standing == "chosen"), None)

    @property
    def method(self) -> Method:
        """The method chosen, ready to explain.

        Raises:
            TorchwhyError: none was chosen.
        """
        if self.best is None:
            raise TorchwhyError(f"no method was chosen: {self.sentences[0]}")
        return self.best.method

    @property
    def sentences(self) -> list[str]:
        """The result in words, what matters most first."""
        return [*self._choice(), *self._trade(), *self._silent(), *self._scope()]

    def _choice(self) -> list[str]:
        best = self.best
        if best is None:
            return ["No method can be recommended: no metric tells any of them from what knows nothing of the model."]
        others = [c for c in self.contenders if c.standing == "ties"]
        worse = [c for c in self.contenders if c.standing == "worse"]
        of = "the metric" if sum(j.informative for j in self.judgements) == 1 else "the metrics"
        way = f"of the way from random attributions, 0, to the best by {of}, 1, it gets {best.merit:.2f}"
        here = "here" if self.at is None else f"at {self.at}"
        said = [f"Use {best.told} {here}: {way}, for {_evaluations(best.cost)} an example."]
        if others:
            said.append(f"It ties with {_names(others)}: on {self.scored} examples, the differences may be chance.")
        if worse:
            said.append(f"It is better than {_names(worse)}.")
        return said

    def _trade(self) -> list[str]:
        """What else there is to be had, at what price."""
        best = self.best
        if best is None or best.merit is None:
            return []
        said = []
        for c in self.contenders:
            if c is best or not c.front or c.merit is None:
                continue
            times, gets = best.cost / c.cost, f"gets {c.merit:.2f}"
            chance = ", which may be chance" if c.standing == "ties" else ""
            if times >= CLEARLY:
                said.append(f"{c.told} is {_times(times)} times cheaper and {gets}{chance}.")
            elif round(c.merit - best.merit, 2) > 0:
                price = f"{_times(1 / times)} times the cost" if 1 / times >= CLEARLY else "about the same cost"
                said.append(f"{c.told} {gets} at {price}{chance}.")
        said = said[:TRADES]
        steady = self._steadiest()
        if steady is not None and steady is not best and self._steadier(steady, best):
            name = self.stability[0]
            against = f"{number(steady.values[name])} against {number(best.values[name])}"
            said.append(f"{steady.told} is the most stable: {name} {against}.")
        return said

    def _steadier(self, one: Contender, other: Contender) -> bool:
        """By so much that it is worth a word."""
        a, b = (abs(c.values[self.stability[0]]) for c in (one, other))
        return max(a, b) >= CLEARLY * min(a, b)

    def _steadiest(self) -> Contender | None:
        if not self.stability:
            return None
        name = self.stability[0]
        sign = 1 if self.directions[name] == "higher" else -1
        there = [c for c in self.contenders if math.isfinite(c.values.get(name, math.nan))]
        return max(there, key=lambda c: sign * c.values[name], default=None)

    def _silent(self) -> list[str]:
        said = [told(j, self.at) for j in self.judgements if not j.informative]
        return said + [f"{name} cannot be asked here: {why}." for name, why in self.unasked.items()]

    def _scope(self) -> list[str]:
        said = []
        if self.screened:
            count = len(self.screened)
            said.append(f"{count} other{' was' if count == 1 else 's were'} left behind on the examples for tuning.")
        if self.refused:
            count = len(self.refused)
            said.append(f"{count} method{' was' if count == 1 else 's were'} not tried or cannot run here.")
        return said

    def __repr__(self) -> str:
        """Such as ``<Recommendation IntegratedGradients(n_steps=10), 3 contenders on 12 examples>``."""
        chosen = "of none" if self.best is None else self.best.told
        return f"<Recommendation {chosen}, {len(self.contenders)} contenders on {self.scored} examples>"

    def __str__(self) -> str:
        """The sentences and the table, as on a terminal without colours."""
        from rich.console import Console

        console = Console(width=100, no_color=True, markup=False, highlight=False, force_terminal=False)
        with console.capture() as captured:
            console.print("\n".join(self.sentences))
            console.print(self.table())
        lines = (line.rstrip() for line in captured.get().splitlines())
        return "\n".join(lines).rstrip()

    def lines(self) -> list[list[str]]:
        """The contenders, under a line of headings."""
        rows = [["method", "merit", "beside the chosen", "evaluations", *self.stability, "term missed", "front"]]
        for c in self.contenders:
            merit = "" if c.merit is None else f"{c.merit:.2f} ± {c.error:.2f}"
            steady = [number(c.values[name]) for name in self.stability]
            missed = "" if c.planted is None else share(c.planted)
            rows.append([c.told, merit, beside(c), f"{c.cost:,}", *steady, missed, "yes" if c.front else ""])
        return rows

    def judged(self) -> list[list[str]]:
        """What metrics say of the method that led on other examples and of the controls, under a line of headings."""
        rows = [["metric", "better", "leader", *RIVALS, "counts"]]
        for j in self.judgements:
            values = [number(j.values[name]) for name in RIVALS]
            leader = f"{number(j.value)} ({j.leader})"
            rows.append([j.metric, self.directions[j.metric], leader, *values, "yes" if j.informative else "no"])
        return rows

    def measured(self) -> list[list[str]]:
        """Every metric of every contender and of the controls, under a line of headings."""
        rows = [["method", *(f"{name}, {better} is better" for name, better in self.directions.items())]]
        rows += [[c.told, *(number(c.values[name]) for name in self.directions)] for c in self.contenders]
        known = {j.metric: j.values for j in self.judgements}
        for control in RIVALS:
            rows.append(
                [f"control: {control}", *(number(known[m][control]) if m in known else "" for m in self.directions)]
            )
        return rows

    @property
    def facts(self) -> dict[str, Any]:
        """What is needed to repeat it."""
        return {
            **({} if self.at is None else {"at": self.at}),
            "seed": self.seed,
            "budget": self.budget,
            "evaluations": self.evaluations,
            "examples to tune on": self.tuned,
            "examples to score on": self.scored,
            **self.provenance,
        }

    def table(self) -> Group:
        """Both tables, for `rich.print`."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Group as Made
        from rich.table import Column, Table

        made = []
        for heading, *rows in (self.lines(), self.judged()):
            first, *others = (Column(name, overflow="fold") for name in heading)  # a name that is cut is no name
            first.style, first.no_wrap = "bold", all(len(row[0]) <= NAME for row in rows)
            table = Table(first, *others, box=SIMPLE_HEAD)
            for row in rows:
                table.add_row(*row)
            made.append(table)
        return Made(*made)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "best": None if self.best is None else self.best.told,
            "at": self.at,
            "sentences": self.sentences,
            "contenders": [c.as_dict() for c in self.contenders],
            "metrics": [
                vars(j) | {"value": finite(j.value), "control_value": finite(j.control_value)} for j in self.judgements
            ],
            "stability": list(self.stability),
            "directions": self.directions,
            "screened": [vars(s) for s in self.screened],
            "refused": self.refused,
            "unasked": self.unasked,
            "tuned": self.tuned,
            "scored": self.scored,
            "evaluations": self.evaluations,
            "budget": self.budget,
            "seed": self.seed,
            "provenance": self.provenance,
        }

    def plot(self) -> Figure:
        """Merit over cost, a matplotlib figure."""
        from torchwhy.render.comparison import figure

        return figure(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a page, .html, or the numbers, .json.

        Raises:
            TorchwhyError: another ending, or the path cannot be written.
        """
        from torchwhy.render.comparison import page

        return write_page_or_numbers(path, "a comparison", lambda: page(self), self.as_dict)

    def _repr_html_(self) -> str:
        from torchwhy.render.comparison import fragment

        return fragment(self)


CLEARLY = 2.0  # times as much, to be worth a word
ROUNDING = 1e-3  # of a share


def told(j: Judgement, at: str | None = None) -> str:
    """Why a metric does not count."""
    rival = RIVALS[j.control] if at is None else RIVALS[j.control].replace("the input", f"what {at} holds")
    said = f"{j.metric} says nothing on this model, since {rival} as well"
    return f"{said} ({number(j.control_value)}; {j.leader}: {number(j.value)}), so it does not count."


def beside(c: Contender) -> str:
    """How it stands beside the method chosen."""
    if c.standing == "chosen":
        return "chosen"
    if c.behind is None or c.margin is None:
        return ""
    word = {"ties": "ties", "worse": "worse", "better": "better"}[c.standing]
    margin = f" ± {c.margin:.2f}" if math.isfinite(c.margin) else ""
    return f"{word}: {-c.behind:+.2f}{margin}".replace("-", "\N{MINUS SIGN}")


def _names(contenders: list[Contender]) -> str:
    named = [c.told for c in contenders[:NAMED]]
    if len(contenders) > NAMED:
        named.append(f"{len(contenders) - NAMED} more")
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _evaluations(count: int) -> str:
    return "1 model evaluation" if count == 1 else f"{count:,} model evaluations"


def _times(factor: float) -> str:
    return f"{factor:.2g}" if factor < 10 else f"{factor:,.0f}"


def number(value: float) -> str:
    """Three digits; nothing where there is no number."""
    return "" if math.isnan(value) else f"{value + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")


def share(value: float) -> str:
    """In per cent; what is rounding is 0."""
    return "0 %" if value < ROUNDING else f"{100 * value:.2g} %" if value < 10 else f"{100 * value:,.0f} %"


def finite(value: float) -> float | None:
    """None for JSON where there is no number."""
    return value if math.isfinite(value) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return False
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
