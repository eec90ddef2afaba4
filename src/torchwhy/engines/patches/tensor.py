"""A tensor of maps that are all alike but for a patch, which a model takes for any other tensor.

What an operation does to such maps is worked out on the patches alone where that is known to be the same; for every
other operation the maps are made whole. So whatever the model is and whichever way it goes, it computes what it
would have computed, up to rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from torchwhy.engines.patches.span import Kernel, Span, cut, layout

aten = torch.ops.aten
# From this share of the map on, cutting out costs more than it saves.
LARGE = 0.75


class Unfit(Exception):  # noqa: N818  says what it is
    """The model does something that patches cannot stand for."""


class Clean:
    """What the model makes of the unchanged map, computed once and found again in every further pass."""

    def __init__(self) -> None:
        self._calls: list[tuple[Any, list[Any], list[int], Any]] = []
        self._next = 0
        self.saved = 0  # floating-point operations spared, over all rows of all passes
        self.largest = 1  # bytes that a row takes, at most
        self.made: weakref.WeakSet[Patch] = weakref.WeakSet()

    def begin(self) -> None:
        """A new pass: the same operations are expected again."""
        self._next = 0

    def __call__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((func, args, kwargs))
        versions = _versions(leaves)
        at, self._next = self._next, self._next + 1
        if at < len(self._calls):
            known_spec, known, known_versions, out = self._calls[at]
            if spec == known_spec and versions == known_versions and all(map(_same, leaves, known)):
                return out
            del self._calls[at:]
        out = func(*args, **kwargs)
        self._calls.append((spec, leaves, versions, out))
        return out


def _same(a: Any, b: Any) -> bool:
    return a is b if isinstance(a, Tensor) or isinstance(b, Tensor) else type(a) is type(b) and bool(a == b)


@dataclass
class Product:
    """A convolution that waits for a batch norm to be folded into it."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    steps: tuple[list[int], list[int], list[int]]  # stride, padding, dilation
    groups: int
    versions: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.versions = _versions([self.weight, self.bias])

    def run(self, *folded: Tensor) -> Tensor:
        """With other weight and bias, or its own."""
        if _versions([self.weight, self.bias]) != self.versions:
            raise Unfit("the weights of a convolution were changed in place right behind it")
        weight, bias = folded or (self.weight, self.bias)
        out: Tensor = aten.convolution.default(self.x, weight, bias, *self.steps, False, [0, 0], self.groups)
        return out


def _versions(leaves: Sequence[Any]) -> list[int]:
    """How often tensors were changed in place; those made in inference mode do not tell."""
    return [t._version for t in leaves if isinstance(t, Tensor) and not t.is_inference()]


@dataclass(eq=False)
class Maps:
    """N maps of C channels, equal to one but for a patch, or simply whole.

    Attributes:
        work: what is shared by all maps of one example.
        rows: the patches (N, C, h, w), or the whole maps.
        clean: (1, C, H, W); None where the maps are whole.
        spans: where the patches lie.
        shape: (N, C, H, W).
    """

    work: Clean
    rows: Tensor | Product
    clean: Tensor | None
    spans: tuple[Span, Span] | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: torch.memory_format
    seen: bool = False  # somebody may hold a view
    readers: list[weakref.ref[Maps]] = field(default_factory=list)  # may wait for a product of these maps

    @classmethod
    def whole(cls, work: Clean, rows: Tensor) -> Self:
        return cls(work, rows, None, None, tuple(rows.shape), rows.dtype, layout(rows))

    @classmethod
    def patched(cls, work: Clean, rows: Tensor | Product, clean: Tensor, spans: tuple[Span, Span]) -> Self:
        shape = (len(spans[0].starts), *clean.shape[1:])
        return cls(work, rows, clean, spans, shape, clean.dtype, layout(clean))

    def after(self, rows: Tensor, clean: Tensor | None) -> Maps:
        """What an operation that leaves every place where it is has made of these maps."""
        if clean is None or self.spans is None:
            return Maps.whole(self.work, rows)
        return Maps.patched(self.work, rows, clean, self.spans)

    def values(self) -> Tensor:
        """The patches, or the whole maps, computed by now."""
        if isinstance(self.rows, Product):
            self.rows = self.rows.run()
        return self.rows

    def full(self) -> Tensor:
        """The whole maps, from now on."""
        rows = self.values()
        if self.clean is not None:
            assert self.spans is not None
            y, x = (Span((0,) * len(s.starts), s.full, s.full) for s in self.spans)
            rows, self.clean, self.spans = self.recut((y, x)), None, None
        elif not self.seen:
            rows = rows.contiguous(memory_format=self.layout)  # as the model was told it lies
        self.rows = rows
        return rows

    def settle(self) -> None:
        """Whoever waits reads these maps now, before they are changed in place."""
        for reader in self.readers:
            if (maps := reader()) is not None:
                maps.values()
        self.readers.clear()

    def take(self, other: Maps) -> None:
        """Become what an operation in place has made of these maps."""
        self.rows, self.clean, self.spans = other.rows, other.clean, other.spans

    def recut(self, spans: tuple[Span, Span]) -> Tensor:
        """Patches at other places, which hold the present ones."""
        assert self.clean is not None
        assert self.spans is not None
        if spans == self.spans:
            return self.values()
        y, x = ((s.starts, s.length) for s in spans)
        return cut(self.clean, self.values(), self.spans, (y, x), 0.0)


