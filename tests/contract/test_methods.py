"""What every registered method keeps: its form, its numbers, and its hands off all that is not its own."""

from __future__ import annotations

import copy
import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchwhy import Explanation, NoiseTunnel, Site, TorchwhyError

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    a, b = (t if isinstance(t, tuple) else (t,) for t in (a, b))
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# -- form ----------------------------------------------------------------------------------------------------


def test_a_tensor_gives_a_tensor(case, net, x):
    values = case.attribute(net, x, target=1)
    assert isinstance(values, Tensor)
    assert values.shape == ((3, 1, 3, 3) if case.needs_layer else case.form(x.shape))
    assert values.isfinite().all()
    assert values.abs().sum() > 0
    assert not values.requires_grad


def test_a_tuple_gives_a_tuple(case, pair, both):
    values = case.attribute(pair, both, target=1)
    if case.needs_layer:
        assert values.shape == (3, 1, 3, 3)
        return
    if case.in_pairs:
        assert values.shape == (3, 27, 27)
        assert (values.abs().sum(2) > 0).all()
        return
    assert isinstance(values, tuple)
    assert [v.shape for v in values] == [t.shape for t in both]
    assert all(v.abs().sum() > 0 for v in values)


def test_a_tuple_of_one_gives_a_tuple_of_one(case, net, x):
    values = case.attribute(net, (x,), target=1)
    plain = case.attribute(net, x, target=1)
    if case.needs_layer or case.in_pairs:
        close(values, plain, 0)
        return
    assert isinstance(values, tuple)
    close(values, (plain,), 0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_dtype_of_the_input_is_the_dtype_of_the_values(case, net, x, dtype):
    wide = case.attribute(net, x, target=1)
    values = case.attribute(net.to(dtype), x.to(dtype), target=1)
    assert values.dtype == dtype
    assert values.isfinite().all()
    if dtype == torch.float64:
        return  # random draws have as many digits as the input, and are others here
    error = (values.float() - wide).norm() / wide.norm()
    assert error < 32 * torch.finfo(dtype).eps


def test_every_part_of_a_tuple_keeps_its_dtype(case):
    if case.needs_map:
        return  # there is no layer

    def model(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() ** 2).sum(1) + 2 * (b.double() ** 2).sum(1)

    inputs = (
        torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float16),
        torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, -2.0]]),
    )
    found = case.explain(model, inputs)
    if case.in_pairs:
        assert found.values.dtype == torch.float32  # the wider one
        return
    assert [v.dtype for v in found.values] == [torch.float16, torch.float32]


@pytest.mark.parametrize(
    ("at", "shape"),
    [
        ("conv", (3, 3, 3, 3)),
        ("norm", (3, 3, 3, 3)),
        (Site("norm", input=True), (3, 3, 3, 3)),
        (Site("act", call=1), (3, 3, 3, 3)),
        (Site("act", call=1, input=True), (3, 3, 3, 3)),
        ("drop", (3, 3, 3, 3)),
        ("fc", (3, 4)),
        (Site("fc", input=True), (3, 27)),
    ],
    ids=str,
)
def test_at_a_layer_the_values_have_its_form(case, net, x, at, shape):
    values = case.attribute(net, x, at=at, target=1)
    assert values.shape == case.form(shape)
    assert values.isfinite().all()


def test_a_layer_may_be_given_as_the_module(case, net, x):
    close(case.attribute(net, x, at=net.conv, target=1), case.attribute(net, x, at="conv", target=1), 0)


# -- targets -------------------------------------------------------------------------------------------------


def second(output: Tensor) -> Tensor:
    return output[:, 2]


def second_column(output: Tensor) -> Tensor:
    return output[:, 2:3]


def told(value: Any) -> str:
    """The same in every process that collects the tests: without addresses."""
    return re.sub(r"<function (\w+) at \w+>", r"\1", repr(value))


@pytest.mark.parametrize(
    "target",
    [
        torch.tensor(2),
        torch.tensor([2, 2, 2]),
        torch.tensor([2], dtype=torch.int32),
        [2, 2, 2],
        [(2,), (2,), (2,)],
        (2,),
        -2,
        np.int64(2),
        np.array([2, 2, 2]),
        second,
        second_column,
        Site("fc", unit=2),
        Site("fc", unit=(-2,)),
        Site("fc", unit=slice(2, 3)),
        Site("fc", unit=second),
    ],
    ids=told,
)
def test_all_ways_to_name_a_target_agree(case, net, x, target):
    close(case.attribute(net, x, target=target), case.attribute(net, x, target=2), 1e-6)


