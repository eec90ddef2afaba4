"""The record of an explanation: read in parts, put into words, kept in files that are whole or not there."""

from __future__ import annotations

import json
import math
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchwhy import (
    Check,
    Explanation,
    FeatureAblation,
    IntegratedGradients,
    Saliency,
    TorchwhyError,
    Verdict,
)
from torchwhy.core.evidence import completeness, percent, relative_gap, sampling, silence, verdict
from torchwhy.core.explanation import fingerprint
from torchwhy.core.tensors import Tensors


def check(name: str, *status: str) -> Check:
    return Check(
        name,
        f"{name}?",
        status,
        tuple(map(float, range(len(status)))),
        tuple(f"{name} {i}" for i in range(len(status))),
    )


@pytest.fixture
def explanation() -> Explanation:
    return Explanation(
        values=torch.arange(6.0).view(3, 2),
        inputs=(torch.arange(3), torch.arange(12, dtype=torch.bfloat16).view(3, 4)),
        scores=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        target=("0", "2", "1"),
        method="Saliency",
        at="conv",
        predicted=True,
        options={"n_steps": 5, "tol": None, "name": "a", "inf": math.inf},
        evidence=(check("first", "pass", "warn", "unknown"), check("second", "pass", "pass", "unknown")),
        provenance={"seconds": 0.5, "steps": [1, 2, 3]},
        output=torch.arange(9.0).view(3, 3),
        standard_error=(torch.ones(3, 2),),
        signed=False,
        classes=("cat", "dog", "cow"),
    )


# -- parts and words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [1, -2, np.int64(1)], ids=repr)
def test_one_example_is_a_batch_of_one(explanation, index):
    one = explanation[index]
    assert len(one) == 1
    assert one.values.tolist() == [[2.0, 3.0]]
    assert [t.tolist() for t in one.inputs] == [[1], [[4.0, 5.0, 6.0, 7.0]]]
    assert one.scores.tolist() == [2.0]
    assert one.target == ("2",)
    assert one.output.tolist() == [[3.0, 4.0, 5.0]]
    assert [t.tolist() for t in one.standard_error] == [[[1.0, 1.0]]]
    assert one.evidence == (
        Check("first", "first?", ("warn",), (1.0,), ("first 1",)),
        Check("second", "second?", ("pass",), (1.0,), ("second 1",)),
    )
    assert (one.method, one.at, one.classes, one.signed) == ("Saliency", "conv", ("cat", "dog", "cow"), False)
    assert one.verdict == explanation.verdicts[1]


def test_the_examples_in_turn(explanation):
    assert [one.target for one in explanation] == [("0",), ("2",), ("1",)]
    assert len(explanation) == 3
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"example {index} of 3"):
            explanation[index]


@pytest.mark.parametrize("index", [slice(0, 2), "0", 1.0, None], ids=repr)
def test_an_example_is_chosen_by_a_whole_number(explanation, index):
    with pytest.raises((TypeError, TorchwhyError), match="example"):
        explanation[index]


def test_the_words_on_many_examples_take_a_pass_over_them(monkeypatch):
    """Not one for every example."""
    import torchwhy.core.explanation as module

    judged = 0

    def counted(checks: Any, index: int) -> Verdict:
        nonlocal judged
        judged += 1
        return verdict(checks, index)

    monkeypatch.setattr(module, "verdict", counted)
    n = 50
    many = Explanation(
        torch.ones(n, 1),
        torch.ones(n, 1),
        torch.ones(n),
        ("0",) * n,
        "M",
        evidence=(check("a", *["pass"] * n),),
    )
    assert len(many.as_dict()["examples"]) == n
    assert judged <= 3 * n


def test_verdicts(explanation):
    assert explanation.verdicts == (
        Verdict("pass", ("first 0", "second 0")),
        Verdict("warn", ("first 1",)),
        Verdict("unknown", ("first 2", "second 2")),
    )
    assert explanation.verdict == Verdict("warn", ("first 1",))
    assert str(explanation[0].verdict) == "pass: first 0; second 0"


def test_the_worst_verdict_speaks_for_all():
    def judged(*status: str) -> Verdict:
        n = len(status)
        return Explanation(
            torch.ones(n, 1),
            torch.ones(n, 1),
            torch.ones(n),
            ("0",) * n,
            "M",
            evidence=(check("a", *status),),
        ).verdict

    assert judged("pass", "pass", "pass") == Verdict("pass", ("a 0", "the same for 2 more of 3 examples"))
    assert judged("pass", "unknown") == Verdict("unknown", ("a 1",))
    assert judged("unknown", "warn", "warn", "pass") == Verdict("warn", ("a 1", "the same for 1 more of 4 examples"))


