"""The smallest change that makes a model wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import Arguments, as_arguments, call, untouched
from torchwhy.core.inputs import check_inputs
from torchwhy.core.options import at_least
from torchwhy.core.progress import Progress
from torchwhy.core.target import as_tensor, indices, main_part
from torchwhy.core.tensors import TensorOrTensors, Tensors, align, as_tensors
from torchwhy.robust.batches import attempts_in_batches

Number: TypeAlias = int | float


@dataclass(frozen=True)
class Minimum:
    """The smallest change found for each example.

    Attributes:
        size: (B,) 0 where the model is wrong as it is, infinity where no change that was tried makes it so.
        inputs: changed so (B, ...), and as they were where nothing was found.
    """

    size: Tensor
    inputs: TensorOrTensors


def mistaken(output: Any, target: Any) -> Tensor:
    """Whether another class than the target has the largest output, (B,)."""
    values = as_tensor(main_part(output))
    if values.ndim != 2:
        raise TorchwhyError(
            f"an output of shape {tuple(values.shape)} names no class for each example: say what is wrong, with "
            f"wrong=lambda output, target: ..."
        )
    if target is None:
        raise TorchwhyError("say the target, the true class of each example")
    return values.argmax(1) != indices(target, values, len(values))[:, 0].to(values.device)


def wrongly(model: Any, inputs: Tensors, extra: Arguments, target: Any, wrong: Callable[[Any, Any], Tensor]) -> Tensor:
    """Whether ``wrong`` finds the model to be wrong about each example, (B,)."""
    with untouched(model, inputs.device), torch.no_grad():
        found = wrong(call(model, inputs.map(torch.clone), extra), target)
    if not isinstance(found, Tensor) or found.shape != (inputs.size,):
        given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise TorchwhyError(f"wrong gives one truth value for each of {inputs.size} examples, not {given}")
    return found.bool()


def minimum_perturbation(
    model: Any,
    attack: Callable[[TensorOrTensors, Tensor], TensorOrTensors],
    inputs: TensorOrTensors,
    target: Any,
    highest: float,
    *,
    levels: int = 8,
    halvings: int = 8,
    wrong: Callable[[Any, Any], Tensor] = mistaken,
    additional_forward_args: Any = None,
    progress: bool | None = None,
) -> Minimum:
    """How far each example must be changed until the model is wrong about it.

    The first of ``levels`` even steps up to ``highest`` that makes it wrong is found, and the step halved again and
    again: the size is right to ``highest / levels / 2**halvings`` where a larger change than one that works works too.

    Args:
        model: a module or function.
        attack: from inputs and sizes (B,) to changed inputs, such as
            ``lambda x, size: FGSM(model).perturb(x, size, labels)``.
        inputs: (B, ...) or a tuple of such.
        target: the true classes, or whatever ``wrong`` takes.
        highest: the largest size tried.
        levels: even steps.
        halvings: of the step behind which the model is wrong.
        wrong: from the model's output and the target to whether each example is taken wrongly, (B,).
        additional_forward_args: further arguments of the model.
        progress: show a progress bar; None does on a terminal.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> from torchwhy.robust import FGSM
    >>> found = minimum_perturbation(model, lambda x, size: FGSM(model).perturb(x, size, 0), x, 0, highest=1.0)
    >>> found.size.round(decimals=2)  # where both outputs are 0.5, and at once
    tensor([0.5000, 0.0000])
    """
    point, was_tuple = as_tensors(inputs)
    check_inputs(point)
    for name, value, least in (("levels", levels, 1), ("halvings", halvings, 0)):
        at_least(name, value, least)
    if not 0 < highest < math.inf:
        raise TorchwhyError(f"highest is the largest size to try, a number above 0, not {highest!r}")
    extra = as_arguments(additional_forward_args)

    size = torch.zeros(point.size, device=point.device, dtype=torch.float64)
    at_once = wrongly(model, point, extra, target, wrong)
    best, found = point, at_once.clone()
    low, high = size.clone(), torch.where(at_once, 0.0, torch.inf)
    with Progress(progress).task("searching the smallest change", levels + halvings) as advance:
        for step in range(levels + halvings):
            if step < levels:
                size = torch.where(found, high, torch.full_like(size, highest * (step + 1) / levels))
            else:
                size = torch.where(found, (low + high) / 2, torch.zeros_like(size))
            if found.all() and step < levels:
                advance(1)
                continue
            changed = as_tensors(attack(point.unwrap(was_tuple), size))[0]
            works = wrongly(model, changed, extra, target, wrong) & ~at_once
            better = works & (size < high)
            best = best.map(lambda b, c, better=better: torch.where(align(better, c).bool(), c, b), changed)
            high = torch.where(better, size, high)
            low = torch.where(works | (size >= high), low, torch.maximum(low, size))
            found |= works
            advance(1)
    return Minimum(high.float(), best.unwrap(was_tuple))


class MinParamPerturbation:
    """The smallest value of an attack's argument that makes a model wrong, searched one value after the other.

    For attacks of any kind, on inputs of any kind; `minimum_perturbation` searches for all examples of a batch at once.

    Args:
        forward_func: the model.
        attack: takes the inputs and, by name, the argument.
        arg_name: its name.
        arg_min: the first value tried.
        arg_max: values stay below it.
        arg_step: between values.
        mode: "linear" tries all values in order, "binary" halves the range, where a larger value than one that works
            works too.
        num_attempts: tries of each value, for attacks that draw random numbers.
        preproc_fn: from the inputs to what the model takes.
        apply_before_preproc: attack the inputs rather than what ``preproc_fn`` makes of them.
        correct_fn: from the model's output, and by name the target and more, to whether it is right; by default
            whether every example's largest output is the target's.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        attack: Callable[..., Any],
        arg_name: str,
        arg_min: Number,
        arg_max: Number,
        arg_step: Number,
        mode: Literal["linear", "binary"] = "linear",
        num_attempts: int = 1,
        preproc_fn: Callable[[Any], Any] | None = None,
        apply_before_preproc: bool = False,
        correct_fn: Callable[..., bool] | None = None,
    ) -> None:
        if arg_step <= 0 or arg_max <= arg_min + arg_step:
            raise TorchwhyError(f"from {arg_min} to {arg_max} there are no two steps of {arg_step}")
        if not isinstance(mode, str) or mode.lower() not in ("linear", "binary"):
            raise TorchwhyError(f"mode is 'linear' or 'binary', not {mode!r}")
        at_least("num_attempts", num_attempts, 1)
        self.forward_func, self.attack, self.arg_name = forward_func, attack, arg_name
        self.arg_min, self.arg_max, self.arg_step = arg_min, arg_max, arg_step
        self.mode, self.num_attempts = mode.lower(), num_attempts
        self.preproc_fn, self.apply_before_preproc = preproc_fn, apply_before_preproc
        self.correct_fn = correct_fn or _all_right

    def evaluate(
        self,
        inputs: Any,
        additional_forward_args: Any = None,
        target: Any = None,
        perturbations_per_eval: int = 1,
        attack_kwargs: dict[str, Any] | None = None,
        correct_fn_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Any, Number | None]:
        """The changed inputs and the value that changed them so, or (None, None).

        Args:
            inputs: one example, or a batch for which one wrong example suffices.
            additional_forward_args: further arguments of the model.
            target: for ``correct_fn``.
            perturbations_per_eval: changed copies that go through the model together.
            attack_kwargs: further arguments of the attack.
            correct_fn_kwargs: further arguments of ``correct_fn``.
        """
        known = {} if target is None else {"target": target}
        asked = {**known, **(correct_fn_kwargs or {})}
        ready = inputs if self.preproc_fn is None else self.preproc_fn(inputs)

        def attacked(value: Number) -> tuple[Any, Any]:
            """What the attack makes, and what the model takes."""
            options = {**(attack_kwargs or {}), self.arg_name: value}
            if not self.apply_before_preproc:
                made = self.attack(ready, **options)
                return made, made
            made = self.attack(inputs, **options)
            return made, made if self.preproc_fn is None else self.preproc_fn(made)

        def first_wrong(values: Iterator[Number]) -> tuple[Any, Number | None]:
            tries = ((value, *attacked(value)) for value in values for _ in range(self.num_attempts))
            batches = attempts_in_batches(self.forward_func, tries, additional_forward_args, perturbations_per_eval)
            for value, made, output in batches:
                if not self.correct_fn(output, **asked):
                    return made, value
            return None, None

        return first_wrong(self._values()) if self.mode == "linear" else self._halve(first_wrong)

    def _values(self) -> Iterator[Number]:
        k = 0
        while (value := self.arg_min + k * self.arg_step) < self.arg_max:
            yield value
            k += 1

    def _halve(self, first_wrong: Callable[[Iterator[Number]], tuple[Any, Number | None]]) -> tuple[Any, Number | None]:
        values = list(self._values())
        low, high = 0, len(values)  # all in front of `low` are right, the one at `high` is wrong or out of range
        made, best = None, None
        while low < high:
            middle = (low + high) // 2
            found, value = first_wrong(iter(values[middle : middle + 1]))
            if value is None:
                low = middle + 1
            else:
                made, best, high = found, value, middle
        return made, best


def _all_right(output: Any, target: Any = None) -> bool:
    return not bool(mistaken(output, target).any())
