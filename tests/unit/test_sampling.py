"""Samples that grow: interrupted by the user, gone on with, and stopped when the answer is settled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.testing import assert_close

from torchwhy import Explanation, Method, TorchwhyError
from torchwhy.core.errors import Unfinished
from torchwhy.engines.pairwise import interactions_from_all
from torchwhy.engines.surrogate import Estimate, all_rows, banzhaf_from_all, draw_pairs, shapley_from_all
from torchwhy.methods import sampling
from torchwhy.methods.ablation import FeatureAblation
from torchwhy.methods.banzhaf import Banzhaf
from torchwhy.methods.hsic import HSICAttribution
from torchwhy.methods.interactions import INDICES, ShapleyInteractions
from torchwhy.methods.kernel_shap import KernelShap
from torchwhy.methods.lime import Lime
from torchwhy.methods.noise_tunnel import NoiseTunnel
from torchwhy.methods.owen import OwenSampling
from torchwhy.methods.permutation import FeaturePermutation
from torchwhy.methods.rise import RISE
from torchwhy.methods.sampling import Rule
from torchwhy.methods.shapley import ShapleyValues, ShapleyValueSampling
from torchwhy.methods.sobol import SobolAttribution

M = 14


class Net(nn.Module):
    """Kinks and interactions; at a chosen call the user presses Ctrl-C."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first = nn.Parameter(torch.randn(M, 24, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(24, generator=generator, dtype=torch.float64))
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))
        self.calls, self.stop_at = 0, -1

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return torch.relu(self.dropout(x) @ self.first - 1) @ self.second


def point() -> Tensor:
    return torch.stack([torch.ones(M), torch.linspace(0.2, 1.4, M)]).double()


SAMPLED: dict[str, Callable[..., Method]] = {
    "ShapleyValues": lambda net, **more: ShapleyValues(net, batch_size=16, **{"budget": 300} | more),
    "ShapleyValueSampling": lambda net, **more: ShapleyValueSampling(net, batch_size=16, **{"n_samples": 20} | more),
    "KernelShap": lambda net, **more: KernelShap(net, batch_size=16, **{"n_samples": 300} | more),
    "Banzhaf": lambda net, **more: Banzhaf(net, batch_size=16, **{"budget": 300} | more),
    "Lime": lambda net, **more: Lime(net, batch_size=16, **{"n_samples": 300} | more),
    "OwenSampling": lambda net, **more: OwenSampling(net, batch_size=16, **{"n_nodes": 1, "n_samples": 20} | more),
    "HSICAttribution": lambda net, **more: HSICAttribution(net, batch_size=16, **{"n_samples": 300} | more),
    "k-SII": lambda net, **more: ShapleyInteractions(net, batch_size=16, **{"budget": 300} | more),
    "STII": lambda net, **more: ShapleyInteractions(net, batch_size=16, **{"budget": 300, "index": "STII"} | more),
    "RISE": lambda net, **more: RISE(net, batch_size=16, **{"n_samples": 300} | more),
    "Sobol": lambda net, **more: SobolAttribution(net, batch_size=16, **{"n_samples": 2} | more),
}


def interrupted(name: str, call: int) -> tuple[Net, Explanation]:
    net = Net()
    net.stop_at = call
    return net, SAMPLED[name](net).explain(point())


# -- Ctrl-C --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLED)
def test_an_interrupt_keeps_what_was_evaluated(name: str) -> None:
    full = SAMPLED[name](Net()).explain(point())
    _, found = interrupted(name, 14)
    assert found.values.isfinite().all()
    assert found.verdict.status == "warn"
    completion = found.evidence[0]
    assert completion.name == "completion"
    done = found.provenance["evaluations"]
    assert f"stopped by hand after {done} of " in completion.reason[0]
    assert 60 <= done < 100 < full.provenance["evaluations"]
    assert all(c.name != "completion" for c in full.evidence)
    if found.standard_error is not None:
        assert (found.standard_error.mean(1) > 1.2 * full.standard_error.mean(1)).all()
    assert not torch.equal(found.values, full.values)


@pytest.mark.parametrize("name", SAMPLED)
def test_an_interrupted_explanation_goes_on(name: str) -> None:
    full = SAMPLED[name](Net()).explain(point())
    net, first = interrupted(name, 14)
    rest = SAMPLED[name](net).explain(point(), resume=first)
    assert torch.equal(rest.values, full.values)
    assert rest.memories is None
    paid, again = (e.provenance["forward_rows"] + 2 * e.provenance["backward_rows"] for e in (full, rest))
    assert paid - again >= 2 * first.provenance["evaluations"]  # for two examples
    assert rest.provenance["evaluations"] == full.provenance["evaluations"]


