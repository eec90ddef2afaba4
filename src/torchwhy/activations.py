"""What layers and units hold: look at it, change it, find the examples that bring it about."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import Arguments, as_arguments, call, module_of, untouched
from torchwhy.core.inputs import check_inputs
from torchwhy.core.options import at_least
from torchwhy.core.problem import Problem
from torchwhy.core.progress import Progress
from torchwhy.core.site import Site, Sites, Stop, Tap, find_place, find_site, tap
from torchwhy.core.target import as_tensor, indices, main_part
from torchwhy.core.tensors import TensorOrTensors, Tensors, as_tensors
from torchwhy.engines.noise import draws

Layer: TypeAlias = str | nn.Module | Site
Change: TypeAlias = float | Tensor | Callable[[Tensor], Tensor]

BATCH = 256  # examples that go through a model together
PROBES = 16  # noisy inputs at which a receptive field is looked for


def capture(
    model: Any,
    inputs: TensorOrTensors,
    layers: Layer | Sequence[Layer],
    *,
    additional_forward_args: Any = None,
    batch_size: int = BATCH,
    progress: bool | None = None,
) -> dict[str, TensorOrTensors]:
    """What layers hold for the inputs, by name, all in one pass.

    Args:
        model: a module or function.
        inputs: (N, ...) or a tuple of such.
        layers: names, modules or sites.
        additional_forward_args: further arguments of the model; tensors with N rows belong to the examples.
        batch_size: examples that go through the model together.
        progress: show a progress bar; None does on a terminal.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> {name: tuple(t.shape) for name, t in capture(model, torch.ones(5, 3), ["0", "1"]).items()}
    {'0': (5, 4), '1': (5, 4)}
    """
    place = find_place(model, list(layers) if isinstance(layers, list | tuple) else [layers])
    assert isinstance(place, Sites)
    names = [str(site) for site in place.sites]
    for name, site in zip(names, place.sites, strict=True):
        if site.unit is not None:
            raise TorchwhyError(f"{site!r}: what a layer holds is captured whole; take its units from the result")
        if names.count(name) > 1:
            raise TorchwhyError(f"two of the layers are called {name!r} in the result: capture one at a time")
    pieces: list[list[Tensors]] = [[] for _ in place.sites]
    tuples = [False] * len(pieces)
    for args, extra in _batches(model, inputs, additional_forward_args, batch_size, "capturing", progress):
        # A whole pass shows that every layer runs as often as its site says; from then on, the end is not needed.
        with tap(model, place, stop=bool(pieces[0])) as seen, suppress(Stop):
            call(model, args.map(torch.clone), extra)
        for number, one in enumerate(seen.taps):
            assert one.held is not None
            pieces[number].append(one.held)
            tuples[number] |= one.was_tuple
    return {
        name: Tensors.cat(found).unwrap(was_tuple) for name, found, was_tuple in zip(names, pieces, tuples, strict=True)
    }


class Patched(nn.Module):
    """A model in which some layers hold something else; the model itself stays as it is.

    Args:
        model: a module.
        changes: for each layer, or unit of one, what it holds instead: a number, a tensor that broadcasts to it, such
            as what `capture` found for another input, or a function of what it holds. A dict, or pairs (a `Site` with a
            slice is no key of a dict before Python 3.12).

    It can be trained, evaluated and explained like any module.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> cut = Patched(model, {"1": 0.0})
    >>> torch.equal(cut(torch.ones(1, 3)), model[2].bias[None])
    True
    """

    def __init__(self, model: nn.Module, changes: Mapping[Layer, Change] | Sequence[tuple[Layer, Change]]) -> None:
        super().__init__()
        if module_of(model) is None:
            raise TorchwhyError(f"only a module has layers to change, not {type(model).__name__}")
        self.model = model
        self._edits = [(site, _edit(site, change)) for site, change in _found(model, changes)]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output with the layers changed."""
        with ExitStack() as stack:
            for site, edit in self._edits:
                stack.enter_context(Tap(self.model, site, edit))
            return self.model(*args, **kwargs)


def _found(
    model: Any, changes: Mapping[Layer, Change] | Sequence[tuple[Layer, Change]]
) -> Iterator[tuple[Site, Change]]:
    if not changes:
        raise TorchwhyError("there is nothing to change: name at least one layer")
    for layer, change in changes.items() if isinstance(changes, Mapping) else changes:
        yield find_site(model, layer), change


def _index(site: Site) -> tuple[Any, ...]:
    """Of the site's unit behind the batch dimension; of all that it holds, nothing."""
    return site.unit if isinstance(site.unit, tuple) else () if site.unit is None else (site.unit,)


