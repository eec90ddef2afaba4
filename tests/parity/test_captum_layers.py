"""The same numbers as Captum 0.9 at several layers at once, at embeddings and at recurrent layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchwhy as why
from torchwhy import Site

captum = pytest.importorskip("captum.attr")

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients:UserWarning")


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the largest value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


class Forked(nn.Module):
    """Two embeddings that are added, as words and positions are, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30, 8), nn.Embedding(6, 8)
        self.cell = nn.GRU(8, 7, batch_first=True)  # Captum takes no nested tuples
        self.head = nn.Linear(7, 3)

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        return self.behind(torch.tanh(self.words(ids) + 2 * self.places(places)))

    def behind(self, held: Tensor) -> Tensor:
        return self.head(torch.tanh(self.cell(held)[0]).amax(1))


@pytest.fixture(scope="module")
def forked() -> nn.Module:
    torch.manual_seed(0)
    return Forked().eval().requires_grad_(False)


IDS = torch.tensor([[4, 8, 15, 16, 23, 1], [7, 7, 3, 2, 2, 2], [1, 29, 5, 5, 6, 9]])
PLACES = torch.arange(6).expand(3, 6)


@pytest.mark.filterwarnings("ignore:Multiple layers provided:UserWarning")  # it says so of every list
def test_integrated_gradients_at_a_list_of_layers(forked: nn.Module) -> None:
    theirs = captum.LayerIntegratedGradients(forked, [forked.words, forked.places]).attribute(
        (IDS, PLACES), baselines=(0 * IDS, 0 * PLACES), target=1, n_steps=20
    )
    ours = why.IntegratedGradients(forked, at=["words", forked.places], n_steps=20).attribute(
        (IDS, PLACES), baselines=(0, 0), target=1
    )
    alone = why.IntegratedGradients(forked, at="words", n_steps=20).attribute((IDS, PLACES), baselines=(0, 0), target=1)
    assert isinstance(ours, list)
    for a, b in zip(ours, theirs, strict=True):
        assert apart(a, b) < 1e-5
    assert apart(alone, theirs[0]) > 1e-3  # by itself, the other layer stays where it is


def test_gradients_at_a_list_of_layers(cnn: nn.Module, digits: Tensor) -> None:
    layers = [cnn.conv1, cnn.conv2, cnn.fc1]
    theirs = captum.LayerGradientXActivation(cnn, layers).attribute(digits, target=3)
    ours = why.InputXGradient(cnn, at=layers).attribute(digits, target=3)
    for a, b, other in zip(ours, theirs, why.Saliency(cnn, at=layers).attribute(digits, target=3), strict=True):
        assert apart(a, b) < 1e-5
        assert apart(other, b) > 1e-3


@pytest.mark.parametrize("baseline", [0, 12])
def test_integrated_gradients_at_an_embedding(forked: nn.Module, baseline: int) -> None:
    theirs = captum.LayerIntegratedGradients(forked, forked.words).attribute(
        IDS, baselines=torch.full_like(IDS, baseline), target=2, additional_forward_args=PLACES, n_steps=20
    )
    ig = why.IntegratedGradients(forked, at="words", n_steps=20)
    by_name = ig.attribute(IDS, baseline, 2, additional_forward_args={"places": PLACES})
    assert apart(by_name, theirs) < 1e-5
    assert torch.equal(by_name, ig.attribute(IDS, baseline, 2, additional_forward_args=PLACES))
    assert apart(ig.attribute(IDS, 3, 2, additional_forward_args=PLACES), theirs) > 1e-3


def test_a_recurrent_layer(forked: nn.Module) -> None:
    """Captum takes its input, or units of it as a function of what it holds."""
    x = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    theirs = captum.LayerIntegratedGradients(forked.behind, forked.cell).attribute(
        x, target=1, n_steps=20, attribute_to_layer_input=True
    )
    ours = why.IntegratedGradients(forked.behind, at=Site("cell", input=True), n_steps=20).attribute(x, target=1)
    assert apart(ours, theirs) < 1e-5

    def unit(held: Any) -> Tensor:
        return held[0][:, 2, 5]

    theirs = captum.NeuronGradient(forked.behind, forked.cell).attribute(x, unit)
    saliency = why.Saliency(forked.behind, abs=False)
    assert apart(saliency.attribute(x, target=Site("cell", (2, 5))), theirs) < 1e-5
    assert apart(saliency.attribute(x, target=Site("cell", unit)), theirs) < 1e-5
    assert apart(saliency.attribute(x, target=Site("cell", (2, 4))), theirs) > 1e-3


class Steps(nn.Module):
    """The steps of a recurrent layer alone, which Captum can replace."""

    def __init__(self, cell: nn.LSTM) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        steps: Tensor = self.cell(x)[0]
        return steps


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_steps_of_a_recurrent_layer(batch_first: bool) -> None:
    torch.manual_seed(0)
    steps = Steps(nn.LSTM(8, 7, batch_first=batch_first))
    head = nn.Linear(7, 3)

    def model(x: Tensor) -> Tensor:
        held = steps(x if batch_first else x.transpose(0, 1))
        return head(torch.tanh(held if batch_first else held.transpose(0, 1)).amax(1))

    x = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    ours = why.InputXGradient(model, at=steps.cell).attribute(x, target=1)
    theirs = captum.LayerGradientXActivation(model, steps).attribute(x, target=1)
    theirs = theirs if batch_first else theirs.transpose(0, 1)
    assert apart(ours[0], theirs) < 1e-5
    assert not any(state.any() for state in ours[1:])  # they are not used
    assert apart(why.Saliency(model, at=steps.cell).attribute(x, target=1)[0], theirs) > 1e-3
