"""Figures of attributions over images and time series, and words coloured by them, from plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.options import one_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Array: TypeAlias = NDArray[Any]


class ImageVisualizationMethod(Enum):
    """How an image and its attributions are shown."""

    heat_map = 1
    blended_heat_map = 2
    original_image = 3
    masked_image = 4
    alpha_scaling = 5


class TimeseriesVisualizationMethod(Enum):
    """How a time series and its attributions are shown."""

    overlay_individual = 1
    overlay_combined = 2
    colored_graph = 3


class VisualizeSign(Enum):
    """Which attributions are shown."""

    positive = 1
    absolute_value = 2
    negative = 3
    all = 4


_KEPT: dict[str, Callable[[Array], Array]] = {
    "positive": lambda a: np.maximum(a, 0),
    "absolute_value": np.abs,
    "negative": lambda a: -np.minimum(a, 0),
    "all": lambda a: a,
}
_COLOURS = {"positive": "Greens", "absolute_value": "Blues", "negative": "Reds"}


def normalized(attr: Array, sign: str, outlier_perc: float = 2) -> Array:
    """Attributions of a sign, divided by the size below which all but ``outlier_perc`` % of their sum lies, in [-1, 1].

    Negative ones are given by their size.

    >>> normalized(np.array([1.0, -2.0, 4.0]), "positive")
    array([0.25, 0.  , 1.  ])
    """
    one_of("sign", sign, tuple(_KEPT))
    if not 0 <= outlier_perc <= 100:
        raise TorchwhyError(f"outlier_perc is a percentage, not {outlier_perc!r}")
    kept = _KEPT[sign](np.asarray(attr))
    sizes = np.sort(np.abs(kept).ravel())
    sums = np.cumsum(sizes)
    limit = sizes[np.argmax(sums >= sums[-1] * 0.01 * (100 - outlier_perc))]
    if limit == 0:
        raise TorchwhyError(f"no attribution is {'other than 0' if sign == 'all' else sign}: there is nothing to show")
    found: Array = np.clip(kept / limit, -1, 1)
    return found


def visualize_image_attr(
    attr: Array,
    original_image: Array | None = None,
    method: str = "heat_map",
    sign: str = "absolute_value",
    plt_fig_axis: tuple[Figure, Axes] | None = None,
    outlier_perc: float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.5,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
) -> tuple[Figure, Axes]:
    """An image and its attributions.

    Args:
        attr: (H, W, C), summed over the channels, or (H, W).
        original_image: (H, W, C), of numbers up to 1 or up to 255; all methods but "heat_map" need it.
        method: "heat_map", "blended_heat_map" over the image in grey, "original_image", "masked_image" (the image times
            the attributions) or "alpha_scaling" (the attributions as its opacity).
        sign: "positive", "absolute_value", "negative" or "all"; the latter two methods take one sign.
        plt_fig_axis: where to draw.
        outlier_perc: share of the sum of attributions, in percent, that lies above full colour.
        cmap: a colour map.
        alpha_overlay: opacity of a blended heat map.
        show_colorbar: below the image.
        title: above it.
        fig_size: in inches.
        use_pyplot: show the figure.
    """
    one_of("method", method, tuple(m.name for m in ImageVisualizationMethod))
    figure, axes = _figure(plt_fig_axis, fig_size, use_pyplot)
    axes = axes[0] if isinstance(axes, list) else axes
    values = normalized(attr.sum(2) if attr.ndim == 3 else attr, sign, outlier_perc)
    if method in ("masked_image", "alpha_scaling") and sign == "all":
        raise TorchwhyError(f"{method} shows attributions of one sign: choose 'positive', 'negative' or another")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    image = _bytes(original_image, method)
    if image is not None and method == "blended_heat_map":
        axes.imshow(image.mean(2), cmap="gray")
    painted = None
    if method in ("heat_map", "blended_heat_map"):
        blend = alpha_overlay if method == "blended_heat_map" else None
        painted = axes.imshow(values, cmap=cmap or _colours(sign), vmin=_least(sign), vmax=1, alpha=blend)
    elif image is not None:
        axes.imshow(_pixels(image, values, method))
    if show_colorbar:
        from mpl_toolkits.axes_grid1 import make_axes_locatable  # type: ignore[import-untyped]

        below = make_axes_locatable(axes).append_axes("bottom", size="5%", pad=0.1)
        if painted is None:
            below.axis("off")
        else:
            figure.colorbar(painted, orientation="horizontal", cax=below)
    return _finished(figure, axes, axes, title, use_pyplot)


def visualize_image_attr_multiple(
    attr: Array,
    original_image: Array | None,
    methods: list[str],
    signs: list[str],
    titles: list[str] | None = None,
    fig_size: tuple[int, int] = (8, 6),
    use_pyplot: bool = True,
    **kwargs: Any,
) -> tuple[Figure, Axes | list[Axes]]:
    """`visualize_image_attr` several times side by side, with a method, a sign and a title each."""
    if len(methods) != len(signs) or (titles is not None and len(titles) != len(methods)):
        raise TorchwhyError(f"{len(methods)} methods need as many signs and titles")
    figure, axes = _figure(None, fig_size, use_pyplot, ncols=len(methods))
    each = axes if isinstance(axes, list) else [axes]
    for n, (method, sign, one) in enumerate(zip(methods, signs, each, strict=True)):
        title = titles[n] if titles else None
        visualize_image_attr(attr, original_image, method, sign, (figure, one), title=title, use_pyplot=False, **kwargs)
    figure.tight_layout()
    return _finished(figure, axes, None, None, use_pyplot)


def visualize_timeseries_attr(
    attr: Array,
    data: Array,
    x_values: Array | None = None,
    method: str = "overlay_individual",
    sign: str = "absolute_value",
    channel_labels: list[str] | None = None,
    channels_last: bool = True,
    plt_fig_axis: tuple[Figure, Axes | list[Axes]] | None = None,
    outlier_perc: float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.7,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
    **pyplot_kwargs: Any,
) -> tuple[Figure, Axes | list[Axes]]:
    """A time series and its attributions.

    Args:
        attr: (N, C), or (C, N) with ``channels_last=False``.
        data: in its shape.
        x_values: (N,) the times.
        method: "overlay_individual" colours the ground of a panel for each channel, "overlay_combined" that of one
            panel for all by the sum of the channels, "colored_graph" the lines themselves.
        sign: as for `visualize_image_attr`, like all that is not named here.
        channel_labels: names of the channels.
        pyplot_kwargs: for the lines.
    """
    one_of("method", method, tuple(m.name for m in TimeseriesVisualizationMethod))
    if attr.ndim != 2 or attr.shape != data.shape:
        raise TorchwhyError(f"attr and data have one shape, (N, C), not {attr.shape} and {data.shape}")
    rows, series = (attr.T, data.T) if channels_last else (attr, data)
    times = np.arange(rows.shape[1]) if x_values is None else np.asarray(x_values)
    if len(times) != rows.shape[1] or len(times) < 2:
        raise TorchwhyError(f"x_values are {rows.shape[1]} times, and at least 2, not {len(times)}")
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    combined = method == "overlay_combined"
    values = normalized(rows.sum(0) if combined else rows, sign, outlier_perc)
    figure, axes = _figure(plt_fig_axis, fig_size, use_pyplot, nrows=1 if combined else len(rows), sharex=True)
    panels = axes if isinstance(axes, list) else [axes]
    colours = mpl.colormaps.get_cmap(cmap or _colours(sign))
    paint = ScalarMappable(Normalize(_least(sign), 1), colours)
    if combined:
        panels[0].set_prop_cycle(color=mpl.colormaps["Dark2"].colors)  # type: ignore[attr-defined]  # a listed one
    for n, line in enumerate(series):
        panel, label = panels[0 if combined else n], channel_labels[n] if channel_labels else None
        if method == "colored_graph":
            _coloured_line(panel, times, line, values[n], paint, pyplot_kwargs)
        else:
            panel.plot(times, line, label=label, **pyplot_kwargs)
        if combined:
            continue
        if label:
            panel.set_ylabel(label)
        if method == "overlay_individual":
            _ground(panel, times, values[n], paint, alpha_overlay)
    if combined:
        _ground(panels[0], times, values, paint, alpha_overlay)
        if channel_labels:
            panels[0].legend(loc="best")
    panels[0].set_xlim(times[0], times[-1])
    figure.subplots_adjust(hspace=0)
    if show_colorbar:
        opacity = 1 if method == "colored_graph" else alpha_overlay
        figure.colorbar(paint, ax=panels, orientation="horizontal", alpha=opacity)
    return _finished(figure, axes, panels[0], title, use_pyplot)


@dataclass(slots=True)
class VisualizationDataRecord:
    """A text, what a model said of it, and the attribution of each of its words.

    Attributes:
        word_attributions: (words,) from -1 to 1.
        pred_prob: of the predicted class.
        pred_class: what the model predicts.
        true_class: what is right.
        attr_class: what is explained.
        attr_score: the sum of the attributions.
        raw_input_ids: the words.
        convergence_score: how far the attributions miss what they promise.
    """

    word_attributions: Any
    pred_prob: float
    pred_class: Any
    true_class: Any
    attr_class: Any
    attr_score: float
    raw_input_ids: Sequence[str]
    convergence_score: float


class Markup(str):
    """HTML, which a notebook shows as such."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


