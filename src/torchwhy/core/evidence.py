"""What speaks for and against an explanation, example by example, in numbers and in words.

A `Check` asks one question. Its answer is "pass", "warn" or "unknown", with a reason; the verdict on an explanation is
its worst answer, and "unknown" where nothing could be checked. There is no overall score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.tensors import Tensors

Status: TypeAlias = Literal["pass", "warn", "unknown"]

COMPLETENESS_LIMIT = 0.05  # of the change of the score
CONVERGENCE_LIMIT = 0.05  # of the attribution, by which it may still change
NOISE_LIMIT = 0.25  # of the attribution's norm, that may be sampling error
AGREEMENT = 1e-5  # of the largest value, below which draws do not differ
MISSED_LIMIT = 0.01  # of all draws, that those which agree may have missed
MOST_SPREAD = 0.8  # of the score
FEW_ROWS = 5  # that make it are too few to tell of others
PRECISION_LIMIT = 0.02  # of the gradient's norm, that may be rounding

COMPLETION, _FINISHED = "completion", "Was the work finished?"  # told only where it was not

# Checks by what a warning of theirs means, the worst first: nothing was explained, not the decision of a trained model
# was, what was explained is not shown, and what is shown is inexact.
_OF_THE_MODEL = ("training", "accuracy", "decision", "steadiness")
_SERIOUS = (
    *(COMPLETION, "independence", "silence"),
    *_OF_THE_MODEL,
    *("weights", "faithfulness", "class", "noise", "baseline"),
)


@dataclass(frozen=True)
class Check:
    """One question, answered for each example.

    Attributes:
        name: short, such as "completeness".
        question: what is asked, as a person would ask it.
        status: (B,) answers.
        value: (B,) numbers that decided; None where there is none.
        reason: (B,) sentences.
    """

    name: str
    question: str
    status: tuple[Status, ...]
    value: tuple[float | None, ...]
    reason: tuple[str, ...]

    def select(self, index: int) -> Check:
        """The check of one example."""
        part = slice(index, index + 1)
        return Check(self.name, self.question, self.status[part], self.value[part], self.reason[part])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Check:
        """The inverse of `as_dict`."""
        return Check(data["name"], data["question"], tuple(data["status"]), tuple(data["value"]), tuple(data["reason"]))

    @staticmethod
    def of(name: str, question: str, value: Tensor, judge: Callable[[float, int], tuple[Status, str]]) -> Check:
        """Judge every example by its value: ``judge(value, index) -> (status, reason)``.

        A value that is not finite is not kept, and one that is not a number never passes.
        """
        values: list[float] = value.double().tolist()
        answers: list[tuple[Status, str]] = [judge(v, i) for i, v in enumerate(values)]
        for i, v in enumerate(values):
            if math.isnan(v) and answers[i][0] == "pass":
                answers[i] = "unknown", "the number that would decide is undefined"
        kept = tuple(v if math.isfinite(v) else None for v in values)
        return Check(name, question, tuple(a[0] for a in answers), kept, tuple(a[1] for a in answers))


@dataclass(frozen=True)
class Verdict:
    """The answer to "may I believe it?" for one example."""

    status: Status
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.status}: {'; '.join(self.reasons)}"


def verdict(checks: Sequence[Check], index: int) -> Verdict:
    """The worst answer wins; what passed is told only where nothing warns.

    What speaks for the model alone makes no explanation pass, and neither does what is left of checks that were broken
    off.

    >>> gap = Check("completeness", "Do the parts add up?", ("pass",), (0.01,), ("the parts add up to 99 %",))
    >>> str(verdict([gap], 0))
    'pass: the parts add up to 99 %'
    >>> str(verdict([], 0))
    'unknown: this method promises nothing that can be checked for free; ask with check="basic"'
    """
    ordered = by_weight(checks, index)
    speaks = any(c.status[index] == "pass" and c.name not in _OF_THE_MODEL for c in ordered)
    whole = all(c.name != COMPLETION for c in ordered)
    states: tuple[Status, ...] = ("warn", "pass", "unknown") if speaks and whole else ("warn", "unknown")
    for status in states:
        reasons = tuple(c.reason[index] for c in ordered if c.status[index] == status)
        if reasons:
            return Verdict(status, reasons)
    return Verdict("unknown", ('this method promises nothing that can be checked for free; ask with check="basic"',))


def by_weight(checks: Sequence[Check], index: int) -> list[Check]:
    """The checks on an example: what speaks against it, most serious first, then what speaks for it, then the rest."""
    states = ("warn", "pass", "unknown")
    return sorted(checks, key=lambda c: (states.index(c.status[index]), _place(c)))


def against(checks: Sequence[Check]) -> list[tuple[Check, list[int]]]:
    """The checks that warn, most serious first, each with the examples that it warns of."""
    warned = [(c, [i for i, status in enumerate(c.status) if status == "warn"]) for c in checks]
    return sorted(((c, found) for c, found in warned if found), key=lambda w: _place(w[0]))


def _place(check: Check) -> int:
    return _SERIOUS.index(check.name) if check.name in _SERIOUS else len(_SERIOUS)


def undecided(name: str, question: str, examples: int, reason: str) -> Check:
    """A check that cannot be made, and why."""
    unknown: Status = "unknown"
    return Check(name, question, (unknown,) * examples, (None,) * examples, (reason,) * examples)


def percent(fraction: float) -> str:
    """A share in words that does not round a small gap to nothing.

    >>> percent(0.1234), percent(0.00012), percent(1e-9), percent(0)
    ('12 %', '0.012 %', 'under 0.001 %', '0 %')
    """
    if 0 < abs(fraction) < 1e-5:
        return "under 0.001 %"
    return f"{100 * fraction:.2g} %" if abs(fraction) < 1 else f"{100 * fraction:.0f} %"


def relative_gap(values: Tensors, change: Tensor) -> Tensor:
    """(B,) by how much the values miss adding up to ``change``, as a share of it.

    Where the score hardly moves, as a share of 1/1000 of what the values could have added up to.
    """
    parts = values.double_for_sums()
    total, size = parts.per_example().double(), abs(parts).per_example().double()
    scale = torch.maximum(change.double().abs(), 1e-3 * size)
    gap = (total - change.double()).abs()
    return gap / scale.clamp_min(torch.finfo(torch.float64).tiny)


def rounding(scores: Tensor | None) -> Tensor | float:
    """(B,) differences of scores that are no more than rounding; 0 where the scores are not known."""
    return 0.0 if scores is None else 32 * torch.finfo(scores.dtype).eps * scores.abs().double()


def completeness(
    values: Tensors, change: Tensor, standard_error: Tensor | None = None, scores: Tensor | None = None
) -> Check:
    """Do the attributions add up to ``f(x) - f(baseline)``? (B,) relative gaps."""
    total = values.double_for_sums().per_example().double()
    near = (total - change.double()).abs() <= rounding(scores)
    relative = torch.where(near, 0.0, relative_gap(values, change))
    noise = None if standard_error is None else (2 * standard_error.double()).tolist()

    def judge(share: float, i: int) -> tuple[Status, str]:
        if not change[i].isfinite():
            return (
                "warn",
                "the score at the baseline is not finite, so there is no change to add up to: choose another baseline",
            )
        told = f"the parts add up to {total[i]:.4g}, the score moved by {change[i]:.4g}: a gap of {percent(share)}"
        if share <= COMPLETENESS_LIMIT:
            return "pass", told
        if noise is not None and abs(total[i] - change[i]) <= noise[i]:
            return "pass", f"{told}, within the sampling error of {noise[i]:.2g}"
        return "warn", f"{told}; use more steps or samples"

    return Check.of("completeness", "Do the parts add up to the change of the score?", relative, judge)


def convergence(change: Tensor, tolerance: float | None = None, reached: Tensor | None = None) -> Check:
    """By how much did the last refinement change the attribution? (B,) relative changes in L1."""
    limit = CONVERGENCE_LIMIT if tolerance is None else tolerance

    def judge(share: float, i: int) -> tuple[Status, str]:
        if reached is not None:
            done = bool(reached[i])
            told = f"the last doubling of the steps changed the attribution by {percent(share)}"
            return ("pass", f"{told}, as asked") if done else ("warn", f"{told}; tol={limit:g} was not reached")
        told = f"half as many steps would change the attribution by {percent(share)}"
        return ("pass", told) if share <= limit else ("warn", f"{told}: not yet settled, use more steps or tol=")

    return Check.of("convergence", "Would more steps change the picture?", change, judge)


@dataclass(frozen=True)
class Sample:
    """From what standard errors come.

    Attributes:
        draws: how many there are.
        rows: evaluations in all of them.
        few: (B,) the least number of rows that make up most of the spread of the score; 0 where all score the same.
        fitted: numbers that are fitted to the draws; so many of these agree with them whatever the others do.
    """

    draws: int
    rows: int
    few: Tensor
    fitted: int = 0

    @property
    def missed(self) -> float:
        """What share of all draws may have been missed where those that there are agree."""
        return unseen(max(1, self.draws - self.fitted))

    @staticmethod
    def of(scores: Tensor, fitted: int = 0) -> Sample:
        """Of scores (draws, rows in each, B).

        >>> Sample.of(torch.tensor([0.0, 0, 9, 0, 1, 0]).view(3, 2, 1)).few  # a single one
        tensor([1])
        """
        rows = scores.flatten(0, 1).double()
        squares = ((rows - rows.mean(0)) ** 2).sort(dim=0, descending=True).values
        few = 1 + (squares.cumsum(0) < MOST_SPREAD * squares.sum(0)).sum(0)
        return Sample(len(scores), len(rows), few * (rows != rows[0]).any(0), fitted)


def unseen(draws: int) -> float:
    """How likely may something be that was not in so many draws, at 95 %? About three in as many.

    >>> round(unseen(300), 4)
    0.0099
    """
    return 1 - math.pow(0.05, 1 / draws)


def sampling(values: Tensors, standard_error: Tensors, sample: Sample | None = None) -> Check:
    """How much of the attribution could be chance? (B,) norm of the standard errors over norm of the values.

    Where the sample is known, an error that it cannot show does not pass: few rows make the spread, all score the same,
    or all draws agree and are too few to say that hardly any would not.
    """
    flat, errors = values.flat(), standard_error.flat().double()
    signal, noise = (torch.linalg.vector_norm(t.double(), dim=1) for t in (flat, errors))
    share = torch.where(signal > 0, noise / signal.clamp_min(torch.finfo(torch.float64).tiny), noise.sign())
    agreed = errors.abs().amax(1) <= AGREEMENT * flat.abs().amax(1).double()

    def judge(part: float, i: int) -> tuple[Status, str]:
        few = FEW_ROWS if sample is None else int(sample.few[i])
        rare = sample is not None and few < FEW_ROWS and sample.rows > FEW_ROWS * few
        if sample is not None and (agreed[i] or not few):
            known = few and not rare and sample.missed <= MISSED_LIMIT
            return "pass" if known else "unknown", (
                f"all {sample.draws} draws agree, so that no sampling error is seen: what happens in up to "
                f"{percent(sample.missed)} of all may have been missed"
            )
        told = f"sampling error is {percent(part)} of the attribution"
        if sample is not None and rare:
            told += (
                f", and more if rows were missed of the kind of the {few} of {sample.rows} that make "
                f"{percent(MOST_SPREAD)} of the score's spread"
            )
        if part > NOISE_LIMIT:
            return "warn", f"{told}: draw more samples"
        return ("unknown" if rare else "pass"), told

    return Check.of("sampling error", "How much of this is chance?", share, judge)


def silence(values: Tensors, moved: Tensor, scores: Tensor | None = None) -> Check | None:
    """Is everything zero although the score moved? None where that is so for no example."""
    largest = abs(values).flat().amax(1)
    silent = (largest == 0) & (moved.abs() > rounding(scores))
    if not silent.any():
        return None

    def judge(size: float, i: int) -> tuple[Status, str]:
        if silent[i]:
            return (
                "warn",
                f"every attribution is zero, yet the score differs from the baseline's by {moved[i]:.4g}",
            )
        return "unknown", "the attribution is not zero"

    return Check.of("silence", "Does the method see anything at all?", largest, judge)


def independence(scores: Tensor, beside: Tensor) -> Check | None:
    """Does a score depend on its own row alone? None where it does.

    Args:
        scores: (B,) of the examples as one batch.
        beside: of the first example in another batch.
    """
    gap = (beside - scores[0]).abs().double()
    if gap <= torch.finfo(scores.dtype).eps ** 0.5 * max(1.0, float(scores[0].abs())):
        return None

    def judge(size: float, i: int) -> tuple[Status, str]:
        return "warn", f"a score changes by {size:.3g} with the other rows of its batch: the model mixes examples"

    return Check.of("independence", "Does a score depend on its own example alone?", gap.expand(len(scores)), judge)


def broken_off(examples: int, done: int, planned: int) -> Check:
    """The user has interrupted: what there is comes from some of the evaluations."""

    def judge(share: float, i: int) -> tuple[Status, str]:
        return "warn", f"stopped by hand after {done} of {planned} evaluations: explain again with resume= to go on"

    share = torch.full((examples,), done / max(1, planned))
    return Check.of(COMPLETION, _FINISHED, share, judge)


def left_unchecked(examples: int, made: int) -> Check:
    """The user has interrupted the checks: the explanation is whole, but not asked all that it was to be asked.

    >>> left_unchecked(1, 3).reason
    ('stopped by hand after 3 checks: explain again with resume= for the others',)
    """
    told = f"stopped by hand after {made} check{'s' * (made != 1)}: explain again with resume= for the others"
    return undecided(COMPLETION, _FINISHED, examples, told)


def settled(reached: Tensor, rule: str, evaluations: int) -> Check:
    """Is the answer as settled as was asked for? (B,) booleans."""

    def judge(done: float, i: int) -> tuple[Status, str]:
        if done:
            return "pass", f"after {evaluations} evaluations {rule}, as asked"
        return "warn", f"{evaluations} evaluations are too few to say that {rule}: raise the budget"

    return Check.of("settled", "Is the answer as settled as was asked for?", reached.double(), judge)


def mixed_precision(full: Tensors, mixed: Tensors) -> Check:
    """What does the bfloat16 backward pass cost? (B,) relative L2 errors of the gradient at the point."""
    exact, rounded = full.flat().double(), mixed.flat().double()
    scale = torch.linalg.vector_norm(exact, dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    error = torch.linalg.vector_norm(rounded - exact, dim=1) / scale

    def judge(share: float, i: int) -> tuple[Status, str]:
        told = f"rounding the backward pass changes the gradient at the input by {percent(share)}"
        return ("pass", told) if share <= PRECISION_LIMIT else ("warn", f"{told}: use precision='full'")

    return Check.of("precision", "Does bfloat16 change the answer?", error, judge)
