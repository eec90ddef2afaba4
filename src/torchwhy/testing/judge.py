"""Holds an explainer to the cases: what it claims it must keep, all else is reported."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.explanation import Form
from torchwhy.testing.cases import AXIOMS, FORMS, ROUNDING, Case, cases

ExplainerLike: TypeAlias = Callable[..., Tensor]
Status: TypeAlias = Literal["pass", "fail", "refused", "error"]
Explain: TypeAlias = Callable[[nn.Module], Tensor]
Differ: TypeAlias = Callable[[Explain], tuple[Tensor, Tensor]]

CHECKS = (*AXIOMS, *(concept for known in FORMS.values() for concept in known))
EXPECTED = " in expectation"
RESERVES = (EXPECTED, " for ", " where ")


@dataclass(frozen=True)
class Row:
    """One question, put to an explainer on one case.

    Attributes:
        case: the name of the case.
        check: the axiom or the concept that was looked for.
        status: "refused" where the explainer says that it cannot explain this model; "error" where it breaks.
        gap: how far the attributions are from what was looked for, as a share of the largest that is known but at
            least of 1; NaN where there are none.
        tolerance: the largest gap that passes.
        claimed: the explainer claims it, so it must pass.
        message: of a refusal or an error.
    """

    case: str
    check: str
    status: Status
    gap: float
    tolerance: float
    claimed: bool
    message: str = ""

    @property
    def told(self) -> str:
        """The status for people: what nobody claimed does not fail."""
        return "differs" if self.status == "fail" and not self.claimed else self.status


@dataclass(frozen=True)
class Report:
    """What came out of all cases.

    Attributes:
        name: of the explainer.
        rows: one per case and check.
        skipped: why there are none.
    """

    name: str
    rows: tuple[Row, ...]
    skipped: str = ""

    @property
    def failed(self) -> tuple[Row, ...]:
        """What was claimed and is not so."""
        return tuple(r for r in self.rows if r.claimed and r.status in ("fail", "error"))

    @property
    def ok(self) -> bool:
        """Nothing that was claimed is not so. A refusal is no failure, unless all is refused."""
        claimed = [r.status for r in self.rows if r.claimed]
        return not self.failed and (not claimed or "pass" in claimed)

    @property
    def refused(self) -> tuple[Row, ...]:
        """What it said it cannot explain."""
        return tuple(r for r in self.rows if r.status == "refused")

    @property
    def keeps(self) -> tuple[str, ...]:
        """The axioms that it keeps on all cases."""
        return self._always(AXIOMS)

    @property
    def computes(self) -> tuple[str, ...]:
        """The concepts that it agrees with on all cases."""
        return self._always(CHECKS[len(AXIOMS) :])

    def counts(self, check: str) -> tuple[int, int]:
        """How many cases pass a check, of how many."""
        found = [r.status for r in self.rows if r.check == check]
        return found.count("pass"), len(found)

    def _always(self, checks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(c for c in checks if self.counts(c)[1] and len(set(self.counts(c))) == 1)

    def __repr__(self) -> str:
        """A line for each case and check, and what was said where there is no answer."""
        if self.skipped:
            return f"{self.name}: skipped, {self.skipped}"
        head = ("case", "check", "result", "gap", "")
        lines = [head] + [
            (r.case, r.check, r.told, "" if math.isnan(r.gap) else f"{r.gap:.2g}", "claimed" if r.claimed else "")
            for r in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        told = {r.message: f"{r.case}: {r.message}" for r in reversed(self.rows) if r.message}
        return "\n".join([self.name, *table, *reversed(told.values())])

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not a number is None."""
        rows = [asdict(r) | {"gap": r.gap if math.isfinite(r.gap) else None} for r in self.rows]
        return {
            "name": self.name,
            "ok": self.ok,
            "keeps": list(self.keeps),
            "computes": list(self.computes),
            "skipped": self.skipped,
            "rows": rows,
        }


