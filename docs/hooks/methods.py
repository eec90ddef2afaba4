"""Fills the page of methods from the registry, so that a method that exists is on it."""

from typing import Any

import torchwhy.methods  # noqa: F401  enters the methods into the registry
from torchwhy.registry import methods

HERE = "<!-- methods -->"
FAMILIES = {
    "gradient": "Gradients",
    "path": "Gradients along a path",
    "noise": "Gradients among noise",
    "cam": "Class activation maps",
    "attention": "Attention",
    "perturbation": "Taking something away",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return markdown.replace(HERE, f"{table()}\n\n{entries()}") if HERE in markdown else markdown


def table() -> str:
    """What each method is, needs and costs, in a line, by family."""
    parts = []
    for title, found in families():
        parts.append(f"**{title}**\n\n| Method | What it computes | Cost for each example |\n|---|---|---|")
        parts[-1] += "".join(
            f"\n| [`{cls.__name__}`][{path(cls)}] | {cls.info.summary} | {cls.info.cost} |" for cls in found
        )
    return "\n\n".join(parts)


def entries() -> str:
    """The documentation of every method, by family."""
    parts = []
    for title, found in families():
        parts.append(f"## {title}")
        parts += [f"::: {path(cls)}\n    options:\n      members: false" for cls in found]
    return "\n\n".join(parts)


def families() -> list[tuple[str, list[type]]]:
    """The title of each family, and its methods."""
    known = methods().values()
    return [(title, [cls for cls in known if cls.info.family == family]) for family, title in FAMILIES.items()]


def path(cls: type) -> str:
    """The full name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"
