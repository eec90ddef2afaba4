"""Full-gradients: the gradient at the input, and what every bias on the way adds to the score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor

from torchwhy.core.errors import UnsupportedError
from torchwhy.core.problem import Problem
from torchwhy.core.target import TargetLike
from torchwhy.core.tensors import TensorOrTensors, Tensors, align
from torchwhy.engines.rules import Composite, Ruled
from torchwhy.engines.rules.offset import Collector
from torchwhy.methods.base import Attribution, Method
from torchwhy.registry import Info, register

# How a tensor of so many dimensions, (B, C, ...), is enlarged, and averaged over regions.
_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}
_POOLS = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}


@dataclass(frozen=True)
class BiasGradient:
    """What the biases of one operation add to the score.

    Attributes:
        name: of the module whose code runs the operation.
        operation: its name.
        values: bias times gradient, (B, ...) in the form of the operation's output.
    """

    name: str
    operation: str
    values: Tensor


@dataclass(frozen=True)
class FullGradient:
    """The score, taken apart: it is the sum of all values.

    Attributes:
        inputs: input times gradient, (B, ...).
        biases: for each operation that adds something, the first one first.
        scores: (B,).
    """

    inputs: TensorOrTensors
    biases: tuple[BiasGradient, ...]
    scores: Tensor


class _Watched(Ruled):
    """Plain gradients, and what the operations of every pass add."""

    passes: list[tuple[BiasGradient, ...]]

    def _run(self, z: Tensors | None, rows: Tensor, gradients: bool) -> Any:
        if not gradients:
            return super()._run(z, rows, gradients)
        collector = Collector(self.model)
        self.composite = collector.composite(self.composite.name)
        done = super()._run(z, rows, gradients)
        found = [BiasGradient(a.place.name, a.operation, _rows(a.values, len(rows))) for a in collector.found]
        self.passes.append(tuple(reversed(found)))
        return done


def _rows(values: Tensor, count: int) -> Tensor:
    """Values with the examples in dimension 0; a model may have joined it with the next ones."""
    if values.ndim and len(values) == count:
        return values
    if values.ndim and len(values) % count == 0:
        return values.view(count, -1, *values.shape[1:])
    raise UnsupportedError(
        f"FullGrad has to know what belongs to which example, and an operation gives shape {tuple(values.shape)} "
        f"for {count} of them: keep the batch in dimension 0"
    )


@register(
    Info(
        family="gradient",
        summary="where the input and the biases of all layers raise or lower the score",
        paper="Srinivas, Fleuret: Full-Gradient Representation for Neural Network Visualization",
        year=2019,
        needs="gradients",
        cost="1 gradient",
        signed=False,
    )
)
@dataclass(kw_only=True, eq=False)
class FullGrad(Method):
    r"""Full-gradients: input times gradient, and bias times gradient of every operation.

    .. math:: f(x) = \nabla_x f \cdot x + \sum_l \nabla_{b_l} f \cdot b_l, \qquad
        S = \sum_c \psi(\nabla_x f \odot x)_c + \sum_l \sum_c \psi(\nabla_{b_l} f \odot b_l)_c

    Biases are found operation by operation, wherever they hide: in a layer, in a batch norm, in a sum with a constant.
    A function that is no straight line adds what its tangent misses at zero, :math:`b = y - J x`, so that the first
    equation is exact for any network.

    Args:
        postprocess: as in the paper, :math:`\psi` takes sizes, stretches those of each layer from 0 to 1 and enlarges
            them bilinearly, and layers without spatial dimensions are left out. False keeps the numbers: every value
            is spread evenly over what it covers of the input (over all of it where it has no place), and the map adds
            up to the score.

    Shapes: inputs (B, C, ...) with spatial dimensions give a map (B, 1, ...), others, (B, F), values (B, F). Of several
    inputs, a bias is shared by those with as many spatial dimensions, or by all. Units: score; none for the paper's.

    Raises:
        UnsupportedError: an operation hides in compiled code, or what it adds is not known.

    Paper: S. Srinivas, F. Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019,
        arXiv:1905.00780.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> model.load_state_dict({"weight": torch.tensor([[2.0, 3.0]]), "bias": torch.tensor([4.0])})
    <All keys matched successfully>
    >>> FullGrad(model, postprocess=False).attribute(torch.ones(1, 2))
    tensor([[4., 5.]])
    """

    postprocess: bool = True

    def compute(self, p: Problem) -> Attribution:
        biases, at_inputs = self._parts(p)
        if not self.postprocess:
            maps = at_inputs.map(_summed)
            for bias in biases:
                maps = _spread(bias.values, maps)
            return Attribution(maps)
        maps = at_inputs.map(lambda t: _summed(_stretched(t)))
        for bias in biases:
            maps = maps.map(lambda m, t=bias.values: m + _enlarged(_summed(_stretched(t)), m) if _fits(t, m) else m)
        return Attribution(maps)

    def decompose(
        self, inputs: TensorOrTensors, target: TargetLike = None, additional_forward_args: Any = None
    ) -> FullGradient:
        """Every part of the score by itself; takes what `attribute` takes.

        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> found = FullGrad(model).decompose(torch.ones(1, 2))
        >>> [(b.name, b.operation, tuple(b.values.shape)) for b in found.biases]
        [('0', 'linear', (1, 3)), ('2', 'linear', (1, 1))]
        """
        with self._open(inputs, None, target, additional_forward_args, None) as (p, was_tuple):
            parts, at_inputs = self._parts(p)
            return FullGradient(at_inputs.unwrap(was_tuple if p.site is None else p.was_tuple), parts, p.scores)

    def total(self, p: Problem) -> Tensor | None:
        return None if self.postprocess else p.scores

    @property
    def facts(self) -> Info:
        return self.info if self.postprocess else replace(self.info, signed=True, promises=("completeness",))

    def _parts(self, p: Problem) -> tuple[tuple[BiasGradient, ...], Tensors]:
        """What biases and inputs add, known to be all."""
        watched = _Watched.of(p, Composite("FullGrad", ()))
        watched.passes = []
        scores, slope = watched.at_point()
        watched.share(p)
        biases = _joined(watched.passes)
        at_inputs = p.point * slope
        parts = [at_inputs.double_for_sums(), *(Tensors([b.values]).double_for_sums() for b in biases)]
        total, size = (
            torch.stack([t.per_example().double() for t in ts]).sum(0) for ts in (parts, [abs(t) for t in parts])
        )
        missing = (total - scores).abs() > torch.finfo(scores.dtype).eps ** 0.5 * size
        if missing.any():
            i = int(missing.nonzero()[0])
            raise UnsupportedError(
                f"FullGrad's parts of example {i} add up to {float(total[i]):.4g}, not to its score of "
                f"{float(scores[i]):.4g}: the model adds something where no operation shows it, or mixes its examples"
            )
        return biases, at_inputs


def _joined(passes: list[tuple[BiasGradient, ...]]) -> tuple[BiasGradient, ...]:
    """The same operations in passes over different examples."""
    if len({tuple((b.name, b.operation, b.values.shape[1:]) for b in found) for found in passes}) > 1:
        raise UnsupportedError(
            "FullGrad cannot join examples that take different ways through the model: explain them one by one"
        )
    return tuple(replace(same[0], values=torch.cat([b.values for b in same])) for same in zip(*passes, strict=True))


def _stretched(t: Tensor) -> Tensor:
    """Sizes, from 0 to 1 within each example."""
    rows = t.abs().flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    width = high - low
    return torch.where(width > 0, (rows - low) / width, 0).view(t.shape)


def _summed(t: Tensor) -> Tensor:
    """Over channels, where there is something besides them: (B, C, ...) to (B, 1, ...)."""
    return t.sum(1, keepdim=True) if t.ndim > 2 else t


def _fits(t: Tensor, like: Tensor) -> bool:
    """Whether values of a layer have their places in a map."""
    return t.ndim == like.ndim and t.ndim in _MODES


def _enlarged(t: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(t, like.shape[2:], mode=_MODES[t.ndim], align_corners=True).to(like.dtype)


def _spread(t: Tensor, maps: Tensors) -> Tensors:
    """Add values to maps, evenly over what they cover; their sum stays what it is."""
    fitting = [_fits(t, m) for m in maps]
    if any(fitting):
        share = t.sum(1, keepdim=True) / sum(fitting)
        return Tensors(m + _over_regions(share, m) if fits else m for m, fits in zip(maps, fitting, strict=True))
    share = Tensors([t]).per_example() / sum(m[0].numel() for m in maps)
    return maps.map(lambda m: m + align(share, m))


def _over_regions(t: Tensor, like: Tensor) -> Tensor:
    """Each value in equal parts over the region of the map that it stands for: the adjoint of an average pool."""
    with torch.enable_grad():
        leaf = torch.zeros_like(like, dtype=t.dtype).requires_grad_()
        pooled = _POOLS[t.ndim](leaf, t.shape[2:])  # type: ignore[arg-type]  # a size for each dimension
    return torch.autograd.grad(pooled, leaf, t)[0].to(like.dtype)