class Patch(Tensor):
    """`Maps` as a tensor (N, C, H, W)."""

    maps: Maps

    @staticmethod
    def __new__(cls, maps: Maps) -> Self:
        _, c, h, w = maps.shape
        strides = (c * h * w, 1, w * c, c) if maps.layout == torch.channels_last else (c * h * w, h * w, w, 1)
        values = maps.rows.x if isinstance(maps.rows, Product) else maps.rows
        made = Tensor._make_wrapper_subclass(
            cls, maps.shape, strides=strides, dtype=maps.dtype, device=values.device, requires_grad=False
        )
        made.maps = maps
        work = maps.work
        work.largest = max(work.largest, values.numel() * values.element_size() // len(values))
        work.made.add(made)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as PyTorch asks for it

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # declared without the function
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if (torch.is_grad_enabled() and func not in _ALIASES) or torch.Tag.inplace_view in func.tags:
            raise Unfit(f"{func}")
        kwargs = kwargs or {}
        handler = HANDLERS.get(func, _pointwise if _is_pointwise(func) else None)
        out = NotImplemented if handler is None else handler(func, args, kwargs)
        return _whole(func, args, kwargs) if out is NotImplemented else out


def whole(value: Any) -> Any:
    """A tensor in the place of a patch, anything else as it is."""
    return value.maps.full() if isinstance(value, Patch) else value


def _whole(func: Any, args: Any, kwargs: Any) -> Any:
    """Any operation, on whole maps."""
    patches = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Patch)]
    owners = {}
    for p in patches:
        owners[id(p.maps.full())] = p
        p.maps.settle()
        p.maps.seen = True
    out = func(*tree_map(whole, args), **tree_map(whole, kwargs))
    return tree_map(lambda t: owners.get(id(t), t), out)  # in place, it gives back what it was given


class Unused(Tensor):
    """Where the maxima of a pooling lie; patches do not know it."""

    @staticmethod
    def __new__(cls, like: Tensor) -> Self:
        made = Tensor._make_wrapper_subclass(cls, like.shape, dtype=torch.long, device=like.device)
        assert isinstance(made, Unused)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as PyTorch asks for it

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # declared without the function
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise Unfit("where the maxima of a pooling lie is asked for")


# -- operations that are known to be the same on patches ----------------------------------------------------------

Handler: TypeAlias = Callable[[Any, Any, Any], Any]
HANDLERS: dict[Any, Handler] = {}


def _handles(*funcs: Any) -> Callable[[Handler], Handler]:
    def add(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(funcs, handler))
        return handler

    return add


def _pair(given: int | Sequence[int]) -> tuple[int, int]:
    return (given, given) if isinstance(given, int) else (given[0], given[-1])


