"""Remove and retrain on data of which it is known what decides."""

import json
import random
import re
import sys

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from torch import nn

import torchwhy as why
from torchwhy.cli import main
from torchwhy.core.errors import TorchwhyError
from torchwhy.data import Dataset, digits, save_dataset
from torchwhy.engines.noise import draws
from torchwhy.networks import ConvNet
from torchwhy.retraining import Retraining, networks
from torchwhy.retraining.rankings import eraser, ranks
from torchwhy.train import TrainingConfig, fit, load_checkpoint, train

QUICK = {"epochs": 4, "repeats": 2, "progress": False, "controls": ()}


def planted(n, seed, width=10):
    """The sum of the first two features decides."""
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] + x[:, 1] > 0).long()


TRAIN, TEST = planted(600, 0), planted(1500, 1)


def linear():
    return nn.Linear(10, 2)


def marks(*features):
    """An explainer that marks these, the first the most."""

    def explain(model, x, target):
        values = torch.zeros_like(x)
        for place, feature in enumerate(features):
            values[:, feature] = len(features) - place
        return values

    return explain


@pytest.fixture(scope="module")
def found():
    methods = {"perfect": marks(0, 1), "useless": marks(8, 9)}
    return why.roar(linear, TRAIN, TEST, methods, shares=(0.1, 0.2), reverse=True, **QUICK | {"repeats": 3})


# --- known answers ------------------------------------------------------------------------------------------


def test_without_what_decides_nothing_is_learnt_and_with_half_of_it_three_quarters(found):
    # The signs of x1 and of x0 + x1, correlated by 1/sqrt(2), agree in 1 - arccos(1/sqrt(2)) / pi = 3/4 of all cases.
    one, both = found.means("perfect")
    assert one == pytest.approx(0.75, abs=0.04)
    assert both == pytest.approx(0.5, abs=0.04)
    assert sum(found.untouched) / 3 > 0.97


@pytest.mark.parametrize("name", ["useless", "perfect, reversed"])
def test_without_what_decides_nothing_all_is_as_before(found, name):
    assert all(a > 0.97 for a in found.means(name))
    assert found.means("random")[1] > 0.7


def test_chance_takes_each_of_the_two_as_often_as_any():
    # In one of five examples each feature is gone, and no network can do better than by the signs of what is left: an
    # example without one of both is right in 3/4, without both in 1/2. 1 of 45 pairs of features are both, 16 are one.
    found = why.roar(linear, TRAIN, TEST, {"none": marks()}, shares=(0.2,), **QUICK | {"epochs": 20})
    best = (28 + 16 * 0.75 + 0.5) / 45
    assert found.means("random")[0] == pytest.approx(best, abs=0.03)
    assert found.means("none") == found.means("random")  # nothing marked is nothing but chance


def test_verdicts_and_words(found):
    perfect, useless = found.findings
    assert (perfect.standing, useless.standing) == ("better", "worse")
    assert perfect.widest[0] == 0.2
    said = " ".join(found.sentences)
    assert "Removing what perfect marks and retraining costs" in said
    assert "more than chance." in said
    assert "chance does better" in said
    assert "tells the class" not in said


def test_a_copy_elsewhere_makes_up_for_what_is_removed():
    twice = tuple((torch.cat([x, x[:, :2]], 1), y) for x, y in (TRAIN, TEST))
    methods = {"one": marks(0, 1), "all": marks(0, 1, 10, 11)}
    found = why.roar(lambda: nn.Linear(12, 2), *twice, methods, shares=(1 / 6, 1 / 3), **QUICK)
    assert found.means("one")[0] > 0.97  # the copies are still there
    assert found.means("all")[1] == pytest.approx(0.5, abs=0.04)


def test_kept_alone_what_decides_is_enough():
    methods = {"perfect": marks(0, 1), "useless": marks(8, 9)}
    found = why.roar(linear, TRAIN, TEST, methods, shares=(0.2,), keep=True, **QUICK | {"repeats": 3})
    assert found.means("perfect")[0] > 0.97
    assert found.means("useless")[0] == pytest.approx(0.5, abs=0.04)
    assert [f.standing for f in found.findings] == ["better", "worse"]
    assert "Keeping only what perfect marks and retraining saves" in " ".join(found.sentences)


