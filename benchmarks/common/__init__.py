"""What the benchmarks share: timing side by side, and the networks they run on."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Self

import torch
from torch import Tensor, nn

PAGE = 4096  # bytes, of /proc/self/statm


@dataclass
class Measured:
    """Median and least seconds, and MiB that resident memory rose by, of one contestant."""

    seconds: float
    best: float
    mib: float


def side_by_side(
    contestants: dict[str, Callable[[], object]], rounds: int = 5, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Measured]:
    """Run the contestants in turn, ``rounds`` times, so that all meet the same machine.

    Seconds are those of the clock: `time.process_time` counts those of the processor, whatever else it has to do.
    Memory is watched in a round of its own before, since watching takes time, and takes it from whoever runs Python.
    """
    peaks: dict[str, float] = {}
    for name, run in contestants.items():
        gc.collect()
        with _Peak() as peak:
            run()
        peaks[name] = peak.mib
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            gc.collect()
            began = clock()
            run()
            times[name].append(clock() - began)
    return {name: Measured(median(times[name]), min(times[name]), peaks[name]) for name in contestants}


class _Peak:
    """The largest rise of resident memory, sampled every millisecond."""

    def __enter__(self) -> Self:
        self._start = self._most = self._resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self._most = max(self._most, self._resident())

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    @property
    def mib(self) -> float:
        return (self._most - self._start) / 2**20


class Counter:
    """Counts the rows that a model and its copies are asked for, and those of them with a graph for a backward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.rows = self.graphs = 0
        self._handles = [model.register_forward_pre_hook(self._count), model.register_forward_hook(self._count_graph)]

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def _count(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.rows += len(args[0])

    def _count_graph(self, module: nn.Module, args: tuple[Tensor, ...], out: object) -> None:
        self.graphs += len(args[0]) * (isinstance(out, Tensor) and out.requires_grad)

    def of(self, run: Callable[[], object]) -> int:
        """Rows that a run asks for."""
        return self.passes(run)[0]

    def passes(self, run: Callable[[], object]) -> tuple[int, int]:
        """The same, and those with a graph."""
        before = self.rows, self.graphs
        run()
        return self.rows - before[0], self.graphs - before[1]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
            if stride != 1 or inside != outside
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class ResNet18(nn.Module):
    """He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, with random weights."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        widths = [64, 64, 128, 256, 512]
        self.layers = nn.Sequential(
            *(nn.Sequential(_Block(a, b, 1 if a == b else 2), _Block(b, b, 1)) for a, b in pairwise(widths))
        )
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(self.stem(x)).mean((2, 3)))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()
