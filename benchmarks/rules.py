"""Rules on operations: torchwhy, Captum and the bare model passes, interleaved in one process.

    python benchmarks/rules.py [--quick]

`bare` is one forward and one backward pass of the rows alone, with parameters that ask for no gradient. Memory is
the rise of resident memory during a run. "same" says whether both give the same values; Captum's are not complete
behind a maximum that falls (`tests/parity/test_captum_rules.py`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import torch
from captum import attr as captum
from torch import Tensor, nn

from common import ResNet18, seeded, side_by_side
from torchwhy.methods.backprop import GuidedBackprop
from torchwhy.methods.deep_lift import DeepLift, DeepLiftShap
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


def main() -> None:
    quick = "--quick" in sys.argv
    warnings.filterwarnings("ignore")  # Captum's, about its hooks
    settings = [("the mission's CNN", ModularConvNet, (1, 12, 12), 16), ("ResNet-18", ResNet18, (3, 224, 224), 1)]
    settings += [
        ("ResNet-18", ResNet18, (3, 224, 224), 16),
        ("VGG-11", VGG11, (3, 224, 224), 1),
        ("VGG-11", VGG11, (3, 224, 224), 16),
    ]
    for title, make, shape, batch in settings[: 2 if quick else None]:
        model = seeded(make).requires_grad_(requires_grad=False)
        x, background = torch.rand(batch, *shape), torch.rand(4, *shape)
        other = torch.rand(batch, *shape)
        contestants: list[tuple[str, Run, Run]] = [
            (
                "DeepLift, zeros",
                lambda m=model, x=x: DeepLift(m).attribute(x, target=0),
                lambda m=model, x=x: captum.DeepLift(m).attribute(x, target=0),
            ),
            (
                "DeepLift, a baseline each",
                lambda m=model, x=x, b=other: DeepLift(m).attribute(x, b, target=0),
                lambda m=model, x=x, b=other: captum.DeepLift(m).attribute(x, b, target=0),
            ),
            (
                "DeepLiftShap, 4 baselines",
                lambda m=model, x=x, b=background: DeepLiftShap(m).attribute(x, b, target=0),
                lambda m=model, x=x, b=background: captum.DeepLiftShap(m).attribute(x, b, target=0),
            ),
            (
                "GuidedBackprop",
                lambda m=model, x=x: GuidedBackprop(m).attribute(x, target=0),
                lambda m=model, x=x: captum.GuidedBackprop(m).attribute(x, target=0),
            ),
        ]
        print(f"\n{title}, batch {batch} ({torch.get_num_threads()} threads)")
        print(
            f"{'':28}{'torchwhy':>11}{'captum':>11}{'bare':>11}{'to captum':>11}{'to bare':>9}{'MiB':>7}{'captum':>8}"
        )
        for name, ours, theirs in contestants:
            if batch > 1 and "Shap" in name and shape[-1] > 100:
                continue
            a, b = ours(), theirs()
            scale = float(b.abs().max())
            same = torch.allclose(a, b, rtol=1e-3, atol=1e-3 * scale)
            found = side_by_side({"ours": ours, "theirs": theirs, "bare": bare(model, x)}, 3 if batch > 1 else 7)
            mine, captums, least = found["ours"], found["theirs"], found["bare"]
            print(
                f"{name:28}{1000 * mine.seconds:9.1f}ms{1000 * captums.seconds:9.1f}ms{1000 * least.seconds:9.1f}ms"
                f"{mine.seconds / captums.seconds:11.2f}{mine.seconds / least.seconds:9.2f}"
                f"{mine.mib:7.0f}{captums.mib:8.0f}{'yes' if same else 'no':>6}"
            )


if __name__ == "__main__":
    main()
