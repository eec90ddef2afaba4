# ruff: noqa: D103  each function is named after the operation it stands for
"""Operations that arrive whole, written in the smaller ones that have rules.

Each function takes the arguments of the operation it stands for and computes the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import FunctionType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor

Decomposition: TypeAlias = Callable[..., Any]


class Refused(Exception):  # noqa: N818  not an error yet: the engine adds the operation and the place
    """Why an operation has no rule; whoever knows where it stands says so."""


@cache
def opened(func: Callable[..., Any]) -> Decomposition | None:
    """A function of `torch.nn.functional` that is written in Python, so that what it calls is seen; else None.

    Such a function hands itself to whoever intercepts functions, before it does anything. This copy does not.
    """
    if not isinstance(func, FunctionType) or func.__module__ not in ("torch.nn.functional", "torch.functional"):
        return None
    asks = [name for name in func.__code__.co_names if name.startswith("has_torch_function")]
    if not asks:
        return None
    scope = {**func.__globals__, **dict.fromkeys(asks, lambda *_: False)}
    copy = FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


# -- attention --------------------------------------------------------------------------------------------------------


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p > 0:
        raise Refused("it drops values at random (dropout_p > 0)")
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    weights = torch.matmul(query, key.transpose(-2, -1)) * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril()
    if attn_mask is None:
        return torch.matmul(weights.softmax(-1), value)
    if attn_mask.dtype != torch.bool:
        return torch.matmul((weights + attn_mask).softmax(-1), value)
    weights = weights.masked_fill(~attn_mask, -math.inf)
    blind = ~attn_mask.any(-1, keepdim=True)  # a query that sees nothing gives zeros
    if blind.any():
        return torch.matmul(weights.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0), value)
    return torch.matmul(weights.softmax(-1), value)


# -- recurrent networks -----------------------------------------------------------------------------------------------


def lstm_cell(
    input: Tensor,  # noqa: A002  PyTorch's name
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return _lstm_step(F.linear(input, w_ih, b_ih), hx, w_hh, b_hh)


def gru_cell(
    input: Tensor,  # noqa: A002
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    return _gru_step(F.linear(input, w_ih, b_ih), hx, w_hh, b_hh)


def _simple_cell(activation: Callable[[Tensor], Tensor]) -> Decomposition:
    def cell(
        input: Tensor,  # noqa: A002
        hx: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        return activation(F.linear(input, w_ih, b_ih) + F.linear(hx, w_hh, b_hh))

    return cell


# The projected input, the state, the recurrent weights (and the LSTM's projection) to the next state.
_Step: TypeAlias = Callable[..., Any]


def _lstm_step(
    projected: Tensor, state: tuple[Tensor, Tensor], w_hh: Tensor, b_hh: Tensor | None, w_hr: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    h, c = state
    i, f, g, o = (projected + F.linear(h, w_hh, b_hh)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w_hr is None else F.linear(h, w_hr)), c


def _gru_step(projected: Tensor, h: Tensor, w_hh: Tensor, b_hh: Tensor | None) -> Tensor:
    r, z, n = projected.chunk(3, -1)
    h_r, h_z, h_n = F.linear(h, w_hh, b_hh).chunk(3, -1)
    new = (n + (r + h_r).sigmoid() * h_n).tanh()
    return new + (z + h_z).sigmoid() * (h - new)


def _simple_step(activation: Callable[[Tensor], Tensor]) -> _Step:
    def step(projected: Tensor, h: Tensor, w_hh: Tensor, b_hh: Tensor | None) -> Tensor:
        return activation(projected + F.linear(h, w_hh, b_hh))

    return step


def _recurrent(step: _Step, *, pair: bool) -> Decomposition:
    """A recurrent layer stack; ``pair`` says that the state is (h, c)."""

    def network(input: Tensor, *args: Any) -> tuple[Tensor, ...]:  # noqa: A002
        packed = isinstance(args[0], Tensor) if pair else isinstance(args[1], Tensor)
        sizes = args[0].tolist() if packed else None
        hx, params, biases, layers, dropout, train, bidirectional = args[1:8] if packed else args[:7]
        if dropout and train and layers > 1:
            raise Refused("it drops values at random (dropout in training mode)")
        batch_first = not packed and args[7]
        if batch_first:
            input = input.transpose(0, 1)  # noqa: A001
        if sizes is None:
            length, batch = input.shape[:2]
            sizes, data = [batch] * length, input.reshape(length * batch, input.shape[-1])
        else:
            data = input
        states = list(zip(*hx, strict=True)) if pair else list(hx)
        group = len(params) // len(states)
        last = []
        for layer in range(layers):
            sides = []
            for side in range(2 if bidirectional else 1):
                at = layer * (2 if bidirectional else 1) + side
                weights = params[at * group : (at + 1) * group]
                out, end = _one_direction(step, data, sizes, states[at], weights, biases, pair, reverse=side == 1)
                sides.append(out)
                last.append(end)
            data = torch.cat(sides, -1) if bidirectional else sides[0]
        out = data if packed else data.reshape(len(sizes), sizes[0], data.shape[-1])
        if batch_first:
            out = out.transpose(0, 1)
        if pair:
            return out, torch.stack([h for h, _ in last]), torch.stack([c for _, c in last])
        return out, torch.stack(last)

    return network


def _one_direction(
    step: _Step,
    data: Tensor,
    sizes: list[int],
    state: Any,
    weights: Sequence[Tensor],
    biases: bool,
    pair: bool,
    *,
    reverse: bool,
) -> tuple[Tensor, Any]:
    """One layer in one direction over packed rows, longest sequence first: outputs, and the state at each one's end."""
    w_ih, w_hh = weights[:2]
    b_ih, b_hh = (weights[2], weights[3]) if biases else (None, None)
    projection = weights[4 if biases else 2 :]
    pieces = F.linear(data, w_ih, b_ih).split(sizes)

    def each(fn: Callable[..., Tensor], *states: Any) -> Any:
        return tuple(fn(*parts) for parts in zip(*states, strict=True)) if pair else fn(*states)

    outputs: list[Tensor] = []
    ended: list[Any] = []  # states of sequences that are over, shortest first
    now = each(lambda s: s[: sizes[-1]], state) if reverse else state
    rows = sizes[-1] if reverse else sizes[0]
    for projected, size in zip(pieces[::-1], sizes[::-1], strict=True) if reverse else zip(pieces, sizes, strict=True):
        if size > rows:
            first, final = rows, size
            now = each(lambda s, s0: torch.cat([s, s0[first:final]]), now, state)  # noqa: B023  used at once
        elif size < rows:
            cut = size
            ended.append(each(lambda s: s[cut:], now))  # noqa: B023
            now = each(lambda s: s[:cut], now)  # noqa: B023
        rows = size
        now = step(projected, now, w_hh, b_hh, *projection)
        outputs.append(now[0] if pair else now)
    out = torch.cat(outputs[::-1] if reverse else outputs)
    if ended:
        now = each(lambda *parts: torch.cat(parts), *reversed([*ended, now]))
    return out, now


