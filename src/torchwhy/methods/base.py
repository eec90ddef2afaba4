"""What every method is: options, a question put to a model, and one formula."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core import evidence
from torchwhy.core.errors import TorchwhyError, Unfinished
from torchwhy.core.evidence import Check, Sample
from torchwhy.core.explanation import Explanation, digest, fingerprint
from torchwhy.core.guard import Arguments, as_arguments, module_of, untouched
from torchwhy.core.options import Options
from torchwhy.core.options import at_least as at_least  # noqa: PLC0414  the methods have it from here
from torchwhy.core.passes import Cost
from torchwhy.core.precision import Precision
from torchwhy.core.problem import Problem
from torchwhy.core.progress import Progress
from torchwhy.core.site import At
from torchwhy.core.target import TargetLike
from torchwhy.core.tensors import TensorOrTensors, Tensors, as_tensors
from torchwhy.core.versions import versions
from torchwhy.engines.gradients import Moments
from torchwhy.engines.spread import student
from torchwhy.registry import Info

Level: TypeAlias = Literal["free", "basic", "full"]


@dataclass
class Attribution:
    """What a method has computed.

    Attributes:
        values: (B, ...) at the site.
        standard_error: of each value, for sampling methods.
        freedom: degrees of freedom of the standard errors, of which a 95 % interval is made.
        sample: from which they come, where that is known.
        total_error: standard error of the sum of the values, (B,), for sampling methods.
        change: how much the last refinement changed the values, relative, (B,), for path methods.
        reached: (B,) the asked tolerance was reached.
        details: more for the record, in plain numbers.
        checks: evidence of the method's own.
        stopped: the user has interrupted it, and the values come from what there was, or the checks are some of them.
    """

    values: Tensors
    standard_error: Tensors | None = None
    freedom: int | None = None
    sample: Sample | None = None
    total_error: Tensor | None = None
    change: Tensor | None = None
    reached: Tensor | None = None
    details: dict[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    stopped: bool = False

    @staticmethod
    def mean(moments: Moments) -> Attribution:
        """The mean of draws, with its standard error where there are several."""
        if moments.count < 2:
            return Attribution(moments.mean)
        return Attribution(moments.mean, moments.standard_error(), moments.count - 1)


@dataclass(kw_only=True, eq=False)
class Method(Options, ABC):
    """An explanation method with its options.

    Args:
        model: a module or function; its first arguments are the inputs.
        at: the place to explain: a layer, its name, a `Site`, or a list of these, see `torchwhy.core.site.Sites`; None
            is the input.
        batch_size: rows per pass; None measures what fits.
        progress: show a progress bar; None does on a terminal.
    """

    info: ClassVar[Info]

    model: Any = field(kw_only=False, repr=False)
    at: At = None
    batch_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TorchwhyError(f"a model is a module or a function, not {type(self.model).__name__}")
        if self._precision() not in ("full", "mixed"):
            raise TorchwhyError(f"precision is 'full' or 'mixed', not {self._precision()!r}")

    # -- what a subclass writes -----------------------------------------------------------------------------------

    @abstractmethod
    def compute(self, p: Problem) -> Attribution:
        """The method's formula."""

    def total(self, p: Problem) -> Tensor | None:
        """What the values promise to add up to, (B,); None where the method promises nothing of the kind."""
        return None

    def account(self, p: Problem) -> dict[str, Any]:
        """More for the record that takes a pass of its own, made with ``check="basic"``."""
        return {}

    @property
    def facts(self) -> Info:
        """The facts about this method with these options."""
        return self.info

    # -- what a user calls ----------------------------------------------------------------------------------------

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Any = None,
        target: TargetLike = None,
        additional_forward_args: Any = None,
        *,
        layer_baselines: Any = None,
        **options: Any,
    ) -> TensorOrTensors:
        """The attributions alone.

        Args:
            inputs: (B, ...) or a tuple of such.
            baselines: to compare with; numbers, or tensors that broadcast to the inputs, or one of these per input.
            target: what is explained, see `torchwhy.core.target`; None is the model's own prediction.
            additional_forward_args: further arguments of the model, a tuple, or a dict of those that go by name;
                tensors with B rows belong to the examples.
            layer_baselines: to compare with at a layer, in its own shape; a list with one for each of several layers.
            options: replace this method's options for this call.

        Returns:
            Values in the shape of the inputs, or of what the layer holds; a tuple where those are, and a list with an
            entry for each layer where ``at`` is a list.

        Raises:
            TorchwhyError: what was given does not fit, or the promise of the method cannot be kept.
        """
        method = self.with_options(**options)
        with method._open(inputs, baselines, target, additional_forward_args, layer_baselines) as (
            p,
            was_tuple,
        ):
            return method._values(p, method._compute(p), was_tuple)

    def explain(
        self,
        inputs: TensorOrTensors,
        baselines: Any = None,
        target: TargetLike = None,
        additional_forward_args: Any = None,
        *,
        layer_baselines: Any = None,
        check: Level = "free",
        data: tuple[Any, Any] | None = None,
        classes: tuple[str, ...] | None = None,
        resume: Explanation | Unfinished | None = None,
        **options: Any,
    ) -> Explanation:
        """The attributions with their evidence.

        Where the user interrupts (Ctrl-C) a method that samples, and enough is there for a standard error, the
        explanation is made of what there is and says so; and where the checks are interrupted, it is whole and has the
        answers that were there. Anything else, a second Ctrl-C, and `attribute`, which could not say so, end with the
        interrupt. Where rows were evaluated by then, it is an `Unfinished`, with which
        ``resume`` goes on.

        Takes what `attribute` takes, and

        Args:
            check: "free" uses what the method has computed anyway; "basic" also removes what the explanation marks and
                compares with removing as much elsewhere; "full" also asks whether the model has learnt anything and
                decides for what is explained, and explains again: see `torchwhy.trust`.
            data: with ``check="full"``, reference inputs and their classes, to measure the model's accuracy on.
            classes: names of the model's outputs, for people.
            resume: an explanation that was interrupted in this session, or the `Unfinished` it ended with, to go on
                with: the same question, whose evaluated rows are not evaluated again. Only the size of the sample may
                be another.
        """
        method = self.with_options(**options)
        _check_level(check, data)
        names = _names(classes)
        asked = {
            "model": fingerprint(self.model),
            "inputs, baselines or arguments": digest((inputs, baselines, additional_forward_args, layer_baselines)),
        }
        with method._open(inputs, baselines, target, additional_forward_args, layer_baselines) as (
            p,
            was_tuple,
        ):
            p.partial, p.memories = True, {} if resume is None else method._memories(p, asked, resume)
            try:
                made = method._explained(p, was_tuple, check, names, data)
            except KeyboardInterrupt as interrupt:
                if not p.memories:
                    raise
                told = type(self).__name__, None if p.site is None else str(p.site), tuple(p.target.names(p.size))
                raise Unfinished(*told, p.memories | {"asked": asked}) from interrupt
            if made.memories is not None:
                made.memories["asked"] = asked
        made.provenance["was_in_training_mode"] = self._in_training_mode()
        return made

    def attribute_each(
        self,
        inputs: TensorOrTensors,
        targets: Sequence[Any] | None = None,
        baselines: Any = None,
        additional_forward_args: Any = None,
        *,
        layer_baselines: Any = None,
        **options: Any,
    ) -> list[TensorOrTensors]:
        """What `attribute` gives for each of several targets, as `explain_each` does."""
        method = self.with_options(**options)
        with method._open(inputs, baselines, None, additional_forward_args, layer_baselines) as (p, was_tuple):
            return [method._values(part, method._compute(part), was_tuple) for part in p.aimed(targets)]

    def explain_each(
        self,
        inputs: TensorOrTensors,
        targets: Sequence[Any] | None = None,
        baselines: Any = None,
        additional_forward_args: Any = None,
        *,
        layer_baselines: Any = None,
        check: Level = "free",
        data: tuple[Any, Any] | None = None,
        classes: tuple[str, ...] | None = None,
        **options: Any,
    ) -> list[Explanation]:
        """An explanation for each of several targets.

        A method on features that come and go evaluates each of its rows once for all targets together, so that they
        cost no more evaluations than one; each target has a backward pass of its own where `ShapleyValues` takes
        derivatives. Any other method runs once for each.

        Args:
            targets: as for `attribute`, one after the other; None is every output of a model (B, classes).

        All else is as for `explain`. An interrupt ends it.
        """
        method = self.with_options(**options)
        _check_level(check, data)
        names = _names(classes)
        with method._open(inputs, baselines, None, additional_forward_args, layer_baselines) as (p, was_tuple):
            made = [method._explained(part, was_tuple, check, names, data) for part in p.aimed(targets)]
        for each in made:
            each.provenance["was_in_training_mode"] = self._in_training_mode()
        return made

    # -- within ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(
        self, inputs: TensorOrTensors, baselines: Any, target: Any, extra: Any, layer_baselines: Any
    ) -> Iterator[tuple[Problem, bool]]:
        """The problem, with the model guarded, and whether the inputs are a tuple."""
        tensors, was_tuple = as_tensors(inputs)
        facts = self.facts
        if facts.baselines == "none" and (baselines is not None or layer_baselines is not None):
            number = isinstance(baselines, int) and not isinstance(baselines, bool)
            hint = f": did you mean target={baselines}?" if number else ": leave them out"
            raise TorchwhyError(f"{type(self).__name__} compares with nothing, so it takes no baselines{hint}")
        if facts.baselines == "set" and layer_baselines is not None:
            raise TorchwhyError(
                f"{type(self).__name__} compares with a set of inputs, which the model carries to the layer: "
                f"give baselines instead of layer_baselines"
            )
        arguments = as_arguments(extra)
        with untouched(self.model, tensors.device):
            yield (
                Problem(
                    self.model,
                    tensors,
                    extra=arguments,
                    at=self._site(tensors, arguments),
                    target=target,
                    baselines=baselines,
                    baseline_set=facts.baselines == "set",
                    layer_baselines=layer_baselines,
                    zero_at_site=facts.zero_at_layer,
                    batch_size=self.batch_size,
                    precision=self._precision(),
                    progress=Progress(self.progress),
                ),
                was_tuple,
            )

    def _values(self, p: Problem, found: Attribution, was_tuple: bool) -> TensorOrTensors:
        """In the form of what is explained."""
        if p.site is not None and self.facts.form != "pairs":
            return p.in_form(found.values)
        return found.values.unwrap(self._as_tuple(p, was_tuple))

    def _explained(
        self, p: Problem, was_tuple: bool, check: Level, names: tuple[str, ...] | None, data: tuple[Any, Any] | None
    ) -> Explanation:
        """The attributions of one problem with their evidence."""
        began, before = time.perf_counter(), dataclasses.replace(p.cost)
        found = self._compute(p)
        if p.memories is not None:
            p.memories.pop("asked", None)  # the checks may be new to what is gone on with
        checks: list[Check] = []
        explained = p.cost.since(before)
        try:
            checks += self._free_checks(p, found)
            explained = p.cost.since(before)
            checks += _independence(p)
            if check != "free":
                from torchwhy import trust  # trust stands above the methods it judges

                # Who has interrupted wants no more explanations.
                thorough = check == "full" and not found.stopped
                checks.extend(  # one after the other, so that an interrupt leaves those that were made
                    trust.full_checks(p, self, found.values, data, names or ())
                    if thorough
                    else trust.basic_checks(p, self, found.values)
                )
                found.details |= self.account(p)
        except KeyboardInterrupt:
            if found.stopped or not p.partial:
                raise
            found.stopped = True
            checks.append(evidence.left_unchecked(p.size, len(checks)))
        after = p.cost.since(before)
        checked = after.forward + after.backward - explained.forward - explained.backward
        seconds = time.perf_counter() - began
        made = self._record(p, found, tuple(checks), explained, checked, was_tuple, names, seconds)
        return dataclasses.replace(made, memories=p.memories) if found.stopped else made

    def _memories(self, p: Problem, asked: dict[str, Any], resume: Explanation | Unfinished) -> dict[Any, Any]:
        """What an interrupted explanation has left, if it was of the same question."""
        if resume.memories is None:
            raise TorchwhyError("resume= goes on with an explanation that was interrupted in this session")
        at = None if p.site is None else str(p.site)
        same = {what: resume.memories["asked"][what] == now for what, now in asked.items()} | {
            "method": resume.method == type(self).__name__,
            "layer": resume.at == at,
            "target": resume.target == tuple(p.target.names(p.size)),
        }
        for what, is_same in same.items():
            if not is_same:
                raise TorchwhyError(f"resume= goes on with the same question, but the {what} changed")
        return dict(resume.memories)

    def _in_training_mode(self) -> bool:
        module = module_of(self.model)
        return module is not None and module.training

    def _site(self, inputs: Tensors, extra: Arguments) -> At:
        return self.at

    def _as_held(self, p: Problem, values: Tensors) -> Tensors:
        """The values in a form that broadcasts to what is explained, so that parts of it can be taken away."""
        return values

    def _precision(self) -> Precision:
        return getattr(self, "precision", "full")

    def _as_tuple(self, p: Problem, was_tuple: bool) -> bool:
        """Whether values are a tuple: like what is explained, but for pairs, which are one matrix."""
        return self.facts.form != "pairs" and (was_tuple if p.site is None else p.was_tuple)

    def _compute(self, p: Problem) -> Attribution:
        found = self.compute(p)
        values = found.values
        dtypes = [t.dtype for t in p.point]
        if self.facts.form == "pairs":
            dtypes = [reduce(torch.promote_types, dtypes)]
        # Attributions of integers, such as pixel values or token ids, are not integers.
        found.values = Tensors(v.to(d) if d.is_floating_point else v for v, d in zip(values, dtypes, strict=True))
        # A finite sum has finite summands, and is found in one reading.
        if not all(v.sum().isfinite() for v in found.values) and (bad := _not_finite(found.values)):
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise TorchwhyError(
                f"the attribution of example {bad[0]}{more} is not finite: a gradient or score on the way overflowed "
                f"or is undefined (a root or logarithm at 0?); try other baselines, a wider dtype, "
                f"or a quadrature that leaves out the ends of the path"
            )
        return found

    def _free_checks(self, p: Problem, found: Attribution) -> tuple[Check, ...]:
        checks: list[Check | None] = list(found.checks)
        promised = self.total(p)
        if promised is not None:
            once = found.values.map(torch.triu) if self.facts.form == "pairs" else found.values
            checks.append(evidence.completeness(once, promised, found.total_error, p.scores))
        if found.change is not None:
            checks.append(evidence.convergence(found.change, getattr(self, "tol", None), found.reached))
        if found.standard_error is not None:
            checks.append(evidence.sampling(found.values, found.standard_error, found.sample))
        if not abs(found.values).flat().amax(1).all():
            moved = promised if promised is not None else p.scores - p.base_scores()
            checks.append(evidence.silence(found.values, moved, p.scores))
        if p.precision == "mixed":
            mixed = p.at_point()[1]
            p.precision = "full"
            checks.append(evidence.mixed_precision(p.at_point()[1], mixed))
        return tuple(c for c in checks if c is not None)

    def _record(
        self,
        p: Problem,
        found: Attribution,
        checks: tuple[Check, ...],
        explained: Cost,
        checked: int,
        was_tuple: bool,
        classes: tuple[str, ...] | None,
        seconds: float,
    ) -> Explanation:
        as_tuple = self._as_tuple(p, was_tuple)
        if classes is not None and p.output is not None and len(classes) != p.output.shape[1]:
            raise TorchwhyError(f"{len(classes)} classes were named, but the model gives {p.output.shape[1]} outputs")
        module = module_of(self.model)
        wide = {} if found.freedom is None else {"interval_95": student(found.freedom)}
        return Explanation(
            values=found.values.unwrap(as_tuple),
            inputs=p.inputs.map(torch.clone).unwrap(was_tuple),  # what happens to the user's tensors later is not shown
            scores=p.scores,
            target=tuple(p.target.names(p.size, classes)),
            method=type(self).__name__,
            at=None if p.site is None else str(p.site),
            predicted=p.target.predicted,
            options=self.options(),
            evidence=checks,
            provenance={
                "model": type(module if module is not None else self.model).__name__,
                "fingerprint": fingerprint(self.model),
                "dtype": str(p.point.parts[0].dtype).removeprefix("torch."),
                "device": str(p.point.device),
                "forward_rows": explained.forward,
                "backward_rows": explained.backward,
                "check_rows": checked,
                "seconds": round(seconds, 4),
                **versions(),
                **wide,
                **found.details,
            },
            output=p.output,
            standard_error=None if found.standard_error is None else found.standard_error.unwrap(as_tuple),
            signed=self.facts.signed,
            classes=classes,
            form=self.facts.form,
        )


