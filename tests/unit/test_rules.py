"""The engine: every spelling is seen, every operation keeps its numbers, and nothing hides."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import rich
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn

from torchwhy.core.errors import UnsupportedError
from torchwhy.core.guard import untouched
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.rules import Composite, Local, Prepared, Ruled, on, operation, trace
from torchwhy.engines.rules.decompose import SMALLER, WHOLE, opened
from torchwhy.engines.rules.difference import LINEAR, RESCALE
from torchwhy.methods.deep_lift import DeepLift
from torchwhy.networks import ConvNet


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(model: Callable[..., Tensor], x: Tensor, composite: Composite, target: Any = None) -> Tensor:
    with untouched(model, x.device):
        return Ruled.of(Problem(model, Tensors([x]), target=target), composite).at_point()[1].parts[0]


class Spy:
    """The plain gradient, and a list of what passed by."""

    def __init__(self) -> None:
        self.seen: list[Local] = []
        self.names: list[str] = []

    def __call__(self, local: Local, g: Tensor) -> tuple[Tensor, ...]:
        self.seen.append(local)
        self.names.append(local.operation)
        return local.vjp(g)


def ten_times(local: Local, g: Tensor) -> Tensor:
    return 10 * local.vjp(g)[0]


TENFOLD = Composite("Ten", ((on("relu"), ten_times),))

# -- spellings --------------------------------------------------------------------------------------------------------

RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.relu": torch.relu,
    "F.relu": F.relu,
    "method": lambda x: x.relu(),
    "module": nn.ReLU(),
    "keyword": lambda x: F.relu(input=x),
    "torch.relu_": lambda x: torch.relu_(x * 1),
    "relu_": lambda x: (x * 1).relu_(),
    "F.relu_": lambda x: F.relu_(x * 1),
    "inplace": lambda x: F.relu(x * 1, inplace=True),
    "inplace by position": lambda x: F.relu(x * 1, True),
    "module inplace": lambda x: nn.ReLU(inplace=True)(x * 1),
    "aten": torch.ops.aten.relu,
    "aten overload": torch.ops.aten.relu.default,
}


@pytest.mark.parametrize("name", RELUS)
def test_every_spelling_gets_the_rule(name):
    x = rand(3, 4)
    assert torch.equal(gradient(lambda x: RELUS[name](x).sum(1), x, TENFOLD), 10.0 * (x > 0))


def test_an_operation_in_place_changes_what_is_used_later():
    def model(x: Tensor) -> Tensor:
        y = 2 * x
        alias = y
        y.relu_()
        return (alias * y).sum(1)  # relu(2x)^2

    x = rand(3, 4)
    assert torch.equal(gradient(model, x, TENFOLD), 80 * x.relu())


def test_an_operation_in_place_on_a_view_changes_its_base():
    def model(x: Tensor) -> Tensor:
        y = 2 * x
        y[:, :2].relu_()
        return (y * y).sum(1)

    x = rand(3, 4)
    expected = 8 * x
    expected[:, :2] = 80 * x[:, :2].relu()
    assert torch.equal(gradient(model, x, TENFOLD), expected)


def test_what_a_rule_has_seen_does_not_change_when_the_model_writes_over_it():
    spy = Spy()
    composite = Composite("Spy", ((on("linear", "tanh", "relu"), spy),))
    w = rand(4, 4)

    def model(x: Tensor) -> Tensor:
        y = F.linear(x, w)
        z = y.tanh()
        y += 1  # the output of linear, the input of tanh
        z *= 2  # the output of tanh, which its derivative is computed from
        u = y.relu()
        y.zero_()
        return (u + z).sum(1)

    x = rand(3, 4)
    found = gradient(model, x, composite)
    assert spy.names == ["relu", "tanh", "linear"]
    leaf = x.clone().requires_grad_()
    y = F.linear(leaf, w)
    (expected,) = torch.autograd.grad(((y + 1).relu() + 2 * y.tanh()).sum(), leaf)
    torch.testing.assert_close(found, expected)


def test_an_operation_used_many_times_gets_the_rule_each_time():
    relu = nn.ReLU()
    x = rand(3, 4).abs()
    assert torch.equal(gradient(lambda x: relu(relu(relu(x))).sum(1), x, TENFOLD), 1000 * torch.ones(3, 4))


def test_islands_without_gradients_are_left_alone():
    def model(x: Tensor) -> Tensor:
        with torch.no_grad():
            mask = (x * 1).relu_() > 0
        return (x * mask).sum(1)

    x = rand(3, 4)
    assert torch.equal(gradient(model, x, TENFOLD), 1.0 * (x > 0))


def test_parameters_nobody_has_frozen_are_constants():
    """A function's parameters cannot be listed; what is computed from them alone is not an operation on the input."""
    v = nn.Parameter(rand(4, 4))
    spy = Spy()

    def model(x: Tensor) -> Tensor:
        weight = v.exp() / v.exp().norm()
        return F.linear(x, weight).exp().sum(1)

    gradient(model, rand(2, 4), Composite("Spy", ((on("exp", "linear", "div"), spy),)))
    assert spy.names == ["exp", "linear"]
    assert v.requires_grad


