"""DeepLIFT: closed forms, the paper's examples, and sums that are exact on any code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.core.site import Site
from torchwhy.methods.deep_lift import DeepLift, DeepLiftShap
from torchwhy.methods.integrated_gradients import IntegratedGradients
from torchwhy.methods.noise_tunnel import NoiseTunnel
from torchwhy.networks import ConvNet


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def total(values: Any) -> Tensor:
    return sum(v.flatten(1).sum(1) for v in (values if isinstance(values, tuple) else (values,)))


def gap(model: Callable[..., Tensor], x: Any, base: Any = None, target: Any = None, **options: Any) -> float:
    """The largest relative completeness gap of the examples."""
    xs = x if isinstance(x, tuple) else (x,)
    bases = tuple(torch.zeros_like(t) for t in xs) if base is None else base if isinstance(base, tuple) else (base,)
    values = DeepLift(model, **options).attribute(x, base, target=target)
    with torch.no_grad():
        change = model(*xs) - model(*bases)
    change = change if target is None else change[:, target]
    change = change.reshape(len(change))
    assert change.abs().min() > 1e-6, "the test has nothing to tell"
    return float(((total(values) - change).abs() / change.abs()).max())


# -- known answers ----------------------------------------------------------------------------------------------------


def test_a_linear_model_is_its_weights_times_the_differences():
    weight = rand(3, 4)
    values = DeepLift(lambda x: x @ weight.T).attribute(x := rand(2, 4, seed=1), base := rand(2, 4, seed=2), target=1)
    torch.testing.assert_close(values, weight[1] * (x - base))


def test_the_saturating_sum_of_the_paper():
    """Figure 1: y = 1 - relu(1 - i1 - i2) does not move at (1, 1), where its gradient is zero; both inputs matter."""

    def model(x: Tensor) -> Tensor:
        return 1 - torch.relu(1 - x.sum(1))

    x = torch.ones(1, 2, dtype=torch.float64)
    assert DeepLift(model).attribute(x).tolist() == [[0.5, 0.5]]


def test_the_threshold_of_the_paper():
    """Figure 2: relu(x - 10) at 10 + e has contribution e, where the gradient times the input jumps to 10 + e."""
    values = DeepLift(lambda x: torch.relu(x - 10)[:, 0]).attribute(torch.tensor([[10.5], [9.5]], dtype=torch.float64))
    assert values.flatten().tolist() == pytest.approx([0.5, 0.0])


def test_the_minimum_of_the_paper():
    """Figure 3: min(i1, i2) = i1 - relu(i1 - i2). Rescale gives all to the smaller, RevealCancel half to each."""
    w = torch.tensor([[1.0, -1.0]], dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return x[:, 0] - F.relu(F.linear(x, w))[:, 0]

    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    assert DeepLift(model).attribute(x).flatten().tolist() == pytest.approx([0, 1])
    assert DeepLift(model, rule="reveal-cancel").attribute(x).flatten().tolist() == pytest.approx([0.5, 0.5])


def test_rescale_of_one_activation_by_hand():
    """x = (2, 3), base (-1, 1), z = 2 a - b + 1: from -2 to 2; relu moves by 2 of 4, half of it."""
    w, b = torch.tensor([[2.0, -1.0]], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    values = DeepLift(lambda x: torch.relu(F.linear(x, w, b))).attribute(
        torch.tensor([[2.0, 3.0]], dtype=torch.float64), torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    )
    assert values.tolist() == [[3.0, -1.0]]


def test_a_product_is_shared_by_both_factors():
    values = DeepLift(lambda x: x[:, 0] * x[:, 1]).attribute(
        torch.tensor([[3.0, 5.0]], dtype=torch.float64), torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    )
    assert values.tolist() == [[2 * 3.5, 3 * 2.0]]  # the Shapley values of a product


def test_a_quotient_is_shared_by_both_terms():
    """The Shapley values: a/b from 1/2 to 3/4; for a, the mean of (3 - 1) / 2 and (3 - 1) / 4."""
    values = DeepLift(lambda x: x[:, 0] / x[:, 1]).attribute(
        torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    )
    assert values.flatten().tolist() == pytest.approx([0.75, -0.5])


def test_a_maximum_that_rises_goes_to_the_new_and_one_that_falls_to_the_old():
    x, base = torch.tensor([[5.0, 1.0], [0.0, 1.0]]).double(), torch.tensor([[2.0, 3.0], [2.0, 3.0]]).double()
    values = DeepLift(lambda x: x.amax(1)).attribute(x, base)
    assert values.tolist() == [[2.0, 0.0], [0.0, -2.0]]


def test_logsumexp_by_hand():
    """Base (0, 0), x = (log 3, 0): all of log 4 - log 2 is the first's."""
    values = DeepLift(lambda x: x.logsumexp(1)).attribute(torch.tensor([[math.log(3), 0.0]], dtype=torch.float64))
    assert values.flatten().tolist() == pytest.approx([math.log(2), 0])


