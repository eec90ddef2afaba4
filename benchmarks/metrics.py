"""Metrics of faithfulness: how much longer than their bare forward passes they take, and than Quantus.

    python benchmarks/metrics.py [--quick]

64 grey images of 32 x 32 and a small CNN, in seconds of one core.

Metric by metric, both sides remove as many features in about as many steps, or draw as many subsets, without a
normalisation of attributions or a softmax. Left out of Quantus is what it computes otherwise than the paper:
Monotonicity (puts the baseline where the baseline is), Sensitivity-n (sets the attributions of a step beside the fall
over all steps so far) and Sufficiency (another metric of that name). MonotonicityCorrelation and FaithfulnessEstimate
go by patches here, and by the order of the pixels there. Bare passes are as many rows as the metric asks for
(reckoned from 8192 where these are more), at the batch size at which they are fastest.

Panels are beside two sums over the same nine metrics of Quantus: with the settings of the table, and with Quantus's own
defaults, which ask for far more rows, without those that do not end within a minute. The panel of the same nine has
the settings of the table, on patches throughout; that of all metrics of faithfulness has its own, with fewer subsets
and regions, see `torchwhy.metrics.panel.faithfulness_panel`.
"""

from __future__ import annotations

import signal
import sys
import time
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
from torchwhy.engines.masks import superpixels
from torchwhy.metrics import faithfulness_panel, panel

BATCHES = (32, 64, 128)
LEAST_BARE = 8192  # rows that are enough to know what a row takes


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


PLAIN = {"normalise": False, "abs": False, "return_aggregate": False}


def contestants(x: Tensor, runs: int) -> dict[str, tuple[Callable[[], why.metrics.Metric], dict[str, Any]]]:
    """Ours without a model yet, and the options of theirs; 1024 pixels, or 64 patches of 4 x 4."""
    metrics = why.metrics
    return {
        "PixelFlipping": (lambda: metrics.PixelFlipping(positions="elements", n_steps=32), {"features_in_step": 32}),
        "RegionPerturbation": (
            lambda: metrics.RegionPerturbation(positions=4, n_regions=20),
            {"patch_size": 4, "regions_evaluation": 20},
        ),
        "Selectivity": (lambda: metrics.Selectivity(positions=4), {"patch_size": 4}),
        # Theirs asks for about 100 superpixels.
        "IROF": (lambda: metrics.IROF(positions=superpixels(x, n_segments=100)), {}),
        "ROAD": (metrics.ROAD, {"percentages": list(range(10, 100, 10))}),
        "FaithfulnessCorrelation": (
            lambda: metrics.FaithfulnessCorrelation(positions="elements", share=224 / 1024, n_subsets=runs),
            {"nr_runs": runs, "subset_size": 224},
        ),
        "FaithfulnessEstimate": (lambda: metrics.FaithfulnessEstimate(positions=4), {"features_in_step": 16}),
        "MonotonicityCorrelation": (
            lambda: metrics.MonotonicityCorrelation(positions=4, fill=Noise(n_draws=10)),
            {"nr_samples": 10, "features_in_step": 16},
        ),
        "Infidelity": (
            lambda: metrics.Infidelity(positions=4, n_subsets=64),
            {"perturb_patch_sizes": [4], "n_perturb_samples": 1},
        ),
    }


