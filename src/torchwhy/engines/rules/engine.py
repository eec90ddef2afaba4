"""A modified backward pass: rules on operations, whatever the code that runs them looks like.

The model runs once inside an `Interceptor`, which sees every operation of PyTorch. Where a `Composite` has a rule, the
operation becomes a node of autograd whose backward pass is the rule; all else is left to autograd.

    rule(local, g_out) -> g_in

with `local` the operation (`Local`), and one gradient per input of it. What flows is a gradient, so the relevance
at any place is ``value * g``. A rule that compares finds the same operation in the baseline's pass as
``local.reference``.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from torchwhy.core.errors import UnsupportedError
from torchwhy.engines.rules.composite import Backward, Composite, On, Plan, Prepared, Rule
from torchwhy.engines.rules.decompose import Refused
from torchwhy.engines.rules.local import Call, Local, storage, tensors_in
from torchwhy.engines.rules.operations import names
from torchwhy.engines.rules.place import Place, here, names_of
from torchwhy.engines.rules.roots import Roots
from torchwhy.engines.rules.step import Step, name_of

# Nodes of autograd that only move values: these may stand before an operation without having been called, when the
# model changes a view in place.
_SILENT = names(
    """
    AccumulateGrad Alias AsStrided BackwardHookFunction Clone CopySlices Detach Expand Permute ReshapeAlias Select
    Slice Split Squeeze T Transpose Unbind UnsafeView Unsqueeze View
    """
)
_NODE_NAME = re.compile(r"^.*::|Backward\d*$")
# Operations whose constant arguments are shapes, which follow the number of rows.
_SHAPED = names("view reshape expand repeat unflatten broadcast_to tile view_as reshape_as expand_as")


class Interceptor(TorchFunctionMode):
    """Gives operations their rules while a model runs inside it.

    Args:
        composite: the rules.
        model: for the names of its modules.
        recorded: the operations of the pass over the baseline, by a `Recorder`.
        shared: that pass had one row for all examples.
        steps: gets a line for every operation.
    """

    def __init__(
        self,
        composite: Composite,
        model: Any,
        *,
        recorded: list[Local] | None = None,
        shared: bool = False,
        steps: list[Step] | None = None,
    ) -> None:
        super().__init__()
        self.composite = composite
        self.seen = 0  # operations compared with recorded ones
        self._model, self._recorded, self._shared, self._steps = model, recorded, shared, steps
        self._names: dict[int, str] | None = None
        self._known: set[Any] = set()  # nodes of autograd that came from operations seen
        self._constant: set[Any] = set()  # nodes that lead to parameters, not to what is explained
        self._held: dict[int, list[weakref.ref[Local]]] = {}  # by storage
        self._firsts: set[On] = set()
        self._lasts: dict[On, Act] = {}
        self._sources: dict[Any, tuple[Local, tuple[Tensor, ...]]] = {}  # by node, with the inputs as autograd has them
        self._roots = Roots()
        self._lines: WeakKeyDictionary[Local, Step] = WeakKeyDictionary()

    # -- every operation ------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        plan = self.composite.plans.get(func) or self.composite.plan(func)
        op = plan.operation
        if not op.name:
            return func(*args, **kwargs)
        in_place, plain_args, plain_kwargs = op.settle(args, kwargs)
        target = (args[0] if args else kwargs.get("input")) if in_place else None
        native = partial(self._native, target, partial(func, *args, **kwargs))
        tensors = list(tensors_in(plain_args, plain_kwargs)) if torch.is_grad_enabled() else []
        varying = [(slot, t) for slot, t in tensors if t.requires_grad and self._varies(t)]
        if not varying:
            out = native()
            if any(t.requires_grad for _, t in tensors):
                self._constant.update(_nodes(out))
            return out
        if op.name == "clone" and varying[0][1].grad_fn is None:  # our own copy of what is explained
            return native()
        try:
            for _, t in varying:
                self.check(t, op.name)
            if plan.smaller is not None:
                with self:
                    out = plan.smaller(*plain_args, **plain_kwargs)
                if out is not NotImplemented:
                    return out if target is None else self._put(target, out)
            call = Call.of(op.name, op.function, plain_args, plain_kwargs, [slot for slot, _ in varying])
            return self._known_now(self._meet(plan, call, tuple(t for _, t in varying), native, target), target)
        except Refused as why:
            self._refuse(op.name, str(why))

    def _varies(self, t: Tensor) -> bool:
        """Whether a tensor leads to what is explained; otherwise only to parameters that nobody has frozen."""
        node = t.grad_fn
        return not isinstance(t, nn.Parameter) if node is None else node not in self._constant

    def _native(self, target: Tensor | None, run: Callable[[], Any]) -> Any:
        """As the model has it."""
        if target is not None:
            self.unshare(target)
        return run()

    def _put(self, target: Tensor, out: Tensor) -> Tensor:
        """The second half of an operation in place."""
        self.unshare(target)
        target.copy_(out)
        self._known_now(target, target)
        return target

    def _known_now(self, out: Any, target: Tensor | None) -> Any:
        self._known.update(_nodes(out))
        if target is not None:
            self._known.update(_nodes(target))
            if target._is_view() and target._base is not None:
                self._known.update(_nodes(target._base))
        return out

    # -- those that what is explained runs through ----------------------------------------------------------------

    def _meet(
        self, plan: Plan, call: Call, values: tuple[Tensor, ...], native: Callable[[], Any], target: Tensor | None
    ) -> Any:
        if not plan.listed:
            out = native()
            if _nodes(out):
                raise Refused("there is no rule for it")
            return out
        local = Local(call, tuple(t.detach() for t in values))
        if self._recorded is not None:
            local.reference = self._counterpart(local)
        source = self._sources.get(values[0].grad_fn) if self._sources else None
        root = self._roots.common(values) if call.name in self.composite.elementwise else None
        if root is not None and len(values) > 1:
            source = root.source()
        if source is not None:
            local.source = source[0]
        options = self._options(plan)
        if options and isinstance(rule := options[0][1], Prepared) and rule.stops(local):
            self._step(local, rule)
            return self._stopped(local, target)
        if options and isinstance(rule := options[0][1], Prepared) and not rule.needed(local):
            options = []
        elif not options and not same_constants(local):
            raise Refused("an argument of it differs between input and baseline, and carries no gradient")
        if options:
            out = self._by_rule(Act(self, local, options, self._step(local, options[0][1])), values, source, target)
        else:
            out = self._plainly(local, values, native, target)
        if call.name in self.composite.sources and isinstance(out, Tensor):
            local.keep(out)
            self._sources[out.grad_fn] = local, values
        if root is not None:
            self._roots.note(root, local, out)
        return out

    def _stopped(self, local: Local, target: Tensor | None) -> Any:
        """What an operation gives, as a constant."""
        with torch.no_grad():
            out = local.call.run(local.inputs)
        if target is None:
            return out
        if target._is_view():
            raise Refused("it writes a constant into a part of a tensor; write it without the in-place form")
        self.unshare(target)
        return target.detach_().copy_(out)

    def _by_rule(
        self,
        act: Act,
        values: tuple[Tensor, ...],
        source: tuple[Local, tuple[Tensor, ...]] | None,
        target: Tensor | None,
    ) -> Any:
        for selector, _ in act.options:
            if selector.position == "last":
                if selector in self._lasts:
                    self._lasts[selector].supersede(selector)
                self._lasts[selector] = act
        rule = act.options[0][1]
        if source is not None and isinstance(rule, Prepared) and rule.fuses(act.local):
            act.fused, values = True, source[1]
        if target is not None and target is values[0]:
            act.target = target
            return RuledNode.apply(act, *values)  # type: ignore[no-untyped-call]
        out = RuledNode.apply(act, *values)  # type: ignore[no-untyped-call]
        return act.kind(out) if target is None else self._put(target, out)

    def _plainly(
        self, local: Local, values: tuple[Tensor, ...], native: Callable[[], Any], target: Tensor | None
    ) -> Any:
        """Left to autograd; a trace measures it, unless it only moves values."""
        if self._steps is None:
            return native()
        measured = target is None and isinstance(raw := local.raw, Tensor) and raw.requires_grad
        if measured and storage(raw) not in map(storage, local.inputs):
            return RuledNode.apply(Act(self, local, [], self._step(local, None)), *values)  # type: ignore[no-untyped-call]
        out = native()
        if _nodes(out) or target is not None:
            self._step(local, None)
        return out

    def _step(self, local: Local, rule: Rule | None) -> Step | None:
        if self._steps is None:
            return None
        behind = None if local.source is None else self._lines.get(local.source)
        step = self._lines[local] = Step(local.operation, self.place(), name_of(rule), behind=behind)
        self._steps.append(step)
        return step

    def _options(self, plan: Plan) -> list[tuple[On, Rule]]:
        """The rules for an operation, best first: more than one only while it may be the last of its kind."""
        out = []
        place: Place | None = None

        def standing() -> Place:
            nonlocal place
            place = place or self.place()
            return place

        for selector, rule in plan.rules:
            if selector in self._firsts or not selector.meets(standing):
                continue
            if selector.position == "first":
                self._firsts.add(selector)
            out.append((selector, rule))
            if selector.position != "last":
                break
        return out

    def _counterpart(self, local: Local) -> Local:
        """The same operation in the pass over the baseline."""
        assert self._recorded is not None
        if self.seen == len(self._recorded):
            raise Refused("the model takes another way for the baseline, which ends before it")
        reference = self._recorded[self.seen]
        self._recorded[self.seen] = _PASSED  # frees what it holds
        self.seen += 1
        if reference.operation != local.operation or reference.call.slots != local.call.slots:
            raise Refused(f"the model takes another way for the baseline: there, {reference.operation} stands here")
        for x, x0 in zip(local.inputs, reference.inputs, strict=False):
            if x.shape != x0.shape and not (self._shared and _stretches(x0, x)):
                raise Refused(f"it has shape {tuple(x.shape)} for the input and {tuple(x0.shape)} for the baseline")
        return reference

    # -- memory that the model writes over ------------------------------------------------------------------------

    def hold(self, local: Local) -> None:
        """Keep what an operation has seen, whatever the model does to it later."""
        for place in set(local.storages()):
            self._held.setdefault(place, []).append(weakref.ref(local))

    def unshare(self, target: Tensor) -> None:
        """Before a tensor is changed in place."""
        place = storage(target)
        for ref in self._held.pop(place, ()):
            if (local := ref()) is not None:
                local.unshare(place)

    # -- what cannot be done --------------------------------------------------------------------------------------

    def place(self) -> Place:
        """Where the model is."""
        if self._names is None:
            self._names = names_of(self._model)
        return here(self._names)

    def check(self, t: Tensor, name: str) -> None:
        """Whether a tensor comes from operations that were seen; compiled code and the like hide theirs."""
        if t.grad_fn is None or t.grad_fn in self._known:
            return
        nodes, visited = [t.grad_fn], set()
        while nodes:
            node = nodes.pop()
            if node in visited or node in self._known or node in self._constant:
                continue
            visited.add(node)
            kind = _NODE_NAME.sub("", node.name())
            if kind not in _SILENT and (self.composite.linear is not None or self._may_be_ruled(kind)):
                raise Refused(
                    f"it takes what {node.name()} gave, an operation that cannot be seen: torch.jit and "
                    f"torch.autograd.Function hide what they do; explain the model in plain PyTorch code"
                )
            nodes.extend(n for n, _ in node.next_functions if n is not None)
        self._known.add(t.grad_fn)

    def check_output(self, t: Tensor) -> None:
        """The same for what the model returned."""
        try:
            self.check(t, "the output")
        except Refused as why:
            self._refuse("the output", str(why))

    def _may_be_ruled(self, kind: str) -> bool:
        """Whether a hidden node may be an operation that the composite has a rule for."""
        ruled = {name.replace("_", "") for selector, _ in self.composite.rules for name in selector.operations}
        return kind.lower() in {*ruled, "compiledfunction", "differentiablegraph"}

    def _refuse(self, name: str, why: str) -> NoReturn:
        promise = f"{self.composite.name} cannot keep its promise at {name}"
        raise UnsupportedError(f"{promise}: {why} (in {self.place()})") from None


class Recorder(Interceptor):
    """The pass over the baseline: keeps what rules compare with, or, for a trace, the inputs of every operation."""

    def __init__(self, composite: Composite, model: Any, *, everything: bool = False) -> None:
        super().__init__(composite, model)
        self.operations: list[Local] = []
        self._everything = everything

    def _meet(
        self, plan: Plan, call: Call, values: tuple[Tensor, ...], native: Callable[[], Any], target: Tensor | None
    ) -> Any:
        if not plan.listed:
            return native()
        compared = self._everything or bool(plan.rules) or call.name in self.composite.sources
        local = Local(call, tuple(t.detach() for t in values) if compared else ())
        self.operations.append(local)
        self.hold(local)
        out = native()
        if compared and isinstance(out, Tensor) and out.numel() < values[0].numel():  # a maximum over many
            local.keep(out)
            self.hold(local)
        return out


class Act:
    """An operation under a rule, from its forward to its backward pass.

    Attributes:
        local: the operation.
        options: selectors and rules, best first; none is plain autograd.
        step: the line of a trace.
        fused: the rule takes in ``local.source``.
        target: a tensor to put the output in.
        kind: of the output, where it is not a tensor.
    """

    def __init__(self, mode: Interceptor, local: Local, options: list[tuple[On, Rule]], step: Step | None) -> None:
        self.mode, self.local, self.options, self.step = mode, local, options, step
        self.fused = False
        self.target: Tensor | None = None
        self.kind: Callable[[Any], Any] = _itself
        self._backward: Backward | None = None

    def supersede(self, selector: On) -> None:
        """Another operation is the last of its kind."""
        self.options = [option for option in self.options if option[0] is not selector]

    def forward(self) -> Any:
        """Run the operation, and prepare the rule if it is certain."""
        raw = self.local.raw
        again = True
        if self.options and self.options[0][0].position != "last" and isinstance(rule := self.options[0][1], Prepared):
            self._backward, again = rule.prepare(self.local), rule.again
        if again or self.step is not None:
            self.mode.hold(self.local)
        return raw

    def backward(self, g: Tensor) -> tuple[Tensor, ...]:
        """The rule's gradients."""
        if self._backward is None:
            rule = self.options[0][1] if self.options else None
            if isinstance(rule, Prepared):
                self._backward = rule.prepare(self.local)
            else:
                self._backward = self.local.vjp if rule is None else partial(rule, self.local)
            if self.step is not None:
                self.step.rule = name_of(rule)
        found = self._backward(g)
        gradients = found if isinstance(found, tuple) else (found,)
        if self.step is not None:
            taker = self.local.source if self.fused and self.local.source is not None else self.local
            self.step.measure(self.local, taker, g, gradients)
        del self.local, self._backward  # the graph lives on until the backward pass has ended
        return gradients


