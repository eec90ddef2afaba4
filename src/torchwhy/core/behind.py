"""Running only what stands behind a layer: the model is traced once and cut where the layer's value appears.

What does not depend on the layer is computed once per example. Not every model can be traced, and a trace can miss what
the model's own code does, so a `Shortcut` is taken only after it has given what the model gives; see
`torchwhy.core.trials`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._C import _len_torch_function_stack
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._pytree import tree_leaves

from torchwhy.core.site import Site, batch_dims, module_at
from torchwhy.core.tensors import Tensors

_CONSTANT = "_tensor_constant"  # as torch.fx names the tensors that it leaves in a model


@dataclass
class Behind:
    """A model, cut at a site.

    Attributes:
        front: from the inputs to what `back` needs beside the site's value; None where it needs nothing.
        back: from the site's value, and what `front` gives, to the output or what the target's site holds.
    """

    front: fx.GraphModule | None
    back: fx.GraphModule


@dataclass
class Shortcut:
    """What stands behind a site, for some examples.

    Attributes:
        behind: the model, cut.
        beside: what is needed beside the site's value, (B, ...) each.
        limits: rows per pass, with and without gradients, as measured.
    """

    behind: Behind
    beside: tuple[Tensor, ...]
    limits: dict[bool, int] = field(default_factory=dict)

    @staticmethod
    def of(behind: Behind, inputs: Tensors, limit: int) -> Shortcut | None:
        """For examples, ``limit`` of them at a time; None where what is needed does not belong to rows."""
        pieces = []
        for start in range(0, inputs.size if behind.front is not None else 0, limit):
            part = inputs[start : start + limit]
            assert behind.front is not None
            with torch.no_grad():
                found = behind.front(*part.map(torch.clone))
            if not all(isinstance(t, Tensor) and t.ndim > 0 and len(t) == part.size for t in found):
                return None
            pieces.append(found)
        return Shortcut(behind, tuple(map(torch.cat, zip(*pieces, strict=True))))

    def __call__(self, z: Tensors, rows: Tensor) -> Any:
        """The output for what the site holds, row by row; ``rows`` are the examples that the rows belong to."""
        # Copies, since the model may change its values in place.
        return self.behind.back(*z.map(torch.clone), *(t[rows] for t in self.beside))


def cut(model: Any, site: Site, target: Site | None, inputs: int) -> Behind | None:
    """The model cut at a site; None where that cannot be done, or may not be the same.

    Args:
        model: of ``inputs`` arguments, in evaluation mode.
        site: where to cut.
        target: the site that is read instead of the output.
        inputs: the number of arguments.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule) or _hooked(model):
        return None
    sites = [s for s in (site, target) if s is not None]
    if not all(_rows_first(model, s) for s in sites):
        return None
    kept = [module_at(model, s) for s in sites]
    changes: list[str] = []
    try:
        with warnings.catch_warnings(), _as_it_was(model, changes):
            warnings.simplefilter("ignore")
            graph = _Tracer(model, kept).trace(model, _defaults(model, inputs))
            found = _Cut(model, graph, site, target).parts()
    except Exception:  # noqa: BLE001  tracing runs the model's own code, which may fail in any way
        return None
    return None if changes else found


