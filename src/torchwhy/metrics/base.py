"""What every metric is: options, something to judge, and one formula."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.explanation import Explanation
from torchwhy.core.guard import Arguments, as_arguments, untouched
from torchwhy.core.options import Options
from torchwhy.core.precision import Precision
from torchwhy.core.problem import Problem
from torchwhy.core.progress import Progress
from torchwhy.core.site import At, Sites
from torchwhy.core.target import TargetLike
from torchwhy.core.tensors import TensorOrTensors, Tensors, as_tensors
from torchwhy.engines.weights import copied
from torchwhy.metrics.controls import CONTROLS
from torchwhy.metrics.rating import Rating
from torchwhy.registry import Info, MetricInfo, methods

_R = TypeVar("_R")
_INDICES = re.compile(r"\d+(, \d+)*")


@runtime_checkable
class Explainer(Protocol):
    """What can explain again: every `torchwhy.Method`."""

    model: Any

    @property
    def facts(self) -> Info:
        """The facts about it."""

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Any = None,
        target: TargetLike = None,
        additional_forward_args: Any = None,
        **options: Any,
    ) -> TensorOrTensors:
        """The attributions."""

    def with_options(self, **options: Any) -> Self:
        """The same with other options."""

    def total(self, p: Problem) -> Tensor | None:
        """What the values promise to add up to, (B,); None where nothing of the kind is promised."""

    def _compute(self, p: Problem) -> Any: ...

    def _site(self, inputs: Tensors, extra: Arguments) -> At: ...

    def _precision(self) -> Precision: ...


Explained: TypeAlias = TensorOrTensors | Explanation | Explainer


@dataclass(eq=False)
class Judged:
    """What a metric judges: attributions, and what they are of.

    Attributes:
        size: the number of explanations, B.
        inputs: (B, ...), where they are known.
        mask: what should be marked, broadcast to the attributions; None where it was not given.
        explainer: what can explain again; None where attributions were given.
        signed: positive values raise the score and negative ones lower it; otherwise values are sizes.
        memory: what metrics that judge the same question share, such as games with the rows already played.
        memory_of_values: what they share where the attributions are the same as well.
    """

    size: int
    inputs: Tensors | None
    mask: Tensors | None
    explainer: Explainer | None
    signed: bool
    memory: dict[Any, Any] = field(default_factory=dict)
    memory_of_values: dict[Any, Any] = field(default_factory=dict)
    _values: Tensors | None = None
    _problem: Problem | None = None
    _was_tuple: bool = False
    _baselines: Any = None
    _extra: Any = None
    _target: Any = None

    @property
    def values(self) -> Tensors:
        """The attributions, (B, ...) each, in at least float32."""
        if self._values is None:
            self._values = self._explained(self.p)
        return self._values

    @property
    def p(self) -> Problem:
        """The question that was explained: scores, the point, its baseline."""
        if self._problem is None:
            raise TorchwhyError("this asks the model about the inputs: give both")
        return self._problem

    def again(self, inputs: Tensors, copies: int = 1) -> Tensors:
        """The method's attributions of every example ``copies`` times with other inputs, for the same target.

        Args:
            inputs: (copies * B, ...), the first B of them for the examples in their order.
            copies: so many for each example.
        """
        return self._explained(self.p.moved(inputs, copies))

    def with_model(self, model: Any, inputs: Tensors | None = None) -> Tensors:
        """The method's attributions of the same inputs, or of these, for the same target of another model."""
        inputs = self.inputs if inputs is None else inputs
        assert inputs is not None
        wanted = self.p.target.of_another(self._target)
        baselines = None if self._explainer.facts.baselines == "none" else self._baselines
        found = self._explainer.with_options(model=model).attribute(
            inputs.unwrap(self._was_tuple), baselines, wanted, self._extra
        )
        return formed(as_tensors(found)[0].double_for_sums(), self.p.point)

    def beside(self, other: Explained) -> Tensors:
        """The attributions of another explanation of the same inputs, (B, ...) each."""
        if isinstance(other, Explainer):
            if self.inputs is None:
                raise TorchwhyError("a method explains inputs: give them as well, score(explained, inputs)")
            baselines = None if other.facts.baselines == "none" else self._baselines
            found = other.attribute(self.inputs.unwrap(self._was_tuple), baselines, self._target, self._extra)
        else:
            found = other.values if isinstance(other, Explanation) else other
        values = checked(found)
        if values.size != self.size:
            raise TorchwhyError(f"an explanation of {values.size} examples is not beside one of {self.size}")
        point = self.inputs if self._problem is None else self.p.point
        return values if point is None else formed(values, point)

    def twin(self) -> Judged:
        """The same of a copy of the method, whose model is a copy as well and may be changed."""
        wanted = self.p.target.of_another(self._target)
        explainer, wanted = copied((self._explainer, wanted))
        return dataclasses.replace(self, explainer=explainer, _target=wanted, _problem=self._put_to(explainer, wanted))

    def anew(self) -> Judged:
        """The same of the method's model as it is now, with nothing remembered of how it was."""
        problem = self._put_to(self._explainer, self._target)
        return dataclasses.replace(self, memory={}, memory_of_values={}, _values=None, _problem=problem)

    def _put_to(self, explainer: Explainer, target: Any) -> Problem:
        """The question put to the model of another method."""
        p = self.p
        at = list(p.site.sites) if isinstance(p.site, Sites) else p.site
        problem = Problem(
            explainer.model,
            p.inputs,
            extra=p.extra,
            at=at,
            target=target,
            baselines=self._baselines,
            baseline_set=p._baseline_set,
            layer_baselines=p._layer_baselines,
            zero_at_site=p._zero_at_site,
            batch_size=p.batch_size,
            precision=p.precision,
        )
        # Cost is counted together, and what is known of memory holds for a copy.
        problem._shared = dataclasses.replace(p._shared, reached=False, behind={})
        return problem

    @property
    def _explainer(self) -> Explainer:
        if self.explainer is None:
            raise TorchwhyError("this explains again: give a method in place of attributions")
        return self.explainer

    def _explained(self, p: Problem) -> Tensors:
        found: Tensors = self._explainer._compute(p).values
        return formed(found.double_for_sums(), p.point)

    def remember(self, key: Any, make: Callable[[], _R], *, of_values: bool = False) -> _R:
        """What ``make`` gave the first time it was asked for under this key."""
        memory = self.memory_of_values if of_values else self.memory
        if key not in memory:
            memory[key] = make()
        made: _R = memory[key]
        return made

    def other(self, values: Tensors) -> Judged:
        """The same with other attributions; what was remembered of the question is kept."""
        return dataclasses.replace(self, _values=values, explainer=None, memory_of_values={})

    def select(self, i: int) -> Judged:
        """One example, still as a batch of one."""
        return self.remember(("example", i), lambda: self._select(slice(i, i + 1)), of_values=True)

    def _select(self, part: slice) -> Judged:
        def problem() -> Problem | None:
            number = torch.tensor([part.start], device=self.values.device)
            return None if self._problem is None else self._problem.select(number)

        return dataclasses.replace(
            self,
            size=1,
            inputs=None if self.inputs is None else self.inputs[part],
            mask=None if self.mask is None else self.mask[part],
            explainer=None,
            memory=self.remember(("memory of example", part.start), dict),
            memory_of_values={},
            _values=self.values[part],
            _problem=self.remember(("problem of example", part.start), problem),
        )


