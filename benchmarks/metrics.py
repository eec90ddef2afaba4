"""Metrics: how much longer than their bare passes they take, and than Quantus, and whether they give the same.

    python benchmarks/metrics.py [--quick] [--only MPRT ROAD]

64 grey images of 32 x 32 and a small CNN, in seconds of one core: the best, and after it the median, of rounds in which
everybody runs in turn.

Both sides remove as many features in as many steps, draw as many subsets or noisy copies, and explain as often, by the
gradient times the input. "Bare" are as many rows as ours asks for, with a backward pass where it takes gradients, at
the batch size at which they are fastest (reckoned from 2048 where these are more). "Differ by" is the largest
difference of the numbers of both sides on a few images, with the same draws and the same randomised weights, as a share
of the largest number; what stands there in words says why there is none.

Left out of Quantus is what it computes otherwise than the paper: Monotonicity (puts the baseline where the baseline
is), Sensitivity-n (sets the attributions of a step beside the fall over all steps so far), Sufficiency (another metric
of that name), Consistency (compares the signs of the first five pixels, and examples that happen to share a batch),
Completeness (asks floating-point numbers to be equal to the last bit) and Input Invariance (takes the smallest response
of the first layer for that of every place, which padding makes wrong).

Panels are beside two sums over the same nine metrics of Quantus: with the settings of the table, and, unless --quick,
with Quantus's own defaults, which ask for far more rows, without those that do not end within a minute. The panel of
the same nine has the settings of the table, on patches throughout; that of all metrics of faithfulness has its own,
with fewer subsets and regions, see `torchwhy.metrics.panel.faithfulness_panel`.
"""

from __future__ import annotations

import argparse
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import torchwhy as why
from common import (
    Counter,
    Measured,
    any_torchvision,  # noqa: F401  before the peer is imported
    duels,
    seeded,
    side_by_side,
)
from common.duels import Duel, Question
from torchwhy import metrics
from torchwhy.engines.fills import Noise
from torchwhy.engines.masks import superpixels
from torchwhy.metrics import faithfulness_panel, panel

BATCHES = (32, 64, 128)
LEAST_BARE = 2048  # rows that are enough to know what a row takes
LEAST = 1e-30  # of what theirs divides by: all that is not 0
LIMIT = 60  # seconds for a metric with Quantus's own defaults


def in_order(q: Question, step: int = 16) -> Tensor:
    """Positions of so many pixels with neighbouring ranks, as theirs takes them."""
    ranks = q.values.flatten(1).argsort(1, descending=True).argsort(1)
    return ranks.view(q.x.shape) // step


def faithfulness(runs: int, draws: int) -> dict[str, Duel]:
    """1024 pixels, or 64 positions of 16."""
    black = {"perturb_baseline": 0.0}
    return {
        "PixelFlipping": Duel(
            lambda q: metrics.PixelFlipping(positions="elements", n_steps=32),
            "PixelFlipping",
            black | {"features_in_step": 32},
            same=duels.curve,
        ),
        "RegionPerturbation": Duel(
            lambda q: metrics.RegionPerturbation(positions=4, n_regions=20),
            "RegionPerturbation",
            black | {"patch_size": 4, "regions_evaluation": 20},
            same=duels.falls,
        ),
        "Selectivity": Duel(
            lambda q: metrics.Selectivity(positions=4), "Selectivity", black | {"patch_size": 4}, same=duels.curve
        ),
        "IROF": Duel(  # theirs asks for about 100 superpixels
            lambda q: metrics.IROF(positions=superpixels(q.x, n_segments=100), fill="baseline"),
            "IROF",
            black,
            same=duels.over_curve,
        ),
        "ROAD": Duel(
            lambda q: metrics.ROAD(),
            "ROAD",
            {"percentages": list(range(10, 100, 10))},
            signs=(1, -1),
            same=duels.imputation,
            note="the imputed pixels; then theirs counts predictions, ours takes scores",
        ),
        "FaithfulnessCorrelation": Duel(
            lambda q: metrics.FaithfulnessCorrelation(positions="elements", share=224 / 1024, n_subsets=runs),
            "FaithfulnessCorrelation",
            black | {"nr_runs": runs, "subset_size": 224},
            same=duels.same_subsets,
        ),
        "FaithfulnessEstimate": Duel(
            lambda q: metrics.FaithfulnessEstimate(positions=in_order(q)),
            "FaithfulnessEstimate",
            black | {"features_in_step": 16},
            same=duels.value,
        ),
        "MonotonicityCorrelation": Duel(
            lambda q: metrics.MonotonicityCorrelation(positions=in_order(q), fill=Noise(n_draws=draws)),
            "MonotonicityCorrelation",
            {"nr_samples": draws, "features_in_step": 16},
            note="draws its own noise",
        ),
        "Infidelity": Duel(
            lambda q: metrics.Infidelity(positions=4, n_subsets=64, share=224 / 1024),
            "Infidelity",
            black | {"perturb_patch_sizes": [4], "n_perturb_samples": 1},
            same=duels.same_patches,
            note="with our subsets; its own are the first patches, one more each time",
        ),
    }


