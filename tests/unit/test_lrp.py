"""Layer-wise relevance propagation: every rule by hand, conservation, batch norms, and code in every style."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchwhy.core.errors import TorchwhyError, UnsupportedError
from torchwhy.engines.rules import Composite, on, trace
from torchwhy.engines.rules import lrp as rules
from torchwhy.engines.rules.local import Call, Local
from torchwhy.engines.rules.lrp import (
    CONVOLUTIONS,
    LAYERS,
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Norm,
    Pass,
    WSquare,
    ZBox,
    ZPlus,
)
from torchwhy.methods.lrp import LRP
from torchwhy.methods.saliency import InputXGradient
from torchwhy.networks import ConvNet

COMPOSITES = [
    "epsilon",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-alpha2beta1",
    "epsilon-alpha2beta1-flat",
    "epsilon-gamma-box",
]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lrp(model: Any, composite: Any = "epsilon-plus", **options: Any) -> LRP:
    bounds = {"low": -3.0, "high": 3.0} if composite == "epsilon-gamma-box" else {}
    return LRP(model, composite=composite, **bounds, **options)


def close(a: Tensor, b: Tensor, limit: float = 1e-9) -> None:
    assert float((a - b).abs().max() / b.abs().max()) < limit


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# -- rules by hand ----------------------------------------------------------------------------------------------------

# Two layers on x = (1, -2, 0), which give h = (3, 0.5) and y = 5; the hidden layer's relevances are (6, -1) less
# what the upper rule does, which here is always LRP-0.
X = torch.tensor([[1.0, -2.0, 0.0]], dtype=torch.float64)
W = torch.tensor([[1.0, -1.0, 2.0], [2.0, 1.0, -1.0]], dtype=torch.float64)
B = torch.tensor([0.0, 0.5], dtype=torch.float64)
UP = torch.tensor([[2.0, -2.0]], dtype=torch.float64)


def two_layers(x: Tensor) -> Tensor:
    return F.linear(F.linear(x, W, B).relu(), UP)


BY_HAND: dict[str, tuple[Any, list[float]]] = {
    # z: (1, 2, 0) of 3, and (2, -2, 0) of 0.5, the rest of which is bias
    "LRP-0": (Epsilon(0), [6 * 1 / 3 - 1 * 2 / 0.5, 6 * 2 / 3 + 1 * 2 / 0.5, 0]),
    "epsilon": (Epsilon(1.0), [6 * 1 / 4 - 2 / 1.5, 6 * 2 / 4 + 2 / 1.5, 0]),
    # all contributions of the first unit are positive; (2, 0, 0) and 0.5 of bias in the second
    "z-plus": (ZPlus(stabilizer=0), [2 - 2 / 2.5, 4, 0]),
    "alpha-beta": (AlphaBeta(stabilizer=0), [2 * (2 - 2 / 2.5), 2 * 4 + 1, 0]),
    # z + z+ / 2: (1.5, 3, 0) of 4.5, and (3, -2, 0) of 1.75 with a bias of 0.75
    "gamma": (Gamma(0.5, stabilizer=0), [6 * 1.5 / 4.5 - 3 / 1.75, 6 * 3 / 4.5 + 2 / 1.75, 0]),
    # x W - l W+ - h W- with l = -2, h = 1: (3, 3, 4) of 10, and (6, 0, 1) of 7
    "z-box": (ZBox(-2.0, 1.0, stabilizer=0), [1.8 - 6 / 7, 1.8, 2.4 - 1 / 7]),
    # squares: (1, 1, 4) of 6, and (4, 1, 1) of 6.25 with the bias's
    "w-square": (WSquare(stabilizer=0), [1 - 4 / 6.25, 1 - 1 / 6.25, 4 - 1 / 6.25]),
    "flat": (Flat(stabilizer=0), [5 / 3] * 3),
    "norm": (Norm(stabilizer=0), [6 / 3 - 2 / 0.5, 6 * 2 / 3 + 2 / 0.5, 0]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_two_layers_by_hand(name):
    rule, expected = BY_HAND[name]
    found = LRP(two_layers, composite=[(on("linear", position="first"), rule)], epsilon=0).attribute(X)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_gamma_of_a_negative_output_by_hand():
    """y = -1 of contributions (2, -3, 0): with the negative ones raised by half, (2, -4.5) of -2.5."""
    weight = torch.tensor([[2.0, 1.5, 7.0]], dtype=torch.float64)
    found = LRP(lambda x: F.linear(x, weight), composite=[(on("linear"), Gamma(0.5, stabilizer=0))]).attribute(X)
    torch.testing.assert_close(found, torch.tensor([[-1 * 2 / -2.5, -1 * -4.5 / -2.5, 0]], dtype=torch.float64))


@pytest.mark.parametrize(
    "act", [torch.tanh, F.gelu, F.silu, F.relu6, F.elu, torch.sigmoid, F.softplus, torch.square, F.leaky_relu]
)
def test_activations_hand_on_all_they_get(act):
    """``act(x) * w`` is the score of a unit, and all of it belongs to its x."""
    w, x = rand(4, seed=1), 5 * rand(3, 4)
    found = lrp(lambda x: (act(x) * w).sum(1)).attribute(x)
    torch.testing.assert_close(found, act(x) * w, rtol=1e-9, atol=1e-9)


def test_norm_and_pass_are_there_for_own_composites():
    x = rand(3, 4)
    halves = lrp(lambda x: F.avg_pool1d(x, 2).sum(1), [(on("avg_pool1d"), Norm(0.0))]).attribute(x)
    torch.testing.assert_close(halves, x / 2)
    own = Composite("Own", ((on("relu"), Pass()),))
    assert torch.equal(LRP(lambda x: x.relu().sum(1), composite=own).attribute(x), x.relu())


def test_the_largest_takes_all():
    x = torch.tensor([[[1.0, 3.0, -2.0, -1.0]]], dtype=torch.float64)
    found = lrp(lambda x: F.max_pool1d(x, 2).sum((1, 2))).attribute(x)
    assert found.tolist() == [[[0, 3, 0, -1]]]
    assert lrp(lambda x: x.amax((1, 2))).attribute(x).tolist() == [[[0, 3, 0, 0]]]


def test_a_residual_sum_shares_in_proportion():
    """h = x + W x with x = 2 and w = 3 gives 8: 2 of it came by the shortcut, 6 through the layer."""
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 3.0)
    x = torch.tensor([[2.0]], dtype=torch.float64)
    found = trace(lambda x: x + layer(x), x, rules.composite([(on("linear"), Epsilon(2.0))]))
    (linear,) = [s for s in found.steps if s.operation == "linear"]
    assert linear.out == 6
    assert linear.into == 6 * 6 / 8
    assert found.passed == 2 + 6 * 6 / 8


# -- identities -------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Convolutions, batch norms, a shortcut, both kinds of pooling."""

    def __init__(self, bias: bool = True, norm: bool = False, shortcut: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shortcut = shortcut
        self.a, self.b = nn.Conv2d(2, 4, 3, bias=bias), nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=bias)
        self.fc, self.out = nn.Linear(16, 6, bias=bias), nn.Linear(6, 3, bias=bias)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm1d(6)] if norm else [])
        for m in self.norms:
            for t, (low, high) in zip(
                (m.weight, m.bias, m.running_mean, m.running_var), ((0.5, 2), (-1, 1), (-1, 1), (0.5, 2)), strict=True
            ):
                nn.init.uniform_(t, low, high)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = self.norms or [nn.Identity()] * 3
        x = one(self.a(x)).relu()
        x = F.max_pool2d(F.relu((x if self.shortcut else 0) + two(self.b(x))), 2)
        x = F.avg_pool2d(x, 2)
        return self.out(three(self.fc(x.flatten(1))).relu())


