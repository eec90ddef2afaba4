"""Captum's metrics and attacks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchwhy import robust
from torchwhy.captum._asking import Question, arguments, captums_errors, wanted
from torchwhy.captum._classes import function, signature
from torchwhy.core.errors import TorchwhyError
from torchwhy.core.inputs import broadcast
from torchwhy.core.options import at_least
from torchwhy.core.tensors import TensorOrTensors, Tensors, as_tensors
from torchwhy.engines.noise import draws
from torchwhy.methods import IntegratedGradients
from torchwhy.robust.attacks import selected


def infidelity(
    forward_func: Callable[..., Tensor],
    perturb_func: Callable[..., tuple[TensorOrTensors, TensorOrTensors]],
    inputs: TensorOrTensors,
    attributions: TensorOrTensors,
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
) -> Tensor:
    r"""How far attributions are from telling what a perturbation does, (B,).

    .. math:: \mathbb{E}_I\left[\left(I^T \phi - (f(x) - f(x_I))\right)^2\right]

    Args:
        forward_func: the model.
        perturb_func: from the inputs, several copies of each one after the other, and baselines if there are any, to
            perturbations I and perturbed inputs.
        inputs: (B, ...) or a tuple of such.
        attributions: in their shape.
        baselines: for ``perturb_func``.
        additional_forward_args: further arguments of the model.
        target: as for the methods.
        n_perturb_samples: perturbations of each example.
        max_examples_per_batch: perturbed copies made at a time.
        normalize: scale the attributions first so that they fit best.

    Paper: C.-K. Yeh et al., NeurIPS 2019, arXiv:1901.09392. See `torchwhy.metrics.Infidelity`.

    >>> w = torch.tensor([1.0, -2.0])
    >>> away = lambda x: (x, torch.zeros_like(x))
    >>> infidelity(lambda x: x @ w, away, torch.ones(1, 2), w[None])
    tensor([0.])
    """
    with captums_errors():
        point, given = as_tensors(inputs)[0], as_tensors(attributions, "attributions")[0]
        if point.shapes != given.shapes:
            raise TorchwhyError(f"attributions have the shapes of the inputs, {point.shapes}, not {given.shapes}")
        bases = None if baselines is None else broadcast(baselines, point, "baselines", "the inputs")
        told, moved = [], []
        for copies in _portions(n_perturb_samples, point.size, max_examples_per_batch):
            several = _each_several_times(point, copies)
            asked = (several,) if bases is None else (several, _each_several_times(bases, copies))
            made = perturb_func(*(_plain(t) for t in asked))
            change, perturbed = (as_tensors(one, "what perturb_func gives")[0] for one in made)
            if perturbed.shapes != several.shapes or change.shapes != several.shapes:
                raise TorchwhyError(
                    f"perturb_func gives perturbations and inputs of {several.shapes}, not {change.shapes} and "
                    f"{perturbed.shapes}"
                )
            told.append((change * _each_several_times(given, copies)).per_example().unflatten(0, (-1, copies)))
            moved.append(_falls(forward_func, point, perturbed, copies, target, additional_forward_args))
        a, d = torch.cat(told, 1), torch.cat(moved, 1)
        if normalize:
            size = (a * a).sum(1)
            a = a * ((a * d).sum(1) / torch.where(size == 0, 1, size))[:, None]
        return ((a - d) ** 2).mean(1)


def infidelity_perturb_func_decorator(multiply_by_inputs: bool = True) -> Callable[..., Any]:
    """Makes a function that gives perturbed inputs into one for `infidelity`, which also gives the perturbations.

    Args:
        multiply_by_inputs: the attributions have the factor of the inputs, less the baselines: perturbations are shares
            of it.
    """

    def decorate(perturb_func: Callable[..., TensorOrTensors]) -> Callable[..., Any]:
        def perturbed(inputs: TensorOrTensors, baselines: Any = None) -> tuple[Any, Any]:
            made = perturb_func(inputs) if baselines is None else perturb_func(inputs, baselines)
            point, moved = as_tensors(inputs)[0], as_tensors(made, "what the perturbation gives")[0]
            change = point - moved
            if multiply_by_inputs:
                whole = point - broadcast(0 if baselines is None else baselines, point, "baselines", "the inputs")
                change = change.map(lambda c, w: c / torch.where(w == 0, 1, w), whole)
            return change.parts, moved.parts

        return perturbed

    return decorate


def default_perturb_func(inputs: TensorOrTensors, perturb_radius: float = 0.02) -> tuple[Tensor, ...]:
    """The inputs with uniform noise of up to ``perturb_radius``, another for every row, the same in every call."""
    point = as_tensors(inputs)[0]
    return _shaken(point, perturb_radius, range(point.size)).parts


def sensitivity_max(
    explanation_func: Callable[..., TensorOrTensors],
    inputs: TensorOrTensors,
    perturb_func: Callable[..., TensorOrTensors] = default_perturb_func,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: Any = "fro",
    max_examples_per_batch: int | None = None,
    **kwargs: Any,
) -> Tensor:
    r"""How much an explanation changes at most when the input changes a little, (B,).

    .. math:: \max_k \lVert \phi(x_k) - \phi(x) \rVert \,/\, \lVert \phi(x) \rVert

    Args:
        explanation_func: from a tuple of inputs to attributions.
        inputs: (B, ...) or a tuple of such.
        perturb_func: from the inputs, several copies of each one after the other, to changed inputs; it gets
            ``perturb_radius`` too if it takes two arguments.
        perturb_radius: for ``perturb_func``.
        n_perturb_samples: changed copies of each example.
        norm_ord: of the norm, as for ``torch.norm``.
        max_examples_per_batch: changed copies made at a time.
        kwargs: for ``explanation_func``; targets, further arguments and baselines that belong to the examples are
            repeated for the copies.

    Paper: C.-K. Yeh et al., NeurIPS 2019, arXiv:1901.09392.

    >>> sensitivity_max(lambda inputs: tuple(2 * x for x in inputs), torch.ones(2, 3)) < 0.05
    tensor([True, True])
    """
    with captums_errors():
        point = as_tensors(inputs)[0]
        here = as_tensors(explanation_func(point.parts, **kwargs), "an explanation")[0].flat()
        size = torch.norm(here, p=norm_ord, dim=1)
        radius = (perturb_radius,) if len(inspect.signature(perturb_func).parameters) > 1 else ()
        done, largest = 0, []
        for copies in _portions(n_perturb_samples, point.size, max_examples_per_batch):
            several = _each_several_times(point, copies)
            if perturb_func is default_perturb_func:
                moved: Any = _shaken(several, perturb_radius, [*range(done, done + copies)] * point.size).parts
            else:
                moved = perturb_func(_plain(several), *radius)
            done += copies
            found = explanation_func(moved, **{k: _repeated(k, v, point, copies) for k, v in kwargs.items()})
            there = as_tensors(found, "an explanation")[0].flat()
            off = torch.norm(there - here.repeat_interleave(copies, 0), p=norm_ord, dim=1).unflatten(0, (-1, copies))
            largest.append(off.amax(1))
        return torch.stack(largest).amax(0) / torch.where(size == 0, 1, size)


def _falls(model: Any, point: Tensors, moved: Tensors, copies: int, target: Any, extra: Any) -> Tensor:
    """By how much the score falls in each changed copy, (B, copies)."""
    asked = Question(IntegratedGradients(model, progress=False), point.parts, None, wanted(target), arguments(extra))
    by_example = moved.map(lambda t: t.unflatten(0, (-1, copies)).transpose(0, 1))
    with asked.opened() as (p, _):
        scores = p.scores_at(lambda es, ks: by_example.map(lambda t: t[ks, es]), copies)
        return p.scores[:, None] - scores.T


def _shaken(t: Tensors, radius: float, numbers: Sequence[int]) -> Tensors:
    """Rows (N, ...) with noise, each by the number of its draw."""

    def noise(part: int, one: Tensor) -> Tensor:
        found = [torch.rand(one.shape[1:], generator=draws(0, 90 + part, n)) for n in numbers]
        return (2 * torch.stack(found) - 1).to(one) * radius

    return Tensors(one + noise(part, one) for part, one in enumerate(t))


def _portions(count: int, size: int, limit: int | None) -> list[int]:
    """How many copies of every example are made at a time."""
    at_least("n_perturb_samples", count, 1)
    each = count if limit is None else max(1, limit // size)
    return [min(each, count - start) for start in range(0, count, each)]


def _each_several_times(t: Tensors, copies: int) -> Tensors:
    return t.map(lambda one: one.repeat_interleave(copies, 0))


def _plain(t: Tensors) -> TensorOrTensors:
    return t.unwrap(len(t) > 1)


def _repeated(name: str, value: Any, point: Tensors, copies: int) -> Any:
    """What belongs to the examples, for the copies of each."""
    if name not in ("target", "additional_forward_args", "baselines"):
        return value
    if isinstance(value, tuple) and name != "target":
        return tuple(_repeated(name, v, point, copies) for v in value)
    if isinstance(value, Tensor) and value.ndim and len(value) == point.size and value.numel() > 1:
        return value.repeat_interleave(copies, 0)
    if isinstance(value, list) and len(value) == point.size:
        return [v for v in value for _ in range(copies)]
    return value


class Perturbation:
    """Captum's ``Perturbation``: something with ``perturb``."""

    perturb: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As ``perturb``."""
        return self.perturb(*args, **kwargs)


def minus_log(output: Tensor, target: Any) -> Tensor:
    """Minus the logarithm of the target's output, (B,): the model gives probabilities."""
    return -selected(output, target).log()


def _attack(base: type[robust.Attack], text: str) -> type[Any]:
    """An attack with Captum's constructor, loss and steps."""
    told = signature(text, NEGATIVE=-math.inf, POSITIVE=math.inf)

    def start(self: Any, given: dict[str, Any]) -> None:
        self.forward_func = given["forward_func"]
        base.__init__(self, *given.values())

    body = {
        "__module__": "torchwhy.captum",
        "__doc__": f"Captum's ``{base.__name__}``: see `torchwhy.robust.{base.__name__}`.",
        "__init__": function("__init__", told, "The model, the loss and the bounds of what it is given.", start),
        "default_loss": staticmethod(minus_log),
        "zero_thresh": 1e-6,
        "unit_steps": False,
    }
    return type(base.__name__, (base, Perturbation), body)


_ATTACK = "forward_func, loss_func=None, lower_bound=NEGATIVE, upper_bound=POSITIVE"
FGSM = _attack(robust.FGSM, _ATTACK)
PGD = _attack(robust.PGD, _ATTACK)
AttackComparator = robust.AttackComparator
MinParamPerturbation = robust.MinParamPerturbation
