"""Layers of every kind: several at once, all calls of one, other layouts, embeddings, models spread over devices."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchwhy import (
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    GradCAM,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    NoiseTunnel,
    Saliency,
    ShapleyValueSampling,
    Site,
    SmoothGrad,
    TorchwhyError,
    UnsupportedError,
    explain,
)
from torchwhy.core.site import Sites, find_place


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Fork(nn.Module):
    """Two branches side by side, a layer in which they meet, and one behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(4, 5), nn.Linear(4, 6)
        self.meet, self.last = nn.Linear(11, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.left(x), self.right(x))

    def behind(self, left: Tensor, right: Tensor) -> Tensor:
        both = torch.cat([torch.tanh(left) * right[:, :5], right**2], 1)
        return self.last(torch.tanh(self.meet(both[:, :11])))


class Skip(nn.Module):
    """The first layer acts through the second, and past it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.head(torch.tanh(h) * self.second(torch.tanh(h)))


X = normal(3, 4)


@pytest.fixture
def fork() -> Fork:
    return Fork().double().requires_grad_(False)


@pytest.fixture
def skip() -> Skip:
    return Skip().double().requires_grad_(False)


# -- several layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Saliency, InputXGradient, GradCAM, GuidedBackprop, SmoothGrad])
@pytest.mark.parametrize("at", [["last", "left", "meet"], ("right", Site("meet", input=True))])
def test_gradients_at_several_layers_are_those_of_each_alone(fork, method, at):
    found = method(fork, at=at).attribute(X, target=1)
    assert type(found) is list
    for one, layer in zip(found, at, strict=True):
        close(one, method(fork, at=layer).attribute(X, target=1))


def test_one_pass_serves_several_layers(fork):
    x = normal(7, 4)
    one = explain(fork, x, 1, method="Saliency", at="left").provenance
    all_of_them = explain(fork, x, 1, method="Saliency", at=["left", "meet", "last"]).provenance
    for found in (one, all_of_them):
        assert (found["forward_rows"], found["backward_rows"]) == (7, 7)


def test_a_layer_behind_another_passes_on_its_gradient(skip):
    first, second = Saliency(skip, at=["first", "second"], abs=False).attribute(X, target=0)
    h = skip.first(X)
    act = torch.tanh(h)
    w = skip.head.weight[0]
    close(second, w * act)
    # d/dh of w (act * second(act)) through both ways.
    close(first, (w * skip.second(act) + (w * act) @ skip.second.weight) * (1 - act**2))


def test_the_path_of_several_layers_is_theirs_together(fork):
    found = IntegratedGradients(fork, at=["right", "left"], n_steps=200).attribute(X, target=1)
    right, left, right0, left0 = fork.right(X), fork.left(X), fork.right(0 * X), fork.left(0 * X)
    nodes = torch.linspace(0.5 / 4000, 1 - 0.5 / 4000, 4000, dtype=torch.float64)
    sums = [torch.zeros_like(right), torch.zeros_like(left)]
    for a in nodes:
        z = [(r0 + a * (r - r0)).requires_grad_() for r, r0 in ((right, right0), (left, left0))]
        slopes = torch.autograd.grad(fork.behind(z[1], z[0])[:, 1].sum(), z)
        sums = [total + g / len(nodes) for total, g in zip(sums, slopes, strict=True)]
    torch.testing.assert_close(found[0], sums[0] * (right - right0), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[1], sums[1] * (left - left0), rtol=1e-5, atol=1e-7)
    moved = fork(X)[:, 1] - fork(0 * X)[:, 1]
    torch.testing.assert_close(sum(t.sum(1) for t in found), moved, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(found[0], IntegratedGradients(fork, at="right", n_steps=200).attribute(X, target=1))


@pytest.mark.parametrize("method", [IntegratedGradients, DeepLift])
def test_what_several_layers_do_adds_up(fork, method):
    found = method(fork, at=["left", "right"]).explain(X, target=1, check="basic")
    moved = fork(X)[:, 1] - fork(0 * X)[:, 1]
    torch.testing.assert_close(sum(t.sum(1) for t in found.values), moved, rtol=1e-2, atol=1e-4)
    assert found.at == "left, right"
    assert {c.name: c.status for c in found.evidence}["completeness"] == ("pass",) * 3


def test_sets_of_baselines_and_games_at_several_layers(fork):
    background = normal(4, 4, seed=2)
    average = fork(X)[:, 1] - fork(background)[:, 1].mean()
    for method in (DeepLiftShap(fork, at=["left", "right"]), GradientShap(fork, at=["left", "right"], n_samples=4000)):
        found = method.attribute(X, background, target=1)
        torch.testing.assert_close(sum(t.sum(1) for t in found), average, rtol=0.05, atol=0.02)
    left, right = FeatureAblation(fork, at=["left", "right"]).attribute(X, target=1)
    held = (fork.left(X), fork.right(X))
    expected = torch.stack(
        [fork(X)[:, 1] - fork.behind(held[0] * (torch.arange(5) != i), held[1])[:, 1] for i in range(5)], 1
    )
    close(left, expected)
    assert right.shape == (3, 6)
    values = ShapleyValueSampling(fork, at=["left", "right"]).attribute(X, target=1, layer_baselines=0)
    close(sum(t.sum(1) for t in values), fork(X)[:, 1] - fork.behind(0 * held[0], 0 * held[1])[:, 1])


def test_noise_around_several_layers(fork):
    found = NoiseTunnel(IntegratedGradients(fork, at=["left", "right"]), nt_samples=3, stdevs=1e-9).attribute(
        X, target=1
    )
    plain = IntegratedGradients(fork, at=["left", "right"]).attribute(X, target=1)
    assert type(found) is list
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_baselines_of_several_layers(fork):
    each = [1.0, torch.linspace(-1, 1, 6, dtype=torch.float64)]
    ig = IntegratedGradients(fork, at=["left", "right"], n_steps=100)
    found = ig.attribute(X, target=1, layer_baselines=each)
    base = fork.behind(torch.ones(3, 5, dtype=torch.float64), each[1].expand(3, 6))
    torch.testing.assert_close(sum(t.sum(1) for t in found), (fork(X) - base)[:, 1], rtol=1e-5, atol=1e-7)
    for wrong in ([1.0], [1.0, (1.0, 2.0)], (1.0, 2.0, 3.0)):
        with pytest.raises(TorchwhyError, match="layer_baselines"):
            ig.attribute(X, target=1, layer_baselines=wrong)


def test_replaced_together_a_layer_answers_for_what_it_does_past_the_others(skip):
    """Of two layers, one behind the other, the first has what is left when the second is held."""
    found = IntegratedGradients(skip, at=["first", "second"], n_steps=300).attribute(X, target=0)
    moved = skip(X)[:, 0] - skip(0 * X)[:, 0]
    torch.testing.assert_close(found[0].sum(1) + found[1].sum(1), moved, rtol=1e-5, atol=1e-7)
    first, _ = FeatureAblation(skip, at=["first", "second"]).attribute(X, target=0)
    held, kept = skip.first(X), skip.second(torch.tanh(skip.first(X)))
    without = torch.stack([skip.head(torch.tanh(held * (torch.arange(4) != i)) * kept)[:, 0] for i in range(4)], 1)
    close(first, skip(X)[:, :1] - without)
    assert not torch.allclose(first, FeatureAblation(skip, at="first").attribute(X, target=0))


@pytest.mark.parametrize("method", [IntegratedGradients, DeepLift, FeatureAblation, ShapleyValueSampling])
def test_a_layer_that_acts_only_through_another_is_refused(fork, method):
    with pytest.raises(UnsupportedError, match=r"Site\('left'\) does not act.*only through the other places"):
        method(fork, at=["left", "meet"]).attribute(X, target=1)


def test_a_chain_of_layers_has_gradients_but_nothing_to_take_away(fork):
    found = GradCAM(fork, at=["left", "meet"]).explain(X, target=1)
    assert [tuple(v.shape) for v in found.values] == [(3, 1), (3, 1)]
    with pytest.raises(UnsupportedError, match="without check='basic'"):
        GradCAM(fork, at=["left", "meet"]).explain(X, target=1, check="basic")


def test_a_layer_that_does_not_act_at_all_is_refused(fork):
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fork, self.aside = fork, nn.Linear(4, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.fork(x)

    for method in (Saliency, IntegratedGradients, FeatureAblation):
        with pytest.raises(UnsupportedError, match=r"Site\('aside'\) does not act on the target"):
            method(Aside(), at=["fork.left", "aside"]).attribute(X, target=1)


def test_lists_of_layers_that_say_nothing_are_refused(fork):
    for at, words in (
        ([], "names no layer"),
        (["left", "left"], "twice"),
        (["left", fork.left], "twice"),
        (["left", "rigth"], "did you mean 'right'"),
        (["left", Site("right", unit=1)], "a unit belongs to a target"),
        (["left", 3], "a layer is a module or its name, not int"),
    ):
        with pytest.raises(TorchwhyError, match=words):
            Saliency(fork, at=at).attribute(X, target=1)
    assert find_place(fork, [fork.left]) == Sites((Site("left"),))
    (only,) = Saliency(fork, at=["left"]).attribute(X, target=1)
    close(only, Saliency(fork, at="left").attribute(X, target=1))
    with pytest.raises(TorchwhyError, match=r"runs before \[Site\('left'\), Site\('last'\)\]"):
        Saliency(fork, at=["left", "last"]).attribute(X, target=Site("meet", 0))


# -- all calls -----------------------------------------------------------------------------------------------


class Cell(nn.Module):
    """A cell that runs over the steps of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.act, self.head = nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x), 5)
        for t in range(x.shape[1]):
            total = total + (t + 1) * self.act(self.enter(x[:, t]))
        return self.head(torch.tanh(total))


