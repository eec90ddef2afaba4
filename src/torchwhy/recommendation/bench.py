"""Methods and metrics at the same question: every row of the model that they take is counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.guard import as_arguments
from torchwhy.core.passes import Cost
from torchwhy.core.places import whole_place
from torchwhy.core.problem import Problem
from torchwhy.core.progress import Progress
from torchwhy.core.site import At
from torchwhy.core.tensors import Tensors, accumulator, as_tensors
from torchwhy.engines.maps import enlarge
from torchwhy.methods import Method
from torchwhy.metrics import Judged, Metric
from torchwhy.metrics.base import formed
from torchwhy.metrics.controls import DRAWS
from torchwhy.recommendation.settings import Setting

RIVALS = ("random", "constant", "input", "edges")  # controls that no method may fail to beat
JUDGEMENTS = DRAWS + len(RIVALS) - 1  # of the controls of one example
BACKGROUND = 16  # rows of the inputs, where no background is given
TRIAL_ROWS = 16  # per pass, while it is not known what a method costs


class Spent(BaseException):
    """An allowance is used up; no ``Exception``, after which a problem would try another way."""


class Allowance(Cost):
    """Rows that are counted until they are too many.

    Raises:
        Spent: there were more than ``most``; it stops within a pass of that.
    """

    most = float("inf")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if rows(self) > self.most:
            raise Spent


def rows(cost: Cost) -> int:
    """Model evaluations: rows sent through the model, forward or backward."""
    return cost.forward + cost.backward


@dataclass(eq=False)
class Candidate:
    """A method in one setting.

    Attributes:
        name: of the method.
        method: made, at the layer it looks at.
        setting: what it was made with; None where the user made it.
        cost: model evaluations that one example takes.
    """

    name: str
    method: Method
    setting: Setting | None = None
    cost: int = 0

    @property
    def told(self) -> str:
        """Such as ``IntegratedGradients(n_steps=50)``."""
        told = [f"{name}={value!r}" for name, value in self.options.items()]
        return f"{self.name}({', '.join(told)})" if told else self.name

    @property
    def options(self) -> dict[str, Any]:
        """What differs from the method's own defaults."""
        told = self.method.options()
        site = {"at": str(self.method.at)} if self.method.at is not None else {}
        base = {"baselines": "mean"} if self.setting is not None and self.setting.base == "mean" else {}
        fields = {f.name: f.default for f in dataclasses.fields(self.method) if f.name in told}
        changed = {name: told[name] for name, default in fields.items() if getattr(self.method, name) is not default}
        return site | {name: value for name, value in changed.items() if value != fields[name]} | base