def _arguments(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """All arguments in their order, as given or by default."""
    known = func._schema.arguments
    return [*args, *(kwargs.get(a.name, a.default_value) for a in known[len(args) :])]


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


class Sliding:
    """A kernel that slides over maps."""

    def __init__(self, size: Any, stride: Any, padding: Any, dilation: Any) -> None:
        each = (_pair(size), _pair(stride or size), _pair(padding), _pair(dilation))
        self.kernels = tuple(Kernel(*of) for of in zip(*each, strict=True))

    def outputs(self, maps: Maps) -> tuple[int, ...]:
        """Height and width of what comes out."""
        return tuple(k.outputs(n) for k, n in zip(self.kernels, maps.shape[2:], strict=True))

    def reached(self, maps: Maps, outputs: Sequence[int]) -> tuple[Span, Span] | None:
        """The outputs that the patches reach, where they are clearly less than all."""
        if maps.spans is None:
            return None
        y, x = (k.reached(s, n) for k, s, n in zip(self.kernels, maps.spans, outputs, strict=True))
        return None if _large((y, x)) else (y, x)

    def read(self, maps: Maps, outputs: tuple[Span, Span], value: float) -> Tensor:
        """What the kernel reads for some outputs; outside of the map there is ``value``."""
        assert maps.clean is not None
        assert maps.spans is not None
        y, x = (k.read(s) for k, s in zip(self.kernels, outputs, strict=True))
        return cut(maps.clean, maps.values(), maps.spans, (y, x), value)


def _large(spans: tuple[Span, Span]) -> bool:
    y, x = spans
    return y.length * x.length > LARGE * y.full * x.full


_ALIASES = (aten.detach.default, aten.alias.default)


@_handles(*_ALIASES)
def _alias(func: Any, args: Any, kwargs: Any) -> Any:
    return Patch(args[0].maps)


@_handles(aten.convolution.default)
def _convolution(func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    if transposed or weight.ndim != 4 or not isinstance(x, Patch) or isinstance(weight, Patch):
        return NotImplemented
    maps, work = x.maps, x.maps.work
    sliding = Sliding(weight.shape[2:], stride, padding, dilation)
    n, out = maps.shape[0], sliding.outputs(maps)
    reached = sliding.reached(maps, out)
    if reached is None:
        rows = maps.full()
        if maps.seen:
            return Patch(Maps.whole(work, func(rows, *args[1:])))
        product = Product(rows, weight, bias, (stride, padding, dilation), groups)
        made = Maps(work, product, None, None, (n, len(weight), *out), maps.dtype, maps.layout)
        maps.readers.append(weakref.ref(made))
        return Patch(made)
    clean = work(func, maps.clean, *args[1:])
    product = Product(sliding.read(maps, reached, 0.0), weight, bias, (stride, [0, 0], dilation), groups)
    work.saved += 2 * weight.numel() * n * (out[0] * out[1] - reached[0].length * reached[1].length)
    return Patch(Maps.patched(work, product, clean, reached))


@_handles(aten.native_batch_norm.default)
def _batch_norm(func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, bias, mean, var, training, _, eps = args
    if training or not isinstance(x, Patch) or any(isinstance(t, Patch) for t in args[1:]):
        return NotImplemented
    maps, work = x.maps, x.maps.work
    clean = None if maps.clean is None else work(func, maps.clean, *args[1:])[0]
    wait = maps.rows
    if isinstance(wait, Product) and wait.weight.dtype in (torch.float32, torch.float64):
        rows = wait.run(*work(_folded, wait.weight, wait.bias, weight, bias, mean, var, eps))
    else:
        rows = func(maps.values(), *args[1:])[0]
    return Patch(maps.after(rows, clean)), rows.new_empty(0), rows.new_empty(0)


def _folded(
    w: Tensor, b: Tensor | None, scale: Tensor | None, shift: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch norm behind it."""
    factor = (var + eps).rsqrt()
    factor = factor if scale is None else factor * scale
    bias = -mean * factor if b is None else (b - mean) * factor
    return w * factor.view(-1, 1, 1, 1), bias if shift is None else bias + shift


@_handles(aten.max_pool2d_with_indices.default)
def _max_pool(func: Any, args: Any, kwargs: Any) -> Any:
    _, kernel, stride, padding, dilation, _ = _arguments(func, args, kwargs)
    inside = (kernel, stride, 0, dilation, False)
    out = _pool(func, args, kwargs, Sliding(kernel, stride, padding, dilation), inside, -torch.inf)
    return (out, Unused(out)) if isinstance(out, Patch) else out


@_handles(aten.avg_pool2d.default)
def _average_pool(func: Any, args: Any, kwargs: Any) -> Any:
    _, kernel, stride, padding, ceil, with_padding, divisor = _arguments(func, args, kwargs)
    if ceil or (any(_pair(padding)) and not with_padding):
        return NotImplemented  # at the border, the mean is over fewer elements
    inside = (kernel, stride, 0, False, True, divisor)
    return _pool(func, args, kwargs, Sliding(kernel, stride, padding, 1), inside, 0.0)


def _pool(func: Any, args: Any, kwargs: Any, sliding: Sliding, inside: tuple[Any, ...], value: float) -> Any:
    """A pooling whose arguments on a piece of the map are ``inside``."""
    maps, work = args[0].maps, args[0].maps.work
    if maps.clean is not None:
        clean = _first(work(func, maps.clean, *args[1:], **kwargs))
        reached = sliding.reached(maps, clean.shape[2:])
        if reached is not None:
            piece = sliding.read(maps, reached, value)
            return Patch(Maps.patched(work, _first(func(piece, *inside)), clean, reached))
    return Patch(Maps.whole(work, _first(func(maps.full(), *args[1:], **kwargs))))


@_handles(aten.constant_pad_nd.default)
def _pad(func: Any, args: Any, kwargs: Any) -> Any:
    maps, (left, right, *others) = args[0].maps, args[1]
    top, bottom, *more = others or (0, 0)
    if maps.clean is None or more or min(left, right, top, bottom) < 0:
        return NotImplemented
    clean = maps.work(func, maps.clean, *args[1:], **kwargs)
    y, x = maps.spans
    spans = (y.shifted(top, bottom), x.shifted(left, right))
    return Patch(Maps.patched(maps.work, maps.values(), clean, spans))


@_handles(aten.cat.default)
def _cat(func: Any, args: Any, kwargs: Any) -> Any:
    parts, dim = _arguments(func, args, kwargs)
    return _together(func, args, kwargs, parts) if dim in (1, -3) and _alike(parts) else NotImplemented


# Elementwise, though not marked so.
_POINTWISE = {getattr(aten, name).default for name in ("_to_copy", "_prelu_kernel", "hardswish", "hardswish_")} | {
    aten.rsub.Tensor
}


@cache
def _is_pointwise(func: Any) -> bool:
    return func in _POINTWISE or (
        torch.Tag.pointwise in func.tags and torch.Tag.nondeterministic_seeded not in func.tags
    )


def _pointwise(func: Any, args: Any, kwargs: Any) -> Any:
    leaves = tree_leaves((args, kwargs))
    patches = [a for a in leaves if isinstance(a, Patch)]
    others = [a for a in leaves if isinstance(a, Tensor) and not isinstance(a, Patch)]
    if not _alike(patches) or not all(map(_per_channel, others)):
        return NotImplemented
    if not func._schema.is_mutable:
        return _together(func, args, kwargs, patches)
    changed, pure = args[0], _out_of_place(func)
    if not isinstance(changed, Patch) or pure is None:
        return NotImplemented
    if changed.maps.clean is None:
        changed.maps.settle()
        func(*tree_map(whole, args), **tree_map(whole, kwargs))
        return changed
    out = _together(pure, args, kwargs, patches)
    if out is NotImplemented or (out.shape, out.dtype) != (changed.shape, changed.dtype):
        return NotImplemented
    changed.maps.take(out.maps)
    return changed


def _alike(patches: Sequence[Any]) -> bool:
    """Whether maps are of one size, so that an element has one place in all of them."""
    return all(isinstance(p, Patch) for p in patches) and len({(len(p), *p.shape[2:]) for p in patches}) == 1


def _per_channel(t: Tensor) -> bool:
    """Whether an operand is the same for all rows and all places."""
    return t.ndim <= 4 and all(n == 1 for n in t.shape[-2:]) and (t.ndim < 4 or t.shape[0] == 1)


def _out_of_place(func: Any) -> Any:
    """The same operation, leaving its first argument as it is."""
    name = func._schema.name.removeprefix("aten::")
    packet = getattr(aten, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, func._overloadname, None)


def _together(func: Any, args: Any, kwargs: Any, patches: Sequence[Patch]) -> Any:
    """An operation that works place by place, on maps of one size."""
    work = patches[0].maps.work
    spans = _joined(patches)
    if spans is None:
        rows = func(*tree_map(whole, args), **tree_map(whole, kwargs))
        return Patch(Maps.whole(work, rows)) if _is_map(rows) else NotImplemented

    def clean(value: Any) -> Any:
        return value.maps.clean if isinstance(value, Patch) else value

    def piece(value: Any) -> Any:
        return value.maps.recut(spans) if isinstance(value, Patch) else value

    before = work(func, *tree_map(clean, args), **tree_map(clean, kwargs))
    if not _is_map(before):
        return NotImplemented
    rows = func(*tree_map(piece, args), **tree_map(piece, kwargs))
    return Patch(Maps.patched(work, rows, before, spans))


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _joined(patches: Sequence[Patch]) -> tuple[Span, Span] | None:
    """Where all patches lie, if that is clearly less than everywhere."""
    spans = patches[0].maps.spans
    for p in patches:
        if spans is None or p.maps.spans is None:
            return None
        spans = (spans[0].join(p.maps.spans[0]), spans[1].join(p.maps.spans[1]))
    return None if spans is None or _large(spans) else spans
