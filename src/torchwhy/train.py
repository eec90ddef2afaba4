"""Train a classifier, measure it after every epoch, and keep what is needed to load it or to go on.

A checkpoint is two files: `NAME.safetensors` (weights) and `NAME.json` (everything else, with the SHA-256 of
the weights). Replacing the JSON file makes a new checkpoint valid; until then the weights that the old one
names are kept, so a crash at any moment leaves a checkpoint that loads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchwhy.core.errors import TorchwhyError, closest
from torchwhy.core.files import write_atomically
from torchwhy.core.progress import Progress
from torchwhy.core.versions import versions
from torchwhy.data import Dataset
from torchwhy.networks import NETWORKS

_FORMAT = 1
_SMALL_BATCH = 2**14
_STATE = "training."  # no parameter can have this prefix: `Module.training` is a flag, so never a child


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: stochastic gradient descent on the cross-entropy, in shuffled batches.

    Attributes:
        epochs: passes over the training data.
        lr: learning rate.
        batch_size: examples per step; the last batch of an epoch may be smaller.
        momentum: of SGD; 0 is plain SGD.
        seed: of the initial weights and of the shuffling.
        network: a name in `torchwhy.networks.NETWORKS`.
    """

    epochs: int = 150
    lr: float = 0.01
    batch_size: int = 32
    momentum: float = 0.0
    seed: int = 0
    network: str = "ConvNet"

    def __post_init__(self) -> None:
        expected = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "a positive number"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "momentum": (0 <= self.momentum < 1, "at least 0 and below 1"),
            "seed": (0 <= self.seed < 2**63, "at least 0 and below 2**63"),
        }
        for name, (fits, wanted) in expected.items():
            if not fits:
                raise TorchwhyError(f"{name} is {getattr(self, name)}; expected {wanted}")
        if self.network not in NETWORKS:
            raise TorchwhyError(f"unknown network {self.network!r}{closest(self.network, NETWORKS)}")


@dataclass(frozen=True)
class EpochResult:
    """What one epoch reached.

    Attributes:
        epoch: number of the epoch, from 1.
        train_loss: mean loss over the training examples, each before the step its batch led to.
        test_loss: mean loss over the test examples after the epoch.
        accuracy: share of the test examples classified correctly, 0 to 1.

    >>> print(EpochResult(epoch=3, train_loss=0.1, test_loss=0.1234, accuracy=0.975))
    Epoch 3, Test Loss: 0.1234, Accuracy: 97.50%
    """

    epoch: int
    train_loss: float
    test_loss: float
    accuracy: float

    def __str__(self) -> str:
        return f"Epoch {self.epoch}, Test Loss: {self.test_loss:.4f}, Accuracy: {100 * self.accuracy:.2f}%"


@dataclass
class History:
    """The completed epochs, and whether Ctrl-C ended the training early."""

    epochs: list[EpochResult] = field(default_factory=list)
    interrupted: bool = False

    @property
    def best(self) -> EpochResult | None:
        """The epoch of highest test accuracy; the lower loss, then the earlier epoch, decides a tie.

        Chosen on the test data, so its accuracy is optimistic for new data.
        """
        return max(self.epochs, key=lambda e: (e.accuracy, -e.test_loss), default=None)


@dataclass(frozen=True)
class Checkpoint:
    """What is known about saved weights.

    Attributes:
        input_shape: shape of one input; the network is built from it and the number of classes.
        classes: class names, in the order of the outputs.
        preprocessing: what was done to the training inputs, in words.
        config: how it was trained: the network's name, the seed and the rest.
        epochs: results of every epoch up to these weights.
        data: SHA-256 of the training and of the test data.
        versions: of torchwhy, torch and Python.
        sha256: of the weights file.
    """

    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    preprocessing: str
    config: TrainingConfig
    epochs: tuple[EpochResult, ...]
    data: Mapping[str, str]
    versions: Mapping[str, str]
    sha256: str = ""

    @property
    def result(self) -> EpochResult:
        """What these weights reached."""
        return self.epochs[-1]


