"""Line charts as geometry, which a template turns into inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 108, 14, 44
_LINE = 16  # height of a line of text

Tick = tuple[float, str]
"""Where on the axis, in units of the view box, and what stands there."""


@dataclass(frozen=True)
class Line:
    """One series: where its points are, what each of them says, and where its name stands."""

    name: str
    points: tuple[tuple[float, float, str], ...]
    label_y: float

    @property
    def path(self) -> str:
        """The ``points`` of an SVG polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in self.points)

    @property
    def last(self) -> str:
        """The last value, in words."""
        return self.points[-1][2].rpartition(": ")[2]


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis, in a view box of `WIDTH` by `HEIGHT`."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    bottom: float = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def in_words(self) -> str:
        """What the chart shows, for those who do not see it."""
        courses = (f"{line.name} ends at {line.last}" for line in self.lines)
        return f"{self.title} by {self.x_label}: {', '.join(courses)}"


def line_chart(
    title: str,
    xs: Sequence[int],
    series: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    words: Callable[[float], str],
    top: float | None = None,
) -> Chart:
    """A chart of ``series`` over ``xs``.

    Args:
        title: what is measured.
        xs: increasing integers.
        series: values by name, one for each of ``xs``; what is not finite is left out.
        x_label: what ``xs`` count.
        words: how a value is written.
        top: where the vertical axis ends, if not at the greatest value.

    >>> chart = line_chart("Loss", [1, 2, 3], {"test": [2.0, 1.0, 0.5]}, x_label="epoch", words="{:g}".format)
    >>> chart.in_words, [text for _, text in chart.y_ticks]
    ('Loss by epoch: test ends at 0.5', ['0.5', '1', '1.5', '2'])
    """
    kept = {n: [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)] for n, ys in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    heights = [y for points in kept.values() for _, y in points] or [0.0]
    y_ticks = _round_numbers(min(heights), max(heights) if top is None else top)
    low, high = min(y_ticks[0], *heights), max(y_ticks[-1], *heights)
    first, last = xs[0], max(xs[-1], xs[0] + 1)

    def across(x: float) -> float:
        return _LEFT + (x - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    labels = _apart({name: up(points[-1][1]) for name, points in kept.items()})
    return Chart(
        title,
        x_label,
        lines=tuple(
            Line(
                name,
                tuple((across(x), up(y), f"{x_label} {x}, {name}: {words(y)}") for x, y in points),
                labels[name],
            )
            for name, points in kept.items()
        ),
        x_ticks=tuple((across(x), f"{x:g}") for x in _round_numbers(first, last) if x == int(x) and first <= x <= last),
        y_ticks=tuple((up(y), words(y)) for y in y_ticks),
    )


def _round_numbers(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` steps of 1, 2 or 5 times a power of ten that lie around ``low`` to ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = min((s * power for s in (1, 2, 5, 10)), key=lambda s: abs(span / s - count))
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(start, max(stop, start + 1) + 1)]


def _apart(heights: dict[str, float]) -> dict[str, float]:
    """Labels moved up until none covers another."""
    placed: dict[str, float] = {}
    free = float(HEIGHT)
    for name, y in sorted(heights.items(), key=lambda item: -item[1]):
        placed[name] = free = min(y, free - _LINE)
    return placed
