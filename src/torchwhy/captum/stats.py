"""Running statistics of tensors that come one after the other, of all of them and by class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError

StatValue: TypeAlias = Tensor | int
Summary: TypeAlias = dict[str, StatValue | None]


class Stat(ABC):
    """A statistic of each element over the tensors seen so far; None before the first.

    Equal to another of its kind with the same settings, whatever their names.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """In a summary."""
        return self._name or self._named()

    def _named(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    def update(self, x: Tensor) -> None:
        """See one more tensor."""

    @abstractmethod
    def get(self) -> StatValue | None:
        """The statistic."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and hash(self) == hash(other)

    def __hash__(self) -> int:
        return hash((type(self).__name__, getattr(self, "order", None)))


class Count(Stat):
    """How many tensors there were."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.n: int | None = None

    def update(self, x: Tensor) -> None:
        """See one more tensor."""
        self.n = (self.n or 0) + 1

    def get(self) -> int | None:
        """The number."""
        return self.n


class _Spread(Stat):
    """Welford's running mean and sum of squared deviations from it."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.n = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """See one more tensor."""
        x = x.detach().clone() if x.is_floating_point() else x.double()
        self.n += 1
        if self.mean is None or self.squares is None:
            self.mean, self.squares = x, torch.zeros_like(x)
            return
        off = x - self.mean
        self.mean = self.mean + off / self.n
        self.squares = self.squares + off * (x - self.mean)


class Mean(_Spread):
    """The mean.

    >>> mean = Mean()
    >>> for x in (1.0, 2.0, 6.0):
    ...     mean.update(torch.tensor(x))
    >>> mean.get()
    tensor(3.)
    """

    def get(self) -> Tensor | None:
        """The mean."""
        return self.mean


class MSE(_Spread):
    """The sum of squared deviations from the mean."""

    def get(self) -> Tensor | None:
        """The sum."""
        return self.squares


class Var(_Spread):
    """The variance, in float64.

    Args:
        name: in a summary.
        order: what is taken from the number of tensors before it divides: 1 for that of a sample.
    """

    def __init__(self, name: str | None = None, order: int = 0) -> None:
        super().__init__(name)
        self.order = order

    def _named(self) -> str:
        return {0: "variance", 1: "sample_variance"}.get(self.order, f"variance({self.order})")

    def get(self) -> Tensor | None:
        """The variance; 0 for too few tensors."""
        if self.squares is None:
            return None
        if self.n <= self.order:
            return torch.zeros_like(self.squares)
        return self.squares.double() / (self.n - self.order)


class StdDev(Var):
    """The standard deviation, the root of `Var`."""

    def _named(self) -> str:
        return {0: "std_dev", 1: "sample_std_dev"}.get(self.order, f"std_dev({self.order})")

    def get(self) -> Tensor | None:
        """The standard deviation; 0 for too few tensors."""
        variance = super().get()
        return None if variance is None else variance.sqrt()


class _Folded(Stat):
    """What a function of two tensors makes of all."""

    def __init__(self, name: str | None, fn: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(name)
        self.fn = fn
        self.result: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """See one more tensor."""
        self.result = x.detach().clone() if self.result is None else self.fn(self.result, x.detach())

    def get(self) -> Tensor | None:
        """What was made."""
        return self.result


class Min(_Folded):
    """The smallest of each element."""

    def __init__(self, name: str | None = None, min_fn: Callable[[Tensor, Tensor], Tensor] = torch.min) -> None:
        super().__init__(name, min_fn)


class Max(_Folded):
    """The largest of each element."""

    def __init__(self, name: str | None = None, max_fn: Callable[[Tensor, Tensor], Tensor] = torch.max) -> None:
        super().__init__(name, max_fn)


class Sum(_Folded):
    """The sum."""

    def __init__(self, name: str | None = None, add_fn: Callable[[Tensor, Tensor], Tensor] = torch.add) -> None:
        super().__init__(name, add_fn)


def CommonStats() -> list[Stat]:  # noqa: N802  the name is Captum's
    """Mean, variance and standard deviation of a sample, smallest and largest."""
    return [Mean(), Var(order=1), StdDev(order=1), Min(), Max()]


class SummarizerSingleTensor:
    """Statistics of one tensor.

    Args:
        stats: all that are kept.
        summary_stats_indices: which of them are in the summary.
    """

    def __init__(self, stats: list[Stat], summary_stats_indices: list[int]) -> None:
        self._stats = stats
        self._shown = [stats[i] for i in summary_stats_indices]

    def update(self, x: Tensor) -> None:
        """See one more tensor."""
        for stat in self._stats:
            stat.update(x)

    def get(self, stat: Stat) -> Stat | None:
        """The statistic kept that equals this one."""
        return next((kept for kept in self._stats if kept == stat), None)

    @property
    def summary(self) -> Summary:
        """The statistics by name."""
        return {stat.name: stat.get() for stat in self._shown}


class Summarizer:
    """Statistics of tensors, numbers, or tuples of these.

    Args:
        stats: what is kept of each; left as they are.

    >>> summarizer = Summarizer([Mean(), Max()])
    >>> for x in (1.0, 2.0, 6.0):
    ...     summarizer.update(torch.tensor([x, -x]))
    >>> summarizer.summary
    {'mean': tensor([ 3., -3.]), 'max': tensor([ 6., -1.])}
    """

    def __init__(self, stats: list[Stat]) -> None:
        self._stats = list(stats)
        self._each: list[SummarizerSingleTensor] = []
        self._is_tuple: bool | None = None

    def update(self, x: float | Tensor | tuple[float | Tensor, ...]) -> None:
        """See one more tensor, or tuple of tensors."""
        if self._is_tuple not in (None, isinstance(x, tuple)):
            raise TorchwhyError("a summary is of tensors or of tuples of tensors, not of both")
        self._is_tuple = isinstance(x, tuple)
        for number, part in enumerate(x if isinstance(x, tuple) else (x,)):
            if number == len(self._each):
                self._each.append(SummarizerSingleTensor(deepcopy(self._stats), list(range(len(self._stats)))))
            self._each[number].update(part if isinstance(part, Tensor) else torch.tensor(part, dtype=torch.float))

    @property
    def summary(self) -> Summary | list[Summary] | None:
        """The statistics by name, for tuples a list of such; None before the first tensor."""
        if not self._each:
            return None
        found = [one.summary for one in self._each]
        return found if self._is_tuple else found[0]


class ClassSummarizer(Summarizer):
    """Statistics of all examples, and of those of each class."""

    def __init__(self, stats: list[Stat]) -> None:
        super().__init__(stats)
        self.summaries: dict[Any, Summarizer] = defaultdict(lambda: Summarizer(self._stats))

    def update(self, x: Any, labels: Any = None) -> None:
        """See a batch (B, ...), or a tuple of such, with a label each or one for all; without, one more tensor."""
        if labels is None:
            super().update(x)
            return
        parts = x if isinstance(x, tuple) else (x,)
        given: Any = labels if isinstance(labels, list | Tensor) else [labels]
        size = len(parts[0])
        if len(given) not in (1, size):
            raise TorchwhyError(f"{len(given)} labels were given for {size} examples: give one, or one for each")
        for i in range(size):
            one = tuple(part[i] for part in parts)
            label = given[0] if len(given) == 1 else given[i]
            self.summaries[label].update(one)
            super().update(one)

    @property
    def class_summaries(self) -> dict[Any, Summary | list[Summary] | None]:
        """The statistics of each class."""
        return {label: one.summary for label, one in self.summaries.items()}
