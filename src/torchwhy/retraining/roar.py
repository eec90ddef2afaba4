"""Remove and retrain: the experiment, cell by cell."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.explanation import digest, fingerprint
from torchwhy.core.guard import untouched
from torchwhy.core.options import at_least, one_of
from torchwhy.core.progress import Progress
from torchwhy.core.versions import versions
from torchwhy.data import Dataset, from_tensors
from torchwhy.engines.fills import Fill
from torchwhy.engines.noise import check_seed, draws
from torchwhy.retraining.folder import Cell, Folder
from torchwhy.retraining.networks import Loop, Maker, Trainer, seeded
from torchwhy.retraining.rankings import (
    RIVALS,
    STREAM,
    Eraser,
    Methods,
    Ranking,
    background,
    check_names,
    eraser,
    of_controls,
    of_methods,
)
from torchwhy.retraining.result import UNTOUCHED, Retraining
from torchwhy.train import TrainingConfig, evaluate

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the paper

Data: TypeAlias = Dataset | tuple[Tensor, Tensor]


def roar(
    make_model: Maker | nn.Module,
    train: Data,
    test: Data,
    methods: Methods,
    *,
    shares: Sequence[float] = SHARES,
    repeats: int = 3,
    seed: int = 0,
    fill: str | float | Tensor | Fill = "mean",
    keep: bool = False,
    positions: str | int | Tensor = "pixels",
    target: Literal["predicted", "label"] = "predicted",
    absolute: bool = False,
    baselines: Any = None,
    controls: Sequence[str] = RIVALS,
    reverse: bool = False,
    train_with: Loop | None = None,
    epochs: int = 20,
    lr: float = 0.05,
    momentum: float = 0.9,
    batch_size: int = 32,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Retraining:
    r"""Remove and retrain (ROAR): how well networks do that are trained without what explanations mark.

    In each repeat, with weights and batches of its own:

    1. A network is trained on the data as they are.
    2. Each method explains it, for all training and test examples, and orders the positions of each example.
    3. For each share, the first positions of each example are filled in, in the training and in the test data. A new
       network is trained on that and tested: :math:`a_m(q)`.

    What knows nothing of the network is removed in the same way: positions at random, :math:`a_{\text{random}}(q)`, and
    those where the input, or its edges, are large. All networks of a repeat begin with the same weights and see the
    examples in the same order, so differences are paired. A method costs more than chance by

    .. math:: \int_0^1 a_{\text{random}}(q) - a_m(q)\,dq

    with lines between the shares, and no difference where nothing or everything is removed. Its error and its t are
    over the repeats, its p-value is adjusted for all methods (Holm).

    Which positions are removed can tell the class all by itself, so that accuracy stays however well a method has found
    what matters. Networks that see nothing else, at the share next to one half, say how much: the traces.

    With ``keep`` the first positions are kept and all else is filled in (keep and retrain, KAR), so that a good order
    costs less than chance, and the sign is the opposite.

    Args:
        make_model: makes a new network, from an input (B, ...) to scores of classes (B, C), out of PyTorch's global
            random numbers, such as a class; or a network, of which copies get new weights, see
            `torchwhy.engines.weights`.
        train: inputs (N, ...) and classes (N,), or a `torchwhy.data.Dataset`.
        test: the same, to measure accuracy on.
        methods: names, classes, or methods, of which the options are taken; or functions of a network, inputs and
            classes (B,) that give values like the inputs. A dict names them. Class activation maps are enlarged to the
            input.
        shares: of the positions that are removed, above 0 and below 1; by default 0.1, 0.3, 0.5, 0.7 and 0.9.
        repeats: with other weights and other batches; 2 at least to tell anything from chance.
        seed: of all that is random.
        fill: what takes the place of what is removed. "mean" is that of each channel over the training data, as in the
            paper; a number or a tensor that broadcasts to the inputs; or a fill of one draw, see
            `torchwhy.engines.fills`, such as "linear".
        keep: keep what would be removed, and remove the rest.
        positions: what is removed at once: "pixels" (features of a vector), "elements", "patches", "tokens", the side
            of square patches, or a feature mask for all examples. Its value is the sum over its elements.
        target: what is explained: the class that the network predicts, or the label, which marks in the test data may
            then give away.
        absolute: order by the size of the values.
        baselines: what methods compare with that compare with one value; others get 16 training examples.
        controls: beside the random one, of "input" and "edges".
        reverse: remove in the opposite order of each method as well.
        train_with: trains a network in place, from inputs, classes and a seed: ``train_with(model, x, y, seed)``. None
            is stochastic gradient descent on the cross-entropy, with the next four options.
        epochs: passes over the training data.
        lr: learning rate.
        momentum: of the descent.
        batch_size: examples per step.
        folder: keeps each finished training in a file, so that the same call goes on after an interrupt. Shares,
            methods, controls and repeats may then be others; what is there is not trained again. Code cannot be told
            apart, so a function that changes needs another folder.
        progress: show a progress bar; None does on a terminal.

    Returns:
        A `Retraining`: curves, gaps and sentences, to print, plot and save. Ctrl-C ends early with what there is.

    Raises:
        TorchwhyError: what was given does not fit, or the folder holds another question.

    Cost: 1 training for the untouched data, 1 for each method, control and share, and 1 for the traces of each method;
    times the repeats. The same seed, data and machine give the same numbers.

    Paper: S. Hooker, D. Erhan, P.-J. Kindermans, B. Kim, NeurIPS 2019, arXiv:1806.10758.

    >>> x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    >>> data = x, (x[:, 0] > 0).long()  # the first feature decides
    >>> found = roar(lambda: nn.Linear(6, 2), data, data, ["IntegratedGradients"], shares=(0.5,), absolute=True)
    >>> found.findings[0].standing
    'better'
    """
    check_seed(seed)
    at_least("repeats", repeats, 1)
    one_of("target", target, ("predicted", "label"))
    if not callable(make_model):
        raise TorchwhyError(f"make_model makes a network, such as a class or a lambda, not {make_model!r}")
    sets = _as_datasets(train, test)
    x = sets[0].inputs
    config = TrainingConfig(epochs=epochs, lr=lr, momentum=momentum, batch_size=batch_size)
    trainer = Trainer(make_model, config, train_with)
    rubber = eraser(x, positions, fill, baselines, keep=keep, absolute=absolute)
    counts = _counts(shares, rubber.groups(x[:1]).count)
    rankings = of_methods(methods, background(x, seed), baselines)
    names = [r.name for r in rankings]
    rankings += [r.reversed() for r in rankings] if reverse else []
    rankings = of_controls(controls, x.ndim == 4) + rankings
    check_names(rankings)
    first = trainer.checked(sets[0], seed=0)
    _try(first.eval(), rankings, rubber, sets[0])
    question = {
        "data": digest(tuple((d.inputs, d.labels) for d in sets)).hex(),
        "network": f"{fingerprint(first)} {digest((repr(first),)).hex()[:16]}",
        "training": trainer.told(),
        "seed": seed,
        "target": target,
        **rubber.told(),
    }
    done = Folder(None if folder is None else Path(folder), question)
    middle = min(counts, key=lambda n: abs(counts[n] - 0.5))
    job = Experiment(trainer, sets, rubber, rankings, list(counts), names, middle, target, seed, done)
    stopped = job.run(repeats, Progress(progress))
    known = done.known.get
    return Retraining(
        shares=tuple(counts.values()),
        methods=tuple(names),
        untouched=tuple(known((k, UNTOUCHED, 0)) for k in range(repeats)),
        accuracy={
            r.name: tuple(tuple(known((k, r.told, n)) for n in counts) for k in range(repeats)) for r in rankings
        },
        traces={
            r.name: tuple(known((k, r.traced, middle)) for k in range(repeats)) for r in rankings if r.name in names
        },
        traced=counts[middle],
        keep=keep,
        examples=len(sets[1]),
        majority=float(sets[1].labels.bincount().max()) / len(sets[1]),
        interrupted=stopped,
        provenance={
            "network": type(first).__name__,
            "seed": seed,
            "training examples": len(sets[0]),
            "training": trainer.told(),
            "fill": fill if isinstance(fill, str | int | float) else type(fill).__name__,
            "positions": "feature mask" if isinstance(positions, Tensor) else positions,
            "target": target,
            "absolute": absolute,
            **versions(),
        },
    )


@dataclass
class Experiment:
    """All trainings of a question, of which some may be known.

    Attributes:
        trainer: makes and trains networks.
        sets: training and test data as they are.
        eraser: removes positions.
        rankings: in which order.
        counts: how many positions, ascending.
        traced: names of rankings whose traces are looked at.
        middle: how many positions these are.
        target: what is explained.
        seed: of the first repeat's seed and all others.
        done: what is known, and where it is kept.
    """

    trainer: Trainer
    sets: tuple[Dataset, Dataset]
    eraser: Eraser
    rankings: list[Ranking]
    counts: list[int]
    traced: list[str]
    middle: int
    target: str
    seed: int
    done: Folder

    def run(self, repeats: int, progress: Progress) -> bool:
        """Train what is not known; whether the user has interrupted, after the first training at least."""
        missing = [cell for r in range(repeats) for cell in self._cells(r) if self.done.get(cell) is None]
        with progress.task("retraining", len(missing) * self.trainer.rows(self.sets[0])) as advance:
            try:
                for r in range(repeats):
                    self._repeat(r, advance)
            except KeyboardInterrupt:
                if not self.done.known:
                    raise
                return True
        return False

    def _cells(self, repeat: int) -> list[Cell]:
        return [(repeat, UNTOUCHED, 0), *(cell for r in self.rankings for cell in self._of(r, repeat))]

    def _of(self, ranking: Ranking, repeat: int) -> list[Cell]:
        """What is trained in the order of a ranking."""
        found = [(repeat, ranking.told, n) for n in self.counts]
        return [*found, (repeat, ranking.traced, self.middle)] if ranking.name in self.traced else found

    def _repeat(self, repeat: int, advance: Callable[[int], None]) -> None:
        if all(self.done.get(cell) is not None for cell in self._cells(repeat)):
            return
        base = self._untouched(repeat, advance)
        targets = [self._targets(base, data) for data in self.sets]
        for ranking in self.rankings:
            missing = [cell for cell in self._of(ranking, repeat) if self.done.get(cell) is None]
            if not missing:
                continue
            with seeded(_seed(self.seed, repeat), self.sets[0].inputs.device):  # of explainers that draw numbers
                orders = [
                    self.eraser.order(ranking, base, d.inputs, t, draws(self.seed, STREAM + 1, 2 * repeat + part))
                    for part, (d, t) in enumerate(zip(self.sets, targets, strict=True))
                ]
            for cell in missing:
                change = self.eraser.traces if cell[1] == ranking.traced else self.eraser.without
                changed = [
                    Dataset(change(d.inputs, order, cell[2]), d.labels, d.classes, name=d.name)
                    for d, order in zip(self.sets, orders, strict=True)
                ]
                self._train(cell, changed[0], changed[1], advance)

    def _untouched(self, repeat: int, advance: Callable[[int], None]) -> nn.Module:
        """The network that is explained."""
        cell = (repeat, UNTOUCHED, 0)
        if self.done.get(cell) is not None:
            base = self.trainer.fresh(_seed(self.seed, repeat), self.sets[0].inputs.device)
            if self.done.load(repeat, base):
                return base.eval()
        known = self.done.get(cell) is not None  # and its rows are not among those that are missing
        base = self._train(cell, *self.sets, (lambda rows: None) if known else advance)
        self.done.save(repeat, base)
        return base

    def _train(self, cell: Cell, train: Dataset, test: Dataset, advance: Callable[[int], None]) -> nn.Module:
        model = self.trainer.trained(train, _seed(self.seed, cell[0]), advance)
        with untouched(model, train.inputs.device):
            _, accuracy = evaluate(model, test)
        self.done.keep(cell, accuracy)
        return model

    def _targets(self, base: nn.Module, data: Dataset) -> Tensor:
        if self.target == "label":
            return data.labels
        with untouched(base, data.inputs.device), torch.no_grad():
            return torch.cat([base(part).argmax(1) for part in data.inputs.split(512)])


def _try(model: nn.Module, rankings: list[Ranking], rubber: Eraser, data: Dataset) -> None:
    """Find out before the first training what does not run."""
    x, y = data.inputs[:2], data.labels[:2]
    with seeded(0, x.device):
        for ranking in rankings:
            order = rubber.order(ranking, model, x, y, draws(0))
            rubber.without(x, order, 1)


def _seed(seed: int, repeat: int) -> int:
    """Of a repeat; one that NumPy takes as well."""
    return draws(seed, STREAM, 1 + repeat).initial_seed() % 2**32


def _as_datasets(train: Data, test: Data) -> tuple[Dataset, Dataset]:
    """Both checked, with the same classes."""
    pairs = []
    for role, given in (("train", train), ("test", test)):
        if isinstance(given, Dataset):
            pairs.append((given.inputs, given.labels))
            continue
        if not isinstance(given, tuple | list) or len(given) != 2 or not all(isinstance(t, Tensor) for t in given):
            raise TorchwhyError(f"{role} is a pair of tensors, inputs (N, ...) and classes (N,), or a Dataset")
        x, y = given
        whole = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
        x = from_tensors(x, y, name=role).inputs if x.dtype == torch.uint8 else x.detach()
        pairs.append((x, y.long() if whole else y))
    count = max((int(y.max()) for _, y in pairs if y.numel() and y.dtype == torch.int64), default=0) + 1
    classes = tuple(map(str, range(max(1, count))))
    made = [Dataset(x, y, classes, name=role) for role, (x, y) in zip(("train", "test"), pairs, strict=True)]
    if made[0].input_shape != made[1].input_shape:
        raise TorchwhyError(
            f"training inputs have shape {made[0].input_shape}, test inputs {made[1].input_shape}; prepare both alike"
        )
    if len(made[0].labels.unique()) < 2:
        raise TorchwhyError("all training examples are of one class, so there is nothing to learn")
    return made[0], made[1]


def _counts(shares: Sequence[float], positions: int) -> dict[int, float]:
    """How many positions each share is, ascending."""
    given = list(shares) if isinstance(shares, Sequence | Tensor) and not isinstance(shares, str) else []
    if not given or any(isinstance(s, bool) or not isinstance(s, int | float) or not 0 < s < 1 for s in given):
        raise TorchwhyError(f"shares are numbers above 0 and below 1, such as (0.1, 0.5), not {shares!r}")
    counts: dict[int, float] = {}
    for share in sorted(map(float, given)):
        n = round(share * positions)
        if not 0 < n < positions:
            what = "none" if n == 0 else "all"
            raise TorchwhyError(f"a share of {share:g} of {positions} positions is {what} of them: leave it out")
        if n in counts:
            raise TorchwhyError(
                f"shares {counts[n]:g} and {share:g} are both {n} of {positions} positions: leave one of them out"
            )
        counts[n] = share
    return counts
