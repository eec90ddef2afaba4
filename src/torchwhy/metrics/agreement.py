"""Do two explanations of the same decision say the same?"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.explanation import Explanation
from torchwhy.core.tensors import TensorOrTensors, Tensors
from torchwhy.metrics.base import Explained, Explainer, Judged, Metric, checked
from torchwhy.metrics.complexity import ALL_ZERO
from torchwhy.metrics.localisation import check_k, count_of
from torchwhy.metrics.orders import FLAT, largest, mean_ranks
from torchwhy.metrics.rating import Rating
from torchwhy.metrics.similarity import Likeness
from torchwhy.registry import MetricInfo, register_metric

NO_SIGNS = "one of the two has sizes, which have no sign"


def common(a: Tensors, b: Tensors) -> tuple[Tensor, Tensor]:
    """Two explanations as rows (B, M) of the same features.

    Where one has a single value for a whole dimension, as a map has for all channels, the other is summed over it.
    """

    def summed(t: Tensor, like: Tensor) -> Tensor:
        whole = [d for d in range(1, t.ndim) if like.shape[d] == 1 < t.shape[d]]
        return t.sum(whole, keepdim=True) if whole else t

    fits = len(a) == len(b) and all(s.ndim == t.ndim for s, t in zip(a, b, strict=True))
    found = (a.map(summed, b), b.map(summed, a)) if fits else (a, b)
    if found[0].shapes != found[1].shapes:
        raise TorchwhyError(f"explanations of {a.shapes} and of {b.shapes} are not of the same features")
    dtype = torch.promote_types(found[0].parts[0].dtype, found[1].parts[0].dtype)
    first, second = (t.flat().to(dtype) for t in found)
    return first, second.to(first.device)


@dataclass(kw_only=True, eq=False)
class AgreementMetric(Metric):
    """A metric of two explanations of the same decision, the same whichever is named first.

    Args:
        other: the explanation to compare with: attributions, an `Explanation`, or a method, which then explains.
    """

    other: Explained | None = None

    @abstractmethod
    def measure(self, a: Tensor, b: Tensor, *, signed: bool) -> Rating:
        """The metric's formula, of rows (B, M); ``signed`` where the sign of both of them says something."""

    def compute(self, judged: Judged) -> Rating:
        if self.other is None:
            name = type(self).__name__
            raise TorchwhyError(f"{name} compares two explanations: make it with one of them, {name}(other=values)")
        a, b = common(judged.values, judged.beside(self.other))
        return self.measure(a, b, signed=judged.signed and _is_signed(self.other))


def _is_signed(explained: Explained) -> bool:
    if isinstance(explained, Explainer):
        return explained.facts.signed
    return not isinstance(explained, Explanation) or explained.signed


@dataclass(kw_only=True, eq=False)
class TopMetric(AgreementMetric):
    """A metric of the k attributions of largest size.

    Args:
        k: how many: a whole number, or a share of all below 1.
    """

    k: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_k(self.k)

    def agreeing(self, a: Tensor, b: Tensor, same: Tensor | float) -> Rating:
        """The share of the k largest that both have, of those that are the ``same``."""
        k = count_of(self.k, a.shape[1])
        both = torch.minimum(largest(a.abs(), k), largest(b.abs(), k))
        there = ((a != 0).any(1)) & ((b != 0).any(1))
        return Rating.where(there, (both * same).sum(1) / k, f"in one of the two, {ALL_ZERO}")


def _same_rank(a: Tensor, b: Tensor) -> Tensor:
    return (mean_ranks(a.abs()) == mean_ranks(b.abs())).to(a)


def _same_sign(a: Tensor, b: Tensor) -> Tensor:
    return (a.sign() == b.sign()).to(a)


def _without_sign(a: Tensor) -> Rating:
    nowhere = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    return Rating.where(nowhere, a.new_zeros(len(a)), NO_SIGNS)


def _info(summary: str, *, lowest: float = 0, signed: bool = True) -> MetricInfo:
    return MetricInfo(
        family="agreement",
        summary=summary,
        paper="Krishna, Han, Gu, Pombra, Jabbari, Wu, Lakkaraju: The Disagreement Problem in Explainable Machine "
        "Learning",
        year=2022,
        cost="none",
        range=(lowest, 1),
        direction="none",
        needs=(),
        signed=signed,
    )


@register_metric(_info("share of the k features of largest size that two explanations have in common", signed=False))
@dataclass(kw_only=True, eq=False)
class FeatureAgreement(TopMetric):
    r"""The share of the k features of largest size that two explanations have in common.

    .. math:: \frac{1}{k} \left| \operatorname{top}_k(|a|) \cap \operatorname{top}_k(|b|) \right|

    Equal sizes of which not all are among the k largest share the places that are left. Explanations that know nothing
    of each other have k / n in the mean.

    Shapes: attributions (B, ...) and as many others, value (B,). No units.

    Paper: S. Krishna et al., TMLR 2024, arXiv:2202.01602.

    >>> import torch
    >>> a, b = torch.tensor([[3.0, -2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, -2.0, 0.0]])
    >>> FeatureAgreement(other=b, k=2).score(a).value
    tensor([0.5000])
    """

    def measure(self, a: Tensor, b: Tensor, *, signed: bool) -> Rating:
        return self.agreeing(a, b, 1.0)


