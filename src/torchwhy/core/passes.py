"""Passes: the model at rows, with values put at a place, and what they show of the score and its gradients.

A row is one example, or one changed copy of it. Here is what is needed to evaluate some rows, whatever they are for:
what a pass runs, and what is done where memory does not suffice for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from torchwhy.core import precision
from torchwhy.core.behind import Behind, Shortcut, is_watched
from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.guard import Arguments, bare, call, module_of
from torchwhy.core.inputs import at_home, check_batch_size, check_inputs, check_rows_independent, leaf
from torchwhy.core.layout import ByPixel, has_many_pixels, has_many_together
from torchwhy.core.meter import Meter
from torchwhy.core.places import check_batch, check_reached, whole_place
from torchwhy.core.precision import Precision
from torchwhy.core.progress import Progress
from torchwhy.core.site import At, Site, Stop, Tap, Taps, find_site, joined, tap
from torchwhy.core.target import Score, Target, main_part, resolve
from torchwhy.core.tensors import Tensors

# The first of several passes is of so many rows, or fewer where rows are large, and measures the rest.
FIRST_ROWS, FIRST_ELEMENTS = 16, 2**19
SMALL_ROW = 2**10  # numbers in an example, up to which a first pass takes twice as many


@dataclass
class Cost:
    """Rows sent through the model: a row is one example, or one changed copy of it."""

    forward: int = 0
    backward: int = 0

    def since(self, before: Cost) -> Cost:
        """What was added."""
        return Cost(self.forward - before.forward, self.backward - before.backward)


@dataclass
class Asked:
    """Several targets that are asked about together."""

    targets: list[Target]
    number: int  # of the one that a problem is about


@dataclass
class Shared:
    """What a problem and its parts share."""

    progress: Progress
    cost: Cost = field(default_factory=Cost)
    limits: dict[bool, int] = field(default_factory=dict)  # rows per pass, with and without gradients
    channels_last: bool | None = None  # the memory layout of images, once it is known which is right
    blind: bool = True  # no pass has met anything that could tell how its images lie in memory
    reached: bool = False  # the target's site is known to run as often as its Site says
    behind: dict[Site, Behind | None] = field(default_factory=dict)  # the model, cut at a site where it can be


@dataclass
class Seen:
    """What a forward pass leaves for the backward pass."""

    output: Any  # of the model, or what the target's site held
    leaves: Tensors  # to differentiate with respect to
    held: Tensors | None  # what the site held


@dataclass
class Done:
    """What one pass has shown."""

    scores: Tensor
    gradients: Tensors | None
    held: Tensors | None
    output: Tensor | None  # of the model, where it is (N, classes)
    target: Target
    every: Tensor  # scores (T, N) of all targets

    @staticmethod
    def cat(parts: Sequence[Done]) -> Done:
        """What several passes have shown, row after row."""
        if len(parts) == 1:  # copies, since a model may write its next output into the same memory
            one = parts[0]
            output = None if one.output is None else one.output.clone()
            return Done(one.scores.clone(), one.gradients, one.held, output, one.target, one.every)

        def join(pieces: list[Any]) -> Any:
            if pieces[0] is None:
                return None
            return Tensors.cat(pieces) if isinstance(pieces[0], Tensors) else torch.cat(pieces)

        return Done(
            join([p.scores for p in parts]),
            join([p.gradients for p in parts]),
            join([p.held for p in parts]),
            join([p.output for p in parts]),
            Target.cat([p.target for p in parts]),
            torch.cat([p.every for p in parts], 1),
        )


class Passes:
    """The model at rows: all that a `torchwhy.core.problem.Problem` needs to evaluate some.

    An engine that changes how a pass runs overrides a part of it: `_run` the whole of one pass, `_forward` the model,
    `_score` the target, `_leaf` what is differentiated with respect to, `_differentiate` or `_gradients` the backward
    pass.

    Args:
        model: a module or function from ``inputs`` and ``extra`` to an output.
        inputs: (B, ...) each.
        extra: further arguments of the model.
        at: the place where values are put, or a list of places; None is the input.
        target: what a score is, see `torchwhy.core.target`.
        batch_size: rows per pass; None measures what fits.
        precision: "mixed" computes gradients in bfloat16.
        progress: where work is counted.
    """

    def __init__(
        self,
        model: Any,
        inputs: Tensors,
        *,
        extra: Arguments,
        at: At,
        target: Any,
        batch_size: int | None,
        precision: Precision,
        progress: Progress | None,
    ) -> None:
        check_inputs(inputs)
        check_rows_independent(model)
        check_batch_size(batch_size)
        self.model = bare(model)
        inputs, extra = at_home(model, inputs, extra)
        self.inputs = inputs.map(lambda t: t.detach().clone() if t.is_inference() else t.detach())
        self.extra = extra
        # Decided once: a part of the examples, or noisy copies of them, may by chance be as many as a table has rows.
        self._follows = [isinstance(a, Tensor) and a.ndim > 0 and len(a) == self.size for a in tree_leaves(extra)]
        self.site = None if at is None else whole_place(model, at)
        self.batch_size = batch_size
        self.precision = precision
        self._wanted = target
        self._target_site = find_site(model, target) if isinstance(target, Site) else None
        self._target: Target | None = None
        self._asked: Asked | None = None
        self._shared = Shared(progress or Progress())
        self._layout: list[list[int]] = []  # how many tensors each call of each place at the site holds
        self._meter: Meter | None = None  # of a pass that is measured
        self._by_pixel = False  # in a pass on images that lie in memory pixel by pixel
        self._plain = False  # the model's output is known to be a tensor
        self._shortcuts: dict[bool, Shortcut | None] = {}  # with and without gradients, once looked for
        self._many = self.size > self._first_examples  # more rows will follow than fit into a first pass

    @property
    def size(self) -> int:
        """The number of examples, B."""
        return self.inputs.size

    @property
    def cost(self) -> Cost:
        """Rows evaluated so far, by this problem and those made from it."""
        return self._shared.cost

    def count_in(self, cost: Cost) -> None:
        """From now on rows are counted there, by this problem and those made from it later."""
        self._shared = replace(self._shared, cost=cost)

    @property
    def target_site(self) -> Site | None:
        """The layer that the target lies in; None for a target in the model's output."""
        return self._target_site

    @property
    def progress(self) -> Progress:
        """Where work is counted."""
        return self._shared.progress

    # -- rows of examples -----------------------------------------------------------------------------------------

    def carry(self, inputs: Tensors, rows: Tensor) -> Tensors:
        """What the site holds for other inputs (N, ...), row ``n`` with the extra arguments of example ``rows[n]``."""
        if self.site is None:
            return inputs
        pieces = []
        for start in range(0, inputs.size, limit := self._limit(False, self._first_examples)):
            part = slice(start, start + limit)
            with torch.no_grad(), tap(self.model, self.site, stop=True) as seen, suppress(Stop):
                call(self.model, inputs[part].map(torch.clone), self._extra(rows[part]))
            assert seen.held is not None
            check_batch(seen.held, len(rows[part]), self.site)
            self._note(seen)
            pieces.append(seen.held)
            self.cost.forward += seen.held.size
        return Tensors.cat(pieces)

    def _note(self, seen: Tap | Taps) -> None:
        """Remember how many tensors there are at the site, which is the same for all rows."""
        layout = [one.counts for one in seen.taps]
        if self._layout and layout != self._layout:
            raise TorchwhyError(
                f"{self.site!r} holds another number of values for one row than for another, as where a layer runs "
                f"another number of times: choose a call, or explain the input"
            )
        self._layout[:] = layout

    def _extra(self, rows: Tensor) -> Arguments:
        """The further arguments for some rows: tensors that belong to the examples follow them, all are copies."""
        if not self.extra:
            return self.extra

        def part(a: Any, follows: bool) -> Any:
            return a[rows.to(a.device)] if follows else a.clone() if isinstance(a, Tensor) else a

        leaves, spec = tree_flatten(self.extra)
        found: Arguments = tree_unflatten([part(a, f) for a, f in zip(leaves, self._follows, strict=True)], spec)
        return found

    @property
    def extra_follows(self) -> bool:
        """Whether some further arguments belong to the examples."""
        return any(self._follows)

    # -- as many as fit -------------------------------------------------------------------------------------------

    def rows_per_pass(self, *, gradients: bool = True) -> int:
        """How many rows fit, as far as is known; those without gradients have a value for the site."""
        return self._limit(gradients, self._first_rows, behind=not gradients)

    def _limit(self, gradients: bool, unknown: int, *, behind: bool = False) -> int:
        """Rows per pass: as the user wants, as measured, or so many while nothing is known.

        ``behind``: of passes with a value for the site, which may run only what stands behind it.
        """
        if self.batch_size is not None:
            return self.batch_size
        return self._limits(gradients, behind).get(gradients, unknown)

    def _limits(self, gradients: bool, behind: bool) -> dict[bool, int]:
        short = self._shortcuts.get(gradients) if behind else None
        return self._shared.limits if short is None else short.limits

    @property
    def _first_rows(self) -> int:
        elements = sum(t[0].numel() for t in self.inputs)
        return min(self._first_examples, max(2, FIRST_ELEMENTS // max(1, elements)))

    @property
    def _first_examples(self) -> int:
        # One pass more costs a small model as much again; of token ids, few can be many numbers within.
        small = all(t.is_floating_point() and t.numel() <= len(t) * SMALL_ROW for t in self.inputs)
        return 2 * FIRST_ROWS if small else FIRST_ROWS

    def _evaluate(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Done:
        """One pass, or several when memory does not suffice; the first of many is measured."""
        limits = self._limits(gradients, behind=z is not None)
        try:
            if not self._many or limits or self.batch_size is not None:
                return self._watched(z, rows, gradients)
            meter, around = Meter(gradients=gradients), self._meter
            self._meter = meter
            try:
                done = self._watched(z, rows, gradients)
            finally:
                self._meter = around
            limits.update(meter.limits(len(rows), self.inputs.device))
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        else:
            return done
        half = len(rows) // 2
        limits[gradients] = half
        parts = [
            self._evaluate(None if z is None else z[s], rows[s], gradients) for s in (slice(half), slice(half, None))
        ]
        return Done.cat(parts)

    def _watched(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Done:
        """`_run`, on images that lie in memory pixel by pixel where nothing in the model can tell."""
        # A maximum of two numbers that are almost equal has its gradient at the one or the other, as roundings fall:
        # those at the input stay with the layout that everybody has.
        at_input = gradients and self.site is None
        if at_input or not self._may_be_by_pixel() or not has_many_together(self.inputs, len(rows)):
            return self._run(z, rows, gradients)
        random, cost = torch.get_rng_state(), replace(self.cost)
        self._by_pixel = True
        try:
            return self._run(z, rows, gradients)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001  whatever it is, it happens again if it is not due to the layout
            self._shared.blind = False
        finally:
            self._by_pixel = False
        torch.set_rng_state(random)
        self.cost.forward, self.cost.backward = cost.forward, cost.backward
        return self._run(z, rows, gradients)

    def _may_be_by_pixel(self) -> bool:
        """Whether passes are worth watching, and none has been in vain."""
        return self._shared.blind and self._has_many_pixels()

    def _has_many_pixels(self) -> bool:
        return has_many_pixels(self.inputs)

    # -- one pass -------------------------------------------------------------------------------------------------

    def _run(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Done:
        """One forward pass, and one backward pass where gradients are asked for.

        ``z`` is put at the site, row by row; None leaves there what the examples bring about.
        """
        seen = self._forward(z, rows, gradients)
        scores, target = self._score(seen, rows, gradients)
        slopes = self._differentiate(scores, seen.leaves, target) if gradients else None
        output = None if self._target_site is not None else main_part(seen.output)
        shown = output.detach() if isinstance(output, Tensor) and output.ndim == 2 else None
        self._plain = output is seen.output
        scores = scores.detach()
        asked = None if gradients else self._asked
        every = scores[None] if asked is None else torch.stack([t(seen.output, rows) for t in asked.targets])
        return Done(scores, slopes, seen.held, shown, target, every)

    def _forward(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Seen:
        """The model at some rows, as `_run` has them; an engine that changes how a pass runs does it here."""
        short = self._shortcuts.get(gradients)
        if z is not None and short is not None and not is_watched():
            return self._forward_behind(short, z, rows, gradients)
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(gradients))
            there: Tap | Taps | None = None
            if self.site is None:
                leaves = self.inputs[rows] if z is None else z
                if gradients:
                    leaves = leaves.map(self._leaf)
                # A copy, since the model may change its input in place.
                args = leaves.map(self._own)
            else:
                leaves = self.inputs[rows]
                args = leaves.map(self._own) if self._by_pixel else leaves
                counts = [sum(calls) for calls in self._layout]
                # At the point itself, gradients go on from one place of several to those in front of it.
                through = z is None and joined(self.site)
                there = tap(self.model, self.site, z, counts, leaf=gradients, through=through)
                stack.enter_context(there)
            seen = None
            if self._target_site is not None:
                stop = self._shared.reached and not joined(self.site)
                seen = stack.enter_context(Tap(self.model, self._target_site, stop=stop, behind=there))
            output = None
            extra = self._extra(rows)
            watch = None
            if self._by_pixel:
                given = [a for a in tree_leaves(extra) if isinstance(a, Tensor)]
                watch = stack.enter_context(ByPixel(module_of(self.model), [*args, *given]))
            with self._meter or nullcontext(), suppress(Stop):
                output = call(self.model, args, extra)
        self.cost.forward += len(rows)
        if seen is not None:
            self._shared.reached = True
            output = seen.raw
        output = output if watch is None else watch.settled(output)
        held = None
        if there is not None:
            held = there.held
            assert held is not None
            if z is None:
                self._note(there)
            check_batch(held, len(rows), self.site)
            if gradients:
                leaves = held
            held = held.map(lambda t: t.detach().contiguous())
        return Seen(output, leaves, held)

    def _leaf(self, t: Tensor) -> Tensor:
        """What a pass with gradients differentiates with respect to."""
        return leaf(t)

    def _own(self, t: Tensor) -> Tensor:
        images = (self._shared.channels_last or self._by_pixel) and t.ndim == 4
        return t.clone(memory_format=torch.channels_last) if images else t.clone()

    def _forward_behind(self, short: Shortcut, z: Tensors, rows: Tensor, gradients: bool) -> Seen:
        """The same, running only what stands behind the site."""
        leaves = z.map(self._leaf) if gradients else z
        with torch.set_grad_enabled(gradients), self._meter or nullcontext():
            output = short(leaves, rows)
        self.cost.forward += len(rows)
        return Seen(output, leaves, z.map(torch.Tensor.detach))

    def _score(self, seen: Seen, rows: Tensor, gradients: bool) -> tuple[Tensor, Target]:
        """Scores (N,) of what a pass has seen, and the target they are of."""
        with torch.set_grad_enabled(gradients):
            if self._target is not None:
                return self._target(seen.output, rows), self._target
            target = self._resolve(seen.output, rows)
            return target(seen.output, torch.arange(len(rows), device=rows.device)), target

    def _resolve(self, output: Any, rows: Tensor) -> Target:
        """The target of some of the examples, at the first sight of their output."""
        wanted = self._wanted
        if isinstance(wanted, Score):
            with torch.no_grad():  # what is asked is no part of the answer
                return wanted.resolve(output, rows, self.size)
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

    def _differentiate(self, scores: Tensor, leaves: Tensors, target: Target, *, again: bool = False) -> Tensors:
        found = self._gradients(scores, leaves.parts, target, again=again)
        if joined(self.site):
            assert self.site is not None
            through = not all(t.is_leaf for t in leaves)
            check_reached(self.site, self._layout, found, through=through)
        return Tensors(
            torch.zeros_like(t) if g is None else g.contiguous() if self._by_pixel else g
            for g, t in zip(found, leaves, strict=True)
        )

    def _gradients(
        self, scores: Tensor, leaves: tuple[Tensor, ...], target: Target, *, again: bool = False
    ) -> tuple[Tensor | None, ...]:
        """None where the scores do not depend on a leaf; ``again``: they can be differentiated once more."""
        what = "target" if target.source != "the model" else "score"
        if not scores.requires_grad:
            raise UnsupportedError(
                f"the {what} does not depend on {self.site or 'the input'} through operations that have a derivative "
                f"(is something detached, rounded, or an index? or is the layer not on the way to the target?): "
                f"use a method that needs no gradient, such as FeatureAblation"
            )
        try:
            with precision.backward(self.precision):
                found = torch.autograd.grad(scores.sum(), leaves, allow_unused=True, create_graph=again)
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise UnsupportedError(
                "the model changes in place a value that its own gradient needs: have it make a new one, as x = x + 1 "
                "instead of x += 1, or use a method that needs no gradient, such as FeatureAblation"
            ) from error
        self.cost.backward += len(scores)
        return found
