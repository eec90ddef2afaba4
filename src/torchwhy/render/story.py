"""The plain data of a demo: a network, its decisions, their explanations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.evidence import Status
from torchwhy.core.explanation import Explanation
from torchwhy.render import colour
from torchwhy.render.chart import Chart, line_chart
from torchwhy.render.image import heatmap
from torchwhy.render.words import label, seconds

if TYPE_CHECKING:
    from PIL.Image import Image

_MAPS = 64  # filters or feature maps of a layer that are shown


class Epoch(Protocol):
    """What one pass over the training data reached; `torchwhy.train.EpochResult` is one."""

    @property
    def epoch(self) -> int:
        """Its number, from 1."""
        ...

    @property
    def train_loss(self) -> float:
        """Mean loss over the training examples."""
        ...

    @property
    def test_loss(self) -> float:
        """Mean loss over the test examples."""
        ...

    @property
    def accuracy(self) -> float:
        """Share of the test examples classified correctly, 0 to 1."""
        ...


@dataclass(frozen=True, eq=False)
class Example:
    """One input and its explanations by several methods.

    Attributes:
        name: of the input, such as "Test digit 217".
        explanations: of this input alone, one per method and target.
        probabilities: of the likeliest classes, by name, likeliest first.
        label: the true class, by its name; None if there is none.
        note: a sentence about the input, such as who took the photograph.
    """

    name: str
    explanations: tuple[Explanation, ...]
    probabilities: tuple[tuple[str, float], ...] = ()
    label: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.explanations or any(len(e) != 1 for e in self.explanations):
            sizes = [len(e) for e in self.explanations]
            raise TorchwhyError(f"{self.name}: expected explanations of one example each, got sizes {sizes}")

    @property
    def prediction(self) -> str | None:
        """The likeliest class."""
        return self.probabilities[0][0] if self.probabilities else None

    @property
    def right(self) -> bool | None:
        """The prediction is the label; None where there is no label."""
        return None if None in (self.label, self.prediction) else self.label == self.prediction

    @property
    def questions(self) -> list[tuple[str, list[Explanation]]]:
        """The explanations by what was asked: "Why “7”?"."""
        targets = dict.fromkeys(e.target_name() for e in self.explanations)
        return [(f"Why “{t}”?", [e for e in self.explanations if e.target_name() == t]) for t in targets]


@dataclass(frozen=True, eq=False)
class Layer:
    """What a layer holds: its filters, or what it makes of one input.

    Attributes:
        name: such as "conv1".
        maps: filters (N, C, h, w) or feature maps (N, h, w).
        picture: the input (C, H, W) that the feature maps are of.
        of: its name, such as "test digit 217".
    """

    name: str
    maps: Tensor
    picture: Tensor | None = None
    of: str = ""

    def __post_init__(self) -> None:
        if self.maps.ndim not in (3, 4):
            shape = tuple(self.maps.shape)
            raise TorchwhyError(f"{self.name}: filters are (N, C, h, w), feature maps (N, h, w), not {shape}")

    @property
    def shown(self) -> Tensor:
        """At most 64 of them."""
        return colour.finite(self.maps[:_MAPS])

    @property
    def signed(self) -> bool:
        """Filters can be negative, and so can feature maps before their activation function."""
        return self.maps.ndim == 4 or bool((self.shown < 0).any())

    @property
    def limit(self) -> float:
        """The magnitude of full colour, common to all maps so that they can be compared."""
        return colour.full_colour(self.shown)

    @property
    def silent(self) -> int:
        """How many maps are zero everywhere."""
        return int((self.shown.abs().flatten(1).amax(1) == 0).sum())

    @property
    def tiles(self) -> list[tuple[Image, str]]:
        """A picture and its description for each map."""
        flat = self.shown if self.maps.ndim == 3 else self.shown[:, 0]
        kind = "filter" if self.maps.ndim == 4 else "feature map"
        words = [f"from {t.min():.2g} to {t.max():.2g}" if t.any() else "zero everywhere" for t in flat]
        images = [heatmap(t, signed=self.signed, limit=self.limit) for t in flat]
        return [(image, f"{kind} {i}: {w}") for i, (image, w) in enumerate(zip(images, words, strict=True))]

    @property
    def mosaic(self) -> Image:
        """Filters of many channels as one picture: a column per filter, a row per channel that it reads."""
        kernels = self.shown[:, :_MAPS]
        n, c, h, w = kernels.shape
        gapped = kernels.new_zeros(c, h + 1, n, w + 1)
        gapped[:, :h, :, :w] = kernels.permute(1, 2, 0, 3)
        return heatmap(gapped.reshape(c * (h + 1), n * (w + 1))[:-1, :-1], signed=True, limit=self.limit)


@dataclass(frozen=True, eq=False)
class DemoStory:
    """A network, what it decides, why, and what speaks for and against each explanation.

    Attributes:
        title: the headline.
        lead: what the reader is about to see, in a sentence or two.
        examples: inputs with their explanations, in the order to show.
        network: what it is, in words.
        parameters: number of them.
        accuracy: share of the test examples classified correctly, 0 to 1.
        tested: number of test examples.
        seconds: that training took.
        curve: one entry per epoch.
        confusion: counts (classes, classes); rows are true classes, columns predicted ones.
        classes: their names.
        layers: filters and feature maps.
        methods: what each method asks, in a sentence, by its name.
        next_steps: commands and what they do.
        provenance: what is needed to repeat this: seed, versions and the like.
    """

    title: str
    lead: str
    examples: tuple[Example, ...]
    network: str = ""
    parameters: int | None = None
    accuracy: float | None = None
    tested: int | None = None
    seconds: float | None = None
    curve: Sequence[Epoch] = ()
    confusion: Tensor | None = None
    classes: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    methods: Mapping[str, str] = field(default_factory=dict)
    next_steps: tuple[tuple[str, str], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.examples:
            raise TorchwhyError("a demo needs at least one example")
        square = (len(self.classes),) * 2
        if self.confusion is not None and self.confusion.shape != square:
            shape = tuple(self.confusion.shape)
            raise TorchwhyError(f"the confusion matrix has shape {shape}; for {square[0]} classes it is {square}")

    @property
    def headline(self) -> list[tuple[str, str]]:
        """What is known in figures: the figure and its words."""
        figures = []
        if self.accuracy is not None:
            tested = "the test data" if self.tested is None else f"{self.tested:,} test examples"
            figures.append((f"{100 * self.accuracy:.1f} %", f"of {tested} classified correctly"))
        if self.accuracy is not None and self.tested is not None:
            mistakes = round((1 - self.accuracy) * self.tested)
            figures.append((f"{mistakes:,}", "mistake" if mistakes == 1 else "mistakes"))
        if self.parameters is not None:
            figures.append((f"{self.parameters:,}", "parameters"))
        if self.seconds is not None:
            figures.append((seconds(self.seconds), "of training"))
        figures.append((f"{sum(self.totals.values()):,}", "explanations, each with a verdict"))
        return figures

    @property
    def charts(self) -> list[Chart]:
        """Loss and accuracy by epoch."""
        if not self.curve:
            return []
        xs = [e.epoch for e in self.curve]
        losses = {"train": [e.train_loss for e in self.curve], "test": [e.test_loss for e in self.curve]}
        share = {"test": [e.accuracy for e in self.curve]}
        return [
            line_chart("Mean loss", xs, losses, x_label="epoch", words="{:.3g}".format),
            line_chart("Accuracy", xs, share, x_label="epoch", words=lambda v: f"{100 * v:.3g} %", top=1.0),
        ]

    @property
    def kept(self) -> int | None:
        """The epoch whose weights were kept, where that is the best one and not the last."""
        best = max(self.curve, key=lambda e: (e.accuracy, -e.test_loss), default=None)
        if best is None or best is self.curve[-1] or best.accuracy != self.accuracy:
            return None
        return best.epoch

    @property
    def mistaken(self) -> list[tuple[str, str, int]]:
        """What was taken for what, and how often, most often first."""
        if self.confusion is None:
            return []
        counts = [
            (true, guess, int(self.confusion[i, j]))
            for i, true in enumerate(self.classes)
            for j, guess in enumerate(self.classes)
            if i != j and self.confusion[i, j] > 0
        ]
        return sorted(counts, key=lambda c: -c[2])

    @property
    def totals(self) -> dict[Status, int]:
        """How many explanations have each verdict."""
        found = Counter(e.verdict.status for x in self.examples for e in x.explanations)
        return {status: found[status] for status in ("pass", "warn", "unknown")}

    @property
    def glance(self) -> list[tuple[str, list[Status | None]]]:
        """For each method, in order of appearance, the worst verdict on each example."""
        names = dict.fromkeys(label(e) for x in self.examples for e in x.explanations)
        return [(name, [_worst(x, name) for x in self.examples]) for name in names]


def _worst(example: Example, method: str) -> Status | None:
    order: tuple[Status, ...] = ("warn", "unknown", "pass")
    found = {e.verdict.status for e in example.explanations if label(e) == method}
    return next((status for status in order if status in found), None)
