"""From Captum's arguments to a question that a method of ours answers, and back to Captum's form of answer."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from torchwhy import methods
from torchwhy.captum._table import Row
from torchwhy.core.errors import MissingExtraError, TorchwhyError, UnsupportedError
from torchwhy.core.options import at_least
from torchwhy.core.problem import Problem
from torchwhy.core.site import Site
from torchwhy.core.target import as_tensor, main_part
from torchwhy.core.tensors import Tensors, as_tensors
from torchwhy.methods.base import Attribution as Found
from torchwhy.methods.base import Method

_P = ParamSpec("_P")
_R = TypeVar("_R")

# What makes up the question; every other argument is an option of the method.
_ASKED = frozenset(
    {
        "forward_func",
        "model",
        "layer",
        "inputs",
        "baselines",
        "layer_baselines",
        "target",
        "additional_forward_args",
        "neuron_selector",
        "attribute_to_layer_input",
        "attribute_to_neuron_input",
        "return_convergence_delta",
        "custom_attribution_func",
        "grad_kwargs",
        "perturbations_per_eval",
        "show_progress",
        "return_input_shape",
        "kwargs",
    }
)
# None of them changes a number here; what is too small to divide by, DeepLift knows by itself.
_NO_NUMBER = frozenset({"device_ids", "verbose", "memory_efficient", "eps"})
_OURS = {"layer_mask": "feature_mask", "attr_dim_summation": "sum_channels", "internal_batch_size": "batch_size"}
# Of autograd, and how gradients are taken here: what is not used has a gradient of zero.
_GRAD_OPTIONS = frozenset({"allow_unused", "materialize_grads", "retain_graph"})


class CaptumError(TorchwhyError, AssertionError):
    """What Captum refuses by an assertion, and who switches from it may catch as one."""


class CaptumUnsupportedError(UnsupportedError, AssertionError):
    """The same, where a method's promise cannot be kept."""


@contextmanager
def captums_errors() -> Iterator[None]:
    """Errors are also of the kind that Captum raises."""
    try:
        yield
    except (AssertionError, MissingExtraError):
        raise
    except TorchwhyError as error:
        kind = CaptumUnsupportedError if isinstance(error, UnsupportedError) else CaptumError
        raise kind(str(error)) from error


def in_captums_kind(fn: Callable[_P, _R]) -> Callable[_P, _R]:
    """The same function, with such errors."""

    @wraps(fn)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with captums_errors():
            return fn(*args, **kwargs)

    return called


@dataclass
class Question:
    """A method of ours and what it is asked."""

    method: Method
    inputs: Any
    baselines: Any = None
    target: Any = None
    extra: Any = None
    layer_baselines: Any = None

    @contextmanager
    def opened(self) -> Iterator[tuple[Problem, bool]]:
        """The problem, and whether the inputs are a tuple."""
        opened = self.method._open(self.inputs, self.baselines, self.target, self.extra, self.layer_baselines)
        with opened as (p, was_tuple):
            yield p, was_tuple


def question(row: Row, given: dict[str, Any], **more: Any) -> Question:
    """What Captum's arguments ask.

    Args:
        row: of the class.
        given: every argument of the constructor and of ``attribute``, by name.
        more: further options of our method.
    """
    _check_gradients(given)
    if given.get("kwargs"):
        raise TypeError(f"there is no argument {next(iter(given['kwargs']))!r}")
    options = {_OURS.get(name, name): v for name, v in given.items() if name not in _ASKED | _NO_NUMBER}
    options |= {**row.options, **more, **_places(row, given), "progress": bool(given.get("show_progress", False))}
    if "perturbations_per_eval" in given:
        options["batch_size"] = rows_at_once("perturbations_per_eval", given)
    name = row.method
    if name == "InputXGradient" and not options.pop("multiply_by_inputs", True):
        name, options["abs"] = "Saliency", False
    if given.get("custom_attribution_func") is not None:
        options["multiply_by_inputs"] = False
    model = given["model"] if "model" in given else given["forward_func"]
    target = _unit(given) if "neuron_selector" in given and "target" not in given else wanted(given.get("target"))
    return Question(
        getattr(methods, name)(model, **options),
        given["inputs"],
        _called(given.get("baselines"), given["inputs"]),
        target,
        arguments(given.get("additional_forward_args")),
        given.get("layer_baselines"),
    )


def answer(row: Row, asked: Question, given: dict[str, Any]) -> Any:
    """The attributions, and the convergence delta where one is wanted."""
    with asked.opened() as (p, was_tuple):
        found = asked.method._compute(p)
        if (custom := given.get("custom_attribution_func")) is not None:
            found.values = _customized(row, custom, p, found.values)
        values = asked.method._values(p, found, was_tuple)
        if not given.get("return_convergence_delta"):
            return values
        return values, _delta(row, asked, p, found)


def place(layer: Any, at_input: bool) -> Any:
    """Where a layer, or each of a list of layers, is looked at."""
    if isinstance(layer, list | tuple):
        return [place(one, at_input) for one in layer]
    return layer if isinstance(layer, Site) else Site(layer, input=at_input)


