"""Inside the guard a model is ready to be explained; outside, nothing has changed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchwhy import FeatureAblation, IntegratedGradients, Saliency, TorchwhyError
from torchwhy.core.guard import module_of, untouched

CPU = torch.device("cpu")


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(requires_grad=False)
    return model


def flags(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


def test_inside_the_model_is_at_rest(model):
    with untouched(model, CPU):
        assert flags(model) == ([False] * 5, [False] * 6)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_outside_every_flag_is_as_it_was(model, error):
    before = flags(model)
    assert len(set(before[0])) == len(set(before[1])) == 2
    if error is None:
        with untouched(model, CPU):
            pass
    else:
        with pytest.raises(error), untouched(model, CPU):
            raise error
    assert flags(model) == before


def test_guards_may_be_nested(model):
    before = flags(model)
    with untouched(model, CPU), untouched(model[0], CPU):
        pass
    assert flags(model) == before


def test_a_bound_method_belongs_to_its_module(model):
    assert module_of(model) is model
    assert module_of(model.forward) is model
    assert module_of(lambda x: model(x)) is None  # noqa: PLW0108  a function
    assert module_of(torch.relu) is None


def test_the_modes_of_autograd_are_as_they_were(model):
    with torch.inference_mode(), untouched(model, CPU):
        assert not torch.is_inference_mode_enabled()
    with torch.inference_mode():
        with untouched(model, CPU):
            pass
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        Saliency(model).attribute(torch.ones(2, 3), target=0)
        assert not torch.is_grad_enabled()


# -- models that do more than they should --------------------------------------------------------------------


def random_states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  the global one
    return torch.get_rng_state().tolist(), (kind, keys.tolist(), *rest), random.getstate()


@pytest.mark.parametrize("draw", [torch.rand, np.random.random, random.random], ids=["torch", "numpy", "python"])
@pytest.mark.parametrize("method", [Saliency, IntegratedGradients, FeatureAblation])
def test_random_numbers_that_the_model_draws_are_put_back(draw, method):
    def model(x: Tensor) -> Tensor:
        drawn = draw(1) if draw is torch.rand else draw()
        return x.sum(1) * (1 + 1e-6 * float(drawn))

    before = random_states()
    method(model).attribute(torch.ones(2, 3))
    assert random_states() == before


def holder(model: nn.Module) -> Callable[[Tensor], Tensor]:
    class Service:
        def predict(self, x: Tensor) -> Tensor:
            return model(x)

    return Service().predict


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: model.forward,
        lambda model: lambda x: model(x),  # noqa: PLW0108  a function
        functools.partial,
        lambda model: functools.partial(model.forward),
        holder,
    ],
    ids=["module", "bound method", "lambda", "partial", "partial of a method", "method of another object"],
)
@pytest.mark.parametrize("method", [Saliency, FeatureAblation])
def test_running_statistics_are_not_updated_and_nothing_is_dropped(model, wrap, method):
    x = torch.randn(5, 3)
    expected = method(model.eval()).attribute(x, target=0)
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = method(wrap(model)).attribute(x, target=0)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(m.training for m in model.modules())
    torch.testing.assert_close(found, expected)


def test_buffers_that_a_model_writes_in_evaluation_mode_are_put_back():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x.sum(1)

    model = Counts()
    Saliency(model).attribute(torch.ones(2, 3))
    assert model.calls == 0


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.freeze(torch.jit.script(m))])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripts_with_buffers(make):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.rand(2, 3)
    expected = FeatureAblation(plain).attribute(x, target=0)
    script = make(plain)
    before = {name: t.clone() for name, t in script.state_dict().items()}
    torch.testing.assert_close(FeatureAblation(script).attribute(x, target=0), expected)
    assert all(torch.equal(t, before[name]) for name, t in script.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_buffers_that_a_script_replaces_are_put_back():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return x.sum(1)

    script = torch.jit.script(Counts())
    FeatureAblation(script).attribute(torch.ones(2, 3))
    assert script.calls == 0


def test_parametrised_weights():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2)),
    ).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    x = torch.randn(2, 3)
    found = IntegratedGradients(model, at="0").explain(x, target=0)
    assert found.verdict.status == "pass"
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_model_made_in_inference_mode_is_left_as_it_was():
    with torch.inference_mode():
        model = nn.Linear(3, 2)
    x = torch.randn(2, 3)
    with torch.no_grad():
        expected = x * model.weight[0]
    torch.testing.assert_close(FeatureAblation(model).attribute(x, target=0), expected)
    with pytest.raises(TorchwhyError, match="inference mode"):
        Saliency(model).attribute(x, target=0)
    assert all(p.requires_grad for p in model.parameters())


def test_gradients_of_others_are_not_touched(model):
    """Neither the parameters nor what leads to the inputs and further arguments receive gradients."""
    inputs, weight = torch.randn(2, 3, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    Saliency(lambda x, w: model(x) * w).attribute(inputs * 2, target=0, additional_forward_args=weight * 2)
    assert inputs.grad is None
    assert weight.grad is None
    assert all(p.grad is None for p in model.parameters())


def test_the_graph_of_the_inputs_can_still_be_used(model):
    leaf = torch.randn(2, 3, requires_grad=True)
    x = leaf * 2
    found = Saliency(model).attribute(x, target=0)
    assert not found.requires_grad
    x.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [[2.0] * 3] * 2
