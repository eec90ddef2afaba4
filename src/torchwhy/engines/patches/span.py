"""Where patches lie in a map, and how far an operation with a sliding kernel carries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """The patches of N rows along one dimension of a map: all of one length, all inside.

    Attributes:
        starts: (N,).
        length: of every patch.
        full: length of the map.
    """

    starts: tuple[int, ...]
    length: int
    full: int

    @classmethod
    def holding(cls, first: Sequence[int], stop: Sequence[int], full: int) -> Self:
        """The shortest patches of one length that hold all from ``first`` to before ``stop`` that is in the map.

        >>> Span.holding([-2, 3, 8], [1, 5, 12], 10)
        Span(starts=(0, 3, 8), length=2, full=10)
        """
        first = [min(max(a, 0), full) for a in first]
        length = max(1, *(min(b, full) - a for a, b in zip(first, stop, strict=True)))
        return cls(tuple(min(a, full - length) for a in first), length, full)

    def join(self, other: Span) -> Span:
        """Patches that hold both."""
        first = [min(a, b) for a, b in zip(self.starts, other.starts, strict=True)]
        stop = [max(a + self.length, b + other.length) for a, b in zip(self.starts, other.starts, strict=True)]
        return Span.holding(first, stop, self.full)

    def shifted(self, low: int, high: int) -> Span:
        """In a map with so much added at both ends."""
        return Span(tuple(a + low for a in self.starts), self.length, self.full + low + high)


@dataclass(frozen=True)
class Kernel:
    """A kernel that slides along one dimension.

    >>> kernel = Kernel(size=3, stride=2, padding=1)
    >>> kernel.outputs(10), kernel.reached(Span((4,), 2, 10), kernel.outputs(10))
    (5, Span(starts=(2,), length=2, full=5))
    >>> kernel.read(Span((2,), 2, 5))
    ((3,), 5)
    """

    size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def reach(self) -> int:
        """From the first element it reads to the last."""
        return (self.size - 1) * self.dilation

    def outputs(self, length: int) -> int:
        """How many positions it has on a map."""
        return (length + 2 * self.padding - self.reach - 1) // self.stride + 1

    def reached(self, patch: Span, outputs: int) -> Span:
        """The outputs that read something of a patch."""
        first = [-((self.reach - self.padding - a) // self.stride) for a in patch.starts]
        stop = [(a + patch.length - 1 + self.padding) // self.stride + 1 for a in patch.starts]
        return Span.holding(first, stop, outputs)

    def read(self, outputs: Span) -> tuple[tuple[int, ...], int]:
        """Where the inputs of some outputs start, and how many they are; padding lies outside of the map."""
        starts = tuple(a * self.stride - self.padding for a in outputs.starts)
        return starts, (outputs.length - 1) * self.stride + self.reach + 1


Place = tuple[tuple[int, ...], int]  # starts, which may lie outside of the map, and length


def cut(clean: Tensor, rows: Tensor, spans: tuple[Span, Span], places: tuple[Place, Place], value: float) -> Tensor:
    """Cut other pieces out of maps that are ``clean`` but for their patches.

    Args:
        clean: (1, C, H, W).
        rows: the patches, (N, C, h, w).
        spans: where they lie.
        places: what to cut out.
        value: what lies outside of the map.
    """
    n, channels, height, width = rows.shape
    full = clean.shape[2:]
    (in_map_y, in_rows_y, y), (in_map_x, in_rows_x, x) = map(_lookup, spans, places, (rows.device,) * 2)
    # Every pixel is one of the map, one of a patch, or outside: one list of all of them, and which to take.
    of_row = torch.arange(n, device=rows.device).view(n, 1, 1) * (height * width) + full[0] * full[1]
    outside = full[0] * full[1] + n * height * width
    which = torch.where(
        in_rows_y[:, :, None] & in_rows_x[:, None],
        of_row + (y[1][:, :, None] * width + x[1][:, None]),
        torch.where(in_map_y[:, :, None] & in_map_x[:, None], y[0][:, :, None] * full[1] + x[0][:, None], outside),
    )
    around = clean.new_full((1, channels), value)
    pixels = torch.cat([*(t.permute(0, 2, 3, 1).reshape(-1, channels) for t in (clean, rows)), around])
    out = pixels.index_select(0, which.flatten()).view(*which.shape, channels).permute(0, 3, 1, 2)
    return out.contiguous(memory_format=layout(clean))


def _lookup(span: Span, place: Place, device: torch.device) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """For each element of the pieces (N, length): is it in the map, is it in the patch, and where in both."""
    starts, length = place
    at = torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)
    inside = at - torch.tensor(span.starts, device=device)[:, None]
    return (at >= 0) & (at < span.full), (inside >= 0) & (inside < span.length), (at, inside)


def layout(t: Tensor) -> torch.memory_format:
    """How the maps of a tensor lie in memory."""
    by_pixel = t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
    return torch.channels_last if by_pixel else torch.contiguous_format
