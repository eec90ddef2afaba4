"""Is what is explained what the model decides, and does it decide firmly?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.evidence import Check, Status, undecided
from torchwhy.core.problem import Problem
from torchwhy.core.target import ClassNames, as_tensor, main_part
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import draws

CHANCE = 1.2  # times the probability that every class has where the model does not care
PAIRS = 16  # of noisy copies, each with noise and with the same noise turned round
NOISE = 0.2  # standard deviation, as a share of the range of the input's numbers
FIRMLY, HARDLY = 1.0, 0.4  # means of the lead under noise, in its standard deviations
AGREEMENT = 0.3  # of these, that slopes with much in common can make up for
ONE_OTHER = 0.8  # of the noisy copies, taken for one other class: the noise itself is what the model sees
TOP = 10  # one in so many classes is among the likeliest

_DECIDES = "Does the model decide for what is explained?"
_FIRM = "Is the decision firm?"


def classes(p: Problem) -> Tensor | None:
    """(B,) the class that each example's target is about; None where a target is about no class, or not one of two."""
    output, given = p.output, p.target.given
    if output is None or output.shape[1] < 2 or len(given) != 1 or p.target.source != "the model":
        return None
    index = given[0]
    fits = not index.is_floating_point() and index.shape in ((p.size,), (p.size, 1))
    return index.flatten().to(output.device) if fits else None


def rivals(p: Problem, chosen: Tensor) -> Tensor:
    """(B,) the likeliest class but the chosen one."""
    assert p.output is not None
    return p.output.scatter(1, chosen[:, None], -math.inf).argmax(1)


def agreement(p: Problem, names: tuple[str, ...] = ()) -> Check:
    """Is the explained class the likeliest one, and likelier than by chance? (B,) its probabilities."""
    chosen = classes(p)
    if chosen is None:
        return undecided("decision", _DECIDES, p.size, "what is explained is not the score of one class of several")
    assert p.output is not None
    probabilities, call = _probabilities(p.output), ClassNames(names)
    likeliest = probabilities.argmax(1)
    mine, count = probabilities.gather(1, chosen[:, None])[:, 0], p.output.shape[1]

    def judge(found: float, i: int) -> tuple[Status, str]:
        told = f"the model gives {call(chosen[i])} a probability of {_percent(found)}"
        if chosen[i] != likeliest[i]:
            best = f"{call(likeliest[i])} ({_percent(float(probabilities[i, likeliest[i]]))})"
            return "warn", f"{told} and decides for {best}: this explains what it did not decide"
        if found < CHANCE / count:
            return "warn", f"{told}, hardly more than the {_percent(1 / count)} of every class: it does not decide"
        return "pass", f"{told}, the most of all classes"

    return Check.of("decision", _DECIDES, mine, judge)


def _percent(probability: float) -> str:
    """Never rounded to certainty."""
    if 0 < probability < 0.001:
        return "under 0.1 %"
    return "over 99.9 %" if 0.999 < probability < 1 else f"{100 * probability:.3g} %"


def _probabilities(output: Tensor) -> Tensor:
    wide = output.double()
    known = bool((wide >= 0).all()) and bool(((wide.sum(1) - 1).abs() < 1e-3).all())
    return wide if known else wide.softmax(1)


def noise(point: Tensors, share: float, pairs: int, stream: int) -> Tensors | None:
    """Noisy copies (2 * pairs, B, ...), in turn with noise and with its opposite; None where there can be none.

    The noise is normal, with a standard deviation of a share of the range of each example's numbers, and the same draw
    for every example.
    """
    if not any(t.is_floating_point() for t in point):
        return None

    def copies(t: Tensor, number: int) -> Tensor:
        if not t.is_floating_point():
            return t.expand(2 * pairs, *t.shape)
        rows = t.flatten(1) if t.ndim > 1 else t[:, None]
        scale = share * (rows.amax(1) - rows.amin(1)).float()
        scale = torch.where(scale > 0, scale, share * rows[:, 0].abs().float()).view(-1, *[1] * (t.ndim - 1))
        made = []
        for k in range(pairs):
            z = torch.randn(t.shape[1:], generator=draws(0, stream + number, k)).to(t.device) * scale
            made += [t + z.to(t.dtype), t - z.to(t.dtype)]
        return torch.stack(made)

    return Tensors(copies(t, number) for number, t in enumerate(point))


