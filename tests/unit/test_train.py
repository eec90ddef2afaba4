import hashlib
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import torchwhy.train as module
from torchwhy.core.errors import TorchwhyError
from torchwhy.data import Dataset, digits, from_tensors
from torchwhy.networks import ConvNet
from torchwhy.train import EpochResult, History, TrainingConfig, evaluate, load_checkpoint, train


def refused(message, call, *args, **kwargs):
    """The call raises one line that contains `message`."""
    with pytest.raises(TorchwhyError, match=re.escape(message)) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


def measured(result):
    """What `evaluate` gives, up to the rounding that depends on the number of threads."""
    return pytest.approx((result.test_loss, result.accuracy), abs=1e-6)


@pytest.fixture(scope="module")
def sets():
    """100 training and 60 test digits: 3 batches of 32 and one of 4."""
    return tuple(
        Dataset(part.inputs[:n], part.labels[:n], part.classes, part.preprocessing)
        for part, n in zip(digits(), (100, 60), strict=True)
    )


QUICK = TrainingConfig(epochs=3, lr=0.05, momentum=0.9)


@pytest.fixture(scope="module")
def trained(sets, tmp_path_factory):
    """The folder and the history of one training; not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(*sets, folder, QUICK)


@pytest.fixture
def copy(trained, tmp_path):
    for file in trained[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


# --- what is measured ---------------------------------------------------------------------------------------


def test_loss_and_accuracy_are_means_over_samples_not_over_batches():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]])
    data = from_tensors(logits, torch.tensor([0, 0, 0]), ("a", "b"))
    by_hand = (math.log(2) + math.log(4 / 3) + math.log(4)) / 3
    of_batches = ((math.log(2) + math.log(4 / 3)) / 2 + math.log(4)) / 2
    loss, accuracy = evaluate(nn.Identity(), data, batch_size=2)
    assert loss == pytest.approx(by_hand, abs=1e-7)
    assert abs(by_hand - of_batches) > 0.1
    assert accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_is_in_evaluation_mode_and_puts_the_mode_back(training):
    model = nn.Sequential(nn.Dropout(0.9)).train(training)
    data = from_tensors(torch.eye(4) * 9, torch.arange(4))
    assert evaluate(model, data)[1] == 1
    assert model.training is training
    with pytest.raises(RuntimeError):
        evaluate(model.append(nn.Linear(3, 3)), data)
    assert model.training is training


def test_an_epoch_reads_as_the_line_asked_for():
    assert str(EpochResult(3, 0.5, 0.1234, 0.975)) == "Epoch 3, Test Loss: 0.1234, Accuracy: 97.50%"
    assert str(EpochResult(12, 0.5, 2.0, 1 / 3)) == "Epoch 12, Test Loss: 2.0000, Accuracy: 33.33%"


def test_best_is_the_most_accurate_then_the_lowest_loss_then_the_first():
    values = [(0.1, 0.8), (0.3, 0.9), (0.2, 0.9), (0.2, 0.9)]
    results = [EpochResult(i, 0, loss, accuracy) for i, (loss, accuracy) in enumerate(values, 1)]
    assert History(results).best is results[2]
    assert History().best is None


# --- how it is trained --------------------------------------------------------------------------------------


def test_the_training_loss_is_the_mean_over_samples(sets, tmp_path):
    # With so small a step the weights stay: all batches are measured with the initial network.
    history = train(*sets, tmp_path, TrainingConfig(epochs=1, lr=1e-30))
    expected = evaluate(load_checkpoint(tmp_path)[0], sets[0])[0]
    assert history.epochs[0].train_loss == pytest.approx(expected, abs=1e-6)


def test_a_step_is_plain_gradient_descent_on_the_cross_entropy(sets, tmp_path):
    train_set, test_set = sets
    train(train_set, test_set, tmp_path, TrainingConfig(epochs=1, lr=0.1, batch_size=100, seed=5))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = ConvNet()
    nn.functional.cross_entropy(model(train_set.inputs), train_set.labels).backward()
    learned = load_file(tmp_path / "last.safetensors")
    for name, p in model.named_parameters():
        torch.testing.assert_close(learned[name], (p - 0.1 * p.grad).detach(), rtol=0, atol=1e-7)
        assert not torch.equal(learned[name], p)


def test_an_epoch_shows_every_example_once_in_a_new_order(sets, tmp_path, monkeypatch):
    train_set, test_set = sets
    seen = []

    class Watched(ConvNet):
        def forward(self, x):
            if self.training:
                seen.append(x)
            return super().forward(x)

    monkeypatch.setitem(module.NETWORKS, "ConvNet", Watched)
    train(train_set, test_set, tmp_path, TrainingConfig(epochs=2))
    assert [len(x) for x in seen] == [32, 32, 32, 4] * 2
    orders = [torch.cat(seen[:4]), torch.cat(seen[4:])]
    rows = [sorted(map(bytes, order.numpy())) for order in (train_set.inputs, *orders)]
    assert rows[0] == rows[1] == rows[2]
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], train_set.inputs)


def test_it_learns_the_digits(tmp_path):
    history = train(*digits(), tmp_path, TrainingConfig(epochs=6, momentum=0.9))
    assert history.best.accuracy > 0.9
    model, checkpoint = load_checkpoint(tmp_path)
    assert evaluate(model, digits()[1]) == measured(checkpoint.result)
    assert checkpoint.result == history.best


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(sets, trained, tmp_path):
    torch.rand(7)  # whatever the global random numbers are
    again = train(*sets, tmp_path / "same", QUICK)
    train(*sets, tmp_path / "other", replace(QUICK, seed=1))
    files = [folder / "last.safetensors" for folder in (trained[0], tmp_path / "same", tmp_path / "other")]
    assert again == trained[1]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_the_global_random_numbers_are_left_alone(sets, tmp_path):
    before = torch.get_rng_state()
    train(*sets, tmp_path, TrainingConfig(epochs=1))
    load_checkpoint(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("batch_size", "inside"), [(32, 1), (114, 3)])
def test_small_batches_are_trained_by_one_thread_and_the_setting_is_put_back(sets, tmp_path, batch_size, inside):
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        config = TrainingConfig(epochs=1, batch_size=batch_size)
        train(*sets, tmp_path, config, on_epoch=lambda _: seen.append(torch.get_num_threads()))
        assert (seen, torch.get_num_threads()) == ([inside], 3)
        refused("the loss became", train, *sets, tmp_path, replace(config, lr=1e20, epochs=9))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_nothing_is_drawn_where_nobody_watches(sets, tmp_path, capfd):
    train(*sets, tmp_path, TrainingConfig(epochs=1))
    assert capfd.readouterr() == ("", "")


# --- checkpoints --------------------------------------------------------------------------------------------


def test_a_checkpoint_tells_what_it_is(sets, trained):
    folder, history = trained
    record = json.loads((folder / "last.json").read_text())
    assert sorted(file.name for file in folder.iterdir()) == [
        "best.json",
        "best.safetensors",
        "last.json",
        "last.safetensors",
    ]
    assert record["input_shape"] == [1, 12, 12]
    assert record["classes"] == list("0123456789")
    assert record["preprocessing"] == sets[0].preprocessing
    assert record["config"] == {
        "epochs": 3, "lr": 0.05, "batch_size": 32, "momentum": 0.9, "seed": 0, "network": "ConvNet"
    }  # fmt: skip
    assert set(record["versions"]) == {"torchwhy", "torch", "python"}
    assert [e["epoch"] for e in record["epochs"]] == [1, 2, 3]
    assert record["sha256"] == hashlib.sha256((folder / "last.safetensors").read_bytes()).hexdigest()
    _, last = load_checkpoint(folder / "last.json")
    assert (list(last.epochs), last.config) == (history.epochs, QUICK)
    assert set(load_file(folder / "best.safetensors")) == set(ConvNet().state_dict())


def test_a_checkpoint_loads_by_folder_and_by_either_file(sets, trained):
    folder, history = trained
    for name, expected in (
        ("", history.best),
        ("best.json", history.best),
        ("last.json", history.epochs[-1]),
        ("last.safetensors", history.epochs[-1]),
        ("last", history.epochs[-1]),
    ):
        model, checkpoint = load_checkpoint(folder / name)
        assert checkpoint.result == expected
        assert evaluate(model, sets[1]) == measured(expected)
        assert not model.training
        assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(sets, tmp_path, momentum):
    config = TrainingConfig(epochs=4, lr=0.05, momentum=momentum, seed=2)
    whole = train(*sets, tmp_path / "whole", config)
    train(*sets, tmp_path / "parts", replace(config, epochs=1))
    train(*sets, tmp_path / "parts", replace(config, epochs=3), resume=True)
    heard = []
    parts = train(*sets, tmp_path / "parts", config, resume=True, on_epoch=heard.append)
    assert parts == whole
    assert heard == whole.epochs[3:]
    for name in ("last", "best"):
        files = [tmp_path / run / f"{name}.safetensors" for run in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()
        records = [json.loads(file.with_suffix(".json").read_text()) for file in files]
        for record in records:
            del record["config"]["epochs"]  # `best` tells how long the training was to be when it was found
        assert records[0] == records[1]


def test_the_optimiser_and_the_shuffling_are_part_of_what_is_resumed(sets, copy, monkeypatch):
    """The negative control of the test above: without this state, the weights differ."""
    longer = replace(QUICK, epochs=4)
    untouched = {file.name: file.read_bytes() for file in copy.iterdir()}
    train(*sets, copy, longer, resume=True)
    right = load_file(copy / "last.safetensors")["fc2.weight"]
    for forgotten in ("shuffle", "momentum"):
        for name, content in untouched.items():
            (copy / name).write_bytes(content)
        original = module._read

        def forgetful(file, original=original, forgotten=forgotten):
            record, tensors = original(file)
            for key in tensors:
                if key.startswith(f"training.{forgotten}"):
                    fresh = torch.Generator().get_state() if forgotten == "shuffle" else torch.zeros_like(tensors[key])
                    tensors[key] = fresh
            return record, tensors

        with monkeypatch.context() as patch:
            patch.setattr(module, "_read", forgetful)
            train(*sets, copy, longer, resume=True)
        assert not torch.equal(load_file(copy / "last.safetensors")["fc2.weight"], right)


def test_resuming_a_finished_training_returns_it(sets, trained, copy):
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    assert train(*sets, copy, QUICK, resume=True) == trained[1]
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


def test_resuming_what_does_not_fit_is_refused(sets, copy, tmp_path_factory):
    train_set, test_set = sets
    other = replace(train_set, inputs=train_set.inputs.flip(0))
    refused("with lr=0.05, not lr=0.1; resume", train, *sets, copy, replace(QUICK, lr=0.1), resume=True)
    refused(
        "with batch_size=32, seed=0, not batch_size=8, seed=4",
        train, *sets, copy, replace(QUICK, seed=4, batch_size=8), resume=True,
    )  # fmt: skip
    refused("was trained on other data", train, other, test_set, copy, QUICK, resume=True)
    refused("was trained on other data", train, train_set, other, copy, QUICK, resume=True)
    refused("no last.json to resume from", train, *sets, tmp_path_factory.mktemp("empty"), resume=True)
    for suffix in ("json", "safetensors"):
        (copy / f"last.{suffix}").write_bytes((copy / f"best.{suffix}").read_bytes())
    refused("does not hold a training to resume", train, *sets, copy, replace(QUICK, epochs=9), resume=True)


@pytest.mark.parametrize("crash_at", ["last.safetensors", "last.json", "best.safetensors", "best.json"])
def test_a_crash_while_writing_leaves_a_checkpoint_that_loads_and_resumes(
    sets, trained, tmp_path, monkeypatch, crash_at
):
    write = module.write_atomically
    train(*sets, tmp_path, replace(QUICK, epochs=1))

    def crash(path, data):
        if path.name == crash_at:
            raise SystemExit
        write(path, data)

    for _ in range(2):  # a second crash must not destroy what the first one left
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_atomically", crash)
            with pytest.raises(SystemExit):
                train(*sets, tmp_path, QUICK, resume=True)
        for name in ("best", "last"):
            model, checkpoint = load_checkpoint(tmp_path / name)
            assert evaluate(model, sets[1]) == measured(checkpoint.result)
    assert train(*sets, tmp_path, QUICK, resume=True) == trained[1]
    for file in trained[0].iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


NOT_JSON = "best.json is damaged or no checkpoint"
NOT_THESE = "best.json does not describe its weights"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NOT_JSON),
        (b'{"format": 1, "input_shape": [1, 1', NOT_JSON),
        (b"\xff\xfe\x00", NOT_JSON),
        (b"[" * 100_000, NOT_JSON),
        (b'"text"', 'its "format" is not 1'),
        (b"{}", 'its "format" is not 1'),
    ],
    ids=["empty", "truncated", "no text", "deep", "no object", "other object"],
)
def test_a_damaged_record_is_refused(copy, content, message):
    (copy / "best.json").write_bytes(content)
    refused(message, load_checkpoint, copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, 'its "format" is not 1'),
        ({"epochs": []}, "it has no epochs"),
        ({"epochs": [{}]}, NOT_JSON),
        ({"surprise": 1}, NOT_JSON),
        ({"config": {"network": "ConvNett"}}, "unknown network 'ConvNett'; did you mean 'ConvNet'?"),
        ({"classes": ["a", "b"]}, NOT_THESE),
        ({"input_shape": [1, 13, 12]}, NOT_THESE),
        ({"input_shape": [1, 10**7, 10**7]}, NOT_THESE),
        ({"input_shape": [1, 2, 2]}, NOT_THESE),
        ({"input_shape": ["a", 5, 5]}, NOT_THESE),
    ],
    ids=str,
)
def test_a_record_that_does_not_fit_is_refused(copy, changes, message):
    record = json.loads((copy / "best.json").read_text())
    (copy / "best.json").write_text(json.dumps(record | changes))
    refused(message, load_checkpoint, copy)


def test_missing_truncated_and_exchanged_files_are_refused(copy):
    weights, record = copy / "best.safetensors", copy / "best.json"
    whole = weights.read_bytes()
    for wrong in (whole[:-1], b"", (copy / "last.safetensors").read_bytes()):
        weights.write_bytes(wrong)
        for path in (copy, weights, record):
            refused("best.safetensors is not what best.json describes", load_checkpoint, path)
    weights.write_bytes(b"junk")
    content = json.loads(record.read_text()) | {"sha256": hashlib.sha256(b"junk").hexdigest()}
    record.write_text(json.dumps(content))
    refused("best.safetensors is no safetensors file", load_checkpoint, copy)
    weights.unlink()
    refused("best.safetensors is missing; restore it", load_checkpoint, copy)
    record.unlink()
    refused("best.json not found", load_checkpoint, copy)


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path):
    refused("best.json not found", load_checkpoint, tmp_path)
    refused("model.pth is no checkpoint; expected a folder", load_checkpoint, tmp_path / "model.pth")
    refused("nowhere not found", load_checkpoint, tmp_path / "nowhere")


# --- interruptions and bad input ----------------------------------------------------------------------------


def test_ctrl_c_keeps_the_last_full_epoch(sets, trained, tmp_path, monkeypatch):
    def interrupt(result):
        if result.epoch == 2:
            raise KeyboardInterrupt

    history = train(*sets, tmp_path, QUICK, on_epoch=interrupt)
    assert (history.interrupted, history.epochs) == (True, trained[1].epochs[:2])
    assert load_checkpoint(tmp_path / "last")[1].result == history.epochs[1]

    def in_the_middle(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", in_the_middle)
        again = train(*sets, tmp_path, QUICK, resume=True)
        none = train(*sets, tmp_path / "none", QUICK)
    assert again == history
    assert (none.interrupted, none.epochs, none.best) == (True, [], None)
    assert train(*sets, tmp_path, QUICK, resume=True) == trained[1]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_epochs_before(sets, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delattr(module, "evaluate")  # stops within the epoch
        hot = TrainingConfig(lr=1e10)
        refused("with lr=1e+10: train with a lower learning rate", train, *sets, tmp_path, hot)
    assert list(tmp_path.iterdir()) == []
    values = iter([(2.0, 0.5), (math.nan, 0.5)])
    monkeypatch.setattr(module, "evaluate", lambda *_: next(values))
    refused("the loss became nan with lr=0.05", train, *sets, tmp_path, QUICK)
    assert load_checkpoint(tmp_path)[1].result.epoch == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"lr": 0}, "lr is 0; expected a positive number"),
        ({"lr": math.nan}, "lr is nan; expected a positive number"),
        ({"lr": math.inf}, "lr is inf; expected a positive number"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"momentum": 1}, "momentum is 1; expected at least 0 and below 1"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"network": "Convnet"}, "unknown network 'Convnet'; did you mean 'ConvNet'?"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    refused(message, TrainingConfig, **change)


def test_data_that_do_not_fit_are_refused(sets, tmp_path):
    train_set, test_set = sets
    smaller = replace(test_set, inputs=test_set.inputs[..., :8])
    refused("shape (1, 12, 12), test inputs (1, 12, 8)", train, train_set, smaller, tmp_path)
    other = replace(test_set, classes=tuple("abcdefghij"))
    refused(
        "have 10 classes (a, b, c, d, e, ...), the training data 10 classes (0, 1,",
        train,
        train_set,
        other,
        tmp_path,
    )
    more = replace(test_set, classes=(*test_set.classes, "10"))
    refused("have 11 classes", train, train_set, more, tmp_path)
    rows = from_tensors(torch.zeros(4, 20), torch.arange(4))
    refused("at least 5 x 5 pixels, not (20,)", train, rows, rows, tmp_path)
    (tmp_path / "file").touch()
    refused("file: File exists; name another folder", train, *sets, tmp_path / "file")
    refused("Not a directory; name another folder", train, *sets, tmp_path / "file" / "below")


def test_a_test_set_may_lack_the_last_classes(sets, tmp_path):
    train_set, test_set = sets
    few = test_set.labels < 7
    part = Dataset(test_set.inputs[few], test_set.labels[few], test_set.classes[:7])
    assert len(train(train_set, part, tmp_path, TrainingConfig(epochs=1)).epochs) == 1
