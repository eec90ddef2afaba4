"""The same numbers as Captum 0.9 where Captum is right, and right numbers where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchwhy.methods.backprop import Deconvolution, GuidedBackprop
from torchwhy.methods.deep_lift import DeepLift, DeepLiftShap
from torchwhy.methods.guided_grad_cam import GuidedGradCAM

captum = pytest.importorskip("captum.attr")

pytestmark = [
    # Captum's, about its hooks and the inputs it is given.
    pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning"),
]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Block(nn.Module):
    """Residual, with an activation module for each use."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(n, n, 3, padding=1), nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(x + self.norm(self.b(self.relu1(self.a(x)))))


def network(act: type[nn.Module] = nn.ReLU, pool: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(4 * 25, 8), act(), nn.Linear(8, 3)]
    net = nn.Sequential(nn.Conv2d(1, 4, 3), act(), Block(4), pool or nn.AvgPool2d(2), *head)
    return net.double().eval().requires_grad_(requires_grad=False)


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


@pytest.mark.parametrize("act", [nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus])
@pytest.mark.parametrize("baseline", ["zeros", "other"])
def test_deep_lift(act, baseline):
    net, x, other = network(act), rand(3, 1, 12, 12), rand(3, 1, 12, 12, seed=1)
    base = other if baseline == "other" else torch.zeros_like(x)
    theirs = captum.DeepLift(net).attribute(x, base, target=1)
    assert apart(DeepLift(net).attribute(x, base, target=1), theirs) < 1e-7
    assert apart(DeepLift(net).attribute(x, base + 0.5, target=1), theirs) > 1e-2
    multipliers = captum.DeepLift(net, multiply_by_inputs=False).attribute(x, base, target=1)
    assert apart(DeepLift(net, multiply_by_inputs=False).attribute(x, base, target=1), multipliers) < 1e-7


def test_deep_lift_shap():
    net, x, background = network(), rand(3, 1, 12, 12), rand(5, 1, 12, 12, seed=1)
    theirs = captum.DeepLiftShap(net).attribute(x, background, target=1)
    assert apart(DeepLiftShap(net).attribute(x, background, target=1), theirs) < 1e-9
    assert apart(DeepLiftShap(net).attribute(x, background[:4], target=1), theirs) > 1e-2


def test_layers():
    net, x, base = network(), rand(3, 1, 12, 12), rand(3, 1, 12, 12, seed=1)
    theirs = captum.LayerDeepLift(net, net[0]).attribute(x, base, target=1)
    assert apart(DeepLift(net, at="0").attribute(x, base, target=1), theirs) < 1e-9
    assert apart(DeepLift(net, at="0").attribute(x, base, target=2), theirs) > 1e-2


@pytest.mark.parametrize(("ours", "theirs"), [(GuidedBackprop, "GuidedBackprop"), (Deconvolution, "Deconvolution")])
def test_backward_variants(ours, theirs):
    net, x = network(), rand(3, 1, 12, 12)
    values = getattr(captum, theirs)(net).attribute(x, target=1)
    assert apart(ours(net).attribute(x, target=1), values) < 1e-12
    assert apart(ours(net).attribute(x, target=2), values) > 1e-2
    other = Deconvolution if ours is GuidedBackprop else GuidedBackprop
    assert apart(other(net).attribute(x, target=1), values) > 1e-2


# -- where Captum 0.9 is wrong ----------------------------------------------------------------------------------------


class Functional(nn.Module):
    """The same network with activations as function calls."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        first, _, block, pool, flat, a, _, b = self.net
        x = torch.relu(first(x))
        x = torch.relu(x + block.norm(block.b(torch.relu(block.a(x)))))
        return b(torch.relu(a(flat(pool(x)))))


def gap(values: Tensor, model: nn.Module, x: Tensor, base: Tensor) -> float:
    change = (model(x) - model(base))[:, 1]
    return float(((values.flatten(1).sum(1) - change).abs() / change.abs()).max().detach())


def test_functional_activations_are_explained_like_modules():
    net, x, base = network(), rand(3, 1, 12, 12), rand(3, 1, 12, 12, seed=1)
    functional = Functional(net)
    for ours in (DeepLift, GuidedBackprop, Deconvolution):
        more: tuple[Any, ...] = (base,) if ours is DeepLift else ()
        assert apart(ours(functional).attribute(x, *more, target=1), ours(net).attribute(x, *more, target=1)) < 1e-9
    assert gap(DeepLift(functional).attribute(x, base, target=1), functional, x, base) < 1e-9
    assert gap(captum.DeepLift(functional).attribute(x, base, target=1), functional, x, base) > 0.1
    plain = captum.Saliency(functional).attribute(x, target=1, abs=False)
    assert torch.equal(captum.GuidedBackprop(functional).attribute(x, target=1), plain)
    assert apart(GuidedBackprop(functional).attribute(x, target=1), plain) > 0.1


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(4, 2, 1)], ids=["apart", "overlapping"])
def test_maxima_are_complete_with_any_baseline(pool):
    net, x, base = network(pool=pool), rand(3, 1, 12, 12), rand(3, 1, 12, 12, seed=1)
    assert gap(DeepLift(net).attribute(x, base, target=1), net, x, base) < 1e-9
    assert gap(captum.DeepLift(net).attribute(x, base, target=1), net, x, base) > 0.1


# -- guided Grad-CAM --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_guided_grad_cam(mode):
    net, x = network(), rand(3, 1, 12, 12)
    theirs = captum.GuidedGradCam(net, net[2]).attribute(x, target=1, interpolate_mode=mode)
    assert theirs.abs().max() > 0
    ours = GuidedGradCAM(net, layer="2", interpolate_mode=mode)
    assert apart(ours.attribute(x, target=1), theirs) < 1e-9
    assert apart(ours.attribute(x, target=1, layer="0"), theirs) > 1e-2


def test_guided_grad_cam_of_functions():
    """Captum's, whose guided part is then the plain gradient, differs from that of the same network in modules."""
    net, x = network(), rand(3, 1, 12, 12)
    functional = Functional(net)
    right = GuidedGradCAM(net, layer=net[0]).attribute(x, target=1)
    assert apart(GuidedGradCAM(functional, layer=net[0]).attribute(x, target=1), right) < 1e-9
    assert apart(captum.GuidedGradCam(functional, net[0]).attribute(x, target=1), right) > 1e-2
