"""What flows through a layer, against integrals worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchwhy import Conductance, IntegratedGradients, InternalInfluence, Site, TorchwhyError


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**2


def net() -> nn.Module:
    """x to W x, squared, to V (W x)^2."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), Square(), nn.Linear(3, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, 0.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
    return model


X = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
BASE = torch.tensor([[0.2, 0.1]], dtype=torch.float64)


def test_each_unit_gets_its_part_of_a_sum():
    model = net()
    held, before = (model[0](t).detach() for t in (X, BASE))
    closed = model[2].weight.detach() * (held**2 - before**2)
    for at in ("0", "1"):  # the gradient is linear in what either holds
        found = Conductance(model, at=at, n_steps=1).attribute(X, BASE)
        torch.testing.assert_close(found, closed, rtol=1e-9, atol=1e-12)


def test_a_path_through_the_inputs_is_not_the_one_at_the_layer():
    model = nn.Sequential(Square(), nn.Linear(2, 2).double(), nn.Tanh())
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    here = Conductance(model, at="0", n_steps=400).attribute(x, target=0)
    there = IntegratedGradients(model, at="0").attribute(x, target=0)
    assert (here.sum() - there.sum()).abs() < 1e-4  # both are complete
    other = nn.Sequential(Square(), nn.Flatten())  # the score below depends on both
    product = lambda out: out[:, 0] * out[:, 1] ** 2  # noqa: E731
    here = Conductance(other, at="0", n_steps=2000).attribute(x, 0.5, target=product)
    there = IntegratedGradients(other, at="0").attribute(x, 0.5, target=product)
    assert (here - there).abs().max() > 0.05


def test_at_the_input_it_is_integrated_gradients():
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    here = Conductance(model, n_steps=500).attribute(X, BASE, target=1)
    torch.testing.assert_close(here, IntegratedGradients(model).attribute(X, BASE, target=1), rtol=1e-4, atol=1e-6)


def test_what_goes_through_units_adds_up():
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    units = [Conductance(model, through=Site("1", unit=u)).attribute(X, BASE, target=2) for u in range(4)]
    torch.testing.assert_close(sum(units), IntegratedGradients(model).attribute(X, BASE, target=2))
    layer = Conductance(model, at="1", n_steps=2000).attribute(X, BASE, target=2)
    torch.testing.assert_close(torch.stack([u.sum(1) for u in units], 1), layer, rtol=1e-4, atol=1e-6)


def test_through_one_unit_of_a_linear_model():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)).double()
    unit = Site("0", unit=1)
    w, v = model[0].weight[1].detach(), model[1].weight[0, 1].detach()
    torch.testing.assert_close(Conductance(model, through=unit).attribute(X, BASE), v * w * (X - BASE))
    slopes = Conductance(model, through=unit, multiply_by_inputs=False).attribute(X, BASE)
    torch.testing.assert_close(slopes, (v * w).expand(2, 2))
    inner = Conductance(model, through=Site("1", unit=1, input=True)).attribute(X, BASE)
    torch.testing.assert_close(inner, v * w * (X - BASE))


def test_influence_is_the_mean_gradient():
    model = net()
    found = InternalInfluence(model, at="0").attribute(X, BASE)
    middle = model[0]((X + BASE) / 2).detach()  # the gradient is linear on the way
    torch.testing.assert_close(found, 2 * model[2].weight.detach() * middle)


def test_the_evidence_tells_the_gap():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    fine = Conductance(model, at="1", n_steps=1000).explain(X)
    (check,) = (c for c in fine.evidence if c.name == "completeness")
    assert check.status == ("pass", "pass")
    torch.testing.assert_close(fine.values.sum(1), (model(X) - model(0 * X))[:, 0].detach(), rtol=1e-2, atol=0)


def test_the_number_of_steps_at_a_time_does_not_matter():
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    for method in (Conductance(model, at="1"), InternalInfluence(model, at="1")):
        whole = method.attribute(X, target=0)
        torch.testing.assert_close(method.attribute(X, target=0, batch_size=3), whole)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conductance(net(), through=Site("0")), "through is a Site with an index"),
        (lambda: Conductance(net(), at="0", through=Site("0", unit=1)), "leave at out"),
        (lambda: Conductance(net(), multiply_by_inputs=False), "say which"),
        (lambda: Conductance(net(), at="0").attribute(X, layer_baselines=0), "runs through the inputs"),
        (lambda: Conductance(net(), through=Site("0", unit=7)).attribute(X), "no such unit"),
        (lambda: Conductance(net(), at="0", n_steps=0), "n_steps is"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(TorchwhyError, match=message):
        make()
