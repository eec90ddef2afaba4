"""What a call costs beside the model: torchwhy and Captum on a network so small that little else is left.

    python benchmarks/overhead.py [--repeats 15] [--calls 10] [--seed 0] [--only Saliency LRP]

On `torchwhy.networks.ConvNet` (12 x 12 pixels) with random weights, at equal settings, called as a user calls them, in
one process and interleaved. Milliseconds are those of the processor in one thread, whatever else the machine has to do:
the median of the repeats and, since noise only adds, the least of them. `more` is by how much torchwhy's least is above
Captum's. Where both compute the same number, it is compared before anything is timed.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum import attr as captum
from torch import Tensor, nn

import torchwhy as why
from common import seeded, side_by_side
from torchwhy.networks import ConvNet

Run = Callable[[], Any]
TARGET = 3


@dataclass
class Case:
    name: str
    ours: Run
    theirs: Run
    exact: bool = True  # not drawn at random


def cases(model: nn.Module, x: Tensor) -> list[Case]:
    rows = torch.arange(12).repeat_interleave(12).view(1, 1, 12, 12)  # every row of pixels is a feature
    one, background = x[:1], torch.zeros(4, *x.shape[1:])
    every: dict[str, Any] = {"target": TARGET}
    masked = every | {"feature_mask": rows}
    patch, noise = (1, 3, 3), {"nt_samples": 20, "stdevs": 0.1}
    layer = model.get_submodule("conv2")
    return [
        Case(
            "Saliency",
            lambda: why.Saliency(model).attribute(x, **every),
            lambda: captum.Saliency(model).attribute(x, **every),
        ),
        Case(
            "InputXGradient",
            lambda: why.InputXGradient(model).attribute(x, **every),
            lambda: captum.InputXGradient(model).attribute(x, **every),
        ),
        Case(
            "GradCAM",
            lambda: why.GradCAM(model, at="conv2").attribute(x, **every),
            lambda: captum.LayerGradCam(model, layer).attribute(x, **every),
        ),
        Case(
            "IntegratedGradients",
            lambda: why.IntegratedGradients(model, n_steps=50).attribute(x, **every),
            lambda: captum.IntegratedGradients(model).attribute(x, n_steps=50, **every),
        ),
        # The network's ReLUs are functions, which Captum does not see: its numbers are gradients, and only the time
        # is compared.
        Case(
            "DeepLift",
            lambda: why.DeepLift(model).attribute(x, **every),
            lambda: captum.DeepLift(model).attribute(x, **every),
            exact=False,
        ),
        Case(
            "LRP",
            lambda: why.LRP(model).attribute(x, **every),
            lambda: captum.LRP(model).attribute(x, **every),
            exact=False,
        ),
        Case(
            "NoiseTunnel",
            lambda: why.NoiseTunnel(why.Saliency(model), **noise).attribute(x, **every),
            lambda: captum.NoiseTunnel(captum.Saliency(model)).attribute(x, **noise, **every),
            exact=False,
        ),
        Case(
            "GradientShap",
            lambda: why.GradientShap(model, n_samples=20).attribute(x, background, **every),
            lambda: captum.GradientShap(model).attribute(x, background, n_samples=20, **every),
            exact=False,
        ),
        Case(
            "Occlusion",
            lambda: why.Occlusion(model, sliding_window_shapes=patch, strides=patch).attribute(x, **every),
            lambda: captum.Occlusion(model).attribute(x, patch, strides=patch, **every),
        ),
        Case(
            "FeatureAblation",
            lambda: why.FeatureAblation(model).attribute(x, **masked),
            lambda: captum.FeatureAblation(model).attribute(x, **masked),
        ),
        Case(
            "KernelShap, 1 row",
            lambda: why.KernelShap(model, n_samples=50).attribute(one, **masked),
            lambda: captum.KernelShap(model).attribute(one, n_samples=50, **masked),
            exact=False,
        ),
        Case(
            "ShapleyValueSampling",
            lambda: why.ShapleyValueSampling(model, n_samples=25).attribute(x, **masked),
            lambda: captum.ShapleyValueSampling(model).attribute(x, n_samples=25, **masked),
            exact=False,
        ),
    ]


def again(run: Run, calls: int) -> Run:
    """So many calls, one after the other."""

    def runs() -> None:
        for _ in range(calls):
            run()

    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description="What a call costs beside the model.")
    parser.add_argument("--repeats", type=int, default=15, help="of each measurement, interleaved")
    parser.add_argument("--calls", type=int, default=10, help="per measurement")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--only", nargs="*", help="methods to measure, by the beginnings of their names")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # Captum's, about inputs that it sets to require gradients
    torch.set_num_threads(1)
    model = seeded(ConvNet)
    for batch in (1, 32):
        x = torch.rand(batch, 1, 12, 12, generator=torch.Generator().manual_seed(given.seed))
        print(f"\nConvNet, batch {batch}")
        print(f"{'':22}{'torchwhy':>11}{'captum':>11}{'ratio':>8}{'least':>11}{'captum':>11}{'ratio':>8}{'more':>11}")
        for case in cases(model, x):
            if given.only and not case.name.startswith(tuple(given.only)):
                continue
            if case.exact:
                ours, theirs = case.ours(), case.theirs()
                # In L2: at a kink of the network, rounding may decide for either slope.
                assert (ours - theirs).norm() < 1e-3 * theirs.norm(), case.name
            runs = {"ours": again(case.ours, given.calls), "theirs": again(case.theirs, given.calls)}
            found = side_by_side(runs, given.repeats, time.process_time)
            a, c = found["ours"], found["theirs"]
            ms = 1000 / given.calls
            print(
                f"{case.name:22}{ms * a.seconds:9.2f}ms{ms * c.seconds:9.2f}ms{a.seconds / c.seconds:8.2f}"
                f"{ms * a.best:9.2f}ms{ms * c.best:9.2f}ms{a.best / c.best:8.2f}{ms * (a.best - c.best):+9.2f}ms"
            )


if __name__ == "__main__":
    main()
