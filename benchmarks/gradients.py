"""Gradient and perturbation methods: torchwhy, Captum and the bare model passes, interleaved in one process.

    python benchmarks/gradients.py [--quick]

`bare` is the least that the method can cost: the same rows through the model, forward and backward, in batches of the
best of a few sizes, with parameters that ask for no gradient. Memory is the rise of resident memory during a run.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum import attr as captum
from torch import Tensor, nn

import torchwhy as why
from common import Counter, ResNet18, seeded, side_by_side
from torchwhy.networks import ConvNet

Run = Callable[[], object]


@dataclass
class Case:
    name: str
    ours: Run
    theirs: Run
    rows: int  # that the method needs
    gradients: bool
    exact: bool = True


def bare(model: nn.Module, x: Tensor, rows: int, gradients: bool, batch: int) -> Run:
    """``rows`` rows through the model in batches."""
    data = x.repeat(-(-batch // len(x)), 1, 1, 1)[:batch]

    def run() -> None:
        left = rows
        while left > 0:
            part = data[: min(left, batch)].clone()
            left -= len(part)
            if gradients:
                part.requires_grad_()
                torch.autograd.grad(model(part)[:, 0].sum(), part)
            else:
                with torch.no_grad():
                    model(part)

    return run


def cases(model: nn.Module, x: Tensor, layer: str, window: int, stride: int, per_eval: int) -> list[Case]:
    b, channels = len(x), x.shape[1]
    module = model.get_submodule(layer)
    shape, steps = (channels, window, window), (channels, stride, stride)
    positions = (-(-(x.shape[2] - window) // stride) + 1) ** 2
    background = torch.rand(20, *x.shape[1:])
    every: dict[str, Any] = {"target": 0}
    return [
        Case(
            "Saliency",
            lambda: why.Saliency(model).attribute(x, **every),
            lambda: captum.Saliency(model).attribute(x, **every),
            b,
            True,
        ),
        Case(
            "IntegratedGradients",
            lambda: why.IntegratedGradients(model, n_steps=50).attribute(x, **every),
            lambda: captum.IntegratedGradients(model).attribute(x, n_steps=50, internal_batch_size=per_eval, **every),
            50 * b,
            True,
        ),
        Case(
            f"GradCAM at {layer}",
            lambda: why.GradCAM(model, at=layer).attribute(x, **every),
            lambda: captum.LayerGradCam(model, module).attribute(x, **every),
            b,
            True,
        ),
        Case(
            "SmoothGrad",
            lambda: why.SmoothGrad(model, n_samples=50, stdevs=0.1).attribute(x, **every),
            lambda: captum.NoiseTunnel(captum.Saliency(model)).attribute(
                x, nt_samples=50, stdevs=0.1, abs=False, nt_samples_batch_size=max(1, per_eval // b), **every
            ),
            50 * b,
            True,
            exact=False,
        ),
        Case(
            "GradientShap",
            lambda: why.GradientShap(model, n_samples=50).attribute(x, background, **every),
            lambda: captum.GradientShap(model).attribute(x, background, n_samples=50, **every),
            50 * b,
            True,
            exact=False,
        ),
        Case(
            "Occlusion",
            lambda: why.Occlusion(model, sliding_window_shapes=shape, strides=steps).attribute(x, **every),
            lambda: captum.Occlusion(model).attribute(
                x, shape, strides=steps, perturbations_per_eval=max(1, per_eval // b), **every
            ),
            positions * b,
            False,
        ),
    ]


def main() -> None:
    quick = "--quick" in sys.argv
    warnings.filterwarnings("ignore")  # Captum's, about inputs that it sets to require gradients
    torch.manual_seed(0)
    settings = [
        (
            "the mission's CNN, 16 digits",
            seeded(ConvNet),
            torch.rand(16, 1, 12, 12),
            "conv2",
            3,
            1,
            (64, 256, 1024),
            256,
        ),
        (
            "ResNet-18, 4 images of 224 x 224",
            seeded(ResNet18),
            torch.rand(4, 3, 224, 224),
            "layers.3",
            32,
            32,
            (4, 8, 16),
            8,
        ),
    ]
    for title, model, x, layer, window, stride, batches, per_eval in settings[: 1 if quick else 2]:
        counter = Counter(model)
        print(f"\n{title} ({torch.get_num_threads()} threads)")
        print(
            f"{'':22}{'torchwhy':>10}{'captum':>10}{'bare':>10}{'to captum':>11}{'to bare':>9}"
            f"{'rows':>8}{'captum':>8}{'MiB':>7}{'captum':>8}"
        )
        for case in cases(model, x, layer, window, stride, per_eval):
            if case.exact:
                ours, theirs = case.ours(), case.theirs()
                assert isinstance(ours, Tensor)
                # In L2: at a kink of the network, rounding may decide for either slope.
                assert (ours - theirs).norm() < 1e-3 * theirs.norm(), case.name
            floors = {f"bare {n}": bare(model, x, case.rows, case.gradients, n) for n in batches}
            found = side_by_side({"ours": case.ours, "theirs": case.theirs, **floors}, 3 if x.shape[-1] > 100 else 9)
            floor = min(found[name].seconds for name in floors)
            a, c = found["ours"], found["theirs"]
            print(
                f"{case.name:22}{1000 * a.seconds:8.1f}ms{1000 * c.seconds:8.1f}ms{1000 * floor:8.1f}ms"
                f"{a.seconds / c.seconds:11.2f}{a.seconds / floor:9.2f}"
                f"{counter.of(case.ours):8}{counter.of(case.theirs):8}{a.mib:7.0f}{c.mib:8.0f}"
            )


if __name__ == "__main__":
    main()
