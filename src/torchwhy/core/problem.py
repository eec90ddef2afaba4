"""The question that every method answers: a function of the value at a site, at one point per example.

With B examples, a `Problem` is the plain function ``f(z) -> (B,)``: the model with the value at the site replaced by
``z``, reduced to one score per example by the target. This is the only code that knows how rows are laid out,
repeated, cut to the memory that is there and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from torchwhy.core import precision
from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.guard import call, module_of
from torchwhy.core.inputs import broadcast, cast, check_inputs, leaf
from torchwhy.core.meter import Meter
from torchwhy.core.progress import Progress
from torchwhy.core.site import Site, Stop, Tap, find_site
from torchwhy.core.target import Target, resolve
from torchwhy.core.tensors import Tensors, as_tensors

# The first of several passes is of so many rows, or fewer where rows are large, and measures the rest.
FIRST_ROWS, FIRST_ELEMENTS = 16, 2**19

Points: TypeAlias = Callable[[slice, slice], Tensors]
Precision: TypeAlias = Literal["full", "mixed"]


@dataclass
class Cost:
    """Rows sent through the model: a row is one example, or one changed copy of it."""

    forward: int = 0
    backward: int = 0


@dataclass
class Sweep:
    """One pass of a sweep: scores (K, B) and gradients (K, B, ...) of points ``ks`` for ``examples``."""

    examples: slice
    ks: slice
    scores: Tensor
    gradients: Tensors | None


@dataclass
class _Shared:
    """What a problem and its parts share."""

    progress: Progress
    cost: Cost = field(default_factory=Cost)
    limits: dict[bool, int] = field(default_factory=dict)  # rows per pass, with and without gradients
    channels_last: bool | None = None  # the memory layout of images, once it is known which is right
    reached: bool = False  # the target's site is known to run as often as its Site says


class Problem:
    """``f(z)``, the point it is explained at and the baseline it is compared with.

    Args:
        model: a module or function from ``inputs`` and ``extra`` to an output.
        inputs: (B, ...) each.
        extra: further arguments of the model; tensors with B rows belong to the examples, all else is passed as it is.
        at: the place to explain; None is the input.
        target: what is explained, see `torchwhy.core.target`.
        baselines: in place of the inputs, for comparison: numbers or tensors that broadcast to the inputs. At a layer
            they are carried there by the model.
        baseline_set: the baselines are a set of rows (N, ...); where one baseline is needed, it is their mean.
        layer_baselines: in place of what the layer holds.
        zero_at_site: without any baseline, compare with zeros at the site rather than with the site's value for zero
            inputs.
        batch_size: rows per pass; None measures what fits.
        precision: "mixed" computes gradients in bfloat16.
    """

    def __init__(
        self,
        model: Any,
        inputs: Tensors,
        *,
        extra: tuple[Any, ...] = (),
        at: str | nn.Module | Site | None = None,
        target: Any = None,
        baselines: Any = None,
        baseline_set: bool = False,
        layer_baselines: Any = None,
        zero_at_site: bool = False,
        batch_size: int | None = None,
        precision: Precision = "full",
        progress: Progress | None = None,
    ) -> None:
        check_inputs(inputs)
        _check_rows_independent(model)
        if batch_size is not None and (
            isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
        ):
            raise TorchwhyError(f"batch_size counts rows, a whole number of at least 1, not {batch_size!r}")
        self.model = model
        self.inputs = inputs.map(lambda t: t.detach().clone() if t.is_inference() else t.detach())
        self.extra = extra
        # Decided once: a part of the examples, or noisy copies of them, may by chance be as many as a table has rows.
        self._follows = [isinstance(a, Tensor) and a.ndim > 0 and len(a) == self.size for a in tree_leaves(extra)]
        self.site = None if at is None else find_site(model, at)
        if self.site is not None and self.site.unit is not None:
            raise TorchwhyError(f"{self.site!r}: a unit belongs to a target; at= explains all that a layer holds")
        self.batch_size = batch_size
        self.precision = precision
        self._wanted = target
        self._target_site = find_site(model, target) if isinstance(target, Site) else None
        self._baselines, self._layer_baselines = baselines, layer_baselines
        self._baseline_set, self._zero_at_site = baseline_set, zero_at_site
        self._shared = _Shared(progress or Progress())
        self._target: Target | None = None
        self._point: Tensors | None = self.inputs if self.site is None else None
        self._base: Tensors | None = None
        self._base_scores: Tensor | None = None
        self._held_by_background: Tensors | None = None
        self._scores: Tensor | None = None
        self._output: Tensor | None = None
        self._was_tuple = False
        self._many = self.size > FIRST_ROWS  # more rows will follow than fit into a first pass
        if layer_baselines is not None and self.site is None:
            raise TorchwhyError("layer_baselines replace what a layer holds: say which with at=, or give baselines")

    # -- what is known of the point -------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """The number of examples, B."""
        return self.inputs.size

    @property
    def cost(self) -> Cost:
        """Rows evaluated so far, by this problem and those made from it."""
        return self._shared.cost

    @property
    def progress(self) -> Progress:
        """Where work is counted."""
        return self._shared.progress

    @property
    def point(self) -> Tensors:
        """The value at the site, (B, ...)."""
        if self._point is None:
            self._look()
        assert self._point is not None
        return self._point

    @property
    def scores(self) -> Tensor:
        """``f(point)``, (B,)."""
        if self._scores is None:
            self._look()
        assert self._scores is not None
        return self._scores

    @property
    def target(self) -> Target:
        """What is explained, as resolved at the point."""
        if self._target is None:
            self._look()
        assert self._target is not None
        return self._target

    @property
    def output(self) -> Tensor | None:
        """The model's output for the inputs where it is a tensor of (B, classes), as far as a pass has shown it."""
        return self._output

    @property
    def was_tuple(self) -> bool:
        """Whether the layer holds several tensors."""
        self.point  # noqa: B018  a pass has seen the layer
        return self._was_tuple

    @property
    def base(self) -> Tensors:
        """The baseline at the site, (B, ...)."""
        if self._base is None:
            self._base = self._find_base()
        return self._base

    def base_scores(self) -> Tensor:
        """``f(base)``, (B,)."""
        if self._base_scores is None:
            self._base_scores = self.scores_at(lambda es, ks: self.base[es][None])[0]
        return self._base_scores

    def _look(self) -> None:
        """One pass over the examples without gradients."""
        self._pass_at_point(gradients=False)

    def at_point(self) -> tuple[Tensor, Tensors]:
        """Scores (B,) and gradients (B, ...) at the point, in one pass over the examples."""
        gradients = self._pass_at_point(gradients=True)
        assert gradients is not None
        return self.scores, gradients

    def _pass_at_point(self, gradients: bool) -> Tensors | None:
        passes: list[_Done] = []
        start = 0
        while start < self.size:
            stop = min(self.size, start + self._limit(gradients, FIRST_ROWS))
            passes.append(self._evaluate(None, torch.arange(start, stop, device=self.inputs.device), gradients))
            start = stop
        done = _Done.cat(passes)
        self._scores = done.scores
        self._target = done.target if self._target is None else self._target
        self._point = self._point if done.held is None else done.held
        self._output = self._output if done.output is None else done.output
        finite = self._scores.isfinite()
        if not finite.all():
            bad = (~finite).nonzero().flatten().tolist()
            raise TorchwhyError(
                f"the model's score is {self._scores[bad[0]].item()} for example {bad[0]}"
                f"{f' and {len(bad) - 1} more' if len(bad) > 1 else ''}: there is no decision to explain"
            )
        return done.gradients

    # -- evaluation -----------------------------------------------------------------------------------------------

    def sweep(self, points: Points, count: int, *, gradients: bool, what: str = "") -> Iterator[Sweep]:
        """Evaluate ``count`` points per example, as many at a time as fit.

        Args:
            points: gives, for a slice of the examples and a slice of ``range(count)``, the points (K, B, ...).
            gradients: of the scores with respect to the points as well.
            what: shown beside the progress bar.
        """
        self._many |= count * self.size > FIRST_ROWS
        self.target  # noqa: B018  is resolved at the point itself, never at a changed copy
        if self._many and self._shared.channels_last is None:
            self._shared.channels_last = self._can_be_channels_last()
        with self.progress.task(what or "evaluating", count * self.size) as advance:
            first = 0
            while first < self.size:
                es = slice(first, min(self.size, first + self._limit(gradients, FIRST_ROWS)))
                width = es.stop - es.start
                examples = torch.arange(es.start, es.stop, device=self.inputs.device)
                k = 0
                while k < count:
                    limit = self._limit(gradients, self._first_rows)
                    ks = slice(k, min(count, k + max(1, limit // width)))
                    copies = ks.stop - ks.start
                    done = self._evaluate(points(es, ks).merge(), examples.repeat(copies), gradients)
                    slopes = None if done.gradients is None else done.gradients.split(copies)
                    yield Sweep(es, ks, done.scores.unflatten(0, (copies, width)), slopes)
                    advance(copies * width)
                    k = ks.stop
                first = es.stop

    def scores_at(self, points: Points, count: int = 1, what: str = "") -> Tensor:
        """``f`` at ``count`` points per example, (count, B), without gradients."""
        out = self.scores.new_empty(count, self.size)
        for part in self.sweep(points, count, gradients=False, what=what):
            out[part.ks, part.examples] = part.scores
        return out

    def rows_scores(self, z: Tensors, rows: Tensor) -> Tensor:
        """``f`` of rows (N, ...) in one batch, row ``n`` with the target and extra arguments of ``rows[n]``."""
        self.target  # noqa: B018  is resolved at the point itself
        return self._evaluate(z, rows, gradients=False).scores

    def carry(self, inputs: Tensors, rows: Tensor) -> Tensors:
        """What the site holds for other inputs (N, ...), row ``n`` with the extra arguments of example ``rows[n]``."""
        if self.site is None:
            return inputs
        pieces = []
        for start in range(0, inputs.size, limit := self._limit(False, FIRST_ROWS)):
            part = slice(start, start + limit)
            with torch.no_grad(), Tap(self.model, self.site, stop=True) as tap, suppress(Stop):
                call(self.model, inputs[part].map(torch.clone), self._extra(rows[part]))
            assert tap.held is not None
            pieces.append(tap.held)
            self.cost.forward += tap.held.size
        return Tensors.cat(pieces)

    def _extra(self, rows: Tensor) -> tuple[Any, ...]:
        """The further arguments for some rows: tensors that belong to the examples follow them, all are copies."""

        def part(a: Any, follows: bool) -> Any:
            return a[rows.to(a.device)] if follows else a.clone() if isinstance(a, Tensor) else a

        leaves, spec = tree_flatten(self.extra)
        return tuple(tree_unflatten([part(a, f) for a, f in zip(leaves, self._follows, strict=True)], spec))

    @property
    def extra_follows(self) -> bool:
        """Whether some further arguments belong to the examples."""
        return any(self._follows)

    def rows_per_pass(self) -> int:
        """How many rows with gradients fit, as far as is known."""
        return self._limit(True, self._first_rows)

    def _limit(self, gradients: bool, unknown: int) -> int:
        """Rows per pass: as the user wants, as measured, or so many while nothing is known."""
        if self.batch_size is not None:
            return self.batch_size
        return self._shared.limits.get(gradients, unknown)

    @property
    def _first_rows(self) -> int:
        elements = sum(t[0].numel() for t in self.inputs)
        return min(FIRST_ROWS, max(2, FIRST_ELEMENTS // max(1, elements)))

    def _evaluate(self, z: Tensors | None, rows: Tensor, gradients: bool) -> _Done:
        """One pass, or several when memory does not suffice; the first of many is measured."""
        try:
            if not self._many or self._shared.limits or self.batch_size is not None:
                return self._run(z, rows, gradients)
            with Meter(gradients=gradients) as meter:
                done = self._run(z, rows, gradients)
            self._shared.limits = meter.limits(len(rows), self.inputs.device)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        else:
            return done
        half = len(rows) // 2
        self._shared.limits[gradients] = half
        parts = [
            self._evaluate(None if z is None else z[s], rows[s], gradients) for s in (slice(half), slice(half, None))
        ]
        return _Done.cat(parts)

    def _run(self, z: Tensors | None, rows: Tensor, gradients: bool) -> _Done:
        """One forward pass, and one backward pass where gradients are asked for.

        ``z`` is put at the site, row by row; None leaves there what the examples bring about.
        """
        seen = self._forward(z, rows, gradients)
        scores, target = self._score(seen, rows, gradients)
        slopes = self._differentiate(scores, seen.leaves, target) if gradients else None
        shown = isinstance(seen.output, Tensor) and seen.output.ndim == 2 and self._target_site is None
        return _Done(scores.detach(), slopes, seen.held, seen.output.detach() if shown else None, target)

    def _forward(self, z: Tensors | None, rows: Tensor, gradients: bool) -> _Seen:
        """The model at some rows, as `_run` has them; an engine that changes how a pass runs does it here."""
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(gradients))
            tap = None
            if self.site is None:
                leaves = self.inputs[rows] if z is None else z
                if gradients:
                    leaves = leaves.map(leaf)
                # A copy, since the model may change its input in place.
                args = leaves.map(self._own)
            else:
                leaves = args = self.inputs[rows]
                tap = stack.enter_context(Tap(self.model, self.site, z, leaf=gradients))
            seen = None
            if self._target_site is not None:
                seen = stack.enter_context(Tap(self.model, self._target_site, stop=self._shared.reached, behind=tap))
            output = None
            with suppress(Stop):
                output = call(self.model, args, self._extra(rows))
        self.cost.forward += len(rows)
        if seen is not None:
            self._shared.reached = True
            output = seen.raw
        held = None
        if tap is not None:
            held = tap.held
            assert held is not None
            self._was_tuple = tap.was_tuple
            _check_batch(held, len(rows), self.site)
            if gradients:
                leaves = held
            held = held.map(torch.Tensor.detach)
        return _Seen(output, leaves, held)

    def _own(self, t: Tensor) -> Tensor:
        images = self._shared.channels_last and t.ndim == 4
        return t.clone(memory_format=torch.channels_last) if images else t.clone()

    def _can_be_channels_last(self) -> bool:
        """Whether images may lie in memory pixel by pixel, which makes convolutions on a CPU faster.

        Tried on one row: a model that views its feature maps as vectors cannot take it, and one that reads memory by
        strides would silently see something else.
        """
        if self.site is not None or self.inputs.device.type != "cpu" or self.batch_size == 1:
            return False
        if not any(t.ndim == 4 and t.shape[1] > 1 and t.dtype == torch.float32 for t in self.inputs):
            return False
        score = self.scores[:1]
        self._shared.channels_last = True
        try:
            other = self._evaluate(self.point[:1], torch.zeros(1, dtype=torch.long), gradients=False).scores
        except TorchwhyError:
            return False
        return torch.allclose(other, score, rtol=1e-4, atol=1e-5)

    def _score(self, seen: _Seen, rows: Tensor, gradients: bool) -> tuple[Tensor, Target]:
        """Scores (N,) of what a pass has seen, and the target they are of."""
        with torch.set_grad_enabled(gradients):
            if self._target is not None:
                return self._target(seen.output, rows), self._target
            target = self._resolve(seen.output, rows)
            return target(seen.output, torch.arange(len(rows), device=rows.device)), target

    def _differentiate(self, scores: Tensor, leaves: Tensors, target: Target) -> Tensors:
        what = "target" if target.fn is not None else "score"
        if not scores.requires_grad:
            raise UnsupportedError(
                f"the {what} does not depend on {self.site or 'the input'} through operations that have a derivative "
                f"(is something detached, rounded, or an index? or is the layer not on the way to the target?): "
                f"use a method that needs no gradient, such as FeatureAblation"
            )
        with precision.backward(self.precision):
            found = torch.autograd.grad(scores.sum(), leaves.parts, allow_unused=True)
        self.cost.backward += len(scores)
        return Tensors(torch.zeros_like(t) if g is None else g for g, t in zip(found, leaves, strict=True))

    def _resolve(self, output: Any, rows: Tensor) -> Target:
        """The target of some of the examples, at the first sight of their output."""
        wanted = self._wanted
        if hasattr(wanted, "tolist"):  # tensors, and numpy arrays and numbers
            given = torch.as_tensor(wanted)
            wanted = given.item() if given.numel() == 1 else given
        if isinstance(wanted, list | Tensor):
            if len(wanted) != self.size:
                raise TorchwhyError(
                    f"{len(wanted)} targets were given for {self.size} examples: give one for all, or one per example"
                )
            wanted = [wanted[i] for i in rows.tolist()] if isinstance(wanted, list) else wanted[rows.to(wanted.device)]
        return resolve(wanted, output, len(rows), self._target_site)

    # -- other problems -------------------------------------------------------------------------------------------

    def select(self, examples: Tensor) -> Problem:
        """The same problem for some of the examples, given by their indices."""
        part = self._copy()
        part.inputs = self.inputs[examples]
        part.extra = self._extra(examples)
        part._target = self.target.select(examples)
        part._point, part._base = self.point[examples], self.base[examples]
        part._scores = self.scores[examples]
        return part

    def moved(self, inputs: Tensors, copies: int) -> Problem:
        """Every example ``copies`` times with other inputs (copies * B, ...), for the same target and baseline."""
        rows = torch.arange(self.size, device=self.inputs.device).repeat(copies)
        part = self._copy()
        part.inputs, part.extra = inputs, self._extra(rows)
        part._target = self.target.select(rows)
        if self._baselines is not None and not self._baseline_set:
            part._baselines = self._input_baselines()[rows].parts
        if self._layer_baselines is not None:
            part._layer_baselines = self.base[rows].parts
        part._point = inputs if self.site is None else None
        part._base = self._base[rows] if self._base is not None else None
        part._scores = part._output = None
        part._many = True
        return part

    def _copy(self) -> Problem:
        part = object.__new__(Problem)
        part.__dict__.update(self.__dict__)
        part._base_scores = part._held_by_background = None
        return part

    # -- baselines ------------------------------------------------------------------------------------------------

    def _find_base(self) -> Tensors:
        if self._layer_baselines is not None:
            return broadcast(self._layer_baselines, self.point, "layer_baselines", "what the layer holds")
        if self.site is None:
            return self._input_baselines()
        point = self.point
        if self._baselines is None and self._zero_at_site:
            return point.map(torch.zeros_like)
        rows = torch.arange(self.size, device=self.inputs.device)
        base = self._input_baselines()
        shared = all(t.ndim == 0 or t.stride(0) == 0 for t in base)
        if shared and not self.extra_follows:
            # One row serves all examples.
            return self.carry(base[:1], rows[:1]).map(lambda t: t.expand(self.size, *t.shape[1:]))
        return self.carry(base, rows)

    def _input_baselines(self) -> Tensors:
        given = 0.0 if self._baselines is None else self._baselines
        if self._baseline_set and self._baselines is not None:
            given = self.background().map(lambda t: t.mean(0, keepdim=True) if t.is_floating_point() else t[:1]).parts
        return broadcast(given, self.inputs, "baselines", "the inputs")

    def background(self, rows: Any = None) -> Tensors:
        """A set of N rows to compare with, at the inputs, (N, ...): those given, or else the baselines."""
        rows = self._baselines if rows is None else rows
        if rows is None:
            raise TorchwhyError(
                "this method compares with a set of examples: give baselines of shape (N, ...), some rows of your data"
            )
        given, _ = as_tensors(rows, "baselines")
        if len(given) != len(self.inputs) or any(
            g.ndim == 0 or len(g) == 0 or g.shape[1:] != t.shape[1:] for g, t in zip(given, self.inputs, strict=True)
        ):
            raise TorchwhyError(
                f"baselines are a set of rows like the inputs, (N, ...) with inputs {self.inputs.shapes}, "
                f"not {given.shapes}"
            )
        if len({len(g) for g in given}) > 1:
            raise TorchwhyError(f"the baselines of a tuple of inputs are rows of the same examples, not {given.shapes}")
        return given.map(lambda g, t: cast(g, t, "baselines"), self.inputs)

    def held_by_background(self) -> Tensors:
        """What the site holds for the background, (N, 1, ...), or (N, B, ...) where it depends on the example."""
        if self._held_by_background is None:
            self._held_by_background = self._carry_background()
        return self._held_by_background

    def _carry_background(self) -> Tensors:
        background = self.background().map(lambda t: t.clone() if t.is_inference() else t)
        n, device = background.size, self.inputs.device
        if self.site is None or not self.extra_follows:
            return self.carry(background, torch.zeros(n, dtype=torch.long, device=device)).map(lambda t: t[:, None])
        examples = torch.arange(self.size, device=device).repeat(n)
        return self.carry(background.map(lambda t: t.repeat_interleave(self.size, 0)), examples).split(n)


@dataclass
class _Seen:
    """What a forward pass leaves for the backward pass."""

    output: Any  # of the model, or what the target's site held
    leaves: Tensors  # to differentiate with respect to
    held: Tensors | None  # what the site held


@dataclass
class _Done:
    """What one pass has shown."""

    scores: Tensor
    gradients: Tensors | None
    held: Tensors | None
    output: Tensor | None  # of the model, where it is (N, classes)
    target: Target

    @staticmethod
    def cat(parts: Sequence[_Done]) -> _Done:
        def join(pieces: list[Any]) -> Any:
            if pieces[0] is None:
                return None
            return Tensors.cat(pieces) if isinstance(pieces[0], Tensors) else torch.cat(pieces)

        first = parts[0].target
        if first.indices is not None:
            first = Target(join([p.target.indices for p in parts]), predicted=first.predicted)
        return _Done(
            join([p.scores for p in parts]),
            join([p.gradients for p in parts]),
            join([p.held for p in parts]),
            join([p.output for p in parts]),
            first,
        )


def _check_rows_independent(model: Any) -> None:
    module = module_of(model)
    for name, m in module.named_modules() if module is not None else ():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None:
            raise UnsupportedError(
                f"{name} ({type(m).__name__}, track_running_stats=False) normalises over the batch even in "
                f"evaluation mode, so a score depends on the other rows: give it running statistics"
            )


def _check_batch(held: Tensors, rows: int, site: Site | None) -> None:
    if any(t.ndim == 0 or t.shape[0] != rows for t in held):
        raise TorchwhyError(
            f"{site!r} holds shapes {held.shapes} for {rows} rows: an explanation needs the batch in dimension 0"
        )
