"""Layers that forget what they learned, how alike explanations are, and the metrics made of both."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import (
    GuidedGradCAM,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    Site,
    TorchwhyError,
    UnsupportedError,
    metrics,
)
from torchwhy.core.problem import Problem
from torchwhy.core.scores import Probability
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import draws
from torchwhy.engines.weights import forgotten, layers, parts, randomised
from torchwhy.methods.base import Attribution, Method
from torchwhy.metrics.controls import edges
from torchwhy.metrics.randomisation import band, chance
from torchwhy.metrics.similarity import KINDS, Likeness
from torchwhy.registry import Info

MPRT = metrics.MPRT


@dataclass(kw_only=True, eq=False)
class Edges(Method):
    """Knows the input and nothing of the model."""

    info = Info(
        family="gradient", summary="edges", paper="none", year=2018, needs="forward passes", cost="none", signed=False
    )

    def compute(self, p: Problem) -> Attribution:
        p.scores  # noqa: B018  every method meets the model
        return Attribution(edges(p.point, p.point)[0])


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with numbers of its own in every parameter and buffer."""
    generator = torch.Generator().manual_seed(seed)
    for t in module.double().state_dict().values():
        if t.is_floating_point():
            t.copy_(torch.randn(t.shape, generator=generator, dtype=torch.float64).abs() / 2 + 0.1)
    return module.eval()


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def net() -> nn.Module:
    """(B, 1, 12, 12) to (B, 4)."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(384, 4)
    )
    generator = torch.Generator().manual_seed(3)
    for t in net.double().state_dict().values():
        if t.is_floating_point():
            t.copy_(torch.randn(t.shape, generator=generator, dtype=torch.float64) / 2)
    net[1].running_var.fill_(0.8)
    return net.eval()


@pytest.fixture
def x() -> Tensor:
    return drawn(3, 1, 12, 12)


# -- layers and their weights ------------------------------------------------------------------------------------


class Crossed(nn.Module):
    """Runs its last module first; one has parameters that its parent uses without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early = nn.Linear(4, 2), nn.Linear(3, 4)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.token = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        seen = (self.early(x) + self.token)[:, None]
        return self.late(self.attention(seen, seen, seen)[0][:, 0])


def test_layers_stand_in_the_order_in_which_they_run() -> None:
    model = Crossed()
    assert layers(model) == ("", "late", "early", "attention", "attention.out_proj")
    ran = layers(model, lambda: model(torch.ones(1, 3)))
    assert ran == ("", "early", "attention", "attention.out_proj", "late")
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_parts_are_modules_in_the_order_of_their_first_layer() -> None:
    names = ("stem", "block.0.conv", "block.1.conv", "blocked", "head")
    assert parts(names, None) == {n: [n] for n in names}
    assert parts(names, ("head", "block")) == {"block": ["block.0.conv", "block.1.conv"], "head": ["head"]}
    assert parts(names, ("",)) == {"": list(names)}
    with pytest.raises(TorchwhyError, match=r"no module 'haed' has parameters; did you mean 'head'"):
        parts(names, ("haed",))


def test_a_copy_forgets_and_the_model_does_not() -> None:
    model = filled(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)))
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    other, again, another = randomised(model), randomised(model), randomised(model, seed=1)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(other[0].weight, again[0].weight)
    assert not torch.equal(other[0].weight, another[0].weight)
    # A linear layer of five inputs is made with weights between -1 and 1 / sqrt(5); these here were all positive.
    assert other[0].weight.abs().max() <= 5**-0.5
    assert (other[0].weight < 0).any()
    # A normalisation is as it was made, with its running statistics.
    assert_close(other[1].weight, torch.ones(6).double())
    assert_close(other[1].running_mean, torch.zeros(6).double())
    assert_close(other[1].running_var, torch.ones(6).double())


