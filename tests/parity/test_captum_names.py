"""Captum's names: the same signatures, and the same numbers from the same calls, over the whole table.

Every call is made with the class of either library, and once more with another target, neuron or input, which has to
differ. Methods that draw random numbers are asked about models that leave nothing to chance.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import captum.attr
import captum.metrics
import captum.robust
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torchwhy as why
from torchwhy import captum as ours
from torchwhy.captum._table import ROWS

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting (forward|backward):UserWarning"),
    pytest.mark.filterwarnings("ignore:Multiple layers provided:UserWarning"),
    pytest.mark.filterwarnings("ignore:Feature mask is missing some integers:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime:UserWarning"),
    pytest.mark.filterwarnings("ignore:Attempting to:UserWarning"),
    pytest.mark.filterwarnings("ignore:In order to make embedding layers:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.norm is deprecated:UserWarning"),
]

LEFT_OUT = {name for name in captum.attr.__all__ if "LLM" in name or "Remote" in name}
NAMES = sorted({*captum.attr.__all__, *captum.metrics.__all__, *captum.robust.__all__} - LEFT_OUT)
# What Captum's classes have beside: for hooks of its own, for inheriting from them, and for futures.
NOT_HERE = {
    "attribute_future",
    "satisfies_attribute_criteria",
    "kernel_shap_perturb_generator",
    "kernel_shap_similarity_kernel",
    "multiply_gradient_acts",
    "init",
}


def theirs(name: str) -> Any:
    return next(getattr(m, name) for m in (captum.attr, captum.metrics, captum.robust) if hasattr(m, name))


def told(of: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults of arguments; a function that is a default, by its name."""
    found = inspect.signature(of).parameters.values()
    return [(p.name, p.kind, getattr(p.default, "__name__", p.default)) for p in found if p.name != "self"]


def plain(arguments: list[tuple[str, Any, Any]]) -> list[tuple[str, Any, Any]]:
    return [(n, k, d.lstrip("_") if isinstance(d, str) else d) for n, k, d in arguments]


# -- names and signatures --------------------------------------------------------------------------------------------


def test_all_names_are_there() -> None:
    assert set(ours.__all__) == set(NAMES)
    assert len(NAMES) > 75
    with pytest.raises(AttributeError, match="no 'IntegratedGradient'; did you mean 'IntegratedGradients'"):
        ours.IntegratedGradient  # noqa: B018


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("StatValue", "visualization")])
def test_signatures(name: str) -> None:
    mine, other = getattr(ours, name), theirs(name)
    if not inspect.isclass(other):
        assert plain(told(mine)) == plain(told(other))
        return
    if other.__init__ is not object.__init__:
        assert plain(told(mine)) == plain(told(other))
    for method, value in inspect.getmembers(other, inspect.isfunction):
        if method.startswith("_") or method in NOT_HERE or hasattr(nn.Module, method):
            continue
        assert plain(told(getattr(mine, method))) == plain(told(value)), method


def test_signatures_can_differ() -> None:
    assert plain(told(ours.Saliency.attribute)) != plain(told(captum.attr.InputXGradient.attribute))


@pytest.mark.parametrize("name", [n for n in dir(captum.attr.visualization) if n.startswith(("visualize_", "format_"))])
def test_signatures_of_figures(name: str) -> None:
    assert told(getattr(ours.visualization, name)) == told(getattr(captum.attr.visualization, name))


@pytest.mark.parametrize("name", ROWS)
def test_kinship(name: str) -> None:
    mine, other = getattr(ours, name), theirs(name)
    for base in ROWS:
        assert issubclass(mine, getattr(ours, base)) == issubclass(other, theirs(base)), base
    assert mine.get_name() == other.get_name()
    assert name in help_of(mine)


def help_of(cls: type) -> str:
    return inspect.getdoc(cls) or ""


# -- the networks ----------------------------------------------------------------------------------------------------


class Images(nn.Module):
    """Modules alone, each used once, which Captum's hooks see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu1, self.pool = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2)
        self.hidden, self.relu2, self.out = nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)
        nn.init.constant_(self.conv.bias, 0.3)  # so that no channel is dead

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.relu2(self.hidden(self.pool(self.relu1(self.conv(x))).flatten(1))))


class Pair(nn.Module):
    """Two inputs, a gate for each example and a number for all, and an output (B, 2, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 6), nn.Linear(3, 6)
        self.relu1, self.mixed, self.relu2, self.out = nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, a: Tensor, b: Tensor, gate: Tensor, power: float = 1.0) -> Tensor:
        h = self.relu1(self.left(a) + self.right(b)) * gate
        return (self.out(self.relu2(self.mixed(h))) * power).unflatten(1, (2, 2))