@pytest.mark.parametrize("name", ["RISE", "Sobol"])
@pytest.mark.parametrize("at_once", [1, 64])
def test_masks_go_on_that_are_asked_for_in_smaller_parts(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where rows are large, or the answer is looked at several times."""
    rule = {"top_k": 3, "budget": 2000}
    full = SAMPLED[name](Net(), **rule).explain(point())
    net = Net()
    net.stop_at = full.provenance["evaluations"] // 8
    first = SAMPLED[name](net, **rule).explain(point())
    assert first.memories is not None
    monkeypatch.setattr(sampling, "BITS", at_once * M)
    monkeypatch.setattr(sampling, "rows_at_once", lambda p: 1)
    rest = SAMPLED[name](net, **rule).explain(point(), resume=first)
    assert_close(rest.values, full.values)
    assert_close(rest.standard_error, full.standard_error)


@pytest.mark.parametrize("method", [ShapleyValues, KernelShap, ShapleyInteractions])
def test_what_does_not_settle_before_is_exact_in_the_end(method: type[Method]) -> None:
    """Features that are all alike are told apart by nothing less than all coalitions, which the budget pays."""
    found = method(lambda x: x.prod(1) + x.sum(1), top_k=2).explain(torch.ones(1, 9).double())
    assert found.provenance["evaluations"] == 512
    assert found.standard_error.max() < 1e-9
    assert next(c for c in found.evidence if c.name == "settled").status == ("pass",)


def test_an_explanation_may_be_interrupted_several_times() -> None:
    full = SAMPLED["ShapleyValues"](Net()).explain(point())
    net, found = interrupted("ShapleyValues", 10)
    for _ in range(20):
        if found.memories is None:
            break
        net.stop_at = net.calls + 9
        found = SAMPLED["ShapleyValues"](net).explain(point(), resume=found)
    assert found.memories is None
    assert torch.equal(found.values, full.values)
    assert net.calls > 30


@pytest.mark.parametrize("name", SAMPLED)
def test_what_is_left_holds_what_it_says(name: str) -> None:
    """Estimates from the part that was evaluated have no bias."""
    if name in ("Lime", "RISE", "Sobol", "HSICAttribution"):
        pytest.skip("has no known values")
    scores = Net().eval()(all_rows(M).double()).detach()[:, None]
    cells = torch.ones(M, M).triu(1) > 0
    if name in INDICES:
        known = interactions_from_all(scores, INDICES[name])[cells][:, 0]
    else:
        known = (banzhaf_from_all if name == "Banzhaf" else shapley_from_all)(scores)[:, 0]
    runs = []
    for seed in range(30):
        net = Net()
        net.stop_at = 14
        runs.append(SAMPLED[name](net, seed=seed).explain(point()[:1]))
    shown = [(r.values[0], r.standard_error[0]) for r in runs]
    values, errors = map(torch.stack, zip(*([t[cells] if t.ndim > 1 else t for t in r] for r in shown), strict=True))
    z = (values.mean(0) - known) / (values.std(0) / 30**0.5)
    assert z.abs().max() < 4.5
    inside = (values - known).abs() < errors * torch.tensor([[r.provenance["interval_95"]] for r in runs])
    assert 0.9 <= inside.double().mean() <= 0.99


@pytest.mark.parametrize("name", SAMPLED)
def test_too_little_to_go_by_is_an_interrupt(name: str) -> None:
    net = Net()
    net.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        SAMPLED[name](net).explain(point())


@pytest.mark.parametrize("name", SAMPLED)
def test_attribute_cannot_say_so_and_ends(name: str) -> None:
    net = Net()
    net.stop_at = 14
    with pytest.raises(KeyboardInterrupt):
        SAMPLED[name](net).attribute(point())


@pytest.mark.parametrize(
    "method",
    [
        lambda net: ShapleyValues(net, batch_size=16),
        lambda net: FeatureAblation(net, batch_size=2),
        lambda net: NoiseTunnel(KernelShap(net, n_samples=200, batch_size=16), nt_samples=3, stdevs=0.1),
    ],
    ids=["exact", "ablation", "tunnel"],
)
def test_what_is_exact_or_goes_around_ends(method: Callable[[Net], Method]) -> None:
    net = Net()
    net.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        method(net).explain(point())


@pytest.mark.parametrize(
    "method",
    [
        lambda net: ShapleyValues(net, batch_size=16),
        lambda net: ShapleyInteractions(net, index="STII", batch_size=16),
        lambda net: FeatureAblation(net, batch_size=2),
        lambda net: FeaturePermutation(net, batch_size=2),
        lambda net: OwenSampling(net, batch_size=2),
    ],
    ids=["exact", "interactions", "ablation", "permutation", "few"],
)
def test_what_has_nothing_to_show_yet_goes_on(method: Callable[[Net], Method]) -> None:
    base = torch.zeros(1, M).double()
    full = method(Net()).explain(point(), base)
    net = Net()
    net.stop_at = 9
    with pytest.raises(
        Unfinished, match="has nothing to show yet: explain again with this interrupt as resume="
    ) as one:
        method(net).explain(point(), base)
    net.stop_at = net.calls + 5
    with pytest.raises(KeyboardInterrupt) as two:
        method(net).explain(point(), base, resume=one.value)
    assert isinstance(two.value, Unfinished)
    found = method(net).explain(point(), base, resume=two.value)
    assert torch.equal(found.values, full.values)
    assert found.memories is None
    assert found.provenance["forward_rows"] < full.provenance["forward_rows"]
    with pytest.raises(TorchwhyError, match="the inputs, baselines or arguments changed"):
        method(net).explain(2 * point(), base, resume=two.value)


def test_rows_too_many_to_be_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are checked as others are, and an interrupt leaves an estimate, but nothing to go on with."""
    full = SAMPLED["OwenSampling"](Net()).explain(point())
    monkeypatch.setattr(sampling, "REMEMBERED", 0)
    assert_close(SAMPLED["OwenSampling"](Net()).explain(point()).values, full.values)
    net, found = interrupted("OwenSampling", 14)
    assert found.evidence[0].name == "completion"
    assert (found.standard_error.mean(1) > full.standard_error.mean(1)).all()
    assert_close(SAMPLED["OwenSampling"](net).explain(point(), resume=found).values, full.values)
    with pytest.raises(TorchwhyError, match="functional dropout left on"):
        OwenSampling(lambda x: dropout(x, 0.5).sum(1)).attribute(point())


def test_a_second_interrupt_always_ends() -> None:
    net = Net()
    first = net.forward
    stops = iter([14, 15])
    at = [next(stops)]

    def forward(x: Tensor) -> Tensor:
        net.stop_at = at[0]
        if net.calls + 1 == at[0]:
            at[0] = next(stops, -1)
        return first(x)

    net.forward = forward  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        SAMPLED["ShapleyValues"](net).explain(point())
    assert net.calls == 15


@pytest.mark.parametrize("call", [2, 14])
def test_the_model_is_left_as_it_was(call: int) -> None:
    net = Net().train()
    net.stop_at = call
    before = torch.random.get_rng_state()
    try:
        SAMPLED["ShapleyValues"](net).explain(point())
    except KeyboardInterrupt:
        assert call == 2
    assert net.training
    assert net.dropout.training
    assert all(p.requires_grad for p in net.parameters())
    assert net.seen == 0
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


CHANGED: dict[str, tuple[Callable[[Net, Explanation], object], str]] = {
    "method": (lambda net, e: SAMPLED["Banzhaf"](net).explain(point(), resume=e), "the method changed"),
    "inputs": (lambda net, e: SAMPLED["ShapleyValues"](net).explain(2 * point(), resume=e), "the inputs, baselines"),
    "baselines": (
        lambda net, e: SAMPLED["ShapleyValues"](net).explain(point(), 1.0, resume=e),
        "the inputs, baselines",
    ),
    "target": (
        lambda net, e: SAMPLED["ShapleyValues"](net).explain(point(), target=lambda y: -y, resume=e),
        "the target changed",
    ),
    "fill": (
        lambda net, e: SAMPLED["ShapleyValues"](net, fill="noise").explain(point(), resume=e),
        "the features, the fill or the seed changed",
    ),
    "mask": (
        lambda net, e: SAMPLED["ShapleyValues"](net, feature_mask=torch.arange(M) // 2).explain(point(), resume=e),
        "the features, the fill or the seed changed",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_another_question_is_not_gone_on_with(name: str) -> None:
    net, found = interrupted("ShapleyValues", 14)
    ask, message = CHANGED[name]
    with pytest.raises(TorchwhyError, match=message):
        ask(net, found)


def test_another_model_is_not_gone_on_with() -> None:
    net, found = interrupted("ShapleyValues", 14)
    with torch.no_grad():
        net.second += 1
    with pytest.raises(TorchwhyError, match="the model changed"):
        SAMPLED["ShapleyValues"](net).explain(point(), resume=found)


def test_only_what_was_interrupted_is_gone_on_with(tmp_path: Any) -> None:
    net, found = interrupted("ShapleyValues", 14)
    whole = SAMPLED["ShapleyValues"](net).explain(point())
    for other in (whole, found[0], Explanation.load(found.save(tmp_path / "found.safetensors"))):
        with pytest.raises(TorchwhyError, match="that was interrupted in this session"):
            SAMPLED["ShapleyValues"](net).explain(point(), resume=other)


# -- the first of the pairs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "count", "part"), [(12, 300, 40), (30, 200, 30), (9, 255, 100), (400, 50, 20)])
def test_the_first_pairs_are_those_of_a_smaller_budget(m: int, count: int, part: int) -> None:
    pairs = draw_pairs(m, count, 0)
    kept, few = pairs.first(part)
    plan = draw_pairs(m, part, 1)
    assert len(few) == part
    assert torch.equal(few.rows, pairs.rows[kept])
    assert (few.size.diff() >= 0).all()
    for h in range(1, m // 2 + 1):
        assert abs(int((few.size == h).sum()) - int((plan.size == h).sum())) <= 2
    nested, _ = pairs.first(part // 2)
    assert set(nested.tolist()) < set(kept.tolist())
    assert pairs.first(count)[1] is pairs


# -- settled -------------------------------------------------------------------------------------------------

RULES: dict[str, Callable[..., Method]] = {
    "ShapleyValues": ShapleyValues,
    "ShapleyValueSampling": ShapleyValueSampling,
    "KernelShap": KernelShap,
    "Banzhaf": Banzhaf,
    "OwenSampling": lambda net, **more: OwenSampling(net, n_nodes=1, **more),
}


@pytest.mark.parametrize("name", RULES)
def test_it_stops_when_the_standard_errors_are_small(name: str) -> None:
    net = Net()
    for rule, limit in (("se<0.1", 0.1), ("se < 4%", None)):
        found = RULES[name](net, stop_at=rule).explain(point())
        size = found.values.abs().amax(1, keepdim=True) if limit is None else torch.ones(2, 1)
        assert (found.standard_error <= (0.04 if limit is None else limit) * size).all()
        assert found.provenance["evaluations"] < 10_000
        check = found.evidence[0]
        assert (check.name, check.status) == ("settled", ("pass", "pass"))
        assert check.reason[0].startswith(f"after {found.provenance['evaluations']} evaluations every standard error")


@pytest.mark.parametrize("name", RULES)
def test_a_budget_that_does_not_settle_it_is_told(name: str) -> None:
    found = RULES[name](Net(), stop_at="se<1e-6", budget=200).explain(point())
    assert found.provenance["evaluations"] <= 200
    assert found.provenance["stopped_because"] == "the budget was spent"
    assert found.evidence[0].status == ("warn", "warn")
    assert "are too few to say that every standard error is below 1e-06" in found.evidence[0].reason[0]


@pytest.mark.parametrize("name", RULES)
def test_it_stops_when_the_largest_are_told_from_the_others(name: str) -> None:
    weights = torch.tensor([5.0, -4, 3] + [0.3] * 17).double()

    def model(x: Tensor) -> Tensor:
        return x @ weights + 0.5 * (x[:, :10].sum(1) - 5).abs() ** 1.5

    found = RULES[name](model, top_k=3).explain(torch.ones(1, 20).double())
    assert set(found.values[0].abs().topk(3).indices.tolist()) == {0, 1, 2}
    assert found.evidence[0].status == ("pass",)
    assert found.provenance["stopped_because"] == "the 3 largest values are told from the others"
    more = RULES[name](model, top_k=5, budget=300).explain(torch.ones(1, 20).double())  # all others are alike
    assert more.evidence[0].status == ("warn",)


def airport(cost: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The longest runway that is needed, and the Shapley values: i shares each length with all that need it."""
    steps = cost.diff(prepend=torch.zeros(1, dtype=torch.float64))
    return lambda x: (x * cost).amax(1), (steps / torch.arange(len(cost), 0, -1)).cumsum(0)


@pytest.mark.parametrize("method", [ShapleyValues, ShapleyValueSampling])
@pytest.mark.parametrize("tail", ["light", "heavy"])
def test_intervals_hold_where_the_sample_chose_its_size(method: Callable[..., Method], tail: str) -> None:
    cost = torch.arange(1, 25).double() ** (1 if tail == "light" else 6)
    model, known = airport(cost)
    inside, z, used = [], [], []
    for seed in range(24):
        found = method(model, stop_at="se<6%", seed=seed).explain(torch.ones(1, 24).double())
        away = (found.values[0] - known).abs()
        inside.append(away <= found.standard_error[0] * found.provenance["interval_95"] + 1e-9 * known.max())
        z.append(found.values[0] - known)
        used.append(found.provenance["evaluations"])
    spread = torch.stack(z)
    share = torch.stack(inside).double().mean()
    assert 0.9 <= share <= 0.995, share
    assert (spread.mean(0) / (spread.std(0) / math.sqrt(24)).clamp_min(1e-9 * known.max())).abs().max() < 4.5
    assert min(used) > 100


def test_the_largest_are_right_in_95_of_100_although_they_are_looked_for_often() -> None:
    """Features in pairs, each of which shares its product."""
    generator = torch.Generator().manual_seed(0)
    wrong, told = 0, 0
    for seed in range(60):
        pairs = torch.triu(torch.randn(8, 8, generator=generator, dtype=torch.float64), 1)
        known = ((pairs + pairs.T) / 2).sum(1)

        def model(x: Tensor, pairs: Tensor = pairs) -> Tensor:
            return ((x @ pairs) * x).sum(1)

        plain = {"antithetic": False, "budget": 9000}
        found = ShapleyValueSampling(model, top_k=2, seed=seed, **plain).explain(torch.ones(1, 8).double())
        if found.evidence[0].status == ("pass",):
            told += 1
            wrong += set(found.values[0].abs().topk(2).indices.tolist()) != set(known.abs().topk(2).indices.tolist())
    assert told > 20
    assert wrong <= 0.05 * told


@pytest.mark.parametrize("stop_at", ["se<0", "se<-1", "0.1", "se<1%%", "se>0.1", "", "se<1.2.3"])
def test_rules_that_make_no_sense_are_refused(stop_at: str) -> None:
    with pytest.raises(TorchwhyError, match=r"stop_at bounds the standard error, such as 'se<0.01' or 'se<1%'"):
        ShapleyValues(Net(), stop_at=stop_at)
    with pytest.raises(TorchwhyError, match="top_k is a whole number of at least 1"):
        ShapleyValues(Net(), top_k=0)


def test_a_rule_needs_all_features() -> None:
    values = torch.tensor([[3.0], [2.0], [1.0]]).double()
    small, large = (Estimate(values, torch.full_like(values, e), 1000) for e in (0.01, 0.4))
    assert Rule.of("se<0.011", None).settled(small, 1).all()
    assert not Rule.of("se<0.009", None).settled(small, 1).any()
    assert Rule.of(None, 2).settled(small, 1).all()
    assert not Rule.of(None, 2).settled(large, 1).any()
    assert Rule.of(None, 3).settled(large, 1).all()  # there are no others
    assert not Rule.of("se<0.1", 3).settled(large, 1).any()
    barely = Estimate(values, torch.full_like(values, 0.185), 1000)
    assert Rule.of(None, 1).settled(barely, 1).all()
    assert not Rule.of(None, 1).settled(barely, 5).any()  # later looks have less left of the 5 %


# -- budgets -------------------------------------------------------------------------------------------------


def test_a_budget_of_orders() -> None:
    x = point()
    found = ShapleyValueSampling(Net(), budget=100).explain(x)
    same = ShapleyValueSampling(Net(), n_samples=6).explain(x)
    assert_close(found.values, same.values)
    assert found.provenance["evaluations"] <= 100
    with pytest.raises(TorchwhyError, match=r"budget=14 is too small for an order of 14 features: .* works is 15"):
        ShapleyValueSampling(Net(), budget=14).attribute(x)


def test_the_smaller_of_two_budgets_counts() -> None:
    x = point()
    for small in ({"budget": 200}, {"n_samples": 200}, {"budget": 200, "n_samples": 900}):
        assert KernelShap(Net(), **small).explain(x).provenance["evaluations"] == 200
    with pytest.raises(TorchwhyError, match="budget=20 is too small"):
        KernelShap(Net(), budget=20).attribute(x)