def test_a_layer_gets_the_same_draws_whatever_else_is_randomised() -> None:
    model = filled(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2)))
    alone, both = randomised(model, ["1"]), randomised(model)
    assert torch.equal(alone[1].weight, both[1].weight)
    assert torch.equal(alone[0].weight, model[0].weight)
    assert not torch.equal(both[0].weight, model[0].weight)


def test_what_has_no_reset_gets_normal_draws_of_the_same_mean_and_spread() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(3 + 0.5 * drawn(200, 200))
            self.scale = nn.Parameter(torch.full((4,), 0.7))
            self.index = nn.Parameter(torch.arange(4), requires_grad=False)

    model = Plain()
    found = randomised(model)
    assert abs(found.weight.mean() - 3) < 0.01
    assert abs(found.weight.std() - 0.5) < 0.01
    assert abs(stats.pearsonr(found.weight.detach().flatten(), model.weight.detach().flatten())[0]) < 0.03
    assert torch.equal(found.scale, model.scale)  # numbers that are all the same have no spread
    assert torch.equal(found.index, model.index)


def test_a_reset_that_does_not_reach_the_parameters_is_not_trusted() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(5, 6, bias=False))
    with torch.no_grad():
        model.parametrizations.weight.original0.copy_(torch.linspace(1, 2, 6)[:, None])
    assert not torch.allclose(randomised(model).weight, model.weight)

    class Idle(nn.Linear):
        def reset_parameters(self, gain: float = 1.0) -> None:
            pass

    idle = Idle(5, 6)
    with torch.no_grad():
        idle.weight.copy_(drawn(6, 5)), idle.bias.copy_(drawn(6))
    assert not torch.equal(randomised(idle).weight, idle.weight)


def test_attention_and_tied_weights() -> None:
    model = Crossed().eval()
    found = randomised(model, ["attention"])
    assert not torch.equal(found.attention.in_proj_weight, model.attention.in_proj_weight)
    assert torch.equal(found.early.weight, model.early.weight)
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    found = randomised(tied, ["1"])
    assert found[0].weight is found[1].weight
    assert not torch.equal(found[0].weight, tied[0].weight)


def test_what_was_forgotten_comes_back() -> None:
    model = filled(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)))
    before = copy.deepcopy(model.state_dict())
    with forgotten(model, ["0", "1"], seed=0) as changed:
        assert changed
        assert not torch.equal(model[0].weight, before["0.weight"])
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with forgotten(nn.Sequential(nn.LayerNorm(4)), ["0"], seed=0) as changed:
        assert not changed


def test_what_cannot_be_randomised_says_so(x: Tensor) -> None:
    with pytest.raises(UnsupportedError, match="is a function, whose weights cannot be drawn again"):
        MPRT().score(Saliency(lambda z: z.sum((1, 2, 3))), x)
    model = nn.Linear(3, 2)
    model.made = model.weight * 2  # no leaf, which PyTorch does not copy
    with pytest.raises(UnsupportedError, match="cannot be copied"):
        randomised(model)


# -- similarity --------------------------------------------------------------------------------------------------


def test_correlations_are_those_of_scipy() -> None:
    a, b = drawn(4, 2, 5, 5).round(decimals=1), drawn(4, 2, 5, 5, seed=2).round(decimals=1)  # some are equal
    b = b + 0.3 * a
    rows = list(zip(a.flatten(1).numpy(), b.flatten(1).numpy(), strict=True))
    known = {
        "spearman": [stats.spearmanr(u, v)[0] for u, v in rows],
        "pearson": [stats.pearsonr(u, v)[0] for u, v in rows],
        "cosine": [u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in rows],
    }
    for name, values in known.items():
        found = Likeness(name, Tensors([a]))(Tensors([torch.cat([b, -b])]))
        assert_close(found, torch.tensor(np.array([values, [-v for v in values]])))


