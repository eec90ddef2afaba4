"""What to draw for an explanation, decided once for figures and pages: heat maps, or bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from torchwhy.core.explanation import Explanation
from torchwhy.core.tensors import as_tensors
from torchwhy.render.colour import finite, full_colour
from torchwhy.render.image import blend, heatmap, is_image
from torchwhy.render.tabular import Bars, bars

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Values (h, w) and the input (C, H, W) they are painted over, if there is one of that kind."""

    values: Tensor
    background: Tensor | None
    signed: bool
    smooth: bool
    caption: str

    @property
    def limit(self) -> float:
        """The magnitude of full colour; 0 when every value is zero."""
        return full_colour(self.values)

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return float(finite(self.values).abs().max())

    @property
    def colours(self) -> Tensor:
        """RGBA (H, W, 4): one pixel per pixel of the background, or per value where there is none."""
        return blend(self.values, self.background, signed=self.signed, limit=self.limit, smooth=self.smooth)

    def image(self) -> Image:
        """The same as a picture."""
        return heatmap(self.values, self.background, signed=self.signed, limit=self.limit, smooth=self.smooth)

    def in_words(self) -> str:
        """What one sees: the sign that prevails and the strongest place."""
        values = finite(self.values)
        h, w = values.shape
        if not values.any():
            return f"{h} x {w} values, all zero"
        row, column = divmod(int(values.abs().argmax()), w)
        place = f"strongest at row {row + 1} of {h}, column {column + 1} of {w}"
        if not self.signed:
            return place
        share = float(values.clamp_min(0).sum() / values.abs().sum())
        return f"{100 * share:.0f} % of the weight raises the score, the rest lowers it; {place}"


Panel: TypeAlias = HeatMap | Bars


def panels(explanation: Explanation, index: int = 0) -> tuple[Panel, ...]:
    """One panel for each tensor of values of one example."""
    example = explanation[index]
    values, inputs = as_tensors(example.values)[0], as_tensors(example.inputs)[0]
    unknown = example.standard_error is None
    errors = [None] * len(values) if unknown else as_tensors(example.interval()[1])[0] - values
    single = inputs.parts[0] if len(inputs) == 1 else None
    beneath = inputs.parts if len(inputs) == len(values) else [single] * len(values)
    return tuple(
        _panel(v[0], x if x is None else x[0], e if e is None else e[0], example)
        for v, x, e in zip(values, beneath, errors, strict=True)
    )


def pictures(explanation: Explanation, index: int = 0) -> tuple[Tensor, ...]:
    """Those inputs (C, H, W) of one example that can be looked at."""
    return tuple(x for x in (t[0] for t in as_tensors(explanation[index].inputs)[0]) if is_image(x))


def _panel(values: Tensor, under: Tensor | None, errors: Tensor | None, example: Explanation) -> Panel:
    signed = example.signed
    if example.form == "pairs":
        caption = f"pairs of {len(values)} features, each alone on the diagonal"
        return HeatMap(values, None, signed, smooth=False, caption=caption)
    if values.ndim not in (2, 3) or min(values.shape[-2:]) == 1:
        return bars(values, errors, signed=signed, what="unit" if example.at else "feature")
    if values.ndim == 2:
        return HeatMap(
            values, None, signed, smooth=False, caption=f"{values.shape[0]} rows x {values.shape[1]} columns"
        )
    channels, h, w = values.shape
    notes = [f"sum over {channels} channels"] if channels > 1 else []
    background = under if under is not None and is_image(under) else None
    smooth = background is not None and background.shape[1:] != values.shape[1:]
    if background is not None and smooth:
        notes.append(f"{h} x {w} map, enlarged bilinearly to {background.shape[1]} x {background.shape[2]}")
    return HeatMap(finite(values).sum(0), background, signed, smooth, caption=", ".join(notes))
