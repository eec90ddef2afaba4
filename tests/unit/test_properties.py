"""Axioms, on random small networks in float64: what holds for every model must hold for these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from torchwhy import (
    FeatureAblation,
    GradCAM,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    Method,
    NoiseTunnel,
    Occlusion,
    Saliency,
    Site,
    SmoothGrad,
    SmoothGradSquared,
    TorchwhyError,
    VarGrad,
)

Make: TypeAlias = Callable[..., Method]

LINEAR: dict[str, Make] = {
    "Saliency": lambda m, **o: Saliency(m, abs=False, **o),
    "InputXGradient": InputXGradient,
    "IntegratedGradients": lambda m, **o: IntegratedGradients(m, n_steps=9, **o),
    "GradientShap": lambda m, **o: GradientShap(m, n_samples=9, stdevs=0.1, **o),
    "SmoothGrad": lambda m, **o: SmoothGrad(m, n_samples=9, **o),
    "NoiseTunnel": lambda m, **o: NoiseTunnel(IntegratedGradients(m, n_steps=5), nt_samples=5, **o),
    "FeatureAblation": FeatureAblation,
    "Occlusion": lambda m, **o: Occlusion(m, sliding_window_shapes=1, **o),
}
EVERY: dict[str, Make] = {
    **LINEAR,
    "Saliency, abs": Saliency,
    "IntegratedGradients, tol": lambda m, **o: IntegratedGradients(m, tol=0.02, max_steps=64, **o),
    "GradientShap, no noise": lambda m, **o: GradientShap(m, n_samples=9, **o),
    "SmoothGradSquared": lambda m, **o: SmoothGradSquared(m, n_samples=9, **o),
    "VarGrad": lambda m, **o: VarGrad(m, n_samples=9, **o),
    "NoiseTunnel of draws": lambda m, **o: NoiseTunnel(GradientShap(m, n_samples=5), nt_samples=3, **o),
    "NoiseTunnel of ablation": lambda m, **o: NoiseTunnel(FeatureAblation(m), nt_samples=4, **o),
}
WITH_SET = ("GradientShap", "GradientShap, no noise", "NoiseTunnel of draws")
WITH_ONE = ("IntegratedGradients", "IntegratedGradients, tol", "FeatureAblation", "Occlusion", "NoiseTunnel")
SEEDED = ("GradientShap", "SmoothGrad", "NoiseTunnel", "SmoothGradSquared", "VarGrad", "NoiseTunnel of draws")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "relu": torch.relu,
    "gelu": functional.gelu,
}

axiom = settings(max_examples=12, deadline=None, derandomize=True, database=None)


def same(found: object, known: object, tolerance: float = 1e-10) -> None:
    assert_close(found, known, rtol=tolerance, atol=tolerance)


@dataclass(frozen=True)
class Net:
    """A random multilayer perceptron, and points to explain it at."""

    seed: int
    sizes: tuple[int, ...]
    activation: str
    bias: bool = True
    twins: bool = False
    deaf: bool = False

    @property
    def weights(self) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        layers = []
        for n_in, n_out in zip(self.sizes, self.sizes[1:], strict=False):
            weight = torch.randn(n_out, n_in, generator=generator, dtype=torch.float64) / n_in**0.5
            bias = torch.randn(n_out, generator=generator, dtype=torch.float64) / 2
            layers.append((weight, bias if self.bias else 0 * bias))
        first = layers[0][0]
        if self.twins:
            first[:, 1] = first[:, 0]
        if self.deaf:
            first[:, 0] = 0
        return layers

    def __call__(self, x: Tensor) -> Tensor:
        *hidden, last = self.weights
        for weight, bias in hidden:
            x = ACTIVATIONS[self.activation](functional.linear(x, weight, bias))
        return functional.linear(x, *last)

    def rows(self, count: int, stream: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1_000_000 * (stream + 1))
        x = torch.randn(count, self.sizes[0], generator=generator, dtype=torch.float64)
        if self.twins:
            x[:, 1] = x[:, 0]
        return x

    def compared_with(self, name: str) -> dict[str, Tensor]:
        """The baselines a method takes."""
        if name in WITH_SET:
            return {"baselines": self.rows(4, stream=1)}
        return {"baselines": self.rows(1, stream=1)} if name in WITH_ONE else {}


@st.composite
def nets(draw: st.DrawFn, activations: tuple[str, ...] = tuple(ACTIVATIONS), **facts: bool) -> Net:
    hidden = draw(st.lists(st.integers(1, 10), min_size=1, max_size=3))
    sizes = (draw(st.integers(2, 6)), *hidden, draw(st.integers(1, 3)))
    return Net(draw(st.integers(0, 10_000)), sizes, draw(st.sampled_from(activations)), **facts)


# -- the axioms of attribution ----------------------------------------------------------------------


@axiom
@given(nets(("tanh", "softplus", "gelu")))
def test_completeness_of_integrated_gradients(net: Net) -> None:
    x, base = net.rows(3), net.rows(3, stream=1)
    values = IntegratedGradients(net, n_steps=80).attribute(x, base, target=0)
    same(values.sum(1), net(x)[:, 0] - net(base)[:, 0], 1e-6)


@axiom
@given(nets(("relu",), bias=False))
def test_completeness_of_input_times_gradient_without_biases(net: Net) -> None:
    x = net.rows(3)
    values = InputXGradient(net).attribute(x, target=0)
    same(values.sum(1), net(x)[:, 0])
    same(IntegratedGradients(net, n_steps=7).attribute(x, target=0), values)


@axiom
@given(nets(), st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 10_000))
@pytest.mark.parametrize("name", LINEAR)
def test_linearity(name: str, net: Net, a: float, b: float, seed: int) -> None:
    other = Net(seed, net.sizes, "gelu")
    x, there = net.rows(3), net.compared_with(name)
    of_sum = LINEAR[name](lambda z: a * net(z) + b * other(z)).attribute(x, target=0, **there)
    of_each = [LINEAR[name](m).attribute(x, target=0, **there) for m in (net, other)]
    same(of_sum, a * of_each[0] + b * of_each[1])


def test_what_is_not_linear_is_not_claimed_to_be() -> None:
    net, other = Net(1, (3, 5, 1), "tanh"), Net(2, (3, 5, 1), "tanh")
    x = net.rows(2)
    for name in ("Saliency, abs", "SmoothGradSquared", "VarGrad"):
        parts = sum(EVERY[name](m).attribute(x) for m in (net, other))
        assert not torch.allclose(EVERY[name](lambda z: net(z) + other(z)).attribute(x), parts)


@axiom
@given(nets(deaf=True))
@pytest.mark.parametrize("name", EVERY)
def test_a_feature_that_the_model_does_not_see_gets_nothing(name: str, net: Net) -> None:
    assume(net.sizes[0] > 1)
    values = EVERY[name](net).attribute(net.rows(3), target=0, **net.compared_with(name))
    assert values[:, 0].abs().max() < 1e-14  # scores of passes of different sizes differ in their last digit


@axiom
@given(nets(twins=True))
@pytest.mark.parametrize("name", [n for n in EVERY if n not in SEEDED and "Tunnel" not in n])
def test_symmetry(name: str, net: Net) -> None:
    values = EVERY[name](net).attribute(net.rows(3), target=0, **net.compared_with(name))
    same(values[:, 0], values[:, 1])


# -- implementation invariance ----------------------------------------------------------------------


class Written(nn.Module):
    """One function, a residual block between two layers, written as people write it."""

    def __init__(self, way: str, layers: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.way = way
        self.first, self.second, self.last = (nn.Linear(w.shape[1], w.shape[0]).double() for w, _ in layers)
        with torch.no_grad():
            for linear, (weight, bias) in zip((self.first, self.second, self.last), layers, strict=True):
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.inplace = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "modules":
            h = self.relu1(self.first(x))
            return self.last(h + self.relu2(self.second(h)))
        if self.way == "functions":
            h = functional.relu(functional.linear(x, self.first.weight, self.first.bias))
            return self.last(torch.add(h, functional.relu(self.second(h))))
        if self.way == "methods":
            h = (x @ self.first.weight.T + self.first.bias).relu()
            return self.last((h @ self.second.weight.T + self.second.bias).clamp(min=0) + h)
        if self.way == "in place":
            h = self.first(x)
            torch.relu_(h)
            return self.last(h.clone().add_(functional.relu(self.second(h), inplace=True)))
        if self.way == "in place on the input":
            x.mul_(2)
            h = functional.relu(self.first(x.div_(2)))
            return self.last(h + functional.relu(self.second(h)))
        if self.way == "one module used twice":
            h = self.relu1(self.first(x))
            return self.last(h + self.relu1(self.second(h)))
        if self.way == "one in-place module used twice":
            h = self.inplace(self.first(x))
            return self.last(h + self.inplace(self.second(h)))
        assert self.way == "einsum and where"
        h = torch.einsum("oi,bi->bo", self.first.weight, x) + self.first.bias
        h = torch.where(h > 0, h, torch.zeros_like(h))
        r = torch.einsum("oi,bi->bo", self.second.weight, h) + self.second.bias
        return self.last(h + torch.where(r > 0, r, torch.zeros_like(r)))


WAYS = (
    "functions",
    "methods",
    "in place",
    "in place on the input",
    "one module used twice",
    "one in-place module used twice",
    "einsum and where",
)


@settings(axiom, max_examples=5)
@given(st.integers(0, 10_000))
@pytest.mark.parametrize("name", EVERY)
def test_implementation_invariance(name: str, seed: int) -> None:
    net = Net(seed, (4, 6, 6, 2), "relu")
    x, there = net.rows(3), net.compared_with(name)
    known = EVERY[name](Written("modules", net.weights)).attribute(x, target=1, **there)
    for way in WAYS:
        model = Written(way, net.weights)
        same(EVERY[name](model).attribute(x, target=1, **there), known)
        same(EVERY[name](model).attribute(x, target=Site("last", unit=1), **there), known)


@pytest.mark.parametrize("way", WAYS)
def test_implementation_invariance_at_a_layer_and_of_its_units(way: str) -> None:
    net = Net(5, (4, 6, 6, 2), "relu")
    reference, model, x = Written("modules", net.weights), Written(way, net.weights), net.rows(3)
    if way not in ("functions", "methods", "einsum and where"):  # which do not call the module
        for make in (Saliency, InputXGradient, IntegratedGradients, GradCAM, FeatureAblation):
            known = make(reference, at="first").attribute(x, target=1)
            same(make(model, at="first").attribute(x, target=1), known)
        unit = Site("first", unit=2)
        same(Saliency(model).attribute(x, target=unit), Saliency(reference).attribute(x, target=unit))
    if way not in ("methods", "einsum and where"):
        unit = Site("second", unit=2)
        known = IntegratedGradients(reference).attribute(x, target=unit)
        same(IntegratedGradients(model).attribute(x, target=unit), known)


# -- rows, chunks and seeds -------------------------------------------------------------------------


def with_scale(net: Net) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A further argument of each example, and one that all share."""
    return lambda x, scale, shift: net(x * scale + shift)