# -- products of many -------------------------------------------------------------------------------------------------


def einsum(*args: Any) -> Any:
    """Two operands at a time, from the left."""
    operands = list(args[1]) if len(args) == 2 and isinstance(args[1], list | tuple) else list(args[1:])
    if not isinstance(args[0], str):
        raise Refused("write it with an equation such as 'ij,jk->ik'")
    if len(operands) <= 2:
        return NotImplemented
    equation = args[0].replace(" ", "")
    if "..." in equation:
        raise Refused("with three operands or more and '...'; write out the dimensions, or multiply two at a time")
    inside, _, out = equation.partition("->")
    terms = inside.split(",")
    if "->" not in equation:
        out = "".join(sorted(c for c in set(inside) - {","} if inside.count(c) == 1))
    total, labels = operands[0], terms[0]
    for i in range(1, len(operands)):
        wanted = set(out).union(*terms[i + 1 :])
        kept = "".join(sorted((set(labels) | set(terms[i])) & wanted)) if i + 1 < len(operands) else out
        total, labels = torch.einsum(f"{labels},{terms[i]}->{kept}", total, operands[i]), kept
    return total


# The engine takes these apart whatever the method, unless it has a rule for the whole.
WHOLE: Mapping[str, Decomposition] = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "lstm": _recurrent(_lstm_step, pair=True),
    "gru": _recurrent(_gru_step, pair=False),
    "rnn_tanh": _recurrent(_simple_step(torch.tanh), pair=False),
    "rnn_relu": _recurrent(_simple_step(torch.relu), pair=False),
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "rnn_tanh_cell": _simple_cell(torch.tanh),
    "rnn_relu_cell": _simple_cell(torch.relu),
    "einsum": einsum,
}