def train(
    train_set: Dataset,
    test_set: Dataset,
    out_dir: str | os.PathLike[str],
    config: TrainingConfig | None = None,
    *,
    resume: bool = False,
    on_epoch: Callable[[EpochResult], object] | None = None,
    progress: bool = True,
) -> History:
    """Train a network and write the checkpoints `last` and `best` to `out_dir` after each epoch.

    The same seed, data and machine give the same weights, bit for bit, also when the training was interrupted
    and resumed. PyTorch's global random numbers are left as they were.

    Args:
        train_set: what to learn.
        test_set: what to measure after each epoch; `best` is chosen on it.
        out_dir: folder of the checkpoints.
        config: how; by default `TrainingConfig()`.
        resume: go on from `last` in `out_dir`, made from the same data and settings (`epochs` may differ).
        on_epoch: called with each `EpochResult`, once its checkpoint is written.
        progress: show a progress bar, on a terminal.

    Returns:
        The history. Ctrl-C ends it early, with `interrupted` set and the last full epoch kept.

    Raises:
        TorchwhyError: data that do not fit each other or the network; a loss that is not finite; nothing to
            resume.

    >>> import tempfile
    >>> from torchwhy.data import digits
    >>> history = train(*digits(), tempfile.mkdtemp(), TrainingConfig(epochs=2, lr=0.1))
    >>> [result.epoch for result in history.epochs]
    [1, 2]
    """
    config = config or TrainingConfig()
    out = Path(out_dir)
    _check_same_task(train_set, test_set)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        model = NETWORKS[config.network](train_set.input_shape, len(train_set.classes))
        shuffle = torch.Generator()
        shuffle.set_state(torch.get_rng_state())
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    record = Checkpoint(
        input_shape=train_set.input_shape,
        classes=train_set.classes,
        preprocessing=train_set.preprocessing,
        config=config,
        epochs=(),
        data={"train": train_set.fingerprint, "test": test_set.fingerprint},
        versions=versions(),
    )
    if resume:
        if not (out / "last.json").exists():
            raise TorchwhyError(f"{out} has no last.json to resume from; train without resuming first")
        record = _resume(out / "last.json", record, model, optimizer, shuffle)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TorchwhyError(f"cannot write to {out}: {error.strerror}; name another folder") from error
    history = History(list(record.epochs))
    first = len(history.epochs) + 1
    # The bar is on standard error; while it is shown, rich sends what is printed there as well.
    bar = Progress(progress and all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr)))
    values = config.batch_size * math.prod(train_set.input_shape)
    try:
        with (
            _few_threads(values),
            bar.task("training", (config.epochs + 1 - first) * len(train_set)) as advance,
        ):
            for epoch in range(first, config.epochs + 1):
                train_loss = _run_epoch(model, optimizer, train_set, config, shuffle, advance)
                test_loss, accuracy = evaluate(model, test_set)
                _require_finite(test_loss, config)
                result = EpochResult(epoch, train_loss, test_loss, accuracy)
                done = [*history.epochs, result]
                record = replace(record, epochs=tuple(done))
                weights = model.state_dict()
                if History(done).best is result:  # before `last`, so that resuming repairs a crash in between
                    _save(out, "best", weights, record)
                _save(out, "last", weights | _training_state(model, optimizer, shuffle), record)
                history.epochs = done
                if on_epoch:
                    on_epoch(result)
    except KeyboardInterrupt:
        history.interrupted = True
    return history


