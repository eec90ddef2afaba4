"""What retraining has found, to print, plot, save or show in a notebook."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.files import write_page_or_numbers
from torchwhy.recommendation.statistics import LEVEL, holm

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

Standing: TypeAlias = Literal["better", "worse", "ties", "unknown"]
Accuracies: TypeAlias = tuple[float | None, ...]

FORMAT = 1
UNTOUCHED = "untouched"
RANDOM = "random"
WORDS = {"input": "where the input is large", "edges": "the edges of the input"}


@dataclass(frozen=True)
class Gap:
    """How much more accuracy one order costs than another, as the area between their curves.

    Attributes:
        mean: over the repeats, of accuracies from 0 to 1.
        error: its standard error, of not less than one test example in a repeat; None for one repeat.
        t: the mean in standard errors.
        p: how often chance alone would give as large a t, on either side, by Student's distribution.
        repeats: so many.
    """

    mean: float
    error: float | None
    t: float | None
    p: float | None
    repeats: int


@dataclass(frozen=True)
class Finding:
    """What retraining says of a method.

    Attributes:
        method: its name.
        gap: beside removing at random; None before anything can be compared.
        p: of the gap, adjusted for all methods (Holm).
        standing: "better" and "worse" than removing at random are beyond chance; "ties" is not; "unknown" where there
            is one repeat, or the networks have not learnt the untouched data.
        widest: the share at which the curves are furthest apart, and how far.
        rivals: the gap beside the other controls, by name.
    """

    method: str
    gap: Gap | None
    p: float | None
    standing: Standing
    widest: tuple[float, float] | None
    rivals: dict[str, Gap]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        gap = None if self.gap is None else vars(self.gap)
        return vars(self) | {"gap": gap, "rivals": {name: vars(g) for name, g in self.rivals.items()}}


@dataclass(frozen=True, eq=False)
class Retraining:
    """Accuracies of networks that were trained without, or with only, what explanations mark.

    Attributes:
        shares: of the positions that were removed or kept, ascending.
        methods: by name.
        untouched: the accuracy for the data as they are, by repeat; None where it is not there.
        accuracy: by what gave the order, methods and controls, then by repeat and share.
        traces: by method, then by repeat, of networks that see nothing of an example but which positions were removed.
        traced: the share at which they were.
        keep: the first positions were kept rather than removed.
        examples: test examples.
        majority: the accuracy of always naming the most frequent class.
        interrupted: by the user.
        provenance: what is needed to repeat it.
    """

    shares: tuple[float, ...]
    methods: tuple[str, ...]
    untouched: Accuracies
    accuracy: dict[str, tuple[Accuracies, ...]]
    traces: dict[str, Accuracies]
    traced: float
    keep: bool
    examples: int
    majority: float
    interrupted: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether the networks do better on the untouched data than always naming the most frequent class."""
        there = _there(self.untouched)
        chance = math.sqrt(self.majority * (1 - self.majority) / self.examples)
        return bool(there) and sum(there) / len(there) > self.majority + 2 * chance

    def gap(self, name: str, rival: str = RANDOM) -> Gap | None:
        r"""How much more accuracy an order costs than another; with ``keep``, how much more it saves.

        .. math:: \int_0^1 a_{\text{rival}}(q) - a(q)\,dq

        with lines between the shares and no difference at both ends. None where no repeat has both.
        """
        sign = -1 if self.keep else 1
        ends = (0.0, *self.shares, 1.0)
        areas = []
        for mine, others in zip(self._curves(name), self._curves(rival), strict=True):
            a, b = _there(mine), _there(others)
            if len(a) == len(b) == len(self.shares):
                apart = [0.0, *(sign * (y - x) for x, y in zip(a, b, strict=True)), 0.0]
                areas.append(sum((ends[i + 1] - ends[i]) * (apart[i + 1] + apart[i]) / 2 for i in range(len(ends) - 1)))
        return _gap(areas, 1 / self.examples)

    @property
    def findings(self) -> list[Finding]:
        """What it says of each method, in the order given."""
        gaps = [self.gap(name) for name in self.methods]
        known = [g.p for g in gaps if g is not None and g.p is not None]
        adjusted = iter(_holm(known))
        made = []
        for name, gap in zip(self.methods, gaps, strict=True):
            p = None if gap is None or gap.p is None else next(adjusted)
            rivals = {r: g for r in WORDS if r in self.accuracy and (g := self.gap(name, r)) is not None}
            made.append(Finding(name, gap, p, self._standing(gap, p), self._widest(name), rivals))
        return made

    def _standing(self, gap: Gap | None, p: float | None) -> Standing:
        if gap is None or p is None or not self.trained:
            return "unknown"
        return "ties" if p > LEVEL else "better" if gap.mean > 0 else "worse"

    def _widest(self, name: str) -> tuple[float, float] | None:
        """The share at which a method is furthest from random, and how far."""
        sign = -1 if self.keep else 1
        mine, chance = self.means(name), self.means(RANDOM)
        apart = [
            (q, sign * (c - m))
            for q, m, c in zip(self.shares, mine, chance, strict=True)
            if m is not None and c is not None
        ]
        return max(apart, key=lambda pair: abs(pair[1]), default=None)

    def means(self, name: str) -> Accuracies:
        """The mean accuracy at each share over the repeats that are there."""
        return tuple(None if mean is None else mean[0] for mean in self._spread(name))

    def errors(self, name: str) -> Accuracies:
        """The standard errors of the means; None for one repeat."""
        return tuple(None if mean is None else mean[1] for mean in self._spread(name))

    def _spread(self, name: str) -> list[tuple[float, float | None] | None]:
        return [_mean([row[i] for row in self._curves(name)]) for i in range(len(self.shares))]

    def _curves(self, name: str) -> tuple[Accuracies, ...]:
        if name not in self.accuracy:
            raise TorchwhyError(f"nothing was removed by {name!r}, only by {', '.join(map(repr, self.accuracy))}")
        return self.accuracy[name]

    @property
    def sentences(self) -> list[str]:
        """The result in words, what matters most first."""
        return [*self._scope(), *(said for found in self.findings for said in self._told(found))]

    def _scope(self) -> list[str]:
        said = []
        mean = _mean(self.untouched)
        if self.interrupted:
            rows = [self.untouched, *self.traces.values(), *(row for rows in self.accuracy.values() for row in rows)]
            cells = [a for row in rows for a in row]
            said.append(f"Interrupted: {len(_there(cells))} of {len(cells)} trainings are done.")
        if mean is not None and not self.trained:
            said.append(
                f"The networks have not learnt: on untouched data they get {_percent(mean)}, and always naming the "
                f"most frequent class gets {_percent((self.majority, None))}. Train longer, or otherwise, first."
            )
        elif mean is not None:
            said.append(
                f"Trained on untouched data, networks get {_percent(mean)} of {self.examples:,} examples right."
            )
        return said

    def _told(self, found: Finding) -> list[str]:
        gap = found.gap
        if gap is None or found.widest is None:
            return [f"Of {found.method}, no repeat is complete yet."]
        if self.keep:
            deed, verb, chance = f"Keeping only what {found.method} marks", "saves", "keeping at random"
        else:
            deed, verb, chance = f"Removing what {found.method} marks", "costs", "removing at random"
        size = _points(abs(gap.mean), gap.error)
        at, most = found.widest
        where = f"on average over all shares, {_signed(most)} at {100 * at:g} %"
        told = f"t = {number(gap.t)}, p = {number(found.p)}" if gap.t is not None and found.p is not None else ""
        how = "more" if gap.mean >= 0 else "less"
        said = f"{deed} and retraining {verb} {size} {how} accuracy than {chance} ({where}"
        ends = {
            "better": f"; {told}): more than chance.",
            "worse": f"; {told}): chance does better.",
            "ties": f"; {told}), which may be chance.",
            "unknown": "), of one repeat, which tells nothing from chance: ask for 3 or more."
            if gap.error is None
            else ").",
        }
        return [said + ends[found.standing], *self._rivals(found), *self._given_away(found)]

    def telltale(self, name: str) -> bool:
        """Whether the traces of a method get further than half of the way from the most frequent class to all data."""
        alone, whole = _mean(self.traces.get(name, ())), _mean(self.untouched)
        return alone is not None and whole is not None and 2 * alone[0] > whole[0] + self.majority

    def _given_away(self, found: Finding) -> list[str]:
        """The class, by the shape of what was removed."""
        alone = _mean(self.traces.get(found.method, ()))
        if alone is None or not self.telltale(found.method):
            return []
        told = f"networks that see nothing else get {_percent(alone)} right (at {100 * self.traced:g} %)"
        so = "So accuracy is there without anything in the positions that are left, and the curve says little of it."
        return [f"But which positions {found.method} marks tells the class: {told}. {so}"]

    def _rivals(self, found: Finding) -> list[str]:
        """What knows nothing of the network and does as well."""
        if found.standing != "better":
            return []
        equal = [name for name, g in found.rivals.items() if g.p is not None and not (g.mean > 0 and g.p <= LEVEL)]
        if not equal:
            return []
        what = " or ".join(WORDS[name] for name in equal)
        deed = "keeping" if self.keep else "removing"
        return [f"But {deed} {what} does as well as {found.method}, or cannot be told from it, and knows no network."]

    def __repr__(self) -> str:
        """Such as ``<Retraining of 2 methods, 3 shares, 3 repeats>``."""
        return f"<Retraining of {len(self.methods)} methods, {len(self.shares)} shares, {len(self.untouched)} repeats>"

    def __str__(self) -> str:
        """The sentences and the table, as on a terminal without colours."""
        from rich.console import Console

        console = Console(width=100, no_color=True, markup=False, highlight=False, force_terminal=False)
        with console.capture() as captured:
            console.print("\n".join(self.sentences))
            console.print(self.table())
        return "\n".join(line.rstrip() for line in captured.get().splitlines()).rstrip()

    def lines(self, *, errors: bool = True) -> list[list[str]]:
        """Accuracy in per cent at each share, and beside random, under a line of headings."""
        deed = "kept" if self.keep else "removed"
        heading = [f"{deed} by", *(f"{100 * q:g} %" for q in self.shares), "gap", "p", "is"]
        rows = [[*heading, "traces"]]
        found = {f.method: f for f in self.findings}
        for name in self.accuracy:
            cells = [_cell(mean, errors=errors) for mean in self._spread(name)]
            gap = self.gap(name) if name != RANDOM else None
            beside = "" if gap is None else _plain((gap.mean, gap.error), signed=True)
            f = found.get(name)
            p = "" if f is None or f.p is None else number(f.p)
            alone = _cell(_mean(self.traces.get(name, ())), errors=errors)
            standing = f.standing if f is not None else "control" if name in (RANDOM, *WORDS) else ""
            rows.append([name, *cells, beside, p, standing, alone])
        return rows

    def table(self) -> Table:
        """The mean accuracies, for `rich.print`."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Column, Table

        heading, *rows = self.lines(errors=False)
        table = Table(Column(heading[0], style="bold", overflow="fold"), *heading[1:], box=SIMPLE_HEAD)
        for row in rows:
            table.add_row(*row)
        return table

    @property
    def facts(self) -> dict[str, Any]:
        """What is needed to repeat it."""
        return {"repeats": len(self.untouched), "test examples": self.examples, **self.provenance}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            **vars(self),
            "sentences": self.sentences,
            "findings": [found.as_dict() for found in self.findings],
        }

    def plot(self) -> Figure:
        """Accuracy over the share, a matplotlib figure."""
        from torchwhy.render.retraining import figure

        return figure(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a page, .html, or the numbers, .json, which `load` reads.

        Raises:
            TorchwhyError: another ending, or the path cannot be written.
        """
        from torchwhy.render.retraining import page

        return write_page_or_numbers(path, "a retraining", lambda: page(self), self.as_dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Retraining:
        """Read what `save` has written as .json.

        Raises:
            TorchwhyError: it is not there, or no retraining.
        """
        try:
            words = json.loads(Path(path).read_bytes())
            if words["format"] != FORMAT:
                raise TorchwhyError(f'its "format" is {words["format"]!r}, not {FORMAT}')
            words["accuracy"] = {name: tuple(map(tuple, rows)) for name, rows in words["accuracy"].items()}
            words["traces"] = {name: tuple(row) for name, row in words["traces"].items()}
            words |= {name: tuple(words[name]) for name in ("shares", "methods", "untouched")}
            return cls(**{name: words[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise TorchwhyError(f"{path} is no retraining that was saved as .json: {error}") from error

    def _repr_html_(self) -> str:
        from torchwhy.render.retraining import fragment

        return fragment(self)


def number(value: float) -> str:
    """Three digits and a real minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}").replace("inf", "\N{INFINITY}")


def _there(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None]


def _mean(values: Sequence[float | None]) -> tuple[float, float | None] | None:
    """The mean and its standard error over what is there."""
    there = _there(values)
    if not there:
        return None
    mean, n = math.fsum(there) / len(there), len(there)
    return mean, None if n < 2 else math.sqrt(math.fsum((v - mean) ** 2 for v in there) / (n - 1) / n)


def _gap(areas: list[float], least: float) -> Gap | None:
    """The mean with its error and test; a spread below ``least`` is that of what can be counted."""
    found = _mean(areas)
    if found is None:
        return None
    mean, error = found
    if error is None:
        return Gap(mean, None, None, None, 1)
    from scipy.special import stdtr

    n = len(areas)
    error = max(error, least / math.sqrt(n))
    t = mean / error
    return Gap(mean, error, t, float(2 * stdtr(n - 1, -abs(t))), n)


def _holm(p: list[float]) -> list[float]:
    import torch

    adjusted: list[float] = holm(torch.tensor(p, dtype=torch.float64)).tolist()
    return adjusted


def _cell(mean: tuple[float, float | None] | None, *, errors: bool) -> str:
    return "" if mean is None else _plain(mean if errors else (mean[0], None))


def _percent(mean: tuple[float, float | None]) -> str:
    return f"{_plain(mean)} %"


def _plain(mean: tuple[float, float | None], *, signed: bool = False) -> str:
    """In per cent, with one standard error."""
    told = f"{100 * mean[0]:+.1f}" if signed else f"{100 * mean[0]:.1f}"
    error = "" if mean[1] is None else f" ± {100 * mean[1]:.1f}"
    return told.replace("-", "\N{MINUS SIGN}") + error


def _points(value: float, error: float | None) -> str:
    return f"{_plain((value, error))} points"


def _signed(value: float) -> str:
    return _plain((value, None), signed=True)
