"""Looking at what layers hold, and changing it, on networks small enough to work out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from torchwhy import IntegratedGradients, Saliency, Site, TorchwhyError
from torchwhy.activations import Patched, ablation_effects, capture, most_activating, neighbours, penultimate


class Net(nn.Module):
    """A convolution, a reused activation and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.act = nn.Tanh()
        self.drop = nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(3 * 25, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.act(self.conv(x)).flatten(1)
        x = self.drop(self.act(self.fc1(x)))
        return self.fc2(x if scale is None else x * scale)


@pytest.fixture
def net() -> Net:
    return Net().double().train()


X = torch.linspace(-1, 1, 7 * 25, dtype=torch.float64).view(7, 1, 5, 5).sin()


def test_capture_gives_what_layers_hold(net):
    found = capture(net, X, ["conv", net.fc1, Site("act", call=1), Site("fc2", input=True)], batch_size=3)
    conv = net.conv(X)
    fc1 = net.fc1(torch.tanh(conv).flatten(1))
    torch.testing.assert_close(found["conv"], conv.detach())
    torch.testing.assert_close(found["fc1"], fc1.detach())
    torch.testing.assert_close(found["Site('act', call=1)"], torch.tanh(fc1).detach())
    torch.testing.assert_close(found["Site('fc2', input=True)"], torch.tanh(fc1).detach())
    assert net.training
    assert not net.conv._forward_hooks


def test_capture_takes_further_arguments_along(net):
    scale = torch.arange(7, dtype=torch.float64)[:, None]
    plain = capture(net, X, Site("fc2", input=True))
    scaled = capture(net, X, Site("fc2", input=True), additional_forward_args=scale, batch_size=2)
    torch.testing.assert_close(*(next(iter(found.values())) * f for found, f in ((plain, scale), (scaled, 1))))


def test_a_patched_model_holds_something_else(net):
    net.eval()
    zero = Patched(net, {"fc2": 0.0, Site("conv", unit=1): 3.0})
    assert torch.equal(zero(X), torch.zeros(7, 4).double())
    part = Patched(net, {Site("fc1", unit=(2,)): lambda held: held + 1})
    held = net.fc1(torch.tanh(net.conv(X)).flatten(1))
    held[:, 2] += 1
    torch.testing.assert_close(part(X), net.fc2(torch.tanh(held)))
    assert torch.equal(Patched(net, {"conv": lambda held: held})(X), net(X))
    assert not net.conv._forward_hooks


def test_what_another_input_brought_about_can_be_patched_in(net):
    net.eval()
    other = capture(net, X[3:4], "fc1")["fc1"]
    torch.testing.assert_close(Patched(net, {"fc1": other})(X), net(X[3:4]).expand(7, 4))


def test_a_patched_model_can_be_explained(net):
    cut = Patched(net, {Site("conv", unit=0): 0.0})
    whole = IntegratedGradients(cut).explain(X[:2], target=1)
    assert [v.status for v in whole.verdicts] == ["pass", "pass"]
    alone = Patched(net, {"conv": 0.0})
    assert Saliency(alone).attribute(X[:2], target=1).abs().max() == 0


def test_ablation_effects_are_told_for_each_class():
    model = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    both = nn.Sequential(nn.Identity(), model)
    x = torch.tensor([[2.0, 1.0], [3.0, 0.5], [1.0, 2.0], [-1.0, -1.0]])
    first, second = ablation_effects(both, x, [0, 0, 1, 2], [Site("0", unit=0), Site("0", unit=1)], batch_size=2)
    assert first.accuracy == (1.0, 0.5)  # class 0 is no longer seen
    assert first.by_class.tolist() == [-1, 0, 0]
    assert second.accuracy == (1.0, 0.75)
    assert second.by_class.tolist() == [0, -1, 0]
    assert first.changed.tolist() == [True, True, False, False]
    assert "most for class 0 (-100.0%)" in str(first)
    (mean,) = ablation_effects(both, x, [0, 0, 1, 2], ["0"], value="mean")
    assert mean.accuracy == (1.0, 0.5)  # all are decided as the mean is
    some = ablation_effects(both, x, [0, 0, 1, 2], (Site("0", unit=u) for u in (0, 1)))
    assert [e.accuracy for e in some] == [first.accuracy, second.accuracy]
    (alone,) = ablation_effects(both, x, [0, 0, 1, 2], "0", value="mean")
    assert alone.accuracy == mean.accuracy
    (missing,) = ablation_effects(both, x[:3], [0, 0, 1], [Site("0", unit=0)])
    assert math.isnan(missing.by_class[2])


def test_the_most_activating_examples_and_what_the_unit_sees():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2), nn.ReLU())
    for p in model.parameters():
        nn.init.ones_(p)
    x = torch.zeros(5, 1, 11, 11)
    x[3, 0, 2:7, 4:9] = 2.0  # all that position (1, 2) of the second map sees
    x[1, 0, 0, 0] = 1.0
    found = most_activating(model, x, Site("2", unit=1), k=2)
    assert found.index.tolist() == [3, 1]
    assert found.position.tolist() == [[1, 2], [0, 0]]
    assert found.boxes[0].tolist() == [[2, 7], [4, 9]]
    assert torch.equal(found.crops[0], torch.full((1, 5, 5), 2.0))
    assert found.value[0].item() == pytest.approx(1 + 2 * 9 * (1 + 2 * 9))
    linear = most_activating(nn.Sequential(nn.Flatten(), nn.Linear(121, 3)), x, Site("1", unit=0), k=99)
    assert linear.index.shape == (5,)
    assert linear.position.shape == (5, 0)
    assert linear.crops[0].shape == (1, 11, 11)


