"""Simple models that imitate a network near one example, in a space of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.tensors import TensorOrTensors, Tensors, as_tensors


@dataclass
class Imitation:
    r"""A linear model of the score in an interpretable space, fitted at changed copies of one example.

    .. math:: \min_{w, b} \sum_k \pi(x, x_k) \left(f(x_k) - b - w \cdot z_k\right)^2 + \Omega(w)

    with rows :math:`z_k` (1, M) of the interpretable space, the inputs :math:`x_k` (1, ...) that belong to them, and
    weights :math:`\pi` by their similarity to the example. `torchwhy.Lime` is this for features that are present or
    absent.

    Args:
        surrogate: a scikit-learn estimator with ``fit(X, y, sample_weight)`` and ``coef_``; or an object with
            ``fit(loader)``, of a data loader of rows, scores and weights, and ``representation()``.
        similarity: from the example, changed inputs and their row to a weight.
        perturb: from the example to one row or one changed input, or a generator function of them.
        to_inputs: from a row and the example to changed inputs, where ``perturb`` gives rows.
        to_row: from changed inputs and the example to a row, where ``perturb`` gives changed inputs.
        known: given by name to all of these.

    Paper: M. T. Ribeiro, S. Singh, C. Guestrin, KDD 2016, arXiv:1602.04938.

    >>> from sklearn.linear_model import LinearRegression
    >>> def perturb(x):
    ...     yield from torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]])
    >>> near = Imitation(LinearRegression(), lambda x, near, row: 1.0, perturb, lambda row, x: row * x)
    >>> x = torch.tensor([[2.0, 3.0]])
    >>> near.coefficients(lambda changed: changed.parts[0] @ torch.tensor([1.0, -1.0]), x, n_samples=4).round()
    tensor([[ 2., -3.]])
    """

    surrogate: Any
    similarity: Callable[..., Any]
    perturb: Callable[..., Any]
    to_inputs: Callable[..., TensorOrTensors] | None = None
    to_row: Callable[..., Tensor] | None = None
    known: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.to_inputs is None) == (self.to_row is None):
            raise TorchwhyError("give to_inputs where perturb gives rows, or to_row where it gives changed inputs")

    def coefficients(self, score: Callable[[Tensors], Tensor], inputs: TensorOrTensors, n_samples: int) -> Tensor:
        """The weights of the model that is fitted for one example, in the form that the surrogate has them.

        Args:
            score: from changed inputs (N, ...) to the network's scores (N,).
            inputs: the example (1, ...), or a tuple of such.
            n_samples: changed copies, or as many as a generator gives.
        """
        rows, weights, changed = [], [], []
        for row, near in self._copies(inputs, n_samples):
            rows.append(row)
            changed.append(as_tensors(near, "what perturb gives")[0])
            weight = self.similarity(inputs, near, row, **self.known)
            weights.append(torch.as_tensor(weight, dtype=torch.float32).flatten().cpu())
        if not rows:
            raise TorchwhyError("perturb gave no changed copy: a generator gives at least one")
        scores = score(Tensors.cat(changed))
        return self._fitted(torch.cat(rows).float().cpu(), scores.float().cpu(), torch.cat(weights)).to(scores.device)

    def _copies(self, inputs: TensorOrTensors, count: int) -> Iterator[tuple[Tensor, TensorOrTensors]]:
        """Rows with the inputs that belong to them."""
        drawn = self.perturb(inputs, **self.known) if inspect.isgeneratorfunction(self.perturb) else None
        for _ in range(count):
            if drawn is None:
                one = self.perturb(inputs, **self.known)
            elif (one := next(drawn, None)) is None:
                return
            if self.to_inputs is not None:
                yield one, self.to_inputs(one, inputs, **self.known)
            elif self.to_row is not None:
                yield self.to_row(one, inputs, **self.known), one

    def _fitted(self, rows: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
        if hasattr(self.surrogate, "representation"):
            from torch.utils.data import DataLoader, TensorDataset

            self.surrogate.fit(DataLoader(TensorDataset(rows, scores, weights), batch_size=len(rows)))
            found: Tensor = self.surrogate.representation()
            return found.detach()
        from sklearn import base

        fitted = base.clone(self.surrogate).fit(rows.numpy(), scores.numpy(), sample_weight=weights.numpy())
        if not hasattr(fitted, "coef_"):
            raise TorchwhyError(f"the surrogate {fitted} has no coef_: choose a linear one")
        return torch.as_tensor(fitted.coef_, dtype=torch.float32).reshape(1, -1)
