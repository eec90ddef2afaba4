import gzip
import os
import pickle
import random
import re
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Subset, TensorDataset

from torchwhy import data
from torchwhy.core.errors import TorchwhyError
from torchwhy.data import (
    Dataset,
    digits,
    from_tensors,
    load_dataset,
    read_idx,
    read_image,
    read_tensor,
    save_dataset,
    split,
    write_digits,
)

X = torch.arange(3 * 2 * 2, dtype=torch.float32).view(3, 1, 2, 2)
Y = torch.tensor([1, 0, 2])


def refused(message, call, *args, **kwargs):
    """The call raises one line that contains `message`."""
    with pytest.raises(TorchwhyError, match=re.escape(message)) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


def saved(tmp_path, content):
    path = tmp_path / "data.pth"
    torch.save(content, path)
    return path


# --- digits and splits --------------------------------------------------------------------------------------


def test_digits_are_the_scans_padded_by_two():
    train, test = digits(seed=0)
    assert (train.input_shape, train.classes) == ((1, 12, 12), tuple("0123456789"))
    assert len(train) + len(test) == 1797
    frame = torch.cat([train.inputs, test.inputs])
    assert frame.sum() == frame[..., 2:10, 2:10].sum()
    raw = torch.from_numpy(load_digits().images).float() / 16
    both = sorted(map(bytes, frame[:, 0, 2:10, 2:10].contiguous().numpy()))
    assert both == sorted(map(bytes, raw.numpy()))


def test_a_split_is_stratified_disjoint_complete_and_decided_by_its_seed():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 5)[torch.randperm(85)]
    whole = from_tensors(torch.arange(85.0).view(85, 1), labels)
    train, test = split(whole, test_fraction=0.2, seed=1)
    assert test.labels.bincount().tolist() == [10, 6, 1]
    ids = torch.cat([train.inputs, test.inputs]).flatten().sort().values
    assert torch.equal(ids, torch.arange(85.0))
    for part in (train, test):
        assert torch.equal(part.labels, labels[part.inputs.flatten().long()])
    assert torch.equal(split(whole, seed=1)[1].inputs, test.inputs)
    assert not torch.equal(split(whole, seed=2)[1].inputs, test.inputs)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    refused("expected a number between 0 and 1", split, from_tensors(X, Y), fraction)


def test_a_part_without_examples_is_refused():
    refused("empty", split, from_tensors(X, Y), 0.2)  # one example of each class: none for the test part


def test_written_digits_load_with_weights_only_and_are_the_same(tmp_path):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    paths = write_digits(tmp_path / "new" / "folder", seed=3)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert [path.name for path in paths] == ["train_data.pth", "test_data.pth"]
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)  # no temporary file is left
    for path, expected in zip(paths, digits(seed=3), strict=True):
        loaded = load_dataset(path)
        assert torch.equal(loaded.inputs, expected.inputs)
        assert torch.equal(loaded.labels, expected.labels)
        assert (loaded.classes, loaded.preprocessing) == (expected.classes, expected.preprocessing)
        assert loaded.fingerprint == expected.fingerprint
        assert set(torch.load(path, weights_only=True)) == {
            "inputs",
            "labels",
            "classes",
            "preprocessing",
            "name",
        }


def test_a_slice_is_saved_without_its_storage(tmp_path):
    whole = from_tensors(torch.zeros(10_000, 10), torch.zeros(10_000, dtype=torch.int64))
    part = Dataset(whole.inputs[:2], whole.labels[:2], whole.classes)
    save_dataset(part, tmp_path / "part.pth")
    assert (tmp_path / "part.pth").stat().st_size < 5_000


def test_the_fingerprint_sees_values_labels_and_shape():
    same = {from_tensors(X, Y).fingerprint, from_tensors(X.clone(), Y.clone()).fingerprint}
    others = {
        from_tensors(X + 1, Y).fingerprint,
        from_tensors(X, Y.flip(0)).fingerprint,
        from_tensors(X.view(3, 4), Y).fingerprint,
    }
    assert len(same) == 1
    assert len(same | others) == 4


