"""Where an explanation looks: the input, or the input or output of any module, or of several.

A `Site` names a place in the model, `Sites` several. A `Tap` is what stands at a site during one forward pass: it
records what the place holds or puts another value in, and is gone when its ``with`` ends. Whatever the layout of a
layer, values have the batch in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import EllipsisType, TracebackType
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.hooks import RemovableHandle

from torchwhy.core.errors import TorchwhyError, UnsupportedError, closest
from torchwhy.core.guard import bare, module_of
from torchwhy.core.tensors import Tensors

Index: TypeAlias = "int | slice | EllipsisType"
Unit: TypeAlias = "int | tuple[Index, ...] | Callable[[Any], Tensor]"


@dataclass(frozen=True)
class Site:
    """A place in a model, and as a target also a unit of it.

    Attributes:
        layer: a module of the model or its name, as in ``model.named_modules()``.
        unit: for a target: the index of a unit behind the batch dimension, ``(channel, row, column)`` for a
            convolution; with slices or fewer indices, and over all calls, the selected units are summed. Or a callable
            from the layer's own value, or the tuple of its values in all calls, to one score per example.
        call: which call of a module that runs several times in one forward pass, from 0, or "all": the values of all
            calls one after the other, each a place of its own as in `Sites`.
        input: the module's input instead of its output.
        batch: the dimension of the batch in what the layer holds. None knows the layers of PyTorch that have it
            elsewhere, recurrent, attention and transformer layers and those within, and is 0 for all others.

    >>> Site("conv2")
    Site('conv2')
    >>> Site("encoder.relu", unit=(3, 0, 0), call=1)
    Site('encoder.relu', unit=(3, 0, 0), call=1)
    >>> print(Site("conv1", unit=(3, 0, slice(None))))
    conv1[3, 0, :]
    """

    layer: str | nn.Module
    unit: Unit | None = None
    call: int | Literal["all"] | None = None
    input: bool = False
    batch: int | None = None

    def __repr__(self) -> str:
        layer = self.layer if isinstance(self.layer, str) else type(self.layer).__name__
        shown = [repr(layer)]
        shown += [f"unit={self.unit!r}"] * (self.unit is not None)
        shown += [f"call={self.call!r}"] * (self.call is not None) + ["input=True"] * self.input
        shown += [f"batch={self.batch}"] * (self.batch is not None)
        return f"Site({', '.join(shown)})"

    def __str__(self) -> str:
        if self.call is not None or self.input or callable(self.unit):
            return repr(self)
        layer = self.layer if isinstance(self.layer, str) else type(self.layer).__name__
        if self.unit is None:
            return layer
        index = self.unit if isinstance(self.unit, tuple) else (self.unit,)
        return f"{layer}[{', '.join(map(_index, index))}]"


def _index(index: Any) -> str:
    """As one writes it between brackets."""
    if isinstance(index, slice):
        return ":".join("" if i is None else str(i) for i in (index.start, index.stop))
    return "..." if index is ... else str(index)


@dataclass(frozen=True)
class Sites:
    """Several places in a model, looked at in one pass.

    At the point itself, every place has what it would have alone: a gradient at one includes what it does through the
    others. Away from the point, on a path or where something is taken away, all of them are replaced together, so that
    each answers for what it does past the others.

    >>> Sites((Site("conv1"), Site("layer2")))
    [Site('conv1'), Site('layer2')]
    >>> print(Sites((Site("conv1"), Site("layer2"))))
    conv1, layer2
    """

    sites: tuple[Site, ...]

    def __repr__(self) -> str:
        return repr(list(self.sites))

    def __str__(self) -> str:
        return ", ".join(map(str, self.sites))


Place: TypeAlias = Site | Sites
At: TypeAlias = "str | nn.Module | Site | Sequence[str | nn.Module | Site] | None"


def find_place(model: Any, at: Any) -> Place:
    """A `Site`, or `Sites` for a list, as `find_site` finds them; none twice."""
    if not isinstance(at, list | tuple):
        return find_site(model, at)
    sites = tuple(find_site(model, one) for one in at)
    if not sites:
        raise TorchwhyError("at=[] names no layer: give at least one, or leave at out to explain the input")
    for number, site in enumerate(sites):
        if site in sites[:number]:
            raise TorchwhyError(f"at names {site!r} twice")
    return Sites(sites)


def joined(place: Place | None) -> bool:
    """Whether a place is several, of which one may stand behind another."""
    return isinstance(place, Sites) or (isinstance(place, Site) and place.call == "all")


def find_site(model: Any, at: str | nn.Module | Site) -> Site:
    """A `Site` whose layer is known to be in the model and is given by name where the model has one for it."""
    site = at if isinstance(at, Site) else Site(at)
    if site.call != "all" and (isinstance(site.call, bool) or not isinstance(site.call, int | None)):
        raise TorchwhyError(f"call counts from 0, or is 'all', not {site.call!r}")
    root = module_of(model)
    if isinstance(site.layer, nn.Module):
        # A layer given as a module may belong to a model hidden in a function, whose modules we cannot list.
        layer = bare(site.layer)
        for name, module in root.named_modules() if root is not None else ():
            if module is layer:
                return replace(site, layer=name)
        if isinstance(model, nn.Module):
            raise TorchwhyError(f"the layer {type(layer).__name__} is not a module of {type(root).__name__}")
        return site
    if not isinstance(site.layer, str):
        raise TorchwhyError(f"a layer is a module or its name, not {type(site.layer).__name__}")
    if root is None:
        raise TorchwhyError(f"{site.layer!r} is a name, but the model is a function: pass the module itself")
    names = {name for name, _ in root.named_modules(remove_duplicate=False)}
    # The name of a layer in a model that DataParallel has spread over devices.
    short = site.layer.removeprefix("module.")
    if site.layer not in names and short in names:
        return replace(site, layer=short)
    if site.layer not in names:
        raise TorchwhyError(
            f"{type(root).__name__} has no layer {site.layer!r}{closest(site.layer, sorted(names - {''}))}"
        )
    return site


def module_at(model: Any, site: Site) -> nn.Module:
    """The module that a found site names."""
    if isinstance(site.layer, nn.Module):
        return site.layer
    root = module_of(model)
    assert root is not None, "find_site has seen the model"
    return root.get_submodule(site.layer)


def batch_dims(model: Any, site: Site) -> Callable[[int, Tensor], int]:
    """Which dimension holds the batch in the ``n``-th tensor of what a site holds."""
    if site.batch is not None:
        return lambda n, t: site.batch if site.batch is not None else 0
    module = module_at(model, site)
    if isinstance(module, nn.RNNBase):  # the states are (layers, B, ...) in any case
        return lambda n, t: 1 if n > 0 or not module.batch_first else 0
    if isinstance(module, nn.MultiheadAttention) and not site.input:
        return lambda n, t: 1 if n == 0 and not module.batch_first else 0  # then the weights, (B, ...)
    root = module_of(model)
    path = site.layer.split(".") if isinstance(site.layer, str) and root is not None else []
    around = [module] if root is None else [root.get_submodule(".".join(path[:k])) for k in range(len(path) + 1)]
    # Masks (B, T) lie beside sequences (T, B, ...).
    return lambda n, t: 1 if t.ndim > 2 and any(map(_sequence_first, around)) else 0


def _sequence_first(module: nn.Module) -> bool:
    """Whether this is one of PyTorch's layers for sequences (T, B, ...)."""
    match module:
        case nn.MultiheadAttention() | nn.Transformer():
            return not module.batch_first
        case nn.TransformerEncoderLayer() | nn.TransformerDecoderLayer():
            attention = module.self_attn
            return isinstance(attention, nn.MultiheadAttention) and not attention.batch_first
        case nn.TransformerEncoder() | nn.TransformerDecoder():
            return len(module.layers) > 0 and _sequence_first(module.layers[0])
    return False