@axiom
@given(nets())
@pytest.mark.parametrize("name", EVERY)
def test_a_row_in_a_batch_equals_the_row_alone(name: str, net: Net) -> None:
    x, scale, shift = net.rows(5), net.rows(5, stream=2), net.rows(1, stream=3)
    target = [i % net.sizes[-1] for i in range(5)]
    method, there = EVERY[name](with_scale(net)), net.compared_with(name)
    together = method.attribute(x, target=target, additional_forward_args=(scale, shift), **there)
    for i in (0, 3):
        one = slice(i, i + 1)
        alone = method.attribute(x[one], target=target[i], additional_forward_args=(scale[one], shift), **there)
        same(together[one], alone)


@axiom
@given(nets())
@pytest.mark.parametrize("name", EVERY)
def test_the_size_of_the_passes_changes_nothing(name: str, net: Net) -> None:
    x, scale, shift = net.rows(4), net.rows(4, stream=2), net.rows(1, stream=3)
    there = {"additional_forward_args": (scale, shift), **net.compared_with(name)}
    known = EVERY[name](with_scale(net)).attribute(x, target=0, **there)
    for batch_size in (1, 3):
        made = EVERY[name](with_scale(net))
        made.batch_size = batch_size
        same(made.attribute(x, target=0, **there), known)


