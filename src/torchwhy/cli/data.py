"""Make and look at data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from torchwhy.cli.shared import Json, Seed, print_json
from torchwhy.data import Dataset, load_dataset, write_digits

app = typer.Typer(help="Make and look at data sets.", no_args_is_help=True)

NAMED = 20  # classes


@app.command()
def digits(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write scikit-learn's handwritten digits as train_data.pth and test_data.pth."""
    paths = write_digits(out, seed)
    _describe([(path, load_dataset(path)) for path in paths], as_json)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A .pth file, or a folder of idx files or of images per class.")],
    as_json: Json = False,
) -> None:
    """Show what is in a data set."""
    _describe([(path, load_dataset(path))], as_json)


def _describe(datasets: list[tuple[Path, Dataset]], as_json: bool) -> None:
    facts: list[dict[str, Any]] = [
        {
            "path": str(path),
            "examples": len(d),
            "input_shape": list(d.input_shape),
            "classes": list(d.classes),
            "examples_per_class": d.labels.bincount(minlength=len(d.classes)).tolist(),
            "range": [float(d.inputs.min()), float(d.inputs.max())],
            "preprocessing": d.preprocessing,
        }
        for path, d in datasets
    ]
    if as_json:
        print_json(facts)
        return
    for f in facts:
        low, high = f["range"]
        print(f"{f['path']}: {f['examples']} examples of shape {tuple(f['input_shape'])}")
        print(f"  values from {low:g} to {high:g}, preprocessing: {f['preprocessing']}")
        counts = [f"{name} ({n})" for name, n in zip(f["classes"], f["examples_per_class"], strict=True)]
        more = f", and {len(counts) - NAMED} more" if len(counts) > NAMED else ""
        print(f"  {len(counts)} classes (examples): {', '.join(counts[:NAMED])}{more}")
