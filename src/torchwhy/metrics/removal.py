"""What metrics share that remove features and watch the score: positions, orders, and games that remember.

A position is what is removed at once. The attribution of a position is the sum over its elements.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors, accumulator
from torchwhy.engines.fills import Fill, as_fill
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.masks import superpixels
from torchwhy.engines.noise import check_seed, draws
from torchwhy.metrics.base import Judged, Metric
from torchwhy.metrics.orders import ascending, flat
from torchwhy.metrics.rating import Curve, Rating

Positions: TypeAlias = str | int | Tensor | tuple[Tensor, ...]

MOST_POSITIONS = 256  # of a map in patches
CHECKED = 8  # examples, among others than before, that show a model which draws numbers or mixes rows
NAMED = ("elements", "pixels", "patches", "superpixels", "tokens")


class Places(Groups):
    """Groups with the number of each element's position already known, in one channel where all channels share it.

    Args:
        point: (B, ...).
        ids: the numbers, (1 or B, ...) each, of size 1 where a dimension does not matter.
        grids: how the positions of each tensor lie.
        kept: some elements belong to no position, and have the number after the last.
    """

    def __init__(self, point: Tensors, ids: Tensors, grids: Sequence[tuple[int, ...]], *, kept: bool = False) -> None:
        self.point, self.ids, self.grids, self.kept = point, ids, grids, kept
        self.count = sum(map(math.prod, grids))
        self.numbers = torch.arange(self.count)

    def mask(self, present: Tensor) -> Tensors:
        return super().mask(present).map(lambda m, t: m.expand(*m.shape[:2], *t.shape[1:]), self.point)


def places(point: Tensors, positions: str | int) -> Places:
    """The positions of a point that have a name.

    Args:
        point: (B, ...).
        positions: "elements"; "pixels" are all channels at one place of a map (B, C, ...); "patches" are squares of as
            few pixels of an image (B, C, H, W) or volume as make at most 256 of them, and elements of all else; a
            number is the side of square patches; "superpixels" are pieces of an image of one colour, others for every
            image; "tokens" are all that lies at one place of (B, T, ...).
    """
    if positions == "superpixels" and not any(t.ndim == 4 for t in point):
        raise TorchwhyError(f"superpixels are of images (B, C, H, W), not {point.shapes}")
    ids, grids, start = [], [], 0
    for t in point:
        numbers, grid = _numbers(t, positions)
        ids.append(start + numbers)
        grids.append(grid)
        start += math.prod(grid)
    return Places(point, Tensors(ids), grids)


def _numbers(t: Tensor, positions: str | int) -> tuple[Tensor, tuple[int, ...]]:
    """The number of each element's position, (1, ...), of size 1 where it does not matter; and how they lie."""
    if positions == "tokens" and t.ndim > 1:
        return torch.arange(t.shape[1], device=t.device).view(1, -1, *[1] * (t.ndim - 2)), (t.shape[1],)
    if positions == "superpixels" and t.ndim == 4:
        numbers, ids = superpixels(t).to(t.device).unique(return_inverse=True)
        return ids, (len(numbers),)
    if positions in ("elements", "superpixels") or t.ndim < 3 or (positions == "patches" and t.ndim < 4):
        count = t[0].numel()
        return torch.arange(count, device=t.device).view(1, *t.shape[1:]), (count,)
    lengths = t.shape[2:]
    side = positions if isinstance(positions, int) else 1
    if positions == "patches":
        side = math.ceil((math.prod(lengths) / MOST_POSITIONS) ** (1 / len(lengths)))
    ids, grid = torch.zeros(1, dtype=torch.long, device=t.device), [-(-length // side) for length in lengths]
    for length, pieces in zip(lengths, grid, strict=True):
        ids = ids[..., None] * pieces + torch.arange(length, device=t.device) // side
    return ids[None], tuple(grid)


def as_they_say(values: Tensors, point: Tensors, otherwise: str = "patches") -> str:
    """The positions that attributions tell apart: tokens or pixels where (B, T, ...) has one value for each."""

    def shared(dim: int) -> bool:
        return all(t.ndim == 3 and v.shape[dim] < t.shape[dim] for v, t in zip(values, point, strict=True))

    return "tokens" if shared(2) else "pixels" if shared(1) else otherwise


def check_positions(positions: Any) -> None:
    """Raise unless these are positions."""
    number = isinstance(positions, int) and not isinstance(positions, bool) and positions > 0
    if not number and not isinstance(positions, Tensor | tuple) and positions not in NAMED:
        raise TorchwhyError(
            f"positions are {', '.join(map(repr, NAMED))}, the side of a patch, or a feature mask, not {positions!r}"
        )


def check_shares(name: str, shares: object) -> None:
    """Raise unless these are shares of the positions."""
    given = shares if isinstance(shares, tuple) else (shares,)
    for s in given:
        if isinstance(s, bool) or not isinstance(s, int | float) or not 0 < s <= 1:
            raise TorchwhyError(f"{name} is a number above 0 and at most 1, or a tuple of such, not {shares!r}")
    if not given:
        raise TorchwhyError(f"{name} holds at least one share")


@dataclass(eq=False)
class Removal:
    """Positions of a question that are removed, and the game that remembers what was.

    Attributes:
        p: the question.
        groups: the positions.
        fill: what takes the place of what is removed.
        game: rows say which positions are present; all metrics on the same positions and fill play the same game.
        elements: (B, ...) the attributions as they were given.
        values: (B, M) the attributions of the positions.
        rank: (B, M) the place of each position among the values, 0 for the largest. Equal values, such as the zeros
            around a mark, take turns at random: their place says nothing.
        ordered: rows say which ranks are present.
        memory: other scores that metrics share.
    """

    p: Problem
    groups: Groups
    fill: Fill
    game: Game
    elements: Tensors
    values: Tensor
    rank: Tensor
    ordered: Game
    memory: dict[str, Tensor] = field(default_factory=dict)

    def remember(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """Scores that several metrics need."""
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]

    @property
    def count(self) -> int:
        """The number of positions, M."""
        return self.groups.count

    @property
    def flat(self) -> Tensor:
        """(B,) where the attributions are the same everywhere, or those of the positions are."""
        return flat(self.elements.flat()) | flat(self.values)

    def counts(self, shares: Tensor) -> Tensor:
        """How many positions some shares of them are; shares that are as many are one."""
        counts: Tensor = (shares * self.count).round().long().unique()
        return counts

    def most_first(self, counts: Tensor) -> Curve:
        """Scores without so many positions (S,) of largest value."""
        return self._curve(counts, torch.arange(self.count) >= counts[:, None])

    def least_first(self, counts: Tensor) -> Curve:
        """Scores without so many positions (S,) of smallest value."""
        return self._curve(counts, torch.arange(self.count) < self.count - counts[:, None])

    def only_most(self, counts: Tensor) -> Curve:
        """Scores with only so many positions (S,) of largest value."""
        return self._curve(counts, torch.arange(self.count) < counts[:, None], "share shown")

    def _curve(self, counts: Tensor, present: Tensor, name: str = "share removed") -> Curve:
        scores = wide(self.ordered.evaluate(present))
        return Curve((counts.to(scores) / self.count)[:, None].expand(scores.shape), scores, name)

    def falls(self, present: Tensor) -> Tensor:
        """(K, B) how far the score falls for rows (K, M) of positions."""
        return wide(self.p.scores) - wide(self.game.evaluate(present))

    def whole(self) -> tuple[Tensor, Tensor]:
        """Scores with everything and with nothing there, (B,) each."""
        ends = torch.arange(2).bool()[:, None].expand(2, self.count)
        nothing, everything = wide(self.game.evaluate(ends))
        return everything, nothing

    def faded(self, keep: Tensor) -> Tensor:
        """Scores (K, B) where positions keep shares (K, B, M) of what they hold, and the fill gives the rest."""
        p, bound = self.p, self.game.bound
        if not ((keep == 0) | (keep == 1)).all() and not all(t.is_floating_point() for t in p.point):
            raise TorchwhyError("integers cannot fade: judge the layer behind them, such as at='embedding'")

        def points(es: slice, ks: slice) -> Tensors:
            number = torch.arange(ks.start, ks.stop)
            nothing = torch.zeros(len(number), self.count, dtype=torch.bool, device=p.point.device)
            absent = bound.at(es, nothing, number % bound.draws)
            shares = keep[number // bound.draws][:, es]
            shares = torch.cat([shares, torch.ones_like(shares[..., :1])], 2)  # of what is always kept

            def mix(t: Tensor, other: Tensor, ids: Tensor) -> Tensor:
                share = shares[:, :, ids[0]]
                if t.is_floating_point():
                    return other + share.to(t.dtype) * (t[es] - other)
                return torch.where(share > 0, t[es], other)

            return p.point.map(mix, absent, self.groups.ids)

        scores = wide(p.scores_at(points, len(keep) * bound.draws, "fading what is not marked"))
        means: Tensor = scores.unflatten(0, (len(keep), bound.draws)).mean(1)
        return means


def too_small(change: Tensor, scores: Tensor) -> Tensor:
    """Where a difference of scores is no more than rounding."""
    return change.abs() <= 32 * torch.finfo(scores.dtype).eps * scores.abs()


def wide(t: Tensor) -> Tensor:
    """In at least float32."""
    return t.to(accumulator(t.dtype))


def removal(
    judged: Judged, positions: Positions, fill: str | Fill, *, absolute: bool, mean: bool, seed: int
) -> Removal:
    """The removal of positions, made once for all metrics that ask for the same.

    Args:
        judged: attributions and what they are of.
        positions: what is removed at once.
        fill: what takes its place.
        absolute: the value of a position is the size of the sum of its attributions, rather than the sum.
        mean: it is their mean rather than their sum.
        seed: of the order of equal values.
    """
    fill, p = as_fill(fill), judged.p
    if isinstance(positions, str) and positions in ("patches", "pixels"):
        positions = as_they_say(judged.values, p.point, positions)
    name = _name(positions)

    def play() -> tuple[Groups, Game, Positions]:
        groups = places(p.point, positions) if isinstance(positions, str | int) else Groups(p.point, positions)
        return groups, _game(judged, groups, fill), positions  # the positions live as long as their id is a key

    groups, game, _ = judged.remember(("game", name, fill), play)

    def order() -> Removal:
        values = totals(judged.values, groups)
        values = values.abs() if absolute else values
        values = values / totals(judged.values.map(torch.ones_like), groups).clamp_min(1) if mean else values
        rank = ranks(values, draws(seed, stream=4))
        # What is always kept has the number after the last.
        numbers = torch.cat([rank, torch.full_like(rank[:, :1], groups.count)], 1)
        examples = torch.arange(p.size, device=rank.device)
        ids = groups.ids.map(lambda i: numbers[examples.view(-1, *[1] * (i.ndim - 1)), i])
        ranked = Places(p.point, ids, [(groups.count,)], kept=groups.kept)
        return Removal(p, groups, fill, game, judged.values, values, rank, _game(judged, ranked, fill))

    return judged.remember(("order", name, fill, absolute, mean, seed), order, of_values=True)


def _game(judged: Judged, groups: Groups, fill: Fill) -> Game:
    """A game whose point is not evaluated again where some of many examples show that they keep their scores."""
    p, game = judged.p, Game(judged.p, groups, fill)

    def checked() -> bool:
        rows = torch.arange(CHECKED, device=p.inputs.device)
        p.check_again(torch.cat([p.rows_scores(p.point[:CHECKED], rows), p.scores[CHECKED:]]))
        return True

    if p.size > CHECKED and judged.remember("checked", checked):
        game.know_point()
    return game


def totals(values: Tensors, groups: Groups) -> Tensor:
    """The sum of the values at each position, (B, M); a value that stands for a whole dimension counts once."""

    def rows(v: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        together = [d for d in range(1, v.ndim) if ids.shape[d] == 1 < v.shape[d]]
        v = v.sum(together, keepdim=True) if together else v
        shape = (len(v), *ids.shape[1:])
        shared = math.prod(shape) // v.numel()  # elements that one value stands for
        return (v.expand(shape) / shared).reshape(len(v), -1), ids.expand(shape).reshape(len(v), -1)

    found = [rows(v, ids) for v, ids in zip(values, groups.ids, strict=True)]
    flat, index = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return flat.new_zeros(len(flat), groups.count + 1).scatter_add_(1, index, flat)[:, : groups.count]


def ranks(values: Tensor, generator: torch.Generator) -> Tensor:
    """The place of each of (B, M) values in its row, 0 for the largest; equal ones take turns at random."""
    turns = torch.randperm(values.shape[1], generator=generator).to(values.device)
    first = turns[ascending(-values[:, turns], stable=True)]
    places = torch.arange(values.shape[1], device=values.device).expand(first.shape)
    return torch.empty_like(first).scatter_(1, first, places)


@dataclass(kw_only=True, eq=False)
class RemovalMetric(Metric):
    """A metric that removes positions and watches the score.

    Args:
        positions: what is removed at once: "patches", "pixels", "elements", "superpixels", the side of square patches,
            or a feature mask; see `torchwhy.metrics.removal.places`. Where attributions of (B, T, D) or (B, C, T) have
            one value for each token or place, patches and pixels are these.
        fill: what takes the place of what is removed, see `torchwhy.engines.fills`.
        abs: judge the size of each position's attribution instead of the attribution.
        seed: of whatever is random, such as the order of equal values.
    """

    mean: ClassVar[bool] = False  # a position is judged by the mean of its attributions, rather than by their sum

    positions: Positions = "patches"
    fill: str | Fill = "baseline"
    abs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positions(self.positions)
        as_fill(self.fill)
        check_seed(self.seed)

    @abstractmethod
    def measure(self, removal: Removal) -> Rating:
        """The metric's formula, for positions that all examples share."""

    def compute(self, judged: Judged) -> Rating:
        own = judged.remember(("own", _name(self.positions)), lambda: _own(judged.p.point, self.positions))
        if own is None:
            return self._alone(judged, self.positions)
        # Where examples have positions of their own, each is a question of its own.
        return Rating.cat([self._alone(judged.select(i), positions) for i, positions in enumerate(own)])

    def _alone(self, judged: Judged, positions: Positions) -> Rating:
        return self.measure(removal(judged, positions, self.fill, absolute=self.abs, mean=self.mean, seed=self.seed))


def _own(point: Tensors, positions: Positions) -> list[Positions] | None:
    """The positions of each example, where they are not those of all."""
    if positions == "superpixels":
        return [positions] * point.size
    masks = positions if isinstance(positions, tuple) else (positions,) if isinstance(positions, Tensor) else ()
    owned = [m.ndim == t.ndim and len(m) == point.size > 1 for m, t in zip(masks, point, strict=False)]
    if not any(owned):
        return None
    return [tuple(m[i : i + 1] if o else m for m, o in zip(masks, owned, strict=False)) for i in range(point.size)]


def _name(positions: Positions) -> str | int:
    """A key for positions, as long as they live."""
    return positions if isinstance(positions, str | int) else -id(positions)
