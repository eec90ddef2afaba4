"""Common corruptions of images: what cameras, weather and files do, in five severities.

Each takes images (B, C, H, W) with values from 0 to 1, a severity from 1 to 5 and a seed, and gives images alike. All
examples get the same noise. Strengths are those of ImageNet-C, and lengths in pixels are for images of 224 by 224:
they shrink and grow with the shorter side.

Paper: D. Hendrycks, T. Dietterich, ICLR 2019, arXiv:1903.12261.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everyone calls it

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.inputs import check_inputs
from torchwhy.core.target import is_int
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import check_seed, draws

Corruption: TypeAlias = Callable[[Tensor, int, torch.Generator], Tensor]

SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTIONS: dict[str, Corruption] = {}
_SIDE = 224  # of the images that the strengths were chosen for


def corrupt(images: Tensor, kind: str, severity: int = 3, seed: int = 0) -> Tensor:
    """Images with a common corruption.

    Args:
        images: (B, C, H, W) with values from 0 to 1.
        kind: one of `CORRUPTIONS`.
        severity: from 1, slight, to 5.
        seed: of what is random.

    >>> sorted(CORRUPTIONS)[:3]
    ['brightness', 'contrast', 'defocus_blur']
    >>> corrupt(torch.full((1, 1, 2, 2), 0.5), "brightness", severity=1)
    tensor([[[[0.6000, 0.6000],
              [0.6000, 0.6000]]]])
    """
    if kind not in CORRUPTIONS:
        raise TorchwhyError(f"there is no corruption {kind!r}{closest(kind, CORRUPTIONS)}")
    check_severity(severity)
    check_seed(seed)
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        shown = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise TorchwhyError(f"corruptions are of images (B, C, H, W) of real numbers, not {shown}")
    check_inputs(Tensors([images]))
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        raise TorchwhyError(
            f"corruptions are of images with values from 0 to 1, not {low:.3g} to {high:.3g}: corrupt them before they "
            f"are normalised"
        )
    wide = images.to(torch.float64 if images.dtype == torch.float64 else torch.float32)
    changed = CORRUPTIONS[kind](wide, severity - 1, draws(seed, stream=60))
    return changed.clamp(0, 1).to(images.dtype)


def check_severity(severity: object) -> None:
    """Refuse what is no severity."""
    if not is_int(severity) or severity not in SEVERITIES:
        raise TorchwhyError(f"severity is a whole number from 1 to 5, not {severity!r}")


def _named(fn: Corruption) -> Corruption:
    CORRUPTIONS[fn.__name__.removeprefix("_")] = fn
    return fn


def _random(images: Tensor, generator: torch.Generator, kind: str = "normal") -> Tensor:
    """Draws for one image."""
    draw = torch.randn if kind == "normal" else torch.rand
    return draw(images.shape[1:], generator=generator, dtype=torch.float64).to(images)


def _pixels(images: Tensor, length: float) -> float:
    """A length of an image of 224 by 224 in pixels of these."""
    return length * min(images.shape[2:]) / _SIDE


@_named
def _gaussian_noise(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    return images + (0.08, 0.12, 0.18, 0.26, 0.38)[s] * _random(images, generator)


@_named
def _shot_noise(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    """Photons that are counted."""
    photons = (60, 25, 12, 5, 3)[s]
    rates = (images * photons).double().cpu()
    # A draw from the same uniform numbers for all images: the inverse of the distribution function.
    uniform = torch.rand(images.shape[1:], generator=generator, dtype=torch.float64)
    chance = torch.exp(-rates)
    reached, count = chance.clone(), torch.zeros_like(rates)
    for k in range(1, 2 * photons + 40):
        count += uniform > reached
        chance *= rates / k
        reached += chance
    return count.to(images) / photons


@_named
def _impulse_noise(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    """Dead pixels, as many black as white."""
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[s]
    where = _random(images, generator, "uniform")
    changed = torch.where(where < amount / 2, torch.zeros_like(images), images)
    return torch.where(where > 1 - amount / 2, torch.ones_like(images), changed)


@_named
def _speckle_noise(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    return images * (1 + (0.15, 0.2, 0.35, 0.45, 0.6)[s] * _random(images, generator))


def _filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Every channel filtered; the border is mirrored as often as need be."""
    height, width = (n // 2 for n in kernel.shape)
    rows, columns = (_mirrored(n, pad, images.device) for n, pad in zip(images.shape[2:], (height, width), strict=True))
    padded = images[:, :, rows][:, :, :, columns]
    channels = images.shape[1]
    weights = (kernel / kernel.sum()).to(images).expand(channels, 1, -1, -1)
    return F.conv2d(padded, weights, groups=channels)


def _mirrored(length: int, pad: int, device: torch.device) -> Tensor:
    place = torch.arange(-pad, length + pad, device=device) % (2 * length)
    return torch.where(place < length, place, 2 * length - 1 - place)


def _offsets(radius: float) -> Tensor:
    return torch.arange(-math.ceil(radius), math.ceil(radius) + 1, dtype=torch.float64)


@_named
def _gaussian_blur(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    sigma = _pixels(images, (1, 2, 3, 4, 6)[s])
    profile = torch.exp(-0.5 * (_offsets(4 * sigma) / sigma) ** 2)
    return _filtered(_filtered(images, profile[:, None]), profile[None])


@_named
def _defocus_blur(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    """A disk, with soft edges."""
    radius = _pixels(images, (3, 4, 6, 8, 10)[s])
    offsets = _offsets(radius + 0.5)
    distance = (offsets[:, None] ** 2 + offsets**2).sqrt()
    return _filtered(images, (radius + 0.5 - distance).clamp(0, 1))


@_named
def _motion_blur(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    """Along a line in a random direction within 45 degrees of the horizontal."""
    length = max(1.0, _pixels(images, (10, 15, 15, 15, 20)[s]))
    fade = max(0.5, _pixels(images, (3, 5, 8, 12, 15)[s]))
    angle = (torch.rand((), generator=generator, dtype=torch.float64).item() - 0.5) * math.pi / 2
    offsets = _offsets(length)
    y, x = offsets[:, None], offsets[None]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return _filtered(images, (1 - across.abs()).clamp_min(0) * torch.exp(-0.5 * (along / fade) ** 2) * (along >= 0))


@_named
def _brightness(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    return images + (0.1, 0.2, 0.3, 0.4, 0.5)[s]


@_named
def _contrast(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[s] + mean


@_named
def _pixelate(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    size = [max(1, round(n * (0.6, 0.5, 0.4, 0.3, 0.25)[s])) for n in images.shape[2:]]
    return F.interpolate(F.interpolate(images, size=size, mode="area"), size=images.shape[2:], mode="nearest")


@_named
def _elastic(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    """Every place is moved a little, neighbours alike."""
    height, width = images.shape[2:]
    strength, sigma = _pixels(images, (2, 4, 6, 8, 10)[s]), _pixels(images, 12)
    field = torch.rand(1, 2, height, width, generator=generator, dtype=torch.float64).to(images) * 2 - 1
    profile = torch.exp(-0.5 * (_offsets(3 * sigma) / sigma) ** 2)
    field = _filtered(_filtered(field, profile[:, None]), profile[None])
    field = field / field.abs().amax().clamp_min(1e-12) * strength
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([x.to(images) + field[0, 0], y.to(images) + field[0, 1]], -1) + 0.5
    at = 2 * at / torch.tensor([width, height]).to(images) - 1
    return F.grid_sample(
        images, at.expand(len(images), -1, -1, -1), mode="bilinear", padding_mode="reflection", align_corners=False
    )


@_named
def _jpeg(images: Tensor, s: int, generator: torch.Generator) -> Tensor:
    """Saved at a low quality: colour together for three channels, and every channel as grey otherwise."""
    from PIL import Image

    quality = (25, 18, 15, 10, 7)[s]

    def saved(pixels: np.ndarray) -> np.ndarray:
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "JPEG", quality=quality)
            return np.asarray(Image.open(file), dtype=np.float64)

    whole = (images * 255).round().to(torch.uint8).cpu().numpy()
    if images.shape[1] == 3:
        found = np.stack([saved(image.transpose(1, 2, 0)).transpose(2, 0, 1) for image in whole])
    else:
        found = np.stack([np.stack([saved(channel) for channel in image]) for image in whole])
    return torch.from_numpy(found / 255).to(images)