def format_classname(classname: Any) -> str:
    """A cell of a table.

    >>> format_classname("<b>")
    '<td><text style="padding-right:2em"><b>&lt;b&gt;</b></text></td>'
    """
    return f'<td><text style="padding-right:2em"><b>{escape(str(classname))}</b></text></td>'


def format_special_tokens(token: str) -> str:
    """A token in angle brackets with a hash instead.

    >>> format_special_tokens("<pad>"), format_special_tokens("cat")
    ('#pad', 'cat')
    """
    return "#" + token.strip("<>") if token.startswith("<") and token.endswith(">") else token


def format_tooltip(item: str, text: str) -> str:
    """An item with a text that shows when pointed at."""
    return f'<div class="tooltip">{escape(item)}<span class="tooltiptext">{escape(text)}</span></div>'


def format_word_importances(words: Sequence[str], importances: Any) -> str:
    """Words on green where they speak for the class, on red where against."""
    values = [] if importances is None else [float(v) for v in importances]
    if not values:
        return "<td></td>"
    if len(words) > len(values):
        raise TorchwhyError(f"there are {len(words)} words, but {len(values)} attributions")
    marks = (
        f'<mark style="background-color: {_shade(v)}; opacity:1.0; line-height:1.75">'
        f'<font color="black"> {escape(format_special_tokens(w))} </font></mark>'
        for w, v in zip(words, values, strict=False)  # more values than words are for padding
    )
    return f"<td>{''.join(marks)}</td>"


