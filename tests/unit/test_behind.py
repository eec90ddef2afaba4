"""Running only what stands behind a layer: the same numbers with less work, and the whole model where in doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from torchwhy import FeatureAblation, IntegratedGradients, Site, TorchwhyError
from torchwhy.core import problem
from torchwhy.core.behind import cut, same_numbers
from torchwhy.core.guard import untouched
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.core.trials import find_shortcut

WIDE = {"dtype": torch.float64}


class Residual(nn.Module):
    """(B, 2, 6, 6) to (B, 3). What stands behind the block needs what stands in front of it too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 4, 3)
        self.front = nn.Tanh()
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(64, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.front(self.stem(x))
        z = self.act(self.block(y) + y * x.mean((1, 2, 3), keepdim=True))
        return self.fc(z.flatten(1))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1), **WIDE)


class Runs:
    """Counts what a module does, without a hook."""

    def __init__(self, module: nn.Module) -> None:
        self.rows, run = 0, type(module).forward

        def counted(x: Tensor) -> Tensor:
            self.rows += len(x) if isinstance(x, Tensor) else 0
            return run(module, x)

        module.forward = counted


@contextmanager
def whole() -> Iterator[None]:
    """Without shortcuts."""
    before, problem.MANY_COPIES = problem.MANY_COPIES, 10**9
    try:
        yield
    finally:
        problem.MANY_COPIES = before


def both(run: Callable[[], Tensor]) -> Tensor:
    """With and without a shortcut the numbers are the same."""
    found = run()
    with whole():
        torch.testing.assert_close(found, run(), rtol=1e-12, atol=1e-12)
    return found


AT = ["stem", "front", "block", "act", Site("block", input=True), Site("fc", input=True), "fc"]


@pytest.mark.parametrize("at", AT, ids=str)
@pytest.mark.parametrize(
    "target", [1, [0, 2, 1], Site("fc", unit=2), lambda y: y.sin().sum(1)], ids=["one", "each", "unit", "function"]
)
def test_numbers_are_those_of_the_whole_model(x: Tensor, at: str | Site, target: object) -> None:
    both(lambda: FeatureAblation(Residual(), at=at).attribute(x, target=target))
    both(lambda: IntegratedGradients(Residual(), at=at, n_steps=20).attribute(x, target=target))


@pytest.mark.parametrize("at", ["block", Site("block", input=True)], ids=str)
def test_what_stands_in_front_runs_once(x: Tensor, at: str | Site) -> None:
    model = Residual()
    stem, head = Runs(model.stem), Runs(model.fc)
    found = FeatureAblation(model, at=at).explain(x, target=0)
    # The examples as they are, again for what is needed beside the block, and six rows to compare with.
    assert stem.rows == 3 + 3 + 6
    assert head.rows > 3 * 64
    assert found.provenance["forward_rows"] == 3 + 3 + 6 + 6 + 3 * (64 + 1)  # with the point once more
    with whole():
        again = FeatureAblation(model, at=at).explain(x, target=0)
    assert stem.rows > 3 * 64
    assert again.provenance["forward_rows"] == 3 + 3 * (64 + 1)


def test_few_copies_are_not_worth_it(x: Tensor) -> None:
    model = Residual()
    stem = Runs(model.stem)
    FeatureAblation(model, at="block", feature_mask=torch.arange(4).view(4, 1, 1)).attribute(x, target=0)
    assert stem.rows == 3 + (4 + 1) * 3


def test_a_target_in_between_ends_the_pass(x: Tensor) -> None:
    model = Residual()
    found = both(lambda: FeatureAblation(model, at="stem").attribute(x, target=Site("block", unit=(1, 2, 3))))
    head = Runs(model.fc)
    FeatureAblation(model, at="stem").attribute(x, target=Site("block", unit=(1, 2, 3)))
    assert head.rows <= 3
    assert found.any()


def shortcut(model: nn.Module, x: Tensor, at: str | Site, gradients: bool = False) -> bool:
    """Whether only what stands behind is run."""
    with untouched(model, x.device):
        p = Problem(model, Tensors([x]), at=at, target=0)
        p.scores  # noqa: B018  a pass at the point
        return find_shortcut(p, p.site, p.point, gradients) is not None


def test_a_shortcut_is_found(x: Tensor) -> None:
    assert shortcut(Residual(), x, "block")
    assert shortcut(Residual(), x, "block", gradients=True)


class Branches(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.stem(x))
        return self.fc((y if y.mean() > 0 else -y).flatten(1))