def test_one_target_per_example(case, net, x):
    together = case.attribute(net, x, target=[3, 0, 1])
    for i, target in enumerate([3, 0, 1]):
        close(together[i], case.attribute(net, x, target=target)[i])


def test_no_target_is_the_prediction_at_the_input_itself(case, net, x):
    predicted = net(x).argmax(1)
    found = case.explain(net, x)
    assert found.predicted
    assert found.target == tuple(str(c) for c in predicted.tolist())
    close(found.values, case.attribute(net, x, target=predicted), 0)


def test_a_target_of_several_indices(case, net, x):
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).view(-1, 2, 2)

    plain = case.attribute(net, x, target=2)
    close(case.attribute(Maps(), x, target=(1, 0)), plain, 1e-6)
    close(case.attribute(Maps(), x, target=[(1, 0), (1, 0), (1, 0)]), plain, 1e-6)
    with pytest.raises(TorchwhyError, match=r"shape \(3, 2, 2\).*target"):
        case.attribute(Maps(), x)


def test_one_score_per_example_needs_no_target(case, net, x):
    class Flat(nn.Module):
        def __init__(self, keep: bool) -> None:
            super().__init__()
            self.net, self.keep = net, keep

        def forward(self, x: Tensor) -> Tensor:
            score = self.net(x)[:, 2]
            return score[:, None] if self.keep else score

    plain = case.attribute(net, x, target=2)
    close(case.attribute(Flat(keep=False), x), plain, 1e-6)
    close(case.attribute(Flat(keep=True), x), plain, 1e-6)


# -- further arguments of the model --------------------------------------------------------------------------


class Extra(nn.Module):
    """Scales the output per example, and takes arguments of every kind."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, scale: Tensor, shift: float, table: Tensor, word: str, nothing: None) -> Tensor:
        assert scale.shape == (len(x), 1)
        assert (shift, word, nothing) == (0.5, "word", None)
        assert table.shape == (7, 4)
        return self.net(x) * scale + shift + table[3]


def test_further_arguments_follow_their_examples(case, net, x):
    scale, table = torch.tensor([[1.0], [2.0], [-3.0]]), torch.randn(7, 4)
    values = case.attribute(Extra(net), x, target=1, extra=(scale, 0.5, table, "word", None))
    for i in range(3):
        alone = case.attribute(Extra(net), x[i : i + 1], target=1, extra=(scale[i : i + 1], 0.5, table, "word", None))
        close(values[i : i + 1], alone)
    assert not torch.allclose(values[0], values[1])


def test_further_arguments_at_a_layer_follow_their_examples(case, net):
    class Early(nn.Module):
        """The argument acts in front of the layer."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return self.net(x + shift)

    x, shift = torch.ones(3, 1, 5, 5), torch.tensor([0.1, -1.0, 2.0]).view(3, 1, 1, 1)
    values = case.attribute(Early(), x, at="net.conv", target=1, extra=shift)
    for i in range(3):
        close(
            values[i : i + 1],
            case.attribute(Early(), x[i : i + 1], at="net.conv", target=1, extra=shift[i : i + 1]),
        )


def test_a_single_further_argument_needs_no_tuple(case, net, x):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, scale: float) -> Tensor:
            return scale * self.net(x)

    close(case.attribute(Scaled(), x, target=1, extra=1.0), case.attribute(net, x, target=1), 1e-6)


# -- the same question has the same answer -------------------------------------------------------------------


def test_runs_repeat_and_seeds_matter(case, net, x):
    first = case.attribute(net, x, target=1)
    torch.manual_seed(99)
    close(first, case.attribute(net, x, target=1), 0)
    if hasattr(case.cls, "seed"):
        assert not torch.allclose(first, case.attribute(net, x, target=1, seed=1))


@pytest.mark.parametrize("seed", [42, 20240101, 2**40])
def test_any_whole_number_is_a_seed(case, net, x, seed):
    if hasattr(case.cls, "seed"):
        values = case.attribute(net, x, target=1, seed=seed)
        close(values, case.attribute(net, x, target=1, seed=seed), 0)
        assert not torch.allclose(values, case.attribute(net, x, target=1, seed=seed + 1))