def wanted(target: Any) -> Any:
    """The target as ours: a tensor of one number is that number, and None the model's output itself."""
    if target is None:
        return the_output
    return target.item() if isinstance(target, Tensor) and target.numel() == 1 else target


def the_output(output: Any) -> Tensor:
    """The score where no target is named: the model gives one per example."""
    values = as_tensor(main_part(output))
    if values.ndim > 1 and values[0].numel() != 1:
        raise TorchwhyError(
            f"the model's output has shape {tuple(values.shape)}: say which of it to explain with target=..."
        )
    return values.reshape(len(values)) if values.ndim > 1 else values


def arguments(extra: Any) -> Any:
    """Further arguments of the model as ours: by position, even where the only one is a dict."""
    return extra if extra is None or isinstance(extra, tuple) else (extra,)


def rows_at_once(name: str, given: dict[str, Any]) -> int | None:
    """How many rows so many changed copies of the inputs are; one, the default, leaves it to what fits."""
    count = given[name]
    at_least(name, count, 1)
    return None if count == 1 else count * as_tensors(given["inputs"])[0].size


def change(model: Any, attributions: Any, start: Any, end: Any, target: Any, extra: Any) -> Tensor:
    """By how much attributions miss the change of the score from one point to another, (B,)."""
    parts = [
        t for one in (attributions if isinstance(attributions, list) else [attributions]) for t in as_tensors(one)[0]
    ]
    asked = Question(methods.IntegratedGradients(model, progress=False), end, start, wanted(target), arguments(extra))
    with asked.opened() as (p, _):
        sizes = {len(t) for t in parts}
        if sizes != {p.size}:
            raise TorchwhyError(f"the attributions are of {sorted(sizes)} examples, end_point of {p.size}")
        return Tensors(parts).per_example() - (p.scores - p.base_scores())


@contextmanager
def own_draws(fn: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """A user's function that draws random numbers goes on with the global ones, although explaining leaves them."""
    outside = _random_state()

    def drawing(*args: Any) -> Any:
        nonlocal outside
        inside = _random_state()
        _set_random_state(outside)
        try:
            return fn(*args)
        finally:
            outside = _random_state()
            _set_random_state(inside)

    yield drawing
    _set_random_state(outside)


def _places(row: Row, given: dict[str, Any]) -> dict[str, Any]:
    """The options that say where to look."""
    if "layer" not in given:
        return {}
    if "neuron_selector" in given:
        return {"through": _unit(given)} if "target" in given else {}
    at = place(given["layer"], given.get("attribute_to_layer_input", False))
    return {"layer": at} if row.method == "GuidedGradCAM" else {"at": at}


def _unit(given: dict[str, Any]) -> Site:
    """The neuron that is explained, or through which one looks."""
    selector, at_input = given["neuron_selector"], given["attribute_to_neuron_input"]
    if not callable(selector):
        return Site(given["layer"], tuple(selector) if isinstance(selector, list) else selector, input=at_input)

    def read(held: Any) -> Tensor:
        values = held[0] if at_input else held
        several = isinstance(values, tuple | list)
        chosen: Tensor = selector(values[0] if several and len(values) == 1 else values)
        return chosen

    return Site(given["layer"], read, input=at_input)


def _called(baselines: Any, inputs: Any) -> Any:
    """Baselines, or what a function gives as such, for the inputs or for nothing."""
    if not callable(baselines):
        return baselines
    return baselines(inputs) if inspect.signature(baselines).parameters else baselines()


def _check_gradients(given: dict[str, Any]) -> None:
    other = set(given.get("grad_kwargs") or {}) - _GRAD_OPTIONS
    if other:
        raise UnsupportedError(
            f"grad_kwargs may say {', '.join(sorted(_GRAD_OPTIONS))}, not {', '.join(sorted(other))}"
        )


def _customized(row: Row, custom: Callable[..., Any], p: Problem, multipliers: Tensors) -> Tensors:
    """What a user makes of multipliers, and of inputs and baselines if asked for."""
    if row.method != "DeepLift":
        raise UnsupportedError(
            "custom_attribution_func is for one baseline, not for the mean over a set: call DeepLift for each"
        )
    count = len(inspect.signature(custom).parameters)
    if not 1 <= count <= 3:
        raise TorchwhyError(f"custom_attribution_func takes multipliers, inputs and baselines, not {count} arguments")
    made = custom(*(multipliers.parts, p.point.parts, p.base.parts)[:count])
    return as_tensors(made, "what custom_attribution_func gives")[0]


def _delta(row: Row, asked: Question, p: Problem, found: Found) -> Tensor:
    """How far the attributions are from adding up, as Captum counts it."""
    total = found.values.double_for_sums().per_example()
    if row.delta == "score":
        return p.scores - total
    if row.delta == "change":
        home = p.elsewhere(None)
        return total - (home.scores - home.base_scores())
    promised = asked.method.total(p)
    if promised is None:
        raise UnsupportedError("without the factor of the inputs, the attributions promise no sum: ask for no delta")
    # Captum has one for every draw or baseline, of which this is the mean.
    count = getattr(asked.method, "n_samples", None) or p.background().size
    return (total - promised).repeat_interleave(count)


def _random_state() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002  a user may draw from it


def _set_random_state(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002  (the same)
    random.setstate(state[2])