def robustness(samples: int) -> dict[str, Duel]:
    """So many noisy copies; copies of another class count nowhere, or everywhere where a metric does not look."""
    noise = {"lower_bound": 0.02}
    looks = {"nr_samples": samples, "perturb_func_kwargs": noise}
    return {
        "MaxSensitivity": Duel(
            lambda q: metrics.MaxSensitivity(n_samples=samples, relative=True),
            "MaxSensitivity",
            noise | {"nr_samples": samples},
            same=duels.same_noise,
        ),
        "AvgSensitivity": Duel(
            lambda q: metrics.AvgSensitivity(n_samples=samples, relative=True),
            "AvgSensitivity",
            noise | {"nr_samples": samples},
            same=duels.same_noise,
        ),
        "LocalLipschitzEstimate": Duel(
            lambda q: metrics.LocalLipschitzEstimate(n_samples=samples, perturbation="normal", radius=0.1),
            "LocalLipschitzEstimate",
            {"nr_samples": samples, "perturb_std": 0.1},
            same=duels.same_noise,
        ),
        "RelativeInputStability": Duel(
            lambda q: metrics.RelativeInputStability(n_samples=samples, least=LEAST),
            "RelativeInputStability",
            looks,
            same=duels.same_noise,
        ),
        "RelativeOutputStability": Duel(
            lambda q: metrics.RelativeOutputStability(n_samples=samples, least=LEAST),
            "RelativeOutputStability",
            looks,
            same=duels.same_noise,
        ),
        "RelativeRepresentationStability": Duel(
            lambda q: metrics.RelativeRepresentationStability(n_samples=samples, least=LEAST, layer="11"),
            "RelativeRepresentationStability",
            looks | {"layer_names": ["11"]},
            same=duels.same_noise,
        ),
        "Continuity": Duel(
            lambda q: metrics.Continuity(n_steps=28),
            "Continuity",
            {"nr_steps": 28},
            note="compares with the input, ours with the step before, as the paper's pairs of neighbours",
        ),
        "Consistency": Duel(lambda q: metrics.Consistency(n_samples=samples), note="computes something else"),
    }


def randomisation(samples: int) -> dict[str, Duel]:
    """All five layers."""
    return {
        "MPRT": Duel(lambda q: metrics.MPRT(), "MPRT", same=duels.layers),
        "MPRT, ssim": Duel(
            lambda q: metrics.MPRT(similarity="ssim"),
            "MPRT",
            {"similarity_func": duels.ssim_of_lines},
            note="of lines of pixels",
        ),
        "SmoothMPRT": Duel(
            lambda q: metrics.SmoothMPRT(n_samples=samples, order="bottom_up"),
            "SmoothMPRT",
            {"nr_samples": samples},
            note="draws other noise for every model",
        ),
        "EfficientMPRT": Duel(lambda q: metrics.EfficientMPRT(n_draws=1), "EfficientMPRT", same=duels.value),
        "RandomLogit": Duel(
            lambda q: metrics.RandomLogit(),
            "RandomLogit",
            {"num_classes": 10, "similarity_func": duels.similarity_func.correlation_spearman},
            note="draws other classes",
        ),
    }


