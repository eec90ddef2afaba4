"""The command line does what it says, prints what a person or a program can read, and refuses in one line."""

import html
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

from torchwhy import registry
from torchwhy.cli import app, main
from torchwhy.core.errors import TorchwhyError
from torchwhy.core.explanation import Explanation
from torchwhy.data import Dataset, digits, load_dataset, save_dataset
from torchwhy.methods import Saliency
from torchwhy.train import TrainingConfig, load_checkpoint, train

ROWS = 30  # of the test data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data and a network trained on them; not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    sets = [
        Dataset(part.inputs[:n], part.labels[:n], part.classes, part.preprocessing)
        for part, n in zip(digits(), (200, ROWS), strict=True)
    ]
    for data, name in zip(sets, ("train_data.pth", "test_data.pth"), strict=True):
        save_dataset(data, folder / name)
    train(*sets, folder / "checkpoints", TrainingConfig(epochs=3, lr=0.05, momentum=0.9))
    return folder


@pytest.fixture(scope="module")
def rows(made):
    return load_dataset(made / "test_data.pth").inputs


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def torchwhy(monkeypatch, capsys):
    """Run the command line; what it printed to standard output and to standard error."""

    def run(*args, code=0):
        monkeypatch.setattr(sys, "argv", ["torchwhy", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        assert "Traceback" not in out + err
        return out, err

    return run


@pytest.fixture
def refused(torchwhy, here):
    """Run what is refused: one line that contains `message`, exit code 2, and no file written or changed."""

    def state():
        return {path: path.stat().st_mtime_ns for path in here.rglob("*")}

    def run(message, *args):
        before = state()
        out, err = torchwhy(*args, code=2)
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err
        assert state() == before

    return run


@pytest.fixture
def why(torchwhy, made):
    """Explain rows of the test data; the explanation as read from JSON."""

    def run(*args, source=None):
        source = made / "test_data.pth" if source is None else source
        return strict_json(torchwhy("explain", made / "checkpoints", source, "--check", "free", "--json", *args)[0])

    return run


@pytest.fixture
def why_not(refused, made):
    def run(message, *args, source="test_data.pth", checkpoint="checkpoints"):
        refused(message, "explain", made / checkpoint, made / source, *args)

    return run


def strict_json(text):
    """What a program in any language would read."""

    def fail(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=fail)


def interrupt(*args, **kwargs):
    signal.raise_signal(signal.SIGINT)


def commands(command=None, path=()):
    command = command or get_command(app)
    inner = getattr(command, "commands", {})
    return [(path, command), *(found for name in inner for found in commands(inner[name], (*path, name)))]


# -- as a program --------------------------------------------------------------------------------------------


def test_the_version_is_printed(torchwhy):
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", torchwhy("--version")[0])


@pytest.mark.parametrize(
    ("path", "command"), commands(), ids=lambda part: "-".join(part) if type(part) is tuple else ""
)
def test_help_tells_of_everything_and_fits_a_narrow_terminal_without_colour(torchwhy, monkeypatch, path, command):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "60")
    out, _ = torchwhy(*path, "--help")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 60
    assert command.help
    for parameter in command.params:
        assert parameter.help, parameter.name
        for name in parameter.opts if parameter.param_type_name == "option" else [parameter.metavar or parameter.name]:
            assert name in out
    for name in getattr(command, "commands", ()):
        assert name in out


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["bogus"], ["bogus"]),
        (["explan"], ["'explan'", "'explain'"]),
        (["data", "bogus"], ["bogus", "torchwhy data --help"]),
        (["explain"], ["CHECKPOINT"]),
        (["explain", "a"], ["INPUT"]),
        (["explain", "a", "b", "--check", "all"], ["--check", "'all'", "free", "torchwhy explain --help"]),
        (["explain", "a", "b", "--index", "first"], ["--index", "'first'"]),
        (["explain", "a", "b", "--index"], ["--index"]),
        (["explain", "a", "b", "--baseline", "none"], ["--baseline", "'none'"]),
        (["train", "--epochs", "many"], ["--epochs", "'many'"]),
        (["train", "--nope"], ["--nope"]),
        (["demo", "--seed", "-1"], ["--seed", "-1"]),
        (["data", "digits", "--seed", str(2**70)], ["--seed", str(2**70)]),
        (["roar", "--repeats", "0"], ["--repeats", "'0'"]),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_in_one_line(refused, args, named):
    for word in (*named, "--help"):
        refused(word, *args)