def test_integrated_gradients_find_what_decides():
    found = why.roar(
        linear, TRAIN, TEST, ["IntegratedGradients"], shares=(0.2,), absolute=True, **QUICK | {"epochs": 8}
    )
    assert found.means("IntegratedGradients")[0] < found.means("random")[0] - 0.1


def test_the_traces_of_an_explanation_can_tell_the_class():
    def tell(model, x, target):
        return nn.functional.one_hot(target + 5, 10).to(x)

    found = why.roar(linear, TRAIN, TEST, {"tell": tell, "perfect": marks(0, 1)}, shares=(0.1,), **QUICK)
    assert sum(found.traces["tell"]) / 2 > 0.95
    assert found.telltale("tell")
    assert sum(found.traces["perfect"]) / 2 == pytest.approx(0.5, abs=0.05)
    assert not found.telltale("perfect")
    assert sum("tell marks tells the class" in said for said in found.sentences) == 1


def stubborn(model, x, y, seed):
    """Learns to name the second class always."""
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, 1.0]))


def test_what_has_learnt_nothing_is_not_judged():
    found = why.roar(linear, TRAIN, TEST, {"perfect": marks(0, 1)}, shares=(0.2,), train_with=stubborn, **QUICK)
    assert not found.trained
    assert found.findings[0].standing == "unknown"
    assert "have not learnt" in found.sentences[0]


# --- the numbers --------------------------------------------------------------------------------------------


def made(rows, chance, **options):
    base = {"untouched": (0.9,) * len(rows), "traces": {}, "traced": 0.5, "keep": False, "examples": 1000}
    accuracy = {"random": chance, "mine": rows}
    return Retraining((0.2, 0.6), ("mine",), accuracy=accuracy, majority=0.5, **base | options)


def test_the_gap_is_the_area_between_the_curves():
    found = made(((0.7, 0.5), (0.6, 0.5), (0.7, 0.4)), ((0.8, 0.7),) * 3)
    # By hand: 0.2 a / 2 + 0.4 (a + b) / 2 + 0.4 b / 2 for differences a at 0.2 and b at 0.6.
    areas = [0.3 * a + 0.4 * b for a, b in ((0.1, 0.2), (0.2, 0.2), (0.1, 0.3))]
    gap = found.gap("mine")
    test = ttest_1samp(areas, 0)
    assert gap.mean == pytest.approx(np.mean(areas))
    assert gap.error == pytest.approx(np.std(areas, ddof=1) / 3**0.5)
    assert (gap.t, gap.p) == (pytest.approx(test.statistic), pytest.approx(test.pvalue))
    assert found.findings[0].p == pytest.approx(test.pvalue)
    kept = made(((0.7, 0.5), (0.6, 0.5), (0.7, 0.4)), ((0.8, 0.7),) * 3, keep=True)
    assert kept.gap("mine").mean == pytest.approx(-np.mean(areas))


def test_repeats_that_agree_by_accident_are_not_certain():
    gap = made(((0.7, 0.5),) * 2, ((0.8, 0.7),) * 2).gap("mine")
    assert gap.error == pytest.approx(0.001 / 2**0.5)
    assert made(((0.7, 0.5),) * 2, ((0.7, 0.5),) * 2).findings[0].standing == "ties"


def test_one_repeat_tells_nothing_from_chance():
    found = made(((0.7, 0.5),), ((0.8, 0.7),))
    assert found.findings[0].standing == "unknown"
    assert "one repeat, which tells nothing from chance" in found.sentences[-1]


def test_methods_share_the_risk():
    rows = ((0.7, 0.5), (0.72, 0.5), (0.7, 0.48))
    found = made(rows, ((0.8, 0.7),) * 3)
    alone = found.findings[0].p
    both = Retraining(
        **{name: getattr(found, name) for name in Retraining.__dataclass_fields__}
        | {"methods": ("mine", "too"), "accuracy": found.accuracy | {"too": rows}}
    )
    assert both.findings[0].p == pytest.approx(2 * alone)


# --- orders and fills ---------------------------------------------------------------------------------------


def test_equal_values_take_turns_in_each_row_by_itself():
    values = torch.tensor([[1.0, 3.0, 1.0, 1.0, 1.0, 1.0]]).expand(400, 6)
    found = ranks(values, draws(0))
    assert (found[:, 1] == 0).all()
    assert torch.equal(found.sort(1).values, torch.arange(6).expand(400, 6))
    counts = (found == 1).sum(0)
    assert counts[1] == 0
    assert (counts[[0, 2, 3, 4, 5]] > 40).all()  # about 80 each
    assert torch.equal(found, ranks(values, draws(0)))


