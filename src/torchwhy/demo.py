"""The main job from end to end: data, a network, its decisions, many explanations of each, and a report."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from typing import Any

import torch
from torch import Tensor, nn

from torchwhy.core.explanation import Explanation, fingerprint
from torchwhy.core.site import Site, Tap
from torchwhy.core.versions import versions
from torchwhy.data import Dataset, load_dataset, write_digits
from torchwhy.methods import (
    FeatureAblation,
    GradCAM,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    Method,
    Occlusion,
    Saliency,
    SmoothGrad,
)
from torchwhy.render.html import demo_report, write
from torchwhy.render.story import DemoStory, Example, Layer
from torchwhy.train import EpochResult, TrainingConfig, load_checkpoint, train

SHOWN = 12  # examples
MISTAKES = 8  # at most, where there are enough successes
BACKGROUND = 100  # training examples to compare with
PRINT_EVERY = 10  # epochs

Say = Callable[[str], None]


def digits(out: Path, say: Say, *, epochs: int, seed: int) -> dict[str, Any]:
    """Train the built-in network on handwritten digits and explain its mistakes and some of its successes.

    Args:
        out: folder for the data, the checkpoints and ``report.html``.
        say: takes the lines that tell what happens.
        epochs: of the training.
        seed: of everything.

    Returns:
        What a program would want to know: paths, accuracy, verdicts.
    """
    config = TrainingConfig(epochs=epochs, seed=seed)
    train_set, test_set = (load_dataset(path) for path in write_digits(out, seed))
    say(f"{len(train_set)} training and {len(test_set)} test digits in {out}; epochs of training: {epochs}")

    def on_epoch(result: EpochResult) -> None:
        if result.epoch in (1, epochs) or result.epoch % PRINT_EVERY == 0:
            say(str(result))

    began = time.perf_counter()
    history = train(train_set, test_set, out / "checkpoints", config, on_epoch=on_epoch)
    seconds = time.perf_counter() - began
    if history.interrupted:
        raise KeyboardInterrupt
    model, record = load_checkpoint(out / "checkpoints")
    say(f"The best is kept: {record.result}")
    probabilities = _probabilities(model, test_set.inputs)
    chosen = _worth_showing(probabilities, test_set.labels)

    background = train_set.inputs[:: max(1, len(train_set) // BACKGROUND)][:BACKGROUND]
    asked: list[tuple[Method, Any]] = [
        (IntegratedGradients(model, tol=0.02), 0.0),
        (GradientShap(model, n_samples=300, seed=seed), background),
        (Occlusion(model, sliding_window_shapes=(1, 3, 3)), 0.0),
        (FeatureAblation(model), 0.0),
        (GradCAM(model, at="conv2"), None),
        (InputXGradient(model), None),
        (SmoothGrad(model, seed=seed), None),
        (Saliency(model), None),
    ]
    inputs, labels = test_set.inputs[chosen], test_set.labels[chosen]
    found = _explain(asked, inputs, None, record.classes, say)
    wrong = [i for i, row in enumerate(chosen) if probabilities[row].argmax() != labels[i]]
    instead = (
        _made(IntegratedGradients(model, tol=0.02), inputs[wrong], None, labels[wrong], record.classes)
        if wrong
        else None
    )
    confusion = _confusion(probabilities, test_set)
    mistakes = int(confusion.sum() - confusion.trace())
    failures = f"{'some of ' * (len(wrong) < mistakes)}what it got wrong and " if wrong else ""
    examples = []
    for i, row in enumerate(chosen):
        explanations = tuple(e[i] for e in found)
        if instead is not None and i in wrong:
            explanations += (instead[wrong.index(i)],)
        examples.append(
            Example(
                name=f"Test digit {row}",
                explanations=explanations,
                probabilities=_likeliest(probabilities[row], record.classes),
                label=record.classes[int(labels[i])],
            )
        )
    story = DemoStory(
        title="How a small network reads digits, and why",
        lead=(
            "A network of two convolutions and two linear layers was trained on scans of handwritten digits. Below is "
            f"{failures}some of what it got right, each explained by several methods, and what speaks for and against "
            "every explanation."
        ),
        examples=tuple(examples),
        network="Conv2d(1, 16, 3), Conv2d(16, 32, 3), Linear(2048, 256), Linear(256, 10), with ReLU between them",
        parameters=sum(p.numel() for p in model.parameters()),
        accuracy=record.result.accuracy,
        tested=len(test_set),
        seconds=seconds,
        curve=history.epochs,
        confusion=confusion,
        classes=record.classes,
        layers=_layers(model, test_set, [chosen[0], chosen[-1]]),
        methods=_summaries(found),
        next_steps=(
            (
                shlex.join(
                    ["torchwhy", "explain", f"{out}/checkpoints", f"{out}/test_data.pth", f"--index={chosen[0]}"]
                ),
                "explain one decision; add --method NAME for another method",
            ),
            ("torchwhy methods", "see what methods there are, what each promises and what it costs"),
            (
                "torchwhy train --train train_data.pth --test test_data.pth",
                "train the network on data of your own",
            ),
        ),
        provenance=_provenance(model, seed=seed, data="scikit-learn's handwritten digits (UCI, 1,797 scans of 8 by 8)"),
    )
    summary = _finish(story, out, say)
    return summary | {
        "checkpoints": str(out / "checkpoints"),
        "accuracy": record.result.accuracy,
        "epoch": record.result.epoch,
        "training_seconds": round(seconds, 2),
        "examples": chosen,
        "mistakes": mistakes,
    }


def vision(out: Path, say: Say) -> dict[str, Any]:
    """Explain an ImageNet network's view of three photographs; needs the extra ``vision``."""
    from torchwhy import vision as imagenet

    model, classes = imagenet.efficientnet_lite0(), imagenet.imagenet_classes()
    photographs = imagenet.photographs()
    inputs = torch.stack([imagenet.preprocess(photograph) for photograph in photographs.values()])
    black = float(imagenet.preprocess(torch.zeros(224, 224, 3, dtype=torch.uint8)).flatten()[0])
    probabilities = _probabilities(model, inputs)
    say(f"EfficientNet-Lite0 on {len(inputs)} photographs: {', '.join(photographs)}")
    asked: list[tuple[Method, Any]] = [
        (GradCAM(model, at="_bn1"), None),
        (Occlusion(model, sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16)), black),
        (IntegratedGradients(model, tol=0.05, max_steps=256), black),
        (SmoothGrad(model, n_samples=32), None),
        (InputXGradient(model), None),
        (Saliency(model), None),
    ]
    found = _explain(asked, inputs, None, classes, say)
    story = DemoStory(
        title="What an ImageNet network sees",
        lead="EfficientNet-Lite0 knows 1,000 kinds of things. Below is what it takes three photographs for, where "
        "each of several methods says it looked, and what speaks for and against every explanation.",
        examples=tuple(
            Example(
                name=f"Photograph: {name}",
                explanations=tuple(e[i] for e in found),
                probabilities=_likeliest(probabilities[i], classes, 5),
                note="There is no class for rockets; the network names the most similar things it knows."
                if name == "rocket"
                else "",
            )
            for i, name in enumerate(photographs)
        ),
        network="EfficientNet-Lite0, trained on ImageNet",
        parameters=sum(p.numel() for p in model.parameters()),
        classes=classes,
        methods=_summaries(found),
        next_steps=(
            ("torchwhy demo", "see a small network trained and explained from end to end"),
            ("torchwhy methods", "see what methods there are, what each promises and what it costs"),
        ),
        provenance=_provenance(model, data="photographs that come with scikit-image"),
    )
    return _finish(story, out, say)


