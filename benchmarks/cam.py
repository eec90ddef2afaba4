"""Class activation maps: torchwhy, pytorch-grad-cam and Captum, interleaved in one process.

    python benchmarks/cam.py [--quick]

On ResNet-18 with random weights, at its last block. Before anything is timed the maps are compared: Captum's as they
are, those of pytorch-grad-cam after the same positive part, min-max scaling to [0, 1] and resizing that it applies to
every image. `most` is the share of a peer's time that is wanted. Rows are examples and changed copies that reach the
model, or, as "+", what stands behind the layer. Memory is the rise of resident memory during a run. A peer that is not
installed is left out.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import torchwhy as why
from common import Counter, ResNet18, seeded, side_by_side

Run = Callable[[], Any]


@dataclass
class Case:
    name: str
    ours: why.Method
    peers: dict[str, Run]  # by name
    most: dict[str, float]  # share of the peer's time
    x: Tensor


def scaled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, 1, h, w) as pytorch-grad-cam shows them, (B, H, W)."""

    def to_one(t: Tensor) -> Tensor:
        t = t - t.amin((2, 3), keepdim=True)
        return t / (1e-7 + t.amax((2, 3), keepdim=True))

    return to_one(interpolate(to_one(maps.relu()), size, mode="bilinear"))[:, 0]


def grad_cam(name: str, model: nn.Module, layer: nn.Module, x: Tensor) -> Run:
    """A method of pytorch-grad-cam, made anew for each run, since it leaves its hooks in the model."""
    from common import any_torchvision  # noqa: F401  lets its torchvision load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def run() -> Tensor:
        quiet = contextlib.redirect_stderr(io.StringIO())  # its progress bars
        with quiet, getattr(pytorch_grad_cam, name)(model, [layer]) as cam:
            return torch.from_numpy(cam(x, [ClassifierOutputTarget(0)] * len(x)))

    return run


def captum_cam(model: nn.Module, layer: nn.Module, x: Tensor) -> Run:
    from captum.attr import LayerGradCam

    return lambda: LayerGradCam(model, layer).attribute(x, target=0).detach()


def cases(model: nn.Module, layer: str, quick: bool) -> list[Case]:
    many = torch.rand(4, 3, 224, 224)
    small, one = (torch.rand(1, 3, side, side) for side in ((64, 64) if quick else (112, 160)))
    module = model.get_submodule(layer)
    found = [
        Case("GradCAM", why.GradCAM(model, at=layer), {}, {"grad-cam": 1 / 3, "captum": 0.8}, many),
        Case("AblationCAM", why.AblationCAM(model, at=layer), {}, {"grad-cam": 1 / 20}, small),
        Case("ScoreCAM", why.ScoreCAM(model, at=layer), {}, {"grad-cam": 0.8}, one),
    ]
    for case in found:
        if find_spec("pytorch_grad_cam") is not None:
            case.peers["grad-cam"] = grad_cam(case.name, model, module, case.x)
        if case.name == "GradCAM" and find_spec("captum") is not None:
            case.peers["captum"] = captum_cam(model, module, case.x)
    return found


def same(case: Case) -> None:
    """Equal maps, or an error."""
    ours = case.ours.attribute(case.x, target=0)
    assert isinstance(ours, Tensor)
    size = (case.x.shape[2], case.x.shape[3])
    for name, run in case.peers.items():
        shown = ours if name == "captum" else scaled(ours, size)
        theirs = run()
        assert (shown - theirs).norm() < 1e-3 * theirs.norm(), (case.name, name)


def main() -> None:
    quick = "--quick" in sys.argv
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    layer = "layers.3"
    model = seeded(ResNet18)
    print(f"ResNet-18 at {layer} ({torch.get_num_threads()} threads)")
    print(
        f"{'':14}{'peer':>10}{'torchwhy':>12}{'theirs':>12}{'ratio':>8}{'most':>7}{'rows':>8}{'theirs':>8}{'MiB':>7}{'theirs':>8}"
    )
    late = []
    for case in cases(model, layer, quick):
        same(case)
        runs: dict[str, Run] = {"ours": lambda case=case: case.ours.attribute(case.x, target=0), **case.peers}
        found = side_by_side(runs, 1 if quick and case.name != "GradCAM" else 3 if case.name != "GradCAM" else 9)
        rows = case.ours.explain(case.x, target=0).provenance["forward_rows"]
        for name, run in case.peers.items():
            counter = Counter(model)
            theirs = counter.of(run)
            counter.remove()
            a, c = found["ours"], found[name]
            ratio, most = a.seconds / c.seconds, case.most[name]
            late += [f"{case.name} to {name}: {ratio:.3f}, at most {most:.3f}"] if ratio > most and not quick else []
            print(
                f"{case.name:14}{name:>10}{1000 * a.seconds:10.1f}ms{1000 * c.seconds:10.1f}ms{ratio:8.3f}{most:7.2f}"
                f"{rows:8}{theirs:8}{a.mib:7.0f}{c.mib:8.0f}"
            )
        if not case.peers:
            a = found["ours"]
            print(f"{case.name:14}{'-':>10}{1000 * a.seconds:10.1f}ms{'':>35}{rows:8}{'':>8}{a.mib:7.0f}")
    if late:
        print("slower than wanted: " + "; ".join(late))


if __name__ == "__main__":
    main()
