"""RISE: what random soft masks show."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout, interpolate
from torch.testing import assert_close

from torchwhy import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import Blur, Fill, Gaussian, Marginal, Noise, NoisyLinear, as_fill
from torchwhy.engines.game import Game, Groups
from torchwhy.engines.imputation import imputed
from torchwhy.engines.masks import KEPT
from torchwhy.engines.soft import SoftGame
from torchwhy.methods.rise import RISE


def masks_of(x: Tensor, count: int, **options: object) -> Tensor:
    """(count, places) of a map, or of elements."""
    return (
        RISE(lambda z: z, **options)
        ._masks(Problem(lambda z: z.flatten(1).sum(1), Tensors([x])))
        .degrees(torch.arange(count))
    )


def test_masks_are_soft_shifted_and_of_the_right_mean() -> None:
    masks = masks_of(torch.zeros(1, 3, 28, 30), 600, share=0.3)
    assert masks.shape == (600, 28 * 30)
    masks = masks.view(600, 28, 30)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert (masks.mean(0) - 0.3).abs().max() < 0.08
    assert ((masks > 0.1) & (masks < 0.9)).double().mean() > 0.2
    assert (masks.diff(dim=-1).abs() < 0.5).all()  # no hard edge


@pytest.mark.parametrize("lengths", [(9,), (28, 30), (9, 4, 11), (3, 3)])
def test_enlarging_is_interpolation(lengths: tuple[int, ...]) -> None:
    x = torch.zeros(1, 2, *lengths, dtype=torch.float64)
    masks = RISE(lambda z: z, cells=4)._masks(Problem(lambda z: z.flatten(1).sum(1), Tensors([x])))
    ks = torch.tensor([3, 0, 20, 3])
    found = masks.degrees(ks).view(4, *lengths)
    counts = [min(4, length) for length in lengths]
    steps = [math.ceil(length / n) for length, n in zip(lengths, counts, strict=True)]
    drawn = masks._drawn(0, ks, math.prod(n + 1 for n in counts), lambda n, g: pytest.fail("was drawn before"))
    for row, mask in zip(drawn, found, strict=True):
        grid = row[: -len(lengths)].double().view(1, 1, *(n + 1 for n in counts))
        size = [(n + 1) * s for n, s in zip(counts, steps, strict=True)]
        large = interpolate(grid, size, mode=("linear", "bilinear", "trilinear")[len(lengths) - 1])[0, 0]
        for dim, (shift, length) in enumerate(zip(row[-len(lengths) :].tolist(), lengths, strict=True)):
            large = large.narrow(dim, shift, length)
        assert_close(mask, large)
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("shape", [(7,), (2, 11), (2, 9, 8), (1, 6, 5, 7)])
def test_any_number_of_dimensions_will_do(shape: tuple[int, ...]) -> None:
    x = torch.ones(2, *shape)
    found = RISE(lambda z: z.flatten(1)[:, 0], n_samples=400).attribute(x)
    assert found.shape == x.shape
    assert found.flatten(1).argmax(1).tolist() == [0, 0] or found.flatten(1)[0, 0] > 0.9 * found.max()


def test_vectors_have_a_closed_form() -> None:
    """With independent switches, what an element adds times the chance of its being off."""
    weights = torch.tensor([4.0, -2.0, 0.0, 1.0], dtype=torch.float64)
    x = torch.ones(1, 4, dtype=torch.float64)
    found = RISE(lambda z: z @ weights, n_samples=8000, share=0.25).explain(x)
    away = (found.values[0] - 0.75 * weights).abs()
    assert (away < 4.5 * found.standard_error[0]).all()
    assert (found.standard_error < 0.1).all()


def test_standard_errors_are_the_spread_over_seeds() -> None:
    def model(z: Tensor) -> Tensor:
        return torch.relu(z.sum((1, 2)) - 3) + z[:, 0, 2] * z[:, 0, 7]

    x = torch.ones(1, 1, 10, dtype=torch.float64)
    runs = [RISE(model, n_samples=400, seed=s).explain(x) for s in range(80)]
    spread = torch.stack([r.values for r in runs]).std(0)
    told = torch.stack([r.standard_error for r in runs]).mean(0)
    assert_close(told, spread, rtol=0.25, atol=0)


def curved(z: Tensor) -> Tensor:
    return (z**2).flatten(1).sum(1) + z.flatten(1)[:, 0]


def image() -> Tensor:
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


SET = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FILLED: dict[str, tuple[str | Fill, Callable[[Tensor, Tensor], list[Tensor]]]] = {
    "baseline": ("baseline", lambda x, m: [torch.full_like(x, 0.5)]),
    "mean": ("mean", lambda x, m: [x.mean((2, 3), keepdim=True)]),
    "blur": (Blur(1.0), lambda x, m: [blurred(x)]),
    "marginal": (Marginal(SET), lambda x, m: list(SET)),
    "linear": (NoisyLinear(std=0), lambda x, m: [solved_for(x, m)]),
}


def blurred(x: Tensor) -> Tensor:
    weights = torch.exp(-0.5 * (torch.arange(6)[:, None] - torch.arange(6)).double() ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ x @ weights.T


def solved_for(x: Tensor, m: Tensor) -> Tensor:
    """An element is there where its mask is at least one half."""
    known = (m >= 0.5).expand(x.shape).flatten(0, 1)
    return imputed(x.flatten(0, 1), known).view(x.shape)


@pytest.mark.parametrize("name", FILLED)
def test_masks_are_those_of_the_formula_with_any_fill(name: str) -> None:
    x, (fill, others) = image(), FILLED[name]
    options = {"n_samples": 30, "cells": 3, "seed": 5}
    masks = masks_of(x, 30, **options).view(30, 1, 1, 6, 6)
    scores = torch.stack(
        [torch.stack([curved(m * x + (1 - m) * other) for other in others(x, m)]).mean(0) for m in masks]
    )
    level = torch.einsum("kb,kcij->bcij", scores, masks[:, 0]) / masks[:, 0].sum(0)
    known = (level - scores.mean(0).view(-1, 1, 1, 1)).expand_as(x)
    found = RISE(curved, fill=fill, **options).explain(x, 0.5)
    assert_close(found.values, known)
    assert found.provenance["evaluations"] == 31 * (3 if name == "marginal" else 1)  # with the point itself
    for rows in (1, 7):
        assert_close(RISE(curved, fill=fill, batch_size=rows, **options).attribute(x, 0.5), known)
    if name != "baseline":
        assert not torch.allclose(RISE(curved, **options).attribute(x, 0.5), known, rtol=0.05)


def test_a_linear_model_has_a_closed_form_with_a_background() -> None:
    """What an element is above its mean over the background, times the chance of its being off."""
    weights = torch.tensor([4.0, -2.0, 1.0], dtype=torch.float64)
    rows = torch.tensor([[1.0, 0, 3], [0, 2, 5], [2, 1, 1]], dtype=torch.float64)
    x = torch.tensor([[2.0, -1.0, 3.0], [0.5, 1.0, -1.0]], dtype=torch.float64)
    known = 0.5 * weights * (x - rows.mean(0))
    for fill in (Marginal(rows), Marginal(rows, n_draws=1, seed=4)):
        found = RISE(lambda z: z @ weights, n_samples=4000, fill=fill).explain(x)
        near = ((found.values - known).abs() < 4.5 * found.standard_error).all()
        assert near == (fill.n_draws is None)
    assert ((RISE(lambda z: z @ weights, n_samples=4000).attribute(x) - known).abs() > 0.2).any()


@pytest.mark.parametrize(
    "fill", ["noise", Noise(n_draws=3), Gaussian(torch.randn(30, 4, generator=torch.Generator().manual_seed(2)))]
)
def test_zeros_and_ones_mean_what_they_mean_in_any_game(fill: str | Fill) -> None:
    """Of vectors, with the fill that depends on what is present."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    p = Problem(lambda z: (z.tanh() * z.cumsum(1)).sum(1), Tensors([x]))
    masks = RISE(lambda z: z)._masks(p)
    rows = masks.rows(slice(0, 40))
    groups = Groups(p.point)
    present = masks.degrees(torch.arange(40)) > 0
    soft, hard = SoftGame(p, masks, as_fill(fill), "RISE"), Game(p, groups, as_fill(fill))
    assert_close(soft.evaluate(rows), hard.evaluate(present))
    assert not torch.allclose(soft.evaluate(rows), Game(p, groups).evaluate(present))


