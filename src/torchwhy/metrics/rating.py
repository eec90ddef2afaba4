"""What a metric says about each explanation: a number, or why there is none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError

INFINITY = math.inf


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores of the model along a way, for every example.

    Attributes:
        x: (S, B) how far along, such as the share of positions that are gone, rising from row to row.
        y: (S, B) the scores there.
        name: of the way, for an axis.
    """

    x: Tensor
    y: Tensor
    name: str = "share removed"

    @property
    def area(self) -> Tensor:
        r"""(B,) area under the curve by the trapezoid rule, :math:`\int y\,dx`."""
        return torch.trapezoid(self.y, self.x, dim=0)

    @staticmethod
    def cat(curves: Sequence[Curve]) -> Curve:
        """Curves of some examples beside those of others; shorter ones stay where they end."""
        length = max(len(c.x) for c in curves)

        def beside(parts: list[Tensor]) -> Tensor:
            return torch.cat([torch.cat([t, t[-1:].expand(length - len(t), -1)]) for t in parts], 1)

        return Curve(beside([c.x for c in curves]), beside([c.y for c in curves]), curves[0].name)


@dataclass(frozen=True, eq=False)
class Rating:
    """The value of a metric for each of B explanations.

    Attributes:
        value: (B,); NaN only where ``reasons`` says why.
        reasons: (B,) why there is no value, "" where there is one; () stands for B times "".
        standard_error: (B,) of the value, where the metric samples.
        curve: what the value was read off, where it is an area.
        controls: (B,) values of the same metric for attributions that know nothing of the model.
        control_reasons: by the names of the controls, (B,) why they have no value, "" where they have one.
        metric: the name of the metric.
        direction: which values are better, "higher", "lower" or "none".
        units: of the value.
        options: of the metric.
        evaluations: rows that the model was asked for.
        details: more for the record, in plain numbers.
    """

    value: Tensor
    reasons: tuple[str, ...] = ()
    standard_error: Tensor | None = None
    curve: Curve | None = None
    controls: dict[str, Tensor] = field(default_factory=dict)
    control_reasons: dict[str, tuple[str, ...]] = field(default_factory=dict)
    metric: str = ""
    direction: str = "none"
    units: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    evaluations: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.reasons:
            object.__setattr__(self, "reasons", ("",) * len(self.value))
        defined = self.value.isfinite().tolist()
        for i, (there, reason) in enumerate(zip(defined, self.reasons, strict=True)):
            if there == bool(reason):
                said = f"there is none since {reason}" if reason else "no reason is given"
                raise TorchwhyError(f"{self.metric or 'a metric'}: example {i} has {self.value[i].item()}, yet {said}")

    @staticmethod
    def where(
        defined: Tensor,
        value: Tensor,
        reason: str | Sequence[str],
        *,
        standard_error: Tensor | None = None,
        **more: Any,
    ) -> Rating:
        """``value`` where ``defined`` (B,); elsewhere NaN with a reason, one for all or one per example."""
        each = [reason] * len(value) if isinstance(reason, str) else list(reason)
        reasons = tuple("" if d else r for d, r in zip(defined.tolist(), each, strict=True))

        def there(t: Tensor) -> Tensor:
            return torch.where(defined, t, torch.full_like(t, math.nan))

        return Rating(there(value), reasons, None if standard_error is None else there(standard_error), **more)

    @staticmethod
    def cat(scores: Sequence[Rating]) -> Rating:
        """Scores of some examples after those of others, by the same metric."""
        first = scores[0]
        if len(scores) == 1:
            return first
        errors = [s.standard_error for s in scores if s.standard_error is not None]
        curves = [s.curve for s in scores if s.curve is not None]
        return replace(
            first,
            value=torch.cat([s.value for s in scores]),
            reasons=tuple(r for s in scores for r in s.reasons),
            standard_error=torch.cat(errors) if errors else None,
            curve=Curve.cat(curves) if curves else None,
            controls={name: torch.cat([s.controls[name] for s in scores]) for name in first.controls},
            control_reasons={
                name: tuple(r for s in scores for r in s.control_reasons[name]) for name in first.control_reasons
            },
            evaluations=sum(s.evaluations for s in scores),
        )

    def __len__(self) -> int:
        return len(self.value)

    @property
    def undefined(self) -> dict[str, int]:
        """For how many explanations there is no value, by the reason."""
        return dict(Counter(r for r in self.reasons if r))

    @property
    def mean(self) -> float:
        """Over the explanations that have a value; NaN where none has."""
        return _mean(self.value)

    def __repr__(self) -> str:
        """Such as ``<Deletion 0.312 over 3 explanations, lower is better; random 0.58; 1 undefined: a reason>``."""
        many = "1 explanation" if len(self) == 1 else f"{len(self)} explanations"
        better = "" if self.direction == "none" else f", {self.direction} is better"
        parts = [f"{self.metric or 'Rating'} {self._number()} over {many}{better}"]
        if self.controls:
            parts.append(", ".join(f"{name} {self._control(name)}" for name in self.controls))
        parts += [f"{count} undefined: {reason}" for reason, count in self.undefined.items()]
        return f"<{'; '.join(parts)}>"

    def _number(self) -> str:
        units = f" {self.units}" if self.units else ""
        if len(self) == 1 and self.standard_error is not None:
            return f"{self.mean:.4g} ± {self.standard_error.item():.2g}{units}"
        return f"{self.mean:.4g}{units}"

    def _control(self, name: str) -> str:
        """Its mean, or why it has none."""
        mean = _mean(self.controls[name])
        why = next(filter(None, self.control_reasons.get(name, ())), "")
        return f"undefined ({why})" if math.isnan(mean) and why else f"{mean:.4g}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is undefined is None."""
        return {
            "metric": self.metric,
            "direction": self.direction,
            "units": self.units,
            "value": _listed(self.value),
            "reasons": list(self.reasons),
            "standard_error": None if self.standard_error is None else _listed(self.standard_error),
            "curve": None
            if self.curve is None
            else {"name": self.curve.name, "x": _listed(self.curve.x), "y": _listed(self.curve.y)},
            "controls": {name: _listed(value) for name, value in self.controls.items()},
            "control_reasons": {name: list(reasons) for name, reasons in self.control_reasons.items()},
            "options": {name: _plain(value) for name, value in self.options.items()},
            "evaluations": self.evaluations,
            "details": self.details,
        }


def _mean(values: Tensor) -> float:
    there = values[values.isfinite()]
    return float(there.double().mean()) if len(there) else math.nan


def _listed(values: Tensor) -> Any:
    """Nested lists, with None for what is not finite."""
    if values.ndim > 1:
        return [_listed(row) for row in values]
    return [v if math.isfinite(v) else None for v in values.tolist()]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