def test_a_pixel_goes_with_all_its_channels_and_gets_the_mean_of_the_training_data():
    x = torch.rand(300, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    rubber = eraser(x, "pixels", "mean", None, keep=False, absolute=False)
    rank = ranks(torch.rand(300, 16, generator=torch.Generator().manual_seed(1)), draws(0))
    out = rubber.without(x, rank, 5)
    gone = (rank < 5).view(300, 1, 4, 4).expand(x.shape)
    assert torch.equal(out[~gone], x[~gone])
    means = x.mean((0, 2, 3)).view(1, 3, 1, 1).expand(x.shape)
    torch.testing.assert_close(out[gone], means[gone])
    assert torch.equal(rubber.traces(x, rank, 5), gone.float())
    kept = eraser(x, "pixels", "mean", None, keep=True, absolute=False).without(x, rank, 5)
    assert torch.equal(kept[gone], x[gone])
    torch.testing.assert_close(kept[~gone], means[~gone])


@pytest.mark.parametrize(
    ("fill", "baselines", "expected"),
    [(0.25, None, 0.25), (torch.tensor([[0.5]]), None, 0.5), ("baseline", 0.75, 0.75), ("baseline", None, 0.0)],
)
def test_what_takes_the_place_of_a_feature(fill, baselines, expected):
    x = torch.rand(3, 4)
    rubber = eraser(x, "pixels", fill, baselines, keep=False, absolute=False)
    out = rubber.without(x, torch.arange(4).expand(3, 4), 2)
    assert torch.equal(out[:, :2], torch.full((3, 2), expected))
    assert torch.equal(out[:, 2:], x[:, 2:])


def test_features_of_a_mask_go_together_and_what_is_in_none_stays():
    mask = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, -1, -1])
    found = why.roar(linear, TRAIN, TEST, {"perfect": marks(0)}, positions=mask, shares=(0.25,), **QUICK)
    assert found.means("perfect")[0] == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("fill", ["linear", "blur", why.fills.Mean()])
def test_images_of_a_small_network_with_other_fills(fill):
    x = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    data = x, (x[:, 0, 0, 0] > 0.5).long()
    found = why.roar(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)),
        data,
        data,
        {"cam": "GradCAM", "ig": why.IntegratedGradients(nn.Identity(), n_steps=3)},
        shares=(0.5,),
        fill=fill,
        **QUICK | {"controls": ("edges", "input"), "epochs": 1},
    )
    assert list(found.accuracy) == ["random", "edges", "input", "cam", "ig"]
    assert all(0 <= a <= 1 for rows in found.accuracy.values() for row in rows for a in row)


# --- training -----------------------------------------------------------------------------------------------