def test_features_that_are_given_come_and_go_as_one() -> None:
    weights = torch.tensor([3.0, 1.0, 2.0, -5.0], dtype=torch.float64)
    x, mask = torch.ones(1, 4, dtype=torch.float64), torch.tensor([0, 0, 1, KEPT])
    found = RISE(lambda z: z @ weights, feature_mask=mask, n_samples=4000).explain(x)
    assert found.values[0, 3] == 0  # is always there
    assert found.values[0, 0] == found.values[0, 1]
    known = torch.tensor([[2.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    assert ((found.values - known).abs() <= 4.5 * found.standard_error).all()
    assert found.options["feature_mask"] == "given"
    of_image = RISE(curved, feature_mask=torch.arange(36).view(6, 6) // 9, n_samples=50).attribute(image())
    assert len(of_image[0].unique()) == 4


def test_every_part_of_a_tuple_has_masks_of_its_own() -> None:
    x, side = torch.ones(2, 2, 4, 4, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)

    def model(a: Tensor, b: Tensor) -> Tensor:
        return a[:, 0, 0, 0] + 2 * b[:, 1]

    maps, elements = RISE(model, n_samples=3000).attribute((x, side))
    assert (maps.shape, elements.shape) == (x.shape, side.shape)
    assert_close(elements[0], torch.tensor([0.0, 1, 0]).double(), atol=0.08, rtol=0)
    assert maps[0].flatten().argmax() == 0
    assert torch.equal(maps[:, 0], maps[:, 1])
    assert_close(maps[0], maps[1])


@pytest.mark.parametrize(("share", "n"), [(0.03, 400), (0.03, 1000), (0.5, 100), (0.97, 400)])
def test_intervals_hold_and_there_is_no_bias_for_any_share(share: float, n: int) -> None:
    weights = torch.tensor([3.0, -1.0, 0.5, 0, 2], dtype=torch.float64)
    known, seeds = (1 - share) * weights, 60
    runs = [RISE(lambda z: z @ weights, n_samples=n, share=share, seed=s).explain(ones(5)) for s in range(seeds)]
    values = torch.stack([r.values[0] for r in runs])
    errors = torch.stack([r.standard_error[0] * r.provenance["interval_95"] for r in runs])
    assert ((values.mean(0) - known) / (values.std(0) / seeds**0.5)).abs().max() < 4.5
    assert 0.91 <= ((values - known).abs() <= errors).double().mean() <= 1


@pytest.mark.parametrize("share", [0.02, 0.98])
def test_what_was_never_shown_or_hidden_is_not_known(share: float) -> None:
    weights = torch.tensor([1.0, 2, 4, 8, 16], dtype=torch.float64)
    found = RISE(lambda z: z @ weights, n_samples=40, share=share, seed=1).explain(ones(5))
    masks = masks_of(ones(5), 40, share=share, seed=1)
    same = masks.amin(0) == masks.amax(0)
    assert same.any()
    assert not same.all()
    assert (found.values[0, same].abs() < 1e-9).all()
    assert (found.standard_error[0, same] > 0.01).all()


def ones(m: int) -> Tensor:
    return torch.ones(1, m, dtype=torch.float64)


def test_a_budget_counts_the_draws_and_the_point() -> None:
    def evaluations(**options: object) -> int:
        return RISE(lambda z: z.sum(1), **options).explain(ones(3)).provenance["evaluations"]

    assert evaluations() == 2001
    assert evaluations(budget=100) == 100
    assert evaluations(budget=100, n_samples=500) == 100
    assert evaluations(budget=500, n_samples=99) == 100
    assert evaluations(budget=100, fill=Noise(n_draws=3)) == 99
    with pytest.raises(TorchwhyError, match=r"budget=8 is too small for 3 features: the least that works is 9"):
        evaluations(budget=8, fill=Noise(n_draws=3))


def test_it_stops_when_it_is_settled() -> None:
    weights = torch.tensor([4.0, -3.0, 0.2, 0.1, 0], dtype=torch.float64)
    found = RISE(lambda z: z @ weights, stop_at="se<0.1").explain(ones(5))
    assert (found.standard_error < 0.1).all()
    assert found.provenance["evaluations"] < 5000
    assert found.evidence[0].status == ("pass",)
    top = RISE(lambda z: z @ weights, top_k=2).explain(ones(5))
    assert set(top.values[0].abs().topk(2).indices.tolist()) == {0, 1}
    assert top.provenance["stopped_because"] == "the 2 largest values are told from the others"
    few = RISE(lambda z: z @ weights, stop_at="se<0.001", budget=300).explain(ones(5))
    assert few.evidence[0].status == ("warn",)
    assert few.provenance["evaluations"] == 300


def test_a_model_that_draws_random_numbers_is_told() -> None:
    with pytest.raises(TorchwhyError, match="it draws random numbers"):
        RISE(lambda z: dropout(z, 0.5).sum(1)).attribute(ones(20))


def test_the_point_itself_is_shown_to_the_last_bit() -> None:
    """What a network rounds is no random number."""
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255

    def model(z: Tensor) -> Tensor:
        return (z[..., None] == x[0].flatten()).any(-1).flatten(1).sum(1).double() + z.sum((1, 2, 3)).double()

    found = RISE(model, n_samples=20, fill=Noise(std=100.0)).explain(x)
    assert found.scores.tolist() == model(x).tolist()


def test_a_score_that_is_not_finite_is_told() -> None:
    with pytest.raises(TorchwhyError, match="where elements are shown in part: fill them with something else"):
        RISE(lambda z: 1 / z.sum((1, 2)), cells=1, n_samples=50).attribute(torch.ones(1, 1, 4))


def test_an_element_that_was_never_shown_gets_nothing() -> None:
    found = RISE(lambda z: z.sum(1), n_samples=2, share=1e-6).attribute(torch.ones(1, 3))
    assert found.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 1}, "n_samples is a whole number of at least 2"),
        ({"cells": 0}, "cells is a whole number of at least 1"),
        ({"share": 1.0}, "share is a number between 0 and 1, not 1.0"),
        ({"seed": -1}, "seed is a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        RISE(lambda z: z.sum(1), **options).attribute(torch.ones(1, 3))


def test_integers_are_refused() -> None:
    with pytest.raises(TorchwhyError, match=r"RISE fades inputs, which torch\.int64 cannot"):
        RISE(lambda z: z.double().sum(1)).attribute(torch.ones(1, 3).long())
