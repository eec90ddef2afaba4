r"""Rules that explain a difference from a baseline.

Every operation gets multipliers m with :math:`\sum_i m_i \Delta x_i = \Delta y`. This holds exactly, whatever the
size of the differences; as these go to zero, the multipliers become derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor

from torchwhy.engines.rules.composite import Backward, Composite, Prepared, Rule, on
from torchwhy.engines.rules.decompose import SMALLER, Refused
from torchwhy.engines.rules.engine import same_constants
from torchwhy.engines.rules.local import Local
from torchwhy.engines.rules.operations import names

Near: TypeAlias = Literal["never", "absolute", "relative"]


@dataclass(frozen=True)
class Rescale(Prepared):
    r"""Functions of one number, :math:`m = \Delta y / \Delta x`.

    Where :math:`\Delta x` is so small that the quotient loses its digits, m is the mean of the derivatives at both
    ends, which differs from it by :math:`O(\Delta x^2)`.

    Args:
        near: what "so small" means: exactly zero, for functions with corners, where the quotient is exact on both
            sides; or
            small absolutely, or small against x, for functions that change quickly near zero.
    """

    near: Near = "never"

    def prepare(self, local: Local) -> Backward:
        reference = _reference(local)
        if len(local.inputs) != 1:
            raise Refused("both of its operands depend on the input")
        if local.operation == "relu":
            m = relu_quotient(local.inputs[0], reference.inputs[0])
            return lambda g: g * m
        if not same_constants(local):
            _check_carried(local.output - reference.output, local.inputs[0] - reference.inputs[0])
        m, shape, dtype = self.multiplier(local.wide(), reference.wide()), local.inputs[0].shape, local.inputs[0].dtype
        m = m.to(local.output.dtype)
        if m.shape == shape:
            return lambda g: g * m
        return lambda g: (g * m).sum_to_size(shape).to(dtype)

    def multiplier(self, local: Local, reference: Local) -> Tensor:
        (x,), (x0,) = local.inputs, reference.inputs
        y = local.output
        if x.shape != y.shape:  # a constant operand with more elements
            local = local.with_([x.expand(y.shape)])
        return quotient(x, x0, y, reference.output, lambda: (local.slope() + reference.slope()) / 2, self.near)


def _check_carried(dy: Tensor, *dx: Tensor) -> None:
    """Every change of the output needs an input that changes with it."""
    changed = torch.stack([(d != 0).expand(dy.shape) for d in dx]).any(0)
    if ((dy != 0) & ~changed).any():
        raise Refused("an argument of it changes it that carries no gradient, where nothing that carries one changes")


def quotient(x: Tensor, x0: Tensor, y: Tensor, y0: Tensor, slope: Callable[[], Tensor], near: Near = "never") -> Tensor:
    """``(y - y0) / (x - x0)``, and ``slope()`` where that cannot be told."""
    dx = x - x0
    m = (y - y0).div_(dx) if dx.shape == y.shape else (y - y0) / dx
    if near == "never":
        close = dx == 0
    else:
        limit = torch.finfo(x.dtype).eps ** (1 / 3)
        close = dx.abs() <= (limit if near == "absolute" else limit * torch.maximum(x.abs(), x0.abs()))
    if close.any():
        # A slope is infinite where a root or logarithm starts; no difference flows there.
        m = torch.where(close, slope().nan_to_num(0, 0, 0), m)
    return m


def relu_quotient(x: Tensor, x0: Tensor) -> Tensor:
    """The same for relu, in fewer steps: the share of the way from x0 to x that lies above zero."""
    return torch.maximum(x, x0).div_((x - x0).abs_()).clamp_(0, 1).nan_to_num_(0)


@dataclass(frozen=True)
class Midpoint(Prepared):
    r"""Products of two varying factors: the derivative half way.

    .. math:: \Delta(ab) = \bar b \, \Delta a + \bar a \, \Delta b, \qquad \bar a = (a + a') / 2

    Exact for every operation of degree two: products, matrix products, attention. With one varying factor, the
    operation is linear.
    """

    def needed(self, local: Local) -> bool:
        return len(local.inputs) > 1 or not same_constants(local)

    def prepare(self, local: Local) -> Backward:
        reference = _reference(local)
        if len(local.inputs) == 1:
            return _other_changes(local)
        if not same_constants(local):
            raise Refused("an argument of it differs between input and baseline, and carries no gradient")
        if local.operation in ("einsum", "bilinear") and len(local.inputs) > 2:
            raise Refused("three of its operands depend on the input")
        half = [(x + x0) / 2 for x, x0 in zip(local.inputs, reference.inputs, strict=True)]
        if local.operation == "mul":
            (a, b), (shape_a, shape_b) = half, (x.shape for x in local.inputs)
            return lambda g: ((g * b).sum_to_size(shape_a), (g * a).sum_to_size(shape_b))
        return local.with_(half).vjp


def _other_changes(local: Local) -> Backward:
    """The other operand changes too, where no gradient shows it, as the mask in ``x * (x > 0)``."""
    if local.operation not in ELEMENTWISE:
        raise Refused("an argument of it depends on the input without carrying a gradient")
    return Rescale().prepare(local)


@dataclass(frozen=True)
class Quotient(Midpoint):
    r"""Of two varying numbers, as the product of a and 1/b.

    .. math:: m_a = \tfrac12 (1/b + 1/b'), \qquad m_b = -\bar a / (b b')
    """

    def needed(self, local: Local) -> bool:
        rounds = local.call.kwargs.get("rounding_mode") is not None
        return rounds or local.call.slots[0][0] != 0 or super().needed(local)

    def prepare(self, local: Local) -> Backward:
        reference = _reference(local)
        if len(local.inputs) == 1:
            return Rescale("relative").prepare(local)
        if local.call.kwargs.get("rounding_mode") is not None:
            raise Refused("it rounds, and both of its operands depend on the input")
        (a, b), (a0, b0) = local.inputs, reference.inputs
        m_a, m_b = (1 / b + 1 / b0) / 2, -(a + a0) / 2 / (b * b0)
        return lambda g: ((g * m_a).sum_to_size(a.shape), (g * m_b).sum_to_size(b.shape))


@dataclass(frozen=True)
class Either(Prepared):
    r"""The larger or smaller of two, :math:`a + \varphi(b - a)`: b gets what :math:`\varphi` does, a the rest."""

    def prepare(self, local: Local) -> Backward:
        reference = _reference(local)
        if len(local.inputs) == 1:
            return Rescale().prepare(local)
        if not same_constants(local):
            raise Refused("an argument of it differs between input and baseline, and carries no gradient")
        (a, b), (a0, b0) = local.inputs, reference.inputs
        m = _PHI[local.operation](b - a, b0 - a0)
        return lambda g: ((g * (1 - m)).sum_to_size(a.shape), (g * m).sum_to_size(b.shape))


def _softplus_quotient(u: Tensor, u0: Tensor) -> Tensor:
    return quotient(u, u0, F.softplus(u), F.softplus(u0), lambda: (u.sigmoid() + u0.sigmoid()) / 2, "absolute")


_PHI: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "maximum": relu_quotient,
    "fmax": relu_quotient,
    "max": relu_quotient,
    "minimum": lambda u, u0: relu_quotient(-u, -u0),
    "fmin": lambda u, u0: relu_quotient(-u, -u0),
    "min": lambda u, u0: relu_quotient(-u, -u0),
    "logaddexp": _softplus_quotient,
}


@dataclass(frozen=True)
class Largest(Prepared):
    r"""Maxima over several: what the maximum rises goes to where it is, what it falls to where the baseline's was.

    The place of the maximum of x is at least as far above its baseline as the maximum is, so no quotient exceeds one.
    """

    def prepare(self, local: Local) -> Backward:
        if any(isinstance(c, Tensor) for c in local.call.constants()) or len(local.inputs) > 1:
            return Either().prepare(local)  # torch.max(a, b)
        reference = _reference(local)
        (x,), (x0,) = local.inputs, reference.inputs
        y, y0 = local.output, reference.output
        if x0.shape != x.shape:
            reference = reference.with_([x0.expand(x.shape)])
        between = torch.minimum(y, y0) if local.operation in ("min", "amin") else torch.maximum(y, y0)
        rise, fall = between - y0, y - between
        dx = x - x0
        same = dx == 0
        some, falls = bool(same.any()), bool(fall.any())

        def backward(g: Tensor) -> Tensor:
            m = local.vjp(g * rise)[0]
            m = (m + reference.vjp(g * fall)[0] if falls else m) / dx
            return torch.where(same, local.vjp(g)[0], m) if some else m

        return backward


@dataclass(frozen=True)
class Softmax(Prepared):
    r"""softmax, log_softmax and logsumexp, through :math:`\mathrm{lse}(x) = \log \sum_i e^{x_i}`.

    .. math:: \Delta\,\mathrm{lse} = \sum_i m_i \Delta x_i, \qquad m_i = \frac{L(e^{x_i}, e^{x'_i})}{L(S, S')}, \qquad
        \log p_i = x_i - \mathrm{lse}, \qquad \Delta p_i = L(p_i, p'_i)\, \Delta \log p_i

    with the logarithmic mean :math:`L(a, b) = (a - b) / (\log a - \log b)` and :math:`S = \sum_i e^{x_i}`. All in
    logarithms, so that nothing overflows.
    """

    def prepare(self, local: Local) -> Backward:
        reference = _reference(local)
        if len(local.inputs) != 1 or not same_constants(local):
            raise Refused("an argument of it differs between input and baseline")
        dim = local.argument("dim")
        keep = local.operation != "logsumexp" or bool(local.argument("keepdim"))
        x, x0 = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (local.inputs[0], reference.inputs[0]))
        dtype = local.inputs[0].dtype
        lse, lse0 = (t.logsumexp(dim, keepdim=True) for t in (x, x0))
        log_p, log_p0 = x - lse, x0 - lse0
        # The logarithmic mean of e^a and e^b is e^((a + b) / 2) sinh(d) / d with d = (a - b) / 2.
        absent = (x == -torch.inf) | (x0 == -torch.inf)  # masked
        half = torch.where(absent, 0, (x - x0) / 2)
        m = ((log_p + log_p0) / 2 + _log_sinhc(half) - _log_sinhc((lse - lse0) / 2)).exp()
        if local.operation == "logsumexp":
            return lambda g: ((g if keep else g.unsqueeze(dim)) * m).to(dtype)
        if local.operation == "log_softmax":
            return lambda g: (g - m * g.sum(dim, keepdim=True)).to(dtype)
        half = torch.where(absent, 0, (log_p - log_p0) / 2)
        p = ((log_p + log_p0) / 2 + _log_sinhc(half)).exp()

        def backward(g: Tensor) -> Tensor:
            q = g * p
            return (q - m * q.sum(dim, keepdim=True)).to(dtype)

        return backward


def _log_sinhc(u: Tensor) -> Tensor:
    """``log(sinh(u) / u)``."""
    u = u.abs()
    small = u < 1e-2
    far = torch.where(small, 1, u)
    square = u * u
    series = square * (1 / 6 + square * (-1 / 180 + square * (1 / 2835 - square / 37800)))
    return torch.where(small, series, far + torch.log(-torch.expm1(-2 * far) / (2 * far)))


@dataclass(frozen=True)
class Choice(Prepared):
    """``where``: a change of the chosen goes to the chosen; one brought by another choice, to what differs itself."""

    def needed(self, local: Local) -> bool:
        return not same_constants(local)

    def prepare(self, local: Local) -> Backward:
        reference = _reference(local)
        if len(local.inputs) == 1:
            return Rescale().prepare(local)
        (chosen,), (chosen0,) = (
            [c for c in op.call.constants() if isinstance(c, Tensor) and c.dtype == torch.bool]
            for op in (local, reference)
        )
        (a, b), (a0, b0) = local.inputs, reference.inputs
        dy = local.output - reference.output
        da, db = (a - a0).expand(dy.shape), (b - b0).expand(dy.shape)
        _check_carried(dy, da, db)
        agree = chosen == chosen0
        carriers = ((da != 0).to(dy) + (db != 0).to(dy)).clamp(min=1)

        def share(d: Tensor, mine: Tensor) -> Tensor:
            return torch.where(agree, mine.to(dy), torch.where(d == 0, 0, dy / d / carriers))

        m_a, m_b = share(da, chosen), share(db, ~chosen)
        return lambda g: ((g * m_a).sum_to_size(a.shape), (g * m_b).sum_to_size(b.shape))


@dataclass(frozen=True)
class RevealCancel(Prepared):
    r"""Functions of one number behind a linear layer, whose positive and negative contributions do not cancel unseen.

    With :math:`\Delta x^\pm` the sums of the positive and the negative contributions of the layer's inputs to
    :math:`\Delta x`,

    .. math:: \Delta y^+ = \tfrac12 \big( f(x' + \Delta x^+) - f(x') + f(x) - f(x' + \Delta x^-) \big), \qquad
        m^+ = \Delta y^+ / \Delta x^+,

    :math:`m^-` likewise, and each contribution is multiplied by the one of its sign. Elsewhere, `Rescale`.
    """

    otherwise: Rescale

    def fuses(self, local: Local) -> bool:
        source = local.source
        return source is not None and len(source.inputs) == 1 and source.call.slots == ((0, None),)

    def prepare(self, local: Local) -> Backward:
        if not self.fuses(local):
            return self.otherwise.prepare(local)
        source = local.source
        assert source is not None
        d = source.inputs[0] - _reference(source).inputs[0]
        weight: Tensor = source.argument("weight")
        rising = source.with_([d.clamp(min=0)], weight=weight.clamp(min=0), bias=None)
        falling = source.with_([d.clamp(max=0)], weight=weight.clamp(max=0), bias=None)
        plus = rising.output + falling.output
        minus = rising.with_(falling.inputs).output + falling.with_(rising.inputs).output
        x0, y, y0 = _reference(local).inputs[0], local.output, _reference(local).output
        with_plus, with_minus = local.call.run([x0 + plus]), local.call.run([x0 + minus])

        def slope() -> Tensor:
            return (local.slope() + _reference(local).slope()) / 2

        zero = torch.zeros_like(y)
        m_plus = quotient(plus, zero, (with_plus - y0 + y - with_minus) / 2, zero, slope)
        m_minus = quotient(minus, zero, (with_minus - y0 + y - with_plus) / 2, zero, slope)

        def backward(g: Tensor) -> Tensor:
            g_plus, g_minus = g * m_plus, g * m_minus
            up = rising.vjp(g_plus)[0] + falling.vjp(g_minus)[0]
            down = rising.vjp(g_minus)[0] + falling.vjp(g_plus)[0]
            return torch.where(d > 0, up, torch.where(d < 0, down, (up + down) / 2))

        return backward


def _reference(local: Local) -> Local:
    assert local.reference is not None, "the composite asks for a pass over the baseline"
    return local.reference


_CORNERED = names(
    """
    relu relu6 leaky_relu prelu rrelu elu selu celu hardtanh hardswish hardsigmoid hardshrink softshrink threshold
    abs clamp clamp_min clamp_max nan_to_num sign round floor ceil trunc frac
    """
)
_SMOOTH = names(
    """
    gelu silu mish softplus softsign logsigmoid tanhshrink sigmoid tanh exp exp2 expm1 square sin cos tan asin acos
    atan sinh cosh asinh acosh atanh erf erfc sinc rpow
    """
)
_STEEP = names(
    """
    log log2 log10 log1p sqrt rsqrt reciprocal pow float_power rdiv erfinv logit lgamma digamma
    """
)
_PRODUCTS = names(
    """
    mul matmul rmatmul mm bmm mv dot inner outer ger vdot linear bilinear einsum tensordot kron addmm baddbmm addbmm
    addmv addr addcmul lerp conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    """
)
_MAXIMA = names("max min amax amin") + tuple(
    f"{kind}max_pool{n}d{indices}" for kind in ("", "adaptive_") for n in (1, 2, 3) for indices in ("", "_with_indices")
)
ELEMENTWISE = frozenset([*_CORNERED, *_SMOOTH, *_STEEP, "mul", "div", "masked_fill", "where"])

# Sums, averages, and operations that move values: what they give is linear in what they take.
LINEAR = frozenset(
    names(
        """
    add sub rsub neg positive sum mean nansum cumsum trace diff view reshape flatten unflatten ravel permute
    transpose t T mT H mH adjoint movedim moveaxis squeeze unsqueeze expand expand_as view_as reshape_as
    broadcast_to broadcast_tensors repeat repeat_interleave tile contiguous clone to type type_as float double half
    bfloat16 cpu cuda requires_grad_ cat stack hstack vstack dstack column_stack row_stack split chunk tensor_split
    hsplit vsplit dsplit unbind narrow select index_select gather take take_along_dim getitem setitem copy
    masked_select masked_scatter scatter scatter_add index_add index_copy index_fill index_put select_scatter
    slice_scatter diagonal_scatter roll flip fliplr flipud rot90 tril triu diag diagonal diag_embed pad
    constant_pad_nd zero fill embedding batch_norm avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample upsample_nearest upsample_bilinear
    _pack_padded_sequence _pad_packed_sequence grid_sample pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle fold unfold meshgrid atleast_1d atleast_2d atleast_3d as_strided view_as_complex view_as_real
    """
    )
)

_RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (_CORNERED, Rescale()),
    (_SMOOTH, Rescale("absolute")),
    (_STEEP, Rescale("relative")),
    (_PRODUCTS, Midpoint()),
    (("div",), Quotient()),
    (("maximum", "minimum", "fmax", "fmin", "logaddexp"), Either()),
    (_MAXIMA, Largest()),
    (("softmax", "log_softmax", "logsumexp"), Softmax()),
    (("where",), Choice()),
    (("masked_fill",), Midpoint()),
)
RESCALE = Composite(
    "DeepLift",
    tuple((on(*names), rule) for names, rule in _RULES),
    linear=LINEAR,
    decompositions=SMALLER,
    reference=True,
)
REVEAL_CANCEL = Composite(
    "DeepLift",
    tuple((on(*names), RevealCancel(rule) if isinstance(rule, Rescale) else rule) for names, rule in _RULES),
    linear=LINEAR,
    decompositions=SMALLER,
    reference=True,
    sources=frozenset({"linear", "conv1d", "conv2d", "conv3d"}),
)
