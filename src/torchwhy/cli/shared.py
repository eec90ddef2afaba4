"""What several commands have in common: options, how a result is printed, how files are written."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchwhy.core.errors import TorchwhyError
from torchwhy.train import TrainingConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from torchwhy.recommendation import Recommendation
    from torchwhy.retraining import Retraining

DEFAULTS = TrainingConfig()

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all random numbers.")]
Checkpoint = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A folder of checkpoints, or one of its files.")]
TrainPath = Annotated[Path, typer.Option("--train", help="Training data: a .pth file or a folder.")]
TestPath = Annotated[Path, typer.Option("--test", help="Test data: a .pth file or a folder.")]
LearningRate = Annotated[float, typer.Option(help="Learning rate of SGD.")]
BatchSize = Annotated[int, typer.Option(help="Examples per step.")]
Momentum = Annotated[float, typer.Option(help="Of SGD.")]


def print_json(record: object) -> None:
    """The one thing that a program reads from standard output."""
    print(json.dumps(record, indent=2))


def console() -> Console:
    """A terminal, or a file, for tables; names in them are no markup."""
    from rich.console import Console

    return Console(markup=False, highlight=False)


def tell(found: Recommendation | Retraining, written: list[Path], as_json: bool) -> None:
    """Print a result for a program, or for a person."""
    names = list(map(str, written))
    if as_json:
        print_json(found.as_dict() | {"written": names})
        return
    print("\n".join(found.sentences))
    console().print(found.table())
    print(f"written: {', '.join(names)}")


def require_places(*places: tuple[Path | None, str]) -> None:
    """Refuse a file that cannot be written, or that has another ending, before the work rather than after it."""
    for path, ending in places:
        if path is not None:
            _require_place(path, ending)


def _require_place(path: Path, ending: str) -> None:
    if path.is_dir():
        raise TorchwhyError(f"{path} is a folder: name a file in it, such as {path / f'explanation{ending}'}")
    if path.suffix.lower() != ending:
        raise TorchwhyError(f"the name of the file {path} should end in {ending}")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise TorchwhyError(f"cannot write {path}: {above} is no folder that you may write to")


def drawn(figure: Figure, path: Path) -> bytes:
    """The figure in the format that the ending of the path names."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150, bbox_inches="tight")
    return buffer.getvalue()
