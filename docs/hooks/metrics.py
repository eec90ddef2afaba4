"""Fills the page of metrics from the registry, so that a metric that exists is on it."""

from typing import Any

import torchwhy.metrics  # noqa: F401  enters the metrics into the registry
from torchwhy.registry import metrics

HERE = "<!-- metrics -->"
FAMILIES = {
    "faithfulness": "Faithfulness: does the score depend on what is marked?",
    "robustness": "Robustness: does a small change of the input change the explanation?",
    "randomisation": "Randomisation: does the explanation depend on the model?",
    "localisation": "Localisation: does it mark what it should?",
    "complexity": "Complexity: how much does it mark?",
    "axioms": "Axioms: does it keep what it promises?",
    "agreement": "Agreement: do two explanations say the same?",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return markdown.replace(HERE, f"{table()}\n\n{entries()}") if HERE in markdown else markdown


def table() -> str:
    """What each metric measures and costs, in a line."""
    rows = ["| Metric | What it measures | Better | Cost for each example |", "|---|---|---|---|"]
    for name, cls in metrics().items():
        rows.append(f"| [`{name}`][{path(cls)}] | {cls.info.summary} | {cls.info.direction} | {cls.info.cost} |")
    return "\n".join(rows)


def entries() -> str:
    """The documentation of every metric, by family."""
    parts = []
    for family, title in FAMILIES.items():
        found = [cls for cls in metrics().values() if cls.info.family == family]
        if found:
            parts.append(f"## {title}")
        parts += [f"::: {path(cls)}\n    options:\n      members: false" for cls in found]
    return "\n\n".join(parts)


def path(cls: type) -> str:
    """The full name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"
