"""Explain a decision, and find out by which method."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from torchwhy import registry
from torchwhy.cli import asked
from torchwhy.cli.shared import Checkpoint, Json, Seed, drawn, print_json, require_places, tell
from torchwhy.core.errors import TorchwhyError
from torchwhy.core.files import write_atomically
from torchwhy.data import load_dataset
from torchwhy.engines.noise import draws
from torchwhy.methods import Level, Method
from torchwhy.recommendation.settings import JUDGES
from torchwhy.train import load_checkpoint

PICTURED = 16  # examples; a page of many more takes long to lay out


def explain(
    checkpoint: Checkpoint,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="A data set (a .pth file or a folder), a PNG or JPEG image, a .npy or .pt tensor."
        ),
    ],
    index: Annotated[
        list[int] | None,
        typer.Option(
            help="An example by its number, from 0, or from -1 at the end; may be repeated. "
            "By default the first of a data set, and all of a tensor."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Its name; for a list: torchwhy methods.")] = "IntegratedGradients",
    at: Annotated[str | None, typer.Option(help="Explain at this layer, such as conv2, instead of the input.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="What to explain: a class by name or, where none has that name, by number; 'A rather than B', 'P(A)' "
            "or 'log-odds of A', of classes; or a hidden unit, such as 'conv1[3,0,0]'. By default the class that the "
            "network predicts."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            help="An option of the method, such as n_steps=200 or strides=[1,2,2]; may be repeated. "
            "For a list: torchwhy methods NAME.",
        ),
    ] = None,
    baseline: Annotated[
        float | None, typer.Option(help="The value that stands for 'absent', for methods that take one; by default 0.")
    ] = None,
    background: Annotated[
        Path | None,
        typer.Option(help="Data to compare with, for methods that take a set; by default the data set of INPUT."),
    ] = None,
    check: Annotated[
        Level,
        typer.Option(
            help="How much evidence to gather: what is free, also what removing the marked parts does, or all: whether "
            "the model is trained and decides for this, and whether explaining again gives the same."
        ),
    ] = "basic",
    out: Annotated[Path, typer.Option(help="The report, .html.")] = Path("explanation.html"),
    png: Annotated[Path | None, typer.Option(help=f"Also draw the first {PICTURED} examples, as .png.")] = None,
    svg: Annotated[Path | None, typer.Option(help=f"Also draw the first {PICTURED} examples, as .svg.")] = None,
    npz: Annotated[Path | None, typer.Option(help="Also write the numbers as NumPy arrays, .npz.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Also write everything, for Explanation.load in Python, .safetensors.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain a network's decision, and say whether to believe the explanation."""
    require_places((out, ".html"), (png, ".png"), (svg, ".svg"), (npz, ".npz"), (save, ".safetensors"))
    cls: type[Method] = registry.lookup(method)
    if not cls.info.standalone:
        raise TorchwhyError(
            f"{cls.__name__} goes around another method, so it is for Python: choose one that stands alone"
        )
    options = asked.parse_options(cls, option or [])
    model, record = load_checkpoint(checkpoint)
    inputs, dataset = asked.read(source, index, record.input_shape)
    explanation = cls(model, at=at, **options).explain(
        inputs,
        asked.baselines(cls, baseline, background, dataset),
        asked.target(target, record.classes),
        check=check,
        classes=record.classes,
    )
    from torchwhy.render import html

    files = {out: html.report([explanation], title=f"Why? {source.name}").encode()}
    for path in (png, svg):
        if path is not None:
            files[path] = drawn(explanation.plot(examples=PICTURED), path)
    if npz is not None:
        files[npz] = _arrays(explanation.values)
    for path, content in files.items():
        write_atomically(path, content)
    written = [*files, *([explanation.save(save)] if save is not None else [])]
    if as_json:
        print_json(explanation.as_dict() | {"written": [str(p) for p in written]})
    else:
        for i, verdict in enumerate(explanation.verdicts):
            which = f"example {index[i]}" if index else f"example {i}"
            said = "predicts" if explanation.predicted else "explained for"
            print(f"{which}: {said} {explanation.target_name(i)} (score {explanation.scores[i]:.4g}); {verdict}")
        print(f"written: {', '.join(map(str, written))}")
    if explanation.interrupted:
        raise typer.Exit(130)


def _arrays(values: Tensor | tuple[Tensor, ...]) -> bytes:
    import numpy as np

    parts = (values,) if isinstance(values, Tensor) else values
    arrays = {"values" if len(parts) == 1 else f"values_{i}": t.float().cpu().numpy() for i, t in enumerate(parts)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for options
    return buffer.getvalue()


def compare(
    checkpoint: Checkpoint,
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A data set (a .pth file or a folder), a .npy or .pt tensor.")
    ],
    method: Annotated[
        list[str] | None, typer.Option(help="A method's name; may be repeated. By default all that run.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help=f"A metric's name; may be repeated. By default {', '.join(JUDGES)}."),
    ] = None,
    budget: Annotated[
        int, typer.Option(min=1, help="Model evaluations at most: rows sent through the model, forward or backward.")
    ] = 100_000,
    examples: Annotated[int, typer.Option(min=1, help="So many of a data set, drawn by the seed.")] = 60,
    target: Annotated[
        str | None, typer.Option(help="What to explain, as for explain. By default what the network predicts.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="A layer to compare at, by name; by default the input.")] = None,
    baseline: Annotated[
        float | None, typer.Option(help="The value that stands for 'absent', for methods and metrics; by default 0.")
    ] = None,
    background: Annotated[
        Path | None,
        typer.Option(help="Data to compare with, for methods that take a set; by default some of the examples."),
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="The report, .html.")] = Path("comparison.html"),
    as_json: Json = False,
) -> None:
    """Find out which method to use on a network, and which metrics say anything about it."""
    from torchwhy.recommendation import recommend

    require_places((out, ".html"))
    model, record = load_checkpoint(checkpoint)
    inputs, dataset = asked.read(source, None, record.input_shape)
    if dataset is not None:
        chosen = torch.randperm(len(dataset), generator=draws(seed))[:examples]
        inputs = dataset.inputs[chosen].float()
    found = recommend(
        model,
        inputs,
        asked.target(target, record.classes),
        at=at,
        methods=method,
        metrics=metric,
        budget=budget,
        baselines=baseline,
        background=None if background is None else asked.background_of(load_dataset(background)),
        seed=seed,
    )
    found.save(out)
    tell(found, [out], as_json)