def score(
    explainer: ExplainerLike,
    claims: Sequence[str] = AXIOMS,
    *,
    name: str | None = None,
    form: Form = "elements",
    only: Mapping[str, Case] | None = None,
    repeats: Sequence[ExplainerLike] = (),
) -> Report:
    """Hold an explainer to models with known answers.

    Args:
        explainer: ``(model, inputs, target)`` to attributions in the form of the inputs. Where it has a parameter
            ``baselines``, it also gets what to compare with, (1, ...); otherwise it is expected to compare with zero,
            and the case with another baseline is left out. Or a class in the style of Captum, made with a model, whose
            objects have ``attribute(inputs, baselines=..., target=...)``, with baselines or without.
        claims: what it must keep: axioms, "completeness", "sensitivity" (features without influence get 0), "symmetry",
            "linearity", "implementation invariance"; and what is known of the form, "gradient", "input x gradient",
            "integrated gradients", "Shapley values", "class activation map" or "pair interactions". A claim may be of
            some models alone, as "completeness for linear networks", or be kept "in expectation". All else is reported
            as well.
        name: of the explainer, for people.
        form: of the attributions: "elements" like the inputs; a "map" (B, 1, H, W) of the models' layer ``features``;
            "pairs" of features (B, M, M).
        only: the cases; None is all of the form.
        repeats: the same with other random numbers, ten or more. What is claimed in expectation, the mean over them
            must keep within 5 standard errors; without them it is reported only.

    Raises:
        TorchwhyError: a claim is unknown, or the explainer cannot be called so.

    >>> import torch
    >>> report = score(lambda model, inputs, target: torch.ones_like(inputs))
    >>> report.ok, report.counts("symmetry")
    (False, (4, 4))
    """
    for claim in claims:
        if not any(_reserve(claim, check) is not None for check in CHECKS):
            raise TorchwhyError(f"there is no claim {claim!r}{closest(claim, CHECKS)}")
    if 0 < len(repeats) < 10:
        raise TorchwhyError(f"{len(repeats)} repeats are too few for a standard error: give 10 or more")
    name = getattr(explainer, "__name__", type(explainer).__name__) if name is None else name
    explainer, compares = _called(explainer)
    repeats = [_called(r)[0] for r in repeats]
    rows: list[Row] = []
    for case in (cases(form) if only is None else only).values():
        if compares or case.from_zero:
            rows += _judged(_asking(explainer, case, compares=compares), case, claims)
            rows += _judged_in_the_mean([_asking(r, case, compares=compares) for r in repeats], case, claims)
    return Report(name, tuple(rows))


def _called(explainer: Any) -> tuple[ExplainerLike, bool]:
    """As it is called here, and whether it takes baselines."""
    if isinstance(explainer, type) and callable(getattr(explainer, "attribute", None)):
        return _of_class(explainer)
    if not callable(explainer):
        raise TorchwhyError(f"an explainer is a function (model, inputs, target), not {type(explainer).__name__}")
    try:
        signature = inspect.signature(explainer)
    except ValueError:  # written in C
        return explainer, False
    compares = "baselines" in signature.parameters
    try:
        signature.bind(None, None, 0, **({"baselines": None} if compares else {}))
    except TypeError as error:
        raise TorchwhyError(
            f"an explainer is called as (model, inputs, target), or (model, inputs, target, baselines=...) where it "
            f"takes these, which {signature} does not allow ({error}): wrap it in a function that does"
        ) from None
    return explainer, compares


def _of_class(cls: type) -> tuple[ExplainerLike, bool]:
    """A class in the style of Captum, as a function."""
    attribute: Any = cls.attribute  # type: ignore[attr-defined]  # the caller has seen it
    facts = getattr(cls, "info", None)
    compares = "baselines" in inspect.signature(attribute).parameters and getattr(facts, "baselines", "") != "none"

    def explain(model: nn.Module, inputs: Tensor, target: int, **compared: Tensor) -> Tensor:
        found: Tensor = cls(model).attribute(inputs, target=target, **compared)
        return found

    return explain, compares


def _judged(explain: Explain, case: Case, claims: Sequence[str]) -> Iterator[Row]:
    """All checks of a case that apply to it."""

    def gap(differ: Differ) -> float:
        return _share(*differ(explain))

    for check, differ in _checks(case).items():
        claimed = any(_holds(_reserve(claim, check), case) for claim in claims)
        yield _row(case, check, check, partial(gap, differ), claimed=claimed)


