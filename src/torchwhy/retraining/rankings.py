"""In which order positions are removed, and what the data are without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.explanation import digest
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import Baseline, Fill, as_fill
from torchwhy.engines.game import Groups
from torchwhy.engines.noise import draws
from torchwhy.methods import Method
from torchwhy.metrics.controls import CONTROLS
from torchwhy.metrics.removal import Places, check_positions, places, totals
from torchwhy.registry import lookup

Explainer: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]
MethodLike: TypeAlias = str | type[Method] | Method | Explainer
Methods: TypeAlias = Sequence[MethodLike] | Mapping[str, MethodLike]

STREAM = 98  # of random numbers, with the next one
RIVALS = ("input", "edges")
AT_ONCE = 256  # examples that are explained, or changed, at a time
BACKGROUND = 16  # rows for methods that compare with a set


@dataclass(frozen=True)
class Ranking:
    """Values whose order is that of removal, the largest first.

    Attributes:
        name: for people.
        told: what it is, all that decides its numbers.
        explain: gives values (B, ...) for a network, inputs and classes; None is for values that are all the same,
            which are removed in an order drawn at random.
    """

    name: str
    told: str
    explain: Explainer | None = None

    @property
    def traced(self) -> str:
        """What it is where nothing but its traces is shown."""
        return f"{self.told}, its traces"

    def reversed(self) -> Ranking:
        """The smallest first."""
        explain = self.explain
        assert explain is not None
        return Ranking(f"{self.name}, reversed", f"{self.told}, reversed", lambda m, x, target: -explain(m, x, target))


def of_controls(names: Sequence[str], images: bool) -> list[Ranking]:
    """What knows nothing of the network: a random order always, and what is asked for."""
    found = [Ranking("random", "control: random")]
    for name in names:
        if name not in RIVALS:
            raise TorchwhyError(f"there is no control {name!r}{closest(name, RIVALS)}; 'random' is always there")
        if name == "edges" and not images:  # these are as the size of the input
            continue
        found.append(Ranking(name, f"control: {name}", _control(name)))
    return found


def _control(name: str) -> Explainer:
    def explain(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        point = Tensors([x])
        return CONTROLS[name](point, point)[0].parts[0]

    return explain


def of_methods(given: Methods, background: Tensor, baselines: Any) -> list[Ranking]:
    """Methods as rankings.

    Args:
        given: names, classes, methods whose model is replaced, or functions of a network, inputs and classes; a dict
            names them.
        background: rows for methods that compare with a set.
        baselines: for those that compare with one value.
    """
    if isinstance(given, str | type | Method) or not isinstance(given, Mapping | Sequence):
        raise TorchwhyError(f"methods are a tuple, such as methods=('IntegratedGradients',), not {given!r}")
    named = given.items() if isinstance(given, Mapping) else [(None, one) for one in given]
    found = [_method(name, one, background, baselines) for name, one in named]
    if not found:
        raise TorchwhyError("name at least one method")
    return found


def check_names(rankings: Sequence[Ranking]) -> None:
    """Raise where two are called the same."""
    names = [r.name for r in rankings]
    if twice := [name for name in names if names.count(name) > 1]:
        raise TorchwhyError(
            f"two rankings are called {twice[0]!r}: give methods=, with a name of its own for each, as a dict"
        )


def _method(name: str | None, given: MethodLike, background: Tensor, baselines: Any) -> Ranking:
    cls = lookup(given) if isinstance(given, str) else type(given) if isinstance(given, Method) else given
    if not (isinstance(cls, type) and issubclass(cls, Method) and hasattr(cls, "info")):
        if isinstance(cls, type) or not callable(given):
            raise TorchwhyError(
                f"a method is a name, a class or an object of torchwhy.Method, or a function of a network, inputs and "
                f"classes, not {given!r}"
            )
        explainer: Explainer = cls
        label = name or str(getattr(given, "__name__", type(given).__name__))
        # One function makes many of the same name, which only their labels tell apart.
        return Ranking(label, f"function {getattr(given, '__qualname__', '')} as {label!r}", explainer)
    if not cls.info.standalone:
        raise TorchwhyError(
            f"{cls.__name__} goes around another method, made for one network: give a function that makes both, such "
            f"as lambda model, x, target: {cls.__name__}(...).attribute(x, target=target)"
        )
    if cls.info.form == "pairs":
        raise TorchwhyError(f"{cls.__name__} gives values for pairs of features, which are not removed one by one")
    options: dict[str, Any] = {"progress": False}
    known = {f.name for f in dataclasses.fields(cls)}
    if "upsample" in known and getattr(given, "upsample", None) is None:
        options["upsample"] = "bilinear"  # pixels are removed, not places of the layer
    compares = {"none": None, "one": baselines, "set": background}[cls.info.baselines]

    def explain(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        method = given.with_options(model=model, **options) if isinstance(given, Method) else cls(model, **options)
        values = method.attribute(x, compares, target)
        if not isinstance(values, Tensor):
            raise TorchwhyError(f"{cls.__name__} gives {type(values).__name__}s of values; expected one for the inputs")
        return values

    changed = _changed(given) if isinstance(given, Method) else {}
    written = ", ".join(f"{key}={value!r}" for key, value in changed.items())
    told = f"{cls.__name__}({written})" if changed else cls.__name__
    return Ranking(name or told, f"{told} {digest((compares,)).hex()[:16]}", explain)


def _changed(method: Method) -> dict[str, Any]:
    """Options that are not the defaults."""
    fields = [f for f in dataclasses.fields(method) if f.name not in ("model", "batch_size", "progress")]
    values = {f.name: (getattr(method, f.name), f.default) for f in fields if f.init}
    return {name: value for name, (value, default) in values.items() if repr(value) != repr(default)}


def ranks(values: Tensor, generator: torch.Generator) -> Tensor:
    """The place of each of (N, M) values in its row, 0 for the largest.

    Equal ones take turns at random in each row by itself: an order that all rows share would remove the same positions
    from all examples.
    """
    turns = torch.rand(values.shape, generator=generator).argsort(1).to(values.device)
    order = turns.gather(1, values.gather(1, turns).argsort(dim=1, descending=True, stable=True))
    return order.argsort(1)


@dataclass(frozen=True)
class Eraser:
    """Removes positions from examples.

    Attributes:
        positions: what is removed at once, see `torchwhy.metrics.removal.places`, or a feature mask.
        fill: what takes its place.
        base: what that is made of, like the examples but for a dimension of size 1 where it does not matter.
        named: what takes its place, as it was asked for.
        keep: what would be removed is kept instead, and all else removed.
        absolute: order by the size of values.
    """

    positions: str | int | Tensor
    fill: Fill
    base: Any
    named: str
    keep: bool = False
    absolute: bool = False

    def told(self) -> dict[str, Any]:
        """All that decides what the data are without something."""
        positions = digest((self.positions,)).hex() if isinstance(self.positions, Tensor) else self.positions
        return {"fill": self.named, "positions": positions, "keep": self.keep, "absolute": self.absolute}

    def groups(self, x: Tensor) -> Groups:
        """The positions of some examples."""
        point = Tensors([x])
        if not isinstance(self.positions, Tensor):
            return places(point, self.positions)
        found = Groups(point, self.positions)
        if found.ids.parts[0].shape[0] > 1:
            raise TorchwhyError("a feature mask for retraining is the same for all examples: (1, ...) or less")
        return found

    def order(
        self, ranking: Ranking, model: nn.Module, x: Tensor, target: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The rank (N, M) of each position of each example."""
        groups = self.groups(x[:1])
        if ranking.explain is None:
            return ranks(x.new_zeros(len(x), groups.count), generator)
        found = []
        for part in _parts(len(x)):
            values = ranking.explain(model, x[part], target[part])
            _check_values(ranking.name, values, x[part])
            found.append(totals(Tensors([values.detach().to(x.device)]), groups))
        values = torch.cat(found)
        return ranks(values.abs() if self.absolute else values, generator)

    def without(self, x: Tensor, rank: Tensor, count: int) -> Tensor:
        """Examples without their first so many positions, or with these alone."""
        return torch.cat([self._without(x[part], rank[part], count) for part in _parts(len(x))])

    def traces(self, x: Tensor, rank: Tensor, count: int) -> Tensor:
        """What `without` leaves to see of examples whose values are all unknown: 1 where something is removed."""

        def each(x: Tensor, rank: Tensor) -> Tensor:
            ranked, present = self._ranked(x, rank, count)
            return (~ranked.mask(present).parts[0][0]).to(x)

        return torch.cat([each(x[part], rank[part]) for part in _parts(len(x))])

    def _without(self, x: Tensor, rank: Tensor, count: int) -> Tensor:
        ranked, present = self._ranked(x, rank, count)
        bound = self.fill.bind(Problem(nn.Identity(), ranked.point, baselines=self.base), ranked.mask)
        if bound.draws > 1:
            raise TorchwhyError("data for retraining are filled once: give a fill of one draw, such as n_draws=1")
        absent = bound.at(slice(0, len(x)), present, torch.zeros(1, dtype=torch.long)).parts[0][0]
        return torch.where(ranked.mask(present).parts[0][0], x, absent)

    def _ranked(self, x: Tensor, rank: Tensor, count: int) -> tuple[Places, Tensor]:
        """The ranks as features, and which of them are present, (1, M)."""
        groups = self.groups(x[:1])
        numbers = torch.cat([rank, torch.full_like(rank[:, :1], groups.count)], 1)  # what no position has is kept
        rows = torch.arange(len(x), device=x.device).view(-1, *[1] * (x.ndim - 1))
        ids = numbers[rows, groups.ids.parts[0]]
        first = torch.arange(groups.count, device=x.device)[None] < count
        ranked = Places(Tensors([x]), Tensors([ids]), [(groups.count,)], kept=groups.kept)
        return ranked, first if self.keep else ~first