# -- normalisation ----------------------------------------------------------------------------------------------------


def _standardised(x: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def layer_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    return _affine(_standardised(input, list(range(-len(normalized_shape), 0)), eps), weight, bias)


def rms_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _affine(input * (input.square().mean(dims, keepdim=True) + eps).rsqrt(), weight, None)


def group_norm(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    y = _standardised(input.reshape(len(input), num_groups, -1), [-1], eps).reshape(input.shape)
    channels = (-1, *[1] * (input.ndim - 2))
    return _affine(y, None if weight is None else weight.view(channels), None if bias is None else bias.view(channels))


def instance_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training=False, eps=eps)
    channels = (-1, *[1] * (input.ndim - 2))
    y = _standardised(input, list(range(2, input.ndim)), eps)
    return _affine(y, None if weight is None else weight.view(channels), None if bias is None else bias.view(channels))


def batch_norm(*args: Any, **kwargs: Any) -> Any:
    if args[5] if len(args) > 5 else kwargs.get("training", False):
        raise Refused("it normalises over the batch, so that rows depend on each other")
    return NotImplemented


# -- sums of squares and the like -------------------------------------------------------------------------------------


def norm(
    input: Tensor,  # noqa: A002
    p: float | str | None = None,
    dim: Any = None,
    keepdim: bool = False,
    out: None = None,
    dtype: torch.dtype | None = None,
    ord: float | str | None = None,  # noqa: A002
) -> Tensor:
    p = ord if p is None else p
    x = input if dtype is None else input.to(dtype)
    dims = list(range(x.ndim)) if dim is None else dim
    if p in (None, 2, "fro"):
        return x.square().sum(dims, keepdim=keepdim).sqrt()
    if p == 1:
        return x.abs().sum(dims, keepdim=keepdim)
    if p in (math.inf, "inf"):
        return x.abs().amax(dims, keepdim=keepdim)
    if not isinstance(p, int | float) or p <= 0:
        raise Refused(f"of order {p!r}")
    return x.abs().pow(p).sum(dims, keepdim=keepdim).pow(1 / p)


def linalg_norm(input: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False) -> Tensor:  # noqa: A002
    if ord is not None and not isinstance(dim, int):
        raise Refused(f"of a matrix and of order {ord!r}")
    return norm(input, ord, dim, keepdim)


def var(
    input: Tensor,  # noqa: A002
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    if isinstance(dim, bool):  # var(input, unbiased)
        dim, unbiased = None, dim
    dims = list(range(input.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    if correction is None:
        correction = 0 if unbiased is False else 1
    count = math.prod(input.shape[d] for d in dims)
    squares = (input - input.mean(dims, keepdim=True)).square()
    return squares.sum(dims, keepdim=keepdim) / max(0, count - correction)


def std(*args: Any, **kwargs: Any) -> Tensor:
    return var(*args, **kwargs).sqrt()


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    lengths = (norm(x, dim=dim, keepdim=True).clamp_min(eps) for x in (x1, x2))
    a, b = (x / n for x, n in zip((x1, x2), lengths, strict=True))
    return (a * b).sum(dim)


def glu(input: Tensor, dim: int = -1) -> Tensor:  # noqa: A002
    a, b = input.chunk(2, dim)
    return a * b.sigmoid()


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    if training and p > 0:
        raise Refused("it drops values at random (training=True)")
    return input


# For methods whose rules are for sums, products and functions of one number.
SMALLER: Mapping[str, Decomposition] = {
    "einsum": einsum,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "batch_norm": batch_norm,
    "norm": norm,
    "vector_norm": norm,
    "linalg_norm": linalg_norm,
    "var": var,
    "std": std,
    "cosine_similarity": cosine_similarity,
    "glu": glu,
    "dropout": dropout,
    **dict.fromkeys(["alpha_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d"], dropout),
}
