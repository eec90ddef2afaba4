"""How often the verdict is wrong: explanations that ought to be believed, and ones that ought not.

    python benchmarks/verdicts.py [--quick] [--seeds 31 32] [--methods GradCAM SmoothGrad] [--images 50] [--skip 0]

On the built-in digits and network, with `check="full"` and no labels. Believed should be what a trained network
explains of the class it predicts. Not believed should be its explanation of another class (the second likeliest, and a
random one), and any explanation by a network that was never trained, or that was trained on shuffled labels until it
knew them by heart, of new images and of the training images that it knows.

A false alarm is a trained network's explanation of its prediction that warns; a miss is one of the others that does
not. The intervals are Wilson's for 95 %, over images. The methods see the same images and networks, so that their rows
are not independent of each other: the interval of a total is that of one method's share of them, and speaks of more
images for these networks, not of other networks. What is told below a row of `GradCAM` says whether it warns for
faithfulness with reason: how well its maps agree with integrated gradients of the same layer where it warns and where
it does not, and how often `HiResCAM`, which multiplies the same values place by place, warns on the same grid.

The images were not looked at before the limits of the checks were set, nor were networks of the seeds 31 and up.
Networks of the seeds 0 to 5, 11, 12 and 20 to 22 were, and so were the first 350 images of the training data, 400 of
the others, and the first 350 of the test data. The images here are drawn from the rest of the training data: 200 new
ones, which the networks are not trained on, and 200 known ones, which they are.

Networks are kept in `--cache`, so that a run that was broken off, or one with other methods, need not train them again.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import torchwhy as why
from torchwhy.data import Dataset, digits
from torchwhy.networks import ConvNet
from torchwhy.train import TrainingConfig, evaluate, load_checkpoint, train

SEEN, LOOKED_AT = 350, 400  # images that limits were set on: the first of the training data, and some of the others
UNSEEN = 200  # new images, and as many known ones
BLOCKS = (torch.arange(12)[:, None] // 2 * 6 + torch.arange(12) // 2)[None, None]  # of 2 x 2 pixels
METHODS: dict[str, Callable[[nn.Module], why.Method]] = {
    "IntegratedGradients": why.IntegratedGradients,
    "GradCAM": lambda net: why.GradCAM(net, at="conv2"),
    "SmoothGrad": why.SmoothGrad,
    "DeepLift": why.DeepLift,
    "Occlusion": lambda net: why.Occlusion(net, sliding_window_shapes=(1, 3, 3)),
    "KernelShap": lambda net: why.KernelShap(net, feature_mask=BLOCKS, n_samples=500),
    "ShapleyValues": lambda net: why.ShapleyValues(net, feature_mask=BLOCKS, budget=500),
}


@dataclasses.dataclass
class Case:
    """Explanations of one kind.

    Attributes:
        name: for people.
        net: the network.
        images: (N, 1, 12, 12).
        target: (N,) classes, or None for the predicted ones.
        labels: (N,) true classes; None where nothing is said of them.
        believed: whether these should be.
    """

    name: str
    net: nn.Module
    images: Tensor
    target: Tensor | None = None
    labels: Tensor | None = None
    believed: bool = False


def part(data: Dataset, rows: Tensor) -> Dataset:
    return dataclasses.replace(data, inputs=data.inputs[rows], labels=data.labels[rows])


def trained(data: Dataset, test: Dataset, config: TrainingConfig, cache: Path) -> nn.Module:
    """A network that the cache has, or will have."""
    folder = cache / f"{data.fingerprint[:12]}-{config.seed}-{config.epochs}"
    if train(data, test, folder, config, resume=(folder / "last.json").exists()).interrupted:
        raise KeyboardInterrupt
    return load_checkpoint(folder / "last.json")[0]


def cases(seed: int, images: slice, cache: Path) -> list[Case]:
    """The same images for all, none of which the limits were set on.

    Args:
        seed: of the networks.
        images: which of the new ones, and of the known ones.
        cache: folder of networks.
    """
    data, test = digits()
    order = SEEN + torch.randperm(len(data) - SEEN, generator=torch.Generator().manual_seed(0))[LOOKED_AT:]
    unseen, known = order[:UNSEEN], order[UNSEEN : 2 * UNSEEN]
    there = torch.ones(len(data), dtype=torch.bool).index_fill(0, unseen, False)
    held, learnt = part(data, unseen), part(data, there.nonzero().flatten())
    generator = torch.Generator().manual_seed(seed)
    shuffled = dataclasses.replace(learnt, labels=learnt.labels[torch.randperm(len(learnt), generator=generator)])
    setting = TrainingConfig(epochs=12, lr=0.05, momentum=0.9, seed=seed)
    good = trained(learnt, test, setting, cache)
    bad = trained(shuffled, test, dataclasses.replace(setting, epochs=70, lr=0.02), cache)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = ConvNet().eval()
    for name, net, own in (("trained", good, learnt), ("shuffled labels", bad, shuffled), ("untrained", fresh, learnt)):
        right = [100 * evaluate(net, some)[1] for some in (own, test, held)]
        print(
            "  {}: right on {:.1f} % of its data, {:.1f} % of the test data, {:.1f} % of the new".format(name, *right)
        )
    new, old = held.inputs[images], data.inputs[known[images]]
    with torch.no_grad():
        ranked = good(new).argsort(1, descending=True)
    other = torch.randint(1, 10, (len(new),), generator=generator)
    return [
        Case("trained, its prediction", good, new, labels=held.labels[images], believed=True),
        Case("trained, second class", good, new, ranked[:, 1]),
        Case("trained, random other class", good, new, ranked.gather(1, other[:, None])[:, 0]),
        Case("untrained, its prediction", fresh, new),
        Case("shuffled labels, new images", bad, new),
        Case("shuffled labels, its own images", bad, old),
    ]


def interval(errors: float, count: float) -> tuple[float, float]:
    """Wilson's, for 95 %."""
    z, share = 1.96, errors / count
    middle = share + z * z / (2 * count)
    half = z * (share * (1 - share) / count + (z / (2 * count)) ** 2) ** 0.5
    return max(0.0, middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def reason(case: Case, found: why.Explanation) -> str:
    """Do maps that warn for faithfulness agree less with integrated gradients of the layer, place by place?"""
    (faithful,) = (c for c in found.evidence if c.name == "faithfulness")
    warned = torch.tensor([status == "warn" for status in faithful.status])
    exact = why.IntegratedGradients(case.net, at="conv2").attribute(case.images, target=case.target)
    rows = [t.flatten(1) - t.flatten(1).mean(1, keepdim=True) for t in (found.values, exact.sum(1))]
    agree = nn.functional.cosine_similarity(*rows)
    other = why.HiResCAM(case.net, at="conv2").explain(case.images, target=case.target, check="full")
    (beside,) = (c for c in other.evidence if c.name == "faithfulness")
    return (
        f"by faithfulness {int(warned.sum())}, where it correlates with integrated gradients of conv2 by "
        f"{agree[warned].mean():.2f}, else by {agree[~warned].mean():.2f}; HiResCAM: {beside.status.count('warn')}"
    )


class Errors:
    """Counts false alarms and misses, and prints a row for each explanation of several images."""

    def __init__(self) -> None:
        self.wrong: Counter[str] = Counter()
        self.all: Counter[str] = Counter()
        self.methods: set[str] = set()

    def row(self, name: str, case: Case, found: why.Explanation, seconds: float) -> None:
        status, count = Counter(v.status for v in found.verdicts), len(case.images)
        kind = "false alarms" if case.believed else "misses"
        wrong = status["warn"] if case.believed else count - status["warn"]
        self.wrong[kind] += wrong
        self.all[kind] += count
        self.methods.add(name)
        low, high = interval(wrong, count)
        record = found.provenance
        print(
            f"{name:20}{case.name:33}{status['pass']:5}{status['warn']:5}{status['unknown']:6}  "
            f"{f'{wrong} {kind} ({100 * low:.0f}-{100 * high:.0f} %)':<25}"
            f"{(record['forward_rows'] + record['backward_rows']) / count:7.0f}{record['check_rows'] / count:8.0f}"
            f"{seconds:7.1f}"
        )
        warned = {c.name: c.status.count("warn") for c in found.evidence if "warn" in c.status}
        told = f"by {', '.join(f'{check} {n}' for check, n in warned.items()) or 'none'}"
        if case.labels is not None:
            mistaken = found.output.argmax(1) != case.labels
            both = sum(v.status == "warn" for v, no in zip(found.verdicts, mistaken, strict=True) if no)
            told += f"; {both} of these on the {int(mistaken.sum())} images that the network takes for another class"
        print(f"{'':20}  {told}", flush=True)
        if name == "GradCAM" and case.believed:
            print(f"{'':20}  {reason(case, found)}", flush=True)

    def total(self) -> None:
        for kind, count in self.all.items():
            wrong, rows = self.wrong[kind], len(self.methods)
            low, high = (100 * limit for limit in interval(wrong / rows, count / rows))
            print(f"{kind}: {wrong} of {count}, {100 * wrong / count:.1f} % ({low:.1f} to {high:.1f} %)")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How often the verdict is wrong.")
    add = parser.add_argument
    add("--quick", action="store_true", help="10 images and two cheap methods")
    add("--seeds", type=int, nargs="+", default=[31], help="of the networks (31)")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="(all)")
    add("--images", type=int, default=50, help="how many of each kind (50)")
    add("--skip", type=int, default=0, help="so many of the new and of the known images (0)")
    add("--cache", type=Path, default=Path(tempfile.gettempdir()) / "torchwhy-verdicts", help="folder of the networks")
    given = parser.parse_args()
    if not 0 < given.images <= UNSEEN - given.skip <= UNSEEN:
        parser.error(f"of {UNSEEN} new images, --skip and --images leave none or are more")
    if given.quick:
        given.images, given.methods = min(given.images, 10), list(METHODS)[:2]
    return given


def main() -> None:
    torch.set_num_threads(1)
    given, errors = options(), Errors()
    images = slice(given.skip, given.skip + given.images)
    try:
        for seed in given.seeds:
            print(f"networks of seed {seed}, new images {images.start} to {images.stop - 1}", flush=True)
            made = cases(seed, images, given.cache)
            print(
                f"{'':53}{'pass':>5}{'warn':>5}{'unkn.':>6}  {'errors':<25}{'rows':>7}{'checks':>8}{'s':>7}", flush=True
            )
            for name in given.methods:
                for case in made:
                    began = time.perf_counter()
                    found = METHODS[name](case.net).explain(case.images, target=case.target, check="full")
                    errors.row(name, case, found, time.perf_counter() - began)
    finally:  # of what was done, also where somebody was in a hurry
        errors.total()


if __name__ == "__main__":
    main()
