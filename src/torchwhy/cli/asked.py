"""What a user writes on the command line, as what a method takes: inputs, a target, what to compare with, options."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.scores import Difference, LogOdds, Probability
from torchwhy.core.site import Site
from torchwhy.data import Dataset, load_dataset, read_image, read_tensor
from torchwhy.methods import Method

BACKGROUND_ROWS = 100
SCORES = {r"(.+) rather than (.+)": Difference, r"P\((.+)\)": Probability, "log-odds of (.+)": LogOdds}
PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def read(path: Path, index: list[int] | None, shape: tuple[int, ...]) -> tuple[Tensor, Dataset | None]:
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


def target(text: str | None, classes: tuple[str, ...]) -> Any:
    """A class by name, else by number, a score as the record calls it, or a unit such as ``conv1[3,0,0]``."""
    if text is None:
        return None
    if text in classes:
        return classes.index(text)
    for form, score in SCORES.items():
        if found := re.fullmatch(form, text):
            return score(*(target(name, classes) for name in found.groups()))
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


def baselines(cls: type[Method], value: float | None, background: Path | None, dataset: Dataset | None) -> Any:
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
    return background_of(rows)


def background_of(rows: Dataset) -> Tensor:
    """Some of a data set to compare with, evenly spaced."""
    return rows.inputs[:: max(1, -(-len(rows) // BACKGROUND_ROWS))]


def parse_options(cls: type[Method], given: list[str]) -> dict[str, Any]:
    """``n_steps=200`` as an option; values are JSON, or text where they are not."""
    known = options_of(cls)
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


def options_of(cls: type[Method]) -> dict[str, Any]:
    """A method's options and their defaults."""
    hidden = {"at", "progress"}
    fields = (f for f in dataclasses.fields(cls) if f.init and f.default is not dataclasses.MISSING)
    return {f.name: f.default for f in fields if f.name not in hidden}
