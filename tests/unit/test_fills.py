"""What absent features get."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchwhy import TorchwhyError
from torchwhy.core.problem import Problem
from torchwhy.core.tensors import Tensors
from torchwhy.engines.fills import Baseline, Blur, Fill, Gaussian, Marginal, Mean, Noise, NoisyLinear, as_fill
from torchwhy.engines.game import Game, Groups
from torchwhy.methods.ablation import FeatureAblation, Occlusion
from torchwhy.methods.permutation import FeaturePermutation
from torchwhy.methods.shapley import ShapleyValues


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def worth(model: Callable[..., Tensor], x: Tensor, fill: Fill, rows: list[list[int]], **options: object) -> Tensor:
    """Scores (K, B) of rows."""
    p = Problem(model, Tensors([x]), **options)
    return Game(p, Groups(p.point), fill).evaluate(torch.tensor(rows).bool())


def seen(x: Tensor, fill: Fill) -> Tensor:
    """What a model sees where everything is absent."""
    held: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        held.append(z.clone())
        return z.flatten(1).sum(1)

    worth(model, x, fill, [[0] * x[0].numel()])
    return held[-1][-len(x) :]  # after the input itself


# -- each fill -----------------------------------------------------------------------------------------------


def test_the_baseline() -> None:
    x = rand(3, 4)
    found = worth(lambda z: z.sum(1), x, Baseline(), [[1, 0, 1, 0], [0, 0, 0, 0]], baselines=2.0)
    assert_close(found, torch.stack([x[:, 0] + x[:, 2] + 4, torch.full((3,), 8.0).double()]))


def test_the_mean_is_that_of_the_examples_channel() -> None:
    x = rand(2, 3, 4, 5)
    assert_close(seen(x, Mean()), x.mean((2, 3), keepdim=True).expand_as(x))


def test_blur_keeps_a_constant_and_spreads_a_point() -> None:
    flat = torch.full((1, 2, 9, 7), 3.0).double()
    assert_close(seen(flat, Blur(2.0)), flat)
    point = torch.zeros(1, 1, 41, 41).double()
    point[0, 0, 20, 20] = 1
    blurred = seen(point, Blur(2.0))[0, 0]
    away = torch.arange(41).double() - 20
    known = torch.exp(-(away[:, None] ** 2 + away**2) / 8)
    assert_close(blurred, known / known.sum(), atol=1e-12, rtol=1e-9)
    assert_close(blurred.sum(), torch.ones(()).double())


def test_blur_of_a_signal() -> None:
    x = rand(1, 2, 30)
    sharp, soft = seen(x, Blur(0.05)), seen(x, Blur(50.0))
    assert_close(sharp, x)
    assert (soft - x.mean(2, keepdim=True)).abs().max() < 0.1


def test_noise_is_seeded_and_of_the_given_size() -> None:
    x = torch.zeros(2, 4000).double()
    found = seen(x, Noise(0.5, seed=3))
    assert abs(found.std() - 0.5) < 0.02
    assert torch.equal(found[0], found[1])  # all examples share it
    assert torch.equal(found, seen(x, Noise(0.5, seed=3)))
    assert not torch.equal(found, seen(x, Noise(0.5, seed=4)))


def test_the_mean_over_draws_of_noise() -> None:
    found = worth(lambda z: (z**2).sum(1), torch.zeros(1, 50).double(), Noise(0.5, n_draws=200), [[0] * 50])
    assert_close(found, torch.tensor([[12.5]]).double(), rtol=0.05, atol=0)


def test_marginal_is_the_mean_over_the_background() -> None:
    x, background = rand(2, 3), rand(7, 3, seed=1)

    def model(z: Tensor) -> Tensor:
        return z[:, 0] * z[:, 1] + z[:, 2] ** 2

    found = worth(model, x, Marginal(background), [[1, 0, 0], [0, 0, 1]])
    one = (x[:, :1] * background[:, 1] + background[:, 2] ** 2).mean(1)
    two = (background[:, 0] * background[:, 1]).mean() + x[:, 2] ** 2
    assert_close(found, torch.stack([one, two]))


def test_marginal_draws_rows_without_repetition() -> None:
    background = 2.0 ** torch.arange(10).double()[:, None]
    found = worth(lambda z: z.sum(1), rand(1, 1), Marginal(background, n_draws=4), [[0]])
    bits = round(4 * float(found))
    assert bits.bit_count() == 4
    assert worth(lambda z: z.sum(1), rand(1, 1), Marginal(background, n_draws=4, seed=1), [[0]]) != found


def test_marginal_at_a_layer_is_carried_there() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double().requires_grad_(requires_grad=False)
    x, background = rand(2, 3), rand(6, 3, seed=1)
    found = worth(net, x, Marginal(background), [[0] * 4, [1] * 4], at="1")
    assert_close(found, torch.stack([net(background)[:, 0].mean().expand(2), net(x)[:, 0]]))


def test_marginal_shapley_values_of_a_linear_model() -> None:
    x, background, weights = rand(2, 5), rand(9, 5, seed=1), rand(5, seed=2)
    found = ShapleyValues(lambda z: z @ weights, fill=Marginal(background)).attribute(x)
    assert_close(found, weights * (x - background.mean(0)))


def test_a_conditional_gaussian_has_the_conditional_mean_and_spread() -> None:
    background = rand(500, 3, seed=1) @ rand(3, 3, seed=2)
    mean, spread = background.mean(0), background.T.cov()
    x = rand(2, 3)
    rows = [[1, 0, 0], [1, 0, 1], [0, 0, 0]]
    first = worth(lambda z: z[:, 1], x, Gaussian(background, n_draws=2), rows)
    for row, scores in zip(rows, first, strict=True):
        s = [i for i, there in enumerate(row) if there]
        slope = torch.linalg.solve(spread[s][:, s], spread[s][:, 1]) if s else torch.zeros(0).double()
        assert_close(scores, mean[1] + (x - mean)[:, s] @ slope, rtol=1e-6, atol=1e-6)
    second = worth(lambda z: (z[:, 1] - mean[1]) ** 2, x, Gaussian(background, n_draws=4000), [[0, 0, 0]])
    assert_close(second[0], spread[1, 1].expand(2), rtol=0.1, atol=0)


def test_conditional_shapley_values_of_a_linear_model_share_what_is_correlated() -> None:
    """Two columns that say the same share what one of them does, although the model reads but one."""
    column = rand(200, 1, seed=1)
    background = torch.cat([column, column, rand(200, 1, seed=2)], 1)
    x = torch.tensor([[2.0, 2.0, 1.0]]).double()
    found = ShapleyValues(lambda z: z[:, 0], fill=Gaussian(background)).attribute(x)[0]
    # Up to what the third column happens to say about the first in 200 rows.
    assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)
    assert_close(found.sum(), 2 - background[:, 0].mean())
    assert found[0] > 0.7
    plain = ShapleyValues(lambda z: z[:, 0], fill=Marginal(background)).attribute(x)[0]
    assert plain[1] == 0


# -- together with the game ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [Marginal(rand(5, 6)), Noise(1.0, n_draws=3), Gaussian(rand(20, 6), n_draws=4)])
def test_neither_batch_nor_chunk_decides(fill: Fill) -> None:
    x = rand(4, 6, seed=5)
    whole = ShapleyValues(lambda z: z.prod(1), fill=fill).attribute(x)
    for batch_size in (1, 3, 50):
        found = ShapleyValues(lambda z: z.prod(1), fill=fill, batch_size=batch_size).attribute(x)
        assert_close(found, whole, rtol=1e-10, atol=1e-12)
    assert_close(ShapleyValues(lambda z: z.prod(1), fill=fill).attribute(x[2:3]), whole[2:3], rtol=1e-10, atol=1e-12)


def test_a_budget_counts_every_draw() -> None:
    found = ShapleyValues(lambda z: z.sum(1), fill=Marginal(rand(5, 20)), budget=203).explain(rand(1, 20))
    assert found.provenance["evaluations"] == 200
    with pytest.raises(TorchwhyError, match="each of 5 draws: the least that works is 90"):
        ShapleyValues(lambda z: z.sum(1), fill=Marginal(rand(5, 20)), budget=89).attribute(rand(1, 20))


def test_names_are_fills() -> None:
    x = rand(2, 2, 3, 3)
    mask = torch.arange(9).view(3, 3)

    def model(z: Tensor) -> Tensor:
        return (z**2).sum((1, 2, 3))

    by_name = {
        name: ShapleyValues(model, fill=name, feature_mask=mask) for name in ("baseline", "mean", "blur", "noise")
    }
    found = {name: method.attribute(x) for name, method in by_name.items()}
    assert len({round(float(v.sum()), 9) for v in found.values()}) == 4
    assert by_name["blur"].options()["fill"] == "blur"
    assert as_fill("mean") == Mean()


# -- what does not fit is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (Mean, rand(2, 4), r"fill='mean' is for maps \(B, C, ...\)"),
        (Blur, rand(2, 4), r"fill='blur' is for maps \(B, C, ...\)"),
        (lambda: Blur(0.0), rand(2, 4), "sigma is a number above 0"),
        (lambda: Noise(-1.0), rand(2, 4), "std is a number above 0"),
        (lambda: Noise(1.0, n_draws=0), rand(2, 4), "n_draws is a whole number"),
        (lambda: Noise(1.0), torch.ones(2, 4).long(), "noise cannot be added to torch.int64"),
        (lambda: Marginal(rand(3, 5)), rand(2, 4), r"a set of rows like the inputs, .* not \(\(3, 5\),\)"),
        (lambda: Marginal(rand(3, 4), n_draws=0), rand(2, 4), "n_draws is a whole number"),
        (lambda: Gaussian(rand(3, 4), n_draws=3), rand(2, 4), "an even number, not 3"),
        (lambda: Gaussian(rand(1, 4)), rand(2, 4), "at least 2 rows"),
        (lambda: Gaussian(rand(3, 2, 2)), rand(2, 2, 2), r"fills vectors \(B, D\)"),
        (lambda: as_fill("bler"), rand(2, 4), "did you mean 'blur'"),
        (lambda: as_fill(3), rand(2, 4), "it is a Fill, or one of baseline"),
    ],
)
def test_fills_that_do_not_fit_are_refused(make: Callable[[], Fill], x: Tensor, message: str) -> None:
    with pytest.raises(TorchwhyError, match=message):
        ShapleyValues(lambda z: z.flatten(1).sum(1), fill=make()).attribute(x)


# -- features from other examples ----------------------------------------------------------------------------


def test_feature_permutation_is_the_mean_over_all_shuffles() -> None:
    x = rand(4, 3)

    def model(z: Tensor) -> Tensor:
        return z[:, 0] * z[:, 1] + z[:, 2] ** 2

    falls = torch.zeros(4, 3).double()
    for order in permutations(range(4)):
        for i in range(3):
            shuffled = x.clone()
            shuffled[:, i] = x[list(order), i]
            falls[:, i] += (model(x) - model(shuffled)) / 24
    assert_close(FeaturePermutation(model).attribute(x, x), falls)


def test_feature_permutation_of_groups() -> None:
    x, background = rand(2, 3), rand(5, 3, seed=1)
    found = FeaturePermutation(lambda z: z[:, 0] * z[:, 1] + z[:, 2]).attribute(
        x, background, feature_mask=torch.tensor([0, 0, 1])
    )
    pair = x[:, 0] * x[:, 1] - (background[:, 0] * background[:, 1]).mean()
    assert_close(found, torch.stack([pair, pair, x[:, 2] - background[:, 2].mean()], 1))
    with pytest.raises(TorchwhyError, match="give baselines of shape"):
        FeaturePermutation(lambda z: z.sum(1)).attribute(x)


# -- noisy linear imputation ---------------------------------------------------------------------------------


def imputed(x: Tensor, absent: Tensor, fill: Fill) -> Tensor:
    """What a model sees where some pixels (H, W) of all channels are absent."""
    held: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        held.append(z.clone())
        return z.flatten(1).sum(1)

    p = Problem(model, Tensors([x]), batch_size=100)
    groups = Groups(p.point, absent.long())
    Game(p, groups, fill).values(lambda ks: torch.tensor([[True, False]])[ks], 1)
    return held[-1]


def test_one_absent_pixel_is_the_weighted_mean_of_its_neighbours() -> None:
    x = rand(2, 3, 5, 6)
    inside, corner = torch.zeros(2, 5, 6).bool()
    inside[2, 3] = corner[0, 0] = True
    found = imputed(x, inside, NoisyLinear(std=0))
    direct = x[..., 1, 3] + x[..., 3, 3] + x[..., 2, 2] + x[..., 2, 4]
    diagonal = x[..., 1, 2] + x[..., 1, 4] + x[..., 3, 2] + x[..., 3, 4]
    assert_close(found[..., 2, 3], direct / 6 + diagonal / 12, atol=1e-8, rtol=0)
    assert torch.equal(found[..., ~inside], x[..., ~inside])
    found = imputed(x, corner, NoisyLinear(std=0))
    known = ((x[..., 0, 1] + x[..., 1, 0]) / 6 + x[..., 1, 1] / 12) / (5 / 12)
    assert_close(found[..., 0, 0], known, atol=1e-8, rtol=0)


def test_a_hole_in_a_slope_is_filled_by_the_slope() -> None:
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    x = (2 * rows - 3 * columns + 1).double().expand(1, 2, 12, 10)
    hole = torch.zeros(12, 10).bool()
    hole[3:9, 2:7] = True
    assert_close(imputed(x, hole, NoisyLinear(std=0)), x, atol=1e-6, rtol=0)
    assert (imputed(x, hole, Mean()) - x).abs().max() > 5


def test_where_nothing_is_present_all_is_the_mean() -> None:
    x = rand(2, 3, 4, 5)
    assert_close(seen(x, NoisyLinear(std=0)), x.mean((2, 3), keepdim=True).expand_as(x), atol=1e-6, rtol=0)


def test_imputation_of_masks_per_example_and_channel() -> None:
    x, masks = rand(2, 2, 4, 4), torch.randint(2, (2, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    together = imputed(x, masks, NoisyLinear(std=0))
    for b in range(2):
        for c in range(2):
            alone = imputed(x[b : b + 1, c : c + 1], masks[b : b + 1, c : c + 1], NoisyLinear(std=0))
            assert_close(together[b, c], alone[0, 0])


def test_noise_is_added_to_what_is_imputed() -> None:
    x = torch.ones(1, 1, 40, 40).double()
    absent = torch.zeros(40, 40).bool()
    absent[:, ::2] = True
    found = imputed(x, absent, NoisyLinear(0.1, seed=2))
    assert abs(found[..., absent].std() - 0.1) < 0.01
    assert (found[..., ~absent] == 1).all()
    assert torch.equal(found, imputed(x, absent, NoisyLinear(0.1, seed=2)))
    assert not torch.equal(found, imputed(x, absent, NoisyLinear(0.1, seed=3)))
    assert as_fill("linear") == NoisyLinear()


def test_imputation_is_of_images() -> None:
    with pytest.raises(TorchwhyError, match=r"fills images \(B, C, H, W\) of real numbers, not torch.float64 \(2, 3\)"):
        seen(rand(2, 3), NoisyLinear())


# -- every method --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["mean", "blur", "noise", "linear", Marginal(torch.zeros(2, 2, 6, 6).double())])
def test_what_is_taken_away_gets_the_fill(fill: str | Fill) -> None:
    x = rand(2, 2, 6, 6)

    def model(z: Tensor) -> Tensor:
        return torch.tanh(z.flatten(1).cumsum(1)).sum(1)

    mask = torch.zeros(6, 6).long()
    mask[:3, :3] = 1
    p = Problem(model, Tensors([x]))
    rows = torch.tensor([[True, False]])
    known = p.scores - Game(p, Groups(p.point, mask), as_fill(fill)).evaluate(rows)[0]
    ablated = FeatureAblation(model, feature_mask=mask, fill=fill).attribute(x)
    assert_close(ablated[:, 0, 0, 0], known)
    occluded = Occlusion(model, sliding_window_shapes=(2, 3, 3), strides=(2, 3, 3), fill=fill).attribute(x)
    assert_close(occluded[:, 0, 0, 0], known)
    assert (
        not torch.allclose(ablated, FeatureAblation(model, feature_mask=mask).attribute(x)) or fill not in NAMED_FILLS
    )


NAMED_FILLS = ("mean", "blur", "noise", "linear")


@pytest.mark.parametrize("method", [FeatureAblation, Occlusion])
def test_fills_that_do_not_exist_are_refused(method: type[FeatureAblation]) -> None:
    with pytest.raises(TorchwhyError, match="there is no fill 'blurr'; did you mean 'blur'"):
        method(lambda x: x, fill="blurr")