@pytest.mark.parametrize("rule", ["rescale", "reveal-cancel"])
def test_the_limit_of_small_differences_is_the_gradient(rule):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 8), nn.Softmax(1), nn.Linear(8, 1)
    ).double()
    x = rand(3, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    m = DeepLift(net, rule=rule, multiply_by_inputs=False).attribute(x.detach(), x.detach() - 1e-7)
    torch.testing.assert_close(m, gradient, rtol=1e-5, atol=1e-7)
    at_it = DeepLift(net, rule=rule, multiply_by_inputs=False).attribute(x.detach(), x.detach())
    torch.testing.assert_close(at_it, gradient)


def test_multipliers_keep_their_digits_however_small_the_difference():
    x = torch.full((1, 1), 0.3, dtype=torch.float64)
    for size in (1e-3, 1e-5, 1e-7, 1e-9, 1e-12):
        base = x - size
        m = DeepLift(torch.tanh, multiply_by_inputs=False).attribute(x, base)
        middle = 0.3 - size / 2
        exact = 1 / math.cosh(middle) ** 2  # up to size^2 / 24 f'''
        assert m.item() == pytest.approx(exact, rel=1e-8 + size**2)


# -- completeness, operation by operation -----------------------------------------------------------------------------

ELEMENTWISE = {
    name: getattr(F, name)
    for name in [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "softplus",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "hardshrink",
        "softshrink",
        "tanhshrink",
        "softsign",
        "logsigmoid",
        "sigmoid",
        "tanh",
    ]
}
ELEMENTWISE |= {
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "prelu": lambda x: F.prelu(x, torch.tensor(0.3, dtype=x.dtype)),
    "threshold": lambda x: F.threshold(x, 0.1, -2.0),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "square": torch.square,
    "pow": lambda x: x**3,
    "abs": torch.abs,
    "exp": torch.exp,
    "sin": torch.sin,
    "erf": torch.erf,
    "log": lambda x: torch.log(x.abs() + 0.1),
    "sqrt": lambda x: (x**2 + 0.1).sqrt(),
    "rsqrt": lambda x: (x**2 + 0.1).rsqrt(),
    "one over": lambda x: 1 / (x**2 + 0.5),
    "two to the": lambda x: 2**x,
    "reciprocal": lambda x: (x.abs() + 1).reciprocal(),
    "log1p": lambda x: x.abs().log1p(),
    "hand-written relu": lambda x: x * (x > 0),
    "hand-written leaky relu": lambda x: torch.where(x > 0, x, 0.1 * x),
    "masked": lambda x: x.masked_fill(x < 0, 0.0),
    "mask in place": lambda x: x.clone().masked_fill_(x < 0, 0.0),
    "hand-written gelu": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3)))),
}
VECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: F.log_softmax(x, dim=-1),
    "softmax of large numbers": lambda x: (200 * x).softmax(-1),
    "hand-written softmax": lambda x: (e := (x - x.max(-1, keepdim=True).values).exp()) / e.sum(-1, keepdim=True),
    "logsumexp": lambda x: x.logsumexp(-1, keepdim=True) * x,
    "softmin": lambda x: F.softmin(x, -1),
    "max": lambda x: x.max(-1, keepdim=True).values + x,
    "max of all": lambda x: x + x.unsqueeze(1).max(1)[0],
    "amin": lambda x: x.amin(-1, keepdim=True) * x,
    "maximum": lambda x: torch.maximum(x, x.flip(-1)),
    "minimum": lambda x: torch.minimum(x, 2 * x.flip(-1)),
    "max of two": lambda x: torch.max(x, x.roll(1, -1)),
    "maximum and a constant": lambda x: torch.maximum(x, torch.tensor(0.2, dtype=x.dtype)),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(-1)),
    "layer_norm": lambda x: F.layer_norm(x, (8,)),
    "rms_norm": lambda x: F.rms_norm(x, (8,), torch.arange(8.0, dtype=x.dtype)),
    "group_norm": lambda x: F.group_norm(x, 2, torch.arange(8.0, dtype=x.dtype)),
    "instance_norm": lambda x: F.instance_norm(x.view(-1, 2, 4)).flatten(1),
    "normalize": lambda x: F.normalize(x + 0.01, dim=-1),
    "norm": lambda x: x / x.norm(dim=-1, keepdim=True).add(1),
    "vector norm": lambda x: x * torch.linalg.vector_norm(x, ord=3, dim=-1, keepdim=True),
    "std": lambda x: (x + 0.5) / (x.std(-1, keepdim=True) + 1),
    "var": lambda x: x * x.var(-1, keepdim=True, correction=0),
    "cosine": lambda x: F.cosine_similarity(x + 1, x.flip(-1) + 0.5, dim=-1)[:, None] * x,
    "glu": lambda x: F.glu(torch.cat([x, x], -1), -1),
    "product": lambda x: x * x.flip(-1),
    "quotient": lambda x: x / (1 + x.flip(-1) ** 2),
    "constant over": lambda x: 3 / (1 + x**2),
    "matmul": lambda x: (x.view(-1, 2, 4) @ x.view(-1, 4, 2)).flatten(1).repeat(1, 2),
    "bmm": lambda x: torch.bmm(x.view(-1, 2, 4), x.view(-1, 2, 4).mT).flatten(1).repeat(1, 2),
    "baddbmm": lambda x: (
        torch.baddbmm(x.view(-1, 2, 4)[..., :2], x.view(-1, 2, 4), x.view(-1, 4, 2)).flatten(1).repeat(1, 2)
    ),
    "einsum": lambda x: torch.einsum("bi,bj,bi->bj", x, x + 1, x.sigmoid()),
    "einsum of two": lambda x: torch.einsum("bi,bj->bij", x, x + 1).sum(1),
    "addcmul": lambda x: torch.addcmul(x, x.sin(), x, value=2),
    "lerp": lambda x: torch.lerp(x, x.flip(-1) + 1, x.sigmoid()),
    "cumsum, indexing and the like": lambda x: torch.stack([x.cumsum(1)[:, ::2], x[:, [1, 3, 5, 7]]], -1).flatten(1),
    "where with two branches": lambda x: torch.where(x > 0.3, x.exp(), x.sin()),
}