def test_nothing_checked_is_nothing_known():
    assert verdict((), 0).status == "unknown"


def test_names_of_targets(explanation):
    assert [explanation.target_name(i) for i in range(3)] == ["cat", "cow", "dog"]
    plain = Explanation(
        torch.ones(3, 1), torch.ones(3, 1), torch.ones(3), ("7", "1, 0", "output"), "M", classes=("a", "b")
    )
    assert [plain.target_name(i) for i in range(3)] == ["7", "1, 0", "output"]


def test_words(explanation):
    shown = repr(explanation)
    for word in ("Saliency", "'conv'", "3 examples", "(3, 2)", "warn: first 1"):
        assert word in shown
    both = Explanation((torch.ones(2, 3), torch.ones(2, 4)), torch.ones(2, 3), torch.ones(2), ("0", "0"), "M")
    assert "((2, 3), (2, 4))" in repr(both)
    assert "\n" not in shown


def test_everything_but_the_tensors_as_plain_data(explanation):
    data = json.loads(json.dumps(explanation.as_dict()))
    assert data["method"] == "Saliency"
    assert data["examples"][1] == {
        "target": "2",
        "target_name": "cow",
        "predicted": True,
        "score": 2.0,
        "verdict": "warn",
        "reasons": ["first 1"],
        "evidence": {
            "first": {"status": "warn", "value": 1.0, "reason": "first 1"},
            "second": {"status": "pass", "value": 1.0, "reason": "second 1"},
        },
    }


# -- files ---------------------------------------------------------------------------------------------------


def assert_same(a: Explanation, b: Explanation) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        assert type(value) is type(other), name
        if name in {"values", "inputs", "standard_error", "scores", "output"} and value is not None:
            for one, two in zip(*((t if isinstance(t, tuple) else (t,)) for t in (value, other)), strict=True):
                assert one.dtype == two.dtype
                assert torch.equal(one, two)
        else:
            assert value == other, name


def test_a_file_holds_everything(explanation, tmp_path):
    path = explanation.save(tmp_path / "new folder" / "a.safetensors")
    assert path == tmp_path / "new folder" / "a.safetensors"
    assert_same(Explanation.load(path), explanation)
    assert_same(Explanation.load(str(path)), explanation)
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_a_file_of_the_least(tmp_path):
    least = Explanation(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1), ("0",), "M")
    assert_same(Explanation.load(least.save(tmp_path / "a")), least)


def test_tensors_of_any_layout_are_kept(tmp_path):
    base = torch.arange(24.0).view(2, 3, 4)
    odd = Explanation(
        base.transpose(1, 2),
        base[:, 1:2].expand(2, 5, 4),
        base[:, 0, 0],
        ("0", "1"),
        "M",
        standard_error=base.transpose(1, 2),
    )
    assert_same(Explanation.load(odd.save(tmp_path / "a")), odd)


@pytest.mark.parametrize("value", [(0.5, 0.25), [1, 2], {"a": 1}, float("nan"), -math.inf, None, True], ids=repr)
def test_options_come_back_as_they_were(value, tmp_path):
    odd = Explanation(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1), ("0",), "M", options={"option": value})
    again = Explanation.load(odd.save(tmp_path / "a")).options["option"]
    if isinstance(value, tuple):
        assert list(again) == list(value)  # JSON knows one kind of list
    else:
        assert str(again) == str(value)
        assert type(again) is type(value)