# --- .pth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        TensorDataset(X, Y),
        (X, Y),
        [X, Y],
        {"inputs": X, "labels": Y},
        {"images": X, "targets": Y},
        {"data": X, "targets": Y.to(torch.uint8)},
        {"X": X.double(), "y": Y.int()},
        [(X[0], 1), (X[1], 0), (X[2], 2)],
        ([X[0], Y[0]], [X[1], Y[1]], [X[2], Y[2]]),
        (X.clone().requires_grad_(), Y),
    ],
)
def test_every_documented_form_gives_the_same_data(tmp_path, content):
    loaded = load_dataset(saved(tmp_path, content))
    assert torch.equal(loaded.inputs, X)
    assert torch.equal(loaded.labels, Y)
    assert (loaded.inputs.dtype, loaded.labels.dtype) == (torch.float32, torch.int64)
    assert (loaded.classes, loaded.preprocessing) == (("0", "1", "2"), "none")
    assert not loaded.inputs.requires_grad


def test_two_pairs_are_pairs(tmp_path):
    loaded = load_dataset(saved(tmp_path, [(X[0], 0), (X[1], 1)]))
    assert torch.equal(loaded.inputs, X[:2])


def test_bytes_become_fractions_and_gain_a_channel(tmp_path):
    pixels = torch.tensor([[[0, 255], [128, 1]]], dtype=torch.uint8)
    loaded = load_dataset(saved(tmp_path, (pixels, torch.tensor([0]))))
    assert torch.equal(loaded.inputs, torch.tensor([[[[0.0, 1.0], [128 / 255, 1 / 255]]]]))
    assert loaded.preprocessing == "pixels / 255"


def test_classes_and_preprocessing_are_taken_from_the_file(tmp_path):
    content = {"inputs": X, "labels": Y, "classes": ["a", "b", "c", "d"], "preprocessing": "centred"}
    loaded = load_dataset(saved(tmp_path, content))
    assert (loaded.classes, loaded.preprocessing) == (("a", "b", "c", "d"), "centred")


def with_value(value, *index):
    x = X.clone()
    x[index] = value
    return x


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor; expected inputs and labels"),
        ({"weight": X}, "a dictionary with the keys weight; expected inputs and labels"),
        ({}, "with the keys none"),
        ([], "the data set is empty"),
        (TensorDataset(X), "item 0 is no pair of a tensor and a class number"),
        ([(X[0], 1), (X[1], 0.5)], "item 1 is no pair"),
        ([(X[0], 1), (X[1], True)], "item 1 is no pair"),
        ([(X[0], 1), (X[1], 0, 0)], "item 1 is no pair"),
        ([(X[0], 0), (X[1, :, :1], 1)], "input 0 is float32 (1, 2, 2), input 1 float32 (1, 1, 2)"),
        ([(X[0], 0), (X[1].byte(), 1)], "input 0 is float32 (1, 2, 2), input 1 uint8 (1, 2, 2)"),
        ((X[:0], Y[:0]), "the data set is empty: its inputs have shape (0, 1, 2, 2)"),
        ((X, Y[:2]), "3 inputs but 2 labels; expected one label per input"),
        ((X, Y.float()), "labels are float32; expected whole class numbers"),
        ((X, Y > 0), "labels are bool; expected whole class numbers"),
        ((X, Y[:, None]), "labels have shape (3, 1); expected (N,)"),
        ((X, torch.eye(3).long()), "labels have shape (3, 3)"),
        ((X, Y - 1), "example 1 has label -1, but there are 2 classes, 0 to 1"),
        ((X, Y * 2**40), "label 2199023255552 is no class number"),
        (({"x": X, "y": Y, "classes": ["a", "b"]}), "example 2 has label 2, but there are 2 classes, 0 to 1"),
        (({"x": X, "y": Y, "classes": "abc"}), "'classes' is not a list of names"),
        ((X.long(), Y), "inputs are int64; expected floats, or uint8 pixels"),
        ((Y.float(), Y), "inputs have shape (3,); expected (N, ...)"),
        ((X.to_sparse(), Y), "inputs are not a plain dense tensor"),
        ((X.to("meta"), Y), "inputs are not a plain dense tensor"),
        (
            (with_value(float("nan"), slice(1, 3), 0, 1, 0), Y),
            "2 input values are NaN or infinite, the first in example 1 at (0, 1, 0)",
        ),
        (
            (with_value(-float("inf"), 2, 0, 0, 1), Y),
            "1 input values are NaN or infinite, the first in example 2",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_content_that_is_no_labelled_data_is_refused(tmp_path, content, message):
    path = saved(tmp_path, content)
    refused(message, load_dataset, path)
    refused(str(path), load_dataset, path)


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_a_pickle_that_could_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, content := {"inputs": [1.0], "labels": [0], "more": Exploit()})
    if protocol:
        path.write_bytes(pickle.dumps(content, protocol))
    culprit = "a plain pickle" if protocol == 4 else "posix.mkdir"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        refused(f"loading {culprit} could run code, so it is refused", load_dataset, path)
    assert warned == []
    assert not (tmp_path / "exploited").exists()