def folded(net: Net) -> Net:
    """The same network with its batch norms folded into the layers in front of them."""
    out = copy.deepcopy(net)
    for layer, norm in zip((out.a, out.b, out.fc), net.norms, strict=True):
        fused = nn.utils.fusion.fuse_linear_bn_eval if layer is out.fc else nn.utils.fusion.fuse_conv_bn_eval
        layer.load_state_dict(fused(layer, norm).state_dict() if layer.bias is not None else {}, strict=False)
    out.norms = nn.ModuleList()
    return out


IMAGES = rand(3, 2, 10, 10)


def test_without_epsilon_it_is_input_times_gradient():
    net = Net()
    expected = InputXGradient(net).attribute(IMAGES, target=1)
    close(lrp(net, "epsilon", epsilon=0).attribute(IMAGES, target=1), expected)
    close(lrp(net, "epsilon", epsilon=1e-13).attribute(IMAGES, target=1), expected)
    assert apart(lrp(net, "epsilon", epsilon=1e-1).attribute(IMAGES, target=1), expected) > 0.1


def test_alpha_one_and_beta_zero_is_z_plus():
    net = Net()
    first, second = (lrp(net, [(on(*LAYERS), rule)]).attribute(IMAGES, target=1) for rule in (AlphaBeta(1, 0), ZPlus()))
    assert torch.equal(first, second)
    assert apart(lrp(net).attribute(IMAGES, target=1), first) > 0.1


