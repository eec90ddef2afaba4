"""Random draws that depend on the seed alone: not on the batch an example is in, the chunk size, or the device."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Points
from torchwhy.core.tensors import Tensors, accumulator

Stdevs: TypeAlias = float | tuple[float, ...]


def draws(seed: int, stream: int = 0, number: int = 0) -> torch.Generator:
    """A generator of its own for each seed, stream and number of draw."""
    return torch.Generator().manual_seed(_own(seed, stream, number))


def _own(seed: int, stream: int, number: int) -> int:
    """The seed of such a generator."""
    digest = blake2b(f"{seed} {stream} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def check_seed(seed: object) -> None:
    """Raise unless this is a seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise TorchwhyError(f"seed is a whole number of at least 0, not {seed!r}")


def normal(stdevs: Stdevs | Tensors, inputs: Tensors, seed: int) -> Points | None:
    """Noisy copies (K, B, ...) of a slice of the examples for a slice of the draws; None where there is no noise.

    Every example gets the same standard normal draws, scaled by ``stdevs``: a number, one per input, or (B, 1, ...)
    each.
    """
    return _noisy(stdevs, inputs, seed, torch.randn, 2, "stdevs")


def uniform(radii: Stdevs, inputs: Tensors, seed: int) -> Points | None:
    """The same of noise drawn evenly between minus and plus ``radii``."""
    return _noisy(radii, inputs, seed, lambda *shape, **how: 2 * torch.rand(*shape, **how) - 1, 90, "radii")


def _noisy(
    sizes: Stdevs | Tensors, inputs: Tensors, seed: int, draw: Callable[..., Tensor], stream: int, what: str
) -> Points | None:
    """Copies with draws of their own for each input, scaled."""
    scales = _scales(sizes, inputs, what)
    if all(isinstance(s, float) and s == 0 for s in scales):
        return None

    generator = torch.Generator()

    def noisy(es: slice, ks: slice) -> Tensors:
        out = []
        for part, (t, scale) in enumerate(zip(inputs, scales, strict=True)):
            if not t.is_floating_point():
                out.append(t[es].expand(ks.stop - ks.start, *t[es].shape))
                continue
            wide = accumulator(t.dtype)
            z = torch.stack(
                [
                    draw(t.shape[1:], generator=generator.manual_seed(_own(seed, stream + part, k)), dtype=wide)
                    for k in range(ks.start, ks.stop)
                ]
            )
            z = z.to(t.device)[:, None] * (scale if isinstance(scale, float) else scale[es])
            out.append(t[es] + z.to(t.dtype))
        return Tensors(out)

    return noisy


def _scales(sizes: Stdevs | Tensors, inputs: Tensors, what: str) -> list[float | Tensor]:
    """One scale for every input tensor."""
    if isinstance(sizes, Tensors):
        return list(sizes)
    scales = sizes if isinstance(sizes, tuple) else (sizes,) * len(inputs)
    if len(scales) != len(inputs):
        raise TorchwhyError(
            f"{len(scales)} {what} were given for {len(inputs)} inputs: give one for all, or one for each"
        )
    if any(scales) and not any(t.is_floating_point() for t in inputs):
        raise TorchwhyError(
            f"noise cannot be added to integers: explain a function of what the layer behind them gives, such as "
            f"embeddings, not inputs of {', '.join(str(t.dtype) for t in inputs)}"
        )
    for number, (s, t) in enumerate(zip(scales, inputs, strict=True)):
        if s and not t.is_floating_point():
            raise TorchwhyError(
                f"input {number} is {t.dtype}, to which noise cannot be added: give it 0 among the {what}"
            )
    return [float(s) for s in scales]


def check_stdevs(stdevs: object, name: str = "stdevs", what: str = "standard deviations") -> None:
    """Raise unless these are sizes of noise."""
    for s in stdevs if isinstance(stdevs, tuple) else (stdevs,):
        if isinstance(s, bool) or not isinstance(s, int | float) or not 0 <= s < float("inf"):
            raise TorchwhyError(f"{name} are {what}, numbers of at least 0, not {s!r}")
