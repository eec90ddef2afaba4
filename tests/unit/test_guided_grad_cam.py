"""Guided Grad-CAM: the product of its parts, on code in every style, for several inputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.methods.backprop import GuidedBackprop
from torchwhy.methods.grad_cam import GradCAM
from torchwhy.methods.guided_grad_cam import GuidedGradCAM
from torchwhy.methods.noise_tunnel import NoiseTunnel
from torchwhy.networks import ConvNet


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def net() -> ConvNet:
    torch.manual_seed(0)
    return ConvNet().double().eval()


def close(a: Tensor, b: Tensor, limit: float = 1e-9) -> None:
    assert float((a - b).abs().max() / b.abs().max()) < limit


def test_by_hand():
    """One channel, two positions: the map is 2 * (3, 1) / 2, and each of its cells covers two numbers."""
    pool, weight = nn.AvgPool1d(2), torch.tensor([[1.0, 1.0]])

    def model(x: Tensor) -> Tensor:
        return F.linear(pool(x).relu().flatten(1), weight)

    x = torch.tensor([[[2.0, 4.0, 1.0, 1.0]]])
    found = GuidedGradCAM(model, layer=pool).attribute(x, target=0)
    assert found.tolist() == [[[1.5, 1.5, 0.5, 0.5]]]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_it_is_the_product_of_its_parts(net, mode):
    x = rand(3, 1, 12, 12)
    guided = GuidedBackprop(net).attribute(x, target=[1, 2, 3])
    cam = GradCAM(net, at="conv2", relu_attributions=True).attribute(x, target=[1, 2, 3])
    found = GuidedGradCAM(net, layer="conv2", interpolate_mode=mode).attribute(x, target=[1, 2, 3])
    close(found, guided * F.interpolate(cam, (12, 12), mode=mode))
    assert torch.equal(GuidedGradCAM(net, interpolate_mode=mode).attribute(x, target=[1, 2, 3]), found)
    other = GuidedGradCAM(net, layer="conv1", interpolate_mode=mode).attribute(x, target=[1, 2, 3])
    assert float((other - found).abs().max() / found.abs().max()) > 0.1


def test_how_the_code_is_written_does_not_matter(net):
    x = rand(2, 1, 12, 12)
    modules = nn.Sequential(net.conv1, nn.ReLU(), net.conv2, nn.ReLU(), nn.Flatten(), net.fc1, nn.ReLU(), net.fc2)
    close(
        GuidedGradCAM(modules, layer="2").attribute(x, target=3),
        GuidedGradCAM(net, layer="conv2").attribute(x, target=3),
    )


def test_several_inputs():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.side = ConvNet(), nn.Linear(2, 10)

        def forward(self, image: Tensor, side: Tensor) -> Tensor:
            return self.net(image) + (self.side(side) + 3).relu()

    torch.manual_seed(0)
    model, both = Pair().double().eval(), (rand(2, 1, 12, 12), rand(2, 2, seed=1).abs())
    images, sides = GuidedGradCAM(model, layer="net.conv1").attribute(both, target=4)
    guided = GuidedBackprop(model).attribute(both, target=4)
    cam = GradCAM(model, at="net.conv1", relu_attributions=True).attribute(both, target=4)
    assert (cam > 0).any()
    close(images, guided[0] * F.interpolate(cam, (12, 12)))
    close(sides, guided[1] * cam.mean((1, 2, 3))[:, None])


def test_layers_and_noise(net):
    x = rand(2, 1, 12, 12)
    assert GuidedGradCAM(net, at="conv1", layer="conv2").attribute(x, target=1).shape == (2, 16, 10, 10)
    noisy = NoiseTunnel(GuidedGradCAM(net), nt_samples=3, stdevs=1e-9).attribute(x, target=1)
    close(noisy, GuidedGradCAM(net).attribute(x, target=1), 1e-5)
    found = GuidedGradCAM(net, batch_size=1).attribute(x, target=[1, 2])
    close(found, GuidedGradCAM(net).attribute(x, target=[1, 2]))


def test_what_is_refused(net):
    with pytest.raises(TorchwhyError, match="interpolate_mode is one of 'nearest'"):
        GuidedGradCAM(net, interpolate_mode="cubic")
    with pytest.raises(UnsupportedError, match="as many spatial dimensions"):
        GuidedGradCAM(lambda x: net(x.view(-1, 1, 12, 12)), layer=net.conv2).attribute(rand(2, 12, 12), target=0)
    with pytest.raises(TorchwhyError, match="no layer 'conv3'"):
        GuidedGradCAM(net, layer="conv3").attribute(rand(2, 1, 12, 12), target=0)
