"""The known answers are right, right explainers pass, and wrong ones are found out."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from typer.testing import CliRunner

from torchwhy import Method, Saliency, ShapleyValues, TorchwhyError, registry
from torchwhy.cli import app
from torchwhy.core.errors import UnsupportedError
from torchwhy.methods.base import Attribution
from torchwhy.registry import Info
from torchwhy.testing import AXIOMS, CONCEPTS, Case, cases, score, selftest
from torchwhy.testing.cases import ROUNDING, enumerated

KNOWN = cases()
every_case = pytest.mark.parametrize("case", KNOWN.values(), ids=list(KNOWN))


def slopes(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
    inputs = inputs.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(inputs)[:, target].sum(), inputs)
    return found


def path(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
    """Integrated gradients by the midpoint rule."""
    steps = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    points = torch.cat([baselines + s * (inputs - baselines) for s in steps])
    mean = slopes(model, points, target).unflatten(0, (2000, -1)).mean(0)
    return (inputs - baselines) * mean


def by_coalitions(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
    def flat(rows: Tensor) -> Tensor:
        return model(rows.unflatten(1, inputs.shape[1:]))

    return enumerated(flat, inputs.flatten(1), baselines.flatten(1), target).view_as(inputs)


RIGHT: dict[str, Callable[..., Tensor]] = {
    "gradient": slopes,
    "input x gradient": lambda model, inputs, target: inputs * slopes(model, inputs, target),
    "integrated gradients": path,
    "Shapley values": by_coalitions,
}


# -- the cases ---------------------------------------------------------------------------------------------------


@every_case
def test_a_case_is_what_it_says(case: Case) -> None:
    assert case.inputs.dtype == torch.float64
    assert set(case.truths) == set(CONCEPTS)
    assert all(t.shape == case.inputs.shape for t in case.truths.values())
    assert case.model(case.inputs).shape == (len(case.inputs), 2)
    first, second = case.model(case.inputs).T
    assert (first - second).abs().min() > 0.1
    flat = case.inputs.flatten(1)
    for i, j in case.twins:
        assert torch.equal(flat[:, i], flat[:, j])
        swapped = torch.rand(5, flat.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        other = swapped.clone()
        other[:, [i, j]] = swapped[:, [j, i]]
        shape = case.inputs.shape[1:]
        assert_close(case.model(swapped.unflatten(1, shape)), case.model(other.unflatten(1, shape)))
    if case.parts:
        whole = sum(part(case.inputs)[:, 0] for part in case.parts)
        assert_close(case.model(case.inputs)[:, 0], whole)
    if case.same is not None:
        assert_close(case.model(case.inputs), case.same(case.inputs))


@every_case
def test_the_closed_forms_are_those_of_brute_force(case: Case) -> None:
    x, target = case.inputs, case.target
    assert_close(case.truths["gradient"], slopes(case.model, x, target))
    assert_close(case.truths["input x gradient"], x * slopes(case.model, x, target))
    assert_close(case.truths["integrated gradients"], path(case.model, x, target, case.baselines), rtol=0, atol=1e-5)
    assert_close(case.truths["Shapley values"], by_coalitions(case.model, x, target, case.baselines))


@every_case
def test_features_without_influence_are_those_that_are_named(case: Case) -> None:
    silent = case.truths["Shapley values"].abs().amax(0).flatten() < 1e-12
    assert set(silent.nonzero().flatten().tolist()) == set(case.null)


@every_case
def test_paths_and_coalitions_are_complete(case: Case) -> None:
    for concept in ("integrated gradients", "Shapley values"):
        assert_close(case.truths[concept].flatten(1).sum(1), case.change)


def test_the_concepts_are_told_apart() -> None:
    for a in CONCEPTS:
        for b in CONCEPTS:
            gaps = [(c.truths[a] - c.truths[b]).abs().max() for c in KNOWN.values()]
            assert (max(gaps) > 0.1) == (a != b)


def test_tolerances_are_far_below_what_tells_concepts_apart() -> None:
    for case in KNOWN.values():
        assert ROUNDING <= case.tolerance < 0.03


# -- explainers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_right_explainer_passes(concept: str) -> None:
    report = score(RIGHT[concept], claims=(concept,), name="mine")
    assert report.ok, report.failed
    assert report.computes == (concept,)
    assert report.counts(concept)[0] >= len(KNOWN) - 1


@pytest.mark.parametrize("concept", ["integrated gradients", "Shapley values"])
def test_paths_and_coalitions_keep_every_axiom(concept: str) -> None:
    report = score(RIGHT[concept])
    assert report.ok, report.failed
    assert report.keeps == AXIOMS


def wrong(kind: str) -> Callable[..., Tensor]:
    def explain(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
        right = by_coalitions(model, inputs, target, baselines)
        if kind == "random":
            return torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0), dtype=inputs.dtype)
        if kind == "another output":
            return by_coalitions(model, inputs, 1 - target, baselines)
        if kind == "another baseline":
            return by_coalitions(model, inputs, target, baselines + 0.1)
        if kind == "shifted":
            return right.flatten(1).roll(1, 1).view_as(right)
        return {"negated": -right, "abs": right.abs(), "zero": 0 * right, "nan": right * torch.nan}[kind]

    return explain


@pytest.mark.parametrize(
    "kind", ["random", "negated", "abs", "zero", "nan", "shifted", "another output", "another baseline"]
)
def test_a_wrong_explainer_is_found_out(kind: str) -> None:
    report = score(wrong(kind), claims=(*AXIOMS, "Shapley values"))
    assert not report.ok
    assert report.computes == ()
    assert {"completeness", "Shapley values"} & {row.check for row in report.failed}


@pytest.mark.parametrize("axiom", AXIOMS)
def test_each_axiom_finds_who_breaks_it(axiom: str) -> None:
    def broken(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
        right = by_coalitions(model, inputs, target, baselines)
        flat = right.flatten(1).clone()
        if axiom == "completeness":
            return 2 * right
        if axiom == "sensitivity":
            return right.mean() + 0 * right
        if axiom == "symmetry":
            flat[:, 0], flat[:, 1] = flat[:, 0] + flat[:, 1], 0
            return flat.view_as(right)
        if axiom == "linearity":
            return right**2
        return right + (model is bilinear.same)

    known = cases()
    bilinear = known["bilinear"]
    report = score(broken, claims=(axiom,), only=known)
    assert {row.check for row in report.failed} == {axiom}
    assert axiom not in report.keeps


def test_without_baselines_the_case_that_has_another_is_left_out() -> None:
    def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        return by_coalitions(model, inputs, target, torch.zeros_like(inputs[:1]))

    report = score(explain, claims=("Shapley values",))
    assert report.ok
    assert report.name == "explain"
    assert {row.case for row in report.rows} == set(KNOWN) - {"linear from a baseline"}


def test_an_explainer_that_breaks_is_an_error_and_one_that_refuses_is_not() -> None:
    def breaks(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        raise ZeroDivisionError("by zero")

    def refuses(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        raise UnsupportedError("not this one")

    report = score(breaks)
    assert {row.status for row in report.rows} == {"error"}
    assert report.rows[0].message == "ZeroDivisionError: by zero"
    assert not report.ok
    report = score(refuses)
    assert len(report.refused) == len(report.rows)
    assert not report.ok  # who refuses all keeps nothing
    assert report.failed == report.keeps == report.computes == ()
    assert repr(report).endswith("linear: UnsupportedError: not this one")

    def refuses_some(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        if inputs.shape[1] == 3:
            raise UnsupportedError("not three")
        return by_coalitions(model, inputs, target, torch.zeros_like(inputs[:1]))

    report = score(refuses_some)
    assert {row.case for row in report.refused} == {"and", "or", "glove", "airport", "relu network", "twin features"}
    assert report.ok
    assert "completeness" not in report.keeps
    report = score(lambda model, inputs, target: inputs[:, 0])
    assert "attributions are a tensor (2, 4), not (2," in report.rows[0].message


def test_a_claim_can_be_of_some_models_alone() -> None:
    explain = RIGHT["input x gradient"]
    claims = ("completeness for linear and for bias-free ReLU networks", "symmetry in expectation")
    report = score(explain, claims)
    assert {row.case for row in report.rows if row.claimed} == {"linear", "relu network"}
    assert report.ok
    assert not score(explain, ("completeness",)).ok


def noisy(seed: int, bias: float = 0) -> Callable[..., Tensor]:
    def explain(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
        return by_coalitions(model, inputs, target, baselines) + 0.1 * (noise + bias)

    return explain


def test_what_is_claimed_in_expectation_is_held_to_in_the_mean() -> None:
    claims = ("completeness in expectation", "Shapley values in expectation")
    exact = score(noisy(0), ("completeness", "Shapley values"))
    assert not exact.ok
    fair = score(noisy(0), claims, repeats=[noisy(seed) for seed in range(40)])
    assert fair.ok, fair.failed
    assert {row.check for row in fair.rows if row.claimed} == set(claims)
    biased = score(noisy(0), claims, repeats=[noisy(seed, bias=3) for seed in range(40)])
    assert {row.check for row in biased.failed} == set(claims)
    assert len(biased.failed) == 2 * len(KNOWN)
    assert not any(row.claimed for row in score(noisy(0), claims).rows)
    with pytest.raises(TorchwhyError, match="too few"):
        score(noisy(0), claims, repeats=[noisy(1)])


@pytest.mark.parametrize("claim", ["completness", "gradient x input", "gradients", "completeness for"])
def test_a_claim_that_holds_nothing_is_refused(claim: str) -> None:
    with pytest.raises(TorchwhyError, match="there is no claim"):
        score(slopes, (claim,))


def test_an_explainer_cannot_spoil_the_cases() -> None:
    def spoils(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
        found = by_coalitions(model, inputs, target, baselines)
        inputs.zero_(), baselines.fill_(7)
        return found

    assert score(spoils, claims=("Shapley values",)).ok


def test_a_report_shows_itself_and_turns_to_json() -> None:
    report = score(wrong("nan"), name="mine")
    assert repr(report).startswith("mine\ncase ")
    record = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert record["ok"] is False
    assert len(record["rows"]) == len(report.rows)
    text = repr(score(slopes, claims=("gradient",)))
    assert "differs" in text
    assert "fail" not in text


# -- maps and pairs ----------------------------------------------------------------------------------------------


def by_hand(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
    """What the layer holds times the weight that it has for the output, place by place."""
    held = model.features(inputs).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.rest(held)[:, target].sum(), held)
    return (held * slope).sum(1, keepdim=True).detach()


def pairs_by_hand(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
    """Of each two features what they do together, and of each what it does alone, with all others at the baseline."""
    flat, base = inputs.flatten(1), baselines.flatten(1).expand(len(inputs), -1)
    count = flat.shape[1]

    def worth(*there: int) -> Tensor:
        rows = base.clone()
        rows[:, list(there)] = flat[:, list(there)]
        return model(rows.view_as(inputs))[:, target].detach()

    values = torch.zeros(len(flat), count, count, dtype=torch.float64)
    for i in range(count):
        values[:, i, i] = worth(i) - worth()
        for j in range(i):
            values[:, i, j] = values[:, j, i] = worth(i, j) - worth(i) - worth(j) + worth()
    return values


def test_maps_and_pairs_by_hand_are_what_the_cases_say() -> None:
    report = score(by_hand, claims=("class activation map", "sensitivity", "completeness"), form="map")
    assert report.ok, report.failed
    assert report.computes == ("class activation map",)
    assert {row.case for row in report.rows} == set(cases("map"))
    report = score(pairs_by_hand, claims=("pair interactions", *AXIOMS), form="pairs")
    assert report.ok, report.failed
    assert report.computes == ("pair interactions",)
    assert report.keeps == AXIOMS
    assert {row.case for row in report.rows} == set(cases("pairs")) < set(KNOWN)


@pytest.mark.parametrize(
    "break_",
    [lambda v: -v, lambda v: v.relu(), lambda v: v.mean((2, 3), keepdim=True) + 0 * v],
    ids=["negated", "positive", "even"],
)
def test_a_wrong_map_is_found_out(break_: Callable[[Tensor], Tensor]) -> None:
    report = score(lambda *given: break_(by_hand(*given)), claims=("class activation map",), form="map")
    assert {row.case for row in report.failed} == set(cases("map"))


def test_a_map_of_mean_weights_is_right_behind_a_mean_alone() -> None:
    def mean_weights(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        held = model.features(inputs).detach().requires_grad_()
        (slope,) = torch.autograd.grad(model.rest(held)[:, target].sum(), held)
        return (held * slope.mean((2, 3), keepdim=True)).sum(1, keepdim=True).detach()

    assert score(mean_weights, ("class activation map for a mean over places",), form="map").ok
    assert {r.case for r in score(mean_weights, ("class activation map",), form="map").failed} == {"weights by place"}


@pytest.mark.parametrize("axiom", ["completeness", "sensitivity", "symmetry", "linearity"])
def test_each_axiom_finds_wrong_pairs(axiom: str) -> None:
    def broken(model: nn.Module, inputs: Tensor, target: int, baselines: Tensor) -> Tensor:
        right = pairs_by_hand(model, inputs, target, baselines)
        if axiom == "completeness":
            return 2 * right
        if axiom == "sensitivity":
            return right + 0.1
        if axiom == "symmetry":
            right[:, 0, 0] += 1
            return right
        return right**2

    assert axiom in {row.check for row in score(broken, claims=(axiom,), form="pairs").failed}


def test_another_form_is_told() -> None:
    with pytest.raises(TorchwhyError, match="form is one of elements, map, pairs"):
        score(by_hand, form="maps")
    report = score(slopes, claims=("pair interactions",), form="pairs")
    assert "attributions are a tensor (2, 4, 4), not (2, 4)" in report.rows[0].message


# -- how an explainer is called -----------------------------------------------------------------------------------


def test_a_class_in_the_style_of_captum_is_an_explainer() -> None:
    class Mine:
        def __init__(self, forward_func: Callable[[Tensor], Tensor]) -> None:
            self.model = forward_func

        def attribute(self, inputs: Tensor, baselines: Tensor | None = None, target: int | None = None) -> Tensor:
            return by_coalitions(self.model, inputs, target, baselines)

    report = score(Mine, claims=("Shapley values",))
    assert report.ok
    assert report.name == "Mine"
    assert "linear from a baseline" in {row.case for row in report.rows}
    assert score(Saliency, claims=("sensitivity",)).ok
    assert score(ShapleyValues, claims=AXIOMS).ok


def test_what_cannot_be_called_is_told_at_once() -> None:
    with pytest.raises(TorchwhyError, match=r"called as \(model, inputs, target\).*which \(inputs\) does not allow"):
        score(lambda inputs: inputs)
    with pytest.raises(TorchwhyError, match="wrap it"):
        score(lambda model, inputs, target, background: inputs)
    with pytest.raises(TorchwhyError, match="not Saliency"):
        score(Saliency(nn.Linear(2, 2)))
    assert score(lambda *given, **more: slopes(*given), claims=("gradient",)).ok


# -- the methods of the library ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reports() -> dict[str, object]:
    return selftest()


def test_every_registered_method_keeps_what_it_promises(reports: dict) -> None:
    assert list(reports) == list(registry.methods())
    for name, report in reports.items():
        assert report.ok, (name, report.failed)
        assert not any(row.status == "error" for row in report.rows), (name, report.rows)
        assert bool(report.skipped) == (registry.lookup(name).info.family == "attention")


def test_what_is_promised_without_reserve_is_claimed(reports: dict) -> None:
    for name, report in reports.items():
        for promise in set(registry.lookup(name).info.promises) & set(AXIOMS):
            rows = [row for row in report.rows if row.check == promise]
            assert bool(rows) != bool(report.skipped)
            assert all(row.claimed for row in rows)
        for promise in registry.lookup(name).info.promises:
            if promise.endswith(" in expectation"):
                assert {row.status for row in report.rows if row.check == promise} == {"pass"}


def test_methods_compute_what_they_are_named_for(reports: dict) -> None:
    known = {
        "Saliency": "gradient",
        "InputXGradient": "input x gradient",
        "IntegratedGradients": "integrated gradients",
        "ShapleyValues": "Shapley values",
        "KernelShap": "Shapley values",
        "HiResCAM": "class activation map",
        "ShapleyInteractions": "pair interactions",
    }
    for name, concept in known.items():
        assert reports[name].computes == (concept,)


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> str:
    """A registered method that promises more than it keeps."""

    class Liar(Method):
        info = Info("gradient", "it lies", "nobody", 2000, "forward passes", "none", promises=("completeness",))

        def compute(self, p: object) -> Attribution:
            return Attribution(p.point.map(torch.ones_like))

    kept = {name: registry.lookup(name) for name in ("Saliency", "ShapleyValues", "GradCAM")}
    monkeypatch.setattr(registry._METHODS, "classes", {"Liar": Liar, **kept})
    return "Liar"


def test_the_command_tells_by_its_exit_code(liar: str) -> None:
    found = CliRunner().invoke(app, ["selftest", "saliency"])
    assert found.exit_code == 0
    assert "planted patch" in found.output
    found = CliRunner().invoke(app, ["selftest", liar])
    assert found.exit_code == 1
    assert "fail" in found.output


def test_the_command_shows_all_methods(liar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = CliRunner().invoke(app, ["selftest"])
    assert found.exit_code == 1
    words = " ".join(found.output.split())
    assert all(name in words for name in registry.methods())
    assert "broken: completeness on" in words
    assert max(map(len, found.output.splitlines())) <= 80
    record = json.loads(CliRunner().invoke(app, ["selftest", "--json"]).output)
    assert record["ok"] is False
    assert [m["name"] for m in record["methods"] if not m["ok"]] == [liar]
