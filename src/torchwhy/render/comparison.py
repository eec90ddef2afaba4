"""A comparison of methods as a page, a card for notebooks, and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torchwhy.render.colour import SIZE
from torchwhy.render.html import _render

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Comparison(Protocol):
    """What methods were found to be worth on a model; `torchwhy.recommendation.Recommendation` is one."""

    @property
    def sentences(self) -> Sequence[str]:
        """The result in words."""
        ...

    @property
    def contenders(self) -> Sequence[Any]:
        """Each with ``told``, ``merit``, ``error``, ``cost``, ``front`` and ``standing``."""
        ...

    @property
    def screened(self) -> Sequence[Any]:
        """Those left behind."""
        ...

    @property
    def refused(self) -> Mapping[str, str]:
        """What did not run, and why."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is needed to repeat it."""
        ...

    def lines(self) -> list[list[str]]:
        """The contenders, under a line of headings."""
        ...

    def judged(self) -> list[list[str]]:
        """The metrics, under a line of headings."""
        ...

    def measured(self) -> list[list[str]]:
        """Every metric of every contender, under a line of headings."""
        ...


@dataclass(frozen=True)
class Bar:
    """A merit on a scale from 0 or the lowest to 1 or the highest, in per cent of its length."""

    start: float
    width: float
    low: float
    reach: float


def bars(found: Comparison) -> list[Bar | None]:
    """A bar with one standard error for each contender; None where it has no merit."""
    ends = [(c.merit - c.error, c.merit + c.error) for c in found.contenders if c.merit is not None]
    low, high = min([0.0, *(a for a, _ in ends)]), max([1.0, *(b for _, b in ends)])

    def at(value: float) -> float:
        return 100.0 * float((value - low) / (high - low))

    def bar(merit: float, error: float) -> Bar:
        ends = sorted((at(0), at(merit)))
        return Bar(ends[0], ends[1] - ends[0], at(merit - error), at(merit + error) - at(merit - error))

    return [None if c.merit is None else bar(c.merit, c.error) for c in found.contenders]


def page(found: Comparison, title: str = "Which method to use here") -> str:
    """One self-contained page."""
    return _render("comparison.html.j2", found=found, bars=bars(found), title=title)


def fragment(found: Comparison) -> str:
    """An HTML fragment for notebooks."""
    return _render("comparison_card.html.j2", found=found, bars=bars(found))


def figure(found: Comparison) -> Figure:
    """Merit over cost: full marks are of methods that none beats in faithfulness, stability or cost for nothing."""
    from matplotlib.figure import Figure

    whole = Figure(figsize=(8.0, 4.5), layout="constrained")
    ax = whole.subplots()
    colour = tuple(c / 255 for c in SIZE)
    there = [c for c in found.contenders if c.merit is not None]
    for number, c in enumerate(there, 1):
        face = colour if c.front else "white"
        name = f"{number}  {c.told}{', chosen' if c.standing == 'chosen' else ''}"
        ax.errorbar(c.cost, c.merit, yerr=c.error, fmt="o", color=colour, mfc=face, capsize=2, label=name)
        ax.annotate(str(number), (c.cost, c.merit), xytext=(6, 4 + 9 * (number % 2)), textcoords="offset points")
    ax.set_xscale("log")
    ax.axhline(0, color="0.25", linewidth=0.8)
    ax.set_xlabel("model evaluations per example")
    ax.set_ylabel("merit: random 0, the best of each metric 1")
    ax.spines[["top", "right"]].set_visible(False)
    if there:
        whole.legend(loc="outside right upper", fontsize="small", frameon=False, handlelength=1)
    else:
        ax.set_title("no metric tells methods from controls", fontsize="medium")
    return whole
