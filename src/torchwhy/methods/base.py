"""What every method is: options, a question put to a model, and one formula."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

from torchwhy.core import evidence
from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.evidence import Check
from torchwhy.core.explanation import Explanation, fingerprint
from torchwhy.core.guard import module_of, untouched
from torchwhy.core.problem import Precision, Problem
from torchwhy.core.progress import Progress
from torchwhy.core.site import Site
from torchwhy.core.target import TargetLike
from torchwhy.core.tensors import TensorOrTensors, Tensors, as_tensors
from torchwhy.core.versions import versions
from torchwhy.registry import Info

Level: TypeAlias = Literal["free", "basic"]


@dataclass
class Attribution:
    """What a method has computed.

    Attributes:
        values: (B, ...) at the site.
        standard_error: of each value, for sampling methods.
        total_error: standard error of the sum of the values, (B,), for sampling methods.
        change: how much the last refinement changed the values, relative, (B,), for path methods.
        reached: (B,) the asked tolerance was reached.
        details: more for the record, in plain numbers.
    """

    values: Tensors
    standard_error: Tensors | None = None
    total_error: Tensor | None = None
    change: Tensor | None = None
    reached: Tensor | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class Method(ABC):
    """An explanation method with its options.

    Args:
        model: a module or function; its first arguments are the inputs.
        at: the place to explain: a layer, its name, or a `Site`; None is the input.
        batch_size: rows per pass; None measures what fits.
        progress: show a progress bar; None does on a terminal.
    """

    info: ClassVar[Info]

    model: Any = field(kw_only=False, repr=False)
    at: str | nn.Module | Site | None = None
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
            additional_forward_args: further arguments of the model; tensors with B rows belong to the examples.
            layer_baselines: to compare with at a layer, in its own shape.
            options: replace this method's options for this call.

        Returns:
            Values in the shape of the inputs, or of what the layer holds; a tuple where those are.

        Raises:
            TorchwhyError: what was given does not fit, or the promise of the method cannot be kept.
        """
        method = self.with_options(**options)
        with method._open(inputs, baselines, target, additional_forward_args, layer_baselines) as (
            p,
            was_tuple,
        ):
            found = method._compute(p)
            return found.values.unwrap(was_tuple if p.site is None else p.was_tuple)

    def explain(
        self,
        inputs: TensorOrTensors,
        baselines: Any = None,
        target: TargetLike = None,
        additional_forward_args: Any = None,
        *,
        layer_baselines: Any = None,
        check: Level = "free",
        classes: tuple[str, ...] | None = None,
        **options: Any,
    ) -> Explanation:
        """The attributions with their evidence.

        Takes what `attribute` takes, and

        Args:
            check: "free" uses what the method has computed anyway; "basic" also removes what the explanation marks and
                compares with removing as much elsewhere.
            classes: names of the model's outputs, for people.
        """
        method = self.with_options(**options)
        if check not in ("free", "basic"):
            raise TorchwhyError(f"check is 'free' or 'basic', not {check!r}")
        names = _names(classes)
        module = module_of(self.model)
        was_training = module is not None and module.training
        began = time.perf_counter()
        with method._open(inputs, baselines, target, additional_forward_args, layer_baselines) as (
            p,
            was_tuple,
        ):
            found = method._compute(p)
            checks = method._free_checks(p, found)
            explained = dataclasses.replace(p.cost)
            checks += _independence(p)
            if check == "basic":
                from torchwhy import trust  # trust stands above the methods it judges

                checks += trust.basic_checks(p, found.values, signed=method.facts.signed)
            seconds = time.perf_counter() - began
            made = method._record(p, found, checks, explained, was_tuple, names, seconds)
        made.provenance["was_in_training_mode"] = was_training
        return made

    def with_options(self, **options: Any) -> Self:
        """This method with some options replaced."""
        if not options:
            return self
        known = [f.name for f in dataclasses.fields(self) if f.init]
        for name in options:
            if name not in known:
                raise TorchwhyError(f"{type(self).__name__} has no option {name!r}{closest(name, known)}")
        return dataclasses.replace(self, **options)

    def options(self) -> dict[str, Any]:
        """The options that decide the numbers."""
        hidden = {"model", "at", "batch_size", "progress"}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden}

    # -- within ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(
        self, inputs: TensorOrTensors, baselines: Any, target: Any, extra: Any, layer_baselines: Any
    ) -> Iterator[tuple[Problem, bool]]:
        """The problem, with the model guarded, and whether the inputs are a tuple."""
        tensors, was_tuple = as_tensors(inputs)
        if self.facts.baselines == "none" and (baselines is not None or layer_baselines is not None):
            number = isinstance(baselines, int) and not isinstance(baselines, bool)
            hint = f": did you mean target={baselines}?" if number else ": leave them out"
            raise TorchwhyError(f"{type(self).__name__} compares with nothing, so it takes no baselines{hint}")
        if self.facts.baselines == "set" and layer_baselines is not None:
            raise TorchwhyError(
                f"{type(self).__name__} compares with a set of inputs, which the model carries to the layer: "
                f"give baselines instead of layer_baselines"
            )
        arguments = () if extra is None else extra if isinstance(extra, tuple) else (extra,)
        with untouched(self.model, tensors.device):
            yield (
                Problem(
                    self.model,
                    tensors,
                    extra=arguments,
                    at=self._site(tensors, arguments),
                    target=target,
                    baselines=baselines,
                    baseline_set=self.facts.baselines == "set",
                    layer_baselines=layer_baselines,
                    zero_at_site=self.facts.zero_at_layer,
                    batch_size=self.batch_size,
                    precision=self._precision(),
                    progress=Progress(self.progress),
                ),
                was_tuple,
            )

    def _site(self, inputs: Tensors, extra: tuple[Any, ...]) -> str | nn.Module | Site | None:
        return self.at

    def _precision(self) -> Precision:
        return getattr(self, "precision", "full")

    def _compute(self, p: Problem) -> Attribution:
        found = self.compute(p)
        values = found.values
        # Attributions of integers, such as pixel values or token ids, are not integers.
        found.values = values.map(lambda v, t: v.to(t.dtype) if t.is_floating_point() else v, p.point)
        finite = torch.stack(
            [v.flatten(1).isfinite().all(1) if v.ndim > 1 else v.isfinite() for v in found.values]
        ).all(0)
        if not finite.all():
            bad = (~finite).nonzero().flatten().tolist()
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise TorchwhyError(
                f"the attribution of example {bad[0]}{more} is not finite: a gradient or score on the way overflowed "
                f"or is undefined (a root or logarithm at 0?); try other baselines, a wider dtype, "
                f"or a quadrature that leaves out the ends of the path"
            )
        return found

    def _free_checks(self, p: Problem, found: Attribution) -> tuple[Check, ...]:
        checks: list[Check | None] = []
        promised = self.total(p)
        if promised is not None:
            checks.append(evidence.completeness(found.values, promised, found.total_error, p.scores))
        if found.change is not None:
            checks.append(evidence.convergence(found.change, getattr(self, "tol", None), found.reached))
        if found.standard_error is not None:
            checks.append(evidence.sampling(found.values, found.standard_error))
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
        explained: Any,
        was_tuple: bool,
        classes: tuple[str, ...] | None,
        seconds: float,
    ) -> Explanation:
        as_tuple = was_tuple if p.site is None else p.was_tuple
        if classes is not None and p.output is not None and len(classes) != p.output.shape[1]:
            raise TorchwhyError(f"{len(classes)} classes were named, but the model gives {p.output.shape[1]} outputs")
        module = module_of(self.model)
        return Explanation(
            values=found.values.unwrap(as_tuple),
            inputs=p.inputs.map(torch.clone).unwrap(was_tuple),  # what happens to the user's tensors later is not shown
            scores=p.scores,
            target=tuple(p.target.names(p.size)),
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
                "check_rows": p.cost.forward - explained.forward,
                "seconds": round(seconds, 4),
                **versions(),
                **found.details,
            },
            output=p.output,
            standard_error=None if found.standard_error is None else found.standard_error.unwrap(as_tuple),
            signed=self.facts.signed,
            classes=classes,
        )


def _independence(p: Problem) -> tuple[Check, ...]:
    """Score the first example beside its baseline: is it what it was beside the other examples?"""
    if p.batch_size == 1:  # no row ever has others
        return ()
    pair = Tensors.cat([p.point[:1], p.base[:1]])
    beside = p.rows_scores(pair, torch.zeros(2, dtype=torch.long, device=p.inputs.device))[0]
    found = evidence.independence(p.scores, beside)
    return () if found is None else (found,)


def _names(classes: object) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if not isinstance(classes, tuple | list) or not all(isinstance(name, str) for name in classes):
        raise TorchwhyError(f"classes are the names of the model's outputs, a tuple of str, not {classes!r}")
    return tuple(classes)


def at_least(name: str, value: Any, least: int) -> None:
    """An option that counts something."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TorchwhyError(f"{name} is a whole number of at least {least}, not {value!r}")