def sensible(x: Tensor) -> Tensor:
    """A score in which every output counts, differently."""
    return x.flatten(1) @ torch.linspace(0.3, 1.7, x[0].numel(), dtype=x.dtype)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *VECTORS])
def test_every_operation_is_complete(name):
    op = (ELEMENTWISE | VECTORS)[name]
    mix = rand(8, 8, seed=3)
    x, base = rand(5, 8, seed=1), rand(5, 8, seed=2)

    def model(x: Tensor) -> Tensor:
        return sensible(op(torch.tanh(x @ mix)))

    assert gap(model, x, base) < 1e-8
    assert gap(model, x, base[:1]) < 1e-8  # one baseline for all
    twice = DeepLift(model).attribute(x, base[:1])
    torch.testing.assert_close(twice, DeepLift(model).attribute(x, base[:1].repeat(5, 1)))


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool2d method": lambda x: torch.max_pool2d(x, 2),
    "with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 3),
    "max_pool3d": lambda x: F.max_pool3d(x[:, None], 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (3, 2)),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "lp_pool2d": lambda x: F.lp_pool2d(x.relu() + 0.1, 2, 2),
    "local response": lambda x: F.local_response_norm(x, 2),
    "upsample": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False).tanh(),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2).tanh(),
    "squeeze and excite": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "depthwise kernel from the input": lambda x: F.conv2d(
        x.view(1, -1, 6, 6), x[..., :3, :3].reshape(-1, 1, 3, 3), groups=2 * len(x)
    ),
}