def _explain(
    asked: Sequence[tuple[Method, Any]], inputs: Tensor, target: Any, classes: tuple[str, ...], say: Say
) -> list[Explanation]:
    """All inputs by all methods."""
    say(f"{len(inputs)} examples explained by {len(asked)} methods; how many pass, warn or remain unknown:")
    found = []
    for method, baselines in asked:
        explanation = _made(method, inputs, baselines, target, classes)
        counts = {s: sum(v.status == s for v in explanation.verdicts) for s in ("pass", "warn", "unknown")}
        told = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
        say(f"{explanation.method:20} {explanation.provenance['seconds']:6.2f} s   {told}")
        found.append(explanation)
    return found


def _made(method: Method, inputs: Tensor, baselines: Any, target: Any, classes: tuple[str, ...]) -> Explanation:
    """One explanation; an interrupt ends the story, however much of it is there."""
    explanation = method.explain(inputs, baselines, target, check="basic", classes=classes)
    if explanation.interrupted:
        raise KeyboardInterrupt
    return explanation


def _finish(story: DemoStory, out: Path, say: Say) -> dict[str, Any]:
    report = write(demo_report(story), out / "report.html")
    say(f"\nThe report: {report}\nTo try next:")
    program = "torchwhy" if which("torchwhy") else f"{shlex.quote(sys.executable)} -m torchwhy"
    for command, purpose in story.next_steps:
        say(f"  {program}{command.removeprefix('torchwhy')}\n      {purpose}")
    explanations = [e for x in story.examples for e in x.explanations]
    return {
        "report": str(report),
        "explanations": len(explanations),
        "verdicts": {s: sum(e.verdict.status == s for e in explanations) for s in ("pass", "warn", "unknown")},
    }


