r"""Rules of layer-wise relevance propagation (LRP).

Relevance is carried as a gradient, :math:`R = x\, g`, so that an operation without a rule hands it on by its plain
gradient: sums and averages in proportion to their summands, maxima to the winner, relu to where it is active. A rule
for a layer :math:`y = W x + b` therefore returns :math:`R_i / x_i`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.tensors import accumulator
from torchwhy.engines.rules.composite import Backward, Composite, On, Prepared, Rule, on
from torchwhy.engines.rules.decompose import SMALLER, Refused
from torchwhy.engines.rules.difference import ELEMENTWISE, LINEAR
from torchwhy.engines.rules.local import Local
from torchwhy.engines.rules.operations import CONVOLUTIONS, LAYERS, names
from torchwhy.engines.rules.roots import ROOT

_FORWARD = CONVOLUTIONS[:3]
PRODUCTS = names(
    "matmul rmatmul mm bmm mv dot inner outer einsum tensordot addmm baddbmm addbmm addmv _grouped_mm mul div"
)

Weight: TypeAlias = Callable[[], Tensor]  # of a layer, made only where it is needed

# Straight on both sides of zero, through zero: their gradient is their quotient.
_STRAIGHT = names("relu leaky_relu prelu rrelu abs")
# The winner takes all.
_CHOICES = names("max min amax amin maximum minimum fmax fmin where masked_fill topk sort msort kthvalue") + tuple(
    f"{kind}max_pool{n}d{indices}" for kind in ("", "adaptive_") for n in (1, 2, 3) for indices in ("", "_with_indices")
)


def stabilised(z: Tensor, epsilon: float, *, out: Tensor | None = None) -> Tensor:
    """A denominator, moved away from zero by epsilon."""
    by = torch.where(z < 0, -epsilon, epsilon) if negative(z) else epsilon
    return torch.add(z, by, out=out)


def negative(x: Tensor) -> bool:
    """Whether a number is below zero, or none at all."""
    return x.numel() > 0 and not bool(x.amin() >= 0)


def shares(r: Tensor, z: Tensor, epsilon: float, *, out: Tensor | None = None) -> Tensor:
    """``r / z``, stabilised; nothing where there is nothing to divide by.

    New memory is what large tensors cost most: the quotient takes that of the denominator, which is that of ``out``.
    """
    d = stabilised(z, epsilon, out=out)
    none = None if epsilon >= torch.finfo(z.dtype).tiny else d == 0
    s = torch.div(r, d, out=d)
    return s if none is None else s.masked_fill_(none, 0)


def nonzero(x: Tensor) -> Tensor:
    """What stands for x in ``R = x * g`` where relevance does not vanish with x.

    The relevance that `InputRule` gives a black pixel is no multiple of 0; this is a number next to it.
    """
    if not x.is_floating_point():
        return x
    tiny = torch.finfo(x.dtype).tiny ** 0.5
    return torch.where(x.abs() < tiny, tiny, x)


# -- layers -----------------------------------------------------------------------------------------------------------


class _Merged(NamedTuple):
    """A layer with the batch norm behind it, and what flowed back through the two."""

    layer: Local
    above: Tensor
    between: Tensor


# From a layer to what batch norms behind it have left for its rule; the backward pass comes to them first.
_MERGED: WeakKeyDictionary[Local, list[_Merged]] = WeakKeyDictionary()


class MergeBatchNorm:
    """A batch norm with fixed statistics becomes part of the layer before it, whose rule then sees one layer.

    Behind anything else it is an affine function like others.
    """

    def __call__(self, local: Local, g: Tensor) -> Tensor:
        between = local.vjp(g)[0]
        layer = merged(local)
        if layer is not None:
            assert local.source is not None
            _MERGED.setdefault(local.source, []).append(_Merged(layer, g, between))
        return between


def merged(norm: Local) -> Local | None:
    """The layer that a batch norm and the layer before it are together; None if these are not that."""
    layer = norm.source
    mean, variance = norm.argument("running_mean"), norm.argument("running_var")
    if layer is None or len(norm.inputs) > 1 or mean is None or variance is None:
        return None
    weight, bias = layer.argument("weight"), layer.argument("bias")
    if len(layer.inputs) > 1 or not isinstance(weight, Tensor) or norm.inputs[0].ndim != weight.ndim:
        return None
    gain, shift, eps = norm.argument("weight"), norm.argument("bias"), norm.argument("eps")
    scale = (variance + (1e-5 if eps is None else eps)).rsqrt()
    scale = scale if gain is None else scale * gain
    offset = (-mean if bias is None else bias - mean) * scale
    offset = offset if shift is None else offset + shift
    if "transpose" in layer.operation:  # (in, out / groups, ...)
        wide = scale.view(-1, weight.shape[1])
        factor = wide.repeat_interleave(len(weight) // len(wide), 0)
        factor = factor.view(*factor.shape, *[1] * (weight.ndim - 2))
    else:
        factor = scale.view(-1, *[1] * (weight.ndim - 1))
    both = layer.with_(weight=(weight * factor).detach(), bias=offset.detach())
    both.keep(norm.output)
    return both


class LayerRule(ABC):
    """A rule for linear and convolutional layers, by what they are with the batch norm behind them."""

    @abstractmethod
    def propagate(self, local: Local, g: Tensor) -> Tensor:
        """The gradient at the layer's input."""

    def __call__(self, local: Local, g: Tensor) -> Tensor:
        if len(local.inputs) > 1:
            raise UnsupportedError(f"LRP cannot keep its promise at {local.operation}: its weight depends on the input")
        behind = _MERGED.pop(local, [])
        if not behind:
            return self._wide(local, g)
        if len(behind) == 1 and g is behind[0].between:
            return self._wide(behind[0].layer, behind[0].above)
        for m in behind:  # the layer's output went elsewhere too
            g = g - m.between
        found = self._wide(local, g)
        for m in behind:
            found = found + self._wide(m.layer, m.above)
        return found

    def _wide(self, local: Local, g: Tensor) -> Tensor:
        """In at least float32: quotients of half-precision numbers have few digits."""
        wide = local.wide()
        if wide is local:
            return self.propagate(local, g)
        return self.propagate(wide, g.to(wide.inputs[0].dtype)).to(local.inputs[0].dtype)


