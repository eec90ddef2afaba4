"""How a model fares under several attacks, batch after batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.options import at_least
from torchwhy.robust.batches import attempts_in_batches

ORIGINAL = "Original"


@dataclass(frozen=True)
class _Attack:
    fn: Callable[..., Any]
    attempts: int
    before_preproc: bool
    options: dict[str, Any]
    by_batch: tuple[str, ...]


@dataclass
class _Mean:
    """A running mean, of a number or tensor or of each part of a tuple."""

    total: Any = None
    count: int = 0

    def add(self, value: Any) -> None:
        self.total = value if self.total is None else _each(lambda a, b: a + b, self.total, value)
        self.count += 1

    @property
    def value(self) -> Any:
        return _each(lambda a: a / self.count, self.total)


@dataclass
class AttackComparator:
    """Measures a model under several attacks or other changes of its inputs.

    Args:
        forward_func: the model.
        metric: from the model's output, and by name whatever `evaluate` is given, to a number, a tensor (B,) or a tuple
            of these.
        preproc_fn: from the inputs to what the model takes.
    """

    forward_func: Callable[..., Any]
    metric: Callable[..., Any]
    preproc_fn: Callable[[Any], Any] | None = None
    attacks: dict[str, _Attack] = field(default_factory=dict, init=False)
    _summary: dict[str, _Mean] = field(default_factory=dict, init=False, repr=False)

    def add_attack(
        self,
        attack: Callable[..., Any],
        name: str | None = None,
        num_attempts: int = 1,
        apply_before_preproc: bool = True,
        attack_kwargs: dict[str, Any] | None = None,
        additional_attack_arg_names: list[str] | None = None,
    ) -> None:
        """Have the model measured under an attack too.

        Args:
            attack: from the inputs to changed inputs.
            name: another than those of all other attacks; None is the name of its class.
            num_attempts: tries, for attacks that draw random numbers: the mean, least and greatest metric are kept.
            apply_before_preproc: attack the inputs, rather than what ``preproc_fn`` makes of them.
            attack_kwargs: further arguments of the attack.
            additional_attack_arg_names: arguments of `evaluate` that the attack takes too, such as the target.
        """
        name = type(attack).__name__ if name is None else name
        if name in self.attacks or name == ORIGINAL:
            raise TorchwhyError(f"there is an attack {name!r} already: give this one another name")
        at_least("num_attempts", num_attempts, 1)
        by_batch = tuple(additional_attack_arg_names or ())
        self.attacks[name] = _Attack(attack, num_attempts, apply_before_preproc, attack_kwargs or {}, by_batch)

    def evaluate(
        self, inputs: Any, additional_forward_args: Any = None, perturbations_per_eval: int = 1, **kwargs: Any
    ) -> dict[str, Any]:
        """The metric of one batch: as it is, and under each attack its "mean", and with several tries "min" and "max".

        Args:
            inputs: of the model, or of ``preproc_fn``.
            additional_forward_args: further arguments of the model.
            perturbations_per_eval: changed copies that go through the model together.
            kwargs: for the metric, and for those attacks that ask for them.
        """
        for name, attack in self.attacks.items():
            missing = [n for n in attack.by_batch if n not in kwargs]
            if missing:
                raise TorchwhyError(f"the attack {name!r} asks for {missing[0]!r}: give it to evaluate by name")
        found: dict[str, list[Any]] = {}
        tries = self._tries(inputs, kwargs)
        for name, _, output in attempts_in_batches(
            self.forward_func, tries, additional_forward_args, perturbations_per_eval
        ):
            found.setdefault(name, []).append(self.metric(output, **kwargs))
        results: dict[str, Any] = {}
        for name, values in found.items():
            mean = _each(lambda *v: sum(v) / len(v), *values)
            self._add(name, mean, values)
            results[name] = mean if name == ORIGINAL else {"mean": mean}
            if len(values) > 1:
                results[name] |= {"min": _each(_least, *values), "max": _each(_greatest, *values)}
        return results

    def summary(self) -> dict[str, dict[str, Any]]:
        """The mean of all batches so far, by attack."""
        return {name: {"mean": mean.value} for name, mean in self._summary.items()}

    def reset(self) -> None:
        """Forget all batches."""
        self._summary = {}

    def _tries(self, inputs: Any, known: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        def prepared(given: Any) -> Any:
            return given if self.preproc_fn is None else self.preproc_fn(given)

        ready = prepared(inputs)
        yield ORIGINAL, inputs, ready
        for name, attack in self.attacks.items():
            options = {**{n: known[n] for n in attack.by_batch}, **attack.options}
            for _ in range(attack.attempts):
                made = attack.fn(inputs if attack.before_preproc else ready, **options)
                yield name, made, prepared(made) if attack.before_preproc else made

    def _add(self, name: str, mean: Any, values: list[Any]) -> None:
        """To the summary: of tensors (B,), the mean over the examples."""
        kept = {name: mean}
        if len(values) > 1:
            least, greatest = _each(_least, *values), _each(_greatest, *values)
            kept = {f"{name} Mean Attempt": mean, f"{name} Min Attempt": least, f"{name} Max Attempt": greatest}
        for key, value in kept.items():
            self._summary.setdefault(key, _Mean()).add(_each(_over_examples, value))


def _each(fn: Callable[..., Any], *values: Any) -> Any:
    """Of numbers and tensors, or of every part of tuples; named tuples stay what they are."""
    first = values[0]
    if not isinstance(first, tuple):
        return fn(*values)
    parts = [fn(*column) for column in zip(*values, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def _over_examples(value: Any) -> Any:
    return value.mean(0) if isinstance(value, Tensor) else value


def _least(*values: Any) -> Any:
    return torch.stack(values).amin(0) if isinstance(values[0], Tensor) else min(values)


def _greatest(*values: Any) -> Any:
    return torch.stack(values).amax(0) if isinstance(values[0], Tensor) else max(values)