@pytest.mark.parametrize("name", SEEDED)
def test_the_seed_decides(name: str) -> None:
    net = Net(3, (4, 6, 2), "tanh")
    x, there = net.rows(3), net.compared_with(name)
    method = EVERY[name](net)
    torch.manual_seed(1)
    first = method.attribute(x, target=0, **there)
    torch.manual_seed(2)  # which is the user's, and has no say
    assert torch.equal(method.attribute(x, target=0, **there), first)
    assert torch.equal(method.attribute(x, target=0, seed=0, **there), first)
    assert not torch.allclose(method.attribute(x, target=0, seed=1, **there), first, rtol=1e-3)


@pytest.mark.parametrize("seed", [42, 2**31, 123_456_789_012, 2**63 - 1])
@pytest.mark.parametrize("name", SEEDED)
def test_any_seed_will_do(name: str, seed: int) -> None:
    net = Net(3, (4, 6, 2), "tanh")
    values = EVERY[name](net, seed=seed).attribute(net.rows(3), target=0, **net.compared_with(name))
    other = EVERY[name](net, seed=seed - 1).attribute(net.rows(3), target=0, **net.compared_with(name))
    assert not torch.allclose(values, other)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "a", None])
@pytest.mark.parametrize("name", SEEDED)
def test_what_is_no_seed_is_refused(name: str, seed: object) -> None:
    with pytest.raises(TorchwhyError, match="seed is a whole number of at least 0"):
        EVERY[name](Net(3, (4, 6, 2), "tanh"), seed=seed)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "4"])
