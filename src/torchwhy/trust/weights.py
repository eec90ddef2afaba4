"""Has the model learnt anything? Asked of its weights alone, and of reference data where there are some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.evidence import Check, Status, percent, undecided
from torchwhy.core.explanation import digest, fingerprint
from torchwhy.core.guard import call, module_of
from torchwhy.core.problem import Problem
from torchwhy.core.target import as_tensor, main_part
from torchwhy.core.tensors import Tensors, as_tensors
from torchwhy.engines.noise import draws

SHUFFLES = 19
SIDE = 256  # rows and columns of a weight matrix that are looked at, at most
LEAST_SIDE, LEAST_WEIGHTS = 4, 256  # of a matrix, below which its structure cannot be told from chance
STRUCTURED, BY_CHANCE = 6.0, 4.0  # standard deviations of shuffled weights
BEYOND_CHANCE = 3.0  # standard errors by which an accuracy is to be above that of always saying the commonest class

_QUESTION = "Is the model trained?"
_known: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Structure:
    """How far the weights are from numbers drawn independently of each other.

    Attributes:
        highest: the largest z-score of a weight matrix.
        lowest: the smallest one.
        name: of the matrix with the largest.
    """

    highest: float
    lowest: float
    name: str


def structure(module: nn.Module) -> Structure | None:
    r"""Have the weights more structure than the same numbers in another order? None where there are too few of them.

    The structure of a weight matrix :math:`W` is :math:`\|W W^\top\|_F`, the size of its squared singular values. Of
    weights that were drawn independently of each other, as before training, every order is as likely as any other, so
    that the z-score of :math:`W` among 19 of its shuffles is around 0. Training makes rows alike, and the largest
    singular values larger. Of a large matrix, 256 random rows and columns are looked at.

    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> fresh = nn.Linear(64, 64)
    >>> abs(structure(fresh).highest) < 4
    True
    >>> with torch.no_grad():
    ...     _ = fresh.weight.add_(0.05)  # the same for all: no structure, whatever the order
    ...     _ = fresh.weight[:8].add_(0.2)
    >>> structure(fresh).highest > 6
    True
    """
    found = {}
    for number, (name, weight) in enumerate(module.named_parameters()):
        if weight.ndim < 2 or not weight.is_floating_point():
            continue
        matrix = weight.detach().flatten(1)
        if min(matrix.shape) < LEAST_SIDE or matrix.numel() < LEAST_WEIGHTS:
            continue
        generator = draws(0, 71, number)
        for dim in (0, 1):
            some = torch.randperm(matrix.shape[dim], generator=generator)[:SIDE].to(matrix.device)
            matrix = matrix.index_select(dim, some)
        matrix = matrix.float().cpu()
        orders = (torch.randperm(matrix.numel(), generator=generator) for _ in range(SHUFFLES))
        chance = torch.stack([_size(matrix.flatten()[order].view_as(matrix)) for order in orders])
        spread = float(chance.std())
        if spread > 1e-6 * float(chance.mean()):  # else all weights are equal
            found[name] = float(_size(matrix) - chance.mean()) / spread
    if not found:
        return None
    best = max(found, key=found.__getitem__)
    return Structure(found[best], min(found.values()), best)


def _size(matrix: Tensor) -> Tensor:
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    size: Tensor = torch.linalg.matrix_norm(wide @ wide.T)
    return size


def training(p: Problem) -> Check:
    """Are the weights more than random numbers? One answer for all examples, found once for the same weights."""
    module = module_of(p.model)
    if module is None:
        return undecided("training", _QUESTION, p.size, "the model is a function, whose weights cannot be looked at")
    found: Structure | None = _once(module, "structure", lambda: structure(module))
    if found is None:
        told = "the weights are too few or too equal to tell them from random ones"
        return undecided("training", _QUESTION, p.size, told)

    def judge(z: float, i: int) -> tuple[Status, str]:
        told = f"(z = {z:.1f} for {found.name}, the most of all)"
        if z >= STRUCTURED:
            return "pass", f"the weights have more structure than the same numbers in random order {told}"
        if found.lowest <= -STRUCTURED:
            return (
                "unknown",
                f"the weights are not drawn independently, but nor do they show what training leaves {told}",
            )
        if z < BY_CHANCE:
            return "warn", f"the weights look like random numbers, as of a network that was never trained {told}"
        return "unknown", f"the weights have hardly more structure than the same numbers in random order {told}"

    return Check.of("training", _QUESTION, torch.full((p.size,), found.highest), judge)


def accuracy(p: Problem, data: tuple[Any, Any]) -> Check:
    """How often is the model right on reference data? One answer for all examples, found once for the same weights.

    Args:
        p: the problem that was explained.
        data: inputs (N, ...) or a tuple of such, and classes (N,).
    """
    question = "Is the model better than chance on the reference data?"
    inputs, labels = _pair(p, data)
    if p.extra_follows:
        return undecided("accuracy", question, p.size, "some of the model's arguments belong to the examples alone")
    module = module_of(p.model)

    def measure() -> tuple[int, int]:
        right = 0
        for start in range(0, inputs.size, limit := p.rows_per_pass(gradients=False)):
            part = slice(start, start + limit)
            with torch.no_grad():
                output = as_tensor(main_part(call(p.model, inputs[part].map(torch.clone), p.extra)))
            if output.ndim != 2:
                raise UnsupportedError(f"the model's output {tuple(output.shape)} is not (N, classes)")
            right += int((output.argmax(1) == labels[part].to(output.device)).sum())
            p.cost.forward += len(output)
        return right, int(labels.unique(return_counts=True)[1].max())

    try:
        right, commonest = _once(module, digest((inputs.parts, labels)), measure)
    except TorchwhyError as error:
        return undecided("accuracy", question, p.size, str(error))
    share, chance = right / len(labels), commonest / len(labels)
    spread = (max(share * (1 - share), 1 / len(labels)) / len(labels)) ** 0.5

    def judge(found: float, i: int) -> tuple[Status, str]:
        told = f"it is right on {percent(found)} of {len(labels)} reference examples; always saying the commonest class"
        told = f"{told} is right on {percent(chance)}"
        return ("pass", told) if found > chance + BEYOND_CHANCE * spread else ("warn", f"{told}: no better than chance")

    return Check.of("accuracy", question, torch.full((p.size,), share), judge)


def _pair(p: Problem, data: tuple[Any, Any]) -> tuple[Tensors, Tensor]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TorchwhyError("data= is a pair, reference inputs (N, ...) and their classes (N,)")
    inputs, _ = as_tensors(data[0], "reference inputs")
    labels = torch.as_tensor(data[1])
    fits = len(inputs) == len(p.inputs) and all(
        g.shape[1:] == t.shape[1:] and len(g) == len(labels) for g, t in zip(inputs, p.inputs, strict=True)
    )
    if labels.ndim != 1 or not len(labels) or labels.is_floating_point() or not fits:
        raise TorchwhyError(
            f"data= is a pair, inputs {p.inputs.shapes} with N rows and N classes, not {inputs.shapes} and "
            f"{labels.dtype} {tuple(labels.shape)}"
        )
    return inputs.map(lambda g, t: g.to(t.device, t.dtype), p.inputs), labels


def _once(module: nn.Module | None, key: Any, make: Any) -> Any:
    """What is known of a model with these weights; what was known of it with others is forgotten."""
    if module is None:
        return make()
    name = fingerprint(module)
    known = _known.get(module)
    if known is None or known["fingerprint"] != name:
        known = _known[module] = {"fingerprint": name}
    if key not in known:
        known[key] = make()
    return known[key]
