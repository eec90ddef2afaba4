"""How numbers, durations and facts are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchwhy.core.explanation import Explanation

_TABLES = {"trace"}  # facts that have a place of their own
_LEAKS = 12  # operations that are told of
_LEAK = 1e-3  # of the score, from which on one is


def label(explanation: Explanation) -> str:
    """The method, and the layer it looked at."""
    return explanation.method + (f" at {explanation.at}" if explanation.at else "")


def leaks(explanation: Explanation) -> dict[str, Any] | None:
    """Where relevance leaks, the largest leak first, for methods that hand it down operation by operation."""
    trace = explanation.provenance.get("trace")
    if trace is None:
        return None
    score = abs(trace["score"])
    found = [s for s in trace["steps"] if s["leak"] is not None and abs(s["leak"]) > _LEAK * score]
    return {
        "arrived": trace["passed"],
        "score": trace["score"],
        "steps": sorted(found, key=lambda s: -abs(s["leak"]))[:_LEAKS],
        "count": len(found),
        "of": len(trace["steps"]),
    }


def number(value: float) -> str:
    """Three digits and a real minus sign.

    >>> number(-0.12345), number(1234.5)
    ('−0.123', '1,234')
    """
    digits = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return digits.replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """A probability that is never rounded to certainty.

    >>> percent(0.5), percent(0.9999), percent(0.0004), percent(1.0)
    ('50.0 %', '> 99.9 %', '< 0.1 %', '100 %')
    """
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"


def seconds(value: float) -> str:
    """A duration.

    >>> seconds(0.0123), seconds(5.23), seconds(75)
    ('12 ms', '5.2 s', '1 min 15 s')
    """
    if value < 1:
        return f"{1000 * value:.0f} ms" if value >= 0.001 else "under 1 ms"
    return f"{value:.2g} s" if value < 60 else f"{int(value) // 60} min {int(value) % 60} s"


def facts(entries: Mapping[str, Any]) -> dict[str, str]:
    """What is known about a run, in words; what is None is not known.

    >>> facts({"seconds": 0.5, "seed": None, "versions": {"torch": "2.6", "python": "3.11"}, "n_steps": 2000})
    {'seconds': '500 ms', 'versions': 'torch 2.6, python 3.11', 'n steps': '2,000'}
    """

    def words(name: str, value: Any) -> str:
        match value:
            case Mapping():
                return ", ".join(f"{k} {v}" for k, v in value.items())
            case tuple() | list():
                return ", ".join(map(str, value))
            case float():
                return seconds(value) if name == "seconds" else f"{value:g}"
            case int() if not isinstance(value, bool):
                return f"{value:,}" if name != "seed" else str(value)
        return str(value)

    return {k.replace("_", " "): words(k, v) for k, v in entries.items() if v is not None and k not in _TABLES}
