"""Sums of models: another one, or a known linear term, planted into what a model gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchwhy.core.errors import UnsupportedError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import draws

STREAM = 92  # of random numbers


class Term(nn.Module):
    """A weighted sum of the inputs, (B,) or the same for each of a number of outputs, (B, outputs)."""

    def __init__(self, weights: Tensors, outputs: int | None) -> None:
        super().__init__()
        self.outputs = outputs
        self.parts = nn.ModuleList()
        for w in weights:
            part = nn.Linear(w.numel(), 1, bias=False, device=w.device, dtype=w.dtype)
            part.weight = nn.Parameter(w.reshape(1, -1), requires_grad=False)
            self.parts.append(part)
        self.eval()

    def forward(self, *inputs: Any, **others: Any) -> Tensor:
        """The sum; further arguments are for the model."""
        sums = [part(t.flatten(1)) for part, t in zip(self.parts, inputs, strict=False)]
        total: Tensor = sum(sums[1:], sums[0])
        return total[:, 0] if self.outputs is None else total.expand(-1, self.outputs)


def random_term(p: Problem, seed: int) -> tuple[Term, Tensors]:
    """A random term of the size of what the inputs change in the score, for a model like that of ``p``; its weights.

    Raises:
        UnsupportedError: the inputs are whole numbers.
    """
    if not all(t.is_floating_point() for t in p.inputs):
        raise UnsupportedError(f"a linear term needs real numbers, and inputs {p.inputs.shapes} hold whole ones")
    generator = draws(seed, stream=STREAM)
    weights = p.inputs.map(
        lambda t: torch.randn(t.shape[1:], generator=generator, dtype=torch.float64).to(t.device, t.dtype)
    )
    size = float(abs((p.point - p.base) * weights).per_example().mean())
    change = float((p.scores - p.base_scores()).abs().mean())
    weights = weights * (change / size) if size and change else weights
    return Term(weights, None if p.output is None else p.output.shape[1]), weights


class Summed(nn.Module):
    """Two modules, weighted and added up."""

    def __init__(self, first: nn.Module, second: nn.Module, weights: tuple[float, float]) -> None:
        super().__init__()
        self.first, self.second, self.weights = first, second, weights
        self.training = first.training

    def forward(self, *inputs: Any, **others: Any) -> Tensor:
        """The sum of both outputs."""
        return _sum(self.first, self.second, self.weights, inputs, others)


def summed(first: Any, second: Any, weights: tuple[float, float] = (1.0, 1.0)) -> Callable[..., Any]:
    """``a * first + b * second``; of functions a function, so that modules inside are met when it calls them."""
    if isinstance(first, nn.Module) and isinstance(second, nn.Module):
        return Summed(first, second, weights)

    def both(*inputs: Any, **others: Any) -> Tensor:
        return _sum(first, second, weights, inputs, others)

    return both


def _sum(first: Any, second: Any, weights: tuple[float, float], inputs: Any, others: Any) -> Tensor:
    # A term leaves its input as it is; anything else may change it in place.
    given = inputs if isinstance(second, Term) else [t.clone() if isinstance(t, Tensor) else t for t in inputs]
    added = _times(weights[1], second(*given, **others))
    found: Tensor = _times(weights[0], first(*inputs, **others)) + added
    return found


def _times(factor: float, output: Any) -> Any:
    return output if factor == 1 else factor * output
