"""Where an explanation looks: the input, or the input or output of any module.

A `Site` names a place in the model. A `Tap` is what stands there during one forward pass: it records what the place
holds or puts another value in, and is gone when its ``with`` ends.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import EllipsisType, TracebackType
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.hooks import RemovableHandle

from torchwhy.core.errors import TorchwhyError, UnsupportedError, closest
from torchwhy.core.guard import call, module_of
from torchwhy.core.tensors import Tensors

Index: TypeAlias = "int | slice | EllipsisType"
Unit: TypeAlias = "int | tuple[Index, ...] | Callable[[Any], Tensor]"


@dataclass(frozen=True)
class Site:
    """A place in a model, and as a target also a unit of it.

    Attributes:
        layer: a module of the model or its name, as in ``model.named_modules()``.
        unit: for a target: the index of a unit behind the batch dimension, ``(channel, row, column)`` for a
            convolution; with slices or fewer indices the selected units are summed. Or a callable from the layer's
            value to one score per example.
        call: which call of a module that runs several times in one forward pass, from 0.
        input: the module's input instead of its output.

    >>> Site("conv2")
    Site('conv2')
    >>> Site("encoder.relu", unit=(3, 0, 0), call=1)
    Site('encoder.relu', unit=(3, 0, 0), call=1)
    >>> print(Site("conv1", unit=(3, 0, slice(None))))
    conv1[3, 0, :]
    """

    layer: str | nn.Module
    unit: Unit | None = None
    call: int | None = None
    input: bool = False

    def __repr__(self) -> str:
        layer = self.layer if isinstance(self.layer, str) else type(self.layer).__name__
        shown = [repr(layer)]
        shown += [f"unit={self.unit!r}"] * (self.unit is not None)
        shown += [f"call={self.call}"] * (self.call is not None) + ["input=True"] * self.input
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


def find_site(model: Any, at: str | nn.Module | Site) -> Site:
    """A `Site` whose layer is known to be in the model and is given by name where the model has one for it."""
    site = at if isinstance(at, Site) else Site(at)
    root = module_of(model)
    if isinstance(site.layer, nn.Module):
        # A layer given as a module may belong to a model hidden in a function, whose modules we cannot list.
        for name, module in root.named_modules() if root is not None else ():
            if module is site.layer:
                return replace(site, layer=name)
        if isinstance(model, nn.Module):
            raise TorchwhyError(f"the layer {type(site.layer).__name__} is not a module of {type(model).__name__}")
        return site
    if not isinstance(site.layer, str):
        raise TorchwhyError(f"a layer is a module or its name, not {type(site.layer).__name__}")
    if root is None:
        raise TorchwhyError(f"{site.layer!r} is a name, but the model is a function: pass the module itself")
    names = {name for name, _ in root.named_modules(remove_duplicate=False)}
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


class Stop(BaseException):
    """Ends a forward pass as soon as the wanted site has been seen; nothing behind it can change what it held."""


class Tap:
    """Watches one site during one forward pass.

    Args:
        model: the model the site is in.
        site: a site from `find_site`.
        value: put in the place of what the site holds, `Tensors` of (N, ...).
        leaf: make what the site holds a leaf of autograd, so that gradients stop and can be read there.
        stop: end the pass there by raising `Stop`.
        behind: another tap, whose site this one must not run in front of.

    After the pass, ``held`` is what the site held (or was given): with ``leaf`` the leaves themselves, else what
    autograd knows of it, copied so that later in-place operations do not show.
    """

    def __init__(
        self,
        model: Any,
        site: Site,
        value: Tensors | None = None,
        *,
        leaf: bool = False,
        stop: bool = False,
        behind: Tap | None = None,
    ) -> None:
        self.site, self.module = site, module_at(model, site)
        self.value, self.leaf, self.stop, self.behind = value, leaf, stop, behind
        self.calls = 0
        self.held: Tensors | None = None
        self.raw: Any = None
        self.was_tuple = False

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

    def _never(self) -> str:
        name = f"{self.site!r} was never reached"
        if self.calls:
            return f"{name}: the layer ran {self.calls} times in the forward pass, count calls from 0"
        return f"{name}: the model does not call this module, or uses its weights without calling it"

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._meet(module, output)

    def _on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._meet(module, (args, kwargs))

    def _meet(self, module: nn.Module, there: Any) -> Any:
        index, self.calls = self.calls, self.calls + 1
        if self.site.call is None and index > 0:
            layer = self.site.layer if isinstance(self.site.layer, str) else type(self.site.layer).__name__
            raise TorchwhyError(
                f"the layer {layer!r} runs more than once in a forward pass; choose a call with Site({layer!r}, call=0)"
            )
        if index != (self.site.call or 0):
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
        if isinstance(module, nn.RNNBase) and not self.site.input:
            raise UnsupportedError(
                f"{self.site!r} is recurrent: its states hold the batch in dimension 1; explain its input "
                f"(input=True) or the layer behind it"
            )
        self.was_tuple = len(places) > 1
        found = Tensors(leaves[i] for i in places)
        value = self.value if self.value is not None else found
        if self.leaf:
            value = value.map(lambda t: t.detach().requires_grad_())
        copies = value.map(torch.clone)
        self.held = value if self.leaf else copies
        if self.value is None and not self.leaf:
            # `raw` keeps the container for a callable unit; the copies protect it from in-place operations behind it.
            self.raw = tree_unflatten(_put(leaves, places, copies), spec)
            if self.stop:
                raise Stop
            return None
        return tree_unflatten(_put(leaves, places, copies), spec)


def _put(leaves: list[Any], places: list[int], values: Tensors) -> list[Any]:
    out = list(leaves)
    for place, value in zip(places, values, strict=True):
        out[place] = value
    return out


def last_spatial_layer(model: Any, inputs: Tensors, extra: tuple[Any, ...], size: int) -> Site:
    """The last module that runs once and gives (1, C, H, W) with more than one position, for one example.

    Args:
        model: the model.
        inputs: one example.
        extra: further arguments of the model; tensors with ``size`` rows belong to the examples.
        size: the number of examples that ``extra`` was given for.
    """
    root = module_of(model)
    if root is None:
        raise TorchwhyError("the model is a function, whose layers cannot be searched: say which with at=module")
    seen: dict[str, list[tuple[int, ...] | None]] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            seen.setdefault(name, []).append(shape)

        return note

    with ExitStack() as stack, torch.no_grad():
        for name, module in root.named_modules():
            if name:
                stack.callback(module.register_forward_hook(watch(name)).remove)
        first = (
            (a[:1] if a.ndim > 0 and a.shape[0] == size else a).clone() if isinstance(a, Tensor) else a for a in extra
        )
        call(model, inputs.map(torch.clone), tuple(first))
    found = [
        name
        for name, shapes in seen.items()
        if len(shapes) == 1 and shapes[0] is not None and len(shapes[0]) == 4 and shapes[0][2] * shapes[0][3] > 1
    ]
    if not found:
        raise TorchwhyError(
            f"{type(root).__name__} has no layer that holds a spatial map (B, C, H, W): "
            f"say which layer to explain with at="
        )
    return Site(found[-1])