def _parameters(local: Local) -> tuple[Tensor, Tensor | None]:
    weight, bias = local.argument("weight"), local.argument("bias")
    if local.operation not in LAYERS or not isinstance(weight, Tensor):
        raise TorchwhyError(f"this rule of LRP is for {', '.join(LAYERS)}, not {local.operation}: select others")
    return weight.detach(), None if bias is None else bias.detach()


def _split(
    local: Local, g: Tensor, to_positive: Weight, to_negative: Weight, bias: Tensor | None, epsilon: float
) -> Tensor:
    """Divide ``y * g`` among the inputs, with other weights for the positive and the negative ones."""
    (x,), y = local.inputs, local.output
    if not negative(x):  # behind relu: half the work
        up = local.with_(weight=to_positive(), bias=bias)
        return up.vjp(shares(y * g, up.output, epsilon, out=up.output))[0]
    low = x.clamp(max=0)
    up = local.with_([x - low], weight=to_positive(), bias=bias)
    down = local.with_([low], weight=to_negative(), bias=None)
    z = up.output + down.output
    s = shares(y * g, z, epsilon, out=z)
    return torch.where(x < 0, down.vjp(s)[0], up.vjp(s)[0])


@dataclass(frozen=True)
class Epsilon(LayerRule):
    r"""In proportion to contributions: :math:`R_i = \sum_j \frac{x_i w_{ji}}{y_j + \epsilon\,\mathrm{sign}(y_j)} R_j`.

    With ``epsilon=0`` it is LRP-0, the plain gradient. What the bias and epsilon take does not come back.
    """

    epsilon: float = 1e-6

    def propagate(self, local: Local, g: Tensor) -> Tensor:
        if self.epsilon == 0:
            return local.vjp(g)[0]
        y = local.output
        return local.vjp(shares(y, y, self.epsilon).mul_(g))[0]


@dataclass(frozen=True)
class Gamma(LayerRule):
    r"""Positive contributions count more, by :math:`1 + \gamma`, for a positive output; for a negative, negative ones.

    .. math:: R_i = \sum_j \frac{x_i v_{ji}}{\sum_k x_k v_{jk} + b_j + \gamma b_j^\pm} R_j, \qquad
        v = w + \gamma w^\pm

    where the sign is that of the output for positive x, and the other one for negative x.
    """

    gamma: float = 0.25
    stabilizer: float = 1e-6

    def propagate(self, local: Local, g: Tensor) -> Tensor:
        w, b = _parameters(local)
        y = local.output

        def raised() -> Tensor:
            return w + self.gamma * w.clamp(min=0)

        def lowered() -> Tensor:
            return w + self.gamma * w.clamp(max=0)

        up = None if b is None else b + self.gamma * b.clamp(min=0)
        found = _split(local, torch.where(y > 0, g, 0), raised, lowered, up, self.stabilizer)
        if not (y < 0).any():
            return found
        down = None if b is None else b + self.gamma * b.clamp(max=0)
        return found + _split(local, torch.where(y < 0, g, 0), lowered, raised, down, self.stabilizer)


