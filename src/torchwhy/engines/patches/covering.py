"""The scores of a game with one window covered at a time, on the part of every map that the window can reach."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from torchwhy.core.behind import is_watched, same_numbers
from torchwhy.core.dispatch import Dispatch
from torchwhy.core.guard import module_of
from torchwhy.core.tensors import Tensors
from torchwhy.engines.game import Game, Windows
from torchwhy.engines.patches.span import Span
from torchwhy.engines.patches.tensor import Clean, Maps, Patch, Unfit

# Below so many floating-point operations per row, or so many windows, what is spared is less than what is added.
LEAST_WORK, LEAST_WINDOWS = 3e7, 16
# The part of the work that may be left for patches to be worth while.
WORTH = 0.8
# Rows per pass: so that the largest values of a pass take about so many bytes, and no more than so many rows.
ROOM, ROWS = 8 * 2**20, 64

_ASKING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}


def covered(game: Game) -> Tensor | None:
    """Scores (T, M, B) of all targets with one window covered at a time; None where whole passes are needed.

    Whether the model can take patches is found out on a few windows, whose scores must be those of whole passes.
    """
    if not _fits(game):
        return None
    found = None
    with suppress(Exception):  # whatever a model cannot do with patches, it can without
        found = _Covering(game).scores()
    if found is None:
        game.recomputed = 1.0
    return found


def _fits(game: Game) -> bool:
    p, windows = game.p, game.features
    if not isinstance(windows, Windows) or len(p.point) != 1 or game.draws != 1 or game.max_evals is not None:
        return False
    t = p.point.parts[0]
    if t.ndim != 4 or not t.is_floating_point() or t.device.type != "cpu" or windows.count < LEAST_WINDOWS:
        return False
    return not is_watched() and not any(map(_is_opaque, _modules(p.model)))


def _modules(model: Any) -> list[Any]:
    root = module_of(model)
    return [model] if root is None else list(root.modules())


def _is_opaque(module: Any) -> bool:
    """Whether hooks would meet patches, or compiled code."""
    if isinstance(module, torch.jit.ScriptModule | torch.jit.ScriptFunction) or hasattr(module, "_orig_mod"):
        return True
    return bool(getattr(module, "_forward_hooks", None) or getattr(module, "_forward_pre_hooks", None))


class _Covering:
    """One evaluation of all windows."""

    def __init__(self, game: Game) -> None:
        self.game, self.p = game, game.p
        self.x = self.p.point.parts[0]
        self.maps = self.x.split(1)
        assert isinstance(game.features, Windows)
        self.boxes = [box for _, box in game.features.boxes]
        self.count = len(self.boxes)

    def scores(self) -> Tensor | None:
        p, parts = self.p, []
        p.prepare(self.count, gradients=False)
        with p.progress.task("covering windows", self.count * p.size) as advance:
            for example in range(p.size):
                found = self._example(example, advance)
                if found is None:
                    return None
                parts.append(found)
        return torch.stack(parts, 2)

    def _example(self, example: int, advance: Any) -> Tensor | None:
        """(T, M) of one example; None where patches are not worth while, or not right."""
        work, some = Clean(), self._some(example)
        whole = self._whole(example, some)
        with _Watch() as watch:
            known = self.p.every_row_score(whole, self._rows(example, some))
        if watch.asked or watch.work < LEAST_WORK * len(some):
            return None
        found = self._pass(example, some, work)
        if work.made:
            raise Unfit("the model keeps what it has computed")
        self.game.recomputed = 1 - work.saved / watch.work
        if self.game.recomputed > WORTH or not same_numbers(known, found):
            return None
        parts = []
        most = self.p.batch_size or max(1, min(ROWS, ROOM // work.largest))
        rows = -(-self.count // -(-self.count // most))  # as few passes, all of about one size
        for start in range(0, self.count, rows):
            ks = list(range(start, min(self.count, start + rows)))
            parts.append(self._pass(example, ks, work))
            advance(len(ks))
        self.game.evaluations += self.count
        return torch.cat(parts, 1)

    def _some(self, example: int) -> list[int]:
        """The windows that are looked at first: the one that can reach most, and for one example both ends."""

        def away(k: int) -> int:
            _, *box = self.boxes[k]
            return sum(abs(s.start + s.stop - full) for s, full in zip(box, self.x.shape[2:], strict=True))

        centre = min(range(self.count), key=away)
        return [centre] if example else [0, centre, self.count - 1]

    def _pass(self, example: int, ks: list[int], work: Clean) -> Tensor:
        """Scores (T, N) of one example with each of some windows covered."""
        work.begin()
        clean = self.maps[example]
        covers = self._covers(example, ks)
        spans = []
        for dim in (1, 2):
            first, stop = ([getattr(self.boxes[k][dim], end) for k in ks] for end in ("start", "stop"))
            spans.append(Span.holding(first, stop, clean.shape[dim + 1]))
        y, x = spans
        pieces = clean.new_empty(len(ks), clean.shape[1], y.length, x.length)
        for piece, cover, k, top, left in zip(pieces, covers, ks, y.starts, x.starts, strict=True):
            piece.copy_(clean[0, :, top : top + y.length, left : left + x.length])
            channels, rows, columns = self.boxes[k]
            inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
            piece[(channels, *inside)] = cover[self.boxes[k]]
        maps = Patch(Maps.patched(work, pieces, clean, (y, x)))
        return self.p.every_row_score(Tensors([maps]), self._rows(example, ks))

    def _whole(self, example: int, ks: list[int]) -> Tensors:
        """Whole inputs of one example with each of some windows covered."""
        z = self.x[example].repeat(len(ks), 1, 1, 1)
        for row, cover, k in zip(z, self._covers(example, ks), ks, strict=True):
            row[self.boxes[k]] = cover[self.boxes[k]]
        return Tensors([z])

    def _rows(self, example: int, ks: list[int]) -> Tensor:
        return torch.full((len(ks),), example)

    def _covers(self, example: int, ks: list[int]) -> Tensor:
        """What every row gets in place of its window, (N, C, H, W)."""
        present = torch.ones(len(ks), self.count, dtype=torch.bool)
        present[torch.arange(len(ks)), torch.tensor(ks)] = False
        es, number = slice(example, example + 1), torch.zeros(len(ks), dtype=torch.long)
        absent = self.game.bound.at(es, present, number).parts[0]
        return absent[:, 0].expand(len(ks), *self.x.shape[1:])


class _Watch(Dispatch):
    """Looks at a pass.

    Attributes:
        work: floating-point operations of its products.
        asked: it draws random numbers, or its way depends on numbers, which are those of all rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work, self.asked = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = flop_registry.get(func._overloadpacket)
        if known is not None:
            self.work += known(*args, **(kwargs or {}), out_val=out)
        self.asked |= func in _ASKING or torch.Tag.nondeterministic_seeded in func.tags
        return out