class Steps(nn.Module):
    """A layer that holds a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = Both(), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x)
        return self.out(torch.cat([torch.tanh(a), b**2], 1))


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), self.b(x)


def made(cls: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return cls().eval()


def rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES, PAIR, STEPS = made(Images), made(Pair), made(Steps)
torch.manual_seed(0)
LINEAR = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).eval()
X = rand(3, 1, 6, 6, seed=1).abs()
AB = rand(4, 5, seed=2), rand(4, 3, seed=3)
GATE, V = rand(4, 1, seed=4).abs() + 0.5, rand(4, 5, seed=5)
HALVES = (torch.arange(36).view(1, 1, 6, 6) >= 18).long() + 2 * (torch.arange(6) >= 3).long()

# What can be asked of each network; each class takes of this what it has an argument for.
ABOUT_IMAGES: dict[str, Any] = {
    "inputs": X,
    "baselines": 0.2,
    "target": 0,
    "n_steps": 6,
    "method": "gausslegendre",
    "sliding_window_shapes": (1, 3, 2),
    "strides": (1, 2, 1),
    "feature_mask": HALVES,
    "neuron_selector": (1, 2, slice(1, 3)),
    "stdevs": 0.0,
}
ABOUT_PAIR: dict[str, Any] = {
    "inputs": AB,
    "baselines": (0.1, AB[1].flip(0)),
    "target": [(0, 1), (1, 1), (1, 0), (0, 0)],
    "additional_forward_args": (GATE, 2.0),
    "n_steps": 6,
    "method": "gausslegendre",
    "sliding_window_shapes": ((2,), (1,)),
    "feature_mask": (torch.tensor([[0, 1, 1, 2, 0]]), torch.tensor([[3, 2, 3]])),
    "neuron_selector": 3,
    "perturbations_per_eval": 3,
    "internal_batch_size": 8,
}
SETS = {"images": X.flip(0)[:2] * 0.5, "pair": (AB[0][:2] + 1, AB[1][:2] - 1)}
OTHER = {
    "images": {"target": torch.tensor([3, 1, 2]), "neuron_selector": (0, 1, 1)},
    "pair": {"target": (1, 1), "neuron_selector": lambda held: held[:, 1] * held[:, 2]},
}
LAYERS = {"images": IMAGES.conv, "pair": PAIR.mixed}
RANDOM = {
    "GradientShap", "LayerGradientShap", "NeuronGradientShap", "KernelShap", "ShapleyValueSampling", "Lime", "LimeBase",
    "NoiseTunnel", "FeaturePermutation", "LayerFeaturePermutation", "DataLoaderAttribution",
}  # fmt: skip
BY_THE_TABLE = [n for n, row in ROWS.items() if row.attribute is not None and n not in RANDOM]
# Captum enlarges no map to an input without places, and has no rule for the gate.
CALLS = [
    (name, net)
    for name in BY_THE_TABLE
    for net in ("images", "pair")
    if net == "images" or name not in ("GuidedGradCam", "LRP", "LayerLRP")
]


def parts(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found.detach()]
    return [t for one in found for t in parts(one)]


def form(found: Any) -> Any:
    return tuple(found.shape) if isinstance(found, Tensor) else (type(found), *map(form, found))


def apart(mine: Any, other: Any) -> float:
    """The largest difference as a share of the largest value; infinite where the forms differ."""
    if form(mine) != form(other):
        return float("inf")
    largest = max(float(t.abs().max()) for t in parts(other))
    return max(float((a - b).abs().max()) for a, b in zip(parts(mine), parts(other), strict=True)) / largest


def agree(run: Callable[[Any], Any], control: Callable[[Any], Any], tolerance: float = 1e-5) -> None:
    """``run`` gives the same with either library, and ``control`` something else."""
    expected = run(captum.attr)
    assert form(run(ours)) == form(expected)
    assert apart(run(ours), expected) < tolerance
    assert apart(control(ours), expected) > 100 * tolerance


def built(kit: Any, name: str, net: str, **options: Any) -> Any:
    cls, model = getattr(kit, name), {"images": IMAGES, "pair": PAIR}[net]
    return cls(model, LAYERS[net], **options) if "layer" in inspect.signature(cls).parameters else cls(model, **options)


def asked(name: str, net: str, **more: Any) -> dict[str, Any]:
    """Of what can be asked of a network, what the class has arguments for."""
    known = inspect.signature(theirs(name).attribute).parameters
    given = {"images": ABOUT_IMAGES, "pair": ABOUT_PAIR}[net] | more
    if "Shap" in name and "Shapley" not in name:
        given = given | {"baselines": SETS[net]}
    return {k: v for k, v in given.items() if k in known}


@pytest.mark.parametrize(("name", "net"), CALLS)
def test_numbers(name: str, net: str) -> None:
    given = asked(name, net)
    if (name, net) == ("LayerFeatureAblation", "pair"):
        given["target"] = (0, 1)  # Captum takes no target for each example there
    changed = {k: v for k, v in OTHER[net].items() if k in given}
    changed = changed or {"inputs": X * 2 if net == "images" else (AB[0] * 2, AB[1])}
    agree(
        lambda kit: built(kit, name, net).attribute(**given),
        lambda kit: built(kit, name, net).attribute(**given | changed),
    )


# -- the forms of a call -----------------------------------------------------------------------------------------------


def having(argument: str, net: str = "images") -> list[str]:
    """The classes whose constructor or ``attribute`` has an argument."""
    return [n for n, on in CALLS if on == net and argument in f"{ROWS[n].init}, {ROWS[n].attribute}"]


@pytest.mark.parametrize("name", having("attribute_to_"))
def test_the_input_of_a_layer(name: str) -> None:
    argument = "attribute_to_neuron_input" if "neuron_selector" in asked(name, "images") else "attribute_to_layer_input"
    layer, selector = IMAGES.hidden, {"neuron_selector": 5} if "neuron" in argument else {}
    if name in ("LayerGradCam", "GuidedGradCam", "LayerFeatureAblation"):
        layer = IMAGES.pool

    def run(kit: Any, at_input: bool) -> Any:
        given = asked(name, "images", baselines=0.2) | selector | {argument: at_input}
        return getattr(kit, name)(IMAGES, layer).attribute(**given)

    agree(lambda kit: run(kit, True), lambda kit: run(kit, False))


@pytest.mark.parametrize("name", having("multiply_by_inputs"))
def test_without_the_factor_of_the_inputs(name: str) -> None:
    given = asked(name, "images")
    agree(
        lambda kit: built(kit, name, "images", multiply_by_inputs=False).attribute(**given),
        lambda kit: built(kit, name, "images").attribute(**given),
    )
    for option in (True, False):
        mine, other = (built(kit, name, "images", multiply_by_inputs=option) for kit in (ours, captum.attr))
        assert mine.multiplies_by_inputs == other.multiplies_by_inputs == option


@pytest.mark.parametrize("name", having("return_convergence_delta"))
def test_deltas(name: str) -> None:
    """Of several baselines, Captum has one delta for each pair, and ours is their mean, as often."""
    given = asked(name, "images", return_convergence_delta=True)
    (mine, delta), (other, expected) = (built(kit, name, "images").attribute(**given) for kit in (ours, captum.attr))
    assert apart(mine, other) < 1e-5
    assert delta.shape == expected.shape
    torch.testing.assert_close(delta.view(3, -1).mean(1), expected.view(3, -1).mean(1).detach(), rtol=1e-3, atol=2e-6)
    assert built(ours, name, "images").has_convergence_delta()
    if name in ("IntegratedGradients", "LayerConductance", "LRP", "LayerLRP"):
        assert delta.abs().max() > 1e-4  # these do miss something, which is told alike


@pytest.mark.parametrize("name", BY_THE_TABLE)
def test_facts(name: str) -> None:
    mine, other = (built(kit, name, "images") for kit in (ours, captum.attr))
    assert mine.multiplies_by_inputs == other.multiplies_by_inputs
    assert mine.has_convergence_delta() == other.has_convergence_delta()
    assert isinstance(mine, ours.Attribution)
    assert mine.forward_func is IMAGES


def test_the_delta_of_any_attributions() -> None:
    values = tuple(torch.ones_like(t) for t in AB)
    other = {"target": (0, 1), "additional_forward_args": (GATE,)}

    def run(kit: Any, start: Any) -> Tensor:
        return kit.Saliency(PAIR).compute_convergence_delta(values, start, AB, **other)

    agree(lambda kit: run(kit, (0.5, AB[1] * 0)), lambda kit: run(kit, (3, 2)), tolerance=1e-6)
    scores = IMAGES(X)[:, 0]
    found = ours.LRP(IMAGES).compute_convergence_delta(X, scores)
    assert torch.equal(found, captum.attr.LRP(IMAGES).compute_convergence_delta(X, scores))


def test_targets_by_tensor_and_by_position() -> None:
    agree(
        lambda kit: kit.Saliency(IMAGES).attribute(X, torch.tensor([3]), False),
        lambda kit: kit.Saliency(IMAGES).attribute(X, 3),
    )
    one = nn.Sequential(IMAGES, nn.Linear(4, 1))
    agree(lambda kit: kit.InputXGradient(one).attribute(X), lambda kit: kit.InputXGradient(one).attribute(X + 1))


@pytest.mark.parametrize("name", ["LayerGradientXActivation", "LayerActivation", "LayerIntegratedGradients"])
def test_several_layers(name: str) -> None:
    layers, given = [PAIR.left, PAIR.right], asked(name, "pair")
    agree(
        lambda kit: getattr(kit, name)(PAIR, layers).attribute(**given),
        lambda kit: getattr(kit, name)(PAIR, layers).attribute(**given | {"inputs": (AB[0].flip(1), AB[1])}),
    )


@pytest.mark.parametrize(
    "name", ["LayerActivation", "LayerGradientXActivation", "LayerIntegratedGradients", "LayerFeatureAblation"]
)
def test_a_layer_of_several_tensors(name: str) -> None:
    cls = inspect.signature(theirs(name).attribute).parameters
    given = {k: v for k, v in {"inputs": V, "target": 1, "n_steps": 5}.items() if k in cls}
    found = getattr(ours, name)(STEPS, STEPS.both).attribute(**given)
    assert isinstance(found, tuple)
    agree(
        lambda kit: getattr(kit, name)(STEPS, STEPS.both).attribute(**given),
        lambda kit: getattr(kit, name)(STEPS, STEPS.both).attribute(**given | {"inputs": V.flip(1)}),
    )


def test_a_function_of_a_neuron() -> None:
    def second(held: tuple[Tensor, Tensor]) -> Tensor:
        return held[1][:, 2] * held[0][:, 0]

    agree(
        lambda kit: kit.NeuronGradient(STEPS, STEPS.both).attribute(V, second),
        lambda kit: kit.NeuronGradient(STEPS, STEPS.both).attribute(V, lambda held: held[1][:, 1]),
    )
    agree(
        lambda kit: kit.NeuronIntegratedGradients(IMAGES, IMAGES.hidden).attribute(
            X, lambda held: held[:, 1] ** 2, n_steps=4, attribute_to_neuron_input=True
        ),
        lambda kit: kit.NeuronIntegratedGradients(IMAGES, IMAGES.hidden).attribute(X, 1, n_steps=4),
    )


def test_numbers_of_several_kinds() -> None:
    """Tokens beside numbers, and a model in double precision."""
    double = made(Images).double()
    agree(
        lambda kit: kit.IntegratedGradients(double).attribute(X.double(), 0, 1, n_steps=5),
        lambda kit: kit.IntegratedGradients(double).attribute(X.double(), 1, 1, n_steps=5),
    )
    words = nn.Embedding(9, 5, _weight=rand(9, 5, seed=7))

    def model(ids: Tensor, x: Tensor) -> Tensor:
        return LINEAR(words(ids).sum(1) * x)

    ids = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 0], [0, 1, 1]])
    agree(
        lambda kit: kit.FeatureAblation(model).attribute((ids, V), (3, 0.5), 1, perturbations_per_eval=4),
        lambda kit: kit.FeatureAblation(model).attribute((ids, V), (4, 0.5), 1),
    )


def test_tokens_and_bound_methods() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    agree(
        lambda kit: kit.LayerIntegratedGradients(model, model[0]).attribute(ids, 0 * ids, 1),
        lambda kit: kit.LayerIntegratedGradients(model.forward, model[0]).attribute(ids, 0 * ids + 7, 1),
    )


def test_custom_attributions() -> None:
    def positive(multipliers: Any, inputs: Any, baselines: Any) -> Any:
        return tuple(m.clamp(min=0) * (x - b) for m, x, b in zip(multipliers, inputs, baselines, strict=True))

    agree(
        lambda kit: kit.DeepLift(IMAGES).attribute(X, X * 0.5, 0, custom_attribution_func=positive),
        lambda kit: kit.DeepLift(IMAGES).attribute(X, X * 0.5, 0),
    )
    agree(
        lambda kit: kit.LayerDeepLift(IMAGES, IMAGES.conv).attribute(X, target=0, custom_attribution_func=lambda m: m),
        lambda kit: kit.LayerDeepLift(IMAGES, IMAGES.conv).attribute(X, target=0),
    )
    with pytest.raises(AssertionError, match="for one baseline"):
        ours.DeepLiftShap(IMAGES).attribute(X, X[:2], target=0, custom_attribution_func=positive)


def test_baselines_from_a_function() -> None:
    agree(
        lambda kit: kit.DeepLiftShap(IMAGES).attribute(X, lambda x: x * 0.5, target=0),
        lambda kit: kit.DeepLiftShap(IMAGES).attribute(X, lambda: X * 0, target=0),
    )


def test_channels_apart() -> None:
    apart_and_positive = {"attr_dim_summation": False, "relu_attributions": True}
    agree(
        lambda kit: kit.LayerGradCam(IMAGES, IMAGES.conv).attribute(X, 0, **apart_and_positive),
        lambda kit: kit.LayerGradCam(IMAGES, IMAGES.conv).attribute(X, 0, attr_dim_summation=False),
    )
    agree(
        lambda kit: kit.LayerGradCam(IMAGES, IMAGES.hidden).attribute(X, 0),  # no map, but (B, C)
        lambda kit: kit.LayerGradCam(IMAGES, IMAGES.hidden).attribute(X, 1),
    )


def test_interpolation() -> None:
    agree(
        lambda kit: kit.LayerAttribution.interpolate(X, (9, 8), "bilinear"),
        lambda kit: kit.LayerAttribution.interpolate(X, (9, 8)),
    )


# -- what draws random numbers -----------------------------------------------------------------------------------------


def linear(kit: Any, name: str, target: int, **options: Any) -> Any:
    """A method on a linear model, where every draw gives the same."""
    cls = getattr(kit, name)
    method = cls(LINEAR, LINEAR[0]) if name.startswith(("Layer", "Neuron")) else cls(LINEAR)
    return method.attribute(
        V[:1], **options, **({"neuron_selector": target} if "Neuron" in name else {"target": target})
    )


@pytest.mark.parametrize("name", ["GradientShap", "LayerGradientShap", "NeuronGradientShap", "ShapleyValueSampling"])
def test_drawn_values_of_a_linear_model(name: str) -> None:
    options = {"baselines": V[1:2]}
    agree(lambda kit: linear(kit, name, 1, **options), lambda kit: linear(kit, name, 2, **options))


def test_kernel_shap_of_a_linear_model() -> None:
    torch.manual_seed(0)
    agree(
        lambda kit: linear(kit, "KernelShap", 1, n_samples=120),
        lambda kit: linear(kit, "KernelShap", 2, n_samples=120),
        tolerance=1e-4,
    )
    mask = torch.tensor([[0, 1, 1, 2, 0]])
    few = linear(ours, "KernelShap", 1, n_samples=2)  # as many as it takes
    assert apart(few, linear(ours, "KernelShap", 1, n_samples=120)) < 1e-5
    with pytest.raises(AssertionError, match="n_samples=25 is too small for 3000 features"):
        ours.KernelShap(lambda x: x.sum(1)).attribute(torch.ones(1, 3000))
    both = ours.KernelShap(LINEAR).attribute(V, target=1, feature_mask=mask, return_input_shape=False)
    assert both.shape == (4, 3)
    spread = ours.KernelShap(LINEAR).attribute(V, target=1, feature_mask=mask)
    assert torch.equal(both[:, mask[0]], spread)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_around_a_linear_model(kind: str) -> None:
    noise = {"nt_type": kind, "nt_samples": 7, "stdevs": 0.3, "nt_samples_batch_size": 3}

    def run(kit: Any, target: int) -> Any:
        return kit.NoiseTunnel(kit.Saliency(LINEAR)).attribute(V, **noise, target=target, abs=False)

    if kind == "vargrad":
        assert run(ours, 1).abs().max() < 1e-6
    else:
        agree(lambda kit: run(kit, 1), lambda kit: run(kit, 2))


def test_the_delta_among_noise() -> None:
    """On a linear model attributions add up in every copy; too few steps on another miss alike on average."""
    for kit in (captum.attr, ours):
        values, delta = kit.NoiseTunnel(kit.IntegratedGradients(LINEAR)).attribute(
            V, nt_samples=6, target=1, n_steps=5, return_convergence_delta=True
        )
        assert values.shape == V.shape
        assert delta.shape == (24,)
        assert delta.abs().max() < 1e-5
    assert ours.NoiseTunnel(ours.IntegratedGradients(LINEAR)).has_convergence_delta()
    assert not ours.NoiseTunnel(ours.Saliency(LINEAR)).has_convergence_delta()

    def mean(kit: Any) -> Tensor:
        torch.manual_seed(0)
        tunnel = kit.NoiseTunnel(kit.IntegratedGradients(IMAGES))
        asked = {"nt_samples": 300, "stdevs": 0.1, "target": 0, "return_convergence_delta": True, "n_steps": 2}
        return tunnel.attribute(X[:1], method="riemann_left", **asked)[1].mean()

    assert mean(ours) == pytest.approx(float(mean(captum.attr)), rel=0.1)


def test_another_seed_draws_anew() -> None:
    noisy = ours.NoiseTunnel(ours.Saliency(IMAGES))
    first = noisy.attribute(X, target=0)
    assert torch.equal(noisy.attribute(X, target=0), first)
    noisy.seed = 1
    assert not torch.equal(noisy.attribute(X, target=0), first)


def test_shuffles() -> None:
    """Of two examples there is one shuffle that moves something."""
    two, one = {"inputs": X[:2], "target": 0}, lambda x: IMAGES(x)[:, :1]
    agree(
        lambda kit: kit.FeaturePermutation(IMAGES).attribute(**two, feature_mask=HALVES),
        lambda kit: kit.FeaturePermutation(IMAGES).attribute(**two),
    )
    agree(
        lambda kit: kit.LayerFeaturePermutation(one, IMAGES.hidden).attribute(X[:2]),  # Captum takes no target there
        lambda kit: kit.LayerFeaturePermutation(one, IMAGES.hidden).attribute(X[1:3]),
    )
    every = why.FeaturePermutation(IMAGES, feature_mask=HALVES).attribute(X, X, target=0)
    expected = every * 6 / 5  # of the six shuffles of three examples, one moves nothing
    method, drawn = ours.FeaturePermutation(IMAGES), []
    for method.seed in range(200):
        drawn.append(method.attribute(X, 0, feature_mask=HALVES))
    assert apart(torch.stack(drawn).mean(0), expected) < 0.1
    assert not torch.equal(drawn[0], drawn[1])
    with pytest.raises(AssertionError, match="only one"):  # where Captum gives zeros, and a line in the log
        ours.FeaturePermutation(IMAGES).attribute(X[:1], 0)


def test_shuffles_of_ones_own() -> None:
    def flipped(x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, x.flip(0), x)

    agree(
        lambda kit: kit.FeaturePermutation(PAIR, flipped).attribute(AB, (0, 1), (GATE,)),
        lambda kit: kit.FeaturePermutation(PAIR, lambda x, mask: torch.where(mask, x.roll(1, 0), x)).attribute(
            AB, (0, 1), (GATE,)
        ),
    )

    def drawn(x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, x[torch.randperm(len(x))], x)

    torch.manual_seed(0)
    method = ours.FeaturePermutation(LINEAR, drawn)
    first, second = method.attribute(V, 0), method.attribute(V, 0)
    assert not torch.equal(first, second)  # the user's draws go on
    torch.manual_seed(0)
    assert torch.equal(method.attribute(V, 0), first)


class Rows:
    """The rows that both draw: all coalitions of three features, one after the other."""

    def __init__(self) -> None:
        self.rows = iter([torch.tensor([[int(b) for b in f"{n:03b}"]]) for n in range(8)] * 10)

    def __call__(self, original: Any, **known: Any) -> Tensor:
        assert known["num_interp_features"] == 3
        return next(self.rows)


def test_lime_on_the_same_rows() -> None:
    from captum._utils.models.linear_model import SkLearnLinearRegression

    mask = (torch.tensor([[0, 1, 1, 2, 0]]), torch.tensor([[1, 2, 1]]))

    def run(kit: Any, baselines: Any = (0.3, 0), **options: Any) -> Any:
        lime = kit.Lime(PAIR, perturb_func=Rows(), **options)
        extra = (GATE[:2], 2.0)
        pair = (AB[0][:2], AB[1][:2])
        return lime.attribute(pair, baselines, (0, 1), extra, mask, n_samples=16, perturbations_per_eval=4)

    agree(run, lambda kit: run(kit, (0, 0)), tolerance=1e-4)  # the lasso, with the kernel on cosine distances
    agree(
        lambda kit: run(
            kit, interpretable_model=SkLearnLinearRegression(), similarity_func=lambda x, near, row, **known: 1.0
        ),
        run,
        tolerance=1e-4,
    )


def test_lime_by_default() -> None:
    x = V[:1] + 2

    def run(kit: Any, **shape: Any) -> Tensor:
        torch.manual_seed(0)
        return kit.Lime(LINEAR).attribute(x, target=1, n_samples=1500, perturbations_per_eval=300, **shape)

    assert apart(run(ours), run(captum.attr)) < 0.15
    assert run(ours, return_input_shape=False).shape == run(captum.attr, return_input_shape=False).shape


def test_a_space_of_ones_own() -> None:
    from captum._utils.models.linear_model import SkLearnRidge

    def steps(x: Tensor, **known: Any) -> Iterator[Tensor]:
        for n in range(12):
            yield x + known["size"] * torch.cos(torch.arange(5.0) * (n + 1))

    def near(x: Tensor, moved: Tensor, row: Tensor, **known: Any) -> Tensor:
        return torch.exp(-(x - moved).norm())

    def run(kit: Any, size: float) -> Tensor:
        to_row = lambda moved, x, **known: torch.sign(moved - x)  # noqa: E731
        base = kit.LimeBase(STEPS, SkLearnRidge(alpha=0.1), near, steps, False, None, to_row)
        return base.attribute(V[:1], target=1, n_samples=10, size=size)

    agree(lambda kit: run(kit, 0.5), lambda kit: run(kit, 1.5), tolerance=1e-4)


# -- beside attributions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [None, lambda y: y.mean(0), lambda y: (y**2).sum()], ids=["all", "mean", "one"])
def test_features_of_a_data_set(metric: Any) -> None:
    loader = DataLoader(TensorDataset(AB[0], AB[1], GATE, torch.arange(4)), batch_size=3)
    mask = (torch.tensor([[0, 1, 1, 2, 0]]), torch.tensor([[3, 2, 3]]))

    def model(a: Tensor, b: Tensor, gate: Tensor) -> Tensor:
        return PAIR(a, b, gate).flatten(1)

    def run(kit: Any, **options: Any) -> Any:
        over = kit.DataLoaderAttribution(kit.FeatureAblation(model))
        return over.attribute(
            loader, (0, 0, 1, 2), (0.1, 0), mask, to_metric=metric, perturbations_per_pass=2, **options
        )

    expected = run(captum.attr)
    found = run(ours)
    assert [t.shape for t in found] == [t.shape for t in expected]
    assert apart(found, tuple(expected)) < 1e-5
    flat = {"return_input_shape": False}
    agree(
        lambda kit: run(kit, **flat),
        lambda kit: kit.DataLoaderAttribution(kit.FeatureAblation(model)).attribute(
            loader, (0, 0, 1, 2), (0.5, 0), mask, to_metric=metric, return_input_shape=False
        ),
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("limit", [None, 12])
def test_infidelity(normalize: bool, limit: int | None) -> None:
    values = tuple(v + 0.1 for v in ours.InputXGradient(PAIR).attribute(AB, (0, 1), (GATE,)))

    def run(kit: Any, factor: float) -> Tensor:
        @kit.infidelity_perturb_func_decorator(True)
        def shrunk(inputs: Any, baselines: Any) -> Any:
            rows = torch.arange(len(inputs[0])).view(-1, 1) % 2
            away = [factor * torch.cos(rows + torch.arange(x.shape[1])) for x in inputs]
            return tuple(x - a * (x - b) for x, a, b in zip(inputs, away, baselines, strict=True))

        bases = tuple(t * 0.1 for t in AB)
        asked = {"baselines": bases, "target": (0, 1), "additional_forward_args": (GATE,), "normalize": normalize}
        return kit.infidelity(PAIR, shrunk, AB, values, **asked, n_perturb_samples=4, max_examples_per_batch=limit)

    expected = run(captum.metrics, 0.1)
    assert apart(run(ours, 0.1), expected) < 1e-4
    assert apart(run(ours, 0.2), expected) > 0.05


@pytest.mark.parametrize("limit", [None, 7])
def test_sensitivity(limit: int | None) -> None:
    def moved(inputs: Any, radius: float) -> Any:
        return tuple(x + radius * torch.cos(torch.arange(x.shape[1])) for x in inputs)

    def run(kit: Any, attr: Any, radius: float) -> Tensor:
        asked = {"target": [(0, 1), (1, 1), (1, 0), (0, 0)], "additional_forward_args": (GATE,), "n_perturb_samples": 3}
        explain = attr.IntegratedGradients(PAIR).attribute
        return kit.sensitivity_max(
            explain,
            AB,
            moved,
            radius,
            max_examples_per_batch=limit,
            baselines=tuple(t * 0.2 for t in AB),
            n_steps=4,
            **asked,
        )

    expected = run(captum.metrics, captum.attr, 0.1)
    assert apart(run(ours, ours, 0.1), expected) < 1e-4
    assert apart(run(ours, ours, 0.2), expected) > 0.05
    shaken = ours.sensitivity_max(ours.Saliency(STEPS).attribute, V, target=1)
    torch.testing.assert_close(
        shaken, ours.sensitivity_max(ours.Saliency(STEPS).attribute, V, target=1, max_examples_per_batch=8)
    )


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_attacks(norm: str) -> None:
    probabilities = nn.Sequential(IMAGES, nn.Softmax(1))
    labels = torch.tensor([0, 3, 1])

    def run(kit: Any, size: float) -> tuple[Tensor, Tensor]:
        step = kit.FGSM(probabilities, upper_bound=2.0).perturb(X.clone(), size, labels)
        way = kit.PGD(probabilities, lower_bound=-0.5).perturb(X.clone(), size, size / 3, 4, labels, norm=norm)
        return step.detach(), way.detach()

    for mine, other, control in zip(run(ours, 0.2), run(captum.robust, 0.2), run(ours, 0.5), strict=True):
        assert apart(mine, other) < 1e-5
        assert apart(control, other) > 1e-2
    assert isinstance(ours.PGD(IMAGES), ours.Perturbation)


STATS: list[Callable[[Any], Any]] = [
    lambda kit: kit.Count(), lambda kit: kit.Mean(), lambda kit: kit.MSE(), lambda kit: kit.Var(),
    lambda kit: kit.Var(order=1), lambda kit: kit.StdDev(order=1), lambda kit: kit.StdDev("spread"),
    lambda kit: kit.Min(), lambda kit: kit.Max("top"), lambda kit: kit.Sum(),
]  # fmt: skip


def test_statistics() -> None:
    def run(kit: Any, stats: list[Any], *, number: int) -> Any:
        summarizer = kit.Summarizer(stats)
        assert summarizer.summary is None
        for x in V[:number]:
            summarizer.update((x, x[:2].round().long()))
        return summarizer.summary

    for number in (1, 4):
        mine, other = (run(kit, [make(kit) for make in STATS], number=number) for kit in (ours, captum.attr))
        assert [set(one) for one in mine] == [set(one) for one in other]
        for name, value in other[0].items():
            torch.testing.assert_close(mine[0][name], value)
    common = [run(kit, kit.CommonStats(), number=3)[1] for kit in (ours, captum.attr)]
    assert set(common[0]) == set(common[1])
    assert not torch.equal(mine[0]["mean"], run(ours, [ours.Mean()], number=2)[0]["mean"])


def test_statistics_by_class() -> None:
    labels = ["a", "b", "a", "a"]
    found = []
    for kit in (ours, captum.attr):
        by_class = kit.ClassSummarizer(kit.CommonStats())
        by_class.update(V, labels)
        found.append((by_class.class_summaries, by_class.summary))
        with pytest.raises((AssertionError, why.TorchwhyError)):
            by_class.update(V, ["a", "b"])
    (mine, mine_all), (other, other_all) = found
    assert set(mine) == {"a", "b"} == set(other)
    for label in mine:
        torch.testing.assert_close(mine[label][0]["mean"], other[label][0]["mean"])
    torch.testing.assert_close(
        mine_all[0]["std_dev" if "std_dev" in mine_all[0] else "sample_std_dev"], other_all[0]["sample_std_dev"]
    )
    assert not torch.equal(mine["a"][0]["mean"], mine["b"][0]["mean"])


def test_embeddings_stand_aside() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Embedding(9, 5)), nn.Flatten(), nn.Linear(15, 3))
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = []
    for kit in (ours, captum.attr):
        layer = kit.configure_interpretable_embedding_layer(model, "0.0")
        with pytest.raises((AssertionError, why.TorchwhyError)):
            kit.configure_interpretable_embedding_layer(model, "0.0")
        base = kit.TokenReferenceBase(2).generate_reference(3, torch.device("cpu"))
        here, there = layer.indices_to_embeddings(ids), layer.indices_to_embeddings(base[None])
        found.append(kit.IntegratedGradients(model).attribute(here, there, target=1, n_steps=3))
        kit.remove_interpretable_embedding_layer(model, layer)
        assert isinstance(model[0][0], nn.Embedding)
    assert apart(found[0], found[1]) < 1e-5
    assert found[0].shape == (2, 3, 5)


def test_inputs_with_features() -> None:
    row = torch.tensor([[1.0, 0.0]])
    given = {"values": {"who": "Ann", "where": "Rome", "when": "now"}, "mask": {"who": 3, "where": 7, "when": 3}}
    for kit in (ours, captum.attr):
        text = kit.TextTemplateInput("{who} {where} {when}", **given, baselines={"who": "A", "where": "B", "when": "C"})
        assert text.n_itp_features == 2
        assert text.to_tensor().tolist() == [[1, 1]]
        assert text.to_model_input() == "Ann Rome now"
        assert text.to_model_input(row) == "Ann B now"
        assert text.format_attr(torch.tensor([[5.0, 6.0]])).tolist() == [[5, 6, 5]]


class Tokenizer:
    """Words by their length."""

    def encode(self, text: str, return_tensors: str) -> Tensor:
        return torch.tensor([[len(w) for w in text.split()]])

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return ["x" * i for i in ids]

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return [len(t) for t in tokens]


@pytest.mark.parametrize("skip", [None, [2], ["yy"]])
def test_tokens_as_features(skip: Any) -> None:
    mine, other = (kit.TextTokenInput("a bb ccc bb", Tokenizer(), "zzzzz", skip) for kit in (ours, captum.attr))
    assert mine.values == other.values
    row = torch.ones_like(mine.to_tensor()).repeat(2, 1)
    row[0, 1] = 0
    assert torch.equal(mine.to_model_input(row), other.to_model_input(row))
    assert torch.equal(mine.to_model_input(), other.to_model_input())
    assert not torch.equal(mine.to_model_input(row)[0], mine.to_model_input(row)[1])


@pytest.mark.parametrize("overlapping", [False, True])
def test_regions_as_features(overlapping: bool) -> None:
    from PIL import Image

    image = Image.fromarray((np.arange(48).reshape(4, 4, 3) * 5).astype("uint8"))
    mask = torch.tensor([[2, 2, 5, 5]] * 4)
    regions = {"mask_list": [mask == 2, torch.tensor([[0, 1, 1, 0]] * 4)]} if overlapping else {"mask": mask}
    mine, other = (kit.ImageMaskInput(image, **regions, processor_fn=np.asarray) for kit in (ours, captum.attr))
    assert mine.values == other.values
    row, values = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, -2.0]])
    assert (mine.to_model_input(row) == other.to_model_input(row)).all()
    assert (mine.to_model_input(row) != mine.to_model_input()).any()
    torch.testing.assert_close(mine.format_pixel_attr(values), other.format_pixel_attr(values))
    _, axes = mine.plot_mask_overlay(border_width=1)
    assert len(axes.images) == 5
    assert len(axes.texts) == 2
    close_figures()


def test_drawn_baselines() -> None:
    import random

    for choices in ([[1, 2, 3], [4, 5]], {"x": [1, 2, 3], ("y", "z"): [(4, 5), (6, 7)]}):
        found = []
        for kit in (ours, captum.attr):
            random.seed(0)
            draw = kit.ProductBaselines(choices)
            found.append([draw() for _ in range(5)])
        assert found[0] == found[1]
        assert any(one != found[0][0] for one in found[0])


# -- figures -----------------------------------------------------------------------------------------------------------


def close_figures() -> None:
    from matplotlib import pyplot as plt

    plt.close("all")


@pytest.mark.parametrize("sign", ["all", "positive", "negative", "absolute_value"])
@pytest.mark.parametrize("method", ["heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling"])
def test_figures_of_images(method: str, sign: str) -> None:
    attr, image = rand(6, 5, 3, seed=8).numpy(), rand(6, 5, 3, seed=9).abs().clamp(max=1).numpy()
    options = {"method": method, "sign": sign, "use_pyplot": False, "show_colorbar": True, "title": "here"}
    if sign == "all" and method in ("masked_image", "alpha_scaling"):
        for kit in (ours, captum.attr):
            with pytest.raises(AssertionError):
                kit.visualization.visualize_image_attr(attr, image, **options)
        return
    (figure, mine), (_, other) = (
        kit.visualization.visualize_image_attr(attr, image, **options) for kit in (ours, captum.attr)
    )
    assert len(mine.images) == len(other.images)
    for a, b in zip(mine.images, other.images, strict=True):
        np.testing.assert_allclose(np.asarray(a.get_array(), float), np.asarray(b.get_array(), float), atol=1e-6)
        assert a.get_clim() == b.get_clim()
        assert a.get_alpha() == b.get_alpha()
        assert a.get_cmap().name == b.get_cmap().name
    assert mine.get_title() == "here"
    figure.canvas.draw()
    if method == "heat_map":
        outliers = ours.visualization.visualize_image_attr(attr, outlier_perc=30, sign=sign, use_pyplot=False)[1]
        assert not np.allclose(outliers.images[0].get_array(), mine.images[0].get_array())


def test_figures_side_by_side() -> None:
    image = rand(6, 5, 3, seed=9).abs().clamp(max=1).numpy()
    figure, axes = ours.visualization.visualize_image_attr_multiple(
        image, image, ["original_image", "heat_map"], ["all", "positive"], ["a", "b"], use_pyplot=False
    )
    assert isinstance(figure, Figure)
    assert [one.get_title() for one in axes] == ["a", "b"]
    with pytest.raises(AssertionError, match="2 methods"):
        ours.visualization.visualize_image_attr_multiple(image, image, ["heat_map"] * 2, ["all"], use_pyplot=False)
    with pytest.raises(AssertionError, match="give original_image"):
        ours.visualization.visualize_image_attr(image, method="masked_image", use_pyplot=False)


@pytest.mark.parametrize("method", ["overlay_individual", "overlay_combined", "colored_graph"])
def test_figures_of_time_series(method: str) -> None:
    attr, data = rand(12, 3, seed=8).numpy(), rand(12, 3, seed=9).numpy()
    options = {"method": method, "sign": "all", "channel_labels": ["a", "b", "c"], "show_colorbar": True}
    figure, axes = ours.visualization.visualize_timeseries_attr(attr, data, **options, use_pyplot=False, linewidth=3)
    panels = axes if isinstance(axes, list) else [axes]
    assert len(panels) == (1 if method == "overlay_combined" else 3)
    if method == "colored_graph":
        limit = ours.visualization.visualize_image_attr(attr.T, sign="all", use_pyplot=False)[1].images[0].get_array()
        np.testing.assert_allclose(panels[1].collections[0].get_array(), limit[1])
    else:
        assert len(panels[0].patches) == 12
        assert panels[0].lines[0].get_linewidth() == 3
    figure.canvas.draw()
    turned = ours.visualization.visualize_timeseries_attr(attr.T, data.T, channels_last=False, use_pyplot=False)
    assert len(turned[1]) == 3


def test_coloured_words() -> None:
    viz, other = ours.visualization, captum.attr.visualization
    record = viz.VisualizationDataRecord(
        torch.tensor([0.5, -1.0, 0.0]), 0.9, "yes", "no", "yes", -0.5, ["a", "<b>", "&"], 0.0
    )
    html = viz.visualize_text([record])
    assert "&amp;" in html
    assert "#b" in html
    assert "yes (0.90)" in html
    assert "Legend" in html
    assert "Legend" not in viz.visualize_text([record], legend=False)
    for value in (-1, -0.3, 0, 0.7, 2):
        assert other._get_color(value) in viz.format_word_importances(["w"], [value])
    assert viz.format_classname("x") == other.format_classname("x")
    assert viz.format_word_importances([], None) == other.format_word_importances([], None)
    with pytest.raises(AssertionError):
        viz.format_word_importances(["a", "b"], [1.0])


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, Callable[[Any], Any]] = {
    "no target": lambda kit: kit.Saliency(IMAGES).attribute(X),
    "target out of range": lambda kit: kit.Saliency(IMAGES).attribute(X, target=9),
    "targets too few": lambda kit: kit.Saliency(IMAGES).attribute(X, target=[0, 1]),
    "target with too many indices": lambda kit: kit.InputXGradient(IMAGES).attribute(X, target=(0, 1)),
    "baselines of another shape": lambda kit: kit.IntegratedGradients(IMAGES).attribute(X, X[:, :, :3], 0),
    "no such quadrature": lambda kit: kit.IntegratedGradients(IMAGES).attribute(X, target=0, method="simpson"),
    "no such neuron": lambda kit: kit.NeuronGradient(IMAGES, IMAGES.hidden).attribute(X, 99),
    "no such noise": lambda kit: kit.NoiseTunnel(kit.Saliency(IMAGES)).attribute(X, nt_type="pink", target=0),
    "window too large": lambda kit: kit.Occlusion(IMAGES).attribute(X, (1, 9, 9), target=0),
    "no perturbations": lambda kit: kit.FeatureAblation(IMAGES).attribute(X, target=0, perturbations_per_eval=0),
    "attributions of others": lambda kit: kit.Saliency(IMAGES).compute_convergence_delta(X[:1], 0, X, 0),
    "no such method": lambda kit: kit.Saliency(IMAGES).attribute(X, target=0, nonsense=1),
    "a map for no image": lambda kit: kit.visualization.visualize_image_attr(np.ones((3, 3)), method="nonsense"),
    "a layer that is not there": lambda kit: kit.LayerActivation(IMAGES, nn.ReLU()).attribute(X),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_captum_refuses(what: str) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011  of whatever kind
        REFUSED[what](captum.attr)
    with pytest.raises((why.TorchwhyError, TypeError)) as mine:
        REFUSED[what](ours)
    assert isinstance(mine.value, AssertionError | type(theirs.value))
    close_figures()


def test_what_only_we_refuse() -> None:
    """Nothing asked for is left out in silence."""
    with pytest.raises(AssertionError, match="grad_kwargs may say"):
        ours.LayerConductance(IMAGES, IMAGES.conv).attribute(X, target=0, grad_kwargs={"create_graph": True})
    with pytest.raises(AssertionError, match="draws no baselines"):
        ours.NoiseTunnel(ours.IntegratedGradients(IMAGES)).attribute(X, draw_baseline_from_distrib=True, target=0)
    with pytest.raises(AssertionError, match="one score per row"):
        ours.FeatureAblation(lambda x: IMAGES(x).sum()).attribute(X)
    with pytest.raises(AssertionError, match="stdevs is 0"):
        ours.NoiseTunnel(ours.Saliency(IMAGES)).attribute(X, stdevs=0.0, target=0)
    ruled = made(Images)
    ruled.conv.rule = object()
    with pytest.raises(AssertionError, match="'conv' has a rule"):
        ours.LRP(ruled).attribute(X, target=0)
    with pytest.raises(AssertionError, match="FeatureAblation, not Saliency"):
        ours.DataLoaderAttribution(ours.Saliency(IMAGES)).attribute(DataLoader(TensorDataset(X)))


# -- where we differ on purpose ----------------------------------------------------------------------------------------


def test_functional_activations() -> None:
    """Captum's hooks do not see them: what it calls DeepLift does not add up."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    model = made(Functional)
    moved = (model(V) - model(V * 0))[:, 1]
    gaps = []
    for kit in (ours, captum.attr):
        _, delta = kit.DeepLift(model).attribute(V, target=1, return_convergence_delta=True)
        gaps.append((delta.abs() / moved.abs()).max().item())
    assert gaps[0] < 1e-5
    assert gaps[1] > 0.01
    plain = why.Saliency(model, abs=False).attribute(V, target=1)
    assert torch.equal(captum.attr.GuidedBackprop(model).attribute(V, target=1), plain)
    assert not torch.equal(ours.GuidedBackprop(model).attribute(V, target=1), plain)


def test_trapezoid_weights_add_up_to_one() -> None:
    mine, other = (
        kit.IntegratedGradients(LINEAR).attribute(V, target=1, n_steps=4, method="riemann_trapezoid")
        for kit in (ours, captum.attr)
    )
    moved = (LINEAR(V) - LINEAR(V * 0))[:, 1]
    torch.testing.assert_close(mine.sum(1), moved)
    assert not torch.allclose(other.sum(1), moved, rtol=0.1)
