"""One call to an answer: which method it takes, what it passes on, and what it says to nonsense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchwhy
from torchwhy import (
    FeatureAblation,
    IntegratedGradients,
    NoiseTunnel,
    Saliency,
    ShapleyValues,
    Site,
    TorchwhyError,
    explain,
    registry,
)
from torchwhy.registry import lookup


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def same(found: torchwhy.Explanation, expected: Tensor) -> bool:
    return torch.equal(found.values, expected)


def test_without_a_method_it_is_integrated_gradients(model, x):
    found = explain(model, x)
    assert found.method == "IntegratedGradients"
    assert found.predicted
    assert same(found, IntegratedGradients(model).attribute(x))
    assert same(explain(model, x, 1), IntegratedGradients(model).attribute(x, target=1))
    assert same(
        explain(model, x, 1, baselines=x.flip(0)),
        IntegratedGradients(model).attribute(x, x.flip(0), target=1),
    )
    assert same(explain(model, x, 1, at="0"), IntegratedGradients(model, at="0").attribute(x, target=1))
    assert explain(model, x, n_steps=3).options["n_steps"] == 3
    assert "faithfulness" in [c.name for c in explain(model, x, check="basic").evidence]
    assert explain(model, x, 1, classes=("cat", "dog")).target_name() == "dog"
    scaled = explain(lambda x, s: s * model(x), x, 1, additional_forward_args=2.0)
    torch.testing.assert_close(scaled.values, 2 * IntegratedGradients(model).attribute(x, target=1))


@pytest.mark.parametrize(
    "model",
    [
        lambda x: torch.from_numpy(x.numpy().sum(1)),
        lambda x: torch.from_numpy(np.asarray(x).sum(1)),
        lambda x: torch.from_numpy(x.detach().numpy().sum(1)),
        lambda x: torch.tensor([row.sum().item() for row in x]),
        lambda x: x.sum(1).round(decimals=3).long(),
        torch.no_grad()(lambda x: x.sum(1)),
        torch.inference_mode()(lambda x: x.sum(1)),
    ],
    ids=["numpy", "asarray", "detached", "item", "integers", "no_grad", "inference_mode"],
)
def test_without_a_gradient_it_is_feature_ablation(model, x):
    found = explain(model, 10 * x.round())
    assert found.method == "FeatureAblation"
    torch.testing.assert_close(found.values, 10 * x.round())


def test_integers_are_ablated_and_their_embedding_integrated():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    ids = torch.tensor([[1, 2], [3, 4]])
    assert explain(model, ids).method == "FeatureAblation"
    assert explain(model, ids, at="0").method == "IntegratedGradients"


def test_options_of_a_method_are_not_dropped_for_another(model, x):
    with pytest.raises(TorchwhyError, match="derivative"):
        explain(lambda x: x.detach().sum(1), x, n_steps=3)


@pytest.mark.parametrize("name", ["Saliency", "saliency", Saliency], ids=repr)
def test_a_method_by_name_or_class(model, x, name):
    found = explain(model, x, 1, method=name, at="0", abs=False)
    assert found.method == "Saliency"
    assert same(found, Saliency(model, at="0", abs=False).attribute(x, target=1))


def test_a_method_that_was_made_before(model, x):
    method = Saliency(model, abs=False)
    assert same(explain(model, x, 1, method=method), method.attribute(x, target=1))
    assert same(explain(model, x, 1, method=method, at="0"), Saliency(model, at="0", abs=False).attribute(x, target=1))
    tunnel = NoiseTunnel(method, nt_samples=3)
    assert same(explain(model, x, 1, method=tunnel), tunnel.attribute(x, target=1))
    bound = Saliency(model.forward)
    assert same(explain(model.forward, x, 1, method=bound), bound.attribute(x, target=1))
    with pytest.raises(TorchwhyError, match="made for another model"):
        explain(nn.Linear(3, 2), x, method=method)


def test_a_wrong_method_is_told(model, x):
    with pytest.raises(TorchwhyError, match="there is no method 'salency'; did you mean 'Saliency'"):
        explain(model, x, method="salency")
    with pytest.raises(TorchwhyError, match="NoiseTunnel goes around another method"):
        explain(model, x, method="noise-tunnel")
    for method in (5, nn.Linear, torchwhy.Method, Site):
        with pytest.raises(TorchwhyError, match="method"):
            explain(model, x, method=method)


def test_wrong_options_are_told(model, x):
    with pytest.raises(TorchwhyError, match="IntegratedGradients has no option 'n_step'; did you mean 'n_steps'"):
        explain(model, x, n_step=3)
    with pytest.raises(TorchwhyError, match="Saliency has no option 'n_steps'"):
        explain(model, x, method="saliency", n_steps=3)
    with pytest.raises(TorchwhyError, match="check is 'free', 'basic' or 'full', not 'ful'"):
        explain(model, x, check="ful")
    with pytest.raises(TorchwhyError, match="Saliency compares with nothing"):
        explain(model, x, method="saliency", baselines=0)
    with pytest.raises(TorchwhyError, match=r"did you mean target=1\?"):
        Saliency(model).attribute(x, 1)


@pytest.mark.parametrize("classes", [("cat",), ("a", "b", "c"), "ab", (1, 2), 5], ids=repr)
def test_classes_that_do_not_fit_are_told(model, x, classes):
    with pytest.raises(TorchwhyError, match="classes"):
        explain(model, x, classes=classes)


def test_classes_may_be_a_list(model, x):
    assert explain(model, x, 0, classes=["cat", "dog"]).target_name() == "cat"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_steps": 0}, ["n_steps", "0"]),
        ({"n_steps": 2.5}, ["n_steps", "2.5"]),
        ({"n_steps": True}, ["n_steps", "True"]),
        ({"method": "simpson"}, ["'simpson'", "gausslegendre"]),
        ({"method": 5}, ["5", "gausslegendre"]),
        ({"tol": 0}, ["tol", "0"]),
        ({"tol": 1.5}, ["tol", "1.5"]),
        ({"tol": float("nan")}, ["tol", "nan"]),
        ({"tol": "small"}, ["tol", "'small'"]),
        ({"tol": 0.1, "method": "riemann_left"}, ["riemann_left", "tol"]),
        ({"max_steps": 4}, ["max_steps", "16"]),
        ({"method": "riemann_trapezoid", "n_steps": 1}, ["riemann_trapezoid", "2"]),
    ],
    ids=repr,
)
def test_options_of_integrated_gradients_are_checked(model, x, options, words):
    with pytest.raises(TorchwhyError) as caught:
        IntegratedGradients(model, **options).attribute(x, target=0)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stdevs", [-1, float("nan"), float("inf"), "a", None, True, [0.1], (0.1, 0.2)], ids=repr)
def test_sizes_of_noise_are_checked(model, x, stdevs):
    with pytest.raises(TorchwhyError, match="stdevs"):
        NoiseTunnel(Saliency(model), stdevs=stdevs).attribute(x, target=0)


def test_a_noise_tunnel_goes_around_a_method(model):
    with pytest.raises(TorchwhyError, match=r"NoiseTunnel goes around a method.*not Sequential"):
        NoiseTunnel(model)
    with pytest.raises(TorchwhyError, match="nt_type is one of smoothgrad, smoothgrad_sq, vargrad, not 'mean'"):
        NoiseTunnel(Saliency(model), nt_type="mean")


@pytest.mark.parametrize("model", [None, "model", torch.ones(2)], ids=["None", "str", "Tensor"])
def test_a_model_is_called(model):
    with pytest.raises(TorchwhyError, match="a model is a module or a function"):
        FeatureAblation(model)


def test_names_of_methods():
    for name, cls in registry.methods().items():
        assert lookup(name) is lookup(name.lower()) is lookup(name.upper()) is cls
        assert getattr(torchwhy, name) is cls
    assert lookup("shapley") is lookup("Shapley") is ShapleyValues
    assert lookup("integrated-gradients") is lookup("Integrated_Gradients") is IntegratedGradients
    assert list(registry.methods()) == sorted(registry.methods())


def test_the_registry_cannot_be_changed_by_reading_it():
    registry.methods().clear()
    assert "Saliency" in registry.methods()