def eraser(
    x: Tensor, positions: str | int | Tensor, fill: Any, baselines: Any, *, keep: bool, absolute: bool
) -> Eraser:
    """With what stands for absent made of the training inputs."""
    if not isinstance(positions, Tensor):
        check_positions(positions)
        if positions == "superpixels":
            raise TorchwhyError("superpixels are others for every image: give positions that all examples share")
    base, named = baselines, _named(fill, baselines)
    if fill == "mean" if isinstance(fill, str) else isinstance(fill, Tensor | int | float):
        base, fill = channel_means(x) if isinstance(fill, str) else fill, Baseline()
    return Eraser(positions, as_fill(fill), base, named, keep, absolute)


def _named(fill: Any, baselines: Any) -> str:
    """What takes the place of what is removed, and is the same only where that is."""
    if isinstance(fill, Fill):
        return f"{type(fill).__name__} {digest((tuple(vars(fill).values()), baselines)).hex()}"
    return "mean" if isinstance(fill, str) and fill == "mean" else digest((fill, baselines)).hex()


def channel_means(x: Tensor) -> Tensor:
    """The mean of each channel over all examples and places, (1, C, 1, ...); of vectors, that of each column.

    >>> channel_means(torch.arange(8.0).view(2, 2, 2)).flatten()
    tensor([2.5000, 4.5000])
    """
    return x.double().mean((0, *range(2, x.ndim)), keepdim=True).to(x)


def background(x: Tensor, seed: int) -> Tensor:
    """Some training inputs, drawn by the seed."""
    return x[torch.randperm(len(x), generator=draws(seed, STREAM))[:BACKGROUND].to(x.device)]


def _parts(count: int) -> Iterator[slice]:
    return (slice(k, min(count, k + AT_ONCE)) for k in range(0, count, AT_ONCE))


def _check_values(name: str, values: Any, x: Tensor) -> None:
    """Raise unless there is a value for every element, or one for several."""
    if not isinstance(values, Tensor):
        raise TorchwhyError(f"{name} gives {type(values).__name__}; expected a tensor of values like the inputs")
    fits = values.ndim == x.ndim and all(v in (1, n) for v, n in zip(values.shape[1:], x.shape[1:], strict=True))
    if not fits or len(values) != len(x):
        raise TorchwhyError(
            f"{name} gives values of shape {tuple(values.shape)}; expected the shape of the inputs, {tuple(x.shape)}, "
            f"or 1 where one value stands for all"
        )
    if not values.isfinite().all():
        raise TorchwhyError(f"{name} gives values that are not finite, which have no order")