def test_what_is_no_batch_size_is_refused(batch_size: object) -> None:
    with pytest.raises(TorchwhyError, match="batch_size"):
        Saliency(Net(3, (4, 6, 2), "tanh"), batch_size=batch_size).attribute(torch.ones(1, 4).double(), target=0)


def test_the_batch_size_is_the_largest_pass_also_through_a_tunnel() -> None:
    passes = []

    def model(x: Tensor) -> Tensor:
        passes.append(len(x))
        return x.square().sum(1)

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for make in EVERY.values():
        for batch_size in (1, 2, 7):
            method = make(model)
            method.batch_size = batch_size
            method.attribute(x, **({"baselines": x} if method.facts.baselines == "set" else {}))
            assert max(passes) <= batch_size
            passes.clear()
    inner = Saliency(model, batch_size=2)
    NoiseTunnel(inner, nt_samples=40).attribute(x)
    assert max(passes) == 2


@pytest.mark.parametrize("batch_size", [1, 2])
def test_gathering_evidence_keeps_the_batch_size(batch_size: int) -> None:
    passes = []

    def model(x: Tensor) -> Tensor:
        passes.append(len(x))
        return x.square().sum(1)

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for make in (Saliency, IntegratedGradients):
        make(model, batch_size=batch_size).explain(x, check="basic")
    assert max(passes) == batch_size


@pytest.mark.parametrize("name", WITH_SET)
def test_at_a_layer_a_baseline_meets_each_examples_own_arguments(name: str) -> None:
    # The layer holds something else for a baseline in each example's company.
    torch.manual_seed(0)

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3).double()

        def forward(self, x: Tensor, gate: Tensor) -> Tensor:
            return self.layer(x * gate).tanh().sum(1)

    net, model = Net(3, (4, 6, 2), "tanh"), Gated()
    x, gate = net.rows(3), net.rows(3, stream=2)
    make = {
        "GradientShap": lambda: GradientShap(model, at="layer", stdevs=0.1),
        "GradientShap, no noise": lambda: GradientShap(model, at="layer"),
        "NoiseTunnel of draws": lambda: NoiseTunnel(GradientShap(model, at="layer"), nt_samples=3),
    }[name]
    together = make().attribute(x, net.rows(4, stream=1), additional_forward_args=(gate,))
    for i in range(3):
        one = slice(i, i + 1)
        alone = make().attribute(x[one], net.rows(4, stream=1), additional_forward_args=(gate[one],))
        same(together[one], alone)


def test_shared_arguments_stay_whole_whatever_their_length() -> None:
    # Copies make many rows of few examples; an argument of that many rows is still not one of theirs.
    net = Net(3, (4, 6, 2), "tanh")
    x = net.rows(2)

    def model(z: Tensor, shared: Tensor) -> Tensor:
        return (z @ shared.T).tanh().sum(1)

    for count in range(3, 13):
        shared = net.rows(count, stream=2)
        for make in (EVERY["NoiseTunnel"], EVERY["SmoothGrad"], EVERY["NoiseTunnel of ablation"]):
            known = make(lambda z, shared=shared: model(z, shared)).attribute(x)
            same(make(model).attribute(x, additional_forward_args=(shared,)), known)


@pytest.mark.parametrize("rows", [1, 3])
def test_noise_goes_with_baselines_of_the_layer(rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    net = Net(3, (4, 6, 2), "tanh")
    x, held = net.rows(3), model[0](net.rows(rows, stream=1)).detach()
    tunnel = NoiseTunnel(IntegratedGradients(model, at="0"), nt_samples=6)
    known = tunnel.attribute(x, net.rows(rows, stream=1))
    same(tunnel.attribute(x, layer_baselines=held), known)


def test_options_of_the_method_go_through_the_tunnel() -> None:
    net = Net(3, (4, 6, 2), "tanh")
    x = net.rows(3)
    tunnel = NoiseTunnel(IntegratedGradients(net), nt_samples=3, stdevs=0.1)
    through = tunnel.attribute(x, target=0, n_steps=4, nt_samples=5)
    made = NoiseTunnel(IntegratedGradients(net, n_steps=4), nt_samples=5, stdevs=0.1).attribute(x, target=0)
    assert torch.equal(through, made)
    assert not torch.equal(through, tunnel.attribute(x, target=0, nt_samples=5))
    with pytest.raises(TorchwhyError, match="n_step"):
        tunnel.attribute(x, target=0, n_step=4)