@dataclass(frozen=True)
class AlphaBeta(LayerRule):
    r"""Positive and negative contributions apart: :math:`R_i = \sum_j (\alpha \frac{z_{ji}^+}{z_j^+} - \beta
    \frac{z_{ji}^-}{z_j^-}) R_j`, :math:`\alpha - \beta = 1`.
    """  # noqa: D205  a formula

    alpha: float = 2.0
    beta: float = 1.0
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise TorchwhyError(f"alpha - beta is 1 and neither is negative, not {self.alpha} and {self.beta}")

    def propagate(self, local: Local, g: Tensor) -> Tensor:
        w, b = _parameters(local)
        plus, minus = partial(w.clamp, min=0), partial(w.clamp, max=0)
        up = None if b is None else b.clamp(min=0)
        found = _split(local, g, plus, minus, up, self.stabilizer).mul_(self.alpha)
        if self.beta == 0:
            return found
        down = None if b is None else b.clamp(max=0)
        return found.sub_(_split(local, g, minus, plus, down, self.stabilizer), alpha=self.beta)


@dataclass(frozen=True)
class ZPlus(AlphaBeta):
    r"""Positive contributions only: :math:`R_i = \sum_j \frac{z_{ji}^+}{z_j^+} R_j`; `AlphaBeta` with 1 and 0."""

    alpha: float = 1.0
    beta: float = 0.0


# -- the first layer --------------------------------------------------------------------------------------------------


class InputRule(LayerRule):
    """A rule for the layer that takes the input: its relevance does not vanish where the input does."""

    def propagate(self, local: Local, g: Tensor) -> Tensor:
        return self.relevance(local, local.output * g) / nonzero(local.inputs[0])

    def _wide(self, local: Local, g: Tensor) -> Tensor:
        wide = local.wide()
        (x,) = local.inputs
        found = self.relevance(wide, wide.output * g.to(wide.output.dtype))
        return (found / nonzero(x).to(found.dtype)).to(x.dtype)

    @abstractmethod
    def relevance(self, local: Local, r: Tensor) -> Tensor:
        """The relevance of the input."""


@dataclass(frozen=True, eq=False)
class ZBox(InputRule):
    r"""For inputs from l to h: :math:`z_{ji} = x_i w_{ji} - l_i w_{ji}^+ - h_i w_{ji}^-`, in proportion.

    Args:
        low: a number, or a tensor that broadcasts to the input.
        high: likewise.
    """

    low: float | Tensor
    high: float | Tensor
    stabilizer: float = 1e-6

    def relevance(self, local: Local, r: Tensor) -> Tensor:
        w, _ = _parameters(local)
        (x,) = local.inputs
        try:
            low, high = (
                torch.as_tensor(b, dtype=x.dtype, device=x.device).expand(x.shape) for b in (self.low, self.high)
            )
        except RuntimeError:
            shapes = " and ".join(str(tuple(torch.as_tensor(b).shape)) for b in (self.low, self.high))
            raise TorchwhyError(
                f"low and high, of shape {shapes}, do not broadcast to the first layer's input {tuple(x.shape)}"
            ) from None
        parts = (
            local.with_([x], weight=w, bias=None),
            local.with_([low], weight=w.clamp(min=0), bias=None),
            local.with_([high], weight=w.clamp(max=0), bias=None),
        )
        z, z_low, z_high = (part.output for part in parts)
        z = z - z_low - z_high
        s = shares(r, z, self.stabilizer, out=z)
        g, g_low, g_high = (part.vjp(s)[0] for part in parts)
        return x * g - low * g_low - high * g_high