@pytest.mark.parametrize(
    ("composite", "shortcut"),
    [("epsilon", True), ("epsilon-gamma-box", True), ("epsilon-plus", False), ("epsilon-plus-flat", False)],
)
def test_without_biases_nothing_is_lost(composite, shortcut):
    """Z-plus has nobody to give to where all contributions are negative, which does not matter in front of a relu."""
    net, x = Net(bias=False, shortcut=shortcut), IMAGES
    method = lrp(net, composite, epsilon=0, stabilizer=0)
    scores = net(x)[:, 1].detach()
    close(method.attribute(x, target=1).sum((1, 2, 3)), scores)
    (check,) = [c for c in method.explain(x, target=1).evidence if c.name == "conservation"]
    assert check.status == ("pass",) * 3
    assert max(check.value) < 1e-9
    for s in trace(net, x, method._composite(), target=1).steps:
        assert s.leak is None or abs(s.leak) < 1e-9


def test_what_biases_keep_is_told():
    net = Net()
    (check,) = [c for c in lrp(net).explain(IMAGES, target=1).evidence if c.name == "conservation"]
    total = lrp(net).attribute(IMAGES, target=1).sum((1, 2, 3))
    score = net(IMAGES)[:, 1].detach()
    torch.testing.assert_close(torch.tensor(check.value).double(), (total - score).abs() / score.abs())
    assert "unknown" in check.status
    assert any("biases" in reason for reason in check.reason)
    leaks = trace(net, IMAGES, lrp(net)._composite(), target=1).leaks()
    assert {s.operation for s in leaks} == {"conv2d", "linear"}


@pytest.mark.parametrize("rule", [Flat(0.0), WSquare(0.0), ZBox(-3.0, 3.0, 0.0)], ids=lambda rule: type(rule).__name__)
def test_black_pixels_get_their_share_from_rules_for_the_input(rule):
    net, x = Net(bias=False), IMAGES.clone()
    x[:, :, 4] = 0
    own = lrp(net, [(on("conv2d", position="first"), rule), (on(*LAYERS), Epsilon(0))])
    values = own.attribute(x, target=1)
    assert (values[:, :, 4].abs() > 1e-6 * values.abs().max()).all()
    close(values.sum((1, 2, 3)), net(x)[:, 1].detach())
    close(values, own.attribute(x + 1e-9, target=1), 1e-6)


