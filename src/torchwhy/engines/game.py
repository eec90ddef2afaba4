"""Games of present and absent features: every method that removes something and watches the score.

A feature is a set of elements of the point. A row says which features are present; what the others get is chosen by a
`torchwhy.engines.fills.Fill`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product, takewhile
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.passes import FIRST_ROWS
from torchwhy.core.problem import Points, Problem
from torchwhy.core.tensors import Tensors, accumulator
from torchwhy.engines.fills import Baseline, Fill
from torchwhy.engines.masks import KEPT

Rows: TypeAlias = Callable[[slice], Tensor]


class Features(ABC):
    """M features of a point."""

    count: int

    @abstractmethod
    def mask(self, present: Tensor) -> Tensors:
        """Which elements are present: rows (K, M) to (K, 1 or B, ...), booleans."""

    @abstractmethod
    def spread(self, values: Tensor) -> Tensors:
        """A value per feature (M, B) as a value per element (B, ...)."""

    @abstractmethod
    def key(self) -> Hashable:
        """Equal for features that are the same."""


class Groups(Features):
    """Elements grouped by a number: those with the same number, in whichever tensor, are one feature.

    Args:
        point: (B, ...).
        feature_mask: integers that broadcast to each tensor of the point, as Captum's ``feature_mask``; None makes
            every element a feature of its own. Elements with the number `KEPT` belong to no feature: they are always
            present, and get 0.
    """

    def __init__(self, point: Tensors, feature_mask: Tensor | tuple[Tensor, ...] | None = None) -> None:
        if feature_mask is None:
            ids, start = [], 0
            for t in point:
                size = t[0].numel()
                ids.append(torch.arange(start, start + size, device=t.device).view(1, *t.shape[1:]))
                start += size
        else:
            ids = self._given(point, feature_mask)
        numbers, renumbered = torch.cat([i.flatten() for i in ids]).unique(return_inverse=True)
        if kept := bool((numbers == KEPT).any()):
            # The smallest number; those that are kept come last instead.
            numbers, renumbered = numbers[1:], (renumbered - 1) % len(numbers)
        if not len(numbers):
            raise TorchwhyError("feature_mask keeps every element, so there is no feature to remove")
        pieces = renumbered.split([i.numel() for i in ids])
        self.numbers, self.count, self.kept = numbers.cpu(), len(numbers), kept
        self.ids = Tensors(piece.view(i.shape) for piece, i in zip(pieces, ids, strict=True))
        self.point = point

    @staticmethod
    def _given(point: Tensors, feature_mask: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
        masks = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
        if len(masks) != len(point):
            raise TorchwhyError(
                f"feature_mask has {len(masks)} tensors for {len(point)} of the input: give one for each"
            )
        out = []
        for m, t in zip(masks, point, strict=True):
            if not isinstance(m, Tensor) or m.is_floating_point() or m.is_complex():
                kind = m.dtype if isinstance(m, Tensor) else type(m).__name__
                raise TorchwhyError(f"feature_mask holds the integer number of each element's feature, not {kind}")
            try:
                shape = torch.broadcast_shapes(m.shape, t.shape)
            except RuntimeError:
                shape = None
            if shape != t.shape:
                raise TorchwhyError(
                    f"feature_mask of shape {tuple(m.shape)} does not broadcast to the input, {tuple(t.shape)}"
                )
            ids = m.to(t.device).long().reshape((1,) * (t.ndim - m.ndim) + tuple(m.shape))
            out.append(ids.expand(ids.shape[0], *t.shape[1:]))
        return out

    def mask(self, present: Tensor) -> Tensors:
        if self.kept:
            present = torch.cat([present, torch.ones_like(present[:, :1])], 1)
        return self.ids.map(lambda i: present[:, i])

    def spread(self, values: Tensor) -> Tensors:
        examples = torch.arange(values.shape[1], device=values.device)
        if self.kept:
            values = torch.cat([values, torch.zeros_like(values[:1])])

        def each(ids: Tensor) -> Tensor:
            return values[ids, examples.view(-1, *[1] * (ids.ndim - 1))]

        return self.ids.map(each)

    def totals(self, values: Tensors, es: slice) -> Tensor:
        """The sums over the elements of each feature of values (K, examples, ...), (K, examples, M)."""
        out = torch.zeros(*values.parts[0].shape[:2], self.count + self.kept, dtype=torch.float64)
        for v, ids in zip(values, self.ids, strict=True):
            mine = (ids if len(ids) == 1 else ids[es]).cpu().expand(v.shape[1:]).flatten(1)
            out.scatter_add_(2, mine.expand(len(v), -1, -1), v.double().cpu().flatten(2))
        return out[:, :, : self.count]

    def key(self) -> Hashable:
        return tuple((tuple(i.shape), blake2b(i.cpu().contiguous().numpy().tobytes()).digest()) for i in self.ids)


class Windows(Features):
    """All positions of a sliding window; where windows overlap, an element gets their mean.

    Args:
        point: (B, ...).
        shapes: the window for each tensor, without the batch dimension.
        strides: the steps for each tensor; the last position in a dimension is cut off where it sticks out.
    """

    def __init__(self, point: Tensors, shapes: Sequence[tuple[int, ...]], strides: Sequence[tuple[int, ...]]) -> None:
        self.point = point
        self.boxes: list[tuple[int, tuple[slice, ...]]] = []
        for number, (t, window, steps) in enumerate(zip(point, shapes, strides, strict=True)):
            axes = []
            for length, w, s in zip(t.shape[1:], window, steps, strict=True):
                positions = -(-(length - w) // s) + 1
                axes.append([slice(i * s, min(length, i * s + w)) for i in range(positions)])
            self.boxes += [(number, box) for box in product(*axes)]
        self.count = len(self.boxes)

    def mask(self, present: Tensor) -> Tensors:
        masks = self.point.map(lambda t: t.new_ones((len(present), 1, *t.shape[1:]), dtype=torch.bool))
        for row, feature in (~present).nonzero().tolist():
            number, box = self.boxes[feature]
            masks.parts[number][(row, 0, *box)] = False
        return masks

    def spread(self, values: Tensor) -> Tensors:
        values = values.to(accumulator(values.dtype))
        total = self.point.map(lambda t: values.new_zeros(t.shape))
        covers = self.point.map(lambda t: values.new_zeros((1, *t.shape[1:])))
        for value, (number, box) in zip(values, self.boxes, strict=True):
            under = total.parts[number].movedim(0, -1)  # a view
            under[box] += value
            covers.parts[number][0][box] += 1
        return total.map(lambda t, n: t / n.clamp_min(1), covers)

    def key(self) -> Hashable:
        return str(self.boxes)


def rows_at_once(p: Problem) -> int:
    """Rows to ask a problem for at a time, so that little is lost when the user interrupts.

    About a pass, but at least two of the small passes that come before it is known how many rows fit.
    """
    fit = p.rows_per_pass(gradients=False)
    return fit if p.batch_size is not None else max(2 * FIRST_ROWS, fit)


class Interrupted(KeyboardInterrupt):
    """The user has interrupted the evaluation of rows, of which the first are there.

    Attributes:
        scores: (K', B) of as many rows, from the first, as were evaluated.
    """

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores


PASSES = 8  # that are asked for at a time where an interrupt loses all of them anyway
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


def either(mask: Tensor, there: Tensor, absent: Tensor) -> Tensor:
    """``torch.where`` by the bits of the numbers: on a CPU, that guesses where a mask changes, and loses time often."""
    whole = BITS.get(there.element_size())
    follows = there.requires_grad or absent.requires_grad
    if whole is None or follows or there.dtype != absent.dtype or there.is_complex() or there.device.type != "cpu":
        return torch.where(mask, there, absent)
    other = absent.view(whole)
    return ((there.view(whole) ^ other) * mask).bitwise_xor_(other).view(there.dtype)


@dataclass
class Memory:
    """Scores of rows, for all targets that are asked about together.

    Attributes:
        where: rows as packed bits, and where their scores are.
        scores: (K, T, B).
    """

    scores: Tensor
    where: dict[bytes, int] = field(default_factory=dict)

    def add(self, keys: Iterable[bytes], scores: Tensor) -> None:
        """Take rows in; an interrupt in between leaves scores without a row, never a row with another's scores."""
        start = len(self.scores)
        self.scores = torch.cat([self.scores.to(scores), scores])
        self.where |= {key: number for number, key in enumerate(keys, start)}


class Game:
    """The score as a function of which features are present.

    Args:
        p: the problem.
        features: what can be absent.
        fill: what absent features get; None is the problem's baseline.
        max_evals: evaluations of the model per example; None sets no limit.

    A score is the mean over the draws of the fill, so a row of the game costs ``draws`` evaluations of the model.
    """

    def __init__(self, p: Problem, features: Features, fill: Fill | None = None, max_evals: int | None = None) -> None:
        self.p, self.features, self.max_evals = p, features, max_evals
        fill = fill or Baseline()
        self.bound = fill.bind(p, features.mask)
        self._key = None if p.memories is None else (features.key(), fill)
        self._memory = p.memory(self._key, lambda: Memory(p.scores.new_empty(0, p.together, p.size)))
        self.evaluations = len(self._memory.scores) * self.draws
        self.recomputed = 1.0  # the share of the work of whole passes that was done

    @property
    def draws(self) -> int:
        """Evaluations of the model that a row of the game costs."""
        return self.bound.draws

    def values(self, rows: Rows, count: int, what: str = "removing features") -> Tensor:
        """Scores (count, B) of ``count`` rows; ``rows`` gives those of a slice as booleans (K, M).

        Rows are made when they are needed and not remembered, so there may be any number of them.

        Raises:
            TorchwhyError: the rows cost more than `max_evals` allows.
            Interrupted: as for `evaluate`.
        """
        found: list[Tensor] = []
        try:
            found.extend(scores[:, self.p.number] for scores in self._parts(rows, count, what))
        except KeyboardInterrupt:
            if not (self.p.partial and found):
                raise
            raise Interrupted(torch.cat(found)) from None
        return torch.cat(found)

    def _parts(self, rows: Rows, count: int, what: str) -> Iterator[Tensor]:
        """Scores (K, T, B) of some rows after the other, a pass at a time where an interrupt is to lose little."""
        p, draws = self.p, self.draws
        least = self.evaluations + count * draws
        if self.max_evals is not None and least > self.max_evals:
            raise TorchwhyError(f"{self.max_evals} evaluations are too few: the least that works is {least}")
        p.prepare(count * draws, gradients=False)
        with p.progress.task(what, count) as advance:
            k = 0
            while k < count:
                # The first part of all tells how many rows fit; the passes then are the same either way.
                at_once = rows_at_once(p) * (1 if p.partial or not k else PASSES)
                part = slice(k, min(count, k + max(1, at_once // (p.size * draws))))
                scores = p.every_score(self._points(rows, k), (part.stop - k) * draws, what).movedim(0, 1)
                if draws > 1:
                    scores = scores.to(accumulator(scores.dtype)).unflatten(0, (-1, draws)).mean(1)
                self.evaluations += (part.stop - k) * draws
                yield scores
                advance(part.stop - k)
                k = part.stop

    def _points(self, rows: Rows, start: int) -> Points:
        """The points of the rows from ``start`` on, each ``draws`` times."""
        p, draws = self.p, self.draws

        def points(es: slice, ks: slice) -> Tensors:
            number = torch.arange(ks.start, ks.stop)
            first = ks.start // draws
            present = rows(slice(start + first, start - (-ks.stop // draws)))
            present = present[number // draws - first].to(p.point.device)
            absent = self.bound.at(es, present, number % draws)

            return self.filled(es, present, absent)

        return points

    def filled(self, es: slice, present: Tensor, absent: Tensors) -> Tensors:
        """Points (K, examples, ...) of rows (K, M), with ``absent`` where something is absent."""

        def fill(t: Tensor, other: Tensor, mask: Tensor) -> Tensor:
            return either(mask if mask.shape[1] == 1 else mask[:, es], t[es], other)

        return self.p.point.map(fill, absent, self.features.mask(present))

    def told(self, row: Tensor) -> str:
        """What a row (M,) shows, for people."""
        return f"{int((~row).sum())} of {self.features.count} features are absent"

    def evaluate(self, present: Tensor, what: str = "removing features") -> Tensor:
        """Scores (K, B) of rows (K, M), each of which is evaluated at most once.

        Raises:
            TorchwhyError: the rows cost more than `max_evals` allows, the model gives a row several scores, or one that
                is not finite.
            Interrupted: by the user, where the problem's ``partial`` says that the rows so far are of use.
        """
        memory = self._memory
        keys = self._keys(present)
        rows = present.cpu()
        if not memory.where:  # the point itself comes first, to be checked
            rows = torch.cat([torch.ones(1, self.features.count, dtype=torch.bool), rows])
        try:
            self._remember(rows, what)
        except KeyboardInterrupt:
            if not self.p.partial:
                raise
            known = list(takewhile(lambda number: number is not None, map(memory.where.get, keys)))
            raise Interrupted(memory.scores[known, self.p.number]) from None
        return memory.scores[[memory.where[key] for key in keys], self.p.number]

    def know_point(self) -> None:
        """Take the score of the point as it is known, where no row was evaluated; whoever plays has checked it."""
        memory = self._memory
        if not memory.where:
            everything = torch.ones(1, self.features.count, dtype=torch.bool)
            memory.add(self._keys(everything), self.p.scores[None, None])

    @staticmethod
    def _keys(present: Tensor) -> list[bytes]:
        return [row.tobytes() for row in np.packbits(present.cpu().numpy(), axis=1)]

    def _remember(self, present: Tensor, what: str) -> None:
        """Evaluate the rows that are new."""
        memory = self._memory
        fresh: dict[bytes, int] = {}
        for number, key in enumerate(self._keys(present)):
            if key not in memory.where:
                fresh.setdefault(key, number)
        if fresh:
            self._take_in(present[list(fresh.values())], list(fresh), what)

    def _take_in(self, new: Tensor, keys: Sequence[bytes], what: str) -> None:
        """Evaluate new rows, the first of all of which is the point itself."""
        memory, start = self._memory, 0
        for scores in self._parts(lambda ks: new[ks], len(new), what):
            if not scores.isfinite().all():
                row, t, i = (~scores.isfinite()).nonzero()[0].tolist()
                raise TorchwhyError(
                    f"the score of example {i} is {scores[row, t, i].item()} where {self.told(new[start + row])}: "
                    f"fill them with something else"
                )
            memory.add(keys[start : start + len(scores)], scores)
            if len(memory.scores) == len(scores):
                self.p.check_again(memory.scores[0, self.p.number])
            start += len(scores)

    def one_absent(self, quicker: Callable[[Game], Tensor | None] | None = None) -> Tensor:
        """How much the score falls when one feature is absent, (M, B).

        ``quicker`` gives the scores (T, M, B) of all targets where it has another way to them.

        Raises:
            TorchwhyError: the model gives the point itself several scores.
        """
        m = self.features.count

        parts = self.p.memory((self._key, "parts"), list[Tensor])
        known = sum(map(len, parts))  # rows that were evaluated before an interrupt

        def rows(ks: slice) -> Tensor:
            start, stop = known + ks.start, known + ks.stop
            present = torch.ones(stop - start, m, dtype=torch.bool)
            absent = torch.arange(start, min(stop, m))
            present[absent - start, absent] = False
            return present

        def all_scores() -> Tensor:
            found = None if quicker is None else quicker(self)
            if found is not None:
                return found
            # Last the point itself, which needs none of several draws.
            once = self.draws == 1
            if known < m + once:
                parts.extend(self._parts(rows, m + once - known, "removing features"))
            scores = torch.cat(parts)
            self.p.check_again(scores[m, self.p.number] if once else None)
            return scores[:m].movedim(1, 0)

        return self.p.scores - self.p.recall((self._key, "one absent"), all_scores)