# -- local ------------------------------------------------------------------------------------------------------------


def test_a_rule_sees_its_operation():
    conv = nn.Conv2d(1, 2, 3).double()
    seen: list[Local] = []

    def rule(local: Local, g: Tensor) -> Tensor:
        seen.append(local)
        positive = local.with_(weight=local.argument("weight").clamp(min=0), bias=None)
        assert torch.equal(positive.output, F.conv2d(local.inputs[0], conv.weight.clamp(min=0)))
        assert torch.equal(local.with_([2 * local.inputs[0]]).output, conv(2 * local.inputs[0]))
        assert torch.equal(local.output, conv(local.inputs[0]))
        return positive.vjp(g)[0]

    x = rand(2, 1, 5, 5)
    found = gradient(lambda x: conv(x).sum((1, 2, 3)), x, Composite("Positive", ((on("conv2d"), rule),)))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.conv2d(leaf, conv.weight.clamp(min=0)).sum(), leaf)
    torch.testing.assert_close(found, expected)
    assert [local.operation for local in seen] == ["conv2d"]


def test_a_parameter_is_found_by_name_in_any_spelling():
    weight, bias = rand(3, 4), rand(3)
    found: list[tuple[Tensor, Tensor | None]] = []

    def rule(local: Local, g: Tensor) -> tuple[Tensor, ...]:
        found.append((local.argument("weight"), local.argument("bias")))
        changed = local.with_(weight=2 * local.argument("weight"))
        assert not torch.equal(changed.output, local.output)
        return local.vjp(g)

    composite = Composite("Spy", ((on("linear", "addmm", "matmul", "mm"), rule),))
    for model in (
        lambda x: F.linear(x, weight, bias),
        lambda x: F.linear(x, weight, bias=bias),
        lambda x: F.linear(input=x, weight=weight),
        lambda x: torch.addmm(bias, x, weight.T),
        lambda x: x @ weight.T,
        lambda x: x.mm(weight.T),
    ):
        gradient(lambda x, model=model: model(x).sum(1), rand(2, 4), composite)
    assert [w.numel() for w, _ in found] == [12] * 6
    assert [b is bias for _, b in found] == [True, True, False, True, False, False]


def test_a_rule_for_an_operation_of_two_gives_two():
    def swap(local: Local, g: Tensor) -> tuple[Tensor, Tensor]:
        a, b = local.inputs
        return g * a, g * b  # the wrong way round

    x = rand(2, 4)
    found = gradient(lambda x: (x * x.sin()).sum(1), x, Composite("Swap", ((on("mul"), swap),)))
    torch.testing.assert_close(found, x + x.sin() * x.cos())