def test_other_classes_are_refused_by_name(tmp_path):
    path = saved(tmp_path, Subset(TensorDataset(X, Y), [0]))
    refused("loading torch.utils.data.dataset.Subset could run code", load_dataset, path)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = saved(tmp_path, (torch.randn(100, 1, 8, 8), torch.zeros(100, dtype=torch.int64)))
    path.write_bytes(path.read_bytes()[:keep])
    refused("is damaged, or no file that torch.save wrote", load_dataset, path)


def test_a_file_that_is_not_there_or_not_of_this_kind_is_refused(tmp_path):
    refused("nowhere.pth not found; expected a .pth file", load_dataset, tmp_path / "nowhere.pth")
    (tmp_path / "text.txt").write_text("hello")
    refused("text.txt is damaged, or no file that torch.save wrote", load_dataset, tmp_path / "text.txt")
    refused("expected 'train' or 'test'", load_dataset, tmp_path, "validation")
    refused("leave the size out", load_dataset, saved(tmp_path, (X, Y)), size=(4, 4))


def test_more_than_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MAX_BYTES", 2**20)
    large, labels = torch.zeros(2**18 + 1, 1), torch.zeros(2**18 + 1, dtype=torch.int64)
    refused("holds 0.0 GiB of data, more than 0.000976562 GiB", load_dataset, saved(tmp_path, (large, labels)))
    expanded = saved(tmp_path, (torch.zeros(1, 1).expand(2**19, 1), torch.zeros(1, dtype=torch.int64)))
    assert expanded.stat().st_size < 2**12
    refused("more than", load_dataset, expanded)
    pairs = saved(tmp_path, [(torch.zeros(1).expand(2**17), 0)] * 3)
    assert pairs.stat().st_size < 2**12
    with monkeypatch.context() as patch:
        patch.delattr(torch, "stack")
        refused("more than", load_dataset, pairs)
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(2**21))
    refused("more than", load_dataset, tmp_path / "bomb.pth")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "data.pth"
    save_dataset(from_tensors(X, Y), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    refused("data.pth: No space left on device", save_dataset, from_tensors(X + 1, Y), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    refused("cannot write", save_dataset, from_tensors(X, Y), path / "inside" / "a_file.pth")


# --- one tensor ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".pth"])
def test_one_tensor_is_read_as_floats(tmp_path, suffix):
    for content, dtype in ((X.double(), torch.float64), (X.half(), torch.float16), (X.int(), torch.float32)):
        path = tmp_path / f"x{suffix}"
        if suffix == ".npy":
            np.save(path, content.numpy())
        else:
            torch.save(content.requires_grad_() if content.is_floating_point() else content, path)
        loaded = read_tensor(path)
        assert (loaded.dtype, loaded.requires_grad) == (dtype, False)
        assert torch.equal(loaded, X.to(dtype))


def test_a_data_set_is_not_one_tensor(tmp_path):
    assert read_tensor(tmp_path) is None
    assert read_tensor(saved(tmp_path, (X, Y))) is None


def test_what_is_no_tensor_is_refused(tmp_path, monkeypatch):
    refused("nowhere.npy not found", read_tensor, tmp_path / "nowhere.npy")
    (tmp_path / "x.txt").touch()
    refused("x.txt is no input", read_tensor, tmp_path / "x.txt")
    refused("posix.mkdir could run code", read_tensor, saved(tmp_path, Exploit()))
    refused("holds complex numbers", read_tensor, saved(tmp_path, X.cfloat()))
    refused("not a plain dense tensor", read_tensor, saved(tmp_path, X.to("meta")))
    for array in (np.array(["a"]), np.array([{}], dtype=object)):
        np.save(tmp_path / "x.npy", array)
        refused("x.npy is damaged, or holds no plain array", read_tensor, tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", GREY)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    refused("x.npy is damaged", read_tensor, tmp_path / "x.npy")
    expanded = saved(tmp_path, torch.zeros(1).expand(2**19))
    monkeypatch.setattr(data, "MAX_BYTES", 2**20)
    refused("give a part of it", read_tensor, expanded)


# --- idx ----------------------------------------------------------------------------------------------------


def idx(shape, values):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(values)


def write_idx(folder, part="train", *, zipped=False, n=3):
    folder.mkdir(exist_ok=True)
    suffix, opener = (".gz", gzip.open) if zipped else ("", open)
    for kind, content in (
        ("images-idx3", idx((n, 2, 2), range(4 * n))),
        ("labels-idx1", idx((n,), range(n))),
    ):
        with opener(folder / f"{part}-{kind}-ubyte{suffix}", "wb") as file:
            file.write(content)


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_files_are_read(tmp_path, zipped):
    write_idx(tmp_path, "train", zipped=zipped)
    write_idx(tmp_path, "t10k", zipped=zipped, n=2)
    train, test = load_dataset(tmp_path), load_dataset(tmp_path, "test")
    assert torch.equal(train.inputs, torch.arange(12.0).view(3, 1, 2, 2) / 255)
    assert train.labels.tolist() == [0, 1, 2]
    assert (len(test), test.classes, test.preprocessing) == (2, ("0", "1"), "pixels / 255")
    name = "train-images-idx3-ubyte" + (".gz" if zipped else "")
    assert load_dataset(tmp_path / name).fingerprint == train.fingerprint


def test_an_unpacked_file_is_preferred_to_its_gz(tmp_path):
    write_idx(tmp_path, zipped=True, n=5)
    write_idx(tmp_path, zipped=False, n=4)
    assert len(load_dataset(tmp_path)) == 4


def test_fashion_mnist_has_names(tmp_path):
    write_idx(tmp_path / "FashionMNIST")
    loaded = load_dataset(tmp_path / "FashionMNIST")
    assert (len(loaded.classes), loaded.classes[0], loaded.classes[9]) == (10, "T-shirt/top", "Ankle boot")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing; expected an idx file of bytes, 00 00 08 .."),
        (b"\x89PNG", "begins with 89 50 4e 47"),
        (bytes([0, 0, 0x0D, 1]), "begins with 00 00 0d 01"),
        (idx((2, 2), range(3)), "its header announces 4 bytes, but 3 follow"),
        (idx((2, 2), range(5)), "its header announces 4 bytes, but more follow"),
        (idx((2, 2), [])[:7], "is damaged"),
        (idx((2**31, 2**31), []), "GiB; give a part of it"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.idx").write_bytes(content)
    refused(message, read_idx, tmp_path / "x.idx")


def test_damaged_gzip_is_refused(tmp_path):
    whole = gzip.compress(idx((1000,), np.random.default_rng(0).bytes(1000)))
    for content in (whole[:-20], whole[:-9] + b"\0" + whole[-8:], b"not gzip", whole[:4]):
        (tmp_path / "x.gz").write_bytes(content)
        refused("x.gz cannot be read to its end", read_idx, tmp_path / "x.gz")


def test_idx_folders_that_lack_a_file_are_refused(tmp_path):
    write_idx(tmp_path)
    refused("has 0 idx files of test images among train-images-idx3-ubyte", load_dataset, tmp_path, "test")
    refused("is no file of images", load_dataset, tmp_path / "train-labels-idx1-ubyte")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    refused("train-labels-idx1-ubyte.gz not found", load_dataset, tmp_path)
    write_idx(tmp_path, "other-train")
    refused("has 2 idx files of train images", load_dataset, tmp_path)


def test_images_and_labels_of_different_length_are_refused(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx((2,), [0, 1]))
    refused("3 inputs but 2 labels", load_dataset, tmp_path)


# --- images -------------------------------------------------------------------------------------------------

GREY = np.array([[0, 255], [51, 102], [1, 2]], dtype=np.uint8)


def picture(path, pixels=GREY, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_grey_and_colour_pictures_are_read_exactly(tmp_path):
    grey = read_image(picture(tmp_path / "grey.png"))
    assert torch.equal(grey, torch.from_numpy(GREY)[None] / 255)
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    colour = read_image(picture(tmp_path / "colour.png", pixels))
    assert torch.equal(colour, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    jpeg = read_image(picture(tmp_path / "grey.jpg", np.full((8, 8), 77, dtype=np.uint8)))
    assert torch.equal(jpeg, torch.full((1, 8, 8), 77 / 255))


def test_sixteen_bit_grey_keeps_its_precision(tmp_path):
    path = picture(tmp_path / "deep.png", np.array([[0, 1], [32768, 65535]], dtype=np.uint16))
    expected = torch.tensor([[[0, 1 / 65535], [32768 / 65535, 1]]])
    torch.testing.assert_close(read_image(path), expected, rtol=1e-7, atol=0)


def test_transparency_becomes_white(tmp_path):
    pixels = np.array([[[9, 9, 9, 0], [255, 0, 0, 255]]], dtype=np.uint8)
    expected = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]], [[1.0, 0.0]]])
    assert torch.equal(read_image(picture(tmp_path / "colour.png", pixels)), expected)
    grey = picture(tmp_path / "grey.png", np.array([[[9, 0], [51, 255]]], dtype=np.uint8))
    assert torch.equal(read_image(grey), torch.tensor([[[1.0, 51 / 255]]]))


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: shown after a quarter turn clockwise
    turned = read_image(picture(tmp_path / "turned.png", exif=exif))
    assert torch.equal(turned[0] * 255, torch.from_numpy(np.rot90(GREY, -1).copy()).float())


def test_a_shape_decides_channels_and_size(tmp_path):
    red = picture(tmp_path / "red.png", np.full((4, 6, 3), [255, 0, 0], dtype=np.uint8))
    torch.testing.assert_close(read_image(red, (1, 2, 3)), torch.full((1, 2, 3), 0.299))
    grey = picture(tmp_path / "grey.png", np.full((4, 6), 51, dtype=np.uint8))
    torch.testing.assert_close(read_image(grey, (3, 8, 8)), torch.full((3, 8, 8), 0.2))
    edge = picture(tmp_path / "edge.png", np.array([[255, 0, 0, 0, 0, 0, 0, 0]], dtype=np.uint8))
    halves = read_image(edge, (1, 1, 2))[0, 0]
    assert halves[0] > halves[1] >= 0  # without antialiasing, the bright pixel falls between the samples
    assert torch.equal(read_image(edge, (3, 1, 8))[2], read_image(edge)[0])
    refused("no image has the shape (2, 8, 8)", read_image, grey, (2, 8, 8))
    refused("no image has the shape (64,)", read_image, grey, (64,))


@pytest.mark.filterwarnings("ignore")
def test_unreadable_pictures_are_refused(tmp_path, monkeypatch):
    refused("nowhere.png not found", read_image, tmp_path / "nowhere.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for suffix in ("png", "jpg"):
        whole = picture(tmp_path / f"noise.{suffix}", noise)
        whole.write_bytes(whole.read_bytes()[:-500])
        refused(f"noise.{suffix} is no readable PNG, JPEG or BMP image", read_image, whole)
    (tmp_path / "text.png").write_text("hello")
    refused("text.png is no readable", read_image, tmp_path / "text.png")
    refused("is no readable", read_image, tmp_path)
    for limit in (6 * 8, 10):  # Pillow warns from its limit on, and raises from twice it on
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused(f"has more than {limit} pixels", read_image, picture(tmp_path / "x.png", noise[:7, :7]))


def test_a_folder_per_class_is_read(tmp_path):
    picture(tmp_path / "dog" / "b.png", GREY)
    picture(tmp_path / "dog" / "a.png", GREY // 2)
    picture(tmp_path / "cat" / "c.PNG", GREY // 3)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    loaded = load_dataset(tmp_path)
    assert (loaded.classes, loaded.labels.tolist()) == (("cat", "dog"), [0, 1, 1])
    expected = torch.stack([torch.from_numpy(x)[None] / 255 for x in (GREY // 3, GREY // 2, GREY)])
    assert torch.equal(loaded.inputs, expected)
    assert loaded.preprocessing == "pixels / 255"


def test_one_colour_picture_makes_all_rgb(tmp_path):
    picture(tmp_path / "a" / "grey.png", GREY)
    picture(tmp_path / "b" / "colour.png", np.stack([GREY, GREY, GREY], -1))
    loaded = load_dataset(tmp_path)
    assert loaded.input_shape == (3, 3, 2)
    assert torch.equal(loaded.inputs[0], loaded.inputs[1])


def test_train_and_test_folders_are_told_apart(tmp_path):
    picture(tmp_path / "train" / "a" / "1.png", GREY)
    picture(tmp_path / "test" / "a" / "1.png", GREY // 2)
    assert load_dataset(tmp_path).inputs.max() == 1
    assert load_dataset(tmp_path, "test").inputs.max() < 0.5


def test_pictures_of_different_sizes_need_a_size(tmp_path):
    picture(tmp_path / "a" / "1.png", GREY)
    picture(tmp_path / "a" / "2.png", GREY.T)
    refused("2.png is 3 x 2 pixels, others 2 x 3; give a size", load_dataset, tmp_path)
    loaded = load_dataset(tmp_path, size=(6, 5))
    assert loaded.input_shape == (1, 6, 5)
    assert loaded.preprocessing == "pixels / 255, resized to 5 x 6 pixels"
    refused("cannot be resized to (0, 5)", load_dataset, tmp_path, size=(0, 5))


def test_folders_without_pictures_are_refused(tmp_path, monkeypatch):
    refused("has neither idx files nor folders of images", load_dataset, tmp_path)
    (tmp_path / "a").mkdir()
    refused("a has no PNG, JPEG or BMP image", load_dataset, tmp_path)
    picture(tmp_path / "a" / "1.png")
    monkeypatch.setattr(data, "MAX_BYTES", 20)
    refused("give a part of it", load_dataset, tmp_path)
    (tmp_path / "a" / "1.png").write_text("hello")
    refused("1.png is no readable PNG", load_dataset, tmp_path)