def _edit(site: Site, change: Change) -> Callable[[Tensors], Tensors]:
    """From what a site holds to what it shall hold."""
    if callable(site.unit):
        raise TorchwhyError(f"{site!r}: a unit to change is an index behind the batch dimension")
    index = _index(site)

    def one(held: Tensor) -> Tensor:
        out = held.clone()
        try:
            part = out[(slice(None), *index)]
            out[(slice(None), *index)] = change(part) if callable(change) else torch.as_tensor(change).to(out)
        except (IndexError, RuntimeError) as error:
            raise TorchwhyError(
                f"{site!r} holds {tuple(held.shape[1:])} per example, which cannot be changed so: {error}"
            ) from error
        return out

    return lambda held: held.map(one)


@dataclass(frozen=True)
class AblationEffect:
    """What a model loses without a layer or unit.

    Attributes:
        site: what was ablated.
        accuracy: with it and without.
        by_class: (C,) change of the accuracy on the examples of each class, NaN for a class without examples.
        changed: (N,) the decision is another.
        labels: (N,) of the examples.
    """

    site: Site
    accuracy: tuple[float, float]
    by_class: Tensor
    changed: Tensor
    labels: Tensor

    @property
    def accuracy_change(self) -> float:
        """Below 0 where the model is worse without."""
        return self.accuracy[1] - self.accuracy[0]

    def __str__(self) -> str:
        known = [(c, v) for c, v in enumerate(self.by_class.tolist()) if not math.isnan(v)]
        worst = min(known, key=lambda item: item[1])
        return (
            f"without {self.site}: accuracy {self.accuracy[0]:.1%} -> {self.accuracy[1]:.1%}, "
            f"most for class {worst[0]} ({worst[1]:+.1%}); {self.changed.double().mean():.1%} of decisions change"
        )


def ablation_effects(
    model: nn.Module,
    inputs: TensorOrTensors,
    labels: Tensor | Sequence[int],
    sites: Layer | Iterable[Layer],
    *,
    value: float | Literal["mean"] = 0.0,
    additional_forward_args: Any = None,
    batch_size: int = BATCH,
    progress: bool | None = None,
) -> list[AblationEffect]:
    """How the accuracy changes, overall and for each class, when a layer, channel or unit holds a fixed value.

    Args:
        model: a module that gives (N, C) outputs.
        inputs: (N, ...) or a tuple of such.
        labels: (N,) the true classes.
        sites: each ablated by itself, such as ``[Site("conv1", unit=c) for c in range(16)]``.
        value: what takes its place: a number, or "mean", the mean of each element over the inputs.
        additional_forward_args: further arguments of the model; tensors with N rows belong to the examples.
        batch_size: examples that go through the model together.
        progress: show a progress bar; None does on a terminal.
    """
    if value != "mean" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TorchwhyError(f"value is a number or 'mean', not {value!r}")
    sites = [sites] if isinstance(sites, str | nn.Module | Site) else list(sites)
    if not sites:
        raise TorchwhyError("sites names nothing to ablate: give at least one layer or unit")

    def decisions(some: Any) -> tuple[Tensor, int]:
        found = []
        for args, extra in _batches(some, inputs, additional_forward_args, batch_size, "", progress=False):
            output = as_tensor(main_part(call(some, args.map(torch.clone), extra)))
            if output.ndim != 2:
                raise TorchwhyError(f"an output of shape {tuple(output.shape)} names no class for each example")
            found.append(output)
        scores = torch.cat(found)
        return scores.argmax(1), scores.shape[1]

    with Progress(progress).task("ablating", len(sites) + 1) as advance:
        before, classes = decisions(model)
        truth = indices(labels, before.new_zeros(len(before), classes), len(before))[:, 0]
        advance(1)
        effects = []
        for site in (find_site(model, s) for s in sites):
            fill: Change = value if value != "mean" else _mean(model, inputs, site, additional_forward_args, batch_size)
            after, _ = decisions(Patched(model, [(site, fill)]))
            right = torch.stack([before == truth, after == truth]).double()
            by_class = torch.stack([right[:, truth == c].mean(1) for c in range(classes)], 1)
            was, now = right.mean(1).tolist()
            effects.append(AblationEffect(site, (was, now), by_class[1] - by_class[0], before != after, truth))
            advance(1)
    return effects


def _mean(model: Any, inputs: TensorOrTensors, site: Site, extra: Any, batch_size: int) -> Tensor:
    """The mean over the examples of what a site, or its unit, holds."""
    whole = replace(site, unit=None)
    (held,) = capture(model, inputs, [whole], additional_forward_args=extra, batch_size=batch_size).values()
    if not isinstance(held, Tensor):
        raise TorchwhyError(f"{site!r} holds several tensors, which have no one mean: give a number")
    index = _index(site)
    return held.mean(0, keepdim=True)[(slice(None), *index)]