def fit(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    shuffle: torch.Generator | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Train a network of any kind in place as `train` does, without measuring it or keeping anything.

    Args:
        model: its parameters that require a gradient are trained.
        dataset: what to learn.
        config: how; `network` is not looked at.
        shuffle: draws the batches; by default from the seed.
        advance: called with the number of examples of each step.

    Raises:
        TorchwhyError: a loss that is not finite.

    >>> data = Dataset(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), ("left", "right"))
    >>> model = nn.Linear(1, 2)
    >>> fit(model, data, TrainingConfig(epochs=50, lr=1.0))
    >>> evaluate(model, data)[1]
    1.0
    """
    shuffle = shuffle or torch.Generator().manual_seed(config.seed)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=config.lr, momentum=config.momentum)
    with _few_threads(config.batch_size * math.prod(dataset.input_shape)):
        for _ in range(config.epochs):
            _run_epoch(model, optimizer, dataset, config, shuffle, advance)


def evaluate(model: nn.Module, dataset: Dataset, batch_size: int = 512) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over all examples, in evaluation mode; the model's mode is put back.

    Every example counts the same, also in a last batch that is smaller.
    """
    was_training = model.training
    model.eval()
    loss, correct = 0.0, 0
    try:
        with torch.no_grad():
            for x, y in zip(dataset.inputs.split(batch_size), dataset.labels.split(batch_size), strict=True):
                logits = model(x)
                loss += nn.functional.cross_entropy(logits, y, reduction="none").double().sum().item()
                correct += int((logits.argmax(1) == y).sum())
    finally:
        model.train(was_training)
    return loss / len(dataset), correct / len(dataset)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[nn.Module, Checkpoint]:
    """A trained network in evaluation mode, and what is known about it.

    Args:
        path: a folder (its `best` checkpoint), or a checkpoint's `.json` or `.safetensors` file.

    Raises:
        TorchwhyError: missing, damaged or mismatching files; an unknown network.
    """
    place = Path(path)
    if place.suffix not in ("", ".json", ".safetensors") and not place.is_dir():
        raise TorchwhyError(f"{place} is no checkpoint; expected a folder, a .json or a .safetensors file")
    if not place.exists() and not place.with_suffix(".json").exists():
        raise TorchwhyError(
            f"{place} not found; expected a folder of checkpoints, as `torchwhy train` writes it, or one of its files"
        )
    file = place / "best.json" if place.is_dir() else place.with_suffix(".json")
    record, tensors = _read(file)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_STATE)}
    try:
        with torch.device("meta"):  # neither memory nor random numbers for weights about to be replaced
            model = NETWORKS[record.config.network](record.input_shape, len(record.classes))
        model.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TorchwhyError(f"{file} does not describe its weights: {_one_line(error)}") from error
    return model.eval(), record


def _check_same_task(train_set: Dataset, test_set: Dataset) -> None:
    if train_set.input_shape != test_set.input_shape:
        raise TorchwhyError(
            f"training inputs have shape {train_set.input_shape}, test inputs {test_set.input_shape}; "
            "prepare both in the same way"
        )
    if test_set.classes != train_set.classes[: len(test_set.classes)]:
        raise TorchwhyError(
            f"the test data have {_classes(test_set)}, the training data {_classes(train_set)}; "
            "both need the same classes in the same order"
        )


def _classes(dataset: Dataset) -> str:
    names = dataset.classes
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _run_epoch(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    data: Dataset,
    config: TrainingConfig,
    shuffle: torch.Generator,
    advance: Callable[[int], None],
) -> float:
    """One pass over the data in shuffled batches; the mean loss over the examples."""
    model.train()
    total = 0.0
    for rows in torch.randperm(len(data), generator=shuffle).split(config.batch_size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data.inputs[rows]), data.labels[rows])
        _require_finite(loss.item(), config)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
        advance(len(rows))
    return total / len(data)


