"""How often the verdict is wrong: explanations that ought to be believed, and ones that ought not.

    python benchmarks/verdicts.py [--quick]

On the built-in digits and network, with `check="full"` and no labels. Believed should be what a trained network
explains of the class it predicts. Not believed should be its explanation of another class (the second likeliest, and a
random one), and any explanation by a network that was never trained, or that was trained on shuffled labels until it
knew them by heart, of test images and of the training images that it knows. The limits of the checks were set on
other networks (seeds 0, 1, 4 and 5) and on other images (the first 200 of the training and of the test data).

A false alarm is a trained network's explanation of its prediction that warns; a miss is one of the others that does
not. The intervals are Wilson's for 95 %, over images; the methods see the same images and networks, so that their rows
are not independent of each other.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import torchwhy as why
from torchwhy.data import Dataset, digits
from torchwhy.networks import ConvNet
from torchwhy.train import TrainingConfig, evaluate, load_checkpoint, train

SEEN = 300  # images of each part that were looked at before the limits were set
BLOCKS = (torch.arange(12)[:, None] // 2 * 6 + torch.arange(12) // 2)[None, None]  # of 2 x 2 pixels
METHODS: dict[str, Callable[[nn.Module], why.Method]] = {
    "IntegratedGradients": why.IntegratedGradients,
    "GradCAM": lambda net: why.GradCAM(net, at="conv2"),
    "SmoothGrad": why.SmoothGrad,
    "DeepLift": why.DeepLift,
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
        believed: whether these should be.
    """

    name: str
    net: nn.Module
    images: Tensor
    target: Tensor | None = None
    believed: bool = False


def trained(data: Dataset, test: Dataset, seed: int, epochs: int, lr: float) -> nn.Module:
    with TemporaryDirectory() as folder:
        train(data, test, folder, TrainingConfig(epochs=epochs, lr=lr, momentum=0.9, seed=seed), progress=False)
        net, _ = load_checkpoint(Path(folder) / "last.json")
    return net


def cases(seed: int, count: int) -> list[Case]:
    """The same images for all, none of which the limits were set on."""
    known, test = digits()
    generator = torch.Generator().manual_seed(seed)
    labels = known.labels[torch.randperm(len(known), generator=generator)]
    shuffled = dataclasses.replace(known, labels=labels)
    good = trained(known, test, seed, epochs=12, lr=0.05)
    bad = trained(shuffled, test, seed, epochs=70, lr=0.02)
    torch.manual_seed(seed)
    fresh = ConvNet().eval()
    for name, net, data in (("trained", good, known), ("shuffled labels", bad, shuffled), ("untrained", fresh, known)):
        print(
            f"  {name}: {100 * evaluate(net, data)[1]:.1f} % of the training data, "
            f"{100 * evaluate(net, test)[1]:.1f} % of the test data"
        )
    new, old = test.inputs[SEEN : SEEN + count], known.inputs[SEEN : SEEN + count]
    with torch.no_grad():
        order = good(new).argsort(1, descending=True)
    other = torch.randint(1, 10, (len(new),), generator=generator)
    return [
        Case("trained, its prediction", good, new, believed=True),
        Case("trained, second class", good, new, order[:, 1]),
        Case("trained, random other class", good, new, order.gather(1, other[:, None])[:, 0]),
        Case("untrained, its prediction", fresh, new),
        Case("shuffled labels, new images", bad, new),
        Case("shuffled labels, its own images", bad, old),
    ]


def interval(errors: int, count: int) -> tuple[float, float]:
    """Wilson's, for 95 %."""
    z, share = 1.96, errors / count
    middle = share + z * z / (2 * count)
    half = z * (share * (1 - share) / count + (z / (2 * count)) ** 2) ** 0.5
    return max(0.0, middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def main() -> None:
    quick = "--quick" in sys.argv
    torch.set_num_threads(1)
    count, seeds = (10, (2,)) if quick else (50, (2, 3))
    methods = dict(list(METHODS.items())[:2]) if quick else METHODS
    totals: Counter[tuple[str, bool]] = Counter()
    for seed in seeds:
        print(f"networks of seed {seed}, {count} images")
        made = cases(seed, count)
        print(f"{'':22}{'':34}{'pass':>5}{'warn':>5}{'unkn.':>6}  {'errors':<19}{'rows':>7}{'checks':>8}{'s':>7}")
        for name, method in methods.items():
            for case in made:
                began = time.perf_counter()
                found = method(case.net).explain(case.images, target=case.target, check="full")
                took = time.perf_counter() - began
                status = Counter(v.status for v in found.verdicts)
                errors = status["warn"] if case.believed else count - status["warn"]
                low, high = interval(errors, count)
                rows = (found.provenance["forward_rows"] + found.provenance["backward_rows"]) / count
                kind = "alarms" if case.believed else "misses"
                print(
                    f"{name:22}{case.name:34}{status['pass']:5}{status['warn']:5}{status['unknown']:6}  "
                    f"{f'{errors} {kind} ({100 * low:.0f}-{100 * high:.0f} %)':<19}{rows:7.0f}"
                    f"{found.provenance['check_rows'] / count:8.0f}{took:7.1f}"
                )
                warned = {c.name: c.status.count("warn") for c in found.evidence if "warn" in c.status}
                print(f"{'':22}  by {', '.join(f'{check} {n}' for check, n in warned.items()) or 'none'}")
                totals[kind, True] += errors
                totals[kind, False] += count - errors
    for kind, what in (("alarms", "false alarms"), ("misses", "misses")):
        errors, all_of = totals[kind, True], totals[kind, True] + totals[kind, False]
        low, high = interval(errors, all_of)
        print(f"{what}: {errors} of {all_of}, {100 * errors / all_of:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)")


if __name__ == "__main__":
    main()