def test_structural_similarity_is_that_of_scikit_image() -> None:
    image = pytest.importorskip("skimage.metrics")
    a, b = drawn(2, 3, 20, 26), drawn(2, 3, 20, 26, seed=2)
    b = b / 3 + a
    found = Likeness("ssim", Tensors([a]))(Tensors([5 * b]))[0]  # the size of a map does not count
    for i in range(2):
        u, v = (t[i] / t[i].abs().max() for t in (a, b))
        known = image.structural_similarity(
            u.numpy(), v.numpy(), channel_axis=0, data_range=2, gaussian_weights=True, use_sample_covariance=False
        )
        assert found[i].item() == pytest.approx(known, abs=1e-9)
    assert_close(Likeness("ssim", Tensors([a]))(Tensors([a]))[0], torch.ones(2).double())
    with pytest.raises(TorchwhyError, match="of images"):
        Likeness("ssim", Tensors([a.flatten(1)]))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_the_same_everywhere_is_like_nothing(kind: str) -> None:
    a = drawn(2, 1, 6, 6)
    a[1] = 0
    assert Likeness(kind, Tensors([a]))(Tensors([a])).isnan().tolist() == [[False, True]]
    assert Likeness(kind, Tensors([a * 1e-200]))(Tensors([a * 1e200]))[0, 0].item() == pytest.approx(1)


def test_the_band_holds_unrelated_explanations_alone() -> None:
    a = drawn(2, 1, 20, 20)
    for kind in KINDS:
        found = chance(Tensors([a]), kind, n_draws=40)
        assert found.shape == (40, 2)
        low, high = band(found)
        unrelated = Likeness(kind, Tensors([a]))(Tensors([drawn(2, 1, 20, 20, seed=5)]))[0]
        assert (low < 0.1).all()
        assert ((low - 0.05 < unrelated) & (unrelated < high + 0.05)).all()
        assert (high < 0.5).all()
    assert torch.equal(chance(Tensors([a])), chance(Tensors([a])))
    assert not torch.equal(chance(Tensors([a])), chance(Tensors([a]), seed=1))


# -- MPRT --------------------------------------------------------------------------------------------------------


def test_an_edge_detector_fails_and_a_gradient_does_not(net: nn.Module, x: Tensor) -> None:
    for order in ("cascading", "bottom_up", "independent"):
        for similarity in KINDS:
            found = MPRT(order=order, similarity=similarity).score(Edges(net), x)
            assert_close(found.curve.y, torch.ones(4, 3).double())
            assert_close(found.value, torch.ones(3).double())
            assert max(found.details["chance"]["high"]) < 0.95
    found = MPRT().score(Saliency(net, abs=False), x)
    last, low, high = found.curve.y[-1], *(torch.tensor(found.details["chance"][k]) for k in ("low", "high"))
    assert ((low < last) & (last < high)).all()


def test_its_curve_is_that_of_models_randomised_by_hand(net: nn.Module, x: Tensor) -> None:
    method = InputXGradient(net)
    target = net(x).argmax(1)  # of the model itself, whatever another predicts
    values = method.attribute(x, target=target)
    steps = {
        "cascading": [["6"], ["6", "3"], ["6", "3", "1"], ["6", "3", "1", "0"]],
        "bottom_up": [["0"], ["0", "1"], ["0", "1", "3"], ["0", "1", "3", "6"]],
        "independent": [["0"], ["1"], ["3"], ["6"]],
    }
    for order, chosen in steps.items():
        found = MPRT(order=order, similarity="pearson", seed=4).score(method, x)
        known = []
        for names in chosen:
            other = InputXGradient(randomised(net, names, seed=4)).attribute(x, target=target)
            known.append([stats.pearsonr(a.flatten(), b.flatten())[0] for a, b in zip(values, other, strict=True)])
        assert_close(found.curve.y, torch.tensor(np.array(known)))
        assert_close(found.value, found.curve.y.mean(0))
        assert found.details["layers"] == [names[-1] for names in chosen]
        assert_close(found.curve.x[:, 0], torch.tensor([0.25, 0.5, 0.75, 1]).double())
    assert found.evaluations == 3 + 1 + 4 * 3  # the examples, a row that shows the order, the examples per layer