def seconds_of(run: Callable[[], object], limit: int) -> float | None:
    """Seconds of the processor, None where it takes longer than the limit."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit)
    began = time.process_time()
    try:
        run()
    except TimeoutError:
        return None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return time.process_time() - began


def main() -> None:
    import quantus

    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # noqa: NPY201  Quantus 0.6 calls it as it was called before NumPy 2
    torch.set_num_threads(1)
    quick = "--quick" in sys.argv
    warnings.filterwarnings("ignore")  # the peer's own
    model = seeded(small_cnn)
    count, rounds, runs, limit = (8, 1, 20, 10) if quick else (64, 2, 100, 60)
    noise = torch.randn(count, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    x = avg_pool2d(noise, 9, 1)[..., :32, :32] * 9  # smooth, so that there are superpixels
    target = model(x).argmax(1)
    values = why.IntegratedGradients(model).attribute(x, target=target)
    counter = Counter(model)

    def theirs(name: str, options: dict[str, Any]) -> Callable[[], object]:
        metric = getattr(quantus, name)(disable_warnings=True, **options)
        given = {"x_batch": x.numpy(), "y_batch": target.numpy(), "device": "cpu", "channel_first": True}
        # Theirs removes in one order, ours in both.
        orders = [values, -values] if name == "ROAD" else [values]
        return lambda: [
            metric(model=model, **given, a_batch=order.numpy(), softmax=False, batch_size=64) for order in orders
        ]

    def ours(make: Callable[[], why.metrics.Metric]) -> Callable[[], object]:
        return lambda: make().with_options(model=model).score(values, x, target=target)

    print(f"{count} images; seconds of one core, rows asked for\n")
    print(f"{'':26}{'torchwhy':>18}{'bare':>9}{'ratio':>7}{'Quantus':>18}{'of it':>7}")
    both = contestants(x, runs)
    matched: dict[str, float] = {}
    for name, (make, options) in both.items():
        rivals = {"ours": ours(make), "theirs": theirs(name, PLAIN | options)}
        rows = {side: counter.of(run) for side, run in rivals.items()}
        few = min(rows["ours"], LEAST_BARE)
        passes = {f"bare {size}": bare(model, x, few, size) for size in BATCHES}
        found = side_by_side(rivals | passes, rounds, time.process_time)
        seconds = {side: measured.seconds for side, measured in found.items()}
        fastest = min(seconds[size] for size in passes) * rows["ours"] / few
        matched[name] = seconds["theirs"]
        print(
            f"{name:26}{seconds['ours']:9.2f}{rows['ours']:9}{fastest:9.2f}{seconds['ours'] / fastest:7.2f}"
            f"{seconds['theirs']:9.2f}{rows['theirs']:9}{seconds['ours'] / seconds['theirs']:7.2f}",
            flush=True,
        )

    print(f"\nQuantus with its own defaults, at most {limit} s each")
    defaults = {name: seconds_of(theirs(name, {}), limit) for name in both}
    for name, taken in defaults.items():
        print(f"{name:26}" + (f"{'longer':>9}" if taken is None else f"{taken:9.2f}"))
    ended = sum(taken for taken in defaults.values() if taken is not None)

    def same() -> object:
        judges = [make().with_options(model=model) for make, _ in both.values()]
        return panel([m.with_options(**_on_patches(m)) for m in judges], values, x, target=target)

    def every() -> object:
        return faithfulness_panel(model, values, x, target=target, positions=4)

    count_of = {"these": len(both), "all": len(faithfulness_panel(model, values[:1], x[:1], positions=4))}
    panels = {f"these {count_of['these']}, same settings": same, f"all {count_of['all']}, own settings": every}
    print(f"\n{'as one panel':26}{'torchwhy':>18}{'as the table':>16}{'of it':>7}{'by default':>14}{'of it':>7}")
    for name, measured in side_by_side(panels, rounds, time.process_time).items():
        total = sum(matched.values())
        print(
            f"{name:26}{measured.seconds:9.2f}{counter.of(panels[name]):9}{total:16.2f}{measured.seconds / total:7.2f}"
            f"{ended:14.2f}{measured.seconds / ended:7.2f}"
        )
    print("Quantus: sums over the metrics of the table; by default, of those that ended.")


def _on_patches(metric: why.metrics.Metric) -> dict[str, Any]:
    """Positions that all share; superpixels, and the pixels that are imputed, stay."""
    return {} if isinstance(metric, why.metrics.IROF | why.metrics.ROAD) else {"positions": 4}


if __name__ == "__main__":
    main()
