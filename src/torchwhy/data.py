"""Labelled data sets: read safely from the files people have, checked once, written without surprises.

Read: `.pth` files of tensors, idx files (MNIST and its relatives) and a folder of images per class. No code
in them is run, sizes are checked before memory is spent, and a `Dataset` that exists is not empty, is finite
and is labelled within its classes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from torchwhy.core.errors import TorchwhyError
from torchwhy.core.files import write_atomically

MAX_BYTES = 4 * 2**30
"""The largest data set read, in bytes of its file and of its float32 inputs."""

MAX_CLASSES = 100_000
"""The most classes inferred from labels; more means that the labels are not class numbers."""

Split = Literal["train", "test"]

_INPUT_KEYS = ("inputs", "images", "data", "x")
_LABEL_KEYS = ("labels", "targets", "y")
_IMAGE_FORMATS = ("PNG", "JPEG", "BMP")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_IDX_SPLITS = {"train": ("train",), "test": ("t10k", "test")}
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs with one label each; checked when made.

    Attributes:
        inputs: `(N, ...)` float tensor; images are `(N, channels, height, width)`.
        labels: `(N,)` int64 tensor of class numbers.
        classes: name of each class.
        preprocessing: what was done to the raw data, in words.
        name: where the data are from; error messages begin with it.

    Raises:
        TorchwhyError: no examples, NaN or infinite inputs, labels that do not fit inputs or classes.

    >>> Dataset(torch.zeros(3, 1, 8, 8), torch.tensor([0, 2, 1]), ("cat", "dog"), name="pets")
    Traceback (most recent call last):
        ...
    torchwhy.core.errors.TorchwhyError: pets: example 1 has label 2, but there are 2 classes, 0 to 1
    """

    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    preprocessing: str = "none"
    name: str = "data set"

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise TorchwhyError(f"{self.name}: {problem}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the inputs and labels."""
        digest = hashlib.sha256(str(tuple(self.inputs.shape)).encode())
        for tensor in (self.inputs, self.labels):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _problem(self) -> str | None:
        inputs, labels = self.inputs, self.labels
        if inputs.numel() == 0:
            return f"the data set is empty: its inputs have shape {tuple(inputs.shape)}; expected (N, ...)"
        if inputs.ndim < 2:
            return f"inputs have shape {tuple(inputs.shape)}; expected (N, ...), one row per example"
        if not inputs.is_floating_point():
            return f"inputs are {_dtype(inputs)}; expected floats, or uint8 pixels"
        if labels.dtype != torch.int64:
            return f"labels are {_dtype(labels)}; expected whole class numbers (int64)"
        if labels.ndim != 1:
            return f"labels have shape {tuple(labels.shape)}; expected (N,), one class number per example"
        if len(labels) != len(inputs):
            return f"{len(inputs)} inputs but {len(labels)} labels; expected one label per input"
        if (bad := ~inputs.isfinite()).any():
            first, *position = bad.nonzero()[0].tolist()
            where = f"the first in example {first} at {tuple(position)}"
            return f"{int(bad.sum())} input values are NaN or infinite, {where}: repair or remove them"
        if (bad := (labels < 0) | (labels >= len(self.classes))).any():
            first = int(bad.nonzero()[0])
            known = f"there are {len(self.classes)} classes, 0 to {len(self.classes) - 1}"
            return f"example {first} has label {int(labels[first])}, but {known}"
        return None


def from_tensors(
    inputs: Tensor,
    labels: Tensor,
    classes: Sequence[str] | None = None,
    preprocessing: str = "none",
    name: str = "data set",
) -> Dataset:
    """A `Dataset` of raw tensors: floats become float32, uint8 pixels are divided by 255.

    Args:
        inputs: `(N, ...)`; uint8 `(N, height, width)` gains a channel dimension.
        labels: `(N,)` of any integer dtype.
        classes: names; without them the classes are numbered 0 to the largest label.
        preprocessing: what was already done.
        name: where the data are from.

    Raises:
        TorchwhyError: as `Dataset`; tensors that are not plain, or more than `MAX_BYTES`.

    >>> pixels = from_tensors(torch.tensor([[[0, 255], [51, 0]]], dtype=torch.uint8), torch.tensor([1]))
    >>> pixels.inputs.tolist(), pixels.classes, pixels.preprocessing
    ([[[[0.0, 1.0], [0.20000000298023224, 0.0]]]], ('0', '1'), 'pixels / 255')
    """
    for role, tensor in (("inputs", inputs), ("labels", labels)):
        _require_plain(tensor, role, name)
    if inputs.dtype == torch.uint8:
        inputs = (inputs.unsqueeze(1) if inputs.ndim == 3 else inputs) / 255
        preprocessing = "pixels / 255" if preprocessing == "none" else f"{preprocessing}, pixels / 255"
    elif inputs.is_floating_point():
        inputs = inputs.detach().float()
    if not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool):
        labels = labels.long()
    if classes is None:
        largest = int(labels.max()) if labels.numel() and labels.dtype == torch.int64 else 0
        if largest >= MAX_CLASSES:
            raise TorchwhyError(f"{name}: label {largest} is no class number; expected 0, 1, 2, ...")
        classes = [str(i) for i in range(largest + 1)]
    return Dataset(inputs.contiguous(), labels.contiguous(), tuple(classes), preprocessing, name)


