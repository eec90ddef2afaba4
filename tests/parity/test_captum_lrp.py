"""The same numbers as Captum 0.9's LRP where both mean the same: one rule for all layers, modules, inputs >= 0."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchwhy.engines.rules import on
from torchwhy.engines.rules.lrp import LAYERS, Epsilon, Gamma, ZPlus
from torchwhy.methods.lrp import LRP

captum = pytest.importorskip("captum.attr")
theirs = pytest.importorskip("captum.attr._utils.lrp_rules")

pytestmark = [
    # Captum's, about its hooks and the inputs it is given.
    pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning"),
]


class Network(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, bias=bias), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AvgPool2d(2))
        self.head = nn.Sequential(nn.Linear(6, 16, bias=bias), nn.ReLU(), nn.Linear(16, 3, bias=bias))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def images() -> Tensor:
    return torch.rand(3, 1, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


RULES: dict[str, tuple[Callable[[], Any], Any, Any, bool]] = {
    "epsilon": (lambda: theirs.EpsilonRule(1e-3), Epsilon(1e-3), Epsilon(1e-1), True),
    "LRP-0": (lambda: theirs.EpsilonRule(0.0), Epsilon(0.0), Epsilon(1e-1), True),
    "gamma": (lambda: theirs.GammaRule(0.5), Gamma(0.5, 1e-9), Gamma(0.25, 1e-9), False),
    "z-plus": (theirs.Alpha1_Beta0_Rule, ZPlus(stabilizer=1e-9), Gamma(0.5, 1e-9), False),
}


@pytest.mark.parametrize("name", RULES)
def test_rules(name):
    make, ours, other, bias = RULES[name]
    net, x = Network(bias), images()
    own = copy.deepcopy(net)
    for layer in own.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            # Captum's rules are not meant for a negative output, such as a score can be.
            layer.rule = theirs.EpsilonRule(1e-9) if layer is own.head[-1] else make()
        elif isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
            layer.rule = theirs.EpsilonRule(1e-9)
    expected = captum.LRP(own).attribute(x, target=1)

    def values(rule: Any) -> Tensor:
        top = on("linear", position="last"), Epsilon(1e-9)
        return LRP(net, composite=[top, (on(*LAYERS), rule)]).attribute(x, target=1)

    def apart(found: Tensor) -> float:
        return float(((found - expected).abs().max() / expected.abs().max()).detach())

    assert apart(values(ours)) < 1e-6
    assert apart(values(other)) > 1e-2
