import re

import pytest
import torch
from torch import nn

from torchwhy.core.errors import TorchwhyError
from torchwhy.networks import NETWORKS, ConvNet


def test_the_layers_are_those_of_the_first_network():
    kinds = {name: repr(module) for name, module in ConvNet().named_children()}
    assert kinds == {
        "conv1": "Conv2d(1, 16, kernel_size=(3, 3), stride=(1, 1))",
        "conv2": "Conv2d(16, 32, kernel_size=(3, 3), stride=(1, 1))",
        "fc1": "Linear(in_features=2048, out_features=256, bias=True)",
        "fc2": "Linear(in_features=256, out_features=10, bias=True)",
    }


def test_forward_is_relu_after_the_first_three_layers():
    net, x = ConvNet(), torch.randn(3, 1, 12, 12)
    modules = nn.Sequential(net.conv1, nn.ReLU(), net.conv2, nn.ReLU(), nn.Flatten(), net.fc1, nn.ReLU(), net.fc2)
    assert torch.equal(net(x), modules(x))
    assert (net(x) < 0).any()  # no activation after the last


@pytest.mark.parametrize(("shape", "features"), [((1, 5, 5), 32), ((3, 9, 6), 32 * 5 * 2), ((2, 28, 28), 18432)])
def test_other_sizes_are_sized_from_the_input(shape, features):
    net = ConvNet(shape, classes=3)
    assert net.fc1.in_features == features
    assert (net.input_shape, net.classes) == (shape, 3)
    assert net(torch.zeros(2, *shape)).shape == (2, 3)


def test_a_channels_last_image_is_seen_as_the_same_image():
    net, x = ConvNet((3, 8, 8)), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), net(x))


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((1, 4, 12), 10, "at least 5 x 5 pixels, not (1, 4, 12)"),
        ((12, 12), 10, "takes images (channels, height, width) of at least 5 x 5 pixels, not (12, 12)"),
        ((0, 12, 12), 10, "not (0, 12, 12)"),
        ((1, 12, 12), 0, "at least one class, not 0"),
    ],
)
def test_impossible_networks_are_refused(shape, classes, message):
    with pytest.raises(TorchwhyError, match=re.escape(message)):
        ConvNet(shape, classes)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1, 28, 28), "inputs of shape (N, 1, 12, 12), not (2, 1, 28, 28)"),
        (torch.zeros(4, 1, 12, 6), "not (4, 1, 12, 6)"),
        (torch.zeros(1, 12, 12), "not (1, 12, 12): add the batch dimension, x[None]"),
        (torch.zeros(1, 1, 12, 12, dtype=torch.float64), "takes torch.float32 inputs, not torch.float64"),
        (torch.zeros(1, 1, 12, 12, dtype=torch.uint8), "takes torch.float32 inputs, not torch.uint8"),
    ],
)
def test_an_input_that_does_not_fit_is_told_what_would(x, message):
    with pytest.raises(TorchwhyError, match=re.escape(message)):
        ConvNet()(x)


def test_view_cannot_turn_large_images_into_more_examples():
    # 20 x 20 images leave 16 x 16 maps: 4 x 2048 features, which view(-1, 2048) would take for 4 images.
    with pytest.raises(TorchwhyError, match="takes inputs of shape"):
        ConvNet()(torch.zeros(1, 1, 20, 20))


def test_autocast_may_change_the_dtype():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ConvNet()(torch.zeros(1, 1, 12, 12, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_every_network_of_the_registry_is_built_from_shape_and_classes():
    for name, network in NETWORKS.items():
        assert network.__name__ == name
        assert network((1, 12, 12), 4)(torch.zeros(1, 1, 12, 12)).shape == (1, 4)