def _judged_in_the_mean(repeats: Sequence[Explain], case: Case, claims: Sequence[str]) -> Iterator[Row]:
    """The checks that are claimed in expectation."""

    def gap(differ: Differ) -> float:
        pairs = [differ(explain) for explain in repeats]
        differences = torch.stack([difference for difference, _ in pairs])
        beyond = differences.mean(0).abs() - 5 * differences.std(0) / len(pairs) ** 0.5
        return _share(beyond.clamp_min(0), torch.stack([known for _, known in pairs]).abs().mean(0))

    for check, differ in _checks(case).items():
        if repeats and f"{check}{EXPECTED}" in claims:
            yield _row(case, check, f"{check}{EXPECTED}", partial(gap, differ), claimed=True)


def _row(case: Case, check: str, label: str, gap: Callable[[], float], *, claimed: bool) -> Row:
    tolerance = case.tolerance if check in ("completeness", "integrated gradients") else ROUNDING
    try:
        size = gap()
    except Exception as error:  # noqa: BLE001  whatever an explainer does, it is its result
        status: Status = "refused" if isinstance(error, TorchwhyError) else "error"
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return Row(case.name, label, status, math.nan, tolerance, claimed, told)
    return Row(case.name, label, "pass" if size <= tolerance else "fail", size, tolerance, claimed)


def _share(difference: Tensor, known: Tensor) -> float:
    return float(difference.abs().max() / known.abs().max().clamp_min(1))


def _asking(explainer: ExplainerLike, case: Case, *, compares: bool) -> Explain:
    """From a model of a case to its attributions, asked for once."""
    answers: dict[int, Tensor | Exception] = {}

    def explain(model: nn.Module) -> Tensor:
        if id(model) not in answers:
            try:
                answers[id(model)] = _ask(explainer, model, case, compares=compares)
            except Exception as error:  # noqa: BLE001  (the same)
                answers[id(model)] = error
        answer = answers[id(model)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return explain


def _ask(explainer: ExplainerLike, model: nn.Module, case: Case, *, compares: bool) -> Tensor:
    more = {"baselines": case.baselines.clone()} if compares else {}
    found = explainer(model, case.inputs.clone(), case.target, **more)
    if not isinstance(found, Tensor) or found.shape != case.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"attributions are a tensor {case.shape}, not {shape}")
    return found.detach().double()


def _checks(case: Case) -> dict[str, Differ]:
    """Each check that applies to a case: from what explains to what should be 0, and to what that is a share of."""

    def completeness(explain: Explain) -> tuple[Tensor, Tensor]:
        return case.whole(explain(case.model)) - case.change, case.change

    def sensitivity(explain: Explain) -> tuple[Tensor, Tensor]:
        values = case.of_features(explain(case.model))
        return values[:, list(case.null)], values

    def symmetry(explain: Explain) -> tuple[Tensor, Tensor]:
        values = case.of_features(explain(case.model))
        first, second = (list(side) for side in zip(*case.twins, strict=True))
        if case.form == "pairs":  # each twin has with the others, and with itself, what the other one has
            values = torch.cat([values.diagonal(dim1=1, dim2=2)[..., None], values.sum(2, keepdim=True)], 2)
        return values[:, first] - values[:, second], values

    def linearity(explain: Explain) -> tuple[Tensor, Tensor]:
        values = explain(case.model)
        return values - torch.stack([explain(part) for part in case.parts]).sum(0), values

    def invariance(explain: Explain) -> tuple[Tensor, Tensor]:
        assert case.same is not None
        values = explain(case.model)
        return values - explain(case.same), values

    def known(truth: Tensor) -> Differ:
        return lambda explain: (explain(case.model) - truth, truth)

    axioms: dict[str, tuple[Differ, bool]] = {
        "completeness": (completeness, True),
        "sensitivity": (sensitivity, bool(case.null)),
        "symmetry": (symmetry, bool(case.twins)),
        "linearity": (linearity, bool(case.parts)),
        "implementation invariance": (invariance, case.same is not None),
    }
    applying = {name: differ for name, (differ, applies) in axioms.items() if applies}
    return applying | {concept: known(truth) for concept, truth in case.truths.items()}


def _reserve(claim: str, check: str) -> str | None:
    """With which reserve a claim is of a check, "" where without any; None where it is of another."""
    rest = claim.removeprefix(check)
    return rest if rest == "" or (rest != claim and rest.startswith(RESERVES)) else None


def _holds(reserve: str | None, case: Case) -> bool:
    """Whether a claim with a reserve must hold on a case."""
    if reserve is None:
        return False
    return reserve == "" or (reserve.startswith(" for ") and any(kind in reserve for kind in case.kinds))
