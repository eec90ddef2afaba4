"""Places in a model: found by name or module, read and replaced, against the model unrolled by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchwhy import (
    FeatureAblation,
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    Site,
    TorchwhyError,
)
from torchwhy.core.site import Tap, find_site
from torchwhy.core.tensors import Tensors
from torchwhy.engines.maps import last_map


class Twice(nn.Module):
    """One linear layer and one activation, each run twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.ModuleDict({"linear": nn.Linear(4, 4), "act": nn.Tanh()})
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = self.body["act"](self.body["linear"](x))
        return self.head(x)


class Parts(nn.Module):
    """Gives several tensors and something else, in the container asked for."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Any:
        double, square = 2 * x, x[:, :2] ** 2
        if scale is not None:
            double = double * scale
        if self.kind is dict:
            return {"count": len(x), "double": double, "square": square}
        return self.kind([double, square, torch.arange(len(x))])


class Branches(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.parts, self.kind = Parts(kind), kind

    def forward(self, x: Tensor) -> Tensor:
        out = self.parts(torch.sin(x), scale=None)
        double, square = (out["double"], out["square"]) if self.kind is dict else out[:2]
        return double.sum(1) + 3 * square.sum(1)


def slope(f: Any, z: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    return torch.autograd.grad(f(z).sum(), z)[0]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def twice() -> Twice:
    return Twice()


# -- finding -------------------------------------------------------------------------------------------------


def test_a_module_is_found_by_itself_or_by_name(twice):
    assert find_site(twice, "body.linear") == Site("body.linear")
    assert find_site(twice, twice.body["linear"]) == Site("body.linear")
    assert find_site(twice, Site(twice.head, unit=2)) == Site("head", unit=2)
    assert find_site(twice, twice) == Site("")
    assert find_site(twice.forward, "head") == Site("head")


def test_a_tied_module_has_two_names():
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"first": shared, "second": shared})
    assert find_site(model, "second") == Site("second")
    assert find_site(model, shared) == Site("first")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("body.liner", "did you mean 'body.linear'"),
        ("heads", "did you mean 'head'"),
        ("zzz", "there are: 'body', 'body.act', 'body.linear', 'head'"),
    ],
)
def test_a_wrong_name_gets_the_closest(twice, wrong, hint):
    with pytest.raises(TorchwhyError, match="Twice has no layer") as caught:
        find_site(twice, wrong)
    assert hint in str(caught.value)


def test_what_is_no_layer_is_refused(twice):
    with pytest.raises(TorchwhyError, match="Linear is not a module of Twice"):
        find_site(twice, nn.Linear(4, 4))
    with pytest.raises(TorchwhyError, match="a layer is a module or its name, not tuple"):
        find_site(twice, ("body",))
    with pytest.raises(TorchwhyError, match="'head' is a name, but the model is a function: pass the module"):
        find_site(lambda x: twice(x), "head")  # noqa: PLW0108  a function, not a module


def test_a_unit_belongs_to_a_target(twice, x):
    with pytest.raises(TorchwhyError, match="unit"):
        Saliency(twice, at=Site("head", unit=1)).attribute(x, target=0)


# -- reading and replacing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("layer", ["linear", "act"])
def test_a_call_of_a_layer_equals_the_network_unrolled(twice, x, call, inputs, layer):
    linear, act, head = twice.body["linear"], twice.body["act"], twice.head
    steps = [linear, act, linear, act, head]
    here = 2 * call + ["linear", "act"].index(layer) + (not inputs)
    held = nn.Sequential(*steps[:here])(x)

    def rest(z: Tensor) -> Tensor:
        return nn.Sequential(*steps[here:])(z)[:, 1]

    at = Site(f"body.{layer}", call=call, input=inputs)
    torch.testing.assert_close(Saliency(twice, at=at, abs=False).attribute(x, target=1), slope(rest, held))
    ablated = torch.stack([rest(held) - rest(held * (torch.arange(4) != i)) for i in range(4)], 1)
    torch.testing.assert_close(FeatureAblation(twice, at=at).attribute(x, target=1), ablated)
    base = nn.Sequential(*steps[:here])(torch.zeros_like(x))
    found = IntegratedGradients(twice, at=at).attribute(x, target=1)
    torch.testing.assert_close(found.sum(1), rest(held) - rest(base))
    unit = Site(f"body.{layer}", unit=2, call=call, input=inputs)
    torch.testing.assert_close(
        Saliency(twice, abs=False).attribute(x, target=unit),
        slope(lambda z: nn.Sequential(*steps[:here])(z)[:, 2], x),
    )


def test_a_layer_that_runs_twice_needs_a_call(twice, x):
    for at, target in (("body.act", 0), (None, Site("body.act", 0))):
        with pytest.raises(TorchwhyError, match=r"'body.act' runs more than once.*call=0"):
            Saliency(twice, at=at).attribute(x, target=target)
    for call in (2, -1):
        with pytest.raises(TorchwhyError, match="the layer ran 2 times in the forward pass, count calls from 0"):
            Saliency(twice, at=Site("body.act", call=call)).attribute(x, target=0)
    for call in ("every", 1.0, True):
        with pytest.raises(TorchwhyError, match="call counts from 0, or is 'all'"):
            Saliency(twice, at=Site("body.act", call=call)).attribute(x, target=0)


def test_a_tied_layer_counts_the_calls_under_all_its_names(x):
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    with pytest.raises(TorchwhyError, match="more than once"):
        Saliency(model, at="2").attribute(x, target=0)
    found = Saliency(model, at=Site("2", call=1), abs=False).attribute(x, target=0)
    assert torch.equal(found, torch.eye(4)[:1].expand(3, 4))


def test_a_layer_that_is_not_reached_is_named(x):
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.bare = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + nn.functional.linear(x, self.bare.weight)

    for at in ("unused", "bare"):
        for method in (Saliency, FeatureAblation):
            with pytest.raises(TorchwhyError, match=rf"Site\('{at}'\) was never reached: the model does not call"):
                method(Skips(), at=at).attribute(x, target=0)
        with pytest.raises(TorchwhyError, match="was never reached"):
            Saliency(Skips()).attribute(x, target=Site(at, 0))


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_a_layer_may_hold_several_tensors(x, kind):
    held = (2 * torch.sin(x), torch.sin(x)[:, :2] ** 2)
    found = InputXGradient(Branches(kind), at="parts").attribute(x)
    assert isinstance(found, tuple)
    torch.testing.assert_close(found, (held[0], 3 * held[1]))
    found = FeatureAblation(Branches(kind), at="parts").attribute(x)
    torch.testing.assert_close(found, (held[0], 3 * held[1]))
    base = (torch.ones(4), torch.zeros(3, 2))
    found = IntegratedGradients(Branches(kind), at="parts").attribute(x, layer_baselines=base)
    torch.testing.assert_close(found, (held[0] - 1, 3 * held[1]))


def test_a_unit_of_a_container_is_read_by_a_function(x):
    by_name = Site("parts", unit=lambda held: held["square"][:, 1])
    torch.testing.assert_close(
        Saliency(Branches(dict), abs=False).attribute(x, target=by_name),
        slope(lambda z: torch.sin(z)[:, 1] ** 2, x),
    )
    with pytest.raises(TorchwhyError, match=r"Site\('parts', unit=1\).*dict"):
        Saliency(Branches(dict)).attribute(x, target=Site("parts", unit=1))
    first = Saliency(Branches(tuple), abs=False).attribute(x, target=Site("parts", unit=1))
    torch.testing.assert_close(first, slope(lambda z: 2 * torch.sin(z)[:, 1], x))


def test_arguments_by_keyword_are_part_of_the_input_of_a_layer(x):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = Parts(tuple)

        def forward(self, x: Tensor) -> Tensor:
            return self.parts(x=torch.sin(x), scale=x + 1)[0].sum(1)

    held = {"scale": x + 1, "x": torch.sin(x)}
    found = Saliency(Named(), at=Site("parts", input=True), abs=False).attribute(x)
    torch.testing.assert_close(found, (2 * held["scale"], 2 * held["x"]))
    found = Saliency(Named(), abs=False).attribute(x, target=Site("parts", unit=1, input=True))
    torch.testing.assert_close(found, slope(lambda z: torch.sin(z)[:, 1], x))


@pytest.mark.parametrize("inputs", [False, True])
def test_in_place_operations_behind_a_layer_do_not_show(inputs):
    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 2, 3), nn.Linear(18, 3)
    rash = nn.Sequential(first, nn.ReLU(inplace=True), nn.Flatten(), last)
    x = torch.randn(3, 1, 5, 5)
    held = first(x).detach()
    assert (held < 0).any()
    at = Site("1", input=True) if inputs else "0"

    def rest(z: Tensor) -> Tensor:
        return last(torch.relu(z).flatten(1))[:, 0]

    torch.testing.assert_close(InputXGradient(rash, at=at).attribute(x, target=0), held * slope(rest, held))
    torch.testing.assert_close(
        IntegratedGradients(rash, at=at).attribute(x, target=0, layer_baselines=0).flatten(1).sum(1),
        rest(held) - rest(torch.zeros_like(held)),
        rtol=0.02,
        atol=0.02,
    )
    unit = Site("1", (0, 0, 0), input=True) if inputs else Site("0", (0, 0, 0))
    found = Saliency(rash, abs=False).attribute(x, target=unit)
    torch.testing.assert_close(found, slope(lambda z: first(z)[:, 0, 0, 0], x))


def test_at_the_last_layer_the_target_is_all_there_is(twice, x):
    for at in ("head", twice):
        expected = torch.tensor([0.0, 1.0, 0.0]).expand(3, 3)
        assert torch.equal(Saliency(twice, at=at).attribute(x, target=1), expected)
        torch.testing.assert_close(FeatureAblation(twice, at=at).attribute(x, target=1), expected * twice(x))
        torch.testing.assert_close(
            IntegratedGradients(twice, at=at).attribute(x, target=1),
            expected * (twice(x) - twice(torch.zeros(1, 4))),
        )


def test_target_and_layer_may_be_the_same(twice, x):
    found = Saliency(twice, at="head", abs=False).attribute(x, target=Site("head", 2))
    assert torch.equal(found, torch.tensor([0.0, 0.0, 1.0]).expand(3, 3))


@pytest.mark.parametrize("method", [Saliency, IntegratedGradients, FeatureAblation])
def test_a_target_in_front_of_the_layer_is_refused(twice, x, method):
    with pytest.raises(TorchwhyError, match=r"target.*Site\('head'\)") as caught:
        method(twice, at="head").attribute(x, target=Site("body.linear", 0, call=0))
    assert "never reached" not in str(caught.value)


def test_a_layer_without_the_batch_in_front_is_refused(x):
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.turn(x.T).T.sum(1)

    with pytest.raises(TorchwhyError, match=r"holds shapes \(\(4, 3\),\) for 3 rows.*batch in dimension 0.*batch=1"):
        Saliency(Turned(), at="turn").attribute(x)
    found = InputXGradient(Turned(), at=Site("turn", batch=1)).attribute(x)
    assert torch.equal(found, x)
    with pytest.raises(TorchwhyError, match=r"shape \(4, 3\), without dimension 2"):
        Saliency(Turned(), at=Site("turn", batch=2)).attribute(x)


def test_a_layer_without_numbers_is_refused():
    model = nn.Sequential(nn.Identity(), nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(TorchwhyError, match=r"Site\('0'\) holds no floating-point tensor"):
        Saliency(model, at="0").attribute(torch.tensor([[1, 2]]), target=0)


# -- units ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "read"),
    [
        (1, lambda h: h[:, 1].sum((1, 2))),
        (-1, lambda h: h[:, -1].sum((1, 2))),
        (np.int64(1), lambda h: h[:, 1].sum((1, 2))),
        ((1, 0, 2), lambda h: h[:, 1, 0, 2]),
        ([1, 0, 2], lambda h: h[:, 1, 0, 2]),
        ((np.int64(1), 0, 2), lambda h: h[:, 1, 0, 2]),
        ((1, slice(0, 2)), lambda h: h[:, 1, 0:2].sum((1, 2))),
        (slice(0, 1), lambda h: h[:, 0].sum((1, 2))),
        ((..., 0), lambda h: h[..., 0].sum((1, 2))),
        (lambda h: h.amax((1, 2, 3)), lambda h: h.amax((1, 2, 3))),
    ],
    ids=lambda value: "" if callable(value) else repr(value),
)
def test_units_are_indices_behind_the_batch(unit, read):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 3))
    x = torch.randn(2, 1, 5, 5)
    found = Saliency(model, abs=False).attribute(x, target=Site("0", unit))
    torch.testing.assert_close(found, slope(lambda z: read(model[0](z)), x))


@pytest.mark.parametrize("unit", [7, (0, 0, 0, 0), (0, 9), None, 1.5, "a", True, (1.5,)], ids=repr)
def test_units_that_are_not_there_are_refused(unit):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 3))
    with pytest.raises(TorchwhyError, match=r"Site\('0'"):
        Saliency(model).attribute(torch.randn(2, 1, 5, 5), target=Site("0", unit))


# -- taps ----------------------------------------------------------------------------------------------------


def hooks(model: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_a_tap_is_gone_after_its_with(twice, x):
    before = hooks(twice)
    with Tap(twice, Site("head")) as tap:
        twice(x)
    assert tap.calls == 1
    with pytest.raises(RuntimeError, match="mine"), Tap(twice, Site("head", input=True)):
        raise RuntimeError("mine")
    with pytest.raises(TorchwhyError, match="never reached"), Tap(twice, Site("head")):
        pass
    assert hooks(twice) == before


def test_the_owners_hooks_are_heard_first(twice, x):
    twice.head.register_forward_hook(lambda module, args, output: output + 100)
    expected = twice(x).detach()
    with Tap(twice, Site("head")) as tap:
        twice(x)
    assert tap.held is not None
    assert torch.equal(tap.held.parts[0], expected)


# -- the layer that is taken where none was named ------------------------------------------------------------


class Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pool, self.fc = (
            nn.Conv2d(1, 2, 3),
            nn.Conv2d(2, 3, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(3, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(torch.relu(self.b(self.a(x)))).flatten(1))


def test_the_last_spatial_layer():
    x = torch.randn(2, 1, 8, 8)
    assert last_map(Vision(), Tensors([x[:1]]), (), 2) == Site("b")
    model = Vision()
    torch.testing.assert_close(GradCAM(model).attribute(x, target=0), GradCAM(model, at="b").attribute(x, target=0))


def test_without_a_map_a_layer_must_be_named(twice, x):
    with pytest.raises(TorchwhyError, match=r"Twice has no layer that holds a spatial map.*at="):
        GradCAM(twice).attribute(x, target=0)
    model = Vision()
    with pytest.raises(TorchwhyError, match=r"function.*at=module"):
        GradCAM(lambda x: model(x)).attribute(torch.randn(2, 1, 8, 8), target=0)  # noqa: PLW0108
