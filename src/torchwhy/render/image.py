"""Pictures of inputs, and heat maps over them."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from torchwhy.core.errors import TorchwhyError
from torchwhy.render.colour import finite, full_colour, over, paint

if TYPE_CHECKING:
    from PIL.Image import Image

_LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear RGB by Rec. 709; close enough for a faint background
_INK = 0.25  # opacity of a drawing's darkest stroke under a heat map
_FAINT = 0.7  # grey of a photograph's black under a heat map; its white stays white


def picture(pixels: Tensor) -> Image:
    """An input as one sees it: ``(3, H, W)`` in colour, other ``(C, H, W)`` as its mean grey, or ``(H, W)``.

    Values within [0, 1] are shown as they are, bytes as bytes, anything else stretched from its least value
    (black) to its greatest (white), since how it was normalised is not known.

    >>> picture(torch.zeros(1, 12, 10)).size
    (10, 12)
    """
    return _image(_stretch(_channels(pixels)).movedim(0, -1).expand(-1, -1, 3))


def heatmap(
    values: Tensor,
    background: Tensor | None = None,
    *,
    signed: bool,
    limit: float | None = None,
    smooth: bool = False,
) -> Image:
    """Values ``(h, w)`` painted over a faint grey ``background`` ``(C, H, W)``, in its size.

    Over a photograph the result is opaque. A drawing, one channel of strokes on an empty ground, leaves the
    ground transparent, so that it suits a light and a dark page.

    Args:
        values: what to paint.
        background: the input that was explained, in any range.
        signed: orange and blue for positive and negative, else one colour for sizes.
        limit: the magnitude of full colour; by default the 99.5th percentile of the magnitudes.
        smooth: bring values of another size than the background to its size bilinearly, as suits a coarse
            layer map, and not pixel by pixel.

    Raises:
        TorchwhyError: ``values`` is not a matrix, ``background`` not an image, or one of them is not finite.

    >>> image = heatmap(torch.eye(6), torch.rand(3, 12, 12), signed=True, smooth=True)
    >>> image.mode, image.size
    ('RGB', (12, 12))
    >>> heatmap(torch.zeros(6, 6), signed=True).getpixel((0, 0))[3]  # zero is no paint
    0
    """
    colours = blend(values, background, signed=signed, limit=limit, smooth=smooth)
    return _image(colours if bool((colours[..., 3] < 1).any()) else colours[..., :3])


def blend(values: Tensor, background: Tensor | None, *, signed: bool, limit: float | None, smooth: bool) -> Tensor:
    """The colours of a `heatmap`: RGBA, ``(H, W, 4)``, each channel from 0 to 1."""
    if values.ndim != 2:
        raise TorchwhyError(f"a heat map is painted from values (h, w), not of shape {tuple(values.shape)}")
    limit = full_colour(values) if limit is None else limit
    if background is None:
        return paint(values, signed=signed, limit=limit)
    under = _faint(background)
    return over(paint(_resize(finite(values), under, smooth=smooth), signed=signed, limit=limit), under)


def heatmap_png(
    values: Tensor,
    background: Tensor | None = None,
    *,
    signed: bool,
    limit: float | None = None,
    smooth: bool = False,
    size: int = 320,
) -> bytes:
    r"""`heatmap` as the bytes of a PNG file, enlarged by the largest whole factor within ``size`` pixels.

    >>> heatmap_png(torch.eye(12), signed=False)[:4]
    b'\x89PNG'
    """
    return png(heatmap(values, background, signed=signed, limit=limit, smooth=smooth), size)


def picture_png(pixels: Tensor, *, size: int = 320) -> bytes:
    """`picture` as the bytes of a PNG file, enlarged like `heatmap_png`."""
    return png(picture(pixels), size)


def png(image: Image, size: int = 0) -> bytes:
    """The bytes of a PNG file, enlarged by the largest whole factor that keeps it within ``size`` pixels."""
    from PIL.Image import Resampling

    factor = max(1, size // max(image.size))
    stream = BytesIO()
    image.resize((image.width * factor, image.height * factor), Resampling.NEAREST).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def is_image(t: Tensor) -> bool:
    """Whether one example's tensor can be looked at: ``(1 or 3, H, W)``, more than one row and column."""
    return t.ndim == 3 and t.shape[0] in (1, 3) and min(t.shape[1:]) > 1


def _channels(pixels: Tensor) -> Tensor:
    """(1 or 3, H, W)."""
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3:
        raise TorchwhyError(f"a picture is drawn from (C, H, W) or (H, W), not from shape {tuple(pixels.shape)}")
    whole = pixels.dtype == torch.uint8
    pixels = finite(pixels) / (255 if whole else 1)
    return pixels if pixels.shape[0] in (1, 3) else pixels.mean(0, keepdim=True)


def _stretch(pixels: Tensor) -> Tensor:
    """Into [0, 1], unless it is there already."""
    least, greatest = pixels.min(), pixels.max()
    if least >= 0 and greatest <= 1:
        return pixels
    span = greatest - least
    return (pixels - least) / span if span > 0 else torch.full_like(pixels, 0.5)


def _faint(background: Tensor) -> Tensor:
    """RGBA (H, W, 4) of a background that leaves the colours to the heat map."""
    pixels = _stretch(_channels(background))
    grey = pixels[0] if pixels.shape[0] == 1 else torch.einsum("chw,c->hw", pixels, pixels.new_tensor(_LUMINANCE))
    ground = torch.cat([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]]).median()
    if pixels.shape[0] == 1 and min(ground, 1 - ground) < 0.1:
        strokes = (grey - ground).abs()
        return torch.cat([grey.new_full((*grey.shape, 3), 0.5), _INK * strokes[..., None]], -1)
    grey = _FAINT + (1 - _FAINT) * grey
    return torch.stack([grey, grey, grey, torch.ones_like(grey)], -1)


def _resize(values: Tensor, like: Tensor, *, smooth: bool) -> Tensor:
    """Values (h, w) in the size of a picture (H, W, 4)."""
    size = like.shape[:2]
    if values.shape == size:
        return values
    mode: dict[str, Any] = {"mode": "bilinear", "antialias": True} if smooth else {"mode": "nearest-exact"}
    return interpolate(values[None, None], size, **mode)[0, 0]


def _image(colours: Tensor) -> Image:
    """From (H, W, 3 or 4) in [0, 1]."""
    from PIL.Image import fromarray

    return fromarray((255 * colours).round().to(torch.uint8).contiguous().numpy())