@dataclass(frozen=True)
class Activating:
    """The examples that activate a unit most, in order.

    Attributes:
        index: (k,) of the examples.
        value: (k,) of the unit, at its largest where it is a map.
        position: (k, dimensions) where on the map that is; (k, 0) for a single unit.
        crops: of each example, what of the input the unit sees there, without a batch dimension; as large as the
            input where the unit sees all of it.
        boxes: (k, dimensions, 2) where in the input each crop begins and ends, for the dimensions behind the channels.
    """

    index: Tensor
    value: Tensor
    position: Tensor
    crops: tuple[Tensor, ...]
    boxes: Tensor


def most_activating(
    model: Any,
    inputs: Tensor,
    unit: Site,
    k: int = 9,
    *,
    additional_forward_args: Any = None,
    batch_size: int = BATCH,
    seed: int = 0,
    progress: bool | None = None,
) -> Activating:
    """The ``k`` examples of a data set that activate a unit or channel most, and what of them it sees.

    What a unit sees is the box around all elements of the input with a gradient, at the example or at noise. That is no
    more than its receptive field, and less where behind a maximum or a ReLU some elements have none in any of these.

    Args:
        model: a module or function.
        inputs: (N, C, ...).
        unit: such as ``Site("conv2", unit=5)``; of a channel's map, the largest value counts.
        k: examples.
        additional_forward_args: further arguments of the model; tensors with N rows belong to the examples.
        batch_size: examples that go through the model together.
        seed: of the noise.
        progress: show a progress bar; None does on a terminal.
    """
    at_least("k", k, 1)
    index = (unit.unit if isinstance(unit.unit, tuple) else (unit.unit,)) if isinstance(unit, Site) else ()
    if not index or not all(isinstance(i, int) for i in index):
        raise TorchwhyError(f"a unit or channel is named by whole numbers, such as Site('conv2', unit=5), not {unit!r}")
    if unit.call == "all":
        raise TorchwhyError(f"{unit!r}: a unit is found in one call of its layer: choose it, such as call=0")
    if not isinstance(inputs, Tensor):
        raise TorchwhyError(f"examples are one tensor (N, C, ...), not {type(inputs).__name__}")
    layer = replace(unit, unit=None)
    best: list[Tensor] = []
    places: list[Tensor] = []
    arguments = additional_forward_args
    for args, extra in _batches(model, inputs, arguments, batch_size, "looking for examples", progress):
        place = find_site(model, layer)
        with tap(model, place, stop=bool(best)) as seen, suppress(Stop):
            call(model, args.map(torch.clone), extra)
        assert seen.held is not None
        try:
            held = seen.held.parts[0][(slice(None), *index)]
        except IndexError as error:
            raise TorchwhyError(f"{unit!r}: no such unit in {tuple(seen.held.parts[0].shape[1:])}") from error
        value, where = held.flatten(1).max(1) if held.ndim > 1 else (held, torch.zeros_like(held, dtype=torch.long))
        best.append(value)
        places.append(where)
    values, order = torch.cat(best).topk(min(k, len(inputs)))
    flat = torch.cat(places)[order]
    shape = held.shape[1:]
    position = torch.stack(torch.unravel_index(flat, shape), 1) if shape else flat.new_zeros(len(flat), 0)
    found = [
        _seen(model, inputs[i : i + 1], layer, index, tuple(p), arguments, i, len(inputs), seed)
        for i, p in zip(order.tolist(), position.tolist(), strict=True)
    ]
    crops = tuple(
        inputs[(i, slice(None), *(slice(a, b) for a, b in box))] if box else inputs[i]
        for i, box in zip(order.tolist(), found, strict=True)
    )
    return Activating(order, values, position, crops, torch.tensor(found).reshape(len(found), -1, 2))


def _seen(
    model: Any,
    example: Tensor,
    layer: Site,
    index: tuple[Any, ...],
    position: tuple[int, ...],
    extra: Any,
    number: int,
    count: int,
    seed: int,
) -> list[tuple[int, int]]:
    """The box of the input that moves a unit, in every dimension behind the channels."""
    arguments = _rows(as_arguments(extra), slice(number, number + 1), count)
    generators = [draws(seed, 70, n) for n in range(PROBES)]
    probes = [torch.randn(example.shape, generator=g, dtype=torch.float64).to(example) for g in generators]
    target = replace(layer, unit=(*index, *position))
    with untouched(model, example.device):
        here = Problem(model, Tensors([example]), extra=arguments, target=target)
        slopes = here.moved(Tensors([torch.cat([example, *probes])]), 1 + PROBES).at_point()[1]
    moves = (slopes.parts[0] != 0).any(0, keepdim=True)
    box = []
    for d in range(2, example.ndim):
        rest = [r for r in range(example.ndim) if r != d]
        there = moves.movedim(d, 0).flatten(1).any(1).nonzero().flatten() if rest else moves.nonzero().flatten()
        box.append((int(there[0]), int(there[-1]) + 1) if len(there) else (0, example.shape[d]))
    return box


