"""`torchwhy compare` on the built-in digits."""

import json
import sys

import pytest

from torchwhy.cli import main
from torchwhy.data import Dataset, digits, save_dataset
from torchwhy.train import TrainingConfig, train

METHODS = ["--method", "input-x-gradient", "--method", "Saliency", "--method", "GradCAM"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data and a network trained on them."""
    folder = tmp_path_factory.mktemp("made")
    sets = [
        Dataset(part.inputs[:n], part.labels[:n], part.classes, part.preprocessing)
        for part, n in zip(digits(), (200, 30), strict=True)
    ]
    save_dataset(sets[1], folder / "test_data.pth")
    train(*sets, folder / "checkpoints", TrainingConfig(epochs=2, lr=0.05, momentum=0.9))
    return folder


@pytest.fixture
def compare(made, monkeypatch, capsys, tmp_path):
    """Run the command; what it printed to standard output and to standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*args, code=0, source="test_data.pth"):
        given = ["torchwhy", "compare", made / "checkpoints", made / source, *args]
        monkeypatch.setattr(sys, "argv", list(map(str, given)))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        return out, err

    return run


def test_it_says_what_to_use_and_writes_a_page(compare, tmp_path):
    out, _ = compare(*METHODS, "--budget", "20000", "--examples", "20")
    assert out.startswith("Use ")
    assert "AvgSensitivity" in out
    assert out.endswith("written: comparison.html\n")
    assert "Which method to use here" in (tmp_path / "comparison.html").read_text()


def test_a_program_reads_json_and_the_budget_is_kept(compare, tmp_path):
    options = ("--metric", "Deletion", "--budget", "4000", "--examples", "12", "--seed", "2", "--json")
    found, again = (json.loads(compare(*METHODS, *options, "--out", "why.html")[0]) for _ in range(2))
    assert found == again
    assert found["written"] == ["why.html"]
    assert found["budget"] == 4000 >= found["evaluations"]
    assert {c["name"] for c in found["contenders"]} == {"InputXGradient", "Saliency", "GradCAM"}
    assert found["tuned"] <= 6
    assert found["directions"] == {"Deletion": "lower"}
    assert (tmp_path / "why.html").exists()


def test_a_class_is_named(compare):
    found = json.loads(compare("--method", "Saliency", "--metric", "Deletion", "--target", "3", "--json")[0])
    assert len(found["contenders"]) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--method", "Salency"], "did you mean 'Saliency'"),
        (["--metric", "Deletio"], "did you mean 'Deletion'"),
        (["--budget", "10"], "a budget of 10 model evaluations is too small"),
        (["--examples", "5"], "give 10 or more, not 5"),
        (["--out", "report.txt"], "should end in .html"),
        (["--target", "seventeen"], "there is no class 'seventeen'"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_line_and_exit_code_2(compare, tmp_path, args, message):
    out, err = compare(*METHODS, *args, code=2) if "--method" not in args else compare(*args, code=2)
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_layer_is_named(compare):
    options = ("--metric", "Deletion", "--budget", "8000", "--examples", "12", "--json")
    found = json.loads(compare(*METHODS, "--at", "conv2", *options)[0])
    assert found["at"] == "conv2"
    assert {c["options"]["at"] for c in found["contenders"]} == {"conv2"}
    _, err = compare(*METHODS, "--at", "conv7", *options, code=2)
    assert "conv7" in err
