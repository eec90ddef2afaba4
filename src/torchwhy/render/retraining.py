"""Accuracies after retraining as a page, a card for notebooks, and a figure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol

from torchwhy.render.html import _render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = "os^Dvp<>X*"
_CONTROLS = (("0.25", "-"), ("0.5", "--"), ("0.6", "-."))
# Okabe and Ito's colours, which people tell apart who see some alike; the yellow is too light for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


class Retrained(Protocol):
    """What networks get after retraining; `torchwhy.retraining.Retraining` is one."""

    @property
    def sentences(self) -> Sequence[str]:
        """The result in words."""
        ...

    @property
    def shares(self) -> Sequence[float]:
        """Of what was removed, or kept."""
        ...

    @property
    def methods(self) -> Sequence[str]:
        """Names of what was explained with."""
        ...

    @property
    def accuracy(self) -> Mapping[str, Any]:
        """By what gave the order."""
        ...

    @property
    def untouched(self) -> Sequence[float | None]:
        """Accuracies for the data as they are."""
        ...

    @property
    def traced(self) -> float:
        """The share at which nothing but the place of what was removed was shown."""
        ...

    @property
    def majority(self) -> float:
        """The accuracy of always naming the most frequent class."""
        ...

    @property
    def keep(self) -> bool:
        """What came first was kept."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is needed to repeat it."""
        ...

    def means(self, name: str) -> Sequence[float | None]:
        """The accuracy at each share."""
        ...

    def errors(self, name: str) -> Sequence[float | None]:
        """Its standard errors."""
        ...

    def lines(self) -> list[list[str]]:
        """The accuracies, under a line of headings."""
        ...


def page(found: Retrained, title: str = "Trained without what is marked") -> str:
    """One self-contained page."""
    return _render("retraining.html.j2", found=found, plot=_drawing(found), title=title)


def fragment(found: Retrained) -> str:
    """An HTML fragment for notebooks."""
    return _render("retraining_card.html.j2", found=found, plot=_drawing(found))


def figure(found: Retrained) -> Figure:
    """Accuracy over the share, with one standard error; methods are in colour, controls in grey."""
    from matplotlib.figure import Figure

    whole = Figure(figsize=(8.0, 4.5), layout="constrained")
    ax = whole.subplots()
    numbers = {name: i for i, name in enumerate(found.methods)}
    controls = cycle(_CONTROLS)
    for name in found.accuracy:
        mother = name.removesuffix(", reversed")
        of_method = name in numbers or mother in numbers
        i = numbers.get(name, numbers.get(mother, 0))
        points = [
            (100 * q, 100 * m, 100 * (e or 0))
            for q, m, e in zip(found.shares, found.means(name), found.errors(name), strict=True)
            if m is not None
        ]
        if not points:
            continue
        x, y, error = zip(*points, strict=True)
        own = _COLOURS[i % len(_COLOURS)], "-" if name in numbers else "--"
        colour, style = own if of_method else next(controls)
        ax.errorbar(
            x,
            y,
            yerr=error,
            label=name if of_method else f"control: {name}",
            color=colour,
            marker=_MARKS[i % len(_MARKS)] if of_method else None,
            linestyle=style,
            linewidth=1.8 if name in numbers else 1.3,
            markersize=5,
            capsize=2,
        )
    there = [a for a in found.untouched if a is not None]
    if there:
        ax.axhline(100 * sum(there) / len(there), color="0.25", linewidth=0.8, label="untouched data")
    ax.axhline(100 * found.majority, color="0.25", linewidth=0.8, linestyle=":", label="the most frequent class")
    ax.set_xlabel(f"share of positions {'kept' if found.keep else 'removed'}, %")
    ax.set_ylabel("test accuracy after retraining, %")
    ax.set_xlim(0, 100)
    ax.spines[["top", "right"]].set_visible(False)
    whole.legend(loc="outside right upper", fontsize="small", frameon=False)
    return whole


def _drawing(found: Retrained) -> str:
    """The figure inside the page."""
    import matplotlib as mpl

    stream = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "torchwhy"}):  # the same page for the same numbers
        figure(found).savefig(stream, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{b64encode(stream.getvalue()).decode()}"
