"""Maps: which dimension of what a layer holds are channels, how tokens lie on a grid, and how a map is enlarged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves, tree_map_only

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.guard import Arguments, bare, call, module_of
from torchwhy.core.site import Place, Site, Sites, module_at
from torchwhy.core.tensors import Tensors

Upsample: TypeAlias = Literal["bilinear", "nearest"]
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
MOST_PREFIX = 16  # tokens in front of the patches: one of the class, one of a teacher, registers
USUAL_PREFIX = 5  # of these, where nothing but the number of tokens is known
MERGED = 5  # how often a model halves its grid

_CONVOLVED = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@dataclass(frozen=True)
class Grid:
    """Where the channels of what a layer holds are, and how its tokens lie.

    Attributes:
        last: channels lie in the last dimension, not in dimension 1.
        prefix: tokens in front of those on the grid.
        size: of the grid of tokens; None where the layer holds a map already.
    """

    last: bool = False
    prefix: int = 0
    size: tuple[int, ...] | None = None

    def fold(self, t: Tensor) -> Tensor:
        """What the layer holds, as maps (B, C, ...).

        >>> Grid(last=True, prefix=1, size=(2, 3)).fold(torch.zeros(4, 7, 5)).shape
        torch.Size([4, 5, 2, 3])
        """
        if not self.last:
            return t
        t = t[:, self.prefix :].movedim(-1, 1)
        return t if self.size is None else t.unflatten(2, self.size)

    def unfold(self, t: Tensor) -> Tensor:
        """A map (B, 1, ...) in the form of what the layer holds; tokens in front have the least of its values.

        >>> Grid(last=True, prefix=1, size=(1, 2)).unfold(torch.tensor([[[[3.0, 4.0]]]]))
        tensor([[[3.],
                 [3.],
                 [4.]]])
        """
        if not self.last:
            return t
        rows = (t if self.size is None else t.flatten(2)).movedim(1, -1)
        front = rows.flatten(1).amin(1).view(-1, *[1] * (rows.ndim - 1)).expand(-1, self.prefix, *rows.shape[2:])
        return torch.cat([front, rows], 1)

    def channels(self, count: int, like: Tensor, start: int = 0) -> Tensor:
        """A feature mask that makes every channel of what the layer holds one feature."""
        numbers = torch.arange(start, start + count, device=like.device)
        return numbers if self.last else numbers.view(-1, *[1] * (like.ndim - 2))


def find_grid(
    root: nn.Module | None,
    held: Tensor,
    inputs: Tensors,
    size: tuple[int, ...] | None = None,
    prefix: int | None = None,
    *,
    whole: bool = True,
) -> Grid:
    """How what a layer holds is a map.

    Channels are taken to lie last where that is the width of a linear layer or layer norm of the model, and dimension 1
    is not that of a convolution or batch norm, behind an image. Tokens (B, T, C) are folded to the grid that the
    model's patches, halved any number of times, make of the image, or else to one in the image's proportions.

    Args:
        root: the module the layer is in; None where it is not known.
        whole: this is the model, and not a layer of one that is a function.
        held: what the layer holds, (B, ...).
        inputs: (B, ...) each.
        size: the grid, as the user knows it; ``()`` says that channels lie in dimension 1 and nothing is to be folded.
        prefix: the number of tokens in front of those on the grid, as the user knows it.

    Raises:
        TorchwhyError: the tokens do not lie on the grid given, on no grid that is known, or might lie on several.
    """
    image = next((tuple(t.shape[2:]) for t in inputs if t.ndim == 4), None)
    if size == () or held.ndim < 3:
        return Grid()
    if size is None and prefix is None and not _channels_last(root, held, image, whole=whole):
        return Grid()
    if held.ndim > 3:
        return Grid(last=True)
    tokens = held.shape[1]
    if size is not None:
        front = tokens - size[0] * (size[1] if len(size) > 1 else 1)
        if front < 0 or prefix not in (None, front):
            given = "" if prefix is None else f" behind {prefix} others"
            raise TorchwhyError(f"{tokens} tokens do not lie on a grid of {size}{given}")
        return Grid(last=True, prefix=front, size=size)
    if image is None:
        raise TorchwhyError(f"there is no image (B, C, H, W) that {tokens} tokens lie on: give grid=(rows, columns)")
    found = _sizes(root, image, tokens, prefix)
    if found is None:
        raise TorchwhyError(
            f"how {tokens} tokens lie on an image of {image[0]} x {image[1]} is not clear: give grid=(rows, columns) "
            f"of the patches, which come last, or grid=() where the layer holds no tokens but channels (B, C, ...)"
        )
    return Grid(last=True, prefix=tokens - found[0] * found[1], size=found)


def _channels_last(root: nn.Module | None, held: Tensor, image: tuple[int, ...] | None, *, whole: bool) -> bool:
    if image is None or held.ndim > 4:
        return False
    first, last = _widths(root, held.ndim)
    known = held.shape[1] in first, held.shape[-1] in last
    if not whole and held.ndim == 3 and not any(known):
        raise TorchwhyError(
            f"the model is a function, and whether its layer of {tuple(held.shape)} holds tokens (B, T, C) or channels "
            f"(B, C, T) cannot be seen: give grid=(rows, columns) or grid=()"
        )
    return known[1] and not known[0]


def _widths(root: nn.Module | None, ndim: int) -> tuple[set[int], set[int]]:
    """Numbers of channels that modules for maps of so many dimensions have in dimension 1, and others have last."""
    first: set[int] = set()
    last: set[int] = set()
    for m in root.modules() if root is not None else ():
        if isinstance(m, nn.modules.conv._ConvNd) and len(m.kernel_size) == ndim - 2:
            first.add(m.out_channels)
        elif isinstance(m, _CONVOLVED.get(ndim, ())):
            first.add(m.num_features)  # type: ignore[arg-type]  # batch norm, of whatever dimensions
        elif isinstance(m, nn.Linear):
            last.add(m.out_features)
        elif isinstance(m, nn.LayerNorm | nn.RMSNorm):
            last.add(m.normalized_shape[-1])
    return first, last


def _sizes(root: nn.Module | None, image: tuple[int, ...], tokens: int, prefix: int | None) -> tuple[int, int] | None:
    """The grid of so many tokens on an image; None where there is none, or more than one may be meant."""
    height, width = image
    allowed = range(MOST_PREFIX + 1) if prefix is None else (prefix,)
    sides = {(p << k, q << k) for p, q in _patches(root) for k in range(MERGED)}
    known = {(height // p, width // q) for p, q in sides} | {(-(-height // p), -(-width // q)) for p, q in sides}
    fitting = [(h, w) for h, w in known if h * w > 1 and tokens - h * w in allowed]
    if fitting:
        return max(fitting, key=lambda size: size[0] * size[1])
    usual = [n for n in allowed if prefix is not None or n <= USUAL_PREFIX]
    alike = [
        (h, (tokens - n) // h)
        for n in usual
        for h in range(1, tokens - n + 1)
        if (tokens - n) % h == 0 and h * width == (tokens - n) // h * height and tokens - n > 1
    ]
    return alike[0] if len(alike) == 1 else None


def _patches(root: nn.Module | None) -> set[tuple[int, int]]:
    """Heights and widths of the patches that a model cuts an image into."""
    found = set()
    for m in root.modules() if root is not None else ():
        if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride and m.stride != (1, 1):
            found.add((m.stride[0], m.stride[1]))
        size = getattr(getattr(m, "config", None), "patch_size", None)
        pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
        if len(pair) == 2 and all(isinstance(n, int) and n > 0 for n in pair):
            found.add(pair)
    return found


def find_grids(
    model: Any, place: Place | None, held: Tensors, inputs: Tensors, size: tuple[int, ...] | None, prefix: int | None
) -> list[Grid]:
    """`find_grid` for each tensor that a place in a model holds."""
    root = module_of(bare(model))
    sites = place.sites if isinstance(place, Sites) else (place,) if place is not None else ()

    def around(n: int) -> nn.Module | None:
        """Of a function, only the layer is known."""
        return root if root is not None or not sites else module_at(model, sites[min(n, len(sites) - 1)])

    return [find_grid(around(n), t, inputs, size, prefix, whole=root is not None) for n, t in enumerate(held)]


# -- the layer to look at ------------------------------------------------------------------------------------------


def last_map(model: Any, inputs: Tensors, extra: Arguments, size: int) -> Site:
    """The last of the maps on the way to the output; takes what `maps_on_the_way` takes."""
    return maps_on_the_way(model, inputs, extra, size)[-1]


def maps_on_the_way(model: Any, inputs: Tensors, extra: Arguments, size: int) -> list[Site]:
    """The modules that run once and hold a map (1, C, H, W) or a grid of tokens, for one example.

    Of those on the way to the output: where a model reads its answer off a token of its own, what the others hold last
    has no gradient. Linear layers, which are parts of a block, are left out.

    Args:
        model: the model.
        inputs: one example.
        extra: further arguments of the model; tensors with ``size`` rows belong to the examples.
        size: the number of examples that ``extra`` was given for.
    """
    root = module_of(model)
    if root is None:
        raise TorchwhyError("the model is a function, whose layers cannot be searched: say which with at=module")
    first = tree_map_only(Tensor, lambda a: (a[:1] if a.ndim > 0 and a.shape[0] == size else a).clone(), extra)
    try:
        seen, output = _watch(model, root, inputs, first, gradients=True)
    except UnsupportedError:  # it has no derivative
        seen, output = _watch(model, root, inputs, first, gradients=False)
    sure = {name: t for name, t in seen.items() if _is_map(root, t, inputs)}
    maps = sure or {name: t for name, t in seen.items() if t.ndim == 4 and t.shape[2] * t.shape[3] > 1}
    if not maps:
        raise TorchwhyError(
            f"{type(root).__name__} has no layer that holds a spatial map (B, C, H, W), or tokens that lie on a grid: "
            f"say which layer to explain with at="
        )
    names = list(_reaching(root, maps, output, inputs)) or list(maps)
    return [Site(name) for name in names]


def _watch(
    model: Any, root: nn.Module, inputs: Tensors, extra: Arguments, gradients: bool
) -> tuple[dict[str, Tensor], Any]:
    """The tensors that modules which run once hold, in the order in which they are done, and the output."""
    seen: dict[str, list[Any]] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            seen.setdefault(name, []).append(output)

        return note

    def given(t: Tensor) -> Tensor:
        return t.detach().clone().requires_grad_(gradients and t.is_floating_point()).clone()

    with ExitStack() as stack, torch.set_grad_enabled(gradients):
        for name, module in root.named_modules():
            if name and not isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(watch(name)).remove)
        output = call(bare(model), inputs.map(given), extra)
    return {name: held[0] for name, held in seen.items() if len(held) == 1 and isinstance(held[0], Tensor)}, output


def _is_map(root: nn.Module, held: Tensor, inputs: Tensors) -> bool:
    if held.ndim not in (3, 4) or held.shape[0] != inputs.size:
        return False
    try:
        grid = find_grid(root, held, inputs)
    except TorchwhyError:
        return False
    known = grid.last or held.shape[1] in _widths(root, held.ndim)[0]
    maps = grid.fold(held)
    return known and maps.ndim == 4 and maps.shape[2] * maps.shape[3] > 1


def _reaching(root: nn.Module, maps: dict[str, Tensor], output: Any, inputs: Tensors) -> Iterator[str]:
    """The names of the maps on which the output depends."""
    ends = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
    held = {name: t for name, t in maps.items() if t.requires_grad}
    if not ends or not held:
        return
    # Unequal weights, since a softmax adds up to 1 whatever the maps hold.
    weighted = [(t * torch.linspace(1, 2, t.numel(), dtype=t.dtype, device=t.device).view_as(t)).sum() for t in ends]
    total = torch.stack([w.double() for w in weighted]).sum()
    slopes = torch.autograd.grad(total, list(held.values()), allow_unused=True)
    for (name, t), slope in zip(held.items(), slopes, strict=True):
        grid = find_grid(root, t, inputs) if _is_map(root, t, inputs) else Grid()
        if slope is not None and grid.fold(slope).any():
            yield name


# -- enlarging -----------------------------------------------------------------------------------------------------


def enlarge(maps: Tensor, size: tuple[int, ...], how: Upsample) -> Tensor:
    """Maps (N, C, ...) at another resolution; those without spatial dimensions are the same everywhere.

    >>> enlarge(torch.tensor([[[0.0, 1.0]]]), (4,), "bilinear")
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    >>> enlarge(torch.tensor([[[0.0, 1.0]]]), (4,), "nearest")
    tensor([[[0., 0., 1., 1.]]])

    Args:
        maps: of one, two or three spatial dimensions, or none.
        size: the lengths of the spatial dimensions.
        how: "bilinear" (in one or three dimensions the linear interpolation there; corners are not aligned), or
            "nearest".
    """
    if maps.ndim == 2:
        return maps.view(*maps.shape, *[1] * len(size)).expand(*maps.shape, *size)
    if maps.ndim - 2 != len(size) or len(size) not in MODES:
        raise TorchwhyError(f"a map of {tuple(maps.shape[2:])} cannot be enlarged to {size}: choose another layer")
    return interpolate(maps, size, mode=MODES[len(size)] if how == "bilinear" else "nearest-exact")