def test_layers_in_steps_of_the_users(net: nn.Module, x: Tensor) -> None:
    model = nn.Sequential(net[:3], net[3:]).eval()
    found = MPRT(layers=("1", "0")).score(Saliency(model), x)
    assert found.details["layers"] == ["1", "0"]
    assert_close(found.curve.y[1], MPRT().score(Saliency(model), x).curve.y[-1])
    with pytest.raises(TorchwhyError, match="no module '7' has parameters"):
        MPRT(layers=("7",)).score(Saliency(model), x)


def test_the_sign_counts_unless_sizes_are_asked_for() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 1, bias=False)).double().eval()
    x = drawn(1, 6)
    other = randomised(model)[1].weight
    with torch.no_grad():
        model[1].weight.copy_(-3 * other)  # the very opposite of what it will be
    assert MPRT(similarity="pearson").score(InputXGradient(model), x).mean == pytest.approx(-1)
    assert MPRT(similarity="pearson", abs=True).score(InputXGradient(model), x).mean == pytest.approx(1)


def test_a_layer_that_learned_nothing_is_left_out(x: Tensor) -> None:
    model = nn.Sequential(nn.LayerNorm(12), nn.Flatten(), nn.Linear(144, 3)).double().eval()
    found = MPRT(order="independent").score(Saliency(model), x)
    assert found.details["layers"] == ["2"]
    assert found.details["unchanged"] == ["0"]
    assert found.curve.y.shape == (1, 3)
    found = MPRT(layers=("0",)).score(Saliency(model), x)
    assert found.undefined == {"no layer holds other numbers after it was reset": 3}