class Bench:
    """One question about N examples, put to any method and judged by any metric.

    Args:
        model: a module or function.
        inputs: (N, ...) or a tuple of such.
        at: the layer that is explained; None is the input.
        target: as for `Method.attribute`.
        baselines: what methods with one baseline compare with, and what metrics put in the place of what is removed.
        background: rows that methods with a set of baselines compare with; None takes some of the inputs.
        extra: further arguments of the model.
        batch_size: rows per pass.
        progress: show a bar.
    """

    def __init__(
        self,
        model: Any,
        inputs: Any,
        at: At,
        target: Any,
        baselines: Any,
        background: Any,
        extra: Any,
        batch_size: int | None,
        progress: Progress,
    ) -> None:
        tensors, _ = as_tensors(inputs)
        self.model, self.extra, self._given = model, as_arguments(extra), background
        self.cost = Allowance()
        self.p = Problem(
            model,
            tensors,
            extra=self.extra,
            at=at,
            target=target,
            baselines=baselines,
            batch_size=batch_size,
            progress=progress,
        )
        self.p.count_in(self.cost)
        self.at = at if self.p.site is None else str(self.p.site) if isinstance(at, nn.Module) else at
        self._background: Tensors | None = None

    @property
    def evaluations(self) -> int:
        """Rows so far."""
        return rows(self.cost)

    def question(self, examples: Tensor, p: Problem | None = None) -> Problem:
        """The question about some of the examples."""
        return (p or self.p).select(examples)

    def asked(self, candidate: Candidate, question: Problem) -> Problem:
        """The question as a method wants it: at its layer, with its kind of baseline."""
        method, facts = candidate.method, candidate.method.facts
        compared: dict[str, Any] = {"zero_at_site": facts.zero_at_layer, "precision": method._precision()}
        if facts.baselines == "set":
            compared |= {"baselines": self.background.parts, "baseline_set": True}
        elif candidate.setting is not None and candidate.setting.base == "mean":
            means = self.background.map(lambda t: t.mean(0, keepdim=True).expand(question.size, *t.shape[1:]))
            compared["baselines"] = means.parts
        return question.elsewhere(method.at, **compared)

    @property
    def background(self) -> Tensors:
        """Rows to compare with."""
        if self._background is None:
            self._background = self.p.background(
                self.p.inputs[:BACKGROUND].parts if self._given is None else self._given
            )
        return self._background

    def explain(self, candidate: Candidate, question: Problem) -> Tensors:
        """Attributions of what is explained, (B, ...).

        Of the input, to the size of which maps of a layer are enlarged; or of all that the layer holds, where a map has
        one value for all channels.
        """
        p = self.asked(candidate, question)
        values = candidate.method._compute(p).values.double_for_sums()
        if question.site is None:
            return at_input(values, question.inputs)
        return formed(candidate.method._as_held(p, values), p.point).map(lambda v, t: v.expand(t.shape), p.point)

    def part(self, examples: Tensor) -> Judged:
        """Some of the examples, to be judged."""
        question = self.question(examples)
        return Judged(question.size, question.inputs, mask=None, explainer=None, signed=True, _problem=question)

    def controls(self, part: Judged, metrics: Sequence[Metric]) -> dict[str, dict[str, Tensor]]:
        """(B,) what each metric says of attributions that know nothing of the model; higher is better."""
        plain = part.other(part.p.point.map(lambda t: torch.ones_like(t, dtype=_wide(t))))
        return {name_of(m): {rival: up(m, m._control(plain, rival).value) for rival in RIVALS} for m in metrics}

    def judge(self, part: Judged, metrics: Sequence[Metric], values: Tensors, *, signed: bool) -> dict[str, Tensor]:
        """(B,) what each metric says of some attributions; higher is better, NaN where it is not defined."""
        judged = dataclasses.replace(part.other(values), signed=signed)
        return {name_of(m): up(m, m.compute(judged).value) for m in metrics}

    def judge_method(self, candidate: Candidate, metric: Metric, question: Problem) -> Tensor:
        """(B,) what a metric says that explains again."""
        method = candidate.method
        asked = self.asked(candidate, question)
        signed = method.facts.signed
        judged = Judged(question.size, question.inputs, mask=None, explainer=method, signed=signed, _problem=asked)
        return up(metric, metric.compute(judged).value)

    def try_out(self, candidate: Candidate, question: Problem, most: float) -> Tensors:
        """Explain one example and set the candidate's cost.

        Raises:
            Spent: it takes more than ``most`` evaluations.
            TorchwhyError: it does not run here.
        """
        method = candidate.method
        candidate.method = method.with_options(at=self._place(method))
        before = self.evaluations
        part = self.question(torch.zeros(1, dtype=torch.long, device=question.inputs.device), question)
        part.batch_size = TRIAL_ROWS
        self.cost.most = before + most
        try:
            found = self.explain(candidate, part)
        finally:
            self.cost.most = float("inf")
        candidate.cost = self.evaluations - before
        return found

    def _place(self, method: Method) -> At:
        """Where a method looks: the layer that is compared at, or at the input the one that it chooses itself."""
        if self.at is None:
            return method._site(self.p.inputs, self.extra)
        if method.at is not None and whole_place(self.model, method.at) != self.p.site:
            given = whole_place(self.model, method.at)
            raise TorchwhyError(f"it was made for {given}, and the comparison is at {self.p.site}")
        return self.at


def name_of(metric: Metric) -> str:
    """By which it is called in tables."""
    return type(metric).__name__


def up(metric: Metric, value: Tensor) -> Tensor:
    """The value of a metric with its sign such that higher is better, in float64."""
    return value.double() if metric.direction == "higher" else -value.double()


def _wide(t: Tensor) -> torch.dtype:
    return accumulator(t.dtype) if t.is_floating_point() else torch.float32


def at_input(values: Tensors, inputs: Tensors) -> Tensors:
    """Attributions in the form of the inputs, to which maps are enlarged."""

    def each(v: Tensor, t: Tensor) -> Tensor:
        is_map = v.ndim == t.ndim > 2 and v.shape[2:] != t.shape[2:] and v.shape[1] == 1
        return enlarge(v, tuple(t.shape[2:]), "bilinear") if is_map else v

    enlarged: Iterable[Tensor] = map(each, values, inputs) if len(values) == len(inputs) else values
    return formed(Tensors(enlarged), inputs)
