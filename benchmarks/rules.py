"""Rules on operations: torchwhy, Captum or zennit, and the bare model passes, interleaved in one process.

    python benchmarks/rules.py [--quick]

`bare` is one forward and one backward pass of the rows alone, with parameters that ask for no gradient. Memory is
the rise of resident memory during a run. The last column says whether both give the same values; Captum's are not
complete behind a maximum that falls (`tests/parity/test_captum_rules.py`). LRP runs on torchvision's networks, since
zennit knows their residual sums; its time includes finding them and merging batch norms, which it does for each call.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial

import torch
from captum import attr as captum
from torch import Tensor, nn

from common import (
    ResNet18,
    any_torchvision,  # noqa: F401  before a peer is imported
    seeded,
    side_by_side,
)
from torchwhy.methods.backprop import GuidedBackprop
from torchwhy.methods.deep_lift import DeepLift, DeepLiftShap
from torchwhy.methods.lrp import LRP
from torchwhy.networks import ConvNet

Run = Callable[[], Tensor]


class VGG11(nn.Sequential):
    """Simonyan, Zisserman: Very Deep Convolutional Networks, with random weights."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        inside = 3
        for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
            if width:
                layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU()]
                inside = width
            else:
                layers.append(nn.MaxPool2d(2, 2))
        layers += [
            nn.AdaptiveAvgPool2d(7),
            nn.Flatten(),
            nn.Linear(512 * 49, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
        ]
        super().__init__(*layers, nn.Linear(4096, 1000))


class ModularConvNet(nn.Sequential):
    """The mission's network in modules, as Captum needs it."""

    def __init__(self) -> None:
        net = ConvNet()
        super().__init__(net.conv1, nn.ReLU(), net.conv2, nn.ReLU(), nn.Flatten(), net.fc1, nn.ReLU(), net.fc2)


def bare(model: nn.Module, x: Tensor) -> Run:
    def run() -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)[0]

    return run


def zennit_lrp(model: nn.Module, x: Tensor) -> Run:
    from torchvision.models import ResNet
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    canonizer = ResNetCanonizer if isinstance(model, ResNet) else VGGCanonizer

    def run() -> Tensor:
        leaf = x.clone().requires_grad_()
        with EpsilonPlusFlat(canonizers=[canonizer()]).context(model) as modified:
            output = modified(leaf)
            handed = torch.zeros_like(output)
            handed[:, 0] = output[:, 0].detach()
            return torch.autograd.grad(output, leaf, handed)[0]

    return run


def compare(name: str, model: nn.Module, x: Tensor, ours: Run, peer: str, theirs: Run) -> None:
    """One line: both and the bare passes in turn."""
    a, b = ours(), theirs()
    same = torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
    found = side_by_side({"ours": ours, "theirs": theirs, "bare": bare(model, x)}, 3 if len(x) > 1 else 7)
    mine, peers, least = found["ours"], found["theirs"], found["bare"]
    print(
        f"{name:28}{peer:>8}{1000 * mine.seconds:9.1f}ms{1000 * peers.seconds:9.1f}ms{1000 * least.seconds:9.1f}ms"
        f"{mine.seconds / peers.seconds:9.2f}{mine.seconds / least.seconds:9.2f}"
        f"{mine.mib:7.0f}{peers.mib:7.0f}{'yes' if same else 'no':>6}"
    )


def head(title: str, batch: int) -> None:
    columns = f"{'peer':>8}{'torchwhy':>11}{'peer':>11}{'bare':>11}{'to peer':>9}{'to bare':>9}{'MiB':>7}{'peer':>7}"
    print(f"\n{title}, batch {batch} ({torch.get_num_threads()} threads)\n{'':28}{columns}{'same':>6}")


def against_captum(model: nn.Module, shape: tuple[int, ...], batch: int) -> None:
    x, other, background = torch.rand(batch, *shape), torch.rand(batch, *shape), torch.rand(4, *shape)
    compare(
        "DeepLift, zeros",
        model,
        x,
        lambda: DeepLift(model).attribute(x, target=0),
        "captum",
        lambda: captum.DeepLift(model).attribute(x, target=0),
    )
    compare(
        "DeepLift, a baseline each",
        model,
        x,
        lambda: DeepLift(model).attribute(x, other, target=0),
        "captum",
        lambda: captum.DeepLift(model).attribute(x, other, target=0),
    )
    if batch == 1 or shape[-1] < 100:
        compare(
            "DeepLiftShap, 4 baselines",
            model,
            x,
            lambda: DeepLiftShap(model).attribute(x, background, target=0),
            "captum",
            lambda: captum.DeepLiftShap(model).attribute(x, background, target=0),
        )
    compare(
        "GuidedBackprop",
        model,
        x,
        lambda: GuidedBackprop(model).attribute(x, target=0),
        "captum",
        lambda: captum.GuidedBackprop(model).attribute(x, target=0),
    )


def main() -> None:
    from torchvision.models import resnet18, vgg11

    quick = "--quick" in sys.argv
    warnings.filterwarnings("ignore")  # Captum's, about its hooks
    photo = (3, 224, 224)
    settings: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], int]] = [
        ("the mission's CNN", ModularConvNet, (1, 12, 12), 16),
        ("ResNet-18", ResNet18, photo, 1),
        ("ResNet-18", ResNet18, photo, 16),
        ("VGG-11", VGG11, photo, 1),
        ("VGG-11", VGG11, photo, 16),
    ]
    for title, make, shape, batch in settings[: 2 if quick else None]:
        head(title, batch)
        against_captum(seeded(make).requires_grad_(requires_grad=False), shape, batch)
    for title, make in (("torchvision's ResNet-18", resnet18), ("torchvision's VGG-11", vgg11)):
        model = seeded(make).requires_grad_(requires_grad=False)
        for batch in (1,) if quick else (1, 16):
            head(title, batch)
            x = torch.rand(batch, *photo)
            method = LRP(model, composite="epsilon-plus-flat")
            ours = partial(method.attribute, x, target=0)
            compare("LRP, epsilon-plus-flat", model, x, ours, "zennit", zennit_lrp(model, x))


if __name__ == "__main__":
    main()