def split(dataset: Dataset, test_fraction: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Divide a data set at random into a training and a test part with the same share of every class.

    Every class gives `round(test_fraction * its size)` examples to the test part. Both keep their order.

    >>> data = from_tensors(torch.randn(20, 3), torch.arange(20) % 2)
    >>> train, test = split(data, 0.3)
    >>> train.labels.bincount().tolist(), test.labels.bincount().tolist()
    ([7, 7], [3, 3])
    """
    if not 0 < test_fraction < 1:
        raise TorchwhyError(f"the test fraction is {test_fraction}; expected a number between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    in_test = torch.zeros(len(dataset), dtype=torch.bool)
    for label in range(len(dataset.classes)):
        rows = (dataset.labels == label).nonzero().flatten()
        order = rows[torch.randperm(len(rows), generator=generator)]
        in_test[order[: round(test_fraction * len(rows))]] = True

    def part(rows: Tensor) -> Dataset:
        return replace(dataset, inputs=dataset.inputs[rows], labels=dataset.labels[rows])

    return part(~in_test), part(in_test)


def digits(seed: int = 0, test_fraction: float = 0.2) -> tuple[Dataset, Dataset]:
    """1,797 real handwritten digits as 1 x 12 x 12 images, `(train, test)`.

    The 8 x 8 scans bundled with scikit-learn (the test part of UCI's "Optical Recognition of Handwritten
    Digits", Alpaydin and Kaynak, 1998), each pixel 0 to 16 divided by 16, with 2 pixels of 0 around. The
    split is by image, not by writer, so a writer's digits can be in both parts.

    >>> train, test = digits(seed=0)
    >>> train.input_shape, len(train), len(test)
    ((1, 12, 12), 1438, 359)
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    pixels = torch.from_numpy(raw.images).float().unsqueeze(1) / 16
    whole = Dataset(
        torch.nn.functional.pad(pixels, (2, 2, 2, 2)),
        torch.from_numpy(raw.target).long(),
        tuple(map(str, range(10))),
        "pixels / 16, then 2 pixels of 0 on every side",
        "digits",
    )
    return split(whole, test_fraction, seed)


def write_digits(out_dir: str | os.PathLike[str], seed: int = 0) -> tuple[Path, Path]:
    """Write `digits` as `train_data.pth` and `test_data.pth` in `out_dir`; their paths."""
    folder = Path(out_dir)
    paths = folder / "train_data.pth", folder / "test_data.pth"
    for dataset, path in zip(digits(seed), paths, strict=True):
        save_dataset(dataset, path)
    return paths


def save_dataset(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Write a `.pth` file: a plain dictionary of tensors and strings, which `weights_only=True` loads."""
    plain = {
        "inputs": dataset.inputs.clone(),  # a slice would drag its whole storage into the file
        "labels": dataset.labels.clone(),
        "classes": list(dataset.classes),
        "preprocessing": dataset.preprocessing,
        "name": dataset.name,
    }
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    write_atomically(path, buffer.getbuffer())


def load_dataset(path: str | os.PathLike[str], part: Split = "train", size: tuple[int, int] | None = None) -> Dataset:
    """Read a data set from a file or a folder.

    - A `.pth` file, or a folder with `train_data.pth` and `test_data.pth`: a `TensorDataset` or a tuple of two
      tensors (inputs, labels); a dictionary of tensors under `inputs`, `images`, `data` or `x` and `labels`,
      `targets` or `y` (perhaps with `classes` and `preprocessing`); or a list of (tensor, label) pairs.
    - MNIST, Fashion-MNIST and other idx files of bytes, gzipped or not: the folder, or the file of images,
      whose labels lie beside it. Fashion-MNIST's class names are used where "fashion" is in the path.
    - A folder with one folder of PNG, JPEG or BMP images per class, possibly within `train` and `test`
      folders. One image in colour makes all of them RGB.

    uint8 pixels and image files are scaled to [0, 1]; floats are taken as they are.

    Args:
        path: file or folder.
        part: which part of a folder that holds both.
        size: `(height, width)` to resize the images of an image folder to; without it all must have one size.

    Raises:
        TorchwhyError: what is missing, damaged, unsafe, larger than `MAX_BYTES`, or no labelled data.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "train_data.pth")
    >>> torch.save(TensorDataset(torch.zeros(4, 1, 12, 12), torch.tensor([0, 1, 2, 1])), file)
    >>> load_dataset(file).classes
    ('0', '1', '2')
    """
    place = Path(path)
    if part not in _IDX_SPLITS:
        raise TorchwhyError(f"part is {part!r}; expected 'train' or 'test'")
    if not place.exists():
        raise TorchwhyError(f"{place} not found; expected a .pth file or a folder of idx files or images")
    if (place / f"{part}_data.pth").is_file():
        place /= f"{part}_data.pth"
    if place.is_dir():
        idx = _find_idx(place, part)
        if idx is None:
            return _read_image_folder(place, part, size)
    else:
        idx = place if "idx" in place.name and place.suffix not in (".pth", ".pt") else None
    if size is not None:
        raise TorchwhyError(f"{place} is no folder of images, and only these are resized; leave the size out")
    return _read_idx_pair(idx) if idx else _read_pth(place)


def read_tensor(path: str | os.PathLike[str]) -> Tensor | None:
    """The one tensor in a `.npy`, `.pt` or `.pth` file, as floats; None for a folder or a file that has more.

    Raises:
        TorchwhyError: not found, damaged, unsafe or too large, or no numbers.
    """
    place = Path(path)
    if place.is_dir():
        return None
    if not place.is_file():
        raise TorchwhyError(f"{place} not found; expected a .pth data set, an image, or a .npy or .pt tensor")
    if place.suffix == ".npy":
        _limit(place.stat().st_size, place)
        try:
            content: Any = torch.from_numpy(np.load(place, allow_pickle=False))
        except (ValueError, TypeError, EOFError, OSError) as error:
            raise TorchwhyError(
                f"{place} is damaged, or holds no plain array of numbers; write it with np.save"
            ) from error
    elif place.suffix in (".pt", ".pth"):
        content = _load(place)
    else:
        raise TorchwhyError(
            f"{place} is no input: expected a .pth data set, a PNG or JPEG image, or a .npy or .pt tensor"
        )
    if not isinstance(content, Tensor):
        return None
    _require_plain(content, "its values", str(place))
    if content.is_complex():
        raise TorchwhyError(f"{place} holds complex numbers; expected real ones")
    return content.detach() if content.is_floating_point() else content.float()


# --- .pth ---------------------------------------------------------------------------------------------------


def _read_pth(path: Path) -> Dataset:
    return _from_content(_load(path), path)


def _load(path: Path) -> Any:
    """What `torch.save` wrote, if it is plain tensors."""
    _limit(path.stat().st_size, path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:  # a small file can hold much when it is compressed
            _limit(sum(member.file_size for member in archive.infolist()), path)
    try:
        with torch.serialization.safe_globals([TensorDataset]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch has to say of a pickle that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises nearly anything on damaged bytes
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named or path.read_bytes()[:1] == pickle.PROTO:
            what = named[1] if named else "a plain pickle"
            raise TorchwhyError(
                f"{path} holds more than plain tensors: loading {what} could run code, so it is refused; "
                "save the tensors alone with torch.save((inputs, labels), path)"
            ) from error
        raise TorchwhyError(f"{path} is damaged, or no file that torch.save wrote; write it again") from error


def _from_content(content: Any, path: Path) -> Dataset:
    expected = "expected inputs and labels as two tensors (a TensorDataset, tuple or dict) or a list of pairs"
    details: dict[str, Any] = {"name": str(path)}
    if isinstance(content, TensorDataset):
        content = getattr(content, "tensors", None)
    if isinstance(content, Mapping):
        named = {str(key).lower(): value for key, value in content.items()}
        inputs = next((named[key] for key in _INPUT_KEYS if key in named), None)
        labels = next((named[key] for key in _LABEL_KEYS if key in named), None)
        if inputs is None or labels is None:
            found = ", ".join(list(named)[:8]) or "none"
            raise TorchwhyError(f"{path} is a dictionary with the keys {found}; expected inputs and labels")
        if isinstance(named.get("preprocessing"), str):
            details["preprocessing"] = named["preprocessing"]
        if "classes" in named:
            details["classes"] = _class_names(named["classes"], path)
        content = (inputs, labels)
    if not isinstance(content, tuple | list):
        raise TorchwhyError(f"{path} holds a {type(content).__name__}; {expected}")
    if len(content) == 0:
        raise TorchwhyError(f"{path}: the data set is empty")
    if len(content) == 2 and all(isinstance(x, Tensor) for x in content):
        return from_tensors(content[0], content[1], **details)
    return from_tensors(*_stack_pairs(content, path, expected), **details)


def _class_names(names: Any, path: Path) -> list[str]:
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise TorchwhyError(f"{path}: 'classes' is not a list of names; expected one string per class")
    return list(names)


def _stack_pairs(pairs: Sequence[Any], path: Path, expected: str) -> tuple[Tensor, Tensor]:
    inputs: list[Tensor] = []
    labels: list[int] = []
    for i, pair in enumerate(pairs):
        match pair:
            case [Tensor() as x, int(label)] if not isinstance(label, bool):
                pass
            case [Tensor() as x, Tensor(dtype=torch.int64, shape=torch.Size([])) as scalar]:
                label = int(scalar)
            case _:
                raise TorchwhyError(f"{path}: item {i} is no pair of a tensor and a class number; {expected}")
        inputs.append(x)
        labels.append(label)
        kinds = [f"{_dtype(one)} {tuple(one.shape)}" for one in (inputs[0], x)]
        if kinds[0] != kinds[1]:
            raise TorchwhyError(f"{path}: input 0 is {kinds[0]}, input {i} {kinds[1]}; all need to be alike")
    _limit(4 * len(inputs) * inputs[0].numel(), path)
    return torch.stack(inputs), torch.tensor(labels)


# --- idx ----------------------------------------------------------------------------------------------------


def read_idx(path: str | os.PathLike[str]) -> Tensor:
    """The uint8 tensor in an idx file, the format of MNIST (LeCun, Cortes and Burges); `.gz` is unpacked.

    Two zero bytes, the type of the values (8: unsigned bytes), the number of dimensions, their sizes as
    big-endian 32-bit integers, the values.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "labels.idx")
    >>> file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    11
    >>> read_idx(file)
    tensor([7, 2, 1], dtype=torch.uint8)
    """
    file = Path(path)
    opener: Any = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rb") as stream:
            start = stream.read(4)
            if len(start) < 4 or start[:3] != b"\0\0\x08" or start[3] == 0:
                found = start.hex(" ") or "nothing"
                raise TorchwhyError(f"{file} begins with {found}; expected an idx file of bytes, 00 00 08 ..")
            sizes = stream.read(4 * start[3])
            shape = struct.unpack(f">{len(sizes) // 4}I", sizes[: len(sizes) // 4 * 4])
            expected = math.prod(shape)
            _limit(4 * expected, file)
            values = stream.read(expected + 1)
    except FileNotFoundError as error:
        raise TorchwhyError(f"{file} not found; expected an idx file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TorchwhyError(f"{file} cannot be read to its end ({error}); fetch it again") from error
    if len(sizes) < 4 * start[3] or len(values) != expected:
        found = "more" if len(values) > expected else str(len(values))
        raise TorchwhyError(f"{file} is damaged: its header announces {expected} bytes, but {found} follow")
    return torch.frombuffer(bytearray(values), dtype=torch.uint8).view(shape)


def _find_idx(folder: Path, part: Split) -> Path | None:
    """The file of images of one part, unpacked rather than gzipped; None in a folder without idx files."""
    images = [file for file in sorted(folder.glob("*images?idx*")) if file.is_file()]
    if not images:
        return None
    wanted = [file for file in images if any(word in file.name for word in _IDX_SPLITS[part])]
    names = sorted({file.name.removesuffix(".gz") for file in wanted})
    if len(names) != 1:
        found = ", ".join(file.name for file in images)
        raise TorchwhyError(f"{folder} has {len(names)} idx files of {part} images among {found}; name the file")
    return wanted[0]  # sorted: the unpacked file comes before its .gz


def _read_idx_pair(images: Path) -> Dataset:
    name = images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    if "images" not in images.name:
        raise TorchwhyError(f"{images} is no file of images; expected a name such as train-images-idx3-ubyte")
    labels = images.with_name(name)
    pixels, numbers = (
        read_idx(images),
        read_idx(labels if labels.exists() else images.with_name(f"{name}.gz")),
    )
    classes = _FASHION if "fashion" in str(images.resolve()).lower() else None
    return from_tensors(pixels, numbers, classes, name=str(images))


# --- images -------------------------------------------------------------------------------------------------


def read_image(path: str | os.PathLike[str], shape: Sequence[int] | None = None) -> Tensor:
    """A PNG, JPEG or BMP image as a float32 tensor `(channels, height, width)` in [0, 1].

    Grey images have one channel, all others three. Transparent parts become white, a photograph is turned
    upright as its EXIF data say, and 16-bit grey keeps its precision.

    Args:
        path: the file.
        shape: `(1 or 3, height, width)` that a network takes: the image is made grey (ITU-R 601 luma) or RGB
            and resized, bilinear with antialiasing, to these proportions.

    Raises:
        TorchwhyError: not found, unreadable, larger than Pillow's limit of pixels, an impossible shape.
    """
    image = _decode(Path(path))
    if shape is None:
        return image
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise TorchwhyError(f"no image has the shape {tuple(shape)}; expected (1 or 3, height, width)")
    return _resize(_with_channels(image, shape[0]), (shape[1], shape[2]))


def _decode(path: Path) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_IMAGE_FORMATS) as opened:
                image = ImageOps.exif_transpose(opened)
                grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
                if image.mode.startswith("I"):
                    values = torch.frombuffer(bytearray(image.convert("I").tobytes()), dtype=torch.int32)
                    return values.view(1, image.height, image.width) / 65535
                if image.has_transparency_data:
                    white = Image.new("RGBA", image.size, "white")
                    image = Image.alpha_composite(white, image.convert("RGBA"))
                raw = bytearray(image.convert("L" if grey else "RGB").tobytes())
                pixels = torch.frombuffer(raw, dtype=torch.uint8).view(image.height, image.width, -1)
                return pixels.permute(2, 0, 1).contiguous() / 255
    except FileNotFoundError as error:
        raise TorchwhyError(f"{path} not found; expected a PNG, JPEG or BMP image") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise TorchwhyError(f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels; shrink it") from error
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise TorchwhyError(f"{path} is no readable PNG, JPEG or BMP image; save it again as one") from error


def _with_channels(image: Tensor, channels: int) -> Tensor:
    if len(image) == channels:
        return image
    if channels == 3:
        return image.expand(3, -1, -1)
    return (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[1:]) == size:
        return image.contiguous()
    resized = torch.nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    return resized.clamp(0, 1)


def _folders(path: Path) -> list[Path]:
    return sorted(x for x in path.iterdir() if x.is_dir() and not x.name.startswith((".", "__")))


def _read_image_folder(path: Path, part: Split, size: tuple[int, int] | None) -> Dataset:
    root = path / part if (path / part).is_dir() and _folders(path / part) else path
    files = {
        folder.name: sorted(file for file in folder.iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES)
        for folder in _folders(root)
    }
    if not files:
        raise TorchwhyError(f"{root} has neither idx files nor folders of images; expected one per class")
    if without := [name for name, images in files.items() if not images]:
        raise TorchwhyError(f"{root / without[0]} has no PNG, JPEG or BMP image; fill or remove it")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise TorchwhyError(f"images cannot be resized to {size}; expected (height, width)")
    total = sum(map(len, files.values()))
    images: list[Tensor] = []
    for file in (file for group in files.values() for file in group):
        image = _decode(file)
        image = _resize(image, size) if size else image
        if images and image.shape[1:] != images[0].shape[1:]:
            (h, w), (h0, w0) = image.shape[1:], images[0].shape[1:]
            raise TorchwhyError(f"{file} is {w} x {h} pixels, others {w0} x {h0}; give a size for all")
        images.append(image)
        _limit(4 * image.numel() * total, root)
    channels = max(map(len, images))
    labels = [i for i, group in enumerate(files.values()) for _ in group]
    return Dataset(
        torch.stack([_with_channels(image, channels) for image in images]),
        torch.tensor(labels),
        tuple(files),
        "pixels / 255" + (f", resized to {size[1]} x {size[0]} pixels" if size else ""),
        str(root),
    )


def _limit(size: int, source: object) -> None:
    if size > MAX_BYTES:
        gib, most = size / 2**30, MAX_BYTES / 2**30
        raise TorchwhyError(f"{source} holds {gib:.1f} GiB of data, more than {most:g} GiB; give a part of it")


def _require_plain(tensor: Tensor, role: str, source: str) -> None:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise TorchwhyError(f"{source}: {role} are not a plain dense tensor on the CPU; save them as one")
    _limit(4 * tensor.numel(), source)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
