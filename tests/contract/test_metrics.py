"""What every registered metric keeps: its form, its numbers, and its hands off all that is not its own."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import Any

import pytest
import torch
from torch import nn

from torchwhy import IntegratedGradients, Saliency, TorchwhyError, metrics
from torchwhy.metrics import Metric, Rating
from torchwhy.registry import lookup_metric

# A contract holds for a few steps and samples as well as for many.
QUICK = {"n_steps": 4, "n_samples": 8, "n_subsets": 8, "alike": 0.5}


@dataclasses.dataclass(frozen=True)
class Case:
    """A registered metric with what it needs to run."""

    cls: type[Metric]

    @property
    def needs(self) -> tuple[str, ...]:
        return self.cls.info.needs

    def metric(self, model: Any, **options: Any) -> Metric:
        known = {f.name for f in dataclasses.fields(self.cls)}
        quick = QUICK | {"other": Saliency(model, abs=False)} if self.cls.info.family == "agreement" else QUICK
        chosen = {name: value for name, value in (quick | options).items() if name in known}
        return self.cls(model, **chosen) if "model" in self.needs else self.cls(**chosen)

    def score(self, model: Any, x: Any, *, target: Any = 1, given: str = "method", **options: Any) -> Rating:
        """Judge integrated gradients, given as a method, as attributions or as an explanation."""
        method = IntegratedGradients(model, n_steps=8)
        explained: Any = method
        if given == "values" and "explainer" not in self.needs:
            explained = method.attribute(x, target=target)
        elif given == "explanation" and "explainer" not in self.needs:
            explained = method.explain(x, target=target)
        mask = {"mask": marks(x)} if "mask" in self.needs else {}
        return self.metric(model, **options).score(explained, x, target=target, **mask)


def marks(x: Any) -> Any:
    """The first rows of every map should be marked; of a vector, the first numbers."""
    if isinstance(x, tuple):
        return tuple(map(marks, x))
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask[:, :1, ...] = x.ndim == 2
    if x.ndim > 2:
        mask[..., :2, :] = True
    return mask


@pytest.fixture(params=metrics.metrics().values(), ids=lambda cls: cls.__name__)
def judge(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def same(a: Rating, b: Rating, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a.value, b.value, rtol=tolerance, atol=tolerance, equal_nan=True, check_dtype=False)
    assert a.reasons == b.reasons


# -- facts -------------------------------------------------------------------------------------------------------


def test_its_facts_are_whole(judge):
    info = judge.cls.info
    low, high = info.range
    assert low < high
    assert info.direction in ("higher", "lower", "none")
    assert info.summary[0].islower()
    assert not info.summary.endswith(".")
    assert 1900 < info.year < 2100
    assert lookup_metric(judge.cls.__name__) is judge.cls
    assert judge.cls in vars(metrics).values()
    assert judge.cls.__name__ in metrics.__all__


def test_its_documentation_has_a_formula_a_paper_and_an_example(judge):
    text = inspect.getdoc(judge.cls)
    assert text is not None
    assert ".. math::" in text or ":math:" in text
    assert "Paper:" in text
    assert ">>> " in text
    assert "Shapes:" in text


def test_its_options_are_fields_with_defaults(judge):
    metric = judge.metric(nn.Identity())
    assert set(metric.options()) <= {f.name for f in dataclasses.fields(judge.cls)}
    with pytest.raises(TorchwhyError, match="has no option 'nosuch'"):
        metric.with_options(nosuch=1)


# -- form --------------------------------------------------------------------------------------------------------


def test_a_value_per_explanation_within_the_range(judge, net, x):
    found = judge.score(net, x)
    low, high = judge.cls.info.range
    assert found.value.shape == (3,)
    assert len(found.reasons) == 3
    there = found.value[found.value.isfinite()]
    assert len(there) > 0
    assert (there >= low - 1e-6).all()
    assert (there <= high + 1e-6).all()
    assert found.metric == judge.cls.__name__
    assert found.direction == judge.cls.info.direction
    assert not found.value.requires_grad


def test_it_shows_itself_and_turns_to_json(judge, net, x):
    found = judge.score(net, x)
    assert judge.cls.__name__ in repr(found)
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert len(record["value"]) == 3
    assert record["metric"] == judge.cls.__name__


@pytest.mark.parametrize("given", ["values", "explanation"])
def test_values_an_explanation_and_a_method_are_judged_alike(judge, net, x, given):
    same(judge.score(net, x, given=given), judge.score(net, x))


def test_a_tuple_of_inputs(judge, pair, both):
    # Of a vector there is no mean over the places, and no pixel has neighbours to be imputed from.
    found = judge.score(pair, both, **({"fill": "baseline"} if judge.cls.__name__ in ("IROF", "ROAD") else {}))
    assert found.value.shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_dtype(judge, net, x, dtype):
    found = judge.score(net.to(dtype), x.to(dtype))
    assert found.value.shape == (3,)
    if dtype == torch.float64:
        assert found.value.dtype == torch.float64


def test_what_is_missing_is_named(judge, net, x):
    values = Saliency(net).attribute(x, target=1)
    metric = judge.cls()
    if "model" in judge.needs:
        with pytest.raises(TorchwhyError, match=re.escape(f"{judge.cls.__name__}(model)")):
            metric.score(values, x, **({"mask": marks(x)} if "mask" in judge.needs else {}))
    if "explainer" in judge.needs:
        with pytest.raises(TorchwhyError, match="judges a method"):
            metric.score(values, x)
    if "mask" in judge.needs:
        with pytest.raises(TorchwhyError, match="mask="):
            metric.score(values, x)


def test_attributions_that_are_not_finite_are_refused(judge, net, x):
    if "explainer" in judge.needs:
        return  # it is given none
    values = torch.full_like(x, float("nan"))
    mask = {"mask": marks(x)} if "mask" in judge.needs else {}
    with pytest.raises(TorchwhyError, match="NaN"):
        judge.metric(net).score(values, x, **mask)


# -- numbers -----------------------------------------------------------------------------------------------------


def test_an_example_in_a_batch_is_judged_as_alone(judge, net, x):
    together = judge.score(net, x)
    for i in range(3):
        alone = judge.score(net, x[i : i + 1])
        torch.testing.assert_close(alone.value, together.value[i : i + 1], rtol=1e-3, atol=1e-4, equal_nan=True)


def test_one_target_per_example(judge, net, x):
    together = judge.score(net, x, target=[3, 0, 1])
    for i, target in enumerate([3, 0, 1]):
        alone = judge.score(net, x[i : i + 1], target=target)
        torch.testing.assert_close(alone.value, together.value[i : i + 1], rtol=1e-3, atol=1e-4, equal_nan=True)


def test_the_rows_of_a_pass_do_not_matter(judge, net, x):
    for size in (1, 5):
        same(judge.score(net, x, batch_size=size), judge.score(net, x), 1e-3)


def test_the_same_seed_gives_the_same_number(judge, net, x):
    first, second = judge.score(net, x), judge.score(net, x)
    torch.testing.assert_close(first.value, second.value, rtol=0, atol=0, equal_nan=True)


# -- manners -----------------------------------------------------------------------------------------------------


def test_nothing_of_the_users_changes(judge, net, x, remember):
    net.train()
    changes = remember(net, x)
    judge.score(net, x)
    assert changes() == []


def test_controls_are_judged_by_the_same_metric(judge, net, x):
    if "explainer" in judge.needs:
        with pytest.raises(TorchwhyError, match="controls"):
            judge.score(net, x, controls=("constant",))
        return
    found = judge.score(net, x, given="values", controls=("random", "constant", "input", "edges", "elsewhere"))
    assert set(found.controls) == {"random", "constant", "input", "edges", "elsewhere"}
    assert all(value.shape == (3,) for value in found.controls.values())
    mask = {"mask": marks(x)} if "mask" in judge.needs else {}
    flat = judge.metric(net).score(torch.ones_like(x), x, target=1, **mask)
    torch.testing.assert_close(found.controls["constant"], flat.value, equal_nan=True)