class Counts(Residual):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Remembers(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return super().forward(x)


class Detaches(Residual):
    """A trace does not know that nothing is to be differentiated here."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.stem(x))
        with torch.no_grad():
            gate = y.sigmoid()
        return self.fc((y * gate).flatten(1))


class Asks(Residual):
    """A trace takes the other way."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.stem(x))
        return self.fc((y * 2 if isinstance(y, Tensor) else y).flatten(1))


class Overwrites(Residual):
    """What is changed behind the layer is read afterwards where it stood in front."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        view = y[:, :2]
        view.mul_(self.block(y).mean())
        return self.fc(y.flatten(1))


class Counted(Residual):
    """The number of rows is a number, which belongs to no row."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.stem(x)).flatten(1)) * x.shape[0]


class Transposed(Residual):
    """What is needed from the front has the rows in another dimension."""

    def forward(self, x: Tensor) -> Tensor:
        side = x.mean((2, 3)).T
        return (self.fc(self.block(self.stem(x)).flatten(1)).T + side[:1]).T


class Twice(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(torch.tanh(self.block(self.stem(x)))).flatten(1))


class Constants(Residual):
    def forward(self, x: Tensor, scale: float = 2.0, shift: Tensor | None = None) -> Tensor:
        y = self.block(self.stem(x)) * scale + torch.arange(4, **WIDE).view(4, 1, 1)
        return self.fc((y if shift is None else y + shift).flatten(1))


@pytest.mark.parametrize("make", [Branches, Counts, Remembers, Asks, Overwrites, Counted, Transposed])
def test_in_doubt_the_whole_model_runs(x: Tensor, make: type[Residual]) -> None:
    model = make()
    assert not shortcut(model, x, "block")
    # One row at a time, since some of them mix the rows of a batch.
    both(lambda: FeatureAblation(model, at="block", batch_size=1).attribute(x[:1], target=1))


def test_a_part_that_is_not_differentiated_is_noticed(x: Tensor) -> None:
    assert shortcut(Detaches(), x, "block")
    assert not shortcut(Detaches(), x, "block", gradients=True)
    both(lambda: IntegratedGradients(Detaches(), at="block", n_steps=20).attribute(x, target=0))


@pytest.mark.parametrize("call", [0, 1])
def test_a_call_of_several(x: Tensor, call: int) -> None:
    assert shortcut(Twice(), x, Site("block", call=call))
    both(lambda: FeatureAblation(Twice(), at=Site("block", call=call)).attribute(x, target=0))
    with pytest.raises(TorchwhyError, match="more than once"):
        FeatureAblation(Twice(), at="block").attribute(x, target=0)


def test_defaults_and_constants(x: Tensor) -> None:
    model = Constants()
    before = set(vars(model))
    assert shortcut(model, x, "block")
    assert set(vars(model)) == before
    both(lambda: FeatureAblation(model, at="block").attribute(x, target=0))
    both(lambda: FeatureAblation(model, at="block").attribute(x, target=0, additional_forward_args=(3.0,)))


def test_what_a_model_remembers_is_as_without_a_trace(x: Tensor) -> None:
    for make, kept in ((Counts, "calls"), (Remembers, "seen")):
        model = make()
        assert cut(model, Site("block"), None, 1) is None
        assert not getattr(model, kept)


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_are_respected(x: Tensor, hook: str) -> None:
    model = Residual()
    handle = getattr(model.front, hook)(lambda *_: None)
    assert not shortcut(model, x, "block")
    handle.remove()
    assert shortcut(model, x, "block")


def test_functions_and_scripts_are_not_looked_into(x: Tensor) -> None:
    model = Residual()
    both(lambda: FeatureAblation(lambda t: model(t), at=model.block).attribute(x, target=0))  # noqa: PLW0108
    assert cut(lambda t: model(t), Site("block"), None, 1) is None  # noqa: PLW0108
    assert cut(model, Site("block"), None, 2) is None  # it takes one


def test_within_the_layers_of_pytorch(x: Tensor) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(36, 4), layer, nn.Flatten(), nn.Linear(8, 2)).double().eval()
    for at in ("2", "2.norm1", "1"):
        both(lambda at=at: FeatureAblation(model, at=at).attribute(x, target=0))


def test_neither_chunks_nor_the_number_of_examples_decide(x: Tensor) -> None:
    model = Residual()
    known = FeatureAblation(model, at="block").attribute(x, target=0)
    for rows in (1, 5, 1000):
        found = FeatureAblation(model, at="block", batch_size=rows).attribute(x, target=0)
        torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)
    for i in range(3):
        found = FeatureAblation(model, at="block").attribute(x[i : i + 1], target=0)
        torch.testing.assert_close(found, known[i : i + 1], rtol=1e-12, atol=1e-12)


def test_parts_of_a_problem_have_their_own(x: Tensor) -> None:
    model = Residual()
    with untouched(model, x.device):
        p = Problem(model, Tensors([x]), at="block", target=0)
        p.scores_at(lambda es, ks: p.point[es][None].map(lambda t: t.expand(ks.stop - ks.start, *t.shape[1:])), 20)
        assert p._shortcuts[False] is not None
        moved = p.moved(Tensors([x.flip(0)]), 1)
        assert moved._shortcuts == {}
        found = moved.scores_at(
            lambda es, ks: moved.point[es][None].map(lambda t: t.expand(ks.stop - ks.start, *t.shape[1:])), 20
        )
        torch.testing.assert_close(found, moved.scores.expand(20, 3))


@pytest.mark.parametrize(
    ("again", "same"),
    [
        (torch.tensor([1.0, 2.0]), True),
        (torch.tensor([1.0, 2.0 + 1e-6]), True),
        (torch.tensor([1.0, 2.001]), False),
        (torch.tensor([1.0, float("nan")]), False),
        (torch.tensor([1.0, 2.0]).double(), False),
        (torch.tensor([[1.0, 2.0]]), False),
    ],
    ids=repr,
)
def test_same_numbers(again: Tensor, same: bool) -> None:
    known = {"logits": torch.tensor([1.0, 2.0]), "n": 3}
    assert same_numbers(known, {"logits": again, "n": 3}) == same
