"""Models that have forgotten what they learned: layers whose weights are drawn again.

A layer is a module with parameters of its own. It gets what its ``reset_parameters`` gives a new one, buffers such as
running means included: it is as if it had never been trained. What no reset changes, though its numbers vary, gets
draws from a normal distribution of the same mean and standard deviation; a parameter of one number stays. Draws are
made on the CPU, from a seed and the place of the layer among the model's modules: a layer gets the same whatever else
is randomised. The user's model is never changed, but its copy.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError, closest
from torchwhy.core.guard import module_of
from torchwhy.core.tensors import accumulator
from torchwhy.engines.noise import draws

STREAM = 80
_T = TypeVar("_T")


def root(model: Any) -> nn.Module:
    """The module behind a model, whose weights can be drawn again."""
    module = module_of(model)
    if module is None:
        raise UnsupportedError(
            f"{getattr(model, '__name__', type(model).__name__)} is a function, whose weights cannot be drawn again: "
            f"give the module itself"
        )
    return module


def copied(thing: _T) -> _T:
    """A deep copy."""
    try:
        return copy.deepcopy(thing)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UnsupportedError(
            f"the weights of a copy are drawn again, but the model cannot be copied: {reason}"
        ) from error


def layers(model: Any, run: Callable[[], object] | None = None) -> tuple[str, ...]:
    """The names of the modules with parameters of their own.

    Args:
        model: a module, or a method of one.
        run: runs the model once; the names are then in the order in which the modules first run, and a module that is
            never called stands behind the one registered before it. Without it, they are as they were registered.

    >>> layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    ('0', '2')
    """
    module = root(model)
    began: dict[str, int] = {}

    def note(name: str, *_: Any) -> None:
        began.setdefault(name, len(began))

    with ExitStack() as stack:
        if run is not None:
            for name, m in module.named_modules():
                stack.callback(m.register_forward_pre_hook(partial(note, name)).remove)
            run()

    places: dict[str, int] = {}
    for name, m in module.named_modules():
        before = next(reversed(places.values()), -1)
        if next(m.parameters(recurse=False), None) is not None:
            places[name] = began.get(name, before)
    return tuple(sorted(places, key=lambda name: places[name]))


def parts(names: Sequence[str], chosen: Sequence[str] | None) -> dict[str, list[str]]:
    """The layers that belong to each of the chosen modules, in the order of the first of them.

    Args:
        names: of all layers, in their order.
        chosen: names of layers, or of modules that hold layers; None is every layer for itself.

    >>> parts(("stem", "block.0", "block.1", "head"), ("head", "block"))
    {'block': ['block.0', 'block.1'], 'head': ['head']}
    """
    found = {}
    for name in names if chosen is None else chosen:
        inside = (
            [n for n in names if not name or n == name or n.startswith(f"{name}.")] if chosen is not None else [name]
        )
        if not inside:
            raise TorchwhyError(f"no module {name!r} has parameters{closest(name, names)}")
        found[name] = inside
    return dict(sorted(found.items(), key=lambda item: names.index(item[1][0])))


def randomised(model: Any, chosen: Sequence[str] | None = None, seed: int = 0) -> Any:
    """A copy of the model with some of its layers randomised.

    Args:
        model: a module, or a method of one.
        chosen: names of layers, or of modules that hold layers; None is all.
        seed: of the draws.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> other = randomised(model, ["2"])
    >>> torch.equal(other[0].weight, model[0].weight), torch.equal(other[2].weight, model[2].weight)
    (True, False)
    """
    found = copied(model)
    module = root(found)
    for inside in parts(layers(module), chosen).values():
        for name in inside:
            redraw(module, name, seed)
    return found


def redraw(module: nn.Module, name: str, seed: int) -> bool:
    """Draw a layer's own parameters again, in place.

    Returns:
        Whether it now holds other numbers: a normalisation that has learned nothing stays as it is.
    """
    layer = module.get_submodule(name)
    number = [n for n, _ in module.named_modules()].index(name)
    fresh = _reset(layer, draws(seed, STREAM, 2 * number).initial_seed())
    generator = draws(seed, STREAM, 2 * number + 1)
    changed = False
    with torch.no_grad():
        for key, held in own(layer).items():
            new = fresh.get(key, held)
            if torch.equal(new.to(held), held) and isinstance(held, nn.Parameter):
                new = _like(held, generator)
            new = new.to(held)
            changed |= not torch.equal(new, held)
            held.copy_(new)
    return changed


@contextmanager
def forgotten(module: nn.Module, names: Sequence[str], seed: int) -> Iterator[bool]:
    """Inside, some layers of a copy are randomised; gives whether any of them then holds other numbers."""
    kept = {name: {key: t.detach().clone() for key, t in own(module.get_submodule(name)).items()} for name in names}
    changed = {redraw(module, name, seed) for name in names}
    yield True in changed
    with torch.no_grad():
        for name, numbers in kept.items():
            for key, t in own(module.get_submodule(name)).items():
                t.copy_(numbers[key])


def own(layer: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that lie in a module itself."""
    return dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))


def _reset(layer: nn.Module, seed: int) -> dict[str, Tensor]:
    """What the layer's own reset gives it; nothing where it has none."""
    name = next((n for n in ("reset_parameters", "_reset_parameters") if callable(getattr(layer, n, None))), None)
    if name is None or _asks(getattr(layer, name)):
        return {}
    fresh = copied(layer).to("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        getattr(fresh, name)()
    shapes = {key: t.shape for key, t in own(layer).items()}
    return {key: t.detach() for key, t in own(fresh).items() if t.shape == shapes.get(key)}


def _asks(reset: Callable[..., object]) -> bool:
    """Whether a reset cannot be called without arguments."""
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = inspect.signature(reset).parameters.values()
    return any(p.default is inspect.Parameter.empty and p.kind not in free for p in wanted)


def _like(held: Tensor, generator: torch.Generator) -> Tensor:
    """Normal draws with the mean and the standard deviation of numbers that vary; other numbers as they are."""
    if not held.is_floating_point() or (held == held.flatten()[:1]).all():
        return held
    wide = held.detach().to(accumulator(held.dtype))
    drawn = torch.randn(held.shape, generator=generator, dtype=wide.dtype).to(held.device)
    return wide.mean() + wide.std(correction=0) * drawn