def _probabilities(model: nn.Module, inputs: Tensor) -> Tensor:
    """(N, classes)."""
    with torch.no_grad():
        return torch.cat([model(part).softmax(1) for part in inputs.split(256)])


def _worth_showing(probabilities: Tensor, labels: Tensor) -> list[int]:
    """The mistakes, surest first, then the surest success of each class, then other successes, then other mistakes."""
    sure, guess = probabilities.max(1)
    order: list[int] = sure.argsort(descending=True, stable=True).tolist()
    wrong = [i for i in order if guess[i] != labels[i]]
    right = [i for i in order if guess[i] == labels[i]]
    surest = {int(labels[i]): i for i in reversed(right)}
    right.sort(key=lambda i: surest[int(labels[i])] != i)
    return [*wrong[:MISTAKES], *right, *wrong[MISTAKES:]][:SHOWN]


def _likeliest(probabilities: Tensor, classes: tuple[str, ...], count: int = 3) -> tuple[tuple[str, float], ...]:
    top = probabilities.topk(min(count, len(classes)))
    return tuple((classes[int(i)], float(p)) for p, i in zip(top.values, top.indices, strict=True))


def _confusion(probabilities: Tensor, dataset: Dataset) -> Tensor:
    n = len(dataset.classes)
    return torch.bincount(dataset.labels * n + probabilities.argmax(1), minlength=n * n).view(n, n)


def _layers(model: nn.Module, dataset: Dataset, rows: Sequence[int]) -> tuple[Layer, ...]:
    """Filters of both convolutions, and what they make of some digits."""
    layers = [Layer(name, model.get_parameter(f"{name}.weight").detach()) for name in ("conv1", "conv2")]
    for row in dict.fromkeys(rows):
        for name in ("conv1", "conv2"):
            with torch.no_grad(), Tap(model, Site(name)) as tap:
                model(dataset.inputs[row : row + 1])
            assert tap.held is not None
            held = tap.held.parts[0][0].relu()
            layers.append(Layer(name, held, picture=dataset.inputs[row], of=f"test digit {row}"))
    return tuple(layers)


def _summaries(found: Sequence[Explanation]) -> dict[str, str]:
    """What each method asks, by its name."""
    from torchwhy import registry

    return {e.method: registry.lookup(e.method).info.summary for e in found}


def _provenance(model: nn.Module, **more: Any) -> dict[str, Any]:
    return more | {"fingerprint": fingerprint(model), "versions": versions()}