@pytest.mark.parametrize("name", POOLS)
def test_every_operation_on_maps_is_complete(name):
    weight = rand(2, 2, 3, 3, seed=4)

    def model(x: Tensor) -> Tensor:
        out = POOLS[name](F.conv2d(x, weight, padding=1))
        return sensible(out.reshape(len(x), -1))

    x, base = rand(4, 2, 6, 6, seed=1), rand(4, 2, 6, 6, seed=2)
    assert gap(model, x, base) < 1e-9
    assert gap(model, x) < 1e-9


# -- networks ---------------------------------------------------------------------------------------------------------


class Styles:
    """The mission's network with the same weights, written in the ways people write it."""

    @staticmethod
    def modules(net: ConvNet) -> nn.Module:
        return nn.Sequential(net.conv1, nn.ReLU(), net.conv2, nn.ReLU(), nn.Flatten(), net.fc1, nn.ReLU(), net.fc2)

    @staticmethod
    def reused(net: ConvNet) -> nn.Module:
        relu = nn.ReLU()
        return nn.Sequential(net.conv1, relu, net.conv2, relu, nn.Flatten(), net.fc1, relu, net.fc2)

    @staticmethod
    def in_place(net: ConvNet) -> nn.Module:
        return nn.Sequential(
            net.conv1, nn.ReLU(inplace=True), net.conv2, nn.ReLU(inplace=True), nn.Flatten(), net.fc1,
            nn.ReLU(inplace=True), net.fc2,
        )  # fmt: skip

    @staticmethod
    def methods(net: ConvNet) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            x = net.conv1(x).relu()
            x = net.conv2(x).clamp(min=0)
            x = net.fc1(x.flatten(1))
            x.relu_()
            return net.fc2(x)

        return forward


STYLES = [Styles.modules, Styles.reused, Styles.in_place, Styles.methods]


@pytest.fixture(scope="module")
def cnn() -> ConvNet:
    torch.manual_seed(0)
    return ConvNet().double().eval()


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("rule", ["rescale", "reveal-cancel"])
def test_how_the_code_is_written_does_not_matter(cnn, style, rule):
    """Captum 0.9 gives the functional network another answer than modules, and not a complete one."""
    x, base = rand(3, 1, 12, 12, seed=1), rand(3, 1, 12, 12, seed=2)
    values = DeepLift(cnn, rule=rule).attribute(x, base, target=3)
    assert gap(cnn, x, base, target=3, rule=rule) < 1e-9
    other = DeepLift(style(cnn), rule=rule).attribute(x, base, target=3)
    assert (values - other).abs().max() / values.abs().max() < 1e-9
    gradient = IntegratedGradients(cnn, n_steps=1).attribute(x, base, target=3)
    assert (values - gradient).abs().max() / values.abs().max() > 1e-2


class Block(nn.Module):
    def __init__(self, n: int, in_place: bool) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(n, n, 3, padding=1), nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n)
        self.relu = nn.ReLU(inplace=in_place)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.b(self.relu(self.a(x))))
        if self.in_place:
            out += x
        else:
            out = out + x
        return self.relu(out)


def residual(*, in_place: bool) -> nn.Module:
    blocks = [Block(4, in_place), Block(4, in_place)]
    return nn.Sequential(nn.Conv2d(1, 4, 3), *blocks, nn.Flatten(), nn.Linear(400, 3))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.mid = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.silu(self.down(x))
        b = self.up(F.elu(self.mid(F.max_pool2d(a, 2))))
        return self.out(torch.cat([a, b], 1)).mean((1, 2, 3))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(5, 6, **options)
        self.head = nn.Linear(
            6 * (2 if self.rnn.bidirectional else 1) if not self.rnn.proj_size else self.rnn.proj_size, 3
        )

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x if self.rnn.batch_first else x.transpose(0, 1))
        return self.head(out[:, -1] if self.rnn.batch_first else out[-1])


class Attention(nn.Module):
    """Multi-head attention by hand."""

    def __init__(self, width: int, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.out, self.causal = nn.Linear(width, 3 * width), nn.Linear(width, width), causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))


class Whole(nn.Module):
    def __init__(self, width: int, *, batch_first: bool = True, weights: bool = False) -> None:
        super().__init__()
        self.mha, self.weights = nn.MultiheadAttention(width, 2, batch_first=batch_first), weights

    def forward(self, x: Tensor) -> Tensor:
        if self.mha.batch_first:
            return self.mha(x, x, x, need_weights=self.weights)[0]
        x = x.transpose(0, 1)
        return self.mha(x, x, x, need_weights=self.weights)[0].transpose(0, 1)


