"""Scores as a record, and panels of them."""

from __future__ import annotations

import copy
import json
import math
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import IntegratedGradients, Saliency, TorchwhyError, metrics
from torchwhy.core.tensors import Tensors
from torchwhy.metrics import Curve, Rating, faithfulness_panel, panel

NAN = float("nan")


def test_no_value_is_missing_without_a_reason() -> None:
    with pytest.raises(TorchwhyError, match="example 1 has nan, yet no reason is given"):
        Rating(torch.tensor([1.0, NAN]))
    with pytest.raises(TorchwhyError, match=r"example 0 has 1\.0, yet there is none since it was lost"):
        Rating(torch.tensor([1.0]), ("it was lost",))
    with pytest.raises(TorchwhyError, match="inf"):
        Rating(torch.tensor([math.inf]))


def test_where_fills_in_the_reasons() -> None:
    found = Rating.where(torch.tensor([True, False, False]), torch.tensor([1.0, 2, 3]), "it is odd")
    assert found.reasons == ("", "it is odd", "it is odd")
    assert found.undefined == {"it is odd": 2}
    assert found.mean == 1
    assert found.value.isnan().tolist() == [False, True, True]
    each = Rating.where(torch.tensor([False, False]), torch.zeros(2), ["a", "b"])
    assert each.undefined == {"a": 1, "b": 1}
    assert math.isnan(each.mean)


def test_a_curve_has_an_area() -> None:
    x = torch.tensor([[0.0, 0], [0.5, 0.25], [1, 1]])
    y = torch.tensor([[2.0, 4], [1, 0], [1, 0]])
    assert_close(Curve(x, y).area, torch.tensor([1.25, 0.5]))


def test_it_says_what_it_is() -> None:
    found = Rating.where(
        torch.tensor([True, True, False]),
        torch.tensor([0.25, 0.5, 0]),
        "the model is flat",
        controls={"random": torch.tensor([0.5, 0.7, NAN])},
        metric="Deletion",
        direction="lower",
        units="score",
    )
    assert repr(found) == (
        "<Deletion 0.375 score over 3 explanations, lower is better; random 0.6; 1 undefined: the model is flat>"
    )
    one = Rating(torch.tensor([2.0]), standard_error=torch.tensor([0.125]), metric="Infidelity")
    assert repr(one) == "<Infidelity 2 ± 0.12 over 1 explanation>"
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert record["value"] == [0.25, 0.5, None]
    assert record["reasons"] == ["", "", "the model is flat"]
    assert record["controls"]["random"][2] is None


def test_a_control_without_a_value_says_why(net: nn.Module, x: Tensor) -> None:
    metric = metrics.FaithfulnessEstimate(net, controls=("random", "constant"))
    found = metric.score(IntegratedGradients(net), x)
    why = "the attributions are the same for all that is removed"
    assert found.controls["constant"].isnan().all()
    assert found.control_reasons == {"random": ("",) * len(x), "constant": (why,) * len(x)}
    assert f"constant undefined ({why})" in repr(found)
    assert found.as_dict()["control_reasons"]["constant"] == [why] * len(x)
    shown = repr(panel([metric], IntegratedGradients(net), x))
    assert shown.endswith(f"FaithfulnessEstimate, constant: {len(x)} undefined: {why}")


def test_a_control_is_a_mean_over_its_draws_that_have_a_value() -> None:
    # A normal draw for one feature is below 0 half of the time, and then marks nothing.
    x = torch.ones(1, 1, dtype=torch.float64)
    found = metrics.RelevanceMassAccuracy(controls=("random",)).score(x, mask=x > 0)
    assert found.controls["random"].item() == 1
    assert found.control_reasons["random"] == ("",)


def test_where_there_is_no_value_there_is_no_standard_error() -> None:
    found = Rating.where(torch.tensor([True, False]), torch.ones(2), "why", standard_error=torch.ones(2))
    assert found.standard_error.isnan().tolist() == [False, True]


def test_scores_of_some_examples_follow_each_other() -> None:
    parts = [
        Rating(
            torch.tensor([float(i)]),
            standard_error=torch.tensor([i / 10]),
            curve=Curve(torch.zeros(2 + i, 1), torch.full((2 + i, 1), float(i))),
            controls={"random": torch.tensor([-float(i)])},
            control_reasons={"random": (str(i),)},
            evaluations=5,
        )
        for i in range(3)
    ]
    whole = Rating.cat(parts)
    assert whole.value.tolist() == [0, 1, 2]
    assert whole.controls["random"].tolist() == [0, -1, -2]
    assert whole.control_reasons["random"] == ("0", "1", "2")
    assert whole.evaluations == 15
    # Curves end where they are done; a longer one of another example holds its last value.
    assert whole.curve.y.shape == (4, 3)
    assert whole.curve.y[:, 0].tolist() == [0, 0, 0, 0]


# -- panels ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)).double().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


OPTIONS = {"n_steps": 8, "n_subsets": 12, "n_samples": 4, "positions": "pixels"}


def test_a_panel_has_what_each_metric_says_alone(net: nn.Module, x: Tensor) -> None:
    values = IntegratedGradients(net).attribute(x, target=1)
    found = faithfulness_panel(net, values, x, target=1, **OPTIONS)
    expected = {name for name, cls in metrics.metrics().items() if cls.info.family == "faithfulness"}
    assert set(found) == expected
    alone = 0
    for name, score in found.items():
        plain = metrics.lookup_metric(name)(net, **score.options).score(values, x, target=1)
        assert_close(score.value, plain.value, equal_nan=True)
        alone += plain.evaluations
    assert found.evaluations < 0.6 * alone
    assert found["Deletion"].options["n_steps"] == found["IROF"].options["n_steps"] == 8
    assert found["IROF"].options["positions"] == "superpixels"