@dataclass(kw_only=True, eq=False)
class Metric(Options, ABC):
    """A measure of explanations with its options.

    Args:
        model: what was explained; metrics that look at the attributions alone need none, and a method brings its own.
        at: the place that was explained, as for a method.
        controls: also judge attributions that know nothing of the model, see `torchwhy.metrics.controls`.
        batch_size: rows per pass; None measures what fits.
        progress: show a progress bar; None does on a terminal.
    """

    info: ClassVar[MetricInfo]

    model: Any = field(default=None, kw_only=False, repr=False)
    at: At = None
    controls: tuple[str, ...] = ()
    batch_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.model is not None and not callable(self.model):
            raise TorchwhyError(f"a model is a module or a function, not {type(self.model).__name__}")
        if isinstance(self.controls, str):
            raise TorchwhyError(f"controls are a tuple of names, ({self.controls!r},), not {self.controls!r}")
        for name in self.controls:
            if name not in CONTROLS:
                raise TorchwhyError(f"there is no control {name!r}{closest(name, CONTROLS)}")
        if self.controls and "explainer" in self.info.needs:
            raise TorchwhyError(f"{type(self).__name__} judges a method, and a control is none: leave controls out")

    @property
    def direction(self) -> str:
        """Which values are better with these options, "higher", "lower" or "none"."""
        return self.info.direction

    @property
    def units(self) -> str:
        """Of the value with these options, "" for a pure number."""
        return self.info.units

    @abstractmethod
    def compute(self, judged: Judged) -> Rating:
        """The metric's formula: value, reasons, standard error, curve and details."""

    def score(
        self,
        explained: Explained,
        inputs: TensorOrTensors | None = None,
        baselines: Any = None,
        target: TargetLike = None,
        additional_forward_args: Any = None,
        *,
        layer_baselines: Any = None,
        mask: TensorOrTensors | None = None,
        **options: Any,
    ) -> Rating:
        """Judge explanations.

        Args:
            explained: attributions (B, ...), an `Explanation`, or a method, which then explains the inputs. An
                `Explanation` brings its inputs and its target; what else it was made with is given here.
            inputs: (B, ...) or a tuple of such, what was explained.
            baselines: what takes the place of absent features, and what a method compares with.
            target: what was explained, see `torchwhy.core.target`; None is the model's own prediction.
            additional_forward_args: further arguments of the model.
            layer_baselines: as for a method.
            mask: what should be marked, for metrics of localisation: booleans that broadcast to the attributions.
            options: replace this metric's options for this call.

        Raises:
            TorchwhyError: what was given does not fit, or the metric needs something that was not given.
        """
        metric = self.with_options(**options)
        with metric.judging(
            explained, inputs, baselines, target, additional_forward_args, layer_baselines=layer_baselines, mask=mask
        ) as judged:
            return metric.judge(judged)

    def judge(self, judged: Judged) -> Rating:
        """The score of what was opened by `judging`, with its controls and the facts for the record."""
        p = judged._problem
        before = 0 if p is None else p.cost.forward
        found = self.compute(judged)
        rows = 0 if p is None else p.cost.forward - before
        controls = {name: self._control(judged, name) for name in self.controls}
        return dataclasses.replace(
            found,
            controls={name: control.value for name, control in controls.items()},
            control_reasons={name: control.reasons for name, control in controls.items()},
            metric=type(self).__name__,
            direction=self.direction,
            units=self.units,
            options=self.options(),
            evaluations=rows,
        )

    @contextmanager
    def judging(
        self,
        explained: Explained,
        inputs: TensorOrTensors | None = None,
        baselines: Any = None,
        target: TargetLike = None,
        additional_forward_args: Any = None,
        *,
        layer_baselines: Any = None,
        mask: TensorOrTensors | None = None,
    ) -> Iterator[Judged]:
        """What is to be judged, with the model guarded; takes what `score` takes."""
        self.needs(explained, inputs, mask)
        explainer = explained if isinstance(explained, Explainer) else None
        record = explained if isinstance(explained, Explanation) else None
        if record is not None:
            inputs = record.inputs if inputs is None else inputs
            target = _target_of(record) if target is None else target
        model, at = self.model, self.at
        if explainer is not None:
            if model is not None and model is not explainer.model:
                raise TorchwhyError(f"{type(self).__name__} was made with another model than the method it judges")
            model = explainer.model
        tensors, was_tuple = (None, False) if inputs is None else as_tensors(inputs)
        if at is None and explainer is not None and tensors is not None:
            at = explainer._site(tensors, as_arguments(additional_forward_args))
        elif at is None and record is not None:
            at = record.at
        values = None if explainer is not None else checked(record.values if record is not None else explained)
        size = tensors.size if tensors is not None else 0 if values is None else values.size
        judged = Judged(
            size=size,
            inputs=tensors,
            mask=None,
            explainer=explainer,
            signed=record.signed if record is not None else explainer is None or explainer.facts.signed,
            _values=values,
            _was_tuple=was_tuple,
            _baselines=baselines,
            _extra=additional_forward_args,
            _target=target,
        )
        with ExitStack() as stack:
            if model is not None and tensors is not None:
                stack.enter_context(untouched(model, tensors.device))
                judged._problem = Problem(
                    model,
                    tensors,
                    extra=as_arguments(additional_forward_args),
                    at=at,
                    target=target,
                    baselines=baselines,
                    baseline_set=explainer is not None and explainer.facts.baselines == "set",
                    layer_baselines=layer_baselines,
                    zero_at_site=_zero_at_layer(explained),
                    batch_size=self.batch_size,
                    precision="full" if explainer is None else explainer._precision(),
                    progress=Progress(self.progress),
                )
            point = judged.inputs if judged._problem is None else judged.p.point
            if values is not None and point is not None:
                judged._values = formed(values, point)
            judged.mask = None if mask is None else _mask(mask, judged.values)
            yield judged

    def needs(self, explained: Any, inputs: Any, mask: Any) -> None:
        """Raise unless everything is there."""
        name, needs = type(self).__name__, self.info.needs
        explains = isinstance(explained, Explainer)
        facts = explained.facts if isinstance(explained, Explainer) else explained
        if getattr(facts, "form", "elements") == "pairs":
            raise TorchwhyError(f"{name} judges a value per element, not the values of pairs of features")
        if "explainer" in needs and not explains:
            raise TorchwhyError(
                f"{name} explains again, so it judges a method, not {type(explained).__name__}: "
                f"{name}().score(Saliency(model), inputs)"
            )
        if inputs is None and not isinstance(explained, Explanation) and (explains or {"inputs", "model"} & set(needs)):
            raise TorchwhyError(f"{name} needs the inputs that were explained: score(explained, inputs)")
        if "model" in needs and self.model is None and not explains:
            raise TorchwhyError(f"{name} asks the model: make it with one, {name}(model)")
        if ("mask" in needs) != (mask is not None):
            raise TorchwhyError(
                f"{name} needs mask=, what should be marked"
                if mask is None
                else f"{name} looks at no mask: leave it out"
            )

    def _control(self, judged: Judged, name: str) -> Rating:
        """The value for attributions that know nothing of the model, as a mean over the draws that have one."""
        point = judged.inputs if judged._problem is None else judged.p.point
        found = [self.compute(judged.other(values)) for values in CONTROLS[name](judged.values, point)]
        value = torch.stack([each.value for each in found]).nanmean(0)
        return Rating.where(value.isfinite(), value, found[0].reasons)