class RuledNode(torch.autograd.Function):
    """An operation whose backward pass is a rule."""

    @staticmethod
    def forward(ctx: Any, act: Act, *values: Tensor) -> Any:
        ctx.act = act
        raw = act.forward()
        if act.target is not None:
            target, act.target = act.target, None
            act.mode.unshare(target)
            target.copy_(raw.detach())
            ctx.mark_dirty(target)
            return target
        # A detached tensor would count as a view, which the model might then not change in place; `data` does not.
        # `Interceptor.hold` sees to it that what is kept of the operation does not change with it.
        if isinstance(raw, Tensor):
            return raw.data
        act.kind = type(raw)
        outs = tuple(t.data for t in raw)
        ctx.mark_non_differentiable(*[t for t in outs if not t.is_floating_point()])
        return outs

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        return None, *ctx.act.backward(g[0])


def same_constants(local: Local) -> bool:
    """Whether the arguments that carry no gradient are those of the pass over the baseline."""
    if local.reference is None or local.operation in _SHAPED:
        return True
    ours, theirs = local.call.constants(), local.reference.call.constants()
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b) if a.shape == b.shape else _stretches(b, a) and bool((a == b).all())
    return type(a) is type(b) and bool(a == b)


def _stretches(one: Tensor, many: Tensor) -> bool:
    """Whether a tensor of one row has the shape of one with many."""
    return one.ndim == many.ndim and all(a in (1, b) for a, b in zip(one.shape, many.shape, strict=True))


def _nodes(out: Any) -> list[Any]:
    """The nodes of autograd behind what an operation returned."""
    if isinstance(out, Tensor):
        return [out.grad_fn] if out.grad_fn is not None else []
    return [t.grad_fn for t in tree_leaves(out) if isinstance(t, Tensor) and t.grad_fn is not None]


def _itself(out: Any) -> Any:
    return out


_PASSED = Local(Call("", print, (), {}, ()), ())