class ViT(nn.Module):
    def __init__(self, attention: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 10, 8))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.LayerNorm(8),
                    attention(8),
                    nn.LayerNorm(8),
                    nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)),
                ]
            )
            for _ in range(2)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        for norm1, attention, norm2, mlp in self.layers:
            x = x + attention(norm1(x))
            x = x + mlp(norm2(x))
        return self.head(x.mean(1))


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(40, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (lambda: residual(in_place=False), (1, 12, 12)),
    "residual in place": (lambda: residual(in_place=True), (1, 12, 12)),
    "u-net": (UNet, (1, 12, 12)),
    "lstm": (lambda: Recurrent(nn.LSTM, batch_first=True), (7, 5)),
    "two lstms, both directions, time first": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (7, 5)),
    "lstm with projections": (lambda: Recurrent(nn.LSTM, proj_size=3, batch_first=True), (7, 5)),
    "gru": (lambda: Recurrent(nn.GRU, batch_first=True, bidirectional=True), (7, 5)),
    "rnn": (lambda: Recurrent(nn.RNN, nonlinearity="relu", bias=False), (7, 5)),
    "vit, attention by hand": (lambda: ViT(Attention), (1, 12, 12)),
    "vit, causal": (lambda: ViT(lambda n: Attention(n, causal=True)), (1, 12, 12)),
    "vit, nn.MultiheadAttention": (lambda: ViT(Whole), (1, 12, 12)),
    "vit, with weights": (lambda: ViT(lambda n: Whole(n, weights=True)), (1, 12, 12)),
    "vit, batch second": (lambda: ViT(lambda n: Whole(n, batch_first=False)), (1, 12, 12)),
    "transformer encoder": (encoder, (5, 8)),
    "transformer encoder, norm first, gelu": (lambda: encoder(norm_first=True, activation="gelu"), (5, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_complete(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = make().double().eval()
    x, base = rand(3, *shape, seed=1), rand(3, *shape, seed=2)
    target = None if name == "u-net" else 1
    assert gap(net, x, base, target=target) < 1e-9
    assert gap(net, x, target=target) < 1e-9
    values = DeepLift(net).attribute(x, target=target)
    alone = torch.cat([DeepLift(net).attribute(x[i : i + 1], target=target) for i in range(3)])
    torch.testing.assert_close(values, alone)


def test_recurrent_layers_taken_apart_compute_the_same():
    """Also packed sequences of different lengths, in both directions."""
    torch.manual_seed(0)
    x, lengths = rand(4, 6, 5), torch.tensor([6, 4, 4, 1])
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        rnn = kind(5, 3, num_layers=2, bidirectional=True, batch_first=True).double().eval()

        def model(x: Tensor, rnn: nn.RNNBase = rnn) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            out, state = rnn(packed)
            h = state[0] if isinstance(state, tuple) else state
            padded = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0]
            return padded.sum((1, 2)) + (h * h).sum((0, 2))

        assert gap(model, x) < 1e-9
    cell = nn.LSTMCell(5, 3).double()

    def by_hand(x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = cell(step, state)
        return (state[0] * state[1]).sum(1)

    assert gap(by_hand, x) < 1e-9
    gru = nn.GRUCell(5, 3).double()
    assert gap(lambda x: gru(x[:, 0], gru(x[:, 1])).sum(1), x) < 1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["ReLU", "GELU", "ELU", "Sigmoid", "Softplus", "Hardswish"]))
def test_random_networks_are_complete(seed, activation):
    torch.manual_seed(seed)
    act = getattr(nn, activation)()
    net = nn.Sequential(nn.Linear(4, 6), act, nn.LayerNorm(6), nn.Linear(6, 6), act, nn.Linear(6, 1)).double()
    x, base = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    for rule in ("rescale", "reveal-cancel"):
        values = DeepLift(net, rule=rule).attribute(x, base)
        change = (net(x) - net(base))[:, 0].detach()
        assert (values.sum(1) - change).abs().max() < 1e-10 * (1 + values.abs().sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_an_input_that_does_not_differ_gets_nothing(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Softmax(1), nn.Linear(6, 1)).double()
    x = torch.randn(2, 4).double()
    base = x + torch.tensor([1.0, 0, -2, 0]).double()
    values = DeepLift(net).attribute(x, base)
    assert (values[:, [1, 3]] == 0).all()


# -- places, targets, arguments ---------------------------------------------------------------------------------------


def test_at_a_layer_the_values_add_up_too(cnn):
    x, base = rand(3, 1, 12, 12, seed=1), rand(3, 1, 12, 12, seed=2)
    with torch.no_grad():
        change = (cnn(x) - cnn(base))[:, 2]
    for at in ("conv1", "conv2", "fc1", Site("fc2", input=True)):
        values = DeepLift(cnn, at=at).attribute(x, base, target=2)
        torch.testing.assert_close(total(values), change)


def test_a_unit_is_explained_like_an_output(cnn):
    x = rand(3, 1, 12, 12, seed=1)
    values = DeepLift(cnn).attribute(x, target=Site("fc1", unit=7))
    head = nn.Sequential(cnn.conv1, nn.ReLU(), cnn.conv2, nn.ReLU(), nn.Flatten(), cnn.fc1)
    torch.testing.assert_close(values, DeepLift(head).attribute(x, target=7))


def test_a_target_that_computes_is_part_of_the_model(cnn):
    x = rand(3, 1, 12, 12, seed=1)

    def odds(output: Tensor) -> Tensor:
        return output.softmax(1)[:, 3]

    with torch.no_grad():
        change = odds(cnn(x)) - odds(cnn(torch.zeros_like(x)))
    torch.testing.assert_close(total(DeepLift(cnn).attribute(x, target=odds)), change)


def test_tuples_and_further_arguments():
    a, b, gate = rand(4, 3), rand(4, 3, seed=1), rand(4, 1, seed=2)

    def model(a: Tensor, b: Tensor, gate: Tensor, power: float) -> Tensor:
        return ((a * b).tanh() * gate).sum(1) * power

    values = DeepLift(model).attribute((a, b), (0.5, -1.0), additional_forward_args=(gate, 3.0))
    change = model(a, b, gate, 3.0) - model(torch.full_like(a, 0.5), torch.full_like(b, -1), gate, 3.0)
    assert isinstance(values, tuple)
    torch.testing.assert_close(total(values), change)


def test_small_batches_give_the_same(cnn):
    x = rand(7, 1, 12, 12)
    torch.testing.assert_close(
        DeepLift(cnn, batch_size=2).attribute(x, 0.3, target=1), DeepLift(cnn).attribute(x, 0.3, target=1)
    )


def test_one_baseline_for_all_runs_once(cnn):
    rows: list[int] = []
    handle = cnn.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    DeepLift(cnn).attribute(rand(5, 1, 12, 12), target=1)
    DeepLift(cnn).attribute(rand(5, 1, 12, 12), rand(5, 1, 12, 12), target=1)
    handle.remove()
    assert rows == [1, 5, 5, 5]


def test_noise_goes_around_it(cnn):
    values = NoiseTunnel(DeepLift(cnn), nt_samples=3, stdevs=0.1).attribute(rand(2, 1, 12, 12), target=1)
    assert values.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_numbers_lose_no_more_than_their_own_digits(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    x = rand(8, 6)
    wide = DeepLift(net.double()).attribute(x, x - 0.01)
    values = DeepLift(net.to(dtype)).attribute(x.to(dtype), (x.to(dtype).double() - 0.01).to(dtype)).double()
    deltas = x.to(dtype).double() - (x.to(dtype).double() - 0.01).to(dtype).double()
    m, m_wide = values / deltas, wide / 0.01
    assert (m - m_wide).norm() / m_wide.norm() < 20 * torch.finfo(dtype).eps + 1e-4


# -- a set of baselines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [None, "conv2"])
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("large", [1, 4096])
def test_a_set_of_baselines_is_the_mean_over_them(cnn, at, batch_size, large, monkeypatch):
    monkeypatch.setattr("torchwhy.engines.rules.passes.LARGE", large)  # both ways to lay out the passes
    x, background = rand(4, 1, 12, 12), rand(5, 1, 12, 12, seed=5)
    found = DeepLiftShap(cnn, at=at, batch_size=batch_size).explain(x, background, target=2)
    each = torch.stack([DeepLift(cnn, at=at).attribute(x, b[None], target=2) for b in background])
    torch.testing.assert_close(found.values, each.mean(0))
    torch.testing.assert_close(found.standard_error, each.std(0) / math.sqrt(5))
    with torch.no_grad():
        change = cnn(x)[:, 2] - cnn(background)[:, 2].mean()
    torch.testing.assert_close(total(found.values), change)
    assert found.evidence[0].name == "completeness"
    assert max(found.evidence[0].value) < 1e-9


# -- what cannot be done is refused by name ---------------------------------------------------------------------------


def refused(model: Callable[..., Tensor], x: Tensor, *words: str, base: Any = None, **options: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        DeepLift(model, **options).attribute(x, base)
    for word in ("DeepLift", *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), Products())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).sum(1)


class Products(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumprod(x, 1)  # the line that is named


def test_an_unknown_operation_is_named_with_its_line_and_module():
    refused(
        Odd(), torch.rand(2, 4), "cumprod", "inner.1 (Products)", "test_deep_lift.py:", "return torch.cumprod(x, 1)"
    )


def test_a_detached_value_that_depends_on_the_input_is_refused():
    refused(lambda x: (x - x.mean(1, keepdim=True).detach()).sum(1), torch.rand(2, 4), "sub", "differs")


@pytest.mark.parametrize(
    ("operation", "model"),
    [
        ("mul", lambda x: (x.clamp(-0.5, 0.5) * x.detach()).sum(1)),
        ("div", lambda x: (x.clamp(-0.5, 0.5) / x.detach()).sum(1)),
        ("where", lambda x: torch.where(x > 2, x.clamp(-0.5, 0.5), 3.0).sum(1)),
        ("where", lambda x: torch.where(x > 2, x.clamp(-0.5, 0.5), -x.clamp(-0.5, 0.5)).sum(1)),
    ],
    ids=["product", "quotient", "choice of one", "choice of two"],
)
def test_a_change_that_no_gradient_can_carry_is_refused(operation, model):
    x, base = torch.tensor([[3.0, 0.2]]), torch.tensor([[1.0, 0.1]])  # clamped, the first does not differ
    with pytest.raises(UnsupportedError, match=f"at {operation}: .*carries no gradient"):
        DeepLift(model).attribute(x, base)
    assert gap(model, x.double(), 0.1 * base.double()) < 1e-12  # here it differs


def test_a_no_grad_island_that_does_not_matter_is_fine():
    def model(x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = torch.linspace(1, 2, x.shape[1], dtype=x.dtype).relu_()
            seen = x.mean()  # for a log
        assert seen.isfinite()
        return (scale * x.relu()).sum(1)

    assert gap(model, rand(3, 4), rand(3, 4, seed=1)) < 1e-12


def test_indices_that_depend_on_the_input_are_refused():
    refused(
        lambda x: x.gather(1, x.argmax(1, keepdim=True))[:, 0],
        torch.eye(3)[[1, 2]] + 0.1,
        "gather",
        base=torch.eye(3)[:1],
    )


def test_control_flow_that_differs_is_refused():
    refused(
        lambda x: x.tanh().sum(1) if x.sum() > 0 else x.sigmoid().sum(1), torch.ones(2, 3), "tanh", "sigmoid", base=-1.0
    )
    refused(lambda x: x.tanh().sum(1) if x.sum() > 0 else x.sum(1), torch.ones(2, 3), "baseline", base=-1.0)


def test_random_numbers_are_refused():
    refused(lambda x: F.dropout(x, 0.5, training=True).sum(1), torch.ones(2, 3), "dropout", "at random")


def test_batch_statistics_are_refused():
    refused(lambda x: F.batch_norm(x, None, None, training=True).sum(1), torch.rand(4, 3), "batch_norm", "batch")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripts_are_refused():
    script = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    refused(script, torch.rand(2, 3), "torch.jit", "Python module")
    refused(nn.Sequential(nn.Linear(3, 3), script, nn.Flatten(0)), torch.rand(1, 3), "1", "torch.jit")


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


def test_what_cannot_be_seen_is_refused():
    refused(lambda x: Square.apply(x).sum(1), torch.rand(2, 3), "SquareBackward", "sum")
    refused(lambda x: Square.apply(x.sum(1)), torch.rand(2, 3), "SquareBackward", "the output")


def test_misspelt_rules_are_refused(cnn):
    with pytest.raises(TorchwhyError, match="rescale, reveal-cancel, not 'recale'"):
        DeepLift(cnn, rule="recale")