def test_a_unit_behind_a_maximum_is_seen_from_several_sides():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(3))
    nn.init.ones_(model[0].weight)
    x = torch.zeros(1, 1, 6, 6)
    x[0, 0, 4, 4] = 5.0
    found = most_activating(model, x, Site("1", unit=0))
    assert found.boxes.tolist() == [[[3, 6], [3, 6]]]  # the example by itself shows the one pixel


def test_near_neighbours_of_large_vectors_are_told_apart():
    steps = torch.arange(40.0)[:, None] * torch.tensor([1.0, 0.0]) / 64
    far = 1000 + steps
    layer = nn.Linear(2, 1)
    found = neighbours(layer, far, far, k=2, metric="euclidean")
    assert found.index[:, 0].tolist() == list(range(40))
    assert torch.equal(found.similarity, torch.tensor([[0.0, -1 / 64]]).expand(40, 2))
    half = neighbours(layer.half(), steps.half(), steps.half(), k=1, metric="euclidean")
    assert half.index[:, 0].tolist() == list(range(40))


def test_neighbours_are_the_closest(net):
    found = neighbours(net, X[2:4], X, k=3)
    assert found.index[:, 0].tolist() == [2, 3]
    torch.testing.assert_close(found.similarity[:, 0], torch.ones(2).double())
    assert str(found.layer) == "Site('fc2', input=True)"
    held = capture(net, X, Site("fc2", input=True)).popitem()[1]
    far = neighbours(net, X[2:4], X, k=7, layer=Site("fc2", input=True), metric="euclidean")
    assert far.index[0].tolist() == (held - held[2]).norm(dim=1).argsort().tolist()


def test_the_penultimate_layer_is_the_last_that_runs():
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(3, 2), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(self.first(x)))

    assert penultimate(Reversed(), torch.ones(2, 3)) == Site("last", input=True)
    assert penultimate(nn.Sequential(*[nn.Linear(3, 3)] * 2), torch.ones(1, 3)) == Site("0", input=True, call=1)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda net: capture(net, X, "con"), "did you mean 'conv'"),
        (lambda net: capture(net, X, "act"), "runs more than once"),
        (lambda net: Patched(net, {}), "nothing to change"),
        (lambda net: Patched(torch.relu, {"conv": 0}), "only a module has layers"),
        (lambda net: Patched(net, {Site("fc1", unit=9): 0.0})(X), "which cannot be changed so"),
        (lambda net: ablation_effects(net, X, [0] * 6, ["conv"]), "6 targets were given for 7"),
        (lambda net: ablation_effects(net, X, [0] * 7, ["conv"], value="median"), "a number or 'mean'"),
        (lambda net: most_activating(net, X, Site("conv")), "named by whole numbers"),
        (lambda net: neighbours(net, X, X, metric="angle"), "metric is"),
        (lambda net: neighbours(torch.relu, X, X), "say which with layer"),
        (lambda net: capture(net, X, Site("conv", unit=1)), "is captured whole"),
        (lambda net: capture(net, X, ["conv", Site("conv", batch=0)]), "two of the layers are called 'conv'"),
        (lambda net: capture(net, X[:0], "conv"), "there are no examples"),
        (lambda net: most_activating(net, X, Site("conv", unit=1, call="all")), "in one call"),
        (lambda net: most_activating(net, (X,), Site("conv", unit=1)), "one tensor"),
    ],
)
def test_mistakes_are_told(net, mistake, message):
    with pytest.raises(TorchwhyError, match=message):
        mistake(net)
