"""Deletion against the same curve drawn by hand: rank, remove, average, and compare with the pattern elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import Saliency
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.noise import draws
from torchwhy.methods import Level
from torchwhy.metrics.faithfulness import RANDOM_ORDERS, SHARES, deletion

WEIGHTS = torch.tensor([5.0, -3, 2, 1, 0.5, 0, -1, 4, -2, 0.25], dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    return x @ WEIGHTS


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(f: Callable[[Tensor], Tensor], x: Tensor, base: Tensor, order: list[int]) -> Tensor:
    """Mean fall of the score of one example (positions) when the first of ``order`` are removed."""
    falls = []
    for share in SHARES:
        gone = x.clone()
        for position in order[: max(1, round(share * len(order)))]:
            gone[position] = base[position]
        falls.append(f(x[None])[0] - f(gone[None])[0])
    return torch.stack(falls).mean()


@pytest.mark.parametrize("signed", [True, False])
def test_the_fall_is_that_of_removing_the_largest_first(signed: bool) -> None:
    x, base, values = rand(3, 10, seed=1), rand(3, 10, seed=2), rand(3, 10, seed=3)
    found = deletion(Problem(linear, Tensors([x]), baselines=base), Tensors([values]), signed=signed)
    keys = values if signed else values.abs()
    for i in range(3):
        order = keys[i].argsort(descending=True).tolist()
        assert_close(found.fall[i], by_hand(linear, x[i], base[i], order))
    assert (keys.argsort() != (values.abs() if signed else values).argsort()).any()  # the option matters here


def test_random_orders_are_those_of_the_seed_and_shared_by_the_examples() -> None:
    x = rand(2, 10, seed=1)
    p = Problem(linear, Tensors([x]))
    found = deletion(p, Tensors([x]), signed=True, seed=4)
    assert found.random.shape == (RANDOM_ORDERS, 2)
    for r in range(RANDOM_ORDERS):
        moved = torch.randperm(10, generator=draws(4, stream=3, number=r))
        for i in range(2):
            order = x[i, moved].argsort(descending=True).tolist()
            assert_close(found.random[r, i], by_hand(linear, x[i], 0 * x[i], order))
    other = deletion(p, Tensors([x]), signed=True, seed=5)
    assert not torch.equal(found.random, other.random)
    assert torch.equal(found.fall, other.fall)


def test_z_is_the_distance_in_standard_deviations_of_a_new_random_order() -> None:
    x = rand(2, 10, seed=1)
    found = deletion(Problem(linear, Tensors([x])), Tensors([x * WEIGHTS]), signed=True)
    mean, spread = found.random.mean(0), found.random.std(0)
    assert_close(found.z, (found.fall - mean) / (spread * (1 + 1 / RANDOM_ORDERS) ** 0.5))
    assert (found.z > 1).all()
    upside_down = deletion(Problem(linear, Tensors([x])), Tensors([-x * WEIGHTS]), signed=True)
    assert (upside_down.z < -1).all()


def test_an_order_by_chance_has_a_z_around_zero() -> None:
    x = rand(1, 40, seed=1).expand(400, 40)
    weights = rand(40, seed=2)
    z = deletion(Problem(lambda t: t @ weights, Tensors([x])), Tensors([rand(400, 40, seed=3)]), signed=True).z
    # All 400 share the random orders, so that their mean z shares one error of about 1 / sqrt(10).
    assert z.mean().abs() < 1
    assert 0.6 < z.std() < 1.8


def test_a_model_that_nothing_matters_to_gives_zero() -> None:
    x = rand(3, 10)
    found = deletion(Problem(lambda t: 0 * t.sum(1) + 3, Tensors([x])), Tensors([x]), signed=True)
    assert (found.fall == 0).all()
    assert (found.z == 0).all()


def test_an_input_of_one_position_is_as_good_as_random() -> None:
    found = deletion(Problem(lambda t: t.sum(1), Tensors([rand(2, 1)])), Tensors([rand(2, 1)]), signed=True)
    assert (found.z == 0).all()


def test_a_position_of_a_map_is_all_its_channels() -> None:
    x, values, weight = rand(2, 3, 4, 4, seed=1), rand(2, 3, 4, 4, seed=2), rand(3, 4, 4, seed=3)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2, 3))

    found = deletion(Problem(model, Tensors([x])), Tensors([values]), signed=True)
    for i in range(2):
        order = values[i].sum(0).flatten().argsort(descending=True)
        falls = []
        for share in SHARES:
            gone = x[i].flatten(1).clone()
            gone[:, order[: max(1, round(share * 16))]] = 0
            falls.append((model(x[i : i + 1]) - model(gone.view(1, 3, 4, 4)))[0])
        assert_close(found.fall[i], torch.stack(falls).mean())


def test_a_large_map_is_removed_in_square_patches() -> None:
    # 20 x 33 = 660 places are more than 256, so that a position is a patch of 2 x 2, cut off at the right edge.
    x, values, weight = rand(2, 2, 20, 33, seed=1), rand(2, 2, 20, 33, seed=2), rand(2, 20, 33, seed=3)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2, 3))

    found = deletion(Problem(model, Tensors([x])), Tensors([values]), signed=True)
    corners = [(r, c) for r in range(0, 20, 2) for c in range(0, 33, 2)]
    for i in range(2):
        totals = torch.stack([values[i, :, r : r + 2, c : c + 2].sum() for r, c in corners])
        order = totals.argsort(descending=True).tolist()
        falls = []
        for share in SHARES:
            gone = x[i].clone()
            for r, c in (corners[k] for k in order[: max(1, round(share * len(corners)))]):
                gone[:, r : r + 2, c : c + 2] = 0
            falls.append((model(x[i : i + 1]) - model(gone[None]))[0])
        assert_close(found.fall[i], torch.stack(falls).mean())


def test_elsewhere_a_map_keeps_its_pattern() -> None:
    x, values, weight = rand(1, 1, 4, 5, seed=1), rand(1, 1, 4, 5, seed=2), rand(4, 5, seed=3)

    def model(z: Tensor) -> Tensor:
        return (z * weight).sum((1, 2, 3))

    p = Problem(model, Tensors([x]))
    found = deletion(p, Tensors([values]), signed=True)
    mirrored = [values, values.flip(2), values.flip(3), values.flip(2, 3)]
    moved = [m.roll((i, j), (2, 3)) for m in mirrored for i in range(4) for j in range(5)]
    falls = torch.cat([deletion(p, Tensors([m]), signed=True).fall for m in moved])
    for fall in found.random[:, 0]:
        assert (falls - fall).abs().min() < 1e-12
    assert found.random.unique().numel() > RANDOM_ORDERS // 2


def test_a_map_of_one_channel_ranks_the_positions_of_a_layer_with_many() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3 * 3 * 3, 1)).double()
    p = Problem(model, Tensors([rand(2, 1, 4, 4)]), at="0")
    values = rand(2, 1, 3, 3, seed=1)
    spread = deletion(p, Tensors([values.expand(2, 3, 3, 3)]), signed=True)
    assert_close(deletion(p, Tensors([values]), signed=True).fall, spread.fall)


def test_positions_of_a_tuple_compete_with_each_other() -> None:
    a, b = rand(2, 4, seed=1), rand(2, 6, seed=2)

    def model(u: Tensor, v: Tensor) -> Tensor:
        return linear(torch.cat([u, v], 1))

    values = rand(2, 10, seed=3)
    found = deletion(Problem(model, Tensors([a, b])), Tensors(values.split([4, 6], 1)), signed=True)
    x = torch.cat([a, b], 1)
    whole = deletion(Problem(linear, Tensors([x])), Tensors([values]), signed=True)
    assert_close(found.fall, whole.fall)


def test_a_row_in_a_batch_equals_the_row_alone() -> None:
    x, values = rand(5, 10, seed=1), rand(5, 10, seed=2)
    together = deletion(Problem(linear, Tensors([x])), Tensors([values]), signed=True)
    for i in range(5):
        one = slice(i, i + 1)
        alone = deletion(Problem(linear, Tensors([x[one]])), Tensors([values[one]]), signed=True)
        assert_close(together.z[one], alone.z)


def test_it_costs_what_it_says() -> None:
    x = rand(3, 10)
    p = Problem(linear, Tensors([x]))
    assert p.scores.shape == (3,)
    before = p.cost.forward
    deletion(p, Tensors([x]), signed=True)
    assert p.cost.forward - before == 3 * len(SHARES) * (1 + RANDOM_ORDERS)
    assert p.cost.backward == 0


@pytest.mark.parametrize(("level", "effort"), [("basic", {"shares": (0.05, 0.2), "orders": 5}), ("full", {})])
def test_it_is_part_of_the_evidence(level: Level, effort: dict[str, Any]) -> None:
    x = rand(3, 10)
    (check,) = (c for c in Saliency(linear).explain(x, check=level).evidence if c.name == "faithfulness")
    known = deletion(Problem(linear, Tensors([x])), Tensors([WEIGHTS.abs().expand(3, 10)]), signed=False, **effort)
    assert check.value == pytest.approx(known.z.tolist())
