"""The same numbers as zennit on VGG-11 and ResNet-18, whose canonizers merge batch norms and find residual sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, vgg11, vgg11_bn
from zennit import composites as theirs
from zennit import rules as their_rules
from zennit.canonizers import Canonizer
from zennit.layer import Sum
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import Activation, AvgPool, BatchNorm, Linear

from torchwhy.engines.rules import on
from torchwhy.engines.rules.lrp import LAYERS, AlphaBeta, Epsilon, Flat, Gamma, InputRule, Norm, WSquare, ZBox, ZPlus
from torchwhy.methods.backprop import BetaSmooth, Deconvolution, GuidedBackprop
from torchwhy.methods.base import Method
from torchwhy.methods.excitation import ExcitationBackprop
from torchwhy.methods.lrp import LRP

STABILIZER = 1e-12
LOW, HIGH = -3.0, 3.0


@cache
def network(name: str) -> nn.Module:
    """A torchvision network in float64 with random weights and statistics, and a narrow head where its own is wide."""
    torch.manual_seed(0)
    net = {"VGG-11": vgg11, "VGG-11 with batch norms": vgg11_bn, "ResNet-18": resnet18}[name](num_classes=10)
    if name != "ResNet-18":
        net.classifier = nn.Sequential(nn.Linear(512 * 49, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
    for m in net.modules():
        if isinstance(m, nn.ReLU):
            m.inplace = False  # see `test_zennit_forgets_what_a_rectifier_saw`
        if isinstance(m, nn.BatchNorm2d):
            m.eps = 1e-12  # zennit leaves it in a batch norm that it has merged, where it shrinks the output
            for t, (low, high) in zip(
                (m.weight, m.bias, m.running_mean, m.running_var), ((0.5, 2), (-1, 1), (-1, 1), (0.5, 2)), strict=True
            ):
                nn.init.uniform_(t, low, high)
        if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None:
            nn.init.uniform_(m.bias, -0.1, 0.1)
    return net.double().eval().requires_grad_(requires_grad=False)


NETWORKS = ["VGG-11", "VGG-11 with batch norms", "ResNet-18"]


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4 - 2


def canonizers(name: str) -> list[Canonizer]:
    return [ResNetCanonizer() if name == "ResNet-18" else VGGCanonizer()]


def zennit(name: str, composite: Any, relevance: bool = True) -> Tensor:
    """What zennit hands down from output 3: its score, or one."""
    net, x = network(name), images().requires_grad_()
    with composite.context(net) as modified:
        output = modified(x)
        handed = torch.zeros_like(output)
        handed[:, 3] = output[:, 3].detach() if relevance else 1
        return torch.autograd.grad(output, x, handed)[0]


def apart(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())


COMPOSITES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "epsilon-plus": (theirs.EpsilonPlus, {}),
    "epsilon-plus-flat": (theirs.EpsilonPlusFlat, {}),
    "epsilon-alpha2beta1": (theirs.EpsilonAlpha2Beta1, {}),
    "epsilon-alpha2beta1-flat": (theirs.EpsilonAlpha2Beta1Flat, {}),
    "epsilon-gamma-box": (theirs.EpsilonGammaBox, {"low": LOW, "high": HIGH}),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("composite", COMPOSITES)
def test_composites(name, composite):
    make, bounds = COMPOSITES[composite]
    tensors = {key: torch.full_like(images(), value) for key, value in bounds.items()}
    expected = zennit(name, make(epsilon=1e-4, stabilizer=STABILIZER, canonizers=canonizers(name), **tensors))

    def values(epsilon: float, composite: str = composite, **bounds: float) -> Tensor:
        method = LRP(network(name), composite=composite, epsilon=epsilon, stabilizer=STABILIZER, **bounds)
        return method.attribute(images(), target=3)

    assert apart(values(1e-4, **bounds), expected) < 1e-8
    assert apart(values(1e-4, "epsilon"), expected) > 1e-2


def everywhere(name: str, rule: Any, first: Any = None) -> Any:
    """A composite of zennit with one rule for all layers, and another for the first."""
    layers = [
        (Activation, their_rules.Pass()),
        (AvgPool, their_rules.Norm(STABILIZER)),
        (BatchNorm, their_rules.Pass()),
        (Sum, their_rules.Norm(STABILIZER)),
        (Linear, rule),
    ]
    first_map = [(Linear, rule if first is None else first)]
    return theirs.SpecialFirstLayerMapComposite(layer_map=layers, first_map=first_map, canonizers=canonizers(name))


RULES: dict[str, tuple[Any, Any, Any]] = {
    "epsilon": (their_rules.Epsilon(1e-3), Epsilon(1e-3), Epsilon(1e-1)),
    "gamma": (their_rules.Gamma(0.25, STABILIZER), Gamma(0.25, STABILIZER), Gamma(0.5, STABILIZER)),
    "z-plus": (their_rules.ZPlus(STABILIZER), ZPlus(stabilizer=STABILIZER), Gamma(0.5, STABILIZER)),
    "alpha-beta": (
        their_rules.AlphaBeta(2, 1, STABILIZER),
        AlphaBeta(2, 1, STABILIZER),
        AlphaBeta(1, 0, STABILIZER),
    ),
    "norm": (their_rules.Norm(STABILIZER), Norm(STABILIZER), Norm(1e-2)),
}
FIRST: dict[str, tuple[Callable[[], Any], InputRule]] = {
    "z-box": (
        lambda: their_rules.ZBox(torch.full_like(images(), LOW), torch.full_like(images(), HIGH), STABILIZER),
        ZBox(LOW, HIGH, STABILIZER),
    ),
    "w-square": (lambda: their_rules.WSquare(STABILIZER), WSquare(STABILIZER)),
    "flat": (lambda: their_rules.Flat(STABILIZER), Flat(STABILIZER)),
}


def ours(name: str, *rules: tuple[Any, Any]) -> Tensor:
    composite: Any = rules
    return LRP(network(name), composite=list(composite)).attribute(images(), target=3)


@pytest.mark.parametrize("name", ["VGG-11", "ResNet-18"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_for_all_layers(name, rule):
    peer, same, other = RULES[rule]
    expected = zennit(name, everywhere(name, peer))
    assert apart(ours(name, (on(*LAYERS), same)), expected) < 1e-8
    assert apart(ours(name, (on(*LAYERS), other)), expected) > 1e-3


@pytest.mark.parametrize("name", ["VGG-11", "ResNet-18"])
@pytest.mark.parametrize("rule", FIRST)
def test_a_rule_for_the_first_layer(name, rule):
    make, same = FIRST[rule]
    expected = zennit(name, everywhere(name, their_rules.ZPlus(STABILIZER), make()))
    first, rest = on(*LAYERS, position="first"), (on(*LAYERS), ZPlus(stabilizer=STABILIZER))
    assert apart(ours(name, (first, same), rest), expected) < 1e-8
    assert apart(ours(name, rest), expected) > 1e-2


VARIANTS: dict[str, tuple[Any, type[Method], dict[str, Any], bool]] = {
    "excitation": (theirs.ExcitationBackprop, ExcitationBackprop, {"stabilizer": STABILIZER}, True),
    "guided": (theirs.GuidedBackprop, GuidedBackprop, {}, False),
    "deconvolution": (theirs.DeconvNet, Deconvolution, {}, False),
    "soft corners": (theirs.BetaSmooth, BetaSmooth, {}, False),
}


@pytest.mark.parametrize(
    ("name", "variant"),
    [pair for pair in product(NETWORKS, VARIANTS) if pair != ("ResNet-18", "soft corners")],
)
def test_backward_variants(name, variant):
    make, method, options, canonized = VARIANTS[variant]
    expected = zennit(name, make(canonizers=canonizers(name) if canonized else [], **options), relevance=False)
    values = method(network(name), **options).attribute(images(), target=3)
    assert apart(values, expected) < 1e-8
    assert apart(method(network(name), **options).attribute(images(), target=4), expected) > 1e-2


class Soft(torch.autograd.Function):
    """A rectifier with the derivative of softplus, as zennit defines it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.sigmoid(10 * x)


def test_zennit_forgets_what_a_rectifier_saw(monkeypatch):
    """The rectifier of a residual block runs twice, and zennit's rule knows the second input only."""
    x = images().requires_grad_()
    values = BetaSmooth(network("ResNet-18")).attribute(images(), target=3)
    peer = zennit("ResNet-18", theirs.BetaSmooth(), relevance=False)
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: Soft.apply(x))
    (expected,) = torch.autograd.grad(network("ResNet-18")(x)[:, 3].sum(), x)
    assert apart(values, expected) < 1e-9
    assert apart(peer, expected) > 0.1
