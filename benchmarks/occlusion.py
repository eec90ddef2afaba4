"""Occlusion of ResNet-18 at 224 x 224 by a window of 15 x 15: torchwhy, Captum and bare forward passes.

    python benchmarks/occlusion.py [--quick]

Captum runs at several `perturbations_per_eval`, of which the best counts. `bare` is as many rows through the model, as
it is, in batches of 16. Everybody runs in turn in one process, on one thread and on two. Values must be equal to 1e-4
of the largest, and memory is the rise of resident memory during a run.
"""

from __future__ import annotations

import sys

import torch
from captum import attr as captum
from torch import Tensor, nn

import torchwhy as why
from common import ResNet18, seeded, side_by_side

WINDOW = (3, 15, 15)
TARGET = 3
PER_EVAL = (1, 4, 8, 16)
BATCH = 16


def bare(model: nn.Module, x: Tensor, rows: int) -> None:
    """``rows`` rows through the model."""
    data = x.repeat(BATCH, 1, 1, 1)
    with torch.no_grad():
        for left in range(rows, 0, -BATCH):
            model(data[:left])


def measure(model: nn.Module, x: Tensor, stride: int, rounds: int) -> None:
    """One line of the table."""
    steps = (WINDOW[0], stride, stride)
    ours = why.Occlusion(model, sliding_window_shapes=WINDOW, strides=steps)

    def theirs(per_eval: int) -> Tensor:
        return captum.Occlusion(model).attribute(x, WINDOW, steps, target=TARGET, perturbations_per_eval=per_eval)

    found, values = ours.explain(x, target=TARGET), theirs(PER_EVAL[-1])
    apart = float((found.values - values).abs().max() / values.abs().max())
    assert apart < 1e-4, apart
    windows = found.provenance["windows"]
    times = side_by_side(
        {
            "ours": lambda: ours.attribute(x, target=TARGET),
            **{f"captum {n}": lambda n=n: theirs(n) for n in PER_EVAL},
            "bare": lambda: bare(model, x, windows),
        },
        rounds,
    )
    best = min(PER_EVAL, key=lambda n: times[f"captum {n}"].seconds)
    mine, captums, floor = times["ours"], times[f"captum {best}"], times["bare"]
    print(
        f"{stride:6}{torch.get_num_threads():9}{windows:9}{mine.seconds:9.2f}s{captums.seconds:9.2f}s{best:10}"
        f"{times['captum 1'].seconds:9.2f}s{floor.seconds:9.2f}s{mine.seconds / captums.seconds:11.2f}"
        f"{mine.seconds / floor.seconds:9.2f}{found.provenance['recomputed']:12.2f}{mine.mib:7.0f}{captums.mib:8.0f}"
        f"{apart:10.1e}",
        flush=True,
    )


def main() -> None:
    quick = "--quick" in sys.argv
    model = seeded(ResNet18)
    x = torch.rand(1, 3, 224, 224)
    print(
        f"{'stride':>6}{'threads':>9}{'windows':>9}{'torchwhy':>10}{'captum':>10}{'per eval':>10}{'at 1':>10}"
        f"{'bare':>10}{'to captum':>11}{'to bare':>9}{'recomputed':>12}{'MiB':>7}{'captum':>8}{'apart':>10}"
    )
    threads = torch.get_num_threads()
    for stride in (15,) if quick else (14, 8):
        for count in (2,) if quick else (1, 2):
            torch.set_num_threads(count)
            measure(model, x, stride, 1 if quick else 3)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
