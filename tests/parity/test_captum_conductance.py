"""Conductance and influence beside Captum's, on the same nodes."""

from __future__ import annotations

import captum.attr as peer
import pytest
import torch
from torch import nn

from torchwhy import Conductance, InternalInfluence, Site

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor", "ignore:Setting forward")


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(48, 4), nn.Softmax(1)).eval()


X = torch.linspace(-1, 1, 72).view(2, 1, 6, 6).sin()
BASE = 0.1


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_left", "riemann_trapezoid"])
def test_conductance(net, method):
    theirs = peer.LayerConductance(net, net[1]).attribute(X, BASE, target=2, n_steps=20, method=method)
    ours = Conductance(net, at="1", n_steps=20, method=method).attribute(X, BASE, target=2)
    close(ours, theirs)
    even = Conductance(net, at="1", n_steps=20).attribute(X, BASE, target=2)
    assert not torch.allclose(even, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("unit", [(1, 2, 3), (2, slice(0, 2), 1)], ids=str)
@pytest.mark.parametrize("times", [True, False])
def test_conductance_through_a_unit(net, unit, times):
    theirs = peer.NeuronConductance(net, net[1], multiply_by_inputs=times).attribute(
        X, unit, BASE, target=2, method="gausslegendre"
    )
    ours = Conductance(net, through=Site("1", unit=unit), multiply_by_inputs=times).attribute(X, BASE, target=2)
    close(ours, theirs)
    assert not torch.allclose(Conductance(net, through=Site("1", unit=(0, 0, 0))).attribute(X, BASE, target=2), theirs)


def test_influence(net):
    theirs = peer.InternalInfluence(net, net[0]).attribute(X, BASE, target=2, n_steps=30)
    ours = InternalInfluence(net, at="0", n_steps=30).attribute(X, BASE, target=2)
    close(ours, theirs)
    assert not torch.allclose(InternalInfluence(net, at="0", n_steps=30).attribute(X, 0, target=2), theirs)