def _not_finite(values: Tensors) -> list[int]:
    """The examples with values that are NaN or infinite."""
    each = [v.flatten(1).isfinite().all(1) if v.ndim > 1 else v.isfinite() for v in values]
    found: list[int] = (~torch.stack(each).all(0)).nonzero().flatten().tolist()
    return found


def _independence(p: Problem) -> tuple[Check, ...]:
    """Score the first example beside its baseline: is it what it was beside the other examples?"""
    if p.batch_size == 1:  # no row ever has others
        return ()
    pair = Tensors.cat([p.point[:1], p.base[:1]])
    first = torch.zeros(2, dtype=torch.long, device=p.inputs.device)
    beside = p.recall("beside", lambda: p.every_row_score(pair, first))[0]
    found = evidence.independence(p.scores, beside)
    return () if found is None else (found,)


def _check_level(check: object, data: object) -> None:
    if check not in ("free", "basic", "full"):
        raise TorchwhyError(f"check is 'free', 'basic' or 'full', not {check!r}")
    if data is not None and check != "full":
        raise TorchwhyError(f"data= is looked at by check='full' alone, not by check={check!r}")


def _names(classes: object) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if not isinstance(classes, tuple | list) or not all(isinstance(name, str) for name in classes):
        raise TorchwhyError(f"classes are the names of the model's outputs, a tuple of str, not {classes!r}")
    return tuple(classes)
