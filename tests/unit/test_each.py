"""Several targets in one run: as many evaluations as one takes, and the same values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import Method, Site, TorchwhyError
from torchwhy.engines.fills import Marginal
from torchwhy.methods.ablation import FeatureAblation, Occlusion
from torchwhy.methods.banzhaf import Banzhaf
from torchwhy.methods.integrated_gradients import IntegratedGradients
from torchwhy.methods.kernel_shap import KernelShap
from torchwhy.methods.lime import Lime
from torchwhy.methods.noise_tunnel import NoiseTunnel
from torchwhy.methods.permutation import FeaturePermutation
from torchwhy.methods.rise import RISE
from torchwhy.methods.shapley import ShapleyValues, ShapleyValueSampling
from torchwhy.methods.sobol import SobolAttribution

SIZE, CLASSES = 12, 5


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(SIZE, 16, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(16, CLASSES, generator=generator, dtype=torch.float64))
        self.act = nn.Tanh()
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.act(x @ self.first) @ self.second


def point() -> Tensor:
    return torch.randn(3, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


BACKGROUND = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
METHODS: dict[str, Callable[[Net], Method]] = {
    "ShapleyValues": lambda net: ShapleyValues(net, budget=200),
    "exact": lambda net: ShapleyValues(net, feature_mask=torch.arange(SIZE) // 2),
    "settled": lambda net: ShapleyValues(net, stop_at="se<5%"),
    "marginal": lambda net: ShapleyValues(net, budget=200, fill=Marginal(BACKGROUND, n_draws=2)),
    "orders": lambda net: ShapleyValueSampling(net, n_samples=6),
    "KernelShap": lambda net: KernelShap(net, n_samples=200),
    "Banzhaf": lambda net: Banzhaf(net, budget=200),
    "Lime": lambda net: Lime(net, n_samples=100),
    "FeatureAblation": lambda net: FeatureAblation(net, fill="noise"),
    "Occlusion": lambda net: Occlusion(net, sliding_window_shapes=(3,)),
    "RISE": lambda net: RISE(net, n_samples=50),
    "Sobol": lambda net: SobolAttribution(net, n_samples=2, fill=Marginal(BACKGROUND, n_draws=2)),
}


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("name", METHODS)
def test_all_classes_cost_no_more_than_one(name: str, batch_size: int | None) -> None:
    net = Net()
    method = METHODS[name](net).with_options(batch_size=batch_size)
    each = method.attribute_each(point())
    together, net.rows = net.rows, 0
    ones, rows = [], []
    for target in range(CLASSES):
        ones.append(method.attribute(point(), target=target))
        rows.append(net.rows)
        net.rows = 0
    assert together <= max(rows)
    assert len(each) == CLASSES
    for one, found in zip(ones, each, strict=True):
        assert_close(found, one, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(each[0], each[1])


@pytest.mark.parametrize("name", ["ShapleyValues", "FeatureAblation", "RISE"])
def test_explanations_have_their_own_evidence_at_the_cost_of_one(name: str) -> None:
    net = Net()
    method = METHODS[name](net)
    each = method.explain_each(point(), [2, 0, [1, 2, 3], lambda y: y[:, 0] - y[:, 1]])
    together, net.rows = net.rows, 0
    for target, found in zip([2, 0, [1, 2, 3]], each, strict=False):
        one = method.explain(point(), target=target)
        assert_close(found.values, one.values)
        assert_close(found.scores, one.scores)
        assert found.target == one.target
        assert found.verdicts == one.verdicts
    assert together <= net.rows / 3 + 3  # the function of the output is asked at the point
    assert each[0].provenance["forward_rows"] > 0
    assert all(e.provenance["forward_rows"] == 0 for e in each[1:])
    assert_close(each[3].values, method.attribute(point(), target=lambda y: y[:, 0] - y[:, 1]))


def test_the_only_output_is_every_output() -> None:
    (found,) = FeatureAblation(lambda x: x[:, 0] * x[:, 1]).attribute_each(point())
    assert_close(found[:, 0], point()[:, 0] * point()[:, 1])


def test_features_permuted_for_all_classes() -> None:
    net = Net()
    each = FeaturePermutation(net).attribute_each(point(), baselines=BACKGROUND)
    together, net.rows = net.rows, 0
    one = FeaturePermutation(net).attribute(point(), target=3, baselines=BACKGROUND)
    assert together == net.rows
    assert_close(each[3], one)


@pytest.mark.parametrize("at", [None, "act"])
def test_any_method_runs_for_each(at: str | None) -> None:
    net = Net()
    for method in (IntegratedGradients(net, at=at), NoiseTunnel(KernelShap(net, at=at, n_samples=60), nt_samples=2)):
        each = method.attribute_each(point(), [1, 4])
        for target, found in zip([1, 4], each, strict=True):
            assert_close(found, method.attribute(point(), target=target))


def test_at_a_layer() -> None:
    net = Net()
    each = ShapleyValues(net, at="act", budget=100).attribute_each(point(), [0, 4])
    assert_close(each[1], ShapleyValues(net, at="act", budget=100).attribute(point(), target=4))


def test_outputs_of_any_form_with_targets_given() -> None:
    method = FeatureAblation(lambda x: {"logits": x[:, :2] * x[:, 1:3]})
    found = method.attribute_each(point(), [lambda y, k=k: y["logits"][:, k] for k in (0, 1)])
    assert_close(found[1][:, 1:3], (point()[:, 1] * point()[:, 2])[:, None].expand(-1, 2))


@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        (lambda x: x.view(-1, 2, 3, 2), None, "say what to explain"),
        (lambda x: x, [], "targets are a list of what the output holds"),
        (lambda x: x, [0, Site("act", unit=0)], "without units of layers"),
        (lambda x: x, [0, SIZE], f"target {SIZE} is out of range"),
    ],
    ids=["form", "none", "site", "range"],
)
def test_targets_that_do_not_fit_are_refused(
    model: Callable[[Tensor], Tensor], targets: list[object] | None, message: str
) -> None:
    with pytest.raises(TorchwhyError, match=message):
        FeatureAblation(model).attribute_each(point(), targets)


@pytest.mark.parametrize("method", [RISE, SobolAttribution])
def test_targets_settle_one_after_the_other(method: type[Method]) -> None:
    """The first looks at more masks than the second needs, or the other way round."""
    sampled = method(Net(), top_k=1, budget=3000)
    for targets in ([0, 1, 2], [2, 1, 0]):
        each = sampled.explain_each(point(), targets)
        for target, one in zip(targets, each, strict=True):
            assert_close(one.values, sampled.attribute(point(), target=target))