@pytest.mark.parametrize("at", [None, "norm"])
def test_neither_batch_nor_chunk_decides(case, net, at):
    net, x = (
        net.double(),
        torch.randn(20, 1, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64),
    )
    whole = case.attribute(net, x, at=at, target=1)
    for rows in (1, 7, 64):
        close(case.attribute(net, x, at=at, target=1, batch_size=rows), whole, 1e-10)
    for i in (0, 19):
        close(case.attribute(net, x[i : i + 1], at=at, target=1), whole[i : i + 1], 1e-10)
    close(case.attribute(net, x.flip(0), at=at, target=1), whole.flip(0), 1e-10)


@pytest.mark.parametrize("at", [None, "norm"])
def test_noise_goes_around_every_method(case, net, x, at, remember):
    changes = remember(net, x)
    tunnel = NoiseTunnel(case.method(net, at), nt_samples=3, stdevs=0.1)
    values = tunnel.attribute(x, case.baselines(x), target=[0, 1, 2])
    assert changes() == []
    for i in range(3):
        close(tunnel.attribute(x[i : i + 1], case.baselines(x), target=i), values[i : i + 1])
    in_chunks = NoiseTunnel(case.method(net, at), nt_samples=3, stdevs=0.1, batch_size=2)
    close(in_chunks.attribute(x, case.baselines(x), target=[0, 1, 2]), values)
    found = tunnel.explain(x, case.baselines(x), target=[0, 1, 2], check="basic")
    close(found.values, values, 0)
    assert all(v is None or math.isfinite(v) for check in found.evidence for v in check.value)


# -- evidence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [None, "norm"])
def test_an_explanation_carries_its_evidence(case, net, x, at):
    found = case.explain(net, x, at=at, target=[0, 1, 2])
    close(found.values, case.attribute(net, x, at=at, target=[0, 1, 2]), 0)
    close(found.scores, net(x).detach()[range(3), range(3)])
    close(found.output, net(x).detach())
    assert torch.equal(found.inputs, x)
    assert found.target == ("0", "1", "2")
    assert not found.predicted
    assert found.method == case.cls.__name__
    assert found.signed == case.method(net).facts.signed
    assert "faithfulness" in [c.name for c in found.evidence]
    for check in found.evidence:
        assert len(check.status) == len(check.value) == len(check.reason) == 3
        assert set(check.status) <= {"pass", "warn", "unknown"}
        assert all(value is None or math.isfinite(value) for value in check.value)
        assert all(check.reason)
    assert len(found.verdicts) == 3
    assert found.provenance["dtype"] == "float32"
    assert found.provenance["forward_rows"] >= 3
    assert found.form == case.cls.info.form
    if not case.in_pairs:
        assert found.provenance["check_rows"] >= 3 * 2 * (1 + 5)
    if found.standard_error is not None:
        assert found.standard_error.shape == found.values.shape
        assert (found.standard_error >= 0).all()


