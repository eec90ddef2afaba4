"""The command line. It knows no method by name: what there is to choose from it reads from the registry."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from torchwhy import registry
from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.explanation import Explanation
from torchwhy.core.files import write_atomically
from torchwhy.core.scores import Difference, LogOdds, Probability
from torchwhy.core.site import Site
from torchwhy.core.versions import versions
from torchwhy.data import Dataset, load_dataset, read_image, read_tensor, write_digits
from torchwhy.engines.noise import draws
from torchwhy.methods import Level, Method
from torchwhy.recommendation.settings import JUDGES
from torchwhy.registry import Info
from torchwhy.testing import Report
from torchwhy.train import EpochResult, TrainingConfig, load_checkpoint
from torchwhy.train import train as train_network

app = typer.Typer(
    help="Ask a PyTorch model why, and know whether to believe the answer.",
    epilog="To begin with: torchwhy demo",
    no_args_is_help=True,
    add_completion=False,  # every press of the tab key would wait for PyTorch
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Make and look at data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

DEFAULTS = TrainingConfig()
BACKGROUND_ROWS = 100
NAMED = 20  # classes
PICTURED = 16  # examples; a page of many more takes long to lay out
SCORES = {r"(.+) rather than (.+)": Difference, r"P\((.+)\)": Probability, "log-odds of (.+)": LogOdds}
PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all random numbers.")]


def main() -> None:
    """Run the command line; what is wrong with the input, or with a file, is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names can hold what a terminal cannot show
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `torchwhy methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (TorchwhyError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def _print_version(asked: bool) -> None:
    if asked:
        print(versions()["torchwhy"])
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


# -- demo -----------------------------------------------------------------------------------------------------


@app.command()
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
        print(json.dumps(summary, indent=2))


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
        low, high = f["range"]
        print(f"{f['path']}: {f['examples']} examples of shape {tuple(f['input_shape'])}")
        print(f"  values from {low:g} to {high:g}, preprocessing: {f['preprocessing']}")
        counts = [f"{name} ({n})" for name, n in zip(f["classes"], f["examples_per_class"], strict=True)]
        more = f", and {len(counts) - NAMED} more" if len(counts) > NAMED else ""
        print(f"  {len(counts)} classes (examples): {', '.join(counts[:NAMED])}{more}")


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
        print(
            f"To explain a decision: {shlex.join(['torchwhy', 'explain', str(out), str(test_path)])}", file=sys.stderr
        )
    if history.interrupted:
        raise typer.Exit(130)


# -- explain --------------------------------------------------------------------------------------------------


@app.command()
def explain(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A folder of checkpoints, or one of its files.")
    ],
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
    for path, ending in ((out, ".html"), (png, ".png"), (svg, ".svg"), (npz, ".npz"), (save, ".safetensors")):
        if path is not None:
            _require_place(path, ending)
    cls: type[Method] = registry.lookup(method)
    if not cls.info.standalone:
        raise TorchwhyError(
            f"{cls.__name__} goes around another method, so it is for Python: choose one that stands alone"
        )
    options = _parse_options(cls, option or [])
    model, record = load_checkpoint(checkpoint)
    inputs, dataset = _read(source, index, record.input_shape)
    explanation = cls(model, at=at, **options).explain(
        inputs,
        _baselines(cls, baseline, background, dataset),
        _target(target, record.classes),
        check=check,
        classes=record.classes,
    )
    from torchwhy.render import html

    files = {out: html.report([explanation], title=f"Why? {source.name}").encode()}
    for path in (png, svg):
        if path is not None:
            files[path] = _picture(explanation, path)
    if npz is not None:
        files[npz] = _arrays(explanation.values)
    for path, content in files.items():
        write_atomically(path, content)
    written = [*files, *([explanation.save(save)] if save is not None else [])]
    if as_json:
        print(json.dumps(explanation.as_dict() | {"written": [str(p) for p in written]}, indent=2))
        return
    for i, verdict in enumerate(explanation.verdicts):
        which = f"example {index[i]}" if index else f"example {i}"
        said = "predicts" if explanation.predicted else "explained for"
        print(f"{which}: {said} {explanation.target_name(i)} (score {explanation.scores[i]:.4g}); {verdict}")
    print(f"written: {', '.join(map(str, written))}")


def _require_place(path: Path, ending: str) -> None:
    """Refuse a file that cannot be written before the work rather than after it."""
    if path.is_dir():
        raise TorchwhyError(f"{path} is a folder: name a file in it, such as {path / f'explanation{ending}'}")
    if path.suffix.lower() != ending:
        raise TorchwhyError(f"the name of the file {path} should end in {ending}")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise TorchwhyError(f"cannot write {path}: {above} is no folder that you may write to")


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
        raise TorchwhyError(f"{path} has shape {tuple(tensor.shape)}, but the network takes {shape}, or many of those")
    for i in index or []:
        if not -len(tensor) <= i < len(tensor):
            raise TorchwhyError(
                f"there is no example {i} in {path}: it holds {len(tensor)}, numbered 0 to {len(tensor) - 1}"
            )
    return (tensor[index] if index else tensor).float(), dataset


def _target(text: str | None, classes: tuple[str, ...]) -> Any:
    """A class by name, else by number, a score as the record calls it, or a unit such as ``conv1[3,0,0]``."""
    if text is None:
        return None
    if text in classes:
        return classes.index(text)
    for form, score in SCORES.items():
        if found := re.fullmatch(form, text):
            return score(*(_target(name, classes) for name in found.groups()))
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
    if value is not None:
        raise TorchwhyError(f"{cls.__name__} compares with a set of examples: give --background instead of --baseline")
    rows = load_dataset(background) if background is not None else dataset
    if rows is None:
        raise TorchwhyError(
            f"{cls.__name__} compares with a set of examples: give one, such as --background train_data.pth"
        )
    return _background(rows)


def _background(rows: Dataset) -> Tensor:
    return rows.inputs[:: max(1, -(-len(rows) // BACKGROUND_ROWS))]


def _parse_options(cls: type[Method], given: list[str]) -> dict[str, Any]:
    """``n_steps=200`` as an option; values are JSON, or text where they are not."""
    known = _options(cls)
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise TorchwhyError(f"an option is written name=value, such as n_steps=200, not {text!r}")
        if name not in known:
            raise TorchwhyError(f"{cls.__name__} has no option {name!r}{closest(name, known)}")
        try:
            options[name] = _tuples(json.loads(PYTHON_WORDS.get(value, value)))
        except (ValueError, RecursionError):
            options[name] = value
        if isinstance(known[name], bool) and not isinstance(options[name], bool):
            raise TorchwhyError(f"the option {name} is true or false, not {value!r}")
    return options


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _picture(explanation: Explanation, path: Path) -> bytes:
    buffer = io.BytesIO()
    figure = explanation.plot(examples=PICTURED)
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150, bbox_inches="tight")
    return buffer.getvalue()


def _arrays(values: Tensor | tuple[Tensor, ...]) -> bytes:
    import numpy as np

    parts = (values,) if isinstance(values, Tensor) else values
    arrays = {"values" if len(parts) == 1 else f"values_{i}": t.float().cpu().numpy() for i, t in enumerate(parts)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for options
    return buffer.getvalue()


# -- compare --------------------------------------------------------------------------------------------------


@app.command()
def compare(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A folder of checkpoints, or one of its files.")
    ],
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

    _require_place(out, ".html")
    model, record = load_checkpoint(checkpoint)
    inputs, dataset = _read(source, None, record.input_shape)
    if dataset is not None:
        drawn = torch.randperm(len(dataset), generator=draws(seed))[:examples]
        inputs = dataset.inputs[drawn].float()
    found = recommend(
        model,
        inputs,
        _target(target, record.classes),
        methods=method,
        metrics=metric,
        budget=budget,
        baselines=baseline,
        background=None if background is None else _background(load_dataset(background)),
        seed=seed,
    )
    found.save(out)
    if as_json:
        print(json.dumps(found.as_dict() | {"written": [str(out)]}, indent=2))
        return
    from rich.console import Console

    print("\n".join(found.sentences))
    Console(markup=False, highlight=False).print(found.table())
    print(f"written: {out}")


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
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(markup=False, highlight=False)
    if name is None:
        table = Table(
            Column("method", style="bold", no_wrap=True), "what it shows, needs, promises and costs", box=SIMPLE_HEAD
        )
        for label, cls in chosen.items():
            table.add_row(label, _told(cls.info))
        console.print(table)
        console.print("One method with its options: torchwhy methods NAME")
        return
    for label, cls in chosen.items():
        console.print(label, style="bold")
        console.print(_told(cls.info))
        console.print(f"{cls.info.paper}, {cls.info.year}")
        table = Table("option", "default", box=SIMPLE_HEAD)
        for option, default in _options(cls).items():
            table.add_row(option, json.dumps(default))
        console.print(table)


# -- selftest -------------------------------------------------------------------------------------------------


@app.command()
def selftest(
    name: Annotated[str | None, typer.Argument(help="Test one method, and show every case.")] = None,
    as_json: Json = False,
) -> None:
    """Hold the methods to what they promise, on models with known answers; exit code 1 if a promise is broken."""
    from torchwhy.testing import selftest as hold

    reports = hold(name)
    ok = all(report.ok for report in reports.values())
    if as_json:
        print(json.dumps({"ok": ok, "methods": [report.as_dict() for report in reports.values()]}, indent=2))
    elif name is not None:
        print(*reports.values(), sep="\n")
    else:
        _show_reports(reports)
    if not ok:
        raise typer.Exit(1)


def _show_reports(reports: dict[str, Report]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(markup=False, highlight=False)
    table = Table(Column("method", style="bold", no_wrap=True), "promises", "on all cases", box=SIMPLE_HEAD)
    for label, report in reports.items():
        broken = ", ".join(f"{r.check} on {r.case!r}" for r in report.failed) or ("" if report.ok else "all is refused")
        promised = "broken: " + broken if broken else "kept" if any(r.claimed for r in report.rows) else "none"
        found = "; ".join([*([", ".join(report.keeps)] if report.keeps else []), *(f"= {c}" for c in report.computes)])
        refused = f"{len(report.refused)} of {len(report.rows)} checks refused" if report.refused else ""
        table.add_row(label, "" if report.skipped else promised, found or report.skipped or refused or "nothing")
    console.print(table)
    console.print("One method, case by case: torchwhy selftest NAME")


def _told(info: Info) -> str:
    promised = ", ".join(info.promises) or "nothing"
    return f"{info.summary}\nneeds {info.needs}; promises {promised}; costs {info.cost} per example"


def _facts(cls: type[Method]) -> dict[str, Any]:
    return {"name": cls.__name__, **dataclasses.asdict(cls.info), "options": _options(cls)}


def _options(cls: type[Method]) -> dict[str, Any]:
    """A method's options and their defaults."""
    hidden = {"at", "progress"}
    fields = (f for f in dataclasses.fields(cls) if f.init and f.default is not dataclasses.MISSING)
    return {f.name: f.default for f in fields if f.name not in hidden}