def visualize_text(datarecords: Iterable[VisualizationDataRecord], legend: bool = True) -> Markup:
    """A table of texts with their words coloured, shown in a notebook."""
    heads = ("True Label", "Predicted Label", "Attribution Label", "Attribution Score", "Word Importance")
    rows = ["".join(f"<th>{head}</th>" for head in heads)]
    for record in datarecords:
        predicted = f"{record.pred_class} ({record.pred_prob:.2f})"
        cells = (record.true_class, predicted, record.attr_class, f"{record.attr_score:.2f}")
        told = "".join(map(format_classname, cells))
        rows.append(told + format_word_importances(record.raw_input_ids, record.word_attributions))
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    html = Markup(f"{_legend() if legend else ''}<table>{table}</table>")
    try:
        from IPython.display import HTML, display  # type: ignore[import-not-found,unused-ignore]  # in notebooks only
    except ImportError:
        return html
    display(HTML(html))  # type: ignore[no-untyped-call,unused-ignore]  # (the same)
    return html


def _shade(value: float) -> str:
    """White for 0, green for 1 and red for -1."""
    value = max(-1.0, min(1.0, value))
    return f"hsl({120 if value > 0 else 0}, 75%, {100 - int(50 * value if value > 0 else -40 * value)}%)"


def _legend() -> str:
    box = "display: inline-block; width: 10px; height: 10px; border: 1px solid; background-color: "
    names = {-1: "Negative", 0: "Neutral", 1: "Positive"}
    marks = "".join(f'<span style="{box}{_shade(v)}"></span> {name} ' for v, name in names.items())
    return f'<div style="border-top: 1px solid; margin-top: 5px; padding-top: 5px"><b>Legend: </b>{marks}</div>'