def test_the_rows_of_a_panel_serve_several_metrics(net: nn.Module, x: Tensor) -> None:
    rows = 0

    def counted(given: Tensor) -> Tensor:
        nonlocal rows
        rows += len(given)
        return net(given)

    values = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = faithfulness_panel(counted, values, x[:1], target=1)
    # 64 positions. What is played anew starts with the input itself, to see that its score stays.
    asked = {
        "ABPC": 1 + 1 + 2 * 19 + 1,  # two orders of 20 steps, which end alike
        "AverageDrop": 1,
        "Comprehensiveness": 1,  # the first position
        "FaithfulnessCorrelation": 1 + 32,
        "FaithfulnessEstimate": 64,
        "IROF": 1 + 20,
        "PGI": 10,
        "PGU": 10,
        "ROAD": 1 + 2 * 9,
        "RegionPerturbation": 10 - 4,  # the first, and three of the steps
        "SensitivityN": 32,  # one of three sizes
        "Sufficiency": 1,
    }
    assert {name: score.evaluations for name, score in found.items() if score.evaluations} == asked
    assert rows == found.evaluations == 239


def test_rows_are_known_to_the_next_metric(net: nn.Module, x: Tensor) -> None:
    judges = [metrics.Deletion(net), metrics.PixelFlipping(net, positions="patches"), metrics.FaithfulnessEstimate(net)]
    found = panel([*judges, metrics.MonotonicityCorrelation(net)], IntegratedGradients(net), x)
    assert found["Deletion"].evaluations > 0
    assert found["PixelFlipping"].evaluations == 0
    assert found["MonotonicityCorrelation"].evaluations == 0


def test_a_panel_shows_a_table(net: nn.Module, x: Tensor) -> None:
    found = panel(
        [metrics.Deletion(net, controls=("constant",)), metrics.AverageDrop(net)], IntegratedGradients(net), x
    )
    lines = repr(found).splitlines()
    assert lines[0].split() == ["metric", "value", "better", "constant", "undefined"]
    assert lines[1].split()[0] == "Deletion"
    assert len(lines) == 3
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert set(record["scores"]) == {"Deletion", "AverageDrop"}


def test_controls_are_better_than_nothing(net: nn.Module, x: Tensor) -> None:
    found = faithfulness_panel(net, IntegratedGradients(net), x, controls=("random", "constant"), **OPTIONS)
    abpc = found["ABPC"]
    assert (abpc.value > abpc.controls["random"]).all()
    assert set(abpc.controls) == {"random", "constant"}
    assert found["FaithfulnessEstimate"].controls["constant"].isnan().all()


def test_what_does_not_fit_a_panel_is_told(net: nn.Module, x: Tensor) -> None:
    with pytest.raises(TorchwhyError, match="no metric of faithfulness has an option 'n_step'; did you mean 'n_steps'"):
        faithfulness_panel(net, IntegratedGradients(net), x, n_step=3)
    with pytest.raises(TorchwhyError, match="each of another kind"):
        panel([metrics.Deletion(net), metrics.Deletion(net, n_steps=3)], IntegratedGradients(net), x)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    found = faithfulness_panel(flat, IntegratedGradients(flat), x.flatten(1), **(OPTIONS | {"positions": "elements"}))
    assert set(found.skipped) == {"IROF", "ROAD"}
    assert "IROF: it is for images" in repr(found)


def test_a_package_that_is_missing_costs_its_metric_alone(
    net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    found = faithfulness_panel(net, IntegratedGradients(net), x, **OPTIONS)
    assert set(found.skipped) == {"IROF"}
    assert "torchwhy[vision]" in found.skipped["IROF"]


# -- what a metric may ask of a method ---------------------------------------------------------------------------


def test_a_method_explains_again_for_the_same_target(net: nn.Module, x: Tensor) -> None:
    # The prediction of the inputs themselves, whatever is predicted for others.
    predicted = net(x).argmax(1)
    with metrics.Deletion().judging(Saliency(net, abs=False), x) as judged:
        moved = judged.again(Tensors([torch.cat([x + 5, -x])]), copies=2)
        other = judged.with_model(nn.Sequential(nn.Flatten(), nn.Linear(64, 3).double()).eval())
        assert judged.p.cost.forward > 0
    assert_close(moved.parts[0], Saliency(net, abs=False).attribute(torch.cat([x + 5, -x]), target=predicted.repeat(2)))
    assert other.parts[0].shape == x.shape
    assert not torch.allclose(other.parts[0], judged.values.parts[0])


def test_another_model_is_asked_about_the_same_target(net: nn.Module, x: Tensor) -> None:
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[3].bias += torch.tensor([100.0, 0, 0])  # predicts 0 for everything
    with metrics.Deletion().judging(Saliency(net), x) as judged:
        found = judged.with_model(other)
    assert_close(found.parts[0], Saliency(other).attribute(x, target=net(x).argmax(1)))
    assert (net(x).argmax(1) != 0).any()


def test_attributions_cannot_explain_again(x: Tensor) -> None:
    with (
        metrics.Deletion(lambda z: z.sum((1, 2, 3))).judging(x, x) as judged,
        pytest.raises(TorchwhyError, match="give a method in place of attributions"),
    ):
        judged.again(Tensors([x]))
