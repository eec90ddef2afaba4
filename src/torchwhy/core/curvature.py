"""Second derivatives: how gradients change along what is held."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchwhy.core.passes import FIRST_ROWS
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors


def curvature_at_point(p: Problem) -> tuple[Tensors, Tensors]:
    """Gradients at the point, and the Hessian there times the point itself, (B, ...) each."""
    target, slopes, bent = p.target, [], []
    for start in range(0, p.size, limit := p._limit(True, FIRST_ROWS)):
        rows = torch.arange(start, min(p.size, start + limit), device=p.inputs.device)
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no second derivative
            seen = p._forward(None, rows, gradients=True)
            scores, _ = p._score(seen, rows, gradients=True)
            first = p._differentiate(scores, seen.leaves, target, again=True)
            bent.append(_along(p, first, seen.leaves))
        slopes.append(first.map(torch.Tensor.detach))
    return Tensors.cat(slopes), Tensors.cat(bent)


def _along(p: Problem, slopes: Tensors, leaves: Tensors) -> Tensors:
    """The derivative of gradients along what is held, at each of several places by itself."""
    found: list[Tensor] = []
    for count in [count for calls in p._layout for count in calls] or [len(leaves)]:
        part = slice(len(found), len(found) + count)
        held = leaves.parts[part]
        along = sum((g * t.detach()).sum() for g, t in zip(slopes.parts[part], held, strict=True) if g.requires_grad)
        bent: tuple[Tensor | None, ...] = (None,) * count
        if isinstance(along, Tensor):
            bent = torch.autograd.grad(along, held, allow_unused=True, retain_graph=True)
            p.cost.backward += leaves.size
        found += [torch.zeros_like(t) if b is None else b for b, t in zip(bent, held, strict=True)]
    return Tensors(found)