@dataclass(frozen=True)
class Neighbours:
    """For each example the most similar ones of a set, the closest first.

    Attributes:
        index: (B, k) in the set.
        similarity: (B, k) cosines, or minus Euclidean distances.
        layer: where they were compared.
    """

    index: Tensor
    similarity: Tensor
    layer: Site


def neighbours(
    model: Any,
    inputs: TensorOrTensors,
    examples: TensorOrTensors,
    k: int = 5,
    *,
    layer: Layer | None = None,
    metric: Literal["cosine", "euclidean"] = "cosine",
    batch_size: int = BATCH,
    progress: bool | None = None,
) -> Neighbours:
    """The examples, such as those a model was trained on, that it holds for most similar to the inputs.

    Args:
        model: a module.
        inputs: (B, ...) or a tuple of such.
        examples: (N, ...), the set.
        k: neighbours of each.
        layer: where to compare; None is the input of the last linear layer that runs.
        metric: "cosine" or "euclidean".
        batch_size: examples that go through the model together.
        progress: show a progress bar; None does on a terminal.

    Paper: N. Papernot, P. McDaniel, "Deep k-Nearest Neighbors", 2018, arXiv:1803.04765.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> neighbours(model, torch.eye(4)[:1], torch.eye(4), k=1).index
    tensor([[0]])
    """
    at_least("k", k, 1)
    if metric not in ("cosine", "euclidean"):
        raise TorchwhyError(f"metric is 'cosine' or 'euclidean', not {metric!r}")
    site = penultimate(model, inputs) if layer is None else find_site(model, layer)

    def vectors(some: TensorOrTensors) -> Tensor:
        (held,) = capture(model, some, [site], batch_size=batch_size, progress=progress).values()
        return Tensors(held if isinstance(held, tuple) else (held,)).double_for_sums().flat()

    ours, theirs = vectors(inputs), vectors(examples)
    if metric == "cosine":
        similarity = nn.functional.normalize(ours, dim=1) @ nn.functional.normalize(theirs, dim=1).T
    else:
        # Each from its own differences: products of large vectors would cancel.
        similarity = -torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist")
    found = similarity.topk(min(k, len(theirs)), dim=1)
    return Neighbours(found.indices, found.values, site)


def penultimate(model: Any, inputs: TensorOrTensors) -> Site:
    """The input of the last linear layer that runs."""
    root = module_of(model)
    if root is None:
        raise TorchwhyError("the model is a function, whose layers cannot be searched: say which with layer=module")
    order: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, output: order.append(name)

    first = as_tensors(inputs)[0][:1]
    with ExitStack() as stack, untouched(model, first.device), torch.no_grad():
        for name, module in root.named_modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(note(name)).remove)
        call(model, first.map(torch.clone), ())
    if not order:
        raise TorchwhyError(f"{type(root).__name__} runs no linear layer: say where to compare with layer=")
    return Site(order[-1], input=True, call=order.count(order[-1]) - 1 if order.count(order[-1]) > 1 else None)


def _batches(
    model: Any, inputs: TensorOrTensors, extra: Any, batch_size: int, what: str, progress: bool | None
) -> Iterator[tuple[Tensors, Arguments]]:
    """Some examples after the other, with the arguments that belong to them; the model is guarded meanwhile."""
    at_least("batch_size", batch_size, 1)
    tensors = as_tensors(inputs)[0]
    check_inputs(tensors)
    arguments = as_arguments(extra)
    with Progress(progress).task(what, tensors.size) as advance:
        for start in range(0, tensors.size, batch_size):
            some = slice(start, min(tensors.size, start + batch_size))
            with untouched(model, tensors.device), torch.no_grad():
                yield tensors[some], _rows(arguments, some, tensors.size)
            advance(some.stop - some.start)


def _rows(extra: Arguments, some: slice, count: int) -> Arguments:
    """The further arguments of some of the examples."""
    found: Arguments = tree_map_only(Tensor, lambda a: a[some] if a.ndim and len(a) == count else a, extra)
    return found


__all__ = [
    "AblationEffect",
    "Activating",
    "Neighbours",
    "Patched",
    "ablation_effects",
    "capture",
    "most_activating",
    "neighbours",
    "penultimate",
]
