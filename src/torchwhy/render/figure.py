"""An explanation as a matplotlib figure."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.explanation import Explanation
from torchwhy.render.colour import NEGATIVE, POSITIVE, SIZE, over, paint
from torchwhy.render.image import picture
from torchwhy.render.panels import HeatMap, Panel, panels, pictures
from torchwhy.render.tabular import Bars
from torchwhy.render.words import label

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_PANEL = 3.0  # inches


def figure(explanation: Explanation, examples: int = 8) -> Figure:
    """The first ``examples`` of an explanation, one row each: inputs, attributions, the verdict in words.

    The figure belongs to no window and to no backend: ``figure(e).savefig("why.svg")`` works anywhere, and
    notebooks show it.

    Raises:
        TorchwhyError: ``examples`` is less than 1, or the values are not finite.

    >>> x = torch.rand(2, 1, 8, 8)
    >>> e = Explanation(x - 0.5, x, scores=torch.ones(2), target=("3", "5"), method="Saliency")
    >>> len(figure(e).subfigs)
    2
    """
    from matplotlib.figure import Figure

    if examples < 1:
        raise TorchwhyError(f"a figure shows at least one example, not {examples}")
    count = min(examples, len(explanation))
    drawn = [(pictures(explanation, i), panels(explanation, i)) for i in range(count)]
    widths = [[1.0] * len(seen) + [_width(panel) for panel in shown] for seen, shown in drawn]
    heights = [1 + _PANEL * max(map(_height, shown)) for _, shown in drawn]
    whole = Figure(figsize=(max(5.0, _PANEL * max(map(sum, widths))), sum(heights)), layout="constrained")
    rows = whole.subfigures(count, 1, squeeze=False, height_ratios=heights)[:, 0]
    room = int(12 * whole.get_figwidth())  # characters a line
    for i, (row, (seen, shown)) in enumerate(zip(rows, drawn, strict=True)):
        axes = row.subplots(1, len(widths[i]), squeeze=False, width_ratios=widths[i])[0]
        for ax, pixels in zip(axes, seen, strict=False):
            ax.imshow(picture(pixels))
            _bare(ax, "input")
        for ax, panel in zip(axes[len(seen) :], shown, strict=True):
            _draw(ax, panel)
        own = ", its own prediction" if explanation.predicted else ""
        score = f"(score {float(explanation.scores[i]):.4g})"
        title = f"{label(explanation)} for “{explanation.target_name(i)}”{own} {score}"
        # parse_math=False: a name with dollar signs is a name, not a formula.
        row.suptitle(fill(title, room), parse_math=False, fontsize="large")
        row.supxlabel(fill(str(explanation.verdicts[i]), room), parse_math=False, fontsize="medium")
    return whole


def _width(panel: Panel) -> float:
    """In panels: a heat map has its colour bar beside it, bars have their names."""
    return 1.25 if isinstance(panel, HeatMap) else 2.2


def _height(panel: Panel) -> float:
    """In panels: a dozen bars are as high as a picture."""
    return 1.0 if isinstance(panel, HeatMap) else max(1.0, len(panel.names) / 12)


def _draw(ax: Axes, panel: Panel) -> None:
    if isinstance(panel, Bars):
        _draw_bars(ax, panel)
        return
    ax.imshow(_on_paper(panel.colours))
    _bare(ax, panel.caption)
    bar = ax.figure.colorbar(_scale(panel), ax=ax, shrink=0.85)
    bar.set_label(_legend(panel), fontsize="small")
    bar.ax.tick_params(labelsize="small")


def _legend(panel: HeatMap) -> str:
    if panel.limit == 0:
        return "all values are zero"
    words = "lowers  ←  the score  →  raises" if panel.signed else "size, in either direction"
    clipped = f"\n(the largest, {panel.largest:.3g}, has full colour too)"
    return words + clipped if panel.largest > panel.limit else words


def _scale(panel: HeatMap) -> ScalarMappable:
    """The colours of `paint` on white paper."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    limit = panel.limit or 1.0
    ramp = paint(torch.linspace(-1.0 if panel.signed else 0.0, 1.0, 255), signed=panel.signed, limit=1.0)
    return ScalarMappable(Normalize(-limit if panel.signed else 0.0, limit), ListedColormap(_on_paper(ramp)))


def _on_paper(colours: Tensor) -> NDArray[np.float64]:
    return over(colours, torch.ones_like(colours)).numpy()


def _draw_bars(ax: Axes, panel: Bars) -> None:
    rows = range(len(panel.names))
    positive, negative, size = (tuple(c / 255 for c in rgb) for rgb in (POSITIVE, NEGATIVE, SIZE))
    colours = [(negative if v < 0 else positive) if panel.signed else size for v in panel.values]
    ax.barh(rows, panel.values, color=colours, xerr=panel.errors, ecolor="0.25", capsize=2)
    ax.set_yticks(rows, panel.names, fontsize="small")
    ax.invert_yaxis()
    ax.axvline(0, color="0.25", linewidth=0.8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    note = "" if panel.errors is None else "\nwhiskers: 95 % intervals"
    ax.set_xlabel(fill(panel.caption, 40) + note, fontsize="small")


def _bare(ax: Axes, caption: str) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color("0.85")
    ax.set_xlabel(fill(caption, 32), fontsize="small")