def maps() -> dict[str, Duel]:
    """Attributions alone, and marks: no passes."""
    sizes = {"abs": True}
    localised = {
        "PointingGame": (metrics.PointingGame, {}, duels.value),
        "AUC": (metrics.AUC, {}, duels.value),
        "TopKIntersection": (lambda: metrics.TopKIntersection(k=100), {"k": 100}, duels.value),
        "RelevanceRankAccuracy": (metrics.RelevanceRankAccuracy, {}, duels.value),
        "RelevanceMassAccuracy": (metrics.RelevanceMassAccuracy, {}, duels.positive),
        "AttributionLocalisation": (metrics.AttributionLocalisation, {}, duels.positive),
        "Focus": (metrics.Focus, {}, duels.mosaic),
        "Sparseness": (metrics.Sparseness, sizes, duels.value),
        "Complexity": (metrics.Complexity, sizes, duels.value),
        "EffectiveComplexity": (
            lambda: metrics.SupportSize(threshold=1e-3, relative=False),
            sizes | {"eps": 1e-3},
            duels.value,
        ),
    }
    return {
        name: Duel(lambda q, make=make: make(), name, options, same=same)
        for name, (make, options, same) in localised.items()
    }


def axioms() -> dict[str, Duel]:
    """As the paper of NonSensitivity, each feature beside all others."""
    return {
        "NonSensitivity": Duel(
            lambda q: metrics.NonSensitivity(positions="elements", n_subsets=1),
            "NonSensitivity",
            {"abs": True, "perturb_baseline": 0.0},
            note="takes less than 1e-5 for nothing, ours what rounding may be",
            few=True,
        ),
        "Completeness": Duel(lambda q: metrics.Completeness(), note="wrong there"),
        "InputInvariance": Duel(lambda q: metrics.InputInvariance(), note="wrong there"),
    }