class _Tracer(fx.Tracer):
    """Keeps some modules whole, and sees into all that hold them."""

    def __init__(self, model: nn.Module, kept: Sequence[nn.Module]) -> None:
        super().__init__()
        self._kept = {id(k) for k in kept}
        self._open = {id(m) for m in model.modules() if any(id(s) in self._kept for s in m.modules() if s is not m)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if id(m) in self._open:
            return False
        return id(m) in self._kept or super().is_leaf_module(m, module_qualified_name)


class _Cut:
    """The nodes of a graph, told apart by what they depend on."""

    def __init__(self, model: nn.Module, graph: fx.Graph, site: Site, target: Site | None) -> None:
        self.model, self.site = model, site
        self.nodes = list(graph.nodes)
        self.there = self._call(site)
        self.end = self.nodes[-1] if target is None else self._call(target)
        self.given = self.end.args[0] if target is None else (self.end.args, self.end.kwargs)
        self.by_input = self._reached({n for n in self.nodes if n.op == "placeholder"})
        self.behind = self._reached({self.there})
        if target is not None:
            self.nodes = self.nodes[: self.nodes.index(self.end) + (not target.input)]
            self.given = self.given if target.input else self.end

    def _call(self, site: Site) -> fx.Node:
        """The node of a site."""
        module = module_at(self.model, site)
        calls = [n for n in self.nodes if n.op == "call_module" and self.model.get_submodule(str(n.target)) is module]
        if site.call == "all" or (site.call is None and len(calls) > 1):
            raise LookupError(site)
        found: fx.Node = calls[int(site.call or 0)]
        return found

    def _reached(self, found: set[fx.Node]) -> set[fx.Node]:
        """All nodes that depend on some."""
        for n in self.nodes:
            if any(a in found for a in n.all_input_nodes):
                found.add(n)
        return found

    def parts(self) -> Behind:
        """What stands in front and is needed, and what stands behind."""
        if self.end not in self.behind:
            raise LookupError(self.site)
        ends: list[fx.Node] = []
        fx.map_arg(self.given, ends.append)
        used = {a for n in self.behind if n.op != "output" for a in self._inputs(n)} | set(ends)
        beside = [n for n in self.nodes if n in used and n in self.by_input and n not in self.behind]

        back = fx.Graph()
        made: dict[fx.Node, fx.Node] = {}
        held = back.placeholder("held")
        for n in beside:
            made[n] = back.placeholder(n.name)
        for n in self.nodes:
            if n is self.there:
                made[n] = back.node_copy(n, lambda _: held) if self.site.input else held
            elif n.op != "output" and (n in self.behind or n not in self.by_input):
                made[n] = back.node_copy(n, made.__getitem__)
        back.output(fx.map_arg(self.given, made.__getitem__))
        return Behind(self._front(beside) if beside else None, fx.GraphModule(self.model, back))

    def _inputs(self, n: fx.Node) -> list[fx.Node]:
        """What a node behind the site needs, the site's value aside."""
        if n is not self.there:
            return n.all_input_nodes
        if self.site.input and (len(n.args) != 1 or n.kwargs or not isinstance(n.args[0], fx.Node)):
            raise LookupError(self.site)
        return []

    def _front(self, wanted: list[fx.Node]) -> fx.GraphModule:
        front = fx.Graph()
        made: dict[fx.Node, fx.Node] = {}
        for n in self.nodes:
            if n.op != "output" and n not in self.behind:
                made[n] = front.node_copy(n, made.__getitem__)
        front.output(tuple(made[n] for n in wanted))
        return fx.GraphModule(self.model, front)


def _rows_first(model: nn.Module, site: Site) -> bool:
    """Whether a site is one call of a layer, which holds the batch in front."""
    dims = batch_dims(model, site)
    return site.call != "all" and all(dims(n, torch.empty(1, 1, 1)) == 0 for n in (0, 1))


def _hooked(model: nn.Module) -> bool:
    """Whether anybody watches or changes what the modules do."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return _has_any_global_hook() or any(getattr(m, kind) for m in model.modules() for kind in kinds)


def _defaults(model: nn.Module, inputs: int) -> dict[str, Any]:
    """The arguments behind the inputs, which are not given."""
    names = list(signature(model.forward).parameters.values())
    rest = names[inputs:]
    if len(names) < inputs or any(n.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for n in names):
        raise LookupError(names)
    return {n.name: n.default for n in rest}


@contextmanager
def _as_it_was(model: nn.Module, changes: list[str]) -> Iterator[None]:
    """Undo what a traced pass has left in the modules, and name what the model's own code has left."""
    before = [(m, dict(vars(m)), {k: copy.copy(v) for k, v in vars(m).items() if _holds(v)}) for m in model.modules()]
    try:
        yield
    finally:
        for m, there, inside in before:
            now = vars(m)
            changes += [k for k in now if k not in there and not k.startswith(_CONSTANT)]
            changes += [k for k, v in there.items() if now.get(k) is not v]
            changes += [k for k, v in inside.items() if not _same(there[k], v)]
            now.clear()
            now.update(there)
            for name, value in inside.items():
                _put_back(there[name], value)


def _holds(value: object) -> bool:
    return type(value) in (list, dict, set)


def _same(now: Any, before: Any) -> bool:
    """Whether a container holds the same objects."""
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        return all(k in before and before[k] is v for k, v in now.items())
    return now == before if isinstance(now, set) else all(a is b for a, b in zip(now, before, strict=True))


def _put_back(container: Any, before: Any) -> None:
    if _same(container, before):
        return
    container.clear()
    (container.extend if isinstance(container, list) else container.update)(before)


def is_watched() -> bool:
    """Whether something watches every operation, and would miss those in front of a site."""
    return _len_torch_function_stack() > 0


def same_numbers(known: Any, again: Any) -> bool:
    """Whether two results have the same tensors, but for rounding."""
    pairs = zip(*([t for t in tree_leaves(r) if isinstance(t, Tensor)] for r in (known, again)), strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype and _close(a.detach(), b.detach()) for a, b in pairs)


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    room = torch.finfo(a.dtype).eps ** 0.75
    size = float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 0.0
    return torch.allclose(a, b, rtol=room, atol=room * size, equal_nan=True)