def test_no_similarity_without_a_reason(x: Tensor) -> None:
    class Gated(nn.Module):
        """Explanations are all zero without what it learned."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(144), nn.Linear(144, 3)

        def forward(self, z: Tensor) -> Tensor:
            return (self.norm(z.flatten(1)) - 5).relu() @ self.fc.weight.T

    model = Gated().double().eval()
    with torch.no_grad():
        model.norm.bias.fill_(9)
    found = MPRT(order="independent", layers=("norm",)).score(Saliency(model), x)
    assert found.undefined == {"with randomised layers, the attributions are the same everywhere": 3}
    found = MPRT(order="independent").score(Saliency(model), x)
    assert found.curve.y[0].isnan().all()
    assert_close(found.value, found.curve.y[1])
    with torch.no_grad():
        model.norm.bias.fill_(0)
    found = MPRT().score(Saliency(model), x)
    assert all("nothing is like them" in reason for reason in found.reasons)
    assert found.details["chance"]["low"] == [None] * 3
    found.as_dict()


def test_places_and_targets_that_are_modules_are_found_in_the_copy(net: nn.Module, x: Tensor) -> None:
    for method in (
        Saliency(net, at=net[3]),
        GuidedGradCAM(net, layer=net[3]),
        Saliency(net, at=[net[0], net[3]]),
        Saliency(net, at=Site(net[3], input=True)),
    ):
        found = MPRT(similarity="pearson").score(method, x)
        assert found.curve.y.shape == (4, 3)
        assert (found.curve.y[-1] < 0.95).all()
    unit = MPRT(order="independent", similarity="pearson").score(Saliency(net), x, target=Site(net[3], unit=(2, 4, 4)))
    # What stands behind the unit does not act on it.
    assert_close(unit.curve.y[3], torch.ones(3).double())
    assert (unit.curve.y[0] < 0.95).all()


def test_a_model_in_training_mode_and_its_numbers_are_left_alone(net: nn.Module, x: Tensor) -> None:
    quiet = MPRT().score(Saliency(net), x)
    net.train()
    before, state = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    found = MPRT().score(Saliency(net), x)
    assert_close(found.value, quiet.value)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_seeds(net: nn.Module, x: Tensor) -> None:
    for metric in (MPRT(), metrics.SmoothMPRT(n_samples=3), metrics.EfficientMPRT(), metrics.RandomLogit()):
        method = Saliency(net, abs=False)
        first, same, *others = (metric.score(method, x, target=2, seed=s).value for s in (0, 0, 1, 2, 3, 4))
        assert torch.equal(first, same)
        assert any(not torch.equal(first, other) for other in others)


def test_wrong_options() -> None:
    with pytest.raises(TorchwhyError, match="order is one of"):
        MPRT(order="up")
    with pytest.raises(TorchwhyError, match="similarity is one of"):
        MPRT(similarity="like")
    with pytest.raises(TorchwhyError, match="seed"):
        MPRT(seed=-1)
    with pytest.raises(TorchwhyError, match="n_bins"):
        metrics.EfficientMPRT(n_bins=1)


# -- sMPRT and eMPRT ---------------------------------------------------------------------------------------------


def test_smooth_explanations_are_means_over_noise(net: nn.Module, x: Tensor) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).double().eval()
    method = Saliency(linear, abs=False)  # the same at all points
    plain, smooth = (m.score(method, x, target=1) for m in (MPRT(), metrics.SmoothMPRT(n_samples=5, stdevs=0.7)))
    assert_close(plain.curve.y, smooth.curve.y)
    method = Saliency(net, abs=False)
    assert_close(metrics.SmoothMPRT(stdevs=0.0).score(method, x).value, MPRT().score(method, x).value)
    plain, smooth = (m.score(method, x, target=1) for m in (MPRT(), metrics.SmoothMPRT(n_samples=5, stdevs=0.7)))
    assert (plain.curve.y - smooth.curve.y).abs().max() > 0.01
    assert smooth.evaluations == 3 + 15 + 1 + 4 * (3 + 15)  # of the examples themselves, what is asked of the model


def test_entropy_is_that_of_the_histogram(net: nn.Module, x: Tensor) -> None:
    def entropy(values: Tensor) -> list[float]:
        counts = [np.histogram(v.numpy().ravel(), 30)[0] for v in values]
        return [float(stats.entropy(c)) for c in counts]

    method = InputXGradient(net)
    found = metrics.EfficientMPRT(n_bins=30, n_draws=1).score(method, x, target=2)
    assert found.details["entropy"] == pytest.approx(entropy(method.attribute(x, target=2)))
    after = torch.tensor(found.details["entropy randomised"])
    before = torch.tensor(found.details["entropy"])
    assert_close(found.value, ((after - before) / before).double())
    assert found.standard_error is None
    assert "chance" not in found.details
    several = metrics.EfficientMPRT(n_bins=30, n_draws=4).score(method, x, target=2)
    assert several.standard_error.shape == (3,)
    assert several.evaluations == 3 + 4 * 3


def test_an_explanation_without_the_model_does_not_become_more_complex(net: nn.Module, x: Tensor) -> None:
    assert_close(metrics.EfficientMPRT().score(Edges(net), x).value, torch.zeros(3).double())
    flat = metrics.EfficientMPRT().score(Edges(net), torch.ones_like(x))
    assert flat.undefined == {"the attributions are the same everywhere, so that their entropy is 0": 3}


def test_several_draws_of_the_weights_have_a_spread(net: nn.Module, x: Tensor) -> None:
    method = InputXGradient(net)
    once, three = (MPRT(n_draws=n, seed=4).score(method, x, target=2) for n in (1, 3))
    assert once.standard_error is None
    assert three.standard_error.shape == (3,)
    assert (three.standard_error > 0).all()
    assert three.details["layers"] == once.details["layers"]
    others = [MPRT(seed=draws(4, 84, k).initial_seed()).score(method, x, target=2) for k in (1, 2)]
    values = torch.stack([found.value for found in (once, *others)])
    assert_close(three.value, values.mean(0))
    assert_close(three.standard_error, values.std(0) / 3**0.5)
    assert_close(three.curve.y, torch.stack([found.curve.y for found in (once, *others)]).mean(0))
    with pytest.raises(TorchwhyError, match="n_draws"):
        MPRT(n_draws=0)


def test_models_that_learned_nothing_lie_in_the_band_of_entropies(net: nn.Module, x: Tensor) -> None:
    method, metric = InputXGradient(net), metrics.EfficientMPRT(n_bins=30, n_draws=6)
    found = metric.score(method, x, target=2)
    seeds = [draws(0, 82, k).initial_seed() for k in range(6)]
    untrained = [InputXGradient(randomised(net, seed=s)).attribute(x, target=2) for s in seeds]
    entropies = torch.stack([metric.entropy(Tensors([t])) for t in untrained])
    values = torch.stack([(entropies[torch.arange(6) != k].mean(0) - e) / e for k, e in enumerate(entropies)])
    chance = found.details["chance"]
    assert chance["low"] == pytest.approx((values.mean(0) - 2 * values.std(0)).clamp(min=-1).tolist())
    assert chance["high"] == pytest.approx((values.mean(0) + 2 * values.std(0)).tolist())
    still = metric.score(Edges(net), x).details["chance"]
    assert still["low"] == pytest.approx([0, 0, 0], abs=1e-12)
    assert still["high"] == pytest.approx([0, 0, 0], abs=1e-12)


# -- RandomLogit -------------------------------------------------------------------------------------------------


def test_another_class_of_a_linear_model() -> None:
    model = nn.Linear(8, 4).double()
    x = drawn(5, 8)
    rows = model.weight.detach()
    known = torch.tensor(
        [[[stats.pearsonr(v * a, v * b)[0] for b in rows] for a in rows] for v in x]
    )  # (example, target, other)
    targets = torch.tensor([0, 3, 1, 2, 2])
    metric = metrics.RandomLogit(similarity="pearson", n_classes=3)
    found = metric.score(InputXGradient(model), x, target=targets)
    others = torch.stack([torch.tensor([c for c in range(4) if c != t]) for t in targets.tolist()])
    each = known[torch.arange(5)[:, None], targets[:, None], others]
    assert_close(found.value, each.mean(1))
    assert_close(found.standard_error, each.std(1) / math.sqrt(3))
    one = metric.score(InputXGradient(model), x, target=targets, n_classes=1)
    assert (one.value[:, None] - each).abs().amin(1).max() < 1e-9
    assert one.standard_error is None
    # More classes than there are.
    assert_close(metric.score(InputXGradient(model), x, target=targets, n_classes=9).value, each.mean(1))
    # The predicted class, where no target is named.
    predicted = model(x).argmax(1)
    assert_close(
        metric.score(InputXGradient(model), x).value, metric.score(InputXGradient(model), x, target=predicted).value
    )


def test_another_class_of_a_probability() -> None:
    model = nn.Linear(8, 2).double()
    # Two probabilities add up to 1, so their explanations are opposites; those of the logits are not.
    x = drawn(3, 8)
    metric = metrics.RandomLogit(similarity="cosine")
    found = metric.score(IntegratedGradients(model), x, target=Probability(1))
    assert_close(found.value, -torch.ones(3).double())
    assert (metric.score(IntegratedGradients(model), x, target=1).value > -0.99).any()


def test_an_explanation_without_a_class_is_found_out(net: nn.Module, x: Tensor) -> None:
    found = metrics.RandomLogit().score(Edges(net), x)
    assert_close(found.value, torch.ones(3).double())
    assert (found.value > torch.tensor(found.details["chance"]["high"])).all()


def test_there_is_another_class(x: Tensor) -> None:
    with pytest.raises(TorchwhyError, match="compares classes"):
        metrics.RandomLogit().score(Saliency(nn.Sequential(nn.Flatten(), nn.Linear(144, 1)).double()), x)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).double()
    with pytest.raises(TorchwhyError, match="compares classes"):
        metrics.RandomLogit().score(Saliency(model), x, target=lambda output: output[:, 1])
