"""Full-gradients: parts that add up to the score on any network, and the paper's picture of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from torch import Tensor, nn

from torchwhy.core.errors import UnsupportedError
from torchwhy.core.tensors import Tensors, as_tensors
from torchwhy.methods.full_grad import FullGrad, FullGradient
from torchwhy.methods.noise_tunnel import NoiseTunnel
from torchwhy.networks import ConvNet


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def total(found: FullGradient) -> Tensor:
    inputs, _ = as_tensors(found.inputs)
    return inputs.per_example() + sum(Tensors([b.values]).per_example() for b in found.biases)


def complete(model: Callable[..., Tensor], x: Tensor, target: int | None = 1) -> FullGradient:
    found = FullGrad(model).decompose(x, target=target)
    scores = model(x) if target is None else model(x)[:, target]
    torch.testing.assert_close(total(found), scores.detach(), rtol=1e-9, atol=1e-9)
    added = FullGrad(model, postprocess=False).attribute(x, target=target)
    torch.testing.assert_close(added.flatten(1).sum(1), scores.detach(), rtol=1e-9, atol=1e-9)
    return found


class Normed(nn.Module):
    """Convolutions with and without bias, batch norms, a shortcut, constants in sums, functions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.shift = nn.BatchNorm2d(4), nn.Parameter(torch.randn(4, 1, 1))
        self.fc = nn.Linear(4, 3)
        for t, (low, high) in zip(
            (self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var),
            ((0.5, 2), (-1, 1), (-1, 1), (0.5, 2)),
            strict=True,
        ):
            nn.init.uniform_(t, low, high)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        x = x + F.max_pool2d(torch.relu_(self.b(x)), 3, 1, 1)
        x += self.shift
        return self.fc(x.relu().mean((2, 3)))