def test_outputs_besides_the_first_survive():
    def model(x: Tensor) -> Tensor:
        value, index = x.max(1)
        pooled, where = F.max_pool1d(x, 2, return_indices=True)
        assert index.dtype == where.dtype == torch.int64
        assert isinstance(x.max(1), tuple)
        return value + x.max(1).values + pooled.sum(1)

    spy = Spy()
    composite = Composite("Spy", ((on("max", "max_pool1d", "max_pool1d_with_indices"), spy),))
    x = rand(2, 4)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert torch.equal(gradient(model, x, composite), expected)
    assert sorted(spy.names) == ["max", "max", "max_pool1d_with_indices"]  # one maximum leads nowhere


# -- composites -------------------------------------------------------------------------------------------------------


class Tagged:
    """Multiplies by a number, to see which rule was taken."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, local: Local, g: Tensor) -> Tensor:
        return self.factor * local.vjp(g)[0]


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        self.head = nn.Linear(1, 1, bias=False)
        for m in (self.features[0], self.features[2], self.head):
            nn.init.ones_(m.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (((on("linear"), Tagged(2)),), 8),
        (((on("linear", position="first"), Tagged(3)), (on("linear"), Tagged(2))), 12),
        (((on("linear", position="last"), Tagged(5)), (on("linear"), Tagged(2))), 20),
        (((on("linear", position="last"), Tagged(5)),), 5),
        (((on("linear", position="first"), Tagged(3)), (on("linear", position="last"), Tagged(5))), 15),
        (((on("linear", name="features.*"), Tagged(7)),), 49),
        (((on("linear", name="head"), Tagged(7)), (on("linear"), Tagged(2))), 28),
        (((on("linear", "relu", module=nn.ReLU), Tagged(11)),), 11),
        (((on("linear", module=(nn.ReLU, nn.Conv2d)), Tagged(11)),), 1),
        (((on("linear", name="features.*", position="last"), Tagged(13)),), 13),
        (((on("relu"), Tagged(2)), (on("relu"), Tagged(3))), 2),
    ],
)
def test_the_first_selector_that_is_met_decides(rules, expected):
    found = gradient(Deep(), torch.ones(2, 1), Composite("Tagged", rules))
    assert found.flatten().tolist() == [expected] * 2


def test_a_prepared_rule_may_leave_an_operation_to_autograd_or_take_in_the_one_before():
    class Fused(Prepared):
        def fuses(self, local: Local) -> bool:
            return local.source is not None

        def prepare(self, local: Local) -> Callable[[Tensor], Tensor]:
            assert local.source is not None
            assert torch.equal(local.source.output, local.inputs[0])
            return lambda g: 100 * local.source.vjp(local.vjp(g)[0])[0]

    composite = Composite("Fused", ((on("relu"), Fused()),), sources=frozenset({"linear"}))
    assert gradient(Deep(), torch.ones(2, 1), composite).flatten().tolist() == [100, 100]
    assert gradient(lambda x: Deep()(x).relu_(), torch.ones(2, 1), composite).flatten().tolist() == [10_000] * 2


# -- taken apart ------------------------------------------------------------------------------------------------------

Q, K, V = rand(2, 2, 4, 6), rand(2, 2, 5, 6, seed=1), rand(2, 2, 5, 3, seed=2)
MASK = rand(4, 5, seed=3) > -0.5


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"attn_mask": MASK}, {"attn_mask": rand(4, 5, seed=4)}, {"scale": 0.3},
     {"attn_mask": MASK & (torch.arange(4) != 2)[:, None]}],
    ids=["plain", "causal", "mask", "bias", "scale", "a row that sees nothing"],
)  # fmt: skip
def test_attention_taken_apart_computes_the_same(options):
    ours = WHOLE["scaled_dot_product_attention"](Q, K, V, **options)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(Q, K, V, **options))


def test_grouped_queries_taken_apart_compute_the_same():
    q = rand(2, 4, 4, 6)
    torch.testing.assert_close(
        WHOLE["scaled_dot_product_attention"](q, K, V, enable_gqa=True),
        F.scaled_dot_product_attention(q, K, V, enable_gqa=True),
    )


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_recurrent_networks_taken_apart_compute_the_same(kind, layers, bidirectional, bias):
    torch.manual_seed(0)
    rnn = kind(3, 4, layers, bidirectional=bidirectional, bias=bias).double()
    name = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn_tanh"}[kind]
    x, h = rand(6, 5, 3), rand(layers * (1 + bidirectional), 5, 4, seed=1)
    state = (h, h.sin()) if kind is nn.LSTM else h
    weights = rnn._flat_weights
    common = (weights, bias, layers, 0.0, False, bidirectional)
    out, end = rnn(x, state)
    ours = WHOLE[name](x, state, *common, False)
    for a, b in zip(ours, (out, *end) if kind is nn.LSTM else (out, end), strict=True):
        torch.testing.assert_close(a, b)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4, 4, 2, 1]))
    out, end = rnn(packed, state)
    ours = WHOLE[name](packed.data, packed.batch_sizes, state, *common)
    for a, b in zip(ours, (out.data, *end) if kind is nn.LSTM else (out.data, end), strict=True):
        torch.testing.assert_close(a, b)


X = rand(3, 4, 6, seed=5)
W6, W4 = rand(6, seed=6), rand(4, seed=7)
APART: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "layer_norm": (F.layer_norm, (X, (4, 6), rand(4, 6), rand(4, 6, seed=1), 1e-3), {}),
    "layer_norm without weights": (F.layer_norm, (X, (6,)), {}),
    "rms_norm": (F.rms_norm, (X, (6,), W6), {}),
    "rms_norm with eps": (F.rms_norm, (X, (6,)), {"eps": 0.1}),
    "group_norm": (F.group_norm, (X, 2, W4, W4.exp()), {}),
    "instance_norm": (F.instance_norm, (X,), {"weight": W4, "bias": W4}),
    "instance_norm with statistics": (F.instance_norm, (X, W4, W4.exp()), {"use_input_stats": False}),
    "norm": (torch.norm, (X,), {}),
    "norm of order 1": (torch.norm, (X, 1, 2), {}),
    "norm of order 3": (torch.Tensor.norm, (X, 3), {"dim": -1, "keepdim": True}),
    "norm of order inf": (torch.linalg.vector_norm, (X, math.inf, (1, 2)), {}),
    "linalg.norm": (torch.linalg.norm, (X,), {}),
    "var": (torch.var, (X,), {}),
    "var of one dimension": (torch.var, (X, 1), {"keepdim": True, "correction": 0}),
    "var, not unbiased": (torch.var, (X, False), {}),
    "std": (torch.std, (X, (1, 2)), {}),
    "cosine_similarity": (F.cosine_similarity, (X, X.flip(1)), {"dim": 2}),
    "glu": (F.glu, (X, 1), {}),
    "einsum": (torch.einsum, ("abc,abd,c->bd", X, X + 1, W6), {}),
    "einsum without arrow": (torch.einsum, ("abc,c,b", X, W6, W4), {}),
    "dropout": (F.dropout, (X,), {"training": False}),
}


@pytest.mark.parametrize("name", APART)
def test_operations_taken_apart_compute_the_same(name):
    func, args, kwargs = APART[name]
    smaller = SMALLER[operation(func).name]
    torch.testing.assert_close(smaller(*args, **kwargs), func(*args, **kwargs))


def test_functions_written_in_python_are_opened():
    copy = opened(F.multi_head_attention_forward)
    assert copy is not None
    assert opened(torch.relu) is None
    spy = Spy()
    mha = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
    composite = Composite("Spy", ((on("linear", "softmax", "matmul"), spy),))
    gradient(lambda x: mha(x, x, x, need_weights=False)[0].sum((1, 2)), rand(2, 3, 4), composite)
    assert sorted(spy.names) == ["linear", "linear", "matmul", "matmul", "softmax"]


def test_the_fused_path_of_a_transformer_is_not_taken():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double().eval()
    spy = Spy()
    gradient(lambda x: layer(x).sum((1, 2)), rand(2, 3, 4), Composite("Spy", ((on("linear", "relu"), spy),)))
    assert sorted(spy.names) == ["linear"] * 4 + ["relu"]


# -- the table of what is linear --------------------------------------------------------------------------------------

LINEAR_CASES: dict[str, Callable[[Tensor], Any]] = {
    "add": lambda x: x + x.flip(0),
    "sub": lambda x: x - 2,
    "rsub": lambda x: 2 - x,
    "neg": lambda x: -x,
    "positive": lambda x: +x,
    "view_as_complex": lambda x: torch.view_as_real(torch.view_as_complex(x.view(-1, 2)) * 2j),
    "view_as_real": lambda x: torch.view_as_real(torch.complex(x, 2 * x)),
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(0),
    "nansum": lambda x: x.nansum(1),
    "cumsum": lambda x: x.cumsum(1),
    "trace": lambda x: x[0].trace(),
    "diff": lambda x: x.diff(dim=1),
    "view": lambda x: x.view(-1),
    "reshape": lambda x: x.reshape(4, -1),
    "flatten": lambda x: x.flatten(),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "ravel": lambda x: x.ravel(),
    "permute": lambda x: x.permute(1, 0, 2),
    "transpose": lambda x: x.transpose(0, 1),
    "t": lambda x: x[0].t(),
    "T": lambda x: x[0].T,
    "mT": lambda x: x.mT,
    "H": lambda x: x[0].H,
    "mH": lambda x: x.mH,
    "adjoint": lambda x: x.adjoint(),
    "movedim": lambda x: x.movedim(0, 1),
    "moveaxis": lambda x: x.moveaxis(0, 1),
    "squeeze": lambda x: x[:1].squeeze(),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "expand": lambda x: x[:1].expand(3, 4, 4),
    "expand_as": lambda x: x[:1].expand_as(torch.ones(3, 4, 4)),
    "view_as": lambda x: x.view_as(torch.ones(16, 3)),
    "reshape_as": lambda x: x.reshape_as(torch.ones(16, 3)),
    "broadcast_to": lambda x: torch.broadcast_to(x, (2, 3, 4, 4)),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, torch.ones(2, 1, 1, 1)),
    "repeat": lambda x: x.repeat(2, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "tile": lambda x: x.tile(2),
    "contiguous": lambda x: x.mT.contiguous(),
    "clone": lambda x: x.clone(),
    "to": lambda x: x.to(torch.float32),
    "type": lambda x: x.type(torch.float32),
    "type_as": lambda x: x.type_as(torch.ones(1, dtype=torch.float32)),
    "float": lambda x: x.float(),
    "double": lambda x: x.double(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "cpu": lambda x: x.cpu(),
    "cat": lambda x: torch.cat([x, x], 1),
    "stack": lambda x: torch.stack([x, x]),
    "hstack": lambda x: torch.hstack([x, x]),
    "vstack": lambda x: torch.vstack([x, x]),
    "dstack": lambda x: torch.dstack([x, x]),
    "column_stack": lambda x: torch.column_stack([x[0], x[0]]),
    "row_stack": lambda x: torch.row_stack([x, x]),
    "split": lambda x: x.split(2, 1),
    "chunk": lambda x: x.chunk(2, 1),
    "tensor_split": lambda x: x.tensor_split(2, 1),
    "hsplit": lambda x: x.hsplit(2),
    "vsplit": lambda x: x.vsplit(3),
    "dsplit": lambda x: x.dsplit(2),
    "unbind": lambda x: x.unbind(0),
    "narrow": lambda x: x.narrow(1, 0, 2),
    "select": lambda x: x.select(0, 1),
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "gather": lambda x: x.gather(1, torch.zeros(3, 1, 4, dtype=torch.long)),
    "take": lambda x: x.take(torch.tensor([3, 0])),
    "take_along_dim": lambda x: x.take_along_dim(torch.zeros(3, 1, 4, dtype=torch.long), 1),
    "getitem": lambda x: x[:, [1, 2]],
    "masked_select": lambda x: x.masked_select(torch.eye(4) > 0),
    "masked_scatter": lambda x: x.masked_scatter(torch.eye(4) > 0, 2 * x),
    "scatter": lambda x: x.scatter(1, torch.zeros(3, 1, 4, dtype=torch.long), 2 * x),
    "scatter_add": lambda x: x.scatter_add(1, torch.zeros(3, 1, 4, dtype=torch.long), x),
    "index_add": lambda x: x.index_add(1, torch.tensor([0]), x[:, :1]),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([0]), 2 * x[:, :1]),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([0]), 3.0),
    "index_put": lambda x: x.index_put((torch.tensor([0]),), 2 * x[1]),
    "select_scatter": lambda x: x.select_scatter(x[0], 0, 1),
    "slice_scatter": lambda x: x.slice_scatter(2 * x[:1], 0, 0, 1),
    "diagonal_scatter": lambda x: x[0].diagonal_scatter(x[0, 0]),
    "roll": lambda x: x.roll(1, 0),
    "flip": lambda x: x.flip(0),
    "fliplr": lambda x: x.fliplr(),
    "flipud": lambda x: x.flipud(),
    "rot90": lambda x: x.rot90(),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(),
    "diag": lambda x: x[0].diag(),
    "diagonal": lambda x: x.diagonal(),
    "diag_embed": lambda x: x.diag_embed(),
    "pad": lambda x: F.pad(x, (1, 1)),
    "constant_pad_nd": lambda x: torch.constant_pad_nd(x, (1, 1), 3.0),
    "embedding": lambda x: F.embedding(torch.tensor([0, 2]), x[0]),
    "batch_norm": lambda x: F.batch_norm(x, *torch.arange(1.0, 17, dtype=x.dtype).view(4, 4)),
    "avg_pool1d": lambda x: F.avg_pool1d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool3d": lambda x: F.avg_pool3d(x[None], (1, 2, 2)),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x, 3),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 3),
    "adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(x[None], 2),
    "interpolate": lambda x: F.interpolate(x, 7, mode="linear"),
    "upsample_nearest": lambda x: F.interpolate(x, 7),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.view(4, 3, 4)[:, :2, :2], 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x[None, :2], 2),
    "fold": lambda x: F.fold(x[:, :4], (2, 2), (1, 1)),
    "unfold": lambda x: F.unfold(x[None], 2),
    "meshgrid": lambda x: torch.meshgrid(x[0, 0], x[0, 1], indexing="ij"),
    "atleast_1d": torch.atleast_1d,
    "atleast_2d": torch.atleast_2d,
    "atleast_3d": torch.atleast_3d,
    "as_strided": lambda x: x.as_strided((2, 2), (1, 2)),
    "grid_sample": lambda x: F.grid_sample(x[None], torch.zeros(1, 2, 2, 2, dtype=x.dtype), align_corners=False),
}
IN_PLACE = {
    "setitem",
    "copy",
    "zero",
    "fill",
    "requires_grad_",
    "cuda",
    "upsample",
    "upsample_bilinear",
    "native_channel_shuffle",
}
PACKED = {"_pack_padded_sequence", "_pad_packed_sequence"}


@pytest.mark.filterwarnings("ignore:torch.row_stack:UserWarning")
@pytest.mark.filterwarnings("ignore:.*row_stack:UserWarning")
@pytest.mark.parametrize("name", sorted(LINEAR - IN_PLACE - PACKED))
def test_what_is_called_linear_is(name):
    """f(a + t (b - a)) runs along a straight line, in what the input decides and with everything else as it is."""
    fn = LINEAR_CASES[name]
    a, b = rand(3, 4, 4), rand(3, 4, 4, seed=1)
    weight = torch.float64 if name not in ("half", "bfloat16", "float", "to", "type", "type_as") else torch.float32

    def at(t: float) -> Tensor:
        with torch.no_grad():
            out = fn(a.clone() + t * (b - a))
        parts = out if isinstance(out, list | tuple) else (out,)
        return torch.cat([p.to(weight).flatten() for p in parts])

    tolerance = {"half": 1e-2, "bfloat16": 5e-2}.get(name, 1e-5)
    torch.testing.assert_close(at(0.3), 0.7 * at(0) + 0.3 * at(1), atol=tolerance, rtol=tolerance)
    assert not torch.equal(at(0), at(1))


# -- traces -----------------------------------------------------------------------------------------------------------


def test_a_trace_accounts_for_every_operation():
    torch.manual_seed(0)
    found = trace(ConvNet().double().eval(), rand(2, 1, 12, 12), RESCALE, target=3)
    names = [s.operation for s in found.steps]
    assert names == ["conv2d", "relu", "conv2d", "relu", "contiguous", "view", "linear", "relu", "linear"]
    assert [s.place.name for s in found.steps if s.operation in ("conv2d", "linear")] == [
        "conv1",
        "conv2",
        "fc1",
        "fc2",
    ]
    assert {s.rule for s in found.steps if s.operation == "relu"} == {"Rescale"}
    assert all("relu" in s.place.code for s in found.steps if s.operation == "relu")
    assert found.passed == pytest.approx(found.score)
    assert found.leaks() == ()
    table = str(found)
    assert "networks.py:" in table
    assert table.count("Rescale") == 3


def test_a_trace_names_the_leak():
    def half(local: Local, g: Tensor) -> Tensor:
        return local.vjp(g)[0] / 2

    model = nn.Sequential(
        nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False)
    )
    rules = ((on("relu"), lambda local, g: local.vjp(g)), (on("tanh"), half))
    found = trace(model.double(), rand(2, 3), Composite("Half", rules), target=0)
    worst = found.leaks()[0]
    assert (worst.operation, worst.place.name) == ("tanh", "3")
    assert found.score - found.passed == pytest.approx(worst.leak)
    assert worst.rule == "half"


def test_a_trace_does_not_change_the_numbers():
    torch.manual_seed(0)
    net = ConvNet().double().eval()
    x = rand(2, 1, 12, 12)
    found = trace(net, x, TENFOLD, target=3)
    assert found.passed == pytest.approx(float((gradient(net, x, TENFOLD, 3) * x).sum()))


# -- what hides -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_is_refused_also_inside_a_function():
    script = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).double())
    for model in (script, nn.Sequential(script), lambda x: 2 * script(x)):
        with pytest.raises(UnsupportedError, match=r"torch\.jit"):
            gradient(model, rand(2, 3), TENFOLD, 0)


def test_what_is_compiled_runs_as_written():
    torch.compiler.reset()
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    x = rand(2, 3)
    compiled = torch.compile(net, backend="eager")
    assert torch.equal(gradient(compiled, x, TENFOLD, 0), gradient(net, x, TENFOLD, 0))
    assert not torch.equal(gradient(net, x, TENFOLD, 0), gradient(net, x, Composite("Plain", ()), 0))


def test_rules_leave_the_model_as_it_was():
    net = ConvNet()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    random = torch.get_rng_state()
    gradient(net, torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0)), TENFOLD, 1)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
    assert torch.overrides._get_current_function_mode_stack() == []


def test_a_trace_is_shown_as_a_table(capsys):
    """Leaks stand out: in bold where the terminal has it, as headers in a notebook."""
    rules = ((on("relu"), lambda local, g: g / 2),)
    found = trace(lambda x: torch.relu(2 * x).sum(1), torch.ones(1, 3), Composite("<Half>", rules))
    rich.print(found)
    told = capsys.readouterr().out
    assert "relu" in told
    assert "3 of 6 arrived" in told
    page = found._repr_html_()
    assert page.count("<tr>") == 4
    assert "<th>relu</th>" in page
    assert "<td>mul</td>" in page
    assert "&lt;Half&gt;: 3 of 6 arrived" in page
    assert json.loads(json.dumps(found.as_dict()))["steps"][1]["leak"] == 3


def test_explanations_carry_their_trace():
    net, x = ConvNet().eval(), torch.rand(2, 1, 12, 12)
    assert "trace" not in DeepLift(net).explain(x, target=1).provenance
    carried = DeepLift(net).explain(x, target=1, check="basic").provenance["trace"]
    assert carried == trace(net, x, RESCALE, target=1).as_dict()
