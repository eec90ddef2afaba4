"""Parity with pytorch-grad-cam, where it is installed: equal up to its positive part, min-max scaling and resizing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchwhy as why

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    if find_spec("torchvision") is not None:  # which may be linked to another build of PyTorch
        SHIM = run_path(str(Path(__file__).parents[2] / "benchmarks" / "common" / "any_torchvision.py"))
    peer: Any = pytest.importorskip("pytorch_grad_cam", exc_type=ImportError)
    targets: Any = pytest.importorskip("pytorch_grad_cam.utils.model_targets")

NAMES = {"KPCACAM": "KPCA_CAM"}
SAME = [
    "GradCAM",
    "GradCAMPlusPlus",
    "XGradCAM",
    "HiResCAM",
    "LayerCAM",
    "GradCAMElementWise",
    "EigenCAM",
    "EigenGradCAM",
    "ScoreCAM",
    "AblationCAM",
    "ShapleyCAM",
    "KPCACAM",
]
OPTIONS: dict[str, dict[str, Any]] = {"EigenCAM": {"center": True}, "EigenGradCAM": {"center": True}}
# Projections whose sign pytorch-grad-cam leaves to chance.
OPEN_SIGN = {"EigenCAM", "EigenGradCAM", "KPCACAM"}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    with torch.no_grad():
        net[-1].weight.mul_(200)  # large gradients, beside which its additions to denominators are small
        net[-1].bias.copy_(torch.tensor([30.0, 30, 30, 30, 30]))  # no score is negative, for AblationCAM
    return net.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def scaled(maps: Tensor) -> Tensor:
    """As pytorch-grad-cam scales a map, (B, h, w)."""
    t = maps.relu()[:, 0]
    t = t - t.amin((1, 2), keepdim=True)
    return t / (1e-7 + t.amax((1, 2), keepdim=True))


def theirs(name: str, model: nn.Module, x: Tensor, target: Callable[[int], Any], **options: Any) -> Tensor:
    """At the layer's own resolution: the map as it is before resizing."""
    kind = getattr(peer, NAMES.get(name, name))
    with kind(model, [model[3]]) as cam:
        inner = getattr(cam, "base_cam", cam)
        inner.get_target_width_height = lambda t: (12, 12)
        wanted = None if name == "FinerCAM" else [targets.ClassifierOutputTarget(target(i)) for i in range(len(x))]
        return torch.from_numpy(cam(x, wanted, **options))


@pytest.mark.parametrize("name", SAME)
@pytest.mark.filterwarnings("ignore")
def test_the_same_map(name: str, model: nn.Module, x: Tensor) -> None:
    positive = (model(x) > 0).all(1)
    assert positive.any()
    x = x[positive]
    if name == "ScoreCAM":  # whose softmax would be all or nothing
        with torch.no_grad():
            model[-1].weight.mul_(0.05)
    room = 5e-3 if name == "ScoreCAM" else 2e-3  # its masks have aligned corners, unlike those of the paper's code
    ours = getattr(why, name)(model, at="3", relu_attributions=False, **OPTIONS.get(name, {}))
    known = theirs(name, model, x, lambda i: i)
    values = ours.attribute(x, target=list(range(len(x))))
    forms = [scaled(values), scaled(-values)] if name in OPEN_SIGN else [scaled(values)]
    gaps = torch.stack([(f - known).flatten(1).norm(dim=1) / known.flatten(1).norm(dim=1) for f in forms])
    assert gaps.amin(0).max() < room
    if name not in {"EigenCAM", "KPCACAM"}:
        other = scaled(ours.attribute(x, target=[i + 1 for i in range(len(x))]))
        assert ((other - known).flatten(1).norm(dim=1) > room * known.flatten(1).norm(dim=1)).any()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_finer_cam(model: nn.Module, x: Tensor, alpha: float) -> None:
    known = theirs("FinerCAM", model, x, lambda i: i, alpha=alpha)
    found = scaled(why.FinerCAM(model, at="3", alpha=alpha).attribute(x))
    assert (found - known).norm() < 2e-3 * known.norm()
    assert (scaled(why.GradCAM(model, at="3").attribute(x)) - known).norm() > 2e-3 * known.norm()