def test_two_layers_by_hand():
    """y = 2 relu(3 x + 1) + 5 at x = 1: 6 by the input, 2 and 5 by the biases."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    for layer, weight, bias in ((model[0], 3.0, 1.0), (model[2], 2.0, 5.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    found = FullGrad(model).decompose(torch.ones(1, 1, dtype=torch.float64))
    assert found.inputs.tolist() == [[6]]
    assert [(b.name, b.values.tolist()) for b in found.biases] == [("0", [[2]]), ("2", [[5]])]
    assert FullGrad(model, postprocess=False).attribute(torch.ones(1, 1, dtype=torch.float64)).tolist() == [[13]]


def test_every_bias_is_found_and_all_add_up():
    net, x = Normed(), rand(3, 2, 8, 8)
    found = complete(net, x)
    assert [(b.name, b.operation) for b in found.biases] == [
        ("norm", "batch_norm"),
        ("b", "conv2d"),
        ("", "add"),
        ("fc", "linear"),
    ]
    leaf = x.clone().requires_grad_()
    slopes = torch.autograd.grad(net(leaf)[:, 1].sum(), [leaf, net.b.bias, net.shift, net.fc.bias])
    torch.testing.assert_close(found.inputs, x * slopes[0])
    for part, slope, bias in zip(found.biases[1:], slopes[1:], (net.b.bias, net.shift, net.fc.bias), strict=True):
        torch.testing.assert_close(part.values.sum(), (slope * bias).sum().detach())


def test_a_merged_batch_norm_adds_as_much():
    net, x = Normed(), rand(3, 2, 8, 8)
    merged = Normed()
    both = nn.utils.fusion.fuse_conv_bn_eval(net.a, net.norm)
    merged.a, merged.norm = both, nn.Identity()
    ours, theirs = complete(net, x), complete(merged, x)
    torch.testing.assert_close(ours.biases[0].values, theirs.biases[0].values, rtol=1e-9, atol=1e-9)
    assert theirs.biases[0].name == "a"


CURVED: dict[str, Callable[[Tensor], Tensor]] = {
    "activations": lambda x: F.silu(torch.tanh(x) + F.gelu(x)).sum(1),
    "products": lambda x: (x * x.sigmoid() * 3).sum(1),
    "matrix products": lambda x: (x[:, :, None] @ x[:, None]).sum((1, 2)),
    "softmax": lambda x: (x.softmax(1) * x).sum(1) + x.logsumexp(1),
    "quotients": lambda x: (x / (1 + x.square())).sum(1) + (2 / (x + 9)).sum(1),
    "norms": lambda x: F.layer_norm(x, (6,), torch.ones(6).double(), torch.ones(6).double()).sin().sum(1),
    "joined to constants": lambda x: (torch.cat([x, torch.ones_like(x)], 1) ** 2).sum(1),
    "a maximum with a constant": lambda x: torch.max(x, torch.ones_like(x)).sum(1) + x.max(1).values,
    "masks": lambda x: x.masked_fill(x < 0, 2.0).sum(1) + torch.where(x < 1, x, torch.ones_like(x)).sum(1),
    "bounds": lambda x: x.clamp(-0.5, 0.5).sum(1) + F.relu6(9 * x).sum(1),
    "padding": lambda x: F.pad(x, (1, 1), value=3.0).square().sum(1),
    "attention": lambda x: F.scaled_dot_product_attention(x.view(-1, 2, 3), x.view(-1, 2, 3) + 1, x.view(-1, 2, 3)).sum(
        (1, 2)
    ),
    "joined dimensions": lambda x: (x.view(-1, 3) + 1).tanh().view(-1, 6).sum(1),
}


@pytest.mark.parametrize("name", CURVED)
def test_any_network_is_complete(name):
    complete(CURVED[name], rand(4, 6), None)


def test_what_is_changed_in_place_is_seen_as_it_was():
    def rash(x: Tensor) -> Tensor:
        y = x * 1
        z = y.tanh()
        y.zero_()
        z.sigmoid_()
        return z.sum(1)

    found, plain = (FullGrad(f).decompose(rand(2, 4)) for f in (rash, lambda x: x.tanh().sigmoid().sum(1)))
    torch.testing.assert_close(found.inputs, plain.inputs)
    assert [b.operation for b in found.biases] == ["tanh", "sigmoid"]
    for ours, other in zip(found.biases, plain.biases, strict=True):
        torch.testing.assert_close(ours.values, other.values)


def test_how_the_code_is_written_does_not_matter():
    torch.manual_seed(0)
    net, x = ConvNet().double().eval(), rand(2, 1, 12, 12)
    modules = nn.Sequential(net.conv1, nn.ReLU(), net.conv2, nn.ReLU(), nn.Flatten(), net.fc1, nn.ReLU(), net.fc2)
    for options in ({}, {"postprocess": False}):
        values = FullGrad(net, **options).attribute(x, target=3)
        other = FullGrad(modules, **options).attribute(x, target=3)
        assert float((values - other).abs().max() / values.abs().max()) < 1e-9
    complete(net, x, 3)


def test_the_picture_of_the_paper():
    """Written out: sizes from 0 to 1, enlarged, summed over channels and over layers with a map."""
    torch.manual_seed(0)
    net, x = ConvNet().double().eval(), rand(2, 1, 12, 12)
    found = FullGrad(net).decompose(x, target=3)
    expected = torch.zeros(2, 1, 12, 12, dtype=torch.float64)
    for t in (found.inputs, *(b.values for b in found.biases if b.values.ndim == 4)):
        for i in range(2):
            size = t[i].abs()
            size = (size - size.min()) / (size.max() - size.min())
            large = F.interpolate(size[None], (12, 12), mode="bilinear", align_corners=True)
            expected[i] += large[0].sum(0, keepdim=True)
    torch.testing.assert_close(FullGrad(net).attribute(x, target=3), expected)
    assert (FullGrad(net, postprocess=False).attribute(x, target=3) < 0).any()


@pytest.mark.parametrize("shape", [(5, 7), (3, 3), (12, 12), (20, 9)])
def test_spreading_keeps_the_sum(shape):
    from torchwhy.core.tensors import Tensors
    from torchwhy.methods.full_grad import _spread

    t, maps = rand(2, 4, *shape), Tensors([torch.zeros(2, 1, 12, 12, dtype=torch.float64), rand(2, 3)])
    before = maps.per_example()
    torch.testing.assert_close(_spread(t, maps).per_example() - before, t.sum((1, 2, 3)))
    torch.testing.assert_close(_spread(rand(2, 5), maps).per_example() - before, rand(2, 5).sum(1))
    corner = torch.zeros(1, 1, 3, 3)
    corner[..., 0, 0] = 1
    (spread,) = _spread(corner, Tensors([torch.zeros(1, 1, 12, 12)]))
    assert (spread[0, 0, :4, :4] == 1 / 16).all()


def test_rows_layers_and_evidence():
    net, x = Normed(), rand(3, 2, 8, 8)
    for options in ({}, {"postprocess": False}):
        alone = FullGrad(net, batch_size=1, **options).attribute(x, target=[1, 0, 2])
        torch.testing.assert_close(alone, FullGrad(net, **options).attribute(x, target=[1, 0, 2]))
        noisy = NoiseTunnel(FullGrad(net, **options), nt_samples=2, stdevs=1e-9).attribute(x, target=1)
        torch.testing.assert_close(noisy, FullGrad(net, **options).attribute(x, target=1), rtol=1e-4, atol=1e-5)
    found = FullGrad(net, at="b", postprocess=False).explain(x, target=1)
    assert found.values.shape == (3, 1, 6, 6)
    (check,) = [c for c in found.evidence if c.name == "completeness"]
    assert max(check.value) < 1e-9
    assert not FullGrad(net).facts.signed
    assert "completeness" not in [c.name for c in FullGrad(net).explain(x, target=1).evidence]


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x + 1

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g


def test_what_is_refused():
    with pytest.raises(UnsupportedError, match=r"FullGrad.*HiddenBackward"):
        FullGrad(lambda x: Hidden.apply(2 * x).tanh().sum(1)).attribute(rand(2, 3))

    def written(x: Tensor) -> Tensor:
        y = x * 2
        y[:, 0] = torch.ones(2, dtype=torch.float64)
        return y.tanh().sum(1)

    with pytest.raises(UnsupportedError, match="FullGrad cannot keep its promise at setitem"):
        FullGrad(written).attribute(rand(2, 3))
    with pytest.raises(UnsupportedError, match="different ways"):
        FullGrad(lambda x: (x if x.sum() > 0 else x + 1).sum(1), batch_size=1).decompose(rand(4, 1).sort(0).values)
    with pytest.raises(UnsupportedError, match="keep the batch in dimension 0"):
        FullGrad(lambda x: (x.sum(0) + 1).tanh().expand(4, -1).sum(1)).attribute(rand(4, 3))
