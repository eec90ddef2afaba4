"""Guided backpropagation, deconvolution, rectified gradients, soft corners: by hand, and on code in every style."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.methods.backprop import BetaSmooth, Deconvolution, GuidedBackprop, RectGrad
from torchwhy.methods.base import Method
from torchwhy.methods.noise_tunnel import NoiseTunnel
from torchwhy.methods.saliency import Saliency
from torchwhy.networks import ConvNet


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_guided_and_deconvolution_by_hand():
    """Four units: active or not, with a positive or a negative gradient from above."""
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])

    def model(x: Tensor) -> Tensor:
        return torch.relu(x) @ signs

    x = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    assert Saliency(model, abs=False).attribute(x).tolist() == [[1, -1, 0, 0]]
    assert GuidedBackprop(model).attribute(x).tolist() == [[1, 0, 0, 0]]
    assert Deconvolution(model).attribute(x).tolist() == [[1, 0, 1, 0]]


def test_rectified_gradient_by_hand():
    """Activation times gradient is (1, -4, 9, 0) in the hidden layer: the larger half is 9 and 1."""
    up = torch.tensor([1.0, -2.0, 3.0, 4.0])
    x = torch.tensor([[1.0, 2.0, 3.0, -1.0]])

    def model(x: Tensor) -> Tensor:
        return torch.relu(x) @ up

    assert RectGrad(model, q=50, multiply_by_inputs=False).attribute(x).tolist() == [[1, 0, 3, 0]]
    assert RectGrad(model, q=75, multiply_by_inputs=False).attribute(x).tolist() == [[0, 0, 3, 0]]
    assert RectGrad(model, q=75).attribute(x).tolist() == [[0, 0, 9, 0]]


def methods() -> list[type[Method]]:
    return [GuidedBackprop, Deconvolution, RectGrad, BetaSmooth]


def styles(net: ConvNet) -> dict[str, Callable[[Tensor], Tensor]]:
    def sequence(*relus: nn.Module) -> nn.Module:
        a, b, c = relus
        return nn.Sequential(net.conv1, a, net.conv2, b, nn.Flatten(), net.fc1, c, net.fc2)

    one = nn.ReLU()

    def functional(x: Tensor) -> Tensor:
        x = net.conv1(x).clamp_min(0)
        x = F.relu_(net.conv2(x))
        x = net.fc1(x.flatten(1))
        x.clamp_(min=0)
        return net.fc2(x)

    return {
        "modules": sequence(nn.ReLU(), nn.ReLU(), nn.ReLU()),
        "one module": sequence(one, one, one),
        "in place": sequence(nn.ReLU(inplace=True), nn.ReLU(inplace=True), nn.ReLU(inplace=True)),
        "functions": functional,
    }


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("style", ["modules", "one module", "in place", "functions"])
def test_how_the_code_is_written_does_not_matter(method, style):
    """Captum 0.9 gives the functional network, and silently, its plain gradient."""
    torch.manual_seed(0)
    net = ConvNet().double().eval()
    x = rand(3, 1, 12, 12)
    values = method(net).attribute(x, target=3)
    other = method(styles(net)[style]).attribute(x, target=3)
    assert (values - other).abs().max() / values.abs().max() < 1e-9
    plain = Saliency(net, abs=False).attribute(x, target=3)
    assert (values - plain).abs().max() / values.abs().max() > 0.1


def test_guided_backpropagation_against_its_definition():
    """Hooks on the gradients of the hidden layers, written out."""
    torch.manual_seed(0)
    net = ConvNet().double().eval().requires_grad_(False)
    x = rand(2, 1, 12, 12).requires_grad_()
    a = net.conv1(x)
    b = net.conv2(a.relu())
    c = net.fc1(b.relu().flatten(1))
    g = net.fc2.weight[5].expand(2, -1).clamp(min=0) * (c > 0)
    for below, above in ((b, c), (a, b), (x, a)):
        (g,) = torch.autograd.grad(above, below, g, retain_graph=True)
        g = g if below is x else torch.where(below > 0, _from_relu(g, below), 0)
    torch.testing.assert_close(GuidedBackprop(net).attribute(x.detach(), target=5), g)


def _from_relu(g: Tensor, below: Tensor) -> Tensor:
    """``autograd.grad`` has gone through the relu already; undone, what came to it from above was zero or g."""
    return g.clamp(min=0)


def test_bounds_that_are_no_activation_are_left_alone():
    def model(x: Tensor) -> Tensor:
        return -x.clamp(-2, 2).sum(1)

    x = torch.tensor([[1.0, 3.0]])
    assert GuidedBackprop(model).attribute(x).tolist() == [[-1, 0]]
    assert GuidedBackprop(lambda x: -x.clamp(0, 2).sum(1)).attribute(x).tolist() == [[0, 0]]


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("act", [F.gelu, F.silu, torch.tanh, F.relu6, F.leaky_relu, F.elu, F.hardswish])
def test_every_activation_is_treated(method, act):
    values = method(lambda x: -act(x).sum(1)).attribute(rand(2, 4).abs())
    if method in (GuidedBackprop, Deconvolution):
        assert (values == 0).all()


def test_layers_units_and_noise():
    torch.manual_seed(0)
    net = ConvNet().double()
    x = rand(2, 1, 12, 12)
    values = GuidedBackprop(net, at="conv2").attribute(x, target=1)
    assert values.shape == (2, 32, 8, 8)
    noisy = NoiseTunnel(GuidedBackprop(net), nt_samples=3, stdevs=1e-9).attribute(x, target=1)
    torch.testing.assert_close(noisy, GuidedBackprop(net).attribute(x, target=1), rtol=1e-5, atol=1e-8)
    alone = GuidedBackprop(net, batch_size=1).attribute(x, target=[1, 2])
    torch.testing.assert_close(alone, GuidedBackprop(net).attribute(x, target=[1, 2]))


class Rectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_activations_that_hide_are_refused():
    script = torch.jit.script(nn.ReLU())
    with pytest.raises(UnsupportedError, match=r"GuidedBackprop.*torch.jit"):
        GuidedBackprop(nn.Sequential(nn.Linear(3, 3), script)).attribute(torch.rand(2, 3), target=0)
    with pytest.raises(UnsupportedError, match=r"GuidedBackprop cannot.*ReluBackward"):
        GuidedBackprop(lambda x: script(2 * x).sum(1)).attribute(torch.rand(2, 3))
    GuidedBackprop(lambda x: Rectifier.apply(x).sum(1)).attribute(torch.rand(2, 3))  # nobody can know what it is


@pytest.mark.parametrize("q", [-1, 100, "50", True])
def test_a_percentage_is_one(q):
    with pytest.raises(TorchwhyError, match="q is a percentage"):
        RectGrad(ConvNet(), q=q)


# -- soft corners -----------------------------------------------------------------------------------------------------


SOFT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda x: F.softplus(x, 5.0)),
    "in place": (lambda x: (1 * x).relu_(), lambda x: F.softplus(x, 5.0)),
    "clamp": (lambda x: x.clamp(min=0), lambda x: F.softplus(x, 5.0)),
    "clamp from 0 to 1": (lambda x: x.clamp(0, 1), lambda x: F.softplus(x, 5.0) - F.softplus(x - 1, 5.0)),
    "relu6": (lambda x: F.relu6(9 * x), lambda x: F.softplus(9 * x, 5.0) - F.softplus(9 * x - 6, 5.0)),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.25), lambda x: 0.25 * x + 0.75 * F.softplus(x, 5.0)),
    "prelu": (
        lambda x: F.prelu(x, torch.tensor([0.5, -1.0, 0.0, 2.0]).double()),
        lambda x: (s := torch.tensor([0.5, -1.0, 0.0, 2.0]).double()) * x + (1 - s) * F.softplus(x, 5.0),
    ),
    "none": (torch.tanh, torch.tanh),
    "bounds": (lambda x: x.clamp(-0.5, 0.5), lambda x: x.clamp(-0.5, 0.5)),
}


@pytest.mark.parametrize("name", SOFT)
def test_soft_corners_are_those_of_softplus(name):
    hard, soft = SOFT[name]
    x = rand(3, 4)
    expected = Saliency(lambda x: soft(x).sum(1), abs=False).attribute(x)
    torch.testing.assert_close(BetaSmooth(lambda x: hard(x).sum(1), beta=5.0).attribute(x), expected)


def test_sharper_corners_come_close_to_the_gradient():
    torch.manual_seed(0)
    net, x = ConvNet().double().eval(), rand(2, 1, 12, 12)
    plain = Saliency(net, abs=False).attribute(x, target=1)
    gaps = [(BetaSmooth(net, beta=b).attribute(x, target=1) - plain).abs().max() for b in (1.0, 100.0, 1e9)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-9


@pytest.mark.parametrize("beta", [0, -1, True, "10", float("inf")])
def test_beta_is_a_number_above_zero(beta):
    with pytest.raises(TorchwhyError, match="beta is a number above 0"):
        BetaSmooth(ConvNet(), beta=beta)
