"""The question that every method answers: a function of the value at a site, at one point per example.

With B examples, a `Problem` is the plain function ``f(z) -> (B,)``: the model with the value at the site replaced by
``z``, reduced to one score per example by the target. How rows are evaluated, cut to the memory that is there and
counted stands in `torchwhy.core.passes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from torchwhy.core import baselines
from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import Arguments, bare
from torchwhy.core.meter import Meter
from torchwhy.core.passes import Asked, Done, Passes
from torchwhy.core.places import whole_place
from torchwhy.core.precision import Precision
from torchwhy.core.progress import Progress
from torchwhy.core.site import At, Site, Sites, joined
from torchwhy.core.target import Score, Target
from torchwhy.core.tensors import TensorOrTensors, Tensors
from torchwhy.core.trials import can_be_channels_last, check_apart, find_shortcut

# From so many changed copies of an example on, it is worth finding out what stands behind a layer.
MANY_COPIES = 16

_M = TypeVar("_M")
Points: TypeAlias = Callable[[slice, slice], Tensors]


@dataclass
class Sweep:
    """One pass of a sweep: scores (K, B) and gradients (K, B, ...) of points ``ks`` for ``examples``.

    ``every`` (T, K, B) has the scores of all the targets that are asked about together, ``output`` (K, B, classes) what
    the model gave, where it is of that form.
    """

    examples: slice
    ks: slice
    scores: Tensor
    gradients: Tensors | None
    every: Tensor
    output: Tensor | None = None


class Problem(Passes):
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
        super().__init__(
            model,
            inputs,
            extra=extra,
            at=at,
            target=target,
            batch_size=batch_size,
            precision=precision,
            progress=progress,
        )
        self._baselines, self._layer_baselines = baselines, layer_baselines
        self._baseline_set, self._zero_at_site = baseline_set, zero_at_site
        self._point: Tensors | None = self.inputs if self.site is None else None
        self._base: Tensors | None = None
        self._base_scores: Tensor | None = None
        self._held_by_background: Tensors | None = None
        # What is known of rows already evaluated, by what they are rows of; None where nothing needs to be remembered.
        self.memories: dict[Any, Any] | None = None
        # When the user interrupts: an answer from what there is, rather than none.
        self.partial = False
        self._scores: Tensor | None = None
        self._output: Tensor | None = None
        self._apart = False  # several places are known to act on the target each by itself
        if layer_baselines is not None and self.site is None:
            raise TorchwhyError("layer_baselines replace what a layer holds: say which with at=, or give baselines")

    # -- what is known of the point -------------------------------------------------------------------------------

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

    def _pass_at_point(self, gradients: bool) -> Tensors | None:
        passes: list[Done] = []
        start = 0
        while start < self.size:
            stop = min(self.size, start + self._limit(gradients, self._first_examples))
            passes.append(self._evaluate(None, torch.arange(start, stop, device=self.inputs.device), gradients))
            start = stop
        done = Done.cat(passes)
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

    def _check_layout(self, held: Tensors, rows: set[int]) -> None:
        """Where another dimension is as long as the batch, one row shows whether the batch is in front of it."""
        if any(t.ndim > 1 and t.shape[1] in rows - {1} for t in held):
            self.carry(self.inputs[:1], torch.zeros(1, dtype=torch.long, device=self.inputs.device))

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
                es = slice(first, min(self.size, first + self._limit(gradients, self._first_examples, behind=True)))
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
                    output = None if done.output is None else done.output.unflatten(0, (copies, width))
                    yield Sweep(es, ks, done.scores.unflatten(0, (copies, width)), slopes, every, output)
                    advance(copies * width)
                    k = ks.stop
                first = es.stop

    def prepare(self, count: int, *, gradients: bool) -> None:
        """So many points per example will follow: find out how they are best evaluated."""
        self.expect(count)
        if joined(self.site) and count > 1 and not gradients and not self._apart:
            self._apart = True
            check_apart(self, self.point)
        if self._many and self._shared.channels_last is None and not self._may_be_by_pixel():
            images = self.site is None and self.batch_size != 1 and self._has_many_pixels()
            self._shared.channels_last = images and can_be_channels_last(self, self.scores)
        if count >= MANY_COPIES and gradients not in self._shortcuts:
            self._shortcuts[gradients] = None
            if isinstance(self.site, Site):
                self._shortcuts[gradients] = find_shortcut(self, self.site, self.point, gradients)

    def expect(self, count: int) -> None:
        """So many changed copies of each example will follow: the pass over the point itself measures what fits."""
        self._many |= count * self.size > self._first_examples
        self.target  # noqa: B018  is resolved at the point itself, never at a changed copy

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

    def check_again(self, again: Tensor | None = None) -> None:
        """The point has the score it had before.

        Args:
            again: scores (B,) of the point, as found among other rows; None evaluates it once more.

        Raises:
            TorchwhyError: it has another one.
        """
        before = self.scores
        if again is None:
            again = self.recall("again", lambda: self.every_score(lambda es, ks: self.point[es][None]))[0]
        gap = (again - before).abs()
        bad = gap > torch.finfo(before.dtype).eps ** 0.5 * before.abs().clamp_min(1)
        if bad.any():
            i = int(bad.nonzero()[0])
            raise TorchwhyError(
                f"the model gave example {i} the score {before[i]:.6g} and then {again[i]:.6g}: it draws random "
                f"numbers (functional dropout left on?) or mixes the rows of a batch: no change can be told from chance"
            )

    def rows_scores(self, z: Tensors, rows: Tensor) -> Tensor:
        """``f`` of rows (N, ...) in one batch, row ``n`` with the target and extra arguments of ``rows[n]``."""
        return self.every_row_score(z, rows)[self.number]

    def every_row_score(self, z: Tensors, rows: Tensor) -> Tensor:
        """What `rows_scores` gives, for all the targets that are asked about together, (T, N)."""
        self.target  # noqa: B018  is resolved at the point itself
        return self._evaluate(z, rows, gradients=False).every

    # -- other problems -------------------------------------------------------------------------------------------

    def select(self, examples: Tensor) -> Problem:
        """The same problem for some of the examples, given by their indices."""
        part = self._copy()
        part.inputs = self.inputs[examples]
        part.extra = self._extra(examples)
        part._target = self.target.select(examples)
        part._point, part._base = self.point[examples], self.base[examples]
        part._scores = self.scores[examples]
        part._output = None if self._output is None else self._output[examples]
        if self._baselines is not None and not self._baseline_set:
            part._baselines = self._input_baselines()[examples].parts
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

    def sparing(self) -> Problem:
        """The same problem, whose passes with gradients take about the room of those without.

        Where the user has chosen how many rows a pass has, what autograd keeps is measured on one; else nothing is to
        be done, since what fits is found out.
        """
        if self.batch_size is None:
            return self
        part, meter = self._copy(), Meter(gradients=True)
        part._asked, part._meter = self._asked, meter
        part._evaluate(self.point[:1], torch.zeros(1, dtype=torch.long, device=self.inputs.device), gradients=True)
        part._meter = None
        # Without a graph, what an operation takes and what it gives are there together.
        share = 2 * meter.largest / max(1, meter.total)
        part.batch_size = max(1, int(self.batch_size * min(1, share)))
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

    def elsewhere(self, at: At, **compared: Any) -> Problem:
        """The same question asked at a layer, or at the input.

        Args:
            at: the place, as for a `Problem`.
            compared: of ``baselines``, ``baseline_set``, ``zero_at_site`` and ``precision`` those that are others.
        """
        part = self._copy()
        for name in ("baselines", "baseline_set", "zero_at_site"):
            setattr(part, f"_{name}", compared.pop(name, getattr(self, f"_{name}")))
        part.precision = compared.pop("precision", self.precision)
        assert not compared, f"a problem has no {', '.join(compared)}"
        part.site = None if at is None else whole_place(self.model, at)
        part._point = self.inputs if at is None else None
        part._base = part._layer_baselines = None
        part._layout, part._apart = [], False
        part._shortcuts = {}
        return part

    def put_to(self, model: Any, *, alike: bool = True) -> Problem:
        """The same question put to a copy of the model, whose weights may be others, or to one that is not ``alike``.

        What was measured of memory holds for one that is.
        """
        self.target  # noqa: B018  is resolved for the model itself
        part = self._copy()
        part.model = bare(model)
        part._shared = replace(self._shared, behind={})
        if not alike:
            part._shared = replace(part._shared, limits={}, channels_last=None)
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
            return baselines.of_layers(self._layer_baselines, self.site, self._layout, self.point)
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
        return baselines.of_inputs(self._baselines, self.inputs, as_set=self._baseline_set)

    def background(self, rows: Any = None) -> Tensors:
        """A set of N rows to compare with, at the inputs, (N, ...): those given, or else the baselines."""
        return baselines.background(self._baselines if rows is None else rows, self.inputs)

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
