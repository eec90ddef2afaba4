"""Covered windows on patches: the numbers of whole passes, for every model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everyone calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchwhy import Occlusion
from torchwhy.engines.fills import Noise
from torchwhy.engines.patches import covering
from torchwhy.engines.patches.span import Kernel, Span, cut
from torchwhy.engines.patches.tensor import Clean, Maps, Patch, Unfit, whole
from torchwhy.methods import ablation

SIDE = 32


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks are worth it too."""
    monkeypatch.setattr(covering, "LEAST_WORK", 0)
    monkeypatch.setattr(covering, "WORTH", 2)


def randoms(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(model: nn.Module) -> nn.Module:
    """In float64, with every number drawn, the running statistics included."""
    model = model.double().eval().requires_grad_(requires_grad=False)
    for seed, (name, t) in enumerate(model.state_dict().items()):
        if t.is_floating_point():
            t.copy_(randoms(*t.shape, seed=seed) / max(1, t[0].numel() if t.ndim > 1 else 1) ** 0.5)
            if "running_var" in name:
                t.abs_().add_(0.5)
    return model


def conv(inside: int, outside: int, size: Any = 3, **options: Any) -> nn.Module:
    return nn.Conv2d(inside, outside, size, **options)


def scored(*layers: nn.Module) -> nn.Module:
    """Layers from three channels to any map, then three scores that see every place differently."""
    return nn.Sequential(*layers, Read())


class Read(nn.Module):
    """Every place counts with a weight of its own."""

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.arange(x[0].numel(), dtype=x.dtype).sin().view(x.shape[1:])
        return torch.stack([(x * weights).sum((1, 2, 3)), x.amax((1, 2, 3)), (x**2).mean((1, 2, 3))], 1)


class Of(nn.Module):
    """A function with some layers."""

    def __init__(self, fn: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.fn, self.layers = fn, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x, *self.layers)


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, in_place: bool) -> None:
        super().__init__()
        self.a, self.b = conv(inside, outside, stride=stride, padding=1), conv(outside, outside, padding=1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.side = conv(inside, outside, 1, stride=stride)
        self.relu = nn.ReLU(inplace=in_place)

    def forward(self, x: Tensor) -> Tensor:
        y = self.nb(self.b(self.relu(self.na(self.a(x)))))
        y += self.side(x)
        return self.relu(y)


def u_net(x: Tensor, down: nn.Module, deep: nn.Module, up: nn.Module) -> Tensor:
    high = down(x).relu()
    low = F.interpolate(deep(F.max_pool2d(high, 2)), scale_factor=2)
    return up(torch.cat([high, low], 1))


def attended(x: Tensor, c: nn.Module) -> Tensor:
    y = c(x).flatten(2)
    return (y @ (y.transpose(1, 2) @ y).softmax(-1)).unflatten(2, x.shape[2:])


def squeezed(x: Tensor, c: nn.Module, e: nn.Module) -> Tensor:
    y = F.hardswish(c(x))
    return y * torch.sigmoid(e(F.adaptive_avg_pool2d(y, 1)))


def dense(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    y = a(x)
    z = torch.cat([x, y], 1)
    return c(torch.cat([z, b(z)], dim=-3))


def used_again(x: Tensor, c: nn.Module, n: nn.Module) -> Tensor:
    y = c(x)
    return n(y) * y + y.detach()


def changed_behind(x: Tensor, c: nn.Module) -> Tensor:
    y = c(x)
    x.relu_()  # in place, while a convolution of it has not been looked at
    return y + F.pad(x, (0, 0, 0, 0))[:, :1]


def viewed(x: Tensor, c: nn.Module) -> Tensor:
    y = c(x)
    y[:, :1, 3:9] *= 2
    y.view(len(y), -1)[:, ::5] += 1
    return c(y[:, :3]) + y


def by_value(x: Tensor, c: nn.Module) -> Tensor:
    return c(x) if x.mean() > 0 else -c(x)


def slope(x: Tensor, c: nn.Module) -> Tensor:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        return torch.autograd.grad(c(x).tanh().sum(), x)[0]


NETWORKS: dict[str, tuple[nn.Module, bool]] = {  # and whether patches spare something
    "conv": (scored(conv(3, 4)), True),
    "padding": (scored(conv(3, 4, 5, padding=2), nn.ReLU(), conv(4, 2, (1, 3), padding=(0, 2))), True),
    "strides": (scored(conv(3, 4, 3, stride=2, padding=1), nn.Tanh(), conv(4, 2, 2, stride=(1, 2))), True),
    "wide stride": (scored(conv(3, 4, 1, stride=2), conv(4, 4, 2, stride=3)), True),
    "dilation": (scored(conv(3, 4, 3, dilation=(2, 3), padding=(1, 4))), True),
    "depthwise": (scored(conv(3, 6, groups=3, padding=1), nn.SiLU(), conv(6, 2, 1)), True),
    "same": (scored(conv(3, 4, (3, 5), padding="same"), nn.ReLU6()), True),
    "reflect": (scored(conv(3, 4, padding=1, padding_mode="reflect"), conv(4, 4)), False),
    "circular": (scored(conv(3, 4, padding=1, padding_mode="circular")), False),
    "max pool": (scored(conv(3, 4), nn.MaxPool2d(3, 2, 1), nn.LeakyReLU(), nn.MaxPool2d(2, ceil_mode=True)), True),
    "negative max": (scored(conv(3, 4), nn.Softplus(), Of(torch.neg), nn.MaxPool2d(3, 2, 1)), True),
    "average pool": (scored(conv(3, 4), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2), conv(4, 4)), True),
    "odd average pool": (
        scored(conv(3, 4), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(2, ceil_mode=True)),
        True,
    ),
    "dilated pool": (scored(conv(3, 4), nn.MaxPool2d(2, 1, dilation=2)), True),
    "batch norm": (scored(conv(3, 4), nn.BatchNorm2d(4), nn.PReLU(4), conv(4, 4, bias=False), nn.BatchNorm2d(4)), True),
    "bare batch norm": (scored(nn.BatchNorm2d(3, affine=False), conv(3, 4), nn.BatchNorm2d(4, affine=False)), True),
    "residual": (scored(Block(3, 8, 2, in_place=False), Block(8, 8, 1, in_place=False)), True),
    "residual in place": (scored(Block(3, 8, 2, in_place=True), Block(8, 8, 1, in_place=True)), True),
    "vgg": (
        nn.Sequential(
            conv(3, 4, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            conv(4, 8, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(128, 3),
        ),
        True,
    ),
    "zero padding": (scored(nn.ZeroPad2d((1, 2, 0, 3)), conv(3, 4, stride=2)), True),
    "u-net": (scored(Of(u_net, conv(3, 4, padding=1), conv(4, 4, padding=1), conv(8, 2))), True),
    "dense": (scored(Of(dense, conv(3, 2, padding=1), conv(5, 2, padding=1), conv(7, 2))), True),
    "squeeze": (scored(Of(squeezed, conv(3, 4, padding=1), conv(4, 4, 1)), conv(4, 2)), True),
    "group norm": (scored(conv(3, 4), nn.GroupNorm(2, 4), nn.GELU(), conv(4, 4)), True),
    "transposed": (scored(conv(3, 4), nn.ConvTranspose2d(4, 2, 3, stride=2), conv(2, 2)), True),
    "used again": (scored(Of(used_again, conv(3, 4), nn.BatchNorm2d(4))), True),
    "changed behind": (scored(Of(changed_behind, conv(3, 1, padding=1))), True),
    "changed behind, whole": (
        scored(conv(3, 4, 15, padding=7), conv(4, 3, 15, padding=7), Of(changed_behind, conv(3, 1, padding=1))),
        True,
    ),
    "viewed": (scored(Of(viewed, conv(3, 3, padding=1))), True),
    "attention": (scored(Of(attended, conv(3, 2, padding=1))), True),
    "flip": (scored(Of(lambda x: x.flip(3)), conv(3, 4)), False),
    "roll": (scored(conv(3, 4), Of(lambda x: x.roll(2, 2)), conv(4, 2)), True),
    "by value": (scored(Of(by_value, conv(3, 4))), False),
    "transpose": (scored(conv(3, 4), Of(lambda x: x.transpose(2, 3)), conv(4, 2)), True),
    "scaled": (
        scored(Of(lambda x: (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.2 + 1), conv(3, 4)),
        True,
    ),
    "by place": (scored(Of(lambda x: x * torch.linspace(0, 1, SIDE).double()), conv(3, 4)), False),
    "masked": (scored(conv(3, 4), Of(lambda x: torch.where(x > 0, x, 2 * x.exp() - 2)), conv(4, 4)), True),
    "other dtype": (scored(Of(lambda x, c: c(x.float().double()), conv(3, 4))), True),
    "indices": (scored(Of(lambda x, c: F.max_pool2d(c(x), 2, return_indices=True)[1].double(), conv(3, 4))), False),
    "its channels": (scored(conv(3, 1), Of(lambda x: x * torch.ones(1, 4, 1, 1).double()), conv(4, 2)), True),
    "turned in place": (scored(Of(lambda x, c: c(x).transpose_(2, 3), conv(3, 4))), False),
    "its gradient": (scored(Of(slope, conv(3, 4))), False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_covered_windows_have_the_scores_of_whole_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, spares = NETWORKS[name]
    model = drawn(model)
    x = randoms(2, 3, SIDE, SIDE)
    occlusion = Occlusion(model, sliding_window_shapes=(3, 5, 7), strides=(3, 4, 6))
    found = occlusion.explain(x, 0.3, target=[0, 2])
    monkeypatch.setattr(ablation, "covered", lambda game: None)
    known = occlusion.explain(x, 0.3, target=[0, 2])
    torch.testing.assert_close(found.values, known.values, rtol=1e-10, atol=1e-10)
    assert known.values.std() > 1e-6
    assert (found.provenance["recomputed"] < 1) == spares
    assert known.provenance["recomputed"] == 1


# -- where patches must not be used ---------------------------------------------------------------------------------

CNN = (conv(3, 4, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4))


def share(model: Any, x: Tensor | None = None, **options: Any) -> float:
    """What was recomputed."""
    x = randoms(1, 3, SIDE, SIDE) if x is None else x
    occlusion = Occlusion(model, sliding_window_shapes=(3, 5, 7), strides=(3, 4, 6))
    return occlusion.explain(x, target=1, **options).provenance["recomputed"]


def test_hooks_meet_whole_maps() -> None:
    model = drawn(scored(*CNN))
    assert share(model) < 0.5
    kinds = set()
    handle = model[0].register_forward_hook(lambda m, args, out: kinds.add(type(out)))
    assert share(model) == 1
    assert kinds == {Tensor}
    handle.remove()
    handle = model[2].register_forward_pre_hook(lambda m, args: (args[0] - args[0].mean((1, 2, 3), keepdim=True),))
    assert share(model) == 1
    handle.remove()
    assert share(model) < 0.5


def test_a_model_that_keeps_what_it_computed_keeps_tensors() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.read, self.kept = nn.Sequential(*CNN), Read(), None

        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.net(x)
            return self.read(self.kept)

    model = drawn(Keeps())
    assert share(model) == 1
    assert type(model.kept) is Tensor


def test_scripts_and_random_numbers_take_whole_passes() -> None:
    with pytest.deprecated_call():
        script = torch.jit.trace(drawn(nn.Sequential(CNN[0], nn.Flatten())), randoms(1, 3, SIDE, SIDE))
    assert share(script) == 1
    assert share(drawn(scored(*CNN, Of(lambda x: F.dropout(x, 0.1))))) == 1


def test_small_work_takes_whole_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(scored(*CNN))
    monkeypatch.setattr(covering, "LEAST_WORK", 1e6)
    assert share(model) == 1
    monkeypatch.setattr(covering, "LEAST_WORK", 1e5)
    assert share(model) < 0.5
    monkeypatch.setattr(covering, "WORTH", 0.01)
    assert share(model) == 1


def test_a_wrong_operation_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(scored(*CNN))
    x = randoms(1, 3, SIDE, SIDE)
    occlusion = Occlusion(model, sliding_window_shapes=(3, 5, 7), strides=(3, 4, 6))
    known = occlusion.attribute(x, target=1)
    monkeypatch.setattr(Kernel, "reach", 0)  # patches do not grow
    found = occlusion.explain(x, target=1)
    assert found.provenance["recomputed"] == 1
    torch.testing.assert_close(found.values, known, rtol=1e-10, atol=1e-10)


# -- where they must give the same -----------------------------------------------------------------------------------


def agree(model: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Patches are used, and give the values of whole passes."""
    settled = {"sliding_window_shapes": (3, 5, 7), "strides": (3, 4, 6)} | options.pop("method", {})
    occlusion = Occlusion(model, **settled)
    found = occlusion.explain(x, **options)
    with monkeypatch.context() as m:
        m.setattr(ablation, "covered", lambda game: None)
        known = occlusion.explain(x, **options)
    assert found.provenance["recomputed"] < 0.9
    assert known.values.std() > 1e-6
    near = torch.finfo(x.dtype).eps ** 0.6
    torch.testing.assert_close(found.values, known.values, rtol=near, atol=near * float(known.values.abs().max()))


def test_a_layer_is_covered_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(scored(*CNN, conv(4, 4)))
    agree(model, randoms(2, 3, SIDE, SIDE), monkeypatch, target=0, method={
        "at": "1", "sliding_window_shapes": (2, 5, 5), "strides": (2, 4, 4)
    })  # fmt: skip


def test_single_precision_in_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(scored(*CNN)).float()
    agree(model, randoms(2, 3, SIDE, SIDE).float(), monkeypatch, target=0)
    agree(model, randoms(1, 3, SIDE, SIDE).float(), monkeypatch, target=1, method={"batch_size": 5})


def test_a_function_further_arguments_and_any_target(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(scored(*CNN))
    x, scale = randoms(3, 3, SIDE, SIDE), torch.tensor([1.0, -2.0, 0.5]).double()

    def scaled(x: Tensor, scale: Tensor) -> Tensor:
        return model(x).tanh() * scale[:, None]

    agree(scaled, x, monkeypatch, target=[0, 1, 2], additional_forward_args=scale)
    agree(scaled, x, monkeypatch, target=lambda out: out.sum(1), additional_forward_args=scale)


def test_windows_of_some_channels_and_baselines_of_any_form(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = drawn(scored(*CNN)), randoms(2, 3, SIDE + 3, SIDE)
    method = {"sliding_window_shapes": (1, 6, 4), "strides": (1, 5, 3)}
    agree(model, x, monkeypatch, target=0, method=method)
    agree(model, x, monkeypatch, baselines=randoms(2, 3, SIDE + 3, SIDE, seed=1), target=0, method=method)


@pytest.mark.parametrize("fill", ["mean", "blur", "noise"])
def test_windows_filled_with_something_else(fill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agree(drawn(scored(*CNN)), randoms(2, 3, SIDE, SIDE), monkeypatch, target=0, method={"fill": fill})


def test_several_draws_take_whole_passes() -> None:
    x = randoms(1, 3, SIDE, SIDE)
    occlusion = Occlusion(drawn(scored(*CNN)), sliding_window_shapes=(3, 9, 9), strides=(3, 6, 6), fill=Noise(0.5, 2))
    assert occlusion.explain(x, target=1).provenance["recomputed"] == 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolutions_and_pools_of_any_form(data: st.DataObject) -> None:
    def number(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    layers: list[nn.Module] = []
    for _ in range(number(1, 3)):
        size = (number(1, 4), number(1, 4))
        options: dict[str, Any] = {"stride": (number(1, 3), number(1, 3))}
        kind = data.draw(st.sampled_from(["conv", "max", "average"]))
        padding = (number(0, size[0] // 2), number(0, size[1] // 2))
        if kind == "conv":
            options |= {"padding": padding, "dilation": number(1, 2), "groups": data.draw(st.sampled_from([1, 3]))}
            layers += [conv(3, 3, size, **options), nn.BatchNorm2d(3), nn.ReLU(inplace=data.draw(st.booleans()))]
        elif kind == "max":
            layers.append(nn.MaxPool2d(size, padding=padding, ceil_mode=data.draw(st.booleans()), **options))
        else:
            layers.append(nn.AvgPool2d(size, padding=padding, count_include_pad=data.draw(st.booleans()), **options))
    model = drawn(nn.Sequential(*layers))
    height, width, n = number(20, 40), number(20, 40), number(1, 4)
    h, w = number(1, 9), number(1, 9)
    x = randoms(1, 3, height, width)
    tops, lefts = ([number(0, full - length) for _ in range(n)] for full, length in ((height, h), (width, w)))
    try:
        model(x)
    except RuntimeError:
        return  # the map became smaller than a kernel
    pieces, whole_maps = randoms(n, 3, h, w, seed=1), x.repeat(n, 1, 1, 1)
    for row, piece, top, left in zip(whole_maps, pieces, tops, lefts, strict=True):
        row[:, top : top + h, left : left + w] = piece
    spans = (Span(tuple(tops), h, height), Span(tuple(lefts), w, width))
    with torch.no_grad():
        found = whole(model(Patch(Maps.patched(Clean(), pieces, x, spans))))
        torch.testing.assert_close(found, model(whole_maps), rtol=1e-10, atol=1e-10)


# -- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(("stride", "padding", "dilation"), list(itertools.product([1, 2, 3], [0, 1, 2], [1, 2])))
def test_reach_by_brute_force(size: int, stride: int, padding: int, dilation: int) -> None:
    kernel, full = Kernel(size, stride, padding, dilation), 14
    outputs = kernel.outputs(full)
    for start, length in itertools.product(range(full), [1, 4]):
        if start + length > full:
            continue
        changed = set(range(start, start + length))
        known = [o for o in range(outputs) if changed & {o * stride - padding + i * dilation for i in range(size)}]
        reached = kernel.reached(Span((start,), length, full), outputs)
        assert set(known) <= set(range(reached.starts[0], reached.starts[0] + reached.length))
        assert dilation > 1 or reached.length == max(1, len(known))  # a dilated kernel leaves out some between
        (first,), count = kernel.read(reached)
        assert first == reached.starts[0] * stride - padding
        assert count == (reached.length - 1) * stride + (size - 1) * dilation + 1


def test_a_piece_is_cut_from_the_map_and_the_patch() -> None:
    clean, rows = randoms(1, 2, 6, 7), randoms(2, 2, 2, 3, seed=1)
    spans = (Span((0, 4), 2, 6), Span((3, 4), 3, 7))
    maps = clean.repeat(2, 1, 1, 1)
    maps[0, :, 0:2, 3:6], maps[1, :, 4:6, 4:7] = rows[0], rows[1]
    found = cut(clean, rows, spans, (((-1, 3), 3), ((2, 5), 4)), 9.0)
    around = F.pad(maps, (0, 2, 1, 0), value=9.0)
    assert torch.equal(found[0], around[0, :, 0:3, 2:6])
    assert torch.equal(found[1], around[1, :, 4:7, 5:9])


def test_the_unchanged_map_is_computed_once() -> None:
    work, calls, x = Clean(), [], randoms(3)

    def double(t: Tensor, by: float) -> Tensor:
        calls.append(by)
        return by * t

    work.begin()
    y = work(double, work(double, x, 2.0), 3.0)
    work.begin()
    assert work(double, work(double, x, 2.0), 3.0) is y
    assert calls == [2.0, 3.0]
    work.begin()
    assert torch.equal(work(double, work(double, x, 2.0), 4.0), 8 * x)
    x += 1
    work.begin()
    assert torch.equal(work(double, x, 2.0), 2 * x)
    assert calls == [2.0, 3.0, 4.0, 2.0]


def test_what_patches_cannot_stand_for_is_refused() -> None:
    spans = (Span((0,), 2, 6), Span((3,), 2, 6))
    patch = Patch(Maps.patched(Clean(), randoms(1, 1, 2, 2), randoms(1, 1, 6, 6, seed=1), spans))
    with pytest.raises(Unfit, match="relu"):
        patch.relu()  # with gradients
    with torch.no_grad(), pytest.raises(Unfit, match="maxima"):
        F.max_pool2d(patch, 2, return_indices=True)[1].sum()
    with torch.no_grad(), pytest.raises(Unfit, match="unsqueeze"):
        patch.unsqueeze_(0)
