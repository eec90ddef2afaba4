"""Scores beyond a class's output: probabilities, log-odds, differences, tokens, similarities.

Arguments given as a list hold one value for each example; anything else holds for all. What they name is checked
against the model's output at the point, and stays what it was there for every changed copy.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.target import ClassNames, Score, Target, indices, is_int, pick

Classes: TypeAlias = int | list[int] | Tensor | None
Of: TypeAlias = Literal["logits", "probabilities"]

ROUNDING = 1e-3  # of the sum of a row of probabilities, in half precision too


def rows_of(output: Tensor, rows: Tensor) -> None:
    """Raise unless an output has one row for each."""
    if output.ndim == 0 or len(output) != len(rows):
        raise TorchwhyError(
            f"the model gave shape {tuple(output.shape)} for {len(rows)} rows: a score needs one row of output each"
        )


def each(given: Any, rows: Tensor, size: int, what: str) -> Any:
    """What some examples have of a list, or of a tensor of numbers, with one for each of ``size``; else as given."""
    if hasattr(given, "tolist"):  # tensors, and numpy arrays and numbers
        table = torch.as_tensor(given)
        given = table.item() if table.numel() == 1 else table.tolist()
    if not isinstance(given, list):
        return given
    if len(given) != size:
        raise TorchwhyError(f"{what}: a list of {len(given)} was given for {size} examples: give one, or one for each")
    return [given[i] for i in rows.tolist()]


def classes_of(given: Classes, output: Tensor, rows: Tensor, size: int) -> Tensor:
    """The class of each row of an output (N, C), (N,); None is the one with the largest output."""
    if output.ndim != 2:
        raise TorchwhyError(f"a class is one of the outputs (B, classes), not of shape {tuple(output.shape)}")
    rows_of(output, rows)
    if given is None:
        return output.argmax(1)
    return indices(each(given, rows, size, "classes"), output, len(rows))[:, 0]


@dataclass(frozen=True, eq=False)
class Output(Score):
    """One output as it is, of a model that predicts numbers rather than classes.

    .. math:: f(x) = y_j(x)

    Args:
        index: which of the outputs, a tuple of indices where they have several dimensions; None is the only one.

    >>> Output(1).resolve(torch.tensor([[0.2, 7.0]]), torch.tensor([0]), 1).names(1)
    ['output 1']
    """

    index: int | tuple[int, ...] | list[int | tuple[int, ...]] | None = None

    def resolve(self, output: Any, rows: Tensor, size: int) -> Target:
        values = self.tensor(output)
        rows_of(values, rows)
        if self.index is None:
            if values[0].numel() != 1:
                raise TorchwhyError(
                    f"the model gives {values[0].numel()} outputs for an example, {tuple(values.shape[1:])}: say which "
                    f"is explained, such as Output(0)"
                )
            return Target(lambda output: self.tensor(output).flatten())
        chosen = indices(each(self.index, rows, size, "outputs"), values, len(rows))
        return Target(
            lambda output, index: pick(self.tensor(output), index),
            (chosen,),
            lambda index, names: f"output {', '.join(map(str, index.tolist()))}",
        )


@dataclass(frozen=True, eq=False)
class Difference(Score):
    """Why A rather than B?

    .. math:: f(x) = y_a(x) - y_b(x)

    Of logits, it is the log of the ratio of the probabilities.

    Args:
        a: a class, or an index into the output where that has several dimensions; None is the predicted class.
        b: another; None is the predicted class.

    >>> target = Difference(3, 5).resolve(torch.arange(6.0)[None], torch.tensor([0]), 1)
    >>> target.names(1), target(torch.arange(6.0)[None], torch.tensor([0])).item()
    (['3 rather than 5'], -2.0)
    """

    a: Any
    b: Any

    def resolve(self, output: Any, rows: Tensor, size: int) -> Target:
        values = self.tensor(output)
        rows_of(values, rows)
        a, b = (self._index(given, values, rows, size) for given in (self.a, self.b))
        same = (a == b).all(1)
        if same.any():
            i = int(same.nonzero()[0])
            name = _index_name(a[i], ClassNames())
            why = "is predicted as" if self.a is None or self.b is None else "is asked about"
            raise TorchwhyError(
                f"example {int(rows[i])} {why} {name}: {name} rather than {name} is no question, name another"
            )
        return Target(
            lambda output, a, b: pick(self.tensor(output), a) - pick(self.tensor(output), b),
            (a, b),
            lambda a, b, names: f"{_index_name(a, names)} rather than {_index_name(b, names)}",
            predicted=self.a is None or self.b is None,
            ask=lambda a, b: replace(self, a=[tuple(row) for row in a.tolist()], b=[tuple(row) for row in b.tolist()]),
        )

    def _index(self, given: Any, values: Tensor, rows: Tensor, size: int) -> Tensor:
        if given is None:
            return classes_of(None, values, rows, size)[:, None]
        return indices(each(given, rows, size, "classes"), values, len(rows))


def _index_name(index: Tensor, names: ClassNames) -> str:
    return names(index[0]) if len(index) == 1 else str(tuple(index.tolist()))


@dataclass(frozen=True, eq=False)
class _Chance(Score):
    """What is read off the probability of a class."""

    cls: Classes = None
    of: Of = "logits"
    exclusive: bool = True

    def __post_init__(self) -> None:
        if self.of not in ("logits", "probabilities"):
            raise TorchwhyError(f"of is 'logits' or 'probabilities', not {self.of!r}")

    def resolve(self, output: Any, rows: Tensor, size: int) -> Target:
        values = self._table(output)
        chosen = classes_of(self.cls, values, rows, size)
        self._check(values)
        return Target(
            lambda output, cls: self._of_class(self._table(output), cls),
            (chosen,),
            lambda cls, names: self._name(names(cls)),
            predicted=self.cls is None,
            ask=lambda cls: replace(self, cls=cls.tolist()),
        )

    def _table(self, output: Any) -> Tensor:
        """The output as (N, C): a single number is that of a yes."""
        values = self.tensor(output)
        return values[:, None] if values.ndim == 1 else values

    def _exclusive(self, values: Tensor) -> bool:
        return self.exclusive and values.shape[1] > 1

    def _check(self, values: Tensor) -> None:
        """Raise where the output does not look like what it is said to be."""
        several = self._exclusive(values)
        chances = bool(((values >= 0) & (values <= 1)).all())
        sums = chances and several and bool(((values.sum(1) - 1).abs() < ROUNDING).all())
        name = type(self).__name__
        if self.of == "logits" and sums:
            raise TorchwhyError(
                f"the model's outputs are between 0 and 1 and sum to 1, as probabilities do: say "
                f"{name}(..., of='probabilities')"
            )
        if self.of == "probabilities" and not chances:
            raise TorchwhyError(
                f"the model's outputs go from {values.min():.3g} to {values.max():.3g}, so they are no probabilities: "
                f"leave out of='probabilities'"
            )
        if self.of == "probabilities" and several and not sums:
            raise TorchwhyError(
                f"the model's outputs do not sum to 1: if the classes do not exclude each other, say "
                f"{name}(..., exclusive=False)"
            )

    @abstractmethod
    def _of_class(self, values: Tensor, cls: Tensor) -> Tensor:
        """The score of the class of each row."""

    @abstractmethod
    def _name(self, cls: str) -> str:
        """The score in words."""


@dataclass(frozen=True, eq=False)
class Probability(_Chance):
    r"""The probability of a class.

    .. math:: f(x) = p_c(x), \qquad p = \mathrm{softmax}(y)

    Args:
        cls: the class, or a list or tensor with one for each example; None is the predicted one.
        of: what the model gives, "logits" or "probabilities". Outputs that contradict it are refused.
        exclusive: an example belongs to one class. False takes :math:`p_c = 1 / (1 + e^{-y_c})` for each class by
            itself, as a single output is taken anyway.

    Units: probability, between 0 and 1. Where it is close to 1 the gradient vanishes; `LogOdds` keeps it.

    >>> target = Probability(1).resolve(torch.zeros(1, 4), torch.tensor([0]), 1)
    >>> target.names(1), target(torch.zeros(1, 4), torch.tensor([0])).item()
    (['P(1)'], 0.25)
    """

    def _of_class(self, values: Tensor, cls: Tensor) -> Tensor:
        if self.of == "logits":
            values = values.softmax(1) if self._exclusive(values) else values.sigmoid()
        return pick(values, cls[:, None])

    def _name(self, cls: str) -> str:
        return f"P({cls})"


@dataclass(frozen=True, eq=False)
class LogOdds(_Chance):
    r"""The logarithm of the odds of a class, in which evidence adds up and does not saturate.

    .. math:: f(x) = \log \frac{p_c}{1 - p_c} = y_c - \log \sum_{j \ne c} e^{y_j}

    From probabilities, :math:`1 - p_c` is the sum of the others, so that no digit is lost where :math:`p_c` is close
    to 1.

    Args:
        cls: the class, or a list or tensor with one for each example; None is the predicted one.
        of: what the model gives, "logits" or "probabilities". Outputs that contradict it are refused.
        exclusive: an example belongs to one class. False takes each class by itself, :math:`f = y_c`, as a single
            output is taken anyway.

    Units: nats.

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> LogOdds(0).resolve(logits, torch.tensor([0]), 1)(logits, torch.tensor([0])).item()
    2.0
    """

    def _of_class(self, values: Tensor, cls: Tensor) -> Tensor:
        own = pick(values, cls[:, None])
        several = self._exclusive(values)
        if not several:
            return own if self.of == "logits" else own.log() - torch.log1p(-own)
        mine = torch.arange(values.shape[1], device=values.device) == cls[:, None].to(values.device)
        if self.of == "logits":
            return own - values.masked_fill(mine, -torch.inf).logsumexp(1)
        return own.log() - values.masked_fill(mine, 0).sum(1).log()

    def _name(self, cls: str) -> str:
        return f"log-odds of {cls}"


@dataclass(frozen=True, eq=False)
class Token(Score):
    r"""A token that a language model gives at a position of the sequence, from logits (B, T, V).

    .. math:: f(x) = \sum_{k} y_{t_k, v_k}(x) \quad\text{or}\quad \sum_k \log \mathrm{softmax}(y_{t_k}(x))_{v_k}

    Args:
        position: of the logits, from 0, or from the end with negative numbers; a tuple sums over several. A causal
            model gives the token at ``position + 1`` there.
        token: its number in the vocabulary, or a tuple of as many; None is the model's own choice.
        of: "logits", or "log-probabilities", which for the tokens of a continuation sum to its log-probability.

    >>> Token(-1, 17, of="log-probabilities").resolve(torch.zeros(1, 4, 20), torch.tensor([0]), 1).names(1)
    ['token 17 at position 3 (log-probability)']
    """

    position: int | tuple[int, ...] | list[int | tuple[int, ...]]
    token: int | tuple[int, ...] | list[int | tuple[int, ...]] | None = None
    of: Literal["logits", "log-probabilities"] = "logits"

    def __post_init__(self) -> None:
        if self.of not in ("logits", "log-probabilities"):
            raise TorchwhyError(f"of is 'logits' or 'log-probabilities', not {self.of!r}")

    def resolve(self, output: Any, rows: Tensor, size: int) -> Target:
        logits = self.tensor(output)
        rows_of(logits, rows)
        if logits.ndim != 3:
            raise TorchwhyError(
                f"a token is explained of logits (B, positions, vocabulary), not of shape {tuple(logits.shape)}"
            )
        places = _numbers(each(self.position, rows, size, "positions"), len(rows), "a position", logits.shape[1])
        places = places.to(logits.device)
        if self.token is None:
            chosen = logits[torch.arange(len(rows), device=logits.device)[:, None], places].argmax(2)
        else:
            chosen = _numbers(each(self.token, rows, size, "tokens"), len(rows), "a token", logits.shape[2])
        if chosen.shape != places.shape:
            raise TorchwhyError(
                f"{chosen.shape[1]} tokens were given for {places.shape[1]} positions of an example: give one for each"
            )
        return Target(
            self._read,
            (places, chosen.to(logits.device)),
            self._say,
            predicted=self.token is None,
            ask=lambda places, chosen: replace(self, token=[tuple(row) for row in chosen.tolist()]),
        )

    def _read(self, output: Any, places: Tensor, chosen: Tensor) -> Tensor:
        logits = self.tensor(output)
        rows_of(logits, places)
        here = logits[torch.arange(len(places), device=logits.device)[:, None], places]
        if self.of == "log-probabilities":
            here = here.log_softmax(2)
        return here.gather(2, chosen[..., None]).flatten(1).sum(1)

    def _say(self, places: Tensor, chosen: Tensor, names: ClassNames) -> str:
        several = len(places) > 1
        shown = [", ".join(map(str, t.tolist())) for t in (chosen, places)]
        kind = " (log-probability)" if self.of == "log-probabilities" else ""
        return f"token{'s' * several} {shown[0]} at position{'s' * several} {shown[1]}{kind}"


def _numbers(given: Any, count: int, what: str, length: int) -> Tensor:
    """As many numbers from 0 for each of ``count`` examples, (count, K)."""
    rows = given if isinstance(given, list) else [given] * count
    rows = [row if isinstance(row, tuple) else (row,) for row in rows]
    for row in rows:
        if not row or not all(is_int(i) for i in row):
            raise TorchwhyError(
                f"{what} is a whole number, or a tuple of these, not {row[0] if len(row) == 1 else row!r}"
            )
        for i in row:
            if not -length <= i < length:
                raise TorchwhyError(f"{what}, {i}, is out of range: there are {length}, numbered 0 to {length - 1}")
    if len({len(row) for row in rows}) > 1:
        raise TorchwhyError(f"{what}: every example has as many, not {sorted({len(row) for row in rows})}")
    return torch.tensor(rows, dtype=torch.long) % length


@dataclass(frozen=True, eq=False)
class Similarity(Score):
    r"""How similar the embedding that the model gives is to a reference.

    .. math:: f(x) = \frac{e(x) \cdot r}{\lVert e(x) \rVert \, \lVert r \rVert} \quad\text{or}\quad e(x) \cdot r

    Args:
        reference: an embedding in the shape of one example's, or (B, ...) one for each.
        kind: "cosine" or "dot".

    >>> e = torch.tensor([[3.0, 4.0]])
    >>> Similarity(torch.tensor([1.0, 0.0])).resolve(e, torch.tensor([0]), 1)(e, torch.tensor([0])).item()
    0.6000000238418579
    """

    reference: Tensor = field(repr=False)
    kind: Literal["cosine", "dot"] = "cosine"

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "dot"):
            raise TorchwhyError(f"kind is 'cosine' or 'dot', not {self.kind!r}")
        if not isinstance(self.reference, Tensor):
            raise TorchwhyError(f"a reference is an embedding, a tensor, not {type(self.reference).__name__}")
        if not self.reference.isfinite().all():
            raise TorchwhyError("the reference holds NaN or infinity")

    def resolve(self, output: Any, rows: Tensor, size: int) -> Target:
        found = self.tensor(output)
        rows_of(found, rows)
        reference = self.reference.detach().to(found)
        shape = found.shape[1:]
        if reference.shape == (size, *shape):
            reference = reference[rows.to(reference.device)]
        elif reference.shape == shape:
            reference = reference.expand(len(rows), *shape)
        else:
            raise TorchwhyError(
                f"the reference has shape {tuple(reference.shape)}, the model's embeddings {tuple(shape)}: give one "
                f"such, or one for each of {size} examples"
            )
        reference = reference.flatten(1)
        if self.kind == "cosine" and not reference.norm(dim=1).all():
            raise TorchwhyError("the reference is zero, which has no direction: use kind='dot'")
        words = {"cosine": "cosine similarity to the reference", "dot": "dot product with the reference"}[self.kind]
        return Target(self._read, (reference,), lambda reference, names: words)

    def _read(self, output: Any, reference: Tensor) -> Tensor:
        found = self.tensor(output).flatten(1)
        if found.shape != reference.shape:
            raise TorchwhyError(f"the model gave embeddings of shape {tuple(found.shape)} for {len(reference)} rows")
        dot = (found * reference).sum(1)
        return dot if self.kind == "dot" else dot / (found.norm(dim=1) * reference.norm(dim=1))
