"""Owen values of a hierarchy of features: halves, then halves of halves, as far as the budget goes."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import as_fill
from torchwhy.engines.game import Game, Groups, Interrupted
from torchwhy.methods.base import Attribution, at_least
from torchwhy.methods.coalitions import GameMethod, rows_of
from torchwhy.methods.sampling import broken_off
from torchwhy.registry import Info, register

AT_ONCE = 16  # parts that are opened together


@dataclass(frozen=True, eq=False)
class Tree:
    """Part of a hierarchy of features: one of them, or two parts."""

    features: list[int]
    halves: tuple[Tree, Tree] | None = None

    @staticmethod
    def join(one: Tree, other: Tree) -> Tree:
        """The two parts as one."""
        return Tree(one.features + other.features, (one, other))


def correlated(background: Tensor, method: str = "complete") -> Tensor:
    """A hierarchy of the columns of a table: those that are correlated, in either direction, come together first.

    Args:
        background: (N, D), N > 1.
        method: of ``scipy.cluster.hierarchy.linkage``.

    Returns:
        A ``partition`` for `PartitionShap`, SciPy's linkage matrix (D - 1, 4).

    >>> table = torch.tensor([[1.0, 5.0, -1.0], [2.0, 1.0, -2.0], [3.0, 4.0, -3.1]])
    >>> correlated(table)[:, :2].int().tolist()  # columns 0 and 2, then column 1 and the two
    [[0, 2], [1, 3]]
    """
    from scipy.cluster.hierarchy import linkage

    if background.ndim != 2 or len(background) < 2 or background.shape[1] < 2:
        raise TorchwhyError(f"correlations are of a table (N, D), N > 1 and D > 1, not {tuple(background.shape)}")
    away = background.double().cpu() - background.double().cpu().mean(0)
    away = away / away.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    apart = (1 - (away.T @ away).abs()).clamp_min(0)
    here, there = torch.triu_indices(len(apart), len(apart), offset=1)
    return torch.from_numpy(linkage(apart[here, there].numpy(), method=method))


@register(
    Info(
        family="perturbation",
        summary="Shapley values within a hierarchy: halves share the change of the score, then halves of halves",
        paper="Owen: Values of Games with a Priori Unions; Lundberg: SHAP, PartitionExplainer",
        year=2020,
        needs="forward passes",
        cost="budget forward passes, or less where that opens the whole hierarchy",
        baselines="one",
        promises=("completeness", "sensitivity", "linearity where the whole hierarchy is opened"),
        zero_at_layer=True,
    )
)
@dataclass(kw_only=True, eq=False)
class PartitionShap(GameMethod):
    r"""Owen values of a hierarchy of features.

    .. math:: \phi_i = 2^{-d} \sum_{S \in C_i} \left(v(S \cup i) - v(S)\right)

    where :math:`C_i` holds the :math:`2^d` unions of some of the d parts of the hierarchy that branch off on the way to
    feature i. They are the mean over all orders in which no part is interrupted, and always add up to
    :math:`f(x) - v(\emptyset)`.

    Each step opens the parts whose presence moves the score most. Where the budget does not reach the features, those
    of a part share its value equally: the record says whether all was opened, ``exact``. An interrupt ends the budget.

    Args:
        feature_mask: as for `torchwhy.ShapleyValues`.
        fill: as for `torchwhy.ShapleyValues`.
        partition: SciPy's linkage matrix over the features, such as that of
            `torchwhy.methods.partition.correlated`. None takes the tensors of a
            tuple apart, and then halves the longest side again and again, channels last.
        budget: evaluations of the model per example, beyond the one that every method takes. None is 65,536 for up to
            16 features, and else what 2,048 coalitions cost.

    Shapes: inputs (B, ...), values (B, ...). Units: score.

    Papers: G. Owen, Mathematical Economics and Game Theory, 1977; S. Lundberg, https://github.com/shap/shap, 2020.

    >>> both = PartitionShap(lambda x: 8 * x[:, 0] * x[:, 1] * x[:, 2])
    >>> both.attribute(torch.ones(1, 4))  # (0, 1) and (2, 3) share first
    tensor([[2., 2., 4., 0.]])
    """

    partition: Any = None
    budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None:
            at_least("budget", self.budget, 1)

    def compute(self, p: Problem) -> Attribution:
        groups, game = self.game(p)
        m, rows = groups.count, rows_of(game, self.budget, "budget", least=2)
        trees = self._trees(groups)
        needed = [_needed(tree, rows) for tree in trees]
        if len(trees) == 1 and needed[0] <= rows:
            searches = [_Search(game, m, trees[0], rows)]
        else:  # each by itself, since every example opens other parts
            games = [self._alone(p, groups, i) for i in range(p.size)]
            searches = [_Search(alone, m, trees[i % len(trees)], rows) for i, alone in enumerate(games)]
        planned = min(rows, max(needed))
        with p.progress.task("opening parts", len(searches) * (planned - 2)) as advance:
            complete = _open(searches, advance)
        evaluations = max(search.game.evaluations for search in searches)
        details = {"features": m, "evaluations": evaluations, "exact": not any(search.open for search in searches)}
        made = Attribution(groups.spread(torch.cat([s.values() for s in searches], 1)), details=details)
        return made if complete else broken_off(made, p.size, evaluations, planned * game.draws)

    def _alone(self, p: Problem, groups: Groups, i: int) -> Game:
        """The game of one example."""
        alone, fill = p.select(torch.tensor([i], device=p.inputs.device)), as_fill(self.fill)
        if p.memories is not None:
            alone.partial, alone.memories = p.partial, p.memory((groups.key(), fill, i, p.number), dict)
        return Game(alone, _of(groups, alone.point, i), fill)

    def options(self) -> dict[str, Any]:
        return super().options() | {"partition": "halves" if self.partition is None else "given"}

    def _trees(self, groups: Groups) -> list[Tree]:
        """A hierarchy for all examples, or one for each."""
        if self.partition is not None:
            return [_from_linkage(torch.as_tensor(self.partition), groups.count)]
        return [_halves(place, list(range(groups.count))) for place in _places(groups)]


@dataclass(order=True)
class _Part:
    """A part of the hierarchy in one of the contexts it can be in; those to be opened first are least."""

    urgency: float
    number: int
    tree: Tree = field(compare=False)
    context: Tensor = field(compare=False)  # (M,) what is present besides
    weight: float = field(compare=False)
    scores: tuple[Tensor, Tensor] = field(compare=False)  # (B,) without and with it


class _Search:
    """Opens parts of the hierarchy, those first that move the score most."""

    def __init__(self, game: Game, m: int, tree: Tree, rows: int) -> None:
        self.game, self.left = game, rows - 2
        self.numbers = count()
        ends = torch.stack([torch.zeros(m, dtype=torch.bool), torch.ones(m, dtype=torch.bool)])
        none, everything = game.evaluate(ends, "evaluating parts").double()
        self.total = torch.zeros(m, len(none), dtype=torch.float64, device=none.device)
        self.open: list[_Part] = []
        self._keep(tree, ends[0], 1.0, (none, everything))

    def values(self) -> Tensor:
        """Values (M, B); what is not opened shares equally."""
        total = self.total.clone()
        for part in self.open:
            _share(part, total)
        return total

    def step(self) -> bool:
        """Open a few parts, as far as the user does not interrupt; whether all of them are."""
        parts = [heapq.heappop(self.open) for _ in range(min(AT_ONCE, self.left // 2, len(self.open)))]
        opened = self._split(parts) if parts else 0
        self.left -= 2 * opened
        for part in parts[opened:]:
            heapq.heappush(self.open, part)
        return opened == len(parts)

    @property
    def done(self) -> bool:
        """Whether there is nothing to open, or no budget for it."""
        return self.left < 2 or not self.open

    def _split(self, parts: Sequence[_Part]) -> int:
        """Replace parts by their two halves, each without and with the other; how many, from the first, were."""
        halves = [half for part in parts for half in part.tree.halves or ()]
        rows = torch.stack([p.context for p in parts for _ in range(2)])
        for row, half in zip(rows, halves, strict=True):
            row[half.features] = True
        try:
            scores = self.game.evaluate(rows, "evaluating parts").double()
        except Interrupted as interrupt:
            scores = interrupt.scores.double()
        opened = len(scores) // 2
        for k, part in enumerate(parts[:opened]):
            (one, other), (none, both) = scores[2 * k : 2 * k + 2], part.scores
            for own, beside, alone, rest in ((2 * k, 2 * k + 1, one, other), (2 * k + 1, 2 * k, other, one)):
                self._keep(halves[own], part.context, part.weight / 2, (none, alone))
                self._keep(halves[own], rows[beside], part.weight / 2, (rest, both))
        return opened

    def _keep(self, tree: Tree, context: Tensor, weight: float, scores: tuple[Tensor, Tensor]) -> None:
        """Count a feature, and remember to open a part."""
        moved = float((scores[1] - scores[0]).abs().max()) * weight
        # In coarse steps, so that roundings of the score do not decide what is opened.
        urgency = -round(8 * math.log2(moved)) if moved > 0 else math.inf
        part = _Part(urgency, next(self.numbers), tree, context, weight, scores)
        if tree.halves is None:
            _share(part, self.total)
        else:
            heapq.heappush(self.open, part)


def _share(part: _Part, total: Tensor) -> None:
    """Give its features what a part adds, to each the same."""
    features = part.tree.features
    total[features] += part.weight / len(features) * (part.scores[1] - part.scores[0])


def _open(searches: Sequence[_Search], advance: Callable[[int], None]) -> bool:
    """Open what the budget pays, a few parts of every example in turn; False where the user interrupts."""
    waiting = deque(search for search in searches if not search.done)
    while waiting:
        search = waiting.popleft()
        left = search.left
        if not search.step():
            return False
        advance(left - search.left)
        if not search.done:
            waiting.append(search)
    return True


def _needed(tree: Tree, most: int) -> int:
    """How many rows open the whole hierarchy; not counted further where they are more than ``most``."""
    rows, waiting = 2, [(tree, 1)]
    while waiting and rows <= most:
        part, contexts = waiting.pop()
        if part.halves is not None:
            rows += 2 * contexts
            waiting += [(half, 2 * contexts) for half in part.halves]
    return rows


def _of(groups: Groups, point: Tensors, i: int) -> Groups:
    """The features of one example."""
    part = copy(groups)
    part.point, part.ids = point, groups.ids.map(lambda t: t if len(t) == 1 else t[i : i + 1])
    return part


def _places(groups: Groups) -> list[Tensor]:
    """Where features lie, (M, axes), for all examples or one for each: the tensor, then by position, channels last."""
    widest = max(t.ndim for t in groups.point)
    examples = max(ids.shape[0] for ids in groups.ids)
    found = []
    for i in range(examples):
        numbers = groups.count + groups.kept  # those that are kept come last
        total, counts = torch.zeros(numbers, widest + 1, dtype=torch.float64), torch.zeros(numbers)
        for number, ids in enumerate(groups.ids):
            flat = ids[i % ids.shape[0]].cpu()
            axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in flat.shape], indexing="ij")
            # Channels stand in front, and are taken apart when nothing else is left.
            axes = (*axes[1:], axes[0]) if len(axes) > 1 else axes
            place = torch.zeros(flat.numel(), widest + 1, dtype=torch.float64)
            place[:, 0] = number
            for axis, where in enumerate(axes):
                place[:, widest if axis == len(axes) - 1 > 0 else axis + 1] = where.flatten()
            total.index_add_(0, flat.flatten(), place)
            counts.index_add_(0, flat.flatten(), torch.ones(flat.numel()))
        found.append((total / counts.clamp_min(1)[:, None])[: groups.count])
    return found


def _halves(place: Tensor, features: list[int]) -> Tree:
    """Take features apart by the tensor they are in, then halve the longest side."""
    if len(features) == 1:
        return Tree(features)
    where = place[features]
    low, high = where.amin(0), where.amax(0)
    sides = high - low
    inner = sides[1:-1]
    axis = 0 if sides[0] > 0 else int(inner.argmax()) + 1 if (inner > 0).any() else len(sides) - 1
    first = where[:, axis] < (low[axis] + high[axis]) / 2
    if not first.any():  # all lie at the same place
        first[: len(first) // 2] = True
    one, other = ([f for f, yes in zip(features, first.tolist(), strict=True) if yes is side] for side in (True, False))
    return Tree.join(_halves(place, one), _halves(place, other))


def _from_linkage(linkage: Tensor, m: int) -> Tree:
    """The hierarchy that SciPy's matrix (M - 1, at least 2) tells of."""
    if linkage.ndim != 2 or len(linkage) != m - 1 or linkage.shape[1] < 2:
        raise TorchwhyError(
            f"partition of shape {tuple(linkage.shape)} is no linkage matrix of {m} features: expected ({m - 1}, 4)"
        )
    trees = {i: Tree([i]) for i in range(m)}
    for step, (a, b) in enumerate(linkage[:, :2].tolist()):
        if a == b or a not in trees or b not in trees:
            raise TorchwhyError(
                f"step {step} of the partition joins {a:g} and {b:g}: each feature or earlier step is joined once"
            )
        trees[m + step] = Tree.join(trees.pop(int(a)), trees.pop(int(b)))
    (tree,) = trees.values()
    return tree