@register_metric(_info("share of the k features of largest size that have the same rank in both", signed=False))
@dataclass(kw_only=True, eq=False)
class RankAgreement(TopMetric):
    r"""The share of the k features of largest size that two explanations have at the same rank.

    .. math:: \frac{1}{k} \left| \{ i \in \operatorname{top}_k(|a|) \cap \operatorname{top}_k(|b|) :
        r_i(|a|) = r_i(|b|) \} \right|

    Equal sizes share their mean rank.

    Shapes: attributions (B, ...) and as many others, value (B,). No units.

    Paper: S. Krishna et al., TMLR 2024, arXiv:2202.01602.

    >>> import torch
    >>> a, b = torch.tensor([[3.0, -2.0, 1.0, 0.0]]), torch.tensor([[2.0, 3.0, 1.0, 0.0]])
    >>> RankAgreement(other=b, k=3).score(a).value
    tensor([0.3333])
    """

    def measure(self, a: Tensor, b: Tensor, *, signed: bool) -> Rating:
        return self.agreeing(a, b, _same_rank(a, b))


@register_metric(_info("share of the k features of largest size that two explanations have with the same sign"))
@dataclass(kw_only=True, eq=False)
class SignAgreement(TopMetric):
    r"""The share of the k features of largest size that two explanations have in common, with the same sign.

    .. math:: \frac{1}{k} \left| \{ i \in \operatorname{top}_k(|a|) \cap \operatorname{top}_k(|b|) :
        \operatorname{sign} a_i = \operatorname{sign} b_i \} \right|

    Shapes: attributions (B, ...) and as many others, value (B,). No units.

    Paper: S. Krishna et al., TMLR 2024, arXiv:2202.01602.

    >>> import torch
    >>> a, b = torch.tensor([[3.0, -2.0, 1.0, 0.0]]), torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    >>> SignAgreement(other=b, k=2).score(a).value
    tensor([0.5000])
    """

    def measure(self, a: Tensor, b: Tensor, *, signed: bool) -> Rating:
        return self.agreeing(a, b, _same_sign(a, b)) if signed else _without_sign(a)


@register_metric(_info("share of the k features of largest size that have the same rank and sign in both"))
@dataclass(kw_only=True, eq=False)
class SignedRankAgreement(TopMetric):
    r"""The share of the k features of largest size that two explanations have at the same rank with the same sign.

    .. math:: \frac{1}{k} \left| \{ i \in \operatorname{top}_k(|a|) \cap \operatorname{top}_k(|b|) :
        r_i(|a|) = r_i(|b|),\, \operatorname{sign} a_i = \operatorname{sign} b_i \} \right|

    Equal sizes share their mean rank.

    Shapes: attributions (B, ...) and as many others, value (B,). No units.

    Paper: S. Krishna et al., TMLR 2024, arXiv:2202.01602.

    >>> import torch
    >>> a, b = torch.tensor([[3.0, -2.0, 1.0, 0.0]]), torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    >>> SignedRankAgreement(other=b, k=3).score(a).value
    tensor([0.6667])
    """

    def measure(self, a: Tensor, b: Tensor, *, signed: bool) -> Rating:
        return self.agreeing(a, b, _same_rank(a, b) * _same_sign(a, b)) if signed else _without_sign(a)


@register_metric(_info("rank correlation of two explanations", lowest=-1))
@dataclass(kw_only=True, eq=False)
class RankCorrelation(AgreementMetric):
    r"""Spearman's rank correlation of two explanations, over all features.

    .. math:: \operatorname{corr}_i\left( r_i(a), r_i(b) \right)

    Equal values share their mean rank.

    Args:
        abs: compare the sizes of the attributions instead of the attributions.

    Shapes: attributions (B, ...) and as many others, value (B,). No units.

    Paper: S. Krishna et al., TMLR 2024, arXiv:2202.01602.

    >>> import torch
    >>> a, b = torch.tensor([[3.0, -2.0, 1.0]]), torch.tensor([[3.0, 1.0, -2.0]])
    >>> RankCorrelation(other=b).score(a).value, RankCorrelation(other=-a).score(a).value
    (tensor([0.5000]), tensor([-1.]))
    """

    abs: bool = False

    def measure(self, a: Tensor, b: Tensor, *, signed: bool) -> Rating:
        if not signed and not self.abs:
            return _without_sign(a)
        if self.abs:
            a, b = a.abs(), b.abs()
        value = Likeness("spearman", Tensors([a]))(Tensors([b]))[0]
        return Rating.where(~value.isnan(), value.to(a), f"in one of the two, {FLAT}")


