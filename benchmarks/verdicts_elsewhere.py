"""Do verdicts hold on other data than digits? The same count as in verdicts.py, on data that need no download.

    python benchmarks/verdicts_elsewhere.py [--seeds 5 6] [--images 60] [--data]

With `IntegratedGradients` and `check="full"`, for three data sets: measurements of cells (scikit-learn, breast cancer,
standardised, 2 classes), made ones (`make_classification`, 20 features, 4 classes) and images of shapes (16 x 16,
4 classes), on networks of two hidden or convolutional layers. One network for each is trained, one is not, and one is
trained on shuffled labels until it knows them by heart. `--data` gives the verdict the true labels of the new examples.

The limits of the checks were set on digits; networks of the seeds 1 to 3 were looked at here when one of them was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_breast_cancer, make_classification
from torch import Tensor, nn

import torchwhy as why

SIDE = 16  # of an image of a shape


@dataclass(frozen=True)
class Task:
    """A data set, and how a network for it is made and trained.

    Attributes:
        known: examples to train on, (N, ...), and their labels (N,).
        new: others.
        make: an untrained network.
        epochs: that teach it what there is to learn.
    """

    known: tuple[Tensor, Tensor]
    new: tuple[Tensor, Tensor]
    make: Callable[[], nn.Module]
    epochs: int


def dense(features: int, classes: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(SIDE**2 * 2, 64), nn.ReLU(), nn.Linear(64, 4),
    )  # fmt: skip


def divided(x: Tensor, labels: Tensor, known: int, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return (x[order[:known]], labels[order[:known]]), (x[order[known:]], labels[order[known:]])


def cells(seed: int) -> Task:
    x, labels = (torch.as_tensor(part) for part in load_breast_cancer(return_X_y=True))
    x = ((x - x.mean(0)) / x.std(0)).float()
    return Task(*divided(x, labels, 400, seed), lambda: dense(30, 2, 64), 20)


def classification(seed: int) -> Task:
    x, labels = make_classification(
        1500, 20, n_informative=8, n_redundant=4, n_classes=4, n_clusters_per_class=1, class_sep=1.8, random_state=seed
    )
    parts = divided(torch.as_tensor(x).float(), torch.as_tensor(labels), 1200, seed)
    return Task(*parts, lambda: dense(20, 4, 128), 30)


def shapes(seed: int) -> Task:
    """Discs, squares, triangles and crosses of any size, place and brightness, with a little noise."""
    generator = torch.Generator().manual_seed(1000 + seed)
    count = 1500
    labels = torch.randint(4, (count,), generator=generator)
    size, bright, down, across = torch.rand(4, count, 1, 1, generator=generator)
    r = 3 + 2.5 * size
    y = torch.arange(SIDE).view(1, -1, 1) - (r + (SIDE - 1 - 2 * r) * down)
    x = torch.arange(SIDE).view(1, 1, -1) - (r + (SIDE - 1 - 2 * r) * across)
    bar = (y.abs() <= 0.3 * r) & (x.abs() <= r), (x.abs() <= 0.3 * r) & (y.abs() <= r)
    drawn = torch.stack([
        y**2 + x**2 <= r**2,
        torch.maximum(y.abs(), x.abs()) <= 0.85 * r,
        (y <= 0.8 * r) & (y >= -r) & (x.abs() <= 0.55 * (y + r)),
        bar[0] | bar[1],
    ])  # fmt: skip
    images = drawn[labels, torch.arange(count)] * (0.6 + 0.4 * bright)
    images = images + 0.08 * torch.randn(images.shape, generator=generator)
    return Task(*divided(images[:, None], labels, 1200, seed), convolutional, 12)


TASKS: dict[str, Callable[[int], Task]] = {"cells": cells, "classification": classification, "shapes": shapes}


def fitted(task: Task, labels: Tensor, epochs: int, seed: int, *, by_heart: bool) -> nn.Module:
    torch.manual_seed(seed)
    net, inputs = task.make(), task.known[0]
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            if by_heart and bool((net(inputs).argmax(1) == labels).all()):
                break
    return net.eval()


def cases(task: Task, seed: int) -> Iterator[tuple[str, nn.Module, Tensor, Tensor | None]]:
    """A name, a network, what it is to explain, and for which classes."""
    known, new = task.known[0], task.new[0]
    labels = task.known[1]
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    good = fitted(task, labels, task.epochs, seed + 1, by_heart=False)
    bad = fitted(task, shuffled, 400, seed + 2, by_heart=True)
    torch.manual_seed(seed)
    fresh = task.make().eval()
    with torch.no_grad():
        right = [float((net(new).argmax(1) == task.new[1]).double().mean()) for net in (good, bad)]
        learnt = float((bad(known).argmax(1) == shuffled).double().mean())
        second = good(new).argsort(1, descending=True)[:, 1]
    print(f"  trained: right on {100 * right[0]:.1f} % of the new; shuffled labels: {100 * right[1]:.1f} %, and on")
    print(f"  {100 * learnt:.1f} % of its data")
    yield "trained, its prediction", good, new, None
    yield "trained, second class", good, new, second
    yield "untrained, its prediction", fresh, new, None
    yield "shuffled labels, new examples", bad, new, None
    yield "shuffled labels, its own examples", bad, known, None


def main() -> None:
    parser = argparse.ArgumentParser(description="Do verdicts hold on other data than digits?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6], help="of data and networks (5 6)")
    parser.add_argument("--images", type=int, default=60, help="examples of each kind (60)")
    parser.add_argument("--data", action="store_true", help="give the true labels of the new examples")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, make in TASKS.items():
        for seed in given.seeds:
            print(f"{name}, seed {seed}")
            task = make(seed)
            for told, net, x, classes in cases(task, seed):
                target = None if classes is None else classes[: given.images]
                found = why.IntegratedGradients(net).explain(
                    x[: given.images], target=target, check="full", data=task.new if given.data else None
                )
                warned = sum(v.status == "warn" for v in found.verdicts)
                by = ", ".join(f"{c.name} {c.status.count('warn')}" for c in found.evidence if "warn" in c.status)
                print(f"  {told:36}{warned:4} of {len(found.verdicts)} warn: {by or 'none'}", flush=True)


if __name__ == "__main__":
    main()