# -- batch norms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "groups"), [(1, 1), (2, 1), (2, 2), (2, 4), (3, 2)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_one_channel_of_a_group_stands_for_all_that_are_flat(dims, groups, epsilon):
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    x, w = rand(2, 4, *[7] * dims), rand(8, 4 // groups, *[3] * dims, seed=1)
    options = {"stride": 2, "padding": 1, "groups": groups}
    call = Call.of(f"conv{dims}d", function, (x, w), options, [(0, None)])
    r = rand(*function(x, w, **options).shape, seed=2)

    def every_channel(weight: Tensor) -> Tensor:
        return Flat(epsilon)._of(Local(call, (x,)), r, weight, None)

    found = Flat(epsilon).relevance(Local(call, (x,)), r)
    close(found, every_channel(torch.ones_like(w)))
    assert apart(found, every_channel(w.square())) > 0.01
    if epsilon == 0:
        close(found.sum(), r.sum())


@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_batch_norm_is_part_of_the_layer_before_it(composite):
    net = Net(norm=True)
    before = copy.deepcopy(net.state_dict())
    plain = folded(net)
    torch.testing.assert_close(net(IMAGES), plain(IMAGES))
    values = lrp(net, composite).attribute(IMAGES, target=1)
    close(values, lrp(plain, composite).attribute(IMAGES, target=1))
    alone = lrp(net, [(on("batch_norm"), Norm(0.0)), *lrp(net, composite)._composite().rules])
    if composite != "epsilon":
        assert apart(alone.attribute(IMAGES, target=1), values) > 1e-2
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_a_trace_shows_a_merged_batch_norm_as_one_step_with_its_layer():
    """As the folded network has it; apart, the norm's shift would seem to leak there and to come in at the layer."""
    net = Net(norm=True)
    method = lrp(net)
    found = trace(net, IMAGES, method._composite(), target=1)
    other = trace(folded(net), IMAGES, method._composite(), target=1)
    assert [s.operation for s in found.steps if "batch_norm" in s.operation] == [
        "conv2d + batch_norm",
        "conv2d + batch_norm",
        "linear + batch_norm",
    ]
    assert [s.place.name for s in found.leaks()] == [s.place.name for s in other.leaks()]
    ours, theirs = ([s.leak for s in t.steps if s.leak is not None] for t in (found, other))
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert sum(ours) == pytest.approx(found.score - found.passed)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_batch_norm_behind_a_transposed_convolution(groups):
    torch.manual_seed(0)
    up, norm = nn.ConvTranspose1d(4, 6, 3, groups=groups).double(), Net(norm=True).norms[2]
    whole = nn.utils.fusion.fuse_conv_bn_eval(up.eval(), norm.eval(), transpose=True) if groups == 1 else None
    seen: list[Tensor] = []

    class Spy(Epsilon):
        def propagate(self, local: Any, g: Tensor) -> Tensor:
            kept = local.output
            found = local.with_(inputs=local.inputs).output
            torch.testing.assert_close(found, kept)  # the merged layer computes what the two did
            if whole is not None:
                torch.testing.assert_close(local.argument("weight"), whole.weight.detach())
            seen.append(kept)
            return super().propagate(local, g)

    lrp(lambda x: norm(up(x)).relu().sum((1, 2)), [(on(*CONVOLUTIONS), Spy())]).attribute(rand(2, 4, 5))
    assert len(seen) == 1


def test_a_layer_that_goes_to_a_batch_norm_and_elsewhere():
    """The sum over both ways, each by itself."""
    net = Net(norm=True)
    x, weight = rand(2, 16), rand(6, seed=3)

    def both(x: Tensor) -> Tensor:
        z = net.fc(x)
        return (net.norms[2](z).relu() * weight).sum(1) + (z.relu() * weight).sum(1)

    def twice(x: Tensor) -> Tensor:
        return (net.norms[2](net.fc(x)).relu() * weight).sum(1) + (net.fc(x).relu() * weight).sum(1)

    own = [(on("linear"), ZPlus())]
    close(lrp(both, own).attribute(x), lrp(twice, own).attribute(x))


def test_a_trace_of_a_layer_that_goes_to_a_batch_norm_and_elsewhere_adds_up():
    net = Net(norm=True)

    def both(x: Tensor) -> Tensor:
        z = net.fc(x)
        return (net.norms[2](z).relu() - z.relu()).sum(1)

    found = trace(both, rand(2, 16), lrp(both, [(on("linear"), ZPlus())])._composite())
    assert sum(s.leak or 0 for s in found.steps) == pytest.approx(found.score - found.passed)
    assert found.steps[0].operation == "linear + batch_norm"


def test_a_batch_norm_over_another_dimension_is_not_merged():
    """A linear layer on (B, 6, 6) acts on the last dimension, the batch norm on the second."""
    net, x = Net(norm=True), rand(2, 6, 16)
    norm = net.norms[2]

    def by_hand(x: Tensor) -> Tensor:
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()[:, None]
        return (net.fc(x) - norm.running_mean[:, None]) * scale + norm.bias.detach()[:, None]

    own = [(on("linear"), ZPlus())]
    close(
        lrp(lambda x: norm(net.fc(x)).relu().sum((1, 2)), own).attribute(x),
        lrp(lambda x: by_hand(x).relu().sum((1, 2)), own).attribute(x),
    )


# -- code in every style ----------------------------------------------------------------------------------------------


def styles(net: ConvNet) -> dict[str, Callable[[Tensor], Tensor]]:
    def sequence(*acts: nn.Module) -> nn.Module:
        a, b, c = acts
        return nn.Sequential(net.conv1, a, net.conv2, b, nn.Flatten(), net.fc1, c, net.fc2)

    one = nn.ReLU()

    def functional(x: Tensor) -> Tensor:
        x = F.relu_(net.conv2(net.conv1(x).relu()))
        x = torch.addmm(net.fc1.bias, x.flatten(1), net.fc1.weight.T)
        return net.fc2(x.relu_())

    return {
        "modules": sequence(nn.ReLU(), nn.ReLU(), nn.ReLU()),
        "one module": sequence(one, one, one),
        "in place": sequence(nn.ReLU(inplace=True), nn.ReLU(inplace=True), nn.ReLU(inplace=True)),
        "functions": functional,
    }


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("style", ["modules", "one module", "in place", "functions"])
def test_how_the_code_is_written_does_not_matter(composite, style):
    torch.manual_seed(0)
    net, x = ConvNet().double().eval(), rand(2, 1, 12, 12)
    close(lrp(styles(net)[style], composite).attribute(x, target=3), lrp(net, composite).attribute(x, target=3))


@pytest.mark.parametrize("rule", [ZPlus(), Epsilon(1e-2)])
def test_a_model_that_writes_over_what_a_rule_has_seen(rule):
    layer = Net().fc

    def rash(x: Tensor) -> Tensor:
        y = x * 1
        z = layer(y)
        y.zero_()
        out = z.relu()
        z.fill_(7)
        return out.sum(1)

    own, x = [(on("linear"), rule)], rand(2, 16)
    close(lrp(rash, own).attribute(x), lrp(lambda x: layer(x).relu().sum(1), own).attribute(x))


class Counted(TorchDispatchMode):
    """Counts what runs, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.runs[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("in_place", [False, True])
def test_nothing_runs_again_because_its_output_is_written_over(in_place):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(in_place), nn.Flatten(), nn.Linear(192, 5), nn.ReLU(in_place)
    )
    model.append(nn.Linear(5, 2)).double().eval()
    with Counted() as counted:
        lrp(model).attribute(IMAGES, target=1)
    runs = counted.runs
    assert runs["addmm"] == 2
    assert runs["native_batch_norm"] == 1
    assert runs["convolution"] == 3, "the layer, and the rule's for positive and negative inputs"


def test_rules_by_name_type_and_position():
    net = Net()
    own = lrp(
        net, [(on("conv2d", name="a"), Flat()), (on("conv2d", module=nn.Conv2d), ZPlus()), (on("linear"), Epsilon())]
    )
    close(own.attribute(IMAGES, target=1), lrp(net, "epsilon-plus-flat").attribute(IMAGES, target=1))
    told = own.explain(IMAGES, target=1).options["composite"]
    assert told[0] == "conv2d: Flat(stabilizer=1e-06)"


def test_layers_units_and_rows():
    net = Net()
    assert lrp(net, at="b").attribute(IMAGES, target=1).shape == (3, 4, 8, 8)
    alone = lrp(net, batch_size=1).attribute(IMAGES, target=[1, 0, 2])
    close(lrp(net).attribute(IMAGES, target=[1, 0, 2]), alone)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_float32_is_close_to_float64(composite):
    net = Net()
    wide = lrp(net, composite).attribute(IMAGES, target=1)
    assert apart(lrp(net.float(), composite).attribute(IMAGES.float(), target=1).double(), wide) < 1e-3


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: (x * x.flip(1)).sum(1), "mul: both of its operands"),
        (lambda x: (x @ x.T).sum(1), "matmul: both of its operands"),
        (lambda x: F.linear(x, x).sum(1), "linear: its weight depends on the input"),
        (lambda x: F.layer_norm(x, (4,)).sum(1), "layer_norm: there is no rule"),
        (lambda x: x.softmax(1)[:, 0], "softmax: there is no rule"),
        (lambda x: F.batch_norm(x, None, None, training=True).sum(1), "batch_norm: it normalises over the batch"),
    ],
)
def test_operations_without_a_rule_are_refused_by_name(model, words):
    with pytest.raises(UnsupportedError, match=words):
        lrp(model).attribute(rand(4, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"composite": "epsilon-pluss"}, "did you mean 'epsilon-plus'"),
        ({"composite": 3}, "composite is a name"),
        ({"composite": [Flat()]}, "pairs such as"),
        ({"composite": "epsilon-gamma-box", "low": 0}, "low=..., high=..."),
        ({"low": 0, "high": 1}, "epsilon-gamma-box"),
        ({"epsilon": -1}, "epsilon is a number"),
        ({"gamma": True}, "gamma is a number"),
        ({"stabilizer": "x"}, "stabilizer is a number"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(TorchwhyError, match=words):
        LRP(Net(), **options)


def test_bounds_that_do_not_fit_are_refused():
    low, high = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    with pytest.raises(TorchwhyError, match=r"do not broadcast to the first layer's input \(3, 2, 10, 10\)"):
        LRP(Net(), composite="epsilon-gamma-box", low=low, high=high).attribute(IMAGES, target=1)
    with pytest.raises(TorchwhyError, match="alpha - beta is 1"):
        AlphaBeta(2, 2)
    with pytest.raises(TorchwhyError, match="this rule of LRP is for linear"):
        lrp(lambda x: (x @ W.T).sum(1), [(on("matmul"), ZPlus())]).attribute(X)