def test_all_calls_of_a_layer():
    model, x = Cell().double().requires_grad_(False), normal(2, 3, 4)
    everywhere = Site("enter", call="all")
    found = Saliency(model, at=everywhere, abs=False).attribute(x, target=1)
    assert len(found) == 3
    for t in range(3):
        close(found[t], Saliency(model, at=Site("enter", call=t), abs=False).attribute(x, target=1))
    path = IntegratedGradients(model, at=everywhere, n_steps=100).attribute(x, target=1)
    moved = (model(x) - model(0 * x))[:, 1]
    torch.testing.assert_close(sum(p.sum(1) for p in path), moved, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(path[0], IntegratedGradients(model, at=Site("enter", call=0)).attribute(x, target=1))
    ablated = FeatureAblation(model, at=everywhere).attribute(x, target=1)
    close(ablated[1], FeatureAblation(model, at=Site("enter", call=1)).attribute(x, target=1))
    mixed = Saliency(model, at=["head", everywhere], abs=False).attribute(x, target=1)
    close(mixed[1], found)


def test_all_calls_as_a_target():
    model, x = Cell().double().requires_grad_(False), normal(2, 3, 4)
    found = Saliency(model, abs=False).attribute(x, target=Site("enter", 2, call="all"))
    close(found, model.enter.weight[2].expand(2, 3, 4))
    last = Saliency(model, abs=False).attribute(x, target=Site("enter", lambda held: held[-1][:, 2], call="all"))
    close(last, model.enter.weight[2] * torch.tensor([0, 0, 1]).view(1, 3, 1).expand(2, 3, 4))


def test_calls_one_behind_the_other():
    shared = nn.Linear(4, 4).double().requires_grad_(False)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    first, second = Saliency(model, at=Site("0", call="all"), abs=False).attribute(X, target=0)
    assert torch.equal(second, torch.eye(4, dtype=torch.float64)[:1].expand(3, 4))
    close(first, Saliency(model, at=Site("0", call=0), abs=False).attribute(X, target=0))
    for method in (IntegratedGradients, FeatureAblation):
        with pytest.raises(UnsupportedError, match="call 0, does not act on the target, or only through"):
            method(model, at=Site("0", call="all")).attribute(X, target=0)


def test_another_number_of_calls_for_a_changed_copy_is_refused():
    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step, self.head = nn.Identity(), nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            total = 0 * x
            for _ in range(1 + int(x.abs().max() > 0)):
                total = total + self.step(x + 1)
            return self.head(total)

    with pytest.raises(TorchwhyError, match="another number of values"):
        IntegratedGradients(Loops(), at=Site("step", call="all")).attribute(X, target=0)


# -- other layouts -------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = kind(4, 5, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.head, self.batch_first = nn.Linear(15, 2), batch_first

    def forward(self, x: Tensor) -> Tensor:
        steps, states = self.cell(torch.sin(x) if self.batch_first else torch.sin(x).transpose(0, 1))
        return self.behind(steps if self.batch_first else steps.transpose(0, 1), states)

    def behind(self, steps: Tensor, states: Any) -> Tensor:
        """Of steps (B, T, H) and states (layers, B, H)."""
        hidden = states[0] if isinstance(states, tuple) else states
        return self.head(torch.cat([steps[:, -1], hidden[1] ** 2], 1))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_hold_their_steps_and_states(kind, batch_first):
    """As many steps as examples, so that a batch in the wrong place would not be told by the shapes."""
    model, x = Recurrent(kind, batch_first).double().requires_grad_(False), normal(3, 3, 4)
    steps, states = model.cell(torch.sin(x) if batch_first else torch.sin(x).transpose(0, 1))
    steps = steps if batch_first else steps.transpose(0, 1)
    flat = [steps, *(states if isinstance(states, tuple) else [states])]
    z = [t.clone().requires_grad_() for t in flat]
    score = model.behind(z[0], tuple(z[1:]) if isinstance(states, tuple) else z[1])[:, 0].sum()
    slopes = torch.autograd.grad(score, z, materialize_grads=True)
    expected = tuple(g if i == 0 else g.transpose(0, 1) for i, g in enumerate(slopes))
    close(Saliency(model, at="cell", abs=False).attribute(x, target=0), expected)
    assert expected[1].abs().sum() > 0
    moved = (model(x) - model(0 * x))[:, 0]
    for method in (IntegratedGradients, DeepLift):
        found = method(model, at="cell").attribute(x, target=0)
        close(sum(t.flatten(1).sum(1) for t in found), moved)
    last = FeatureAblation(model, at="cell").attribute(x, target=0)[0][:, -1, 3]
    gone = steps.clone()
    gone[:, -1, 3] = 0
    close(last, (model(x) - model.behind(gone, states))[:, 0])
    own = Saliency(model, at=Site("cell", input=True), abs=False).attribute(x, target=0)
    whole = Saliency(model, abs=False).attribute(x, target=0)
    own = own.transpose(0, 1) if own.shape[0] != 3 else own
    close(own * torch.cos(x), whole)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_units_of_recurrent_layers(kind, batch_first):
    model, x = Recurrent(kind, batch_first).double().requires_grad_(False), normal(3, 3, 4)
    z = x.clone().requires_grad_()
    steps, states = model.cell(torch.sin(z) if batch_first else torch.sin(z).transpose(0, 1))
    steps = steps if batch_first else steps.transpose(0, 1)
    hidden = states[0] if isinstance(states, tuple) else states
    (by_step,) = torch.autograd.grad(steps[:, 1, 3].sum(), z, retain_graph=True)
    (by_state,) = torch.autograd.grad(hidden[2, :, 4].sum(), z)
    close(Saliency(model, abs=False).attribute(x, target=Site("cell", (1, 3))), by_step)

    def state(held: Any) -> Tensor:
        return (held[1][0] if isinstance(held[1], tuple) else held[1])[2, :, 4]

    close(Saliency(model, abs=False).attribute(x, target=Site("cell", state)), by_state)


def test_packed_sequences_are_refused():
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cell, self.head = nn.Identity(), nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(self.embed(x), [3, 2, 1], batch_first=True)
            return self.head(self.cell(packed)[1][0][0])

    model, x = Packed().double(), normal(3, 3, 4)
    for at in ("cell", Site("cell", input=True)):
        with pytest.raises(UnsupportedError, match="packed sequence"):
            Saliency(model, at=at).attribute(x, target=0)
    assert Saliency(model, at="embed").attribute(x, target=0).shape == x.shape
    last = Site("cell", lambda held: held[1][0][0][:, 2])
    assert Saliency(model).attribute(x, target=last).abs().sum() > 0


class Attends(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=batch_first)
        self.decoder = nn.TransformerDecoder(decoder, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.head, self.batch_first = nn.Linear(8, 2), batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        h = self.decoder(x, self.encoder(x))
        found, weights = self.attention(h, h, h)
        h = h + found
        return self.head((h if self.batch_first else h.transpose(0, 1))[:, -1]) * weights[:, 0, :1]


@pytest.mark.parametrize(
    "at",
    [
        "encoder",
        "encoder.layers.0",
        "encoder.layers.1.linear1",
        "encoder.layers.0.self_attn",
        "decoder",
        "decoder.layers.0.multihead_attn",
        "decoder.layers.0.norm1",
        "attention",
        Site("attention", input=True),
        Site("decoder", input=True),
        ["encoder", "attention"],
    ],
    ids=str,
)
def test_transformers_with_the_batch_behind_the_sequence(at):
    """Are explained as those with the batch in front, with as many positions as examples."""
    first, second = Attends(batch_first=True).double().eval(), Attends(batch_first=False).double().eval()
    second.load_state_dict(first.state_dict())
    x = normal(4, 4, 8)
    for method in (Saliency, IntegratedGradients):
        if method is IntegratedGradients and isinstance(at, list):
            continue
        a, b = (method(model, at=at).attribute(x, target=0) for model in (first, second))
        close(b, a)
    unit = Site("encoder", (1, 3))
    close(Saliency(second).attribute(x, target=unit), Saliency(first).attribute(x, target=unit))


def test_as_many_positions_as_examples_do_not_hide_the_batch():
    """A layer of a user's own that has the sequence in front is told by what it holds for one row."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return (self.turn(x.transpose(0, 1)).transpose(0, 1) ** 2).sum((1, 2))

    x = normal(3, 3, 4)
    with pytest.raises(TorchwhyError, match=r"\(3, 1, 4\),\) for 1 rows.*batch=1"):
        Saliency(Turned(), at="turn").attribute(x)
    close(Saliency(Turned(), at=Site("turn", batch=1), abs=False).attribute(x), 2 * x)
    ahead = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(12, 2).double())
    assert Saliency(ahead, at="0").attribute(x, target=0).shape == x.shape


# -- embeddings ----------------------------------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self, bag: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.EmbeddingBag(20, 5, mode="sum") if bag else nn.Embedding(20, 5)
        self.head, self.bag = nn.Linear(5, 3), bag

    def forward(self, ids: Tensor, *, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        held = self.embedding(ids)
        if mask is not None:
            held = held * mask[..., None]
        return self.behind(held if self.bag else held.sum(1)) * scale

    def behind(self, held: Tensor) -> Tensor:
        return self.head(torch.tanh(held))


IDS = torch.tensor([[3, 7, 1], [0, 0, 5], [9, 9, 2]])


@pytest.mark.parametrize("bag", [False, True])
@pytest.mark.parametrize("baselines", [0, torch.tensor([4, 4, 11]), IDS.flip(0)], ids=["id", "row", "rows"])
def test_token_ids_are_explained_through_their_embedding(bag, baselines):
    model = Words(bag).double().requires_grad_(False)
    ig = IntegratedGradients(model, at="embedding", n_steps=100)
    found = ig.attribute(IDS, baselines, target=1)
    base = torch.as_tensor(baselines).expand_as(IDS)
    torch.testing.assert_close(found.flatten(1).sum(1), (model(IDS) - model(base))[:, 1], rtol=1e-6, atol=1e-8)
    assert found.shape == ((3, 5) if bag else (3, 3, 5))
    if not bag:
        assert torch.equal((found == 0).all(2), base == IDS)


def test_one_value_per_token():
    model = Words(bag=False).double().requires_grad_(False)
    found = explain(model, IDS, 1, at="embedding")
    close(found.per_token().values, found.values.sum(2))
    assert found.per_token().values.shape == found.inputs.shape
    both = explain(model, IDS, 1, method="Saliency", at=["embedding", Site("head", input=True)])
    with pytest.raises(TorchwhyError, match=r"\(3, 5\)\]: explain at an embedding"):
        both.per_token()


def test_further_arguments_by_name():
    model = Words(bag=False).double().requires_grad_(False)
    mask = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.float64)
    ids = IDS + 1  # none of them the baseline's
    for method in (Saliency, IntegratedGradients, FeatureAblation):
        found = method(model, at="embedding").attribute(
            ids, target=1, additional_forward_args={"mask": mask, "scale": 2.0}
        )
        assert torch.equal(found.abs().sum(2) > 0, mask > 0)
        for i in range(3):
            kw = {"mask": mask[i : i + 1], "scale": 2.0}
            one = method(model, at="embedding", batch_size=1).attribute(
                ids[i : i + 1], target=1, additional_forward_args=kw
            )
            close(found[i : i + 1], one)
    shapley = ShapleyValueSampling(model).attribute(IDS, 4, 1, {"mask": mask})
    close(shapley.sum(1), (model(IDS, mask=mask) - model(torch.full_like(IDS, 4), mask=mask))[:, 1])
    with pytest.raises(TorchwhyError, match="a dict of str"):
        Saliency(model, at="embedding").attribute(IDS, target=1, additional_forward_args={1: mask})
    with pytest.raises(TorchwhyError, match="unexpected keyword argument 'masks'"):
        Saliency(model, at="embedding").attribute(IDS, target=1, additional_forward_args={"masks": mask})


def test_the_last_spatial_layer_with_arguments_by_name():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(2, 3)

        def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
            return self.head(self.conv(x).mean((2, 3)) * scale)

    model, x, scale = Scaled().double(), normal(3, 1, 5, 5), torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
    found = GradCAM(model).attribute(x, target=0, additional_forward_args={"scale": scale})
    close(found, GradCAM(model, at="conv").attribute(x, target=0, additional_forward_args={"scale": scale}))


# -- models spread over devices ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [None, "meet", "module.meet", ["left", "module.right"], "the module", "all of it"])
@pytest.mark.parametrize("method", [Saliency, IntegratedGradients, DeepLift, FeatureAblation])
def test_data_parallel_is_the_model_it_spreads(fork, method, at):
    spread = nn.DataParallel(fork)
    bare_at = (
        at.removeprefix("module.") if isinstance(at, str) else [a.removeprefix("module.") for a in at or ()] or None
    )
    if at == "the module":
        at = bare_at = fork.meet
    if at == "all of it":
        at, bare_at = spread, fork
    found = method(spread, at=at).explain(X, target=1)
    plain = method(fork, at=bare_at).explain(X, target=1)
    close(found.values, plain.values)
    assert found.at == plain.at
    assert found.provenance["fingerprint"] == plain.provenance["fingerprint"]
    assert found.provenance["model"] == "Fork"
    target = Saliency(spread).attribute(X, target=Site("module.left", 1))
    close(target, Saliency(fork).attribute(X, target=Site("left", 1)))


def test_data_parallel_is_left_as_it_was(fork):
    spread = nn.DataParallel(fork).train()
    before = pickle.dumps(spread.state_dict())
    Saliency(spread, at="meet").attribute(X, target=1)
    assert spread.training
    assert fork.training
    assert pickle.dumps(spread.state_dict()) == before
    with pytest.raises(TorchwhyError, match=r"Fork has no layer 'module\.met'"):
        Saliency(spread, at="module.met").attribute(X, target=1)