@dataclass(frozen=True, eq=False)
class Agreement(Mapping[str, Tensor]):
    """How far several explanations agree, two by two.

    Attributes:
        names: of the n explanations.
        matrices: by the names of the metrics, (n, n, B), NaN where there is no value.
        undefined: by the names of the metrics, how many of the pairs and examples have no value, by the reason.
    """

    names: tuple[str, ...]
    matrices: dict[str, Tensor]
    undefined: dict[str, dict[str, int]]

    def __getitem__(self, metric: str) -> Tensor:
        return self.matrices[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    def mean(self, metric: str) -> Tensor:
        """(n, n) over the examples that have a value, NaN where none has."""
        return self.matrices[metric].nanmean(2)

    def __repr__(self) -> str:
        """A table of means for each metric."""
        width = max(map(len, self.names))
        lines = []
        for metric in self.matrices:
            lines += [metric, " " * width + "".join(f"  {name:>{max(6, len(name))}}" for name in self.names)]
            for name, row in zip(self.names, self.mean(metric).tolist(), strict=True):
                cells = ("" if math.isnan(v) else f"{v:.3f}" for v in row)
                columns = (f"  {c:>{max(6, len(n))}}" for c, n in zip(cells, self.names, strict=True))
                lines.append(f"{name:<{width}}{''.join(columns)}".rstrip())
            lines += [f"{count} undefined: {reason}" for reason, count in self.undefined[metric].items()]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is undefined is None."""
        means = {metric: self.mean(metric).tolist() for metric in self.matrices}
        return {
            "names": list(self.names),
            "means": {m: [[None if math.isnan(v) else v for v in row] for row in t] for m, t in means.items()},
            "undefined": self.undefined,
        }


def agreement(
    explained: Mapping[str, Explained] | Sequence[Explained],
    inputs: TensorOrTensors | None = None,
    target: Any = None,
    *,
    k: float = 0.25,
    absolute: bool = False,
    **asked: Any,
) -> Agreement:
    """How far several explanations of the same decisions agree, two by two, by all metrics of agreement.

    Args:
        explained: attributions (B, ...), `Explanation` objects or methods, by a name for each, or without names.
        inputs: what methods explain.
        target: what methods explain it for.
        k: how many features of largest size are compared; a whole number, or a share of all below 1.
        absolute: `RankCorrelation` compares sizes.
        asked: more for ``attribute`` of the methods, such as ``baselines`` for those that have some.

    Raises:
        TorchwhyError: there are fewer than two, they are not of the same features, or records name other targets.

    >>> import torch
    >>> a = torch.tensor([[3.0, -2.0, 1.0, 0.5]])
    >>> found = agreement({"a": a, "twice": 2 * a, "negated": -a}, k=2)
    >>> found.mean("SignAgreement")
    tensor([[1., 1., 0.],
            [1., 1., 0.],
            [0., 0., 1.]])
    """
    named = _named(explained)
    if len(named) < 2:
        raise TorchwhyError(f"agreement is of two explanations or more, not {len(named)}")
    records = {name: e for name, e in named.items() if isinstance(e, Explanation)}
    first = next(iter(records.values()), None)
    for name, record in records.items():
        if first is not None and record.target != first.target:
            raise TorchwhyError(f"{name!r} explains {record.target}, and another of them {first.target}")
    values = [_values(e, inputs, target, asked) for e in named.values()]
    signed = [_is_signed(e) for e in named.values()]
    measures: list[AgreementMetric] = [cls(k=k) for cls in (FeatureAgreement, RankAgreement, SignAgreement)]
    measures += [SignedRankAgreement(k=k), RankCorrelation(abs=absolute)]
    n = len(named)

    def matrix(metric: AgreementMetric) -> tuple[Tensor, dict[str, int]]:
        rows: list[list[Tensor]] = [[torch.empty(0)] * n for _ in range(n)]
        reasons: dict[str, int] = {}
        for i in range(n):
            for j in range(i, n):
                found = metric.measure(*common(values[i], values[j]), signed=signed[i] and signed[j])
                rows[i][j] = rows[j][i] = found.value
                for reason, count in found.undefined.items():
                    reasons[reason] = reasons.get(reason, 0) + count
        return torch.stack([torch.stack(row) for row in rows]), reasons

    made = {type(m).__name__: matrix(m) for m in measures}
    return Agreement(tuple(named), {m: t for m, (t, _) in made.items()}, {m: r for m, (_, r) in made.items()})


def _named(explained: Mapping[str, Explained] | Sequence[Explained]) -> dict[str, Explained]:
    if isinstance(explained, Mapping):
        return dict(explained)
    named: dict[str, Explained] = {}
    for number, e in enumerate(explained):
        name = e.method if isinstance(e, Explanation) else type(e).__name__ if isinstance(e, Explainer) else str(number)
        named[name if name not in named else f"{name} {number}"] = e
    return named


def _values(explained: Explained, inputs: TensorOrTensors | None, target: Any, asked: dict[str, Any]) -> Tensors:
    if isinstance(explained, Explainer):
        if inputs is None:
            raise TorchwhyError("a method explains inputs: give them")
        own = asked if explained.facts.baselines != "none" else {k: v for k, v in asked.items() if k != "baselines"}
        return checked(explained.attribute(inputs, target=target, **own))
    return checked(explained.values if isinstance(explained, Explanation) else explained)