@dataclass(frozen=True, eq=False)
class Noisy:
    """What the model makes of K noisy copies of each of B examples.

    Attributes:
        leads: (K, B) of the decided class.
        taken: (K, B) the likeliest class; None where a pass does not show it.
        common: (B,) the share of the power of the lead's slopes that all copies have in common, NaN where there is
            none; None where the model has no slopes.
    """

    leads: Tensor
    taken: Tensor | None
    common: Tensor | None

    @property
    def ratio(self) -> Tensor:
        """(B,) mean leads in standard deviations."""
        mean, spread = self.leads.mean(0), self.leads.std(0)
        found = torch.where(spread > 0, mean / spread.clamp_min(1e-300), mean.sign() * math.inf)
        return found.nan_to_num(0.0).clamp(-99, 99)

    @property
    def agreement(self) -> Tensor:
        r"""(B,) :math:`\ln(c / (1 - c))` of the common share of the slopes, at most `AGREEMENT`; 0 without slopes."""
        if self.common is None:
            return torch.zeros_like(self.leads[0])
        return torch.logit(self.common.nan_to_num(0.5), 1e-9).clamp_max(AGREEMENT)

    def elsewhere(self, decided: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) the class that most copies are taken for, and how many; none where it is the decided one."""
        if self.taken is None:
            return decided, torch.zeros_like(decided)
        most = self.taken.mode(0).values
        return most, torch.where(most == decided, 0, (self.taken == most).sum(0))


def _under_noise(p: Problem, copies: Tensors, *, gradients: bool) -> Noisy:
    count = copies.parts[0].shape[0]
    leads = torch.empty(count, p.size, dtype=torch.float64, device=p.scores.device)
    taken: Tensor | None = torch.zeros(count, p.size, dtype=torch.long, device=p.scores.device)
    sums, power = p.point.map(lambda t: torch.zeros_like(t, dtype=torch.float64)), torch.zeros_like(leads[0])
    points = partial(_part, copies)
    for part in p.sweep(points, count, gradients=gradients, what="deciding under noise"):
        leads[part.ks, part.examples] = part.scores.double()
        if part.output is None or taken is None:
            taken = None
        else:
            taken[part.ks, part.examples] = part.output.argmax(2)
        if part.gradients is not None:
            slopes = part.gradients.map(lambda g: g.double())
            for total, g in zip(sums, slopes, strict=True):
                total[part.examples] += g.sum(0)
            sizes = (slopes * slopes).merge().per_example()
            power[part.examples] += sizes.view(part.scores.shape).sum(0)
    if not gradients:
        return Noisy(leads, taken, None)
    # Of the mean's square without what K independent slopes would give it.
    common = ((sums * sums).per_example() - power) / (count - 1)
    return Noisy(leads, taken, torch.where(power > 0, common / power.clamp_min(1e-300), math.nan).clamp(0, 1))


def _part(copies: Tensors, es: slice, ks: slice) -> Tensors:
    return copies.map(lambda t: t[ks, es])


def steadiness(p: Problem) -> Check:
    r"""Does the lead of the decided class survive noise? (B,) the lead's mean over its standard deviation, and more.

    .. math:: \frac{\bar l}{s_l} + \min\left(\ln \frac{c}{1 - c},\, 0.3\right), \qquad
        c = \frac{\sum_{j \ne k} \nabla l_j \cdot \nabla l_k}{(K - 1) \sum_k \|\nabla l_k\|^2}

    over K = 32 noisy copies. The lead :math:`l` is the class's score less that of the best other one; of more than 10
    classes, of the one that a tenth of them beat, so that near synonyms may change places. What is looked at is the
    class that the model decides for, whichever is explained. What was learnt by heart bends between the examples: its
    slopes have less in common (c) than those of what was learnt from many. Without slopes the first term stands alone.

    Where most noisy copies are taken for one and the same other class, the noise itself is what is seen, and nothing
    can be told. Cost: 33 forward and 32 backward passes per example.
    """
    if classes(p) is None:
        return undecided("steadiness", _FIRM, p.size, "what is explained is not the score of one class of several")
    assert p.output is not None
    rank = math.ceil(p.output.shape[1] / TOP)
    decided = p.output.argmax(1)

    def lead(output: object, index: Tensor) -> Tensor:
        scores = as_tensor(main_part(output))
        others = scores.scatter(1, index[:, None].to(scores.device), -math.inf)
        rival = others.topk(rank, 1).values[:, -1]
        return scores.gather(1, index[:, None].to(scores.device))[:, 0] - rival

    asked = p.about(replace(p.target, read=lead, given=(decided,), ask=None))
    if p.site is not None and all(t.is_floating_point() for t in p.inputs):
        asked = asked.elsewhere(None)
    copies = noise(asked.point, NOISE, PAIRS, stream=72)
    if copies is None:
        return undecided("steadiness", _FIRM, p.size, "the inputs are whole numbers, to which noise cannot be added")
    try:
        found = _under_noise(asked, copies, gradients=True)
    except TorchwhyError:  # the model has no slopes
        found = _under_noise(asked, copies, gradients=False)
    ratio, kept, broken = found.ratio, (found.leads > 0).sum(0), (~found.leads.isfinite()).sum(0)
    other, count = found.elsewhere(decided)
    among = "keeps its class" if rank == 1 else f"keeps its class among the likeliest {rank}"

    def judge(value: float, i: int) -> tuple[Status, str]:
        told = f"with noise of a fifth of the input's range the model {among} in {kept[i]} of {2 * PAIRS} copies"
        told = f"{told} (mean lead {ratio[i]:.1f} standard deviations"
        alike = math.nan if found.common is None else float(found.common[i])
        told = f"{told})" if math.isnan(alike) else f"{told}; slopes with {100 * alike:.0f} % in common)"
        if broken[i]:
            return "unknown", f"with noise the scores of {broken[i]} of {2 * PAIRS} copies are not finite"
        if value >= FIRMLY:
            return "pass", told
        if value >= HARDLY:
            return "unknown", told
        if count[i] >= ONE_OTHER * len(found.leads):
            return "unknown", f"{told}, and {count[i]} are taken for class {other[i]}: the noise is what it sees there"
        return "warn", f"{told}: it has not learnt what these inputs have in common, or they are ambiguous"

    return Check.of("steadiness", _FIRM, ratio + found.agreement, judge)