def bare(q: Question, rows: tuple[int, int], size: int) -> Callable[[], object]:
    """So many rows forward, and so many of them backward as well, in passes of a size."""
    batch = q.x.repeat(-(-size // len(q.x)), 1, 1, 1)[:size]

    def run() -> None:
        forward, backward = rows
        for start in range(0, backward, size):
            part = batch[: backward - start].clone().requires_grad_()
            torch.autograd.grad(q.model(part).amax(1).sum(), part)
        with torch.no_grad():
            for start in range(0, forward - backward, size):
                q.model(batch[: forward - backward - start])

    return run


def face(name: str, duel: Duel, q: Question, rounds: int) -> Measured | None:
    """Time the two sides and the bare passes, print a line, and give what theirs took."""
    q = q.few() if duel.few else q
    counter = Counter(q.model)
    rows: dict[str, tuple[int, int]] = {}

    def counted(side: str, run: Callable[[Question], object]) -> Callable[[], None]:
        def once() -> None:
            rows[side] = counter.passes(lambda: run(q))

        return once

    sides = {"ours": counted("ours", duel.our_run)}
    if duel.name:
        sides["theirs"] = counted("theirs", duel.their_run)
    sides["ours"]()  # what ours asks for has to be known
    forward, backward = rows["ours"]
    share = min(1, LEAST_BARE / max(1, forward))
    few = int(forward * share), int(backward * share)
    passes = {str(size): bare(q, few, size) for size in BATCHES if forward}
    found = side_by_side(sides | passes, rounds, time.process_time)
    counter.remove()
    ours, theirs = found["ours"], found.get("theirs")
    line = f"{name:32}{ours.best:8.3f}{ours.seconds:8.3f}{forward:7}{ours.mib:6.0f}"
    if passes:
        least, middle = (min(getattr(found[size], what) for size in passes) / share for what in ("best", "seconds"))
        line += f"{least:9.3f}{middle:8.3f}{ours.best / least:6.2f}{ours.seconds / middle:6.2f}"
    else:
        line += " " * 29
    if theirs is not None:
        line += (
            f"{theirs.best:10.3f}{theirs.seconds:8.3f}{rows['theirs'][0]:7}{theirs.mib:6.0f}"
            f"{ours.best / theirs.best:6.2f}{ours.seconds / theirs.seconds:6.2f}"
        )
    else:
        line += " " * 43
    gap = duel.gap(q)
    words = [f"{gap:.0e}" if gap is not None else "", duel.note]
    print(line + "  " + "; ".join(w for w in words if w), flush=True)
    return theirs


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


def question(count: int) -> Question:
    """Smooth images, so that there are superpixels, and squares that should be marked."""
    model = seeded(duels.small_cnn)
    noise = torch.randn(count, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    x = avg_pool2d(noise, 9, 1)[..., :32, :32] * 9
    target = model(x).argmax(1)
    mask = torch.zeros(x.shape, dtype=torch.bool)
    for i in range(count):
        mask[i, :, i % 16 : i % 16 + 12, 8:24] = True
    return Question(model, x, target, why.IntegratedGradients(model).attribute(x, target=target), mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, subsets and copies")
    parser.add_argument("--only", nargs="+", default=None, help="metrics of the table, and no panels")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    # A process that has freed a large block keeps smaller ones; before, it gives them back, and who runs next pays.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    warnings.filterwarnings("ignore")  # the peer's own
    q = question(64)
    rounds, runs, draws, samples = (3, 30, 1, 5) if asked.quick else (5, 100, 10, 20)
    groups = {
        "faithfulness": faithfulness(runs, draws),
        "robustness": {name: replace(duel, again=True) for name, duel in robustness(samples).items()},
        "randomisation": {name: replace(duel, again=True) for name, duel in randomisation(samples).items()},
        "maps": maps(),
        "axioms": axioms(),
    }
    print(f"{len(q.x)} images; seconds of one core, best and median; rows asked for; MiB")
    print(f"{'':32}{'torchwhy':>16}{'rows':>7}{'MiB':>6}{'bare':>17}{'ratios':>12}", end="")
    print(f"{'Quantus':>18}{'rows':>7}{'MiB':>6}{'of it':>12}  differ by")
    taken: dict[str, Measured | None] = {}
    for group, table in groups.items():
        chosen = {name: duel for name, duel in table.items() if asked.only is None or name in asked.only}
        if chosen:
            print(group)
        taken |= {name: face(name, duel, q, rounds) for name, duel in chosen.items()}
    if asked.only is None:
        panels(q, groups["faithfulness"], taken, rounds, quick=asked.quick)


def panels(q: Question, table: dict[str, Duel], taken: dict[str, Measured | None], rounds: int, *, quick: bool) -> None:
    """Metrics that share what they ask, beside the sum of what Quantus takes for one after the other."""
    matched = sum(theirs.seconds for name in table if (theirs := taken[name]) is not None)
    ended = None if quick else by_default(q, table)

    def same() -> object:
        judges = [duel.ours(q).with_options(model=q.model) for duel in table.values()]
        shared = [m if isinstance(m, metrics.IROF | metrics.ROAD) else m.with_options(positions=4) for m in judges]
        return panel(shared, q.values, q.x, target=q.target)

    def every() -> object:
        return faithfulness_panel(q.model, q.values, q.x, target=q.target, positions=4)

    count = len(faithfulness_panel(q.model, q.values[:1], q.x[:1], positions=4))
    runs = {f"these {len(table)}, same settings": same, f"all {count}, own settings": every}
    print(
        f"\n{'as one panel':32}{'torchwhy':>9}{'rows':>7}{'as the table':>16}{'of it':>7}{'by default':>14}{'of it':>7}"
    )
    counter = Counter(q.model)
    for name, found in side_by_side(runs, rounds, time.process_time).items():
        line = f"{name:32}{found.seconds:9.2f}{counter.of(runs[name]):7}{matched:16.2f}{found.seconds / matched:7.2f}"
        print(line + ("" if ended is None else f"{ended:14.2f}{found.seconds / ended:7.2f}"))
    print("Quantus: sums over the metrics of the table; by default, of those that ended.")


def by_default(q: Question, table: dict[str, Duel]) -> float:
    """What Quantus takes with its own defaults, of those that end in time."""
    print(f"\nQuantus with its own defaults, at most {LIMIT} s each")
    ended = 0.0
    for name, duel in table.items():
        seconds = seconds_of(lambda duel=duel: replace(duel, options={}).their_run(q), LIMIT)
        print(f"{name:32}" + (f"{'longer':>9}" if seconds is None else f"{seconds:9.2f}"), flush=True)
        ended += seconds or 0
    return ended


if __name__ == "__main__":
    main()
