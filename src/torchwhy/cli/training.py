"""Train the built-in network: with its whole story told, alone, or again and again on less of each example."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from torchwhy.cli.shared import (
    DEFAULTS,
    BatchSize,
    Json,
    LearningRate,
    Momentum,
    Seed,
    TestPath,
    TrainPath,
    drawn,
    print_json,
    require_places,
    tell,
)
from torchwhy.core.files import write_atomically
from torchwhy.data import load_dataset
from torchwhy.train import EpochResult, TrainingConfig
from torchwhy.train import train as train_network


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("torchwhy-demo"),
    vision: Annotated[
        bool,
        typer.Option("--vision", help="Explain an ImageNet network on photographs instead (extra: vision)."),
    ] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = DEFAULTS.epochs,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a network on real digits, explain its decisions by many methods, and write a report."""
    from torchwhy import demo as story

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    summary = story.vision(out, say) if vision else story.digits(out, say, epochs=epochs, seed=seed)
    if as_json:
        print_json(summary)


def train(
    train_path: TrainPath = Path("train_data.pth"),
    test_path: TestPath = Path("test_data.pth"),
    out: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path("checkpoints"),
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = DEFAULTS.epochs,
    lr: LearningRate = DEFAULTS.lr,
    batch_size: BatchSize = DEFAULTS.batch_size,
    momentum: Momentum = DEFAULTS.momentum,
    seed: Seed = DEFAULTS.seed,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Train the built-in network; after each epoch print the test loss and accuracy and keep the weights."""
    config = TrainingConfig(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, seed=seed)
    train_set = load_dataset(train_path)
    test_set = load_dataset(test_path, part="test")

    def show(result: EpochResult) -> None:
        print(result, file=sys.stderr if as_json else sys.stdout, flush=True)

    history = train_network(train_set, test_set, out, config, resume=resume, on_epoch=show)
    best = history.best
    if as_json:
        record = {
            "epochs": [dataclasses.asdict(e) for e in history.epochs],
            "best_epoch": None if best is None else best.epoch,
            "interrupted": history.interrupted,
            "checkpoints": str(out),
        }
        print_json(record)
    elif best is not None:
        kept = "Stopped; the last full epoch is kept, go on with --resume. " if history.interrupted else ""
        print(f"{kept}Best: epoch {best.epoch} with {100 * best.accuracy:.2f}%, in {out}", file=sys.stderr)
        print(
            f"To explain a decision: {shlex.join(['torchwhy', 'explain', str(out), str(test_path)])}", file=sys.stderr
        )
    if history.interrupted:
        raise typer.Exit(130)


def roar(
    train_path: TrainPath = Path("train_data.pth"),
    test_path: TestPath = Path("test_data.pth"),
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method's name; may be repeated. By default IntegratedGradients and GradCAM."),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="Of the pixels to remove; may be repeated. By default 0.1, 0.3, 0.5, 0.7 and 0.9."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="With other weights; 2 at least to tell anything.")] = 3,
    keep: Annotated[bool, typer.Option("--keep", help="Keep these pixels and remove all others.")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the training data, of each training.")] = 20,
    lr: LearningRate = 0.05,
    batch_size: BatchSize = 32,
    momentum: Momentum = 0.9,
    seed: Seed = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Keeps each finished training; the same command goes on with it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The report, .html.")] = Path("roar.html"),
    png: Annotated[Path | None, typer.Option(help="Also draw the curves, as .png.")] = None,
    as_json: Json = False,
) -> None:
    """Train the built-in network anew without what methods mark: how much accuracy does it cost?"""
    from torchwhy.networks import NETWORKS
    from torchwhy.retraining import SHARES
    from torchwhy.retraining import roar as remove_and_retrain

    require_places((out, ".html"), (png, ".png"))
    train_set, test_set = load_dataset(train_path), load_dataset(test_path, part="test")
    network = NETWORKS[DEFAULTS.network]
    found = remove_and_retrain(
        lambda: network(train_set.input_shape, len(train_set.classes)),
        train_set,
        test_set,
        method or ["IntegratedGradients", "GradCAM"],
        shares=share or SHARES,
        repeats=repeats,
        keep=keep,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        momentum=momentum,
        seed=seed,
        folder=folder,
    )
    found.save(out)
    if png is not None:
        write_atomically(png, drawn(found.plot(), png))
    tell(found, [path for path in (out, png) if path is not None], as_json)
    if found.interrupted:
        hint = "go on with the same command" if folder is not None else "name a --folder to be able to go on"
        print(f"Stopped; {hint}.", file=sys.stderr)
        raise typer.Exit(130)