class Stop(BaseException):
    """Ends a forward pass as soon as the wanted site has been seen; nothing behind it can change what it held."""


class Tap:
    """Watches one site during one forward pass.

    Args:
        model: the model the site is in.
        site: a site from `find_site`.
        value: put in the place of what the site holds, `Tensors` of (N, ...), or made from what it holds.
        leaf: make what the site holds a leaf of autograd, so that gradients stop and can be read there.
        through: of what already depends on another leaf, read the gradient without making it one.
        stop: end the pass there by raising `Stop`.
        behind: another tap, whose site this one must not run in front of.

    After the pass, ``held`` is what the site held (or was given): with ``leaf`` the leaves themselves, else what
    autograd knows of it, copied so that later in-place operations do not show. ``counts`` says how many tensors each
    call of the layer held.
    """

    def __init__(
        self,
        model: Any,
        site: Site,
        value: Tensors | Callable[[Tensors], Tensors] | None = None,
        *,
        leaf: bool = False,
        through: bool = False,
        stop: bool = False,
        behind: Tap | Taps | None = None,
    ) -> None:
        self.site, self.module = site, module_at(model, site)
        self.value, self.leaf, self.through, self.behind = value, leaf, through, behind
        self.stop = stop and site.call != "all"
        self.calls = 0
        self.counts: list[int] = []
        self.held: Tensors | None = None
        self.raw: Any = None
        self._batch_dim = batch_dims(model, site)

    @property
    def was_tuple(self) -> bool:
        """Whether the layer held several tensors."""
        return self.site.call == "all" or sum(self.counts) > 1

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Itself, as the only one."""
        return (self,)

    def __enter__(self) -> Self:
        self._handle: RemovableHandle
        if self.site.input:
            self._handle = self.module.register_forward_pre_hook(self._on_input, with_kwargs=True)
        else:
            self._handle = self.module.register_forward_hook(self._on_output)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        if kind is None and self.held is None:
            raise TorchwhyError(self._never())
        if kind is None and isinstance(self.value, Tensors) and sum(self.counts) < len(self.value):
            raise TorchwhyError(self._other_calls())

    def _never(self) -> str:
        name = f"{self.site!r} was never reached"
        if self.calls:
            return f"{name}: the layer ran {self.calls} times in the forward pass, count calls from 0"
        return f"{name}: the model does not call this module, or uses its weights without calling it"

    def _other_calls(self) -> str:
        return (
            f"{self.site!r} holds another number of values for a changed copy than for the example itself, as where "
            f"the layer runs another number of times: choose a call, or explain the input"
        )

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._meet(output)

    def _on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._meet((args, kwargs))

    def _meet(self, there: Any) -> Any:
        index, self.calls = self.calls, self.calls + 1
        if self.site.call is None and index > 0:
            layer = self.site.layer if isinstance(self.site.layer, str) else type(self.site.layer).__name__
            raise TorchwhyError(
                f"the layer {layer!r} runs more than once in a forward pass; choose a call with "
                f"Site({layer!r}, call=0), or all with call='all'"
            )
        if self.site.call != "all" and index != (self.site.call or 0):
            return None
        if self.behind is not None and self.behind.held is None:
            raise TorchwhyError(
                f"the target {self.site!r} runs before {self.behind.site!r} and does not depend on it: explain an "
                f"earlier layer or the input"
            )
        leaves, spec = tree_flatten(there)
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not places:
            raise TorchwhyError(f"{self.site!r} holds no floating-point tensor, but {type(there).__name__}")
        if not callable(self.site.unit):
            self._check_layout(there)
        dims = [self._dim(n, leaves[i]) for n, i in enumerate(places)]
        found = Tensors(leaves[i].movedim(d, 0) if d else leaves[i] for i, d in zip(places, dims, strict=True))
        value = found if self.value is None else self._given(found)
        if self.leaf:
            value = value.map(lambda t: t if self.through and t.requires_grad else t.detach().requires_grad_())
        copies = value.map(torch.clone)
        self._hold(value if self.leaf else copies)
        # What goes back lies in memory as the layer's own value does, for those who view it.
        back = Tensors(t.movedim(0, d).contiguous() if d else t for t, d in zip(copies, dims, strict=True))
        if self.value is None and not self.leaf:
            # `raw` keeps the container for a callable unit, which knows the layer's own layout; the copies protect it
            # from in-place operations behind it.
            self._keep(tree_unflatten(_put(leaves, places, back if callable(self.site.unit) else copies), spec))
            if self.stop:
                raise Stop
            return None
        return tree_unflatten(_put(leaves, places, back), spec)

    def _check_layout(self, there: Any) -> None:
        given = there[0] if self.site.input else (there,)
        if any(isinstance(part, PackedSequence) for value in given for part in (value, *_items(value))):
            raise UnsupportedError(
                f"{self.site!r} holds a packed sequence, which mixes the steps of all examples: explain the layer in "
                f"front of pack_padded_sequence, or run the recurrent layer on the padded sequence"
            )

    def _dim(self, n: int, t: Tensor) -> int:
        dim = self._batch_dim(n, t)
        if not -t.ndim <= dim < max(1, t.ndim):
            raise TorchwhyError(f"{self.site!r} holds a tensor of shape {tuple(t.shape)}, without dimension {dim}")
        return dim % t.ndim if t.ndim else 0

    def _given(self, found: Tensors) -> Tensors:
        """The part of the value that belongs to this call."""
        if not isinstance(self.value, Tensors):
            assert self.value is not None
            return self.value(found)
        start = sum(self.counts)
        parts = self.value.parts[start : start + len(found)]
        if len(parts) < len(found):
            raise TorchwhyError(self._other_calls())
        return Tensors(parts)

    def _hold(self, value: Tensors) -> None:
        self.counts.append(len(value))
        self.held = value if self.held is None else Tensors([*self.held, *value])

    def _keep(self, raw: Any) -> None:
        self.raw = raw if self.site.call != "all" else (*(self.raw or ()), raw)


class Taps:
    """A tap at each of several sites during one forward pass, which can be read like one.

    Args:
        model: the model the sites are in.
        sites: from `find_place`.
        value: put in the place of what the sites hold, one after the other; ``counts`` says how many belong to each.
        counts: of a pass without ``value``.
        leaf: as of `Tap`.
        through: as of `Tap`.
        stop: end the pass by raising `Stop` as soon as all sites have been seen.
    """

    def __init__(
        self,
        model: Any,
        sites: Sites,
        value: Tensors | None = None,
        counts: Sequence[int] = (),
        *,
        leaf: bool = False,
        through: bool = False,
        stop: bool = False,
    ) -> None:
        values = _deal(value, counts) if value is not None else [None] * len(sites.sites)
        self.site = sites
        self.stop = stop and not any(s.call == "all" for s in sites.sites)
        self.taps = tuple(
            Tap(model, s, v, leaf=leaf, through=through) for s, v in zip(sites.sites, values, strict=True)
        )

    @property
    def held(self) -> Tensors | None:
        """What the sites held, one after the other, once all have been seen."""
        held = [tap.held for tap in self.taps]
        return None if any(h is None for h in held) else Tensors(t for h in held if h is not None for t in h)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for tap in self.taps:
                stack.enter_context(tap)
                if self.stop:
                    hook = tap.module.register_forward_hook(self._end)
                    stack.callback(hook.remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.held is not None:
            raise Stop


def tap(
    model: Any,
    place: Place,
    value: Tensors | None = None,
    counts: Sequence[int] = (),
    *,
    leaf: bool = False,
    through: bool = False,
    stop: bool = False,
) -> Tap | Taps:
    """A `Tap` at a site, or `Taps` at several."""
    if isinstance(place, Sites):
        return Taps(model, place, value, counts, leaf=leaf, through=through, stop=stop)
    return Tap(model, place, value, leaf=leaf, through=through, stop=stop)


def _deal(value: Tensors, counts: Iterable[int]) -> list[Tensors]:
    """So many of the parts to each."""
    parts = iter(value)
    return [Tensors(next(parts) for _ in range(count)) for count in counts]


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple | list) and not isinstance(value, PackedSequence) else ()


def _put(leaves: list[Any], places: list[int], values: Tensors) -> list[Any]:
    out = list(leaves)
    for place, value in zip(places, values, strict=True):
        out[place] = value
    return out