@pytest.mark.parametrize("args", [[], ["data"]], ids=["torchwhy", "data"])
def test_nothing_asked_is_answered_with_the_help(torchwhy, args):
    out, err = torchwhy(*args, code=2)
    assert "Usage" in out
    assert err == ""


def test_an_error_of_the_program_is_not_taken_for_one_of_its_user(monkeypatch):
    def fail(*args):
        raise ZeroDivisionError

    monkeypatch.setattr(registry, "methods", fail)
    monkeypatch.setattr(sys, "argv", ["torchwhy", "methods"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_reader_that_leaves_early_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        ended = subprocess.run(
            [sys.executable, "-m", "torchwhy", "methods", "--json"], check=False, stdout=nobody, stderr=subprocess.PIPE
        )
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_an_error_is_one_line_even_where_a_name_is_not(refused):
    refused("two lines.pth not found", "data", "show", "two\nlines.pth")


def test_an_error_of_the_system_is_one_line(refused):
    refused("x" * 300, "data", "show", "x" * 300)


def test_names_that_the_terminal_cannot_show_are_escaped(monkeypatch, here):
    save_dataset(Dataset(torch.zeros(2, 3), torch.tensor([0, 0]), ("Ä",)), "named.pth")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["torchwhy", "data", "show", "named.pth"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert b"\\xc4 (2)" in terminal.buffer.getvalue()


# -- data ----------------------------------------------------------------------------------------------------


def test_digits_are_written_and_shown(torchwhy, here):
    out, _ = torchwhy("data", "digits", "--out", "new/folder")
    assert "train_data.pth: 1438 examples of shape (1, 12, 12)" in out
    train_set, test_set = (load_dataset(here / "new/folder" / name) for name in ("train_data.pth", "test_data.pth"))
    assert (len(train_set), len(test_set)) == (1438, 359)
    facts = strict_json(torchwhy("data", "show", "new/folder/test_data.pth", "--json")[0])
    assert facts == [
        {
            "path": "new/folder/test_data.pth",
            "examples": 359,
            "input_shape": [1, 12, 12],
            "classes": list("0123456789"),
            "examples_per_class": test_set.labels.bincount().tolist(),
            "range": [0.0, 1.0],
            "preprocessing": "pixels / 16, then 2 pixels of 0 on every side",
        }
    ]
    other = strict_json(torchwhy("data", "digits", "--seed", "1", "--json")[0])
    assert [f["path"] for f in other] == ["train_data.pth", "test_data.pth"]
    assert not torch.equal(load_dataset("test_data.pth").inputs, test_set.inputs)


def test_a_data_set_is_shown_in_words_and_many_classes_are_cut_short(torchwhy):
    names = tuple(f"class{i}" for i in range(30))
    save_dataset(Dataset(torch.linspace(-1, 2, 60).view(20, 3), torch.arange(20) // 10, names, "halved"), "d.pth")
    out, _ = torchwhy("data", "show", "d.pth")
    assert "20 examples of shape (3,)" in out
    assert "values from -1 to 2, preprocessing: halved" in out
    assert "30 classes (examples): class0 (10), class1 (10), class2 (0)," in out
    assert "class19 (0), and 10 more" in out
    assert "class20" not in out


def test_data_that_cannot_be_read_or_written_are_refused(refused, here):
    (here / "taken").write_text("a file")
    (here / "empty").mkdir()
    refused("nix.pth not found", "data", "show", "nix.pth")
    refused("taken", "data", "digits", "--out", "taken")
    refused("neither idx files nor folders of images", "data", "show", "empty")


# -- train ---------------------------------------------------------------------------------------------------

EPOCH = r"Epoch {}, Test Loss: \d+\.\d{{4}}, Accuracy: \d{{1,3}}\.\d\d%\n"


@pytest.fixture
def training(made):
    return ["train", "--train", made / "train_data.pth", "--test", made / "test_data.pth", "--batch-size", 50]


def test_each_epoch_is_one_line_and_a_training_can_go_on(torchwhy, training):
    out, err = torchwhy(*training, "--epochs", 2)
    assert re.fullmatch(EPOCH.format(1) + EPOCH.format(2), out)
    last = load_checkpoint("checkpoints/last")[1].result
    assert out.endswith(f"{last}\n")
    assert "Best: epoch" in err
    assert "torchwhy explain checkpoints" in err
    out, _ = torchwhy(*training, "--epochs", 3, "--resume")
    assert re.fullmatch(EPOCH.format(3), out)


def test_training_prints_json_alone(torchwhy, training):
    out, err = torchwhy(*training, "--epochs", 2, "--json", "--out", "c")
    record = strict_json(out)
    assert re.fullmatch(EPOCH.format(1) + EPOCH.format(2), err)
    assert [e["epoch"] for e in record["epochs"]] == [1, 2]
    assert record["best_epoch"] in (1, 2)
    assert (record["interrupted"], record["checkpoints"]) == (False, "c")
    assert f"Accuracy: {100 * record['epochs'][1]['accuracy']:.2f}%" in err


def test_ctrl_c_keeps_the_last_epoch(torchwhy, training, monkeypatch):
    from torchwhy import train as module

    run_epoch = module._run_epoch

    def once(*args):
        monkeypatch.setattr(module, "_run_epoch", interrupt)
        return run_epoch(*args)

    monkeypatch.setattr(module, "_run_epoch", once)
    out, err = torchwhy(*training, "--epochs", 9, code=130)
    assert re.fullmatch(EPOCH.format(1), out)
    assert "--resume" in err
    assert load_checkpoint("checkpoints/last")[1].result.epoch == 1


def test_ctrl_c_before_the_first_epoch_leaves_no_checkpoint(torchwhy, training, monkeypatch, here):
    from torchwhy import train as module

    monkeypatch.setattr(module, "_run_epoch", interrupt)
    out, _ = torchwhy(*training, "--json", code=130)
    assert strict_json(out) == {"epochs": [], "best_epoch": None, "interrupted": True, "checkpoints": "checkpoints"}
    assert [path for path in here.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("lr is nan", ["--lr", "nan"]),
        ("lr is 0", ["--lr", "0"]),
        ("epochs is 0", ["--epochs", "0"]),
        ("batch_size is 0", ["--batch-size", "0"]),
        ("momentum is 1", ["--momentum", "1"]),
        ("nix.pth not found", ["--train", "nix.pth"]),
        ("nix not found", ["--test", "nix"]),
        ("cannot write", ["--out", "taken"]),
        ("cannot write", ["--out", "taken/within"]),
        ("no last.json to resume from", ["--resume"]),
        ("2 inputs but 3 labels", ["--train", "labels.pth"]),
        ("empty", ["--train", "empty.pth"]),
        ("NaN", ["--train", "nan.pth"]),
        ("test inputs (3, 8, 8)", ["--test", "colour.pth"]),
        ("lower learning rate", ["--lr", "1e30"]),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_a_training_that_cannot_be_is_refused(refused, training, here, message, options):
    (here / "taken").write_text("a file")
    (here / "checkpoints").mkdir()
    torch.save((torch.zeros(2, 1, 12, 12), torch.tensor([0, 1, 2])), "labels.pth")
    torch.save((torch.zeros(0, 1, 12, 12), torch.zeros(0, dtype=torch.long)), "empty.pth")
    torch.save((torch.full((2, 1, 12, 12), torch.nan), torch.tensor([0, 1])), "nan.pth")
    torch.save((torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])), "colour.pth")
    refused(message, *training, *options)


# -- methods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80])
def test_the_table_holds_every_method_whole(torchwhy, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    out, _ = torchwhy("methods")
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= columns
    words = " ".join(out.split())
    for name, cls in registry.methods().items():
        assert name in words
        assert cls.info.summary.split()[-1] in words


def test_the_facts_of_all_methods_are_json(torchwhy):
    facts = strict_json(torchwhy("methods", "--json")[0])
    assert [f["name"] for f in facts] == list(registry.methods())
    for f in facts:
        info = registry.lookup(f["name"]).info
        assert (f["summary"], f["year"], f["promises"]) == (info.summary, info.year, list(info.promises))
        assert not {"model", "at", "progress"} & f["options"].keys()


@pytest.mark.parametrize("name", registry.methods())
def test_one_method_is_shown_with_its_options(torchwhy, name):
    out, _ = torchwhy("methods", name)
    (facts,) = strict_json(torchwhy("methods", name.lower(), "--json")[0])
    assert out.startswith(f"{name}\n{facts['summary'][:20]}")
    for option, default in facts["options"].items():
        assert re.search(rf"\b{option}\b.*{re.escape(json.dumps(default))}", out)


def test_an_unknown_method_gets_the_closest_names(refused, why_not):
    refused("did you mean 'SmoothGrad'", "methods", "smothgrad")
    why_not("did you mean 'SmoothGrad'", "--method", "smothgrad")


# -- explain: the input --------------------------------------------------------------------------------------


def test_examples_of_a_data_set_are_chosen_by_number(torchwhy, why, made, rows):
    say = partial(torchwhy, "explain", made / "checkpoints", made / "test_data.pth", "--npz", "x.npz")
    asked = Saliency(load_checkpoint(made / "checkpoints")[0])
    for index in ([0], [7, 7, -1], [-ROWS, ROWS - 1]):
        out, err = say("--method", "Saliency", *(f"--index={i}" for i in index))
        assert err == ""
        assert [line.split(":")[0] for line in out.splitlines()] == [*(f"example {i}" for i in index), "written"]
        assert np.array_equal(np.load("x.npz")["values"], asked.attribute(rows[index]))
    assert len(why()["examples"]) == 1


def test_an_example_that_is_not_there_is_refused(why_not):
    for index in (ROWS, -ROWS - 1, 10**30):
        why_not(f"there is no example {index}", "--index", index)
    why_not(f"numbered 0 to {ROWS - 1}", "--index", 0, "--index", ROWS)


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_a_tensor_is_one_example_or_several(why, why_not, rows, here, suffix):
    def write(tensor):
        np.save("x.npy", tensor) if suffix == ".npy" else torch.save(tensor, "x.pt")
        return here / f"x{suffix}"

    expected = why("--index", 5, "--method", "Saliency")["examples"]
    for tensor in (rows[5], rows[5:6], rows[5].double()):
        assert why("--method", "Saliency", source=write(tensor))["examples"] == expected
    assert len(why(source=write(rows[:3]))["examples"]) == 3
    assert why("--method", "Saliency", "--index", 5, source=write(rows[:7]))["examples"] == expected
    why_not("there is no example 1", "--index", 1, source=write(rows[5]))
    why_not("has shape (12, 12), but the network takes (1, 12, 12)", source=write(rows[5, 0]))
    why_not("has shape (2, 1, 8, 8)", source=write(torch.zeros(2, 1, 8, 8)))
    why_not("has shape ()", source=write(torch.tensor(1.0)))
    why_not("there are no examples", source=write(torch.zeros(0, 1, 12, 12)))
    why_not("NaN", source=write(torch.full((1, 12, 12), torch.nan)))
    why_not("NaN or infinite", source=write(torch.full((1, 12, 12), 1e300, dtype=torch.float64)))


def test_an_image_is_made_to_fit(why, why_not, rows, here):
    pixels = (rows[5, 0] * 255).byte().numpy()
    Image.fromarray(pixels).save("exact.png")
    exact = why("--method", "Saliency", source=here / "exact.png")["examples"][0]
    assert exact["target"] == why("--index", 5, "--method", "Saliency")["examples"][0]["target"]
    colour = Image.fromarray(pixels).convert("RGB")
    colour.save("colour.png")
    assert why("--method", "Saliency", source=here / "colour.png")["examples"][0]["target"] == exact["target"]
    colour.resize((31, 50)).save("large.JPG", "JPEG")
    assert why(source=here / "large.JPG")["examples"]
    why_not("is one image", "--index", 0, source=here / "exact.png")
    (here / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    why_not("no readable PNG", source=here / "broken.png")


def test_an_input_that_is_none_is_refused(why_not, here, made):
    why_not("not found", source="nix.pth")
    why_not("not found", source="nix.png")
    (here / "x.txt").write_text("1")
    why_not("is no input", source=here / "x.txt")
    (here / "x.npy").write_bytes(b"\x93NUMPY")
    why_not("damaged", source=here / "x.npy")
    (here / "cut.pth").write_bytes((made / "test_data.pth").read_bytes()[:4000])
    why_not("damaged", source=here / "cut.pth")


class Planted:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))], ids=["zip", "plain"])
@pytest.mark.parametrize("name", ["x.pth", "x.pt"])
def test_code_in_a_file_is_not_run(why_not, refused, here, write, name):
    write(Planted(), here / name)
    why_not("refused", source=here / name)
    refused("refused", "data", "show", name)
    assert not (here / "ran").exists()


# -- explain: the checkpoint ---------------------------------------------------------------------------------


def test_a_checkpoint_is_a_folder_or_one_of_its_files(torchwhy, made):
    for name in ("checkpoints", "checkpoints/best", "checkpoints/best.json", "checkpoints/best.safetensors"):
        torchwhy("explain", made / name, made / "test_data.pth", "--check", "free")


def test_a_checkpoint_that_is_none_or_damaged_is_refused(why_not, made, here):
    why_not("not found", checkpoint="nix")
    why_not("is no checkpoint", checkpoint="test_data.pth")
    (here / "foreign.json").write_text('{"model": "resnet"}')
    why_not("no checkpoint", checkpoint=here / "foreign.json")
    for name in ("best.json", "best.safetensors"):
        (here / name).write_bytes((made / "checkpoints" / name).read_bytes())
    whole = (here / "best.safetensors").read_bytes()
    (here / "best.safetensors").write_bytes(whole[: len(whole) // 2])
    why_not("truncated or replaced", checkpoint=here)
    (here / "best.json").write_text((here / "best.json").read_text()[:100])
    why_not("damaged", checkpoint=here)


# -- explain: the question -----------------------------------------------------------------------------------


def test_a_target_is_a_class_a_number_from_the_end_or_a_unit(why, made, rows):
    model, _ = load_checkpoint(made / "checkpoints")
    with torch.no_grad():
        scores, hidden = model(rows[:1])[0], model.conv1(rows[:1])[0]
    predicted = why()["examples"][0]
    assert predicted["target"] == str(int(scores.argmax()))
    for text, expected in (
        ("3", scores[3]),
        ("-1", scores[9]),
        ("conv1[3,4,5]", hidden[3, 4, 5]),
        ("conv1[2]", hidden[2].sum()),
    ):
        assert why("--target", text)["examples"][0]["score"] == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_a_target_is_a_score_as_the_record_calls_it(why, why_not, made, rows):
    model, _ = load_checkpoint(made / "checkpoints")
    with torch.no_grad():
        scores = model(rows[:1])[0].double()
    p = scores.softmax(0)
    for text, expected in (
        ("3 rather than 5", scores[3] - scores[5]),
        ("P(3)", p[3]),
        ("log-odds of 3", (p[3] / (1 - p[3])).log()),
    ):
        found = why("--target", text)["examples"][0]
        assert found["target"] == found["target_name"] == text
        assert found["score"] == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
    why_not("3 rather than 3 is no question", "--target", "3 rather than 3")
    why_not("there is no class 'nine'", "--target", "P(nine)")


def test_a_class_named_by_a_number_is_meant_by_that_name(torchwhy, here):
    save_dataset(Dataset(torch.rand(8, 1, 6, 6), torch.arange(8) % 2, ("7", "1")), "d.pth")
    torchwhy("train", "--train", "d.pth", "--test", "d.pth", "--epochs", "1")
    for text, target, name in (("7", "0", "7"), ("1", "1", "1"), ("0", "0", "7")):
        found = strict_json(torchwhy("explain", "checkpoints", "d.pth", "--target", text, "--json")[0])["examples"][0]
        assert (found["target"], found["target_name"]) == (target, name)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("10 outputs, numbered 0 to 9", "10"),
        ("10 outputs, numbered 0 to 9", "-11"),
        ("there is no class 'nine'; there are: '0', '1'", "nine"),
        ("there is no class ''", ""),
        ("there is no class '3.0'", "3.0"),
        ("a unit is whole numbers", "conv1[]"),
        ("a unit is whole numbers", "conv1[a,b]"),
        ("no such unit, the layer holds (16, 10, 10)", "conv1[99,0,0]"),
        ("no such unit", "conv1[0,0,0,0]"),
        ("no layer 'konv1'; did you mean 'conv1'", "konv1[0]"),
        ("there is no class 'conv1'", "conv1"),
        ("there is no class 'conv1[3'", "conv1[3"),
    ],
)
def test_a_target_that_is_not_there_is_refused(why_not, message, text):
    why_not(message, f"--target={text}")


def test_a_layer_is_explained_and_a_wrong_one_refused(why, why_not):
    assert why("--at", "conv2", "--npz", "x.npz")["at"] == "conv2"
    assert np.load("x.npz")["values"].shape == (1, 32, 8, 8)
    why_not("ConvNet has no layer 'conv3'; did you mean", "--at", "conv3")
    why_not("runs before", "--at", "conv2", "--target", "conv1[0,0,0]")


@pytest.mark.parametrize("name", [name for name, cls in registry.methods().items() if cls.info.standalone])
def test_every_method_gives_what_it_gives_in_python(torchwhy, refused, made, rows, name):
    cls = registry.lookup(name)
    model, record = load_checkpoint(made / "checkpoints")
    asked = ["explain", made / "checkpoints", made / "test_data.pth", "--index", 4, "--index", 9, "--method", name]
    try:
        expected = cls(model).explain(rows[[4, 9]], rows if cls.info.baselines == "set" else None, check="free")
    except TorchwhyError as error:  # some say that the input has too many features for their defaults
        refused(str(error), *asked, "--check", "free")
        return
    out, _ = torchwhy(*asked, "--check", "free", "--npz", "x.npz")
    assert np.array_equal(np.load("x.npz")["values"], expected.values)
    page = html.unescape(Path("explanation.html").read_text())
    for i, (line, verdict) in enumerate(zip(out.splitlines(), expected.verdicts, strict=False)):
        assert str(verdict) in line
        assert f"predicts {record.classes[int(expected.target[i])]} (score" in line
        assert all(reason in page for reason in verdict.reasons)


def test_a_method_that_goes_around_another_is_refused(why_not):
    for name in (name for name, cls in registry.methods().items() if not cls.info.standalone):
        why_not(f"{name} goes around another method", "--method", name)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("IntegratedGradients", "n_steps=7", 7),
        ("IntegratedGradients", "tol=0.05", 0.05),
        ("IntegratedGradients", "tol=null", None),
        ("IntegratedGradients", "multiply_by_inputs=false", False),
        ("IntegratedGradients", "multiply_by_inputs=False", False),
        ("IntegratedGradients", "method=riemann_left", "riemann_left"),
        ("IntegratedGradients", 'method="riemann_left"', "riemann_left"),
        ("Occlusion", "sliding_window_shapes=[1,3,3]", [1, 3, 3]),
        ("SmoothGrad", "seed=5", 5),
    ],
)
def test_an_option_reaches_the_method(why, method, option, value):
    assert why("--method", method, "-o", option)["options"][option.split("=")[0]] == value