def test_fitting_is_what_training_does(tmp_path):
    train_set, test_set = (Dataset(d.inputs[:70], d.labels[:70], d.classes) for d in digits())
    config = TrainingConfig(epochs=2, lr=0.05, momentum=0.9, seed=4)
    train(train_set, test_set, tmp_path, config, progress=False)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model, shuffle = ConvNet(), torch.Generator()
        shuffle.set_state(torch.get_rng_state())
    fit(model, train_set, config, shuffle=shuffle)
    for a, b in zip(model.parameters(), load_checkpoint(tmp_path / "last.json")[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loop_of_ones_own_gets_data_and_a_seed_for_each_repeat():
    seeds = []

    def loop(model, x, y, seed):
        seeds.append(seed)
        assert x.shape == TRAIN[0].shape
        with torch.no_grad():
            model.weight.zero_()
            model.weight[1, :2] = 1
            model.bias.zero_()

    found = why.roar(linear, TRAIN, TEST, {"perfect": marks(0, 1)}, shares=(0.2,), train_with=loop, **QUICK)
    assert found.untouched == (1.0, 1.0)
    assert found.provenance["training"] == {"loop": loop.__qualname__}
    assert len(seeds) == 2 * 4
    assert len(set(seeds[:4])) == len(set(seeds[4:])) == 1
    assert seeds[0] != seeds[-1]


def test_each_repeat_explains_once_and_the_prediction_unless_the_label_is_asked_for():
    calls = []

    def note(model, x, target):
        calls.append(target.clone())
        return torch.zeros_like(x)

    ask = {"shares": (0.1, 0.5), "train_with": stubborn} | QUICK
    why.roar(linear, (TRAIN[0][:100], TRAIN[1][:100]), (TEST[0][:50], TEST[1][:50]), [note], **ask)
    assert [len(c) for c in calls] == [2, 100, 50, 100, 50]  # two examples to try, then all of them in each repeat
    assert all((c == 1).all() for c in calls[1:])
    calls.clear()
    why.roar(linear, (TRAIN[0][:100], TRAIN[1][:100]), (TEST[0][:50], TEST[1][:50]), [note], target="label", **ask)
    assert torch.equal(calls[1], TRAIN[1][:100])


def test_a_network_is_given_new_weights_and_stays_as_it_is():
    model = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = why.roar(model, TRAIN, TEST, {"perfect": marks(0, 1)}, shares=(0.2,), **QUICK)
    assert found.means("perfect")[0] == pytest.approx(0.5, abs=0.05)
    assert model.training
    assert all(torch.equal(t, before[name]) and t.grad is None for name, t in model.state_dict().items())


def test_the_same_seed_is_the_same_and_nothing_else_is_touched():
    def ask(seed):
        return why.roar(linear, TRAIN, TEST, {"perfect": marks(0)}, shares=(0.2,), seed=seed, **QUICK)

    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()  # noqa: NPY002
    one = ask(0)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate(), torch.get_num_threads()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert (before[1] == after[1]).all()
    assert before[2:] == after[2:]
    torch.manual_seed(2)
    with torch.no_grad():
        two = ask(0)
    assert one.as_dict() == two.as_dict()
    assert one.accuracy != ask(1).accuracy


# --- interrupts ---------------------------------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch):
    """Counts trainings, and interrupts in the one whose number is in `at`."""

    class Count:
        done, at = 0, None

    def counted(*args, **options):
        if Count.done == Count.at:
            raise KeyboardInterrupt
        Count.done += 1
        fit(*args, **options)

    monkeypatch.setattr(networks, "fit", counted)
    return Count


ASK = {"shares": (0.1, 0.2), "epochs": 2, "repeats": 2, "progress": False, "controls": ()}
METHODS = {"perfect": marks(0, 1), "ig": "IntegratedGradients"}
CELLS = 2 * (1 + 3 * 2 + 2)


@pytest.mark.parametrize("at", [1, 4, CELLS // 2, CELLS - 1])
def test_going_on_gives_what_an_uninterrupted_run_gives(at, trainings, tmp_path):
    whole = why.roar(linear, TRAIN, TEST, METHODS, **ASK)
    assert trainings.done == CELLS
    trainings.done, trainings.at = 0, at
    part = why.roar(linear, TRAIN, TEST, METHODS, folder=tmp_path / "run", **ASK)
    assert part.interrupted
    assert f"{at} of {CELLS} trainings are done" in part.sentences[0]
    assert str(part)
    assert Retraining.load(part.save(tmp_path / "part.json")).as_dict() == part.as_dict()
    trainings.at = None
    again = why.roar(linear, TRAIN, TEST, METHODS, folder=tmp_path / "run", **ASK)
    assert trainings.done == CELLS
    assert again.as_dict() == whole.as_dict()
    why.roar(linear, TRAIN, TEST, METHODS, folder=tmp_path / "run", **ASK)
    assert trainings.done == CELLS


def test_an_interrupt_before_anything_is_there_is_an_interrupt(trainings):
    trainings.at = 0
    with pytest.raises(KeyboardInterrupt):
        why.roar(linear, TRAIN, TEST, METHODS, **ASK)


def test_shares_methods_and_repeats_are_added_to_a_folder(trainings, tmp_path):
    small = why.roar(linear, TRAIN, TEST, METHODS, folder=tmp_path, **ASK)
    trainings.done = 0
    more = {"shares": (0.1, 0.2, 0.7), "repeats": 3}
    wide = why.roar(linear, TRAIN, TEST, METHODS | {"new": marks(3)}, folder=tmp_path, **ASK | more)
    # Of two repeats, the traces at 0.2 are no longer asked for; those at 0.7 are.
    assert trainings.done == 3 * (1 + 4 * 3 + 3) - (CELLS - 2 * 2)
    assert [row[:2] for row in wide.accuracy["ig"][:2]] == list(small.accuracy["ig"])
    fresh = why.roar(linear, TRAIN, TEST, METHODS | {"new": marks(3)}, **ASK | more)
    assert fresh.as_dict() == wide.as_dict()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "seed"),
        ({"keep": True}, "keep"),
        ({"lr": 0.1}, "training"),
        ({"fill": 0.0}, "fill"),
        ({"target": "label"}, "target"),
        ({"positions": torch.arange(10)}, "positions"),
    ],
)
def test_another_question_in_the_same_folder_is_refused(change, what, trainings, tmp_path):
    trainings.at = 1
    why.roar(linear, TRAIN, TEST, METHODS, folder=tmp_path, **ASK)
    with pytest.raises(TorchwhyError, match=f"with other {what};"):
        why.roar(linear, TRAIN, TEST, METHODS, folder=tmp_path, **ASK | change)
    with pytest.raises(TorchwhyError, match="with other data;"):
        why.roar(linear, TEST, TRAIN, METHODS, folder=tmp_path, **ASK)
    with pytest.raises(TorchwhyError, match="with other network;"):
        why.roar(lambda: nn.Linear(10, 3), TRAIN, TEST, METHODS, folder=tmp_path, **ASK)


def test_a_file_that_was_cut_short_is_trained_again(trainings, tmp_path):
    whole = why.roar(linear, TRAIN, TEST, METHODS, folder=tmp_path, **ASK)
    next((tmp_path / "repeat-1").glob("function*.json")).write_text("{")
    (tmp_path / "repeat-1" / "untouched.safetensors").write_bytes(b"")
    trainings.done = 0
    assert why.roar(linear, TRAIN, TEST, METHODS, folder=tmp_path, **ASK).as_dict() == whole.as_dict()
    assert trainings.done == 2  # the cell, and the network that is explained


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": (0.0, 0.5)}, "above 0 and below 1"),
        ({"shares": (1.0,)}, "above 0 and below 1"),
        ({"shares": ()}, "above 0 and below 1"),
        ({"shares": 0.5}, "above 0 and below 1"),
        ({"shares": (0.01,)}, "a share of 0.01 of 10 positions is none of them"),
        ({"shares": (0.99,)}, "a share of 0.99 of 10 positions is all of them"),
        ({"shares": (0.5, 0.51)}, "are both 5 of 10 positions"),
        ({"repeats": 0}, "repeats is a whole number of at least 1"),
        ({"seed": -1}, "seed is a whole number"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"methods": ["Salency"]}, "did you mean 'Saliency'"),
        ({"methods": "Saliency"}, "methods are a tuple"),
        ({"methods": []}, "name at least one method"),
        ({"methods": ["Saliency", "Saliency"]}, "two rankings are called 'Saliency'"),
        ({"methods": {"random": "Saliency"}}, "two rankings are called 'random'"),
        ({"methods": [7]}, "a method is a name, a class"),
        ({"methods": ["NoiseTunnel"]}, "goes around another method"),
        ({"methods": ["ShapleyInteractions"]}, "pairs of features"),
        ({"methods": [lambda model, x, target: x[:, :3]]}, r"values of shape (2, 3); expected the shape"),
        ({"methods": [lambda model, x, target: x / 0]}, "not finite"),
        ({"methods": [lambda model, x, target: 1]}, "gives int"),
        ({"controls": ("edge",)}, "did you mean 'edges'"),
        ({"fill": "blurred"}, "did you mean 'blur'"),
        ({"fill": "blur"}, "is for maps"),
        ({"fill": why.fills.Noise(n_draws=2)}, "filled once"),
        ({"positions": "pixel"}, "positions are"),
        ({"positions": "superpixels"}, "share"),
        ({"target": "true"}, "target is one of"),
        ({"make_model": 3}, "make_model makes a network"),
        ({"make_model": lambda: 3}, "makes a torch.nn.Module, not int"),
        ({"make_model": lambda net=nn.Linear(10, 2): net}, "the same network each time"),  # noqa: B008
        ({"make_model": lambda: nn.Linear(10, 1)}, "a score for each of 2 classes"),
        ({"make_model": lambda: nn.Linear(9, 2)}, "cannot take inputs"),
        ({"make_model": nn.Identity}, "no parameter that requires a gradient"),
        ({"train": TRAIN[0]}, "train is a pair of tensors"),
        ({"train": (TRAIN[0], TRAIN[1][:5])}, "train: 600 inputs but 5 labels"),
        ({"train": (TRAIN[0], TRAIN[0])}, "train: labels are float32"),
        ({"train": (TRAIN[0], TRAIN[1][:, None])}, "train: labels have shape (600, 1)"),
        ({"train": (TRAIN[0], TRAIN[1] * 0)}, "of one class"),
        ({"train": (TRAIN[0] / 0, TRAIN[1])}, "NaN or infinite"),
        ({"test": (TEST[0][:, :3], TEST[1])}, "training inputs have shape (10,), test inputs (3,)"),
        ({"test": (TEST[0][:0], TEST[1][:0])}, "test: the data set is empty"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(options, message, trainings, tmp_path):
    given = {"make_model": linear, "train": TRAIN, "test": TEST, "methods": ["Saliency"], **QUICK, **options}
    with pytest.raises(TorchwhyError, match=re.escape(message)) as caught:
        why.roar(folder=tmp_path, **given)
    assert "\n" not in str(caught.value)
    assert trainings.done == 0
    assert not list(tmp_path.iterdir())


def test_weights_out_of_nowhere_are_refused():
    def make():
        model = linear()
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(np.random.default_rng().standard_normal((2, 10))))
        return model

    with pytest.raises(TorchwhyError, match="other weights after the same"):
        why.roar(make, TRAIN, TEST, ["Saliency"], **QUICK)


