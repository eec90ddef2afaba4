"""The networks a checkpoint can name. Each is built from its input shape and its number of classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError


class ConvNet(nn.Module):
    """Two 3x3 convolutions and two linear layers, written the way a first PyTorch network is written.

    The activations are function calls and the feature maps are flattened by `view`, so hooks on modules do
    not see them: an explanation method has to be right on this network as well.

    Args:
        input_shape: `(channels, height, width)` of one image, at least 5 x 5 pixels.
        classes: number of classes.

    Shapes: `(N, channels, height, width)` to `(N, classes)` logits.

    Raises:
        TorchwhyError: an impossible `input_shape` or `classes`; an input of another shape or dtype.

    >>> net = ConvNet()
    >>> net(torch.zeros(5, 1, 12, 12)).shape
    torch.Size([5, 10])
    >>> ConvNet((3, 32, 32), classes=2).fc1
    Linear(in_features=25088, out_features=256, bias=True)
    """

    def __init__(self, input_shape: Sequence[int] = (1, 12, 12), classes: int = 10) -> None:
        super().__init__()
        shape = tuple(input_shape)
        if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 5:
            raise TorchwhyError(
                f"ConvNet takes images (channels, height, width) of at least 5 x 5 pixels, not {shape}: "
                "reshape or enlarge them"
            )
        if classes < 1:
            raise TorchwhyError(f"ConvNet needs at least one class, not {classes}")
        channels, height, width = shape
        self.input_shape = shape
        self.classes = classes
        self.conv1 = nn.Conv2d(channels, 16, 3)
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.fc1 = nn.Linear(32 * (height - 4) * (width - 4), 256)
        self.fc2 = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)` of images `(N, channels, height, width)`."""
        self._check(x)
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        x = x.contiguous().view(-1, self.fc1.in_features)  # channels-last feature maps have no flat view
        x = torch.relu(self.fc1(x))
        logits: Tensor = self.fc2(x)
        return logits

    def _check(self, x: Tensor) -> None:
        """Refuse what `view(-1, ...)` would silently regroup into another number of examples."""
        if tuple(x.shape[1:]) != self.input_shape:
            hint = ": add the batch dimension, x[None]" if tuple(x.shape) == self.input_shape else ""
            takes = ", ".join(map(str, ("N", *self.input_shape)))
            raise TorchwhyError(f"this network takes inputs of shape ({takes}), not {tuple(x.shape)}{hint}")
        dtype = self.conv1.weight.dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise TorchwhyError(f"this network takes {dtype} inputs, not {x.dtype}: convert them with x.to({dtype})")


NETWORKS: dict[str, type[nn.Module]] = {"ConvNet": ConvNet}
"""Name in a checkpoint -> class, called as `NETWORKS[name](input_shape, classes)`."""
