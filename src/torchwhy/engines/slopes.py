"""How the score changes with the presence of features, to first order."""

from __future__ import annotations

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game, Groups

PRICE = 3  # evaluations that a gradient counts as
SHARE = 4  # times fewer rows are in a pass that keeps what gradients need


def slopes(groups: Groups, game: Game, rows: Tensor) -> Tensor | None:
    r"""The derivatives of the score by the presence of each feature, where some are present.

    .. math:: g_i(S) = \sum_{e \in i} \frac{\partial f}{\partial z_e}(z_S)\,(x_e - x'_e)

    Args:
        groups: the features.
        game: that they play, with one draw of what absent features get.
        rows: of present features (K, M).

    Returns:
        (K, M, B), in double precision; each counts as three evaluations. None where there is no derivative, to find
        which out costs one.
    """
    p = game.p
    if game.draws > 1 or not all(t.is_floating_point() for t in p.point):
        return None
    key = ("slopes", groups.key(), rows.numpy().tobytes(), p.number)
    known = {} if p.memories is None else p.memories
    if key not in known:
        try:
            first = _at(groups, game, rows[:1])
        except (TorchwhyError, RuntimeError):  # of many kinds, from the model or the memory
            game.evaluations += 1
            return None
        step = max(1, p.rows_per_pass(gradients=False) // (SHARE * p.size))
        known[key] = torch.cat([first, *(_at(groups, game, some) for some in rows[1:].split(step))])
    game.evaluations += PRICE * len(rows)
    found: Tensor = known[key]
    return found if found.isfinite().all() else None


def _at(groups: Groups, game: Game, rows: Tensor) -> Tensor:
    """The same at rows that fit into a pass."""
    p = game.p
    out = torch.zeros(len(rows), groups.count, p.size, dtype=torch.float64)

    def absent(es: slice, ks: slice) -> Tensors:
        return game.bound.at(es, rows[ks].to(p.point.device), torch.zeros(ks.stop - ks.start, dtype=torch.long))

    def points(es: slice, ks: slice) -> Tensors:
        return game.filled(es, rows[ks].to(p.point.device), absent(es, ks))

    for part in p.sweep(points, len(rows), gradients=True, what="differentiating"):
        assert part.gradients is not None
        es, ks = part.examples, part.ks
        moved = part.gradients * (p.point[es] - absent(es, ks))
        out[ks, :, es] = groups.totals(moved, es).movedim(1, 2)
    return out