def _zero_at_layer(explained: Explained) -> bool:
    """Whether the baseline of a layer is zero where none was given, rather than what zero inputs bring about there."""
    if isinstance(explained, Explainer):
        return explained.facts.zero_at_layer
    known = methods().get(explained.method) if isinstance(explained, Explanation) else None
    return known is None or known.info.zero_at_layer


def checked(given: Any) -> Tensors:
    """Attributions as they were given: finite, in at least float32."""
    values, _ = as_tensors(given, "attributions")
    for t in values:
        if t.ndim == 0 or not t.is_floating_point():
            raise TorchwhyError(f"attributions are real numbers (B, ...), not {t.dtype} {tuple(t.shape)}")
        if not t.isfinite().all():
            raise TorchwhyError("the attributions hold NaN or infinity: no metric can judge them")
    if len({len(t) for t in values}) > 1:
        raise TorchwhyError(f"a tuple of attributions shares its batch dimension, not {values.shapes}")
    return values.map(lambda t: t.detach()).double_for_sums()


def formed(values: Tensors, point: Tensors) -> Tensors:
    """Attributions with as many dimensions as what was explained; one value may stand for a whole dimension.

    So a map has one channel for all, and tokens one value for all that they hold.
    """

    def shape(v: Tensor, t: Tensor) -> tuple[int, ...]:
        return (*v.shape, *[1] * (t.ndim - v.ndim))

    def fits(v: Tensor, t: Tensor) -> bool:
        sizes = shape(v, t)
        shared = all(n in (1, m) for n, m in zip(sizes[1:], t.shape[1:], strict=False))
        return len(sizes) == t.ndim and len(v) == len(t) and shared

    if len(values) != len(point) or not all(fits(v, t) for v, t in zip(values, point, strict=True)):
        raise TorchwhyError(
            f"attributions of {values.shapes} are not of the form of what was explained, {point.shapes}: "
            f"give the inputs they belong to, and at= where they are of a layer"
        )
    return values.map(lambda v, t: v.reshape(shape(v, t)).to(t.device), point)


def _mask(given: TensorOrTensors, values: Tensors) -> Tensors:
    """What should be marked, in the form of the attributions."""
    mask, _ = as_tensors(given, "mask")
    if len(mask) != len(values):
        raise TorchwhyError(f"mask has {len(mask)} tensors for {len(values)} of attributions: give one for each")
    for m, v in zip(mask, values, strict=True):
        try:
            fits = torch.broadcast_shapes(m.shape, v.shape) == v.shape
        except RuntimeError:
            fits = False
        if not fits or (m.dtype != torch.bool and not ((m == 0) | (m == 1)).all()):
            raise TorchwhyError(
                f"mask holds booleans that broadcast to the attributions, {tuple(v.shape)}, "
                f"not {m.dtype} {tuple(m.shape)}"
            )
    return mask.map(lambda m, v: (m != 0).to(v.device).expand(v.shape), values)


def _target_of(record: Explanation) -> TargetLike:
    """The target that a record has in words, where words say it."""
    if all(name == "output" for name in record.target):
        return None
    if all(_INDICES.fullmatch(name) for name in record.target):
        return [tuple(map(int, name.split(", "))) for name in record.target]
    raise TorchwhyError(f"the record names its target {record.target[0]!r}, which says too little: give target=")