@contextmanager
def _few_threads(values: int) -> Iterator[None]:
    """One thread where a batch is small: more save a quarter at best, and cost tenfold on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if values <= _SMALL_BATCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _require_finite(loss: float, config: TrainingConfig) -> None:
    if not math.isfinite(loss):
        raise TorchwhyError(f"the loss became {loss} with lr={config.lr:g}: train with a lower learning rate")


# --- checkpoint files --------------------------------------------------------------------------------------


def _save(out: Path, name: str, tensors: Mapping[str, Tensor], record: Checkpoint) -> None:
    from safetensors.torch import save

    file, weights, aside = _files(out / f"{name}.json")
    data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
    with suppress(OSError, ValueError, TypeError, KeyError):  # no, or no valid, checkpoint to keep
        if _sha256(weights.read_bytes()) == json.loads(file.read_bytes())["sha256"]:
            weights.replace(aside)
    content = {"format": _FORMAT, **asdict(replace(record, sha256=_sha256(data)))}
    write_atomically(weights, data)
    write_atomically(file, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    aside.unlink(missing_ok=True)


def _read(file: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The record in a JSON file and the tensors whose hash it holds."""
    try:
        record = _parse(json.loads(file.read_bytes()))
    except FileNotFoundError as error:
        raise TorchwhyError(f"{file} not found; expected a checkpoint of `torchwhy train`") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = _one_line(error)
        raise TorchwhyError(f"{file} is damaged or no checkpoint ({reason}); train again") from error
    _, weights, aside = _files(file)
    for place in (weights, aside):
        with suppress(OSError):
            data = place.read_bytes()
            if _sha256(data) == record.sha256:
                return record, _tensors(data, place)
    problem = f"not what {file.name} describes (truncated or replaced)" if weights.exists() else "missing"
    raise TorchwhyError(f"{weights} is {problem}; restore it, use another checkpoint or train again")


def _tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise TorchwhyError(f"{path} is no safetensors file ({_one_line(error)}); train again") from error


def _files(file: Path) -> tuple[Path, Path, Path]:
    """The record, its weights, and where the weights are kept while newer ones are being written."""
    return file, file.with_suffix(".safetensors"), file.with_suffix(".previous.safetensors")


def _parse(content: Any) -> Checkpoint:
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise TorchwhyError(f'its "format" is not {_FORMAT}')
    content["input_shape"] = tuple(content["input_shape"])
    content["classes"] = tuple(content["classes"])
    content["config"] = TrainingConfig(**content["config"])
    content["epochs"] = tuple(EpochResult(**result) for result in content["epochs"])
    if not content["epochs"]:
        raise TorchwhyError("it has no epochs")
    return Checkpoint(**content)


def _training_state(model: nn.Module, optimizer: torch.optim.SGD, shuffle: torch.Generator) -> dict[str, Tensor]:
    """What the next step needs besides the weights."""
    state = {f"{_STATE}shuffle": shuffle.get_state()}
    for name, parameter in model.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            state[f"{_STATE}momentum.{name}"] = momentum
    return state


def _resume(
    file: Path, fresh: Checkpoint, model: nn.Module, optimizer: torch.optim.SGD, shuffle: torch.Generator
) -> Checkpoint:
    """Bring model, optimizer and shuffling to where `file` left off; the record to go on with."""
    saved, tensors = _read(file)
    before, now = asdict(saved.config), asdict(fresh.config)
    if changed := [name for name in before if name != "epochs" and before[name] != now[name]]:
        old, new = (", ".join(f"{name}={settings[name]}" for name in changed) for settings in (before, now))
        raise TorchwhyError(f"{file} was trained with {old}, not {new}; resume with the same or start anew")
    if (saved.data, saved.classes) != (fresh.data, fresh.classes):
        raise TorchwhyError(f"{file} was trained on other data; resume with the same data or start anew")
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_STATE)}
    try:
        model.load_state_dict(weights)
        shuffle.set_state(tensors[f"{_STATE}shuffle"])
        if fresh.config.momentum:
            for name, parameter in model.named_parameters():
                optimizer.state[parameter]["momentum_buffer"] = tensors[f"{_STATE}momentum.{name}"]
    except (KeyError, RuntimeError) as error:
        raise TorchwhyError(f"{file} does not hold a training to resume: {_one_line(error)}") from error
    return replace(fresh, epochs=saved.epochs)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