@pytest.mark.parametrize(
    ("message", "method", "option"),
    [
        ("name=value", "IntegratedGradients", "n_steps"),
        ("did you mean 'n_steps'", "IntegratedGradients", "steps=3"),
        ("has no option 'model'", "IntegratedGradients", "model=3"),
        ("has no option 'at'", "IntegratedGradients", "at=conv1"),
        ("n_steps is a whole number of at least 1, not 'many'", "IntegratedGradients", "n_steps=many"),
        ("not 2.5", "IntegratedGradients", "n_steps=2.5"),
        ("not True", "IntegratedGradients", "n_steps=true"),
        ("not ''", "IntegratedGradients", "n_steps="),
        ("n_steps", "IntegratedGradients", "n_steps=" + "9" * 5000),
        ("tol is a share between 0 and 1", "IntegratedGradients", "tol=NaN"),
        ("there is no quadrature 'simpson'", "IntegratedGradients", "method=simpson"),
        ("multiply_by_inputs is true or false, not 'no'", "IntegratedGradients", "multiply_by_inputs=no"),
        ("multiply_by_inputs is true or false, not '0'", "IntegratedGradients", "multiply_by_inputs=0"),
        ("the window", "Occlusion", "sliding_window_shapes=[1,99,99]"),
        ("sliding_window_shapes", "Occlusion", "sliding_window_shapes=[3,3]"),
        ("seed", "SmoothGrad", "seed=-1"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(why_not, message, method, option):
    why_not(message, "--method", method, "-o", option)


def test_what_to_compare_with_reaches_the_method(why, rows, made):
    score = why()["examples"][0]["score"]
    model, _ = load_checkpoint(made / "checkpoints")
    target = int(model(rows[:1]).argmax())
    with torch.no_grad():
        half = float(model(torch.full_like(rows[:1], 0.5))[0, target])
    save_dataset(Dataset(torch.full((1, 1, 12, 12), 0.5), torch.tensor([0]), ("0",)), "half.pth")
    for asked in (["--baseline", 0.5], ["--method", "GradientShap", "--background", "half.pth"]):
        told = why(*asked)["examples"][0]["evidence"]["completeness"]["reason"]
        moved = float(re.search(r"the score moved by (\S+):", told)[1])
        assert moved == pytest.approx(score - half, rel=1e-3)


def test_what_a_method_does_not_compare_with_is_refused(why_not, rows, here):
    why_not("compares with nothing", "--method", "Saliency", "--baseline", 0)
    why_not("compares with nothing", "--method", "Saliency", "--background", "x.pth")
    why_not("give --baseline instead", "--background", "x.pth")
    why_not("give --background instead", "--method", "GradientShap", "--baseline", 0)
    why_not("nix.pth not found", "--method", "GradientShap", "--background", "nix.pth")
    why_not("NaN or infinity", "--baseline", "nan")
    save_dataset(Dataset(torch.zeros(2, 1, 8, 8), torch.tensor([0, 0]), ("0",)), "small.pth")
    why_not("(2, 1, 8, 8)", "--method", "GradientShap", "--background", "small.pth")
    np.save("x.npy", rows[0])
    why_not("such as --background", "--method", "GradientShap", source=here / "x.npy")


# -- explain: what is written --------------------------------------------------------------------------------


def test_all_files_are_written_and_can_be_read(torchwhy, made):
    names = ("a/r.html", "a/p.PNG", "a/v.svg", "a/n.npz", "a/e.safetensors")
    options = zip(("--out", "--png", "--svg", "--npz", "--save"), names, strict=True)
    asked = [
        "explain",
        made / "checkpoints",
        made / "test_data.pth",
        "--index",
        3,
        "--index",
        4,
        "--target",
        "conv1[1,5,5]",
    ]
    found = strict_json(torchwhy(*asked, *(word for pair in options for word in pair), "--json")[0])
    assert found["written"] == list(names)
    assert sorted(str(path) for path in Path("a").iterdir()) == sorted(names)
    e = Explanation.load("a/e.safetensors")
    assert e.as_dict() == {key: value for key, value in found.items() if key != "written"}
    assert np.array_equal(np.load("a/n.npz")["values"], e.values)
    with Image.open("a/p.PNG") as picture:
        assert picture.format == "PNG"
        assert picture.convert("L").getextrema() != (255, 255)
    assert ET.parse("a/v.svg").getroot().tag.endswith("}svg")  # noqa: S314  it was written a moment ago
    page = html.unescape(Path("a/r.html").read_text())
    assert e.target_name() in page
    for verdict in e.verdicts:
        assert all(reason in page for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("x.txt should end in .html", ["--out", "x.txt"]),
        ("/dev/null should end in .html", ["--out", "/dev/null"]),
        ("should end in .png", ["--png", "x.svg"]),
        ("should end in .svg", ["--svg", "x.png"]),
        ("should end in .npz", ["--npz", "x.npy"]),
        ("should end in .safetensors", ["--save", "x.pt"]),
        ("folder is a folder: name a file in it, such as folder/explanation.html", ["--out", "folder"]),
        ("folder is a folder", ["--png", "folder"]),
        ("taken is no folder", ["--out", "taken/x.html"]),
        ("taken is no folder", ["--npz", "taken/deep/x.npz"]),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(refused, here, message, options):
    (here / "taken").write_text("a file")
    (here / "folder").mkdir()
    refused(message, "explain", "a checkpoint nobody has looked for yet", "x.pth", *options)


def test_no_file_is_left_when_a_later_one_fails(why_not, here, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Explanation, "plot", fail)
    why_not("No space left on device", "--png", "x.png")


def test_ctrl_c_ends_without_a_file_or_a_traceback(torchwhy, made, here, monkeypatch):
    monkeypatch.setattr(Saliency, "compute", interrupt)
    torchwhy("explain", made / "checkpoints", made / "test_data.pth", "--method", "Saliency", code=130)
    assert list(here.iterdir()) == []


def test_ctrl_c_during_the_checks_leaves_the_explanation(torchwhy, made, monkeypatch):
    from torchwhy.trust import removal

    asked = ["explain", made / "checkpoints", made / "test_data.pth", "--npz", "x.npz", "--json"]
    whole = strict_json(torchwhy(*asked)[0])
    values = np.load("x.npz")["values"]
    monkeypatch.setattr(removal, "deletion", interrupt)
    found = strict_json(torchwhy(*asked, code=130)[0])
    assert np.array_equal(np.load("x.npz")["values"], values)
    (example,), (before,) = found["examples"], whole["examples"]
    assert before["verdict"] != "unknown" == example["verdict"]
    assert before["evidence"].keys() - example["evidence"].keys() == {"faithfulness"}
    assert example["reasons"][0].startswith("stopped by hand after")
    assert "stopped by hand after" in Path("explanation.html").read_text()


def test_a_name_cannot_become_markup_in_the_report(torchwhy, here):
    nasty = "<script>alert(1)</script>"
    save_dataset(Dataset(torch.rand(8, 1, 6, 6), torch.arange(8) % 2, (nasty, "b")), "<b>.pth")
    torchwhy("train", "--train", "<b>.pth", "--test", "<b>.pth", "--epochs", "1")
    torchwhy("explain", "checkpoints", "<b>.pth", "--target", nasty, "--check", "free")
    page = Path("explanation.html").read_text()
    assert html.escape(nasty) in page
    assert "<script>" not in page
    assert "<b>" not in page