def _figure(given: Any, size: tuple[int, int], use_pyplot: bool, **grid: Any) -> tuple[Figure, Any]:
    """A figure and its axes, a list where there are several."""
    if given is not None:
        figure, axes = given
    elif use_pyplot:
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=size, **grid)
    else:
        from matplotlib.figure import Figure

        figure = Figure(figsize=size)
        axes = figure.subplots(**grid)
    return figure, list(axes) if isinstance(axes, np.ndarray | list | tuple) else axes


def _finished(figure: Figure, axes: Any, top: Axes | None, title: str | None, use_pyplot: bool) -> tuple[Figure, Any]:
    if title and top is not None:
        top.set_title(title)
    if use_pyplot:
        from matplotlib import pyplot as plt

        plt.show()
    return figure, axes


def _bytes(image: Array | None, method: str) -> Array | None:
    """The image, with numbers up to 1 as bytes."""
    if image is None:
        if method != "heat_map":
            raise TorchwhyError(f"{method} shows the original image: give original_image")
        return None
    return _in_range(image * 255) if image.max() <= 1 else image


def _in_range(pixels: Array) -> Array:
    found: Array = np.clip(pixels.astype(int), 0, 255)
    return found


def _pixels(image: Array, values: Array, method: str) -> Array:
    if method == "masked_image":
        return _in_range(image * values[..., None])
    if method == "alpha_scaling":
        return np.concatenate([image, _in_range(values[..., None] * 255)], axis=2)
    return image[..., 0] if image.ndim > 2 and image.shape[2] == 1 else image


def _colours(sign: str) -> str | Colormap:
    if sign != "all":
        return _COLOURS[sign]
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("RdWhGn", ["red", "white", "green"])


def _least(sign: str) -> int:
    return -1 if sign == "all" else 0


def _ground(panel: Axes, times: Array, values: Array, paint: Any, opacity: float) -> None:
    """A column behind every time."""
    half = (times[1] - times[0]) / 2
    for time, colour in zip(times, paint.to_rgba(values), strict=True):
        panel.axvspan(time - half, time + half, facecolor=colour, edgecolor=None, alpha=opacity)


def _coloured_line(panel: Axes, times: Array, line: Array, values: Array, paint: Any, options: dict[str, Any]) -> None:
    from matplotlib.collections import LineCollection

    points = np.stack([times, line], 1)
    pieces = list(np.stack([points[:-1], points[1:]], 1))
    drawn = LineCollection(pieces, cmap=paint.cmap, norm=paint.norm, **options)
    drawn.set_array(values)
    panel.add_collection(drawn)
    panel.set_ylim(1.2 * line.min(), 1.2 * line.max())


def draw_regions(
    image: Array, regions: dict[str, Array], show: bool, border_width: int, show_names: bool
) -> tuple[Figure, Axes] | None:
    """A picture with named regions (H, W) of it in colours; None if it is shown at once."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from scipy.ndimage import binary_erosion

    figure, axes = plt.subplots()
    axes.imshow(image)
    axes.axis("off")
    colours = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]  # a listed one
    for number, (name, region) in enumerate(regions.items()):
        colour = colours[number % len(colours)]
        axes.imshow(region[..., None] * np.array([*colour, 0.6]))
        if border_width > 0:
            edge = region & ~binary_erosion(region, iterations=border_width)
            axes.imshow(edge[..., None] * np.array([*colour, 0.8]))
        if show_names and region.any():
            row, column = (places.mean() for places in np.where(region))
            box = {"boxstyle": "round,pad=0.2", "facecolor": "black", "alpha": 0.6}
            axes.text(column, row, name, color="white", fontsize=10, ha="center", va="center", bbox=box)
    if not show:
        return figure, axes
    plt.show()
    return None