# --- what people see ----------------------------------------------------------------------------------------


def test_it_is_saved_read_again_drawn_and_shown(found, tmp_path):
    again = Retraining.load(found.save(tmp_path / "found.json"))
    assert again.as_dict() == json.loads((tmp_path / "found.json").read_text()) | {
        name: getattr(again, name) for name in ("shares", "methods", "untouched", "accuracy", "traces")
    } | {"findings": [f.as_dict() for f in again.findings]}
    assert again.accuracy == found.accuracy
    assert again.sentences == found.sentences
    page = found.save(tmp_path / "found.html").read_text()
    assert page == again.save(tmp_path / "again.html").read_text()
    for text in (page, found._repr_html_(), str(found)):
        assert "perfect, reversed" in text
        assert "control" in text
    labels = [text.get_text() for text in found.plot().legends[0].get_texts()]
    assert {"perfect", "control: random", "untouched data"} <= set(labels)
    assert repr(found) == "<Retraining of 2 methods, 2 shares, 3 repeats>"
    with pytest.raises(TorchwhyError, match="a retraining is saved as"):
        found.save(tmp_path / "found.txt")
    with pytest.raises(TorchwhyError, match="no retraining"):
        Retraining.load(tmp_path / "found.html")
    with pytest.raises(TorchwhyError, match="nothing was removed by 'perfekt'"):
        found.gap("perfekt")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for part, name, n in zip(digits(), ("train_data.pth", "test_data.pth"), (150, 60), strict=True):
        save_dataset(Dataset(part.inputs[:n], part.labels[:n], part.classes), folder / name)
    return folder


