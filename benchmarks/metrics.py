"""Metrics of faithfulness: how much longer than their bare forward passes they take, and than Quantus.

    python benchmarks/metrics.py [--quick]

64 grey images of 32 x 32 and a small CNN. Both sides remove as many features in about as many steps, or draw as many
subsets, without a normalisation of attributions or a softmax. Left out of Quantus is what it computes otherwise than
the paper: Monotonicity (puts the baseline where the baseline is), Sensitivity-n (sets the attributions of a step beside
the fall over all steps so far) and Sufficiency (another metric of that name). MonotonicityCorrelation and
FaithfulnessEstimate go by patches here, and by the order of the pixels there.
Bare passes are as many rows as the metric asks for, at the batch size at which they are fastest.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import torchwhy as why
from common import (
    Counter,
    any_torchvision,  # noqa: F401  before the peer is imported
    seeded,
    side_by_side,
)
from torchwhy.engines.fills import Noise
from torchwhy.metrics import faithfulness_panel, panel

BATCHES = (32, 64, 128)


def small_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for inside, outside in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10))


def bare(model: nn.Module, x: Tensor, rows: int, size: int) -> Callable[[], object]:
    """So many rows in passes of a size."""
    batch = x.repeat(-(-size // len(x)), 1, 1, 1)[:size]

    @torch.no_grad()
    def run() -> None:
        for start in range(0, rows, size):
            model(batch[: rows - start])

    return run


def contestants(quick: bool) -> dict[str, tuple[why.metrics.Metric, Any]]:
    """Ours without a model yet, and theirs; 1024 pixels, or 64 patches of 4 x 4."""
    import quantus

    runs = 20 if quick else 100
    metrics = why.metrics
    plain = {"normalise": False, "abs": False, "disable_warnings": True, "return_aggregate": False}
    return {
        "PixelFlipping": (
            metrics.PixelFlipping(positions="elements", n_steps=32),
            quantus.PixelFlipping(features_in_step=32, **plain),
        ),
        "RegionPerturbation": (
            metrics.RegionPerturbation(positions=4, n_regions=20),
            quantus.RegionPerturbation(patch_size=4, regions_evaluation=20, **plain),
        ),
        "Selectivity": (metrics.Selectivity(positions=4), quantus.Selectivity(patch_size=4, **plain)),
        "IROF": (metrics.IROF(), quantus.IROF(**plain)),
        "ROAD": (metrics.ROAD(), quantus.ROAD(percentages=list(range(10, 100, 10)), **plain)),
        "FaithfulnessCorrelation": (
            metrics.FaithfulnessCorrelation(positions="elements", share=224 / 1024, n_subsets=runs),
            quantus.FaithfulnessCorrelation(nr_runs=runs, subset_size=224, **plain),
        ),
        "FaithfulnessEstimate": (
            metrics.FaithfulnessEstimate(positions=4),
            quantus.FaithfulnessEstimate(features_in_step=16, **plain),
        ),
        "MonotonicityCorrelation": (
            metrics.MonotonicityCorrelation(positions=4, fill=Noise(n_draws=10)),
            quantus.MonotonicityCorrelation(nr_samples=10, features_in_step=16, **plain),
        ),
        "Infidelity": (
            metrics.Infidelity(positions=4, n_subsets=64),
            quantus.Infidelity(perturb_patch_sizes=[4], n_perturb_samples=1, **plain),
        ),
    }


def main() -> None:
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # noqa: NPY201  Quantus 0.6 calls it as it was called before NumPy 2
    quick = "--quick" in sys.argv
    warnings.filterwarnings("ignore")  # the peer's own
    model = seeded(small_cnn)
    count, rounds = (8, 1) if quick else (64, 3)
    noise = torch.randn(count, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    x = avg_pool2d(noise, 9, 1)[..., :32, :32] * 9  # smooth, so that there are superpixels
    target = model(x).argmax(1)
    values = why.IntegratedGradients(model).attribute(x, target=target)
    counter = Counter(model)
    given = {"x_batch": x.numpy(), "y_batch": target.numpy()}

    def theirs(metric: Any) -> Callable[[], object]:
        options = {"device": "cpu", "softmax": False, "channel_first": True, "batch_size": 64}
        # Theirs removes in one order, ours in both.
        orders = [values, -values] if metric.__class__.__name__ == "ROAD" else [values]
        return lambda: [metric(model=model, **given, a_batch=order.numpy(), **options) for order in orders]

    def ours(metric: why.metrics.Metric) -> Callable[[], object]:
        return lambda: metric.with_options(model=model).score(values, x, target=target)

    print(f"{count} images; seconds, rows asked for\n{'':26}{'torchwhy':>18}{'bare':>9}{'ratio':>7}{'Quantus':>18}")
    total = 0.0
    for name, (metric, peer) in contestants(quick).items():
        rivals = {"ours": ours(metric), "theirs": theirs(peer)}
        rows = {side: counter.of(run) for side, run in rivals.items()}
        passes = {f"bare {size}": bare(model, x, rows["ours"], size) for size in BATCHES}
        seconds = {side: found.seconds for side, found in side_by_side(rivals | passes, rounds).items()}
        fastest = min(seconds[name] for name in passes)
        total += seconds["theirs"]
        print(
            f"{name:26}{seconds['ours']:9.2f}{rows['ours']:9}{fastest:9.2f}{seconds['ours'] / fastest:7.2f}"
            f"{seconds['theirs']:9.2f}{rows['theirs']:9}",
            flush=True,
        )

    options = {"positions": 4, "n_subsets": 20 if quick else 100}
    judges = [metric.with_options(model=model, **_known(metric, options)) for metric, _ in contestants(quick).values()]
    panels = {
        "the same as one panel": lambda: panel(judges, values, x, target=target),
        "all that there are": lambda: faithfulness_panel(model, values, x, target=target, **options),
    }
    for name, found in side_by_side(panels, rounds).items():
        print(f"{name:26}{found.seconds:9.2f}{counter.of(panels[name]):9}{'':16}{total:9.2f}  sum of the above")


def _known(metric: why.metrics.Metric, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that a metric has; superpixels and the fill of a metric stay."""
    return {k: v for k, v in options.items() if k in metric.options() and not isinstance(metric, why.metrics.IROF)}


if __name__ == "__main__":
    main()
