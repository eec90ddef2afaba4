"""Explanations as HTML: a card for notebooks, a report of one request, the story of a whole network.

Pages are self-contained: styles and pictures are inside, nothing is fetched and no script runs, which each
page's content security policy makes the browser enforce.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.explanation import Explanation
from torchwhy.core.files import write_atomically
from torchwhy.render import colour
from torchwhy.render.image import picture, png
from torchwhy.render.panels import HeatMap, panels, pictures
from torchwhy.render.story import DemoStory, Epoch, Example, Layer
from torchwhy.render.words import facts, label, leaks, number, percent

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from PIL.Image import Image

__all__ = ["DemoStory", "Epoch", "Example", "Layer", "card", "demo_report", "report", "write"]

_MOST = 8  # examples on a card
_SMALL = 128  # pixels a side, below which a picture is enlarged square by square and stored without loss
_LARGE = 448  # pixels a side, above which a picture is reduced
_QUALITY = 82  # of JPEG


def card(explanation: Explanation) -> str:
    """An HTML fragment for notebooks: the first 8 examples, their heat maps and verdicts.

    >>> import torch
    >>> x = torch.ones(1, 3)
    >>> e = Explanation(x, x, torch.ones(1), ("0",), "Saliency", classes=("<b>",))
    >>> "&lt;b&gt;" in card(e), "<b>" in card(e)
    (True, False)
    """
    return _render("card.html.j2", explanation=explanation, count=min(_MOST, len(explanation)))


def report(explanations: Sequence[Explanation], title: str, lead: str = "") -> str:
    """One self-contained page with every example of every explanation, its evidence and its provenance.

    Raises:
        TorchwhyError: there is no explanation.
    """
    if not explanations:
        raise TorchwhyError("a report needs at least one explanation")
    return _render("report.html.j2", explanations=explanations, title=title, lead=lead)


def demo_report(story: DemoStory) -> str:
    """One self-contained page that tells a network's whole story."""
    return _render("demo.html.j2", story=story, title=story.title, lead=story.lead)


def write(html: str, path: str | os.PathLike[str]) -> Path:
    """Write a page, whole or not at all.

    Raises:
        TorchwhyError: the path cannot be written.
    """
    write_atomically(path, html.encode())
    return Path(path)


def _uri(image: Image) -> str:
    """A picture inside the page: JPEG for large opaque ones, which are photographs, else PNG."""
    image = image.copy()
    image.thumbnail((_LARGE, _LARGE))
    if image.mode == "RGB" and max(image.size) >= _SMALL:
        stream = BytesIO()
        # Not optimize=True: Pillow then gives up on pictures that hardly compress, such as noise.
        image.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
        kind, content = "jpeg", stream.getvalue()
    else:
        kind, content = "png", png(image)
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _breakable(name: str) -> Markup:
    """A name that may be broken where its words meet."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[a-z])(?=[A-Z])|(?<=_)", name))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("torchwhy.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": _breakable,
        "facts": facts,
        "label": label,
        "leaks": leaks,
        "number": number,
        "percent": percent,
        "picture": picture,
        "uri": _uri,
    }
    environment.globals |= {
        "negative": _css(colour.NEGATIVE),
        "panels": panels,
        "pictures": pictures,
        "positive": _css(colour.POSITIVE),
        "size": _css(colour.SIZE),
        "small": _SMALL,
    }
    environment.tests["heat"] = lambda panel: isinstance(panel, HeatMap)
    return environment


def _css(rgb: tuple[int, int, int]) -> str:
    return " ".join(map(str, rgb))


def _render(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(**context)