@dataclass(frozen=True)
class WSquare(InputRule):
    r"""In proportion to squared weights, whatever the input: :math:`R_i = \sum_j w_{ji}^2 R_j / \sum_k w_{jk}^2`."""

    stabilizer: float = 1e-6

    def relevance(self, local: Local, r: Tensor) -> Tensor:
        w, b = _parameters(local)
        return self._of(local, r, w.square(), None if b is None else b.square())

    def _of(self, local: Local, r: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ones = local.with_([torch.ones_like(local.inputs[0])], weight=weight, bias=bias)
        return ones.vjp(shares(r, ones.output, self.stabilizer, out=ones.output))[0]


@dataclass(frozen=True)
class Flat(WSquare):
    """In equal parts to all inputs that a unit sees."""

    def relevance(self, local: Local, r: Tensor) -> Tensor:
        w, _ = _parameters(local)
        (x,) = local.inputs
        if local.operation not in _FORWARD or x.ndim != w.ndim:
            return self._of(local, r, torch.ones_like(w), None)
        # The channels of a group get the same, so that one stands for all.
        each = w.shape[1]
        groups = x.shape[1] // each
        one = local.with_([torch.ones_like(x[:, :groups])], weight=torch.ones_like(w[:groups, :1]), bias=None)
        s = shares(r.unflatten(1, (groups, -1)).sum(2), one.output * each, self.stabilizer)
        return one.vjp(s)[0].repeat_interleave(each, 1)


# -- all else ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Norm:
    r"""In proportion to summands, for sums and averages: `Epsilon` for any linear operation.

    Without stabiliser it is the plain gradient, which is what composites leave these operations to.
    """

    stabilizer: float = 1e-6

    def __call__(self, local: Local, g: Tensor) -> tuple[Tensor, ...]:
        y = local.output
        return local.vjp(shares(y, y, self.stabilizer).mul_(g))


class Pass(Prepared):
    """Functions of one number hand on what they get: ``y / x``, where x is not zero."""

    def prepare(self, local: Local) -> Backward:
        if len(local.inputs) > 1:
            raise Refused("both of its operands depend on the input, and LRP has no rule to share between them")
        (x,), y = local.inputs, local.output
        if x.shape != y.shape:  # a constant operand with more elements
            local = local.with_([x.expand(y.shape)])
        wide = local.wide()
        (u,) = wide.inputs
        m = torch.where(u == 0, wide.slope().nan_to_num(0, 0, 0), wide.output / u).to(y.dtype)
        return lambda g: (g * m).sum_to_size(x.shape).to(x.dtype)


@dataclass(frozen=True)
class OneFactor(Prepared):
    """Products of one varying factor are linear, and get `Epsilon`; of two, LRP has no rule.

    A product of two functions of one number, such as ``x * sigmoid(x)``, is a function of that number: `Pass`.
    """

    again = True
    epsilon: float = 0.0

    def fuses(self, local: Local) -> bool:
        return local.source is not None and local.source.operation == ROOT.operation

    def needed(self, local: Local) -> bool:
        if self.fuses(local):
            return True
        if len(local.inputs) > 1:
            raise Refused(
                "both of its operands depend on the input, and LRP has no rule to share between them; AttnLRP has"
            )
        return self.epsilon > 0 or self.divides(local)

    def prepare(self, local: Local) -> Backward:
        if self.fuses(local):
            return _of_root(local)
        if self.divides(local):
            return Pass().prepare(local)
        y = local.output
        m = shares(y, y, self.epsilon)
        return lambda g: local.vjp(g * m)

    def divides(self, local: Local) -> bool:
        """Whether all that varies is what is divided by."""
        return local.operation == "div" and local.call.slots[0][0] not in (0, "input")


def _of_root(local: Local) -> Backward:
    """`Pass` through all operations since the one number they start from."""
    assert local.source is not None
    (x,), y = local.source.inputs, local.output
    wide = torch.promote_types(accumulator(x.dtype), y.dtype)
    m = shares(y.to(wide), x.to(wide), 0)
    return lambda g: (g * m).to(x.dtype)


PLAIN = LINEAR | {*_STRAIGHT, *_CHOICES}
# Followed from number to number, so that activations written out are seen as one function.
FOLLOWED = ELEMENTWISE | {*names("add sub rsub neg positive to float double half bfloat16 type_as clone contiguous")}
_PASSED = sorted(ELEMENTWISE - {"mul", "div", *_STRAIGHT, *_CHOICES})


def common(epsilon: float) -> tuple[tuple[On, Rule], ...]:
    """Rules for what stands between layers."""
    sums = names("mul div")
    return (
        (on("batch_norm"), MergeBatchNorm()),
        (on(*[name for name in PRODUCTS if name not in sums]), OneFactor(epsilon)),
        (on(*sums), OneFactor()),
        (on(*_PASSED), Pass()),
    )


def composite(rules: Sequence[tuple[On, Rule]], epsilon: float = 1e-6) -> Composite:
    """Rules for layers, completed by those for what stands between them; other operations are refused by name."""
    apart = {name: SMALLER[name] for name in SMALLER if "dropout" in name}
    return Composite(
        "LRP",
        (*rules, *common(epsilon)),
        linear=PLAIN,
        decompositions={**apart, "batch_norm": SMALLER["batch_norm"]},
        sources=frozenset(LAYERS),
        elementwise=FOLLOWED,
    )
