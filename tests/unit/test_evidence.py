"""What an explanation says about itself: the right number, the right answer, no warning without a cause."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchwhy import (
    Check,
    Explanation,
    FeatureAblation,
    GradCAM,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    Saliency,
    SmoothGrad,
    TorchwhyError,
    VarGrad,
    explain,
)
from torchwhy.core import evidence
from torchwhy.core.evidence import Verdict, percent, verdict
from torchwhy.core.tensors import Tensors


def numbers(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def the(found: Explanation, name: str) -> Check:
    (one,) = (c for c in found.evidence if c.name == name)
    return one


def names(found: Explanation) -> set[str]:
    return {c.name for c in found.evidence}


# -- completeness -----------------------------------------------------------------------------------


def test_the_gap_is_a_share_of_what_the_score_moved() -> None:
    values = Tensors([numbers([1, 2], [1, 2], [1, 2]), numbers([3], [3], [3])])
    check = evidence.completeness(values, numbers([6, 5.8, 4])[0])
    assert check.value == pytest.approx((0, 0.2 / 5.8, 0.5))
    assert check.status == ("pass", "pass", "warn")
    assert check.reason[1] == "the parts add up to 6, the score moved by 5.8: a gap of 3.4 %"
    assert check.reason[2].endswith("a gap of 50 %; use more steps or samples")


def test_where_the_score_hardly_moves_the_gap_is_a_share_of_the_values() -> None:
    # Parts of 1 and -1 that miss 0 by 1e-6 are as good as exact, and that is not an infinite gap.
    assert evidence.completeness(Tensors([numbers([1, -1 + 1e-6])]), numbers([0])[0]).value == pytest.approx(
        (5e-4,), rel=1e-3
    )
    assert evidence.completeness(Tensors([numbers([0, 0])]), numbers([0])[0]).status == ("pass",)


def test_a_gap_within_two_standard_errors_is_chance() -> None:
    check = evidence.completeness(Tensors([numbers([1], [1])]), numbers([2, 2])[0], numbers([0.51, 0.49])[0])
    assert check.status == ("pass", "warn")
    assert "within the sampling error of 1" in check.reason[0]


def test_integrated_gradients_measures_the_gap_it_leaves() -> None:
    # The left rule on x^2 from 0 gives (1 - 1/n) x^2.
    found = IntegratedGradients(lambda x: (x**2).sum(1), method="riemann_left", n_steps=10).explain(
        numbers([3, 1], [1, 0])
    )
    assert the(found, "completeness").value == pytest.approx((0.1, 0.1))
    assert the(found, "completeness").status == ("warn", "warn")
    exact = IntegratedGradients(lambda x: (x**2).sum(1)).explain(numbers([3, 1]))
    assert max(the(exact, "completeness").value) < 1e-12
    assert exact.verdict.status == "pass"


def test_the_gap_is_that_of_the_layer_and_target_explained() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    for options, base in (({}, torch.zeros(2, 3)), ({"at": "1"}, torch.zeros(2, 3))):
        x = torch.tensor([[1.0, 2, -1], [0.5, 0, 3]], dtype=torch.float64)
        found = IntegratedGradients(model, n_steps=100, **options).explain(x, target=[0, 1])
        moved = (model(x) - model(base.double()))[[0, 1], [0, 1]]
        assert max(the(found, "completeness").value) < 1e-9
        assert f"the score moved by {moved[1].item():.4g}" in the(found, "completeness").reason[1]


@pytest.mark.parametrize("multiply", [True, False])
def test_what_promises_no_sum_is_not_held_to_it(multiply: bool) -> None:
    x = numbers([1, 2])
    ig = IntegratedGradients(lambda x: (x**3).sum(1), multiply_by_inputs=multiply).explain(x)
    shap = GradientShap(lambda x: (x**3).sum(1), multiply_by_inputs=multiply).explain(x, 0 * x)
    assert ("completeness" in names(ig)) is multiply
    assert ("completeness" in names(shap)) is multiply
    assert "completeness" not in names(Saliency(lambda x: x.sum(1)).explain(x))


def test_gradient_shap_counts_its_sampling_error() -> None:
    x, rows = numbers([1, 2]), numbers([0, 0], [2, 1], [-1, 3])
    few = GradientShap(lambda x: (x**2).sum(1), n_samples=20, seed=1).explain(x, rows)
    gap = the(few, "completeness")
    assert gap.value[0] > 0.05
    assert gap.status == ("pass",)
    assert "within the sampling error" in gap.reason[0]
    assert the(few, "sampling error").status == ("warn",)
    many = GradientShap(lambda x: (x**2).sum(1), n_samples=20_000).explain(x, rows)
    assert the(many, "sampling error").status == ("pass",)
    assert the(many, "sampling error").value[0] < the(few, "sampling error").value[0] / 20


# -- convergence ------------------------------------------------------------------------------------


def test_convergence_without_tol_tells_what_half_the_steps_would_change() -> None:
    x = numbers([1.0])
    smooth = IntegratedGradients(lambda x: x.exp().sum(1), n_steps=50).explain(x)
    assert the(smooth, "convergence").status == ("pass",)
    wild = IntegratedGradients(lambda x: (90 * x).sin().sum(1), n_steps=16).explain(x)
    assert the(wild, "convergence").status == ("warn",)
    assert "half as many steps would change the attribution by" in the(wild, "convergence").reason[0]


def test_convergence_is_measured_on_the_attribution() -> None:
    # The second input equals its baseline: its steady, enormous gradient must not drown the unsettled first.
    def model(x: Tensor) -> Tensor:
        return (90 * x[:, 0]).sin() + 1e6 * x[:, 1]

    found = IntegratedGradients(model, n_steps=16).explain(numbers([1, 0]))
    alone = IntegratedGradients(lambda x: (90 * x).sin().sum(1), n_steps=16).explain(numbers([1]))
    assert the(found, "convergence").value == pytest.approx(the(alone, "convergence").value)
    assert the(found, "convergence").status == ("warn",)


def test_one_step_says_nothing_of_convergence() -> None:
    assert "convergence" not in names(IntegratedGradients(lambda x: x.sum(1), n_steps=1).explain(numbers([1])))


@pytest.mark.parametrize(("value", "status"), [(0.05, "pass"), (0.0501, "warn")])
def test_the_limit_of_convergence(value: float, status: str) -> None:
    assert evidence.convergence(numbers([value])[0]).status == (status,)


# -- sampling error ---------------------------------------------------------------------------------


def test_sampling_error_is_a_ratio_of_norms() -> None:
    values, errors = (
        Tensors([numbers([3, 4], [3, 4], [0, 0])]),
        Tensors([numbers([0.6, 0.8], [3, 4], [0.1, 0])]),
    )
    check = evidence.sampling(values, errors)
    assert check.value == pytest.approx((0.2, 1, 1))
    assert check.status == ("pass", "warn", "warn")
    assert evidence.sampling(values, 0 * errors).status == ("pass",) * 3


def test_a_single_sample_has_no_standard_error() -> None:
    x = numbers([1, 2])
    assert SmoothGrad(lambda x: (x**2).sum(1), n_samples=1).explain(x).standard_error is None
    assert GradientShap(lambda x: (x**2).sum(1), n_samples=1).explain(x, x).standard_error is None
    assert VarGrad(lambda x: (x**2).sum(1)).explain(x).standard_error is None
    assert "sampling error" in names(SmoothGrad(lambda x: (x**2).sum(1)).explain(x))


# -- silence ----------------------------------------------------------------------------------------


def saturating(x: Tensor) -> Tensor:
    return (1 - (1 - x).relu()).sum(1)


def test_a_zero_gradient_where_the_score_moved_is_said() -> None:
    found = Saliency(saturating).explain(numbers([2, 3], [0.5, 3]))
    check = the(found, "silence")
    assert check.status == ("warn", "unknown")
    assert "every attribution is zero, yet the score differs from the baseline's by 2" in check.reason[0]
    assert [v.status for v in found.verdicts] == ["warn", "unknown"]
    assert found.verdict.status == "warn"
    assert "silence" not in names(IntegratedGradients(saturating).explain(numbers([2, 3])))


def test_a_zero_where_nothing_moved_is_no_silence() -> None:
    assert "silence" not in names(Saliency(saturating).explain(numbers([0, 0]) * 0 + 0.5))
    constant = Saliency(lambda x: 0 * x.sum(1)).explain(numbers([2, 3]))
    assert constant.evidence == ()


def test_silence_at_a_layer_is_measured_from_the_layers_baseline() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].bias.fill_(-100)  # every unit is off, for the input and for zeros alike
    found = GradCAM(model, at="1").explain(torch.ones(1, 1, 3, 3))
    assert (found.values == 0).all()
    assert "silence" not in names(found)


# -- numbers that are none --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(TorchwhyError, match=r"input 0 holds 1 values that are NaN or infinite, the first at \(1, 0\)"):
        Saliency(lambda x: x.sum(1)).attribute(numbers([1, 2], [bad, 3]))
    with pytest.raises(TorchwhyError, match="baselines hold NaN or infinity"):
        IntegratedGradients(lambda x: x.sum(1)).attribute(numbers([1, 2]), numbers([bad, 3]))


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(TorchwhyError, match="the model's score is nan for example 1"):
        Saliency(lambda x: x.sum(1).log()).attribute(numbers([1, 2], [-1, -3]))


@pytest.mark.parametrize(
    "method",
    [Saliency, InputXGradient, IntegratedGradients, lambda m: IntegratedGradients(m, tol=0.1), SmoothGrad],
)
def test_an_attribution_that_is_not_finite_is_refused(method: type[Saliency]) -> None:
    def cusp(x: Tensor) -> Tensor:
        return (x[:, 0] + 0.3).abs().sqrt() + x[:, 1]

    def nowhere(x: Tensor) -> Tensor:  # a finite score whose gradient is 0 * inf
        return torch.where(x > 100, (x + 0.5).sqrt(), x).sum(1)

    x = numbers([1, 1], [-1, -1])
    with pytest.raises(TorchwhyError, match="the attribution of example 1 is not finite"):
        method(nowhere).attribute(x)
    assert method(cusp).attribute(x[:1] + 1).isfinite().all()


def test_perturbed_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(TorchwhyError, match="the attribution of example 0 is not finite"):
        FeatureAblation(lambda x: x.sum(1).log()).attribute(numbers([1, 0]))


# -- precision --------------------------------------------------------------------------------------


class Weighted(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_mixed_precision_reports_the_rounding_it_makes() -> None:
    fits, rounds = torch.tensor([[0.5], [2.0], [-3.0]]), torch.tensor([[1.001], [2.003], [-3.005]])
    x = torch.tensor([[1.0, 2, 3]])
    exact = Saliency(Weighted(fits), abs=False, precision="mixed").explain(x)
    assert torch.equal(exact.values, fits.T)
    assert the(exact, "precision").value == (0,)
    rounded = Saliency(Weighted(rounds), abs=False, precision="mixed").explain(x)
    bfloat = rounds.bfloat16().float()
    assert torch.equal(rounded.values, bfloat.T)
    known = ((bfloat - rounds).norm() / rounds.norm()).item()
    assert the(rounded, "precision").value == pytest.approx((known,), rel=1e-4)
    assert the(rounded, "precision").status == ("pass",)
    full = Saliency(Weighted(rounds), abs=False).explain(x)
    assert torch.equal(full.values, rounds.T)
    assert "precision" not in names(full)


@pytest.mark.parametrize(("error", "status"), [(0.019, "pass"), (0.021, "warn")])
def test_the_limit_of_rounding(error: float, status: str) -> None:
    full = Tensors([numbers([3, 4])])
    assert evidence.mixed_precision(full, full * (1 + error)).status == (status,)


# -- faithfulness -----------------------------------------------------------------------------------

WEIGHTS = torch.tensor([8.0, 4, 2, 1, 0.5, 0.25, 0, 0, 0, 0, -1, -2], dtype=torch.float64)


def heavy(x: Tensor) -> Tensor:
    return x @ WEIGHTS


def test_basic_evidence_passes_what_hurts_more_than_chance() -> None:
    x = torch.ones(2, 12, dtype=torch.float64)
    found = IntegratedGradients(heavy).explain(x, check="basic")
    check = the(found, "faithfulness")
    assert check.status == ("pass", "pass")
    assert min(check.value) > 2
    assert found.provenance["check_rows"] > 0


def test_basic_evidence_warns_of_marks_that_do_not_matter() -> None:
    # The largest gradients stand where the input is zero, so that removing them does nothing.
    x = torch.tensor([[0.0, 0, 0, 0, 1, 1, 1, 1, 1, 1, -1, -1]], dtype=torch.float64)
    found = Saliency(heavy).explain(x, check="basic")
    assert the(found, "faithfulness").status == ("warn",)
    assert found.verdict.status == "warn"


def test_an_unknown_level_of_checks_is_refused() -> None:
    with pytest.raises(TorchwhyError, match="check is 'free', 'basic' or 'full', not 'thorough'"):
        Saliency(heavy).explain(torch.ones(1, 12).double(), check="thorough")


# -- independence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_model_that_mixes_its_examples_is_found_out(count: int) -> None:
    x = numbers([1, 2], [3, 4], [5, 7])[:count]
    mixed = Saliency(lambda x: (x**2).sum(1) - x.mean()).explain(x)
    check = the(mixed, "independence")
    assert check.status == ("warn",) * count
    # The first score, once beside the others and once beside the baseline of zeros.
    assert check.value == pytest.approx((abs(x.mean() - x[:1].mean() / 2).item(),) * count)
    assert mixed.verdict.status == "warn"
    assert "independence" not in names(Saliency(lambda x: (x**2).sum(1)).explain(x))


# -- verdicts ---------------------------------------------------------------------------------------


def one(name: str, *status: str) -> Check:
    return Check(name, "?", status, (0.0,) * len(status), tuple(f"{name} {s}" for s in status))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statuses", "known", "reasons"),
    [
        (("pass", "pass"), "pass", ("a pass", "b pass")),
        (("pass", "warn"), "warn", ("b warn",)),
        (("pass", "unknown"), "pass", ("a pass",)),
        (("unknown", "unknown"), "unknown", ("a unknown", "b unknown")),
        (("unknown", "warn"), "warn", ("b warn",)),
    ],
)
def test_the_worst_answer_wins(statuses: tuple[str, str], known: str, reasons: tuple[str, ...]) -> None:
    checks = [one(name, status) for name, status in zip("ab", statuses, strict=True)]
    assert verdict(checks, 0) == Verdict(known, reasons)  # type: ignore[arg-type]


def test_the_verdict_on_all_examples_is_that_of_the_worst() -> None:
    found = IntegratedGradients(lambda x: (x - 0.3).relu().sum(1), method="riemann_left", n_steps=2).explain(
        numbers([0.2], [1.0], [1.0])
    )
    assert [v.status for v in found.verdicts] == ["pass", "warn", "warn"]
    assert found.verdict.status == "warn"
    assert found.verdict.reasons[-1] == "the same for 1 more of 3 examples"
    assert found[0].verdict.status == "pass"
    assert len(found[0].verdicts) == 1


def test_a_method_without_promises_is_unknown() -> None:
    found = Occlusion(lambda x: x.sum(1), sliding_window_shapes=1).explain(numbers([1, 2]))
    assert str(found.verdict).startswith("unknown: this method promises nothing that can be checked for free")


def test_a_check_survives_its_dictionary() -> None:
    check = evidence.completeness(Tensors([numbers([1], [2])]), numbers([1, 3])[0])
    assert Check.from_dict(check.as_dict()) == check
    assert check.select(1).value == check.value[1:]


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.5, "50 %"), (0.034, "3.4 %"), (2.5, "250 %"), (0.0, "0 %"), (1e-6, "under 0.001 %"), (1.0, "100 %")],
)
def test_percent(share: float, words: str) -> None:
    assert percent(share) == words


def test_explain_chooses_a_method_that_works() -> None:
    assert explain(heavy, torch.ones(1, 12).double()).method == "IntegratedGradients"
    assert explain(lambda x: (x > 0).double().sum(1), torch.ones(1, 2)).method == "FeatureAblation"
    assert explain(lambda t: t.double().sum(1), torch.ones(1, 2).long()).method == "FeatureAblation"
    assert explain(heavy, torch.ones(1, 12).double(), method="smooth-grad", n_samples=3).options["n_samples"] == 3


def test_a_change_that_is_rounding_is_no_change() -> None:
    scores = torch.tensor([1.5])  # float32
    change, values = torch.tensor([1e-7]), Tensors([torch.zeros(1, 3)])
    assert evidence.completeness(values, change, scores=scores).status == ("pass",)
    assert evidence.completeness(values, change).status == ("warn",)
    assert evidence.completeness(values, torch.tensor([1e-3]), scores=scores).status == ("warn",)
    assert evidence.silence(values, change, scores) is None
    assert evidence.silence(values, torch.tensor([1e-3]), scores) is not None
