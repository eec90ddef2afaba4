"""The command line. It knows no method by name: what there is to choose from it reads from the registry."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from torchwhy import registry
from torchwhy.api import explain as explain_model
from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.files import write_atomically
from torchwhy.core.site import Site
from torchwhy.core.versions import versions
from torchwhy.data import Dataset, load_dataset, read_image, read_tensor, write_digits
from torchwhy.methods import Level, Method
from torchwhy.train import EpochResult, TrainingConfig, load_checkpoint
from torchwhy.train import train as train_network

app = typer.Typer(
    help="Ask a PyTorch model why, and know whether to believe the answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Make and look at data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

DEFAULTS = TrainingConfig()
BACKGROUND_ROWS = 100

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Seed = Annotated[int, typer.Option(help="Of all random numbers.")]


def main() -> None:
    """Run the command line; what is wrong with the input is one line and exit code 2."""
    try:
        app()
    except TorchwhyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(versions()["torchwhy"])
        raise typer.Exit


# -- data -----------------------------------------------------------------------------------------------------


@data_app.command("digits")
def data_digits(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write scikit-learn's handwritten digits as train_data.pth and test_data.pth."""
    paths = write_digits(out, seed)
    _describe([(path, load_dataset(path)) for path in paths], as_json)


@data_app.command("show")
def data_show(
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
        print(json.dumps(facts, indent=2))
        return
    for f in facts:
        print(f"{f['path']}: {f['examples']} examples of shape {tuple(f['input_shape'])}, {len(f['classes'])} classes")


# -- train ----------------------------------------------------------------------------------------------------


@app.command()
def train(
    train_path: Annotated[Path, typer.Option("--train", help="Training data: a .pth file or a folder.")] = Path(
        "train_data.pth"
    ),
    test_path: Annotated[Path, typer.Option("--test", help="Test data: a .pth file or a folder.")] = Path(
        "test_data.pth"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path("checkpoints"),
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = DEFAULTS.epochs,
    lr: Annotated[float, typer.Option(help="Learning rate of SGD.")] = DEFAULTS.lr,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = DEFAULTS.batch_size,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = DEFAULTS.momentum,
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
        print(json.dumps(record, indent=2))
    elif best is not None:
        kept = "Stopped; the last full epoch is kept, go on with --resume. " if history.interrupted else ""
        print(f"{kept}Best: epoch {best.epoch} with {100 * best.accuracy:.2f}%, in {out}", file=sys.stderr)
    if history.interrupted:
        raise typer.Exit(130)


# -- methods --------------------------------------------------------------------------------------------------


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show one method with its options.")] = None,
    as_json: Json = False,
) -> None:
    """List the methods: what each is, needs, promises and costs."""
    chosen = registry.methods() if name is None else {(cls := registry.lookup(name)).__name__: cls}
    if as_json:
        print(json.dumps([_facts(cls) for cls in chosen.values()], indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    if name is not None:
        for cls in chosen.values():
            info = cls.info
            console.print(f"[bold]{cls.__name__}[/]: {info.summary}", highlight=False)
            console.print(f"{info.paper}, {info.year}\n", highlight=False)
            table = Table("option", "default")
            for option, default in _options(cls).items():
                table.add_row(option, json.dumps(default))
            console.print(table)
        return
    table = Table(
        Column("method", no_wrap=True),
        "what it shows",
        "needs",
        "promises",
        "cost per example",
        show_lines=True,
    )
    for label, cls in chosen.items():
        info = cls.info
        table.add_row(label, info.summary, info.needs, ", ".join(info.promises) or "nothing", info.cost)
    console.print(table)
    console.print("One method and its options: torchwhy methods NAME", highlight=False)


def _facts(cls: type[Method]) -> dict[str, Any]:
    return {"name": cls.__name__, **dataclasses.asdict(cls.info), "options": _options(cls)}


def _options(cls: type[Method]) -> dict[str, Any]:
    """A method's options and their defaults."""
    common = {f.name for f in dataclasses.fields(Method)} - {"batch_size"}
    return {f.name: f.default for f in dataclasses.fields(cls) if f.init and f.name not in common | {"method"}} | (
        {"method": cls.method} if hasattr(cls, "method") else {}
    )


# -- explain --------------------------------------------------------------------------------------------------


@app.command()
def explain(
    checkpoint: Annotated[Path, typer.Argument(help="A folder of checkpoints, or one of its files.")],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="A .pth data set (with --index), a PNG or JPEG image, a .npy or .pt tensor."
        ),
    ],
    index: Annotated[list[int] | None, typer.Option(help="Which examples of the data set; may be repeated.")] = None,
    method: Annotated[str, typer.Option(help="See: torchwhy methods.")] = "IntegratedGradients",
    at: Annotated[str | None, typer.Option(help="Explain at this layer, such as conv2, instead of the input.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="A class number or name, or a unit such as 'conv1[3,0,0]'; by default what the network predicts."
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An option of the method, such as n_steps=200.")
    ] = None,
    baseline: Annotated[float | None, typer.Option(help="The value that stands for 'absent'.")] = None,
    background: Annotated[
        Path | None, typer.Option(help="A data set to compare with, for methods that take one.")
    ] = None,
    check: Annotated[Level, typer.Option(help="How much evidence to gather.")] = "basic",
    out: Annotated[Path, typer.Option(help="The report to write.")] = Path("explanation.html"),
    png: Annotated[Path | None, typer.Option(help="Write a picture as well.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Write a vector picture as well.")] = None,
    npz: Annotated[Path | None, typer.Option(help="Write the numbers as NumPy arrays as well.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the whole explanation as safetensors as well.")] = None,
    as_json: Json = False,
) -> None:
    """Explain a network's decision, and say whether to believe the explanation."""
    model, record = load_checkpoint(checkpoint)
    inputs, dataset = _read(source, index, record.input_shape)
    cls: type[Method] = registry.lookup(method)
    explanation = explain_model(
        model,
        inputs,
        _target(target, record.classes),
        method=cls,
        at=at,
        baselines=_baselines(cls, baseline, background, dataset),
        check=check,
        classes=record.classes,
        **_parse_options(cls, option or []),
    )
    from torchwhy.render import html

    html.write(html.report([explanation], title=f"Why? {source.name}"), out)
    written = [out]
    pictures = [path for path in (png, svg) if path is not None]
    written += [_write_figure(explanation.plot(examples=len(explanation)), path) for path in pictures]
    if npz is not None:
        written.append(_write_npz(explanation.values, npz))
    if save is not None:
        written.append(explanation.save(save))
    if as_json:
        print(json.dumps(explanation.as_dict() | {"written": [str(p) for p in written]}, indent=2))
        return
    for i, verdict in enumerate(explanation.verdicts):
        which = f"example {index[i]}" if index else f"example {i}"
        said = "predicts" if explanation.predicted else "explained for"
        print(f"{which}: {said} {explanation.target_name(i)} (score {explanation.scores[i]:.4g}); {verdict}")
    print(f"written: {', '.join(map(str, written))}")


def _read(path: Path, index: list[int] | None, shape: tuple[int, ...]) -> tuple[Tensor, Dataset | None]:
    """Inputs (B, ...) for a network, and the data set they are from."""
    if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"):
        if index:
            raise TorchwhyError(f"{path} is one image: leave --index out")
        return read_image(path, shape)[None], None
    tensor = read_tensor(path)
    dataset = None
    if tensor is None:
        dataset = load_dataset(path, part="test")
        tensor = dataset.inputs
        index = index or [0]
    elif tuple(tensor.shape) == shape:
        tensor = tensor[None]
    if tuple(tensor.shape[1:]) != shape:
        raise TorchwhyError(f"{path} holds inputs of shape {tuple(tensor.shape[1:])}, but the network takes {shape}")
    for i in index or []:
        if not -len(tensor) <= i < len(tensor):
            raise TorchwhyError(
                f"there is no example {i} in {path}: it holds {len(tensor)}, numbered 0 to {len(tensor) - 1}"
            )
    return (tensor[index] if index else tensor), dataset


def _target(text: str | None, classes: tuple[str, ...]) -> Any:
    """A class by number or name, or a unit such as ``conv1[3,0,0]``."""
    if text is None:
        return None
    if text in classes:
        return classes.index(text)
    try:
        return int(text)
    except ValueError:
        pass
    layer, bracket, rest = text.partition("[")
    if bracket and rest.endswith("]"):
        try:
            return Site(layer, unit=tuple(int(i) for i in rest[:-1].split(",")))
        except ValueError as error:
            raise TorchwhyError(f"target {text!r}: a unit is whole numbers, such as conv1[3,0,0]") from error
    raise TorchwhyError(f"there is no class {text!r}{closest(text, classes)}")


def _baselines(cls: type[Method], value: float | None, background: Path | None, dataset: Dataset | None) -> Any:
    """What to compare with, in the form the method takes."""
    wants = cls.info.baselines
    if wants == "none" and (value is not None or background is not None):
        raise TorchwhyError(f"{cls.__name__} compares with nothing: leave --baseline and --background out")
    if wants != "set":
        if background is not None:
            raise TorchwhyError(f"{cls.__name__} compares with one value: give --baseline instead of --background")
        return value
    rows = load_dataset(background) if background is not None else dataset
    if rows is None:
        raise TorchwhyError(f"{cls.__name__} compares with a set of examples: give --background train_data.pth")
    return rows.inputs[:: max(1, -(-len(rows) // BACKGROUND_ROWS))]


def _parse_options(cls: type[Method], given: list[str]) -> dict[str, Any]:
    """``n_steps=200`` as an option; values are JSON, or text where they are not."""
    known = _options(cls)
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise TorchwhyError(f"--option {text!r} should be name=value")
        if name not in known:
            raise TorchwhyError(f"{cls.__name__} has no option {name!r}{closest(name, known)}")
        try:
            options[name] = _tuples(json.loads(value))
        except json.JSONDecodeError:
            options[name] = value
    return options


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _write_figure(figure: Any, path: Path) -> Path:
    from io import BytesIO

    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise TorchwhyError(f"{path}: a picture ends in .png, .svg or .pdf")
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight")
    write_atomically(path, buffer.getbuffer())
    return path


def _write_npz(values: Tensor | tuple[Tensor, ...], path: Path) -> Path:
    from io import BytesIO

    import numpy as np

    parts = (values,) if isinstance(values, Tensor) else values
    arrays = {"values" if len(parts) == 1 else f"values_{i}": t.float().cpu().numpy() for i, t in enumerate(parts)}
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for options
    write_atomically(path, buffer.getbuffer())
    return path


# -- demo -----------------------------------------------------------------------------------------------------


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("torchwhy-demo"),
    vision: Annotated[
        bool,
        typer.Option("--vision", help="Explain an ImageNet network on photographs instead (extra: vision)."),
    ] = False,
    epochs: Annotated[int, typer.Option(help="Of the training.")] = DEFAULTS.epochs,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a network on real digits, explain its decisions by many methods, and write a report."""
    from torchwhy import demo as story

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    summary = story.vision(out, say) if vision else story.digits(out, say, epochs=epochs, seed=seed)
    if as_json:
        print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