def test_all_checks_have_an_answer_in_words(case, net, x):
    # As few features as tell, since everything is explained several times over.
    few = {"feature_mask": torch.arange(25).view(1, 1, 5, 5) // 3} if case.in_pairs else {}
    before = {name: t.clone() for name, t in net.state_dict().items()}
    found = case.explain(net, x[:2], target=[0, 1], check="full", **few)
    close(found.values, case.method(net, **few).attribute(x[:2], case.baselines(x[:2]), target=[0, 1]), 0)
    asked = ["training", "decision", "steadiness", "faithfulness", "weights", "class", "noise", "baseline"]
    assert [c.name for c in found.evidence if c.name in asked] == asked
    for check in found.evidence:
        assert len(check.status) == len(check.value) == len(check.reason) == 2
        assert all(value is None or math.isfinite(value) for value in check.value)
        assert all(check.reason)
        if check.name in ("weights", "class", "noise"):
            assert None not in check.value or "the same everywhere" in " ".join(check.reason)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_a_tuple_carries_its_evidence(case, pair, both):
    found = case.explain(pair, both, target=1)
    assert all(v is None or math.isfinite(v) for check in found.evidence for v in check.value)
    assert isinstance(found.inputs, tuple)


def test_what_was_explained_stays_what_it_was(case, net, x):
    found = case.explain(net, x, target=1)
    kept = x.clone()
    x.zero_()
    assert torch.equal(found.inputs, kept)


@pytest.mark.parametrize("several", [False, True])
def test_files_hold_the_whole_explanation(case, net, pair, x, both, several, tmp_path):
    found = case.explain(pair, both) if several else case.explain(net, x)
    assert_equal(Explanation.load(found.save(tmp_path / "explanation.safetensors")), found)


def assert_equal(read: Explanation, written: Explanation) -> None:
    for name, value in vars(written).items():
        again = getattr(read, name)
        assert type(again) is type(value)
        if isinstance(value, Tensor) or (name in {"values", "inputs", "standard_error"} and value is not None):
            close(again, value, 0)
        else:
            assert json.dumps(again, default=vars) == json.dumps(value, default=vars), name


# -- hands off -----------------------------------------------------------------------------------------------


@pytest.fixture
def worn(pair: nn.Module) -> nn.Module:
    """A network in use: partly trained, partly frozen, with gradients and hooks of its owner's."""
    pair.train()
    pair.net.norm.eval()
    pair.net.conv.bias.requires_grad_(False)
    for i, p in enumerate(pair.parameters()):
        p.grad = torch.full_like(p, i) if i % 2 else None
    pair.net.act.register_forward_hook(lambda module, args, output: None)
    pair.net.conv.register_forward_pre_hook(lambda module, args: None)
    pair.net.fc.register_full_backward_hook(lambda module, g_in, g_out: None)
    return pair


@pytest.mark.parametrize("at", [None, "net.norm", Site("net.act", call=1, input=True)], ids=str)
def test_everything_is_left_as_it_was(case, worn, both, at, remember):
    changes = remember(worn, *both)
    case.explain(worn, both, at=at)
    case.explain(worn, both, at=at, target=Site("net.fc", 2))
    assert changes() == []


class Failing(nn.Module):
    """Raises in its k-th forward pass, behind all layers."""

    def __init__(self, pair: nn.Module, error: BaseException, k: int) -> None:
        super().__init__()
        self.pair, self.error, self.left = pair, error, k

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out = self.pair(a, b)
        self.left -= 1
        if self.left == 0:
            raise self.error
        return out


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("at", [None, "pair.net.norm"])
def test_an_error_leaves_everything_as_it_was(case, worn, both, at, k, error, remember):
    model = Failing(worn, error, k)
    changes = remember(model, *both)
    with pytest.raises((type(error), TorchwhyError)):
        case.explain(model, both, at=at, target=1, batch_size=1)
    assert model.left <= 0
    assert changes() == []


def test_training_mode_does_not_change_the_numbers(case, net, x):
    expected = case.attribute(net, x, target=1)
    close(case.attribute(net.train(), x, target=1), expected, 0)
    assert net.training


def test_a_function_around_a_network_leaves_it_as_it_was(case, net, x, remember):
    look = {"at": net.drop} | case.looking_at(net.drop)
    expected = case.attribute(net, x, **look, target=1)
    net.train()
    changes = remember(net, x)
    values = case.attribute(lambda t: net(t), x, **look, target=1)  # noqa: PLW0108  a function
    assert changes() == []
    close(values, expected)


def test_frozen_networks_are_explained(case, net, x):
    expected = case.attribute(net, x, target=1)
    close(case.attribute(net.requires_grad_(requires_grad=False), x, target=1), expected, 0)
    assert not any(p.requires_grad for p in net.parameters())


def test_further_arguments_are_left_as_they_were(case, net, x):
    class Greedy(nn.Module):
        """Changes its arguments in place."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, rows: Tensor, table: Tensor) -> Tensor:
            return self.net(x) * rows.mul_(2) + table.add_(1).sum()

    rows, table = torch.ones(3, 1), torch.ones(7)
    values = case.attribute(Greedy(), x, target=1, extra=(rows, table))
    assert torch.equal(rows, torch.ones(3, 1))
    assert torch.equal(table, torch.ones(7))
    close(values, case.attribute(Greedy(), x, target=1, extra=(rows, table)), 0)


# -- wherever it is called from ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("at", [None, "norm"])
def test_any_gradient_mode_will_do(case, net, x, at, mode: type[AbstractContextManager[None]]):
    expected = case.attribute(net, x, at=at, target=1)
    with mode():
        again = case.explain(net, x.clone(), at=at, target=1)
    close(again.values, expected, 0)


def test_tensors_made_in_inference_mode_will_do(case, net, x):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
            return self.net(x * rows * scale)

    with torch.inference_mode():
        inside, rows, scale = x.clone(), torch.ones(3, 1, 1, 1), torch.ones(1)
    close(case.attribute(Scaled(), inside, target=1, extra=(rows, scale)), case.attribute(net, x, target=1))


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def inner(x: Tensor) -> Tensor:
    return x.clone().requires_grad_() * 1


def strided(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def sliced(x: Tensor) -> Tensor:
    return torch.stack([x, x], 1)[:, 1]


@pytest.mark.parametrize("form", [leaf, inner, strided, sliced])
def test_any_layout_and_history_of_the_input_will_do(case, net, x, form, remember):
    given = form(x)
    changes = remember(net, given)
    close(case.attribute(net, given, target=1), case.attribute(net, x, target=1))
    assert changes() == []


def test_expanded_inputs_will_do(case, net, x):
    one = x[:1]
    values = case.attribute(net, one.expand(3, -1, -1, -1), target=1)
    close(values, torch.cat([case.attribute(net, one, target=1)] * 3))


def test_a_network_may_change_its_input_in_place(case, net, x):
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.mul_(2).add_(1))

    class OutOfPlace(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x * 2 + 1)

    kept = x.clone()
    close(case.attribute(InPlace(), x, target=1), case.attribute(OutOfPlace(), x, target=1), 1e-6)
    assert torch.equal(x, kept)


def test_a_layer_may_be_changed_in_place_behind(case):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)]
    plain = nn.Sequential(*layers)
    rash = nn.Sequential(layers[0], nn.ReLU(inplace=True), *layers[2:])
    x = torch.randn(3, 1, 5, 5)
    close(case.attribute(rash, x, at="0", target=1), case.attribute(plain, x, at="0", target=1), 0)
    unit, look = Site("0", (1, 0, 0)), case.looking_at("0")
    close(case.attribute(rash, x, **look, target=unit), case.attribute(plain, x, **look, target=unit), 0)


@pytest.fixture(params=["lambda", "bound method", "partial", "callable object"])
def as_function(request: pytest.FixtureRequest, net: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    class Holder:
        def __call__(self, x: Tensor) -> Tensor:
            return net(x)

    return {
        "lambda": lambda x: net(x),  # noqa: PLW0108  a function
        "bound method": net.forward,
        "partial": functools.partial(net),
        "callable object": Holder(),
    }[request.param]


def test_functions_are_explained_like_networks(case, net, x, as_function):
    look = case.looking_at(net.drop)
    close(case.attribute(as_function, x, **look, target=1), case.attribute(net, x, **look, target=1), 1e-6)


def test_a_score_of_no_dimensions_will_do_for_one_example(case, net, x):
    def model(x: Tensor) -> Tensor:
        return net(x)[:, 1].squeeze()

    look = case.looking_at(net.drop)
    close(case.attribute(model, x[:1], **look), case.attribute(net, x[:1], **look, target=1), 1e-6)


# -- what cannot be explained is refused in one line ---------------------------------------------------------


def refused(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(TorchwhyError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_bad_inputs_are_refused(case, net, x):
    holes = x.clone()
    holes[1, 0, 2, 3] = float("nan")
    refused(lambda: case.attribute(net, holes, target=1), "NaN", "(1, 0, 2, 3)")
    holes[1, 0, 2, 3] = -float("inf")
    refused(lambda: case.attribute(net, holes, target=1), "infinite", "(1, 0, 2, 3)")
    refused(lambda: case.attribute(net, x[:0], target=1), "no examples")
    refused(lambda: case.attribute(net, torch.tensor(1.0), target=1), "batch")
    refused(lambda: case.attribute(net, (x, x[:2]), target=1), "batch")
    refused(lambda: case.method(net).attribute(x.tolist(), target=1), "tensor", "list")
    refused(lambda: case.method(net).attribute(x.numpy(), target=1), "tensor", "ndarray")


def test_inputs_without_elements_are_refused(case, net, x):
    refused(lambda: case.attribute(net, x[..., :0], target=1), "1, 5, 0)")


def test_inputs_that_do_not_fit_the_network_are_refused(case, net, x):
    refused(lambda: case.attribute(net, x[..., :4], target=1), "1, 5, 4)")
    refused(lambda: case.attribute(net, (x, x), target=1), "1, 5, 5)")


def test_dtypes_that_do_not_fit_the_network_are_refused(case, net, x):
    refused(lambda: case.attribute(net, x.double(), target=1), "float64", "float32")
    refused(lambda: case.attribute(net, x.long(), target=1), "int64")


def test_bad_targets_are_refused(case, net, x):
    refused(lambda: case.attribute(net, x, target=4), "4", "0 to 3")
    refused(lambda: case.attribute(net, x, target=[0, 1]), "2 targets", "3 examples")
    for target in (1.5, True, torch.ones(3), "cat", {0: 1, 1: 1, 2: 1}, range(3, 6), object()):
        refused(lambda: case.attribute(net, x, target=target), "target")  # noqa: B023


def test_bad_layers_are_refused(case, net, x):
    refused(lambda: case.attribute(net, x, at="cnov", target=1), "'cnov'", "'conv'")
    refused(lambda: case.attribute(net, x, at=nn.Linear(1, 1), target=1), "not a module of Net")
    refused(lambda: case.attribute(net, x, at="act", target=1), "more than once", "call=0")
    refused(lambda: case.attribute(net, x, at=Site("act", call=2), target=1), "2 times")


def test_a_target_in_front_of_the_layer_is_refused(case, net, x):
    refused(lambda: case.attribute(net, x, at="fc", target=Site("conv", (0, 1, 1))), "Site('fc')", "target")


def test_outputs_that_are_not_finite_are_refused(case, net, x):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * torch.tensor([1, float("nan"), float("inf"), 1])

    refused(lambda: case.attribute(Broken(), x, target=1), "nan")
    refused(lambda: case.attribute(Broken(), x, target=2), "inf")


def test_misspelt_options_are_refused(case, net, x):
    refused(lambda: case.method(net).attribute(x, target=1, bach_size=3), "'bach_size'", "'batch_size'")


@pytest.mark.parametrize("rows", ["3", 2.5, 0, True], ids=repr)
def test_a_batch_size_is_a_count(case, net, x, rows):
    refused(lambda: case.attribute(net, x, target=1, batch_size=rows), "batch_size", repr(rows))


def test_an_unknown_precision_is_refused(case, net, x):
    if hasattr(case.cls, "precision"):
        refused(lambda: case.attribute(net, x, target=1, precision="bf16"), "precision", "'bf16'")


@pytest.mark.parametrize("seed", [None, 1.5, "a", True], ids=repr)
def test_a_seed_is_a_whole_number(case, net, x, seed):
    if hasattr(case.cls, "seed"):
        refused(lambda: case.attribute(net, x, target=1, seed=seed), "seed", repr(seed))


@pytest.mark.parametrize("numpy", [False, True])
def test_an_operation_without_a_derivative_is_refused_or_not_needed(case, net, x, numpy):
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            out = self.net(x)
            return torch.from_numpy(out.numpy()) if numpy else out.detach()

    if case.method(Detached()).facts.needs == "gradients":
        refused(lambda: case.attribute(Detached(), x, target=1), "derivative", "FeatureAblation")
    else:
        without = {"gradients": False} if hasattr(case.cls, "gradients") else {}
        found = case.attribute(Detached(), x, target=1, **without)
        close(found, case.attribute(net, x, target=1, **without), 1e-6)


def test_pairs_are_symmetric_and_mark_nothing_to_remove(case, net, x):
    if case.in_pairs:
        found = case.explain(net, x, target=1)
        close(found.values, found.values.mT, 0)
        (check,) = [c for c in found.evidence if c.name == "faithfulness"]
        assert set(check.status) == {"unknown"}


def test_facts_are_told(case):
    info = case.cls.info
    assert info.summary
    assert info.paper
    assert 1970 < info.year < 2100
    assert info.cost
    assert case.cls.__doc__


def test_methods_are_not_changed_by_use(case, net, x):
    method = case.method(net)
    before = copy.copy(vars(method))
    method.attribute(x, case.baselines(x), target=1)
    assert vars(method) == before
