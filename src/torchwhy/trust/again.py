"""Does the explanation change where it should, and stay where it should? Asked by explaining again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.evidence import Check, Status, undecided
from torchwhy.core.explanation import fingerprint
from torchwhy.core.problem import Problem
from torchwhy.core.site import Site, find_site
from torchwhy.core.target import ClassNames
from torchwhy.core.tensors import Tensors
from torchwhy.engines.weights import randomised
from torchwhy.methods.base import Method
from torchwhy.metrics.randomisation import band, chance
from torchwhy.metrics.similarity import Likeness
from torchwhy.trust import decision

COPIES = 3  # with random weights
UNCHANGED, CHANGED = 0.7, 0.5  # correlations with an explanation of a model of random weights
ONE_AND_THE_SAME, ALIKE = 0.99, 0.9  # with that of another class
NOISE = 0.05  # of the range of the input's numbers
STABLE, UNSTABLE = 0.8, 0.5  # with that of a noisy copy
SETTLED, ARBITRARY = 0.6, 0.3  # with that against another baseline
LEAST = 4  # values that can be compared

Answer: TypeAlias = Callable[[float, int], tuple[Status, str]]
Ask: TypeAlias = Callable[[Problem, Method, Tensors], tuple[Tensor, Answer]]


def checks(p: Problem, method: Method, values: Tensors, names: tuple[str, ...] = ()) -> Iterator[Check]:
    """What explaining again shows: 5 explanations of the examples and one of two noisy copies of each, at most."""
    asked: dict[str, tuple[str, Ask]] = {
        "weights": ("Does the explanation depend on what the model has learnt?", _weights),
        "class": ("Does the explanation depend on the class that is asked about?", partial(_class, names)),
        "noise": ("Does the explanation stay the same under small noise?", _noise),
        "baseline": ("Would another baseline give the same picture?", _baseline),
    }
    for name, (question, ask) in asked.items():
        try:
            if values.flat().shape[1] < LEAST:
                raise UnsupportedError(f"fewer than {LEAST} values are too few to compare")
            made = Check.of(name, question, *_defined(*ask(p, method, values)))
        except TorchwhyError as error:
            made = undecided(name, question, p.size, str(error))
        yield made


def _defined(found: Tensor, judge: Answer) -> tuple[Tensor, Answer]:
    """Where there is no correlation, nothing is judged."""

    def answer(r: float, i: int) -> tuple[Status, str]:
        if math.isnan(r):
            return "unknown", "one of the explanations is the same everywhere, so that they cannot be compared"
        return judge(r, i)

    return found, answer


def _two(r: float) -> str:
    """Two digits, and no sign before a zero."""
    return f"{round(r, 2) + 0.0:.2f}"


def _weights(p: Problem, method: Method, values: Tensors) -> tuple[Tensor, Answer]:
    """Adebayo et al., "Sanity checks for saliency maps", 2018, arXiv:1810.03292."""
    alike, before = Likeness("pearson", values), fingerprint(p.model)
    found = []
    for seed in range(COPIES):  # one copy at a time is in memory
        other = randomised(p.model, seed=seed)
        if fingerprint(other) == before:
            raise UnsupportedError("the model has no weights that could be drawn again")
        found.append(alike(_of(method, other)._compute(p.put_to(other)).values)[0])
    each = torch.stack(found)
    limit = band(chance(values, "pearson"))[1].nan_to_num(0.0)

    def judge(r: float, i: int) -> tuple[Status, str]:
        told = f"of models with random weights correlate with it by {_two(r)} on average (r = "
        told += f"{', '.join(f'{_two(v)}' for v in each[:, i].tolist())}; by chance up to {limit[i]:.2f})"
        if r < CHANGED:
            return "pass", f"explanations {told}"
        if r >= UNCHANGED and r > limit[i]:
            return "warn", f"it hardly depends on the weights: explanations {told}"
        return "unknown", f"explanations {told}"

    return each.mean(0), judge


def _class(names: tuple[str, ...], p: Problem, method: Method, values: Tensors) -> tuple[Tensor, Answer]:
    chosen = decision.classes(p)
    if chosen is None:
        raise UnsupportedError("what is explained is not the score of one class of several")
    other, call = decision.rivals(p, chosen), ClassNames(names)
    given = (other.view_as(p.target.given[0]).to(p.target.given[0].device),)
    asked = p.about(dataclasses.replace(p.target, given=given, predicted=False))
    found = Likeness("pearson", values)(method._compute(asked).values)[0]

    def judge(r: float, i: int) -> tuple[Status, str]:
        told = f"the explanation of the likeliest other class, {call(other[i])}, correlates with it by {_two(r)}"
        if r < ALIKE:
            return "pass", told
        if r < ONE_AND_THE_SAME:
            return "unknown", told
        if not method.facts.signed:
            return "unknown", f"{told}, as sizes may where one class gains what the other loses"
        return "warn", f"it is the same whichever class is asked about: {told}"

    return found, judge


def _noise(p: Problem, method: Method, values: Tensors) -> tuple[Tensor, Answer]:
    copies = decision.noise(p.inputs, NOISE, 1, stream=74)
    if copies is None:
        raise UnsupportedError("the inputs are whole numbers, to which noise cannot be added")
    again = method._compute(p.moved(copies.merge(), 2)).values
    found = Likeness("pearson", values)(again).mean(0)

    told = f"noise of {100 * NOISE:.0f} % of the input's range leaves a correlation of {{}} with it"
    return found, _graded(told, STABLE, UNSTABLE, "it is not stable")


def _baseline(p: Problem, method: Method, values: Tensors) -> tuple[Tensor, Answer]:
    kind = method.facts.baselines
    if kind == "none":
        raise UnsupportedError("the method compares with nothing")
    if kind == "set":
        rows = p.background()
        if rows.size < 2:
            raise UnsupportedError("a single row to compare with cannot be divided")
        other, words = rows[::2], "every second row of the background"
    else:
        other, words = _other_base(p)
    again = method._compute(p.against(other)).values
    if all(torch.equal(a, b) for a, b in zip(values, again, strict=True)):
        raise UnsupportedError(f"with {words} instead of the baseline nothing changes")
    found = Likeness("pearson", values)(again)[0]

    told = f"with {words} instead of the baseline the explanation correlates with it by {{}}"
    return found, _graded(told, SETTLED, ARBITRARY, "it depends on the baseline")


def _graded(words: str, enough: float, little: float, alarm: str) -> Answer:
    """A correlation that passes from ``enough`` on and warns below ``little``, told in words with a place for it."""

    def judge(r: float, i: int) -> tuple[Status, str]:
        told = words.format(_two(r))
        if r >= enough:
            return "pass", told
        return ("warn", f"{alarm}: {told}") if r < little else ("unknown", told)

    return judge


def _other_base(p: Problem) -> tuple[Tensors, str]:
    """Another reasonable baseline at the site."""
    if all(t.ndim > 3 and t.is_floating_point() for t in p.point):
        means = p.point.map(lambda t: t.mean(tuple(range(2, t.ndim)), keepdim=True).expand(t.shape))
        if not all(torch.equal(a, b) for a, b in zip(means, p.base, strict=True)):
            return means, "each channel's own mean"
    if not any(t.is_floating_point() for t in p.point):
        raise UnsupportedError("between whole numbers there is no other baseline to be had")
    halfway = p.base.map(lambda b, t: b + (t - b) / 4 if t.is_floating_point() else b, p.point)
    return halfway, "a value a quarter of the way to the input"


def _of(method: Method, model: object) -> Method:
    """The same method for another model, whose layers have the same names."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if field.init and field.name == "model":
            changed["model"] = model
        elif field.init and isinstance(value, Method):
            changed[field.name] = _of(value, model)
        elif field.init:
            changed[field.name] = _named(value, method.model)
    return dataclasses.replace(method, **changed)


def _named(value: Any, model: Any) -> Any:
    """A layer that was given as a module, by its name, alone or in a list; all else as it is."""
    if isinstance(value, nn.Module):
        return find_site(model, value)
    if isinstance(value, Site) and isinstance(value.layer, nn.Module):
        return find_site(model, value)
    if isinstance(value, list) and any(isinstance(one, nn.Module | Site) for one in value):
        return [_named(one, model) for one in value]
    return value
