"""The question that every method answers: a function of the value at a site, at one point per example.

With B examples, a `Problem` is the plain function ``f(z) -> (B,)``: the model with the value at the site replaced by
``z``, reduced to one score per example by the target. This is the only code that knows how rows are laid out,
repeated, cut to the memory that is there and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from torchwhy.core import precision
from torchwhy.core.behind import Behind, Shortcut, cut, is_watched, same_numbers
from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.guard import Arguments, bare, call, module_of
from torchwhy.core.inputs import broadcast, cast, check_inputs, leaf
from torchwhy.core.layout import ByPixel
from torchwhy.core.meter import Meter
from torchwhy.core.progress import Progress
from torchwhy.core.site import At, Place, Site, Sites, Stop, Tap, Taps, find_place, find_site, joined, tap
from torchwhy.core.target import Score, Target, main_part, resolve
from torchwhy.core.tensors import TensorOrTensors, Tensors, as_tensors

# The first of several passes is of so many rows, or fewer where rows are large, and measures the rest.
FIRST_ROWS, FIRST_ELEMENTS = 16, 2**19
# Images of at least so many pixels lie in memory pixel by pixel: for smaller ones, a pass spends more on bringing the
# weights into that order than it gains. Measured on ResNet-18 with images of 64 to 224 pixels a side.
MANY_PIXELS = 25_000
# From so many changed copies of an example on, it is worth finding out what stands behind a layer.
MANY_COPIES = 16

_M = TypeVar("_M")
Points: TypeAlias = Callable[[slice, slice], Tensors]
Precision: TypeAlias = Literal["full", "mixed"]


@dataclass
class Cost:
    """Rows sent through the model: a row is one example, or one changed copy of it."""

    forward: int = 0
    backward: int = 0

    def since(self, before: Cost) -> Cost:
        """What was added."""
        return Cost(self.forward - before.forward, self.backward - before.backward)


@dataclass
class Sweep:
    """One pass of a sweep: scores (K, B) and gradients (K, B, ...) of points ``ks`` for ``examples``.

    ``every`` (T, K, B) has the scores of all the targets that are asked about together.
    """

    examples: slice
    ks: slice
    scores: Tensor
    gradients: Tensors | None
    every: Tensor


@dataclass
class Asked:
    """Several targets that are asked about together."""

    targets: list[Target]
    number: int  # of the one that a problem is about


@dataclass
class _Shared:
    """What a problem and its parts share."""

    progress: Progress
    cost: Cost = field(default_factory=Cost)
    limits: dict[bool, int] = field(default_factory=dict)  # rows per pass, with and without gradients
    channels_last: bool | None = None  # the memory layout of images, once it is known which is right
    blind: bool = True  # no pass has met anything that could tell how its images lie in memory
    reached: bool = False  # the target's site is known to run as often as its Site says
    behind: dict[Site, Behind | None] = field(default_factory=dict)  # the model, cut at a site where it can be


class Problem:
    """``f(z)``, the point it is explained at and the baseline it is compared with.

    Args:
        model: a module or function from ``inputs`` and ``extra`` to an output.
        inputs: (B, ...) each.
        extra: further arguments of the model, by position or by name; tensors with B rows belong to the examples, all
            else is passed as it is.
        at: the place to explain, or a list of places; None is the input.
        target: what is explained, see `torchwhy.core.target`.
        baselines: in place of the inputs, for comparison: numbers or tensors that broadcast to the inputs. At a layer
            they are carried there by the model.
        baseline_set: the baselines are a set of rows (N, ...); where one baseline is needed, it is their mean.
        layer_baselines: in place of what the layer holds; for several layers a list of one each, or one for all.
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
        extra: Arguments = (),
        at: At = None,
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
        self.model = bare(model)
        inputs, extra = _at_home(model, inputs, extra)
        self.inputs = inputs.map(lambda t: t.detach().clone() if t.is_inference() else t.detach())
        self.extra = extra
        # Decided once: a part of the examples, or noisy copies of them, may by chance be as many as a table has rows.
        self._follows = [isinstance(a, Tensor) and a.ndim > 0 and len(a) == self.size for a in tree_leaves(extra)]
        self.site = None if at is None else _place(model, at)
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
        self._asked: Asked | None = None
        # What is known of rows already evaluated, by what they are rows of; None where nothing needs to be remembered.
        self.memories: dict[Any, Any] | None = None
        # When the user interrupts: an answer from what there is, rather than none.
        self.partial = False
        self._scores: Tensor | None = None
        self._output: Tensor | None = None
        self._layout: list[list[int]] = []  # how many tensors each call of each place at the site holds
        self._apart = False  # several places are known to act on the target each by itself
        self._by_pixel = False  # in a pass on images that lie in memory pixel by pixel
        self._plain = False  # the model's output is known to be a tensor
        self._shortcuts: dict[bool, Shortcut | None] = {}  # with and without gradients, once looked for
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
        return joined(self.site) or sum(map(sum, self._layout)) > 1

    def in_form(self, values: Tensors) -> TensorOrTensors:
        """Values at the layer as a user meets them: a tensor or a tuple, and for a list of layers a list of these."""
        if not isinstance(self.site, Sites):
            return values.unwrap(self.was_tuple)
        parts = iter(values)
        given = [Tensors(next(parts) for _ in range(sum(calls))) for calls in self._layout]
        each: Any = [v.unwrap(len(v) > 1 or s.call == "all") for v, s in zip(given, self.site.sites, strict=True)]
        found: TensorOrTensors = each  # who asks with a list knows
        return found

    @property
    def base(self) -> Tensors:
        """The baseline at the site, (B, ...)."""
        if self._base is None:
            self._base = self._find_base()
        return self._base

    @property
    def has_layer_baselines(self) -> bool:
        """Whether the user said what the layer shall be compared with."""
        return self._layer_baselines is not None

    def base_scores(self) -> Tensor:
        """``f(base)``, (B,)."""
        if self._base_scores is None:
            self._base_scores = self.recall("base", lambda: self.every_score(lambda es, ks: self.base[es][None]))[0]
        return self._base_scores

    def _look(self) -> None:
        """One pass over the examples without gradients."""
        self._pass_at_point(gradients=False)

    def at_point(self) -> tuple[Tensor, Tensors]:
        """Scores (B,) and gradients (B, ...) at the point, in one pass over the examples."""
        gradients = self._pass_at_point(gradients=True)
        assert gradients is not None
        return self.scores, gradients

    def curvature_at_point(self) -> tuple[Tensors, Tensors]:
        """Gradients at the point, and the Hessian there times the point itself, (B, ...) each."""
        target, slopes, bent = self.target, [], []
        for start in range(0, self.size, limit := self._limit(True, FIRST_ROWS)):
            rows = torch.arange(start, min(self.size, start + limit), device=self.inputs.device)
            seen = self._forward(None, rows, gradients=True)
            scores, _ = self._score(seen, rows, gradients=True)
            first = self._differentiate(scores, seen.leaves, target, again=True)
            along = sum((g * t.detach()).sum() for g, t in zip(first, seen.leaves, strict=True) if g.requires_grad)
            second = first.map(torch.zeros_like)
            if isinstance(along, Tensor):
                second = self._differentiate(along.expand(len(rows)) / len(rows), seen.leaves, target)
            slopes.append(first.map(torch.Tensor.detach))
            bent.append(second)
        return Tensors.cat(slopes), Tensors.cat(bent)

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
        if done.held is not None and self._point is None:
            self._check_layout(done.held, {len(one.scores) for one in passes})
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
        self.prepare(count, gradients=gradients)
        with self.progress.task(what or "evaluating", count * self.size) as advance:
            first = 0
            while first < self.size:
                es = slice(first, min(self.size, first + self._limit(gradients, FIRST_ROWS, behind=True)))
                width = es.stop - es.start
                examples = torch.arange(es.start, es.stop, device=self.inputs.device)
                k = 0
                while k < count:
                    limit = self._limit(gradients, self._first_rows, behind=True)
                    ks = slice(k, min(count, k + max(1, limit // width)))
                    copies = ks.stop - ks.start
                    done = self._evaluate(points(es, ks).merge(), examples.repeat(copies), gradients)
                    slopes = None if done.gradients is None else done.gradients.split(copies)
                    every = done.every.unflatten(1, (copies, width))
                    yield Sweep(es, ks, done.scores.unflatten(0, (copies, width)), slopes, every)
                    advance(copies * width)
                    k = ks.stop
                first = es.stop

    def prepare(self, count: int, *, gradients: bool) -> None:
        """So many points per example will follow: find out how they are best evaluated."""
        self._many |= count * self.size > FIRST_ROWS
        self.target  # noqa: B018  is resolved at the point itself, never at a changed copy
        if joined(self.site) and count > 1 and not gradients:
            self._check_apart()
        if self._many and self._shared.channels_last is None and not self._may_be_by_pixel():
            self._shared.channels_last = self._can_be_channels_last()
        if count >= MANY_COPIES and gradients not in self._shortcuts:
            self._shortcuts[gradients] = None
            self._shortcuts[gradients] = self._find_shortcut(gradients)

    def scores_at(self, points: Points, count: int = 1, what: str = "") -> Tensor:
        """``f`` at ``count`` points per example, (count, B), without gradients."""
        return self.every_score(points, count, what)[self.number]

    def every_score(self, points: Points, count: int = 1, what: str = "") -> Tensor:
        """What `scores_at` gives, for all the targets that are asked about together, (T, count, B)."""
        out = self.scores.new_empty(self.together, count, self.size)
        for part in self.sweep(points, count, gradients=False, what=what):
            out[:, part.ks, part.examples] = part.every
        return out

    @property
    def together(self) -> int:
        """How many targets are asked about together, T."""
        return 1 if self._asked is None else len(self._asked.targets)

    @property
    def number(self) -> int:
        """Which of the targets that are asked about together this problem is about."""
        return 0 if self._asked is None else self._asked.number

    def memory(self, key: Any, make: Callable[[], _M]) -> _M:
        """What is remembered under a key, in this run and in the one it goes on with, if any."""
        if self.memories is None:
            return make()
        if self.memories.pop("asked", None) is not None and key not in self.memories:
            raise TorchwhyError(
                "resume= goes on with the same question, but the features, the fill or the seed changed"
            )
        found: _M = self.memories.setdefault(key, make())
        return found

    def recall(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """Scores (T, ...) made once for all targets that are asked about together: those of this one."""
        if self.memories is None:
            return make()[self.number]
        if key not in self.memories:
            self.memories[key] = make()
        found: Tensor = self.memories[key][self.number]
        return found

    def rows_scores(self, z: Tensors, rows: Tensor) -> Tensor:
        """``f`` of rows (N, ...) in one batch, row ``n`` with the target and extra arguments of ``rows[n]``."""
        return self.every_row_score(z, rows)[self.number]

    def every_row_score(self, z: Tensors, rows: Tensor) -> Tensor:
        """What `rows_scores` gives, for all the targets that are asked about together, (T, N)."""
        self.target  # noqa: B018  is resolved at the point itself
        return self._evaluate(z, rows, gradients=False).every

    def carry(self, inputs: Tensors, rows: Tensor) -> Tensors:
        """What the site holds for other inputs (N, ...), row ``n`` with the extra arguments of example ``rows[n]``."""
        if self.site is None:
            return inputs
        pieces = []
        for start in range(0, inputs.size, limit := self._limit(False, FIRST_ROWS)):
            part = slice(start, start + limit)
            with torch.no_grad(), tap(self.model, self.site, stop=True) as seen, suppress(Stop):
                call(self.model, inputs[part].map(torch.clone), self._extra(rows[part]))
            assert seen.held is not None
            _check_batch(seen.held, len(rows[part]), self.site)
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

        def part(a: Any, follows: bool) -> Any:
            return a[rows.to(a.device)] if follows else a.clone() if isinstance(a, Tensor) else a

        leaves, spec = tree_flatten(self.extra)
        found: Arguments = tree_unflatten([part(a, f) for a, f in zip(leaves, self._follows, strict=True)], spec)
        return found

    @property
    def extra_follows(self) -> bool:
        """Whether some further arguments belong to the examples."""
        return any(self._follows)

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
        return min(FIRST_ROWS, max(2, FIRST_ELEMENTS // max(1, elements)))

    def _evaluate(self, z: Tensors | None, rows: Tensor, gradients: bool) -> _Done:
        """One pass, or several when memory does not suffice; the first of many is measured."""
        limits = self._limits(gradients, behind=z is not None)
        try:
            if not self._many or limits or self.batch_size is not None:
                return self._watched(z, rows, gradients)
            with Meter(gradients=gradients) as meter:
                done = self._watched(z, rows, gradients)
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
        return _Done.cat(parts)

    def _watched(self, z: Tensors | None, rows: Tensor, gradients: bool) -> _Done:
        """`_run`, on images that lie in memory pixel by pixel where nothing in the model can tell."""
        # A maximum of two numbers that are almost equal has its gradient at the one or the other, as roundings fall:
        # those at the input stay with the layout that everybody has.
        if (gradients and self.site is None) or not self._may_be_by_pixel():
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

    def _run(self, z: Tensors | None, rows: Tensor, gradients: bool) -> _Done:
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
        return _Done(scores, slopes, seen.held, shown, target, every)

    def _forward(self, z: Tensors | None, rows: Tensor, gradients: bool) -> _Seen:
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
            with suppress(Stop):
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
            _check_batch(held, len(rows), self.site)
            if gradients:
                leaves = held
            held = held.map(lambda t: t.detach().contiguous())
        return _Seen(output, leaves, held)

    def _leaf(self, t: Tensor) -> Tensor:
        """What a pass with gradients differentiates with respect to."""
        return leaf(t)

    def _forward_behind(self, short: Shortcut, z: Tensors, rows: Tensor, gradients: bool) -> _Seen:
        """The same, running only what stands behind the site."""
        leaves = z.map(self._leaf) if gradients else z
        with torch.set_grad_enabled(gradients):
            output = short(leaves, rows)
        self.cost.forward += len(rows)
        return _Seen(output, leaves, z.map(torch.Tensor.detach))

    def _find_shortcut(self, gradients: bool) -> Shortcut | None:
        """How to run only what stands behind the site; None where that cannot be done, or would not be the same.

        Tried on two of the examples, as they are, with other values and with none at the site.
        """
        if not isinstance(self.site, Site) or len(self.point) > 1 or tree_leaves(self.extra):
            return None
        cuts = self._shared.behind
        if self.site not in cuts:
            cuts[self.site] = cut(bare(self.model), self.site, self._target_site, len(self.inputs))
        behind = cuts[self.site]
        found = behind and Shortcut.of(behind, self.inputs, self._limit(False, FIRST_ROWS))
        if not found:
            return None
        self.cost.forward += self.size if found.beside else 0
        two = torch.tensor([self.size - 1, 0], device=self.inputs.device)
        held = self.point[two]
        z = Tensors.cat([held, held.map(lambda t: t.flatten(1).flip(1).view_as(t)), held.map(torch.zeros_like)])
        known = self._trial(z, two.repeat(3), gradients)
        self._shortcuts[gradients] = found
        try:
            again = self._trial(z, two.repeat(3), gradients)
        except Exception:  # noqa: BLE001  what was traced may fail in any way; the model itself has just run
            return None
        finally:
            self._shortcuts[gradients] = None
        return found if same_numbers(known, again) else None

    def _trial(self, z: Tensors, rows: Tensor, gradients: bool) -> list[Any]:
        """All that a pass gives."""
        seen = self._forward(z, rows, gradients)
        scores, target = self._score(seen, rows, gradients)
        return [seen.output, *(self._differentiate(scores, seen.leaves, target) if gradients else ())]

    def _own(self, t: Tensor) -> Tensor:
        images = (self._shared.channels_last or self._by_pixel) and t.ndim == 4
        return t.clone(memory_format=torch.channels_last) if images else t.clone()

    def _can_be_channels_last(self) -> bool:
        """Whether images may lie in memory pixel by pixel, which makes convolutions on a CPU faster.

        Tried on one row: a model that views its feature maps as vectors cannot take it, and one that reads memory by
        strides would silently see something else.
        """
        if self.site is not None or self.batch_size == 1 or not self._has_many_pixels():
            return False
        score = self.scores[:1]
        self._shared.channels_last = True
        try:
            other = self._evaluate(self.point[:1], torch.zeros(1, dtype=torch.long), gradients=False).scores
        except TorchwhyError:
            return False
        return torch.allclose(other, score, rtol=1e-4, atol=1e-5)

    def _has_many_pixels(self) -> bool:
        images = [t for t in self.inputs if t.ndim == 4 and t.shape[1] > 1 and t.dtype == torch.float32]
        return self.inputs.device.type == "cpu" and any(t.shape[2] * t.shape[3] >= MANY_PIXELS for t in images)

    def _may_be_by_pixel(self) -> bool:
        """Whether passes are worth watching, and none has been in vain."""
        return self._shared.blind and self._has_many_pixels()

    def _score(self, seen: _Seen, rows: Tensor, gradients: bool) -> tuple[Tensor, Target]:
        """Scores (N,) of what a pass has seen, and the target they are of."""
        with torch.set_grad_enabled(gradients):
            if self._target is not None:
                return self._target(seen.output, rows), self._target
            target = self._resolve(seen.output, rows)
            return target(seen.output, torch.arange(len(rows), device=rows.device)), target

    def _differentiate(self, scores: Tensor, leaves: Tensors, target: Target, *, again: bool = False) -> Tensors:
        found = self._gradients(scores, leaves.parts, target, again=again)
        if joined(self.site):
            self._check_reached(found, through=not all(t.is_leaf for t in leaves))
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
        with precision.backward(self.precision):
            found = torch.autograd.grad(scores.sum(), leaves, allow_unused=True, create_graph=again)
        self.cost.backward += len(scores)
        return found

    def _check_layout(self, held: Tensors, rows: set[int]) -> None:
        """Where another dimension is as long as the batch, one row shows whether the batch is in front of it."""
        if any(t.ndim > 1 and t.shape[1] in rows - {1} for t in held):
            self.carry(self.inputs[:1], torch.zeros(1, dtype=torch.long, device=self.inputs.device))

    def _check_reached(self, slopes: Sequence[Tensor | None], *, through: bool) -> None:
        """Refuse a place of several that does not act on the target.

        Args:
            slopes: at all places; None where the target does not depend on them.
            through: what a place does through others has been counted; else they are replaced together with it, so that
                it cannot do anything through them.
        """
        assert self.site is not None
        parts = iter(slopes)
        places = self.site.sites if isinstance(self.site, Sites) else (self.site,)
        for place, calls in zip(places, self._layout, strict=True):
            for number, count in enumerate([sum(calls)] if through else calls):
                if all(g is None for g in [next(parts) for _ in range(count)]):
                    which = f"{place!r}{f', call {number},' if len(calls) > 1 and not through else ''}"
                    others = (
                        ""
                        if through
                        else f", or only through the other places of {self.site!r}, which are replaced together with "
                        f"it: explain one at a time (gradients at the input itself, as of InputXGradient or GradCAM, "
                        f"can be had together, without check='basic')"
                    )
                    raise UnsupportedError(f"{which} does not act on the target{others}")

    def _check_apart(self) -> None:
        """Where the model has a gradient, every place of several must have one when all of them are replaced."""
        if self._apart:
            return
        self._apart = True
        first = torch.zeros(1, dtype=torch.long, device=self.inputs.device)
        seen = self._forward(self.point[:1].map(torch.clone), first, gradients=True)
        scores, _ = self._score(seen, first, gradients=True)
        if scores.requires_grad:
            found = torch.autograd.grad(scores.sum(), seen.leaves.parts, allow_unused=True)
            self._check_reached(found, through=False)

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

    # -- other problems -------------------------------------------------------------------------------------------

    def select(self, examples: Tensor) -> Problem:
        """The same problem for some of the examples, given by their indices."""
        part = self._copy()
        part.inputs = self.inputs[examples]
        part.extra = self._extra(examples)
        part._target = self.target.select(examples)
        part._point, part._base = self.point[examples], self.base[examples]
        part._scores = self.scores[examples]
        part._shortcuts = {}
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
        part._shortcuts = {}
        part._many = True
        return part

    def aimed(self, targets: Sequence[Any] | None) -> list[Problem]:
        """The same problem for several targets, which know together what one of them evaluates; None is every output.

        Raises:
            TorchwhyError: the model gives neither (B, classes) nor one score per example, or a target lies in a layer.
        """
        if targets is None:
            self.scores  # noqa: B018  a pass has seen the output
            targets = [None] if self._output is None else range(self._output.shape[1])
        if not targets or any(isinstance(t, Site) for t in targets):
            raise TorchwhyError(
                "targets are a list of what the output holds, such as [0, 3], without units of layers: explain these "
                "one at a time"
            )
        if self.site is not None:
            self.base  # noqa: B018  the model carries it to the layer once
        memories: dict[Any, Any] = {}
        parts: list[Problem] = []
        seen = self
        for wanted in targets:
            part = seen._copy()
            part._wanted, part._target_site, part._target, part._scores = wanted, None, None, None
            if seen._output is not None and (seen._plain or not (callable(wanted) or isinstance(wanted, Score))):
                every = torch.arange(self.size, device=self.inputs.device)
                part._target = part._resolve(seen._output, every)
                part._scores = part._target(seen._output, every)
            part.target  # noqa: B018  a pass has seen the output, if none had
            part.memories, part.partial = memories, False
            parts.append(part)
            seen = part
        asked = [part.target for part in parts]
        for number, part in enumerate(parts):
            part._asked = Asked(asked, number)
        return parts

    def elsewhere(self, at: At) -> Problem:
        """The same question asked at a layer, or at the input."""
        part = self._copy()
        part.site = None if at is None else _place(self.model, at)
        part._point = self.inputs if at is None else None
        part._base = part._layer_baselines = None
        part._layout, part._apart = [], False
        part._shortcuts = {}
        return part

    def put_to(self, model: Any) -> Problem:
        """The same question put to a copy of the model, whose weights may be others."""
        self.target  # noqa: B018  is resolved for the model itself
        part = self._copy()
        part.model = bare(model)
        part._shared = replace(self._shared, behind={})
        part._point = self.inputs if self.site is None else None
        part._base = None
        part._scores = part._output = None
        part._layout = []
        part._shortcuts = {}
        return part

    def against(self, baselines: Tensors) -> Problem:
        """The same question compared with something else: one baseline at the site, or a set of rows at the inputs."""
        part = self._copy()
        part._base = None if self._baseline_set else baselines
        if self.site is None or self._baseline_set:
            part._baselines = baselines.parts
        return part

    def about(self, target: Target) -> Problem:
        """The same problem for another target, which has met the model's output."""
        part = self._copy()
        part._target, part._scores = target, None
        return part

    def _copy(self) -> Problem:
        part = object.__new__(Problem)
        part.__dict__.update(self.__dict__)
        part._base_scores = part._held_by_background = part._asked = part.memories = None
        part.partial = False
        return part

    # -- baselines ------------------------------------------------------------------------------------------------

    def _find_base(self) -> Tensors:
        if self._layer_baselines is not None:
            return broadcast(self._of_layers(), self.point, "layer_baselines", "what the layer holds")
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

    def _of_layers(self) -> Any:
        """The layer_baselines, where there is one for each of several layers as one for each tensor."""
        given = self._layer_baselines
        if not isinstance(given, list):
            return given
        point = self.point
        if not isinstance(self.site, Sites) or len(given) != len(self._layout):
            raise TorchwhyError(
                f"a list of {len(given)} layer_baselines was given for {self.site!r}: give one for each layer"
            )
        parts: list[Any] = []
        for one, calls in zip(given, self._layout, strict=True):
            parts += one if isinstance(one, tuple) else [one] * sum(calls)
        if len(parts) != len(point):
            raise TorchwhyError(
                f"layer_baselines: {len(parts)} given for {len(point)} tensors of {self.site!r}; give each layer one "
                f"number or tensor, or a tuple of one for each tensor it holds"
            )
        return tuple(parts)

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
    every: Tensor  # scores (T, N) of all targets

    @staticmethod
    def cat(parts: Sequence[_Done]) -> _Done:
        def join(pieces: list[Any]) -> Any:
            if pieces[0] is None:
                return None
            return Tensors.cat(pieces) if isinstance(pieces[0], Tensors) else torch.cat(pieces)

        return _Done(
            join([p.scores for p in parts]),
            join([p.gradients for p in parts]),
            join([p.held for p in parts]),
            join([p.output for p in parts]),
            Target.cat([p.target for p in parts]),
            torch.cat([p.every for p in parts], 1),
        )


def _place(model: Any, at: Any) -> Place:
    place = find_place(model, at)
    for site in place.sites if isinstance(place, Sites) else (place,):
        if site.unit is not None:
            raise TorchwhyError(f"{site!r}: a unit belongs to a target; at= explains all that a layer holds")
    return place


def _at_home(model: Any, inputs: Tensors, extra: Arguments) -> tuple[Tensors, Arguments]:
    """What is given to a ``DataParallel`` may lie anywhere; the model it spreads is on its first device."""
    if not isinstance(model, nn.DataParallel) or not model.device_ids:
        return inputs, extra
    device = model.src_device_obj
    moved: Arguments = tree_map_only(Tensor, lambda t: t.to(device), extra)
    return inputs.map(lambda t: t.to(device)), moved


def _check_rows_independent(model: Any) -> None:
    module = module_of(model)
    for name, m in module.named_modules() if module is not None else ():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None:
            raise UnsupportedError(
                f"{name} ({type(m).__name__}, track_running_stats=False) normalises over the batch even in "
                f"evaluation mode, so a score depends on the other rows: give it running statistics"
            )


def _check_batch(held: Tensors, rows: int, site: Place | None) -> None:
    wrong = [t for t in held if t.ndim == 0 or t.shape[0] != rows]
    if not wrong:
        return
    if all(t.ndim > 0 and t.shape[0] == 1 for t in wrong):
        hint = "the model makes it once for all rows: give it what this comes from, such as position_ids, for each"
    else:
        hint = "where it is another, say so, such as Site(layer, batch=1)"
    raise TorchwhyError(
        f"{site!r} holds shapes {held.shapes} for {rows} rows: an explanation needs the batch in dimension 0; {hint}"
    )