@pytest.fixture
def command(data, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(data)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*args, code=0):
        given = ["torchwhy", "roar", "--out", tmp_path / "roar.html", "--share", "0.5", "--epochs", "2", *args]
        monkeypatch.setattr(sys, "argv", list(map(str, given)))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        return out, err

    return run


def test_the_command_says_what_it_found_and_goes_on(command, trainings, tmp_path):
    args = ["--method", "grad-cam", "--repeats", "2", "--folder", tmp_path / "run"]
    trainings.at = 3
    out, err = command(*args, code=130)
    assert out.startswith("Interrupted: 3 of 12 trainings are done.")
    assert "go on with the same command" in err
    trainings.at = None
    out, _ = command(*args, "--png", tmp_path / "roar.png")
    assert trainings.done == 12
    assert "GradCAM" in out
    assert (tmp_path / "roar.png").read_bytes().startswith(b"\x89PNG")
    assert "torchwhy roar" in (tmp_path / "roar.html").read_text()
    told = json.loads(command(*args, "--json")[0])
    assert trainings.done == 12
    assert told["shares"] == [0.5]
    assert told["methods"] == ["GradCAM"]
    assert told["written"] == [str(tmp_path / "roar.html")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--method", "Salency"], "did you mean 'Saliency'"),
        (["--share", "1.5"], "above 0 and below 1"),
        (["--out", "roar.txt"], "should end in .html"),
        (["--train", "nowhere.pth"], "nowhere.pth not found"),
    ],
)
def test_the_command_refuses_in_one_line(command, args, message):
    _, err = command(*args, code=2)
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