def test_a_file_can_be_read_by_those_who_may(explanation, tmp_path):
    """As any new file, by the process's own rules."""
    plain = tmp_path / "plain"
    plain.touch()
    saved = explanation.save(tmp_path / "saved")
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("when", ["writing", "replacing"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["OSError", "KeyboardInterrupt"])
def test_a_failed_save_leaves_the_old_file(explanation, tmp_path, monkeypatch, when, error):
    path = tmp_path / "a.safetensors"
    explanation.save(path)
    old = path.read_bytes()
    write = Path.write_bytes

    def half(path: Path, data: bytes) -> None:
        write(path, data[: len(data) // 2])
        raise error

    def fail(*args: Any) -> None:
        raise error

    if when == "writing":
        monkeypatch.setattr(Path, "write_bytes", half)
    else:
        monkeypatch.setattr(Path, "replace", fail)
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((type(error), TorchwhyError)):
        explanation[0].save(path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == old
    assert_same(Explanation.load(path), explanation)


def test_words_that_cannot_be_written_leave_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    odd = Explanation(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1), ("0",), "M", provenance={"model": object()})
    with pytest.raises((TypeError, TorchwhyError)):
        odd.save(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_no_pickle(explanation, tmp_path, monkeypatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("pickle")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    path = explanation.save(tmp_path / "a")
    assert_same(Explanation.load(path), explanation)


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (os.mkdir, ("exploded",))


def test_files_of_other_kinds_are_refused(explanation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(TorchwhyError, match="not a whole safetensors file"):
        Explanation.load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(TorchwhyError, match="not a whole safetensors file"):
        Explanation.load(path)
    assert not (tmp_path / "exploded").exists()
    for data in (b"", b"{}", b"\x00" * 100, bytes(range(256)) * 4, b"\xff" * 8 + b"{}"):
        path.write_bytes(data)
        with pytest.raises(TorchwhyError, match="not a whole safetensors file"):
            Explanation.load(path)
    save_file({"values.0": torch.ones(2)}, path)
    with pytest.raises(TorchwhyError, match="not an explanation"):
        Explanation.load(path)
    with pytest.raises(TorchwhyError, match="there is no file"):
        Explanation.load(tmp_path / "nowhere")
    with pytest.raises(TorchwhyError, match="there is no file"):
        Explanation.load(tmp_path)


def test_truncated_files_are_refused(explanation, tmp_path):
    path = explanation.save(tmp_path / "a")
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(TorchwhyError, match="not a whole"):
            Explanation.load(path)


def words_of(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["torchwhy"])


def test_other_formats_are_refused(explanation, tmp_path):
    path = explanation.save(tmp_path / "a")
    words, tensors = words_of(path), load_file(path)
    for other in ({**words, "format": 2}, {**words, "format": "1"}, [words], None, 1, "{", "[" * 10_000):
        text = other if isinstance(other, str) else json.dumps(other)
        save_file(tensors, path, metadata={"torchwhy": text})
        with pytest.raises(TorchwhyError, match=r"not (an explanation|a whole)"):
            Explanation.load(path)


WORDS = [
    "tuples",
    "target",
    "method",
    "at",
    "predicted",
    "options",
    "evidence",
    "provenance",
    "signed",
    "classes",
]
SHORT = {
    "name": "a",
    "question": "a?",
    "status": ["pass"],
    "value": [1.0],
    "reason": ["a"],
}  # of 1 example, not of 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "missing") for name in WORDS),
        ("tuples", 5.5),
        ("target", 5.5),
        ("target", ["0", "1"]),
        ("evidence", 5.5),
        ("evidence", [5.5]),
        ("evidence", [{}]),
        ("evidence", [SHORT]),
        (
            "evidence",
            [
                {key: 3 * value if isinstance(value, list) else value for key, value in SHORT.items()}
                | {"status": ["fine"] * 3}
            ],
        ),
        ("classes", 5.5),
    ],
    ids=repr,
)
def test_a_record_with_a_part_missing_or_wrong_is_refused(explanation, tmp_path, name, value):
    path = explanation.save(tmp_path / "a")
    words, tensors = words_of(path), load_file(path)
    words.pop(name)
    if value != "missing":
        words[name] = value
    save_file(tensors, path, metadata={"torchwhy": json.dumps(words)})
    with pytest.raises(TorchwhyError, match="not a whole explanation"):
        Explanation.load(path)


@pytest.mark.parametrize("name", ["values.0", "inputs.0", "inputs.1", "scores", "output", "standard_error.0"])
def test_a_record_whose_tensors_do_not_fit_is_refused(explanation, tmp_path, name):
    path = explanation.save(tmp_path / "a")
    words, tensors = words_of(path), load_file(path)
    tensors[name] = torch.ones(2, 2)  # for 3 examples
    save_file(tensors, path, metadata={"torchwhy": json.dumps(words)})
    with pytest.raises(TorchwhyError, match="not a whole explanation"):
        Explanation.load(path)


@pytest.mark.parametrize("name", ["values.0", "inputs.0", "scores"])
def test_a_record_whose_tensors_are_missing_is_refused(explanation, tmp_path, name):
    path = explanation.save(tmp_path / "a")
    words, tensors = words_of(path), load_file(path)
    tensors.pop(name)
    save_file(tensors, path, metadata={"torchwhy": json.dumps(words)})
    with pytest.raises(TorchwhyError, match="not a whole explanation"):
        Explanation.load(path)


# -- provenance ----------------------------------------------------------------------------------------------


def test_the_record_says_how_it_came_about():
    model = nn.Sequential(nn.Linear(3, 2)).train()
    found = IntegratedGradients(model, at="0", n_steps=7, method="riemann_left").explain(
        torch.ones(2, 3), target=0, check="basic"
    )
    assert found.options["method"] == "riemann_left"
    assert found.options["n_steps"] == 7
    assert found.provenance["model"] == "Sequential"
    assert found.provenance["fingerprint"] == fingerprint(model)
    assert found.provenance["was_in_training_mode"] is True
    assert IntegratedGradients(model.eval()).explain(torch.ones(2, 3)).provenance["was_in_training_mode"] is False
    assert found.provenance["backward_rows"] == 2 * 7
    assert found.provenance["check_rows"] == 2 * 2 * (1 + 5) + 2  # for faithfulness, and for independence


def test_a_fingerprint_knows_the_weights():
    torch.manual_seed(0)
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    name = fingerprint(model)
    assert name is not None
    assert name != fingerprint(other)
    other.load_state_dict(model.state_dict())
    assert name == fingerprint(other) == fingerprint(model.forward)
    with torch.no_grad():
        other.bias[1] += 1e-6
    assert name != fingerprint(other)
    assert name != fingerprint(model.double())
    assert fingerprint(lambda x: x) is None


def test_a_fingerprint_of_any_state():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("flag", torch.tensor(data=True))
            self.register_buffer("nothing", torch.ones(0))
            self.register_buffer("narrow", torch.ones(3, dtype=torch.bfloat16))
            self.register_buffer("large", torch.ones(300, 300).T)
            self.register_buffer("absent", None)

        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

        def set_extra_state(self, state: dict[str, int]) -> None: ...

    odd = Odd()
    name = fingerprint(odd)
    odd.flag = torch.tensor(data=False)
    assert fingerprint(odd) != name


def test_one_position_in_many_is_seen_by_all_checks():
    found = FeatureAblation(lambda x: x[:, 3]).explain(torch.ones(2, 20), check="basic")
    assert found.verdict.status == "pass"


# -- evidence ------------------------------------------------------------------------------------------------


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers)


def test_completeness_knows_the_gap():
    values = Tensors([torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])])
    moved = column(2.0, 2.5, 0.0, 0.0)
    assert relative_gap(values, moved).tolist() == pytest.approx([0.0, 0.2, 0.0, 0.0])
    assert completeness(values, moved).status == ("pass", "warn", "pass", "pass")
    noisy = completeness(values, moved, standard_error=column(0.0, 0.3, 0.0, 0.0))
    assert noisy.status == ("pass", "pass", "pass", "pass")


def test_sampling_error_of_nothing():
    values, nothing = Tensors([torch.zeros(2, 3)]), Tensors([torch.tensor([[0.0] * 3, [1.0] * 3])])
    found = sampling(values, nothing)
    assert found.value == (0.0, 1.0)
    assert found.status == ("pass", "warn")


def test_silence_is_for_those_that_moved():
    values = Tensors([torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])])
    found = silence(values, column(0.0, -2.0, 1.0))
    assert found is not None
    assert found.status[1] == "warn"
    assert "warn" not in (found.status[0], found.status[2])
    assert silence(values, column(0.0, 0.0, 1.0)) is None


@pytest.mark.parametrize("share", [0.0, 1e-12, 0.004, 0.5, 0.9999, 1.0, 123.0, -0.5])
def test_shares_in_words(share):
    shown = percent(share)
    assert shown.endswith(" %")
    if share and abs(share) >= 1e-5:
        assert float(shown.removesuffix(" %")) == pytest.approx(100 * share, rel=0.06)


def test_signs_are_told():
    x = torch.ones(1, 2)
    for options, signed in (({}, False), ({"abs": False}, True)):
        assert Saliency(lambda x: x.sum(1), **options).explain(x).signed == signed
