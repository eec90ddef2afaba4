"""Excitation backpropagation: by hand, as a distribution, and on code in every style."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.engines.rules.lrp import LAYERS
from torchwhy.methods.excitation import ExcitationBackprop
from torchwhy.methods.lrp import LRP
from torchwhy.methods.noise_tunnel import NoiseTunnel
from torchwhy.networks import ConvNet

W = torch.tensor([[1.0, -1.0, 2.0], [2.0, 1.0, -1.0]], dtype=torch.float64)
UP = torch.tensor([[3.0, 1.0], [-1.0, 2.0]], dtype=torch.float64)
X = torch.tensor([[1.0, 2.0, 1.5]], dtype=torch.float64)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_layers(x: Tensor) -> Tensor:
    """Hidden units 2 and 2.5, outputs 8.5 and 3."""
    return F.linear(F.linear(x, W).relu(), UP)


def close(a: Tensor, b: Tensor, limit: float = 1e-9) -> None:
    assert float((a - b).abs().max() / b.abs().max()) < limit


def test_two_layers_by_hand():
    """The winner is excited by 3 * 2 and 1 * 2.5; its hidden units by (1, 0, 3) and (2, 2, 0)."""
    above = torch.tensor([6.0, 2.5], dtype=torch.float64) / 8.5
    expected = above[0] * torch.tensor([1.0, 0, 3]) / 4 + above[1] * torch.tensor([2.0, 2, 0]) / 4
    found = ExcitationBackprop(two_layers, stabilizer=0).attribute(X, target=0)
    torch.testing.assert_close(found[0], expected.double())
    other = ExcitationBackprop(two_layers, stabilizer=0).attribute(X, target=1)
    torch.testing.assert_close(other[0], torch.tensor([2.0, 2, 0], dtype=torch.float64) / 4)


def test_a_contrast_by_hand():
    """The dual of output 1 is excited by the first hidden unit alone."""
    found = ExcitationBackprop(two_layers, stabilizer=0, contrastive=True).attribute(X, target=1)
    expected = torch.tensor([2.0, 2, 0], dtype=torch.float64) / 4 - torch.tensor([1.0, 0, 3], dtype=torch.float64) / 4
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_probabilities_add_up_to_one(sign):
    """Whatever the score; here there are no biases, and every unit has something that excites it."""
    up = sign * rand(6, seed=2)
    weight = rand(6, 5, seed=1)

    def model(x: Tensor) -> Tensor:
        return F.linear(x, weight).relu() @ up[:, None]

    x = rand(8, 5)
    scores = model(x)[:, 0]
    found = ExcitationBackprop(model, stabilizer=0, batch_size=3).attribute(x)
    assert (scores < 0).any()
    assert (scores > 0).any()
    wins = (F.linear(x, weight).relu() * up).amax(1) > 0
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1)[wins], torch.ones(int(wins.sum()), dtype=torch.float64))


def styles(net: ConvNet) -> dict[str, Callable[[Tensor], Tensor]]:
    one = nn.ReLU()

    def functional(x: Tensor) -> Tensor:
        x = F.relu_(net.conv2(net.conv1(x).clamp(min=0)))
        return net.fc2(net.fc1(x.flatten(1)).relu_())

    return {
        "modules": nn.Sequential(net.conv1, nn.ReLU(), net.conv2, nn.ReLU(), nn.Flatten(), net.fc1, nn.ReLU(), net.fc2),
        "one module": nn.Sequential(net.conv1, one, net.conv2, one, nn.Flatten(), net.fc1, one, net.fc2),
        "functions": functional,
    }


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("style", ["modules", "one module", "functions"])
def test_how_the_code_is_written_does_not_matter(style, contrastive):
    torch.manual_seed(0)
    net, x = ConvNet().double().eval(), rand(2, 1, 12, 12)
    values = ExcitationBackprop(net, contrastive=contrastive).attribute(x, target=3)
    close(ExcitationBackprop(styles(net)[style], contrastive=contrastive).attribute(x, target=3), values)
    other = ExcitationBackprop(net, contrastive=not contrastive).attribute(x, target=3)
    assert float((other - values).abs().max() / values.abs().max()) > 0.1


def test_it_is_z_plus_for_a_probability_of_one():
    from torchwhy.engines.rules import on
    from torchwhy.engines.rules.lrp import ZPlus

    torch.manual_seed(0)
    net, x = ConvNet().double().eval(), rand(2, 1, 12, 12)
    relevance = LRP(net, composite=[(on(*LAYERS), ZPlus())]).attribute(x, target=3)
    close(ExcitationBackprop(net).attribute(x, target=3), relevance / net(x)[:, 3].detach().view(-1, 1, 1, 1))


def test_a_unit_that_is_silent_has_nothing_to_owe():
    assert ExcitationBackprop(lambda x: F.linear(x, -W).relu()[:, 1]).attribute(X).tolist() == [[0, 0, 0]]


def test_layers_evidence_and_noise():
    torch.manual_seed(0)
    net, x = ConvNet().double(), rand(2, 1, 12, 12)
    assert ExcitationBackprop(net, at="conv2").attribute(x, target=1).shape == (2, 32, 8, 8)
    names = [c.name for c in ExcitationBackprop(net).explain(x, target=1).evidence]
    assert "conservation" in names
    assert "conservation" not in [
        c.name for c in ExcitationBackprop(net, contrastive=True).explain(x, target=1).evidence
    ]
    noisy = NoiseTunnel(ExcitationBackprop(net), nt_samples=3, stdevs=1e-9).attribute(x, target=1)
    close(noisy, ExcitationBackprop(net).attribute(x, target=1), 1e-4)


def test_what_is_refused():
    with pytest.raises(UnsupportedError, match="ExcitationBackprop cannot keep its promise at softmax"):
        ExcitationBackprop(lambda x: F.linear(x, W).softmax(1)).attribute(X, target=0)
    with pytest.raises(TorchwhyError, match="stabilizer is a number"):
        ExcitationBackprop(two_layers, stabilizer=-1)
